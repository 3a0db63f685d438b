//! Bytes of files: their storage (`blobs`), uploads in progress (`active_uploads`), and files made of other uploads
//! (`concatenation`).

pub mod active_uploads;
pub mod blobs;
pub mod concatenation;

use self::active_uploads::Uploads;
use self::blobs::Blobs;

/// Storage of the bytes of files, and the uploads in progress.
pub struct Files {
    /// Store of the bytes.
    pub blobs: Blobs,
    /// Uploads that this process is receiving.
    pub uploads: Uploads,
}
