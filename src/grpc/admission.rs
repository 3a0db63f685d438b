//! Admission of a call: its token and scope, `server.rate_limits`, and the pace of its messages.

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::HeaderMap;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::methods::{Access, Method, REPORT, Shape};
use crate::api::bearer::bearer;
use crate::api::client::Client;
use crate::api::paced_body::{Pace, PacedBody};
use crate::api::request_state::RequestProgress;
use crate::app::App;
use crate::app::request_limit::{Counted, Left, Who};
use crate::auth::Caller;
use crate::error::{Error, Result};

/// A call that may be answered.
pub struct Admitted {
    pub request: Request,
    /// What the call counts as, and what is left of its limit, if it has one.
    left: Option<(Counted, Left)>,
}

impl Admitted {
    /// Metadata of the response that state the limit of requests.
    pub fn put_headers(left: Option<&(Counted, Left)>, headers: &mut HeaderMap) {
        if let Some((counted, left)) = left {
            counted.put_headers(headers, left);
        }
    }

    /// Separates the request from what is left of the limit.
    pub fn into_parts(self) -> (Request, Option<(Counted, Left)>) {
        (self.request, self.left)
    }
}

/// Finds the caller and counts the call. The request then has its `Caller` as an extension, if there is one.
///
/// # Errors
/// A status with `ratelimit` metadata: beyond the limit of requests, without a valid token or the scope that the method
/// requires, or while the token cannot be looked up.
pub async fn admit(
    app: &App,
    method: &Method,
    mut request: Request,
    progress: &Arc<RequestProgress>,
) -> Result<Admitted, Status> {
    if method.access == Access::Unlimited {
        return Ok(Admitted { request, left: None });
    }
    let token = bearer(request.headers()).map(str::to_owned);
    let caller = match token {
        Ok(token) => app.authenticator.authenticate(&token).await,
        Err(refusal) => Err(refusal),
    };
    if let Ok(caller) = &caller {
        progress.set_account(caller.account);
    }
    let class = method.class();
    let left = app.request_limit.as_ref().and_then(|limiter| {
        let limit = limiter.of(class)?;
        let trusted = &app.config.server.trusted_proxies;
        let address = || Client::of(request.headers(), request.extensions(), trusted).network();
        let who =
            caller.as_ref().map_or_else(|_| Who::Address(address()), |caller| Who::Account(caller.account));
        let counted = Counted::new(who, class, limit);
        Some((counted, limiter.take(counted)))
    });
    if let Err(refusal) = check(method, caller, left.as_ref(), &mut request) {
        let mut headers = HeaderMap::new();
        Admitted::put_headers(left.as_ref(), &mut headers);
        let mut status = Status::from(refusal);
        *status.metadata_mut() = MetadataMap::from_headers(headers);
        return Err(status);
    }
    if method.shape == Shape::Upload {
        progress.mark_streamed();
    }
    let pace = Pace::of(&app.config);
    let request = request.map(|body| {
        if body.is_end_stream() {
            progress.body_ended();
        }
        Body::new(PacedBody::new(body, pace, progress.clone()))
    });
    Ok(Admitted { request, left })
}

fn check(
    method: &Method,
    caller: Result<Caller>,
    left: Option<&(Counted, Left)>,
    request: &mut Request,
) -> Result<()> {
    if let Some((counted, left)) = left
        && !left.allowed
    {
        return Err(counted.refusal(left));
    }
    let Access::Scope(scope) = method.access else { return Ok(()) };
    let caller = caller?;
    if caller.unconfirmed && method.path != REPORT {
        return Err(Error::unavailable("a caller's API key cannot be confirmed"));
    }
    caller.require(scope)?;
    request.extensions_mut().insert(caller);
    Ok(())
}
