//! The whole data path, and its state after its processes are killed at any point.

use std::collections::HashSet;
use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::support::binary::Binary;
use crate::support::bus::{Carrier, Queues};
use crate::support::sink::Sink;
use crate::support::{RINGS_ALWAYS, TestApp, User, eventually};

crate::on_both_buses!(
    workers_killed_again_and_again_lose_and_duplicate_nothing,
    an_api_that_is_killed_has_lost_nothing_that_it_acknowledged,
);

fn seen(sku: usize, price: &str, day: u32) -> Value {
    json!({"store": "steam", "sku": sku.to_string(), "title": format!("Game {sku}"), "price": price,
        "regular_price": "20.00", "currency": "EUR", "observed_at": format!("2026-01-{day:02}T00:00:00Z")})
}

/// Posts lines to the API at `url`; returns the answer.
async fn stream(app: &TestApp, user: &User, url: &str, lines: impl Iterator<Item = Value>) -> Value {
    let body = lines.map(|line| line.to_string()).collect::<Vec<_>>().join("\n");
    let request = app.client.post(format!("{url}/v1/prices")).bearer_auth(&user.token);
    let answer = request.header("content-type", "application/x-ndjson").body(body).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    answer.json().await.unwrap()
}

async fn count(app: &TestApp, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&app.state.writer).await.unwrap()
}

/// Settings by which a separate process shares the test's database.
fn settings(app: &TestApp) -> Vec<(&'static str, String)> {
    let config = &app.state.config;
    let bus = app.queues.iter().flat_map(Queues::settings_of_a_process);
    let own = [
        ("SALEBELL_DATABASE__URL", config.database.url.expose_secret().to_owned()),
        ("SALEBELL_SERVER__LISTEN", "127.0.0.1:0".to_owned()),
        ("SALEBELL_SERVER__GRPC_LISTEN", "127.0.0.1:0".to_owned()),
        ("SALEBELL_SERVER__METRICS_LISTEN", "127.0.0.1:0".to_owned()),
        ("SALEBELL_WORKER__METRICS_LISTEN", "127.0.0.1:0".to_owned()),
        ("SALEBELL_SERVER__LINGER_S", "0".to_owned()),
        ("SALEBELL_WORKER__LEASE_S", "2".to_owned()),
        ("SALEBELL_WORKER__POLL_MS", "100".to_owned()),
        ("SALEBELL_WORKER__FANOUT_SLICE", "7".to_owned()),
        ("SALEBELL_WEBHOOK__ALLOW_HTTP", "true".to_owned()),
        ("SALEBELL_WEBHOOK__ALLOW_NETWORKS", "127.0.0.0/8".to_owned()),
        (RINGS_ALWAYS.0, RINGS_ALWAYS.1.to_owned()),
        ("SALEBELL_WEBHOOK__TIMEOUT_MS", "1000".to_owned()),
        ("SALEBELL_WEBHOOK__ENCRYPTION_KEYS", config.webhook.encryption_keys[0].expose_secret().to_owned()),
    ];
    own.into_iter().chain(bus).collect()
}

fn start(app: &TestApp, command: &str) -> Binary {
    let settings = settings(app);
    let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    Binary::start(&[command], &settings)
}

#[tokio::test]
async fn a_reported_price_rings_within_a_second() {
    let app = TestApp::spawn().await;
    let (shop, anna) =
        (app.user("shop", &["prices:write", "catalogue:write"]).await, app.user("anna", &[]).await);
    let sink = Sink::start().await;
    let worker = tokio::spawn(salebell::worker::run(app.state.clone()));
    let accepted = app.report(&shop, json!([seen(1, "20.00", 1)])).await;
    eventually("recorded", async || app.batch(&shop, &accepted).await["done"] == true).await;
    let games = app.see(&anna, "/v1/games").await;
    let channel = app.hook(&anna, &sink.url("/hook")).await;
    let watch = json!({"game_id": games["items"][0]["id"],
        "rule": {"price_at_most": {"amount": "12.00", "currency": "EUR"}}});
    let watch = app.call(&anna, reqwest::Method::POST, "/v1/watches", watch).await;
    assert_eq!(watch.status, 201);

    let mut sale = seen(1, "9.99", 2);
    sale["url"] = json!("https://store.example/1");
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let request = app.post("/v1/prices").bearer_auth(&shop.token).json(&json!({"observations": [sale]}));
    let began = std::time::Instant::now();
    request.header("traceparent", format!("00-{trace}-b7ad6b7169203331-01")).send().await.unwrap();
    let received = sink.wait_for("/hook", 1).await;
    // Generous: the machine may be busy with other tests. `make bench-latency` measures.
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    let body = received[0].json();
    assert_eq!(body["type"], "sale.started.v1");
    assert_eq!(body["data"]["price"], json!({"amount": "9.99", "currency": "EUR"}));
    assert_eq!(body["data"]["game"]["title"], "Game 1");
    assert!(received[0].headers["traceparent"].contains(trace), "{:?}", received[0].headers);

    let notices = app.see(&anna, "/v1/notices?unread=true").await;
    assert_eq!(notices["items"].as_array().unwrap().len(), 1);
    let path = format!("/v1/channels/{}/deliveries", channel.id);
    eventually("the attempt is recorded", async || {
        app.see(&anna, &path).await["items"][0]["state"] == "delivered"
    })
    .await;
    app.state.stopping.cancel();
    worker.await.unwrap().unwrap();
}

