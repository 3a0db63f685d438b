//! Shared parts of the commands that call the API: a client that survives broken connections and restarts (`mod.rs`),
//! the address and the token (`access.rs`, `running_dev.rs`), the state for resuming a killed run (`state.rs`), and the
//! progress display (`progress.rs`).

pub mod access;
pub mod progress;
pub mod running_dev;
pub mod state;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;

use crate::clock::Clock;
use crate::domain::retries;
use crate::error::Problem;
use crate::error::connection::{self, UnknownName};

/// First pause after a failure; it doubles from there.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Longest pause between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// Timeout for establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without any data after which a connection counts as broken.
pub const STALLED_AFTER: Duration = Duration::from_secs(120);
/// Maximum number of bytes of a response. A response names at most every line of a slice, so a larger one is not from
/// Salebell.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// Client of one API with one token.
pub struct ApiClient {
    http: reqwest::Client,
    /// Client for request bodies that take long: the response starts only after they end, so it has no read timeout.
    sending: reqwest::Client,
    base: Url,
    authorization: Option<HeaderValue>,
    max_wait: Duration,
    /// Reports to the user why nothing moves.
    say: Box<dyn Fn(&str) + Send + Sync>,
}

/// Outcome of one attempt.
pub enum Attempted<T> {
    Done(T),
    Later(Later),
    Refused(Refused),
}

/// Temporary failure: the same request may succeed later.
pub struct Later {
    pub why: String,
    /// Delay that the API requested.
    pub after: Option<Duration>,
}

impl Later {
    /// Failure without a requested delay.
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), after: None }
    }
}

/// Permanent failure: trying again is pointless.
#[derive(Debug)]
pub struct Refused {
    /// Status of the response; `None` if the failure did not come from the API.
    pub status: Option<StatusCode>,
    pub failure: anyhow::Error,
}

impl Refused {
    /// Whether the requested resource does not exist, or no longer exists.
    pub fn is_gone(&self) -> bool {
        matches!(self.status, Some(StatusCode::NOT_FOUND | StatusCode::GONE))
    }
}

impl From<anyhow::Error> for Refused {
    fn from(failure: anyhow::Error) -> Self {
        Self { status: None, failure }
    }
}

impl From<Refused> for anyhow::Error {
    fn from(refused: Refused) -> Self {
        refused.failure
    }
}

/// A successful response, completely received.
pub struct Reply {
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    /// Decodes the body as JSON.
    ///
    /// # Errors
    /// Fails if it is not what the API returns.
    pub fn decode<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_slice(&self.body)
            .map_err(|error| anyhow!("the answer is none of Salebell's: {error}"))
    }
}

impl ApiClient {
    /// Client of the API at `url`. `max_wait` limits how long one request is retried.
    ///
    /// # Errors
    /// Fails if the URL is invalid, or if the token cannot be part of a header.
    pub fn new(
        url: &str,
        token: Option<&SecretString>,
        max_wait: Duration,
        say: Box<dyn Fn(&str) + Send + Sync>,
    ) -> anyhow::Result<Self> {
        let mut base: Url = url.parse().with_context(|| format!("{url} is no URL"))?;
        if !matches!(base.scheme(), "http" | "https") {
            bail!("{url} is no http or https URL");
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let authorization = token.map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
                .map_err(|_| anyhow!("the token has characters that no token has"))?;
            value.set_sensitive(true);
            Ok::<_, anyhow::Error>(value)
        });
        let authorization = authorization.transpose()?;
        let build = || {
            let http = reqwest::Client::builder()
                .user_agent(concat!("salebell-cli/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                .dns_resolver(Arc::new(SystemNames))
                .redirect(reqwest::redirect::Policy::none());
            if base.host_str().is_some_and(is_loopback) { http.no_proxy() } else { http }
        };
        let http = build().read_timeout(STALLED_AFTER).build().context("cannot make an HTTP client")?;
        let sending = build().build().context("cannot make an HTTP client")?;
        Ok(Self { http, sending, base, authorization, max_wait, say })
    }

    /// Prints a message for the user.
    pub fn say(&self, line: &str) {
        (self.say)(line);
    }

    /// Base URL of the API; ends with a slash.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Time for which one operation is retried.
    pub fn max_wait(&self) -> Duration {
        self.max_wait
    }

    /// Whether an address belongs to the API. The token must not be sent anywhere else.
    pub fn is_ours(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// URL of a resource of the API.
    pub fn url(&self, path: &str, query: Option<&str>) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        url.set_query(query);
        url
    }

    /// Builds a request to the API.
    pub fn request(&self, method: Method, path: &str, query: Option<&str>) -> RequestBuilder {
        self.request_at(method, self.url(path, query))
    }

    /// Builds a request to any address; the token is sent to the API only.
    pub fn request_at(&self, method: Method, url: Url) -> RequestBuilder {
        let authorization = self.authorization.clone().filter(|_| self.is_ours(&url));
        with(self.http.request(method, url), authorization)
    }

    /// Builds a request to the API with a body that takes long. It has no read timeout: the caller must watch its
    /// progress.
    pub fn long_request(&self, method: Method, path: &str) -> RequestBuilder {
        with(self.sending.request(method, self.url(path, None)), self.authorization.clone())
    }

    /// Reads a resource.
    ///
    /// # Errors
    /// Fails if the API refuses, or does not respond within the longest wait.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: Option<&str>) -> anyhow::Result<T> {
        let reply = self.retry(&format!("read {path}"), || self.request(Method::GET, path, query)).await?;
        reply.decode()
    }

