//! Deliveries: from a notice to a receiver, with everything that can fail between them.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use salebell::domain::delivery::DeliveryReason;
use salebell::domain::ids::{ChannelId, DeliveryId};
use salebell::store::delivery_queue::{self, AttemptResult, LeaseRequest};
use salebell::worker::deliver::{self, Step};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::support::sink::{Behaviour, Sink};
use crate::support::{TestApp, User};

const SENT: Step = Step { sent: 1, cancelled: 0 };
const CANCELLED: Step = Step { sent: 0, cancelled: 1 };
const NOTHING: Step = Step { sent: 0, cancelled: 0 };

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

/// Simulates another worker that leases every channel with due deliveries and then disappears.
async fn lease_and_vanish(app: &TestApp) -> usize {
    let now = app.state.clock.now();
    let request = LeaseRequest {
        holder: Uuid::now_v7(),
        after: ChannelId::nil(),
        wanted: 100,
        until: now + TimeDelta::seconds(45),
        renew_before: now,
    };
    delivery_queue::lease_channels(&app.state.writer, &request, now).await.unwrap().channels.len()
}

#[tokio::test]
async fn a_delivery_arrives_and_is_recorded() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    let hook = app.hook(&anna, &sink.url("/hook")).await;
    let rung = app.ring(&anna, &[hook.id]).await;
    assert_eq!(deliver::step(&app.state).await.unwrap(), SENT);
    assert_eq!(deliver::step(&app.state).await.unwrap(), NOTHING);

    let received = sink.received("/hook");
    assert_eq!(received.len(), 1);
    let headers = &received[0].headers;
    assert_eq!(headers["webhook-id"], rung.deliveries[0].to_string());
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    assert!(headers["user-agent"].starts_with("salebell/"));
    let notice = app.see(&anna, &format!("/v1/notices/{}", rung.notice)).await;
    let body = received[0].json();
    assert_eq!(body["type"], "sale.started.v1");
    assert_eq!(time(&body["timestamp"]), time(&notice["created_at"]));
    let expected = json!({
        "notice_id": rung.notice,
        "watch_id": rung.watch,
        "sale_id": rung.sale,
        "game": {"id": rung.game, "title": "The Witcher® 3"},
        "offer": {
            "id": rung.offer,
            "store": notice["offer"]["store"],
            "region": "DE",
            "platform": "windows",
        },
        "price": {"amount": "9.99", "currency": "EUR"},
        "regular_price": {"amount": "19.99", "currency": "EUR"},
        "cut": 50,
        "new_low": true,
        "observed_at": body["data"]["observed_at"],
        "url": "https://shop.example/3",
        "sale_ends_at": null,
    });
    assert_eq!(body["data"], expected);
    let seen_at: DateTime<Utc> = sqlx::query_scalar("select changed_at from sales where id = $1")
        .bind(rung.sale)
        .fetch_one(&app.state.writer)
        .await
        .unwrap();
    assert_eq!(time(&body["data"]["observed_at"]), seen_at);

    let delivery = app.delivery(&anna, rung.deliveries[0]).await;
    assert_eq!(delivery["state"], "delivered");
    assert_eq!(delivery["attempt_count"], 1);
    assert_eq!(delivery["next_attempt_at"], Value::Null);
    assert!(delivery["finished_at"].is_string());
    let attempts = delivery["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 1);
    assert_eq!((&attempts[0]["number"], &attempts[0]["status"]), (&json!(1), &json!(204)));
    assert_eq!(attempts[0]["error"], Value::Null);
}

