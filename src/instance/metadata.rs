//! Client of the EC2 instance metadata service, version 2 (every request carries a token).
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html>
//!
//! The service is at 169.254.169.254, over IPv4, and is queried without a proxy. If the image sets the hop limit of the
//! token response to 1, a client in a container never receives it, so the timeouts are short.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use chrono::{DateTime, Utc};
use reqwest::header::HeaderValue;
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::error::chain;

/// Environment variable that names an endpoint other than that of EC2. The AWS SDK reads the same one.
pub const ENDPOINT_VARIABLE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
const ENDPOINT: &str = "http://169.254.169.254";

/// Lifetime of a token: six hours, the maximum.
const TOKEN_TTL_S: u64 = 21_600;
const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout of one attempt.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of attempts per query. With the pauses between them, a query takes at most 13 s.
const ATTEMPTS: u32 = 5;
/// Longest pause after the first attempt; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Maximum number of bytes read of a response. The largest item is the user data, with 16 KiB.
const MAX_BYTES: usize = 64 * 1024;

/// Client of the instance metadata service.
pub struct Metadata {
    http: Client,
    endpoint: Url,
    attempts: u32,
    /// Locked while a new token is fetched: one task requests it, the others wait for the result.
    token: Mutex<Option<Token>>,
}

struct Token {
    value: HeaderValue,
    /// When a new token is fetched, somewhat before this one expires.
    renew_at: Instant,
}

/// Identity of the instance: the fields of the instance identity document that never change.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    pub instance_id: String,
    pub region: String,
    pub availability_zone: String,
    pub account_id: String,
}

/// Spot interruption notice: EC2 is about to take the instance back.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SpotAction {
    /// Kind of the action: `terminate`, `stop` or `hibernate`.
    pub action: String,
    /// Earliest time of the action: two minutes after the notice.
    pub time: DateTime<Utc>,
}

/// Rebalance recommendation: EC2 may take the spot instance back soon.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rebalance {
    pub notice_time: DateTime<Utc>,
}

/// Outcome of one attempt.
enum Try<T> {
    Done(T),
    /// Failed, but the same request may succeed later.
    Again(String),
    /// The service rejected the token.
    Stale,
    /// Failed, and trying again is pointless.
    Refused(String),
}

impl Metadata {
    /// Client of the EC2 service, or of the endpoint in `AWS_EC2_METADATA_SERVICE_ENDPOINT`.
    ///
    /// # Errors
    /// Fails if the variable does not hold an `http` address.
    pub fn from_environment() -> anyhow::Result<Metadata> {
        let named = std::env::var(ENDPOINT_VARIABLE).ok().filter(|text| !text.is_empty());
        Metadata::at(named.as_deref().unwrap_or(ENDPOINT))
    }

