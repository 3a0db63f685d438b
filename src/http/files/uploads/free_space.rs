//! Bounds of an upload: the quota of an account, the maximum size of a file, and the free space of the blob store.

use std::io;

use crate::app::App;
use crate::error::{Error, Kind, Result};
use crate::files::blobs::is_unavailable;
use crate::store::files::Quota;

/// Quota of an account.
pub fn quota(app: &App) -> Quota {
    let files = &app.config.files;
    Quota { bytes: files.bytes_per_account, files: files.files_per_account, largest: files.max_bytes }
}

/// Checks that a file may have this length. It reads neither the disk nor the account's usage.
///
/// # Errors
/// `TooLarge` if it exceeds `files.max_bytes`.
pub fn check_size(app: &App, length: Option<u64>) -> Result<()> {
    let largest = app.config.files.max_bytes;
    if length.is_some_and(|length| length > largest.unsigned_abs()) {
        let detail = format!("A file can have at most {largest} bytes.");
        Err(Error::new(Kind::TooLarge, detail))
    } else {
        Ok(())
    }
}

/// Checks that the disk has more than `wanted` bytes of free space.
///
/// # Errors
/// `InsufficientStorage` if it does not.
pub async fn check_free(app: &App, wanted: u64) -> Result<()> {
    match app.files.blobs.free().await {
        Ok(free) if free > wanted => Ok(()),
        Ok(_) => Err(full()),
        Err(error) => Err(disk_error(error)),
    }
}

fn full() -> Error {
    let mut refusal = Error::new(
        Kind::InsufficientStorage,
        "There is not enough space for these bytes; those that were acknowledged are kept.",
    );
    refusal.retry_after_s = Some(60);
    refusal
}

/// The refusal for a failed write: the disk may be full or unavailable.
pub fn disk_error(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => full(),
        _ if is_unavailable(&error) => unavailable(error),
        _ => Error::unavailable(error),
    }
}

/// The refusal for a store that is not mounted or does not respond.
pub fn unavailable(error: io::Error) -> Error {
    let detail =
        "The file storage is temporarily unavailable; bytes of an upload that were acknowledged are kept.";
    let mut refusal = Error::unavailable(error);
    (refusal.detail, refusal.retry_after_s) = (detail.to_owned(), Some(5));
    refusal
}