    /// Sends a request until its response is final.
    ///
    /// # Errors
    /// Fails if the API refuses, or does not respond within the longest wait.
    pub async fn retry(&self, what: &str, request: impl Fn() -> RequestBuilder) -> Result<Reply, Refused> {
        let mut retries = self.retries(what);
        loop {
            match attempt(request()).await {
                Attempted::Done(reply) => return Ok(reply),
                Attempted::Refused(refused) => return Err(refused),
                Attempted::Later(later) => retries.pause(later).await?,
            }
        }
    }

    /// Retry state for an operation that is repeated until it succeeds.
    pub fn retries(&self, what: &str) -> Retries<'_> {
        let what = what.to_owned();
        Retries { client: self, what, begin: Instant::now(), wait: FIRST_WAIT, reported: false }
    }
}

fn with(request: RequestBuilder, authorization: Option<HeaderValue>) -> RequestBuilder {
    match authorization {
        Some(authorization) => request.header(AUTHORIZATION, authorization),
        None => request,
    }
}

/// Retries of one operation since it last made progress: their beginning, and the next pause.
pub struct Retries<'c> {
    client: &'c ApiClient,
    what: String,
    begin: Instant,
    wait: Duration,
    /// Whether the user has been informed of the wait.
    reported: bool,
}

impl Retries<'_> {
    /// Resets the state after progress: earlier failures are forgotten.
    pub fn renew(&mut self) {
        (self.begin, self.wait, self.reported) = (Instant::now(), FIRST_WAIT, false);
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// Fails if the operation has been retried for `max_wait`.
    pub async fn pause(&mut self, later: Later) -> anyhow::Result<()> {
        let Self { client, what, .. } = self;
        // Between half of the pause and all of it: several clients of one restarted server come back one by one.
        let pause = later.after.unwrap_or_default().max(self.wait.mul_f64(0.5 + 0.5 * random_fraction()));
        if self.begin.elapsed() + pause > client.max_wait {
            let (waited, why) = (client.max_wait.as_secs(), later.why);
            bail!("cannot {what} at {} within {waited} s: {why}", client.base);
        }
        // The first failure is not worth a message; from the second on, the user may wonder.
        if self.wait > FIRST_WAIT && !self.reported {
            client.say(&format!("waiting for {}: {}", client.base, later.why));
            self.reported = true;
        }
        tokio::time::sleep(pause).await;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        Ok(())
    }
}

/// Makes one attempt.
pub async fn attempt(request: RequestBuilder) -> Attempted<Reply> {
    match request.send().await {
        Ok(response) => read_answer(response).await,
        Err(error) => failed(&error),
    }
}

/// Classifies a request that received no response.
pub fn failed(error: &reqwest::Error) -> Attempted<Reply> {
    if error.is_builder() {
        Attempted::Refused(anyhow!("{error}").into())
    } else {
        Attempted::Later(Later::new(describe_trouble(error)))
    }
}

