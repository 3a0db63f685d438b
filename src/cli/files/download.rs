//! Download of one range of a file: requested again from wherever it broke off, and never mixed with another version.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use aws_lc_rs::digest::Context;
use bytes::Bytes;
use parking_lot::Mutex;
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, IF_RANGE, LOCATION, RANGE,
};
use reqwest::{Method, Response, StatusCode, Url};
use tokio_util::sync::CancellationToken;

use super::terminal::Positions;
use crate::cli::api_client::{ApiClient, Attempted, Later, Refused, read_answer};

/// Maximum number of bytes written to disk at once.
const WRITE_AT_ONCE: usize = 512 << 10;
/// Maximum number of redirects of one request: to the store of the bytes, and perhaps onwards from there.
const MAX_REDIRECTS: usize = 4;

/// A version of a file, and its address.
pub struct Remote<'a> {
    pub client: &'a ApiClient,
    pub url: Url,
    pub length: u64,
    /// Entity tag of the version; `None` if the API sends none.
    pub tag: Option<String>,
    /// Cancelled once the first range has started to arrive: a link that may be used only once must serve that range
    /// first.
    pub begun: CancellationToken,
}

/// Reason why a range did not arrive.
pub enum RangeFailure {
    /// The file has been replaced by another version.
    Changed,
    Refused(Refused),
}

impl<E: Into<Refused>> From<E> for RangeFailure {
    fn from(error: E) -> Self {
        RangeFailure::Refused(error.into())
    }
}

/// Destination of the bytes.
#[derive(Clone)]
pub enum Sink {
    File(Arc<File>),
    /// Standard output: the bytes are written in order, and hashed on the way.
    StandardOutput(Arc<Mutex<Context>>),
}

impl Sink {
    fn write(&self, pieces: &[Bytes], mut at: u64) -> io::Result<()> {
        for piece in pieces {
            match self {
                Sink::File(file) => file.write_all_at(piece, at)?,
                Sink::StandardOutput(sum) => {
                    std::io::stdout().lock().write_all(piece)?;
                    sum.lock().update(piece);
                }
            }
            at += piece.len() as u64;
        }
        Ok(())
    }
}

/// Fetches what is missing of a range: from `start` up to but excluding `end`, less what `positions` says has arrived.
///
/// # Errors
/// Fails if the file has changed, the server refuses, nothing arrives within the longest wait, or the bytes cannot be
/// written.
pub async fn fetch(
    remote: &Remote<'_>,
    (start, end): (u64, u64),
    positions: &Positions,
    part: usize,
    sink: &Sink,
) -> Result<(), RangeFailure> {
    let mut retries = remote.client.retries("fetch the file");
    if part > 0 {
        remote.begun.cancelled().await;
    }
    loop {
        let at = start + positions.get(part);
        if at >= end {
            remote.begun.cancel();
            return Ok(());
        }
        let later = match remote.open(start, at, end).await {
            Attempted::Done(None) => return Err(RangeFailure::Changed),
            Attempted::Done(Some(response)) => {
                remote.begun.cancel();
                let later = copy(response, start, end, positions, part, sink).await?;
                if start + positions.get(part) > at {
                    retries.renew();
                }
                match later {
                    Some(later) => later,
                    None => continue,
                }
            }
            Attempted::Refused(refused) => return Err(refused.into()),
            Attempted::Later(later) => later,
        };
        retries.pause(later).await?;
    }
}

