//! The spawned app: a database and a port of its own for each test.

pub mod appliance;
pub mod aws;
pub mod binary;
pub mod bus;
pub mod catalogue;
pub mod database;
pub mod ec2;
pub mod gate;
pub mod grpc;
pub mod instance;
pub mod issuer;
pub mod journal;
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
use reqwest::{Method, RequestBuilder};
use salebell::app::{App, AppState};
use salebell::clock::Clock;
use salebell::config::Config;
use salebell::domain::api_key;
use salebell::domain::ids::AccountId;
use salebell::http;
use salebell::secrets;
use salebell::server::Server;
use salebell::store::{accounts, keys};
use salebell::worker::record;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use bus::{Carrier, Queues};
use database::TestDatabase;
use s3::{Bucket, Store};
use scratch::Scratch;

/// Observations of tests are of fixed days, which are long ago by now: the setting under which they ring all the same.
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
    pub app: App,
    pub clock: TestClock,
    pub url: String,
    pub client: reqwest::Client,
    pub database: TestDatabase,
    /// Where the bytes of files are, or are gathered.
    pub files: Scratch,
    /// Where they are on S3.
    pub bucket: Option<Bucket>,
    /// What reported prices go through on AWS.
    pub queues: Option<Queues>,
}

/// A caller with an API key.
pub struct User {
    pub account: AccountId,
    pub token: String,
}

impl TestApp {
    /// Waits until `sql`, which gives one boolean, is true.
    pub async fn until(&self, sql: &'static str) {
        let waiting = async {
            while !sqlx::query_scalar::<_, bool>(sql).fetch_one(&self.app.writer).await.unwrap() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting).await.expect(sql);
    }

    pub async fn spawn() -> TestApp {
        TestApp::spawn_with(&[]).await
    }

    /// Spawns with settings on top of the tests', such as `("SALEBELL_WORKER__FANOUT_SLICE", "3")`.
    pub async fn spawn_with(settings: &[(&str, &str)]) -> TestApp {
        TestApp::spawn_router(settings, http::router).await
    }

    /// Spawns with the bytes of files in this store.
    pub async fn spawn_on(store: Store) -> TestApp {
        TestApp::spawn_on_with(store, &[]).await
    }

    /// Spawns with the bytes of files in this store, and with further settings.
    pub async fn spawn_on_with(store: Store, settings: &[(&str, &str)]) -> TestApp {
        if store == Store::Directory {
            return TestApp::spawn_with(settings).await;
        }
        let bucket = Bucket::create().await;
        let settings: Vec<_> = bucket.settings().into_iter().chain(settings.iter().copied()).collect();
        let mut app = TestApp::spawn_with(&settings).await;
        app.bucket = Some(bucket);
        app
    }

    /// Spawns with prices going this way.
    pub async fn spawn_on_bus(carrier: Carrier) -> TestApp {
        TestApp::spawn_on_bus_with(carrier, &[]).await
    }

    /// Spawns with prices going this way, and with further settings.
    pub async fn spawn_on_bus_with(carrier: Carrier, settings: &[(&str, &str)]) -> TestApp {
        if carrier == Carrier::Postgres {
            return TestApp::spawn_with(settings).await;
        }
        let queues = Queues::create().await;
        let settings: Vec<_> = queues.settings().into_iter().chain(settings.iter().copied()).collect();
        let mut app = TestApp::spawn_with(&settings).await;
        app.queues = Some(queues);
        app
    }

    /// Lets time go by for the bus: its own clock, where it has one, is that of the machine.
    pub async fn pass(&self, time: Duration) {
        match self.queues {
            None => self.clock.advance(TimeDelta::from_std(time).unwrap()),
            Some(_) => tokio::time::sleep(time).await,
        }
    }

    /// Another instance on the same database and store, with further settings.
    pub async fn spawn_beside(&self, settings: &[(&str, &str)]) -> TestApp {
        let mut shared = vec![
            ("SALEBELL_DATABASE__URL", self.database.url.as_str()),
            ("SALEBELL_FILES__DIRECTORY", self.files.path().to_str().unwrap()),
        ];
        shared.extend(self.bucket.iter().flat_map(Bucket::settings));
        for (key, value) in self.queues.iter().flat_map(Queues::settings) {
            shared.push((key, value));
        }
        shared.extend(settings);
        TestApp::spawn_with(&shared).await
    }

    /// The names of what the store holds.
    pub async fn blobs(&self) -> Vec<String> {
        let later = SystemTime::now() + Duration::from_secs(3600);
        let found = self.app.blobs.list_old(later).await.unwrap();
        found.into_iter().flatten().map(|found| found.name).collect()
    }

    /// Spawns with routes of the test's own.
    pub async fn spawn_router(
        settings: &[(&str, &str)],
        router: impl FnOnce(App) -> axum::Router,
    ) -> TestApp {
        TestApp::spawn_as(settings, |_| (), router).await
    }

