//! `salebell dev`: the real program with the real PostgreSQL, killed in every way.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::database::TestDatabase;
use crate::support::eventually;
use crate::support::scratch::Scratch;

/// Timeout of every wait, sized for a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running `salebell dev` that has reported that it is ready.
pub struct Dev {
    process: Child,
    pub url: String,
    curls: Vec<String>,
    said: String,
    log: PathBuf,
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_salebell"));
    command.arg("dev").args(arguments).current_dir(folder);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SALEBELL_")) {
        command.env_remove(name);
    }
    // Tests run concurrently.
    command.env("SALEBELL_SERVER__GRPC_LISTEN", "127.0.0.1:0");
    command.env("SALEBELL_SERVER__METRICS_LISTEN", "127.0.0.1:0");
    command
}

impl Dev {
    pub fn start(folder: &Path, arguments: &[&str]) -> Dev {
        let arguments = [&["--listen", "127.0.0.1:0"], arguments].concat();
        let log = folder.join("log-of-dev");
        let mut command = command(folder, &arguments);
        let mut process = command.stdout(Stdio::piped()).stderr(File::create(&log).unwrap()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let (mut said, mut curls, deadline) = (String::new(), Vec::new(), Instant::now() + PATIENCE);
        while curls.len() < 3 {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    said.push_str(&line);
                    said.push('\n');
                    if let Some(curl) = line.trim().strip_prefix("curl ") {
                        curls.push(format!("curl {curl}"));
                    }
                }
                Err(_) => {
                    let _ = process.kill();
                    panic!("it never became ready; it said: {said}{}", std::fs::read_to_string(log).unwrap());
                }
            }
        }
        let url = said.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
        Dev { process, url, curls, said, log }
    }

    /// Everything it has logged.
    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).unwrap();
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    async fn get(&self, path: &str) -> reqwest::Result<reqwest::Response> {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.get(format!("{}{path}", self.url)).send().await
    }

    async fn count_games(&self) -> usize {
        let games: Value = self.get("/v1/games?limit=100").await.unwrap().json().await.unwrap();
        games["items"].as_array().unwrap().len()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // The guard stops PostgreSQL.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run_in_shell(line: &str) -> Value {
    let output = Command::new("sh").arg("-c").arg(line).current_dir("/").output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{line}: {}", String::from_utf8_lossy(&output.stdout)))
}

fn server_pid(folder: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(folder.join(".salebell/postgres/data/postmaster.pid")).ok()?;
    Some(Pid::from_raw(text.lines().next()?.parse().ok()?))
}

#[tokio::test]
async fn the_printed_commands_work_and_a_second_start_says_that_one_runs() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("a project's folder");
    std::fs::create_dir(&folder).unwrap();
    let mut dev = Dev::start(&folder, &[]);

    let token = folder.join(".salebell/dev-token");
    assert_eq!(std::fs::metadata(&token).unwrap().permissions().mode() & 0o777, 0o600);

    assert!(dev.said.contains("gRPC      127.0.0.1:"), "{}", dev.said);
    let games = run_in_shell(&dev.curls[0]);
    assert_eq!(games["items"][0]["title"], "The Witcher® 3: Wild Hunt");
    let deals = run_in_shell(&dev.curls[1]);
    assert_eq!(deals["items"].as_array().unwrap().len(), 3, "{deals}");
    let report = run_in_shell(&dev.curls[2]);
    assert_eq!(report["accepted"], 1, "{report}");
    // The worker inside records it.
    let batch = format!(
        "curl -s {}/v1/batches/{} -H \"Authorization: Bearer $(cat '{}')\"",
        dev.url,
        report["batch_id"].as_str().unwrap(),
        token.display().to_string().replace('\'', r"'\''"),
    );
    let deadline = Instant::now() + PATIENCE;
    while run_in_shell(&batch)["done"] != true {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let second = command(&folder, &["--listen", "127.0.0.1:0"]).output().unwrap();
    let refusal = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success());
    for part in ["running here already", &dev.process.id().to_string(), &dev.url] {
        assert!(refusal.contains(part), "{part} is missing in {refusal}");
    }

    let server = server_pid(&folder).unwrap();
    dev.signal(Signal::SIGTERM);
    assert!(dev.wait().success());
    assert!(kill(server, None).is_err(), "PostgreSQL runs on");
    assert_eq!(server_pid(&folder), None);
}

