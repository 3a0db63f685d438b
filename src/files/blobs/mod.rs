//! Stores of blobs, which hold the bytes of files: a directory or an S3 bucket. PostgreSQL knows the places; the store
//! knows only bytes.
//!
//! Each place has a unique name. Only one request writes to it, or a later one that continues where the one before
//! ended cleanly: a request that has lost its upload to another cannot spoil anything that the other writes.

mod directory;
pub mod extents;
mod mount;
mod multipart;
mod pending_parts;
mod piece;
mod s3;

use std::io;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use sha2::Sha256;
use tokio::task::JoinHandle;
use url::Url;
use uuid::Uuid;

pub use self::directory::Directory;
use self::mount::Mount;
pub use self::mount::is_unavailable;
use self::multipart::PartWriter;
use self::piece::write_hashed;
pub use self::piece::{Cut, OpenUpload, StrayBlob, WriterState};
pub use self::s3::S3;
use crate::aws::Chain;
use crate::config::{FileStore, FilesConfig};
use crate::domain::ids::FileId;

/// A store of blobs.
#[derive(Clone)]
pub enum Blobs {
    Directory(Directory),
    S3(S3),
}

impl Blobs {
    /// Opens the store that the settings name. It makes no folder and no request before the first byte is written or
    /// read.
    ///
    /// # Errors
    /// The settings are invalid for S3, or a directory that must be mounted is not.
    pub fn new(settings: &FilesConfig, chain: &Chain) -> io::Result<Blobs> {
        let mount = settings.mounted.then(|| Mount::watch(&settings.directory)).transpose()?;
        let directory = Directory::new(settings.directory.clone(), settings.reserve_bytes, mount);
        Ok(match settings.store {
            FileStore::Directory => Blobs::Directory(directory),
            FileStore::S3 => Blobs::S3(S3::new(settings, directory, chain)?),
        })
    }

    /// Problem of the file system of `files.directory`, if it is a separate one. Never blocks.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Blobs::Directory(directory) => directory.reason(),
            Blobs::S3(s3) => s3.scratch().reason(),
        }
    }

    /// A new place for the bytes that one request writes of a file, from `start` on.
    pub fn new_place(file: FileId, start: u64, writer: Uuid) -> String {
        // The last byte of a UUIDv7 is random: 256 folders of about the same size.
        format!("{:02x}/{file}.{start}.{}", file.0.as_bytes()[15], writer.simple())
    }

    /// Number of bytes that can still be written. S3 has no limit, as long as the directory where parts are gathered
    /// has space.
    ///
    /// # Errors
    /// The directory is unavailable and cannot be created.
    pub async fn free(&self) -> io::Result<u64> {
        match self {
            Blobs::Directory(directory) => directory.free().await,
            Blobs::S3(s3) => Ok(if s3.scratch().free().await? > 0 { u64::MAX } else { 0 }),
        }
    }

    /// Opens a place for writing after its first `length` bytes. Bytes beyond them were never reported and are dropped.
    ///
    /// # Errors
    /// Errors of the store; also if it has fewer than `length` bytes.
    pub async fn open(
        &self,
        place: &str,
        length: u64,
        progress: Option<&WriterState>,
    ) -> io::Result<BlobWriter> {
        match self {
            Blobs::Directory(directory) => Ok(BlobWriter::Directory(directory.open(place, length).await?)),
            Blobs::S3(s3) => Ok(BlobWriter::S3(PartWriter::open(s3, place, length, progress).await?)),
        }
    }

    /// Makes the first `length` bytes of a piece readable whose writer did not seal it. May be repeated.
    ///
    /// # Errors
    /// Errors of the store; also if bytes that were reported are missing.
    pub async fn seal(&self, place: &str, length: u64, progress: &WriterState) -> io::Result<()> {
        match self {
            Blobs::Directory(_) => Ok(()),
            Blobs::S3(s3) => s3.seal(place, length, progress).await,
        }
    }

    /// Opens a piece for reading the bytes from `start` to before `end`, in order.
    ///
    /// # Errors
    /// Errors of the store; also if the piece is missing.
    pub async fn read(&self, place: &str, start: u64, end: u64) -> io::Result<BlobReader> {
        match self {
            Blobs::Directory(directory) => {
                Ok(BlobReader::Directory(directory.read(place, start, end).await?))
            }
            Blobs::S3(s3) => Ok(BlobReader::S3(s3.read(place, start, end).await?)),
        }
    }

    /// A URL, valid for a minute at most, under which the store itself serves a piece of exactly `length` bytes, with
    /// these headers. `None`: the store does not serve clients, or its object has another length.
    ///
    /// # Errors
    /// Errors of the store.
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

    /// Removes a piece with everything that its progress names. A piece that is missing counts as removed.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn remove(&self, name: &str, progress: Option<&WriterState>) -> io::Result<()> {
        match self {
            Blobs::Directory(directory) => directory.remove(name).await,
            Blobs::S3(s3) => s3.remove(name, progress).await,
        }
    }

    /// Aborts an upload that the store has open, and removes its bytes. One that is missing counts as aborted.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn abort(&self, upload: &OpenUpload) -> io::Result<()> {
        match self {
            Blobs::Directory(_) => Ok(()),
            Blobs::S3(s3) => s3.abort(&upload.place, &upload.id).await,
        }
    }

    /// Age from which a blob or an upload that no row names is an orphan.
    pub fn orphan_age(&self) -> Duration {
        match self {
            // A row names its place before the first byte is written.
            Blobs::Directory(_) => directory::ORPHAN_AGE,
            Blobs::S3(_) => s3::ORPHAN_AGE,
        }
    }

    /// Blobs that were last written before `before`, in batches, such as one per folder.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn list_old(&self, before: SystemTime) -> io::Result<Vec<Vec<StrayBlob>>> {
        match self {
            Blobs::Directory(directory) => directory.list_old(before).await,
            Blobs::S3(s3) => Ok(vec![s3.list_old(before).await?]),
        }
    }

    /// Uploads that were opened before `before`.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn list_open_uploads(&self, before: SystemTime) -> io::Result<Vec<OpenUpload>> {
        match self {
            Blobs::Directory(_) => Ok(Vec::new()),
            Blobs::S3(s3) => s3.list_open_uploads(before).await,
        }
    }

    /// Whether a sealed piece exists with at least `length` bytes.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn has(&self, place: &str, length: u64) -> io::Result<bool> {
        match self {
            Blobs::Directory(directory) => directory.has(place, length).await,
            Blobs::S3(s3) => Ok(length == 0 || s3.size(place).await?.is_some_and(|size| size >= length)),
        }
    }
}

