//! `/v1/files`: a caller's own files. The protocols that create and fill them are in `uploads`; the headers of a
//! request select one.

pub mod content;
pub mod described;
pub mod download_headers;
pub mod header_fields;
pub mod links;
mod response;
pub mod served;
pub mod uploads;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use self::described::{
    CreationAnswers, CreationHeaders, FileAnswers, NamedCreationAnswers, NamedCreationHeaders, OffsetAnswers,
    OffsetHeaders, OptionsAnswers, OverrideAnswers, OverrideHeaders, PatchAnswers, PatchHeaders,
    RemovalAnswers, RemovalHeaders,
};
use self::response::{FileResponse, ListedState};
use self::uploads::{UploadParams, ietf_draft, plain, tus};
use super::answer::Tagged;
use super::extract::body::{
    BodyHash, Hashed, Id, Params, check_not_encoded, hash_body, media_type, parse_body, present, read_limited,
};
use super::extract::caller::Caller;
use super::extract::conditional::{IfMatch, IfNoneMatch};
use super::extract::fields::FieldChecks;
use super::extract::page::{Page, Paging};
use super::middleware::idempotency::{self, Begun, Idempotency};
use super::openapi::shared::FileBytes;
use crate::app::App;
use crate::domain::file::{clean_name, keep_until};
use crate::domain::ids::FileId;
use crate::domain::observation::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::store::files::{self, FileChange, FileState};

/// Filter of the list.
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListFilesParams {
    /// Only files in this state.
    state: Option<ListedState>,
}

/// A merge patch of a file.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"name": "prices.csv", "expires_at": "2026-12-10T10:00:00Z"}))]
#[serde(deny_unknown_fields)]
struct UpdateFileRequest {
    /// New name without control characters; folders in it are removed.
    #[serde(default, deserialize_with = "present")]
    #[schema(
        value_type = String,
        required = false,
        max_length = 255,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    name: Option<String>,
    /// New expiry time, earlier or later than before, but always less than 14 days after creation.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Timestamp, required = false)]
    expires_at: Option<Timestamp>,
}

/// Returns the capabilities and limits of both upload protocols.
#[utoipa::path(
    options,
    path = "/v1/files",
    operation_id = "get_upload_options",
    tag = "files",
    responses(OptionsAnswers)
)]
pub async fn options(State(app): State<App>) -> Response {
    let mut response = tus::describe(&app);
    let headers = response.headers_mut();
    ietf_draft::put_limits(&app, headers, None);
    put_accept_patch(headers);
    response
}

/// Returns the capabilities and limits of both upload protocols, as for all files.
#[utoipa::path(
    options,
    path = "/v1/files/{id}",
    operation_id = "get_upload_options_of_file",
    tag = "files",
    params(("id" = String, Path, description = "Any text: the answer does not depend on the file.")),
    responses(OptionsAnswers)
)]
pub async fn options_of_file(app: State<App>) -> Response {
    options(app).await
}

/// Adds `Accept-Patch`: the media types that the body of a PATCH may have.
fn put_accept_patch(headers: &mut HeaderMap) {
    let patches = format!("{}, {}, application/merge-patch+json", tus::BYTES, ietf_draft::BYTES);
    if let Ok(patches) = HeaderValue::from_str(&patches) {
        headers.insert("accept-patch", patches);
    }
}

/// Lists the caller's files, the newest first.
#[utoipa::path(get, path = "/v1/files", operation_id = "list_files", tag = "files")]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<ListFilesParams>,
    paging: Paging,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<Page<FileResponse>>> {
    let state = params.state.map(|state| match state {
        ListedState::Uploading => FileState::Uploading,
        ListedState::Complete => FileState::Complete,
    });
    let (after, rows, now) = (paging.after()?, paging.rows(), app.clock.now());
    let found = files::list_files(&app.writer, caller.account, state, after, rows, now).await?;
    let page = paging.page(found, |file| file.id)?;
    Ok(if_none_match.answer(page.map(FileResponse::from)))
}

