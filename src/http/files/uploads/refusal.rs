//! Why bytes of an upload were not taken.

use crate::error::{Error, Kind};

/// Why nothing, or not all, was taken.
pub enum UploadRefusal {
    /// The file has so many bytes, not as many as the client thinks.
    OtherOffset(u64),
    /// The body goes on behind the end that the file was told to have.
    BeyondLength,
    /// The body, which ends the file, ends before that.
    BeforeLength,
    Error(Error),
}

impl UploadRefusal {
    pub fn into_error(self) -> Error {
        match self {
            UploadRefusal::OtherOffset(stored) => {
                Error::conflict(format!("The upload has {stored} bytes; continue from there."))
            }
            UploadRefusal::BeyondLength => too_long(),
            UploadRefusal::BeforeLength => Error::malformed("The body ends before the file does."),
            UploadRefusal::Error(error) => error,
        }
    }
}

impl From<Error> for UploadRefusal {
    fn from(error: Error) -> UploadRefusal {
        UploadRefusal::Error(error)
    }
}

pub fn too_long() -> Error {
    Error::new(Kind::TooLarge, "The body is longer than the rest of the file.")
}
