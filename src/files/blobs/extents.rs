//! Extents: ranges of bytes of several pieces, read as one stream.

use std::io;

use bytes::Bytes;
use futures_util::stream::{self, Stream, TryStreamExt};

use super::{BlobReader, Blobs};

/// Range of bytes of one piece: from `start` to before `end`.
pub struct Extent {
    pub place: String,
    pub start: u64,
    pub end: u64,
}

/// The bytes of extents, one after another.
pub fn read_extents(
    blobs: Blobs,
    extents: Vec<Extent>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static {
    let begin = (blobs, extents.into_iter(), None::<BlobReader>);
    Box::pin(stream::try_unfold(begin, |(blobs, mut extents, mut reading)| async move {
        loop {
            if let Some(open) = &mut reading
                && let Some(bytes) = open.next().await?
            {
                return Ok(Some((bytes, (blobs, extents, reading))));
            }
            let Some(Extent { place, start, end }) = extents.next() else { return Ok(None) };
            reading = Some(blobs.read(&place, start, end).await?);
        }
    }))
}

/// The SHA-256 of the bytes of extents, one after another.
///
/// # Errors
/// Errors of the store; also if a piece is missing or shorter than its extent.
pub async fn hash_extents(blobs: Blobs, extents: Vec<Extent>) -> io::Result<Vec<u8>> {
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut bytes = read_extents(blobs, extents);
    while let Some(bytes) = bytes.try_next().await? {
        hash.update(&bytes);
    }
    Ok(hash.finish().as_ref().to_vec())
}
