//! `server.rate_limit_per_minute` (draft-ietf-httpapi-ratelimit-headers-10): a limit of requests a minute for an account, or
//! for an address where there is no valid token.
//!
//! Each process counts separately: behind a load balancer with n instances a caller may send up to n times as many. The
//! limit protects against clients that loop by mistake; it is not meant for billing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;

use super::trusted_proxies::Client;
use crate::app::App;
use crate::domain::ids::AccountId;
use crate::error::{Error, Kind};
use crate::http::extract::caller::authenticate;

/// Length of a window.
const WINDOW: TimeDelta = TimeDelta::seconds(60);
/// Maximum number of callers that are counted at once; beyond that, all counts restart.
const MAX_CALLERS: usize = 100_000;
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// Counter of requests by account or address.
pub struct RateLimiter {
    app: App,
    limit: u64,
    windows: Mutex<HashMap<Who, Window>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    Account(AccountId),
    Address(IpAddr),
}

struct Window {
    end: DateTime<Utc>,
    used: u64,
}

/// Remaining requests of a caller in the current window.
struct Left {
    requests: u64,
    seconds: u64,
    allowed: bool,
}

impl RateLimiter {
    /// Creates a limiter of `limit` requests a minute.
    pub fn new(app: App, limit: u64) -> Arc<RateLimiter> {
        Arc::new(RateLimiter { app, limit, windows: Mutex::default() })
    }

    fn take(&self, who: Who) -> Left {
        let now = self.app.clock.now();
        let mut windows = self.windows.lock();
        if windows.len() >= MAX_CALLERS && !windows.contains_key(&who) {
            windows.retain(|_, window| window.end > now);
            if windows.len() >= MAX_CALLERS {
                windows.clear();
            }
        }
        let window = windows.entry(who).or_insert(Window { end: now, used: 0 });
        if window.end <= now {
            *window = Window { end: now + WINDOW, used: 0 };
        }
        let allowed = window.used < self.limit;
        window.used += u64::from(allowed);
        self.left(window, now, allowed)
    }

    /// Refunds a request that was answered with 304.
    fn refund(&self, who: Who) -> Option<Left> {
        let now = self.app.clock.now();
        let mut windows = self.windows.lock();
        let window = windows.get_mut(&who)?;
        window.used = window.used.saturating_sub(1);
        Some(self.left(window, now, true))
    }

    fn left(&self, window: &Window, now: DateTime<Utc>, allowed: bool) -> Left {
        // Rounded up, so a caller that retries after this time is in the new window.
        let seconds = ((window.end - now).num_milliseconds().max(0) as u64).div_ceil(1000);
        Left { requests: self.limit.saturating_sub(window.used), seconds, allowed }
    }

    fn put_headers(&self, headers: &mut HeaderMap, left: &Left) {
        let policy = format!("\"default\";q={};w={}", self.limit, WINDOW.num_seconds());
        let state = format!("\"default\";r={};t={}", left.requests, left.seconds);
        for (name, text) in [(POLICY, policy), (STATE, state)] {
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(name, value);
            }
        }
    }
}

/// Refuses requests beyond the limit: 429 with `Retry-After`.
pub async fn middleware(State(limiter): State<Arc<RateLimiter>>, request: Request, next: Next) -> Response {
    // Health checks are never limited.
    if matches!(request.uri().path(), "/healthz" | "/readyz") {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let who = match authenticate(&limiter.app, &mut parts).await {
        Ok(caller) => Who::Account(caller.account),
        Err(_) => {
            let trusted = &limiter.app.config.server.trusted_proxies;
            Who::Address(Client::of(&parts.headers, &parts.extensions, trusted).network())
        }
    };
    let mut left = limiter.take(who);
    let mut answer = if left.allowed {
        next.run(Request::from_parts(parts, body)).await
    } else {
        let mut refusal = Error::new(
            Kind::TooManyRequests,
            format!("The limit of {} requests a minute is reached.", limiter.limit),
        );
        refusal.retry_after_s = Some(left.seconds);
        refusal.into_response()
    };
    if answer.status() == StatusCode::NOT_MODIFIED {
        left = limiter.refund(who).unwrap_or(left);
    }
    limiter.put_headers(answer.headers_mut(), &left);
    answer
}
