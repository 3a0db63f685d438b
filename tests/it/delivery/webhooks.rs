//! Webhooks on the wire: signatures that receivers' own libraries accept, and receivers that misbehave.

use std::collections::HashMap;
use std::net::IpAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::TimeDelta;
use futures_util::future::FutureExt;
use reqwest::Method;
use salebell::outbound::ssrf_guard::LookUp;
use salebell::outbound::webhook::Webhooks;
use salebell::worker::deliver;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use crate::support::TestApp;
use crate::support::sink::{Behaviour, Received, Sink};

/// Verifies a webhook with a receiver's library: returns the type of the message, or the reason for the refusal.
async fn verify_with(client: &str, secret: &str, received: &Received) -> Result<String, String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");
    let setting = |name: &str| {
        std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: `make test` fetches the clients"))
    };
    let mut command = match client {
        "PyPI" => {
            let mut command = tokio::process::Command::new(setting("SALEBELL_TEST_PYTHON"));
            command.arg(format!("{folder}/verify.py"));
            command
        }
        _ => {
            let mut command = tokio::process::Command::new("node");
            command.arg(format!("{folder}/verify.cjs")).env("NODE_PATH", setting("SALEBELL_TEST_NODE_PATH"));
            command
        }
    };
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let body = String::from_utf8(received.body.clone()).unwrap();
    let input = json!({"secret": secret, "headers": received.headers, "body": body}).to_string();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    match output.status.code() {
        Some(0) => Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned()),
        _ => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

/// Verifies with both libraries, which must agree.
async fn verify(secret: &str, received: &Received) -> Result<String, String> {
    let (npm, pypi) =
        tokio::join!(verify_with("npm", secret, received), verify_with("PyPI", secret, received));
    assert_eq!(npm.is_ok(), pypi.is_ok(), "npm: {npm:?}, PyPI: {pypi:?}");
    for refusal in [&npm, &pypi].into_iter().filter_map(|answer| answer.as_ref().err()) {
        assert!(refusal.starts_with("refused: "), "the client itself failed: {refusal}");
    }
    npm
}

#[tokio::test]
async fn libraries_of_receivers_accept_our_messages_and_nothing_else() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    let hook = app.hook(&anna, &sink.url("/")).await;
    app.ring(&anna, &[hook.id]).await;
    deliver::step(&app.state).await.unwrap();
    let test = format!("/v1/channels/{}/test", hook.id);
    assert_eq!(app.call(&anna, Method::POST, &test, Value::Null).await.body["delivered"], true);
    let received = sink.wait_for("/", 2).await;
    assert_eq!(verify(&hook.secret, &received[0]).await.unwrap(), "sale.started.v1");
    assert_eq!(verify(&hook.secret, &received[1]).await.unwrap(), "channel.test.v1");

    let other = app.hook(&anna, &sink.url("/other")).await;
    verify(&other.secret, &received[0]).await.unwrap_err();
    let mut forged = received[0].clone();
    forged.body = String::from_utf8(forged.body).unwrap().replace("9.99", "0.01").into_bytes();
    verify(&hook.secret, &forged).await.unwrap_err();
    let mut replayed = received[0].clone();
    replayed.headers.insert("webhook-id".to_owned(), Uuid::now_v7().to_string());
    verify(&hook.secret, &replayed).await.unwrap_err();
}

#[tokio::test]
async fn after_a_rotation_both_secrets_sign_for_a_day() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    let hook = app.hook(&anna, &sink.url("/")).await;
    let path = format!("/v1/channels/{}/rotate-secret", hook.id);
    let rotated = app.call(&anna, Method::POST, &path, Value::Null).await;
    assert_eq!(rotated.status, 200);
    let secret = rotated.body["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_") && secret != hook.secret);
    assert!(rotated.body["previous_secret_until"].is_string());

    app.ring(&anna, &[hook.id]).await;
    deliver::step(&app.state).await.unwrap();
    let received = sink.wait_for("/", 1).await.remove(0);
    assert_eq!(received.headers["webhook-signature"].split(' ').count(), 2);
    verify(secret, &received).await.unwrap();
    verify(&hook.secret, &received).await.unwrap();

    app.clock.advance(TimeDelta::hours(24) + TimeDelta::seconds(1));
    app.ring(&anna, &[hook.id]).await;
    deliver::step(&app.state).await.unwrap();
    let received = sink.wait_for("/", 2).await.remove(1);
    assert_eq!(received.headers["webhook-signature"].split(' ').count(), 1);
}

