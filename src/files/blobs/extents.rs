//! Parts of several pieces as one stream of bytes.

use std::io;

use bytes::Bytes;
use futures_util::stream::{self, Stream, TryStreamExt};

use super::{BlobReader, Blobs};

/// Bytes of one piece: from `start` to before `end`.
pub struct Extent {
    pub place: String,
    pub start: u64,
    pub end: u64,
}

/// The bytes of spans, one after another.
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

/// The SHA-256 of the bytes of spans, one after another.
///
/// # Errors
/// A piece is not there, or shorter than its span; those of the store.
pub async fn hash_extents(blobs: Blobs, extents: Vec<Extent>) -> io::Result<Vec<u8>> {
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut bytes = read_extents(blobs, extents);
    while let Some(bytes) = bytes.try_next().await? {
        hash.update(&bytes);
    }
    Ok(hash.finish().as_ref().to_vec())
}
