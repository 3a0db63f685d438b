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
use serde_json::json;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::answer::{Created, Tagged};
use super::extract::body::{Id, Json, Params, pointer_part};
use super::extract::caller::Caller;
use super::extract::conditional::IfNoneMatch;
use super::extract::page::{Page, Paging};
use crate::app::App;
use crate::domain::batch::ObservationCounts;
use crate::domain::ids::{AccountId, BatchId, FileId, ImportId};
use crate::error::{Error, Problem, Result};
use crate::feed::options::{ImportFormat, ImportOptions, columns_schema, constants_schema};
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

/// Body of a request that creates an import.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({
    "file_id": "01a0b6f2-8888-7d3e-8a4b-1c2d3e4f5a6b",
    "columns": {"sku": "ID", "price": "Price", "observed_at": "Date"},
    "constants": {"store": "Steam", "currency": "EUR"},
    "backfill": true,
}))]
#[serde(deny_unknown_fields)]
pub struct CreateImportRequest {
    /// File that is read; it must be complete.
    file_id: FileId,
    /// Format of the file; default: `observations`.
    #[serde(default)]
    format: ImportFormat,
    /// Mapping for a foreign CSV or NDJSON: field → column.
    #[serde(default)]
    #[schema(schema_with = columns_schema)]
    columns: std::collections::BTreeMap<String, String>,
    /// Constants: field → its value in every row.
    #[serde(default)]
    #[schema(schema_with = constants_schema)]
    constants: std::collections::BTreeMap<String, String>,
    /// Whether the import is historical and triggers no notices.
    #[serde(default)]
    backfill: bool,
}

/// State of an import together with its batch.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[schema(
    as = ImportState,
    description = "State of an import. While it is `recording`, the file was read to its end, but some observations \
        are not recorded yet."
)]
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

/// An import in a response, with the counts of its batch.
#[derive(Serialize, ToSchema)]
#[schema(as = Import, example = json!({
    "id": "01a0b6f2-9999-7d3e-8a4b-1c2d3e4f5a6b",
    "file_id": "01a0b6f2-8888-7d3e-8a4b-1c2d3e4f5a6b",
    "file_name": "prices.csv",
    "state": "reading",
    "failure": null,
    "backfill": true,
    "options": {
        "format": "observations",
        "columns": {"sku": "ID", "price": "Price", "observed_at": "Date"},
        "constants": {"store": "Steam", "currency": "EUR"},
    },
    "progress": {
        "rows_read": 40_000,
        "bytes_read": 4_194_304,
        "bytes_total": 8_388_608,
        "rows_per_second": 20_000.0,
        "seconds_left": 2,
    },
    "accepted": 39_990,
    "refused": 10,
    "warnings": 0,
    "refusals": "/v1/imports/01a0b6f2-9999-7d3e-8a4b-1c2d3e4f5a6b/refusals",
    "recorded": 12_000,
    "unchanged": 4_000,
    "stale": 0,
    "quarantined": 0,
    "failed": 0,
    "new_lows": 3,
    "too_old_to_ring": 0,
    "transitions": {"sale.started": 120, "price.lowered": 11_880},
    "created_at": "2026-11-20T12:00:00Z",
    "started_at": "2026-11-20T12:00:01Z",
    "finished_at": null,
}))]
pub struct ImportResponse {
    id: ImportId,
    file_id: FileId,
    file_name: String,
    state: ReportedState,
    /// Why the import failed.
    #[schema(required)]
    failure: Option<String>,
    /// Whether the import is historical and triggers no notices.
    backfill: bool,
    #[schema(value_type = ImportOptions)]
    options: serde_json::Value,
    progress: ImportProgress,
    /// Number of observations that were accepted.
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
    #[schema(required)]
    started_at: Option<DateTime<Utc>>,
    #[schema(required)]
    finished_at: Option<DateTime<Utc>>,
}

/// How far an import has been read.
#[derive(Serialize, ToSchema)]
struct ImportProgress {
    rows_read: i64,
    /// Bytes of the file as it is stored, compressed or not.
    bytes_read: i64,
    bytes_total: i64,
    /// Average since the import was begun; `null` before.
    #[schema(required)]
    rows_per_second: Option<f64>,
    /// Estimated seconds until the file is read; `null` while there is nothing to estimate from.
    #[schema(required)]
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
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ImportParams {}

/// Creates an import: the worker reads a complete file as observations.
#[utoipa::path(
    post,
    path = "/v1/imports",
    operation_id = "create_import",
    tag = "imports",
    security(("token" = ["prices:write"])),
    responses(
        (
            status = 404,
            description = "The account has no such file, or it has expired.",
            body = Problem,
            content_type = "application/problem+json"
        ),
        (
            status = 409,
            description = "The file is not complete yet, or the first request with the `Idempotency-Key` is in flight.",
            body = Problem,
            content_type = "application/problem+json"
        ),
        (
            status = 429,
            description = "There were too many requests, or 100 imports of the account are waiting or being read.",
            body = Problem,
            content_type = "application/problem+json"
        ),
    )
)]
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

