//! How AWS is asked, and what its refusals say in one line.

mod chain;

use std::error::Error;
use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ssm::config::http::HttpResponse;
use aws_sdk_ssm::error::{ProvideErrorMetadata, SdkError};
use url::Url;

pub use self::chain::{CREDENTIALS_TIMEOUT, Chain};
use crate::error::chain;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long a call may take.
#[derive(Clone, Copy)]
pub struct CallTimeouts {
    attempts: u32,
    /// For one attempt.
    pub attempt: Duration,
    /// For one call with its attempts.
    call: Duration,
}

/// Of a process that can wait: a fleet that boots at once is throttled, and with their pauses the attempts take half a
/// minute.
pub const WHILE_BOOTING: CallTimeouts =
    CallTimeouts { attempts: 10, attempt: Duration::from_secs(10), call: Duration::from_secs(60) };
/// Of one that has callers: shorter than `server.drain_s`, and than what they wait for.
pub const WHILE_SERVING: CallTimeouts =
    CallTimeouts { attempts: 4, attempt: Duration::from_secs(5), call: Duration::from_secs(15) };

impl Chain {
    /// How the services of a region are asked, with these credentials; without a region, the SDK's chain tells it. So do
    /// `AWS_RETRY_MODE`, `AWS_MAX_ATTEMPTS` and, where no other endpoint is named, `AWS_ENDPOINT_URL`.
    pub async fn load(
        &self,
        region: Option<&str>,
        endpoint: Option<&Url>,
        patience: CallTimeouts,
    ) -> SdkConfig {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(patience.attempt)
            .operation_timeout(patience.call)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .timeout_config(timeouts)
            .credentials_provider(self.clone())
            // The chain has one.
            .identity_cache(IdentityCache::no_cache());
        if let Some(region) = region {
            loader = loader.region(Region::new(region.to_owned()));
        }
        if let Some(endpoint) = endpoint {
            loader = loader.endpoint_url(endpoint.as_str());
        }
        let config = loader.load().await;
        let retries = config.retry_config().cloned().unwrap_or_else(RetryConfig::standard);
        let attempts = match std::env::var_os("AWS_MAX_ATTEMPTS") {
            Some(_) => retries.max_attempts(),
            None => patience.attempts,
        };
        let retries = retries
            .with_max_attempts(attempts)
            .with_initial_backoff(FIRST_PAUSE)
            .with_max_backoff(LONGEST_PAUSE);
        config.into_builder().retry_config(retries).build()
    }
}

/// The pause after so many failures in a row: it doubles with each, and a random part of it, half at least, keeps apart
/// what failed together.
pub fn pause_after(failures: u32, first: Duration, longest: Duration) -> Duration {
    let doubled = first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(longest).mul_f64(jitter())
}

/// A random factor from one half up to one, which keeps apart what failed together.
pub fn jitter() -> f64 {
    // Not of aws-lc, whose first random number takes a process 30 ms of processor time: it measures the processor's own
    // noise. Nobody has to be unable to guess this one.
    let [random, more, ..] = *uuid::Uuid::new_v4().as_bytes();
    0.5 + f64::from(u16::from_ne_bytes([random, more])) / f64::from(u16::MAX) / 2.0
}

/// Whether the next attempt at a call may succeed where all of this one failed, because AWS was not reached at all: on
/// a young instance the credentials of its role come a moment after it.
pub fn was_not_reached<E>(error: &SdkError<E, HttpResponse>) -> bool {
    matches!(error, SdkError::DispatchFailure(_) | SdkError::TimeoutError(_))
}

/// Why a call failed, in one line, with the permission that is missing if one is. Never any part of an answer: it may
/// hold a secret.
pub fn reason<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let SdkError::ServiceError(refusal) = error else { return one_line(&chain(error)) };
    let (code, message) = (refusal.err().code().unwrap_or_default(), refusal.err().message());
    let message = one_line(message.unwrap_or_default());
    match code {
        "AccessDeniedException" | "AccessDenied" => missing_permission(&message),
        "UnrecognizedClientException" | "InvalidSignatureException" | "ExpiredTokenException" => {
            format!("the credentials are not taken ({code}: {message})")
        }
        "" => format!("AWS answers {} without a reason", refusal.raw().status().as_u16()),
        // Where an endpoint is no AWS at all, there is no message.
        _ if message.is_empty() => code.to_owned(),
        _ => format!("{code}: {message}"),
    }
}

/// `User: <who> is not authorized to perform: <action> on resource: <what> because <why>`, as all of AWS says it.
fn missing_permission(message: &str) -> String {
    let Some((who, rest)) = message.split_once(" is not authorized to perform: ") else {
        // Parameter Store and Secrets Manager pass on what KMS says, which names no action.
        let key = ["KMS", "ciphertext", "master key"].iter().any(|word| message.contains(word));
        let missing = if key { "kms:Decrypt on the key" } else { "AWS names none" };
        return format!("a permission is missing: {missing} ({message})");
    };
    let who = who.rsplit("User: ").next().unwrap_or(who);
    let (action, rest) = rest.split_once(" on resource: ").unwrap_or((rest, ""));
    let end = [" because ", " with an explicit deny"].iter().filter_map(|word| rest.find(word)).min();
    let (what, why) = rest.split_at(end.unwrap_or(rest.len()));
    let why = why.trim();
    let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
    let what = if what.is_empty() { String::new() } else { format!(" on {what}") };
    format!("a permission is missing: {who} needs {action}{what}{why}")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::missing_permission;

    #[test]
    fn a_missing_permission_is_told_with_who_needs_it() {
        let arn = "arn:aws:sts::123456789012:assumed-role/salebell/i-1";
        let parameter = "arn:aws:ssm:eu-central-1:123456789012:parameter/salebell/prod";
        let action = "ssm:GetParametersByPath";
        let start = format!("User: {arn} is not authorized to perform: {action} on resource: {parameter}");
        let needs = format!("a permission is missing: {arn} needs {action} on {parameter}");
        let no_policy = "because no identity-based policy allows the ssm:GetParametersByPath action";
        let deny = "with an explicit deny in a service control policy";
        for (message, told) in [
            (start.clone(), needs.clone()),
            (format!("{start} {no_policy}"), format!("{needs} ({no_policy})")),
            (format!("{start} {deny}"), format!("{needs} ({deny})")),
            (
                "Access to KMS is not allowed".to_owned(),
                "a permission is missing: kms:Decrypt on the key (Access to KMS is not allowed)".to_owned(),
            ),
            ("No.".to_owned(), "a permission is missing: AWS names none (No.)".to_owned()),
        ] {
            assert_eq!(missing_permission(&message), told);
        }
    }
}
