//! The layer that every call passes through: request id, deadline, limit of watches, recovery from panics, the end of
//! streams when the listener closes, access log and metrics.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use metrics::{counter, gauge, histogram};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Status};

use super::admission::{Admitted, admit};
use super::methods::{HEALTH_CHECK, METHODS, Method, Shape};
use crate::api::hang_up::HangUp;
use crate::api::request_state::RequestProgress;
use crate::app::App;
use crate::error::{Error, Kind, REQUEST_ID, Result};
use crate::telemetry::trace_context::{TraceContext, request_id};

/// Maximum number of concurrent watches of a process, which their clients hold open. Their callers are not authenticated,
/// so there is no limit for each caller. Other calls do not count.
const MAX_STREAMS: usize = 100;

/// State that all calls share.
#[derive(Clone)]
pub struct Calls {
    app: App,
    /// Cancelled when the listener closes.
    closing: CancellationToken,
    places: Arc<Semaphore>,
}

impl Calls {
    pub fn new(app: App, closing: CancellationToken) -> Calls {
        Calls { app, closing, places: Arc::new(Semaphore::new(MAX_STREAMS)) }
    }
}

/// The outermost layer, which every response passes through.
pub async fn middleware(State(calls): State<Calls>, request: Request, next: Next) -> Response {
    calls.app.health.dead_man.note_health_check(request.headers());
    let id = request_id(request.headers());
    let method = METHODS.iter().find(|method| method.path == request.uri().path());
    let (trace, progress) = (TraceContext::of(request.headers()), Arc::<RequestProgress>::default());
    let mut record = Record::new(&calls.app, method, id.clone(), trace, progress.clone());
    if !is_grpc(request.headers()) {
        // The gRPC protocol requires 415 here: a client of another protocol does not know the gRPC status codes.
        record.code = Some(Code::InvalidArgument);
        let mut response = StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
        set_request_id(&mut response, &id);
        return response;
    }
    let work = REQUEST_ID.scope(id.clone(), async {
        let mut request = request;
        request.extensions_mut().insert(trace);
        // Declared after the call, so it is dropped before the call when the client disconnects.
        let call = answer(&calls, method, request, &progress, next);
        tokio::pin!(call);
        let hang_up = HangUp::new(&calls.app);
        let answer = call.as_mut().await;
        hang_up.disarm();
        answer
    });
    let (mut response, end) = match work.await {
        Ok((response, end)) => (response, Some(end)),
        Err(refusal) => (refusal.into_http(), None),
    };
    set_request_id(&mut response, &id);
    record.note_headers(response.headers());
    response.map(|body| Body::new(Answer { body, end, record }))
}

fn set_request_id(response: &mut Response, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(HeaderName::from_static("x-request-id"), id);
    }
}

/// Whether the media type is that of gRPC, in any case, with or without the encoding of the messages.
fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let media = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let parts = media.split_at_checked(GRPC.len());
    parts.is_some_and(|(name, rest)| {
        name.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';'))
    })
}

async fn answer(
    calls: &Calls,
    method: Option<&Method>,
    request: Request,
    progress: &Arc<RequestProgress>,
    next: Next,
) -> Result<(Response, End), Status> {
    let method = method.ok_or_else(|| Error::new(Kind::MethodNotAllowed, "There is no such method."))?;
    let begin = Instant::now();
    let (app, limit) = (&calls.app, calls.app.config.server.request_timeout);
    let deadline = read_timeout(request.headers())?.and_then(|timeout| begin.checked_add(timeout));
    let place = if method.shape == Shape::Watch { Some(Place::take(&calls.places)?) } else { None };
    // A service could continue to read after its response has ended, and would keep the connection open.
    let over = CancellationToken::new();
    let request = request
        .map(|body| Body::from_stream(body.into_data_stream().take_until(over.clone().cancelled_owned())));
    let over = over.drop_guard();
    let work = async {
        let (request, left) = admit(app, method, request, progress).await?.into_parts();
        let mut response = app.cpu.share(|| progress.account(), next.run(request)).await;
        Admitted::put_headers(left.as_ref(), response.headers_mut());
        Ok(response)
    };
    let response: Result<Response, Status> = tokio::select! {
        response = AssertUnwindSafe(work).catch_unwind() => {
            response.map_err(|_| Error::internal("a call panicked"))?
        }
        () = overdue(app, deadline, limit, progress) => Err(too_late()),
        () = cut_off(calls, method, progress) => Err(stopping()),
    };
    let response = response?;
    // A response that is no stream has nothing to wait for but its client.
    let until = if method.shape == Shape::Unary {
        Some(deadline.unwrap_or(begin + limit).min(begin + limit))
    } else {
        deadline
    };
    let closing = calls.closing.clone();
    let reason = async move {
        tokio::select! {
            () = pass(until) => too_late(),
            () = closing.cancelled() => stopping(),
        }
    };
    Ok((response, End { reason: reason.boxed(), _place: place, _over: over }))
}

/// Returns at the deadline of the call, or once it takes longer than `limit`, which counts from the end of a streamed
/// request. Connections to the database are suspect then, because the work may have been waiting for one that is gone.
async fn overdue(app: &App, deadline: Option<Instant>, limit: Duration, progress: &RequestProgress) {
    tokio::select! {
        () = pass(deadline) => {}
        () = progress.overdue(limit) => app.deadline.suspect_connections(),
    }
}

/// Returns if the listener closes while messages of the request are still to come. A request that has arrived completely
/// may finish.
async fn cut_off(calls: &Calls, method: &Method, progress: &RequestProgress) {
    calls.closing.cancelled().await;
    if method.shape != Shape::Upload || progress.has_body() {
        std::future::pending::<()>().await;
    }
}

