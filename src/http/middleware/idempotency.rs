//! Layer for `Idempotency-Key`: a repeated POST gets the response of its first execution (`api::idempotency`).
//!
//! - The same key with the same URL and body → the saved response, with `Idempotency-Replayed: true`; with another URL
//!   or body → 422; while the first request is in flight → 409 with `Retry-After`.
//! - Responses that could differ the next time (5xx, 401, 403, 408, 409, 415, 425, 429) are not saved.
//! - A response larger than 64 KiB is saved in a short form, if it has one (`Abridged`): that of a report names its
//!   batch and counts the refusals.
//! - Successful responses with `Cache-Control: no-store` contain a secret.
//!
//! Handlers of JSON requests need no code for this: `middleware` does everything. A handler that streams its body calls
//! `begin` before reading it and `Execution::finish` after.

use std::panic::AssertUnwindSafe;

use aws_lc_rs::digest::{SHA256, digest};
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use serde_json::{Map, Value};

use crate::api::idempotency::{self as keys, Answer, Execution, HEADER, MAX_KEPT, REPLAYED, Repetition};
pub use crate::api::idempotency::{Begun, outlive};
use crate::app::App;
use crate::database::deadline::DeadlineExceeded;
use crate::error::{Error, Result};
use crate::http::extract::body::{is_ndjson, read_limited};
use crate::http::extract::caller::{Caller, authenticate};

/// Maximum number of bytes of a response that is read to be saved; none of ours is larger.
const MAX_ANSWER: u64 = 16 << 20;

/// Short form of a response that is too large to be saved whole; the handler adds it to the response's extensions.
#[derive(Clone)]
pub struct Abridged(pub Bytes);

/// How a route treats `Idempotency-Key`; the URL table states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idempotency {
    /// The body is read into memory, and the layer handles the key.
    Buffered,
    /// The handler reads the body as a stream, and calls `begin` and `Execution::finish` itself.
    Streaming,
    /// NDJSON is `Streaming`, JSON is `Buffered`. On a bus that outlives the database the key is optional: while the
    /// database is unavailable, a report is accepted without its key instead of being refused, since repeated prices
    /// change nothing.
    Reports,
}

impl Idempotency {
    /// Whether the handler of a request with these headers calls `begin` itself.
    fn is_left_to_handler(self, headers: &HeaderMap) -> bool {
        match self {
            Idempotency::Buffered => false,
            Idempotency::Streaming => true,
            Idempotency::Reports => is_ndjson(headers),
        }
    }
}

/// State of the layer: the app, and how each route of the URL table treats the key.
pub type Routes = (App, fn(route: &str) -> Idempotency);

/// Handles every POST that has a key and a body that is read into memory.
pub async fn middleware(
    State((app, idempotency_of)): State<Routes>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    if request.method() != Method::POST || !headers.contains_key(HEADER) {
        return next.run(request).await;
    }
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let idempotency = idempotency_of(route);
    if idempotency.is_left_to_handler(headers) {
        return next.run(request).await;
    }
    run(app, idempotency, request, next).await.unwrap_or_else(IntoResponse::into_response)
}

async fn run(app: App, idempotency: Idempotency, request: Request, next: Next) -> Result<Response> {
    let (mut parts, body) = request.into_parts();
    let caller = authenticate(&app, &mut parts).await?;
    let body = read_limited(&parts.headers, body, app.config.server.max_json_bytes).await?;
    let hash = digest(&SHA256, &body);
    let begun = begin(&app, &caller, idempotency, &parts.uri, &parts.headers, Some(hash.as_ref())).await?;
    let execution = match begun {
        Begun::Repetition(repetition) => return repetition.answer(hash.as_ref()),
        Begun::Execution(execution) => execution,
    };
    let request = Request::from_parts(parts, Body::from(body));
    let outliving = app.clone();
    let work = async move {
        let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
        let answer = match app.deadline.timeout(app.config.server.request_timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Error::internal("a handler panicked").into_response(),
            Err(DeadlineExceeded) => Error::unavailable("the handler took too long").into_response(),
        };
        execution.finish(answer, hash.as_ref()).await
    };
    outlive(&outliving, caller.account, work).await
}

/// Begins a request of `caller`. `hash` is the SHA-256 of the body, if that has been read.
///
/// # Errors
/// Those of [`keys::begin`].
pub async fn begin(
    app: &App,
    caller: &Caller,
    idempotency: Idempotency,
    uri: &Uri,
    headers: &HeaderMap,
    hash: Option<&[u8]>,
) -> Result<Begun> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let optional = idempotency == Idempotency::Reports && app.bus.outlives_database();
    keys::begin(app, caller, target, optional, headers, hash).await
}

impl Execution {
    /// Saves the response if it may be repeated, and returns it. `hash` is the SHA-256 of the body.
    pub async fn finish(self, answer: Response, hash: &[u8]) -> Response {
        if !self.has_key() {
            return answer;
        }
        let known = axum::body::HttpBody::size_hint(answer.body()).exact();
        if !may_be_repeated(answer.status()) || known.is_none_or(|size| size > MAX_ANSWER) {
            self.give_up().await;
            return answer;
        }
        let (parts, body) = answer.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Error::internal(error).into_response(),
        };
        let short = parts.extensions.get::<Abridged>().map(|short| &short.0);
        let kept = if body.len() > MAX_KEPT { short } else { Some(&body) };
        let unstored = parts.headers.get(header::CACHE_CONTROL).is_some_and(|value| value == "no-store");
        let text = |value: &HeaderValue| value.to_str().ok().map(Value::from);
        let headers: Map<String, Value> =
            parts.headers.iter().filter_map(|(name, value)| Some((name.to_string(), text(value)?))).collect();
        let saved = Answer {
            status: parts.status.as_u16(),
            headers,
            body: kept.map(Bytes::as_ref),
            secret: unstored && parts.status.is_success(),
        };
        self.save(saved, hash).await;
        Response::from_parts(parts, Body::from(body))
    }
}

/// Whether the same request would get the same response again.
fn may_be_repeated(status: StatusCode) -> bool {
    !status.is_server_error() && !matches!(status.as_u16(), 401 | 403 | 408 | 409 | 415 | 425 | 429)
}

impl Repetition {
    /// Returns the saved response for a body with this SHA-256.
    ///
    /// # Errors
    /// `Invalid` if the body differs from the first one, `Conflict` if the response was not kept.
    pub fn answer(self, hash: &[u8]) -> Result<Response> {
        let saved = self.open(hash)?;
        let mut answer = Response::new(Body::from(saved.body));
        *answer.status_mut() = StatusCode::from_u16(saved.status).map_err(Error::internal)?;
        for (name, value) in saved.headers.as_object().into_iter().flatten() {
            let name = HeaderName::try_from(name.as_str()).map_err(Error::internal)?;
            let value = HeaderValue::try_from(value.as_str().unwrap_or_default()).map_err(Error::internal)?;
            answer.headers_mut().insert(name, value);
        }
        answer.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        Ok(answer)
    }
}
