//! Files go: those whose time is over, what is left of those that were removed, and what neither side knows of.

use std::collections::BTreeSet;
use std::time::Duration;

use metrics::counter;
use uuid::Uuid;

use crate::app::App;
use crate::error::{Error, Result};
use crate::store::file_removal;

/// Files that one statement hides or lists.
const AT_ONCE: i64 = 500;
/// Bytes that belong to no file are left alone for so long: their row may be about to be written.
const ORPHAN_AGE: Duration = Duration::from_secs(3600);

/// Removes the files whose time is over, row and bytes, and those that a request could not finish removing.
///
/// # Errors
/// The database or the store is away; the next round goes on.
pub async fn remove_expired(app: &App) -> Result<()> {
    while !app.stopping.is_cancelled() {
        let hidden = file_removal::hide_expired(&app.writer, AT_ONCE, app.clock.now()).await?;
        counter!("salebell_files_expired_total").increment(hidden);
        if hidden < AT_ONCE.unsigned_abs() {
            break;
        }
    }
    let mut after = Uuid::nil();
    loop {
        let hidden = file_removal::list_hidden(&app.writer, after, AT_ONCE).await?;
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

async fn remove_hidden(app: &App, id: Uuid) -> Result<()> {
    for place in file_removal::list_places_to_empty(&app.writer, id).await? {
        app.blobs.remove(&place).await.map_err(Error::unavailable)?;
    }
    file_removal::forget_file(&app.writer, id).await
}

/// Finds bytes without a file and files without their bytes, and removes both: a crash at the wrong moment, a restored
/// backup or a lost disk leaves them.
///
/// # Errors
/// The database or the store is away.
pub async fn sweep_orphans(app: &App) -> Result<()> {
    for places in app.blobs.list_old(ORPHAN_AGE).await.map_err(Error::unavailable)? {
        for places in places.chunks(AT_ONCE.unsigned_abs() as usize) {
            for orphan in file_removal::list_unknown_places(&app.writer, places).await? {
                log::warn!(target: "salebell::files", "{orphan} belongs to no file and is removed");
                counter!("salebell_file_orphans_total", "side" => "bytes").increment(1);
                app.blobs.remove(&orphan).await.map_err(Error::unavailable)?;
            }
        }
    }
    let (mut after, mut lost) = ((Uuid::nil(), -1), BTreeSet::new());
    loop {
        let pieces = file_removal::list_kept_pieces(&app.writer, after, AT_ONCE).await?;
        let Some(last) = pieces.last() else { break };
        after = (last.file_id, last.start_at);
        for piece in pieces {
            let there = app.blobs.has(&piece.place, piece.length.unsigned_abs()).await;
            if !there.map_err(Error::unavailable)? {
                lost.insert(piece.file_id);
            }
        }
    }
    for id in lost {
        log::error!(target: "salebell::files", "file.id" = id.to_string(); "a file has lost its bytes and is removed");
        counter!("salebell_file_orphans_total", "side" => "row").increment(1);
        file_removal::hide_lost(&app.writer, id, app.clock.now()).await?;
    }
    Ok(())
}
