//! `/v1/imports`: files that are read as observations, with their progress and refusals.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream::{self, Stream};
use serde::{Deserialize, Serialize};

use super::answer::{Created, Tagged};
use super::extract::body::{Id, Json, Params, pointer_part};
use super::extract::caller::Caller;
use super::extract::conditional::IfNoneMatch;
use super::extract::page::{Page, Paging};
use crate::app::App;
use crate::domain::batch::ObservationCounts;
use crate::domain::ids::{AccountId, BatchId, FileId, ImportId};
use crate::error::{Error, Result};
use crate::feed::options::{ImportFormat, ImportOptions};
use crate::http::event_streams::{EventStreamLimits, OpenEventStream};
use crate::store::batches::{self, Batch};
use crate::store::files;
use crate::store::imports::{self, Import, ImportState, NewImport, RowRefusal};
use crate::tables::text::quote;

/// Interval between two checks of the progress for an event stream.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// Longest event stream. After it a browser connects again by itself, and its token is checked again.
const LISTEN_FOR: Duration = Duration::from_secs(3_600);
/// Number of refusals that one query reads.
const REFUSALS_AT_ONCE: i64 = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateImportRequest {
    file_id: FileId,
    #[serde(default)]
    format: ImportFormat,
    /// Mapping for a foreign CSV or NDJSON: field → column.
    #[serde(default)]
    columns: std::collections::BTreeMap<String, String>,
    /// Constants: field → its value in every row.
    #[serde(default)]
    constants: std::collections::BTreeMap<String, String>,
    /// Whether the import is historical and triggers no notices.
    #[serde(default)]
    backfill: bool,
}

/// State of an import together with its batch.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum ReportedState {
    Queued,
    Reading,
    /// All observations are on the bus, but some are not recorded yet.
    Recording,
    Done,
    Failed,
    Cancelled,
}

#[derive(Serialize)]
pub struct ImportResponse {
    id: ImportId,
    file_id: FileId,
    file_name: String,
    state: ReportedState,
    /// Why the import failed.
    failure: Option<String>,
    backfill: bool,
    options: serde_json::Value,
    progress: ImportProgress,
    accepted: i64,
    /// Number of rows that were refused.
    refused: i64,
    /// Number of rows that were accepted without a field that was not understood.
    warnings: i64,
    /// Path of the list of refusals and warnings, with their lines.
    refusals: String,
    #[serde(flatten)]
    counts: ObservationCounts,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
}

#[derive(Serialize)]
struct ImportProgress {
    rows_read: i64,
    /// Bytes of the file as it is stored, compressed or not.
    bytes_read: i64,
    bytes_total: i64,
    rows_per_second: Option<f64>,
    /// Estimated seconds until the file is read; `null` while there is nothing to estimate from.
    seconds_left: Option<i64>,
}

impl ImportResponse {
    async fn of(app: &App, account: AccountId, import: Import) -> Result<ImportResponse> {
        let batch = batches::get_batch(&app.writer, account, import.id.batch()).await?;
        Ok(ImportResponse::new(import, batch, app.clock.now()))
    }

    fn new(import: Import, batch: Batch, now: DateTime<Utc>) -> ImportResponse {
        let seconds = import
            .started_at
            .map(|started| (import.finished_at.unwrap_or(now) - started).as_seconds_f64().max(0.001));
        let reading = import.state == ImportState::Reading && import.bytes_read > 0;
        let left = (import.bytes_total - import.bytes_read).max(0) as f64;
        let seconds_left = seconds
            .filter(|_| reading)
            .map(|seconds| (seconds * left / import.bytes_read as f64).ceil() as i64);
        ImportResponse {
            state: match import.state {
                ImportState::Queued => ReportedState::Queued,
                ImportState::Reading => ReportedState::Reading,
                ImportState::Sent if batch.done => ReportedState::Done,
                ImportState::Sent => ReportedState::Recording,
                ImportState::Failed => ReportedState::Failed,
                ImportState::Cancelled => ReportedState::Cancelled,
            },
            progress: ImportProgress {
                rows_read: import.rows_read,
                bytes_read: import.bytes_read,
                bytes_total: import.bytes_total,
                rows_per_second: seconds.map(|seconds| (import.rows_read as f64 / seconds).round()),
                seconds_left,
            },
            id: import.id,
            file_id: import.file_id,
            file_name: import.file_name,
            failure: import.failure,
            backfill: import.backfill,
            options: import.options,
            accepted: import.accepted,
            refused: import.refused,
            warnings: import.warnings,
            refusals: format!("/v1/imports/{}/refusals", import.id),
            counts: batch.counts,
            created_at: import.created_at,
            started_at: import.started_at,
            finished_at: import.finished_at,
        }
    }

