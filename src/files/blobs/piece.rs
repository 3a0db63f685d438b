//! What both stores say of a piece, and how its bytes are written to a file.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::task::{JoinHandle, spawn_blocking};

/// State with which a store continues a piece that is not sealed: JSON that is stored in the piece's row and that only
/// the store interprets.
pub type WriterState = serde_json::Value;

/// A stored blob that may belong to no file.
pub struct StrayBlob {
    /// Name to pass to `remove`.
    pub name: String,
    /// Place of the piece that the blob belongs to.
    pub place: String,
}

/// A multipart upload that the store has open for a place.
pub struct OpenUpload {
    pub place: String,
    pub id: String,
}

/// Result of cutting a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The next writer can continue in this place.
    Clean,
    /// Some of the bytes that were cut off are still being sent: no writer may continue in this place.
    StillArriving,
}

/// Writes to the file and hashes at the same time: one thread for both would be the bottleneck of an upload.
pub(super) fn write_hashed(
    file: Arc<File>,
    pieces: Vec<Bytes>,
    mut hasher: Sha256,
) -> JoinHandle<io::Result<Sha256>> {
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

/// Runs work on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}