/// Attempts one delivery to a URL, and returns its first attempt.
async fn attempt(app: &TestApp, url: &str) -> Value {
    let user = app.user(&Uuid::now_v7().to_string(), &[]).await;
    let hook = app.hook(&user, url).await;
    let rung = app.ring(&user, &[hook.id]).await;
    deliver::step(&app.state).await.unwrap();
    let delivery = app.delivery(&user, rung.deliveries[0]).await;
    let mut attempt = delivery["attempts"][0].clone();
    attempt["state"] = delivery["state"].clone();
    attempt
}

#[tokio::test]
async fn receivers_that_misbehave_are_failures() {
    let app = TestApp::builder().settings(&[("SALEBELL_WEBHOOK__TIMEOUT_MS", "1000")]).spawn().await;
    let sink = Sink::start().await;
    sink.on("/hangs", Behaviour::Hang);
    sink.on("/resets", Behaviour::Reset);
    sink.on("/redirects", Behaviour::Answer(302, "Location: /private\r\n", ""));
    sink.on("/loops", Behaviour::Answer(308, "Location: /loops\r\n", ""));
    sink.on("/teapot", Behaviour::Answer(418, "", "short and stout"));
    sink.on("/not-modified", Behaviour::Answer(304, "", ""));
    for (path, status, error) in [
        ("/hangs", json!(null), "no answer within 1000 ms"),
        ("/resets", json!(null), "no answer: "),
        ("/redirects", json!(302), "the receiver answered 302: redirects are not followed"),
        ("/loops", json!(308), "the receiver answered 308: redirects are not followed"),
        ("/teapot", json!(418), "the receiver answered 418"),
        ("/not-modified", json!(304), "the receiver answered 304"),
    ] {
        let attempt = attempt(&app, &sink.url(path)).await;
        assert_eq!(attempt["state"], "pending", "{path}");
        assert_eq!(attempt["status"], status, "{path}");
        let found = attempt["error"].as_str().unwrap();
        assert!(found.starts_with(error), "{path}: {found}");
        assert_eq!(sink.received(path).len(), 1, "{path}");
    }
    assert_eq!(sink.received("/private").len(), 0);
    let refused = attempt(&app, "http://127.0.0.1:1/").await;
    assert!(refused["error"].as_str().unwrap().starts_with("no connection: "), "{refused}");
}

#[tokio::test]
async fn only_a_few_of_ten_million_bytes_are_read() {
    let app = TestApp::spawn().await;
    let sink = Sink::start().await;
    sink.on("/floods", Behaviour::Flood);
    let attempt = attempt(&app, &sink.url("/floods")).await;
    assert_eq!((&attempt["state"], &attempt["status"]), (&json!("delivered"), &json!(200)));
    // Bytes in the sockets' buffers have been sent but not read.
    assert!(sink.flooded() < 9_000_000, "{} bytes were sent", sink.flooded());
}

/// Resolver that knows these names and no others, and counts its queries.
fn look_up(names: &[(&str, &[&str])], lookups: Arc<AtomicUsize>) -> LookUp {
    let names: HashMap<String, Vec<IpAddr>> = names
        .iter()
        .map(|(name, ips)| (name.to_string(), ips.iter().map(|ip| ip.parse().unwrap()).collect()))
        .collect();
    Arc::new(move |name| {
        lookups.fetch_add(1, Ordering::SeqCst);
        let found = names.get(&name).cloned().ok_or_else(|| std::io::Error::other("no such name"));
        async move { found }.boxed()
    })
}

async fn spawn_resolving(settings: &[(&str, &str)], look_up: LookUp) -> TestApp {
    TestApp::builder()
        .settings(settings)
        .prepare(|app| app.webhooks = Webhooks::new(&app.config.webhook, look_up))
        .spawn()
        .await
}

