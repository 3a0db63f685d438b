//! The user that the private server runs as, since PostgreSQL refuses to run as root.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use nix::unistd::{Gid, Uid, User};
use tokio::process::Command;

/// System user that is created if root finds no `postgres` user.
const FALLBACK: &str = "salebell";

/// User that runs the server programs and owns their files.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Login name, for messages.
    pub name: String,
    uid: Uid,
    gid: Gid,
    /// Whether this process is root and switches to this user.
    switches: bool,
}

impl Owner {
    /// Chooses the caller, unless that is root. For root, it chooses the owner of `existing` (an earlier cluster), or
    /// else `postgres`, which the Debian packages create, or else the system user `salebell`, which it creates.
    ///
    /// # Errors
    /// Fails if root has no such user and cannot create one.
    pub async fn choose(existing: &Path) -> anyhow::Result<Self> {
        let me = Uid::effective();
        if !me.is_root() {
            let name = lookup_uid(me)?.map_or_else(|| me.to_string(), |user| user.name);
            return Ok(Self { name, uid: me, gid: Gid::effective(), switches: false });
        }
        if let Ok(metadata) = std::fs::metadata(existing)
            && metadata.uid() != 0
        {
            let uid = Uid::from_raw(metadata.uid());
            let user = lookup_uid(uid)?;
            let name = user.as_ref().map_or_else(|| uid.to_string(), |user| user.name.clone());
            let gid = user.map_or(Gid::from_raw(metadata.gid()), |user| user.gid);
            return Ok(Self { name, uid, gid, switches: true });
        }
        for name in ["postgres", FALLBACK] {
            if let Some(user) = lookup_name(name)? {
                return Ok(Self { name: user.name, uid: user.uid, gid: user.gid, switches: true });
            }
        }
        let status = Command::new("useradd")
            .args(["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", FALLBACK])
            .status()
            .await
            .context("cannot run useradd to make a user for the database server")?;
        match lookup_name(FALLBACK)? {
            Some(user) if status.success() => {
                Ok(Self { name: user.name, uid: user.uid, gid: user.gid, switches: true })
            }
            _ => Err(anyhow!("PostgreSQL does not run as root, and useradd made no user for it")),
        }
    }

    /// Whether this is a user other than the caller.
    pub fn is_another(&self) -> bool {
        self.switches
    }

    /// Command that runs as this user, without the caller's `PG…` variables.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if self.switches {
            // The standard library drops supplementary groups when it switches away from root.
            command.uid(self.uid.as_raw()).gid(self.gid.as_raw());
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").stdin(std::process::Stdio::null());
        command
    }

    /// Whether this user can traverse every folder on the way to `folder`, and enter it.
    ///
    /// # Errors
    /// Fails if `test` cannot be run.
    pub async fn can_enter(&self, folder: &Path) -> anyhow::Result<bool> {
        let status = self
            .command(Path::new("test"))
            .arg("-x")
            .arg(folder)
            .current_dir("/")
            .status()
            .await
            .context("cannot run test")?;
        Ok(status.success())
    }

    /// Makes this user the owner of a file or folder.
    ///
    /// # Errors
    /// Fails if the owner cannot be changed.
    pub fn give(&self, path: &Path) -> anyhow::Result<()> {
        if !self.switches {
            return Ok(());
        }
        nix::unistd::chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("cannot give {} to {}", path.display(), self.name))
    }

    /// Whether `path` is a folder (not a link) that belongs to this user and that others cannot enter.
    pub fn has_private_folder(&self, path: &Path) -> bool {
        std::fs::symlink_metadata(path).is_ok_and(|metadata| {
            metadata.is_dir() && metadata.uid() == self.uid.as_raw() && metadata.mode() & 0o077 == 0
        })
    }
}

fn lookup_uid(uid: Uid) -> anyhow::Result<Option<User>> {
    User::from_uid(uid).with_context(|| format!("cannot look up user {uid}"))
}

fn lookup_name(name: &str) -> anyhow::Result<Option<User>> {
    User::from_name(name).with_context(|| format!("cannot look up user {name}"))
}
