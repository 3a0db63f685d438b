//! Recording: prices, history, lows, sales; repeated, late and concurrent observations.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use salebell::domain::batch::{ObservationCounts, PriceMessage};
use salebell::domain::ids::BatchId;
use salebell::domain::observation::Observation;
use salebell::domain::price::Rules;
use salebell::store::lease::Lease;
use salebell::store::recording;
use salebell::worker::record;
use serde_json::{Value, json};

use crate::support::bus::Carrier;
use crate::support::{TestApp, User};

crate::on_both_buses!(
    a_reported_price_becomes_history_low_and_sale,
    history_holds_changes_in_whatever_order_they_are_reported,
    a_glitch_waits_for_a_second_observation_across_reports,
    a_new_sku_is_matched_by_its_title,
    a_message_that_cannot_be_recorded_is_dead_after_five_receives,
    a_message_whose_worker_died_is_taken_over_after_its_lease,
    a_message_whose_receivers_died_is_failed_and_can_be_redriven,
);

/// Reports observations as JSON, records them, and returns the batch.
async fn report(app: &TestApp, user: &User, observations: Value) -> Value {
    let accepted = app.report(user, observations).await;
    app.record_all().await;
    app.batch(user, &accepted).await
}

async fn shop(app: &TestApp) -> User {
    app.user("shop", &["prices:write", "catalogue:write"]).await
}

fn seen(sku: &str, price: &str, regular: &str, at: &str) -> Value {
    json!({"store": "Steam", "sku": sku, "title": format!("Game {sku}"), "price": price, "regular_price": regular,
        "currency": "EUR", "observed_at": format!("2026-01-{at}Z")})
}

/// The whole history as `amount/regular`, in order.
async fn history(app: &TestApp) -> Vec<String> {
    sqlx::query_scalar!(
        r#"select to_char(observed_at at time zone 'UTC', 'DD"T"HH24:MI ') || amount || '/' || regular as "line!"
        from price_history order by offer_id, observed_at"#
    )
    .fetch_all(&app.state.writer)
    .await
    .unwrap()
}

async fn a_reported_price_becomes_history_low_and_sale(carrier: Carrier) {
    let app = TestApp::builder().bus(carrier).spawn().await;
    let shop = shop(&app).await;
    let batch = report(
        &app,
        &shop,
        json!([
            seen("a", "14.79", "18.49", "02T00:00:00"),
            seen("a", "18.49", "18.49", "01T00:00:00"),
            seen("b", "0.00", "0.00", "01T00:00:00"),
        ]),
    )
    .await;
    assert_eq!(batch["done"], true);
    assert_eq!(
        (&batch["accepted"], &batch["recorded"], &batch["new_lows"]),
        (&json!(3), &json!(3), &json!(1))
    );
    assert_eq!(batch["transitions"], json!({"first.seen": 2, "sale.started": 1}));

    let offer = sqlx::query!("select amount, regular, low, sale_id from offers where sku = 'a'")
        .fetch_one(&app.state.writer)
        .await
        .unwrap();
    assert_eq!((offer.amount, offer.regular, offer.low), (Some(1479), Some(1849), Some(1479)));
    let sale = sqlx::query!("select amount, cut, new_low, ended_at from sales where id = $1", offer.sale_id)
        .fetch_one(&app.state.writer)
        .await
        .unwrap();
    assert_eq!((sale.amount, sale.cut, sale.new_low, sale.ended_at), (1479, 20, true, None));

    let again = report(&app, &shop, json!([seen("a", "14.79", "18.49", "02T00:00:00")])).await;
    assert_eq!((&again["recorded"], &again["unchanged"]), (&json!(0), &json!(1)));
    let ended = report(&app, &shop, json!([seen("a", "18.49", "18.49", "03T00:00:00")])).await;
    assert_eq!(ended["transitions"], json!({"sale.ended": 1}));
    let open = sqlx::query_scalar!("select count(*) from sales where ended_at is null")
        .fetch_one(&app.state.writer)
        .await
        .unwrap();
    assert_eq!(open, Some(0));
}