/// Accepts 10,000 prices; then kills workers one after another, at any point of their work.
async fn workers_killed_again_and_again_lose_and_duplicate_nothing(carrier: Carrier) {
    const OFFERS: usize = 10_000;
    const WATCHED: i64 = 300;
    let app = TestApp::builder().bus(carrier).spawn().await;
    let (shop, anna) =
        (app.user("shop", &["prices:write", "catalogue:write"]).await, app.user("anna", &[]).await);
    let sink = Sink::start().await;
    stream(&app, &shop, &app.url, (0..OFFERS).map(|sku| seen(sku, "20.00", 1))).await;
    app.record_all().await;
    app.hook(&anna, &sink.url("/hook")).await;
    sqlx::query(
        "insert into watches (id, account_id, game_id, rule, created_at, updated_at)
         select uuid_v7(now()), $1, id, 'any_sale', now(), now() from (select id from games order by id limit $2) g
         union all
         select uuid_v7(now()), $1, (select id from games order by id limit 1), 'any_sale', now(), now()
         from generate_series(1, 50)",
    )
    .bind(anna.account)
    .bind(WATCHED - 50)
    .execute(&app.state.writer)
    .await
    .unwrap();

    let accepted = stream(&app, &shop, &app.url, (0..OFFERS).map(|sku| seen(sku, "9.99", 2))).await;
    assert_eq!(accepted["accepted"], OFFERS);
    // Each dies somewhat later than the previous one: during its start, recording, dispatch, delivery.
    for life_ms in [150, 250, 350, 450, 600, 800, 1000, 1500] {
        let mut worker = start(&app, "worker");
        tokio::time::sleep(Duration::from_millis(life_ms)).await;
        app.kill(&mut worker).await;
    }
    let worker = start(&app, "worker");
    eventually("all is delivered", async || {
        let left = "select (select count(*) from deliveries where state = 'pending')
            + (select count(*) from events where rings and dispatched_at is null)
            + (select count(*) from bus_messages)";
        // On a slow machine, five of them may have held the same message when they died.
        salebell::worker::record::redrive(&app.state).await.unwrap();
        let batch = app.batch(&shop, &accepted).await;
        (&batch["done"], &batch["failed"]) == (&json!(true), &json!(0)) && count(&app, left).await == 0
    })
    .await;

    let batch = app.batch(&shop, &accepted).await;
    assert_eq!(batch["recorded"], OFFERS, "{}", worker.log());
    assert_eq!(batch["transitions"], json!({"sale.started": OFFERS}));
    assert_eq!(count(&app, "select count(*) from sales").await, OFFERS as i64);
    assert_eq!(count(&app, "select count(*) from price_history").await, 2 * OFFERS as i64);
    assert_eq!(count(&app, "select count(*) from notices").await, WATCHED);
    assert_eq!(count(&app, "select count(*) from deliveries where state = 'delivered'").await, WATCHED);
    // A webhook may arrive again after a kill, with the same id.
    let ids: HashSet<String> =
        sink.received("/hook").iter().map(|one| one.headers["webhook-id"].clone()).collect();
    assert_eq!(ids.len() as i64, WATCHED);
}

async fn an_api_that_is_killed_has_lost_nothing_that_it_acknowledged(carrier: Carrier) {
    let app = TestApp::builder().bus(carrier).spawn().await;
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let mut acknowledged = Vec::new();
    for round in 0..5_usize {
        let mut api = start(&app, "api");
        let url = api.url().await;
        for report in 0..4 {
            let first = (round * 10 + report) * 100;
            acknowledged
                .push(stream(&app, &shop, &url, (first..first + 100).map(|sku| seen(sku, "9.99", 1))).await);
        }
        // One more is in flight when the process dies; it was never acknowledged.
        let body =
            (0..100).map(|sku| seen(900_000 + sku, "9.99", 1).to_string()).collect::<Vec<_>>().join("\n");
        let unfinished = app.client.post(format!("{url}/v1/prices")).bearer_auth(&shop.token);
        let unfinished =
            tokio::spawn(unfinished.header("content-type", "application/x-ndjson").body(body).send());
        app.kill(&mut api).await;
        let _ = unfinished.await.unwrap();
    }
    app.record_all().await;
    for accepted in &acknowledged {
        let batch = app.batch(&shop, accepted).await;
        assert_eq!((&batch["done"], &batch["recorded"]), (&json!(true), &json!(100)), "{batch}");
    }
}
