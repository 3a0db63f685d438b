//! `[auth.alb]`: the Application Load Balancer whose word about a browser's user is believed.

use super::{Reader, ServerConfig, is_loopback};
use crate::domain::api_key;

/// `[auth.alb]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancerConfig {
    /// `auth.alb.arn`: what `signer` must be.
    pub arn: String,
    /// `auth.alb.issuer`: what `iss` must be.
    pub issuer: String,
    /// `auth.alb.client_id`: what `client` must be.
    pub client_id: String,
    /// `auth.alb.scopes`: what every user of a browser may do.
    pub scopes: Vec<String>,
    /// `auth.alb.scope_claim`: the claim that holds further scopes, a list or a text with spaces.
    pub scope_claim: Option<String>,
    /// `auth.alb.scope_prefix`: what stands before each of our scopes in that claim.
    pub scope_prefix: String,
    /// Where the public keys are, without the last `/<kid>`: AWS's address for the region of `arn`, or
    /// `auth.alb.keys_url` on loopback, for tests.
    pub keys_url: String,
}

impl LoadBalancerConfig {
    pub(super) fn read(r: &mut Reader, server: &ServerConfig) -> Option<Option<LoadBalancerConfig>> {
        let texts = [
            r.optional("auth.alb.arn"),
            r.optional("auth.alb.issuer"),
            r.optional("auth.alb.client_id"),
            r.optional("auth.alb.scope_claim"),
            r.optional("auth.alb.scope_prefix"),
            r.optional("auth.alb.keys_url"),
        ];
        let [arn, issuer, client_id, scope_claim, scope_prefix, keys_url] =
            texts.map(|text| text.filter(|text| !text.is_empty()));
        let scopes: Vec<String> = r.words("auth.alb.scopes")?;
        let Some(arn) = arn else {
            if issuer.is_some() || client_id.is_some() || !scopes.is_empty() {
                r.problem("auth.alb.arn", "is required with the other keys of auth.alb");
            }
            return Some(None);
        };
        for (key, given) in [("auth.alb.issuer", &issuer), ("auth.alb.client_id", &client_id)] {
            if given.is_none() {
                r.problem(key, "is required with auth.alb.arn");
            }
        }
        if let Some(other) = scopes.iter().find(|scope| !api_key::SCOPES.contains(&scope.as_str())) {
            r.problem("auth.alb.scopes", format!("has no scope {other:?}"));
        }
        // Anybody can send the header; the load balancer alone must be believed.
        let networks = &server.trusted_proxies;
        if networks.is_empty() || networks.iter().any(|network| network.prefix_len() == 0) {
            r.problem("server.trusted_proxies", "must name the load balancer's networks, with auth.alb.arn");
        }
        let region = region_of(&arn);
        if region.is_none() {
            let form = "arn:aws:elasticloadbalancing:<region>:<account>:loadbalancer/app/<name>/<id>";
            r.problem("auth.alb.arn", format!("must be {form}"));
        }
        let of_aws = format!("https://public-keys.auth.elb.{}.amazonaws.com", region.unwrap_or_default());
        if let Some(url) = &keys_url
            && !url::Url::parse(url).is_ok_and(|url| url.scheme() == "http" && is_loopback(&url))
        {
            r.problem("auth.alb.keys_url", "must be http on loopback: it is for tests");
        }
        Some(Some(LoadBalancerConfig {
            arn,
            issuer: issuer.unwrap_or_default(),
            client_id: client_id.unwrap_or_default(),
            scopes,
            scope_claim,
            scope_prefix: scope_prefix.unwrap_or_default(),
            keys_url: keys_url.unwrap_or(of_aws).trim_end_matches('/').to_owned(),
        }))
    }
}

/// The region of an Application Load Balancer's ARN. Other partitions than `aws` keep their keys elsewhere.
fn region_of(arn: &str) -> Option<&str> {
    let mut fields = arn.strip_prefix("arn:aws:elasticloadbalancing:")?.splitn(3, ':');
    let (region, account, name) = (fields.next()?, fields.next()?, fields.next()?);
    // It becomes part of a host's name.
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let whole = !region.is_empty() && region.bytes().all(plain);
    let whole = whole && account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    (whole && name.starts_with("loadbalancer/app/")).then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_read_from_the_arn_of_an_application_load_balancer_alone() {
        let arn = |region: &str| {
            format!(
                "arn:aws:elasticloadbalancing:{region}:123456789012:loadbalancer/app/salebell/50dc6c495c0c9188"
            )
        };
        assert_eq!(region_of(&arn("eu-central-1")), Some("eu-central-1"));
        for wrong in ["", "evil.example/", "EU", "a.b", "a@b", "a#"] {
            assert_eq!(region_of(&arn(wrong)), None, "{wrong}");
        }
        let other = arn("eu-central-1").replace("arn:aws:", "arn:aws-cn:");
        assert_eq!(region_of(&other), None);
        assert_eq!(region_of(&arn("eu-central-1").replace("/app/", "/net/")), None);
    }
}
