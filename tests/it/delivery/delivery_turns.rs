//! Many deliveries at once: places and turns of channels, leases that change owners, starts and stops of workers.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use salebell::database::notifications;
use salebell::worker::deliver::{self, Step};
use serde_json::Value;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::support::TestApp;
use crate::support::sink::{Behaviour, Sink};

#[tokio::test]
async fn channels_change_hands_and_nothing_is_sent_twice() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    let mut hooks = Vec::new();
    for n in 0..5 {
        let hook = app.hook(&anna, &sink.url(&format!("/?{n}"))).await;
        hooks.push((app.ring(&anna, &[hook.id]).await, hook));
    }
    let mut waiting = hooks.len();
    let workers = [run(&app), run(&app), run(&app)];
    // Between the waves the workers release their channels, and within a wave they compete for them.
    for _ in 0..10 {
        for (rung, hook) in &hooks {
            waiting += app.ring_again(&anna, rung, hook.id, 20).await.len();
            for _ in 0..3 {
                app.state.notifications.deliveries.notify_one();
                tokio::task::yield_now().await;
            }
        }
        app.until("select not exists (select from deliveries where state = 'pending')").await;
    }
    app.state.stopping.cancel();
    for worker in workers {
        worker.await.unwrap();
    }
    let received = sink.received("/");
    let ids: HashSet<_> = received.iter().map(|one| &one.headers["webhook-id"]).collect();
    assert_eq!((received.len(), ids.len()), (waiting, waiting));
    let held: i64 = sqlx::query_scalar("select count(*) from channels where leased_until is not null")
        .fetch_one(&app.state.writer)
        .await
        .unwrap();
    assert_eq!(held, 0, "who stops gives back what it holds");
}

/// Runs the worker until `app` stops.
fn run(app: &TestApp) -> tokio::task::JoinHandle<()> {
    tokio::spawn(deliver::run(app.state.clone()))
}

/// Makes `deliveries` deliveries to a receiver that answers one request for each permit; the last item returned is the
/// first delivery's id.
async fn ring_gated(app: &TestApp, deliveries: i32) -> (Sink, Arc<Semaphore>, Uuid) {
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    let gate = Arc::new(Semaphore::new(0));
    sink.on("/", Behaviour::Gate(gate.clone()));
    let hook = app.hook(&anna, &sink.url("/")).await;
    let rung = app.ring(&anna, &[hook.id]).await;
    app.ring_again(&anna, &rung, hook.id, deliveries - 1).await;
    (sink, gate, rung.deliveries[0])
}

#[tokio::test]
async fn a_channel_has_a_limit_of_deliveries_in_flight() {
    let app = TestApp::builder().settings(&[("SALEBELL_WEBHOOK__IN_FLIGHT_PER_CHANNEL", "3")]).spawn().await;
    let (sink, gate, _) = ring_gated(&app, 40).await;
    let workers = (run(&app), run(&app));
    sink.wait_for("/", 3).await;
    // High-priority deliveries move to the front while the places are taken.
    sqlx::query("update delivery_queue set next_attempt_at = next_attempt_at - interval '1 hour'")
        .execute(&app.state.writer)
        .await
        .unwrap();
    for released in 1..=40 {
        app.state.notifications.deliveries.notify_one();
        gate.add_permits(1);
        sink.wait_for("/", (3 + released).min(40)).await;
    }
    app.until("select not exists (select from deliveries where state = 'pending')").await;
    assert_eq!(sink.received("/").len(), 40);
    assert_eq!(sink.most_in_flight("/"), 3, "two workers together have no more");
    app.state.stopping.cancel();
    workers.0.await.unwrap();
    workers.1.await.unwrap();
}

#[tokio::test]
async fn a_slow_receiver_does_not_delay_the_others() {
    let app = TestApp::builder()
        .settings(&[
            ("SALEBELL_WORKER__DELIVER_CONCURRENCY", "16"),
            ("SALEBELL_WEBHOOK__IN_FLIGHT_PER_CHANNEL", "4"),
        ])
        .spawn()
        .await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    sink.on("/slow", Behaviour::Hang);
    let (slow, quick) =
        (app.hook(&anna, &sink.url("/slow")).await, app.hook(&anna, &sink.url("/quick")).await);
    let rung = app.ring(&anna, &[slow.id, quick.id]).await;
    app.ring_again(&anna, &rung, slow.id, 500).await;
    app.ring_again(&anna, &rung, quick.id, 500).await;
    let worker = run(&app);
    sink.wait_for("/quick", 501).await;
    assert_eq!(sink.most_in_flight("/slow"), 4);
    assert_eq!(sink.received("/slow").len(), 4, "the slow ones are still in flight: nothing waited for them");
    worker.abort();
}

#[tokio::test]
async fn a_dead_receiver_with_a_large_backlog_does_not_delay_the_others() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    // Made first, so it comes first in any order by id.
    let dead = app.hook(&anna, "http://127.0.0.1:1/").await;
    let rung = app.ring(&anna, &[dead.id]).await;
    app.ring_again(&anna, &rung, dead.id, 50_000).await;
    let fine = app.hook(&anna, &sink.url("/")).await;
    app.ring(&anna, &[fine.id]).await;
    assert_eq!(deliver::step(&app.state).await.unwrap(), Step { sent: 9, cancelled: 0 }, "8 places and one");
    assert_eq!(sink.received("/").len(), 1);

    // The backlog is not read: a claim touches a few pages, however many deliveries wait.
    sqlx::query("analyze deliveries").execute(&app.state.writer).await.unwrap();
    let now = app.state.clock.now();
    let later = now + TimeDelta::seconds(45);
    let lease = explain(include_str!("../../../core/src/store/lease_channels.sql"));
    let lease =
        lease.bind(Uuid::nil()).bind(now).bind(64_i64).bind(Uuid::now_v7()).bind(later).bind(now).bind(1_024);
    let read = explain(include_str!("../../../core/src/store/due_deliveries.sql"));
    let read =
        read.bind(vec![dead.id, fine.id]).bind(vec![8_i64, 8]).bind(now).bind(vec![Uuid::now_v7(); 64]);
    for query in [lease, read] {
        let plan: Value = query.fetch_one(&app.state.writer).await.unwrap();
        let top = &plan[0]["Plan"];
        let pages = top["Shared Hit Blocks"].as_i64().unwrap() + top["Shared Read Blocks"].as_i64().unwrap();
        assert!(pages < 500, "{pages} pages were read: {plan:#}");
    }
}

