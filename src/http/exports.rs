//! `/v1/exports`: queries whose results the worker writes into files.

use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

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
use crate::error::{Error, Result};
use crate::store::exports::{self, Export, ExportState};
use crate::tables::TableFormat;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateExportRequest {
    kind: ExportKind,
    #[serde(default)]
    format: TableFormat,
    #[serde(default, deserialize_with = "object")]
    filter: ExportFilter,
    /// Seconds from now after which the file is deleted.
    #[serde(default)]
    expires_in: Option<i64>,
}

#[derive(Serialize)]
pub struct ExportResponse {
    id: ExportId,
    /// Kind, format and filter.
    #[serde(flatten)]
    options: serde_json::Value,
    state: ExportState,
    failure: Option<String>,
    rows_written: i64,
    bytes_written: i64,
    /// Number of rows, estimated until the export is done; `null`: unknown.
    rows_total: Option<i64>,
    /// File of a completed export.
    file_id: Option<FileId>,
    content: Option<String>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
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
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportParams {}

/// `POST /v1/exports`: requests an export.
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

/// `GET /v1/exports`: the caller's exports, the newest first.
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

/// `GET /v1/exports/{id}`: state and progress of an export.
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<ExportId>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<ExportResponse>> {
    let export = exports::find_export(&app.writer, caller.account, id).await?;
    Ok(if_none_match.answer(ExportResponse::from(export)))
}

/// `DELETE /v1/exports/{id}`: cancels an export. The file of a completed export stays until it expires or is deleted
/// itself.
pub async fn cancel(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<ExportId>,
) -> Result<Tagged<ExportResponse>> {
    let export = exports::cancel_export(&app.writer, caller.account, id, app.clock.now()).await?;
    Ok(Tagged::new(ExportResponse::from(export)))
}
