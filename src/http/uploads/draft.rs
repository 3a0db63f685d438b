//! Resumable uploads for HTTP, draft-ietf-httpbis-resumable-upload, interop version 8:
//! <https://datatracker.ietf.org/doc/draft-ietf-httpbis-resumable-upload/>
//!
//! `104 (Upload Resumption Supported)` is not sent: the server below has no way to send interim answers. A client
//! that wants to resume creates with `Upload-Complete: ?0` and appends.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use uuid::Uuid;

use super::{
    Announced, Incoming, Refusal, UploadParams, announce, byte_count, header, keep_until, plain, receive,
};
use crate::app::App;
use crate::domain::file::MAX_LIFE;
use crate::error::{Error, Kind, Result};
use crate::http::answer::Answer;
use crate::http::auth::Caller;
use crate::http::body::{begin_stream, media_type};
use crate::http::files::FileResponse;
use crate::store::files::{self, StoredFile};

const COMPLETE: HeaderName = HeaderName::from_static("upload-complete");
const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const LENGTH: HeaderName = HeaderName::from_static("upload-length");
const LIMIT: HeaderName = HeaderName::from_static("upload-limit");
/// What the body of a PATCH is.
pub const BYTES: &str = "application/partial-upload";

/// Whether a request that makes a file speaks the draft.
pub fn is_meant(headers: &HeaderMap) -> bool {
    headers.contains_key(COMPLETE)
}

/// `Upload-Limit`: what the server takes.
pub fn put_limits(app: &App, headers: &mut HeaderMap) {
    let (size, age) = (app.config.files.max_bytes, MAX_LIFE.num_seconds());
    if let Ok(limits) = HeaderValue::from_str(&format!("max-size={size}, max-age={age}")) {
        headers.insert(LIMIT, limits);
    }
}

/// POST: creation, with the first bytes or all.
pub async fn create(app: &App, caller: &Caller, params: &UploadParams, request: Request) -> Result<Response> {
    let headers = request.headers().clone();
    let ends = is_complete(&headers)?.unwrap_or(true);
    let length = byte_count(&headers, "upload-length")?;
    let announced = Announced {
        length,
        keep_until: keep_until(params, app.clock.now())?,
        ..plain::announced_by(&headers, params)
    };
    let file = announce(app, caller, &announced, None).await?;
    if !file.is_complete() {
        begin_stream(&request);
        let incoming = Incoming { length, ends, ..Incoming::new(caller.account, file.id, 0) };
        if let Err(refusal) = receive(app, incoming, request.into_body()).await {
            // What has arrived is kept: the client finds it at the address, if it gets this answer.
            let mut refusal = refusal.into_error().into_response();
            put_location(refusal.headers_mut(), &file)?;
            return Ok(refusal);
        }
    }
    answer(app, caller, file.id, StatusCode::CREATED).await
}

/// HEAD: how far it has come.
pub async fn head(app: &App, caller: &Caller, id: Uuid, headers: &HeaderMap) -> Result<Response> {
    if [OFFSET, COMPLETE, LENGTH].iter().any(|name| headers.contains_key(name)) {
        return Err(Error::malformed("A request for the offset must not tell one, nor a length."));
    }
    files::find_file(&app.writer, caller.account, id, app.clock.now()).await?;
    app.uploads.settle(id).await;
    let file = files::find_file(&app.writer, caller.account, id, app.clock.now()).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    put_state(app, response.headers_mut(), &file);
    Ok(response)
}

