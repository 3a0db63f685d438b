//! Trusted token issuers: verification of JSON Web Tokens (RFC 7519, following the best practices of RFC 8725) of the
//! issuers that the configuration lists.

use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{Algorithm, Validation, dangerous, decode, decode_header};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::jwks::KeySet;
use crate::clock::Clock;
use crate::config;
use crate::domain::api_key;
use crate::error::{Error, Kind, Result};

/// Tolerated difference between clocks.
pub const LEEWAY: TimeDelta = TimeDelta::seconds(60);
/// Longest token, in bytes; no reasonable issuer exceeds it.
const MAX_TOKEN: usize = 8 * 1024;
/// Longest subject, in bytes.
const MAX_SUBJECT: usize = 255;

/// Verified claims of a token.
#[derive(Debug)]
pub struct Claims {
    pub issuer: String,
    pub subject: String,
    /// The scopes that Salebell knows.
    pub scopes: Vec<String>,
    pub expires_at: DateTime<Utc>,
}

/// The issuers and their keys.
pub struct Issuers {
    list: Vec<Issuer>,
    clock: Clock,
}

struct Issuer {
    settings: config::Issuer,
    algorithms: Vec<Algorithm>,
    keys: KeySet,
}

impl Issuers {
    /// Creates the issuers; `Config::load` has checked `settings`.
    pub fn new(settings: &config::AuthConfig, clock: &Clock) -> Issuers {
        let issuer = |settings: &config::Issuer| Issuer {
            algorithms: settings.algorithms.iter().filter_map(|name| name.parse().ok()).collect(),
            keys: match (&settings.jwks_url, &settings.jwks) {
                (Some(url), _) => KeySet::at(url, clock.clone()),
                (None, set) => KeySet::inline(set.as_ref().unwrap_or(&Value::Null), clock.clone()),
            },
            settings: settings.clone(),
        };
        Issuers { list: settings.issuers.iter().map(issuer).collect(), clock: clock.clone() }
    }

    /// Verifies a token.
    ///
    /// # Errors
    /// `Unauthenticated` with the reason if the token is invalid, `Unavailable` if its issuer's keys cannot be fetched.
    pub async fn verify(&self, token: &str) -> Result<Claims> {
        if token.len() > MAX_TOKEN {
            return Err(refuse("The token is too long."));
        }
        let unreadable = |_| refuse("The token is not valid.");
        // `none` is not among the algorithms, so a token that states it cannot even be parsed.
        let header = decode_header(token).map_err(unreadable)?;
        if header.crit.is_some() {
            return Err(refuse("The token has unknown critical extensions."));
        }
        let unproved: Issued = dangerous::insecure_decode_claims(token).map_err(unreadable)?;
        let issuer = self.list.iter().find(|own| own.settings.issuer == unproved.iss);
        let issuer = issuer.ok_or_else(|| refuse("The token's issuer is not trusted."))?;
        if !issuer.algorithms.contains(&header.alg) {
            return Err(refuse("The token's algorithm is not allowed for its issuer."));
        }
        let key = issuer.keys.find(header.kid.as_deref(), header.alg).await?;
        let key = key.ok_or_else(|| refuse("The token's key is unknown."))?;
        let claims = decode::<Map<String, Value>>(token, &key.key, &signature_alone(header.alg));
        let claims = claims.map_err(|_| refuse("The token's signature is not valid."))?.claims;
        issuer.check(&claims, self.clock.now())
    }
}

/// Settings that verify only the signature. [`Issuer::check`] checks the claims, because it uses our clock, and
/// `client_id` if there is no `aud`.
fn signature_alone(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

#[derive(Deserialize)]
struct Issued {
    iss: String,
}

pub(super) fn refuse(detail: &str) -> Error {
    Error::new(Kind::Unauthenticated, detail)
}

impl Issuer {
    fn check(&self, claims: &Map<String, Value>, now: DateTime<Utc>) -> Result<Claims> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        if text("iss") != Some(&self.settings.issuer) {
            return Err(refuse("The token's issuer is not trusted."));
        }
        let expires_at = time(claims.get("exp"))?.ok_or_else(|| refuse("The token has no expiry."))?;
        if now - LEEWAY >= expires_at {
            return Err(refuse("The token has expired."));
        }
        if time(claims.get("nbf"))?.is_some_and(|from| now + LEEWAY < from) {
            return Err(refuse("The token is not valid yet."));
        }
        // Cognito's identity tokens are meant for the client that requested them, not for an API.
        if claims.get("token_use").is_some_and(|kind| kind != "access") {
            return Err(refuse("The token is not an access token."));
        }
        if !self.is_for_us(claims) {
            return Err(refuse("The token is for another audience."));
        }
        Ok(Claims {
            issuer: self.settings.issuer.clone(),
            subject: subject(claims)?,
            scopes: self.scopes(claims),
            expires_at,
        })
    }

    /// Whether the token is meant for Salebell. RFC 7519 defines `aud`; Cognito's access tokens have `client_id` and,
    /// unless requested, no `aud`.
    fn is_for_us(&self, claims: &Map<String, Value>) -> bool {
        let client = claims.get("client_id").and_then(Value::as_str);
        let is_audience = |name: &str| self.settings.audiences.iter().any(|own| own == name);
        let is_client = |name: &str| self.settings.client_ids.iter().any(|own| own == name);
        let pinned = !self.settings.client_ids.is_empty();
        if pinned && !client.is_some_and(is_client) {
            return false;
        }
        match claims.get("aud") {
            _ if pinned && self.settings.audiences.is_empty() => true,
            Some(Value::String(one)) => is_audience(one),
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).any(is_audience),
            Some(_) => false,
            None => pinned || client.is_some_and(is_audience),
        }
    }

    fn scopes(&self, claims: &Map<String, Value>) -> Vec<String> {
        let own = words(claims.get(&self.settings.scope_claim));
        let own = own.into_iter().filter_map(|word| word.strip_prefix(&self.settings.scope_prefix));
        let groups = words(claims.get(&self.settings.groups_claim));
        let of_groups = groups.into_iter().filter_map(|group| self.settings.group_scopes.get(group));
        known_scopes(own.chain(of_groups.flatten().map(String::as_str)))
    }
}

/// The subject, if it can be stored.
pub(super) fn subject(claims: &Map<String, Value>) -> Result<String> {
    let subject = claims.get("sub").and_then(Value::as_str);
    subject
        .filter(|sub| !sub.is_empty() && sub.len() <= MAX_SUBJECT && !sub.chars().any(char::is_control))
        .map(str::to_owned)
        .ok_or_else(|| refuse("The token has no usable subject."))
}

/// The words of a claim that is a list, or a string separated by spaces.
pub(super) fn words(claim: Option<&Value>) -> Vec<&str> {
    match claim {
        Some(Value::String(text)) => text.split_ascii_whitespace().collect(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The scopes that Salebell knows, each once.
pub(super) fn known_scopes<'a>(given: impl Iterator<Item = &'a str>) -> Vec<String> {
    let given: Vec<&str> = given.collect();
    let known = api_key::SCOPES.into_iter();
    known.filter(|scope| given.contains(scope)).map(str::to_owned).collect()
}

/// Parses a NumericDate of RFC 7519: seconds since 1970, possibly with a fraction.
pub(super) fn time(claim: Option<&Value>) -> Result<Option<DateTime<Utc>>> {
    let Some(value) = claim else { return Ok(None) };
    let time = value.as_f64().and_then(|seconds| DateTime::from_timestamp_millis((seconds * 1e3) as i64));
    time.map(Some).ok_or_else(|| refuse("The token's times cannot be read."))
}
