//! One upload over tus 1.0.0 (<https://tus.io/protocols/resumable-upload>): created once, and filled from the offset
//! that the server reports, until it is complete.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, LOCATION};
use reqwest::{Body, Method, RequestBuilder};
use uuid::Uuid;

use super::terminal::Positions;
use crate::cli::api_client::{
    ApiClient, Attempted, Later, Refused, Reply, STALLED_AFTER, failed, read_answer,
};

const BYTES: &str = "application/offset+octet-stream";
/// Maximum number of bytes read from disk at once.
const READ_AT_ONCE: usize = 256 << 10;

/// Properties of an upload that is to be created.
pub struct Announcement<'a> {
    pub name: &'a str,
    /// Seconds after which the file expires.
    pub expires_in: Option<u64>,
    /// Idempotency key: the same key is the same upload, however often it is announced.
    pub key: String,
    pub kind: UploadKind<'a>,
}

/// Kind of upload.
pub enum UploadKind<'a> {
    Whole(u64),
    Partial(u64),
    /// The length is sent with the last bytes.
    Deferred,
    /// Concatenation of these uploads.
    Final(&'a [Uuid]),
}

/// Creates an upload.
///
/// # Errors
/// Fails if the API refuses, or does not respond within the longest wait.
pub async fn create(client: &ApiClient, announcement: &Announcement<'_>) -> Result<Uuid, Refused> {
    let query = announcement.expires_in.map(|seconds| format!("expires_in={seconds}"));
    let name = STANDARD.encode(announcement.name);
    let reply = client
        .retry("announce the file", || {
            let request = tus(client.request(Method::POST, "v1/files", query.as_deref()))
                .header("idempotency-key", format!("\"{}\"", announcement.key))
                .header("upload-metadata", format!("filename {name}"));
            match announcement.kind {
                UploadKind::Whole(length) => request.header("upload-length", length),
                UploadKind::Partial(length) => {
                    request.header("upload-length", length).header("upload-concat", "partial")
                }
                UploadKind::Deferred => request.header("upload-defer-length", "1"),
                UploadKind::Final(parts) => {
                    let parts: Vec<String> = parts.iter().map(|part| format!("/v1/files/{part}")).collect();
                    request.header("upload-concat", format!("final;{}", parts.join(" ")))
                }
            }
        })
        .await?;
    let location =
        reply.headers.get(LOCATION).and_then(|location| location.to_str().ok()).unwrap_or_default();
    let id = location.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    Ok(id.parse().with_context(|| format!("the answer names no upload: {location:?}"))?)
}

/// Part of a local file that is being sent as one upload.
pub struct LocalBytes {
    pub file: Arc<File>,
    /// Range of the file: offset of the first byte, and offset after the last.
    pub range: (u64, u64),
    /// Fails if the file has changed since the upload began.
    pub check: Arc<dyn Fn() -> anyhow::Result<()> + Send + Sync>,
}

/// Fills an upload from disk; returns once the server has all of it.
///
/// # Errors
/// Fails if the API refuses (as gone, if the upload was removed or has expired), or if there is no progress within the
/// longest wait.
pub async fn fill(
    client: &ApiClient,
    id: Uuid,
    bytes: &LocalBytes,
    positions: &Positions,
    part: usize,
) -> Result<(), Refused> {
    let (start, end) = bytes.range;
    let mut retries = client.retries("send the file");
    let mut at = offset(client, id).await?;
    loop {
        positions.set(part, at);
        if at >= end - start {
            return Ok(());
        }
        (bytes.check)()?;
        let body = read(bytes.file.clone(), start + at, end, positions.clone(), part);
        let answer = send(client, id, at, end - start - at, body, None).await;
        let later = match judge(answer, at) {
            Ok(now) => {
                at = now;
                retries.renew();
                continue;
            }
            Err(Attempted::Refused(refused)) => return Err(refused),
            Err(Attempted::Later(later)) => later,
            Err(Attempted::Done(())) => Later::new("the server took nothing"),
        };
        (bytes.check)()?;
        retries.pause(later).await?;
        let now = offset(client, id).await?;
        if now > at {
            retries.renew();
        }
        at = now;
    }
}

/// Adds bytes of which there is no other copy; the first of them is at offset `at`. `total` completes the upload.
///
/// # Errors
/// Same as [`fill`]; also fails if the server has lost bytes that it had.
pub async fn add(
    client: &ApiClient,
    id: Uuid,
    at: u64,
    bytes: &Bytes,
    total: Option<u64>,
) -> Result<(), Refused> {
    let end = at + bytes.len() as u64;
    let mut retries = client.retries("send the bytes");
    let mut now = at;
    let mut confirmed = false;
    loop {
        if now == end && (total.is_none() || confirmed) {
            return Ok(());
        }
        let rest = usize::try_from(now.saturating_sub(at)).unwrap_or(usize::MAX);
        if now < at || rest > bytes.len() {
            return Err(anyhow!("the server has {now} bytes of the file where it had {at}; what is missing cannot be read again")
            .into());
        }
        let rest = bytes.slice(rest..);
        let (length, moved) = (rest.len() as u64, Arc::new(AtomicU64::new(0)));
        let body = Feed { body: Body::from(rest), moved };
        let answer = send(client, id, now, length, body, total).await;
        let later = match answer {
            Attempted::Done(reply) => match upload_offset(&reply.headers) {
                Some(offset) => {
                    (now, confirmed) = (offset, true);
                    continue;
                }
                None => Later::new("the answer tells no offset"),
            },
            Attempted::Refused(refused) => return Err(refused),
            Attempted::Later(later) => later,
        };
        retries.pause(later).await?;
        let (offset, length) = progress(client, id).await?;
        if offset > now {
            retries.renew();
        }
        // The last response was lost if the server already knows the length.
        (now, confirmed) = (offset, length.is_some());
    }
}

