//! State of a report, which allows it to resume after it was killed.
//!
//! There is one file per report in `${XDG_STATE_HOME:-~/.local/state}/salebell`, named by a hash of the input's path,
//! size and modification time and of every option that changes what is sent. Its first line is the session, and each
//! further line is a slice that was accepted. It is removed once everything is done. Standard input cannot be read
//! again, so it has no file.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::slices::{LineRefusal, ReportSlice};
use crate::cli::api_client::state::{open_locked, write_line};

/// A slice that the API has accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedSlice {
    pub number: u64,
    /// Digest of what was sent, to detect that the input has changed.
    pub digest: String,
    /// Batch of the slice; `None` if every line was refused.
    pub batch_id: Option<Uuid>,
    pub accepted: u64,
    pub refused: Vec<LineRefusal>,
    /// Lines that were accepted without one of their fields; the reason names the field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<LineRefusal>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    session: Uuid,
    input: String,
}

/// One report of one input, over one or more runs.
#[derive(Debug)]
pub struct Session {
    id: Uuid,
    done: Vec<AcceptedSlice>,
    file: Option<(PathBuf, Flock<File>)>,
}

impl Session {
    /// Creates a session that is not stored.
    pub fn unremembered() -> Self {
        Self { id: Uuid::now_v7(), done: Vec::new(), file: None }
    }

    /// Opens the session of a file: a new one, or that of an earlier run. `options` contains everything that changes
    /// what is sent.
    ///
    /// # Errors
    /// Fails if the input or the state file cannot be read, or if another process is running the same report.
    pub fn open(input: &Path, options: &str) -> anyhow::Result<Self> {
        let describe = || {
            let path = input.canonicalize()?;
            let metadata = path.metadata()?;
            let (size, seconds, nanoseconds) = (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
            Ok::<_, std::io::Error>(format!("{} {size} {seconds}.{nanoseconds} {options}", path.display()))
        };
        let description = describe().with_context(|| format!("cannot open {}", input.display()))?;
        let busy = format!("another salebell report of {} is running", input.display());
        let (path, file) = open_locked("report", &description, &busy)?;
        Self::load(path, file, &input.display().to_string())
    }

    fn load(path: PathBuf, mut file: Flock<File>, input: &str) -> anyhow::Result<Self> {
        let mut load = || {
            let mut reader = BufReader::new(&*file);
            let mut line = Vec::new();
            let mut good = reader.read_until(b'\n', &mut line)? as u64;
            let header = serde_json::from_slice::<Header>(&line).ok().filter(|_| line.ends_with(b"\n"));
            let Some(header) = header else {
                // New, or killed before its first line was complete, at which point nothing had been sent.
                let header = Header { session: Uuid::now_v7(), input: input.to_owned() };
                file.set_len(0)?;
                file.rewind()?;
                write_line(&mut file, &header)?;
                return Ok((header.session, Vec::new()));
            };
            let mut done = Vec::new();
            loop {
                line.clear();
                let read = reader.read_until(b'\n', &mut line)? as u64;
                let slice = serde_json::from_slice::<AcceptedSlice>(&line).ok();
                match slice.filter(|slice| line.ends_with(b"\n") && slice.number == done.len() as u64) {
                    Some(slice) => done.push(slice),
                    None => break,
                }
                good += read;
            }
            // A last line that a kill cut off is removed; its slice is sent again under the same key.
            file.set_len(good)?;
            file.seek(SeekFrom::Start(good))?;
            Ok::<_, std::io::Error>((header.session, done))
        };
        let (id, done) = load().with_context(|| format!("cannot use {}", path.display()))?;
        Ok(Self { id, done, file: Some((path, file)) })
    }

    /// Number of slices that earlier runs completed.
    pub fn resumed(&self) -> usize {
        self.done.len()
    }

    /// Whether a killed run can be resumed.
    pub fn is_remembered(&self) -> bool {
        self.file.is_some()
    }

    /// Result that an earlier run received for this slice.
    ///
    /// # Errors
    /// Fails if the input has changed since then.
    pub fn find(&self, slice: &ReportSlice) -> anyhow::Result<Option<&AcceptedSlice>> {
        let Some(done) = usize::try_from(slice.number).ok().and_then(|number| self.done.get(number)) else {
            return Ok(None);
        };
        if done.digest != slice.digest {
            let state = self.file.as_ref().map(|(path, _)| path.display().to_string()).unwrap_or_default();
            bail!(
                "the input has changed since a part of it was reported; remove {state} to report it as a new one"
            );
        }
        Ok(Some(done))
    }

    /// Idempotency key of a slice, the same however often it is sent: a structured-field string
    /// (draft-ietf-httpapi-idempotency-key-header-07).
    pub fn key(&self, slice: &ReportSlice) -> String {
        format!("\"{}-{}-{}\"", self.id.simple(), slice.number, &slice.digest[..16])
    }

    /// Records durably that a slice was accepted.
    ///
    /// # Errors
    /// Fails if the state file cannot be written.
    pub fn keep(&mut self, slice: AcceptedSlice) -> anyhow::Result<()> {
        if let Some((path, file)) = &mut self.file {
            write_line(file, &slice).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// Removes the state: everything is done.
    pub fn finish(self) {
        if let Some((path, _lock)) = self.file {
            // If the file stays, the next report of the same input merely sends nothing.
            let _ = fs::remove_file(path);
        }
    }
}
