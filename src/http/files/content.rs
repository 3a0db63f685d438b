//! `/v1/files/{id}/content`, and `/d/{token}` for the users of a share link: the bytes of a file.
//!
//! Implements RFC 9110 (ranges, conditions), RFC 9530 (`Repr-Digest`) and RFC 6266 (`Content-Disposition`). A file is
//! always an attachment: uploaded content is never displayed as one of our pages.

use aws_lc_rs::digest::{SHA256, digest};
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream::{self, Stream, StreamExt, TryStreamExt};

use super::described::{DownloadAnswers, DownloadHeaders};
use super::download_headers::{RangeRequest, disposition, parse_range};
use super::served::{self, Served};
use super::uploads::unavailable;
use crate::app::App;
use crate::domain::ids::FileId;
use crate::error::{Error, Kind, Problem, Result};
use crate::files::blobs::extents::{Extent, read_extents};
use crate::files::blobs::{Blobs, is_unavailable};
use crate::http::extract::body::Id;
use crate::http::extract::caller::Caller;
use crate::store::files::links;
use crate::store::files::{self, StoredFile};

const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// Headers that make a request conditional.
const CONDITIONS: [HeaderName; 5] = [
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
];

/// Returns the bytes of one of the caller's files, as an attachment.
#[utoipa::path(
    get,
    path = "/v1/files/{id}/content",
    operation_id = "download_file",
    tag = "files",
    params(DownloadHeaders),
    responses(
        DownloadAnswers,
        (
            status = 409,
            body = Problem,
            content_type = "application/problem+json",
            description = "The file is not complete yet.",
            headers(("Retry-After" = u64, description = "Seconds after which a retry may succeed."))
        )
    )
)]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<FileId>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response> {
    let file = files::find_file(&app.writer, caller.account, id, app.clock.now()).await?;
    if !file.is_complete() {
        let mut refusal = Error::conflict("The file is not complete yet.");
        refusal.retry_after_s = Some(1);
        return Err(refusal);
    }
    let answer = ContentAnswer::to(&file, &method, &headers)?;
    if let Some(redirect) = answer.redirect(&app, &file, &method, &headers).await? {
        answer.note(&app, &file, &method);
        return Ok(redirect);
    }
    let response = answer.send(&app, &file, &method, None).await?;
    answer.note(&app, &file, &method);
    Ok(response)
}

