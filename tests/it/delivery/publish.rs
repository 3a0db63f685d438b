//! Events for other teams: their contents, their order, and their completeness.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use salebell::worker::publish;
use serde_json::{Value, json};

use crate::support::bus::{Subscriber, create_events_topic};
use crate::support::instance;
use crate::support::s3::{emulator, flaky};
use crate::support::{TestApp, User};

async fn spawn(topic: &str, endpoint: &str) -> TestApp {
    TestApp::builder().settings(&settings(topic, endpoint)).spawn().await
}

fn settings<'a>(topic: &'a str, endpoint: &'a str) -> [(&'a str, &'a str); 2] {
    [("SALEBELL_BUS__EVENTS_TOPIC", topic), ("SALEBELL_BUS__ENDPOINT", endpoint)]
}

async fn shop(app: &TestApp) -> User {
    app.user("shop", &["prices:write", "catalogue:write"]).await
}

fn seen(store: &str, sku: &str, price: &str, day: u32) -> Value {
    json!({"store": store, "sku": sku, "title": format!("Game {sku}"), "price": price, "regular_price": "20.00",
        "currency": "EUR", "region": "DE", "platform": "windows", "url": "https://store.example/a",
        "observed_at": format!("2026-01-{day:02}T00:00:00Z")})
}

/// Reports observations and records them.
async fn report(app: &TestApp, shop: &User, observations: Value) {
    app.report(shop, observations).await;
    app.record_all().await;
}

async fn publish_all(app: &TestApp) {
    while publish::step(&app.state).await.unwrap().is_more() {}
}

