//! Verification of the header `x-amzn-oidc-data`, in which an Application Load Balancer describes the user whom it has
//! authenticated.
//! <https://docs.aws.amazon.com/elasticloadbalancing/latest/application/listener-authenticate-users.html>
//!
//! The header is a JSON Web Token signed with ES256. Its parts are base64url with padding, which RFC 7515 forbids, so
//! it is parsed here. The token's header holds `kid`, `signer` (the load balancer), `iss`, `client` and `exp`. Every
//! load balancer of a region signs with the same keys, so only `signer` distinguishes ours from others.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::Arc;
use tokio_rustls::rustls::pki_types::SubjectPublicKeyInfoDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use uuid::Uuid;

use super::fetch::fetch;
use super::issuers::{Claims, LEEWAY, known_scopes, refuse, subject, time, words};
use crate::clock::Clock;
use crate::config;
use crate::error::{Error, Result};

/// Longest token, in bytes. The load balancer's own limit for claims and token is 11 KiB.
const MAX_TOKEN: usize = 16 * 1024;
const PADDED: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The trusted load balancer.
pub struct LoadBalancer {
    settings: config::LoadBalancerConfig,
    keys: Keys,
    clock: Clock,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
    signer: String,
    iss: String,
    client: String,
    /// Expiry, sent as a number, although the documentation shows a string.
    exp: Value,
    crit: Option<Value>,
}

impl LoadBalancer {
    /// Creates the verifier; `Config::load` has checked `settings`.
    pub fn new(settings: &config::LoadBalancerConfig, clock: &Clock) -> LoadBalancer {
        LoadBalancer {
            keys: Keys::at(&settings.keys_url, clock),
            settings: settings.clone(),
            clock: clock.clone(),
        }
    }

    /// Verifies the header's value.
    ///
    /// # Errors
    /// `Unauthenticated` with the reason if the token is invalid, `Unavailable` if the key cannot be fetched.
    pub async fn verify(&self, token: &str) -> Result<Claims> {
        if token.len() > MAX_TOKEN {
            return Err(refuse("The load balancer's token is too long."));
        }
        let unreadable = || refuse("The load balancer's token cannot be read.");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(unreadable)?;
        let (header, claims) = signed.split_once('.').ok_or_else(unreadable)?;
        let header: Header = read(header).ok_or_else(unreadable)?;
        let claims: Map<String, Value> = read(claims).ok_or_else(unreadable)?;
        let signature = PADDED.decode(signature).map_err(|_| unreadable())?;
        // Cheap checks come first: a key is fetched only for a token that could be ours.
        let kid = self.check_header(&header)?;
        let mut expires_at = expiry(&header.exp)?.ok_or_else(unreadable)?;
        if let Some(also) = claims.get("exp") {
            expires_at = expires_at.min(expiry(also)?.ok_or_else(unreadable)?);
        }
        if self.clock.now() - LEEWAY >= expires_at {
            return Err(refuse("The load balancer's token has expired."));
        }
        if claims.get("iss").is_some_and(|iss| iss.as_str() != Some(&self.settings.issuer)) {
            return Err(refuse("The load balancer's token names another issuer."));
        }
        let key = self.keys.find(kid).await?;
        let key = key.ok_or_else(|| refuse("The key of the load balancer's token is unknown."))?;
        key.verify_sig(signed.as_bytes(), &signature)
            .map_err(|_| refuse("The signature of the load balancer's token is not valid."))?;
        Ok(Claims {
            issuer: self.settings.issuer.clone(),
            subject: subject(&claims)?,
            scopes: self.scopes(&claims),
            expires_at,
        })
    }

    fn check_header(&self, header: &Header) -> Result<Uuid> {
        if header.alg != "ES256" || header.crit.is_some() {
            return Err(refuse("The load balancer's token has another signature algorithm."));
        }
        let ours = header.signer == self.settings.arn
            && header.iss == self.settings.issuer
            && header.client == self.settings.client_id;
        if !ours {
            return Err(refuse("The token is not from our load balancer."));
        }
        // Only a canonical UUID is accepted, because it becomes part of a URL.
        let kid = Uuid::try_parse(&header.kid).ok();
        kid.filter(|id| id.hyphenated().to_string() == header.kid)
            .ok_or_else(|| refuse("The key of the load balancer's token is unknown."))
    }

    fn scopes(&self, claims: &Map<String, Value>) -> Vec<String> {
        let claim = self.settings.scope_claim.as_ref().and_then(|name| claims.get(name));
        let of_claim =
            words(claim).into_iter().filter_map(|word| word.strip_prefix(&self.settings.scope_prefix));
        known_scopes(of_claim.chain(self.settings.scopes.iter().map(String::as_str)))
    }
}

fn read<T: DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&PADDED.decode(part).ok()?).ok()
}

/// Parses a NumericDate, which is a number or its digits.
fn expiry(value: &Value) -> Result<Option<DateTime<Utc>>> {
    match value.as_str().map(str::parse::<i64>) {
        Some(digits) => Ok(digits.ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0))),
        None => time(Some(value)),
    }
}

