//! Blobs in a directory, on a local disk or on EFS, which several instances share.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use nix::sys::statvfs::statvfs;
use tokio::time::timeout;

use super::mount::{Mount, require_elsewhere, require_mounted};
use super::piece::{StrayBlob, blocking};

/// Maximum number of bytes read at once.
const READ_AT_ONCE: usize = 256 * 1024;
/// Interval at which a caller that waits for a blocking thread checks whether the file system still answers.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Age below which a blob is not an orphan: the row of its file may be about to be written.
pub const ORPHAN_AGE: Duration = Duration::from_secs(3600);

/// Store of blobs below one directory.
#[derive(Clone)]
pub struct Directory {
    root: Arc<PathBuf>,
    /// Number of bytes of the file system that must stay free.
    reserve: u64,
    /// State of the file system, if it must be mounted: without it, nothing is read or written.
    mount: Option<Mount>,
}

impl Directory {
    /// Makes a store. It creates no folder before the first byte is written.
    pub fn new(root: PathBuf, reserve: u64, mount: Option<Mount>) -> Directory {
        Directory { root: Arc::new(root), reserve, mount }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Problem of the file system that must be mounted there.
    pub fn reason(&self) -> Option<&'static str> {
        self.mount.as_ref().and_then(Mount::reason)
    }

    /// Runs work on a thread that may block. If the file system turns out to hang, the thread is abandoned: whatever it
    /// may still do affects a place in which no writer continues.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let root = self.root.clone();
        let Some(mount) = &self.mount else { return blocking(move || work(&root)).await };
        mount.check()?;
        let working = blocking(move || {
            require_mounted(&root)?;
            let done = work(&root);
            // The file system may have been unmounted meanwhile, and the result may be that of the root's file system.
            require_mounted(&root)?;
            done
        });
        let mut working = pin!(working);
        loop {
            match timeout(CHECK_INTERVAL, working.as_mut()).await {
                Ok(done) => return done,
                Err(_) => mount.check()?,
            }
        }
    }

    /// Number of bytes that can still be written.
    ///
    /// # Errors
    /// The directory is unavailable and cannot be created.
    pub async fn free(&self) -> io::Result<u64> {
        let reserve = self.reserve;
        self.work(move |root| {
            let free =
                |root: &Path| statvfs(root).map(|found| found.blocks_available() * found.fragment_size());
            let found = free(root).or_else(|_| {
                fs::create_dir_all(root)?;
                free(root).map_err(io::Error::from)
            })?;
            Ok(found.saturating_sub(reserve))
        })
        .await
    }

    /// Opens a place for writing after its first `length` bytes. Bytes beyond them were never reported and are dropped.
    ///
    /// # Errors
    /// Errors of the file system; also if the file has fewer than `length` bytes.
    pub async fn open(&self, place: &str, length: u64) -> io::Result<DirectoryWriter> {
        let path = self.path(place)?;
        let mount = self.mount.clone();
        self.work(move |root| {
            let folder = path.parent().unwrap_or(root);
            let mut file = match OpenOptions::new().write(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && length == 0 => {
                    if !folder.is_dir() {
                        fs::create_dir_all(folder)?;
                        File::open(root)?.sync_all()?;
                    }
                    let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
                    // Otherwise the name could be lost in a crash, with everything in the file.
                    File::open(folder)?.sync_all()?;
                    file
                }
                opened => opened?,
            };
            let found = file.metadata()?;
            if mount.is_some() {
                require_elsewhere(&found)?;
            }
            let found = found.len();
            if found < length {
                return Err(io::Error::other(format!("a piece has {found} bytes of {length}")));
            }
            file.set_len(length)?;
            file.seek(SeekFrom::Start(length))?;
            Ok(DirectoryWriter { file: Arc::new(file), mount })
        })
        .await
    }

    /// Opens a piece for reading the bytes from `start` to before `end`, in order.
    ///
    /// # Errors
    /// Errors of the file system; also if the piece is missing.
    pub async fn read(&self, place: &str, start: u64, end: u64) -> io::Result<DirectoryReader> {
        let path = self.path(place)?;
        let opened = self.work(move |_| {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(start))?;
            Ok(file)
        });
        let (file, mount) = (Some(opened.await?), self.mount.clone());
        Ok(DirectoryReader { file, left: end.saturating_sub(start), spare: BytesMut::new(), mount })
    }

    /// Removes a piece. A piece that is missing counts as removed.
    ///
    /// # Errors
    /// Errors of the file system.
    pub async fn remove(&self, place: &str) -> io::Result<()> {
        let path = self.path(place)?;
        self.work(move |_| match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await
    }

    /// Places last written before `before`, in a list per folder.
    ///
    /// # Errors
    /// Errors of the file system.
    pub async fn list_old(&self, before: SystemTime) -> io::Result<Vec<Vec<StrayBlob>>> {
        self.work(move |root| {
            let mut folders = Vec::new();
            let entries = match fs::read_dir(root) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(folders),
                entries => entries?,
            };
            for folder in entries {
                let folder = folder?;
                if !folder.file_type()?.is_dir() {
                    continue;
                }
                let mut places = Vec::new();
                for entry in fs::read_dir(folder.path())? {
                    let entry = entry?;
                    let Ok(found) = entry.metadata() else { continue };
                    if found.is_file() && found.modified()? < before {
                        let (folder, name) = (folder.file_name(), entry.file_name());
                        let place = format!("{}/{}", folder.to_string_lossy(), name.to_string_lossy());
                        places.push(StrayBlob { name: place.clone(), place });
                    }
                }
                folders.push(places);
            }
            Ok(folders)
        })
        .await
    }

    /// Whether a piece exists with at least `length` bytes.
    ///
    /// # Errors
    /// Errors of the file system.
    pub async fn has(&self, place: &str, length: u64) -> io::Result<bool> {
        let path = self.path(place)?;
        self.work(move |_| match fs::metadata(path) {
            Ok(found) => Ok(found.len() >= length),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        })
        .await
    }

    /// The path of a place. Places come from our own table; an error there must not lead out of the directory.
    fn path(&self, place: &str) -> io::Result<PathBuf> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        match place.split_once('/') {
            Some((folder, name))
                if !name.is_empty()
                    && !name.starts_with('.')
                    && !folder.is_empty()
                    && !folder.contains('.')
                    && (folder.to_owned() + name).chars().all(plain) =>
            {
                Ok(self.root.join(folder).join(name))
            }
            _ => Err(io::Error::other(format!("{place:?} is no place"))),
        }
    }
}

