//! State of a command, which allows it to resume after it was killed. There is one file per piece of work in
//! `${XDG_STATE_HOME:-~/.local/state}/salebell`, named by a hash of its description.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::hex;

/// Size in bytes above which a file is truncated before its next version is written. No state is that large.
const LARGE: u64 = 256 << 10;

/// Opens the state of `work` exclusively for this process. The file's name begins with the command's `name`.
///
/// # Errors
/// Fails if the file cannot be created, or, with the text `busy`, if another process is doing the same work.
pub fn open_locked(name: &str, work: &str, busy: &str) -> anyhow::Result<(PathBuf, Flock<File>)> {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, work.as_bytes());
    let folder = state_folder()?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(format!("{name}-{}.ndjson", &hex(digest.as_ref())[..16]));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| anyhow!("{busy}"))?;
    Ok((path, file))
}

/// Writes one line durably.
///
/// # Errors
/// Fails if the file cannot be written.
pub fn write_line(file: &mut File, value: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    file.write_all(&line)?;
    file.sync_data()
}

/// State of which only the newest version counts. Each version is appended as a line, so that a kill always leaves a
/// complete one.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    file: Flock<File>,
}

impl StateFile {
    /// Opens the state of `work`.
    ///
    /// # Errors
    /// Same as [`open_locked`].
    pub fn open(name: &str, work: &str, busy: &str) -> anyhow::Result<Self> {
        let (path, file) = open_locked(name, work, busy)?;
        Ok(Self { path, file })
    }

    /// The newest version; `None` if none was stored, or only in a format that this program does not know.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub fn load<T: DeserializeOwned>(&mut self) -> anyhow::Result<Option<T>> {
        let mut text = Vec::new();
        let read = self.file.rewind().and_then(|()| self.file.read_to_end(&mut text));
        read.with_context(|| format!("cannot read {}", self.path.display()))?;
        let lines = text.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
        Ok(lines.rev().find_map(|line| serde_json::from_slice(line).ok()))
    }

    /// Stores a version.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn keep(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        let mut keep = || {
            let mut end = self.file.seek(SeekFrom::End(0))?;
            if end > LARGE {
                self.file.set_len(0)?;
                end = self.file.seek(SeekFrom::Start(0))?;
            }
            // A line that a kill cut off must not become the beginning of this one.
            if end > 0 {
                self.file.write_all(b"\n")?;
            }
            write_line(&mut self.file, value)
        };
        keep().with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Removes the state: everything is done. If the file stays, the next run merely finds it useless.
    pub fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn state_folder() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|base| base.join("salebell"))
        .ok_or_else(|| anyhow!("neither XDG_STATE_HOME nor HOME says where to keep how far it got"))
}
