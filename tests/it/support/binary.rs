//! The real binary as a separate process.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::database::TestDatabase;

/// Path of the built program.
pub const SALEBELL: &str = env!("CARGO_BIN_EXE_salebell");

/// Settings without limits of requests, which no test but their own expects.
pub const UNLIMITED: [(&str, &str); 3] = [
    ("SALEBELL_SERVER__RATE_LIMITS__READ", "0"),
    ("SALEBELL_SERVER__RATE_LIMITS__WRITE", "0"),
    ("SALEBELL_SERVER__RATE_LIMITS__HEAVY", "0"),
];

/// A running `salebell`, killed when it is dropped.
pub struct Binary {
    child: Child,
    log: Arc<Mutex<String>>,
    reading: JoinHandle<()>,
    printed: Arc<Mutex<Vec<u8>>>,
    printing: JoinHandle<()>,
}

impl Binary {
    /// Starts a subcommand with only these settings: nothing from the test's own environment.
    pub fn start(arguments: &[&str], settings: &[(&str, &str)]) -> Binary {
        Binary::run(command(arguments, settings))
    }

    /// Starts the API on a database, with its metrics listener.
    pub fn api_on(database: &TestDatabase) -> Binary {
        let settings = [
            ("SALEBELL_DATABASE__URL", database.url.as_str()),
            ("SALEBELL_SERVER__LISTEN", "127.0.0.1:0"),
            ("SALEBELL_SERVER__GRPC_LISTEN", "127.0.0.1:0"),
            ("SALEBELL_SERVER__METRICS_LISTEN", "127.0.0.1:0"),
        ];
        Binary::start(&["api"], &settings)
    }

    /// Starts it through another program, which replaces itself with the command that follows its own arguments.
    pub fn start_under(wrapper: &[&str], arguments: &[&str], settings: &[(&str, &str)]) -> Binary {
        Binary::start_program_under(wrapper, SALEBELL, arguments, settings)
    }

    /// Starts a program other than `salebell` through such a wrapper.
    pub fn start_program_under(
        wrapper: &[&str],
        program: &str,
        arguments: &[&str],
        settings: &[(&str, &str)],
    ) -> Binary {
        let mut words = wrapper.iter().chain([&program]).chain(arguments);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        Binary::run(in_a_folder_of_its_own(command, settings))
    }

    fn run(mut command: Command) -> Binary {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let printed = Arc::new(Mutex::new(Vec::new()));
        let into = printed.clone();
        let printing = tokio::spawn(async move {
            let mut bytes = [0; 8192];
            while let Ok(count @ 1..) = stdout.read(&mut bytes).await {
                into.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        let log = Arc::new(Mutex::new(String::new()));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let into = log.clone();
        let reading = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let mut log = into.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Binary { child, log, reading, printed, printing }
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until it has logged `text`, and returns the rest of that line.
    pub async fn logged(&self, text: &str) -> String {
        for _ in 0..1000 {
            if let Some((_, rest)) = self.log().split_once(text)
                && let Some((line, _)) = rest.split_once('\n')
            {
                return line.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{text:?} is not in the log:\n{}", self.log());
    }

    /// The API's address, once it listens.
    pub async fn url(&self) -> String {
        format!("http{}", self.logged("listening on http").await)
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id() as i32), signal).unwrap();
    }

    /// Waits for its end: the exit code, or none after a signal.
    pub async fn exit_code(&mut self) -> Option<i32> {
        let wait = tokio::time::timeout(Duration::from_secs(40), self.child.wait());
        let ended = wait.await.expect("it ends").unwrap();
        // The rest of its log, unless another process shares its stderr.
        if !self.reading.is_finished() {
            let _ = tokio::time::timeout(Duration::from_secs(2), &mut self.reading).await;
        }
        ended.code()
    }

    /// Waits for its end, and returns its output.
    pub async fn printed(mut self) -> String {
        self.exit_code().await;
        (&mut self.printing).await.unwrap();
        self.printed_so_far()
    }

    pub fn printed_so_far(&self) -> String {
        String::from_utf8(self.printed.lock().unwrap().clone()).unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

/// The command that `start` runs.
pub fn command(arguments: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(SALEBELL);
    command.args(arguments).env_clear();
    in_a_folder_of_its_own(command, settings)
}

fn in_a_folder_of_its_own(mut command: Command, settings: &[(&str, &str)]) -> Command {
    command.envs(UNLIMITED).envs(settings.iter().copied());
    command.current_dir(Path::new(env!("CARGO_TARGET_TMPDIR"))).kill_on_drop(true).stdin(Stdio::null());
    command
}
