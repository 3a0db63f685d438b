//! Content of the log, and secrets that it never contains.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::binary::{Binary, command};
use crate::support::database::TestDatabase;
use crate::support::issuer::SigningKey;
use crate::support::journal::Journal;
use crate::support::{TestApp, eventually};

#[tokio::test]
async fn the_log_contains_no_secrets_and_no_personal_data() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna.secret@example.com", &["prices:write", "catalogue:write"]).await;
    let signer = SigningKey::generate("EdDSA", "ed");
    let issuers = json!([{
        "issuer": "https://id.example", "audiences": ["salebell"], "algorithms": ["EdDSA"],
        "jwks": {"keys": [signer.jwk()]},
    }]);
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let settings = [
        ("SALEBELL_DATABASE__URL", app.database.url.as_str()),
        ("SALEBELL_SERVER__LISTEN", "127.0.0.1:0"),
        ("SALEBELL_SERVER__GRPC_LISTEN", "127.0.0.1:0"),
        ("SALEBELL_SERVER__METRICS_LISTEN", "127.0.0.1:0"),
        ("SALEBELL_WEBHOOK__ENCRYPTION_KEYS", key),
        ("SALEBELL_AUTH__ISSUERS", &issuers.to_string()),
        ("SALEBELL_LOG__LEVEL", "debug"),
    ];
    let api = Binary::start(&["api"], &settings);
    let url = api.url().await;
    let exp = app.clock.now().timestamp() + 60;
    let jwt = signer.token(&json!({
        "iss": "https://id.example", "aud": "salebell", "exp": exp,
        "sub": "subject-of-ben", "email": "ben@example.com",
    }));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let send = async |method: &str, path: &str, token: &str, body: serde_json::Value| {
        let request = client.request(method.parse().unwrap(), format!("{url}{path}"));
        let key = format!("\"idempotency-4711-{}\"", uuid::Uuid::now_v7());
        let request = request.bearer_auth(token).header("idempotency-key", key);
        request.json(&body).send().await.unwrap().status().as_u16()
    };
    let (sbk, null) = (anna.token.as_str(), json!(null));
    let statuses = [
        send("GET", "/v1/me", sbk, null.clone()).await,
        send("GET", "/v1/me?email=carl@example.com", &jwt, null.clone()).await,
        send("GET", "/v1/deals?store=searched-words", sbk, null.clone()).await,
        send("GET", "/v1/keys?cursor=bad-cursor-value", sbk, null.clone()).await,
        send("GET", "/v1/path-of-dora@example.com", sbk, null.clone()).await,
        send("GET", "/v1/me", "sbk_wrong-token-value", null.clone()).await,
        send("GET", "/v1/me", &jwt[..jwt.len() - 4], null.clone()).await,
        send("POST", "/v1/keys", sbk, json!({"name": "emil@example.com"})).await,
        send("POST", "/v1/keys", sbk, json!({"name": "fritz@example.com", "scopes": ["made-up-scope"]}))
            .await,
        send("POST", "/v1/stores", sbk, json!({"name": "Store of Gerda", "url": "https://gerda.example"}))
            .await,
        send("POST", "/v1/prices", sbk, json!({"observations": [{"store": "Store of Hans"}]})).await,
    ];
    assert_eq!(statuses, [200, 200, 400, 400, 404, 401, 401, 201, 422, 201, 202]);
    // These requests appear at debug level, so everything before them has been written.
    send("GET", "/healthz", sbk, null).await;
    api.logged("GET /healthz 200").await;

    let log = api.log();
    let parts = jwt.split('.').collect::<Vec<_>>();
    for secret in [
        sbk,
        &sbk[4..20],
        parts[1],
        parts[2],
        key,
        "example.com",
        "subject-of-ben",
        "searched-words",
        "bad-cursor-value",
        "wrong-token-value",
        "idempotency-4711",
        "made-up-scope",
        "Gerda",
        "gerda",
        "Hans",
        "path-of",
        "anna",
        "postgres://",
    ] {
        assert!(!log.contains(secret), "{secret:?} is in\n{log}");
    }
    // Purpose of the access log: who did what, with which outcome, in what time.
    let line = log.lines().find(|line| line.contains("POST /v1/keys 201")).expect("the access log has it");
    for field in ["request.id=", "trace.id=", "http.status=201", "duration_ms=", "http.response_bytes="] {
        assert!(line.contains(field), "{field} is not in {line}");
    }
    assert!(line.contains(&format!("account.id={}", anna.account)), "{line}");
    assert!(log.contains("GET unmatched 404"));
}