/// PATCH: further bytes.
pub async fn patch(app: &App, caller: &Caller, id: Uuid, request: Request) -> Result<Response> {
    let headers = request.headers().clone();
    if media_type(&headers).as_deref() != Some(BYTES) {
        return Err(Error::new(Kind::UnsupportedMediaType, format!("The body must be {BYTES}.")));
    }
    let missing = |name: &str| Error::malformed(format!("{name} is missing."));
    let offset = byte_count(&headers, "upload-offset")?.ok_or_else(|| missing("Upload-Offset"))?;
    let ends = is_complete(&headers)?.ok_or_else(|| missing("Upload-Complete"))?;
    let file = files::find_file(&app.writer, caller.account, id, app.clock.now()).await?;
    let length = byte_count(&headers, "upload-length")?;
    if file.is_complete() {
        let problem = json!({
            "type": "https://iana.org/assignments/http-problem-types#completed-upload",
            "title": "upload is already completed",
            "status": 400,
        });
        return Ok(problem_document(StatusCode::BAD_REQUEST, &problem));
    }
    if let (Some(known), Some(told)) = (file.length, length)
        && known.unsigned_abs() != told
    {
        let problem = json!({
            "type": "https://iana.org/assignments/http-problem-types#inconsistent-upload-length",
            "title": "inconsistent length values",
            "status": 400,
        });
        return Ok(problem_document(StatusCode::BAD_REQUEST, &problem));
    }
    begin_stream(&request);
    let incoming = Incoming { length, ends, ..Incoming::new(caller.account, id, offset) };
    match receive(app, incoming, request.into_body()).await {
        Ok(received) if received.complete => answer(app, caller, id, StatusCode::OK).await,
        Ok(_) => answer(app, caller, id, StatusCode::NO_CONTENT).await,
        Err(Refusal::OtherOffset(stored)) => {
            let problem = json!({
                "type": "https://iana.org/assignments/http-problem-types#mismatching-upload-offset",
                "title": "offset from request does not match offset of resource",
                "status": 409,
                "expected-offset": stored,
                "provided-offset": offset,
            });
            let mut refusal = problem_document(StatusCode::CONFLICT, &problem);
            refusal.headers_mut().insert(OFFSET, HeaderValue::from(stored));
            refusal.headers_mut().insert(COMPLETE, boolean(false));
            Ok(refusal)
        }
        Err(refusal) => Err(refusal.into_error()),
    }
}

/// What it is now; with the file itself once that is whole.
async fn answer(app: &App, caller: &Caller, id: Uuid, status: StatusCode) -> Result<Response> {
    let file = files::find_file(&app.writer, caller.account, id, app.clock.now()).await?;
    let mut response = match file.is_complete() {
        true => (status, Answer(FileResponse::from(file.clone()))).into_response(),
        false => status.into_response(),
    };
    put_location(response.headers_mut(), &file)?;
    put_state(app, response.headers_mut(), &file);
    Ok(response)
}

fn put_location(headers: &mut HeaderMap, file: &StoredFile) -> Result<()> {
    let location = format!("/v1/files/{}", file.id);
    headers.insert(header::LOCATION, HeaderValue::from_str(&location).map_err(Error::internal)?);
    Ok(())
}

fn put_state(app: &App, headers: &mut HeaderMap, file: &StoredFile) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(OFFSET, HeaderValue::from(file.stored));
    headers.insert(COMPLETE, boolean(file.is_complete()));
    if let Some(length) = file.length {
        headers.insert(LENGTH, HeaderValue::from(length));
    }
    put_limits(app, headers);
}

/// A boolean of structured fields (RFC 9651).
fn boolean(value: bool) -> HeaderValue {
    HeaderValue::from_static(if value { "?1" } else { "?0" })
}

fn is_complete(headers: &HeaderMap) -> Result<Option<bool>> {
    match (headers.contains_key(COMPLETE), header(headers, COMPLETE.as_str())) {
        (false, _) => Ok(None),
        (true, Some("?1")) => Ok(Some(true)),
        (true, Some("?0")) => Ok(Some(false)),
        (true, _) => Err(Error::malformed("Upload-Complete must be ?0 or ?1.")),
    }
}

fn problem_document(status: StatusCode, problem: &serde_json::Value) -> Response {
    let kind = HeaderValue::from_static("application/problem+json");
    (status, [(header::CONTENT_TYPE, kind)], problem.to_string()).into_response()
}
