//! Credentials for AWS: the SDK's provider chain (environment, profile, web identity, container, instance), shared by
//! the whole process.
//!
//! The SDK would query it for each client, and object_store has its own chain. Here all clients share one result: new
//! credentials are fetched in the background while the old ones are still valid, and a caller without valid ones waits
//! for a while. On an instance that has just started, the credentials of its role become available a moment after it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, watch};

use super::pause::pause_after;
use crate::clock::Clock;
use crate::error;

/// Timeout for callers that wait for the first credentials: longer than the SDK needs when the metadata service fails
/// four times in a row, and no longer than a request to S3 is retried.
pub const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(20);
/// Remaining lifetime below which credentials are renewed. EC2 provides the next ones five minutes before the end at
/// the latest. <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-security-credentials.html>
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// Remaining lifetime below which the lack of newer credentials is logged.
const LATE: Duration = Duration::from_secs(60);
/// Timeout of one query of the chain. The SDK tries the metadata service four times, for the role and for its key.
const ROUND_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after the first round without new credentials. It doubles with each further one, up to `LONGEST_PAUSE`.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Credentials of this process. Clones share one chain.
#[derive(Clone)]
pub struct Chain(Arc<Inner>);

struct Inner {
    region: Option<Region>,
    clock: Clock,
    source: OnceCell<Option<SharedCredentialsProvider>>,
    state: Mutex<State>,
    /// Notifies waiting callers at the end of each round.
    rounds: watch::Sender<()>,
}

/// Error for a caller that has waited for credentials until its limit.
#[derive(Debug)]
pub struct NoCredentials {
    limit: Duration,
    reason: String,
}

impl fmt::Display for NoCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there are no credentials of AWS within {} s: {}", self.limit.as_secs(), self.reason)
    }
}

impl std::error::Error for NoCredentials {}

#[derive(Default)]
struct State {
    kept: Option<Credentials>,
    /// Whether the chain is being queried, or pauses after a round without result.
    is_refreshing: bool,
    /// Number of consecutive rounds without new credentials, and the reason of the last one.
    in_vain: u32,
    reason: String,
}

impl Chain {
    /// Makes a chain, without querying it yet. Only an assumed role needs `region`; without one, the SDK determines it.
    pub fn new(region: Option<&str>, clock: Clock) -> Chain {
        Chain(Arc::new(Inner {
            region: region.map(|region| Region::new(region.to_owned())),
            clock,
            source: OnceCell::new(),
            state: Mutex::default(),
            rounds: watch::Sender::new(()),
        }))
    }

    /// Returns credentials that are valid now.
    ///
    /// # Errors
    /// There are none within `limit`; the error includes the reason.
    pub async fn credentials(&self, limit: Duration) -> Result<Credentials, NoCredentials> {
        let mut rounds = self.0.rounds.subscribe();
        let waiting = async {
            loop {
                if let Some(good) = self.good() {
                    return Some(good);
                }
                self.renew();
                rounds.changed().await.ok()?;
            }
        };
        if let Ok(Some(good)) = tokio::time::timeout(limit, waiting).await {
            return Ok(good);
        }
        let reason = self.0.state.lock().reason.clone();
        let reason = if reason.is_empty() { "nobody answers".to_owned() } else { reason };
        Err(NoCredentials { limit, reason })
    }

    /// Remaining lifetime of credentials that are valid now; `None`: they do not expire.
    ///
    /// # Errors
    /// Same as `credentials`.
    pub async fn left(&self, limit: Duration) -> Result<Option<Duration>, NoCredentials> {
        Ok(self.left_of(&self.credentials(limit).await?))
    }

    /// Waits until the stored credentials are newer than these.
    pub async fn newer_than(&self, credentials: &Credentials) {
        let mut rounds = self.0.rounds.subscribe();
        while !self.0.state.lock().kept.as_ref().is_some_and(|kept| is_other(credentials, kept)) {
            // This cannot fail: the sender is part of `self`.
            let _ = rounds.changed().await;
        }
    }

