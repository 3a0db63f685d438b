//! `[auth.alb]`: the Application Load Balancer whose claims about a browser's user are trusted.

use super::reader::Reader;
use super::server::ServerConfig;
use crate::domain::api_key;

/// `[auth.alb]`: the load balancer, and the scopes of its users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancerConfig {
    /// `auth.alb.arn`: required value of `signer`.
    pub arn: String,
    /// `auth.alb.issuer`: required value of `iss`.
    pub issuer: String,
    /// `auth.alb.client_id`: required value of `client`.
    pub client_id: String,
    /// `auth.alb.scopes`: scopes of every user of a browser.
    pub scopes: Vec<String>,
    /// `auth.alb.scope_claim`: claim that holds further scopes, as a list or as text with spaces.
    pub scope_claim: Option<String>,
    /// `auth.alb.scope_prefix`: prefix of each of our scopes in `auth.alb.scope_claim`.
    pub scope_prefix: String,
    /// Address of the public keys, without the final `/<kid>`: that of AWS for the region of `arn`, or
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
        // Any client can send the header, so only the load balancer may be trusted.
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

/// Whether a URL names this machine.
pub(super) fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Region of an Application Load Balancer's ARN. Partitions other than `aws` keep their keys at other addresses.
fn region_of(arn: &str) -> Option<&str> {
    let mut fields = arn.strip_prefix("arn:aws:elasticloadbalancing:")?.splitn(3, ':');
    let (region, account, name) = (fields.next()?, fields.next()?, fields.next()?);
    // The region becomes part of a host name.
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let whole = !region.is_empty() && region.bytes().all(plain);
    let whole = whole && account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    (whole && name.starts_with("loadbalancer/app/")).then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_read_from_the_arn_of_an_application_load_balancer_only() {
        let arn = |region: &str| {
            format!(
                "arn:aws:elasticloadbalancing:{region}:123456789012:loadbalancer/app/salebell/50dc6c495c0c9188"
            )
        };
        assert_eq!(region_of(&arn("eu-central-1")), Some("eu-central-1"));
        for invalid in ["", "evil.example/", "EU", "a.b", "a@b", "a#"] {
            assert_eq!(region_of(&arn(invalid)), None, "{invalid}");
        }
        let other = arn("eu-central-1").replace("arn:aws:", "arn:aws-cn:");
        assert_eq!(region_of(&other), None);
        assert_eq!(region_of(&arn("eu-central-1").replace("/app/", "/net/")), None);
    }
}
