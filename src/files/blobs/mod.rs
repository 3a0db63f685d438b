//! Where the bytes of files are: a store of blobs, a directory or a bucket of S3. PostgreSQL knows the places, the store
//! knows nothing but bytes.
//!
//! A place is written by one request alone, or by those that go on where it ended well, under a name of its own: a
//! request that has lost its upload to another can spoil nothing that the other writes.

mod directory;
mod extents;
mod mount;
mod multipart;
mod s3;

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};
use tokio::task::{JoinHandle, spawn_blocking};
use url::Url;
use uuid::Uuid;

pub use self::directory::Directory;
pub use self::extents::{Extent, hash_extents, read_extents};
use self::mount::Mount;
pub use self::mount::is_away;
pub use self::s3::S3;
use crate::aws::Chain;
use crate::config::{FileStore, FilesConfig};
use crate::domain::ids::FileId;

/// What a store must know to go on with a piece that is not sealed: JSON that the piece's row keeps and only the store
/// reads.
pub type WriterState = serde_json::Value;

/// A store of blobs.
#[derive(Clone)]
pub enum Blobs {
    Directory(Directory),
    S3(S3),
}

/// Something that the store holds and that may belong to nobody.
pub struct StrayBlob {
    /// What `remove` takes.
    pub name: String,
    /// The place of the piece that it belongs to, if to any.
    pub place: String,
}

/// An upload that the store has open for a place.
pub struct OpenUpload {
    pub place: String,
    pub id: String,
}

impl Blobs {
    /// Nothing is made or asked before the first byte is written or read.
    ///
    /// # Errors
    /// Settings that S3 cannot be reached with. A directory that should be mounted and is not.
    pub fn new(settings: &FilesConfig, chain: &Chain) -> io::Result<Blobs> {
        let mount = settings.mounted.then(|| Mount::watch(&settings.directory)).transpose()?;
        let directory = Directory::new(settings.directory.clone(), settings.reserve_bytes, mount);
        Ok(match settings.store {
            FileStore::Directory => Blobs::Directory(directory),
            FileStore::S3 => Blobs::S3(S3::new(settings, directory, chain)?),
        })
    }

    /// What is wrong with the file system of `files.directory`, where it has one of its own. Asked without waiting.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Blobs::Directory(directory) => directory.reason(),
            Blobs::S3(s3) => s3.gathered_in().reason(),
        }
    }

    /// A place for what one request writes of a file from `start` on.
    pub fn new_place(file: FileId, start: u64, writer: Uuid) -> String {
        // The last byte of a UUIDv7 is random: 256 folders of about as many files.
        format!("{:02x}/{file}.{start}.{}", file.0.as_bytes()[15], writer.simple())
    }

    /// Bytes that may still be written. S3 has room for all, as long as the directory where parts are gathered has some.
    ///
    /// # Errors
    /// The directory is away and cannot be made.
    pub async fn free(&self) -> io::Result<u64> {
        match self {
            Blobs::Directory(directory) => directory.free().await,
            Blobs::S3(s3) => Ok(if s3.gathered_in().free().await? > 0 { u64::MAX } else { 0 }),
        }
    }

    /// Opens a place for writing behind its first `length` bytes; what stands there beyond them was never told and goes.
    ///
    /// # Errors
    /// Those of the store; also when fewer than `length` bytes are there.
    pub async fn open(
        &self,
        place: &str,
        length: u64,
        progress: Option<&WriterState>,
    ) -> io::Result<BlobWriter> {
        match self {
            Blobs::Directory(directory) => Ok(BlobWriter::Directory(directory.open(place, length).await?)),
            Blobs::S3(s3) => Ok(BlobWriter::S3(s3.open(place, length, progress).await?)),
        }
    }

    /// Makes the first `length` bytes of a piece readable whose writer did not come to its end. Any number of times.
    ///
    /// # Errors
    /// Those of the store; bytes that were told are not there.
    pub async fn seal(&self, place: &str, length: u64, progress: &WriterState) -> io::Result<()> {
        match self {
            Blobs::Directory(_) => Ok(()),
            Blobs::S3(s3) => s3.seal(place, length, progress).await,
        }
    }

    /// A piece's bytes from `start` to before `end`, in the order of asking.
    ///
    /// # Errors
    /// The piece is not there.
    pub async fn read(&self, place: &str, start: u64, end: u64) -> io::Result<BlobReader> {
        match self {
            Blobs::Directory(directory) => {
                Ok(BlobReader::Directory(directory.read(place, start, end).await?))
            }
            Blobs::S3(s3) => Ok(BlobReader::S3(s3.read(place, start, end).await?)),
        }
    }

    /// An address, good for a minute, under which the store itself serves a piece of exactly so many bytes, with these
    /// headers. `None`: the store serves nobody, or has something else there.
    ///
    /// # Errors
    /// The store is away.
    pub async fn presign(
        &self,
        place: &str,
        length: u64,
        disposition: &str,
        media_type: &str,
    ) -> io::Result<Option<Url>> {
        match self {
            Blobs::Directory(_) => Ok(None),
            Blobs::S3(s3) => s3.presign(place, length, disposition, media_type).await,
        }
    }

    /// Removes a piece with all that its progress names; what is not there is removed.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn remove(&self, name: &str, progress: Option<&WriterState>) -> io::Result<()> {
        match self {
            Blobs::Directory(directory) => directory.remove(name).await,
            Blobs::S3(s3) => s3.remove(name, progress).await,
        }
    }

    /// Ends an upload that the store has open, and removes its bytes; one that is not there has ended.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn abort(&self, upload: &OpenUpload) -> io::Result<()> {
        match self {
            Blobs::Directory(_) => Ok(()),
            Blobs::S3(s3) => s3.abort(&upload.place, &upload.id).await,
        }
    }

    /// How old something must be before it can belong to nobody.
    pub fn orphan_age(&self) -> Duration {
        match self {
            // A row knows its place before the first byte is there.
            Blobs::Directory(_) => directory::ORPHAN_AGE,
            Blobs::S3(_) => s3::ORPHAN_AGE,
        }
    }

    /// What nobody has written to since `before`, a folder or so at a time.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list_old(&self, before: SystemTime) -> io::Result<Vec<Vec<StrayBlob>>> {
        match self {
            Blobs::Directory(directory) => directory.list_old(before).await,
            Blobs::S3(s3) => Ok(vec![s3.list_old(before).await?]),
        }
    }

    /// The uploads that were opened before `before`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list_open_uploads(&self, before: SystemTime) -> io::Result<Vec<OpenUpload>> {
        match self {
            Blobs::Directory(_) => Ok(Vec::new()),
            Blobs::S3(s3) => s3.list_open_uploads(before).await,
        }
    }

    /// Whether a sealed piece is there with so many bytes.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn has(&self, place: &str, length: u64) -> io::Result<bool> {
        match self {
            Blobs::Directory(directory) => directory.has(place, length).await,
            Blobs::S3(s3) => Ok(length == 0 || s3.size(place).await?.is_some_and(|size| size >= length)),
        }
    }
}

