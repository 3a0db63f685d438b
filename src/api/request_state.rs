//! State of a request besides its head and body: the connection that it came from, and its progress.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, header};
use tokio::time::Instant;

use crate::domain::ids::AccountId;

/// Header in which an Application Load Balancer reports the user whom it has logged in.
pub const OIDC_DATA: HeaderName = HeaderName::from_static("x-amzn-oidc-data");

/// Peer of the connection; `server` adds it to every request.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// Whether the peer uses TLS.
    pub encrypted: bool,
}

/// Facts that become known while a request is handled, for the layers around its handler.
#[derive(Default)]
pub struct RequestProgress {
    account: OnceLock<AccountId>,
    streamed: AtomicBool,
    /// The body is large: it has more than a few packets, or its length is unknown.
    large: AtomicBool,
    body_ended: OnceLock<Instant>,
}

impl RequestProgress {
    /// Progress of a request, which the first layer has attached.
    pub fn of(request: &Request) -> Arc<RequestProgress> {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// Sets the account of the request, which the access log shows.
    pub fn set_account(&self, account: AccountId) {
        let _ = self.account.set(account);
    }

    /// Marks the body as a stream without a size limit: `server.request_timeout_s` counts from its end.
    pub fn mark_streamed(&self) {
        self.streamed.store(true, Ordering::Relaxed);
    }

    /// Whether the body is a stream without a size limit.
    pub fn is_stream(&self) -> bool {
        self.streamed.load(Ordering::Relaxed)
    }

    /// Marks the body as large: it has more than a few packets, or its length is unknown.
    pub fn mark_large(&self) {
        self.large.store(true, Ordering::Relaxed);
    }

    /// Notes that the whole body has arrived.
    pub fn body_ended(&self) {
        let _ = self.body_ended.set(Instant::now());
    }

    /// Account of the request, once it is known.
    pub fn account(&self) -> Option<AccountId> {
        self.account.get().copied()
    }

    /// Whether the whole body has arrived.
    pub fn has_body(&self) -> bool {
        self.body_ended.get().is_some()
    }

    /// Whether a large part of the body may be unread. A small rest is read before the next request.
    pub fn has_unread_body(&self) -> bool {
        self.large.load(Ordering::Relaxed) && !self.has_body()
    }

    /// Returns once the request has taken longer than `limit`, which counts from the end of a streamed body.
    pub async fn overdue(&self, limit: Duration) {
        let mut until = Instant::now() + limit;
        loop {
            tokio::time::sleep_until(until).await;
            let now = Instant::now();
            until = match self.body_ended.get() {
                _ if !self.is_stream() => return,
                None => now + limit,
                Some(&ended) if ended + limit > now => ended + limit,
                Some(_) => return,
            };
        }
    }
}

/// Whether the response to a request is meant only for its caller.
pub fn is_private(headers: &HeaderMap) -> bool {
    headers.contains_key(header::AUTHORIZATION) || headers.contains_key(OIDC_DATA)
}