#[tokio::test]
async fn a_failing_delivery_is_tried_by_the_schedule_and_then_dead() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    sink.on("/", Behaviour::Answer(500, "", "broken"));
    let hook = app.hook(&anna, &sink.url("/")).await;
    let id = app.ring(&anna, &[hook.id]).await.deliveries[0];
    let schedule_s = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
    for (at, wait_s) in schedule_s.into_iter().enumerate() {
        let before = app.clock.now();
        assert_eq!(deliver::step(&app.state).await.unwrap(), SENT, "try {}", at + 1);
        let after = app.clock.now();
        let delivery = app.delivery(&anna, id).await;
        assert_eq!(delivery["state"], "pending");
        assert_eq!(delivery["attempt_count"], at + 1);
        let next = time(&delivery["next_attempt_at"]);
        let (longest, shortest) = ((next - before).as_seconds_f64(), (next - after).as_seconds_f64());
        let planned = f64::from(wait_s);
        assert!(longest >= planned * 0.8 && shortest <= planned * 1.2, "{longest} s instead of {planned} s");
        assert_eq!(deliver::step(&app.state).await.unwrap(), NOTHING, "it is not due yet");
        app.clock.advance(TimeDelta::milliseconds(i64::from(wait_s) * 1_200 + 1));
    }
    assert_eq!(deliver::step(&app.state).await.unwrap(), SENT);
    app.clock.advance(TimeDelta::days(30));
    assert_eq!(deliver::step(&app.state).await.unwrap(), NOTHING);

    let delivery = app.delivery(&anna, id).await;
    assert_eq!((&delivery["state"], &delivery["reason"]), (&json!("dead"), &json!("no_tries_left")));
    let attempts = delivery["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 10);
    assert!(attempts.iter().all(|a| a["status"] == 500 && a["response"] == "broken"));
    let received = sink.received("/");
    assert!(received.iter().all(|one| one.headers["webhook-id"] == id.to_string()));
    assert!(received.iter().all(|one| one.body == received[0].body));
    let stamps: HashSet<_> = received.iter().map(|one| &one.headers["webhook-timestamp"]).collect();
    assert_eq!(stamps.len(), 10, "every try has its own time");
    let channel = app.see(&anna, &format!("/v1/channels/{}", hook.id)).await;
    assert_eq!(channel["state"], "active", "one dead delivery in under five days is no reason");
    assert!(channel["failing_since"].is_string());
}

#[tokio::test]
async fn a_receiver_may_delay_the_next_try_by_up_to_a_day_beyond_the_plan() {
    const DAY: f64 = 24.0 * 3600.0;
    for (retry_after, least, most) in [
        ("Retry-After: 1\r\n", 4.0, 6.0),
        ("Retry-After: 7\r\n", 7.0, 7.0),
        ("Retry-After: 45\r\n", 45.0, 45.0),
        ("Retry-After: 3600\r\n", 3600.0, 3600.0),
        ("Retry-After: 90000\r\n", DAY + 4.0, DAY + 6.0),
        ("Retry-After: Fri, 31 Dec 2100 23:59:59 GMT\r\n", DAY + 4.0, DAY + 6.0),
        ("Retry-After: Sunday, 06-Nov-94 08:49:37 GMT\r\n", 4.0, 6.0),
        ("Retry-After: Sun Nov  6 08:49:37 1994\r\n", 4.0, 6.0),
        ("Retry-After: 0\r\n", 4.0, 6.0),
        ("Retry-After: -7\r\n", 4.0, 6.0),
        ("Retry-After: soon\r\n", 4.0, 6.0),
    ] {
        let app = TestApp::spawn().await;
        let anna = app.user("anna", &[]).await;
        let sink = Sink::start().await;
        sink.on("/", Behaviour::Answer(503, retry_after, ""));
        let hook = app.hook(&anna, &sink.url("/")).await;
        let id = app.ring(&anna, &[hook.id]).await.deliveries[0];
        assert_eq!(deliver::step(&app.state).await.unwrap(), SENT);
        let recorded = app.clock.now();
        let delivery = app.delivery(&anna, id).await;
        // The wait begins somewhere between the two.
        let tried = time(&delivery["attempts"][0]["attempted_at"]);
        let next = time(&delivery["next_attempt_at"]);
        let (longest, shortest) = ((next - tried).as_seconds_f64(), (next - recorded).as_seconds_f64());
        assert!(
            longest >= least && shortest <= most,
            "{retry_after:?} made it wait for {shortest} to {longest} s"
        );
    }
}

