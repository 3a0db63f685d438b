//! Bells of sales that were interrupted, suspended during a giveaway, or over before they could ring.

use chrono::{DateTime, TimeDelta, Utc};
use salebell::worker::dispatch;
use serde_json::{Value, json};

use crate::pricing::sales::{at, deliver_all, instant, report, seen, shop, with};
use crate::support::sink::{Received, Sink};
use crate::support::{TestApp, User};

/// Watches the game of this title.
async fn watch(app: &TestApp, user: &User, title: &str, more: Value) {
    let games = app.read("/v1/games?limit=100").await;
    let game = games["items"].as_array().unwrap().iter().find(|game| game["title"] == title).unwrap();
    let body = with(json!({"game_id": game["id"]}), more);
    let made = app.call(user, reqwest::Method::POST, "/v1/watches", body).await;
    assert_eq!(made.status, 201, "{}", made.body);
}

/// Kind, price and time of observation that a webhook reported.
fn bell(received: &Received) -> (String, String, DateTime<Utc>) {
    let body = received.json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let data = &body["data"];
    (text(&body["type"]), text(&data["price"]["amount"]), text(&data["observed_at"]).parse().unwrap())
}

#[tokio::test]
async fn paid_prices_ring_after_a_giveaway() {
    let app = TestApp::spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    let sink = Sink::start().await;
    app.hook(&anna, &sink.url("/hook")).await;
    let any_sale = json!({"any_sale": {}});
    let new_low = json!({"new_low": {}});
    let at_most_3 = json!({"price_at_most": {"amount": "3.00", "currency": "EUR"}});
    let cases: [(&str, &Value, &[&str], &[&str]); 8] = [
        ("Alpha", &new_low, &["20", "15", "20", "0", "20", "4"], &["15.00", "0.00", "4.00"]),
        ("Beta", &new_low, &["0", "20", "15", "0", "20", "14"], &["15.00", "14.00"]),
        ("Gamma", &any_sale, &["15", "20", "0", "20", "4"], &["15.00", "0.00", "4.00"]),
        ("Delta", &any_sale, &["0", "20", "15", "14"], &["0.00", "15.00"]),
        ("Epsilon", &at_most_3, &["0", "4", "20", "3"], &["0.00", "3.00"]),
        ("Zeta", &any_sale, &["20", "0", "20", "0"], &["0.00"]),
        ("Eta", &any_sale, &["20", "10", "20", "10", "20", "10", "9"], &["10.00", "9.00"]),
        ("Theta", &new_low, &["0", "20", "20", "0", "15"], &["15.00"]),
    ];
    for (title, rule, prices, expected) in cases {
        let of = |observation: Value| with(observation, json!({"sku": title, "title": title}));
        // The game is known before the offer.
        report(&app, &shop, json!([with(of(seen(&app, "20.00", -60)), json!({"region": "DE"}))])).await;
        watch(&app, &anna, title, json!({"rule": rule})).await;
        for (n, price) in prices.iter().enumerate() {
            report(&app, &shop, json!([of(seen(&app, price, n as i64 - 50))])).await;
            deliver_all(&app).await;
        }
        let received = sink.received("/hook");
        let received = received.iter().filter(|bell| bell.json()["data"]["game"]["title"] == title);
        assert_eq!(
            received.map(|received| bell(received).1).collect::<Vec<_>>(),
            expected,
            "{title}: {prices:?}"
        );
    }
    // As after a crash between the commit of a slice and the end of its event.
    let count = async || -> i64 {
        sqlx::query_scalar("select count(*) from deliveries").fetch_one(&app.state.writer).await.unwrap()
    };
    let before = count().await;
    sqlx::query("update events set dispatched_at = null, last_watch_id = null where rings")
        .execute(&app.state.writer)
        .await
        .unwrap();
    while dispatch::step(&app.state).await.unwrap().is_more() {}
    assert_eq!(count().await, before, "whoever repeats them");
}

