//! The folder `.salebell`, which only one process uses at a time, and its files, which only their owner may read.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;

use crate::cli::api_client::running_dev::{self, RunningDev};

/// `.salebell` in the folder where `salebell dev` was started, locked for this process.
#[derive(Debug)]
pub struct Home {
    project: PathBuf,
    folder: PathBuf,
    lock: FolderLock,
}

impl Home {
    /// Creates `.salebell` below `project` if it is missing, and locks it.
    ///
    /// # Errors
    /// Fails if another `salebell dev` holds the lock (the message has its process id and address), or if the folder
    /// cannot be created.
    pub fn open(project: &Path) -> anyhow::Result<Self> {
        let folder = project.join(".salebell");
        // As root, the server runs as another user, who must be able to traverse the folder. It cannot be listed.
        let mode = if Uid::effective().is_root() { 0o711 } else { 0o700 };
        make_folder(&folder, mode)?;
        let folder = folder.canonicalize().with_context(|| format!("cannot resolve {}", folder.display()))?;
        let lock = FolderLock::take(&folder)?;
        // Left behind by a run that was killed.
        let _ = fs::remove_file(folder.join(running_dev::FILE));
        // The token and the password must not be committed by accident, wherever this was started.
        let ignore = folder.join(".gitignore");
        if !ignore.exists() {
            fs::write(&ignore, "*\n").with_context(|| format!("cannot write {}", ignore.display()))?;
        }
        Ok(Self { project: project.to_owned(), folder, lock })
    }

    /// Absolute path of a file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Folder that contains `.salebell`.
    pub fn project(&self) -> &Path {
        &self.project
    }

    /// Records how to reach this process: for a second `salebell dev`, which finds the folder locked, and for the other
    /// commands.
    ///
    /// # Errors
    /// Fails if a file cannot be written.
    pub fn announce(&mut self, dev: &RunningDev) -> anyhow::Result<()> {
        self.lock.announce(&dev.url)?;
        write_secret(&self.path(running_dev::FILE), &dev.describe()?)
    }

    /// Makes `.salebell/salebell` a link to this program, which is usually not in the PATH.
    ///
    /// # Errors
    /// Fails if the link cannot be created.
    pub fn link_program(&self) -> anyhow::Result<PathBuf> {
        let (link, temporary) = (self.path("salebell"), self.path("salebell.new"));
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        let _ = fs::remove_file(&temporary);
        let made =
            std::os::unix::fs::symlink(program, &temporary).and_then(|()| fs::rename(&temporary, &link));
        made.with_context(|| format!("cannot make {}", link.display()))?;
        Ok(link)
    }
}

impl Drop for Home {
    /// Runs while the lock is still held, so it cannot remove the file of a later process.
    fn drop(&mut self) {
        let _ = fs::remove_file(self.path(running_dev::FILE));
    }
}

/// Exclusive `flock` on `<folder>/lock`. The kernel releases it with the process, however that ends.
#[derive(Debug)]
pub struct FolderLock(Flock<File>);

impl FolderLock {
    /// Acquires the lock without waiting.
    ///
    /// # Errors
    /// Fails if another process holds it; the message contains what that process has announced.
    pub fn take(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                write_lock(&mut lock, &format!("process {}", std::process::id()))?;
                Ok(Self(lock))
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                Err(anyhow!(
                    "salebell dev is running here already: {} (it holds {})",
                    if holder.trim().is_empty() { "starting" } else { holder.trim() },
                    path.display()
                ))
            }
            Err((_, errno)) => Err(errno).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    fn announce(&mut self, address: &str) -> anyhow::Result<()> {
        let text = format!("process {}, {address}", std::process::id());
        write_lock(&mut self.0, &text)
    }
}

fn write_lock(file: &mut File, text: &str) -> anyhow::Result<()> {
    use std::io::Seek;
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(text.as_bytes())
    };
    write(file).context("cannot write the lock file")
}

/// Creates one folder with exactly `mode`; an existing folder is left as it is.
///
/// # Errors
/// Fails if it cannot be created, or if the path exists and is not a folder.
pub fn make_folder(path: &Path, mode: u32) -> anyhow::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        // The umask may have removed bits.
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot set the mode of {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot make {}", path.display())),
    }
}

/// Writes a secret atomically, readable by its owner only (mode 0600). No other user ever sees it, and no reader ever
/// sees half of it.
///
/// # Errors
/// Fails if the file cannot be written.
pub fn write_secret(path: &Path, secret: &str) -> anyhow::Result<()> {
    let temporary = path.with_extension("new");
    let write = || {
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(secret.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a secret without its line end; `None` if there is no such file.
///
/// # Errors
/// Fails if the file exists and cannot be read.
pub fn read_secret(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Generates `bytes` random bytes in hexadecimal, from the operating system's generator.
///
/// # Errors
/// Fails if the generator fails.
pub fn random_hex(bytes: usize) -> anyhow::Result<String> {
    let mut buffer = vec![0u8; bytes];
    aws_lc_rs::rand::fill(&mut buffer).map_err(|_| anyhow!("no random numbers to be had"))?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}