#[tokio::test]
async fn a_receiver_that_is_gone_disables_its_channel_at_once() {
    let app = TestApp::builder().settings(&[("SALEBELL_WEBHOOK__IN_FLIGHT_PER_CHANNEL", "1")]).spawn().await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    sink.on("/gone", Behaviour::Answer(410, "", ""));
    let (gone, fine) = (app.hook(&anna, &sink.url("/gone")).await, app.hook(&anna, &sink.url("/fine")).await);
    let rung = app.ring(&anna, &[gone.id, fine.id]).await;
    app.ring_again(&anna, &rung, gone.id, 12_000).await;
    assert_eq!(deliver::step(&app.state).await.unwrap(), Step { sent: 2, cancelled: 0 });
    let channel = app.see(&anna, &format!("/v1/channels/{}", gone.id)).await;
    assert_eq!((&channel["state"], &channel["disabled_reason"]), (&json!("disabled"), &json!("gone")));
    let delivery = app.delivery(&anna, rung.deliveries[0]).await;
    assert_eq!((&delivery["state"], &delivery["reason"]), (&json!("dead"), &json!("gone")));

    // Deliveries that wait for the channel are cancelled in slices.
    let mut cancelled = 0;
    while let Step { sent: 0, cancelled: some @ 1.. } = deliver::step(&app.state).await.unwrap() {
        assert!(some <= 5_000);
        cancelled += some;
    }
    assert_eq!(cancelled, 12_000);
    assert_eq!(sink.received("/gone").len(), 1);
    let list = format!("/v1/channels/{}/deliveries?state=cancelled&limit=1", gone.id);
    assert_eq!(app.see(&anna, &list).await["items"][0]["reason"], "channel_disabled");
    let other = app.see(&anna, &format!("/v1/channels/{}", fine.id)).await;
    assert_eq!(other["state"], "active");
}

#[tokio::test]
async fn a_channel_that_fails_for_five_days_is_disabled() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    let hook = app.hook(&anna, &sink.url("/")).await;
    let path = format!("/v1/channels/{}", hook.id);
    let fails = async |status: u16| {
        sink.on("/", Behaviour::Answer(status, "", ""));
        app.ring(&anna, &[hook.id]).await;
        while deliver::step(&app.state).await.unwrap() != NOTHING {}
        app.see(&anna, &path).await
    };
    let failing_since = fails(500).await["failing_since"].clone();
    app.clock.advance(TimeDelta::days(4));
    assert_eq!(fails(500).await["failing_since"], failing_since, "it is counted from the first failure");
    assert_eq!(fails(200).await["failing_since"], Value::Null, "one success forgives all");
    let failing_since = time(&fails(500).await["failing_since"]);
    app.clock.advance(TimeDelta::days(5) - TimeDelta::minutes(5));
    assert_eq!(fails(500).await["state"], "active");
    app.clock.advance(TimeDelta::minutes(10));
    let channel = fails(500).await;
    assert_eq!((&channel["state"], &channel["disabled_reason"]), (&json!("disabled"), &json!("failing")));
    assert_eq!(time(&channel["failing_since"]), failing_since);
}

#[tokio::test]
async fn failures_on_our_side_do_not_disable_a_channel() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    let hook = app.hook(&anna, &sink.url("/")).await;
    let rung = app.ring(&anna, &[hook.id]).await;
    sqlx::query("update channels set secret = '\\x00'").execute(&app.state.writer).await.unwrap();
    assert_eq!(deliver::step(&app.state).await.unwrap(), SENT);
    let delivery = app.delivery(&anna, rung.deliveries[0]).await;
    assert_eq!(delivery["state"], "pending", "it is tried again");
    assert_eq!(delivery["attempts"][0]["error"], "internal error in Salebell");
    let failing: bool = sqlx::query_scalar("select failing_since is not null from channels")
        .fetch_one(&app.state.writer)
        .await
        .unwrap();
    assert!(!failing);
    assert!(sink.received("/").is_empty());
}

