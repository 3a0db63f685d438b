//! Authentication of callers. A bearer token is an API key or a JSON Web Token, and belongs to an account, as does the
//! load balancer's description of a browser's user.
//!
//! Verified tokens are cached briefly: a caller's hundredth request costs a hash and no query. A revoked API key is
//! refused at once by the process that revoked it, and after at most `KEY_MEMORY` by all others.
//!
//! While the database is unavailable, an API key that was valid within `KEPT` is still accepted, but marked as
//! unconfirmed. That suffices for requests that do not need the database (`POST /v1/prices` on a bus of its own), and
//! for no others.

pub mod fetch;
pub mod issuers;
pub mod jwks;
pub mod load_balancer;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::{Mutex, RwLock};

use crate::auth::issuers::{Claims, Issuers, LEEWAY};
use crate::auth::load_balancer::LoadBalancer;
use crate::clock::Clock;
use crate::config::AuthConfig;
use crate::database::deadline::Deadline;
use crate::database::pool::PgPool;
use crate::domain::api_key;
use crate::domain::ids::{AccountId, ApiKeyId};
use crate::error::{Error, Kind, Result, chain};
use crate::store::activity_counter::Activity;
use crate::store::{accounts, keys};

/// How long a valid API key is cached without querying the database.
const KEY_MEMORY: TimeDelta = TimeDelta::seconds(5);
/// How long an API key that was valid is accepted while the database is unavailable.
const KEPT: TimeDelta = TimeDelta::hours(1);
/// Timeout of the query that confirms a known key.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval after which the database is queried again for a key that it could not confirm.
const CONFIRM_AGAIN: TimeDelta = TimeDelta::seconds(1);
/// How long a verified JWT is cached at most, because its issuer may withdraw the key.
const JWT_MEMORY: TimeDelta = TimeDelta::minutes(5);
/// Shortest interval between updates of a key's `last_used_at`.
const USE_RESOLUTION: TimeDelta = TimeDelta::seconds(60);
/// Timeout of an update of `last_used_at`.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of tokens in each cache.
const MAX_TOKENS: usize = 10_000;
/// Maximum number of accounts that are cached by issuer and subject.
const MAX_ACCOUNTS: usize = 50_000;

/// A caller with a valid token. Every query for resources of an account is restricted to its `account`.
#[derive(Clone, Debug)]
pub struct Caller {
    pub account: AccountId,
    pub scopes: Arc<[String]>,
    /// Id and expiry of the API key, if the caller used one.
    pub key: Option<(ApiKeyId, Option<DateTime<Utc>>)>,
    /// Whether the key was valid recently, but the database is unavailable and cannot confirm it.
    pub unconfirmed: bool,
}

impl Caller {
    /// Whether the token has the scope.
    pub fn may(&self, scope: &str) -> bool {
        self.scopes.iter().any(|own| own == scope)
    }

    /// Checks that the token has the scope.
    ///
    /// # Errors
    /// `Forbidden` if the token lacks the scope.
    pub fn require(&self, scope: &str) -> Result<()> {
        if self.may(scope) {
            return Ok(());
        }
        Err(Error::new(Kind::Forbidden, format!("The token lacks the scope {scope}.")))
    }
}

/// Finds the caller of a token.
pub struct Authenticator {
    issuers: RwLock<Arc<Issuers>>,
    load_balancer: Option<LoadBalancer>,
    pool: PgPool,
    clock: Clock,
    deadline: Deadline,
    activity: Activity,
    tokens: TtlCache<TokenHash, Caller>,
    /// Callers by the load balancer's tokens. They are kept apart because these tokens are not valid as bearer tokens.
    users: TtlCache<TokenHash, Caller>,
    /// Callers by API keys that were valid, for times when the database is unavailable.
    known: TtlCache<TokenHash, Caller>,
    accounts: TtlCache<(String, String), AccountId>,
}

type TokenHash = [u8; 32];