/// Number of bytes that the server has.
///
/// # Errors
/// Fails if the API refuses, or does not respond within the longest wait.
pub async fn offset(client: &ApiClient, id: Uuid) -> Result<u64, Refused> {
    Ok(progress(client, id).await?.0)
}

async fn progress(client: &ApiClient, id: Uuid) -> Result<(u64, Option<u64>), Refused> {
    let path = format!("v1/files/{id}");
    let outcome = client.retry("ask how far it is", || tus(client.request(Method::HEAD, &path, None))).await;
    let reply = outcome.map_err(|refused| {
        if refused.is_gone() {
            // The response to HEAD has no body that would say so.
            let failure = anyhow!("the upload is gone: it was removed, or its time is over");
            Refused { failure, ..refused }
        } else {
            refused
        }
    })?;
    let length = reply.headers.get("upload-length").and_then(|value| value.to_str().ok()?.parse().ok());
    match upload_offset(&reply.headers) {
        Some(offset) => Ok((offset, length)),
        None => Err(anyhow!("the answer tells no offset").into()),
    }
}

fn upload_offset(headers: &HeaderMap) -> Option<u64> {
    headers.get("upload-offset")?.to_str().ok()?.parse().ok()
}

fn tus(request: RequestBuilder) -> RequestBuilder {
    request.header("tus-resumable", "1.0.0")
}

/// A request body, and the number of its bytes consumed so far.
struct Feed {
    body: Body,
    moved: Arc<AtomicU64>,
}

async fn send(
    client: &ApiClient,
    id: Uuid,
    at: u64,
    length: u64,
    feed: Feed,
    total: Option<u64>,
) -> Attempted<Reply> {
    let mut request = tus(client.long_request(Method::PATCH, &format!("v1/files/{id}")))
        .header(CONTENT_TYPE, BYTES)
        .header(CONTENT_LENGTH, length)
        .header("upload-offset", at)
        .body(feed.body);
    if let Some(total) = total {
        request = request.header("upload-length", total);
    }
    let answer = async {
        match request.send().await {
            Ok(response) => read_answer(response).await,
            Err(error) => failed(&error),
        }
    };
    let stalled = async {
        let mut before = None;
        loop {
            let now = feed.moved.load(Ordering::Relaxed);
            if before.replace(now) == Some(now) {
                return;
            }
            tokio::time::sleep(STALLED_AFTER).await;
        }
    };
    tokio::select! {
        answer = answer => answer,
        () = stalled => Attempted::Later(Later::new(format!("nothing moved for {} s", STALLED_AFTER.as_secs()))),
    }
}

/// New offset, if it is beyond `at`.
fn judge(answer: Attempted<Reply>, at: u64) -> Result<u64, Attempted<()>> {
    match answer {
        Attempted::Done(reply) => {
            upload_offset(&reply.headers).filter(|&now| now > at).ok_or(Attempted::Done(()))
        }
        Attempted::Later(later) => Err(Attempted::Later(later)),
        Attempted::Refused(refused) => Err(Attempted::Refused(refused)),
    }
}

/// Body that reads the bytes of a file on demand.
fn read(file: Arc<File>, start: u64, end: u64, positions: Positions, part: usize) -> Feed {
    let moved = Arc::new(AtomicU64::new(0));
    let (begun, counter) = (positions.get(part), moved.clone());
    let pieces = stream::try_unfold(start, move |at| {
        let (file, positions, moved) = (file.clone(), positions.clone(), counter.clone());
        async move {
            if at == end {
                return Ok::<_, io::Error>(None);
            }
            let piece = tokio::task::spawn_blocking(move || read_piece(&file, at, end)).await??;
            let next = at + piece.len() as u64;
            moved.store(next - start, Ordering::Relaxed);
            positions.set(part, begun + next - start);
            Ok(Some((piece, next)))
        }
    });
    Feed { body: Body::wrap_stream(pieces), moved }
}

/// Reads the next piece of a file.
///
/// # Errors
/// Fails if the file ends before `end`, or cannot be read.
pub fn read_piece(file: &File, at: u64, end: u64) -> io::Result<Bytes> {
    let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(READ_AT_ONCE);
    let mut piece = vec![0; wanted];
    let read = file.read_at(&mut piece, at)?;
    if read == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it was"));
    }
    piece.truncate(read);
    Ok(piece.into())
}
