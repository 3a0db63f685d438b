//! Guard that stops the database server if this process ends without doing so: after SIGKILL, a second Ctrl-C or a
//! crash.

use std::io::{PipeWriter, Write};
use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use tokio::process::Child;

use super::owner::Owner;

/// Shell script that reads process ids until the pipe is closed, which the kernel does however this process ends. It
/// then requests a fast shutdown (SIGINT) of the last one. Before that, it checks that the working directory of the
/// process is the data folder, as that of a server is: the id may have been reused by now, and the server of a later
/// start is not ours.
const SCRIPT: &str = r#"
while read -r line; do server=$line; done
[ -n "$server" ] && [ "$(readlink "/proc/$server/cwd")" = "$1" ] && kill -INT "$server"
"#;

/// A process that waits at the other end of our pipe.
#[derive(Debug)]
pub struct Guard {
    process: Child,
    pipe: PipeWriter,
}

impl Guard {
    /// Starts a guard for servers of the folder `data`, which has no server yet.
    ///
    /// # Errors
    /// Fails if no process can be started.
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
            // Protects the guard from the terminal's Ctrl-C.
            .process_group(0)
            .spawn()
            .context("cannot start a guard for the database server")?;
        Ok(Self { process, pipe })
    }

    /// Watches `server` from now on, in place of any earlier one.
    ///
    /// # Errors
    /// Fails if the guard has ended.
    pub fn watch(&mut self, server: &Child) -> anyhow::Result<()> {
        let Some(pid) = server.id() else { return Ok(()) };
        // One small write to an empty pipe never blocks.
        self.pipe.write_all(format!("{pid}\n").as_bytes()).context("the database server's guard is gone")
    }

    /// Ends the guard without stopping anything: the server has already been stopped.
    pub async fn dismiss(mut self) {
        let _ = self.process.kill().await;
    }
}