    fn has_ended(&self) -> bool {
        match self.state {
            ReportedState::Done | ReportedState::Failed | ReportedState::Cancelled => true,
            ReportedState::Queued | ReportedState::Reading | ReportedState::Recording => false,
        }
    }
}

/// No query parameters besides those of paging.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportParams {}

/// `POST /v1/imports`: requests the import of a complete file.
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(request): Json<CreateImportRequest>,
) -> Result<Created<ImportResponse>> {
    caller.require("prices:write")?;
    let CreateImportRequest { file_id, format, columns, constants, backfill } = request;
    let options = ImportOptions { format, columns, constants };
    if let Some((list, name, problem)) = options.bad_text() {
        return Err(Error::invalid(format!("/{list}/{}", pointer_part(name)), problem));
    }
    options.meaning().map_err(|problem| Error::invalid("/format", problem))?;
    let now = app.clock.now();
    let file = files::find_file(&app.writer, caller.account, file_id, now).await?;
    if !file.is_complete() {
        return Err(Error::conflict("The file is not complete yet."));
    }
    let new = NewImport {
        id: ImportId::now_v7(),
        file_id,
        file_name: &file.name,
        options: serde_json::to_value(&options).map_err(Error::internal)?,
        backfill,
        may_create_stores: caller.may("catalogue:write"),
        bytes_total: file.stored,
    };
    let _turn = app.files.uploads.turn(caller.account).await;
    let import = imports::create_import(&app.writer, caller.account, &new, now).await?;
    let location = format!("/v1/imports/{}", import.id);
    Ok(Created { location, value: ImportResponse::of(&app, caller.account, import).await? })
}

/// `GET /v1/imports`: the caller's imports, the newest first.
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(ImportParams {}): Params<ImportParams>,
    paging: Paging,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<Page<ImportResponse>>> {
    caller.require("prices:write")?;
    let found = imports::list_imports(&app.writer, caller.account, paging.after()?, paging.rows()).await?;
    let page = paging.page(found, |import| import.id)?;
    let ids: Vec<BatchId> = page.items.iter().map(|import| import.id.batch()).collect();
    let batches = batches::list_batches(&app.writer, caller.account, &ids).await?;
    let mut batches: HashMap<BatchId, Batch> = batches.into_iter().map(|batch| (batch.id, batch)).collect();
    let now = app.clock.now();
    let items = page.items.into_iter().filter_map(|import| {
        let batch = batches.remove(&import.id.batch())?;
        Some(ImportResponse::new(import, batch, now))
    });
    Ok(if_none_match.answer(Page { items: items.collect(), next_cursor: page.next_cursor }))
}

/// `GET /v1/imports/{id}`: state and progress of an import.
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<ImportId>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<ImportResponse>> {
    caller.require("prices:write")?;
    let import = imports::find_import(&app.writer, caller.account, id).await?;
    Ok(if_none_match.answer(ImportResponse::of(&app, caller.account, import).await?))
}

/// `DELETE /v1/imports/{id}`: cancels an import; observations that were already sent are still recorded.
pub async fn cancel(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<ImportId>,
) -> Result<Tagged<ImportResponse>> {
    caller.require("prices:write")?;
    let import = imports::cancel_import(&app.writer, caller.account, id, app.clock.now()).await?;
    Ok(Tagged::new(ImportResponse::of(&app, caller.account, import).await?))
}

