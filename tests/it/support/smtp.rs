//! An independent mail server: tests/clients/smtp.py.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::scratch::Scratch;

pub struct MailServer {
    pub port: u16,
    received: Arc<Mutex<Vec<Value>>>,
    folder: Scratch,
    _child: Child,
}

impl MailServer {
    /// Starts one with the options that the script names, except `ca`.
    pub async fn start(mut options: Value) -> MailServer {
        let folder = Scratch::new();
        options["ca"] = json!(folder.path().join("ca.pem"));
        let python = std::env::var("SALEBELL_TEST_PYTHON")
            .expect("SALEBELL_TEST_PYTHON is not set; `make test` sets it");
        let mut command = Command::new(python);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/smtp.py")).arg(options.to_string());
        // Its messages about refused clients are irrelevant.
        let command =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = next(&mut lines).await.expect("it starts")["port"].as_u64().unwrap();
        let received = Arc::<Mutex<Vec<Value>>>::default();
        let into = received.clone();
        tokio::spawn(async move {
            while let Some(line) = next(&mut lines).await {
                into.lock().unwrap().push(line);
            }
        });
        MailServer { port: port as u16, received, folder, _child: child }
    }

    /// Its address, without a password.
    pub fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.port)
    }

    /// Certificate file of the authority that signed its certificate.
    pub fn ca(&self) -> String {
        self.folder.path().join("ca.pem").to_str().unwrap().to_owned()
    }

    /// Its reports so far: mails, and recipients that it has refused.
    pub fn received(&self) -> Vec<Value> {
        self.received.lock().unwrap().clone()
    }

    /// Waits for `count` reports; returns all so far.
    pub async fn wait_for(&self, count: usize) -> Vec<Value> {
        for _ in 0..3000 {
            let received = self.received();
            if received.len() >= count {
                return received;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} and not {count} came: {:?}", self.received().len(), self.received());
    }
}

async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<Value> {
    let line = lines.next_line().await.unwrap()?;
    Some(serde_json::from_str(&line).unwrap())
}
