//! `/v1/files`: a caller's own files. The protocols that create and fill them are in `uploads`; the headers of a
//! request select one.

pub mod content;
pub mod download_headers;
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

use self::response::FileResponse;
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
use crate::app::App;
use crate::domain::file::{clean_name, keep_until};
use crate::domain::ids::FileId;
use crate::domain::observation::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::store::files::{self, FileChange, FileState};

/// Filter of the list by state.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ListedState {
    Uploading,
    Complete,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListFilesParams {
    state: Option<ListedState>,
}

/// A merge patch of a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateFileRequest {
    #[serde(default, deserialize_with = "present")]
    name: Option<String>,
    /// New expiry time, earlier or later than before, but always less than 14 days after creation.
    #[serde(default, deserialize_with = "present")]
    expires_at: Option<Timestamp>,
}

/// `OPTIONS` of files: the capabilities and limits of both upload protocols.
pub async fn options(State(app): State<App>) -> Response {
    let mut response = tus::describe(&app);
    let headers = response.headers_mut();
    ietf_draft::put_limits(&app, headers, None);
    put_accept_patch(headers);
    response
}

/// Adds `Accept-Patch`: the media types that the body of a PATCH may have.
fn put_accept_patch(headers: &mut HeaderMap) {
    let patches = format!("{}, {}, application/merge-patch+json", tus::BYTES, ietf_draft::BYTES);
    if let Ok(patches) = HeaderValue::from_str(&patches) {
        headers.insert("accept-patch", patches);
    }
}

/// `GET /v1/files`: the caller's files, the newest first.
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

/// `POST /v1/files`: creates a file by the protocol of the headers; with an `Idempotency-Key` only once.
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

/// `PUT /v1/files/{name}`: creates a file with this name, and a further one each time. With `Upload-Complete` it starts
/// an upload by the IETF draft: the body may be only the first part, which must not be taken for the whole file.
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

/// `GET /v1/files/{id}`: state and properties of a file.
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

/// `HEAD /v1/files/{id}`: the offset of an upload.
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

/// `PATCH /v1/files/{id}`: further bytes by either protocol, or a merge patch of the file's properties.
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

/// `DELETE /v1/files/{id}`: deletes a file with its bytes, and ends an upload of it.
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

/// `POST /v1/files/{id}` with `X-HTTP-Method-Override`: another method in a POST.
pub async fn overridden(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<FileId>,
    request: Request,
) -> Response {
    tus::overridden(&app, &caller, id, request).await
}
