//! Resumable uploads for HTTP, draft-ietf-httpbis-resumable-upload, interop version 8:
//! <https://datatracker.ietf.org/doc/draft-ietf-httpbis-resumable-upload/>
//!
//! `104 (Upload Resumption Supported)` is not sent, because the HTTP server cannot send interim responses. A client
//! that wants to resume creates an upload with `Upload-Complete: ?0` and appends to it.

use axum::body::HttpBody;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::{
    Announced, Ends, Expected, Incoming, UploadParams, UploadRefusal, announce, check_size, end_writing,
    keep_until, metadata, plain, receive, remove,
};
use crate::app::App;
use crate::domain::file::{UNFINISHED_LIFE, clean_media_type, clean_name};
use crate::domain::ids::FileId;
use crate::error::{Error, Kind, REQUEST_ID, Result};
use crate::http::answer::JsonAnswer;
use crate::http::extract::body::begin_stream;
use crate::http::extract::caller::Caller;
use crate::http::files::response::FileResponse;
use crate::http::files::uploads::tus_headers::{parse_boolean, parse_integer};
use crate::store::files::{self, StoredFile};

const COMPLETE: HeaderName = HeaderName::from_static("upload-complete");
const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const LENGTH: HeaderName = HeaderName::from_static("upload-length");
const LIMIT: HeaderName = HeaderName::from_static("upload-limit");
const VERSION: HeaderName = HeaderName::from_static("upload-draft-interop-version");
/// Media type of the body of a PATCH.
pub const BYTES: &str = "application/partial-upload";

/// Whether a request that creates a file uses the draft.
pub fn is_meant(headers: &HeaderMap) -> bool {
    is_last(headers).is_some()
}

/// Adds `Upload-Limit`: the size of the largest upload, and the seconds after which this upload, or one that is created
/// now, is deleted if no bytes are sent to it.
pub fn put_limits(app: &App, headers: &mut HeaderMap, file: Option<&StoredFile>) {
    let life = file.map_or(UNFINISHED_LIFE, |file| file.expires_at - app.clock.now());
    let (size, age) = (app.config.files.max_bytes, life.num_seconds().max(0));
    if let Ok(limits) = HeaderValue::from_str(&format!("max-size={size}, max-age={age}")) {
        headers.insert(LIMIT, limits);
    }
}

/// A refusal; the draft defines problem types of its own.
enum Refused {
    OtherOffset { stored: u64, provided: u64 },
    Lengths,
    Completed,
    Error(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused::Error(error)
    }
}

impl Refused {
    /// Builds the response. It always has `Upload-Complete: ?0`, because it is not the response for the complete
    /// upload.
    fn answer(self, app: &App) -> Response {
        let mut answer = match self {
            Refused::OtherOffset { stored, provided } => {
                let title = "offset from request does not match offset of resource";
                let more = json!({"expected-offset": stored, "provided-offset": provided});
                let mut answer = problem(StatusCode::CONFLICT, "mismatching-upload-offset", title, more);
                answer.headers_mut().insert(OFFSET, HeaderValue::from(stored));
                answer
            }
            Refused::Lengths => {
                let title = "inconsistent length values for upload";
                problem(StatusCode::BAD_REQUEST, "inconsistent-upload-length", title, json!({}))
            }
            Refused::Completed => {
                let title = "upload is already completed";
                problem(StatusCode::BAD_REQUEST, "completed-upload", title, json!({}))
            }
            Refused::Error(error) => error.into_response(),
        };
        answer.headers_mut().insert(COMPLETE, boolean(false));
        put_limits(app, answer.headers_mut(), None);
        answer
    }
}

/// POST and PUT: creation, with the first bytes or all of them.
pub async fn create(app: &App, caller: &Caller, params: &UploadParams, request: Request) -> Response {
    begin(app, caller, params, request).await.unwrap_or_else(|refused| refused.answer(app))
}

