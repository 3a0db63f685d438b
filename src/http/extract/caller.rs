//! The caller of a request: the owner of its bearer token (RFC 6750), or the user of a browser whom the load balancer
//! has authenticated.
//!
//! The load balancer adds the user to everything that the browser sends, including requests that another site has
//! triggered (cross-site request forgery). Such a request may therefore change something only if the browser states
//! that our own pages sent it. A read that the browser states to come from a page of another site is one without a user:
//! CORS may let that page read the answer, for the token that it sends.

use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;
use std::sync::Arc;

use crate::api::bearer::{bearer, only};
use crate::api::client::Client;
use crate::api::request_state::{OIDC_DATA, RequestProgress};
use crate::app::App;
pub use crate::auth::Caller;
use crate::config::WebOrigin;
use crate::error::{Error, Kind, Result, chain};

impl FromRequestParts<App> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let caller = authenticate(app, parts).await?;
        if caller.unconfirmed {
            Err(Error::unavailable("a caller's API key cannot be confirmed"))
        } else {
            Ok(caller)
        }
    }
}

/// A caller whose API key is valid, or was valid recently while the database is unavailable and cannot confirm it.
pub struct KnownCaller(pub Caller);

impl FromRequestParts<App> for KnownCaller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        authenticate(app, parts).await.map(KnownCaller)
    }
}

/// Why a request has no caller, for the inner layers: the database is not asked twice.
#[derive(Clone)]
struct NoCaller(Arc<Error>);

impl NoCaller {
    /// The same refusal once more.
    fn again(&self) -> Error {
        let NoCaller(first) = self;
        match first.kind {
            Kind::Unavailable => Error::unavailable(chain(first.as_ref())),
            Kind::Internal => Error::internal(chain(first.as_ref())),
            kind => Error::new(kind, first.detail.clone()),
        }
    }
}

/// Returns the caller of a request, and caches it in `parts.extensions` for inner layers, as it does a refusal. If there
/// is an `Authorization` header, only that counts, even if it is invalid, because it was sent on purpose.
///
/// # Errors
/// `Unauthenticated` without a valid token; `Forbidden` if another site may have made a browser send the request;
/// `Unavailable` if the token cannot be looked up.
pub async fn authenticate(app: &App, parts: &mut Parts) -> Result<Caller> {
    if let Some(caller) = parts.extensions.get::<Caller>() {
        return Ok(caller.clone());
    }
    if let Some(refusal) = parts.extensions.get::<NoCaller>() {
        return Err(refusal.again());
    }
    match find_caller(app, parts).await {
        Ok(caller) => {
            if let Some(progress) = parts.extensions.get::<Arc<RequestProgress>>() {
                progress.set_account(caller.account);
            }
            parts.extensions.insert(caller.clone());
            Ok(caller)
        }
        Err(refusal) => {
            let refusal = NoCaller(Arc::new(refusal));
            let first = refusal.again();
            parts.extensions.insert(refusal);
            Err(first)
        }
    }
}

async fn find_caller(app: &App, parts: &Parts) -> Result<Caller> {
    let client = Client::of(&parts.headers, &parts.extensions, &app.config.server.trusted_proxies);
    let of_browser = app.config.auth.alb.is_some()
        && client.proxied
        && !parts.headers.contains_key(header::AUTHORIZATION)
        && parts.headers.contains_key(OIDC_DATA);
    let is_foreign = of_browser && !has_no_other_origin(app, parts, client.encrypted);
    // A change from another site is refused as such: 403 tells a page that a token of its own would help.
    if of_browser && !(is_foreign && parts.method.is_safe()) {
        let user = app.authenticator.authenticate_user(only(&parts.headers, OIDC_DATA)?).await?;
        check_origin(parts, is_foreign)?;
        Ok(user)
    } else {
        app.authenticator.authenticate(bearer(&parts.headers)?).await
    }
}

/// Refuses a change that does not come from our own pages. Current browsers state the source of every request (Fetch
/// Metadata); older ones at least send the origin with requests that change something. `is_foreign`: the origin that is
/// sent is another.
fn check_origin(parts: &Parts, is_foreign: bool) -> Result<()> {
    if parts.method.is_safe() {
        return Ok(());
    }
    let site = parts.headers.get("sec-fetch-site").map(|value| value.to_str().unwrap_or_default());
    let is_own = match site {
        // The request comes from one of our pages, or from the address bar.
        Some(site) => matches!(site, "same-origin" | "none"),
        None => parts.headers.contains_key(header::ORIGIN),
    };
    if is_own && !is_foreign {
        return Ok(());
    }
    let detail =
        "A browser can make changes only from Salebell's own pages. A program needs a token of its own.";
    Err(Error::new(Kind::Forbidden, detail))
}

/// Whether every `Origin` of a request, if there is one, is our own.
fn has_no_other_origin(app: &App, parts: &Parts, encrypted: bool) -> bool {
    let mut origins = parts.headers.get_all(header::ORIGIN).iter().map(|origin| origin.to_str().ok());
    origins.all(|origin| origin.is_some_and(|origin| is_our_origin(app, origin, parts, encrypted)))
}

/// Whether an origin is that of `server.public_url`, or without the setting that of the host that the request names.
fn is_our_origin(app: &App, origin: &str, parts: &Parts, encrypted: bool) -> bool {
    if let Some(own) = &app.config.server.public_url {
        return WebOrigin::of_url(origin).is_ok_and(|origin| origin == *own);
    }
    let host = parts.uri.authority().map(|authority| authority.as_str());
    let host = host.or_else(|| parts.headers.get(header::HOST)?.to_str().ok());
    let scheme = if encrypted { "https" } else { "http" };
    let ours = host.and_then(|host| url::Url::parse(&format!("{scheme}://{host}")).ok());
    // Comparing parsed origins allows for an explicit default port.
    let theirs = url::Url::parse(origin).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    ours.zip(theirs).is_some_and(|(ours, theirs)| ours.origin() == theirs.origin())
}
