//! The database's reader falls behind, falls silent, and comes back. It is a database of its own, whose heartbeat the test
//! writes, so that every answer shows which of the two has given it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use nix::sys::signal::Signal;
use salebell::database::reads::Server;
use salebell::error::Error;
use salebell::store::reader_heartbeats;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::support::binary::Binary;
use crate::support::database::TestDatabase;
use crate::support::proxy::Proxy;
use crate::support::{TestApp, eventually};

/// Longest lag that the tests accept, in milliseconds.
const MAX_LAG: (&str, &str) = ("SALEBELL_DATABASE__READER_MAX_LAG_MS", "1000");
/// Id of a game in both databases, whose title is the name of the database.
const GAME: Uuid = Uuid::from_u128(7);

/// Database with one game, which has the name of its server as title.
async fn database(name: &str) -> TestDatabase {
    let database = TestDatabase::create().await;
    let insert = "insert into games (id, title, normalised_title, created_at, updated_at)
                  values ($1, $2, $2, now(), now())";
    sqlx::query(insert).bind(GAME).bind(name).execute(&mut connect(&database).await).await.unwrap();
    database
}

async fn connect(database: &TestDatabase) -> PgConnection {
    PgConnection::connect(&database.url).await.unwrap()
}

/// Writes the heartbeat that the reader has received: the time of the writer, so much later.
async fn receive(reader: &TestDatabase, ahead: TimeDelta) {
    let update = "update reader_heartbeats set beat_at = clock_timestamp() + $1";
    sqlx::query(update).bind(ahead).execute(&mut connect(reader).await).await.unwrap();
}

/// An hour ahead: the reader is never behind.
fn never_behind() -> TimeDelta {
    TimeDelta::hours(1)
}

/// An app with a writer and a reader, each behind a proxy, and the watch over the reader.
struct Setting {
    app: TestApp,
    writer_proxy: Proxy,
    reader_proxy: Proxy,
    _writer: TestDatabase,
    reader: TestDatabase,
}

impl Setting {
    /// Starts with a reader that has received this heartbeat.
    async fn new(ahead: TimeDelta) -> Setting {
        Setting::with(ahead, &[]).await
    }

    async fn with(ahead: TimeDelta, settings: &[(&str, &str)]) -> Setting {
        let (writer, reader) = (database("writer").await, database("reader").await);
        receive(&reader, ahead).await;
        Setting::on(writer, reader, settings).await
    }

    async fn on(writer: TestDatabase, reader: TestDatabase, settings: &[(&str, &str)]) -> Setting {
        let (writer_proxy, writer_url) = Proxy::before(&writer).await;
        let (reader_proxy, reader_url) = Proxy::before(&reader).await;
        let urls = [
            ("SALEBELL_DATABASE__URL", writer_url.as_str()),
            ("SALEBELL_DATABASE__READER_URL", reader_url.as_str()),
            ("SALEBELL_SERVER__REQUEST_TIMEOUT_S", "3"),
            MAX_LAG,
        ];
        let app = TestApp::builder().settings(&[&urls, settings].concat()).spawn().await;
        let state = app.state.clone();
        tokio::spawn(async move {
            let watch = state.health.reader.as_ref().expect("there is a reader");
            watch.run(&state.health.watchdog).await;
        });
        Setting { app, writer_proxy, reader_proxy, _writer: writer, reader }
    }

    /// Waits until reads use the server of this name.
    async fn until_served_by(&self, name: &str) {
        eventually(name, async || self.served_by().await == [name, name]).await;
    }

    /// Titles of the game in a list, and by itself: the server that each of them was read from.
    async fn served_by(&self) -> [String; 2] {
        let read = async |path: String| -> Value {
            let answer = self.app.get(&path).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{path}");
            answer.json().await.unwrap()
        };
        let (list, game) = (read("/v1/games".into()).await, read(format!("/v1/games/{GAME}")).await);
        [&list["items"][0]["title"], &game["title"]].map(|title| title.as_str().unwrap().to_owned())
    }

