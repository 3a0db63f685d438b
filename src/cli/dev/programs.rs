//! Search for the PostgreSQL server programs that the private cluster runs on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::anyhow;

/// Oldest major version of PostgreSQL that Salebell supports.
pub const OLDEST_MAJOR: u32 = 15;

/// Folder with the programs `postgres` and `initdb` of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerPrograms {
    /// Path of the folder.
    pub bin: PathBuf,
    /// Major version, such as 15.
    pub major: u32,
}

impl ServerPrograms {
    /// Searches `PATH`, the folders of the packages of Debian, Ubuntu and Red Hat, and the folder that `pg_config`
    /// reports.
    ///
    /// With `major` (that of an existing cluster), only that version is accepted; otherwise the newest is chosen.
    ///
    /// # Errors
    /// Fails if no suitable version is installed; the message says what to install.
    pub fn find(major: Option<u32>) -> anyhow::Result<Self> {
        let mut found: Vec<Self> =
            candidate_folders().into_iter().filter_map(|bin| Self::probe(&bin)).collect();
        found.sort_by_key(|programs| std::cmp::Reverse(programs.major));
        let known: BTreeSet<u32> = found.iter().map(|programs| programs.major).collect();
        let chosen = match major {
            Some(major) => found.into_iter().find(|programs| programs.major == major),
            None => found.into_iter().find(|programs| programs.major >= OLDEST_MAJOR),
        };
        chosen.ok_or_else(|| anyhow!(missing_message(major, &known)))
    }

    /// Path of the program `name` of this version.
    pub fn path(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    fn probe(bin: &Path) -> Option<Self> {
        let postgres = bin.join("postgres");
        if !postgres.is_file() || !bin.join("initdb").is_file() {
            return None;
        }
        let output = Command::new(postgres).arg("--version").current_dir("/").output().ok()?;
        let major = parse_major(std::str::from_utf8(&output.stdout).ok()?)?;
        Some(Self { bin: bin.to_owned(), major })
    }
}

fn candidate_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    let mut add = |folder: PathBuf| {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    };
    if let Some(path) = std::env::var_os("PATH") {
        std::env::split_paths(&path).filter(|folder| folder.is_absolute()).for_each(&mut add);
    }
    for (parent, prefix) in [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")] {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        entries
            .flatten()
            .filter(|entry| {
                entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.strip_prefix(prefix)?.parse::<u32>().ok())
                    .is_some()
            })
            .for_each(|entry| add(entry.path().join("bin")));
    }
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output()
        && let Ok(bin) = String::from_utf8(output.stdout)
        && output.status.success()
    {
        add(PathBuf::from(bin.trim()));
    }
    folders
}

/// Parses `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)` as 15; `17beta2` is accepted too.
fn parse_major(version: &str) -> Option<u32> {
    let number = version.strip_prefix("postgres (PostgreSQL) ")?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn missing_message(wanted: Option<u32>, known: &BTreeSet<u32>) -> String {
    let found = if known.is_empty() {
        "none".to_owned()
    } else {
        known.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
    };
    match wanted {
        Some(major) => format!(
            "the database under .salebell was made by PostgreSQL {major}, whose server programs are gone (found: {found}); \
             install postgresql-{major}, or remove .salebell/postgres to begin with an empty one"
        ),
        None => format!(
            "no server programs of PostgreSQL {OLDEST_MAJOR} or newer (found: {found}); \
             `apt-get install postgresql` brings them, or use --database-url with a server of your own"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_postgres_prints_them() {
        assert_eq!(parse_major("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta2\n"), Some(18));
        assert_eq!(parse_major("psql (PostgreSQL) 15.13"), None);
    }

    #[test]
    fn the_message_names_the_versions_found_and_the_remedy() {
        let message = missing_message(None, &BTreeSet::from([13, 14]));
        assert!(
            message.contains("found: 13, 14") && message.contains("apt-get install postgresql"),
            "{message}"
        );
    }
}
