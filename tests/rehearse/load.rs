//! The steady load, through the load balancer: reads, price reports, an upload. Each attempt is counted. The clients
//! behave as clients should: they retry what is safe to repeat a few times.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::balancer;
use super::network::HOST;
use super::sink;
use super::timeline::{Attempt, Timeline, now};
use super::upload::Upload;

/// Number of games, each with a watch.
const GAMES: usize = 10;
/// Numbers of readers and reporters.
const READERS: usize = 4;
const REPORTERS: usize = 2;
/// Number of observations in a report.
const OBSERVATIONS: usize = 5;
/// Pauses between two requests of one reader or reporter.
const READ_PAUSE: Duration = Duration::from_millis(80);
const REPORT_PAUSE: Duration = Duration::from_millis(400);
/// Timeout of the retries of a safe request: longer than the lock on the key of a report whose instance has died (30
/// s).
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// URL of a path at the load balancer.
pub fn url(path: &str) -> String {
    format!("https://{HOST}{path}")
}

/// State that all tasks of the load share.
pub struct Caller {
    pub client: Client,
    /// Client for uploads: in haproxy 2.6, all streams of an HTTP/2 connection wait while one of them is blocked.
    pub sender: Client,
    token: String,
    pub timeline: Timeline,
    games: Vec<String>,
    /// Acknowledged reports: batch → number of observations.
    acknowledged: Mutex<BTreeMap<String, usize>>,
    /// Requests that failed despite retries.
    given_up: Mutex<Vec<String>>,
    next_sku: AtomicUsize,
    next_attempt: AtomicU64,
    /// Number of reports and reads in progress.
    under_way: AtomicUsize,
    paused: AtomicBool,
}

impl Caller {
    /// Makes a player with a webhook channel and a watch for each of some games.
    pub async fn new(token: String, timeline: Timeline) -> Caller {
        let builder = || Client::builder().no_proxy().tls_danger_accept_invalid_certs(true);
        let client = builder().timeout(Duration::from_secs(30)).build().expect("a client");
        let sender = builder().http1_only().build().expect("a client");
        let mut caller = Caller {
            client,
            sender,
            token,
            timeline,
            games: Vec::new(),
            acknowledged: Mutex::default(),
            given_up: Mutex::default(),
            next_sku: AtomicUsize::new(0),
            next_attempt: AtomicU64::new(1),
            under_way: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
        };
        let sink = format!("http://{HOST}:{}/bell", sink::PORT);
        caller.make("/v1/channels", json!({"kind": "webhook", "name": "sink", "url": sink})).await;
        for number in 0..GAMES {
            let game = caller.make("/v1/games", json!({"title": title(number)})).await;
            let id = game["id"].as_str().expect("an id").to_owned();
            caller.make("/v1/watches", json!({"game_id": &id, "rule": {"any_sale": {}}})).await;
            caller.games.push(id);
        }
        caller
    }

    async fn make(&self, path: &str, body: Value) -> Value {
        let answer = self.client.post(url(path)).bearer_auth(&self.token).json(&body).send().await;
        let answer = answer.expect("the load balancer answers");
        assert_eq!(answer.status(), StatusCode::CREATED, "{path}: {:?}", answer.text().await);
        answer.json().await.expect("JSON")
    }

    pub fn authorise(&self, request: RequestBuilder) -> RequestBuilder {
        request.bearer_auth(&self.token)
    }

    /// Makes one attempt and counts it; it has failed without an answer, or with a 5xx.
    pub async fn attempt(
        &self,
        kind: &'static str,
        request: RequestBuilder,
    ) -> Result<(StatusCode, Vec<u8>), String> {
        let (at, begun) = (now(), Instant::now());
        let number = self.next_attempt.fetch_add(1, Ordering::SeqCst);
        let answered = async {
            let request = request.header(balancer::HEADER, number);
            let answer = self.authorise(request).send().await.map_err(|error| describe(&error))?;
            let (status, by) = (answer.status(), answer.headers().get("x-request-id").is_some());
            let body = answer.bytes().await.map_err(|error| format!("the body: {}", describe(&error)));
            Ok((status, by, body?.to_vec()))
        };
        let answered: Result<(StatusCode, bool, Vec<u8>), String> = answered.await;
        let millis = begun.elapsed().as_secs_f64() * 1000.0;
        let by_instance = answered.as_ref().is_ok_and(|(_, by_instance, _)| *by_instance);
        let outcome = match answered {
            Ok((status, true, body)) if status.is_server_error() => {
                Err(format!("{status} of an instance: {}", String::from_utf8_lossy(&body)))
            }
            Ok((status, false, body)) if status.is_server_error() => {
                Err(format!("{status}: {}", title_of(&body)))
            }
            Ok((status, _, body)) => Ok((status, body)),
            Err(error) => Err(error),
        };
        let error = outcome.as_ref().err().cloned();
        self.timeline.attempt(Attempt { number, at, millis, kind, error, answered: by_instance });
        outcome
    }

