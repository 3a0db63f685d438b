//! `[aws]`: sources of the settings, so live ones can be read again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::reader::Reader;

/// Prefix of a parameter whose value is in Secrets Manager.
pub const SECRET_PREFIX: &str = "secret:";

/// `[aws]`: region, path and secrets, all of them written by `salebell boot`.
#[derive(Clone, Debug)]
pub struct AwsConfig {
    /// `aws.region`: region of the parameters and secrets.
    pub region: Option<String>,
    /// `aws.parameters`: path of the settings in Parameter Store, such as `/salebell/prod`.
    pub parameters: Option<String>,
    /// `aws.secrets`: settings that come from secrets, with the secret of each.
    pub secrets: Vec<SecretSetting>,
}

/// A setting whose value comes from a secret. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSetting {
    /// Name of the setting: `database.password`.
    pub setting: String,
    /// Name of its value: `secret:salebell/prod/database#password`.
    pub secret: SecretName,
}

/// Name of a value in Secrets Manager: `secret:<name or ARN>`, or `secret:<name or ARN>#<key>` for one key of a secret
/// that is a JSON object, as the secrets managed by RDS are. Names in Secrets Manager contain no `#`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName {
    /// Name or ARN of the secret.
    pub id: String,
    pub key: Option<String>,
}

impl FromStr for SecretName {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_prefix(SECRET_PREFIX).ok_or("must begin with secret:")?;
        let (id, key) = name.split_once('#').map_or((name, None), |(id, key)| (id, Some(key)));
        // Allowed characters: https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_CreateSecret.html
        let plain = |c: char| c.is_ascii_alphanumeric() || "/_+=.@-!:".contains(c);
        if id.is_empty() || id.len() > 2048 || !id.chars().all(plain) || key.is_some_and(str::is_empty) {
            return Err("must be secret:<name or ARN> or secret:<name or ARN>#<key>");
        }
        Ok(SecretName { id: id.to_owned(), key: key.map(str::to_owned) })
    }
}

impl TryFrom<String> for SecretName {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SecretName> for String {
    fn from(name: SecretName) -> String {
        name.to_string()
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SECRET_PREFIX}{}", self.id)?;
        self.key.iter().try_for_each(|key| write!(f, "#{key}"))
    }
}

impl AwsConfig {
    pub(super) fn read(r: &mut Reader) -> Option<AwsConfig> {
        let filled = |text: &String| !text.is_empty();
        let aws = AwsConfig {
            region: r.optional("aws.region").filter(filled),
            parameters: r.optional("aws.parameters").filter(filled),
            secrets: r.list_of("aws.secrets")?,
        };
        if aws.parameters.as_ref().is_some_and(|path| !path.starts_with('/') || path.ends_with('/')) {
            r.problem("aws.parameters", "must be a path such as /salebell/prod");
        }
        if aws.region.is_none() && (aws.parameters.is_some() || !aws.secrets.is_empty()) {
            r.problem("aws.region", "is required with aws.parameters and aws.secrets");
        }
        Some(aws)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_named_with_or_without_a_key() {
        let rds =
            "secret:arn:aws:secretsmanager:eu-central-1:123456789012:secret:rds!cluster-1a-XyZ#password";
        for (text, key) in [(rds, Some("password")), ("secret:salebell/prod/webhook", None)] {
            let name: SecretName = text.parse().unwrap();
            assert_eq!((name.key.as_deref(), name.to_string().as_str()), (key, text));
        }
        for text in ["", "salebell", "secret:", "secret:#key", "secret:a#", "secret:a b", "secret:a\nb"] {
            assert!(text.parse::<SecretName>().is_err(), "{text}");
        }
    }
}