async fn waiting(app: &TestApp) -> i64 {
    sqlx::query_scalar("select count(*) from publications").fetch_one(&app.state.writer).await.unwrap()
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn every_event_is_published_with_its_whole_context() {
    let topic = create_events_topic(false).await;
    let team = Subscriber::create(&topic, Value::Null).await;
    let app = spawn(&topic, &emulator().await).await;
    let shop = shop(&app).await;
    report(&app, &shop, json!([seen("GOG.com", "a", "20.00", 1)])).await;
    report(&app, &shop, json!([seen("GOG.com", "a", "9.99", 2)])).await;
    // Nothing has changed.
    report(&app, &shop, json!([seen("GOG.com", "a", "9.99", 3)])).await;
    report(&app, &shop, json!([seen("GOG.com", "a", "20.00", 4)])).await;
    publish_all(&app).await;
    let received = team.wait_for(3).await;
    let mut kinds = types(&received);
    kinds.sort_unstable();
    assert_eq!(kinds, ["first.seen.v1", "sale.ended.v1", "sale.started.v1"]);
    let sale = received.iter().find(|event| event["type"] == "sale.started.v1").unwrap();
    let data = &sale["data"];
    assert_eq!(data["price"], json!({"amount": "9.99", "currency": "EUR"}));
    assert_eq!(data["regular_price"], json!({"amount": "20.00", "currency": "EUR"}));
    assert_eq!(
        (&data["cut"], &data["new_low"], &data["backfill"]),
        (&json!(50), &json!(true), &json!(false))
    );
    assert_eq!(data["observed_at"], "2026-01-02T00:00:00.000000Z");
    assert_eq!(data["game"]["title"], "Game a");
    assert_eq!(data["offer"]["store"], json!({"slug": "gog-com", "name": "GOG.com"}));
    assert_eq!(
        (&data["offer"]["sku"], &data["offer"]["region"], &data["offer"]["platform"]),
        (&json!("a"), &json!("DE"), &json!("windows"))
    );
    let known: (String, uuid::Uuid) =
        sqlx::query_as("select id::text, sale_id from events where kind = 'sale.started'")
            .fetch_one(&app.state.writer)
            .await
            .unwrap();
    assert_eq!((&sale["id"], &data["sale_id"]), (&json!(known.0), &json!(known.1)));
    publish_all(&app).await;
    assert_eq!((waiting(&app).await, team.take().await.len()), (0, 0), "once");
}

#[tokio::test]
async fn a_team_receives_the_events_that_it_filters_for() {
    let topic = create_events_topic(false).await;
    let sales =
        Subscriber::create(&topic, json!({"kind": ["sale.started"], "cut": [{"numeric": [">=", 50]}]})).await;
    let gog =
        Subscriber::create(&topic, json!({"store": ["gog"], "region": ["DE"], "currency": ["EUR"]})).await;
    let lows = Subscriber::create(&topic, json!({"new_low": ["true"], "backfill": ["false"]})).await;
    let app = spawn(&topic, &emulator().await).await;
    let shop = shop(&app).await;
    report(&app, &shop, json!([seen("steam", "a", "20.00", 1), seen("gog", "b", "20.00", 1)])).await;
    report(&app, &shop, json!([seen("steam", "a", "9.00", 2), seen("gog", "b", "15.00", 2)])).await;
    let historical = json!({"observations": [seen("steam", "a", "5.00", 3)], "backfill": true});
    app.post("/v1/prices").bearer_auth(&shop.token).json(&historical).send().await.unwrap();
    app.record_all().await;
    publish_all(&app).await;
    assert_eq!(types(&sales.wait_for(1).await), ["sale.started.v1"]);
    assert_eq!(gog.wait_for(2).await.len(), 2);
    assert_eq!(lows.wait_for(2).await.len(), 2);
    for team in [sales, gog, lows] {
        assert_eq!(team.take().await.len(), 0);
    }
}

/// Reports price changes of `offers` offers, in many messages.
async fn report_changes(app: &TestApp, shop: &User, offers: usize, changes: u32) {
    for change in 0..changes {
        let price = if change % 2 == 0 { "20.00" } else { "9.99" };
        let all: Vec<Value> =
            (0..offers).map(|sku| seen("gog", &sku.to_string(), price, 1 + change)).collect();
        report(app, shop, json!(all)).await;
    }
}

/// Days of the events of each offer, in the order of publication.
fn days(events: &[Value]) -> HashMap<String, Vec<String>> {
    let mut days: HashMap<String, Vec<String>> = HashMap::new();
    for event in events {
        let data = &event["data"];
        let offer = data["offer"]["id"].as_str().unwrap().to_owned();
        days.entry(offer).or_default().push(data["observed_at"].as_str().unwrap().to_owned());
    }
    days
}

#[tokio::test]
async fn an_offers_events_keep_their_order_although_the_topic_fails() {
    let topic = create_events_topic(true).await;
    let team = Subscriber::create(&topic, Value::Null).await;
    let app = spawn(&topic, &flaky(&emulator().await, 3).await).await;
    let shop = shop(&app).await;
    report_changes(&app, &shop, 15, 6).await;
    // Six observations of one offer in one message, in reverse order.
    let turns = (1..=6).rev().map(|day| seen("gog", "x", if day % 2 == 0 { "20.00" } else { "9.99" }, day));
    report(&app, &shop, turns.collect()).await;
    let begin = Instant::now();
    while waiting(&app).await > 0 {
        let _ = publish::step(&app.state).await;
        app.clock.advance(TimeDelta::seconds(2));
        assert!(begin.elapsed() < Duration::from_secs(60));
    }
    // An event that is published twice has the same id, by which SQS drops the duplicate.
    let received = team.wait_for(96).await;
    assert_eq!(received.len(), 96);
    for (offer, days) in days(&received) {
        assert!(days.len() == 6 && days.is_sorted(), "{offer}: {days:?}");
    }
}

#[tokio::test]
async fn an_event_that_is_committed_late_is_not_left_out() {
    let topic = create_events_topic(false).await;
    let team = Subscriber::create(&topic, Value::Null).await;
    let app = spawn(&topic, &emulator().await).await;
    let shop = shop(&app).await;
    report(&app, &shop, json!([seen("gog", "late", "20.00", 1)])).await;
    publish_all(&app).await;
    assert_eq!(team.wait_for(1).await.len(), 1);
    // Its number is assigned, and its transaction stays open while a later one is published.
    let mut late = app.state.writer.begin().await.unwrap();
    let id: uuid::Uuid = sqlx::query_scalar(
        "with late as (
            insert into events (id, kind, offer_id, game_id, currency, amount, regular, cut, new_low, observed_at, rings,
                recorded_at)
            select gen_random_uuid(), kind, offer_id, game_id, currency, amount, regular, cut, new_low, observed_at,
                rings, recorded_at from events
            returning id, offer_id
        )
        insert into publications (event_id, offer_id, backfill) select id, offer_id, false from late returning event_id",
    )
    .fetch_one(&mut *late)
    .await
    .unwrap();
    report(&app, &shop, json!([seen("gog", "b", "20.00", 1)])).await;
    publish_all(&app).await;
    assert_eq!(team.wait_for(1).await[0]["data"]["offer"]["sku"], "b");
    late.commit().await.unwrap();
    publish_all(&app).await;
    assert_eq!(team.wait_for(1).await[0]["id"], json!(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_that_are_killed_leave_nothing_out() {
    let (topic, endpoint) = (create_events_topic(false).await, emulator().await);
    let team = Subscriber::create(&topic, Value::Null).await;
    let app = spawn(&topic, &endpoint).await;
    let shop = shop(&app).await;
    report_changes(&app, &shop, 100, 5).await;
    assert_eq!(waiting(&app).await, 500);
    let who = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| (name, std::env::var(name).unwrap()));
    let mut settings = settings(&topic, &endpoint).to_vec();
    settings.extend(who.iter().map(|(name, value)| (*name, value.as_str())));
    for left in [400, 200] {
        let mut worker = instance::start(&app, "worker", &settings);
        while waiting(&app).await > left {
            assert!(worker.is_running(), "{}", worker.log());
        }
        app.kill(&mut worker).await;
        // As if the lease of the dead worker had expired.
        sqlx::query("update jobs set leased_until = now() where name = 'publish_events'")
            .execute(&app.state.writer)
            .await
            .unwrap();
    }
    // Two workers at once, of which only one holds the lease.
    let _workers = [instance::start(&app, "worker", &settings), instance::start(&app, "worker", &settings)];
    let received = team.wait_for(500).await;
    app.until("select not exists (select from publications)").await;
    let again = team.take().await;
    let ids: std::collections::HashSet<&str> =
        received.iter().chain(&again).map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 500);
    // Each wave may have been sent twice, but not more often.
    assert!(received.len() + again.len() <= 500 + 2 * 80, "{} and {}", received.len(), again.len());
}
