//! What S3 holds of a piece that is not sealed: parts of a multipart upload, and a tail.

use std::io;

use serde::{Deserialize, Serialize};

use super::piece::WriterState;
use crate::config::MAX_BYTES_IN_S3;

/// Size of a part in bytes: the minimum that S3 accepts for a part that is not the last.
pub const PART: u64 = 5 << 20;
/// S3 accepts at most 10,000 parts.
const _: () = assert!(MAX_BYTES_IN_S3 as u64 == 10_000 * PART);

/// State that a row keeps of a piece that is not sealed.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct PendingParts {
    /// Id of the multipart upload, once there is one.
    pub upload: Option<String>,
    /// Entity tags of its parts, each of `PART` bytes.
    pub parts: Vec<String>,
    /// Name of the object with the bytes after those parts.
    pub tail: Option<String>,
}

impl PendingParts {
    /// Reads the state from a row.
    ///
    /// # Errors
    /// The row has something else.
    pub fn read(progress: Option<&WriterState>) -> io::Result<PendingParts> {
        progress
            .map_or_else(|| Ok(PendingParts::default()), |progress| Ok(PendingParts::deserialize(progress)?))
    }

    /// Number of bytes in the tail of a piece of `length` bytes.
    ///
    /// # Errors
    /// The state does not fit a piece of that length.
    pub fn rest(&self, length: u64) -> io::Result<u64> {
        match length.checked_sub(self.parts.len() as u64 * PART) {
            Some(0) => Ok(0),
            Some(rest) if rest < PART && self.tail.is_some() => Ok(rest),
            _ => Err(io::Error::other(format!("{} parts are no piece of {length} bytes", self.parts.len()))),
        }
    }
}
