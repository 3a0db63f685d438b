//! Uploads: the bodies of requests are stored as the bytes of a file, by one of several protocols.

pub mod tus_headers;

mod checksum;
mod free_space;
mod headers;
mod receive;
mod refusal;

pub mod ietf_draft;
pub mod plain;
pub mod tus;

use std::time::Duration;

use axum::http::HeaderMap;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};
use utoipa::{IntoParams, ToSchema};

pub use self::checksum::Expected;
use self::free_space::quota;
pub use self::free_space::{check_size, unavailable};
use self::headers::to_bytes;
pub use self::headers::{byte_count, header, header_text, invalid_header};
pub use self::receive::{Ends, Incoming, ReceivedBytes, receive};
pub use self::refusal::UploadRefusal;
use crate::app::App;
use crate::domain::file;
use crate::domain::ids::{AccountId, FileId};
use crate::error::{Error, Kind, Result, chain};
use crate::files::concatenation::concatenate;
use crate::http::extract::caller::Caller;
use crate::http::files::uploads::tus_headers::{parse_metadata, text_of};
use crate::store::files::writing::UploadActivity;
use crate::store::files::{self, NewFile, StoredFile};
use crate::store::files::{removal, writing};

/// Query parameters of requests that create files.
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct UploadParams {
    /// Seconds from now after which the file is deleted, once it is complete; by default 13 days.
    #[serde(default)]
    #[param(minimum = 1, maximum = 1_166_400)]
    expires_in: Option<i64>,
    /// Name of the file; `Upload-Metadata` takes precedence over it, and it over `Content-Disposition`.
    #[serde(default)]
    name: Option<String>,
}

impl UploadParams {
    /// Sets the name from the path, which takes precedence over that of the query.
    pub fn name_it(&mut self, name: String) {
        self.name = Some(name);
    }
}

/// A file that a client intends to upload.
pub struct Announced {
    pub name: String,
    pub media_type: String,
    /// Length in bytes; `None`: a later request states it.
    pub length: Option<u64>,
    /// The value of `Upload-Metadata` of tus.
    pub metadata: String,
    pub keep_until: DateTime<Utc>,
}

/// Returns the time at which a file that is created now is deleted.
///
/// # Errors
/// `Invalid` if the time is in the past, or beyond the maximum life of a file.
pub fn keep_until(params: &UploadParams, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
    let wanted = params.expires_in.map(|seconds| {
        TimeDelta::try_seconds(seconds)
            .and_then(|life| now.checked_add_signed(life))
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
    });
    file::keep_until(wanted, now, now).map_err(|problem| Error::invalid("expires_in", problem))
}

/// Creates the row of an upload without any bytes. An empty file is complete at once, unless a later request completes
/// it.
///
/// # Errors
/// `QuotaExceeded`, `TooLarge`; `InsufficientStorage` if the file would not fit on the disk.
pub async fn announce(
    app: &App,
    caller: &Caller,
    announced: &Announced,
    concat: Option<&str>,
    ends: Ends,
) -> Result<StoredFile> {
    let length = announced.length.map(to_bytes).transpose()?;
    check_size(app, announced.length)?;
    free_space::check_free(app, announced.length.unwrap_or(0)).await?;
    let new = NewFile {
        id: FileId::now_v7(),
        name: &announced.name,
        media_type: &announced.media_type,
        length,
        metadata: &announced.metadata,
        concat,
        upload_concat: None,
        keep_until: announced.keep_until,
    };
    let turn = app.files.uploads.turn(caller.account).await;
    let file = files::create_file(&app.writer, caller.account, &new, quota(app), app.clock.now()).await?;
    drop(turn);
    if length == Some(0) && ends != Ends::Later {
        let incoming = Incoming::new(caller.account, file.id, 0);
        return match receive(app, Incoming { length: Some(0), ..incoming }, axum::body::Body::empty()).await {
            Ok(_) => files::find_file(&app.writer, caller.account, file.id, app.clock.now()).await,
            Err(refusal) => Err(refusal.into_error()),
        };
    }
    Ok(file)
}

