//! Secrets that change while a service runs: a PostgreSQL that demands passwords, rotations as Secrets Manager performs
//! them, and a constant load of requests.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Client;
use salebell::app::AppState;
use salebell::cli::dev::cluster::Cluster;
use salebell::clock::Clock;
use salebell::config::Config;
use salebell::instance::renewal::{Origin, Renewal};
use salebell::secrets::{self, Keyring};
use secrecy::ExposeSecret;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::support::aws::{Environment, Fault, READ_SECRET, REGION};
use crate::support::binary::{Binary, command};
use crate::support::database::TestDatabase;
use crate::support::eventually;
use crate::support::scratch::Scratch;

const CURRENT: &str = "AWSCURRENT";
const PENDING: &str = "AWSPENDING";

/// A database whose password is a secret, and the settings of a service that uses it.
struct Setting {
    cluster: Cluster,
    admin: tokio::sync::Mutex<PgConnection>,
    environment: Environment,
    secret: String,
    folder: Scratch,
}

fn login(password: &str) -> String {
    json!({"username": "app", "password": password}).to_string()
}

impl Setting {
    async fn new(first: &str) -> Setting {
        let folder = Scratch::new();
        let cluster = Cluster::start(&folder.path().join("postgres"), &|_| {}).await.unwrap();
        let mut admin = PgConnection::connect(cluster.url().expose_secret()).await.unwrap();
        let create = format!("create role app superuser login password '{first}'");
        sqlx::query(AssertSqlSafe(create)).execute(&mut admin).await.unwrap();
        let environment = Environment::create().await;
        let secret = environment.create_secret("database", &login(first)).await;
        let file = format!(
            "[database]\nurl = \"postgres://127.0.0.1:{port}/salebell\"\nreader_url = \"postgres://127.0.0.1:{port}/salebell\"\n\
             user = \"app\"\npassword = \"{first}\"\nacquire_timeout_ms = 20000\n\
             [server]\nlisten = \"127.0.0.1:0\"\ngrpc_listen = \"127.0.0.1:0\"\nmetrics_listen = \"127.0.0.1:0\"\nlinger_s = 0\n\
             [files]\ndirectory = \"{files}\"\nreserve_bytes = 0\n\
             [aws]\nregion = \"{REGION}\"\n\
             secrets = [{{ setting = \"database.password\", secret = \"secret:{secret}#password\" }}]\n",
            port = cluster.port(),
            files = folder.path().display(),
        );
        std::fs::write(folder.path().join("config.toml"), file).unwrap();
        let setting = Setting { cluster, admin: admin.into(), environment, secret, folder };
        let output = command(&["migrate"], &setting.settings()).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        setting
    }

    /// Settings as systemd passes them.
    fn settings(&self) -> Vec<(&str, &str)> {
        let credentials = ("CREDENTIALS_DIRECTORY", self.folder.path().to_str().unwrap());
        self.environment.settings().into_iter().chain([credentials]).collect()
    }

    async fn set_password(&self, password: &str) {
        let alter = format!("alter role app password '{password}'");
        sqlx::query(AssertSqlSafe(alter)).execute(&mut *self.admin.lock().await).await.unwrap();
    }

    /// Number of connections of the service.
    async fn connections(&self) -> i64 {
        let count = "select count(*) from pg_stat_activity where usename = 'app'";
        sqlx::query_scalar(count).fetch_one(&mut *self.admin.lock().await).await.unwrap()
    }

    /// Ends the service's connections, so it has to open new ones with the current password.
    async fn end_connections(&self) {
        let end = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = 'app'";
        sqlx::query(end).execute(&mut *self.admin.lock().await).await.unwrap();
    }
}