/// Creates a file by the protocol that the headers select.
///
/// - With `Tus-Resumable: 1.0.0` by tus: an upload, perhaps with its first bytes, or a concatenation. The answer has no
///   body.
/// - With `Upload-Complete` by the IETF draft of resumable uploads, interop version 8: an upload with its first bytes,
///   or with all.
/// - Else from the body, which is the whole file, of its media type. If it breaks off, nothing is kept.
#[utoipa::path(
    post,
    path = "/v1/files",
    operation_id = "create_file",
    tag = "files",
    params(CreationHeaders),
    request_body(
        description = "Bytes of the file. By tus they are `application/offset+octet-stream`, and not required.",
        content(
            (inline(FileBytes) = "application/octet-stream"),
            (inline(FileBytes) = "application/offset+octet-stream"),
            (inline(FileBytes) = "*/*")
        )
    ),
    responses(CreationAnswers)
)]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<UploadParams>,
    request: Request,
) -> Result<Response> {
    let (uri, headers) = (request.uri().clone(), request.headers().clone());
    let begun = idempotency::begin(&app, &caller, Idempotency::Streaming, &uri, &headers, None).await?;
    let execution = match begun {
        Begun::Repetition(repetition) => return repetition.answer(hash_body(request).await?.as_ref()),
        Begun::Execution(execution) if !execution.has_key() => {
            return create_once(&app, &caller, &params, request).await;
        }
        Begun::Execution(execution) => execution,
    };
    let hash = BodyHash::default();
    let request = request.map(|body| Body::new(Hashed::new(body, hash.clone())));
    let (outliving, account) = (app.clone(), caller.account);
    let work = async move {
        let answer = create_once(&app, &caller, &params, request).await;
        execution.finish(answer.unwrap_or_else(IntoResponse::into_response), hash.value().as_ref()).await
    };
    idempotency::outlive(&outliving, account, work).await
}

async fn create_once(
    app: &App,
    caller: &Caller,
    params: &UploadParams,
    request: Request,
) -> Result<Response> {
    if tus::is_meant(request.headers()) {
        return Ok(tus::create(app, caller, params, request).await);
    }
    if ietf_draft::is_meant(request.headers()) {
        Ok(ietf_draft::create(app, caller, params, request).await)
    } else {
        plain::create(app, caller, params, request).await
    }
}

/// Creates a file with this name, and a further one each time.
///
/// The body is the whole file, of its media type. With `Upload-Complete` it starts an upload by the IETF draft of
/// resumable uploads: the body may be only the first part, which must not be taken for the whole file.
#[utoipa::path(
    put,
    path = "/v1/files/{id}",
    operation_id = "create_named_file",
    tag = "files",
    params(("id" = String, Path, description = "Name of the new file, not an id."), NamedCreationHeaders),
    request_body(
        description = "Bytes of the file.",
        content((inline(FileBytes) = "application/octet-stream"), (inline(FileBytes) = "*/*"))
    ),
    responses(NamedCreationAnswers)
)]
pub async fn put(
    State(app): State<App>,
    caller: Caller,
    name: Result<Path<String>, PathRejection>,
    Params(mut params): Params<UploadParams>,
    request: Request,
) -> Result<Response> {
    let Path(name) = name.map_err(|_| Error::malformed("The name of a file must be UTF-8."))?;
    params.name_it(name);
    if ietf_draft::is_meant(request.headers()) {
        Ok(ietf_draft::create(&app, &caller, &params, request).await)
    } else {
        plain::create(&app, &caller, &params, request).await
    }
}

/// Returns the state and properties of a file, without ending a request that uploads it.
#[utoipa::path(
    get,
    path = "/v1/files/{id}",
    operation_id = "get_file",
    tag = "files",
    responses(FileAnswers)
)]
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<FileId>,
    if_none_match: IfNoneMatch,
) -> Result<(HeaderMap, Tagged<FileResponse>)> {
    let file = files::find_file(&app.writer, caller.account, id, app.clock.now()).await?;
    let mut headers = HeaderMap::new();
    if file.is_complete() {
        return Ok((headers, if_none_match.answer(file.into())));
    }
    // The offset includes the bytes that are being written; the request that sends them continues.
    app.files.uploads.settle(id).await;
    let file = files::find_file(&app.writer, caller.account, id, app.clock.now()).await?;
    ietf_draft::put_state(&app, &mut headers, &file);
    Ok((headers, if_none_match.answer(file.into())))
}

/// Returns the offset of an upload, by tus or by the draft, and ends the request that writes to it.
///
/// By the draft the request must have none of `Upload-Offset`, `Upload-Complete` and `Upload-Length`: 400.
#[utoipa::path(
    head,
    path = "/v1/files/{id}",
    operation_id = "get_upload_offset",
    tag = "files",
    params(OffsetHeaders),
    responses(OffsetAnswers)
)]
pub async fn head(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<FileId>,
    headers: HeaderMap,
) -> Result<Response> {
    if tus::is_meant(&headers) {
        Ok(tus::head(&app, &caller, id, &headers).await)
    } else {
        ietf_draft::head(&app, &caller, id, &headers).await
    }
}