async fn begin(
    app: &App,
    caller: &Caller,
    params: &UploadParams,
    request: Request,
) -> Result<Response, Refused> {
    let headers = request.headers().clone();
    let here = is_last(&headers).unwrap_or(true);
    let (length, coming) = (integer(&headers, &LENGTH), request.body().size_hint().exact());
    check_size(app, length.max(coming))?;
    check_lengths(length, 0, coming, here)?;
    let expected = if here { Expected::of_whole(&headers)? } else { Expected::of_part(&headers)? };
    let (metadata, announced) = (metadata(&headers)?, plain::announced_by(&headers, params)?);
    let announced = Announced {
        name: metadata.name.map_or(announced.name, |name| clean_name(&name)),
        media_type: metadata.media_type.map_or(announced.media_type, |kind| clean_media_type(&kind)),
        length,
        metadata: metadata.header,
        keep_until: keep_until(params, app.clock.now())?,
    };
    let ends = ends(&headers, here);
    let file = announce(app, caller, &announced, None, ends).await?;
    if !file.is_complete() {
        begin_stream(&request);
        let incoming = Incoming::new(caller.account, file.id, 0);
        let incoming = Incoming { length, expected, ends, ..incoming };
        if let Err(refusal) = receive(app, incoming, request.into_body()).await {
            let refused = refused_by(refusal, 0);
            // The upload cannot be continued: the same bytes would be refused again.
            if matches!(&refused, Refused::Lengths)
                || matches!(&refused, Refused::Error(error)
                    if matches!(error.kind, Kind::DigestMismatch | Kind::TooLarge | Kind::QuotaExceeded))
            {
                let _ = remove(app, caller.account, file.id).await;
                return Err(refused);
            }
            // The bytes that have arrived are kept at the upload's URL, which the client learns from this response.
            let mut answer = refused.answer(app);
            put_location(answer.headers_mut(), &file)?;
            return Ok(answer);
        }
    }
    Ok(answer(app, caller, file.id, StatusCode::CREATED).await?)
}

/// HEAD: the offset of an upload. The request that is writing it is ended, as the draft recommends.
pub async fn head(app: &App, caller: &Caller, id: FileId, headers: &HeaderMap) -> Result<Response> {
    if [OFFSET, COMPLETE, LENGTH].iter().any(|name| headers.contains_key(name)) {
        return Err(Error::malformed("A request for the offset must state neither an offset nor a length."));
    }
    let file = end_writing(app, caller.account, id).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    put_state(app, response.headers_mut(), &file);
    Ok(response)
}

/// PATCH: further bytes.
pub async fn patch(app: &App, caller: &Caller, id: FileId, request: Request) -> Response {
    append(app, caller, id, request).await.unwrap_or_else(|refused| refused.answer(app))
}

async fn append(app: &App, caller: &Caller, id: FileId, request: Request) -> Result<Response, Refused> {
    let headers = request.headers().clone();
    let missing = |name: &str| Error::malformed(format!("{name} is missing or invalid."));
    let offset = integer(&headers, &OFFSET).ok_or_else(|| missing("Upload-Offset"))?;
    let here = is_last(&headers).ok_or_else(|| missing("Upload-Complete"))?;
    let expected = Expected::of_part(&headers)?;
    let (announced, coming) = (integer(&headers, &LENGTH), request.body().size_hint().exact());
    // Another account must not be able to end the request that writes.
    files::find_file(&app.writer, caller.account, id, app.clock.now()).await?;
    app.files.uploads.take_over(id).await?;
    let file = files::find_file(&app.writer, caller.account, id, app.clock.now()).await?;
    let stored = file.stored.unsigned_abs();
    // This is also checked for a complete upload: a client that missed the last response learns that everything has
    // arrived.
    if stored != offset {
        return Err(Refused::OtherOffset { stored, provided: offset });
    }
    if file.is_complete() {
        return Err(if coming == Some(0) { Refused::Completed } else { Refused::Lengths });
    }
    let known = file.length.map(i64::unsigned_abs);
    if known.is_some() && announced.is_some() && known != announced {
        return Err(Refused::Lengths);
    }
    let length = known.or(announced);
    // The draft requires the upload to end here, whether the client has miscounted or mixed up two files.
    let beyond = length.zip(coming).is_some_and(|(length, coming)| offset.saturating_add(coming) > length);
    if beyond {
        return Err(end(app, caller, id).await);
    }
    check_lengths(length, offset, coming, here)?;
    begin_stream(&request);
    let (incoming, ends) = (Incoming::new(caller.account, id, offset), ends(&headers, here));
    let incoming = Incoming { length: announced, expected, ends, ..incoming };
    match receive(app, incoming, request.into_body()).await {
        Ok(received) if received.complete => Ok(answer(app, caller, id, StatusCode::OK).await?),
        Ok(_) => Ok(answer(app, caller, id, StatusCode::NO_CONTENT).await?),
        Err(UploadRefusal::BeyondLength) => Err(end(app, caller, id).await),
        Err(refusal) => Err(refused_by(refusal, offset)),
    }
}

