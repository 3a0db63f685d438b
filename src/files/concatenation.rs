//! Files put together of others (`Upload-Concat: final` of tus): their bytes are there already, and are read once for
//! the hash. Whoever reads gives signs of life; when those end, a worker reads them anew.

use std::time::Duration;

use chrono::TimeDelta;

use crate::clock::Clock;
use crate::database::pool::PgPool;
use crate::domain::ids::FileId;
use crate::error::{Error, Result, chain};
use crate::files::blobs::{Blobs, Extent, hash_extents};
use crate::store::files;
use crate::store::files::writing;
use crate::store::lease::Lease;

const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(15);
/// Who has given no sign of life for so long is dead.
pub const DEAD_AFTER: TimeDelta = TimeDelta::seconds(90);

/// Reads a file that was put together, and completes it. Two at once come to the same end.
///
/// # Errors
/// `NotFound`: it is gone meanwhile. `Unavailable`: the bytes cannot be read; a worker tries again.
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

/// Gives signs of life until the file is gone.
async fn stay_alive(writer: &PgPool, clock: &Clock, file: FileId) -> Error {
    loop {
        tokio::time::sleep(SIGN_OF_LIFE_EVERY).await;
        match writing::touch_final(writer, file, clock.now()).await {
            Ok(Lease::Held) => {}
            Ok(Lease::Lost) => return Error::not_found("file"),
            // The database may be back before anybody takes us for dead.
            Err(error) => log::warn!(target: "salebell::files", "no sign of life: {}", chain(&error)),
        }
    }
}
