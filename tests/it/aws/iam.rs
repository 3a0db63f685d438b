//! IAM tokens in place of a password: a real PostgreSQL behind two hosts that accept nothing else, and that check
//! tokens as RDS does.

use std::time::Duration;

use aws_credential_types::Credentials;
use chrono::TimeDelta;
use futures_util::future::join_all;
use reqwest::Client;
use salebell::app::{App, AppState};
use salebell::cli::dev::cluster::Cluster;
use salebell::clock::Clock;
use salebell::config::Config;
use salebell::database::iam_tokens::make_token;
use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection, PgConnection};

use crate::support::aws::REGION;
use crate::support::binary::{Binary, command};
use crate::support::rds::{Key, Rds};
use crate::support::scratch::Scratch;
use crate::support::{TestClock, eventually};
use test_support::ec2::{Ec2, Fault, Group};

/// A database behind two hosts that demand IAM tokens.
struct Setting {
    cluster: Cluster,
    admin: tokio::sync::Mutex<PgConnection>,
    writer: Rds,
    reader: Rds,
    clock: TestClock,
    folder: Scratch,
}

/// Credentials of this process, from its environment.
fn own_key(id: &str) -> Option<Key> {
    let variable = |name| std::env::var(name).unwrap();
    (id == variable("AWS_ACCESS_KEY_ID")).then(|| Key {
        secret: variable("AWS_SECRET_ACCESS_KEY"),
        session: None,
        end: None,
    })
}

impl Setting {
    async fn new(keys: impl Fn(&str) -> Option<Key> + Clone + Send + Sync + 'static) -> Setting {
        let folder = Scratch::new();
        let cluster = Cluster::start(&folder.path().join("postgres"), &|_| {}).await.unwrap();
        let mut admin = PgConnection::connect(cluster.url().expose_secret()).await.unwrap();
        sqlx::query("create role app superuser login").execute(&mut admin).await.unwrap();
        // PostgreSQL trusts every connection that the stand-in has let through.
        let rules = folder.path().join("postgres/data/pg_hba.conf");
        let others = std::fs::read_to_string(&rules).unwrap();
        std::fs::write(&rules, format!("host all app 127.0.0.1/32 trust\n{others}")).unwrap();
        sqlx::query("select pg_reload_conf()").execute(&mut admin).await.unwrap();
        let port = cluster.port();
        let plain = format!("postgres://app@127.0.0.1:{port}/salebell");
        eventually("the role is trusted", async || PgConnection::connect(&plain).await.is_ok()).await;

        let clock = TestClock::default();
        let host = async |name| {
            let clock = clock.clone();
            Rds::start(name, REGION, port, move || clock.now(), keys.clone()).await
        };
        let (writer, reader) = (host("localhost").await, host("127.0.0.1").await);
        Setting { cluster, admin: admin.into(), writer, reader, clock, folder }
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let url = |host, port| format!("postgres://app@{host}:{port}/salebell?sslmode=require");
        vec![
            ("SALEBELL_DATABASE__URL", url("localhost", self.writer.port)),
            ("SALEBELL_DATABASE__READER_URL", url("127.0.0.1", self.reader.port)),
            ("SALEBELL_DATABASE__IAM", "true".to_owned()),
            ("SALEBELL_AWS__REGION", REGION.to_owned()),
            ("SALEBELL_FILES__DIRECTORY", self.folder.path().to_str().unwrap().to_owned()),
            ("SALEBELL_FILES__RESERVE_BYTES", "0".to_owned()),
            ("SALEBELL_SERVER__LISTEN", "127.0.0.1:0".to_owned()),
            ("SALEBELL_SERVER__GRPC_LISTEN", "127.0.0.1:0".to_owned()),
            ("SALEBELL_SERVER__METRICS_LISTEN", "127.0.0.1:0".to_owned()),
            ("SALEBELL_WORKER__METRICS_LISTEN", "127.0.0.1:0".to_owned()),
            ("SALEBELL_SERVER__LINGER_S", "0".to_owned()),
        ]
    }