#[tokio::test]
async fn the_access_log_can_be_turned_off_and_the_rest_stays() {
    let app = TestApp::spawn().await;
    let settings = [
        ("SALEBELL_DATABASE__URL", app.database.url.as_str()),
        ("SALEBELL_SERVER__LISTEN", "127.0.0.1:0"),
        ("SALEBELL_SERVER__GRPC_LISTEN", "127.0.0.1:0"),
        ("SALEBELL_SERVER__METRICS_LISTEN", "127.0.0.1:0"),
        ("SALEBELL_SERVER__LINGER_S", "0"),
        ("SALEBELL_LOG__ACCESS", "false"),
    ];
    let mut api = Binary::start(&["api"], &settings);
    let url = api.url().await;
    assert_eq!(reqwest::get(format!("{url}/v1/me")).await.unwrap().status(), 401);
    api.signal(nix::sys::signal::Signal::SIGTERM);
    api.logged("stopped").await;
    assert_eq!(api.exit_code().await, Some(0));
    assert!(!api.log().contains("/v1/me"));
}

#[tokio::test]
async fn a_log_without_a_reader_delays_neither_requests_nor_the_exit() {
    let database = TestDatabase::create().await;
    let settings = [
        ("SALEBELL_DATABASE__URL", database.url.as_str()),
        ("SALEBELL_SERVER__LISTEN", "127.0.0.1:0"),
        ("SALEBELL_SERVER__GRPC_LISTEN", "127.0.0.1:0"),
        ("SALEBELL_SERVER__METRICS_LISTEN", "127.0.0.1:0"),
        ("SALEBELL_SERVER__LINGER_S", "0"),
        ("SALEBELL_LOG__TO", "stderr"),
    ];
    let mut api = command(&["api"], &settings).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(api.stderr.take().unwrap()).lines();
    let url = loop {
        let line = lines.next_line().await.unwrap().expect("it logs where it listens");
        if let Some((_, address)) = line.split_once("listening on ") {
            break address.to_owned();
        }
    };
    // Ten times the capacity of a pipe, which is not read from here on.
    let client = reqwest::Client::new();
    let long = "a".repeat(100);
    for _ in 0..2_500 {
        let request = client.get(format!("{url}/v1/stores")).header("x-request-id", &long);
        let answered = tokio::time::timeout(Duration::from_secs(10), request.send()).await;
        assert_eq!(answered.expect("the log does not hold it up").unwrap().status(), 200);
    }
    kill(Pid::from_raw(api.id().unwrap() as i32), Signal::SIGTERM).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), api.wait()).await;
    assert!(ended.expect("nor its end").unwrap().success());
    drop(lines);
}

#[tokio::test]
async fn the_journal_has_each_level_under_the_priority_of_its_name() {
    let (database, journal) = (TestDatabase::create().await, Journal::start());
    let settings = [
        ("SALEBELL_DATABASE__URL", database.url.as_str()),
        ("SALEBELL_SERVER__LISTEN", "127.0.0.1:0"),
        ("SALEBELL_SERVER__GRPC_LISTEN", "127.0.0.1:0"),
        ("SALEBELL_SERVER__METRICS_LISTEN", "127.0.0.1:0"),
        ("SALEBELL_LOG__LEVEL", "debug"),
        ("SALEBELL_LOG__TO", "journal"),
    ];
    let _api = Binary::start_under(&journal.wrapper(), &["api"], &settings);
    let mut url = String::new();
    eventually("it listens", async || {
        let entries = journal.of("salebell::process");
        let found = entries.iter().find_map(|entry| entry["MESSAGE"].strip_prefix("listening on "));
        url = found.unwrap_or_default().to_owned();
        !url.is_empty()
    })
    .await;
    reqwest::get(format!("{url}/healthz")).await.unwrap();
    // syslog's priorities for informational (6) and debug (7), not the one for notice (5).
    for (target, text, priority) in
        [("salebell::process", "metrics on ", "6"), ("salebell::access", "GET /healthz 200", "7")]
    {
        eventually("it is logged", async || {
            let entries = journal.of(target);
            let found = entries.iter().find(|entry| entry["MESSAGE"].contains(text));
            found.is_some_and(|entry| {
                assert_eq!(entry["PRIORITY"], priority, "{entry:?}");
                true
            })
        })
        .await;
    }
}