/// Largest key, in bytes. A key is a few hundred bytes of PEM.
const MAX_BYTES: usize = 4 * 1024;
/// Maximum number of keys that are cached. AWS rotates them rarely.
const MAX_KEYS: usize = 50;
/// Shortest interval between requests for the same unknown key.
const PAUSE: chrono::TimeDelta = chrono::TimeDelta::seconds(30);
/// Shortest interval between requests for the same key after one that failed.
const PAUSE_AFTER_FAILURE: chrono::TimeDelta = chrono::TimeDelta::seconds(2);
/// Maximum number of key ids that are requested in one `PAUSE`, since any client can make up ids.
const MAX_TRIES: usize = 20;

/// Public keys of the load balancers of a region. A key never changes, so a cached one is kept even if its URL no
/// longer serves it.
struct Keys {
    base: String,
    clock: Clock,
    state: Arc<Mutex<State>>,
    /// Held while fetching: there is one fetch at a time, and other callers wait for its result.
    fetching: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct State {
    keys: HashMap<Uuid, (Arc<ParsedPublicKey>, DateTime<Utc>)>,
    /// Requests that returned no key, and their time.
    tries: HashMap<Uuid, (Outcome, DateTime<Utc>)>,
}

#[derive(Clone, Copy)]
enum Outcome {
    /// The request is in progress.
    Open,
    NoSuchKey,
    NoAnswer,
}

impl Keys {
    fn at(base: &str, clock: &Clock) -> Keys {
        let (state, fetching) = (Arc::default(), Arc::default());
        Keys { base: base.to_owned(), clock: clock.clone(), state, fetching }
    }

    /// Finds a key by its id. `None`: there is no such key.
    ///
    /// # Errors
    /// `Unavailable` if the server of the keys does not answer, or too many unknown keys are requested.
    async fn find(&self, id: Uuid) -> Result<Option<Arc<ParsedPublicKey>>> {
        if let Some(known) = self.known(id)? {
            return Ok(known);
        }
        let fetching = self.fetching.clone().lock_owned().await;
        // The previous holder of the lock may have fetched the key, or may have failed to.
        if let Some(known) = self.known(id)? {
            return Ok(known);
        }
        self.note_try(id)?;
        let (url, clock, state) = (format!("{}/{id}", self.base), self.clock.clone(), self.state.clone());
        // A separate task, because a client that disconnects must not cancel the fetch for the other callers.
        let fetched = tokio::spawn(async move {
            let fetched = download(&url).await;
            let (mut state, now) = (state.lock(), clock.now());
            match fetched {
                Ok(Some(key)) => state.keep(id, key, now),
                Ok(None) => drop(state.tries.insert(id, (Outcome::NoSuchKey, now))),
                Err(reason) => {
                    state.tries.insert(id, (Outcome::NoAnswer, now));
                    log::warn!(target: "salebell::load_balancer", "the key at {url} cannot be fetched: {reason}");
                }
            }
            drop(fetching);
        });
        fetched.await.map_err(Error::internal)?;
        Ok(self.known(id)?.flatten())
    }

    /// The cached result for a key. `None`: it must be requested; `Some(None)`: there is no such key.
    fn known(&self, id: Uuid) -> Result<Option<Option<Arc<ParsedPublicKey>>>> {
        let state = self.state.lock();
        if let Some((key, _)) = state.keys.get(&id) {
            return Ok(Some(Some(key.clone())));
        }
        let now = self.clock.now();
        match state.tries.get(&id) {
            Some((Outcome::NoSuchKey, at)) if now - *at < PAUSE => Ok(Some(None)),
            Some((Outcome::NoAnswer, at)) if now - *at < PAUSE_AFTER_FAILURE => {
                Err(Error::unavailable("the keys of the load balancer cannot be fetched"))
            }
            _ => Ok(None),
        }
    }

    fn note_try(&self, id: Uuid) -> Result<()> {
        let (mut state, now) = (self.state.lock(), self.clock.now());
        state.tries.retain(|_, (_, at)| now - *at < PAUSE);
        if state.tries.len() >= MAX_TRIES && !state.tries.contains_key(&id) {
            return Err(Error::unavailable("too many unknown keys are asked for in x-amzn-oidc-data"));
        }
        state.tries.insert(id, (Outcome::Open, now));
        Ok(())
    }
}

impl State {
    fn keep(&mut self, id: Uuid, key: ParsedPublicKey, now: DateTime<Utc>) {
        self.tries.remove(&id);
        if self.keys.len() >= MAX_KEYS {
            let oldest = self.keys.iter().min_by_key(|(_, (_, at))| *at).map(|(id, _)| *id);
            oldest.map(|id| self.keys.remove(&id));
        }
        self.keys.insert(id, (Arc::new(key), now));
    }
}

/// Fetches a key. `None`: there is no such key.
async fn download(url: &str) -> Result<Option<ParsedPublicKey>, String> {
    match fetch(url, MAX_BYTES).await? {
        (200, pem) => {
            let key = SubjectPublicKeyInfoDer::from_pem_slice(&pem).map_err(|error| error.to_string())?;
            let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key);
            key.map(Some).map_err(|error| format!("it is no key for ES256: {error}"))
        }
        // The keys are in a bucket that answers 403 for an object that does not exist.
        (403 | 404, _) => Ok(None),
        (status, _) => Err(format!("status {status}")),
    }
}
