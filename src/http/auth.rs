//! Who calls: the bearer token of a request (RFC 6750).

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, header};
use axum::response::Response;
use std::sync::Arc;

use super::conditional;
use super::request::Progress;
use crate::app::App;
pub use crate::callers::Caller;
use crate::error::{Error, Kind, Result};

impl FromRequestParts<App> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let caller = authenticate(app, &parts.headers, &mut parts.extensions).await?;
        match caller.unconfirmed {
            false => Ok(caller),
            true => Err(Error::unavailable("a caller's API key cannot be confirmed")),
        }
    }
}

/// A caller whose API key was valid a while ago, where nobody can be asked whether it still is.
pub struct KnownCaller(pub Caller);

impl FromRequestParts<App> for KnownCaller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        authenticate(app, &parts.headers, &mut parts.extensions).await.map(KnownCaller)
    }
}

/// The caller of a request; a layer that has asked before has left the answer in `extensions`.
///
/// # Errors
/// `Unauthenticated` without a valid token.
pub async fn authenticate(app: &App, headers: &HeaderMap, extensions: &mut Extensions) -> Result<Caller> {
    if let Some(caller) = extensions.get::<Caller>() {
        return Ok(caller.clone());
    }
    let caller = app.callers.authenticate(bearer(headers)?).await?;
    if let Some(progress) = extensions.get::<Arc<Progress>>() {
        progress.belongs_to(caller.account);
    }
    extensions.insert(caller.clone());
    Ok(caller)
}

fn bearer(headers: &HeaderMap) -> Result<&str> {
    let refuse = |detail: &str| Error::new(Kind::Unauthenticated, detail);
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let header = given.next().ok_or_else(|| refuse("The Authorization header is missing."))?;
    if given.next().is_some() {
        return Err(refuse("There is more than one Authorization header."));
    }
    let text = header.to_str().ok().and_then(|text| text.split_once(' '));
    text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(|| refuse("The Authorization header must be: Bearer <token>."))
}

/// `GET /v1/me`: whose token it is and what it may do.
pub async fn me(caller: Caller, headers: HeaderMap) -> Result<Response> {
    conditional::respond(&headers, &serde_json::json!({"id": caller.account, "scopes": caller.scopes}))
}