    /// Starts a service within the test, on the test's clock.
    fn app(&self) -> App {
        let settings = self.settings().into_iter().map(|(key, value)| (key.to_owned(), value));
        let clock = self.clock.clone();
        AppState::new(Config::load(None, settings).unwrap(), Clock::new(move || clock.now())).unwrap()
    }

    /// Ends all connections, so the service has to open new ones.
    async fn end_connections(&self) {
        let end = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = 'app'";
        sqlx::query(end).execute(&mut *self.admin.lock().await).await.unwrap();
    }
}

fn age(app: &App) -> TimeDelta {
    app.log_in.tokens.as_ref().and_then(|tokens| tokens.age()).unwrap_or(TimeDelta::MAX)
}

#[tokio::test]
async fn each_host_has_its_own_token_and_another_one_after_ten_minutes() {
    let setting = Setting::new(own_key).await;
    let app = setting.app();
    // Connections are held, so each one is new.
    let mut held = vec![app.writer.acquire().await.unwrap(), app.reader().acquire().await.unwrap()];
    let first = (setting.writer.last(), setting.reader.last());
    let place = format!("localhost:{}/?Action=connect&DBUser=app&X-Amz-", setting.writer.port);
    assert!(first.0.starts_with(&place), "{}", first.0);
    assert_ne!(first.0, first.1);

    setting.clock.advance(TimeDelta::seconds(590));
    held.push(app.writer.acquire().await.unwrap());
    assert_eq!(setting.writer.last(), first.0);
    setting.clock.advance(TimeDelta::seconds(11));
    eventually("tokens are renewed", async || age(&app) < TimeDelta::seconds(60)).await;
    held.extend([app.writer.acquire().await.unwrap(), app.reader().acquire().await.unwrap()]);
    assert_ne!(setting.writer.last(), first.0);
    assert_ne!(setting.reader.last(), first.1);
    // Connections outlive the tokens they were opened with.
    setting.clock.advance(TimeDelta::hours(1));
    for connection in &mut held {
        sqlx::query("select 1").execute(&mut **connection).await.unwrap();
    }
    assert_eq!(setting.writer.seen().taken.len(), 3);
    assert!(setting.writer.seen().refused.is_empty());
    drop(held);
    setting.cluster.stop().await.unwrap();
}

#[tokio::test]
async fn an_expired_token_is_refused_and_replaced_and_no_request_fails() {
    let setting = Setting::new(own_key).await;
    // The database's clock is so far ahead that a token is valid for 10 s only.
    setting.writer.seen().ahead = TimeDelta::seconds(890);
    let app = setting.app();
    let first = app.writer.acquire().await.unwrap();
    let token = setting.writer.last();
    setting.clock.advance(TimeDelta::seconds(15));
    let more = join_all((0..8).map(|_| app.writer.acquire())).await;
    assert!(more.iter().all(Result::is_ok), "{more:?}");
    let refused = setting.writer.seen().refused.clone();
    assert!(!refused.is_empty() && refused.iter().all(|reason| reason == "it is expired"), "{refused:?}");
    // All refused connections wait for the same new token.
    assert!(refused.len() <= 8, "{refused:?}");
    assert_ne!(setting.writer.last(), token);
    drop((first, more));
    setting.cluster.stop().await.unwrap();
}

