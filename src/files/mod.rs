//! The bytes of files: where they are kept (`blobs`), which uploads arrive right now (`active_uploads`), and files made of
//! other uploads (`concatenation`).

pub mod active_uploads;
pub mod blobs;
pub mod concatenation;