async fn history_holds_changes_in_whatever_order_they_are_reported(carrier: Carrier) {
    let app = TestApp::builder().bus(carrier).spawn().await;
    let shop = shop(&app).await;
    let report =
        async |price: &str, at: &str| report(&app, &shop, json!([seen("a", price, "20.00", at)])).await;
    report("20.00", "01T00:00:00").await;
    report("20.00", "05T00:00:00").await;
    assert_eq!(history(&app).await, ["01T00:00 2000/2000"]);
    // An observation from in between splits the period of the price.
    let late = report("10.00", "03T00:00:00").await;
    assert_eq!((&late["stale"], &late["transitions"]), (&json!(1), &json!({})));
    assert_eq!(history(&app).await, ["01T00:00 2000/2000", "03T00:00 1000/2000", "05T00:00 2000/2000"]);
    // The same price observed earlier moves the change to that time.
    report("10.00", "02T00:00:00").await;
    assert_eq!(history(&app).await, ["01T00:00 2000/2000", "02T00:00 1000/2000", "05T00:00 2000/2000"]);
    // An old observation that adds nothing; and of two at the same instant, the lower one counts.
    report("10.00", "04T00:00:00").await;
    report("12.00", "02T00:00:00").await;
    assert_eq!(history(&app).await, ["01T00:00 2000/2000", "02T00:00 1000/2000", "05T00:00 2000/2000"]);
    report("9.00", "02T00:00:00").await;
    assert_eq!(history(&app).await, ["01T00:00 2000/2000", "02T00:00 900/2000", "05T00:00 2000/2000"]);
    let offer = sqlx::query!("select amount, low from offers").fetch_one(&app.state.writer).await.unwrap();
    assert_eq!((offer.amount, offer.low), (Some(2000), Some(2000)), "the past changes nothing but history");
}

async fn a_glitch_waits_for_a_second_observation_across_reports(carrier: Carrier) {
    let app = TestApp::builder().bus(carrier).spawn().await;
    let shop = shop(&app).await;
    report(&app, &shop, json!([seen("a", "50.00", "50.00", "01T00:00:00")])).await;
    let held = report(&app, &shop, json!([seen("a", "0.50", "50.00", "02T00:00:00")])).await;
    assert_eq!((&held["quarantined"], &held["recorded"]), (&json!(1), &json!(0)));
    let early = report(&app, &shop, json!([seen("a", "0.50", "50.00", "02T00:09:59")])).await;
    assert_eq!(early["quarantined"], 1);
    let agreed = report(&app, &shop, json!([seen("a", "0.50", "50.00", "02T00:10:00")])).await;
    assert_eq!((&agreed["recorded"], &agreed["transitions"]), (&json!(1), &json!({"sale.started": 1})));
    assert_eq!(history(&app).await, ["01T00:00 5000/5000", "02T00:00 50/5000"]);
    let states = sqlx::query_scalar!("select state from quarantined_prices")
        .fetch_all(&app.state.writer)
        .await
        .unwrap();
    assert_eq!(states, ["confirmed"]);
}

async fn a_new_sku_is_matched_by_its_title(carrier: Carrier) {
    let app = TestApp::builder().bus(carrier).spawn().await;
    let shop = shop(&app).await;
    let offer = |store: &str, sku: &str, title: &str| json!({"store": store, "sku": sku, "title": title, "price": "9.99", "currency": "EUR"});
    report(
        &app,
        &shop,
        json!([
            offer("steam", "1", "The Witcher® 3: Wild Hunt"),
            offer("gog", "2", "THE WITCHER 3 - Wild Hunt"),
            offer("gog", "3", "Hades"),
            {"store": "gog", "sku": "4", "price": "9.99", "currency": "EUR"},
        ]),
    )
    .await;
    let games = sqlx::query!(
        r#"select g.title, count(*) as "offers!" from games g join offers o on o.game_id = g.id group by g.id
        order by g.title"#
    )
    .fetch_all(&app.state.writer)
    .await
    .unwrap();
    let games: Vec<_> = games.iter().map(|game| (game.title.as_str(), game.offers)).collect();
    assert_eq!(games, [("4", 1), ("Hades", 1), ("The Witcher® 3: Wild Hunt", 2)]);
}

