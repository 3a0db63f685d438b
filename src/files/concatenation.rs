//! Concatenated files (`Upload-Concat: final` of tus): their bytes are already stored, and are read once to compute the
//! hash. The process that reads them records signs of life; when those stop, a worker reads the bytes again.

use std::time::Duration;

use chrono::TimeDelta;

use crate::clock::Clock;
use crate::database::pool::PgPool;
use crate::domain::ids::FileId;
use crate::error::{Error, Result, chain};
use crate::files::blobs::Blobs;
use crate::files::blobs::extents::{Extent, hash_extents};
use crate::store::files;
use crate::store::files::writing;
use crate::store::lease::Lease;

/// Interval between signs of life of the process that reads.
const SIGN_OF_LIFE_INTERVAL: Duration = Duration::from_secs(15);
/// Time without a sign of life after which the process that reads is taken for dead.
pub const DEAD_AFTER: TimeDelta = TimeDelta::seconds(90);

/// Reads a concatenated file and completes it. Two processes that do so at the same time reach the same result.
///
/// # Errors
/// `NotFound`: the file was removed in the meantime. `Unavailable`: the bytes cannot be read; a worker tries again.
pub async fn concatenate(writer: &PgPool, blobs: &Blobs, clock: &Clock, file: FileId) -> Result<()> {
    let pieces = files::list_pieces(writer, file).await?;
    let extents = pieces
        .into_iter()
        .map(|piece| Extent { place: piece.place, start: 0, end: piece.length.unsigned_abs() })
        .collect();
    let sha256 = tokio::select! {
        sha256 = hash_extents(blobs.clone(), extents) => sha256.map_err(Error::unavailable)?,
        gone = stay_alive(writer, clock, file) => return Err(gone),
    };
    match writing::complete_final(writer, file, &sha256, clock.now()).await? {
        Lease::Held => Ok(()),
        Lease::Lost => Err(Error::not_found("file")),
    }
}

/// Records signs of life until the file is removed.
async fn stay_alive(writer: &PgPool, clock: &Clock, file: FileId) -> Error {
    loop {
        tokio::time::sleep(SIGN_OF_LIFE_INTERVAL).await;
        match writing::touch_final(writer, file, clock.now()).await {
            Ok(Lease::Held) => {}
            Ok(Lease::Lost) => return Error::not_found("file"),
            // The database may be available again before this process is taken for dead.
            Err(error) => log::warn!(target: "salebell::files", "no sign of life: {}", chain(&error)),
        }
    }
}
