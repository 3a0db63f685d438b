//! Background work on files: completes concatenations that were left unfinished, removes expired files and the
//! remains of removed ones, and removes bytes without a file and files without bytes.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::SystemTime;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use metrics::counter;

use crate::app::App;
use crate::domain::ids::FileId;
use crate::error::{Error, Kind, Result};
use crate::files::blobs::StrayBlob;
use crate::files::concatenation::{DEAD_AFTER, concatenate};
use crate::store::files::{removal, writing};

/// Maximum number of files that one statement hides or lists.
const AT_ONCE: i64 = 500;
/// Pieces that are checked concurrently; each check is a request to S3.
const CONCURRENT_CHECKS: usize = 32;

/// Maximum number of orphans tolerated unconditionally. If there are more and they are the majority, nothing is
/// removed.
const FEW: usize = 10;

/// Completes concatenations whose process died or could not read the parts.
///
/// # Errors
/// `Unavailable`: the database is unavailable, or bytes cannot be read at the moment.
pub async fn assemble_left(app: &App) -> Result<()> {
    let mut failed = Ok(());
    while !app.stopping.is_cancelled() {
        let now = app.clock.now();
        let claim = writing::claim_final(&app.writer, now - DEAD_AFTER, now).await?;
        // A file that fails is due again later and does not hold up the others.
        let Some(file) = claim else { break };
        match concatenate(&app.writer, &app.files.blobs, &app.clock, file).await {
            Err(error) if error.kind != Kind::NotFound => failed = Err(error),
            _ => {}
        }
    }
    failed
}

/// Removes files that have expired, row and bytes, and files that a request could not finish removing.
///
/// # Errors
/// `Unavailable`: the database or the store is unavailable. The next round continues.
pub async fn remove_expired(app: &App) -> Result<()> {
    while !app.stopping.is_cancelled() {
        let hidden = removal::hide_expired(&app.writer, AT_ONCE, app.clock.now()).await?;
        counter!("salebell_files_expired_total").increment(hidden);
        if hidden < AT_ONCE.unsigned_abs() {
            break;
        }
    }
    let mut after = FileId::nil();
    loop {
        let hidden = removal::list_hidden(&app.writer, after, AT_ONCE).await?;
        let Some(last) = hidden.last() else { return Ok(()) };
        after = *last;
        for id in hidden {
            if app.stopping.is_cancelled() {
                return Ok(());
            }
            remove_hidden(app, id).await?;
        }
    }
}

async fn remove_hidden(app: &App, id: FileId) -> Result<()> {
    for empty in removal::list_places_to_empty(&app.writer, id).await? {
        app.files.blobs.remove(&empty.place, empty.progress.as_ref()).await.map_err(Error::unavailable)?;
    }
    removal::forget_file(&app.writer, id).await
}

/// Finds bytes without a file and files without their bytes, and removes both. A crash at a bad moment, a restored
/// backup or a lost disk leaves them behind.
///
/// # Errors
/// `Unavailable`: the database or the store is unavailable, or is not the one that the files were written to.
pub async fn sweep_orphans(app: &App) -> Result<()> {
    sweep_bytes(app).await?;
    let (mut after, mut lost, mut seen) = ((FileId::nil(), -1), BTreeSet::new(), BTreeSet::new());
    loop {
        let pieces = removal::list_kept_pieces(&app.writer, after, AT_ONCE).await?;
        let Some(last) = pieces.last() else { break };
        after = (last.file_id, last.start_at);
        let checks = stream::iter(pieces).map(async |piece| {
            let there = app.files.blobs.has(&piece.place, piece.length.unsigned_abs()).await;
            there.map(|there| (piece.file_id, there)).map_err(Error::unavailable)
        });
        let mut checks = pin!(checks.buffer_unordered(CONCURRENT_CHECKS));
        while let Some((id, there)) = checks.try_next().await? {
            seen.insert(id);
            if !there {
                lost.insert(id);
            }
        }
    }
    // The store may be missing, or may be another one.
    check_most(lost.len(), seen.len(), "files have lost their bytes")?;
    for id in lost {
        log::error!(target: "salebell::files", "file.id" = id.to_string(); "a file has lost its bytes and is removed");
        counter!("salebell_file_orphans_total", "side" => "row").increment(1);
        removal::hide_lost(&app.writer, id, app.clock.now()).await?;
    }
    Ok(())
}

/// Checks that it is plausible for `amiss` of `seen` to be orphans.
///
/// # Errors
/// `Unavailable`: more than a few, and the majority, seem to be orphans. It is more likely that the store or the
/// database is not the right one.
fn check_most(amiss: usize, seen: usize, what: &str) -> Result<()> {
    if amiss > FEW && amiss * 2 > seen {
        let problem =
            format!("{amiss} of {seen} {what}, it seems: is it the right store, and the right database?");
        return Err(Error::unavailable(problem));
    }
    Ok(())
}

async fn sweep_bytes(app: &App) -> Result<()> {
    let before = SystemTime::from(app.clock.now()) - app.files.blobs.orphan_age();
    let (mut orphans, mut seen) = (Vec::new(), 0);
    for found in app.files.blobs.list_old(before).await.map_err(Error::unavailable)? {
        for found in found.chunks(AT_ONCE.unsigned_abs() as usize) {
            seen += found.len();
            let (names, places): (Vec<_>, Vec<_>) =
                found.iter().map(|StrayBlob { name, place }| (name.clone(), place.clone())).unzip();
            orphans.extend(removal::list_unknown_names(&app.writer, &names, &places).await?);
        }
    }
    // It may be the store of another service, or a database that has just been created or restored.
    check_most(orphans.len(), seen, "pieces belong to no file")?;
    for orphan in orphans {
        log::warn!(target: "salebell::files", "{orphan} belongs to no file and is removed");
        counter!("salebell_file_orphans_total", "side" => "bytes").increment(1);
        app.files.blobs.remove(&orphan, None).await.map_err(Error::unavailable)?;
    }
    let uploads = app.files.blobs.list_open_uploads(before).await.map_err(Error::unavailable)?;
    for uploads in uploads.chunks(AT_ONCE.unsigned_abs() as usize) {
        let (places, ids): (Vec<_>, Vec<_>) =
            uploads.iter().map(|upload| (upload.place.clone(), upload.id.clone())).unzip();
        let unknown = removal::list_unknown_uploads(&app.writer, &places, &ids).await?;
        for orphan in uploads.iter().filter(|upload| unknown.contains(&upload.id)) {
            log::warn!(target: "salebell::files", "an upload to {} belongs to no file and is ended", orphan.place);
            counter!("salebell_file_orphans_total", "side" => "upload").increment(1);
            app.files.blobs.abort(orphan).await.map_err(Error::unavailable)?;
        }
    }
    Ok(())
}