/// Sends requests from concurrent clients until it is stopped; returns the number of successful answers, and all other
/// outcomes.
async fn load(url: String, key: Arc<str>, sides: usize, stop: Arc<AtomicBool>) -> (usize, Vec<String>) {
    let client = Client::builder().no_proxy().build().unwrap();
    let tasks = (0..sides).map(|side| {
        let (client, url, key, stop) = (client.clone(), url.clone(), key.clone(), stop.clone());
        tokio::spawn(async move {
            let (mut good, mut bad) = (0, Vec::new());
            // Requests that wait for a password were sent before it changed; a few more follow it, however slow this
            // machine is.
            while good + bad.len() < 12 || !stop.load(Ordering::SeqCst) {
                // Routes that use the reader, the writer, and the pool for health checks.
                for path in ["v1/deals", "v1/watches", "readyz"] {
                    let response = client.get(format!("{url}/{path}?limit=10")).bearer_auth(&key).send();
                    match response.await {
                        Ok(answer) if answer.status() == 200 => good += 1,
                        Ok(answer) => bad.push(format!("{side} {path}: {}", answer.text().await.unwrap())),
                        Err(error) => bad.push(format!("{side} {path}: {error:?}")),
                    }
                }
            }
            (good, bad)
        })
    });
    let (mut good, mut bad) = (0, Vec::new());
    for end in futures_util::future::join_all(tasks).await {
        let (some, others) = end.unwrap();
        good += some;
        bad.extend(others);
    }
    (good, bad)
}

#[tokio::test]
async fn no_request_fails_while_the_database_password_is_rotated() {
    let setting = Setting::new("first-hunter").await;
    let settings = setting.settings();
    let output = command(&["key", "create", "--subject", "anna"], &settings).output().await.unwrap();
    let key: Arc<str> = String::from_utf8(output.stdout).unwrap().trim().into();
    let service = Binary::start(&["api"], &settings);
    let url = service.url().await;
    let client = Client::builder().no_proxy().build().unwrap();
    let is_ready = async || client.get(format!("{url}/readyz")).send().await.unwrap().status() == 200;
    eventually("ready", is_ready).await;

    // The database has the new password before Secrets Manager marks it as current.
    let stop = Arc::new(AtomicBool::new(false));
    let loading = tokio::spawn(load(url.clone(), key.clone(), 2, stop.clone()));
    eventually("a few connections", async || setting.connections().await >= 2).await;
    let few = setting.connections().await;
    setting.environment.put_secret(&setting.secret, &login("second-hunter"), PENDING).await;
    setting.set_password("second-hunter").await;
    let more = tokio::spawn(load(url.clone(), key.clone(), 24, stop.clone()));
    eventually("more connections", async || setting.connections().await > few + 2).await;
    setting.environment.put_secret(&setting.secret, &login("second-hunter"), CURRENT).await;
    stop.store(true, Ordering::SeqCst);
    for loading in [loading, more] {
        let (good, bad) = loading.await.unwrap();
        assert!(good > 10 && bad.is_empty(), "{good} good, and {bad:#?}\n{}", service.log());
    }

    // For a moment no process can know the new password: requests wait for it.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    setting.end_connections().await;
    setting.set_password("third-hunter").await;
    let stop = Arc::new(AtomicBool::new(false));
    let reads = setting.environment.requests(READ_SECRET);
    let loading = tokio::spawn(load(url.clone(), key.clone(), 8, stop.clone()));
    eventually("it requests another one", async || setting.environment.requests(READ_SECRET) > reads + 2)
        .await;
    assert_eq!(setting.connections().await, 0);
    setting.environment.put_secret(&setting.secret, &login("third-hunter"), CURRENT).await;
    eventually("connections again", async || setting.connections().await > 2).await;
    stop.store(true, Ordering::SeqCst);
    let (good, bad) = loading.await.unwrap();
    assert!(good > 10 && bad.is_empty(), "{good} good, and {bad:#?}\n{}", service.log());
    // Refused connections do not each query AWS.
    assert!(setting.environment.requests(READ_SECRET) - reads < 40);

    let log = service.log();
    assert!(log.contains("log in with another secret"), "{log}");
    assert!(!log.contains("hunter"), "{log}");
    let seen = std::fs::read(format!("/proc/{}/environ", service.id())).unwrap();
    let seen = [seen, std::fs::read(format!("/proc/{}/cmdline", service.id())).unwrap()].concat();
    assert!(!String::from_utf8_lossy(&seen).contains("hunter"));
    drop(service);
    setting.cluster.stop().await.unwrap();
}

