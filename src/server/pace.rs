//! What a connection does just now, and for how long it may. An idle one is kept for long, since a load balancer may
//! send its next request into it at any moment; a request that has begun to arrive must have its head whole soon.
//!
//! ```text
//! Idle  --first byte-->  Head  --head whole-->  Busy  --answered-->  Idle
//! idle_timeout           header_timeout         limits of the request itself
//! ```
//!
//! hyper's `header_read_timeout` knows one limit for the first two. HTTP/2 has no `Head`: there bytes come for other
//! reasons too, such as pings, and a connection without a request is idle.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The pace of one connection.
#[derive(Clone)]
pub struct Pace(Arc<Mutex<State>>);

struct State {
    /// Requests that are not answered whole.
    requests: usize,
    http2: bool,
    /// Bytes of a head have come, but not all.
    head: bool,
    /// When the connection began to be idle, or the head to arrive.
    since: Instant,
}

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    Idle,
    Head,
}

impl Pace {
    /// Of a connection that is there from now on.
    pub fn new(http2: bool) -> Pace {
        Pace(Arc::new(Mutex::new(State { requests: 0, http2, head: false, since: Instant::now() })))
    }

    /// A request's head is whole; it is in flight until the guard is dropped.
    pub fn begin(&self, http2: bool) -> InFlight {
        let mut state = self.state();
        state.requests += 1;
        state.http2 |= http2;
        state.head = false;
        InFlight(self.clone())
    }

    /// Bytes have arrived.
    fn hear(&self) {
        let mut state = self.state();
        if state.requests == 0 && !state.head && !state.http2 {
            state.head = true;
            state.since = Instant::now();
        }
    }

    /// It begins to idle anew.
    pub fn rest(&self) {
        self.state().since = Instant::now();
    }

    /// Returns once the connection idles, or a head arrives, for longer than it may.
    pub async fn overdue(&self, idle: Duration, head: Duration) -> Overdue {
        loop {
            let now = Instant::now();
            // Whatever begins after this instant has at least so long.
            let mut look_again = now + idle.min(head);
            {
                let state = self.state();
                let (limit, what) = match state.head {
                    true => (head, Overdue::Head),
                    false => (idle, Overdue::Idle),
                };
                let end = state.since + limit;
                match state.requests {
                    0 if end <= now => return what,
                    0 => look_again = look_again.min(end),
                    _ => {}
                }
            }
            tokio::time::sleep_until(look_again).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is not answered whole.
pub struct InFlight(Pace);

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.requests -= 1;
        if state.requests == 0 {
            state.since = Instant::now();
        }
    }
}

/// A body of an answer; its request is in flight as long as it is there.
pub struct Answering {
    body: Body,
    _in_flight: InFlight,
}

impl Answering {
    pub fn new(body: Body, in_flight: InFlight) -> Answering {
        Answering { body, _in_flight: in_flight }
    }
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose pace is watched.
pub struct Watched<S> {
    stream: S,
    pace: Pace,
}

impl<S> Watched<S> {
    pub fn new(stream: S, pace: Pace) -> Watched<S> {
        Watched { stream, pace }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.pace.hear();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
