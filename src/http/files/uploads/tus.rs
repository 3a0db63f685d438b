//! The tus protocol, version 1.0.0: <https://tus.io/protocols/resumable-upload>

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{
    Announced, Ends, Expected, Incoming, ReceivedBytes, UploadParams, UploadRefusal, announce,
    begin_concatenation, byte_count, end_writing, header, header_text, invalid_header, keep_until, metadata,
    receive, remove,
};
use crate::app::App;
use crate::domain::file::{clean_media_type, clean_name};
use crate::domain::ids::FileId;
use crate::error::{Error, Kind, Result};
use crate::http::extract::body::{begin_stream, media_type};
use crate::http::extract::caller::Caller;
use crate::http::files::uploads::tus_headers::{CHECKSUM_ALGORITHMS, Concat, parse_concat};
use crate::store::files::{self, StoredFile};

const VERSION: HeaderValue = HeaderValue::from_static("1.0.0");
const RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const EXTENSIONS: &str = "creation,creation-with-upload,creation-defer-length,expiration,checksum,checksum-trailer,\
    termination,concatenation";
/// Methods of a file, except a POST that stands for one of them.
const OTHER_METHODS: HeaderValue = HeaderValue::from_static("GET,HEAD,OPTIONS,PATCH,DELETE,PUT");
/// Media type of the body of a PATCH.
pub const BYTES: &str = "application/offset+octet-stream";

/// Whether a request uses tus.
pub fn is_meant(headers: &HeaderMap) -> bool {
    headers.contains_key(RESUMABLE) || media_type(headers).as_deref() == Some(BYTES)
}

/// Adds the protocol version to the response; a request of another version is refused.
async fn speak(headers: &HeaderMap, answer: impl Future<Output = Result<Response>>) -> Response {
    let versions = headers.get(RESUMABLE);
    let mut answer = if versions == Some(&VERSION) {
        answer.await.unwrap_or_else(IntoResponse::into_response)
    } else {
        let detail = "Tus-Resumable must be 1.0.0.";
        let mut refusal = Error::new(Kind::PreconditionFailed, detail).into_response();
        refusal.headers_mut().insert(TUS_VERSION, VERSION);
        refusal
    };
    answer.headers_mut().insert(RESUMABLE, VERSION);
    answer
}

