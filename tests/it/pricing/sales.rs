//! Sales: when they end, when they resume, what counts as a low, and which watches ring.

use chrono::{DateTime, TimeDelta, Utc};
use salebell::clock::Clock;
use salebell::database::pool::PgPool;
use salebell::worker::{deliver, dispatch, exports, publish, schedule};
use serde_json::{Value, json};

use crate::support::bus::{Subscriber, create_events_topic};
use crate::support::s3::emulator;
use crate::support::sink::Sink;
use crate::support::{TestApp, User};

pub async fn shop(app: &TestApp) -> User {
    app.user("shop", &["prices:write", "catalogue:write"]).await
}

/// Time `minutes` from now on the test's clock, as text.
pub fn at(app: &TestApp, minutes: i64) -> String {
    instant(app, minutes).to_rfc3339()
}

/// Time `minutes` from now, where now is the minute in which the test began plus all advances of its clock: independent
/// of the speed of the test.
pub fn instant(app: &TestApp, minutes: i64) -> DateTime<Utc> {
    let begun: uuid::Uuid = app.database.url.rsplit('_').next().unwrap().parse().unwrap();
    let (seconds, _) = begun.get_timestamp().unwrap().to_unix();
    let moved = (app.clock.now() - Clock::system().now()).num_seconds() + 30;
    let minute = seconds as i64 / 60 + moved.div_euclid(60) + minutes;
    DateTime::from_timestamp(minute * 60, 0).unwrap()
}

/// An observation of the one offer, with a regular price of 20.00 EUR, `minutes` from now.
pub fn seen(app: &TestApp, price: &str, minutes: i64) -> Value {
    json!({"store": "steam", "sku": "a", "title": "Hades", "price": price, "regular_price": "20.00",
        "currency": "EUR", "observed_at": at(app, minutes)})
}

pub fn with(mut observation: Value, more: Value) -> Value {
    observation.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    observation
}

/// Reports, records, dispatches; returns the batch.
pub async fn report(app: &TestApp, shop: &User, observations: Value) -> Value {
    let accepted = app.report(shop, observations).await;
    app.record_all().await;
    while dispatch::step(&app.state).await.unwrap().is_more() {}
    app.batch(shop, &accepted).await
}

async fn watch(app: &TestApp, user: &User, rule: Value) -> String {
    let game = app.read("/v1/games").await["items"][0]["id"].clone();
    let body = json!({"game_id": game, "rule": rule});
    let made = app.call(user, reqwest::Method::POST, "/v1/watches", body).await;
    assert_eq!(made.status, 201, "{}", made.body);
    made.body["id"].as_str().unwrap().to_owned()
}

async fn offer(app: &TestApp) -> Value {
    app.read("/v1/offers").await["items"][0].clone()
}

async fn deals(app: &TestApp) -> usize {
    app.read("/v1/deals").await["items"].as_array().unwrap().len()
}

/// Kind, reason and time of all events, in order.
async fn events(pool: &PgPool) -> Vec<(String, Option<String>, DateTime<Utc>)> {
    sqlx::query_as("select kind, reason, observed_at from events order by id").fetch_all(pool).await.unwrap()
}

pub async fn deliver_all(app: &TestApp) -> deliver::Step {
    let mut sum = deliver::Step::default();
    loop {
        let step = deliver::step(&app.state).await.unwrap();
        if step == deliver::Step::default() {
            return sum;
        }
        sum.sent += step.sent;
        sum.cancelled += step.cancelled;
    }
}

