//! Stops the server when we are gone without having stopped it: SIGKILL, a second Ctrl-C, a crash.

use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, ChildStdin};

use super::owner::Owner;
use super::programs::ServerPrograms;
use crate::failure::{Explain, Failure};

/// A process that waits for the end of a pipe of ours, which the kernel brings about however we end, and then
/// stops the server by its `postmaster.pid`.
#[derive(Debug)]
pub struct Guard {
    process: Child,
    _pipe: Option<ChildStdin>,
}

impl Guard {
    /// Watches over the server of `data`.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn start(programs: &ServerPrograms, owner: &Owner, data: &Path) -> Result<Self, Failure> {
        let mut process = owner
            .command(Path::new("sh"))
            .arg("-c")
            // No server any more is as good as a stopped one.
            .arg(r#"read -r _; exec "$0" -D "$1" -m fast -W stop"#)
            .arg(programs.path("pg_ctl"))
            .arg(data)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // The terminal's Ctrl-C is not for it.
            .process_group(0)
            .spawn()
            .explain(|| "cannot start a guard for the database server")?;
        let pipe = process.stdin.take();
        Ok(Self { process, _pipe: pipe })
    }

    /// Lets it go without a stop: the server has been stopped.
    pub async fn dismiss(mut self) {
        let _ = self.process.kill().await;
    }
}