/// OPTIONS: the capabilities of the server. No version is required.
pub fn describe(app: &App) -> Response {
    let headers = [
        (RESUMABLE, VERSION),
        (TUS_VERSION, VERSION),
        (HeaderName::from_static("tus-extension"), HeaderValue::from_static(EXTENSIONS)),
        (HeaderName::from_static("tus-max-size"), HeaderValue::from(app.config.files.max_bytes)),
        (HeaderName::from_static("tus-checksum-algorithm"), HeaderValue::from_static(CHECKSUM_ALGORITHMS)),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// POST: creation, with or without the first bytes.
pub async fn create(app: &App, caller: &Caller, params: &UploadParams, request: Request) -> Response {
    let headers = request.headers().clone();
    speak(&headers, async {
        let metadata = metadata(&headers)?;
        let length = byte_count(&headers, "upload-length")?;
        let deferred = match header(&headers, "upload-defer-length") {
            None => false,
            Some("1") => true,
            Some(_) => return Err(invalid_header("Upload-Defer-Length", "must be 1")),
        };
        let upload_concat = header_text(&headers, "Upload-Concat")?;
        let concat = upload_concat.as_deref().map(parse_concat).transpose();
        let concat = concat.map_err(|problem| invalid_header("Upload-Concat", &problem))?;
        let is_final = matches!(concat, Some(Concat::Final(_)));
        if is_final && (length.is_some() || deferred) {
            return Err(invalid_header("Upload-Length", "must not be given for a concatenation"));
        }
        if !is_final && length.is_some() == deferred {
            return Err(Error::malformed("Either Upload-Length or Upload-Defer-Length: 1 is required."));
        }
        let name = metadata.name.or_else(|| params.name.clone()).unwrap_or_default();
        let announced = Announced {
            name: clean_name(&name),
            media_type: clean_media_type(&metadata.media_type.unwrap_or_default()),
            length,
            metadata: metadata.header,
            keep_until: keep_until(params, app.clock.now())?,
        };
        if let (Some(Concat::Final(parts)), Some(upload_concat)) = (&concat, &upload_concat) {
            let file = begin_concatenation(app, caller, &announced, parts, upload_concat).await?;
            return created(&file, None);
        }
        let brings_bytes = media_type(&headers).as_deref() == Some(BYTES);
        if !brings_bytes && !request.body().is_end_stream() {
            return Err(Error::new(Kind::UnsupportedMediaType, format!("The body must be {BYTES}.")));
        }
        let expected = Expected::of_tus(&headers)?;
        let concat = concat.map(|_| "partial");
        let file = announce(app, caller, &announced, concat, Ends::AtItsLength).await?;
        if !brings_bytes || file.is_complete() {
            return created(&file, None);
        }
        begin_stream(&request);
        let incoming = Incoming { expected, ..Incoming::new(caller.account, file.id, 0) };
        match receive(app, incoming, request.into_body()).await {
            Ok(received) => created(&file, Some(received)),
            Err(refusal) => Err(refusal.into_error()),
        }
    })
    .await
}

fn created(file: &StoredFile, received: Option<ReceivedBytes>) -> Result<Response> {
    let mut response = StatusCode::CREATED.into_response();
    let headers = response.headers_mut();
    let location = format!("/v1/files/{}", file.id);
    headers.insert(header::LOCATION, HeaderValue::from_str(&location).map_err(Error::internal)?);
    let complete = received.map_or(file.is_complete(), |received| received.complete);
    let stored = received.map_or(file.stored.unsigned_abs(), |received| received.stored);
    // A concatenation in progress has no offset.
    if complete || file.concat.as_deref() != Some("final") {
        headers.insert(OFFSET, HeaderValue::from(stored));
    }
    if !complete {
        put_expiry(headers, file);
    }
    Ok(response)
}

/// HEAD: the offset of an upload.
pub async fn head(app: &App, caller: &Caller, id: FileId, headers: &HeaderMap) -> Response {
    speak(headers, async {
        let file = end_writing(app, caller.account, id).await?;
        let mut response = StatusCode::OK.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // The length of a concatenation is known; its offset is returned only once it is complete.
        if file.concat.as_deref() != Some("final") || file.is_complete() {
            headers.insert(OFFSET, HeaderValue::from(file.stored));
        }
        match file.length {
            Some(length) => headers.insert("upload-length", HeaderValue::from(length)),
            None => headers.insert("upload-defer-length", HeaderValue::from_static("1")),
        };
        if !file.metadata.is_empty() {
            let metadata = HeaderValue::from_str(&file.metadata).map_err(Error::internal)?;
            headers.insert("upload-metadata", metadata);
        }
        if let Some(concat) = &file.concat {
            // The parts are listed as they were sent, although they may have been deleted.
            let whole = files::find_upload_concat(&app.writer, id).await?.unwrap_or_else(|| concat.clone());
            let whole = HeaderValue::from_str(&whole).map_err(Error::internal)?;
            headers.insert("upload-concat", whole);
        }
        if !file.is_complete() {
            put_expiry(headers, &file);
        }
        Ok(response)
    })
    .await
}

/// PATCH: further bytes.
pub async fn patch(app: &App, caller: &Caller, id: FileId, request: Request) -> Response {
    let headers = request.headers().clone();
    speak(&headers, async {
        if media_type(&headers).as_deref() != Some(BYTES) {
            return Err(Error::new(Kind::UnsupportedMediaType, format!("The body must be {BYTES}.")));
        }
        let offset = byte_count(&headers, "upload-offset")?;
        let offset = offset.ok_or_else(|| Error::malformed("Upload-Offset is missing."))?;
        let incoming = Incoming {
            length: byte_count(&headers, "upload-length")?,
            expected: Expected::of_tus(&headers)?,
            ..Incoming::new(caller.account, id, offset)
        };
        begin_stream(&request);
        match receive(app, incoming, request.into_body()).await {
            Ok(received) => patched(app, caller, id, received).await,
            Err(UploadRefusal::OtherOffset(stored)) => {
                let mut refusal = UploadRefusal::OtherOffset(stored).into_error().into_response();
                refusal.headers_mut().insert(OFFSET, HeaderValue::from(stored));
                Ok(refusal)
            }
            Err(refusal) => Err(refusal.into_error()),
        }
    })
    .await
}

async fn patched(app: &App, caller: &Caller, id: FileId, received: ReceivedBytes) -> Result<Response> {
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(OFFSET, HeaderValue::from(received.stored));
    if !received.complete {
        let file = files::find_file(&app.writer, caller.account, id, app.clock.now()).await?;
        put_expiry(response.headers_mut(), &file);
    }
    Ok(response)
}

/// DELETE: ends an upload and deletes its bytes.
pub async fn terminate(app: &App, caller: &Caller, id: FileId, headers: &HeaderMap) -> Response {
    speak(headers, async {
        remove(app, caller.account, id).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    })
    .await
}

/// POST with `X-HTTP-Method-Override`, for clients behind a proxy that blocks PATCH or DELETE.
pub async fn overridden(app: &App, caller: &Caller, id: FileId, request: Request) -> Response {
    let headers = request.headers().clone();
    if let Err(refusal) = files::find_file(&app.writer, caller.account, id, app.clock.now()).await {
        return refusal.into_response();
    }
    match header(&headers, "x-http-method-override") {
        Some("PATCH") => patch(app, caller, id, request).await,
        Some("DELETE") => terminate(app, caller, id, &headers).await,
        Some("HEAD") => head(app, caller, id, &headers).await.map(|_| Body::empty()),
        _ => {
            let detail = "A POST to an upload requires X-HTTP-Method-Override: PATCH, DELETE or HEAD.";
            let mut refusal = Error::new(Kind::MethodNotAllowed, detail).into_response();
            refusal.headers_mut().insert(header::ALLOW, OTHER_METHODS);
            refusal
        }
    }
}

fn put_expiry(headers: &mut HeaderMap, file: &StoredFile) {
    let date = file.expires_at.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    if let Ok(date) = HeaderValue::from_str(&date) {
        headers.insert("upload-expires", date);
    }
}
