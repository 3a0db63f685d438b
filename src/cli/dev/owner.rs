//! The user that the private server runs as: PostgreSQL refuses to run as root.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use nix::unistd::{Gid, Uid, User};
use tokio::process::Command;

/// The account that is made when root has no `postgres` to run the server as.
const FALLBACK: &str = "salebell";

/// Who runs the server programs and owns their files.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The login name, for messages.
    pub name: String,
    uid: Uid,
    gid: Gid,
    /// Whether we are root and change to this user.
    switches: bool,
}

impl Owner {
    /// The caller, unless that is root. For root: whoever owns `existing` (a cluster made earlier), else
    /// `postgres`, which the Debian packages bring, else a system user `salebell`, made here.
    ///
    /// # Errors
    /// When root has no such user and cannot make one.
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

    /// Whether this is another user than the caller.
    pub fn is_another(&self) -> bool {
        self.switches
    }

    /// A command that runs as this user, free of the caller's `PG…` variables.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if self.switches {
            // The standard library drops supplementary groups along with root.
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

    /// Whether this user can pass through every folder on the way to `folder` and enter it.
    ///
    /// # Errors
    /// When `test` cannot be run.
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

    /// Makes a file or folder this user's own.
    ///
    /// # Errors
    /// When its owner cannot be changed.
    pub fn give(&self, path: &Path) -> anyhow::Result<()> {
        if !self.switches {
            return Ok(());
        }
        nix::unistd::chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("cannot give {} to {}", path.display(), self.name))
    }

    /// Whether `path` is a folder (no link) of this user's that others cannot enter.
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