    /// Spawns with something replaced that no setting names, such as the resolver of webhooks.
    pub async fn spawn_prepared(settings: &[(&str, &str)], prepare: impl FnOnce(&mut AppState)) -> TestApp {
        TestApp::spawn_as(settings, prepare, http::router).await
    }

    /// Spawns with a clock like that of a real process, on a machine whose own is so much ahead. `clock` is the machine's.
    pub async fn spawn_fleet(ahead: TimeDelta) -> TestApp {
        TestApp::spawn_fleet_with(&[], ahead).await
    }

    /// Another such instance on the same database and store.
    pub async fn spawn_fleet_beside(&self, ahead: TimeDelta) -> TestApp {
        let shared = [
            ("SALEBELL_DATABASE__URL", self.database.url.as_str()),
            ("SALEBELL_FILES__DIRECTORY", self.files.path().to_str().unwrap()),
        ];
        TestApp::spawn_fleet_with(&shared, ahead).await
    }

    async fn spawn_fleet_with(settings: &[(&str, &str)], ahead: TimeDelta) -> TestApp {
        let app = TestApp::spawn_on_clock(
            settings,
            |_| (),
            http::router,
            |machine| {
                machine.advance(ahead);
                Clock::of_fleet(move || machine.now())
            },
        );
        app.await
    }

    async fn spawn_as(
        settings: &[(&str, &str)],
        prepare: impl FnOnce(&mut AppState),
        router: impl FnOnce(App) -> axum::Router,
    ) -> TestApp {
        TestApp::spawn_on_clock(settings, prepare, router, |clock| Clock::new(move || clock.now())).await
    }

    async fn spawn_on_clock(
        settings: &[(&str, &str)],
        prepare: impl FnOnce(&mut AppState),
        router: impl FnOnce(App) -> axum::Router,
        clock_of: impl FnOnce(TestClock) -> Clock,
    ) -> TestApp {
        let database = TestDatabase::create().await;
        let files = Scratch::new();
        let key = secrets::generate_key().unwrap();
        let defaults = [
            ("SALEBELL_DATABASE__URL", database.url.as_str()),
            ("SALEBELL_DATABASE__MAX_CONNECTIONS", "10"),
            ("SALEBELL_FILES__DIRECTORY", files.path().to_str().unwrap()),
            ("SALEBELL_FILES__RESERVE_BYTES", "0"),
            ("SALEBELL_SERVER__LISTEN", "127.0.0.1:0"),
            ("SALEBELL_SERVER__LINGER_S", "0"),
            ("SALEBELL_SERVER__GRPC_LISTEN", "127.0.0.1:0"),
            ("SALEBELL_SERVER__METRICS_LISTEN", "127.0.0.1:0"),
            RINGS_ALWAYS,
            ("SALEBELL_WEBHOOK__ALLOW_HTTP", "true"),
            ("SALEBELL_WEBHOOK__ALLOW_NETWORKS", "127.0.0.0/8"),
            ("SALEBELL_WEBHOOK__ENCRYPTION_KEYS", key.expose_secret()),
        ];
        let settings =
            defaults.iter().chain(settings).map(|(key, value)| (key.to_string(), value.to_string()));
        let config = Config::load(None, settings).unwrap();
        let clock = TestClock::default();
        let mut app = AppState::new(config, clock_of(clock.clone())).unwrap();
        prepare(Arc::get_mut(&mut app).expect("nobody else has the app yet"));
        let server = Server::bind_router(app.clone(), router(app.clone())).await.unwrap();
        let url = server.url().unwrap();
        tokio::spawn(server.run());
        let client =
            reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true).build().unwrap();
        TestApp { app, clock, url, client, database, files, bucket: None, queues: None }
    }

    /// An account with an API key of these scopes.
    pub async fn user(&self, name: &str, scopes: &[&str]) -> User {
        let now = self.clock.now();
        let account = accounts::find_or_create_account(&self.app.writer, "test", name, now).await.unwrap();
        let key = secrets::generate_api_key().unwrap();
        let new = keys::NewKey {
            name,
            hint: &api_key::hint(&key),
            digest: &api_key::digest_of(key.expose_secret()),
            scopes: &scopes.iter().map(|scope| scope.to_string()).collect::<Vec<_>>(),
            expires_at: None,
        };
        keys::create_key(&self.app.writer, account, &new, now).await.unwrap();
        User { account, token: key.expose_secret().to_owned() }
    }

    /// Reports observations as JSON and returns the answer, which must be a 202.
    pub async fn report(&self, user: &User, observations: Value) -> Value {
        let body = json!({"observations": observations});
        let answer = self.post("/v1/prices").bearer_auth(&user.token).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 202, "{}", answer.text().await.unwrap());
        answer.json().await.unwrap()
    }

    /// Records what waits on the bus.
    pub async fn record_all(&self) {
        while record::step(&self.app).await.unwrap().is_more() {}
    }

    /// The batch that a report was accepted as.
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
    fn drop(&mut self) {
        self.app.stopping.cancel();
    }
}