/// Creates a file by concatenating complete parts, which `upload_concat` names, and reads it once for its hash. If that
/// takes longer than a client waits, or fails at first, the returned file is not complete, and a worker completes it
/// later.
///
/// # Errors
/// Those of [`files::create_final`].
pub async fn begin_concatenation(
    app: &App,
    caller: &Caller,
    announced: &Announced,
    parts: &[FileId],
    upload_concat: &str,
) -> Result<StoredFile> {
    let new = NewFile {
        id: FileId::now_v7(),
        name: &announced.name,
        media_type: &announced.media_type,
        length: None,
        metadata: &announced.metadata,
        concat: Some("final"),
        upload_concat: Some(upload_concat),
        keep_until: announced.keep_until,
    };
    let (account, now) = (caller.account, app.clock.now());
    let turn = app.files.uploads.turn(account).await;
    let file = files::create_final(&app.writer, account, &new, parts, quota(app), now).await?;
    drop(turn);
    // The task continues if the client disconnects, because the bytes read so far would have to be read again.
    let work = tokio::spawn({
        let app = app.clone();
        async move {
            app.cpu
                .share(|| Some(account), concatenate(&app.writer, &app.files.blobs, &app.clock, file.id))
                .await
        }
    });
    match timeout(app.config.server.request_timeout / 2, work).await {
        Ok(Ok(Err(error))) if error.kind != Kind::NotFound => {
            log::warn!(target: "salebell::files", "file.id" = file.id.to_string();
                "a worker will complete what was put together, for: {}", chain(&error));
        }
        Ok(Err(panic)) => return Err(Error::internal(panic)),
        _ => {}
    }
    files::find_file(&app.writer, account, file.id, app.clock.now()).await
}

/// Properties of a file from `Upload-Metadata`, in both protocols.
#[derive(Default)]
pub struct UploadMetadata {
    pub header: String,
    pub name: Option<String>,
    pub media_type: Option<String>,
}

/// Reads `Upload-Metadata`, which may be missing.
///
/// # Errors
/// `Malformed` if the header cannot be parsed.
pub fn metadata(headers: &HeaderMap) -> Result<UploadMetadata> {
    let header = header_text(headers, "Upload-Metadata")?.unwrap_or_default();
    let pairs = parse_metadata(&header).map_err(|problem| invalid_header("Upload-Metadata", &problem))?;
    Ok(UploadMetadata {
        header,
        name: text_of(&pairs, &["filename", "name"]),
        media_type: text_of(&pairs, &["filetype", "type", "contentType", "content_type"]),
    })
}

/// How long a writer may record no progress before it is taken to be dead or stuck.
const SILENCE: Duration = Duration::from_secs(3);
/// How long an upload waits for a writer that still records progress.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Ends the request that writes an upload, and returns the file with the offset at which the next request can continue.
/// The bytes that a broken connection has sent are durable by then, and later ones do not count. A request on another
/// instance ends by itself when its connection is cut; otherwise its lease is revoked.
///
/// # Errors
/// `NotFound`, also for a file of another account; `Locked` if the request does not end.
pub async fn end_writing(app: &App, account: AccountId, id: FileId) -> Result<StoredFile> {
    // Another account must not be able to end the request that writes.
    let file = files::find_file(&app.writer, account, id, app.clock.now()).await?;
    if file.is_complete() {
        return Ok(file);
    }
    app.files.uploads.take_over(id).await?;
    let began = Instant::now();
    loop {
        let allowed_silence = if began.elapsed() < ENDS_WITHIN { SILENCE } else { Duration::ZERO };
        let silent_since = app.clock.now() - allowed_silence;
        if writing::take_from_silent(&app.writer, id, silent_since).await? == UploadActivity::Resting {
            return files::find_file(&app.writer, account, id, app.clock.now()).await;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Removes a file with its bytes. The worker later removes what cannot be removed now.
///
/// # Errors
/// `NotFound`, also for a file of another account.
pub async fn remove(app: &App, account: AccountId, id: FileId) -> Result<()> {
    removal::hide_file(&app.writer, account, id, app.clock.now()).await?;
    app.files.uploads.end(id);
    for empty in removal::list_places_to_empty(&app.writer, id).await? {
        if let Err(error) = app.files.blobs.remove(&empty.place, empty.progress.as_ref()).await {
            log::warn!(target: "salebell::files", "file.id" = id.to_string();
                "the worker will remove what is left, for: {error}");
            return Ok(());
        }
    }
    removal::forget_file(&app.writer, id).await
}
