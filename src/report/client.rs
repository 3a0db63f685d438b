//! Talks to the API, through broken connections and restarts.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{RequestBuilder, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::error::Problem;
use crate::failure::{Explain, Failure};

/// The first wait after something went wrong; it doubles from there.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// An answer names at most every line of a slice; more than this is none of ours, in bytes.
const LARGEST_ANSWER: usize = 64 << 20;

/// What the API says to a slice.
#[derive(Debug, Deserialize)]
pub struct Receipt {
    pub batch_id: Option<Uuid>,
    pub accepted: u64,
    pub rejected: Vec<RejectedLine>,
}

/// One line that the API refused.
#[derive(Debug, Deserialize)]
pub struct RejectedLine {
    /// The line of the request, from 0.
    pub index: usize,
    pub problem: Problem,
}

/// What became of a batch.
#[derive(Debug, Default, Deserialize)]
pub struct BatchCounts {
    pub done: bool,
    pub recorded: u64,
    pub unchanged: u64,
    pub stale: u64,
    pub quarantined: u64,
    pub failed: u64,
    pub new_lows: u64,
    pub transitions: std::collections::BTreeMap<String, u64>,
}

/// One API and one caller.
pub struct ApiClient {
    http: reqwest::Client,
    base: Url,
    authorization: HeaderValue,
    max_wait: Duration,
    /// Tells a person why nothing moves.
    say: Box<dyn Fn(&str) + Send + Sync>,
}

impl ApiClient {
    /// For the API at `url`. `max_wait` is how long one request is tried again.
    ///
    /// # Errors
    /// A URL that is none, or a token that no header can hold.
    pub fn new(
        url: &str,
        token: &SecretString,
        max_wait: Duration,
        say: Box<dyn Fn(&str) + Send + Sync>,
    ) -> Result<Self, Failure> {
        let mut base: Url = url.parse().explain(|| format!("{url} is no URL"))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(Failure::new(format!("{url} is no http or https URL")));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
            .map_err(|_| Failure::new("the token has characters that no token has"))?;
        authorization.set_sensitive(true);
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("salebell-report/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(120))
            .redirect(reqwest::redirect::Policy::none());
        if matches!(base.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            http = http.no_proxy();
        }
        let http = http.build().explain(|| "cannot make an HTTP client")?;
        Ok(Self { http, base, authorization, max_wait, say })
    }

    /// Reports one slice under its key; returns once the API has taken it. `backfill` rings no bells.
    ///
    /// # Errors
    /// A refusal of the whole slice, or no answer within the longest wait.
    pub async fn report(&self, key: &str, body: &Bytes, backfill: bool) -> Result<Receipt, Failure> {
        let query = if backfill { Some("backfill=true") } else { None };
        self.retry("report", || {
            self.request(reqwest::Method::POST, "v1/prices", query)
                .header(CONTENT_TYPE, "application/x-ndjson")
                .header("idempotency-key", key)
                .body(body.clone())
        })
        .await
    }

    /// Reads something else.
    ///
    /// # Errors
    /// A refusal, or no answer within the longest wait.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: Option<&str>) -> Result<T, Failure> {
        self.retry(&format!("read {path}"), || self.request(reqwest::Method::GET, path, query)).await
    }

    /// Waits until a batch is done.
    ///
    /// # Errors
    /// When it is not done within the longest wait, or cannot be asked for.
    pub async fn wait_for(&self, batch: Uuid) -> Result<BatchCounts, Failure> {
        let begin = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            let path = format!("v1/batches/{batch}");
            let counts: BatchCounts = self.get(&path, None).await?;
            if counts.done {
                return Ok(counts);
            }
            if begin.elapsed() > self.max_wait {
                return Err(Failure::new(format!(
                    "batch {batch} was accepted and is not recorded after {} s; is a worker running?",
                    self.max_wait.as_secs()
                )));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    fn request(&self, method: reqwest::Method, path: &str, query: Option<&str>) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        url.set_query(query);
        self.http.request(method, url).header(AUTHORIZATION, self.authorization.clone())
    }

    /// Sends until there is an answer that does not ask for another try.
    async fn retry<T: DeserializeOwned>(
        &self,
        what: &str,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<T, Failure> {
        let begin = Instant::now();
        let mut wait = FIRST_WAIT;
        let mut told = false;
        loop {
            let (why, asked) = match send(request()).await {
                Answer::Done(value) => return Ok(value),
                Answer::Refused(failure) => return Err(failure),
                Answer::Later(why, asked) => (why, asked),
            };
            // Between the half and the whole: several clients of one restarted server come back one by one.
            let pause = asked.unwrap_or_default().max(wait.mul_f64(0.5 + 0.5 * random_fraction()));
            if begin.elapsed() + pause > self.max_wait {
                let waited = self.max_wait.as_secs();
                return Err(Failure::new(format!("cannot {what} at {} within {waited} s: {why}", self.base)));
            }
            // The first hiccup is nobody's business; from the second on a person wonders.
            if wait > FIRST_WAIT && !told {
                (self.say)(&format!("waiting for {}: {why}", self.base));
                told = true;
            }
            tokio::time::sleep(pause).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
}

enum Answer<T> {
    Done(T),
    /// The same again may succeed, after the time that the API asked for.
    Later(String, Option<Duration>),
    Refused(Failure),
}

async fn send<T: DeserializeOwned>(request: RequestBuilder) -> Answer<T> {
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) if error.is_builder() => return Answer::Refused(Failure::new(error.to_string())),
        Err(error) => return Answer::Later(crate::error::chain(&error), None),
    };
    let status = response.status();
    let asked = response.headers().get(RETRY_AFTER).and_then(read_seconds);
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= LARGEST_ANSWER => body.extend_from_slice(&chunk),
            Ok(Some(_)) => return Answer::Refused(Failure::new("the answer is larger than any of ours")),
            Ok(None) => break,
            // The slice may have been taken or not: the key makes asking again safe.
            Err(error) => return Answer::Later(crate::error::chain(&error), asked),
        }
    }
    if status.is_success() {
        return match serde_json::from_slice(&body) {
            Ok(value) => Answer::Done(value),
            Err(error) => Answer::Refused(Failure::new(format!("the answer is none of Salebell's: {error}"))),
        };
    }
    let why = describe(status, &body);
    match status {
        // 409: the connection broke, and the API has not noticed yet that the first try is over.
        StatusCode::CONFLICT | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Answer::Later(why, asked)
        }
        _ if status.is_server_error() => Answer::Later(why, asked),
        StatusCode::UNAUTHORIZED => Answer::Refused(Failure::new(format!(
            "{why} Give a token with --token-file, SALEBELL_TOKEN, or by running where .salebell/dev-token is."
        ))),
        StatusCode::PAYLOAD_TOO_LARGE => {
            Answer::Refused(Failure::new(format!("{why} A smaller --slice may do.")))
        }
        _ => Answer::Refused(Failure::new(why)),
    }
}

/// `Retry-After` in seconds; a date is not worth a parser here, our own waits will do.
fn read_seconds(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

fn describe(status: StatusCode, body: &[u8]) -> String {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => format!("{status}: {}", describe_problem(&problem)),
        Err(_) => status.to_string(),
    }
}

/// A problem in one line: its fields, where it names some, else its detail.
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

/// At least 0 and below 1.
fn random_fraction() -> f64 {
    let mut bytes = [0u8; 2];
    // Without random numbers everybody waits equally long, and no harm is done.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u16::from_ne_bytes(bytes)) / 65536.0
}
