//! Stops the server when we are gone without having stopped it: SIGKILL, a second Ctrl-C, a crash.

use std::io::{PipeWriter, Write};
use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use tokio::process::Child;

use super::owner::Owner;

/// Reads process ids until the pipe ends, which the kernel brings about however we end, and then asks the last
/// of them for a fast shutdown (SIGINT). It looks first whether that process stands in the data folder, as
/// servers do: the id may be somebody else's by now, and a server that a later start has begun is not ours.
const SCRIPT: &str = r#"
while read -r line; do server=$line; done
[ -n "$server" ] && [ "$(readlink "/proc/$server/cwd")" = "$1" ] && kill -INT "$server"
"#;

/// A process that waits at the other end of a pipe of ours.
#[derive(Debug)]
pub struct Guard {
    process: Child,
    pipe: PipeWriter,
}

impl Guard {
    /// A guard for servers of the folder `data`, with no server yet.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn start(owner: &Owner, data: &Path) -> anyhow::Result<Self> {
        let (reader, pipe) = std::io::pipe().context("cannot make a pipe")?;
        let process = owner
            .command(Path::new("sh"))
            .args(["-c", SCRIPT, "guard"])
            .arg(data)
            .current_dir("/")
            .stdin(reader)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // The terminal's Ctrl-C is not for it.
            .process_group(0)
            .spawn()
            .context("cannot start a guard for the database server")?;
        Ok(Self { process, pipe })
    }

    /// Watches over `server` from now on, instead of any earlier one.
    ///
    /// # Errors
    /// When the guard is gone.
    pub fn watch(&mut self, server: &Child) -> anyhow::Result<()> {
        let Some(pid) = server.id() else { return Ok(()) };
        // One small write to an empty pipe never waits.
        self.pipe.write_all(format!("{pid}\n").as_bytes()).context("the database server's guard is gone")
    }

    /// Lets it go without a stop: the server has been stopped.
    pub async fn dismiss(mut self) {
        let _ = self.process.kill().await;
    }
}