/// Lists the caller's imports, the newest first.
#[utoipa::path(
    get,
    path = "/v1/imports",
    operation_id = "list_imports",
    tag = "imports",
    security(("token" = ["prices:write"]))
)]
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

/// Returns the state and progress of an import.
#[utoipa::path(
    get,
    path = "/v1/imports/{id}",
    operation_id = "get_import",
    tag = "imports",
    security(("token" = ["prices:write"]))
)]
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

/// Cancels an import; observations that were already sent are still recorded.
#[utoipa::path(
    delete,
    path = "/v1/imports/{id}",
    operation_id = "cancel_import",
    tag = "imports",
    security(("token" = ["prices:write"])),
    responses((
        status = 409,
        description = "The import has already ended.",
        body = Problem,
        content_type = "application/problem+json"
    ))
)]
pub async fn cancel(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<ImportId>,
) -> Result<Tagged<ImportResponse>> {
    caller.require("prices:write")?;
    let import = imports::cancel_import(&app.writer, caller.account, id, app.clock.now()).await?;
    Ok(Tagged::new(ImportResponse::of(&app, caller.account, import).await?))
}

/// Schema of an event of an import.
pub struct ImportEvent;

impl PartialSchema for ImportEvent {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let data = text()
            .content_media_type("application/json")
            .content_schema(Some(Ref::from_schema_name(ImportResponse::name())));
        ObjectBuilder::new()
            .description(Some("A change of an import: `progress` until the last event, which is `end`."))
            .property("event", text().enum_values(Some(["progress", "end"])))
            .required("event")
            .property("data", data)
            .required("data")
            .examples([
                json!({"event": "progress", "data": r#"{"id": "01a0b6f2-9999-7d3e-8a4b-1c2d3e4f5a6b", …}"#}),
            ])
            .into()
    }
}

impl ToSchema for ImportEvent {}

/// Follows an import as server-sent events.
///
/// Each event has the import as `get_import` returns it, when it has changed: named `progress`, and the last one `end`.
/// A stream lasts an hour at most.
#[utoipa::path(
    get,
    path = "/v1/imports/{id}/events",
    operation_id = "follow_import",
    tag = "imports",
    security(("token" = ["prices:write"])),
    responses(
        (
            status = 200,
            description = "The events.",
            body = ImportEvent,
            content_type = "text/event-stream",
            headers(("Cache-Control" = String, description = "`no-cache`."))
        ),
        (
            status = 429,
            description = "There were too many requests, or the account has ten event streams open.",
            body = Problem,
            content_type = "application/problem+json"
        ),
    )
)]
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

/// Query of the refusals of an import.
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct RefusalParams {
    /// Format of the file; default: `csv`.
    #[serde(default)]
    #[param(inline)]
    #[schema(inline)]
    format: RefusalFormat,
}

#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RefusalFormat {
    #[default]
    Csv,
    Ndjson,
}

/// A row of an import that was refused, or accepted without some of its fields.
#[derive(Serialize, ToSchema)]
#[schema(as = ImportRefusal, example = json!({"line": 7, "reason": "price is required", "kind": "refused"}))]
struct RefusalResponse<'a> {
    /// Line of the file on which the row begins.
    line: i64,
    reason: &'a str,
    #[schema(inline)]
    kind: RefusalKind,
}

#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RefusalKind {
    Refused,
    Warning,
}

/// Returns the rows that were refused, or accepted without some of their fields, as a file.
///
/// CSV has the columns `line`, `reason` and `kind` (`refused` or `warning`). The first 100,000 of each kind are kept.
#[utoipa::path(
    get,
    path = "/v1/imports/{id}/refusals",
    operation_id = "list_import_refusals",
    tag = "imports",
    security(("token" = ["prices:write"])),
    responses((
        status = 200,
        description = "The rows, by line.",
        content((String = "text/csv"), (RefusalResponse = "application/x-ndjson")),
        headers(("Content-Disposition" = String, description = "`attachment`, with the name of the file."))
    ))
)]
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
    let line = match format {
        RefusalFormat::Csv => {
            let kind = if *warning { "warning" } else { "refused" };
            format!("{line},{},{kind}\r\n", quote(reason))
        }
        RefusalFormat::Ndjson => {
            let kind = if *warning { RefusalKind::Warning } else { RefusalKind::Refused };
            format!("{}\n", json!(RefusalResponse { line: *line, reason, kind }))
        }
    };
    text.extend_from_slice(line.as_bytes());
}
