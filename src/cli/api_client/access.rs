//! Address of the API, and the token for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use secrecy::SecretString;
use url::Url;

use super::ApiClient;
use super::running_dev::{Absent, RunningDev};

/// Default address of `salebell api`.
const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// Arguments shared by all commands that call an API.
#[derive(Debug, clap::Args)]
pub struct Access {
    /// The address of the API [default: that of the `salebell dev` of this folder, else http://127.0.0.1:8080 if a token
    /// is given].
    #[arg(long, env = "SALEBELL_URL")]
    url: Option<String>,
    /// The token; to report prices it needs the scope prices:write. Other users of this machine can see arguments:
    /// prefer the variable.
    #[arg(long, env = "SALEBELL_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file with the token; it takes precedence [default: that of the `salebell dev` of this folder].
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// How long to retry when the API does not answer: seconds, or a number with s, m, h.
    #[arg(long, default_value = "5m", value_parser = parse_duration)]
    max_wait: Duration,
}

impl Access {
    /// Client with the token.
    ///
    /// # Errors
    /// Fails if there is no token, or if the URL is invalid.
    pub fn connect(&self, say: Box<dyn Fn(&str) + Send + Sync>) -> anyhow::Result<ApiClient> {
        let url = self.find_url()?;
        ApiClient::new(&url, Some(&self.find_token(&url)?), self.max_wait, say)
    }

    /// Client of the API at `url`, for requests that need no token.
    ///
    /// # Errors
    /// Fails if the URL is invalid.
    pub fn connect_without_token(
        &self,
        url: &str,
        say: Box<dyn Fn(&str) + Send + Sync>,
    ) -> anyhow::Result<ApiClient> {
        ApiClient::new(url, None, self.max_wait, say)
    }

    /// Address of the API.
    ///
    /// # Errors
    /// Fails if it is not given and cannot be found.
    pub fn find_url(&self) -> anyhow::Result<String> {
        if let Some(url) = &self.url {
            return Ok(url.clone());
        }
        let has_token = self.token.is_some() || self.token_file.is_some();
        match RunningDev::find() {
            Ok(dev) => Ok(dev.url),
            Err(Absent::Nothing { .. }) if has_token => Ok(DEFAULT_URL.to_owned()),
            Err(absent) => Err(anyhow!("{absent}. Or say with --url where the API is.")),
        }
    }

    fn find_token(&self, url: &str) -> anyhow::Result<SecretString> {
        if let Some(path) = &self.token_file {
            return read_token(path);
        }
        if let Some(token) = &self.token {
            return Ok(SecretString::from(token.trim()));
        }
        let wanted = format!("no token for {url}: give --token-file or SALEBELL_TOKEN");
        match RunningDev::find() {
            // The token of `salebell dev` has every scope, so it is sent to no other address: another program may
            // listen there.
            Ok(dev) if is_same_origin(url, &dev.url) => read_token(&dev.token_file),
            Ok(dev) => Err(anyhow!("{wanted}; the `salebell dev` of this folder is at {}", dev.url)),
            Err(absent) => Err(anyhow!("{wanted}; {absent}")),
        }
    }
}

fn read_token(path: &Path) -> anyhow::Result<SecretString> {
    let token = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(SecretString::from(token.trim()))
}

fn is_same_origin(one: &str, other: &str) -> bool {
    match (Url::parse(one), Url::parse(other)) {
        (Ok(one), Ok(other)) => one.origin() == other.origin(),
        _ => false,
    }
}

/// Parses seconds, or a number followed by its unit.
///
/// # Errors
/// Returns a sentence that describes the expected form.
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
    fn the_token_of_dev_is_sent_to_its_own_port_only() {
        let dev = "http://127.0.0.1:8080";
        assert!(is_same_origin("http://127.0.0.1:8080/", dev));
        for other in ["http://127.0.0.1:8081", "http://[::1]:8080", "https://127.0.0.1:8080", "nonsense"] {
            assert!(!is_same_origin(other, dev), "{other}");
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(604_800)));
        assert!(parse_duration("soon").is_err());
        assert!(parse_duration("99999999999999999999d").is_err());
    }
}