#[tokio::test]
async fn nothing_is_lost_when_salebell_or_postgres_is_killed() {
    let scratch = Scratch::new();
    let folder = scratch.path();
    let mut dev = Dev::start(folder, &[]);
    let games = dev.count_games().await;
    assert!(games > 20);
    let token = std::fs::read_to_string(folder.join(".salebell/dev-token")).unwrap();

    // PostgreSQL is killed: it comes back by itself, and so does the API.
    let killed = server_pid(folder).unwrap();
    kill(killed, Signal::SIGKILL).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = dev.get("/v1/games?q=hades").await.unwrap().status();
        if status == StatusCode::OK && server_pid(folder).is_some_and(|pid| pid != killed) {
            break;
        }
        assert!(status == StatusCode::OK || status == StatusCode::SERVICE_UNAVAILABLE, "{status}");
        assert!(Instant::now() < deadline, "the API does not recover");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // Salebell itself is killed and started again.
    dev.signal(Signal::SIGKILL);
    dev.wait();
    let mut dev = Dev::start(folder, &[]);
    assert!(!dev.said.contains("making a PostgreSQL") && !dev.said.contains("sample"), "{}", dev.said);
    assert_eq!(dev.count_games().await, games);
    assert_eq!(std::fs::read_to_string(folder.join(".salebell/dev-token")).unwrap(), token);

    // Both at once, as in a power failure.
    kill(server_pid(folder).unwrap(), Signal::SIGKILL).unwrap();
    dev.signal(Signal::SIGKILL);
    dev.wait();
    let mut dev = Dev::start(folder, &[]);
    assert_eq!(dev.count_games().await, games);
    dev.signal(Signal::SIGINT);
    assert!(dev.wait().success());
}

#[tokio::test]
async fn a_database_of_the_users_is_used_when_it_is_named() {
    let scratch = Scratch::new();
    let database = TestDatabase::create_bare().await;
    let mut dev = Dev::start(scratch.path(), &["--database-url", &database.url, "--no-sample"]);
    assert!(!scratch.path().join(".salebell/postgres").exists());
    assert_eq!(dev.count_games().await, 0);
    dev.signal(Signal::SIGTERM);
    assert!(dev.wait().success());
}

#[test]
fn a_taken_port_is_reported_before_anything_is_created() {
    let scratch = Scratch::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = command(scratch.path(), &["--listen", &address]).output().unwrap();
    let refusal = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(refusal.contains(&format!("another program listens on {address}")), "{refusal}");
    assert!(!scratch.path().join(".salebell/postgres").exists());
}

/// Command of a subcommand other than `dev`, without the test's own settings.
pub fn beside(folder: &Path, program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SALEBELL_")) {
        command.env_remove(name);
    }
    command.env("XDG_STATE_HOME", folder.join("state"));
    command
}

/// Runs a command; returns whether it succeeded, and its output.
fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

#[tokio::test]
async fn the_first_start_prints_the_running_services_with_their_addresses_and_little_else() {
    // If another test or program was quicker, the ports are in use as well.
    let _taken = [TcpListener::bind("127.0.0.1:9000"), TcpListener::bind("127.0.0.1:9100")];
    let scratch = Scratch::new();
    let dev = Dev::start(scratch.path(), &[]);
    let log = dev.log();
    assert!(log.lines().count() < 10, "{log}");
    for noise in ["sqlx", "select ", "GET ", "POST "] {
        assert!(!log.contains(noise), "{noise} in {log}");
    }
    let line = |name: &str| {
        let found = dev.said.lines().find_map(|line| line.trim().strip_prefix(name));
        found.unwrap_or_else(|| panic!("{name} is not in {}", dev.said)).trim().to_owned()
    };
    assert!(line("gRPC ").ends_with("(without TLS; another program listens on port 9000)"), "{}", dev.said);
    let metrics = line("metrics ");
    let (metrics, why) = metrics.split_once(' ').unwrap();
    assert_eq!(why, "(another program listens on port 9100)");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let text = client.get(metrics).send().await.unwrap().text().await.unwrap();
    assert!(text.contains("http_requests_total"), "{text}");
    assert!(line("token ").starts_with('/') && line("program ").starts_with('/'), "{}", dev.said);

    // The log continues from there.
    dev.get("/v1/stores").await.unwrap();
    eventually("the access log", async || dev.log().contains("salebell::access GET /v1/stores 200")).await;

    // The statistics of recent events are available without an hour's wait.
    let token = std::fs::read_to_string(scratch.path().join(".salebell/dev-token")).unwrap();
    eventually("statistics", async || {
        let weeks = client.get(format!("{}/v1/stats/weekly", dev.url)).bearer_auth(&token).send().await;
        weeks.unwrap().json::<Value>().await.unwrap()["items"][0]["reports"] == 1
    })
    .await;
}

