//! Uploads without a protocol, for simple clients: the body is the file, and `curl -T feed.csv …/v1/files/` suffices.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;

use super::{
    Announced, Ends, Expected, Incoming, UploadParams, announce, invalid_header, keep_until, receive, remove,
};
use crate::app::App;
use crate::domain::file::{clean_media_type, clean_name};
use crate::error::{Error, Kind, Result};
use crate::http::answer::JsonAnswer;
use crate::http::extract::body::{begin_stream, media_type};
use crate::http::extract::caller::Caller;
use crate::http::files::response::FileResponse;
use crate::store::files;

/// Reads the properties of a file from the headers of a request whose body it is.
///
/// # Errors
/// `Malformed` if the name is not UTF-8.
pub fn announced_by(headers: &HeaderMap, params: &UploadParams) -> Result<Announced> {
    let name = match &params.name {
        Some(name) => Some(name.clone()),
        None => file_name(headers)?,
    };
    Ok(Announced {
        name: clean_name(&name.unwrap_or_default()),
        media_type: clean_media_type(&media_type(headers).unwrap_or_default()),
        length: None,
        metadata: String::new(),
        keep_until: chrono::DateTime::UNIX_EPOCH,
    })
}

/// Headers with which a body is a part of a file, by tus or by an old draft of the IETF. Those that the current draft
/// has too are not among them: it treats an unreadable `Upload-Complete` as absent, and the upload as a plain one.
const HEADERS_OF_PARTS: [&str; 6] = [
    "Tus-Resumable",
    "Upload-Checksum",
    "Upload-Concat",
    "Upload-Defer-Length",
    "Upload-Incomplete",
    "Upload-Offset",
];

/// Refuses a body that is meant as a part of a file: it must not be taken for the whole.
fn check_whole(headers: &HeaderMap) -> Result<()> {
    let of_part = HEADERS_OF_PARTS.into_iter().find(|name| headers.contains_key(*name));
    of_part.map_or(Ok(()), |name| {
        let problem = "is of a resumable upload, which begins with Tus-Resumable and POST /v1/files, or with \
                       Upload-Complete";
        Err(invalid_header(name, problem))
    })
}

/// Stores the whole body as a file. If the body breaks off, nothing is kept, because the client does not know the
/// file's URL.
///
/// # Errors
/// `Malformed` if a header belongs to a part of a file, `UnsupportedMediaType` for a form; else those of the upload.
pub async fn create(app: &App, caller: &Caller, params: &UploadParams, request: Request) -> Result<Response> {
    let headers = request.headers();
    check_whole(headers)?;
    if media_type(headers).is_some_and(|kind| kind.starts_with("multipart/")) {
        let detail = "The body must be the file itself; multipart forms are not accepted.";
        return Err(Error::new(Kind::UnsupportedMediaType, detail));
    }
    let announced = Announced {
        length: axum::body::HttpBody::size_hint(request.body()).exact(),
        keep_until: keep_until(params, app.clock.now())?,
        ..announced_by(headers, params)?
    };
    let expected = Expected::of_whole(headers)?;
    let file = announce(app, caller, &announced, None, Ends::Here).await?;
    if !file.is_complete() {
        begin_stream(&request);
        let (incoming, ends) = (Incoming::new(caller.account, file.id, 0), Ends::Here);
        let incoming = Incoming { expected, ends, ..incoming };
        // A separate task, which removes the file even if the client no longer waits for the response.
        let (app, account, id, body) = (app.clone(), caller.account, file.id, request.into_body());
        let work = tokio::spawn(async move {
            let received = receive(&app, incoming, body).await;
            if received.is_err() {
                let _ = remove(&app, account, id).await;
            }
            received
        });
        work.await.map_err(Error::internal)?.map_err(super::UploadRefusal::into_error)?;
    }
    let file = files::find_file(&app.writer, caller.account, file.id, app.clock.now()).await?;
    let location = HeaderValue::from_str(&format!("/v1/files/{}", file.id)).map_err(Error::internal)?;
    let body = JsonAnswer(FileResponse::from(file));
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], body).into_response())
}

/// Returns the `filename*` (RFC 8187) of a `Content-Disposition`, or else its `filename`, with or without quotes.
fn file_name(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(disposition) = headers.get(header::CONTENT_DISPOSITION) else { return Ok(None) };
    // Many clients send a name in unescaped UTF-8.
    let disposition = str::from_utf8(disposition.as_bytes())
        .map_err(|_| invalid_header("Content-Disposition", "must be UTF-8"))?;
    if let Some((_, value)) = disposition.split_once("filename*=") {
        let value = value.split(';').next().unwrap_or_default().trim();
        if let [charset, _, name] = value.splitn(3, '\'').collect::<Vec<_>>()[..]
            && charset.eq_ignore_ascii_case("utf-8")
        {
            let name = percent_decode_str(name).decode_utf8();
            let name =
                name.map_err(|_| invalid_header("Content-Disposition", "must have a name in UTF-8"))?;
            return Ok(Some(name.into_owned()));
        }
    }
    let Some((_, value)) = disposition.split_once("filename=") else { return Ok(None) };
    Ok(match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().map(str::to_owned),
        None => value.split(';').next().map(|bare| bare.trim().to_owned()),
    })
}