fn stopping() -> Status {
    let mut refusal = Error::new(Kind::Unavailable, "The process is stopping.");
    refusal.retry_after_s = Some(1);
    refusal.into()
}

fn too_late() -> Status {
    Error::new(Kind::Timeout, "The deadline has passed.").into()
}

/// Returns at the instant `until`; never, if there is none.
async fn pass(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// Reads `grpc-timeout`: at most eight digits and a unit.
///
/// # Errors
/// `Malformed` if the header has another form.
fn read_timeout(headers: &HeaderMap) -> Result<Option<Duration>> {
    let Some(text) = headers.get("grpc-timeout") else { return Ok(None) };
    let read = || {
        let text = text.to_str().ok()?;
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        let count: u64 = digits.parse().ok().filter(|_| plain)?;
        Some(match unit {
            "H" => Duration::from_secs(count * 3600),
            "M" => Duration::from_secs(count * 60),
            "S" => Duration::from_secs(count),
            "m" => Duration::from_millis(count),
            "u" => Duration::from_micros(count),
            "n" => Duration::from_nanos(count),
            _ => return None,
        })
    };
    let refusal =
        || Error::malformed("grpc-timeout must be one to eight digits and one of H, M, S, m, u, n.");
    read().map(Some).ok_or_else(refusal)
}

/// A place among the concurrent streams; dropping it releases the place.
struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn take(places: &Arc<Semaphore>) -> Result<Place> {
        let refusal = || {
            Error::new(Kind::TooManyRequests, format!("The limit of {MAX_STREAMS} open streams is reached."))
        };
        let permit = places.clone().try_acquire_owned().map_err(|_| refusal())?;
        gauge!("grpc_streams").increment(1);
        Ok(Place { _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        gauge!("grpc_streams").decrement(1);
    }
}

/// Condition that ends a response which does not end by itself, with the resources that the response holds.
struct End {
    reason: BoxFuture<'static, Status>,
    _place: Option<Place>,
    _over: DropGuard,
}

/// Body of a response, with the status code of the call in its trailers.
struct Answer {
    body: Body,
    /// `None`: the response has ended.
    end: Option<End>,
    record: Record,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let Some(end) = &mut this.end else { return Poll::Ready(None) };
        // Frames that are ready are sent first: a call that needs no waiting can finish during a drain.
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            if let Some(Ok(frame)) = &frame
                && let Some(trailers) = frame.trailers_ref()
            {
                this.record.note_headers(trailers);
            }
            return Poll::Ready(frame);
        }
        let status = ready!(end.reason.as_mut().poll(cx));
        let mut trailers = HeaderMap::new();
        // This cannot fail: the message and the details of a status are encoded.
        let _ = status.add_header(&mut trailers);
        this.record.note_headers(&trailers);
        this.end = None;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.end.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Record of a call, written to the access log and the metrics when the call ends, also when its client disconnects.
struct Record {
    app: App,
    id: String,
    trace: TraceContext,
    progress: Arc<RequestProgress>,
    /// Path of the method, or `unmatched`: paths that a caller makes up are not logged.
    route: &'static str,
    begin: Instant,
    /// `None`: the client disconnected before the call had a status.
    code: Option<Code>,
}

impl Record {
    fn new(
        app: &App,
        method: Option<&Method>,
        id: String,
        trace: TraceContext,
        progress: Arc<RequestProgress>,
    ) -> Record {
        let route = method.map_or("unmatched", |method| method.path);
        Record { app: app.clone(), id, trace, progress, route, begin: Instant::now(), code: None }
    }

    /// Notes the status code, which headers or trailers may contain.
    fn note_headers(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get("grpc-status") {
            self.code = Some(Code::from_bytes(code.as_bytes()));
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.begin.elapsed();
        let code = self.code.map_or_else(|| "aborted".to_owned(), |code| format!("{code:?}"));
        counter!("grpc_requests_total", "route" => self.route, "code" => code.clone()).increment(1);
        histogram!("grpc_request_duration_seconds", "route" => self.route, "code" => code.clone())
            .record(took);
        if !self.app.config.log.access {
            return;
        }
        // Successful health checks of load balancers are only logged at debug level.
        let probe = self.route == HEALTH_CHECK && self.code == Some(Code::Ok);
        let level = if probe { log::Level::Debug } else { log::Level::Info };
        let account = self.progress.account().map_or_else(|| "-".to_owned(), |account| account.to_string());
        log::log!(target: "salebell::access", level,
            "request.id" = self.id.as_str(),
            "trace.id" = self.trace.trace_id().as_str(),
            "account.id" = account.as_str(),
            "grpc.code" = self.code.map_or(-1, i32::from),
            "duration_ms" = took.as_micros() as f64 / 1000.0;
            "gRPC {} {code}", self.route);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_bytes(text.as_bytes()).unwrap());
            read_timeout(&headers).ok().flatten()
        };
        assert_eq!(read_timeout(&HeaderMap::new()).ok(), Some(None));
        for (text, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("0n", Duration::ZERO),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(read(text), Some(expected), "{text}");
        }
        for invalid in ["", "1", "S", "100000000S", "-1S", "+1S", "1.5S", " 1S", "1 S", "1s", "1é", "é"] {
            assert_eq!(read(invalid), None, "{invalid}");
        }
    }

    #[test]
    fn only_the_media_type_of_grpc_is_grpc() {
        for (media, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(media))]);
            assert_eq!(is_grpc(&headers), expected, "{media}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
