//! Uploads of small clients: the body is the file. `curl -T feed.csv …/v1/files/` is all that it takes.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{Announced, Incoming, UploadParams, announce, header, keep_until, receive, remove};
use crate::app::App;
use crate::domain::file::{clean_media_type, clean_name};
use crate::error::{Error, Kind, Result};
use crate::http::answer::Answer;
use crate::http::auth::Caller;
use crate::http::body::{begin_stream, media_type};
use crate::http::files::FileResponse;
use crate::store::files;

/// What the headers of a request tell of the file in its body.
pub fn announced_by(headers: &HeaderMap, params: &UploadParams) -> Announced {
    let disposition = header(headers, "content-disposition").and_then(file_name);
    let name = params.name.clone().or(disposition).unwrap_or_default();
    Announced {
        name: clean_name(&name),
        media_type: clean_media_type(&media_type(headers).unwrap_or_default()),
        length: None,
        metadata: String::new(),
        keep_until: chrono::DateTime::UNIX_EPOCH,
    }
}

/// Takes the whole body as a file. One that breaks off leaves nothing: its client does not know its address.
pub async fn create(app: &App, caller: &Caller, params: &UploadParams, request: Request) -> Result<Response> {
    let headers = request.headers();
    if media_type(headers).is_some_and(|kind| kind.starts_with("multipart/")) {
        let detail = "The body is the file itself: multipart forms are not taken.";
        return Err(Error::new(Kind::UnsupportedMediaType, detail));
    }
    let announced = Announced {
        length: axum::body::HttpBody::size_hint(request.body()).exact(),
        keep_until: keep_until(params, app.clock.now())?,
        ..announced_by(headers, params)
    };
    let file = announce(app, caller, &announced, None).await?;
    if !file.is_complete() {
        begin_stream(&request);
        let incoming = Incoming { ends: true, ..Incoming::new(caller.account, file.id, 0) };
        // In a task of its own: the file is removed also when nobody waits for the answer any more.
        let (app, account, id, body) = (app.clone(), caller.account, file.id, request.into_body());
        let work = tokio::spawn(async move {
            let received = receive(&app, incoming, body).await;
            if received.is_err() {
                let _ = remove(&app, account, id).await;
            }
            received
        });
        work.await.map_err(Error::internal)?.map_err(super::Refusal::into_error)?;
    }
    let file = files::find_file(&app.writer, caller.account, file.id, app.clock.now()).await?;
    let location = HeaderValue::from_str(&format!("/v1/files/{}", file.id)).map_err(Error::internal)?;
    let body = Answer(FileResponse::from(file));
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], body).into_response())
}

/// `filename` of a `Content-Disposition`, with or without quotes.
fn file_name(disposition: &str) -> Option<String> {
    let (_, value) = disposition.split_once("filename=")?;
    match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().map(str::to_owned),
        None => value.split(';').next().map(|bare| bare.trim().to_owned()),
    }
}