/// Writes the bytes as they arrive; returns the reason if the response ends before the range does.
async fn copy(
    mut response: Response,
    start: u64,
    end: u64,
    positions: &Positions,
    part: usize,
    sink: &Sink,
) -> anyhow::Result<Option<Later>> {
    let mut at = start + positions.get(part);
    loop {
        let (mut pieces, mut waiting) = (Vec::new(), 0);
        let mut ended = None;
        while waiting < WRITE_AT_ONCE && ended.is_none() {
            match response.chunk().await {
                Ok(Some(piece)) => {
                    waiting += piece.len();
                    pieces.push(piece);
                }
                Ok(None) => ended = Some(Later::new("the answer ended too early")),
                Err(error) => ended = Some(Later::new(crate::error::chain(&error))),
            }
        }
        if at + waiting as u64 > end {
            bail!("the answer has more bytes than were asked for");
        }
        let (sink, from) = (sink.clone(), at);
        let writing = tokio::task::spawn_blocking(move || sink.write(&pieces, from));
        writing.await.context("cannot write")?.context("cannot write what has arrived")?;
        at += waiting as u64;
        positions.set(part, at - start);
        if at == end {
            return Ok(None);
        }
        if ended.is_some() {
            return Ok(ended);
        }
    }
}

impl Remote<'_> {
    /// Requests the bytes from `at` up to but excluding `end`; those from `start` to `at` have arrived. `None` if the
    /// file has changed.
    async fn open(&self, start: u64, at: u64, end: u64) -> Attempted<Option<Response>> {
        let mut url = self.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let ours = self.client.is_ours(&url);
            // The token is sent to the API only, and so is its entity tag, because the store of the bytes has another
            // one. Before any byte has arrived there is nothing that could be mixed with another version, so the API
            // may redirect.
            let mut request = self.client.request_at(Method::GET, url.clone());
            request = request.header(RANGE, format!("bytes={at}-{}", end - 1));
            if let Some(tag) = self.tag.as_ref().filter(|_| ours && at > start) {
                request = request.header(IF_RANGE, tag);
            }
            let response = match request.send().await {
                Ok(response) => response,
                Err(error) => return Attempted::Later(Later::new(crate::error::chain(&error))),
            };
            let status = response.status();
            if status.is_redirection() && response.headers().contains_key(LOCATION) {
                url = match text(response.headers(), LOCATION).map(|location| url.join(location)) {
                    Some(Ok(next)) if matches!(next.scheme(), "http" | "https") => next,
                    _ => {
                        return Attempted::Refused(anyhow!("the server sends us to no address").into());
                    }
                };
                continue;
            }
            return match status {
                StatusCode::PARTIAL_CONTENT | StatusCode::OK if self.fits(&response, at, end, ours) => {
                    Attempted::Done(Some(response))
                }
                StatusCode::OK
                | StatusCode::PARTIAL_CONTENT
                | StatusCode::PRECONDITION_FAILED
                | StatusCode::RANGE_NOT_SATISFIABLE => Attempted::Done(None),
                // The address was valid for a short time only; the API creates another.
                StatusCode::FORBIDDEN if !ours => {
                    Attempted::Later(Later::new("the store of the bytes refuses: 403"))
                }
                _ => match read_answer(response).await {
                    Attempted::Refused(refused) => Attempted::Refused(refused),
                    Attempted::Later(later) => Attempted::Later(later),
                    Attempted::Done(_) => Attempted::Refused(anyhow!("the answer is {status}").into()),
                },
            };
        }
        Attempted::Refused(anyhow!("the server sends us from one address to the next").into())
    }

    /// Whether a response is the requested range of the intended version.
    fn fits(&self, response: &Response, at: u64, end: u64, ours: bool) -> bool {
        let headers = response.headers();
        let is_other = match (&self.tag, text(headers, ETAG)) {
            (Some(tag), Some(found)) => ours && tag != found,
            _ => false,
        };
        let fits = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                text(headers, CONTENT_RANGE) == Some(&format!("bytes {at}-{}/{}", end - 1, self.length))
            }
            _ => {
                let length = text(headers, CONTENT_LENGTH).and_then(|length| length.parse().ok());
                (at, end, length) == (0, self.length, Some(self.length))
            }
        };
        fits && !is_other
    }
}

/// Value of a header as text.
pub fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}