impl Authenticator {
    /// Creates an authenticator. `pool` must be the writer's: a replica may lack a key that was just created.
    pub fn new(
        settings: &AuthConfig,
        pool: PgPool,
        clock: Clock,
        deadline: Deadline,
        activity: Activity,
    ) -> Authenticator {
        Authenticator {
            issuers: RwLock::new(Arc::new(Issuers::new(settings, &clock))),
            load_balancer: settings.alb.as_ref().map(|alb| LoadBalancer::new(alb, &clock)),
            pool,
            clock,
            deadline,
            activity,
            tokens: TtlCache::new(MAX_TOKENS),
            users: TtlCache::new(MAX_TOKENS),
            known: TtlCache::new(MAX_TOKENS),
            accounts: TtlCache::new(MAX_ACCOUNTS),
        }
    }

    /// Returns the caller of a bearer token.
    ///
    /// # Errors
    /// `Unauthenticated` with the reason if the token is invalid; `Unavailable` if it cannot be looked up.
    pub async fn authenticate(&self, token: &str) -> Result<Caller> {
        let (hash, now) = (hash(token), self.clock.now());
        if let Some(caller) = self.tokens.get(&hash, now) {
            return Ok(caller);
        }
        let (caller, until) = if api_key::is_well_formed(token) {
            self.find_key(&hash, now).await?
        } else if token.matches('.').count() == 2 {
            let issuers = self.issuers.read().clone();
            self.admit(issuers.verify(token).await?, now).await?
        } else {
            return Err(Error::new(Kind::Unauthenticated, "The token is not valid."));
        };
        self.activity.note_login(caller.account, now);
        self.tokens.put(hash, caller.clone(), until, now);
        Ok(caller)
    }

    /// Returns the user that the load balancer describes in `x-amzn-oidc-data`. The caller of this function must have
    /// made sure that the request came through the load balancer.
    ///
    /// # Errors
    /// Those of [`authenticate`](Self::authenticate).
    pub async fn authenticate_user(&self, token: &str) -> Result<Caller> {
        let (hash, now) = (hash(token), self.clock.now());
        if let Some(caller) = self.users.get(&hash, now) {
            return Ok(caller);
        }
        let load_balancer = self.load_balancer.as_ref();
        let load_balancer =
            load_balancer.ok_or_else(|| Error::new(Kind::Unauthenticated, "No load balancer is trusted."))?;
        let (caller, until) = self.admit(load_balancer.verify(token).await?, now).await?;
        self.activity.note_login(caller.account, now);
        self.users.put(hash, caller.clone(), until, now);
        Ok(caller)
    }

    /// Replaces the trusted issuers, and drops all cached tokens except API keys.
    pub fn trust(&self, settings: &AuthConfig) {
        let issuers = Arc::new(Issuers::new(settings, &self.clock));
        *self.issuers.write() = issuers;
        self.tokens.forget(|caller| caller.key.is_none());
    }

    /// Removes an API key from this process's caches, so its next use queries the database.
    pub fn forget_key(&self, id: ApiKeyId) {
        for memory in [&self.tokens, &self.known] {
            memory.forget(|caller| caller.key.is_some_and(|(own, _)| own == id));
        }
    }