/// Writer of a piece in a file.
#[derive(Clone)]
pub struct DirectoryWriter {
    file: Arc<File>,
    mount: Option<Mount>,
}

impl DirectoryWriter {
    /// The open file, to write to.
    ///
    /// # Errors
    /// The file system is unavailable; writing would block a thread.
    pub fn file(&self) -> io::Result<Arc<File>> {
        self.mount.as_ref().map_or(Ok(()), Mount::check)?;
        Ok(self.file.clone())
    }

    /// Makes everything durable that was written before.
    ///
    /// # Errors
    /// Errors of the file system: nothing that was written since the last success is reliable.
    pub async fn sync(&self) -> io::Result<()> {
        let file = self.file()?;
        blocking(move || file.sync_data()).await
    }

    /// Drops what was written after the first `length` bytes.
    ///
    /// # Errors
    /// Errors of the file system.
    pub async fn cut(&self, length: u64) -> io::Result<()> {
        let file = self.file()?;
        blocking(move || {
            file.set_len(length)?;
            (&*file).seek(SeekFrom::Start(length)).map(|_| ())
        })
        .await
    }
}

/// Reader of a piece in a file.
pub struct DirectoryReader {
    file: Option<File>,
    left: u64,
    spare: BytesMut,
    mount: Option<Mount>,
}

impl DirectoryReader {
    /// Reads the next bytes; `None` at the end.
    ///
    /// # Errors
    /// Errors of the file system; `UnexpectedEof` if the piece is shorter than the requested range.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        self.mount.as_ref().map_or(Ok(()), Mount::check)?;
        let Some(mut file) = self.file.take_if(|_| self.left > 0) else { return Ok(None) };
        let wanted = self.left.min(READ_AT_ONCE as u64) as usize;
        let mut buffer = std::mem::take(&mut self.spare);
        let (file, mut buffer) = blocking(move || {
            buffer.resize(wanted, 0);
            file.read_exact(&mut buffer)?;
            Ok((file, buffer))
        })
        .await?;
        self.left -= wanted as u64;
        self.file = Some(file);
        let bytes = buffer.split().freeze();
        self.spare = buffer;
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::Blobs;
    use super::*;
    use crate::domain::ids::FileId;

    #[tokio::test]
    async fn no_caller_waits_for_a_file_system_that_turns_out_to_hang() {
        let mount = Mount::found(None);
        let directory = Directory::new("/proc".into(), 0, Some(mount.clone()));
        let (release, held) = std::sync::mpsc::channel::<()>();
        let hangs = directory.work(move |_| held.recv().map_err(io::Error::other));
        let mut hangs = pin!(hangs);
        assert!(timeout(Duration::from_millis(50), hangs.as_mut()).await.is_err(), "it is under way");
        mount.becomes(Some("does not answer"));
        assert!(super::super::is_unavailable(&hangs.await.unwrap_err()));
        // No further thread is lost to the file system, and no byte of an open file is touched.
        let outcome = directory.work(|_| -> io::Result<()> { panic!("it was touched") }).await;
        assert!(super::super::is_unavailable(&outcome.unwrap_err()));
        let piece =
            DirectoryWriter { file: Arc::new(File::open("/proc/self/status").unwrap()), mount: Some(mount) };
        assert!(piece.file().is_err() && piece.sync().await.is_err() && piece.cut(0).await.is_err());
        release.send(()).unwrap();
    }

    #[tokio::test]
    async fn nothing_is_read_or_written_where_nothing_is_mounted() {
        // The path is on the root's file system, although the last check found no problem.
        let root = Path::new("/usr").to_owned();
        let directory = Directory::new(root, 0, Some(Mount::found(None)));
        let place = Blobs::new_place(FileId::now_v7(), 0, Uuid::now_v7());
        let unavailable = |error: io::Error| super::super::is_unavailable(&error);
        assert!(unavailable(directory.free().await.unwrap_err()));
        assert!(unavailable(directory.open(&place, 0).await.err().unwrap()));
        assert!(unavailable(directory.read(&place, 0, 1).await.err().unwrap()));
        assert!(unavailable(directory.remove(&place).await.unwrap_err()));
        assert!(unavailable(directory.has(&place, 1).await.unwrap_err()), "it would be taken for lost");
        assert!(unavailable(directory.list_old(SystemTime::now()).await.err().unwrap()));
        assert!(!directory.path(&place).unwrap().parent().unwrap().exists());
    }

    #[test]
    fn no_place_is_outside_the_directory() {
        let directory = Directory::new("/srv/files".into(), 0, None);
        let place = Blobs::new_place(FileId::now_v7(), 5, Uuid::now_v7());
        assert!(directory.path(&place).unwrap().starts_with("/srv/files"));
        for invalid in ["", "a", "../a", "a/../b", "a/b/c", "/etc/passwd", "a/.b", "a/", "./a"] {
            assert!(directory.path(invalid).is_err(), "{invalid}");
        }
    }
}
