//! Calls to AWS: their configuration, and the reason of a failure in one line.

mod chain;
mod pause;

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
pub use self::pause::{jitter, pause_after};
use crate::error::chain;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Attempts and timeouts of calls.
#[derive(Clone, Copy)]
pub struct CallTimeouts {
    attempts: u32,
    /// Timeout of one attempt.
    pub attempt: Duration,
    /// Timeout of one call with all its attempts.
    call: Duration,
}

/// Timeouts for a process that can wait. A fleet that boots at the same time is throttled, and the attempts with their
/// pauses take half a minute.
pub const WHILE_BOOTING: CallTimeouts =
    CallTimeouts { attempts: 10, attempt: Duration::from_secs(10), call: Duration::from_secs(60) };
/// Timeouts for a process that has callers: shorter than `server.drain_s`, and than the callers' own timeouts.
pub const WHILE_SERVING: CallTimeouts =
    CallTimeouts { attempts: 4, attempt: Duration::from_secs(5), call: Duration::from_secs(15) };

impl Chain {
    /// Configuration for the services of a region, with the credentials of this chain. Without a region, the SDK's
    /// chain determines it. `AWS_RETRY_MODE`, `AWS_MAX_ATTEMPTS` and, without `endpoint`, `AWS_ENDPOINT_URL` apply too.
    pub async fn load(
        &self,
        region: Option<&str>,
        endpoint: Option<&Url>,
        limits: CallTimeouts,
    ) -> SdkConfig {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(limits.attempt)
            .operation_timeout(limits.call)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .timeout_config(timeouts)
            .credentials_provider(self.clone())
            // The chain caches the credentials itself.
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
            None => limits.attempts,
        };
        let retries = retries
            .with_max_attempts(attempts)
            .with_initial_backoff(FIRST_PAUSE)
            .with_max_backoff(LONGEST_PAUSE);
        config.into_builder().retry_config(retries).build()
    }
}

/// Whether another call may succeed although all attempts of this one failed, because AWS was not reached at all: on an
/// instance that has just started, the credentials of its role become available a moment after it.
pub fn was_not_reached<E>(error: &SdkError<E, HttpResponse>) -> bool {
    matches!(error, SdkError::DispatchFailure(_) | SdkError::TimeoutError(_))
}

/// Reason why a call failed, in one line, with the missing permission if there is one. It never contains any part of a
/// response body, which may hold a secret.
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
        // An endpoint that is not AWS sends no message.
        _ if message.is_empty() => code.to_owned(),
        _ => format!("{code}: {message}"),
    }
}

/// Describes the missing permission.
///
/// `message` has the form that all AWS services use:
///
/// `User: <who> is not authorized to perform: <action> on resource: <what> because <why>`.
fn missing_permission(message: &str) -> String {
    let Some((who, rest)) = message.split_once(" is not authorized to perform: ") else {
        // Parameter Store and Secrets Manager pass on the message of KMS, which names no action.
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
    fn a_missing_permission_is_reported_with_the_role_that_needs_it() {
        let arn = "arn:aws:sts::123456789012:assumed-role/salebell/i-1";
        let parameter = "arn:aws:ssm:eu-central-1:123456789012:parameter/salebell/prod";
        let action = "ssm:GetParametersByPath";
        let start = format!("User: {arn} is not authorized to perform: {action} on resource: {parameter}");
        let needs = format!("a permission is missing: {arn} needs {action} on {parameter}");
        let no_policy = "because no identity-based policy allows the ssm:GetParametersByPath action";
        let deny = "with an explicit deny in a service control policy";
        for (message, expected) in [
            (start.clone(), needs.clone()),
            (format!("{start} {no_policy}"), format!("{needs} ({no_policy})")),
            (format!("{start} {deny}"), format!("{needs} ({deny})")),
            (
                "Access to KMS is not allowed".to_owned(),
                "a permission is missing: kms:Decrypt on the key (Access to KMS is not allowed)".to_owned(),
            ),
            ("No.".to_owned(), "a permission is missing: AWS names none (No.)".to_owned()),
        ] {
            assert_eq!(missing_permission(&message), expected);
        }
    }
}