#[tokio::test]
async fn a_price_that_no_longer_holds_is_not_sent() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    let hook = app.hook(&anna, &sink.url("/")).await;
    for (what, reason) in [
        ("update sales set ended_at = started_at where id = $1", Some("sale_ended")),
        ("update sales set amount = 1201 where id = $1", Some("price_no_longer_matches")),
        ("update sales set amount = 1200 where id = $1", None),
        ("update sales set currency = 'USD' where id = $1", Some("price_no_longer_matches")),
        (
            "with r as (update watches set rule = 'cut_at_least', target_cut = 51, target_amount = null,
            target_currency = null) select $1",
            Some("price_no_longer_matches"),
        ),
        (
            "with r as (update watches set rule = 'cut_at_least', target_cut = 50, target_amount = null,
            target_currency = null) select $1",
            None,
        ),
        (
            "with r as (update watches set rule = 'new_low', target_amount = null, target_currency = null),
            o as (update offers set low = 998) select $1",
            Some("price_no_longer_matches"),
        ),
        (
            "with r as (update watches set rule = 'new_low', target_amount = null, target_currency = null) select $1",
            None,
        ),
        (
            "with r as (update watches set rule = 'any_sale', target_amount = null, target_currency = null)
            update sales set amount = 1998 where id = $1",
            None,
        ),
        ("with r as (update watches set paused = true) select $1", Some("watch_paused")),
        ("with r as (delete from watches) select $1", Some("watch_deleted")),
        ("with r as (delete from offers) select $1", Some("sale_ended")),
    ] {
        // The changes below apply to every row.
        sqlx::query("delete from watches").execute(&app.state.writer).await.unwrap();
        let rung = app.ring(&anna, &[hook.id]).await;
        sqlx::query(what).bind(rung.sale).execute(&app.state.writer).await.unwrap();
        let before = sink.received("/").len();
        let step = deliver::step(&app.state).await.unwrap();
        let delivery = app.delivery(&anna, rung.deliveries[0]).await;
        assert_eq!(delivery["reason"], json!(reason), "{what}");
        match reason {
            Some(_) => assert_eq!((step, &delivery["state"]), (CANCELLED, &json!("cancelled")), "{what}"),
            None => assert_eq!((step, &delivery["state"]), (SENT, &json!("delivered")), "{what}"),
        }
        assert_eq!(sink.received("/").len() - before, step.sent);
        assert_eq!(delivery["attempts"].as_array().unwrap().len(), step.sent);
    }
}

#[tokio::test]
async fn a_price_that_has_improved_since_it_was_checked_cancels_nothing() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let hook = app.hook(&anna, "http://127.0.0.1:1/").await;
    let rung = app.ring(&anna, &[hook.id]).await;
    let set_price = async |amount: i64| {
        sqlx::query("update sales set amount = $1").bind(amount).execute(&app.state.writer).await.unwrap();
    };
    set_price(1_500).await;
    let (pool, now) = (&app.state.writer, app.state.clock.now());
    let judged =
        delivery_queue::list_due_deliveries(pool, &[(ChannelId(hook.id), 8)], &[], now).await.unwrap();
    assert_eq!(judged.deliveries[0].reason, Some(DeliveryReason::PriceNoLongerMatches));
    set_price(1_100).await;
    assert_eq!(
        delivery_queue::cancel_deliveries(pool, &judged.deliveries, &judged.sales, now).await.unwrap(),
        0
    );
    assert_eq!(app.delivery(&anna, rung.deliveries[0]).await["state"], "pending");
    set_price(1_500).await;
    assert_eq!(
        delivery_queue::cancel_deliveries(pool, &judged.deliveries, &judged.sales, now).await.unwrap(),
        1
    );
    assert_eq!(app.delivery(&anna, rung.deliveries[0]).await["state"], "cancelled");
}

#[tokio::test]
async fn the_price_that_is_sent_is_the_current_one() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    let hook = app.hook(&anna, &sink.url("/")).await;
    let rung = app.ring(&anna, &[hook.id]).await;
    sqlx::query("update sales set amount = 799, cut = 60 where id = $1")
        .bind(rung.sale)
        .execute(&app.state.writer)
        .await
        .unwrap();
    deliver::step(&app.state).await.unwrap();
    let data = sink.received("/")[0].json()["data"].clone();
    assert_eq!((&data["price"]["amount"], &data["cut"]), (&json!("7.99"), &json!(60)));
    let notice = app.see(&anna, &format!("/v1/notices/{}", rung.notice)).await;
    assert_eq!(notice["price"]["amount"], "9.99", "the notice keeps what has rung");
}