/// A message about `offers` offers, each observed at `minute`, in a shuffled order.
fn message(offers: usize, minute: i64, amount: i64, turned: bool) -> PriceMessage {
    let base = DateTime::from_timestamp(1_750_000_000, 0).unwrap();
    let observation = |sku: usize| Observation {
        store: "steam".to_owned(),
        store_name: None,
        sku: format!("sku-{sku}"),
        region: "ZZ".to_owned(),
        currency: "EUR".parse().unwrap(),
        amount,
        regular: Some(2000),
        observed_at: base + TimeDelta::minutes(minute),
        title: None,
        platform: None,
        url: None,
        sale_ends_at: None,
        available: true,
    };
    let mut observations: Vec<Observation> = (0..offers).map(observation).collect();
    if turned {
        observations.reverse();
    }
    let (batch_id, reported_at) = (BatchId::now_v7(), base);
    PriceMessage {
        batch_id,
        part: 0,
        may_create_stores: true,
        backfill: false,
        traceparent: None,
        reported_at,
        observations,
        batch: None,
    }
}

async fn record_once(app: &TestApp, message: &PriceMessage, now: DateTime<Utc>) -> Option<ObservationCounts> {
    let recorded =
        recording::record(&app.state.writer, message, &Rules::default(), false, now).await.unwrap();
    recorded.map(|recorded| recorded.counts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_workers_over_the_same_offers_neither_deadlock_nor_duplicate() {
    const OFFERS: usize = 300;
    const MESSAGES: i64 = 40;
    let app = std::sync::Arc::new(TestApp::spawn().await);
    // Every message exists twice, as is possible on a bus that delivers at least once.
    let messages: Vec<PriceMessage> = (0..MESSAGES)
        .map(|n| {
            message(
                OFFERS,
                (n * 17) % MESSAGES,
                if n % 3 == 0 { 2000 } else { 1000 + (n * 37) % 500 },
                n % 2 == 0,
            )
        })
        .collect();
    let work: Vec<PriceMessage> = messages.iter().chain(&messages).cloned().collect();
    let next = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let work = std::sync::Arc::new(work);
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (app, next, work) = (app.clone(), next.clone(), work.clone());
        workers.spawn(async move {
            let mut counted = 0;
            while let Some(message) = work.get(next.fetch_add(1, std::sync::atomic::Ordering::SeqCst)) {
                let counts = record_once(&app, message, app.clock.now()).await;
                counted +=
                    counts.map_or(0, |c| c.recorded + c.unchanged + c.stale + c.quarantined + c.failed);
            }
            counted
        });
    }
    let counted: i64 = workers.join_all().await.into_iter().sum();
    assert_eq!(counted, MESSAGES * OFFERS as i64, "each message counts once");

    // All offers have the same observations, so all must end in the same state: that of a single worker.
    let states = sqlx::query!(
        r#"select amount, observed_at, count(*) as "offers!" from offers group by amount, observed_at"#
    )
    .fetch_all(&app.state.writer)
    .await
    .unwrap();
    let newest = messages.iter().max_by_key(|m| m.observations[0].observed_at).unwrap();
    for state in &states {
        assert_eq!(state.amount, Some(newest.observations[0].amount));
        assert_eq!(state.observed_at, Some(newest.observations[0].observed_at));
    }
    assert_eq!(states.iter().map(|state| state.offers).sum::<i64>(), OFFERS as i64);
    let wrong = sqlx::query_scalar!(
        r#"select (select count(*) from sales s where ended_at is null
                and not exists (select from offers o where o.sale_id = s.id))
            + (select count(*) from offers o where (o.amount < o.regular) is distinct from (o.sale_id is not null))
            + (select count(*) from (select offer_id from sales where ended_at is null group by 1 having count(*) > 1) d)
            + (select count(*) from (
                select (amount, regular) is not distinct from lag((amount, regular))
                    over (partition by offer_id order by observed_at) as repeats from price_history) h where repeats)
            as "wrong!""#
    )
    .fetch_one(&app.state.writer)
    .await
    .unwrap();
    assert_eq!(wrong, 0, "sales that hang loose, or history that repeats itself");
}

