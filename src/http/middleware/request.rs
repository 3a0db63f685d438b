//! What every request passes through: its id and trace, limits of size and time, the net under a panic, headers of
//! the answer, access log and metrics.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use metrics::{counter, histogram};
use tokio::time::Instant;

use super::request_limits;
use crate::app::App;
use crate::error::{Error, Kind, REQUEST_ID};
use crate::http::extract::body::{Pace, WatchedBody};
use crate::http::request_state::{RequestState, is_private};
use crate::telemetry::trace_context::{TraceContext, request_id};

/// What is allowed somewhere, for a path that nothing is at.
const METHODS: &str = "GET,HEAD,POST,PUT,PATCH,DELETE,OPTIONS";

/// A body up to this is there when its request is.
const SMALL_BODY_BYTES: u64 = 8 * 1024;

/// The outermost layer: everything that is answered has passed it, a 404 too.
pub async fn middleware(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let trace = TraceContext::of(request.headers());
    let progress = Arc::new(RequestState::default());
    let mut record = Record::new(&app, &request, id.clone(), trace, progress.clone());
    let private = is_private(request.headers());
    let version = request.version();
    let in_table = request.extensions().get::<MatchedPath>().is_some();

    let refusal = request_limits::check(&request).err();
    let close = refusal.is_some();
    request.extensions_mut().insert(trace);
    request.extensions_mut().insert(progress.clone());
    let request = request.map(|body| watch(body, pace(&app), &progress));
    let answer = async {
        if let Some(refusal) = refusal {
            return refusal.into_response();
        }
        let work = app.cpu.share(|| progress.account(), next.run(request));
        // A panic leaves nothing half done behind that another request could see: transactions roll back.
        let work = AssertUnwindSafe(work).catch_unwind();
        tokio::select! {
            answer = work => answer.unwrap_or_else(|_| Error::internal("a handler panicked").into_response()),
            () = give_up(&app, &progress) => overdue(&progress).into_response(),
        }
    };
    let answer = REQUEST_ID.scope(id.clone(), answer);
    tokio::pin!(answer);
    // Declared after the work, so dropped before it when the client goes away.
    let mut hang_up = HangUp(Some(&app));
    let mut answer = answer.as_mut().await;
    hang_up.0 = None;
    put_headers(answer.headers_mut(), &id, private);
    // The router tells it for the paths that it knows.
    if answer.status() == StatusCode::METHOD_NOT_ALLOWED && !in_table {
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(METHODS));
    }
    if version < Version::HTTP_2 && (close || progress.left_some()) {
        // The rest is not read: the client shall not send its next request behind it. Nor is anything believed that
        // follows a head which two of us may read differently.
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    record.finish(&answer);
    answer
}

fn pace(app: &App) -> Pace {
    Pace {
        idle: app.config.server.body_idle_timeout,
        min_bytes_per_minute: app.config.files.min_bytes_per_minute,
        slow_after: app.config.files.slow_after,
    }
}

fn watch(body: Body, pace: Pace, progress: &Arc<RequestState>) -> Body {
    if body.is_end_stream() {
        progress.body_ended();
        return body;
    }
    let large = body.size_hint().exact().is_none_or(|length| length > SMALL_BODY_BYTES);
    if large {
        progress.is_large();
    }
    Body::new(WatchedBody::new(body, pace, progress.clone()))
}

/// Returns once the request has taken too long; what it waits for may be a database that is gone.
async fn give_up(app: &App, progress: &RequestState) {
    progress.overdue(app.config.server.request_timeout).await;
    app.deadline.suspect_connections();
}

/// A client that does not wait for its answer gives up for us.
struct HangUp<'a>(Option<&'a App>);

impl Drop for HangUp<'_> {
    fn drop(&mut self) {
        if let Some(app) = self.0 {
            app.deadline.suspect_connections();
        }
    }
}

/// RFC 9110: 408 when the request has not arrived, 503 when it is we who are late.
fn overdue(progress: &RequestState) -> Error {
    if progress.has_body() {
        Error::unavailable("the handler took longer than server.request_timeout_s")
    } else {
        Error::new(Kind::Timeout, "The body did not arrive in time.")
    }
}

fn put_headers(headers: &mut HeaderMap, id: &str, private: bool) {
    const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID_HEADER, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    for (name, value) in [
        // An API is no page: nothing may run in its answers, nobody may frame them.
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Caches may keep an answer, but ask whether its ETag still holds.
        (header::CACHE_CONTROL, if private { "private, no-cache" } else { "no-cache" }),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

/// Becomes the line of the access log and the metrics, also when the client goes away and nobody waits any more.
struct Record {
    app: App,
    id: String,
    trace: TraceContext,
    progress: Arc<RequestState>,
    method: &'static str,
    /// As it stands in the URL table: what a caller has put into the path or the query is not logged.
    route: String,
    begin: Instant,
    finished: bool,
}

impl Record {
    fn new(
        app: &App,
        request: &Request,
        id: String,
        trace: TraceContext,
        progress: Arc<RequestState>,
    ) -> Record {
        let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str);
        Record {
            app: app.clone(),
            id,
            trace,
            progress,
            method: method_name(request.method()),
            route: route.to_owned(),
            begin: Instant::now(),
            finished: false,
        }
    }

    fn finish(&mut self, answer: &Response) {
        self.finished = true;
        let class = match answer.status().as_u16() / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        self.write(answer.status().as_u16(), class, answer.body().size_hint().exact());
    }

    fn write(&self, status: u16, class: &'static str, bytes: Option<u64>) {
        let took = self.begin.elapsed();
        let route = self.route.clone();
        counter!("http_requests_total", "method" => self.method, "route" => route.clone(), "status" => class)
            .increment(1);
        histogram!("http_request_duration_seconds", "route" => route, "status" => class).record(took);
        if !self.app.config.log.access {
            return;
        }
        // Load balancers ask every few seconds, and nobody wants to read that they were answered.
        let probe = matches!(self.route.as_str(), "/healthz" | "/readyz") && status < 400;
        let level = if probe { log::Level::Debug } else { log::Level::Info };
        let account = self.progress.account().map_or_else(|| "-".to_owned(), |account| account.to_string());
        log::log!(target: "salebell::access", level,
            "request.id" = self.id.as_str(),
            "trace.id" = self.trace.trace_id().as_str(),
            "account.id" = account.as_str(),
            "http.status" = status,
            "http.response_bytes" = bytes.map_or(-1, |bytes| bytes as i64),
            "duration_ms" = took.as_micros() as f64 / 1000.0;
            "{} {} {status}", self.method, self.route);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.finished {
            // nginx's number for a client that closed the connection before its answer.
            self.write(499, "aborted", None);
        }
    }
}

/// One of few, so that a made-up method makes no new time series.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}