#[tokio::test]
async fn an_unknown_password_is_refused_in_time() {
    let setting = Setting::new("first-hunter").await;
    let file = setting.folder.path().join("config.toml");
    let config = Config::load(Some(file.as_path()), []).unwrap();
    let app = AppState::new(config, Clock::system()).unwrap();
    setting.set_password("second-hunter").await;
    // Without a renewal the error is reported at once; with one, after a wait.
    let error = app.writer.acquire().await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), "28P01");
    app.log_in.password.expect_renewals();
    let begun = std::time::Instant::now();
    let error = app.writer.begin().await.unwrap_err();
    assert!(begun.elapsed() >= Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(salebell::error::Error::from(error).kind.status(), 503);
    let error = app.writer.acquire().await.unwrap_err();
    assert!(!format!("{error:?} {error} {app:?}", app = app.config).contains("hunter"));
    setting.cluster.stop().await.unwrap();
}

/// A service within the test, whose settings are parameters.
async fn service(environment: &Environment, database: &TestDatabase) -> (salebell::app::App, Renewal) {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.toml", Uuid::now_v7().simple()));
    let file = format!(
        "[database]\nurl = \"{}\"\n[aws]\nregion = \"{REGION}\"\nparameters = \"{}\"\n",
        database.url,
        environment.path()
    );
    std::fs::write(&path, file).unwrap();
    let config = Config::load(Some(path.as_path()), []).unwrap();
    let app = AppState::new(config, Clock::system()).unwrap();
    let origin = Origin { file: Some(path), environment: Vec::new() };
    let config = environment.config();
    let renewal = Renewal::with(&app, origin, &config).unwrap();
    (app, renewal)
}

#[tokio::test]
async fn valid_keys_and_issuers_are_adopted_and_invalid_ones_are_not() {
    let (environment, database) = (Environment::create().await, TestDatabase::create_bare().await);
    let (old, new) = (secrets::generate_key().unwrap(), secrets::generate_key().unwrap());
    let row = Uuid::now_v7();
    let secret = environment.create_secret("webhook", old.expose_secret()).await;
    environment.put("webhook/encryption_keys", &format!("secret:{secret}")).await;
    // A parameter that is not reloaded keeps its value, and blocks nothing.
    environment.put("later/setting", "x").await;
    let (app, mut renewal) = service(&environment, &database).await;
    assert!(!app.keyring.can_seal());
    renewal.read_all().await;
    let sealed = app.keyring.seal(row, b"bell").unwrap();

    let both = format!("{},{}", new.expose_secret(), old.expose_secret());
    environment.put_secret(&secret, &both, CURRENT).await;
    let issuer = json!([{"issuer": "https://i.example", "audiences": ["a"], "algorithms": ["RS256"],
        "jwks_url": "http://127.0.0.1:1/keys"}]);
    environment.put("auth/issuers", &issuer.to_string()).await;
    // { "alg": "RS256" } . { "iss": "https://i.example" … }
    let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2kuZXhhbXBsZSIsInN1YiI6ImEifQ.AA";
    let error = app.authenticator.authenticate(token).await.err().unwrap().detail;
    assert!(error.contains("not trusted"), "{error}");
    renewal.read_all().await;
    let error = app.authenticator.authenticate(token).await.err().unwrap().detail;
    assert!(!error.contains("not trusted"), "{error}");
    assert_eq!(app.keyring.open(row, &sealed).unwrap().expose_secret(), b"bell");
    let sealed = app.keyring.seal(row, b"ring").unwrap();
    assert!(Keyring::new(std::slice::from_ref(&old)).unwrap().open(row, &sealed).is_err());

    // A value that is unusable or unreadable leaves the previous one in place.
    environment.put_secret(&secret, "hunter2", CURRENT).await;
    renewal.read_all().await;
    assert_eq!(app.keyring.open(row, &sealed).unwrap().expose_secret(), b"ring");
    environment.fail_always(READ_SECRET, Some(Fault::Refuse("AccessDeniedException", "No.".to_owned())));
    renewal.read_all().await;
    assert_eq!(app.keyring.open(row, &sealed).unwrap().expose_secret(), b"ring");
}