#[tokio::test]
async fn names_of_private_addresses_are_not_called() {
    let sink = Sink::start().await;
    let port = sink.address.port();
    let names: &[(&str, &[&str])] = &[
        ("metadata.test", &["169.254.169.254"]),
        ("metadata6.test", &["fd00:ec2::254"]),
        ("private.test", &["10.0.0.1"]),
        ("mapped.test", &["::ffff:127.0.0.1"]),
        ("mixed.test", &["127.0.0.1", "192.168.0.1"]),
        ("allowed.test", &["127.0.0.1"]),
        ("empty.test", &[]),
    ];
    let lookups = Arc::new(AtomicUsize::new(0));
    let app = spawn_resolving(&[], look_up(names, lookups.clone())).await;
    for (name, class) in [
        ("metadata.test", "link-local"),
        ("metadata6.test", "unique local"),
        ("private.test", "private"),
        ("mapped.test", "IPv4-mapped"),
        ("mixed.test", "private"),
    ] {
        let attempt = attempt(&app, &format!("http://{name}:{port}/")).await;
        assert_eq!(attempt["state"], "pending");
        let refused = format!("the host has an address that is not public ({class})");
        assert_eq!(attempt["error"], refused, "{name}");
    }
    for name in ["unknown.test", "empty.test"] {
        let attempt = attempt(&app, &format!("http://{name}:{port}/")).await;
        assert!(attempt["error"].as_str().unwrap().starts_with("no connection: "), "{attempt}");
    }
    assert_eq!(sink.received("/").len(), 0);
    let fine = attempt(&app, &format!("http://allowed.test:{port}/")).await;
    assert_eq!(fine["state"], "delivered");
    assert!(lookups.load(Ordering::SeqCst) >= 8, "our resolver was queried");
    assert_eq!(sink.received("/")[0].headers["host"], format!("allowed.test:{port}"));
}

#[tokio::test]
async fn without_exceptions_loopback_is_not_called() {
    let sink = Sink::start().await;
    let lookups = Arc::new(AtomicUsize::new(0));
    let names: &[(&str, &[&str])] = &[("rebound.test", &["127.0.0.1"])];
    let settings = [("SALEBELL_WEBHOOK__ALLOW_NETWORKS", "")];
    let app = spawn_resolving(&settings, look_up(names, lookups)).await;
    let refused = attempt(&app, &format!("http://rebound.test:{}/", sink.address.port())).await;
    assert_eq!(refused["error"], "the host has an address that is not public (loopback)");

    // A channel from a time when the configuration allowed its address.
    let user = app.user("anna", &[]).await;
    let hook = app.hook(&user, "http://example.com/").await;
    sqlx::query("update channels set url = $1").bind(sink.url("/")).execute(&app.state.writer).await.unwrap();
    let test = format!("/v1/channels/{}/test", hook.id);
    let answered = app.call(&user, Method::POST, &test, Value::Null).await;
    assert_eq!(answered.body["delivered"], false);
    let error = answered.body["error"].as_str().unwrap();
    assert!(error.contains("public address") && error.contains("loopback"), "{error}");
    assert_eq!(sink.received("/").len(), 0);
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_checked_at_every_connection() {
    let sink = Sink::start().await;
    // The receiver closes every connection, so the next request makes a new one.
    sink.on("/", Behaviour::Answer(200, "Connection: close\r\n", ""));
    let lookups = Arc::new(AtomicUsize::new(0));
    let look_up: LookUp = Arc::new({
        let lookups = lookups.clone();
        move |_| {
            let address = match lookups.fetch_add(1, Ordering::SeqCst) {
                0 => IpAddr::from([127, 0, 0, 1]),
                _ => IpAddr::from([10, 0, 0, 1]),
            };
            async move { Ok(vec![address]) }.boxed()
        }
    });
    let app = spawn_resolving(&[], look_up).await;
    let url = format!("http://rebound.test:{}/", sink.address.port());
    assert_eq!(attempt(&app, &url).await["state"], "delivered");
    let second = attempt(&app, &url).await;
    assert_eq!(second["error"], "the host has an address that is not public (private)");
    assert_eq!(sink.received("/").len(), 1);
    assert_eq!(lookups.load(Ordering::SeqCst), 2, "one look-up for each connection, and no other");
}