    /// Retries until it succeeds or times out.
    async fn insist(&self, kind: &'static str, request: impl Fn() -> RequestBuilder) -> Option<Vec<u8>> {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let begun = Instant::now();
        let body = loop {
            let last = match self.attempt(kind, request()).await {
                Ok((status, found)) if status.is_success() => break Some(found),
                Ok((status, found)) => format!("{status}: {}", String::from_utf8_lossy(&found)),
                Err(error) => error,
            };
            if begun.elapsed() > PATIENCE {
                self.given_up.lock().unwrap().push(format!("{kind}: {last}"));
                break None;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        };
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        body
    }

    async fn read(&self, number: usize) {
        let game = &self.games[number % GAMES];
        let (kind, path) = match number % 4 {
            0 => ("deals", "/v1/deals?limit=20".to_owned()),
            1 => ("search", format!("/v1/games?q={}", title(number % GAMES).replace(' ', "%20"))),
            2 => ("game", format!("/v1/games/{game}")),
            _ => ("offers", format!("/v1/games/{game}/offers?limit=20")),
        };
        self.insist(kind, || self.client.get(url(&path))).await;
    }

    /// Reports prices of new offers on sale: each rings the watch of its game once.
    async fn report(&self) {
        let first = self.next_sku.fetch_add(OBSERVATIONS, Ordering::SeqCst);
        let observations: Vec<Value> = (first..first + OBSERVATIONS)
            .map(|sku| {
                json!({"store": "Rehearsal", "sku": format!("r-{sku}"), "title": title(sku % GAMES),
                       "price": "9.99", "regular_price": "19.99", "currency": "EUR"})
            })
            .collect();
        let body = json!({"observations": observations});
        let key = uuid::Uuid::now_v7().to_string();
        let request = || self.client.post(url("/v1/prices")).header("idempotency-key", &key).json(&body);
        let Some(answer) = self.insist("report", request).await else { return };
        let answer: Value = serde_json::from_slice(&answer).expect("JSON");
        let accepted = answer["accepted"].as_u64().unwrap_or_default() as usize;
        if accepted != OBSERVATIONS {
            self.given_up.lock().unwrap().push(format!("a report was not accepted whole: {answer}"));
        }
        let batch = answer["batch_id"].as_str().expect("an id").to_owned();
        self.acknowledged.lock().unwrap().insert(batch, accepted);
    }

    /// Batches acknowledged so far, with their numbers of observations.
    pub fn acknowledged(&self) -> BTreeMap<String, usize> {
        self.acknowledged.lock().unwrap().clone()
    }

    /// Returns and clears the requests that finally failed.
    pub fn take_given_up(&self) -> Vec<String> {
        std::mem::take(&mut self.given_up.lock().unwrap())
    }

    /// Waits while clients are paused between scenarios.
    async fn turn(&self) {
        while self.paused.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A title of words that no search confuses with another's.
fn title(number: usize) -> String {
    let name =
        ["Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Gorse", "Hazel", "Ivy", "Juniper"][number];
    format!("{name} Rehearsal")
}

/// Short form of the root cause of a client error.
fn describe(error: &reqwest::Error) -> String {
    let mut source: &dyn std::error::Error = error;
    while let Some(next) = source.source() {
        source = next;
    }
    let kind = if error.is_timeout() { "no answer in time" } else { "no answer" };
    format!("{kind}: {source}")
}

/// Title of haproxy's error page.
fn title_of(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.trim_start_matches("<html><body><h1>").trim_end_matches("</h1>").chars().take(80).collect()
}

/// The running load. It stops when it is dropped.
pub struct Load {
    pub caller: Arc<Caller>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(caller: Caller) -> Load {
        let caller = Arc::new(caller);
        let mut tasks = Vec::new();
        for reader in 0..READERS {
            let caller = caller.clone();
            tasks.push(tokio::spawn(async move {
                for number in reader.. {
                    caller.turn().await;
                    caller.read(number).await;
                    tokio::time::sleep(READ_PAUSE).await;
                }
            }));
        }
        for _ in 0..REPORTERS {
            let caller = caller.clone();
            tasks.push(tokio::spawn(async move {
                loop {
                    caller.turn().await;
                    caller.report().await;
                    tokio::time::sleep(REPORT_PAUSE).await;
                }
            }));
        }
        Load { caller, tasks }
    }

    /// Starts a large upload, slow enough to last as long as a scenario.
    pub fn upload(&self, number: u64) -> Upload {
        Upload::start(self.caller.clone(), number)
    }

    /// Starts no new requests, and waits until those in progress end.
    pub async fn pause(&self) {
        self.caller.paused.store(true, Ordering::SeqCst);
        while self.caller.under_way.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn resume(&self) {
        self.caller.paused.store(false, Ordering::SeqCst);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
