//! The bytes of files: where they are kept (`blobs`), which uploads arrive right now (`active_uploads`), and files made of
//! other uploads (`concatenation`).

pub mod active_uploads;
pub mod blobs;
pub mod concatenation;

use self::active_uploads::Uploads;
use self::blobs::Blobs;

/// Where the bytes of files are, and which arrive right now.
pub struct Files {
    /// Store of the bytes.
    pub blobs: Blobs,
    /// Uploads that this process is receiving.
    pub uploads: Uploads,
}
