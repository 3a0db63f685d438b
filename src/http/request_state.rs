//! What is known of a request beside its head and body: who has sent it over which connection, and how far it is.

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

/// The other end of the connection; `server` puts it on every request.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// Whether it speaks TLS to us.
    pub encrypted: bool,
}

/// What becomes known while a request is answered, for the layers around its handler.
#[derive(Default)]
pub struct RequestProgress {
    account: OnceLock<AccountId>,
    streamed: AtomicBool,
    /// The body has more than a few packets, or its length is unknown.
    large: AtomicBool,
    body_ended: OnceLock<Instant>,
}

impl RequestProgress {
    /// That of a request, which its first layer has attached.
    pub fn of(request: &Request) -> Arc<RequestProgress> {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// The request is this account's; the access log shows it.
    pub fn belongs_to(&self, account: AccountId) {
        let _ = self.account.set(account);
    }

    /// The body is read as a stream without a limit: `server.request_timeout_s` counts from its end.
    pub fn streams(&self) {
        self.streamed.store(true, Ordering::Relaxed);
    }

    /// Whether it is.
    pub fn is_stream(&self) -> bool {
        self.streamed.load(Ordering::Relaxed)
    }

    /// The body has more than a few packets, or its length is unknown.
    pub fn is_large(&self) {
        self.large.store(true, Ordering::Relaxed);
    }

    /// The body has arrived whole.
    pub fn body_ended(&self) {
        let _ = self.body_ended.set(Instant::now());
    }

    /// Whose request it is, once that is known.
    pub fn account(&self) -> Option<AccountId> {
        self.account.get().copied()
    }

    /// Whether the body has arrived whole.
    pub fn has_body(&self) -> bool {
        self.body_ended.get().is_some()
    }

    /// Whether much of the body may not have been read: a small one is, before the next request.
    pub fn left_some(&self) -> bool {
        self.large.load(Ordering::Relaxed) && !self.has_body()
    }

    /// Returns once the request has taken longer than `limit`.
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

/// Whether the answer to a request is for its caller alone.
pub fn is_private(headers: &HeaderMap) -> bool {
    headers.contains_key(header::AUTHORIZATION) || headers.contains_key(OIDC_DATA)
}