    async fn find_key(&self, hash: &TokenHash, now: DateTime<Utc>) -> Result<(Caller, DateTime<Utc>)> {
        let find = keys::find_valid_key(&self.pool, hash, now);
        let found = match self.known.get(hash, now) {
            None => find.await?,
            Some(known) => match self.deadline.run(CONFIRM_TIMEOUT, find).await {
                Err(error) if error.kind == Kind::Unavailable => {
                    return Ok((Caller { unconfirmed: true, ..known }, now + CONFIRM_AGAIN));
                }
                found => found?,
            },
        };
        let Some(key) = found else {
            self.known.remove(hash);
            let detail = "The API key is unknown, revoked or expired.";
            return Err(Error::new(Kind::Unauthenticated, detail));
        };
        if key.last_used_at.is_none_or(|at| now - at >= USE_RESOLUTION) {
            // The request does not wait for the update.
            let (pool, id, deadline) = (self.pool.clone(), key.id, self.deadline.clone());
            tokio::spawn(async move {
                let noting = keys::note_use(&pool, id, now, now - USE_RESOLUTION);
                if let Ok(Err(error)) = deadline.timeout(LOOKUP_TIMEOUT, noting).await {
                    log::warn!(target: "salebell::callers", "a key's use is not noted: {}", chain(&error));
                }
            });
        }
        let until = key.expires_at.map_or(now + KEY_MEMORY, |end| end.min(now + KEY_MEMORY));
        let caller = Caller {
            account: key.account_id,
            scopes: key.scopes.into(),
            key: Some((key.id, key.expires_at)),
            unconfirmed: false,
        };
        let kept = key.expires_at.map_or(now + KEPT, |end| end.min(now + KEPT));
        self.known.put(*hash, caller.clone(), kept, now);
        Ok((caller, until))
    }

    /// Finds or creates the account of verified claims, and returns the time until which the token may be cached.
    async fn admit(&self, claims: Claims, now: DateTime<Utc>) -> Result<(Caller, DateTime<Utc>)> {
        let until = claims.expires_at.min(now + JWT_MEMORY - LEEWAY) + LEEWAY;
        let who = (claims.issuer, claims.subject);
        let account = match self.accounts.get(&who, now) {
            Some(account) => account,
            None => {
                let account = accounts::find_or_create_account(&self.pool, &who.0, &who.1, now).await?;
                self.accounts.put(who, account, DateTime::<Utc>::MAX_UTC, now);
                account
            }
        };
        Ok((Caller { account, scopes: claims.scopes.into(), key: None, unconfirmed: false }, until))
    }
}

fn hash(token: &str) -> TokenHash {
    let mut hash = TokenHash::default();
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

/// A cache of bounded size, each of whose entries has an expiry time.
struct TtlCache<K, V> {
    known: Mutex<HashMap<K, (V, DateTime<Utc>)>>,
    most: usize,
}

impl<K: Eq + Hash, V: Clone> TtlCache<K, V> {
    fn new(most: usize) -> Self {
        TtlCache { known: Mutex::default(), most }
    }

    fn get(&self, key: &K, now: DateTime<Utc>) -> Option<V> {
        self.known.lock().get(key).filter(|(_, until)| *until > now).map(|(value, _)| value.clone())
    }

    fn put(&self, key: K, value: V, until: DateTime<Utc>, now: DateTime<Utc>) {
        let mut known = self.known.lock();
        if known.len() >= self.most {
            known.retain(|_, (_, until)| *until > now);
            // No entry has expired: clearing the cache costs one lookup for each.
            if known.len() >= self.most {
                known.clear();
            }
        }
        known.insert(key, (value, until));
    }

    fn remove(&self, key: &K) {
        self.known.lock().remove(key);
    }

    fn forget(&self, which: impl Fn(&V) -> bool) {
        self.known.lock().retain(|_, (value, _)| !which(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_expires_its_entries_and_never_exceeds_its_limit() {
        let memory = TtlCache::new(3);
        let at = |second| DateTime::from_timestamp(second, 0).unwrap();
        for key in 0..3 {
            memory.put(key, key, at(10 + key), at(0));
        }
        assert_eq!((memory.get(&0, at(9)), memory.get(&0, at(10))), (Some(0), None));
        // The cache is full: an expired entry is removed.
        memory.put(3, 3, at(20), at(10));
        assert_eq!((memory.get(&2, at(10)), memory.known.lock().len()), (Some(2), 3));
        // The cache is full and no entry has expired: all are removed.
        memory.put(4, 4, at(20), at(10));
        assert_eq!((memory.get(&2, at(10)), memory.get(&4, at(10))), (None, Some(4)));
        memory.forget(|value| *value == 4);
        assert_eq!(memory.get(&4, at(10)), None);
    }
}
