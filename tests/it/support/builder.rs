//! The builder of the app under test.

use std::sync::Arc;

use axum::Router;
use chrono::TimeDelta;
use salebell::app::{App, AppState};
use salebell::clock::Clock;
use salebell::config::Config;
use salebell::server::Server;
use salebell::{http, secrets};
use secrecy::ExposeSecret;

use super::binary::UNLIMITED;
use super::bus::{Carrier, Queues};
use super::database::TestDatabase;
use super::openapi::Answers;
use super::s3::{Bucket, Store};
use super::scratch::Scratch;
use super::{RINGS_ALWAYS, TestApp, TestClock};

/// Settings of an app under test besides the defaults of all tests: `TestApp::builder().store(store).spawn().await`.
pub struct TestAppBuilder {
    bus: Carrier,
    store: Store,
    /// Settings in order: a later value of a key replaces an earlier one.
    settings: Vec<(String, String)>,
    /// Database and store of another instance; they replace the builder's own.
    shared: Vec<(String, String)>,
    clock_ahead: Option<TimeDelta>,
    prepare: Box<dyn FnOnce(&mut AppState) + Send>,
    /// Routes of the test's own.
    router: Option<Box<dyn FnOnce(App) -> Router + Send>>,
}

impl Default for TestAppBuilder {
    fn default() -> TestAppBuilder {
        TestAppBuilder {
            bus: Carrier::Postgres,
            store: Store::Directory,
            settings: Vec::new(),
            shared: Vec::new(),
            clock_ahead: None,
            prepare: Box::new(|_| ()),
            router: None,
        }
    }
}

impl TestAppBuilder {
    /// Sets the carrier of reported prices: a table of the database, or a topic and queues of the test's own.
    pub fn bus(mut self, carrier: Carrier) -> TestAppBuilder {
        self.bus = carrier;
        self
    }

    /// Sets where the bytes of files are: in a directory, or in a bucket of the test's own.
    pub fn store(mut self, store: Store) -> TestAppBuilder {
        self.store = store;
        self
    }

    /// Adds settings to the tests' defaults, such as `("SALEBELL_WORKER__FANOUT_SLICE", "3")`.
    pub fn settings(mut self, settings: &[(&str, &str)]) -> TestAppBuilder {
        self.settings.extend(owned(settings));
        self
    }

    /// Uses the clock of a real process on a machine that is ahead by this much. [`TestApp::clock`] is then the
    /// machine's clock.
    pub fn clock_ahead(mut self, ahead: TimeDelta) -> TestAppBuilder {
        self.clock_ahead = Some(ahead);
        self
    }

    /// Makes another instance on the database, store and bus of `other`.
    pub fn beside(mut self, other: &TestApp) -> TestAppBuilder {
        self.shared.extend(owned(&[
            ("SALEBELL_DATABASE__URL", other.database.url.as_str()),
            ("SALEBELL_FILES__DIRECTORY", other.files.path().to_str().unwrap()),
        ]));
        self.shared.extend(other.bucket.iter().flat_map(|bucket| owned(&bucket.settings())));
        self.shared.extend(other.queues.iter().flat_map(|queues| owned(&queues.settings())));
        self
    }

    /// Replaces a part that no setting names, such as the resolver of webhooks.
    pub fn prepare(mut self, prepare: impl FnOnce(&mut AppState) + Send + 'static) -> TestAppBuilder {
        self.prepare = Box::new(prepare);
        self
    }

    /// Uses routes of the test's own in place of the program's.
    pub fn router(mut self, router: impl FnOnce(App) -> Router + Send + 'static) -> TestAppBuilder {
        self.router = Some(Box::new(router));
        self
    }

    /// Starts the app. Its server runs until the [`TestApp`] is dropped.
    pub async fn spawn(self) -> TestApp {
        let bucket = match self.store {
            Store::Directory => None,
            Store::S3 => Some(Bucket::create().await),
        };
        let queues = match self.bus {
            Carrier::Postgres => None,
            Carrier::Aws => Some(Queues::create().await),
        };
        let database = TestDatabase::create().await;
        let files = Scratch::new();
        let mut settings = defaults(&database, &files);
        settings.extend(bucket.iter().flat_map(|bucket| owned(&bucket.settings())));
        settings.extend(queues.iter().flat_map(|queues| owned(&queues.settings())));
        settings.extend(self.shared);
        settings.extend(self.settings);
        let config = Config::load(None, settings).unwrap();

        let clock = TestClock::default();
        let machine = clock.clone();
        let app_clock = match self.clock_ahead {
            None => Clock::new(move || machine.now()),
            Some(ahead) => {
                machine.advance(ahead);
                Clock::of_fleet(move || machine.now())
            }
        };
        let mut state = AppState::new(config, app_clock).unwrap();
        (self.prepare)(Arc::get_mut(&mut state).expect("the only reference so far"));
        let answers = Answers::default();
        let router = match self.router {
            None => answers.watch(http::router(state.clone())),
            Some(router) => router(state.clone()),
        };
        let server = Server::bind_router(state.clone(), router).await.unwrap();
        let url = server.url().unwrap();
        tokio::spawn(server.run());
        let client =
            reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true).build().unwrap();
        TestApp { state, clock, url, client, database, files, bucket, queues, answers }
    }
}

/// The settings of all tests.
fn defaults(database: &TestDatabase, files: &Scratch) -> Vec<(String, String)> {
    let key = secrets::generate_key().unwrap();
    let mut settings = owned(&UNLIMITED);
    settings.extend(owned(&[
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
    ]));
    settings
}

fn owned(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    settings.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}
