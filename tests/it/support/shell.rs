//! `salebell files` as a person runs it.

use std::path::PathBuf;
use std::process::{Output, Stdio};

use bytes::Bytes;
use serde_json::Value;
use tokio::process::{Child, Command};

use super::scratch::Scratch;
use super::{User, binary};

/// A person at a shell, in a folder of their own.
pub struct Shell {
    pub scratch: Scratch,
    pub url: String,
    token: String,
}

impl Shell {
    pub fn new(url: &str, user: &User) -> Shell {
        Shell { scratch: Scratch::new(), url: url.to_owned(), token: user.token.clone() }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let arguments = [&["files"], arguments].concat();
        let state = self.scratch.path().join("state");
        let settings = [
            ("SALEBELL_URL", self.url.as_str()),
            ("SALEBELL_TOKEN", self.token.as_str()),
            ("XDG_STATE_HOME", state.to_str().unwrap()),
        ];
        let mut command = binary::command(&arguments, &settings);
        command.current_dir(self.scratch.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().await.unwrap()
    }

    /// Runs it to its success; returns its output.
    pub async fn out(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        text(&output.stdout)
    }

    /// Runs it to its failure; returns its error output.
    pub async fn err(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        let said = text(&output.stderr);
        assert!(!said.contains(&self.token), "{said}");
        said
    }

    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path(name), content).unwrap();
    }

    pub fn read(&self, name: &str) -> Bytes {
        std::fs::read(self.path(name)).unwrap().into()
    }

    /// Uploads bytes; returns the file as the API shows it.
    pub async fn put(&self, name: &str, content: &[u8]) -> Value {
        self.write(name, content);
        let file = serde_json::from_str(&self.out(&["put", name, "--json"]).await).unwrap();
        std::fs::remove_file(self.path(name)).unwrap();
        file
    }

    /// State files that killed runs have left.
    pub fn states(&self) -> Vec<String> {
        let Ok(folder) = std::fs::read_dir(self.path("state/salebell")) else { return Vec::new() };
        folder.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect()
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn id(file: &Value) -> &str {
    file["id"].as_str().unwrap()
}
