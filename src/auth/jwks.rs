//! Public keys of token issuers (RFC 7517), which are cached, and fetched again when a token names an unknown key.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::Algorithm;
use parking_lot::Mutex;
use serde_json::Value;

use super::fetch::fetch;
use crate::clock::Clock;
use crate::domain::public_keys::{PublicKey, read_keys};
use crate::error::{Error, Result};

/// Shortest interval between fetches for unknown keys, regardless of the number of tokens that name one.
const PAUSE: TimeDelta = TimeDelta::seconds(30);
/// Shortest interval between fetches while there are no keys, and no token can be verified.
const PAUSE_WITHOUT_KEYS: TimeDelta = TimeDelta::seconds(2);
/// Age from which keys are fetched again in the background, which drops those that their issuer has withdrawn.
const MAX_AGE: TimeDelta = TimeDelta::minutes(10);
/// Largest key set, in bytes.
const MAX_BYTES: usize = 256 * 1024;

/// The keys of one issuer.
#[derive(Clone)]
pub struct KeySet(Arc<Inner>);

struct Inner {
    url: Option<String>,
    clock: Clock,
    state: Mutex<State>,
    /// Held while fetching: there is one fetch at a time, and other callers wait for its result.
    fetching: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct State {
    keys: Vec<Arc<PublicKey>>,
    fetched_at: Option<DateTime<Utc>>,
    tried_at: Option<DateTime<Utc>>,
}

impl KeySet {
    /// Creates a set of the keys that the configuration contains.
    pub fn inline(set: &Value, clock: Clock) -> KeySet {
        KeySet::new(None, read_keys(set), clock)
    }

    /// Creates a set of keys that are fetched when they are first needed.
    pub fn at(url: &str, clock: Clock) -> KeySet {
        KeySet::new(Some(url.to_owned()), Vec::new(), clock)
    }

    fn new(url: Option<String>, keys: Vec<PublicKey>, clock: Clock) -> KeySet {
        let state = Mutex::new(State { keys: share(keys), ..State::default() });
        KeySet(Arc::new(Inner { url, clock, state, fetching: Arc::default() }))
    }

    /// Finds the key that a token names, for its algorithm. A token that names none refers to the only key of the
    /// algorithm.
    ///
    /// # Errors
    /// `Unavailable` if there are no keys because the issuer does not answer.
    pub async fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Option<Arc<PublicKey>>> {
        if let Some(found) = self.known(id, algorithm) {
            self.refresh_in_background();
            return Ok(Some(found));
        }
        if self.0.url.is_none() {
            return Ok(None);
        }
        let fetching = self.0.fetching.clone().lock_owned().await;
        // The previous holder of the lock may have fetched the key, or may just have failed to.
        if let Some(found) = self.known(id, algorithm) {
            return Ok(Some(found));
        }
        if self.may_try() {
            // A separate task, because a client that disconnects must not cancel the fetch for the other callers.
            let own = self.clone();
            let fetched = tokio::spawn(async move {
                own.fetch().await;
                drop(fetching);
            });
            fetched.await.map_err(Error::internal)?;
        }
        match self.known(id, algorithm) {
            None if self.0.state.lock().keys.is_empty() => {
                Err(Error::unavailable("the keys of the token's issuer cannot be fetched"))
            }
            found => Ok(found),
        }
    }

    fn known(&self, id: Option<&str>, algorithm: Algorithm) -> Option<Arc<PublicKey>> {
        let state = self.0.state.lock();
        let mut fitting = state.keys.iter().filter(|key| key.algorithm == algorithm);
        match id {
            Some(id) => fitting.find(|key| key.id.as_deref() == Some(id)).cloned(),
            None => fitting.next().filter(|_| fitting.next().is_none()).cloned(),
        }
    }

    fn may_try(&self) -> bool {
        let state = self.0.state.lock();
        let pause = if state.keys.is_empty() { PAUSE_WITHOUT_KEYS } else { PAUSE };
        state.tried_at.is_none_or(|at| self.0.clock.now() - at >= pause)
    }

    fn refresh_in_background(&self) {
        let now = self.0.clock.now();
        let old = self.0.state.lock().fetched_at.is_some_and(|at| now - at >= MAX_AGE);
        if !old || !self.may_try() {
            return;
        }
        if let Ok(fetching) = self.0.fetching.clone().try_lock_owned() {
            let own = self.clone();
            tokio::spawn(async move {
                own.fetch().await;
                drop(fetching);
            });
        }
    }

    /// Replaces the keys; the current ones stay if the issuer is unavailable or its response is invalid.
    async fn fetch(&self) {
        let Some(url) = &self.0.url else { return };
        self.0.state.lock().tried_at = Some(self.0.clock.now());
        match download(url).await {
            Ok(keys) => {
                let mut state = self.0.state.lock();
                state.keys = share(keys);
                state.fetched_at = Some(self.0.clock.now());
            }
            Err(reason) => {
                log::warn!(target: "salebell::jwks", "the keys at {url} cannot be fetched: {reason}");
            }
        }
        // The pause also starts at the end of a fetch: callers that waited for a slow one must not start another at
        // once.
        self.0.state.lock().tried_at = Some(self.0.clock.now());
    }
}

fn share(keys: Vec<PublicKey>) -> Vec<Arc<PublicKey>> {
    keys.into_iter().map(Arc::new).collect()
}

async fn download(url: &str) -> Result<Vec<PublicKey>, String> {
    let (status, body) = fetch(url, MAX_BYTES).await?;
    if !(200..300).contains(&status) {
        return Err(format!("status {status}"));
    }
    let set: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    match read_keys(&set) {
        keys if keys.is_empty() => Err("there is no key in it that we can use".to_owned()),
        keys => Ok(keys),
    }
}