#[tokio::test]
async fn a_message_that_arrives_twice_counts_once() {
    let app = TestApp::spawn().await;
    let message = message(10, 0, 1500, false);
    assert_eq!(record_once(&app, &message, app.clock.now()).await.unwrap().recorded, 10);
    assert_eq!(record_once(&app, &message, app.clock.now()).await, None);
    let events =
        sqlx::query_scalar!("select count(*) from events").fetch_one(&app.state.writer).await.unwrap();
    assert_eq!(events, Some(10));
}

async fn a_message_that_cannot_be_recorded_is_dead_after_five_receives(carrier: Carrier) {
    let app = TestApp::builder().bus(carrier).spawn().await;
    app.state.bus.send_batch(&[b"damage".to_vec()]).await.unwrap();
    for receives in 0..5 {
        assert_eq!(app.state.bus.age_and_dead().await.unwrap().1, 0, "after {receives}");
        app.record_all().await;
        app.pass(Duration::from_millis(2100)).await;
    }
    let (waiting, dead) = app.state.bus.age_and_dead().await.unwrap();
    assert_eq!((waiting, dead), (0.0, 1));
    if carrier == Carrier::Postgres {
        let failure = sqlx::query_scalar!("select failure from bus_messages")
            .fetch_one(&app.state.writer)
            .await
            .unwrap();
        assert!(failure.unwrap().starts_with("damaged"));
    }
}

/// Lease of a message in these tests.
const LEASE: Duration = Duration::from_secs(2);
const LEASE_SETTING: (&str, &str) = ("SALEBELL_WORKER__LEASE_S", "2");

async fn a_message_whose_worker_died_is_taken_over_after_its_lease(carrier: Carrier) {
    let app = TestApp::builder().bus(carrier).settings(&[LEASE_SETTING]).spawn().await;
    let shop = shop(&app).await;
    let accepted = app.report(&shop, json!([seen("a", "9.99", "9.99", "01T00:00:00")])).await;
    let held = app.state.bus.receive(1, LEASE, Duration::ZERO).await.unwrap();
    assert_eq!(held.len(), 1);
    app.record_all().await;
    assert_eq!(app.batch(&shop, &accepted).await["done"], false);
    app.pass(LEASE).await;
    app.record_all().await;
    assert_eq!(app.batch(&shop, &accepted).await["done"], true);
    // The worker presumed dead resumes: it no longer owns what it holds.
    assert_eq!(app.state.bus.extend(&held[0], LEASE).await.unwrap(), Lease::Lost);
    app.state.bus.acknowledge(&held[0]).await.unwrap();
}

#[tokio::test]
async fn an_operator_releases_a_quarantined_price_that_is_correct() {
    let app = TestApp::spawn().await;
    let (shop, operator) = (shop(&app).await, app.user("operator", &["operator"]).await);
    report(&app, &shop, json!([seen("a", "50.00", "50.00", "01T00:00:00")])).await;
    report(&app, &shop, json!([seen("a", "0.50", "50.00", "02T00:00:00")])).await;
    let held = app.see(&operator, "/v1/quarantine").await;
    let path = format!("/v1/quarantine/{}/release", held["items"][0]["id"].as_str().unwrap());
    let post = reqwest::Method::POST;
    assert_eq!(app.call(&shop, post.clone(), &path, Value::Null).await.status, 403);
    let released = app.call(&operator, post.clone(), &path, Value::Null).await;
    assert_eq!((released.status, &released.body["state"]), (200, &json!("released")));
    assert_eq!(history(&app).await, ["01T00:00 5000/5000", "02T00:00 50/5000"]);
    let event =
        sqlx::query!("select kind, rings from events order by id desc limit 1").fetch_one(&app.state.writer);
    let event = event.await.unwrap();
    assert_eq!((event.kind.as_str(), event.rings), ("sale.started", true));
    assert_eq!(app.call(&operator, post, &path, Value::Null).await.status, 409, "once");
}

