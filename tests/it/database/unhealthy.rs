//! The database becomes unavailable in every way that databases do. Requests fail with 503 and `Retry-After` or
//! succeed, and once it is back everything works again, without a restart.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use salebell::cli::dev::cluster::Cluster;
use salebell::worker;
use secrecy::ExposeSecret;
use serde_json::json;

use crate::support::bus::Carrier;
use crate::support::proxy::spawn_behind_proxy;
use crate::support::scratch::Scratch;
use crate::support::{TestApp, User};

/// Limits short enough to wait for.
const IMPATIENT: [(&str, &str); 4] = [
    ("SALEBELL_SERVER__REQUEST_TIMEOUT_S", "2"),
    ("SALEBELL_DATABASE__ACQUIRE_TIMEOUT_MS", "1000"),
    ("SALEBELL_DATABASE__MAX_CONNECTIONS", "5"),
    ("SALEBELL_WORKER__LEASE_S", "2"),
];

/// Continuous requests, and how often each answer came.
#[derive(Clone, Default)]
struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Load {
    /// Starts eight callers that read and report prices.
    fn start(app: &TestApp, shop: &User) -> (Load, Vec<tokio::task::JoinHandle<()>>) {
        let load = Load::default();
        let callers = (0..8).map(|at| {
            let (load, client, url, token) =
                (load.clone(), app.client.clone(), app.url.clone(), shop.token.clone());
            tokio::spawn(async move {
                let body = json!({"observations": [
                    {"store": "gog", "sku": format!("sku-{at}"), "price": "9.99", "currency": "EUR"}]});
                while !load.stop.load(Ordering::Relaxed) {
                    let request = match at % 2 {
                        0 => client.get(format!("{url}/v1/games")),
                        _ => client.post(format!("{url}/v1/prices")).bearer_auth(&token).json(&body),
                    };
                    let answer = match request.send().await {
                        Ok(answer) => {
                            let retry = answer.headers().get("retry-after").is_some();
                            format!("{}{}", answer.status().as_u16(), if retry { " later" } else { "" })
                        }
                        Err(error) => format!("{error:?}"),
                    };
                    *load.answers.lock().unwrap().entry(answer).or_default() += 1;
                }
            })
        });
        let callers = callers.collect();
        (load, callers)
    }

    fn answers(&self) -> BTreeMap<String, usize> {
        self.answers.lock().unwrap().clone()
    }

    /// Waits for `more` further answers of this kind.
    async fn until(&self, answer: &str, more: usize) {
        let count = || self.answers().get(answer).copied().unwrap_or_default();
        let (before, begin) = (count(), Instant::now());
        while count() < before + more {
            assert!(begin.elapsed() < Duration::from_secs(30), "no {answer}: {:?}", self.answers());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(self, callers: Vec<tokio::task::JoinHandle<()>>) -> BTreeMap<String, usize> {
        self.stop.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.await.unwrap();
        }
        self.answers()
    }
}

/// Checks that every answer is one that a client can handle.
fn assert_polite(answers: &BTreeMap<String, usize>) {
    assert!(
        answers.keys().all(|answer| matches!(answer.as_str(), "200" | "202" | "503 later")),
        "{answers:?}"
    );
}

/// Checks that the pool has all its connections again: it serves as many concurrent slow statements.
async fn assert_whole(app: &TestApp) {
    let begin = Instant::now();
    loop {
        let held = (0..5).map(|_| app.state.writer.acquire());
        let held = futures_util::future::join_all(held).await;
        if held.iter().all(Result::is_ok) {
            return;
        }
        drop(held);
        assert!(begin.elapsed() < Duration::from_secs(20), "the pool has lost connections");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cuts_its_connections() {
    let (app, proxy, _database) = spawn_behind_proxy(Carrier::Postgres, &IMPATIENT).await;
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let (load, callers) = Load::start(&app, &shop);
    for _ in 0..2 {
        load.until("200", 5).await;
        load.until("202", 5).await;
        proxy.cut();
        load.until("503 later", 5).await;
        proxy.open();
    }
    load.until("200", 20).await;
    load.until("202", 20).await;
    assert_polite(&load.end(callers).await);
    assert_whole(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_falls_silent() {
    let (app, proxy, _database) = spawn_behind_proxy(Carrier::Postgres, &IMPATIENT).await;
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let working = tokio::spawn(worker::run(app.state.clone()));
    let (load, callers) = Load::start(&app, &shop);
    load.until("200", 5).await;
    load.until("202", 5).await;
    proxy.silence();
    load.until("503 later", 8).await;
    let answer = app.get("/readyz").send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(app.get("/healthz").send().await.unwrap().status(), 200);
    // The old connections stay silent; new ones work.
    proxy.open();
    load.until("200", 20).await;
    load.until("202", 20).await;
    assert_polite(&load.end(callers).await);
    // Finally TCP gives up the old connections and the app recovers: what was accepted is recorded.
    proxy.give_up();
    assert_whole(&app).await;
    let begin = Instant::now();
    while app.state.bus.age_and_dead().await.unwrap().0 > 0.0 {
        assert!(begin.elapsed() < Duration::from_secs(30), "messages wait although the database is back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..100 {
        if app.get("/readyz").send().await.unwrap().status() == 200 {
            app.state.stopping.cancel();
            working.await.unwrap().unwrap();
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it is not ready again");
}

async fn start_cluster(folder: &Path) -> Cluster {
    Cluster::start(folder, &|_| {}).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_restarted_under_load() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("postgres");
    let mut cluster = start_cluster(&folder).await;
    let url = cluster.url().expose_secret().to_owned();
    let mut settings = IMPATIENT.to_vec();
    settings.push(("SALEBELL_DATABASE__URL", &url));
    let app = TestApp::builder().settings(&settings).spawn().await;
    salebell::store::migrate(&app.state.writer).await.unwrap();
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let working = tokio::spawn(worker::run(app.state.clone()));
    let (load, callers) = Load::start(&app, &shop);
    for _ in 0..2 {
        load.until("200", 10).await;
        load.until("202", 10).await;
        cluster.stop().await.unwrap();
        load.until("503 later", 10).await;
        cluster = start_cluster(&folder).await;
    }
    load.until("200", 20).await;
    load.until("202", 20).await;
    let answers = load.end(callers).await;
    assert_polite(&answers);
    // Every acknowledged report is recorded, whatever was restarted in between.
    let begin = Instant::now();
    let batches = async || -> (i64, i64) {
        let count = "select count(*), count(*) filter (where exists (
            select from batch_parts p where p.batch_id = b.id)) from batches b where accepted > 0";
        sqlx::query_as(count).fetch_one(&app.state.writer).await.unwrap()
    };
    loop {
        // A batch that was written but not acknowledged may have no part: its message was never sent.
        let (_, recorded) = batches().await;
        let waiting = app.state.bus.age_and_dead().await.unwrap();
        if waiting.0 == 0.0 && recorded as usize >= answers["202"] {
            assert_eq!(waiting.1, 0, "dead messages");
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{recorded} of {answers:?}, {waiting:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    app.state.stopping.cancel();
    working.await.unwrap().unwrap();
    drop(app);
    cluster.stop().await.unwrap();
}
