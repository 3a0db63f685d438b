//! The app under test, with a database and a port of its own for each test.

pub mod appliance;
pub mod aws;
pub mod binary;
pub mod builder;
pub mod bus;
pub mod catalogue;
pub mod database;
pub mod gate;
pub mod grpc;
pub mod instance;
pub mod issuer;
pub mod journal;
pub mod openapi;
pub mod page;
pub mod proxy;
pub mod raw;
pub mod rds;
pub mod ringing;
pub mod s3;
pub mod scratch;
pub mod shell;
pub mod sink;
pub mod smtp;
pub mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, TimeDelta, Utc};
use nix::sys::signal::Signal;
use reqwest::{Method, RequestBuilder};
use salebell::app::App;
use salebell::domain::api_key;
use salebell::domain::ids::AccountId;
use salebell::secrets;
use salebell::store::{accounts, keys};
use salebell::worker::record;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use binary::Binary;
use builder::TestAppBuilder;
use bus::Queues;
use database::TestDatabase;
use openapi::Answers;
use s3::Bucket;
use scratch::Scratch;

/// Setting under which old observations ring: those of the tests are of fixed days, which are long past.
pub const RINGS_ALWAYS: (&str, &str) = ("SALEBELL_PRICES__RINGS_WITHIN_S", "4000000000");

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(90), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A clock that a test moves.
#[derive(Clone, Default)]
pub struct TestClock {
    ahead_us: Arc<AtomicI64>,
}

impl TestClock {
    pub fn advance(&self, by: TimeDelta) {
        self.ahead_us.fetch_add(by.num_microseconds().unwrap(), Ordering::SeqCst);
    }

    #[expect(clippy::disallowed_methods, reason = "the test's clock runs on the system's")]
    pub fn now(&self) -> DateTime<Utc> {
        Utc::now() + TimeDelta::microseconds(self.ahead_us.load(Ordering::SeqCst))
    }
}

/// A running app on port 0 with an empty, migrated database. The worker does not run: tests step it.
pub struct TestApp {
    pub state: App,
    pub clock: TestClock,
    pub url: String,
    pub client: reqwest::Client,
    pub database: TestDatabase,
    /// Directory with the bytes of files, or with their buffers.
    pub files: Scratch,
    /// Bucket with the bytes of files, if they are on S3.
    pub bucket: Option<Bucket>,
    /// Topic and queues of reported prices, if the bus is on AWS.
    pub queues: Option<Queues>,
    /// What is wrong with its answers, according to the OpenAPI document.
    answers: Answers,
}

/// A caller with an API key.
pub struct User {
    pub account: AccountId,
    pub token: String,
}

impl TestApp {
    /// Waits until `sql`, which returns one boolean, is true.
    pub async fn until(&self, sql: &'static str) {
        let waiting = async {
            while !sqlx::query_scalar::<_, bool>(sql).fetch_one(&self.state.writer).await.unwrap() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting).await.expect(sql);
    }

    /// Sends SIGKILL, and waits until the process is dead and PostgreSQL has executed what it had sent.
    pub async fn kill(&self, process: &mut Binary) {
        process.signal(Signal::SIGKILL);
        assert_eq!(process.exit_code().await, None);
        self.until(
            "select not exists (select from pg_stat_activity
             where datname = current_database() and state = 'active' and pid <> pg_backend_pid())",
        )
        .await;
    }

    /// Starts an app with the defaults of all tests.
    pub async fn spawn() -> TestApp {
        TestApp::builder().spawn().await
    }

    /// Builder of an app with settings besides those defaults.
    pub fn builder() -> TestAppBuilder {
        TestAppBuilder::default()
    }

    /// Lets time pass for the bus: a bus with its own clock uses the machine's.
    pub async fn pass(&self, time: Duration) {
        match self.queues {
            None => self.clock.advance(TimeDelta::from_std(time).unwrap()),
            Some(_) => tokio::time::sleep(time).await,
        }
    }

    /// Names of the objects in the store.
    pub async fn blobs(&self) -> Vec<String> {
        let later = SystemTime::now() + Duration::from_secs(3600);
        let found = self.state.files.blobs.list_old(later).await.unwrap();
        found.into_iter().flatten().map(|found| found.name).collect()
    }

    /// Makes an account with an API key of these scopes.
    pub async fn user(&self, name: &str, scopes: &[&str]) -> User {
        let now = self.clock.now();
        let account = accounts::find_or_create_account(&self.state.writer, "test", name, now).await.unwrap();
        let key = secrets::generate_api_key().unwrap();
        let new = keys::NewKey {
            name,
            hint: &api_key::hint(&key),
            digest: &api_key::digest_of(key.expose_secret()),
            scopes: &scopes.iter().map(|scope| scope.to_string()).collect::<Vec<_>>(),
            expires_at: None,
        };
        keys::create_key(&self.state.writer, account, &new, now).await.unwrap();
        User { account, token: key.expose_secret().to_owned() }
    }

    /// Reports observations as JSON and returns the answer, which must be a 202.
    pub async fn report(&self, user: &User, observations: Value) -> Value {
        let body = json!({"observations": observations});
        let answer = self.post("/v1/prices").bearer_auth(&user.token).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 202, "{}", answer.text().await.unwrap());
        answer.json().await.unwrap()
    }

    /// Records all messages that wait on the bus.
    pub async fn record_all(&self) {
        while record::step(&self.state).await.unwrap().is_more() {}
    }

    /// Batch as which a report was accepted.
    pub async fn batch(&self, user: &User, accepted: &Value) -> Value {
        let path = format!("/v1/batches/{}", accepted["batch_id"].as_str().unwrap());
        self.get(&path).bearer_auth(&user.token).send().await.unwrap().json().await.unwrap()
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }
}

impl Drop for TestApp {
    /// Fails the test if the OpenAPI document does not know one of the answers.
    fn drop(&mut self) {
        self.state.stopping.cancel();
        self.answers.check();
    }
}
