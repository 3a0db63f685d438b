//! Secrets stay in the process: they appear neither in its output, nor in an error or a panic, nor in a core dump.
//!
//! Other tests check the log (`logging.rs`, `aws/cloudwatch.rs`), the environment and the command line
//! (`instance/boot.rs`, `aws/renewal.rs`), and messages about an invalid configuration (`cli/commands.rs`,
//! `core/src/config/tests.rs`).

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use salebell::app::{App, AppState};
use salebell::clock::Clock;
use salebell::config::Config;
use salebell::error::{Error, chain};
use salebell::{http, telemetry};
use secrecy::ExposeSecret;

use crate::support::binary::{Binary, SALEBELL};
use crate::support::database::TestDatabase;
use crate::support::eventually;
use crate::support::journal::Journal;
use crate::support::scratch::Scratch;

const KEY: &str = "aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMmh1bnQ=";

/// A configuration in which every secret has `hunter` in it.
fn with_secrets() -> Vec<(&'static str, &'static str)> {
    vec![
        ("SALEBELL_DATABASE__URL", "postgres://127.0.0.1:1/salebell?sslrootcert=hunter0"),
        ("SALEBELL_DATABASE__READER_URL", "postgres://127.0.0.1:1/salebell?sslrootcert=hunter1"),
        ("SALEBELL_DATABASE__USER", "anna"),
        ("SALEBELL_DATABASE__PASSWORD", "hunter2"),
        ("SALEBELL_DATABASE__ACQUIRE_TIMEOUT_MS", "100"),
        ("SALEBELL_WEBHOOK__ENCRYPTION_KEYS", KEY),
        ("SALEBELL_EMAIL__SMTP_URL", "smtps://mail.example.com"),
        ("SALEBELL_EMAIL__FROM", "bell@example.com"),
        ("SALEBELL_SERVER__PUBLIC_URL", "https://salebell.example.com"),
        ("SALEBELL_EMAIL__USER", "bell"),
        ("SALEBELL_EMAIL__PASSWORD", "hunter3"),
        ("SALEBELL_FILES__DIRECTORY", env!("CARGO_TARGET_TMPDIR")),
    ]
}

fn configure(settings: &[(&str, &str)]) -> Config {
    let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Config::load(None, settings).unwrap()
}

fn has_secret(text: &str) -> bool {
    text.contains("hunter") || text.contains(KEY) || text.contains("aHVudGVy")
}

#[tokio::test]
async fn nothing_that_holds_a_secret_shows_it() {
    let config = configure(&with_secrets());
    assert!(has_secret(config.database.password.as_ref().unwrap().expose_secret()), "the test can see it");
    let app = AppState::new(config, Clock::system()).unwrap();
    let no_connection = app.writer.acquire().await.unwrap_err();
    let sealed = app.keyring.seal(uuid::Uuid::nil(), b"hunter4").unwrap();
    let opened = app.keyring.open(uuid::Uuid::nil(), &sealed).unwrap();
    let not_opened = app.keyring.open(uuid::Uuid::max(), &sealed).unwrap_err();
    let refused = app.authenticator.authenticate("sbk_hunter5").await.err().unwrap();
    let shown = [
        format!("{:?} {:#?}", app.config, app.config),
        format!("{:?} {:?} {:?}", app.writer, app.reader(), app.health.readiness.pool()),
        format!("{no_connection:?} {no_connection} {}", chain(&no_connection)),
        format!("{opened:?} {not_opened:?} {} {refused:?} {}", chain(&not_opened), chain(&refused)),
        serde_json::to_string(&Error::from(no_connection).problem()).unwrap(),
    ];
    for text in shown {
        assert!(!has_secret(&text), "{text}");
    }
    // A value that cannot be parsed is not repeated, whatever it was meant to be.
    for (key, value) in [
        ("SALEBELL_DATABASE__URL", "postgres://anna:hunter2@db.example:port/salebell"),
        ("SALEBELL_DATABASE__URL", "hunter2"),
        ("SALEBELL_DATABASE__READER_URL", "postgres://anna:hunter2@[/salebell"),
    ] {
        let mut settings = with_secrets();
        settings.retain(|(name, _)| *name != key && *name != "SALEBELL_DATABASE__PASSWORD");
        settings.push((key, value));
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let shown = match Config::load(None, settings) {
            Err(problems) => format!("{problems} {problems:?}"),
            Ok(config) => match AppState::new(config, Clock::system()) {
                Err(error) => format!("{} {error:?}", chain(&error)),
                Ok(_) => panic!("{value} is taken for an address"),
            },
        };
        assert!(!has_secret(&shown), "{shown}");
    }
}

/// Handler that panics with everything it has access to.
async fn panicking(State(app): State<App>) -> &'static str {
    let lost = app.writer.acquire().await.unwrap_err();
    panic!("in a handler: {:?} {lost:?} {:?}", app.config, app.writer)
}

