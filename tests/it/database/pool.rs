//! Connections to the database while they are being opened: slow log-ins, bursts, impatient clients, restarts.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use salebell::cli::dev::cluster::Cluster;
use secrecy::ExposeSecret;

use crate::support::bus::Carrier;
use crate::support::proxy::spawn_behind_proxy;
use crate::support::scratch::Scratch;
use crate::support::{TestApp, eventually};

const BURST: usize = 128;

/// Statuses of a burst of concurrent reads.
async fn burst(app: &TestApp) -> Vec<u16> {
    let requests = (0..BURST).map(|_| async { app.get("/v1/games").send().await.unwrap().status().as_u16() });
    join_all(requests).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_into_a_cold_pool_waits_for_slow_log_ins() {
    let (app, proxy, _database) = spawn_behind_proxy(Carrier::Postgres, &[]).await;
    // Longer than a request otherwise waits for a connection.
    proxy.delay_log_ins(Duration::from_secs(4));
    assert_eq!(burst(&app).await, [200; BURST]);
    proxy.delay_log_ins(Duration::from_millis(300));
    eventually("the pool reaches its size", async || app.state.writer.size() == 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_attempt_outlives_the_client_that_it_was_started_for() {
    let (app, proxy, _database) = spawn_behind_proxy(Carrier::Postgres, &[]).await;
    proxy.delay_log_ins(Duration::from_secs(2));
    let hasty = (0..20).map(|_| app.get("/v1/games").timeout(Duration::from_millis(300)).send());
    assert!(join_all(hasty).await.iter().all(Result::is_err), "no client waits for its response");
    eventually("the pool reaches its size", async || app.state.writer.size() == 10).await;
    assert_eq!(app.state.writer.num_idle(), 10);
    let begun = Instant::now();
    assert_eq!(burst(&app).await, [200; BURST]);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}: the connections were there", begun.elapsed());
}

/// Continuous reads, with the time of each answer.
#[derive(Clone, Default)]
struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<(Instant, u16)>>>,
}

impl Load {
    fn start(app: &TestApp) -> (Load, Vec<tokio::task::JoinHandle<()>>) {
        let load = Load::default();
        let readers = (0..32).map(|_| {
            let (load, client, url) = (load.clone(), app.client.clone(), format!("{}/v1/games", app.url));
            tokio::spawn(async move {
                while !load.stop.load(Ordering::Relaxed) {
                    let status = client.get(&url).send().await.unwrap().status().as_u16();
                    load.answers.lock().unwrap().push((Instant::now(), status));
                }
            })
        });
        let readers = readers.collect();
        (load, readers)
    }

    /// Waits for `more` further answers with this status.
    async fn until(&self, status: u16, more: usize) {
        let from = Instant::now();
        eventually("answers come", async || {
            let answers = self.answers.lock().unwrap();
            answers.iter().filter(|(at, seen)| *at > from && *seen == status).count() >= more
        })
        .await;
    }

    /// Time between `back` and the last 503.
    async fn last_refusal(self, readers: Vec<tokio::task::JoinHandle<()>>, back: Instant) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        join_all(readers).await;
        let answers = self.answers.lock().unwrap();
        assert!(answers.iter().all(|(_, status)| matches!(status, 200 | 503)), "{answers:?}");
        let refused = answers.iter().filter(|(_, status)| *status == 503).map(|(at, _)| *at);
        refused.max().unwrap().saturating_duration_since(back)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_after_the_database_is_back_nothing_is_refused() {
    // A failover: connections are cut, and for a while no server answers at the host name.
    let impatient = [("SALEBELL_DATABASE__ACQUIRE_TIMEOUT_MS", "1000")];
    let (app, proxy, _database) = spawn_behind_proxy(Carrier::Postgres, &impatient).await;
    let (load, readers) = Load::start(&app);
    for _ in 0..2 {
        load.until(200, 50).await;
        proxy.cut();
        load.until(503, 64).await;
        // Slower than a request is willing to wait.
        proxy.delay_log_ins(Duration::from_millis(1500));
        proxy.open();
    }
    let back = Instant::now();
    load.until(200, 200).await;
    let last = load.last_refusal(readers, back).await;
    assert!(last < Duration::from_secs(1), "{last:?}");
}

async fn start_cluster(folder: &Path) -> Cluster {
    Cluster::start(folder, &|_| {}).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_after_a_restart_of_postgres_nothing_is_refused() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("postgres");
    let mut cluster = start_cluster(&folder).await;
    let url = cluster.url().expose_secret().to_owned();
    let settings =
        [("SALEBELL_DATABASE__URL", url.as_str()), ("SALEBELL_DATABASE__ACQUIRE_TIMEOUT_MS", "1000")];
    let app = TestApp::builder().settings(&settings).spawn().await;
    salebell::store::migrate(&app.state.writer).await.unwrap();
    let (load, readers) = Load::start(&app);
    load.until(200, 50).await;
    cluster.stop().await.unwrap();
    load.until(503, 64).await;
    cluster = start_cluster(&folder).await;
    let back = Instant::now();
    load.until(200, 200).await;
    let last = load.last_refusal(readers, back).await;
    assert!(last < Duration::from_secs(1), "{last:?}");
    assert_eq!(burst(&app).await, [200; BURST]);
    drop(app);
    cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_dead_connection_makes_the_others_suspect() {
    let app = TestApp::spawn().await;
    let held = join_all((0..10).map(|_| app.state.writer.acquire())).await;
    assert!(held.iter().all(Result::is_ok));
    drop(held);
    eventually("all are idle", async || app.state.writer.num_idle() == 10).await;
    let admin = sqlx::PgPool::connect(&app.database.url).await.unwrap();
    let end = "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()";
    assert_eq!(sqlx::query_scalar::<_, i64>(end).fetch_one(&admin).await.unwrap(), 10);
    // Fresh connections are not pinged before use, so the first request may discover the failure.
    let mut refused = 0;
    for _ in 0..20 {
        refused += usize::from(app.get("/v1/games").send().await.unwrap().status() != 200);
    }
    assert!(refused <= 1, "{refused} of 20");
    admin.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_never_has_more_connections_than_it_may() {
    let (app, proxy, database) = spawn_behind_proxy(Carrier::Postgres, &[]).await;
    // Slow enough that further attempts start while the first is pending.
    proxy.delay_log_ins(Duration::from_millis(1200));
    let held = join_all((0..30).map(|_| async {
        let connection = app.state.writer.acquire().await;
        assert!(app.state.writer.size() <= 10);
        connection.map(drop)
    }));
    assert!(held.await.iter().all(Result::is_ok));
    proxy.delay_log_ins(Duration::ZERO);
    let admin = sqlx::PgPool::connect(&database.url).await.unwrap();
    let count = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    eventually("what was opened beyond the size is closed", async || {
        let open = sqlx::query_scalar::<_, i64>(count).fetch_one(&admin).await.unwrap();
        open == 10 && app.state.writer.size() == 10
    })
    .await;
    admin.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_transaction_is_rolled_back_and_its_connection_reused() {
    let app = TestApp::spawn().await;
    let count = async || {
        sqlx::query_scalar::<_, i64>("select count(*) from accounts")
            .fetch_one(&app.state.writer)
            .await
            .unwrap()
    };
    let insert =
        "insert into accounts (id, issuer, subject, created_at) values (gen_random_uuid(), 'a', $1, now())";
    for (end, expected) in [("dropped", 0), ("rolled back", 0), ("committed", 1)] {
        let mut transaction = app.state.writer.begin().await.unwrap();
        sqlx::query(insert).bind(end).execute(&mut *transaction).await.unwrap();
        match end {
            "dropped" => drop(transaction),
            "rolled back" => transaction.rollback().await.unwrap(),
            _ => transaction.commit().await.unwrap(),
        }
        assert_eq!(count().await, expected, "{end}");
    }
    let idle =
        "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in%'";
    assert_eq!(sqlx::query_scalar::<_, i64>(idle).fetch_one(&app.state.writer).await.unwrap(), 0);
    app.state.writer.close().await;
    assert!(matches!(app.state.writer.acquire().await, Err(sqlx::Error::PoolClosed)));
    assert_eq!(app.state.writer.size(), 0);
}