/// Explains to a user why there was no response.
fn describe_trouble(error: &reqwest::Error) -> String {
    let peer = error.url().map_or_else(|| "the API".to_owned(), |url| url.origin().ascii_serialization());
    if error.is_timeout() {
        return if error.is_connect() {
            format!("no connection to {peer} within {} s", CONNECT_TIMEOUT.as_secs())
        } else {
            format!("nothing from {peer} for {} s", STALLED_AFTER.as_secs())
        };
    }
    let here = error.url().and_then(Url::host_str).is_some_and(is_loopback);
    match connection::explain(error, &peer) {
        Some(text) if here && connection::is_refused(error) => format!("{text}; is `make run` running?"),
        Some(text) => text,
        None => crate::error::chain(error),
    }
}

fn is_loopback(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}

/// Resolves names as the system does, with an error that distinguishes an unknown name from a failed connection.
struct SystemNames;

impl Resolve for SystemNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            match tokio::net::lookup_host((name.as_str(), 0)).await {
                Ok(found) => Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Addrs),
                Err(_) => Err(UnknownName(name.as_str().to_owned()).into()),
            }
        })
    }
}

/// Reads a response to its end and classifies it.
pub async fn read_answer(mut response: Response) -> Attempted<Reply> {
    let (status, headers) = (response.status(), response.headers().clone());
    let after = headers.get(RETRY_AFTER).and_then(read_retry_after);
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= MAX_RESPONSE_BYTES => {
                body.extend_from_slice(&chunk)
            }
            Ok(Some(_)) => {
                return Attempted::Refused(anyhow!("the answer is larger than any of ours").into());
            }
            Ok(None) => break,
            // The request may have taken effect or not. Its key or offset makes it safe to repeat.
            Err(error) => return Attempted::Later(Later { why: describe_trouble(&error), after }),
        }
    }
    if status.is_success() {
        return Attempted::Done(Reply { headers, body });
    }
    let why = describe(status, &body);
    match status {
        // 409: the connection broke, and the API has not yet noticed that the first attempt is over.
        StatusCode::CONFLICT | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Attempted::Later(Later { why, after })
        }
        _ if status.is_server_error() => Attempted::Later(Later { why, after }),
        StatusCode::UNAUTHORIZED => Attempted::Refused(Refused {
            status: Some(status),
            failure: anyhow!(
                "{why} Give another token with --token-file or SALEBELL_TOKEN, or run this in the folder of a running \
                 `salebell dev`."
            ),
        }),
        _ => Attempted::Refused(Refused { status: Some(status), failure: anyhow!(why) }),
    }
}

/// Delay until the earliest time of the next attempt.
fn read_retry_after(value: &HeaderValue) -> Option<Duration> {
    retries::parse_retry_after(value.to_str().ok()?, Clock::system().now())?.to_std().ok()
}

fn describe(status: StatusCode, body: &[u8]) -> String {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => format!("{status}: {}", describe_problem(&problem)),
        Err(_) => match sentence(body) {
            Some(text) => format!("{status}: {text}"),
            None => status.to_string(),
        },
    }
}

/// A short text on one line, as a load balancer may return it; neither a page nor data.
fn sentence(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?.trim();
    let is_one = !text.is_empty() && text.len() <= 200 && !text.starts_with(['<', '{', '[']);
    (is_one && !text.contains(char::is_control)).then_some(text)
}

/// A problem on one line: its fields if it names some, otherwise its detail.
pub fn describe_problem(problem: &Problem) -> String {
    if problem.errors.is_empty() {
        return problem.detail.clone();
    }
    let fields: Vec<String> = problem
        .errors
        .iter()
        .map(|error| format!("{} {}", error.pointer.trim_start_matches('/'), error.detail))
        .collect();
    fields.join("; ")
}

/// A random number, at least 0 and below 1.
fn random_fraction() -> f64 {
    let mut bytes = [0u8; 2];
    // Without random numbers all clients wait equally long, which does no harm.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u16::from_ne_bytes(bytes)) / 65536.0
}

/// Formats bytes as lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_try_again_is_read_as_seconds_and_as_a_date() {
        let read = |text: &str| read_retry_after(&HeaderValue::from_str(text).unwrap());
        assert_eq!(read("45"), Some(Duration::from_secs(45)));
        let date = std::time::SystemTime::now() + Duration::from_secs(120);
        let wait = read(&httpdate::fmt_http_date(date)).unwrap();
        assert!((Duration::from_secs(110)..=Duration::from_secs(120)).contains(&wait), "{wait:?}");
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!((read("soon"), read("-1")), (None, None));
    }
}