/// `GET /v1/imports/{id}/events`: the progress as server-sent events, named `progress` until the last one, `end`.
pub async fn events(
    State(app): State<App>,
    Extension(limits): Extension<EventStreamLimits>,
    caller: Caller,
    Id(id): Id<ImportId>,
) -> Result<Response> {
    caller.require("prices:write")?;
    imports::find_import(&app.writer, caller.account, id).await?;
    let listening = limits.begin(caller.account)?;
    Ok(Sse::new(follow(app, caller.account, id, listening)).keep_alive(KeepAlive::default()).into_response())
}

fn follow(
    app: App,
    account: AccountId,
    id: ImportId,
    listening: OpenEventStream,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let since = Instant::now();
    let begin = (app, listening, String::new(), false);
    stream::unfold(begin, move |(app, listening, mut last_sent, ended)| async move {
        if ended {
            return None;
        }
        while since.elapsed() < LISTEN_FOR {
            let state = async {
                let import = imports::find_import(&app.writer, account, id).await?;
                ImportResponse::of(&app, account, import).await
            };
            // A database that is briefly unavailable does not end the stream.
            if let Ok(response) = state.await
                && let Ok(text) = serde_json::to_string(&response)
                && (text != last_sent || response.has_ended())
            {
                let ended = response.has_ended();
                last_sent = text.clone();
                let event = Event::default().event(if ended { "end" } else { "progress" }).data(text);
                return Some((Ok(event), (app, listening, last_sent, ended)));
            }
            tokio::select! {
                () = tokio::time::sleep(PROGRESS_INTERVAL) => {}
                () = app.stopping.cancelled() => return None,
            }
        }
        None
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefusalParams {
    #[serde(default)]
    format: RefusalFormat,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RefusalFormat {
    #[default]
    Csv,
    Ndjson,
}

/// `GET /v1/imports/{id}/refusals`: a file of the rows that were refused, or accepted without some of their fields.
pub async fn refusals(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<ImportId>,
    Params(params): Params<RefusalParams>,
) -> Result<Response> {
    caller.require("prices:write")?;
    imports::find_import(&app.writer, caller.account, id).await?;
    let (kind, ending, head) = match params.format {
        RefusalFormat::Csv => ("text/csv; charset=utf-8", "csv", "line,reason,kind\r\n"),
        RefusalFormat::Ndjson => ("application/x-ndjson", "ndjson", ""),
    };
    let begin = (app, Some(-1), Bytes::from_static(head.as_bytes()));
    let body = stream::try_unfold(begin, move |(app, after, head)| async move {
        let Some(after) = after else { return Ok(None) };
        let some = imports::list_refusals(&app.writer, id, after, REFUSALS_AT_ONCE).await;
        let some = some.map_err(std::io::Error::other)?;
        let mut text = head.to_vec();
        for refusal in &some {
            write_refusal(&mut text, params.format, refusal);
        }
        let next = some.last().filter(|_| some.len() as i64 == REFUSALS_AT_ONCE).map(|last| last.line);
        Ok::<_, std::io::Error>(Some((Bytes::from(text), (app, next, Bytes::new()))))
    });
    let disposition = format!("attachment; filename=\"refusals-{id}.{ending}\"");
    let disposition = HeaderValue::from_str(&disposition).map_err(Error::internal)?;
    let headers =
        [(header::CONTENT_TYPE, HeaderValue::from_static(kind)), (header::CONTENT_DISPOSITION, disposition)];
    Ok((StatusCode::OK, headers, Body::from_stream(body)).into_response())
}

fn write_refusal(text: &mut Vec<u8>, format: RefusalFormat, refusal: &RowRefusal) {
    let RowRefusal { line, reason, warning } = refusal;
    let kind = if *warning { "warning" } else { "refused" };
    let line = match format {
        RefusalFormat::Csv => format!("{line},{},{kind}\r\n", quote(reason)),
        RefusalFormat::Ndjson => {
            format!("{}\n", serde_json::json!({"line": line, "reason": reason, "kind": kind}))
        }
    };
    text.extend_from_slice(line.as_bytes());
}