#[tokio::test]
async fn tokens_that_rds_would_refuse_are_refused() {
    let setting = Setting::new(own_key).await;
    let of = |id: &str, secret: &str, session| Credentials::new(id, secret, session, None, "test");
    let id = std::env::var("AWS_ACCESS_KEY_ID").unwrap();
    let secret = std::env::var("AWS_SECRET_ACCESS_KEY").unwrap();
    let key = of(&id, &secret, None);
    let other = of(&id, "another", None);
    let with_session = of(&id, &secret, Some("a/session+==".to_owned()));
    let stranger = of("AKIASTRANGER", "another", None);
    let (now, port) = (setting.clock.now(), setting.writer.port);
    let late = now - TimeDelta::seconds(901);
    let log_in = async |token: &str, mode| {
        let options = PgConnectOptions::new_without_pgpass().host("localhost").port(port).username("app");
        let options = options.database("salebell").ssl_mode(mode).password(token);
        PgConnection::connect_with(&options).await
    };
    for (place, user, region, credentials, time, reason) in [
        (("127.0.0.1", port), "app", REGION, &key, now, format!("it is for 127.0.0.1:{port}")),
        (("localhost", 5432), "app", REGION, &key, now, "it is for localhost:5432".to_owned()),
        (("localhost", port), "anna", REGION, &key, now, "it is another user's".to_owned()),
        (("localhost", port), "app", "eu-west-1", &key, now, "eu-west-1/rds-db".to_owned()),
        (("localhost", port), "app", REGION, &other, now, "its signature is wrong".to_owned()),
        (("localhost", port), "app", REGION, &with_session, now, "its session is another".to_owned()),
        (("localhost", port), "app", REGION, &stranger, now, "nobody has its key".to_owned()),
        (("localhost", port), "app", REGION, &key, late, "it is expired".to_owned()),
    ] {
        let token = make_token(place, user, region, credentials, time).unwrap();
        let error = log_in(token.expose_secret(), PgSslMode::Require).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        assert_eq!(code.as_deref(), Some("28000"), "{error}");
        let reported = setting.writer.seen().refused.pop().unwrap();
        assert!(reported.contains(&reason), "{reported}, not {reason}");
    }
    let token = make_token(("localhost", port), "app", REGION, &key, now).unwrap();
    log_in(token.expose_secret(), PgSslMode::Require).await.unwrap();
    log_in(token.expose_secret(), PgSslMode::Disable).await.unwrap_err();
    assert_eq!(setting.writer.seen().refused, ["no encryption"]);
    setting.cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_missing_right_is_reported_clearly() {
    let setting = Setting::new(own_key).await;
    setting.writer.seen().users.clear();
    let settings = setting.settings();
    let mut settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let own = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| (name, std::env::var(name).unwrap()));
    settings.extend(own.iter().map(|(key, value)| (*key, value.as_str())));
    settings.push(("SALEBELL_LOG__LEVEL", "trace"));
    let output = command(&["migrate"], &settings).output().await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{errors}");
    assert!(errors.contains("PAM authentication failed for user \"app\""), "{errors}");
    assert!(errors.contains("perhaps that of app at localhost:"), "{errors}");
    assert!(errors.contains("rds_iam") && errors.contains("rds-db:connect"), "{errors}");
    assert!(!errors.contains("X-Amz-Signature="), "{errors}");
    // The service does not retry in a busy loop.
    let tries = setting.writer.seen().refused.len();
    assert!((2..20).contains(&tries), "{tries}");
    setting.cluster.stop().await.unwrap();
}

