//! The bus on AWS: reports that arrive while the database is unavailable, failures of AWS, messages of 256 KiB, workers
//! that are stopped. What both buses have in common is tested in `pricing/prices.rs` and `pricing/record.rs`.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use salebell::worker::record::{self, RecordTask};
use salebell::worker::{self, driver};
use serde_json::{Value, json};

use crate::support::bus::{Carrier, Queues};
use crate::support::proxy::{Proxy, spawn_behind_proxy};
use crate::support::s3::flaky;
use crate::support::{TestApp, User, eventually, instance};

crate::on_both_buses!(dead_messages_are_reported_and_redriven_from_a_shell,);

const SHOP: &[&str] = &["prices:write", "catalogue:write"];

/// Limits short enough to wait for.
const IMPATIENT: [(&str, &str); 5] = [
    ("SALEBELL_DATABASE__STATEMENT_TIMEOUT_MS", "10000"),
    ("SALEBELL_DATABASE__ACQUIRE_TIMEOUT_MS", "1000"),
    ("SALEBELL_DATABASE__MAX_CONNECTIONS", "5"),
    ("SALEBELL_WORKER__LEASE_S", "1"),
    ("SALEBELL_WORKER__POLL_MS", "200"),
];

fn seen(sku: &str, price: &str, day: u32) -> Value {
    json!({"store": "Steam", "sku": sku, "title": format!("Game {sku}"), "price": price, "regular_price": "20.00",
        "currency": "EUR", "observed_at": format!("2026-01-{day:02}T00:00:00Z")})
}

