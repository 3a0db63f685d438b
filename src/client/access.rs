//! Where the API is, and who asks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use super::ApiClient;
use crate::failure::{Explain, Failure};

/// Where `salebell dev` leaves its token.
const DEV_TOKEN: &str = ".salebell/dev-token";

/// What every command that talks to an API takes.
#[derive(Debug, clap::Args)]
pub struct Access {
    /// Where the API is.
    #[arg(long, env = "SALEBELL_URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// A token; to report prices it needs the scope prices:write. Other users of this machine can see arguments;
    /// prefer the variable.
    #[arg(long, env = "SALEBELL_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file with the token, before all others [default: .salebell/dev-token where there is one].
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// How long to try again when the API does not answer: seconds, or with s, m, h behind.
    #[arg(long, default_value = "5m", value_parser = parse_duration)]
    max_wait: Duration,
}

impl Access {
    /// A client with the token.
    ///
    /// # Errors
    /// There is no token, or the URL is none.
    pub fn connect(&self, say: Box<dyn Fn(&str) + Send + Sync>) -> Result<ApiClient, Failure> {
        ApiClient::new(&self.url, Some(&self.find_token()?), self.max_wait, say)
    }

    /// A client for the API at `url`, for what needs no token.
    ///
    /// # Errors
    /// The URL is none.
    pub fn connect_without_token(
        &self,
        url: &str,
        say: Box<dyn Fn(&str) + Send + Sync>,
    ) -> Result<ApiClient, Failure> {
        ApiClient::new(url, None, self.max_wait, say)
    }

    fn find_token(&self) -> Result<SecretString, Failure> {
        if let (Some(token), None) = (&self.token, &self.token_file) {
            return Ok(SecretString::from(token.trim()));
        }
        let path = self.token_file.as_deref().unwrap_or(Path::new(DEV_TOKEN));
        // The token of `salebell dev` may do everything, and is nobody else's business.
        if self.token_file.is_none() && !is_this_machine(&self.url) {
            return Err(Failure::new(format!(
                "no token for {}: give --token-file or SALEBELL_TOKEN",
                self.url
            )));
        }
        match std::fs::read_to_string(path) {
            Ok(token) => Ok(SecretString::from(token.trim())),
            Err(error) if self.token_file.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                Err(Failure::new(format!(
                    "no token: neither --token-file nor SALEBELL_TOKEN is given, and there is no {DEV_TOKEN} here"
                )))
            }
            Err(error) => Err(error).explain(|| format!("cannot read {}", path.display())),
        }
    }
}

fn is_this_machine(url: &str) -> bool {
    match url::Url::parse(url).ok().as_ref().and_then(url::Url::host) {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Seconds, or a number with its unit behind.
///
/// # Errors
/// A sentence about what is wanted.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h', 'd']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text, "s"),
    };
    let factor = match unit {
        "d" => 86_400,
        "h" => 3600,
        "m" => 60,
        _ => 1,
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    seconds.map(Duration::from_secs).ok_or_else(|| "wants a time such as 90s, 5m, 1h or 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(604_800)));
        assert!(parse_duration("soon").is_err());
        assert!(parse_duration("99999999999999999999d").is_err());
    }
}