#[tokio::test]
async fn workers_at_once_never_send_twice() {
    let app = TestApp::builder().settings(&[("SALEBELL_DATABASE__MAX_CONNECTIONS", "20")]).spawn().await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    let mut waiting = 0;
    for n in 0..15 {
        let hook = app.hook(&anna, &sink.url(&format!("/?{n}"))).await;
        let rung = app.ring(&anna, &[hook.id]).await;
        waiting += 1 + app.ring_again(&anna, &rung, hook.id, 29).await.len();
    }
    let worker = async || {
        let mut sent = 0;
        // Another worker may hold all places at the moment, so a round without work is not the end.
        while sqlx::query_scalar::<_, bool>("select exists (select from deliveries where state = 'pending')")
            .fetch_one(&app.state.writer)
            .await
            .unwrap()
        {
            sent += deliver::step(&app.state).await.unwrap().sent;
        }
        sent
    };
    let sent = tokio::join!(worker(), worker(), worker(), worker());
    assert_eq!(sent.0 + sent.1 + sent.2 + sent.3, waiting);
    let received = sink.received("/");
    assert_eq!(received.len(), waiting);
    let ids: HashSet<_> = received.iter().map(|one| &one.headers["webhook-id"]).collect();
    assert_eq!(ids.len(), waiting);
}

#[tokio::test]
async fn a_lease_that_expires_is_taken_over() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    let hook = app.hook(&anna, &sink.url("/")).await;
    let id = app.ring(&anna, &[hook.id]).await.deliveries[0];
    assert_eq!(lease_and_vanish(&app).await, 1);
    assert_eq!(lease_and_vanish(&app).await, 0, "it is held");
    assert_eq!(deliver::step(&app.state).await.unwrap(), NOTHING);
    app.clock.advance(TimeDelta::seconds(46));
    assert_eq!(deliver::step(&app.state).await.unwrap(), SENT);
    assert_eq!(app.delivery(&anna, id).await["state"], "delivered");
}

#[tokio::test]
async fn a_worker_that_dies_between_sending_and_recording_sends_again_under_the_same_id() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    let gate = Arc::new(Semaphore::new(0));
    sink.on("/", Behaviour::Gate(gate.clone()));
    let hook = app.hook(&anna, &sink.url("/")).await;
    let id = app.ring(&anna, &[hook.id]).await.deliveries[0];
    let dying = tokio::spawn({
        let app = app.state.clone();
        async move { deliver::step(&app).await }
    });
    sink.wait_for("/", 1).await;
    dying.abort();
    assert!(dying.await.is_err_and(|error| error.is_cancelled()));
    gate.add_permits(10);
    assert_eq!(deliver::step(&app.state).await.unwrap(), NOTHING, "the lease still stands");
    app.clock.advance(TimeDelta::seconds(46));
    assert_eq!(deliver::step(&app.state).await.unwrap(), SENT);
    let received = sink.received("/");
    assert_eq!(received.len(), 2);
    assert_eq!(received[0].headers["webhook-id"], received[1].headers["webhook-id"]);
    assert_eq!(received[0].body, received[1].body);
    assert_eq!(app.delivery(&anna, id).await["attempt_count"], 1);
}

#[tokio::test]
async fn a_result_that_comes_after_that_of_another_worker_counts_only_if_it_was_delivered() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let hook = app.hook(&anna, "http://127.0.0.1:1/").await;
    let id = app.ring(&anna, &[hook.id]).await.deliveries[0];
    // Result of a worker that was suspended during the first attempt and lost its lease.
    let late = |succeeded: bool| AttemptResult {
        delivery_id: DeliveryId(id),
        attempts: 0,
        succeeded,
        gone: false,
        failed_here: false,
        at: app.state.clock.now(),
        duration_ms: 1,
        status: Some(if succeeded { 200 } else { 500 }),
        error: None,
        response: None,
        next_at: (!succeeded).then(|| app.state.clock.now()),
    };
    assert_eq!(deliver::step(&app.state).await.unwrap(), SENT);
    let tried = app.delivery(&anna, id).await;
    delivery_queue::record_attempts(&app.state.writer, &[late(false)], app.state.clock.now()).await.unwrap();
    assert_eq!(app.delivery(&anna, id).await, tried);
    delivery_queue::record_attempts(&app.state.writer, &[late(true)], app.state.clock.now()).await.unwrap();
    let delivery = app.delivery(&anna, id).await;
    assert_eq!((&delivery["state"], &delivery["attempt_count"]), (&json!("delivered"), &json!(2)));
    delivery_queue::record_attempts(&app.state.writer, &[late(true)], app.state.clock.now()).await.unwrap();
    assert_eq!(app.delivery(&anna, id).await, delivery, "it is over");
}

