//! The body of a request, whose pauses and pace are limited.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use hyper::body::Frame;
use tokio::time::{Instant, Sleep};

use super::request_state::RequestProgress;
use crate::config::Config;
use crate::error::{Error, Kind};

/// The refusal of a body that broke off: `Timeout` if it paused for too long or arrived too slowly, else `Malformed`.
pub fn broken_off(error: &(dyn std::error::Error + 'static)) -> Error {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(stalled) = cause.downcast_ref::<Stalled>() {
            return Error::new(Kind::Timeout, format!("The body {stalled}."));
        }
        // `source` of an I/O error skips the error that it wraps.
        let wrapped = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = wrapped.map_or_else(|| cause.source(), |wrapped| Some(wrapped as _));
    }
    Error::malformed(format!("The body broke off: {error}."))
}

/// Limits of a body's pace.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Longest pause between two pieces.
    pub idle: Duration,
    /// Fewest bytes of a stream that must arrive in a minute of waiting for them.
    pub min_bytes_per_minute: u64,
    /// Waiting time over which the pace is measured.
    pub slow_after: Duration,
}

impl Pace {
    /// The limits that the settings state.
    pub fn of(config: &Config) -> Pace {
        Pace {
            idle: config.server.body_idle_timeout,
            min_bytes_per_minute: config.files.min_bytes_per_minute,
            slow_after: config.files.slow_after,
        }
    }
}

/// Body of a request, whose pace is limited and whose end is noted.
pub struct PacedBody {
    body: Body,
    pace: Pace,
    pause: Pin<Box<Sleep>>,
    /// Time at which the wait for the next piece began. The time counts only while the server waits for the client, not
    /// while the client waits for the server.
    waiting_since: Option<Instant>,
    /// Time spent waiting since the pace was last checked.
    waited: Duration,
    /// Bytes received since the pace was last checked.
    bytes: u64,
    progress: Arc<RequestProgress>,
}

impl PacedBody {
    pub fn new(body: Body, pace: Pace, progress: Arc<RequestProgress>) -> PacedBody {
        let pause = Box::pin(tokio::time::sleep(pace.idle));
        PacedBody { body, pace, pause, waiting_since: None, waited: Duration::ZERO, bytes: 0, progress }
    }

    /// Whether too few bytes have arrived in the time spent waiting.
    fn is_too_slow(&mut self, piece: usize) -> bool {
        self.waited += self.waiting_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.bytes += piece as u64;
        if self.waited < self.pace.slow_after {
            return false;
        }
        let least = self.pace.min_bytes_per_minute as f64 * self.waited.as_secs_f64() / 60.0;
        let bytes = std::mem::take(&mut self.bytes);
        self.waited = Duration::ZERO;
        bytes < least as u64
    }
}

impl HttpBody for PacedBody {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, axum::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            if self.waiting_since.is_none() {
                let now = Instant::now();
                self.waiting_since = Some(now);
                let until = now + self.pace.idle;
                self.pause.as_mut().reset(until);
            }
            return self.pause.as_mut().poll(context).map(|()| Some(Err(axum::Error::new(Stalled::Paused))));
        };
        let piece =
            frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()).map_or(0, |data| data.len());
        let too_slow = self.is_too_slow(piece);
        if frame.is_none() || self.body.is_end_stream() {
            self.progress.body_ended();
        } else if too_slow && self.progress.is_stream() {
            return Poll::Ready(Some(Err(axum::Error::new(Stalled::Slow))));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// Reason for not waiting for the rest of a body.
#[derive(Clone, Copy, Debug)]
enum Stalled {
    Paused,
    Slow,
}

impl std::fmt::Display for Stalled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stalled::Paused => "paused for too long",
            Stalled::Slow => "arrived too slowly",
        })
    }
}

impl std::error::Error for Stalled {}