/// Changes a file: appends bytes by either protocol, or changes its properties.
///
/// - By tus the body is `application/offset+octet-stream`; `Tus-Resumable` and `Upload-Offset` are required.
/// - By the draft it is `application/partial-upload`; `Upload-Offset` and `Upload-Complete` are required. A body that
///   exceeds the length of the file ends the upload.
/// - Else it is a merge patch, which alone heeds `If-Match`.
#[utoipa::path(
    patch,
    path = "/v1/files/{id}",
    operation_id = "update_file",
    tag = "files",
    params(PatchHeaders),
    request_body(
        description = "Bytes, or a merge patch.",
        content(
            (inline(FileBytes) = "application/offset+octet-stream"),
            (inline(FileBytes) = "application/partial-upload"),
            (UpdateFileRequest = "application/merge-patch+json"),
            (UpdateFileRequest = "application/json")
        )
    ),
    responses(PatchAnswers)
)]
pub async fn patch(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<FileId>,
    request: Request,
) -> Result<Response> {
    if tus::is_meant(request.headers()) {
        return Ok(tus::patch(&app, &caller, id, request).await);
    }
    match media_type(request.headers()).as_deref() {
        Some(ietf_draft::BYTES) => Ok(ietf_draft::patch(&app, &caller, id, request).await),
        Some("application/json" | "application/merge-patch+json") => {
            Ok(update(&app, &caller, id, request).await?.into_response())
        }
        _ => {
            let detail = format!(
                "The body must be {}, {} or application/merge-patch+json.",
                tus::BYTES,
                ietf_draft::BYTES
            );
            let mut refusal = Error::new(Kind::UnsupportedMediaType, detail).into_response();
            put_accept_patch(refusal.headers_mut());
            Ok(refusal)
        }
    }
}

async fn update(app: &App, caller: &Caller, id: FileId, request: Request) -> Result<Tagged<FileResponse>> {
    check_not_encoded(request.headers())?;
    let (parts, body) = request.into_parts();
    let if_match = IfMatch::of(&parts.headers);
    let body = read_limited(&parts.headers, body, app.config.server.max_json_bytes).await?;
    let wanted: UpdateFileRequest = parse_body(app, Some(caller.account), body).await?;
    let now = app.clock.now();
    let changed = files::update_file(&app.writer, caller.account, id, now, |file| {
        if_match.check(&FileResponse::from(file.clone()))?;
        let mut fields = FieldChecks::default();
        let name = wanted.name.as_deref().map(|name| clean_name(&fields.text("name", Some(name), 255)));
        let keep = wanted.expires_at.map(|wanted| keep_until(Some(wanted.0), file.created_at, now));
        let keep_until = keep.transpose().unwrap_or_else(|problem| {
            fields.refuse("expires_at", problem);
            None
        });
        fields.finish()?;
        Ok(FileChange { name, keep_until })
    })
    .await?;
    Ok(Tagged::new(changed.into()))
}

/// Deletes a file with its bytes, and ends an upload of it.
#[utoipa::path(
    delete,
    path = "/v1/files/{id}",
    operation_id = "delete_file",
    tag = "files",
    params(RemovalHeaders),
    responses(RemovalAnswers)
)]
pub async fn remove(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<FileId>,
    headers: HeaderMap,
) -> Result<Response> {
    if tus::is_meant(&headers) {
        return Ok(tus::terminate(&app, &caller, id, &headers).await);
    }
    if headers.contains_key(header::IF_MATCH) {
        let file = files::find_file(&app.writer, caller.account, id, app.clock.now()).await?;
        IfMatch::of(&headers).check(&FileResponse::from(file))?;
    }
    uploads::remove(&app, caller.account, id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Executes another method of tus, which `X-HTTP-Method-Override` names, for clients behind a proxy that blocks it.
#[utoipa::path(
    post,
    path = "/v1/files/{id}",
    operation_id = "override_method",
    tag = "files",
    params(OverrideHeaders),
    request_body(
        description = "Bytes to append, if the method is PATCH.",
        content((inline(FileBytes) = "application/offset+octet-stream"))
    ),
    responses(OverrideAnswers)
)]
pub async fn overridden(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<FileId>,
    request: Request,
) -> Response {
    tus::overridden(&app, &caller, id, request).await
}
