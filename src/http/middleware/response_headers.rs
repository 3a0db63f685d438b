//! Headers of every response.

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use tower_http::set_header::SetResponseHeaderLayer;

use super::around::{AnswerFuture, Around, InnerService};
use crate::api::request_state::is_private;
use crate::app::App;

/// Methods that any path supports, for the 405 of a path that is not in the URL table.
const METHODS: HeaderValue = HeaderValue::from_static("GET,HEAD,POST,PUT,PATCH,DELETE,OPTIONS");
/// Value for responses that only one client may cache; it must revalidate the ETag before it uses one.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, no-cache");
/// Value for responses that any cache may store; it must revalidate the ETag before it uses one.
const SHARED: HeaderValue = HeaderValue::from_static("no-cache");

/// Creates a layer that sets a header if the response does not have it yet.
pub fn default_header(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
}

/// Sets `Cache-Control` if the handler has not set it.
pub struct CacheControl;

impl Around for CacheControl {
    fn call<S: InnerService>(_: &App, request: Request, inner: &mut S) -> AnswerFuture {
        let value = if is_private(request.headers()) { PRIVATE } else { SHARED };
        let answer = inner.call(request);
        Box::pin(async move {
            let mut answer = answer.await?;
            answer.headers_mut().entry(header::CACHE_CONTROL).or_insert(value);
            Ok(answer)
        })
    }
}

/// Sets `Allow` in a 405 for a path that is not in the URL table; for the others the router sets it.
pub struct Allow;

impl Around for Allow {
    fn call<S: InnerService>(_: &App, request: Request, inner: &mut S) -> AnswerFuture {
        let in_table = request.extensions().get::<MatchedPath>().is_some();
        let answer = inner.call(request);
        Box::pin(async move {
            let mut answer = answer.await?;
            if answer.status() == StatusCode::METHOD_NOT_ALLOWED && !in_table {
                answer.headers_mut().insert(header::ALLOW, METHODS);
            }
            Ok(answer)
        })
    }
}

/// Requests that the connection be closed after this response. HTTP/2 has streams instead, and no such header.
pub fn close_connection(answer: &mut Response) {
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}
