//! Files that `salebell boot` writes for the services: each completely or not at all, in a folder that only we can
//! write to.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;

/// Mode of the folder: other users may list it, but not create files in it.
const FOLDER_MODE: u32 = 0o755;
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A folder such as `/run/salebell`, locked against any other boot process that writes there.
pub struct RunDirectory {
    path: PathBuf,
    _held: Flock<File>,
}

impl RunDirectory {
    /// Locks the folder, and creates it if it is missing.
    ///
    /// # Errors
    /// Fails if it is not a folder, belongs to another user, is writable by others, or is locked by another boot.
    pub fn open(path: &Path) -> anyhow::Result<RunDirectory> {
        match fs::DirBuilder::new().mode(FOLDER_MODE).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("{} cannot be made", path.display()));
            }
            _ => {}
        }
        // Links are not followed: another user may have created one.
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_DIRECTORY)
            .open(path)
            .with_context(|| format!("{} must be a folder, and no link to one", path.display()))?;
        let found = opened.metadata().with_context(|| format!("{} cannot be looked at", path.display()))?;
        let (owner, mode) = (found.uid(), found.mode() & 0o7777);
        if owner != Uid::effective().as_raw() {
            let us = Uid::effective();
            bail!(
                "{} belongs to user {owner} and must be ours (user {us}): secrets go there",
                path.display()
            );
        }
        if mode & WRITABLE_BY_OTHERS != 0 {
            bail!("{} has mode {mode:04o} and others can write to it: secrets go there", path.display());
        }
        let held = Flock::lock(opened, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, error)| error)
            .with_context(|| format!("another salebell boot is at work in {}", path.display()))?;
        Ok(RunDirectory { path: path.to_owned(), _held: held })
    }

    /// Replaces a file atomically: a reader finds the previous version or this one.
    ///
    /// # Errors
    /// Fails if the file cannot be written; the previous version stays in place.
    pub fn write(&self, name: &str, mode: u32, content: &[u8]) -> anyhow::Result<PathBuf> {
        let (path, new) = (self.path.join(name), self.path.join(format!(".{name}.new")));
        let written = replace(&path, &new, mode, content);
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written.with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(path)
    }

    /// Removes a file that an earlier boot may have left.
    ///
    /// # Errors
    /// Fails if the file exists and cannot be removed.
    pub fn remove(&self, name: &str) -> anyhow::Result<()> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.with_context(|| format!("{} cannot be removed", path.display())),
        }
    }
}

fn replace(path: &Path, new: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    // Left behind by a boot that was killed.
    match fs::remove_file(new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Not readable by other users at any moment.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    file.write_all(content)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> PathBuf {
        std::env::temp_dir().join(format!("salebell-{}", uuid::Uuid::now_v7().simple()))
    }

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn files_are_replaced_whole_and_leftovers_removed() {
        let path = scratch();
        let folder = RunDirectory::open(&path).unwrap();
        assert_eq!(mode_of(&path) & WRITABLE_BY_OTHERS, 0);
        fs::write(path.join(".config.toml.new"), "half").unwrap();
        for content in ["one", "two"] {
            let file = folder.write("config.toml", 0o400, content.as_bytes()).unwrap();
            assert_eq!((fs::read_to_string(&file).unwrap().as_str(), mode_of(&file)), (content, 0o400));
        }
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_the_one_before() {
        let path = scratch();
        let folder = RunDirectory::open(&path).unwrap();
        // Nothing can be renamed onto a folder that is not empty.
        fs::create_dir_all(path.join("config.toml/inside")).unwrap();
        let problem = folder.write("config.toml", 0o400, b"hunter2").err().unwrap().to_string();
        assert!(
            problem.contains("config.toml cannot be written") && !problem.contains("hunter2"),
            "{problem}"
        );
        assert!(!path.join(".config.toml.new").exists());
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_folder_that_is_not_ours_alone_is_refused() {
        let path = scratch();
        fs::create_dir(&path).unwrap();
        for mode in [0o777, 0o1777, 0o775, 0o757] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let problem = RunDirectory::open(&path).err().unwrap().to_string();
            assert!(problem.contains(&format!("{mode:04o}")), "{problem}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let link = scratch();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(RunDirectory::open(&link).err().unwrap().to_string().contains("no link"));
        let held = RunDirectory::open(&path).unwrap();
        assert!(RunDirectory::open(&path).err().unwrap().to_string().contains("another salebell boot"));
        drop(held);
        // Only root can change the owner of a folder.
        if Uid::effective().is_root() {
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            let problem = RunDirectory::open(&path).err().unwrap().to_string();
            assert!(problem.contains("belongs to user 65534"), "{problem}");
        }
        fs::remove_file(&link).unwrap();
        fs::remove_dir_all(&path).unwrap();
    }
}
