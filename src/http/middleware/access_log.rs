//! Access log and metrics of every request, also when its client disconnects before the response.

use std::sync::Arc;

use axum::body::HttpBody;
use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::response::Response;
use metrics::{counter, histogram};
use tokio::time::Instant;

use super::around::{AnswerFuture, Around, InnerService};
use crate::api::request_state::RequestProgress;
use crate::app::App;
use crate::error::REQUEST_ID;
use crate::telemetry::trace_context::TraceContext;

/// Records every request once: with the status of its response, or with 499.
pub struct AccessLog;

impl Around for AccessLog {
    fn call<S: InnerService>(app: &App, request: Request, inner: &mut S) -> AnswerFuture {
        let app = app.clone();
        let progress = RequestProgress::of(&request);
        let trace = request.extensions().get::<TraceContext>().copied();
        let method = method_name(request.method());
        let route =
            request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
        let answer = inner.call(request);
        Box::pin(async move {
            let id = REQUEST_ID.try_with(Clone::clone).unwrap_or_default();
            let begin = Instant::now();
            // Declared before the response is awaited, so it is dropped after the work when the client disconnects.
            let mut record = Record { app, id, trace, progress, method, route, begin, finished: false };
            let answer = answer.await?;
            record.finish(&answer);
            Ok(answer)
        })
    }
}

/// Record of a request until its line is written.
struct Record {
    app: App,
    id: String,
    trace: Option<TraceContext>,
    progress: Arc<RequestProgress>,
    method: &'static str,
    /// Path as it is in the URL table: what a caller puts into the path or the query is not logged.
    route: String,
    begin: Instant,
    finished: bool,
}

impl Record {
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
        // Load balancers check every few seconds; their successful checks would drown everything else.
        let probe = matches!(self.route.as_str(), "/healthz" | "/readyz") && status < 400;
        let level = if probe { log::Level::Debug } else { log::Level::Info };
        let account = self.progress.account().map_or_else(|| "-".to_owned(), |account| account.to_string());
        let trace = self.trace.map_or_else(|| "-".to_owned(), |trace| trace.trace_id());
        log::log!(target: "salebell::access", level,
            "request.id" = self.id.as_str(),
            "trace.id" = trace.as_str(),
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
            // 499 is nginx's status for a client that closed the connection before its response.
            self.write(499, "aborted", None);
        }
    }
}

/// The method if it is a standard one, else `OTHER`: an invented method must not create a new time series.
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
