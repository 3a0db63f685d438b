//! `server.rate_limits` (draft-ietf-httpapi-ratelimit-headers-10): limits of requests a minute for an account, or for an
//! address where there is no valid token, each for a class of requests. Requests of HTTP and calls of gRPC count together.
//!
//! Each process counts separately: behind a load balancer with n instances a caller may send up to n times as many. The
//! limits protect against clients that loop by mistake; they are not meant for billing.

use std::collections::HashMap;
use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;

use crate::clock::Clock;
use crate::config::RateLimits;
use crate::domain::ids::AccountId;
use crate::error::{Error, Kind};

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
pub struct RequestLimit {
    clock: Clock,
    limits: RateLimits,
    windows: Mutex<HashMap<Counted, Window>>,
}

/// What is counted together.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Counted {
    who: Who,
    class: Class,
    limit: u64,
}

/// Caller whose requests are counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    Account(AccountId),
    Address(IpAddr),
}

struct Window {
    end: DateTime<Utc>,
    used: u64,
}

/// Remaining requests of a caller in the current window.
pub struct Left {
    requests: u64,
    seconds: u64,
    /// Whether the request may be answered.
    pub allowed: bool,
}

impl RequestLimit {
    /// Creates the limits of the settings; `None` if no class has one.
    pub fn new(clock: Clock, limits: RateLimits) -> Option<RequestLimit> {
        let none = RateLimits { read: 0, write: 0, heavy: 0 };
        (limits != none).then(|| RequestLimit { clock, limits, windows: Mutex::default() })
    }

    /// Limit of a class; `None` if it has none.
    pub fn of(&self, class: Class) -> Option<u64> {
        Some(class.limit(&self.limits)).filter(|limit| *limit > 0)
    }

    /// Counts a request, if the limit allows it.
    pub fn take(&self, counted: Counted) -> Left {
        let now = self.clock.now();
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
    pub fn refund(&self, counted: Counted) -> Option<Left> {
        let now = self.clock.now();
        let mut windows = self.windows.lock();
        let window = windows.get_mut(&counted)?;
        window.used = window.used.saturating_sub(1);
        Some(counted.left(window, now, true))
    }
}

impl Counted {
    /// A caller's requests of a class, which has this limit.
    pub fn new(who: Who, class: Class, limit: u64) -> Counted {
        Counted { who, class, limit }
    }

    fn left(&self, window: &Window, now: DateTime<Utc>, allowed: bool) -> Left {
        // Rounded up, so a caller that retries after this time is in the new window.
        let seconds = ((window.end - now).num_milliseconds().max(0) as u64).div_ceil(1000);
        Left { requests: self.limit.saturating_sub(window.used), seconds, allowed }
    }

    /// Adds the limit, and what is left of it, to a response.
    pub fn put_headers(&self, headers: &mut HeaderMap, left: &Left) {
        let name = self.class.name();
        let policy = format!("\"{name}\";q={};w={}", self.limit, WINDOW.num_seconds());
        let state = format!("\"{name}\";r={};t={}", left.requests, left.seconds);
        for (name, text) in [(POLICY, policy), (STATE, state)] {
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(name, value);
            }
        }
    }

    /// The refusal of a request beyond the limit.
    pub fn refusal(&self, left: &Left) -> Error {
        let (limit, class) = (self.limit, self.class.name());
        let detail = format!("The limit of {limit} requests a minute of the class \"{class}\" is reached.");
        let mut refusal = Error::new(Kind::TooManyRequests, detail);
        refusal.retry_after_s = Some(left.seconds);
        refusal
    }
}