type Explained<'q> = sqlx::query::QueryScalar<'q, sqlx::Postgres, Value, sqlx::postgres::PgArguments>;

fn explain(sql: &str) -> Explained<'static> {
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!("explain (analyze, buffers, format json) {sql}")))
}

#[tokio::test]
async fn every_channel_has_its_turn() {
    let app = TestApp::builder().settings(&[("SALEBELL_WORKER__DELIVER_CONCURRENCY", "4")]).spawn().await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    for path in ["/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8", "/9"] {
        let hook = app.hook(&anna, &sink.url(path)).await;
        let rung = app.ring(&anna, &[hook.id]).await;
        app.ring_again(&anna, &rung, hook.id, 20).await;
    }
    let gate = Arc::new(Semaphore::new(0));
    for path in ["/0", "/1", "/2", "/3"] {
        sink.on(path, Behaviour::Gate(gate.clone()));
    }
    let worker = run(&app);
    for path in ["/0", "/1", "/2", "/3"] {
        sink.wait_for(path, 1).await;
        assert_eq!(sink.received(path).len(), 1, "one of every channel before the second of any");
    }
    gate.add_permits(1_000);
    for path in ["/9", "/5", "/0"] {
        sink.wait_for(path, 21).await;
    }
    app.until("select not exists (select from deliveries where state <> 'delivered')").await;
    app.state.stopping.cancel();
    worker.await.unwrap();
}

#[tokio::test]
async fn a_delivery_that_waited_long_after_it_was_read_is_checked_again() {
    let app = TestApp::builder().settings(&[("SALEBELL_WORKER__DELIVER_CONCURRENCY", "1")]).spawn().await;
    let (sink, gate, _) = ring_gated(&app, 4).await;
    let worker = run(&app);
    sink.wait_for("/", 1).await;
    // The other deliveries were read along with it. Their price ends while they wait for the only slot.
    sqlx::query("update sales set ended_at = now()").execute(&app.state.writer).await.unwrap();
    // No event ends this wait: what was read stays valid for a second of real time.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    gate.add_permits(10);
    app.until("select not exists (select from deliveries where state = 'pending')").await;
    let cancelled: i64 = sqlx::query_scalar("select count(*) from deliveries where reason = 'sale_ended'")
        .fetch_one(&app.state.writer)
        .await
        .unwrap();
    assert_eq!((cancelled, sink.received("/").len()), (3, 1));
    app.state.stopping.cancel();
    worker.await.unwrap();
}

#[tokio::test]
async fn a_result_that_cannot_be_recorded_holds_up_no_other() {
    let app = TestApp::spawn().await;
    let (sink, gate, first) = ring_gated(&app, 8).await;
    let poison = format!(
        "create function refuse() returns trigger language plpgsql as
            $$ begin raise 'not this one'; end $$;
        create trigger refuse before update on deliveries for each row
            when (new.id = '{}' and new.state = 'delivered') execute function refuse()",
        first
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(poison)).execute(&app.state.writer).await.unwrap();
    let worker = run(&app);
    sink.wait_for("/", 8).await;
    gate.add_permits(100);
    app.until("select count(*) = 7 from deliveries where state = 'delivered'").await;
    assert_eq!(sink.received("/").len(), 8, "what cannot be recorded is not sent again at once");
    worker.abort();
}

#[tokio::test]
async fn a_notification_starts_a_delivery_at_once() {
    // The next poll would be an hour later.
    let app = TestApp::builder().settings(&[("SALEBELL_WORKER__POLL_MS", "3600000")]).spawn().await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    let hook = app.hook(&anna, &sink.url("/")).await;
    let listening = tokio::spawn({
        let app = app.state.clone();
        async move { app.notifications.listen(&app.writer).await }
    });
    app.until("select exists (select from pg_stat_activity where datname = current_database() and query ilike 'listen%')").await;
    let worker = run(&app);
    app.ring(&anna, &[hook.id]).await;
    sqlx::query("select pg_notify($1, '')")
        .bind(notifications::DELIVERIES)
        .execute(&app.state.writer)
        .await
        .unwrap();
    sink.wait_for("/", 1).await;
    worker.abort();
    listening.abort();
}

#[tokio::test]
async fn deliveries_in_flight_are_finished_when_the_worker_stops() {
    let app = TestApp::spawn().await;
    let (sink, gate, _) = ring_gated(&app, 21).await;
    let worker = run(&app);
    sink.wait_for("/", 8).await;
    app.state.stopping.cancel();
    gate.add_permits(1_000);
    worker.await.unwrap();
    let states: Vec<(String, i64)> =
        sqlx::query_as("select state, count(*) from deliveries group by state order by state")
            .fetch_all(&app.state.writer)
            .await
            .unwrap();
    assert_eq!(states, [("delivered".to_owned(), 8), ("pending".to_owned(), 13)]);
    assert_eq!(sink.received("/").len(), 8, "nothing new was begun");
}
