//! `salebell dev`: the real program, the real PostgreSQL, killed in every way.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::StatusCode;
use serde_json::Value;

use crate::support::database::TestDatabase;
use crate::support::scratch::Scratch;

/// How long anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A `salebell dev` that has said that it is ready.
struct Dev {
    process: Child,
    url: String,
    curls: Vec<String>,
    said: String,
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_salebell"));
    command.arg("dev").args(arguments).current_dir(folder);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SALEBELL_")) {
        command.env_remove(name);
    }
    // Tests run side by side.
    command.env("SALEBELL_SERVER__GRPC_LISTEN", "127.0.0.1:0");
    command.env("SALEBELL_SERVER__METRICS_LISTEN", "127.0.0.1:0");
    command
}

impl Dev {
    fn start(folder: &Path, arguments: &[&str]) -> Dev {
        let arguments = [&["--listen", "127.0.0.1:0"], arguments].concat();
        let mut process = command(folder, &arguments).stdout(Stdio::piped()).spawn().unwrap();
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
                    panic!("it never became ready; it said: {said}");
                }
            }
        }
        let url = said.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
        Dev { process, url, curls, said }
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

    // PostgreSQL is killed under it: it is back by itself, and so is the API.
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

    // Both at once, as when the machine loses its power.
    kill(server_pid(folder).unwrap(), Signal::SIGKILL).unwrap();
    dev.signal(Signal::SIGKILL);
    dev.wait();
    let mut dev = Dev::start(folder, &[]);
    assert_eq!(dev.count_games().await, games);
    dev.signal(Signal::SIGINT);
    assert!(dev.wait().success());
}

#[tokio::test]
async fn a_database_of_ones_own_is_used_when_it_is_named() {
    let scratch = Scratch::new();
    let database = TestDatabase::create_bare().await;
    let mut dev = Dev::start(scratch.path(), &["--database-url", &database.url, "--no-sample"]);
    assert!(!scratch.path().join(".salebell/postgres").exists());
    assert_eq!(dev.count_games().await, 0);
    dev.signal(Signal::SIGTERM);
    assert!(dev.wait().success());
}

#[test]
fn a_taken_port_is_told_before_anything_is_made() {
    let scratch = Scratch::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = command(scratch.path(), &["--listen", &address]).output().unwrap();
    let refusal = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(refusal.contains(&format!("another program listens on {address}")), "{refusal}");
    assert!(!scratch.path().join(".salebell/postgres").exists());
}
