//! `[auth]`: issuers whose tokens are accepted.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::load_balancer::{LoadBalancerConfig, is_loopback};
use super::reader::Reader;
use super::server::ServerConfig;
use crate::domain::api_key;
use crate::domain::public_keys::read_keys;

/// `[auth]`: issuers whose tokens are accepted.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// `auth.issuers`: issuers whose JWTs are accepted. A list of tables in the file, a JSON list in the environment.
    pub issuers: Vec<Issuer>,
    /// `[auth.alb]`; `None` without `auth.alb.arn`.
    pub alb: Option<LoadBalancerConfig>,
}

impl AuthConfig {
    pub(super) fn read(r: &mut Reader, server: &ServerConfig) -> Option<AuthConfig> {
        Some(AuthConfig { issuers: r.list_of("auth.issuers")?, alb: LoadBalancerConfig::read(r, server)? })
    }
}

/// One token issuer.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// Required value of `iss`, compared exactly.
    pub issuer: String,
    /// Accepted values of `aud` (or of `client_id`, if a token has no `aud`).
    #[serde(default)]
    pub audiences: Vec<String>,
    /// Accepted values of `client_id`, as in the access tokens of Cognito; this or `audiences`, or both.
    #[serde(default)]
    pub client_ids: Vec<String>,
    /// Accepted algorithms, out of `RS256`, `ES256` and `EdDSA`.
    pub algorithms: Vec<String>,
    /// Address of the issuer's keys; this or `jwks`.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// The issuer's keys themselves, as a JSON Web Key Set.
    #[serde(default)]
    pub jwks: Option<serde_json::Value>,
    /// Claim that holds the scopes, as a list or as text with spaces.
    #[serde(default = "scope_claim")]
    pub scope_claim: String,
    /// Prefix of each of our scopes in `scope_claim`, such as Cognito's `<resource server>/`.
    #[serde(default)]
    pub scope_prefix: String,
    /// Claim that holds the groups of a user, as a list.
    #[serde(default = "groups_claim")]
    pub groups_claim: String,
    /// Further scopes of the members of a group: group → scopes.
    #[serde(default)]
    pub group_scopes: BTreeMap<String, Vec<String>>,
}

fn scope_claim() -> String {
    "scope".to_owned()
}

fn groups_claim() -> String {
    "cognito:groups".to_owned()
}

impl Issuer {
    pub(super) fn check(&self) -> Result<(), String> {
        let pinned = !self.audiences.is_empty() || !self.client_ids.is_empty();
        if self.issuer.is_empty() || !pinned || self.algorithms.is_empty() {
            return Err("needs issuer, audiences or client_ids, and algorithms".to_owned());
        }
        let mut of_groups = self.group_scopes.values().flatten();
        if of_groups.any(|scope| !api_key::SCOPES.contains(&scope.as_str())) {
            return Err(format!("has group_scopes with others than {}", api_key::SCOPES.join(", ")));
        }
        if let Some(other) =
            self.algorithms.iter().find(|a| !matches!(a.as_str(), "RS256" | "ES256" | "EdDSA"))
        {
            return Err(format!("knows RS256, ES256 and EdDSA, not {other}"));
        }
        if self.jwks_url.is_some() == self.jwks.is_some() {
            return Err("needs one of jwks_url and jwks".to_owned());
        }
        // Plain http is refused elsewhere: an attacker who changes the response could issue tokens.
        let url = self.jwks_url.as_deref().map(url::Url::parse);
        match url {
            Some(Ok(url)) if url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)) => {}
            None => {}
            Some(_) => return Err("needs a jwks_url of https, or of http on loopback".to_owned()),
        }
        if self.jwks.as_ref().is_some_and(|set| read_keys(set).is_empty()) {
            return Err("has no key in jwks that verifies RS256, ES256 or EdDSA".to_owned());
        }
        Ok(())
    }
}