#[tokio::test]
async fn the_role_of_the_instance_logs_in_when_it_is_late_or_changes_and_after_an_outage() {
    let ec2 = std::sync::Arc::new(Ec2::start(Group::new("salebell-test")).await);
    let metadata = ec2.launch("i-1").await;
    let keys = ec2.clone();
    let setting = Setting::new(move |id: &str| {
        let key = keys.find_key(id)?;
        Some(Key { secret: key.secret, session: Some(key.session), end: Some(key.end) })
    })
    .await;
    let settings = setting.settings();
    let mut settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    settings.extend([
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.as_str()),
        ("SALEBELL_LOG__LEVEL", "trace"),
        ("SALEBELL_DATABASE__ACQUIRE_TIMEOUT_MS", "20000"),
    ]);

    // The role appears a moment after the command has started.
    ec2.world().role_is_late = true;
    let requested = async || ec2.calls("GET /latest/meta-data/iam") > 2;
    let (output, ()) =
        tokio::join!(async { command(&["migrate"], &settings).output().await.unwrap() }, async {
            eventually("the role is requested", requested).await;
            let mut world = ec2.world();
            world.role_keys.change(TimeDelta::seconds(60));
            world.role_is_late = false;
        });
    assert!(output.status.success(), "{output:?}");
    let output = command(&["key", "create", "--subject", "anna"], &settings).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let key = String::from_utf8(output.stdout).unwrap().trim().to_owned();

    // A service starts although the role is late.
    ec2.world().role_is_late = true;
    let service = Binary::start(&["api"], &settings);
    let mut worker = Binary::start(&["worker"], &settings);
    let url = service.url().await;
    let client = Client::builder().no_proxy().build().unwrap();
    let status = async |path: &str| {
        let requested = client.get(format!("{url}/{path}")).bearer_auth(&key).send().await;
        requested.unwrap().status().as_u16()
    };
    service.logged("there are no credentials of AWS").await;
    assert_eq!(status("readyz").await, 503);
    let mut role = {
        let mut world = ec2.world();
        world.role_is_late = false;
        world.role_keys.change(TimeDelta::seconds(24))
    };
    eventually("ready", async || status("readyz").await == 200).await;

    // The role gets new keys twice. Each key is used before the previous one expires, and no request fails. Tokens are
    // renewed after two thirds of the remaining lifetime of their key, here 16 s: each key lives that much longer.
    for lives in [40, 24] {
        let next = ec2.world().role_keys.change(TimeDelta::seconds(lives));
        eventually("the new key is used", async || {
            // A connection that has been idle for a second is pinged before it is used.
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            setting.end_connections().await;
            // Routes that use the reader, the writer, and the pool for health checks, each on a new connection.
            for path in ["v1/deals", "v1/watches", "readyz"] {
                assert_eq!(status(path).await, 200, "{}", service.log());
                assert!(ec2.world().role_keys.newest().end > setting.clock.now());
            }
            [&setting.writer, &setting.reader]
                .iter()
                .all(|host| host.last().contains(&format!("={}%2F", next.id)))
        })
        .await;
        assert!(setting.clock.now() < role.end, "the old key had expired");
        role = next;
    }

    // Terminated connections are discovered one by one.
    for _ in 0..5 {
        assert_eq!(status("v1/watches").await, 200, "{}", service.log());
    }
    for host in [&setting.writer, &setting.reader] {
        assert!(host.seen().refused.is_empty(), "{:?}", host.seen().refused);
    }

    // The metadata service is unavailable until the key has expired: then new log-ins fail, while existing connections
    // stay.
    ec2.world().metadata_outage = Some(Fault::Status(500));
    let reported = service.log().len();
    eventually("it is reported", async || {
        service.log()[reported..].contains("there is no token for the database: ")
    })
    .await;
    assert!(service.log().contains("s left, and there are no others"), "{}", service.log());
    assert_eq!(status("v1/watches").await, 200, "{}", service.log());
    {
        let mut world = ec2.world();
        world.metadata_outage = None;
        world.role_keys.change(TimeDelta::hours(6));
    }
    setting.end_connections().await;
    eventually("new connections again", async || status("v1/watches").await == 200).await;
    assert!(worker.is_running(), "{}", worker.log());

    for log in [service.log(), worker.log()] {
        for secret in ["X-Amz-Signature=", "X-Amz-Security-Token=a", "a-session-of-the-role", "se+cr/et"] {
            let line = log.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{secret} is in the log: {line:?}");
        }
    }
    drop((service, worker));
    tokio::time::timeout(Duration::from_secs(60), setting.cluster.stop()).await.unwrap().unwrap();
}

#[test]
fn the_image_knows_the_authorities_of_rds() {
    use tokio_rustls::rustls::RootCertStore;
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;

    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/packer/files/etc/salebell/rds.pem");
    let text = std::fs::read_to_string(path).unwrap();
    let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# Amazon RDS ")).collect();
    for kind in ["RSA2048", "RSA4096", "ECC384"] {
        assert!(names.contains(&format!("eu-central-1 Root CA {kind} G1").as_str()), "{kind}");
    }
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).unwrap() {
        store.add(certificate.unwrap()).unwrap();
    }
    assert_eq!((store.len(), names.len() % 3), (names.len(), 0));
}
