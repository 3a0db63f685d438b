//! Reasons for refusing bytes of an upload.

use crate::error::{Error, Kind};

/// Reason for refusing some or all bytes of a request.
pub enum UploadRefusal {
    /// The request has another offset than the file, which has this many bytes.
    OtherOffset(u64),
    /// The body continues beyond the stated length of the file.
    BeyondLength,
    /// The body, which should complete the file, ends before its stated length.
    BeforeLength,
    Error(Error),
}

impl UploadRefusal {
    /// Error that the client receives.
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

/// Error for bytes beyond the length of the file.
pub fn too_long() -> Error {
    Error::new(Kind::TooLarge, "The body is longer than the rest of the file.")
}