    /// Client of the service at this address, such as `http://127.0.0.1:1338`.
    ///
    /// # Errors
    /// Fails if it is not an `http` address.
    pub fn at(endpoint: &str) -> anyhow::Result<Metadata> {
        let endpoint = Url::parse(endpoint).ok().filter(|url| url.scheme() == "http" && url.has_host());
        let endpoint = endpoint.ok_or_else(|| {
            anyhow!("the address of the instance metadata ({ENDPOINT_VARIABLE}) must be one of http")
        })?;
        let http = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            // No connection uses TLS, and loading the root certificates would slow down the start.
            .tls_certs_only([])
            .user_agent(concat!("salebell/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("the client of the instance metadata")?;
        Ok(Metadata { http, endpoint, attempts: ATTEMPTS, token: Mutex::default() })
    }

    /// Sets the most attempts per query, at least one. For callers that poll anyway.
    pub fn with_attempts(self, attempts: u32) -> Metadata {
        Metadata { attempts: attempts.max(1), ..self }
    }

    /// Identity of this instance, and where it runs.
    ///
    /// # Errors
    /// Fails if the service is unavailable or not that of EC2.
    pub async fn identity(&self) -> anyhow::Result<Identity> {
        let text = self.require(&["dynamic", "instance-identity", "document"]).await?;
        serde_json::from_str(&text).context("the instance identity document")
    }

    /// Value of a tag of the instance; `None` if there is no such tag, or the launch template does not expose tags.
    ///
    /// # Errors
    /// Fails if the service is unavailable.
    pub async fn tag(&self, key: &str) -> anyhow::Result<Option<String>> {
        self.find(&["meta-data", "tags", "instance", key]).await
    }

    /// Value of a mandatory tag. Tags may appear a moment after the instance, so a missing one is queried again.
    ///
    /// # Errors
    /// Fails if the tag is still missing after the last attempt, or the service is unavailable.
    pub async fn required_tag(&self, key: &str) -> anyhow::Result<String> {
        self.require(&["meta-data", "tags", "instance", key]).await
    }

    /// All tags, by key.
    ///
    /// # Errors
    /// Fails if the service is unavailable.
    pub async fn tags(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut tags = BTreeMap::new();
        let keys = self.find(&["meta-data", "tags", "instance"]).await?.unwrap_or_default();
        for key in keys.lines().filter(|key| !key.is_empty()) {
            // A tag that was removed in between is left out.
            if let Some(value) = self.tag(key).await? {
                tags.insert(key.to_owned(), value);
            }
        }
        Ok(tags)
    }

    /// State that the Auto Scaling group wants the instance in: `InService`, `Terminated`, `Standby`, `Detached` or
    /// `Warmed:…`; `None` if it is in no group.
    ///
    /// # Errors
    /// Fails if the service is unavailable.
    pub async fn target_lifecycle_state(&self) -> anyhow::Result<Option<String>> {
        self.find(&["meta-data", "autoscaling", "target-lifecycle-state"]).await
    }

    /// Spot interruption notice, if there is one.
    ///
    /// # Errors
    /// Fails if the service is unavailable or its response is invalid.
    pub async fn spot_action(&self) -> anyhow::Result<Option<SpotAction>> {
        self.find_json(&["meta-data", "spot", "instance-action"]).await
    }

    /// Rebalance recommendation, if there is one: this spot instance is at elevated risk of interruption.
    ///
    /// # Errors
    /// Fails if the service is unavailable or its response is invalid.
    pub async fn rebalance(&self) -> anyhow::Result<Option<Rebalance>> {
        self.find_json(&["meta-data", "events", "recommendations", "rebalance"]).await
    }

    async fn find_json<T: serde::de::DeserializeOwned>(&self, path: &[&str]) -> anyhow::Result<Option<T>> {
        let text = self.find(path).await?;
        text.map(|text| serde_json::from_str(&text).with_context(|| path.join("/"))).transpose()
    }

    /// Text at an optional path; `None` if there is nothing.
    async fn find(&self, path: &[&str]) -> anyhow::Result<Option<String>> {
        self.request(path, |_| Try::Done(None)).await
    }

    /// Text at a mandatory path, which is queried again while it is missing.
    async fn require(&self, path: &[&str]) -> anyhow::Result<String> {
        let found = self.request(path, |path| Try::Again(format!("{path} is not there"))).await?;
        found.ok_or_else(|| anyhow!("the instance metadata is not there"))
    }

    async fn request(
        &self,
        path: &[&str],
        missing: impl Fn(&str) -> Try<Option<String>>,
    ) -> anyhow::Result<Option<String>> {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().push("latest").extend(path);
        }
        let mut reason = String::new();
        for attempt in 1..=self.attempts {
            let outcome = match self.request_once(url.clone(), &missing).await {
                // The cached token was rejected: try once more with a new one, without a pause.
                Try::Stale => self.request_once(url.clone(), &missing).await,
                other => other,
            };
            reason = match outcome {
                Try::Done(found) => return Ok(found),
                Try::Refused(reason) => return Err(failure(&reason)),
                Try::Again(reason) => reason,
                Try::Stale => "it refuses its own tokens".to_owned(),
            };
            if attempt < self.attempts {
                tokio::time::sleep(pause_after(attempt)).await;
            }
        }
        Err(failure(&format!("{reason}, {} times over", self.attempts)))
    }

    async fn request_once(
        &self,
        url: Url,
        missing: impl Fn(&str) -> Try<Option<String>>,
    ) -> Try<Option<String>> {
        let token = match self.token().await {
            Try::Done(token) => token,
            Try::Again(reason) => return Try::Again(reason),
            Try::Refused(reason) => return Try::Refused(reason),
            Try::Stale => return Try::Stale,
        };
        let path = url.path().to_owned();
        let answer = match self.http.get(url).header(TOKEN_HEADER, token.clone()).send().await {
            Ok(answer) => answer,
            Err(error) => return Try::Again(chain(&error)),
        };
        match answer.status() {
            StatusCode::OK => read(answer).await.map_or_else(Try::Again, |text| Try::Done(Some(text))),
            StatusCode::NOT_FOUND => missing(&path),
            StatusCode::UNAUTHORIZED => {
                let mut kept = self.token.lock().await;
                // Another task may have fetched a new one meanwhile.
                if kept.as_ref().is_some_and(|kept| kept.value == token) {
                    *kept = None;
                }
                Try::Stale
            }
            status => judge(status, &path),
        }
    }

    /// Returns the cached token, or fetches a new one.
    async fn token(&self) -> Try<HeaderValue> {
        let mut kept = self.token.lock().await;
        if let Some(token) = kept.as_ref()
            && Instant::now() < token.renew_at
        {
            return Try::Done(token.value.clone());
        }
        *kept = None;
        let mut url = self.endpoint.clone();
        url.set_path("latest/api/token");
        let sent_at = Instant::now();
        let answer = match self.http.put(url).header(TTL_HEADER, TOKEN_TTL_S).send().await {
            Ok(answer) => answer,
            Err(error) => return Try::Again(chain(&error)),
        };
        if answer.status() != StatusCode::OK {
            return match answer.status() {
                StatusCode::FORBIDDEN => Try::Refused(
                    "it gives no token: it is switched off for this instance, or a proxy is in between"
                        .to_owned(),
                ),
                status => judge(status, "the token"),
            };
        }
        let ttl = answer.headers().get(TTL_HEADER).and_then(|ttl| ttl.to_str().ok()?.parse().ok());
        let ttl = Duration::from_secs(ttl.unwrap_or(TOKEN_TTL_S).min(TOKEN_TTL_S));
        let text = match read(answer).await {
            Ok(text) => text,
            Err(reason) => return Try::Again(reason),
        };
        let Ok(mut value) = HeaderValue::from_str(&text) else {
            return Try::Again("its token is none".to_owned());
        };
        value.set_sensitive(true);
        // Renewed when a tenth of its life is left, for requests that are under way.
        *kept = Some(Token { value: value.clone(), renew_at: sent_at + ttl - ttl / 10 });
        Try::Done(value)
    }
}

fn judge<T>(status: StatusCode, what: &str) -> Try<T> {
    let reason = format!("it answers {} to {what}", status.as_u16());
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        Try::Again(reason)
    } else {
        Try::Refused(reason)
    }
}

fn failure(reason: &str) -> anyhow::Error {
    anyhow!("the instance metadata cannot be had: {reason}")
}

async fn read(mut answer: Response) -> Result<String, String> {
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(|error| chain(&error))? {
        if body.len() + piece.len() > MAX_BYTES {
            return Err(format!("it answers with more than {MAX_BYTES} bytes"));
        }
        body.extend_from_slice(&piece);
    }
    let text = String::from_utf8(body).map_err(|_| "it answers with what is no text".to_owned())?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Pause after an attempt. It doubles each time, and is cut to a random share of at least half, so that instances that
/// failed together do not retry together.
fn pause_after(attempt: u32) -> Duration {
    let longest = FIRST_PAUSE * 2_u32.saturating_pow(attempt.saturating_sub(1).min(4));
    longest.mul_f64(super::jitter())
}
