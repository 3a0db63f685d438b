//! `server.rate_limits` for HTTP requests.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::api::client::Client;
use crate::app::App;
use crate::app::request_limit::{Class, Counted, Who};
use crate::http::extract::caller::authenticate;

/// Class of a request; `path` is that of the URL table, empty for a request that matches none. `None`: it counts for
/// nothing.
///
/// Transfers of bytes do not count: a client may send a file in parts as small as it likes, and players fetch hundreds of
/// ranges. They have limits of their own (`files.bytes_per_account`, `files.uploads_in_flight`,
/// `files.min_bytes_per_minute`).
pub fn class_of(method: &Method, path: &str, query: Option<&str>) -> Option<Class> {
    let searches =
        || url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).any(|(key, _)| key == "q");
    match (method.as_str(), path) {
        // Health checks are never limited.
        (_, "/healthz" | "/readyz") => None,
        (_, "/v1/files/{id}/content" | "/d/{token}") | ("PATCH" | "POST", "/v1/files/{id}") => None,
        ("GET" | "HEAD", "/v1/games") if searches() => Some(Class::Heavy),
        (_, "/v1/watches/{id}/explain" | "/v1/channels/{id}/test") => Some(Class::Heavy),
        ("POST", "/v1/exports" | "/v1/imports") => Some(Class::Heavy),
        _ if method.is_safe() => Some(Class::Read),
        _ => Some(Class::Write),
    }
}

/// Refuses requests beyond the limit of their class: 429 with `Retry-After`.
pub async fn middleware(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let class = class_of(request.method(), path, request.uri().query());
    let limited = app.request_limit.as_ref().zip(class);
    let limited = limited.and_then(|(limiter, class)| Some((limiter, class, limiter.of(class)?)));
    let Some((limiter, class, limit)) = limited else { return next.run(request).await };
    let (mut parts, body) = request.into_parts();
    let who = match authenticate(&app, &mut parts).await {
        Ok(caller) => Who::Account(caller.account),
        Err(_) => {
            let trusted = &app.config.server.trusted_proxies;
            Who::Address(Client::of(&parts.headers, &parts.extensions, trusted).network())
        }
    };
    let counted = Counted::new(who, class, limit);
    let mut left = limiter.take(counted);
    let mut answer = if left.allowed {
        next.run(Request::from_parts(parts, body)).await
    } else {
        counted.refusal(&left).into_response()
    };
    if answer.status() == StatusCode::NOT_MODIFIED {
        left = limiter.refund(counted).unwrap_or(left);
    }
    counted.put_headers(answer.headers_mut(), &left);
    answer
}