    async fn readiness(&self) -> Value {
        let answer = self.app.get("/readyz").send().await.unwrap();
        assert_eq!(answer.status(), 200, "a reader is never a reason to be not ready");
        answer.json().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_leave_a_reader_that_is_behind_and_come_back_when_it_has_caught_up() {
    let setting = Setting::new(never_behind()).await;
    setting.until_served_by("reader").await;
    assert_eq!(setting.readiness().await, json!({"status": "ready"}));
    // It receives no more.
    receive(&setting.reader, TimeDelta::zero()).await;
    setting.until_served_by("writer").await;
    let note = json!([{"pointer": "reader", "detail": "is behind; reads use the writer"}]);
    assert_eq!(setting.readiness().await, json!({"status": "ready", "notes": note}));
    receive(&setting.reader, never_behind()).await;
    setting.until_served_by("reader").await;
    assert_eq!(setting.readiness().await, json!({"status": "ready"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_leave_a_reader_that_falls_silent_and_come_back_to_a_pool_that_serves() {
    let setting = Setting::with(never_behind(), &[("SALEBELL_DATABASE__MAX_CONNECTIONS", "5")]).await;
    setting.until_served_by("reader").await;
    setting.reader_proxy.silence();
    // They use up the reader's pool, and wait until their time-outs.
    let hung = (0..5).map(|_| setting.app.get("/v1/games").send());
    let hung = tokio::spawn(futures_util::future::join_all(hung.collect::<Vec<_>>()));
    // It is queried by itself; all that wait for it move to the writer together.
    let game = setting.app.get(&format!("/v1/games/{GAME}")).send().await.unwrap();
    assert_eq!(game.json::<Value>().await.unwrap()["title"], "writer");
    setting.until_served_by("writer").await;
    let readiness = setting.readiness().await;
    assert_eq!(readiness["notes"][0]["detail"], "does not answer; reads use the writer");
    // New connections work; the old ones stay silent for good. No read fails on the way back.
    setting.reader_proxy.open();
    while setting.app.state.reads.server() == Server::Writer {
        setting.served_by().await;
    }
    setting.until_served_by("reader").await;
    for answer in hung.await.unwrap() {
        // One that waited for a connection may have got it from the reader that was back.
        assert!(matches!(answer.unwrap().status().as_u16(), 200 | 503));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_do_not_come_back_to_a_pool_that_has_no_connection() {
    let setting = Setting::with(never_behind(), &[("SALEBELL_DATABASE__MAX_CONNECTIONS", "5")]).await;
    let (reads, mut held) = (setting.app.state.reads.clone(), Vec::new());
    for _ in 0..5 {
        held.push(reads.pool_of(Server::Reader).acquire().await.unwrap());
    }
    setting.reader_proxy.silence();
    eventually("reads use the writer", async || reads.server() == Server::Writer).await;
    setting.reader_proxy.open();
    let mark = "create table mark as select clock_timestamp() as at";
    sqlx::query(mark).execute(&setting.app.state.writer).await.unwrap();
    // More than three probes later, which all were answered.
    setting.app.until("select beat_at > at + interval '6 seconds' from reader_heartbeats, mark").await;
    assert_eq!(reads.server(), Server::Writer);
    drop(held);
    setting.until_served_by("reader").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_cut_off_is_left_also_on_the_schema_of_the_previous_version() {
    let (writer, reader) = (database("writer").await, database("reader").await);
    for database in [&writer, &reader] {
        sqlx::query("drop table reader_heartbeats").execute(&mut connect(database).await).await.unwrap();
    }
    let setting = Setting::on(writer, reader, &[]).await;
    setting.until_served_by("reader").await;
    for _ in 0..2 {
        setting.reader_proxy.cut();
        eventually("reads use the writer", async || setting.app.state.reads.server() == Server::Writer).await;
        setting.until_served_by("writer").await;
        setting.reader_proxy.open();
        setting.until_served_by("reader").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_use_a_reader_that_is_behind_while_the_writer_does_not_answer() {
    let setting = Setting::new(TimeDelta::zero()).await;
    setting.until_served_by("writer").await;
    setting.writer_proxy.silence();
    eventually("reads use the reader", async || setting.app.state.reads.server() == Server::Reader).await;
    setting.until_served_by("reader").await;
    // As soon as the writer is back, the lag counts.
    setting.writer_proxy.open();
    setting.until_served_by("writer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_the_probe_that_breaks_is_opened_again() {
    let setting = Setting::new(never_behind()).await;
    let mut admin = connect(&setting.reader).await;
    let end = "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity
               where datname = current_database() and pid <> pg_backend_pid()";
    for _ in 0..3 {
        // Nothing but the probe connects, and it does so again.
        eventually("the probe is connected", async || {
            sqlx::query_scalar::<_, i64>(end).fetch_one(&mut admin).await.unwrap() > 0
        })
        .await;
    }
    setting.until_served_by("reader").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_logs_and_counts_each_change_once_and_stops_while_the_reader_is_silent() {
    let (writer, reader) = (database("writer").await, database("reader").await);
    receive(&reader, never_behind()).await;
    let (proxy, reader_url) = Proxy::before(&reader).await;
    let settings = [
        ("SALEBELL_DATABASE__URL", writer.url.as_str()),
        ("SALEBELL_DATABASE__READER_URL", reader_url.as_str()),
        ("SALEBELL_SERVER__LISTEN", "127.0.0.1:0"),
        ("SALEBELL_SERVER__LINGER_S", "0"),
        ("SALEBELL_SERVER__GRPC_LISTEN", "off"),
        ("SALEBELL_SERVER__METRICS_LISTEN", "127.0.0.1:0"),
        MAX_LAG,
    ];
    let mut api = Binary::start(&["api"], &settings);
    let metrics = api.logged("metrics on ").await;
    let value = async |name: &str| -> Option<String> {
        let text = reqwest::get(&metrics).await.unwrap().text().await.unwrap();
        text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
    };
    eventually("the lag is known", async || {
        value("salebell_reader_lag_seconds ").await.as_deref() == Some("0")
    })
    .await;
    receive(&reader, TimeDelta::zero()).await;
    api.logged("reads use the writer: the reader is ").await;
    let lag = async || value("salebell_reader_lag_seconds ").await.unwrap().parse::<f64>().unwrap();
    // Several probes find the same.
    eventually("the lag grows", async || lag().await > 3.0).await;
    receive(&reader, never_behind()).await;
    api.logged("reads use the reader again").await;
    proxy.silence();
    api.logged("reads use the writer: the reader does not answer: ").await;
    for (to, text, least) in
        [("writer", "reads use the writer", 2), ("reader", "reads use the reader again", 1)]
    {
        let name = format!(r#"salebell_reader_switches_total{{to="{to}"}} "#);
        let count: usize = value(&name).await.unwrap().parse().unwrap();
        assert!((least..5).contains(&count), "{count} to the {to}: more than changes");
        assert_eq!(api.log().matches(text).count(), count, "{}", api.log());
    }
    api.signal(Signal::SIGTERM);
    assert_eq!(api.exit_code().await, Some(0), "{}", api.log());
}

#[tokio::test]
async fn without_a_reader_nothing_is_probed() {
    let app = TestApp::spawn().await;
    assert!(app.state.health.reader.is_none());
    // A reader that is the writer, as in `salebell dev`, has no lag.
    let database = TestDatabase::create().await;
    let urls =
        ["SALEBELL_DATABASE__URL", "SALEBELL_DATABASE__READER_URL"].map(|name| (name, database.url.as_str()));
    let app = TestApp::builder().settings(&urls).spawn().await;
    let watch = app.state.health.reader.as_ref().unwrap();
    let _ = tokio::time::timeout(Duration::from_millis(1500), watch.run(&app.state.health.watchdog)).await;
    assert_eq!(watch.pools().map(|pool| pool.size()), [0, 0]);
    assert_eq!(app.state.reads.server(), Server::Reader);
}

#[tokio::test]
async fn one_heartbeat_a_second_is_written_and_a_pause_begins_anew() {
    let database = TestDatabase::create().await;
    let mut connection = connect(&database).await;
    /// Moves the heartbeat that was written last.
    async fn shift(connection: &mut PgConnection, by: TimeDelta) {
        let update = "update reader_heartbeats set beat_at = clock_timestamp() + $1, since = 'epoch'";
        sqlx::query(update).bind(by).execute(connection).await.unwrap();
    }
    async fn now(connection: &mut PgConnection) -> DateTime<Utc> {
        sqlx::query_scalar("select clock_timestamp()").fetch_one(connection).await.unwrap()
    }
    // A second ago: it goes on.
    shift(&mut connection, TimeDelta::seconds(-1)).await;
    let before = now(&mut connection).await;
    let first = reader_heartbeats::beat(&mut connection).await.unwrap().unwrap();
    assert!(first.beat_at >= before && first.since == DateTime::UNIX_EPOCH, "{first:?}");
    // Of many processes that come at once, one writes.
    let others = futures_util::future::join_all((0..8).map(|_| connect(&database))).await;
    shift(&mut connection, TimeDelta::seconds(-1)).await;
    let mut tasks = tokio::task::JoinSet::new();
    for mut other in others {
        tasks.spawn(async move {
            let sql = "select xmin::text from reader_heartbeats";
            let beat = reader_heartbeats::beat(&mut other).await?;
            Ok::<_, Error>((beat, sqlx::query_scalar::<_, String>(sql).fetch_one(&mut other).await?))
        });
    }
    let mut versions = std::collections::BTreeSet::new();
    while let Some(done) = tasks.join_next().await {
        versions.insert(done.unwrap().unwrap().1);
    }
    assert_eq!(versions.len(), 1, "the row was written once");
    // After a pause, and after a writer whose clock was ahead, it begins anew.
    for by in [TimeDelta::hours(-1), TimeDelta::hours(1)] {
        shift(&mut connection, by).await;
        let before = now(&mut connection).await;
        let anew = reader_heartbeats::beat(&mut connection).await.unwrap().unwrap();
        assert!(anew.beat_at >= before && anew.beat_at <= before + TimeDelta::seconds(30), "{anew:?}");
        assert!((anew.since - anew.beat_at).abs() < TimeDelta::seconds(1), "{anew:?}");
        let received = reader_heartbeats::find_received(&mut connection).await.unwrap();
        assert_eq!(received, Some(anew.beat_at));
    }
}
