//! State of a connection, and how long each state may last. An idle connection is kept for a long time, since a load
//! balancer may send its next request on it at any moment; a request that has begun to arrive must soon have its
//! complete head.
//!
//! ```text
//! Idle  --first byte-->  Head  --head complete-->  Busy  --response complete-->  Idle
//! idle_timeout           header_timeout            limits of the request itself
//! ```
//!
//! hyper's `header_read_timeout` has a single limit for the first two states. HTTP/2 has no `Head`: there bytes also
//! arrive for other reasons, such as pings, and a connection without a request is idle.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, Sleep, sleep};

/// Timeouts of one connection; clones share their state.
#[derive(Clone)]
pub struct ConnectionTimeouts(Arc<Mutex<State>>);

struct State {
    /// Number of requests whose response is not complete.
    requests: usize,
    http2: bool,
    /// Whether a request head has arrived in part.
    head: bool,
    /// Whether the body of the last request has not been read to its end.
    body: bool,
    /// Time at which the connection became idle, or the head began to arrive.
    since: Instant,
}

/// The state that lasted too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    Idle,
    Head,
}

impl ConnectionTimeouts {
    /// Timeouts of a connection that has just begun.
    pub fn new(http2: bool) -> ConnectionTimeouts {
        ConnectionTimeouts(Arc::new(Mutex::new(State {
            requests: 0,
            http2,
            head: false,
            body: false,
            since: Instant::now(),
        })))
    }

    /// Notes that a request head is complete. The request is in flight until the guard is dropped.
    pub fn begin(&self, http2: bool) -> RequestInProgress {
        let mut state = self.0.lock();
        state.requests += 1;
        state.http2 |= http2;
        state.head = false;
        RequestInProgress(self.clone())
    }

    /// Notes that bytes have arrived.
    fn note_bytes(&self) {
        let mut state = self.0.lock();
        if state.requests == 0 && !state.head && !state.http2 {
            state.head = true;
            state.since = Instant::now();
        }
    }

    /// Notes whether the body of the last request still has unread bytes.
    fn note_body(&self, unread: bool) {
        self.0.lock().body = unread;
    }

    /// Whether the client may be sending bytes that are not read. HTTP/2 resets the stream and keeps the connection.
    fn leaves_unread(&self) -> bool {
        let state = self.0.lock();
        !state.http2 && (state.head || state.body)
    }

    /// Restarts the idle time.
    pub fn rest(&self) {
        self.0.lock().since = Instant::now();
    }

    /// Returns once the connection has been idle, or a head has been arriving, for longer than its limit.
    pub async fn overdue(&self, idle: Duration, head: Duration) -> Overdue {
        loop {
            let now = Instant::now();
            // Any state that begins after this instant lasts at least this long.
            let mut check_again = now + idle.min(head);
            {
                let state = self.0.lock();
                let (limit, what) = if state.head { (head, Overdue::Head) } else { (idle, Overdue::Idle) };
                let end = state.since + limit;
                match state.requests {
                    0 if end <= now => return what,
                    0 => check_again = check_again.min(end),
                    _ => {}
                }
            }
            tokio::time::sleep_until(check_again).await;
        }
    }
}

/// A request whose response is not complete.
pub struct RequestInProgress(ConnectionTimeouts);

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.requests -= 1;
        if state.requests == 0 {
            state.since = Instant::now();
        }
    }
}

/// Body of a response; its request is in flight until the body is dropped.
pub struct Answering {
    body: Body,
    _in_flight: RequestInProgress,
}

impl Answering {
    pub fn new(body: Body, in_flight: RequestInProgress) -> Answering {
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

/// Body of a request, which notes whether it has been read to its end.
pub struct Arriving {
    body: Incoming,
    timeouts: ConnectionTimeouts,
}

impl Arriving {
    pub fn new(body: Incoming, timeouts: ConnectionTimeouts) -> Arriving {
        timeouts.note_body(!body.is_end_stream());
        Arriving { body, timeouts }
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.timeouts.note_body(false);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose bytes are noted in the timeouts, and which closes in a way that lets the client read the last
/// response.
pub struct WatchedStream<S> {
    stream: S,
    timeouts: ConnectionTimeouts,
    end: End,
}

/// Progress of closing the stream.
enum End {
    Open,
    /// We have shut down our side, and still read.
    Lingering {
        timeout: Pin<Box<Sleep>>,
        left: usize,
        _place: SemaphorePermit<'static>,
    },
    Closed,
}

/// Longest time for which a connection is read after its last response. The kernel answers bytes that arrive for a
/// closed socket with a reset, and the peer then discards what it has not read yet: the refusal of the request that it
/// is still sending. Reading therefore continues for a while (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(5);
/// Maximum number of bytes that are read from a connection after its last response.
const LINGER_BYTES: usize = 16 << 20;
/// Limit of connections that are read after their last response at the same time.
static LINGERING: Semaphore = Semaphore::const_new(256);

impl<S> WatchedStream<S> {
    pub fn new(stream: S, timeouts: ConnectionTimeouts) -> WatchedStream<S> {
        WatchedStream { stream, timeouts, end: End::Open }
    }

    /// State after the last byte that we send.
    fn linger(&self) -> End {
        match LINGERING.try_acquire() {
            Ok(place) if self.timeouts.leaves_unread() => {
                End::Lingering { timeout: Box::pin(sleep(LINGER)), left: LINGER_BYTES, _place: place }
            }
            _ => End::Closed,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.timeouts.note_bytes();
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.end {
                End::Open => {
                    ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                    this.end = this.linger();
                }
                End::Lingering { timeout, left, .. } => {
                    let mut buffer = [MaybeUninit::uninit(); 8 * 1024];
                    let mut buffer = ReadBuf::uninit(&mut buffer);
                    let read = match timeout.as_mut().poll(cx) {
                        Poll::Ready(()) => Ok(()),
                        Poll::Pending => ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer)),
                    };
                    *left = left.saturating_sub(buffer.filled().len());
                    if read.is_err() || buffer.filled().is_empty() || *left == 0 {
                        this.end = End::Closed;
                    }
                }
                End::Closed => return Poll::Ready(Ok(())),
            }
        }
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