/// Writer of a piece.
#[derive(Clone)]
pub enum BlobWriter {
    Directory(directory::DirectoryWriter),
    S3(PartWriter),
}

impl BlobWriter {
    /// Writes bytes after the existing ones, in a separate task, and updates their hash.
    ///
    /// # Errors
    /// Errors of the store. The end of the piece is then undefined.
    pub fn write(&self, pieces: Vec<Bytes>, hasher: Sha256) -> JoinHandle<io::Result<Sha256>> {
        match self {
            BlobWriter::Directory(piece) => match piece.file() {
                Ok(file) => write_hashed(file, pieces, hasher),
                Err(error) => tokio::spawn(std::future::ready(Err(error))),
            },
            BlobWriter::S3(piece) => piece.write(pieces, hasher),
        }
    }

    /// Whether enough has been written since the last `sync` to make it durable, if no request waits for that.
    pub fn is_ripe(&self) -> bool {
        match self {
            BlobWriter::Directory(_) => true,
            BlobWriter::S3(piece) => piece.is_ripe(),
        }
    }

    /// Makes everything durable that was written before this call. The future returns the state with which a later
    /// writer can continue.
    ///
    /// # Errors
    /// Errors of the store: nothing that was written since the last success is reliable.
    pub fn sync(&self) -> BoxFuture<'static, io::Result<Option<WriterState>>> {
        match self.clone() {
            BlobWriter::Directory(piece) => Box::pin(async move { piece.sync().await.map(|()| None) }),
            BlobWriter::S3(piece) => piece.sync(),
        }
    }

    /// Reports that the row has the result of the last `sync`, or does not need it: what was kept for earlier states of
    /// the row can be removed.
    pub fn recorded(&self) {
        match self {
            BlobWriter::Directory(_) => {}
            BlobWriter::S3(piece) => piece.recorded(),
        }
    }

    /// Drops what was written after the first `length` bytes.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn cut(&self, length: u64) -> io::Result<Cut> {
        match self {
            BlobWriter::Directory(piece) => piece.cut(length).await.map(|()| Cut::Clean),
            BlobWriter::S3(piece) => piece.cut(length).await,
        }
    }

    /// Makes the whole piece durable and readable.
    ///
    /// # Errors
    /// Errors of the store; no writer may continue in this place then.
    pub async fn seal(&self) -> io::Result<()> {
        match self {
            BlobWriter::Directory(piece) => piece.sync().await,
            BlobWriter::S3(piece) => piece.seal().await,
        }
    }
}

/// Reader of a piece.
pub enum BlobReader {
    Directory(directory::DirectoryReader),
    S3(s3::S3Reader),
}

impl BlobReader {
    /// Reads the next bytes; `None` at the end.
    ///
    /// # Errors
    /// Errors of the store; `UnexpectedEof` if the piece is shorter than the requested range.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            BlobReader::Directory(reading) => reading.next().await,
            BlobReader::S3(reading) => reading.next().await,
        }
    }
}