/// Waits until a batch is done, and returns it.
async fn done(app: &TestApp, user: &User, accepted: &Value) -> Value {
    let begin = Instant::now();
    loop {
        let batch = app.batch(user, accepted).await;
        if batch["done"] == true {
            return batch;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{batch}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn post(
    app: &TestApp,
    user: &User,
    media_type: &str,
    key: Option<&str>,
    body: String,
) -> reqwest::Response {
    let request =
        app.post("/v1/prices").bearer_auth(&user.token).header("content-type", media_type).body(body);
    let request = key.into_iter().fold(request, |request, key| request.header("idempotency-key", key));
    request.send().await.unwrap()
}

async fn taken(answer: reqwest::Response) -> Value {
    assert_eq!(answer.status(), StatusCode::ACCEPTED, "{}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

fn lines(some: impl Iterator<Item = Value>) -> String {
    some.map(|line| line.to_string()).collect::<Vec<_>>().join("\n")
}

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

/// Reports prices while `away` makes the database unavailable, and checks that all of them are recorded.
async fn reports_during_outage(outage: impl Fn(&Proxy)) {
    let (app, proxy, _database) = spawn_behind_proxy(Carrier::Aws, &IMPATIENT).await;
    let (shop, partner) = (app.user("shop", SHOP).await, app.user("partner", &["prices:write"]).await);
    let stranger = app.user("stranger", SHOP).await;
    let first = app.report(&shop, json!([seen("0", "20.00", 1)])).await;
    assert_eq!(app.report(&partner, json!([])).await["accepted"], 0);
    let working = tokio::spawn(worker::run(app.state.clone()));
    done(&app, &shop, &first).await;

    outage(&proxy);
    let report = |observations: Value| json!({"observations": observations}).to_string();
    let one = taken(post(&app, &shop, JSON, None, report(json!([seen("0", "9.99", 2)]))).await).await;
    let refused = taken(post(&app, &shop, JSON, None, report(json!([{}]))).await).await;
    assert_eq!((&refused["accepted"], &refused["rejected_count"]), (&json!(0), &json!(1)));
    let body = lines((1..=20_000).map(|sku| seen(&sku.to_string(), "15.00", 2)));
    let many = taken(post(&app, &shop, NDJSON, Some("\"many\""), body).await).await;
    let keyed = report(json!([seen("keyed", "9.99", 2)]));
    let keyed = taken(post(&app, &shop, JSON, Some("\"keyed\""), keyed).await).await;
    // Whether the store exists cannot be known now.
    let invented =
        json!([seen("0", "9.50", 3), {"store": "nowhere", "sku": "a", "price": "1", "currency": "EUR"}]);
    let invented = taken(post(&app, &partner, JSON, None, report(invented)).await).await;
    assert_eq!(invented["accepted"], 2);
    // Without the database, neither the caller of an API key nor the outcome of a batch can be determined.
    let unknown = post(&app, &stranger, JSON, None, report(json!([seen("0", "1.00", 4)]))).await;
    assert_eq!(unknown.status(), 503);
    for path in [format!("/v1/batches/{}", one["batch_id"].as_str().unwrap()), "/v1/watches".to_owned()] {
        let answer = app.get(&path).bearer_auth(&shop.token).send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.headers().contains_key("retry-after")),
            (503, true),
            "{path}"
        );
    }
    // Longer than five leases: a worker that receives a message in vain again and again would have dead-lettered it.
    tokio::time::sleep(Duration::from_secs(7)).await;

    proxy.open();
    proxy.give_up();
    let one = done(&app, &shop, &one).await;
    assert_eq!((&one["recorded"], &one["transitions"]), (&json!(1), &json!({"sale.started": 1})));
    let refused = done(&app, &shop, &refused).await;
    assert_eq!((&refused["accepted"], &refused["rejected"]), (&json!(0), &json!(1)));
    let many = done(&app, &shop, &many).await;
    assert_eq!((&many["accepted"], &many["recorded"]), (&json!(20_000), &json!(20_000)));
    assert_eq!(done(&app, &shop, &keyed).await["recorded"], 1);
    let invented = done(&app, &partner, &invented).await;
    assert_eq!((&invented["recorded"], &invented["failed"]), (&json!(1), &json!(1)));
    // A message is deleted once its observations are recorded, or when it arrives a second time.
    eventually("the queue is empty, and nothing is dead", async || {
        app.state.bus.age_and_dead().await.unwrap() == (0.0, 0)
    })
    .await;
    app.state.stopping.cancel();
    working.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_during_refusals_of_the_database_arrive_when_it_is_back() {
    reports_during_outage(Proxy::cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_during_silence_of_the_database_arrive_when_it_is_back() {
    reports_during_outage(Proxy::silence).await;
}

#[tokio::test]
async fn a_revoked_key_is_no_longer_known() {
    let (app, proxy, _database) = spawn_behind_proxy(Carrier::Aws, &IMPATIENT).await;
    let shop = app.user("shop", SHOP).await;
    app.report(&shop, json!([])).await;
    let keys = app.see(&shop, "/v1/keys").await;
    let path = format!("/v1/keys/{}", keys["items"][0]["id"].as_str().unwrap());
    assert_eq!(app.call(&shop, Method::DELETE, &path, Value::Null).await.status, 204);
    proxy.cut();
    let answer = post(&app, &shop, JSON, None, json!({"observations": []}).to_string()).await;
    assert_eq!(answer.status(), 503);
}

/// Incompressible text, the same each time.
fn noise(state: &mut u64, length: usize) -> String {
    let mut next = || {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(
            b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"[(*state >> 58) as usize],
        )
    };
    std::iter::repeat_with(&mut next).take(length).collect()
}

#[tokio::test]
async fn a_report_too_large_for_a_message_becomes_several_in_chronological_order() {
    let app = TestApp::builder().bus(Carrier::Aws).spawn().await;
    let shop = app.user("shop", SHOP).await;
    let mut state = 7;
    // Each of 1000 offers goes on sale and off again; reported in a shuffled order, 4 MiB that hardly compress.
    let mut reported: Vec<Value> = (0..3000_usize)
        .map(|at| {
            let (offer, turn) = (at * 7 % 1000, at / 1000);
            let (price, day) = [("20.00", 3), ("9.99", 2), ("20.00", 1)][turn];
            let mut line = seen(&format!("sku-{offer}"), price, day);
            line["url"] = json!(format!("https://store.example/{}", noise(&mut state, 1200)));
            line
        })
        .collect();
    let last = reported.split_off(2990);
    let answer = taken(post(&app, &shop, NDJSON, None, lines(reported.into_iter())).await).await;
    assert_eq!((&answer["accepted"], &answer["rejected_count"]), (&json!(2990), &json!(0)));
    let small = app.report(&shop, json!(last)).await;
    app.record_all().await;
    let batch = app.batch(&shop, &answer).await;
    assert_eq!(
        (&batch["done"], &batch["failed"], &batch["stale"]),
        (&json!(true), &json!(0), &json!(0)),
        "{batch}"
    );
    assert_eq!(batch["transitions"], json!({"first.seen": 990, "sale.started": 1000, "sale.ended": 1000}));
    assert_eq!(app.batch(&shop, &small).await["stale"], 10);
    let parts: i64 = sqlx::query_scalar("select max(parts)::bigint from batches")
        .fetch_one(&app.state.writer)
        .await
        .unwrap();
    assert!((12..40).contains(&parts), "{parts} parts");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_aws_lose_and_duplicate_nothing() {
    let queues = Queues::create_with(false).await;
    let failing = flaky(&queues.endpoint, 4).await;
    let mut settings = queues.settings().to_vec();
    settings.extend(IMPATIENT);
    settings.retain(|(key, _)| *key != "SALEBELL_BUS__ENDPOINT");
    settings.push(("SALEBELL_BUS__ENDPOINT", &failing));
    let app = TestApp::builder().settings(&settings).spawn().await;
    let shop = app.user("shop", SHOP).await;
    let working = tokio::spawn(worker::run(app.state.clone()));
    let mut accepted = Vec::new();
    for sku in 0..40 {
        let body = json!({"observations": [seen(&sku.to_string(), "9.99", 1)]}).to_string();
        let answer = post(&app, &shop, JSON, None, body).await;
        match answer.status().as_u16() {
            202 => accepted.push(answer.json::<Value>().await.unwrap()),
            status => assert_eq!(status, 503),
        }
    }
    assert!(accepted.len() >= 20, "{}", accepted.len());
    for batch in &accepted {
        assert_eq!(done(&app, &shop, batch).await["recorded"], 1);
    }
    let doubled = sqlx::query_scalar::<_, i64>(
        "select count(*) from price_history h group by offer_id having count(*) > 1",
    );
    assert_eq!(doubled.fetch_optional(&app.state.writer).await.unwrap(), None);
    assert_eq!(app.state.bus.age_and_dead().await.unwrap().1, 0);
    app.state.stopping.cancel();
    working.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_hanging_aws_is_a_503_in_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let hanging = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.push(stream);
        }
    });
    let queues = Queues::create().await;
    let mut settings = queues.settings().to_vec();
    settings[4].1 = &endpoint;
    let app = TestApp::builder().settings(&settings).spawn().await;
    let shop = app.user("shop", SHOP).await;
    let begin = Instant::now();
    let answer =
        post(&app, &shop, JSON, None, json!({"observations": [seen("a", "1.00", 1)]}).to_string()).await;
    assert_eq!((answer.status().as_u16(), answer.headers().contains_key("retry-after")), (503, true));
    assert!(begin.elapsed() < Duration::from_secs(25), "{:?}", begin.elapsed());
    let begin = Instant::now();
    assert!(record::step(&app.state).await.is_err());
    assert!(begin.elapsed() < Duration::from_secs(25), "{:?}", begin.elapsed());
    hanging.abort();
}

#[tokio::test]
async fn a_worker_that_is_stopped_releases_its_messages() {
    let settings = [&IMPATIENT[..], &[("SALEBELL_WORKER__LEASE_S", "600")]].concat();
    let (app, proxy, database) = spawn_behind_proxy(Carrier::Aws, &settings).await;
    let shop = app.user("shop", SHOP).await;
    let accepted = app.report(&shop, json!([seen("a", "9.99", 1)])).await;
    proxy.cut();
    let stepping = tokio::spawn({
        let app = app.state.clone();
        async move { record::step(&app).await }
    });
    let queues = app.queues.as_ref().unwrap();
    let begin = Instant::now();
    while queues.held().await != 1 {
        assert!(begin.elapsed() < Duration::from_secs(20), "it is not held");
    }
    app.state.stopping.cancel();
    assert!(stepping.await.unwrap().unwrap().is_more());
    assert_eq!(queues.held().await, 0);
    let mut settings = queues.settings().to_vec();
    settings.push(("SALEBELL_DATABASE__URL", &database.url));
    let other = TestApp::builder().settings(&settings).spawn().await;
    other.record_all().await;
    assert_eq!(other.batch(&shop, &accepted).await["recorded"], 1);
}

/// SQS hands a message to a receive call that its caller has abandoned; the message then stays hidden for a lease.
#[tokio::test]
async fn a_worker_that_is_stopped_waits_for_its_last_receive() {
    let app =
        TestApp::builder().bus(Carrier::Aws).settings(&[("SALEBELL_WORKER__LEASE_S", "600")]).spawn().await;
    let (shop, queues) = (app.user("shop", SHOP).await, app.queues.as_ref().unwrap());
    let settings = queues.settings();
    let settings = [&settings[..], &[("SALEBELL_DATABASE__URL", app.database.url.as_str())]].concat();
    let other = TestApp::builder().settings(&settings).spawn().await;
    let recording = tokio::spawn(driver::run(app.state.clone(), RecordTask));
    let first = other.report(&shop, json!([seen("a", "9.99", 1)])).await;
    done(&other, &shop, &first).await;
    // By now the worker is in a long poll of 20 s.
    tokio::time::sleep(Duration::from_secs(1)).await;
    app.state.stopping.cancel();
    // Longer than the short time for which an abandoned receive call is still awaited.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!recording.is_finished(), "it listens");
    let second = other.report(&shop, json!([seen("a", "8.99", 2)])).await;
    tokio::time::timeout(Duration::from_secs(30), recording).await.expect("it ends").unwrap();
    assert_eq!(queues.held().await, 0);
    other.record_all().await;
    assert_eq!(other.batch(&shop, &second).await["recorded"], 1);
}

async fn dead_messages_are_reported_and_redriven_from_a_shell(carrier: Carrier) {
    let app = TestApp::builder().bus(carrier).spawn().await;
    assert_eq!(instance::run(&app, &["bus", "status"]).await, "No message waits; 0 are dead.\n");
    app.state.bus.send_batch(&[b"damage".to_vec(), b"damage".to_vec()]).await.unwrap();
    for _ in 0..2 {
        let message =
            app.state.bus.receive(1, Duration::from_secs(9), Duration::ZERO).await.unwrap().remove(0);
        app.state.bus.dead_letter(&message, "damaged").await.unwrap();
    }
    assert_eq!(instance::run(&app, &["bus", "status"]).await, "No message waits; 2 are dead.\n");
    assert_eq!(instance::run(&app, &["bus", "redrive"]).await, "2 messages wait again.\n");
    assert_eq!(instance::run(&app, &["redrive"]).await, "0 messages wait again.\n");
    let status = instance::run(&app, &["bus", "status"]).await;
    assert!(status.ends_with("; 0 are dead.\n") && !status.starts_with("No"), "{status}");
}