/// Runs in a separate process, whose output `a_panic_is_logged_without_a_secret` examines.
#[tokio::test]
#[ignore = "the other tests start it"]
async fn a_process_that_panics() {
    let mut settings = with_secrets();
    settings.extend([
        ("SALEBELL_LOG__TO", "journal"),
        ("SALEBELL_SERVER__LISTEN", "127.0.0.1:0"),
        ("SALEBELL_SERVER__GRPC_LISTEN", "127.0.0.1:0"),
        ("SALEBELL_SERVER__METRICS_LISTEN", "127.0.0.1:0"),
    ]);
    let config = configure(&settings);
    telemetry::start_logging(&config.log);
    let app = AppState::new(config, Clock::system()).unwrap();
    let router = http::layered(Router::new().route("/panic", get(panicking)), app.clone());
    let server = salebell::server::Server::bind_router(app.clone(), router).await.unwrap();
    let url = server.url().unwrap();
    tokio::spawn(server.run());
    let answer =
        reqwest::Client::new().get(format!("{url}/panic")).header("x-request-id", "request-1").send();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 500);
    println!("answered: {}", answer.text().await.unwrap());
    // As a loop of the worker does.
    let task = tokio::spawn(async move {
        let key = app.keyring.open(uuid::Uuid::nil(), b"hunter6");
        panic!("in a worker: {:?} {:?}", app.config, key.err())
    });
    assert!(task.await.unwrap_err().is_panic());
}

#[tokio::test]
async fn a_panic_is_logged_without_a_secret() {
    let journal = Journal::start();
    let this = std::env::current_exe().unwrap();
    let child = ["process::secrets::a_process_that_panics", "--exact", "--ignored", "--nocapture"];
    let settings = [("RUST_BACKTRACE", "1")];
    let mut process =
        Binary::start_program_under(&journal.wrapper(), this.to_str().unwrap(), &child, &settings);
    assert_eq!(process.exit_code().await, Some(0), "{}", process.log());
    eventually("both are in the journal", async || journal.of("salebell::panic").len() == 2).await;
    let panics = journal.of("salebell::panic");
    for (entry, (place, request)) in panics.iter().zip([("in a handler", "request-1"), ("in a worker", "-")])
    {
        let message = &entry["MESSAGE"];
        assert!(message.starts_with(&format!("panicked: {place}: Config {{")), "{message}");
        assert!(message.contains("a_process_that_panics"), "there is a backtrace: {message}");
        assert_eq!((entry["REQUEST_ID"].as_str(), entry["PRIORITY"].as_str()), (request, "3"));
        assert!(entry["CODE_PLACE"].starts_with("tests/it/process/secrets.rs:"), "{entry:?}");
        assert!(!entry.values().any(|value| has_secret(value)), "{entry:?}");
    }
    let (log, printed) = (process.log(), process.printed().await);
    assert!(printed.contains("answered: {\"type\":\"/problems/internal\""), "{printed}");
    assert!(!has_secret(&log) && !has_secret(&printed), "{log}\n{printed}");
}

/// Runs a command in a folder of its own, where only the process itself prevents a core dump, and kills it with this
/// signal; returns its exit status and the files then in the folder.
async fn kill_it(command: &[&str], signal: Signal, settings: &[(&str, &str)]) -> (ExitStatus, Vec<String>) {
    let folder = Scratch::new();
    let shell = "ulimit -c unlimited 2>/dev/null || :; exec \"$@\"";
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", shell, "sh"])
        .args(command)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .envs(settings.iter().copied())
        .env("SALEBELL_FILES__DIRECTORY", folder.path())
        .current_dir(folder.path())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let id = child.id().unwrap();
    let name = Path::new(command[0]).file_name().unwrap().to_str().unwrap();
    let is_service = name == "salebell";
    eventually("it runs, and a service has forbidden it", async || {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{id}/{file}")).unwrap();
        let limits = read("limits");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let forbidden = core.split_whitespace().filter(|word| *word == "0").count() == 2;
        read("comm").trim() == name && (forbidden || !is_service)
    })
    .await;
    // Rust's own handler treats a SIGSEGV that no instruction has caused as a real one, and kills the process when it
    // is repeated.
    let mut status = None;
    eventually("it ends", async || {
        let _ = kill(Pid::from_raw(id as i32), signal);
        status = tokio::time::timeout(Duration::from_millis(100), child.wait()).await.ok();
        status.is_some()
    })
    .await;
    let status = status.unwrap().unwrap();
    let files = std::fs::read_dir(folder.path()).unwrap();
    let mut files: Vec<String> =
        files.map(|file| file.unwrap().file_name().to_string_lossy().into_owned()).collect();
    files.retain(|name| name.starts_with("core"));
    (status, files)
}

#[tokio::test]
async fn no_core_is_dumped() {
    let database = TestDatabase::create().await;
    let settings = [
        ("SALEBELL_DATABASE__URL", database.url.as_str()),
        ("SALEBELL_SERVER__LISTEN", "127.0.0.1:0"),
        ("SALEBELL_SERVER__GRPC_LISTEN", "127.0.0.1:0"),
        ("SALEBELL_SERVER__METRICS_LISTEN", "127.0.0.1:0"),
        ("SALEBELL_WORKER__METRICS_LISTEN", "127.0.0.1:0"),
    ];
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for signal in [Signal::SIGABRT, Signal::SIGSEGV] {
        // Checks that this machine writes core dumps at all; otherwise the rest would prove little.
        let (status, files) = kill_it(&["sleep", "60"], signal, &[]).await;
        let dumps = status.core_dumped();
        if !pattern.starts_with(['|', '/']) {
            assert_eq!(dumps, !files.is_empty(), "{files:?}");
        }
        for command in ["api", "worker"] {
            let (status, files) = kill_it(&[SALEBELL, command], signal, &settings).await;
            assert_eq!((status.signal(), status.core_dumped()), (Some(signal as i32), false), "{dumps}");
            assert!(files.is_empty(), "{files:?}");
        }
    }
}