#[tokio::test]
async fn a_sale_that_could_not_ring_when_it_started_rings_when_it_continues() {
    let app = TestApp::builder().settings(&[("SALEBELL_PRICES__RINGS_WITHIN_S", "604800")]).spawn().await;
    let (shop, anna, otto) = (shop(&app).await, app.user("anna", &[]).await, app.user("otto", &[]).await);
    let day = 24 * 60;
    let of = |title: &str, observation| with(observation, json!({"sku": title, "title": title}));
    for title in ["Over", "Late", "Old"] {
        report(&app, &shop, json!([of(title, seen(&app, "20.00", -9 * day))])).await;
        for rule in [json!({"any_sale": {}}), json!({"new_low": {}})] {
            watch(&app, &anna, title, json!({"rule": rule})).await;
        }
    }
    let rung = async |user: &User| app.see(user, "/v1/notices").await["items"].as_array().unwrap().len();
    let ends = |minute| json!({"sale_ends_at": at(&app, minute)});
    // A sale that was over when it was recorded, and then prolonged.
    report(&app, &shop, json!([of("Over", with(seen(&app, "10.00", -3), ends(-2)))])).await;
    assert_eq!(rung(&anna).await, 0);
    watch(&app, &otto, "Over", json!({"rule": {"any_sale": {}}})).await;
    let prolonged = json!([of("Over", with(seen(&app, "10.00", -1), ends(day)))]);
    let batch = report(&app, &shop, prolonged).await;
    assert_eq!(batch["transitions"], json!({"sale.resumed": 1}));
    assert_eq!((rung(&anna).await, rung(&otto).await), (2, 0), "not a watch that was made while it flapped");
    // The same, with an observation from before the end that is not recorded yet.
    report(&app, &shop, json!([of("Late", with(seen(&app, "10.00", -9), ends(-5)))])).await;
    let batch = report(&app, &shop, json!([of("Late", with(seen(&app, "10.00", -7), ends(day)))])).await;
    assert_eq!((&batch["unchanged"], &batch["transitions"]), (&json!(1), &json!({})));
    assert_eq!(rung(&anna).await, 4);
    // Too old when it was reported, but not over yet.
    report(&app, &shop, json!([of("Old", seen(&app, "10.00", -8 * day))])).await;
    report(&app, &shop, json!([of("Old", seen(&app, "20.00", -60))])).await;
    assert_eq!(rung(&anna).await, 4);
    for minute in [-30, -10] {
        let batch = report(&app, &shop, json!([of("Old", seen(&app, "10.00", minute))])).await;
        assert_eq!(batch["transitions"], json!({"sale.resumed": 1}));
        assert_eq!(rung(&anna).await, 6, "once for the sale");
        report(&app, &shop, json!([of("Old", seen(&app, "20.00", minute + 5))])).await;
    }
}

#[tokio::test]
async fn a_delayed_notice_names_a_price_with_the_time_of_its_observation() {
    let app = TestApp::spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    let sink = Sink::start().await;
    app.hook(&anna, &sink.url("/hook")).await;
    report(&app, &shop, json!([seen(&app, "20.00", -60)])).await;
    watch(&app, &anna, "Hades", json!({"rule": {"any_sale": {}}, "cadence": "daily"})).await;
    watch(&app, &anna, "Hades", json!({"rule": {"cut_at_least": {"percent": 10}}})).await;
    for (minute, price) in [(-50, "10.00"), (-40, "20.00"), (-30, "9.00"), (-20, "8.00")] {
        report(&app, &shop, json!([seen(&app, price, minute)])).await;
    }
    let seen_at = instant(&app, -20);
    app.clock.advance(TimeDelta::days(1));
    assert!(deliver_all(&app).await.sent >= 2);
    let received: Vec<_> = sink.received("/hook").iter().map(bell).collect();
    assert!(received.iter().all(|(_, price, at)| (price.as_str(), *at) == ("8.00", seen_at)), "{received:?}");
    let daily = received.last().unwrap();
    assert_eq!(daily.0, "sale.deepened.v1", "as its notice, which was renewed while it waited: {received:?}");
}

#[tokio::test]
async fn deals_at_a_new_low_never_cost_less_before() {
    let app = TestApp::spawn().await;
    let shop = shop(&app).await;
    let regular = |regular: &str| json!({"regular_price": regular});
    report(&app, &shop, json!([seen(&app, "20.00", -60), seen(&app, "10.00", -50)])).await;
    let lows = async || app.read("/v1/deals?new_low=true").await["items"].as_array().unwrap().len();
    assert_eq!(lows().await, 1);
    report(&app, &shop, json!([with(seen(&app, "9.00", -40), regular("9.00"))])).await;
    let batch = report(&app, &shop, json!([seen(&app, "10.00", -30)])).await;
    assert_eq!(batch["transitions"], json!({"sale.resumed": 1}));
    let deals = app.read("/v1/deals").await;
    assert_eq!((&deals["items"][0]["low"]["amount"], lows().await), (&json!("9.00"), 0));
}
