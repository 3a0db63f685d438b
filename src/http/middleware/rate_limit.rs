//! `server.rate_limits` (draft-ietf-httpapi-ratelimit-headers-10): limits of requests a minute for an account, or for an
//! address where there is no valid token, each for a class of requests.
//!
//! Each process counts separately: behind a load balancer with n instances a caller may send up to n times as many. The
//! limits protect against clients that loop by mistake; they are not meant for billing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;

use super::trusted_proxies::Client;
use crate::app::App;
use crate::config::RateLimits;
use crate::domain::ids::AccountId;
use crate::error::{Error, Kind};
use crate::http::extract::caller::authenticate;

/// Length of a window.
const WINDOW: TimeDelta = TimeDelta::seconds(60);
/// Maximum number of counts, one for each caller and class; beyond that, all counts restart.
const MAX_COUNTS: usize = 100_000;
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// Requests with a limit of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// It changes nothing.
    Read,
    /// It changes something.
    Write,
    /// It costs the database or others much, whether or not it changes something.
    Heavy,
}

impl Class {
    /// Class of a request; `path` is that of the URL table, empty for a request that matches none. `None`: it counts for
    /// nothing.
    ///
    /// Transfers of bytes do not count: a client may send a file in parts as small as it likes, and players fetch
    /// hundreds of ranges. They have limits of their own (`files.bytes_per_account`, `files.uploads_in_flight`,
    /// `files.min_bytes_per_minute`).
    pub fn of(method: &Method, path: &str, query: Option<&str>) -> Option<Class> {
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

    /// Name in `RateLimit` and `RateLimit-Policy`.
    fn name(self) -> &'static str {
        match self {
            Class::Read => "read",
            Class::Write => "write",
            Class::Heavy => "heavy",
        }
    }

    /// Limit of the class; 0: none.
    fn limit(self, limits: &RateLimits) -> u64 {
        match self {
            Class::Read => limits.read,
            Class::Write => limits.write,
            Class::Heavy => limits.heavy,
        }
    }
}

/// Counter of requests by account or address.
pub struct RateLimiter {
    app: App,
    limits: RateLimits,
    windows: Mutex<HashMap<Counted, Window>>,
}

/// What is counted together.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Counted {
    who: Who,
    class: Class,
    limit: u64,
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
    /// Creates a limiter with the limits of the settings; `None` if no class has one.
    pub fn new(app: App) -> Option<Arc<RateLimiter>> {
        let limits = app.config.server.rate_limits;
        let none = RateLimits { read: 0, write: 0, heavy: 0 };
        (limits != none).then(|| Arc::new(RateLimiter { app, limits, windows: Mutex::default() }))
    }

    fn take(&self, counted: Counted) -> Left {
        let now = self.app.clock.now();
        let mut windows = self.windows.lock();
        if windows.len() >= MAX_COUNTS && !windows.contains_key(&counted) {
            windows.retain(|_, window| window.end > now);
            if windows.len() >= MAX_COUNTS {
                windows.clear();
            }
        }
        let window = windows.entry(counted).or_insert(Window { end: now, used: 0 });
        if window.end <= now {
            *window = Window { end: now + WINDOW, used: 0 };
        }
        let allowed = window.used < counted.limit;
        window.used += u64::from(allowed);
        counted.left(window, now, allowed)
    }

    /// Refunds a request that was answered with 304.
    fn refund(&self, counted: Counted) -> Option<Left> {
        let now = self.app.clock.now();
        let mut windows = self.windows.lock();
        let window = windows.get_mut(&counted)?;
        window.used = window.used.saturating_sub(1);
        Some(counted.left(window, now, true))
    }
}

impl Counted {
    fn left(&self, window: &Window, now: DateTime<Utc>, allowed: bool) -> Left {
        // Rounded up, so a caller that retries after this time is in the new window.
        let seconds = ((window.end - now).num_milliseconds().max(0) as u64).div_ceil(1000);
        Left { requests: self.limit.saturating_sub(window.used), seconds, allowed }
    }

    fn put_headers(&self, headers: &mut HeaderMap, left: &Left) {
        let name = self.class.name();
        let policy = format!("\"{name}\";q={};w={}", self.limit, WINDOW.num_seconds());
        let state = format!("\"{name}\";r={};t={}", left.requests, left.seconds);
        for (name, text) in [(POLICY, policy), (STATE, state)] {
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(name, value);
            }
        }
    }
}

/// Refuses requests beyond the limit of their class: 429 with `Retry-After`.
pub async fn middleware(State(limiter): State<Arc<RateLimiter>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let class = Class::of(request.method(), path, request.uri().query());
    let limited = class.map(|class| (class, class.limit(&limiter.limits))).filter(|(_, limit)| *limit > 0);
    let Some((class, limit)) = limited else { return next.run(request).await };
    let (mut parts, body) = request.into_parts();
    let who = match authenticate(&limiter.app, &mut parts).await {
        Ok(caller) => Who::Account(caller.account),
        Err(_) => {
            let trusted = &limiter.app.config.server.trusted_proxies;
            Who::Address(Client::of(&parts.headers, &parts.extensions, trusted).network())
        }
    };
    let counted = Counted { who, class, limit };
    let mut left = limiter.take(counted);
    let mut answer = if left.allowed {
        next.run(Request::from_parts(parts, body)).await
    } else {
        let mut refusal = Error::new(
            Kind::TooManyRequests,
            format!("The limit of {limit} requests a minute of the class \"{}\" is reached.", class.name()),
        );
        refusal.retry_after_s = Some(left.seconds);
        refusal.into_response()
    };
    if answer.status() == StatusCode::NOT_MODIFIED {
        left = limiter.refund(counted).unwrap_or(left);
    }
    counted.put_headers(answer.headers_mut(), &left);
    answer
}