/// What cutting a piece has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The next writer can go on in this place.
    Clean,
    /// Some of what was to be forgotten is still on its way: nobody may go on in this place.
    StillArriving,
}

/// A piece that is being written.
#[derive(Clone)]
pub enum BlobWriter {
    Directory(directory::DirectoryWriter),
    S3(multipart::PartWriter),
}

impl BlobWriter {
    /// Writes bytes behind what is there, beside what the caller does, and goes on with their hash.
    ///
    /// # Errors
    /// Those of the store. What is at the end of the piece then is not known.
    pub fn write(&self, pieces: Vec<Bytes>, hasher: Sha256) -> JoinHandle<io::Result<Sha256>> {
        match self {
            BlobWriter::Directory(piece) => match piece.file() {
                Ok(file) => write_hashed(file, pieces, hasher),
                Err(away) => tokio::spawn(std::future::ready(Err(away))),
            },
            BlobWriter::S3(piece) => piece.write(pieces, hasher),
        }
    }

    /// Whether it is worth it to make durable what came since the last time, unless somebody waits for that.
    pub fn is_ripe(&self) -> bool {
        match self {
            BlobWriter::Directory(_) => true,
            BlobWriter::S3(piece) => piece.is_ripe(),
        }
    }

    /// What has been written when this is called is there for good when the future is done, and can be gone on with by
    /// what that gives.
    ///
    /// # Errors
    /// Those of the store: nothing of what was written since the last success can be relied on.
    pub fn sync(&self) -> BoxFuture<'static, io::Result<Option<WriterState>>> {
        match self.clone() {
            BlobWriter::Directory(piece) => Box::pin(async move { piece.sync().await.map(|()| None) }),
            BlobWriter::S3(piece) => piece.sync(),
        }
    }

    /// The row has what the last `sync` gave, or needs it no more: what was kept for a row before that can go.
    pub fn recorded(&self) {
        match self {
            BlobWriter::Directory(_) => {}
            BlobWriter::S3(piece) => piece.recorded(),
        }
    }

    /// Forgets what was written behind the first `length` bytes.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn cut(&self, length: u64) -> io::Result<Cut> {
        match self {
            BlobWriter::Directory(piece) => piece.cut(length).await.map(|()| Cut::Clean),
            BlobWriter::S3(piece) => piece.cut(length).await,
        }
    }

    /// All of it is there for good, and can be read.
    ///
    /// # Errors
    /// Those of the store; nobody may go on in this place then.
    pub async fn seal(&self) -> io::Result<()> {
        match self {
            BlobWriter::Directory(piece) => piece.sync().await,
            BlobWriter::S3(piece) => piece.seal().await,
        }
    }
}

/// A piece that is being read.
pub enum BlobReader {
    Directory(directory::DirectoryReader),
    S3(s3::S3Reader),
}

impl BlobReader {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// Those of the store; `UnexpectedEof` when the piece is shorter than what was asked for.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            BlobReader::Directory(reading) => reading.next().await,
            BlobReader::S3(reading) => reading.next().await,
        }
    }
}

/// Writes where the file stands, and hashes beside it: one thread for both would be the slowest on the path.
fn write_hashed(file: Arc<File>, pieces: Vec<Bytes>, mut hasher: Sha256) -> JoinHandle<io::Result<Sha256>> {
    let same_pieces = pieces.clone();
    let hashing = spawn_blocking(move || {
        for piece in &same_pieces {
            hasher.update(piece);
        }
        hasher
    });
    let writing = spawn_blocking(move || write_all(&file, &pieces));
    tokio::spawn(async move {
        writing.await.map_err(io::Error::other)??;
        hashing.await.map_err(io::Error::other)
    })
}

fn write_all(mut file: &File, pieces: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut slices = slices.as_mut_slice();
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Runs on a thread that may wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}