/// Returns the bytes of a file, as an attachment, to any client that knows the link.
#[utoipa::path(
    get,
    path = "/d/{token}",
    operation_id = "download_shared_file",
    tag = "files",
    params(
        ("token" = String, Path, description = "Secret of the link, the last part of its `path`."),
        DownloadHeaders
    ),
    responses(DownloadAnswers)
)]
pub async fn shared(
    State(app): State<App>,
    token: Result<Path<String>, PathRejection>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response> {
    // A token that is not UTF-8 belongs to no link.
    let Path(token) = token.map_err(|_| links::no_link())?;
    let digest = digest(&SHA256, token.as_bytes());
    let shared = links::find_shared(&app.writer, digest.as_ref(), app.clock.now()).await?;
    let file = &shared.file;
    if shared.most.is_some_and(|most| shared.usage.is_used_up(most)) {
        return Err(links::no_link());
    }
    let answer = ContentAnswer::to(file, &method, &headers)?;
    let mut response = match (answer, &method) {
        (ContentAnswer::Bytes { start, end, partial }, &Method::GET) => {
            // A link with a limit does not redirect to a URL that could be used more than once.
            if shared.most.is_none()
                && let Some(redirect) = answer.redirect(&app, file, &method, &headers).await?
            {
                // The store does not report how much is fetched, so all requested bytes count.
                links::count_served(&app.writer, shared.link, 0, start, end - start).await?;
                answer.note(&app, file, &method);
                return Ok(redirect);
            }
            let served = served::begin(&app, &shared, start, end, partial).await?;
            answer.send(&app, file, &method, Some(served)).await?
        }
        _ => answer.send(&app, file, &method, None).await?,
    };
    answer.note(&app, file, &method);
    // Content that was shared with one client must not enter shared caches.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    Ok(response)
}

/// The response to the conditions and the range of a request.
#[derive(Clone, Copy)]
enum ContentAnswer {
    NotModified,
    /// The bytes from `start` (inclusive) to `end` (exclusive); `partial` if they answer a range.
    Bytes {
        start: u64,
        end: u64,
        partial: bool,
    },
    NoSuchRange,
}

impl ContentAnswer {
    /// Evaluates the conditions in the order of RFC 9110, section 13.2.2.
    fn to(file: &StoredFile, method: &Method, headers: &HeaderMap) -> Result<ContentAnswer> {
        let tag = entity_tag(file);
        let modified = file.completed_at.unwrap_or(file.created_at);
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let names =
            |list: &str| list.split(',').any(|one| matches!(one.trim(), one if one == "*" || one == tag));
        // A list may span several header lines; a line that is not text names no version.
        let list = |name: &HeaderName| {
            let lines: Vec<_> =
                headers.get_all(name).iter().map(|line| line.to_str().unwrap_or("")).collect();
            (!lines.is_empty()).then(|| lines.join(","))
        };
        match (list(&header::IF_MATCH), text(header::IF_UNMODIFIED_SINCE).and_then(parse_date)) {
            (Some(list), _) if !names(&list) => return Err(changed()),
            (None, Some(since)) if whole_seconds(modified) > since => return Err(changed()),
            _ => {}
        }
        let weakly = |list: &str| list.split(',').any(|one| names(one.trim().trim_start_matches("W/")));
        match (list(&header::IF_NONE_MATCH), text(header::IF_MODIFIED_SINCE).and_then(parse_date)) {
            (Some(list), _) if weakly(&list) => return Ok(ContentAnswer::NotModified),
            (None, Some(since)) if whole_seconds(modified) <= since => return Ok(ContentAnswer::NotModified),
            _ => {}
        }
        let length = file.length.unwrap_or_default().unsigned_abs();
        let whole = ContentAnswer::Bytes { start: 0, end: length, partial: false };
        // Ranges apply only to GET (RFC 9110, section 14.2).
        let Some(range) = text(header::RANGE).filter(|_| *method == Method::GET) else { return Ok(whole) };
        let holds = headers.get(header::IF_RANGE).is_none_or(|condition| {
            let condition = condition.to_str().unwrap_or_default();
            // A date matches only if it is exactly the one that we sent.
            condition == tag || parse_date(condition).is_some_and(|date| date == whole_seconds(modified))
        });
        Ok(match parse_range(range, length) {
            _ if !holds => whole,
            RangeRequest::Whole => whole,
            RangeRequest::Part(start, end) => ContentAnswer::Bytes { start, end, partial: true },
            RangeRequest::Nothing => ContentAnswer::NoSuchRange,
        })
    }

    /// Counts a download in the statistics of the file's owner.
    fn note(self, app: &App, file: &StoredFile, method: &Method) {
        if let (ContentAnswer::Bytes { start, end, .. }, &Method::GET) = (self, method) {
            app.activity.note_download(file.account_id, start, end - start, app.clock.now());
        }
    }

    /// Redirects to the object store, which then serves the bytes; the client requests the same range there. `None`:
    /// the process serves the bytes itself, as it must if a condition names our own tag or date, which the store does
    /// not know.
    async fn redirect(
        self,
        app: &App,
        file: &StoredFile,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Option<Response>> {
        let conditional = CONDITIONS.iter().any(|name| headers.contains_key(name));
        if *method != Method::GET
            || conditional
            || !app.config.files.presign
            || !matches!(self, ContentAnswer::Bytes { .. })
        {
            return Ok(None);
        }
        let Blobs::S3(_) = &app.files.blobs else { return Ok(None) };
        let pieces = files::list_pieces(&app.writer, file.id).await?;
        let [piece] = pieces.as_slice() else { return Ok(None) };
        let length = file.length.unwrap_or_default().unsigned_abs();
        let disposition = disposition(&file.name);
        let signed = app.files.blobs.presign(&piece.place, length, &disposition, &file.media_type).await;
        let Some(address) = signed.map_err(Error::unavailable)? else { return Ok(None) };
        let mut response = StatusCode::FOUND.into_response();
        let headers = response.headers_mut();
        put(headers, header::LOCATION, address.as_str());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        Ok(Some(response))
    }

    /// Builds the response; `served` counts the bytes that are sent.
    async fn send(
        self,
        app: &App,
        file: &StoredFile,
        method: &Method,
        served: Option<Served>,
    ) -> Result<Response> {
        let length = file.length.unwrap_or_default().unsigned_abs();
        let mut response = match self {
            ContentAnswer::NotModified => StatusCode::NOT_MODIFIED.into_response(),
            ContentAnswer::NoSuchRange => {
                let detail = format!("The file has {length} bytes.");
                let mut response = Error::new(Kind::RangeNotSatisfiable, detail).into_response();
                put(response.headers_mut(), header::CONTENT_RANGE, &format!("bytes */{length}"));
                return Ok(response);
            }
            ContentAnswer::Bytes { start, end, partial } => {
                let body = if *method == Method::HEAD {
                    Body::empty()
                } else {
                    let bytes = read(app, file, start, end).await?;
                    match served {
                        Some(served) => Body::from_stream(served.count(bytes)),
                        None => Body::from_stream(bytes),
                    }
                };
                let mut response = Response::new(body);
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(end - start));
                put(headers, header::CONTENT_TYPE, &file.media_type);
                put(headers, header::CONTENT_DISPOSITION, &disposition(&file.name));
                if partial {
                    put(headers, header::CONTENT_RANGE, &format!("bytes {start}-{}/{length}", end - 1));
                    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                }
                response
            }
        };
        let headers = response.headers_mut();
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        put(headers, header::ETAG, &entity_tag(file));
        let modified = file.completed_at.unwrap_or(file.created_at);
        put(headers, header::LAST_MODIFIED, &modified.format("%a, %d %b %Y %H:%M:%S GMT").to_string());
        let sum = STANDARD.encode(file.sha256.as_deref().unwrap_or_default());
        put(headers, REPR_DIGEST, &format!("sha-256=:{sum}:"));
        Ok(response)
    }
}

fn changed() -> Error {
    Error::new(Kind::PreconditionFailed, "The current version does not meet the condition.")
}

/// Strong entity tag: the SHA-256 itself.
fn entity_tag(file: &StoredFile) -> String {
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(file.sha256.as_deref().unwrap_or_default()))
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Parses an HTTP date in the format that we send.
fn parse_date(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc2822(text).ok().map(|date| date.to_utc())
}

fn whole_seconds(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(time.timestamp(), 0).unwrap_or(time)
}

/// Returns the bytes from `start` (inclusive) to `end` (exclusive). The first ones are read before the response begins:
/// missing bytes then cause an error response, not a truncated one.
async fn read(
    app: &App,
    file: &StoredFile,
    start: u64,
    end: u64,
) -> Result<impl Stream<Item = std::io::Result<Bytes>> + use<>> {
    let pieces = files::list_pieces(&app.writer, file.id).await?;
    let extents = pieces.into_iter().filter_map(|piece| {
        let (from, length) = (piece.start_at.unsigned_abs(), piece.length.unsigned_abs());
        let (first, last) = (start.saturating_sub(from), end.saturating_sub(from).min(length));
        (first < last).then_some(Extent { place: piece.place, start: first, end: last })
    });
    let mut bytes = read_extents(app.files.blobs.clone(), extents.collect());
    let first = bytes
        .try_next()
        .await
        .map_err(|error| if is_unavailable(&error) { unavailable(error) } else { Error::internal(error) })?;
    let id = file.id;
    let bytes = stream::iter(first.map(Ok)).chain(bytes);
    Ok(bytes.inspect_err(move |error| {
        log::error!(target: "salebell::files", "file.id" = id.to_string(); "a download broke off: {error}");
    }))
}
