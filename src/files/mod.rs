//! Bytes of files: their storage (`blobs`), uploads in progress (`active_uploads`), and files made of other uploads
//! (`concatenation`).

pub mod active_uploads;
pub mod blobs;
pub mod concatenation;