/// Returns the condition that completes an upload: only a request that states so. For clients of older versions of the
/// draft all bytes suffice: tus-js-client sends `?0` even with the last bytes of a stream.
fn ends(headers: &HeaderMap, here: bool) -> Ends {
    match integer(headers, &VERSION) {
        _ if here => Ends::Here,
        Some(..=7) => Ends::AtItsLength,
        _ => Ends::Later,
    }
}

/// Removes an upload that was sent more bytes than its stated length.
async fn end(app: &App, caller: &Caller, id: FileId) -> Refused {
    match remove(app, caller.account, id).await {
        Ok(()) => Refused::Lengths,
        Err(error) => error.into(),
    }
}

fn refused_by(refusal: UploadRefusal, provided: u64) -> Refused {
    match refusal {
        UploadRefusal::OtherOffset(stored) => Refused::OtherOffset { stored, provided },
        UploadRefusal::BeyondLength | UploadRefusal::BeforeLength => Refused::Lengths,
        UploadRefusal::Error(error) => Refused::Error(error),
    }
}

/// Checks that the lengths in a request agree: that of the file, and that of the body if the client states that it is
/// the last one.
fn check_lengths(length: Option<u64>, offset: u64, coming: Option<u64>, here: bool) -> Result<(), Refused> {
    let (Some(length), Some(coming)) = (length, coming) else { return Ok(()) };
    let end = offset.saturating_add(coming);
    if end > length || (here && end != length) { Err(Refused::Lengths) } else { Ok(()) }
}

/// Responds with the state of the upload, and with the file itself once it is complete.
async fn answer(app: &App, caller: &Caller, id: FileId, status: StatusCode) -> Result<Response> {
    let file = files::find_file(&app.writer, caller.account, id, app.clock.now()).await?;
    let mut response = if file.is_complete() {
        (status, JsonAnswer(FileResponse::from(file.clone()))).into_response()
    } else {
        status.into_response()
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

/// Adds the headers with the state of an upload.
pub fn put_state(app: &App, headers: &mut HeaderMap, file: &StoredFile) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(OFFSET, HeaderValue::from(file.stored));
    headers.insert(COMPLETE, boolean(file.is_complete()));
    if let Some(length) = file.length {
        headers.insert(LENGTH, HeaderValue::from(length));
    }
    put_limits(app, headers, Some(file));
}

/// Formats a boolean of structured fields (RFC 9651).
fn boolean(value: bool) -> HeaderValue {
    HeaderValue::from_static(if value { "?1" } else { "?0" })
}

/// Reads `Upload-Complete`.
fn is_last(headers: &HeaderMap) -> Option<bool> {
    single(headers, &COMPLETE).and_then(parse_boolean)
}

fn integer(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    single(headers, name).and_then(parse_integer)
}

/// Returns the text of a header that is sent once. Two lines form a list, which no header of the draft is.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => line.to_str().ok(),
        _ => None,
    }
}

/// A problem of a type that the draft defines.
fn problem(status: StatusCode, kind: &str, title: &str, mut document: serde_json::Value) -> Response {
    document["type"] = format!("https://iana.org/assignments/http-problem-types#{kind}").into();
    document["title"] = title.into();
    document["status"] = status.as_u16().into();
    document["instance"] = REQUEST_ID.try_with(Clone::clone).ok().into();
    let media_type = HeaderValue::from_static("application/problem+json");
    (status, [(header::CONTENT_TYPE, media_type)], document.to_string()).into_response()
}