#[tokio::test]
async fn the_other_commands_find_the_dev_of_their_folder_and_no_other() {
    let scratch = Scratch::new();
    let folder = scratch.path();
    let mut dev = Dev::start(folder, &[]);
    let state = folder.join(".salebell/dev.json");
    assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o600);
    let program = folder.join(".salebell/salebell");
    std::fs::write(folder.join("a.csv"), "store,sku,price,currency\nAttic Games,1,9.99,EUR\n").unwrap();

    // Its port, its token and its database.
    for (arguments, expected) in [
        (["files", "put", "a.csv", "--json"].as_slice(), "\"name\":\"a.csv\""),
        (&["files", "ls"], "a.csv"),
        (&["report", "a.csv"], "1 accepted, 0 refused"),
        (&["key", "list", "--issuer", "salebell:dev", "--subject", "dev"], "salebell dev"),
        (&["stats", "show"], "week"),
        (&["bus", "status"], "dead"),
    ] {
        let (success, printed) = run(&mut beside(folder, &program, arguments));
        assert!(success && printed.contains(expected), "{arguments:?}: {printed}");
    }
    // Absolute links begin with its address, whose port was free.
    let (_, listed) = run(&mut beside(folder, &program, &["files", "ls"]));
    let id = listed.lines().nth(1).unwrap().split_whitespace().next().unwrap();
    let token = std::fs::read_to_string(folder.join(".salebell/dev-token")).unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let link = client.post(format!("{}/v1/files/{id}/links", dev.url)).bearer_auth(token);
    let link: Value = link.json(&json!({})).send().await.unwrap().json().await.unwrap();
    assert!(link["url"].as_str().unwrap().starts_with(&format!("{}/d/", dev.url)), "{link}");

    let files = &["files", "ls", "--max-wait", "0"];
    let keys = &["key", "list", "--issuer", "salebell:dev", "--subject", "dev"];

    // Explicit settings win: another API without a token of its own does not get the local one, and another database is
    // used.
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere = format!("http://{}", stranger.local_addr().unwrap());
    let (success, printed) = run(beside(folder, &program, files).env("SALEBELL_URL", &elsewhere));
    assert!(!success && printed.contains(&format!("no token for {elsewhere}")), "{printed}");
    let (success, printed) = run(&mut beside(folder, &program, &["files", "ls", "--url", &dev.url]));
    assert!(success, "{printed}");
    let (success, printed) = run(beside(folder, &program, files).env("SALEBELL_TOKEN", "sbk_wrong"));
    assert!(!success && printed.contains("401"), "{printed}");
    let database = TestDatabase::create().await;
    let (success, printed) = run(beside(folder, &program, keys).env("SALEBELL_DATABASE__URL", &database.url));
    assert!(!success && printed.contains("no such account"), "{printed}");

    // In other folders there is none.
    let other = Scratch::new();
    for arguments in [files.as_slice(), keys] {
        let (success, printed) = run(&mut beside(other.path(), &program, arguments));
        let expected = format!("no `salebell dev` is running in {}", other.path().display());
        assert!(!success && printed.contains(&expected), "{arguments:?}: {printed}");
    }

    // A file left by a killed process is ignored, whatever listens at its port now.
    dev.signal(Signal::SIGKILL);
    dev.wait();
    assert!(state.exists());
    let stranger = TcpListener::bind(dev.url.trim_start_matches("http://")).unwrap();
    stranger.set_nonblocking(true).unwrap();
    for arguments in [files.as_slice(), keys, &["report", "a.csv"], &["files", "ls", "--url", &dev.url]] {
        let (success, printed) = run(&mut beside(folder, &program, arguments));
        let expected = format!("(process {}) is not running any more", dev.process.id());
        assert!(!success && printed.contains(&expected), "{arguments:?}: {printed}");
    }
    assert!(stranger.accept().is_err(), "a connection was made");
    drop(stranger);

    // A process that exits normally leaves no file.
    let mut dev = Dev::start(folder, &[]);
    assert!(run(&mut beside(folder, &program, files)).0);
    dev.signal(Signal::SIGTERM);
    dev.wait();
    assert!(!state.exists());
}
