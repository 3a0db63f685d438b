//! What an instance may know of itself: the instance metadata service of EC2, version 2 (a token for every question).
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html>
//!
//! It is asked at 169.254.169.254, over IPv4, without a proxy. The answer to the request for a token travels one hop
//! where the image sets its hop limit to 1: who asks from a container waits in vain, so waiting is short.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use chrono::{DateTime, Utc};
use reqwest::header::HeaderValue;
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::error::chain;

/// Names another service than that of EC2, as it does for the SDK of AWS.
pub const ENDPOINT_VARIABLE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
const ENDPOINT: &str = "http://169.254.169.254";

/// Six hours, the longest that there is.
const TOKEN_TTL_S: u64 = 21_600;
const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// For the whole of one try.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Tries of one question. With the pauses between them: 13 s at the most.
const ATTEMPTS: u32 = 5;
/// The pause after the first try, at the most; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// User data is the largest that there is, with 16 KiB.
const MAX_BYTES: usize = 64 * 1024;

/// The instance metadata service.
pub struct Metadata {
    http: Client,
    endpoint: Url,
    attempts: u32,
    /// Locked while a new one is fetched: one request for it, the others wait for what it brings.
    token: Mutex<Option<Token>>,
}

struct Token {
    value: HeaderValue,
    /// From then on another one is fetched, although this one lives a little longer.
    renew_at: Instant,
}

/// Of the instance identity document, what does not change while the instance lives.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    pub instance_id: String,
    pub region: String,
    pub availability_zone: String,
    pub account_id: String,
}

/// EC2 takes the instance away.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SpotAction {
    /// `terminate`, `stop` or `hibernate`.
    pub action: String,
    /// When at the earliest: two minutes after the notice was given.
    pub time: DateTime<Utc>,
}

/// EC2 may take the instance away soon.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rebalance {
    pub notice_time: DateTime<Utc>,
}

/// What one try came to.
enum Try<T> {
    Done(T),
    /// The same again may succeed.
    Again(String),
    /// The token was not taken.
    Stale,
    /// There is no use in trying again.
    Refused(String),
}

impl Metadata {
    /// The service of EC2, or the one that `AWS_EC2_METADATA_SERVICE_ENDPOINT` names.
    ///
    /// # Errors
    /// The variable holds no address.
    pub fn from_environment() -> anyhow::Result<Metadata> {
        let named = std::env::var(ENDPOINT_VARIABLE).ok().filter(|text| !text.is_empty());
        Metadata::at(named.as_deref().unwrap_or(ENDPOINT))
    }

    /// The service at this address, such as `http://127.0.0.1:1338`.
    ///
    /// # Errors
    /// It is no address of http.
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
            // Nothing here is encrypted, and loading the authorities takes time at the start.
            .tls_certs_only([])
            .user_agent(concat!("salebell/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("the client of the instance metadata")?;
        Ok(Metadata { http, endpoint, attempts: ATTEMPTS, token: Mutex::default() })
    }

    /// For who asks again and again by itself: every question is tried so often, at least once.
    pub fn with_attempts(self, attempts: u32) -> Metadata {
        Metadata { attempts: attempts.max(1), ..self }
    }

    /// Which instance this is, and where.
    ///
    /// # Errors
    /// The service is away or is none of EC2's.
    pub async fn identity(&self) -> anyhow::Result<Identity> {
        let text = self.require(&["dynamic", "instance-identity", "document"]).await?;
        serde_json::from_str(&text).context("the instance identity document")
    }

    /// A tag of the instance; `None` when it has no such tag, or its launch template does not let it see its tags.
    ///
    /// # Errors
    /// The service is away.
    pub async fn tag(&self, key: &str) -> anyhow::Result<Option<String>> {
        self.find(&["meta-data", "tags", "instance", key]).await
    }

    /// A tag without which there is no going on. Tags may come a moment after the instance, so it is asked for again
    /// while it is not there.
    ///
    /// # Errors
    /// It is not there; the service is away.
    pub async fn required_tag(&self, key: &str) -> anyhow::Result<String> {
        self.require(&["meta-data", "tags", "instance", key]).await
    }

    /// All tags, by their keys.
    ///
    /// # Errors
    /// The service is away.
    pub async fn tags(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut tags = BTreeMap::new();
        let keys = self.find(&["meta-data", "tags", "instance"]).await?.unwrap_or_default();
        for key in keys.lines().filter(|key| !key.is_empty()) {
            // One that has just been removed is none.
            if let Some(value) = self.tag(key).await? {
                tags.insert(key.to_owned(), value);
            }
        }
        Ok(tags)
    }

    /// Where the Auto Scaling group wants the instance: `InService`, `Terminated`, `Standby`, `Detached` or `Warmed:…`;
    /// `None` when it is in no group.
    ///
    /// # Errors
    /// The service is away.
    pub async fn target_lifecycle_state(&self) -> anyhow::Result<Option<String>> {
        self.find(&["meta-data", "autoscaling", "target-lifecycle-state"]).await
    }

    /// The notice that this spot instance is about to be taken away.
    ///
    /// # Errors
    /// The service is away or its answer cannot be read.
    pub async fn spot_action(&self) -> anyhow::Result<Option<SpotAction>> {
        self.find_json(&["meta-data", "spot", "instance-action"]).await
    }

    /// The notice that this spot instance is more likely than others to be taken away.
    ///
    /// # Errors
    /// The service is away or its answer cannot be read.
    pub async fn rebalance(&self) -> anyhow::Result<Option<Rebalance>> {
        self.find_json(&["meta-data", "events", "recommendations", "rebalance"]).await
    }

    async fn find_json<T: serde::de::DeserializeOwned>(&self, path: &[&str]) -> anyhow::Result<Option<T>> {
        let text = self.find(path).await?;
        text.map(|text| serde_json::from_str(&text).with_context(|| path.join("/"))).transpose()
    }

    /// What is at a path; `None` when there is nothing.
    async fn find(&self, path: &[&str]) -> anyhow::Result<Option<String>> {
        self.ask(path, |_| Try::Done(None)).await
    }

    /// What must be at a path: nothing there is a reason to ask again.
    async fn require(&self, path: &[&str]) -> anyhow::Result<String> {
        let found = self.ask(path, |path| Try::Again(format!("{path} is not there"))).await?;
        found.ok_or_else(|| anyhow!("the instance metadata is not there"))
    }

    async fn ask(
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
            let asked = match self.ask_once(url.clone(), &missing).await {
                // Of a token that was thought to be good: once more with a new one, without a pause.
                Try::Stale => self.ask_once(url.clone(), &missing).await,
                other => other,
            };
            reason = match asked {
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

    async fn ask_once(&self, url: Url, missing: impl Fn(&str) -> Try<Option<String>>) -> Try<Option<String>> {
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

    /// The token that is kept, or a new one.
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
        let asked = Instant::now();
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
        // A tenth of its life is left for what is under way.
        *kept = Some(Token { value: value.clone(), renew_at: asked + ttl - ttl / 10 });
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

/// Doubles with each try; a random part of it, half at least, keeps what failed together apart.
fn pause_after(attempt: u32) -> Duration {
    let longest = FIRST_PAUSE * 2_u32.saturating_pow(attempt.saturating_sub(1).min(4));
    longest.mul_f64(super::jitter())
}
