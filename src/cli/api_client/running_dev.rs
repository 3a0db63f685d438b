//! File that a running `salebell dev` leaves in its folder, where the other commands find its address, its token and
//! its database.
//!
//! The file identifies the process by its id and its start time. A file left behind by a kill or a reboot is therefore
//! recognized, and nothing is sent to another program that now listens at the old address.

use std::fmt::{self, Display};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::error::chain;

/// Folder within the project's folder.
const FOLDER: &str = ".salebell";
/// Name of the file in it. It holds the database's password, so only its owner may read it.
pub const FILE: &str = "dev.json";

/// A `salebell dev` that is currently running.
#[derive(Debug)]
pub struct RunningDev {
    /// URL of its API.
    pub url: String,
    /// Absolute path of the file with its token.
    pub token_file: PathBuf,
    /// URL of its database, including the password.
    pub database_url: SecretString,
}

/// Reason why there is none.
#[derive(Debug)]
pub enum Absent {
    /// None has been started in the folder, or the last one ended properly.
    Nothing {
        project: PathBuf,
    },
    /// The process has ended without cleaning up.
    Ended {
        project: PathBuf,
        process: u32,
    },
    Unreadable(anyhow::Error),
}

impl Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Absent::Nothing { project } => {
                write!(f, "no `salebell dev` is running in {}; `make run` starts one", project.display())
            }
            Absent::Ended { project, process } => write!(
                f,
                "the `salebell dev` of {} (process {process}) is not running any more; `make run` starts it again",
                project.display()
            ),
            Absent::Unreadable(failure) => f.write_str(&chain(failure.as_ref())),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Record {
    process: Process,
    url: String,
    token_file: PathBuf,
    database_url: String,
}

/// A process, as distinct from a later one with the same id.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Process {
    id: u32,
    /// Start time in clock ticks since the boot.
    started: u64,
    /// Id of the boot.
    boot: String,
}

impl Process {
    /// The process with this id; `None` if there is none, or it is dead already.
    fn find(id: u32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // proc_pid_stat(5): the name, which may contain anything, then the state as the third field and the start as
        // the 22nd.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        if matches!(fields.first(), None | Some(&"Z" | &"X")) {
            return None;
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Some(Process { id, started: fields.get(19)?.parse().ok()?, boot: boot.trim().to_owned() })
    }
}

impl RunningDev {
    /// Content of the file, for this process.
    ///
    /// # Errors
    /// Fails if there is no `/proc` to find the start time in.
    pub fn describe(&self) -> anyhow::Result<String> {
        let process = Process::find(std::process::id());
        let record = Record {
            process: process.ok_or_else(|| anyhow!("cannot read /proc/self/stat"))?,
            url: self.url.clone(),
            token_file: self.token_file.clone(),
            database_url: self.database_url.expose_secret().to_owned(),
        };
        serde_json::to_string(&record).with_context(|| format!("cannot write {FILE}"))
    }

    /// The `salebell dev` of the current folder.
    ///
    /// # Errors
    /// Returns the reason why none is running.
    pub fn find() -> Result<RunningDev, Absent> {
        let project = std::env::current_dir().context("cannot tell the current folder");
        RunningDev::find_in(&project.map_err(Absent::Unreadable)?)
    }

    fn find_in(project: &Path) -> Result<RunningDev, Absent> {
        let path = project.join(FOLDER).join(FILE);
        let project = project.to_owned();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(Absent::Nothing { project }),
            Err(error) => {
                let failure = Err(error).with_context(|| format!("cannot read {}", path.display()));
                return failure.map_err(Absent::Unreadable);
            }
        };
        let record: Record = serde_json::from_str(&text)
            .map_err(|_| anyhow!("{} is not what `salebell dev` writes", path.display()))
            .map_err(Absent::Unreadable)?;
        if Process::find(record.process.id).as_ref() != Some(&record.process) {
            return Err(Absent::Ended { project, process: record.process.id });
        }
        let Record { url, token_file, database_url, .. } = record;
        Ok(RunningDev { url, token_file, database_url: database_url.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_process_with_the_same_id_is_another_one() {
        let project = std::env::temp_dir().join(format!("salebell-{}", uuid::Uuid::now_v7()));
        assert!(matches!(RunningDev::find_in(&project), Err(Absent::Nothing { .. })));
        fs::create_dir_all(project.join(FOLDER)).unwrap();
        let dev = RunningDev {
            url: "http://127.0.0.1:8080".to_owned(),
            token_file: "/a".into(),
            database_url: "postgres:///a".into(),
        };
        let text = dev.describe().unwrap();
        let write = |text: &str| fs::write(project.join(FOLDER).join(FILE), text).unwrap();
        write(&text);
        assert_eq!(RunningDev::find_in(&project).unwrap().url, dev.url);

        let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (field, other) in [("started", serde_json::json!(1)), ("boot", serde_json::json!("another"))] {
            let right = std::mem::replace(&mut record["process"][field], other);
            write(&record.to_string());
            let absent = RunningDev::find_in(&project).unwrap_err();
            assert!(matches!(absent, Absent::Ended { .. }), "{field}: {absent}");
            record["process"][field] = right;
        }
        write(&text[..20]);
        assert!(matches!(RunningDev::find_in(&project), Err(Absent::Unreadable(_))));
        fs::remove_dir_all(project).unwrap();
    }
}
