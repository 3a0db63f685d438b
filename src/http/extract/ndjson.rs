//! Lines of a streamed body, which is decompressed within limits.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use axum::extract::Request;
use axum::http::header;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio_util::io::StreamReader;

use super::body::{BodyHash, begin_stream, broken_off};
use crate::app::cpu_time::{Stride, poll_give_way};
use crate::error::{Error, Kind, Result};
use crate::intake::MAX_OBSERVATION_BYTES;

/// Longest line, in bytes.
pub const MAX_LINE: usize = MAX_OBSERVATION_BYTES;
/// Largest ratio of the decompressed size of a body to its compressed size, after the first megabyte.
const MAX_RATIO: u64 = 200;
/// Decompressed bytes up to which the ratio is not checked.
const RATIO_GRACE: u64 = 1 << 20;
/// Maximum number of bytes that a decoder receives at once: it does not yield while it processes them.
const PIECE: usize = 16 << 10;

/// U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One line of a body.
pub enum Line {
    /// The line without its line ending.
    Text(Vec<u8>),
    /// A line longer than `MAX_LINE`, which was skipped without being kept.
    TooLong,
}

/// The lines of a request's body.
pub struct Lines {
    reader: BufReader<Pin<Box<dyn AsyncRead + Send>>>,
    /// Number of bytes of the compressed body received so far; `None` if the body is not compressed.
    packed: Option<Arc<AtomicU64>>,
    unpacked: u64,
    index: u64,
    stride: Stride,
}

impl Lines {
    /// Reads the lines of a body, decompressed by `Content-Encoding`: gzip, zstd, or none. `hash` receives the body as
    /// it was sent.
    ///
    /// # Errors
    /// `UnsupportedMediaType` for another encoding.
    pub fn of(request: Request, hash: Option<BodyHash>) -> Result<Lines> {
        begin_stream(&request);
        let encoding = request
            .headers()
            .get(header::CONTENT_ENCODING)
            .map(|value| value.as_bytes().to_ascii_lowercase());
        let seen = Arc::new(AtomicU64::new(0));
        let counter = seen.clone();
        let stream =
            request.into_body().into_data_stream().map_err(std::io::Error::other).inspect_ok(move |bytes| {
                counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                if let Some(hash) = &hash {
                    hash.update(bytes);
                }
            });
        let body = StreamReader::new(Pieces { stream: Box::pin(stream), rest: Bytes::new() });
        let (reader, packed): (Pin<Box<dyn AsyncRead + Send>>, _) = match encoding.as_deref() {
            None | Some(b"identity") => (Box::pin(body), None),
            Some(b"gzip") => {
                let mut decoder = GzipDecoder::new(body);
                decoder.multiple_members(true);
                (Box::pin(decoder), Some(seen))
            }
            Some(b"zstd") => {
                let mut decoder = ZstdDecoder::new(body);
                decoder.multiple_members(true);
                (Box::pin(decoder), Some(seen))
            }
            Some(_) => {
                return Err(Error::new(
                    Kind::UnsupportedMediaType,
                    "Content-Encoding must be gzip, zstd or identity.",
                ));
            }
        };
        let reader = BufReader::with_capacity(64 << 10, reader);
        Ok(Lines { reader, packed, unpacked: 0, index: 0, stride: Stride::default() })
    }

    /// Returns the next line that is not blank, with its zero-based index in the body (blank lines count).
    ///
    /// # Errors
    /// `Malformed` if the body broke off or is damaged, `TooLarge` if it decompresses to more than the limit, `Timeout`
    /// if it paused for too long or arrived too slowly.
    pub async fn next(&mut self) -> Result<Option<(u64, Line)>> {
        loop {
            let Some(mut line) = self.next_line().await? else { return Ok(None) };
            let index = self.index;
            // Editors on Windows write a byte order mark, which is not part of the first line.
            if let Line::Text(text) = &mut line
                && index == 0
                && text.starts_with(BYTE_ORDER_MARK)
            {
                text.drain(..BYTE_ORDER_MARK.len());
            }
            self.index += 1;
            match &line {
                Line::Text(text) if text.trim_ascii().is_empty() => {}
                _ => return Ok(Some((index, line))),
            }
        }
    }

    async fn next_line(&mut self) -> Result<Option<Line>> {
        let (mut text, mut too_long, mut begun) = (Vec::new(), false, false);
        loop {
            let chunk = self.reader.fill_buf().await.map_err(|error| broken_off(&error))?;
            let end = chunk.iter().position(|&byte| byte == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            if chunk.is_empty() && !begun {
                return Ok(None);
            }
            let last = chunk.is_empty() || end.is_some();
            begun = true;
            too_long |= text.len() + part.len() > MAX_LINE;
            if too_long {
                text = Vec::new();
            } else {
                text.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            self.unpacked += used as u64;
            self.check_ratio()?;
            // Blank lines, and the rest of overlong ones, never reach the caller, which could otherwise yield.
            self.stride.advance(used).await;
            if last {
                return Ok(Some(if too_long { Line::TooLong } else { Line::Text(text) }));
            }
        }
    }

    fn check_ratio(&self) -> Result<()> {
        let Some(packed) = &self.packed else { return Ok(()) };
        let packed = packed.load(Ordering::Relaxed);
        if self.unpacked > RATIO_GRACE && self.unpacked > packed.saturating_mul(MAX_RATIO) {
            return Err(Error::new(
                Kind::TooLarge,
                format!("The body decompresses to more than {MAX_RATIO} times its size."),
            ));
        }
        Ok(())
    }
}

/// A stream of bytes in small pieces, which yields between them.
struct Pieces<S> {
    stream: Pin<Box<S>>,
    rest: Bytes,
}

impl<S: Stream<Item = std::io::Result<Bytes>>> Stream for Pieces<S> {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        ready!(poll_give_way(context));
        if self.rest.is_empty() {
            match ready!(self.stream.as_mut().poll_next(context)) {
                Some(Ok(bytes)) => self.rest = bytes,
                end => return Poll::Ready(end),
            }
        }
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(self.rest.split_to(length))))
    }
}