    /// Requests new credentials in the background, unless a round is already running.
    pub fn renew(&self) {
        if !std::mem::replace(&mut self.0.state.lock().is_refreshing, true) {
            // In a separate task: the caller may stop waiting for it while others still do.
            tokio::spawn(self.clone().refresh());
        }
    }

    /// The stored credentials, unless they have expired. If they will soon, new ones are requested.
    fn good(&self) -> Option<Credentials> {
        let kept = self.0.state.lock().kept.clone()?;
        let Some(left) = self.left_of(&kept) else { return Some(kept) };
        if left < RENEW_BEFORE {
            self.renew();
        }
        (left > Duration::ZERO).then_some(kept)
    }

    /// Remaining lifetime; `None`: they do not expire.
    fn left_of(&self, credentials: &Credentials) -> Option<Duration> {
        let now = SystemTime::from(self.0.clock.now());
        credentials.expiry().map(|end| end.duration_since(now).unwrap_or_default())
    }

    /// Runs one round: queries the chain, and pauses if it returned nothing new.
    async fn refresh(self) {
        let outcome = tokio::time::timeout(ROUND_TIMEOUT, self.query_source()).await;
        let found = outcome.unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(ROUND_TIMEOUT)));
        let pause = self.take(found);
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        self.0.state.lock().is_refreshing = false;
        self.0.rounds.send_replace(());
    }

    async fn query_source(&self) -> provider::Result {
        let load = || async {
            let mut loader = aws_config::defaults(BehaviorVersion::latest());
            if let Some(region) = &self.0.region {
                loader = loader.region(region.clone());
            }
            loader.load().await.credentials_provider()
        };
        match self.0.source.get_or_init(load).await {
            Some(source) => source.provide_credentials().await,
            None => Err(CredentialsError::not_loaded("the SDK knows no chain")),
        }
    }

    /// Stores credentials if they are new; otherwise returns how long to pause.
    fn take(&self, found: provider::Result) -> Option<Duration> {
        let mut state = self.0.state.lock();
        let left = state.kept.as_ref().and_then(|kept| self.left_of(kept));
        let reason = match found {
            Ok(found) if self.left_of(&found) == Some(Duration::ZERO) => {
                Some("those that the chain knows are over".to_owned())
            }
            Ok(found) => {
                state.reason.clear();
                if state.kept.as_ref().is_none_or(|kept| is_other(kept, &found)) {
                    state.kept = Some(found);
                    state.in_vain = 0;
                    return None;
                }
                // The next ones are not available yet. The SDK also returns the old ones if the metadata service does
                // not answer.
                let is_late = left.is_some_and(|left| left < LATE);
                is_late.then(|| "the chain still knows the same ones".to_owned())
            }
            Err(error) => Some(error::chain(&error)),
        };
        state.in_vain = state.in_vain.saturating_add(1);
        if let Some(reason) = reason {
            counter!("salebell_aws_credentials_failures_total").increment(1);
            match left {
                Some(left) => log::warn!(target: "salebell::aws",
                    "the credentials of AWS have {} s left, and there are no others: {reason}", left.as_secs()),
                None => log::warn!(target: "salebell::aws", "there are no credentials of AWS: {reason}"),
            }
            state.reason = reason;
        }
        Some(pause_after(state.in_vain, FIRST_PAUSE, LONGEST_PAUSE))
    }
}

/// Whether credentials are newer than the stored ones. Those of a role have another key each time.
fn is_other(kept: &Credentials, found: &Credentials) -> bool {
    kept.access_key_id() != found.access_key_id() || kept.expiry() < found.expiry()
}

impl ProvideCredentials for Chain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let found = self.credentials(CREDENTIALS_TIMEOUT);
        future::ProvideCredentials::new(async { found.await.map_err(CredentialsError::provider_error) })
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chain")
    }
}