#[tokio::test]
async fn a_sale_ends_at_its_announced_end_before_the_schedule_has_run() {
    let app = TestApp::spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    report(&app, &shop, json!([seen(&app, "20.00", -10)])).await;
    let watch = watch(&app, &anna, json!({"any_sale": {}})).await;
    let end = instant(&app, 60);
    let sale = with(seen(&app, "10.00", -5), json!({"sale_ends_at": end}));
    report(&app, &shop, json!([sale])).await;
    let before = offer(&app).await;
    assert_eq!((&before["on_sale"], &before["unknown_since"]), (&json!(true), &Value::Null));
    assert_eq!(before["sale_ends_at"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap(), end);
    assert_eq!(deals(&app).await, 1);
    let explained = app.see(&anna, &format!("/v1/watches/{watch}/explain")).await;
    assert_eq!(explained["would_ring"], true);

    app.clock.advance(TimeDelta::minutes(61));
    assert_eq!(deals(&app).await, 0);
    for sort in ["cut", "price", "newest"] {
        let query = format!("/v1/deals?sort={sort}&store=steam&min_cut=1&new_low=true");
        assert_eq!(app.read(&query).await["items"], json!([]), "{sort}");
    }
    let over = offer(&app).await;
    assert_eq!((&over["on_sale"], &over["sale_started_at"]), (&json!(false), &Value::Null));
    assert_eq!(over["unknown_since"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap(), end);
    assert_eq!(over["price"]["amount"], "10.00", "the last that was seen");
    let explained = app.see(&anna, &format!("/v1/watches/{watch}/explain")).await;
    assert_eq!(explained["would_ring"], false);
    let codes: Vec<&Value> =
        explained["offers"][0]["reasons"].as_array().unwrap().iter().map(|reason| &reason["code"]).collect();
    assert_eq!(codes, [&json!("not_on_sale"), &json!("sale_is_over")]);
    let export = json!({"kind": "deals", "format": "ndjson"});
    let made = app.call(&shop, reqwest::Method::POST, "/v1/exports", export).await.body;
    while exports::step(&app.state, || ()).await.unwrap().is_more() {}
    let done = app.see(&shop, &format!("/v1/exports/{}", made["id"].as_str().unwrap())).await;
    assert_eq!((&done["state"], &done["rows_written"]), (&json!("done"), &json!(0)));
}

#[tokio::test]
async fn the_schedule_ends_a_sale_once_and_at_its_time_even_a_day_late() {
    let topic = create_events_topic(false).await;
    let team = Subscriber::create(&topic, json!({"kind": ["sale.ended"]})).await;
    let endpoint = emulator().await;
    let settings =
        [("SALEBELL_BUS__EVENTS_TOPIC", topic.as_str()), ("SALEBELL_BUS__ENDPOINT", endpoint.as_str())];
    let app = TestApp::builder().settings(&settings).spawn().await;
    let shop = shop(&app).await;
    let ends: Vec<DateTime<Utc>> = (0..3).map(|n| instant(&app, 60 + n)).collect();
    let sales: Vec<Value> = ends
        .iter()
        .enumerate()
        .map(|(n, end)| with(seen(&app, "10.00", -5), json!({"sku": n.to_string(), "sale_ends_at": end})))
        .chain([with(seen(&app, "10.00", -5), json!({"sku": "open"}))])
        .collect();
    report(&app, &shop, json!(sales)).await;
    schedule::step(&app.state).await.unwrap();
    assert_eq!(events(&app.state.writer).await.len(), 4, "not before their time");
    app.clock.advance(TimeDelta::days(1));
    // A worker that dies in between leaves nothing behind: its transaction is rolled back.
    let both = tokio::join!(schedule::step(&app.state), schedule::step(&app.state));
    both.0.unwrap();
    both.1.unwrap();
    app.clock.advance(TimeDelta::minutes(1));
    schedule::step(&app.state).await.unwrap();
    let all = events(&app.state.writer).await;
    let ended: Vec<_> = all[4..].to_vec();
    let expected: Vec<_> =
        ends.iter().map(|end| ("sale.ended".to_owned(), Some("told_end".to_owned()), *end)).collect();
    let mut sorted = ended.clone();
    sorted.sort();
    assert_eq!(sorted, expected, "each once, at the time that its store had said");
    let open: i64 = sqlx::query_scalar(
        "select (select count(*) from sales where ended_at is null) * 10
            + (select count(*) from offers where sale_id is not null)",
    )
    .fetch_one(&app.state.writer)
    .await
    .unwrap();
    assert_eq!(open, 11, "the sale without an end continues");
    while publish::step(&app.state).await.unwrap().is_more() {}
    let published = team.wait_for(3).await;
    assert!(published.iter().all(|event| event["data"]["reason"] == "told_end"), "{published:?}");

    // The next observation counts as known again, at any price.
    let next = with(seen(&app, "20.00", 0), json!({"sku": "0"}));
    let batch = report(&app, &shop, json!([next])).await;
    assert_eq!(batch["transitions"], json!({"price.raised": 1}));
    let offers = app.read("/v1/offers").await;
    let known = offers["items"].as_array().unwrap().iter().find(|offer| offer["sku"] == "0").unwrap();
    assert_eq!((&known["unknown_since"], &known["on_sale"]), (&Value::Null, &json!(false)));
    let unknown = offers["items"].as_array().unwrap().iter().find(|offer| offer["sku"] == "1").unwrap();
    assert!(unknown["unknown_since"].is_string(), "{unknown}");
}

#[tokio::test]
async fn an_observation_and_the_schedule_at_the_same_moment_end_a_sale_once() {
    let app = TestApp::spawn().await;
    let shop = shop(&app).await;
    let offers: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    let observed = |price: &str, minutes, more: Value| {
        let each = |sku: &String| with(with(seen(&app, price, minutes), json!({"sku": sku})), more.clone());
        json!(offers.iter().map(each).collect::<Vec<_>>())
    };
    report(&app, &shop, observed("10.00", -5, json!({"sale_ends_at": at(&app, 60)}))).await;
    app.clock.advance(TimeDelta::minutes(61));
    app.report(&shop, observed("20.00", 0, json!({}))).await;
    let (scheduled, ()) = tokio::join!(schedule::step(&app.state), app.record_all());
    scheduled.unwrap();
    let ended = "select count(*), count(distinct offer_id) from events where kind = 'sale.ended'";
    let ended: (i64, i64) = sqlx::query_as(ended).fetch_one(&app.state.writer).await.unwrap();
    assert_eq!(ended, (40, 40));
    let reasons: Vec<Option<String>> =
        sqlx::query_scalar("select distinct reason from events where kind = 'sale.ended'")
            .fetch_all(&app.state.writer)
            .await
            .unwrap();
    assert_eq!(reasons, [Some("told_end".to_owned())]);
}

#[tokio::test]
async fn a_sale_that_is_over_does_not_ring() {
    let app = TestApp::spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    let sink = Sink::start().await;
    report(&app, &shop, json!([seen(&app, "20.00", -10)])).await;
    app.hook(&anna, &sink.url("/hook")).await;
    watch(&app, &anna, json!({"any_sale": {}})).await;
    // Over already when it is reported, or when it is recorded.
    let over = with(seen(&app, "10.00", -5), json!({"sale_ends_at": at(&app, -5)}));
    let batch = report(&app, &shop, json!([over])).await;
    assert_eq!(batch["transitions"], json!({"price.lowered": 1}));
    assert_eq!((offer(&app).await["on_sale"].clone(), deals(&app).await), (json!(false), 0));
    report(&app, &shop, json!([seen(&app, "20.00", -4)])).await;
    let passed = with(seen(&app, "10.00", -3), json!({"sale_ends_at": at(&app, -2)}));
    report(&app, &shop, json!([passed])).await;
    assert_eq!(deals(&app).await, 0);
    let notices = async || app.see(&anna, "/v1/notices").await["items"].as_array().unwrap().len();
    assert_eq!(notices().await, 0);
    report(&app, &shop, json!([seen(&app, "20.00", -1)])).await;

    // Over before the dispatch.
    app.clock.advance(TimeDelta::days(1));
    let short = with(seen(&app, "10.00", -1), json!({"sale_ends_at": at(&app, 10)}));
    app.report(&shop, json!([short])).await;
    app.record_all().await;
    app.clock.advance(TimeDelta::minutes(11));
    while dispatch::step(&app.state).await.unwrap().is_more() {}
    assert_eq!(notices().await, 0);

    // Over before it is sent.
    app.clock.advance(TimeDelta::days(1));
    report(&app, &shop, json!([seen(&app, "20.00", -2)])).await;
    let short = with(seen(&app, "10.00", -1), json!({"sale_ends_at": at(&app, 10)}));
    report(&app, &shop, json!([short])).await;
    assert_eq!(notices().await, 1);
    app.clock.advance(TimeDelta::minutes(11));
    assert_eq!(deliver_all(&app).await, deliver::Step { sent: 0, cancelled: 1 });
    assert_eq!(sink.received("/hook").len(), 0);
}

#[tokio::test]
async fn a_newly_announced_end_counts_and_unsent_notices_stay_due() {
    let app = TestApp::spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    let sink = Sink::start().await;
    report(&app, &shop, json!([seen(&app, "20.00", -10)])).await;
    app.hook(&anna, &sink.url("/hook")).await;
    watch(&app, &anna, json!({"any_sale": {}})).await;
    report(&app, &shop, json!([with(seen(&app, "10.00", -5), json!({"sale_ends_at": at(&app, 60)}))])).await;
    let again = with(seen(&app, "10.00", -4), json!({"sale_ends_at": at(&app, 120)}));
    assert_eq!(report(&app, &shop, json!([again])).await["unchanged"], 1);
    app.clock.advance(TimeDelta::minutes(61));
    schedule::step(&app.state).await.unwrap();
    assert_eq!((deals(&app).await, offer(&app).await["on_sale"].clone()), (1, json!(true)));
    let game = offer(&app).await["game_id"].as_str().unwrap().to_owned();
    let history = app.read(&format!("/v1/games/{game}/prices")).await;
    let last = history["items"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        last["holds_until"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap(),
        instant(&app, 120 - 61)
    );

    // The sale ends, which cancels the waiting delivery; then it continues, because its store has prolonged it.
    app.clock.advance(TimeDelta::minutes(60));
    schedule::step(&app.state).await.unwrap();
    assert_eq!(deliver_all(&app).await.cancelled, 1);
    let prolonged = with(seen(&app, "10.00", 0), json!({"sale_ends_at": at(&app, 600)}));
    assert_eq!(report(&app, &shop, json!([prolonged])).await["transitions"], json!({"sale.resumed": 1}));
    assert_eq!(deliver_all(&app).await.sent, 1);
    assert_eq!(sink.received("/hook")[0].json()["type"], "sale.started.v1");
    assert_eq!(app.see(&anna, "/v1/notices").await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn history_says_until_when_each_price_held() {
    let app = TestApp::spawn().await;
    let shop = shop(&app).await;
    let announced = |price: &str, minute, end: i64| {
        with(seen(&app, price, minute), json!({"sale_ends_at": at(&app, end)}))
    };
    let begin = instant(&app, 0);
    report(&app, &shop, json!([announced("10.00", -50, -20)])).await;
    // Reported again, followed by another price, in one message; and a late observation.
    report(&app, &shop, json!([announced("10.00", -45, -30), announced("12.00", -40, -10)])).await;
    report(&app, &shop, json!([seen(&app, "20.00", -60)])).await;
    report(&app, &shop, json!([seen(&app, "12.00", -5)])).await;
    let game = offer(&app).await["game_id"].as_str().unwrap().to_owned();
    let minutes = |value: &Value| {
        value.as_str().map(|text| (text.parse::<DateTime<Utc>>().unwrap() - begin).num_minutes())
    };
    let history = app.read(&format!("/v1/games/{game}/prices")).await;
    let points: Vec<_> = history["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| {
            let price = point["price"]["amount"].as_str().unwrap().to_owned();
            (minutes(&point["observed_at"]).unwrap(), price, minutes(&point["holds_until"]))
        })
        .collect();
    let point = |minute: i64, price: &str, until| (minute, price.to_owned(), until);
    assert_eq!(
        points,
        [
            point(-60, "20.00", None),
            point(-50, "10.00", Some(-30)),
            point(-40, "12.00", Some(-10)),
            point(-5, "12.00", None)
        ]
    );
    let days = app.read(&format!("/v1/games/{game}/prices?resolution=month")).await;
    assert_eq!(days["items"].as_array().unwrap().last().unwrap()["holds_until"], Value::Null);
}

#[tokio::test]
async fn a_price_that_flaps_is_one_sale_and_rings_again_when_it_improves() {
    let app = TestApp::spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    let sink = Sink::start().await;
    report(&app, &shop, json!([seen(&app, "20.00", -60)])).await;
    app.hook(&anna, &sink.url("/hook")).await;
    watch(&app, &anna, json!({"any_sale": {}})).await;
    for (minute, price) in ["10.00", "20.00", "10.00", "20.00", "10.00", "9.00"].into_iter().enumerate() {
        report(&app, &shop, json!([seen(&app, price, minute as i64 - 50)])).await;
        deliver_all(&app).await;
    }
    let sales: Vec<(i64, bool)> = sqlx::query_as("select amount, ended_at is null from sales")
        .fetch_all(&app.state.writer)
        .await
        .unwrap();
    assert_eq!(sales, [(900, true)]);
    let received = sink.received("/hook");
    let bells: Vec<(String, String)> = received
        .iter()
        .map(|bell| bell.json())
        .map(|bell| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (text(&bell["type"]), text(&bell["data"]["price"]["amount"]))
        })
        .collect();
    let bell = |kind: &str, price: &str| (kind.to_owned(), price.to_owned());
    assert_eq!(bells, [bell("sale.started.v1", "10.00"), bell("sale.deepened.v1", "9.00")]);
    assert_ne!(received[0].headers["webhook-id"], received[1].headers["webhook-id"]);
    let notices = app.see(&anna, "/v1/notices").await;
    assert_eq!(notices["items"].as_array().unwrap().len(), 1, "the notice is still one");
    let notice = &notices["items"][0];
    assert_eq!((&notice["event"], &notice["price"]["amount"]), (&json!("sale.deepened"), &json!("9.00")));
    assert_eq!(notice["read"], false);
}

#[tokio::test]
async fn a_second_ring_of_a_sale_is_sent_once_whichever_worker_repeats_it() {
    let app = TestApp::builder().settings(&[("SALEBELL_WORKER__FANOUT_SLICE", "2")]).spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    report(&app, &shop, json!([seen(&app, "20.00", -60)])).await;
    app.hook(&anna, "http://127.0.0.1:9/").await;
    for rule in [json!({"any_sale": {}}), json!({"cut_at_least": {"percent": 10}}), json!({"new_low": {}})] {
        watch(&app, &anna, rule).await;
    }
    // The whole course in one message.
    let course = ["10.00", "20.00", "10.00", "20.00", "9.00", "8.00"];
    let course: Vec<Value> =
        course.iter().enumerate().map(|(n, price)| seen(&app, price, n as i64 - 50)).collect();
    let batch = report(&app, &shop, json!(course)).await;
    assert_eq!(
        batch["transitions"],
        json!({"sale.started": 1, "sale.ended": 2, "sale.resumed": 1, "sale.deepened": 2})
    );
    let count = async |sql: &'static str| -> i64 {
        sqlx::query_scalar(sql).fetch_one(&app.state.writer).await.unwrap()
    };
    assert_eq!(count("select count(*) from notices").await, 3);
    assert_eq!(count("select count(*) from deliveries").await, 6);
    assert_eq!(count("select count(*) from notices where amount = 900").await, 3);
    // As after a crash between the commit of a slice and the end of its event.
    sqlx::query("update events set dispatched_at = null, last_watch_id = null where rings")
        .execute(&app.state.writer)
        .await
        .unwrap();
    while dispatch::step(&app.state).await.unwrap().is_more() {}
    assert_eq!(count("select count(*) from deliveries").await, 6);
    assert_eq!(count("select count(*) from notices where amount = 900").await, 3);
}

#[tokio::test]
async fn a_giveaway_rings_once_and_is_not_a_low() {
    let app = TestApp::spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    report(&app, &shop, json!([seen(&app, "20.00", -100 * 60)])).await;
    watch(&app, &anna, json!({"new_low": {}})).await;
    let mut lows = 0;
    for (n, price) in ["15.00", "20.00", "0", "20.00", "4.00", "20.00", "0"].into_iter().enumerate() {
        let batch = report(&app, &shop, json!([seen(&app, price, (n as i64 * 7 - 90) * 60)])).await;
        lows += batch["new_lows"].as_i64().unwrap();
        if n == 2 {
            let free = offer(&app).await;
            assert_eq!((&free["price"]["amount"], &free["low"]["amount"]), (&json!("0.00"), &json!("15.00")));
            assert_eq!(free["was_free_at"], free["observed_at"]);
        }
    }
    let rung: Vec<i64> = sqlx::query_scalar("select amount from notices order by id")
        .fetch_all(&app.state.writer)
        .await
        .unwrap();
    assert_eq!((rung, lows), (vec![1500, 0, 400], 3));
    let deals = app.read("/v1/deals").await;
    let deal = &deals["items"][0];
    assert_eq!(
        (&deal["price"]["amount"], &deal["low"]),
        (&json!("0.00"), &json!({"amount": "4.00", "currency": "EUR"}))
    );
    assert_eq!(deal["low_at"], offer(&app).await["low_at"]);
}

#[tokio::test]
async fn lows_of_zero_are_recomputed_from_the_history() {
    let app = TestApp::spawn().await;
    let shop = shop(&app).await;
    let course = |sku: &str, prices: &[(&str, &str)]| -> Vec<Value> {
        let each = |(n, (price, regular)): (usize, &(&str, &str))| {
            let more = json!({"sku": sku, "title": sku, "price": price, "regular_price": regular});
            with(seen(&app, "20.00", n as i64 - 60), more)
        };
        prices.iter().enumerate().map(each).collect()
    };
    let seen: Vec<Value> = [
        course("paid", &[("20", "20"), ("15", "20"), ("0", "20"), ("20", "20")]),
        course("free", &[("0", "20")]),
        course("play", &[("0", "0")]),
        course("sold", &[("12", "20")]),
    ]
    .concat();
    report(&app, &shop, json!(seen)).await;
    let lows = async || -> Vec<(String, i64, bool, bool)> {
        sqlx::query_as("select sku, low, low_at = 'epoch', was_free_at is not null from offers order by sku")
            .fetch_all(&app.state.writer)
            .await
            .unwrap()
    };
    let right = lows().await;
    let row = |sku: &str, low, never, free| (sku.to_owned(), low, never, free);
    let expected = [
        row("free", 0, true, true),
        row("paid", 1500, false, true),
        row("play", 0, true, false),
        row("sold", 1200, false, false),
    ];
    assert_eq!(right, expected);
    // As the previous version leaves them.
    let spoil = "update offers set low = 0, low_at = observed_at, was_free_at = null where sku <> 'sold'";
    sqlx::query(spoil).execute(&app.state.writer).await.unwrap();
    let shown = app.read("/v1/offers").await;
    assert!(shown["items"].as_array().unwrap().iter().all(|offer| offer["low"]["amount"] != "0.00"));
    let changed: i64 =
        sqlx::query_scalar("select recompute_zero_lows(null)").fetch_one(&app.state.writer).await.unwrap();
    assert_eq!((changed, lows().await), (3, expected.to_vec()));
    // Also if such an offer is observed before that.
    sqlx::query(spoil).execute(&app.state.writer).await.unwrap();
    let next =
        |sku: &str, price: &str| with(crate::pricing::sales::seen(&app, price, -1), json!({"sku": sku}));
    let batch =
        report(&app, &shop, json!([next("paid", "16.00"), next("free", "20.00"), next("sold", "13.00")]))
            .await;
    assert_eq!(batch["new_lows"], 0);
    let batch =
        report(&app, &shop, json!([with(next("paid", "14.00"), json!({"observed_at": at(&app, 0)}))])).await;
    assert_eq!(batch["new_lows"], 1);
    let after = lows().await;
    assert_eq!((after[0].1, after[1].1, after[3].1), (2000, 1400, 1200));
}

#[tokio::test]
async fn an_offer_that_cannot_be_bought_does_not_ring_and_ends_its_sale() {
    let app = TestApp::spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    report(&app, &shop, json!([seen(&app, "20.00", -60)])).await;
    let watch = watch(&app, &anna, json!({"any_sale": {}})).await;
    let notices = async || app.see(&anna, "/v1/notices").await["items"].as_array().unwrap().len();
    let sold_out = |minute| with(seen(&app, "10.00", minute), json!({"availability": "out of stock"}));
    let batch = report(&app, &shop, json!([sold_out(-50)])).await;
    assert_eq!(batch["transitions"], json!({"price.lowered": 1}));
    let shown = offer(&app).await;
    assert_eq!((&shown["on_sale"], &shown["available"]), (&json!(false), &json!(false)));
    assert_eq!((&shown["low"]["amount"], deals(&app).await, notices().await), (&json!("20.00"), 0, 0));
    let explained = app.see(&anna, &format!("/v1/watches/{watch}/explain")).await;
    assert_eq!(explained["offers"][0]["reasons"][1]["code"], "unavailable");
    for (minute, availability) in [(-40, "preorder"), (-30, "backorder")] {
        let back = with(seen(&app, "10.00", minute), json!({"availability": availability}));
        let batch = report(&app, &shop, json!([back])).await;
        let kind = if minute == -40 { "sale.started" } else { "sale.resumed" };
        assert_eq!(batch["transitions"], json!({kind: 1}));
        assert_eq!((deals(&app).await, notices().await), (1, 1));
        assert_eq!(
            report(&app, &shop, json!([sold_out(minute + 5)])).await["transitions"],
            json!({"sale.ended": 1})
        );
        assert_eq!(deals(&app).await, 0);
    }
    let reasons: Vec<Option<String>> =
        sqlx::query_scalar("select reason from events where kind = 'sale.ended'")
            .fetch_all(&app.state.writer)
            .await
            .unwrap();
    assert_eq!(reasons, [Some("unavailable".to_owned()), Some("unavailable".to_owned())]);
}

#[tokio::test]
async fn an_old_observation_does_not_ring_and_the_response_says_so() {
    let app = TestApp::builder().settings(&[("SALEBELL_PRICES__RINGS_WITHIN_S", "604800")]).spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    let sink = Sink::start().await;
    let day = 24 * 60;
    report(&app, &shop, json!([seen(&app, "20.00", -30 * day)])).await;
    app.hook(&anna, &sink.url("/hook")).await;
    watch(&app, &anna, json!({"any_sale": {}})).await;
    let old = json!([
        seen(&app, "10.00", -20 * day),
        seen(&app, "20.00", -7 * day - 1),
        seen(&app, "20.00", -3 * day)
    ]);
    let accepted = app.report(&shop, old.clone()).await;
    assert_eq!((&accepted["accepted"], &accepted["too_old_to_ring"]), (&json!(3), &json!(2)));
    app.record_all().await;
    while dispatch::step(&app.state).await.unwrap().is_more() {}
    let batch = app.batch(&shop, &accepted).await;
    assert_eq!((&batch["too_old_to_ring"], &batch["transitions"]["sale.started"]), (&json!(2), &json!(1)));
    assert_eq!(app.see(&anna, "/v1/notices").await["items"], json!([]));
    let body = json!({"observations": old, "backfill": true});
    let history = app.call(&shop, reqwest::Method::POST, "/v1/prices", body).await.body;
    assert_eq!(history["too_old_to_ring"], 0, "history does not ring anyway");
    app.record_all().await;

    // The age at the time of the report counts, however long it waits to be recorded.
    let fresh = seen(&app, "10.00", -2 * day);
    let observed_at: DateTime<Utc> = fresh["observed_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(app.report(&shop, json!([fresh])).await["too_old_to_ring"], 0);
    app.clock.advance(TimeDelta::days(6));
    app.record_all().await;
    while dispatch::step(&app.state).await.unwrap().is_more() {}
    let notices = app.see(&anna, "/v1/notices").await;
    let instant = |value: &Value| value.as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    assert_eq!(instant(&notices["items"][0]["observed_at"]), observed_at);
    assert_eq!(deliver_all(&app).await.sent, 1);
    assert_eq!(instant(&sink.received("/hook")[0].json()["data"]["observed_at"]), observed_at);
}

/// Writes of the previous version, which knows none of the new columns.
#[tokio::test]
async fn the_previous_version_and_this_one_continue_each_others_sales() {
    let app = TestApp::spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    report(&app, &shop, json!([seen(&app, "20.00", -60)])).await;
    watch(&app, &anna, json!({"any_sale": {}})).await;
    report(&app, &shop, json!([seen(&app, "10.00", -50)])).await;
    let before = |text: &'static str| sqlx::query(text).execute(&app.state.writer);
    // It ends the sale, and starts another one.
    before("update sales set ended_at = now() - interval '40 minutes'").await.unwrap();
    before(
        "with made as (
            insert into sales (id, offer_id, game_id, store_id, region, currency, amount, regular, cut, new_low,
                started_at, changed_at)
            select uuid_v7(now()), offer_id, game_id, store_id, region, currency, 1200, regular, 40, false,
                now() - interval '30 minutes', now() - interval '30 minutes' from sales
            returning id, offer_id
        )
        update offers o set sale_id = made.id, sale_ends_at = null, amount = 1200,
            observed_at = now() - interval '30 minutes'
        from made where o.id = made.offer_id",
    )
    .await
    .unwrap();
    let shown = offer(&app).await;
    assert_eq!((&shown["on_sale"], &shown["price"]["amount"]), (&json!(true), &json!("12.00")));
    let batch = report(&app, &shop, json!([seen(&app, "11.00", -20)])).await;
    assert_eq!(batch["transitions"], json!({"sale.deepened": 1}));
    assert_eq!(
        report(&app, &shop, json!([seen(&app, "20.00", -10)])).await["transitions"],
        json!({"sale.ended": 1})
    );
    assert_eq!(
        report(&app, &shop, json!([seen(&app, "11.00", -5)])).await["transitions"],
        json!({"sale.resumed": 1})
    );
    let open: Vec<i64> = sqlx::query_scalar("select amount from sales where ended_at is null")
        .fetch_all(&app.state.writer)
        .await
        .unwrap();
    assert_eq!(open, [1100]);
    // An end in the past is no end if the price was observed after it.
    before("update offers set sale_ends_at = now() - interval '8 minutes'").await.unwrap();
    before("update sales set ends_at = now() - interval '8 minutes' where ended_at is null").await.unwrap();
    schedule::step(&app.state).await.unwrap();
    assert_eq!(deals(&app).await, 1);
}
