//! Pages of other sites that call the API from a browser: CORS (<https://fetch.spec.whatwg.org/#http-cors-protocol>), as
//! `server.cors_origins` allows it.
//!
//! `Access-Control-Allow-Credentials` is never sent: a page has a token, and what a browser adds by itself (the user whom
//! the load balancer has logged in) counts only from our own origin (`http::extract::caller`).

use std::sync::LazyLock;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::around::{AnswerFuture, Around, InnerService};
use crate::app::App;
use crate::config::CorsOrigins;

/// Headers of requests that a handler or a layer reads. `Authorization` is never meant by a `*`.
const REQUEST_HEADERS: &[&str] = &[
    "Accept",
    "Authorization",
    "Content-Digest",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "If-Unmodified-Since",
    "Range",
    "Repr-Digest",
    "traceparent",
    "tracestate",
    "Tus-Resumable",
    "Upload-Checksum",
    "Upload-Complete",
    "Upload-Concat",
    "Upload-Defer-Length",
    "Upload-Draft-Interop-Version",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Offset",
    "X-HTTP-Method-Override",
    "X-Request-Id",
];

/// Headers of answers that a page may read, besides those that every page may.
const ANSWER_HEADERS: &[&str] = &[
    "Accept-Patch",
    "Accept-Ranges",
    "Allow",
    "Content-Digest",
    "Content-Disposition",
    "Content-Location",
    "Content-Range",
    "Deprecation",
    "ETag",
    "Idempotency-Replayed",
    "Link",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Repr-Digest",
    "Retry-After",
    "Sunset",
    "Tus-Checksum-Algorithm",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Resumable",
    "Tus-Version",
    "Upload-Complete",
    "Upload-Concat",
    "Upload-Defer-Length",
    "Upload-Draft-Interop-Version",
    "Upload-Expires",
    "Upload-Length",
    "Upload-Limit",
    "Upload-Metadata",
    "Upload-Offset",
    "WWW-Authenticate",
    "X-Request-Id",
];

/// Seconds for which a browser may keep the answer to a preflight.
const MAX_AGE_S: HeaderValue = HeaderValue::from_static("600");

/// Adds the headers by which a page of another site may read an answer, also of one that another layer gave.
pub struct Cors;

impl Around for Cors {
    fn call<S: InnerService>(app: &App, request: Request, inner: &mut S) -> AnswerFuture {
        let origins = &app.config.server.cors_origins;
        if origins.is_off() {
            return Box::pin(inner.call(request));
        }
        let allowed = allowed_origin(origins, request.headers());
        // A cache must not give one site the answer to another. With `*` they are all the same.
        let varies = matches!(origins, CorsOrigins::Listed(_));
        let answer = inner.call(request);
        Box::pin(async move {
            let mut answer = answer.await?;
            let headers = answer.headers_mut();
            if let Some(origin) = allowed {
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
                headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED.clone());
            }
            if varies {
                headers.append(header::VARY, HeaderValue::from_static("origin"));
            }
            Ok(answer)
        })
    }
}

/// Methods of a path of the URL table; none for another path.
pub type MethodsOf = fn(&str) -> Vec<&'static str>;

/// Answers preflights of the paths in the URL table: 204, without a token and before any limit of requests. They are
/// not what `OPTIONS` of the table answers, which a client of tus sends without `Access-Control-Request-Method`.
pub async fn preflight(
    State((app, methods_of)): State<(App, MethodsOf)>,
    request: Request,
    next: Next,
) -> Response {
    if !is_preflight(&request) {
        return next.run(request).await;
    }
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let methods = methods_of(path);
    if methods.is_empty() {
        return next.run(request).await;
    }
    let mut answer = StatusCode::NO_CONTENT.into_response();
    if allowed_origin(&app.config.server.cors_origins, request.headers()).is_some() {
        let headers = answer.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, list(&methods));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED.clone());
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_S);
    }
    answer
}

static ALLOWED: LazyLock<HeaderValue> = LazyLock::new(|| list(REQUEST_HEADERS));
static EXPOSED: LazyLock<HeaderValue> = LazyLock::new(|| list(ANSWER_HEADERS));

fn list(names: &[&str]) -> HeaderValue {
    HeaderValue::try_from(names.join(", ")).unwrap_or(HeaderValue::from_static(""))
}

/// Value of `Access-Control-Allow-Origin`, if the request is from a site that is allowed.
fn allowed_origin(origins: &CorsOrigins, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    match origins {
        CorsOrigins::Any => Some(HeaderValue::from_static("*")),
        CorsOrigins::Listed(listed) => listed
            .iter()
            .any(|listed| listed.as_str().as_bytes() == origin.as_bytes())
            .then(|| origin.clone()),
    }
}

/// Whether a browser asks by this request what a page of another site may send.
fn is_preflight(request: &Request) -> bool {
    let has = |name: HeaderName| request.headers().contains_key(name);
    request.method() == Method::OPTIONS && has(header::ORIGIN) && has(header::ACCESS_CONTROL_REQUEST_METHOD)
}
