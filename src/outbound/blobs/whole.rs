//! A file as one stream of bytes, whatever pieces it has.

use std::io;

use bytes::Bytes;
use futures_util::stream::{self, Stream};

use super::{Blobs, Reading};

/// The bytes of pieces, each a place and its length, one after another.
pub fn read_whole(
    blobs: Blobs,
    pieces: Vec<(String, u64)>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let begin = (blobs, pieces.into_iter(), None::<Reading>);
    stream::try_unfold(begin, |(blobs, mut pieces, mut reading)| async move {
        loop {
            if let Some(open) = &mut reading
                && let Some(bytes) = open.next().await?
            {
                return Ok(Some((bytes, (blobs, pieces, reading))));
            }
            let Some((place, length)) = pieces.next() else { return Ok(None) };
            reading = Some(blobs.read(&place, 0, length).await?);
        }
    })
}
