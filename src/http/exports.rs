//! `/v1/exports`: queries whose results the worker writes into files.

use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::{Created, Tagged};
use super::extract::body::{Id, Json, Params};
use super::extract::caller::Caller;
use super::extract::conditional::IfNoneMatch;
use super::extract::page::{Page, Paging};
use crate::app::App;
use crate::domain::export::{ExportFilter, ExportKind};
use crate::domain::file::keep_until;
use crate::domain::ids::{ExportId, FileId};
use crate::domain::object::object;
use crate::error::{Error, Problem, Result};
use crate::store::exports::{self, Export, ExportState};
use crate::tables::TableFormat;
use crate::worker::exports::ExportOptions;

/// Body of a request that creates an export.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({
    "kind": "prices",
    "format": "parquet",
    "filter": {"store": "steam", "since": "2026-01-01T00:00:00Z"},
}))]
#[serde(deny_unknown_fields)]
pub struct CreateExportRequest {
    /// The rows: all `prices` or `deals`, or the account's own `watches`, `notices` or `files`.
    kind: ExportKind,
    /// Format of the file; default: `csv`.
    #[serde(default)]
    format: TableFormat,
    #[serde(default, deserialize_with = "object")]
    filter: ExportFilter,
    /// Seconds from now after which the file is deleted; default: 13 days.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1_166_400, example = 86_400)]
    expires_in: Option<i64>,
}

/// An export in a response.
#[derive(Serialize, ToSchema)]
#[schema(as = Export, example = json!({
    "id": "01a0b6f2-7777-7d3e-8a4b-1c2d3e4f5a6b",
    "kind": "prices",
    "format": "parquet",
    "filter": {"store": "steam", "since": "2026-01-01T00:00:00Z"},
    "state": "done",
    "failure": null,
    "rows_written": 861_000,
    "bytes_written": 7_340_032,
    "rows_total": 861_000,
    "file_id": "01a0b6f2-8888-7d3e-8a4b-1c2d3e4f5a6b",
    "content": "/v1/files/01a0b6f2-8888-7d3e-8a4b-1c2d3e4f5a6b/content",
    "created_at": "2026-11-20T12:00:00Z",
    "started_at": "2026-11-20T12:00:01Z",
    "finished_at": "2026-11-20T12:00:09Z",
}))]
pub struct ExportResponse {
    id: ExportId,
    /// Kind, format and filter.
    #[serde(flatten)]
    #[schema(value_type = ExportOptions)]
    options: serde_json::Value,
    state: ExportState,
    /// Why the export failed.
    #[schema(required)]
    failure: Option<String>,
    rows_written: i64,
    bytes_written: i64,
    /// Number of rows, estimated until the export is done; `null`: unknown.
    #[schema(required)]
    rows_total: Option<i64>,
    /// File of a completed export.
    #[schema(required)]
    file_id: Option<FileId>,
    /// Path of that file's content.
    #[schema(required)]
    content: Option<String>,
    created_at: DateTime<Utc>,
    #[schema(required)]
    started_at: Option<DateTime<Utc>>,
    #[schema(required)]
    finished_at: Option<DateTime<Utc>>,
}

impl From<Export> for ExportResponse {
    fn from(export: Export) -> ExportResponse {
        let file_id = export.file_id.filter(|_| export.state == ExportState::Done);
        ExportResponse {
            id: export.id,
            options: export.options,
            state: export.state,
            failure: export.failure,
            rows_written: export.rows_written,
            bytes_written: export.bytes_written,
            rows_total: export.rows_total,
            file_id,
            content: file_id.map(|file| format!("/v1/files/{file}/content")),
            created_at: export.created_at,
            started_at: export.started_at,
            finished_at: export.finished_at,
        }
    }
}

/// No query parameters besides those of paging.
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ExportParams {}

/// Creates an export: the worker writes its rows into a file.
#[utoipa::path(
    post,
    path = "/v1/exports",
    operation_id = "create_export",
    tag = "exports",
    responses((
        status = 429,
        description = "There were too many requests, or 20 exports of the account are waiting or being written.",
        body = Problem,
        content_type = "application/problem+json"
    ))
)]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(request): Json<CreateExportRequest>,
) -> Result<Created<ExportResponse>> {
    let CreateExportRequest { kind, format, filter, expires_in } = request;
    if let Some((field, problem)) = filter.problem(kind) {
        return Err(Error::invalid(format!("/filter/{field}"), problem));
    }
    let filter =
        filter.normalise().map_err(|(field, problem)| Error::invalid(format!("/filter/{field}"), problem))?;
    let now = app.clock.now();
    let wanted = expires_in.map(|seconds| {
        let life = TimeDelta::try_seconds(seconds).and_then(|life| now.checked_add_signed(life));
        life.unwrap_or(DateTime::<Utc>::MAX_UTC)
    });
    let keep = keep_until(wanted, now, now).map_err(|problem| Error::invalid("/expires_in", problem))?;
    let options = serde_json::json!({"kind": kind, "format": format, "filter": filter});
    let _turn = app.files.uploads.turn(caller.account).await;
    let export =
        exports::create_export(&app.writer, caller.account, ExportId::now_v7(), options, keep, now).await?;
    Ok(Created { location: format!("/v1/exports/{}", export.id), value: ExportResponse::from(export) })
}

/// Lists the caller's exports, the newest first.
#[utoipa::path(get, path = "/v1/exports", operation_id = "list_exports", tag = "exports")]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(ExportParams {}): Params<ExportParams>,
    paging: Paging,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<Page<ExportResponse>>> {
    let found = exports::list_exports(&app.writer, caller.account, paging.after()?, paging.rows()).await?;
    let page = paging.page(found, |export| export.id)?;
    Ok(if_none_match.answer(page.map(ExportResponse::from)))
}

/// Returns the state and progress of an export.
#[utoipa::path(get, path = "/v1/exports/{id}", operation_id = "get_export", tag = "exports")]
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<ExportId>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<ExportResponse>> {
    let export = exports::find_export(&app.writer, caller.account, id).await?;
    Ok(if_none_match.answer(ExportResponse::from(export)))
}

/// Cancels an export that is waiting or being written.
///
/// The file of a completed export stays until it expires or is deleted itself.
#[utoipa::path(
    delete,
    path = "/v1/exports/{id}",
    operation_id = "cancel_export",
    tag = "exports",
    responses((
        status = 409,
        description = "The export has already ended.",
        body = Problem,
        content_type = "application/problem+json"
    ))
)]
pub async fn cancel(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<ExportId>,
) -> Result<Tagged<ExportResponse>> {
    let export = exports::cancel_export(&app.writer, caller.account, id, app.clock.now()).await?;
    Ok(Tagged::new(ExportResponse::from(export)))
}