async fn redeliver(app: &TestApp, user: &User, id: Uuid) -> Value {
    let answered = app.call(user, Method::POST, &format!("/v1/deliveries/{id}/redeliver"), Value::Null).await;
    assert_eq!(answered.status, 200, "{}", answered.body);
    answered.body
}

#[tokio::test]
async fn a_redelivery_starts_the_schedule_again() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    let hook = app.hook(&anna, &sink.url("/")).await;
    let id = app.ring(&anna, &[hook.id]).await.deliveries[0];
    app.finish(id, "dead", Some("no_tries_left")).await;
    let due = redeliver(&app, &anna, id).await;
    assert_eq!((&due["state"], &due["reason"]), (&json!("pending"), &Value::Null));
    sink.on("/", Behaviour::Answer(500, "", ""));
    assert_eq!(deliver::step(&app.state).await.unwrap(), SENT);
    let failed = app.delivery(&anna, id).await;
    assert_eq!((&failed["state"], &failed["attempt_count"]), (&json!("pending"), &json!(11)));
    let wait = time(&failed["next_attempt_at"]) - app.clock.now();
    assert!(wait < TimeDelta::seconds(7), "the first wait, not the last: {wait}");

    // A pending delivery can be retried before its next attempt is due.
    sink.on("/", Behaviour::Answer(200, "", ""));
    redeliver(&app, &anna, id).await;
    assert_eq!(deliver::step(&app.state).await.unwrap(), SENT);
    assert_eq!(app.delivery(&anna, id).await["state"], "delivered");
    redeliver(&app, &anna, id).await;
    assert_eq!(deliver::step(&app.state).await.unwrap(), SENT);
    let ids: HashSet<_> =
        sink.received("/").into_iter().map(|one| one.headers["webhook-id"].clone()).collect();
    assert_eq!(ids, HashSet::from([id.to_string()]));
    assert_eq!(app.delivery(&anna, id).await["attempts"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_channels_deliveries_are_listed_by_state() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let hook = app.hook(&anna, "http://127.0.0.1:9/").await;
    let mut made = Vec::new();
    for (state, reason) in [
        ("delivered", None),
        ("pending", None),
        ("dead", Some("gone")),
        ("cancelled", Some("sale_ended")),
        ("pending", None),
        ("dead", Some("no_tries_left")),
        ("cancelled", Some("channel_disabled")),
        ("delivered", None),
        ("dead", Some("gone")),
        ("pending", None),
    ] {
        let id = app.ring(&anna, &[hook.id]).await.deliveries[0];
        if state != "pending" {
            app.finish(id, state, reason).await;
        }
        made.insert(0, (id.to_string(), state));
    }
    let list = async |query: &str| {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/channels/{}/deliveries?limit=2{query}{cursor}", hook.id);
            let page = app.see(&anna, &path).await;
            let some = page["items"].as_array().unwrap().iter();
            items.extend(some.map(|item| item["id"].as_str().unwrap().to_owned()));
            let Some(next) = page["next_cursor"].as_str() else { return items };
            cursor = format!("&cursor={next}");
        }
    };
    let of = |wanted: &str| -> Vec<String> {
        made.iter().filter(|(_, state)| wanted.contains(state)).map(|(id, _)| id.clone()).collect()
    };
    assert_eq!(list("").await, of("delivered pending dead cancelled"));
    for state in ["delivered", "pending", "dead", "cancelled"] {
        assert_eq!(list(&format!("&state={state}")).await, of(state));
    }
    let path = format!("/v1/channels/{}/deliveries?state=lost", hook.id);
    assert_eq!(app.call(&anna, Method::GET, &path, Value::Null).await.status, 400);
}