#[tokio::test]
async fn a_glitch_that_is_polled_again_and_again_is_judged_once() {
    let app = TestApp::spawn().await;
    let shop = shop(&app).await;
    // Three observations in one message, the second of which confirms the first; an unrelated offer beside them.
    let batch = report(
        &app,
        &shop,
        json!([
            seen("a", "0.10", "10.00", "01T00:00:00"),
            seen("a", "0.10", "10.00", "01T00:11:00"),
            seen("a", "0.10", "10.00", "01T00:12:00"),
            seen("b", "5.00", "10.00", "01T00:00:00"),
        ]),
    )
    .await;
    assert_eq!(
        (&batch["done"], &batch["recorded"], &batch["quarantined"]),
        (&json!(true), &json!(2), &json!(1))
    );
    // A true price and a glitch at the same instant, and the glitch confirmed in a later message.
    report(
        &app,
        &shop,
        json!([seen("c", "10.00", "10.00", "01T00:00:00"), seen("c", "0.10", "10.00", "01T00:00:00")]),
    )
    .await;
    let later = report(&app, &shop, json!([seen("c", "0.10", "10.00", "01T00:11:00")])).await;
    assert_eq!((&later["done"], &later["failed"]), (&json!(true), &json!(0)));
    for minute in ["20", "30", "40"] {
        let at = format!("01T00:{minute}:00");
        let again = report(&app, &shop, json!([seen("a", "0.10", "10.00", &at)])).await;
        assert_eq!((&again["unchanged"], &again["quarantined"]), (&json!(1), &json!(0)));
    }
    let held =
        sqlx::query_scalar!(r#"select count(*) as "held!" from quarantined_prices where state = 'held'"#);
    assert_eq!(held.fetch_one(&app.state.writer).await.unwrap(), 0);
}

#[tokio::test]
async fn a_sale_from_the_past_begins_and_ends_in_history() {
    let app = TestApp::spawn().await;
    let shop = shop(&app).await;
    report(
        &app,
        &shop,
        json!([seen("a", "10.00", "10.00", "01T00:00:00"), seen("a", "9.00", "10.00", "01T01:40:00")]),
    )
    .await;
    let late = json!([seen("a", "7.00", "10.00", "01T00:50:00"), seen("a", "10.00", "10.00", "01T01:00:00")]);
    report(&app, &shop, late).await;
    assert_eq!(
        history(&app).await,
        ["01T00:00 1000/1000", "01T00:50 700/1000", "01T01:00 1000/1000", "01T01:40 900/1000"]
    );
    // Repetitions between existing rows.
    let late = json!([seen("a", "7.00", "10.00", "01T00:55:00"), seen("a", "10.00", "10.00", "01T01:10:00")]);
    report(&app, &shop, late).await;
    assert_eq!(history(&app).await.len(), 4);
}

async fn a_message_whose_receivers_died_is_failed_and_can_be_redriven(carrier: Carrier) {
    let app = TestApp::builder().bus(carrier).settings(&[LEASE_SETTING]).spawn().await;
    let shop = shop(&app).await;
    let accepted = app.report(&shop, json!([seen("a", "9.99", "9.99", "01T00:00:00")])).await;
    for _ in 0..5 {
        assert_eq!(app.state.bus.receive(1, LEASE, Duration::ZERO).await.unwrap().len(), 1);
        app.pass(LEASE).await;
    }
    app.record_all().await;
    // SQS has dead-lettered it by itself, without a notification.
    record::count_dead(&app.state).await.unwrap();
    let failed = app.batch(&shop, &accepted).await;
    assert_eq!((&failed["done"], &failed["failed"]), (&json!(true), &json!(1)));
    assert_eq!(app.state.bus.age_and_dead().await.unwrap().1, 1);
    assert_eq!(record::redrive(&app.state).await.unwrap(), 1);
    assert_eq!(record::redrive(&app.state).await.unwrap(), 0, "once");
    app.record_all().await;
    let recorded = app.batch(&shop, &accepted).await;
    assert_eq!(
        (&recorded["done"], &recorded["failed"], &recorded["recorded"]),
        (&json!(true), &json!(0), &json!(1))
    );
    assert_eq!(app.state.bus.age_and_dead().await.unwrap(), (0.0, 0));
}
