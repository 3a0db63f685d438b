//! The checksum that a client tells of one request's body.

use axum::http::HeaderMap;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::domain::upload::{Checksum, ChecksumAlgorithm, parse_checksum};
use crate::error::{Error, Kind, Result};

/// What the body must have for a checksum, or none of it is kept.
pub enum Expected {
    Nothing,
    Given(Checksum),
    /// It comes in the trailer `Upload-Checksum`.
    InTrailer,
}

/// The checksum of a body while it comes.
pub enum Sum {
    None,
    Sha1(Sha1),
    Sha256(Box<Sha256>),
    /// Which of the two is told at the end.
    Both(Sha1, Box<Sha256>),
}

impl Sum {
    pub fn new(expected: &Expected) -> Sum {
        match expected {
            Expected::Nothing => Sum::None,
            Expected::InTrailer => Sum::Both(Sha1::new(), Box::default()),
            Expected::Given(checksum) => match checksum.algorithm {
                ChecksumAlgorithm::Sha1 => Sum::Sha1(Sha1::new()),
                ChecksumAlgorithm::Sha256 => Sum::Sha256(Box::default()),
            },
        }
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Sum::None => {}
            Sum::Sha1(sum) => sum.update(bytes),
            Sum::Sha256(sum) => sum.update(bytes),
            Sum::Both(one, other) => {
                one.update(bytes);
                other.update(bytes);
            }
        }
    }

    /// # Errors
    /// `ChecksumMismatch`; `Malformed` when the trailer is missing or cannot be read.
    pub fn check(self, expected: &Expected, trailers: Option<&HeaderMap>) -> Result<()> {
        let expected = match expected {
            Expected::Nothing => return Ok(()),
            Expected::Given(checksum) => checksum.clone(),
            Expected::InTrailer => {
                let trailer = trailers.and_then(|trailers| trailers.get("upload-checksum")?.to_str().ok());
                let trailer =
                    trailer.ok_or_else(|| Error::malformed("The trailer Upload-Checksum is missing."))?;
                parse_checksum(trailer)
                    .map_err(|problem| Error::malformed(format!("Upload-Checksum {problem}.")))?
            }
        };
        let value = match (self, expected.algorithm) {
            (Sum::Sha1(sum) | Sum::Both(sum, _), ChecksumAlgorithm::Sha1) => sum.finalize().to_vec(),
            (Sum::Sha256(sum) | Sum::Both(_, sum), ChecksumAlgorithm::Sha256) => sum.finalize().to_vec(),
            _ => return Err(Error::internal("another checksum was made than asked for")),
        };
        match value == expected.value {
            true => Ok(()),
            false => {
                let detail = "The body does not have the checksum of Upload-Checksum; none of it is kept.";
                Err(Error::new(Kind::ChecksumMismatch, detail))
            }
        }
    }
}
