//! Layer for `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07): a repeated POST gets the response of its
//! first execution.
//!
//! - The same key with the same URL and body → the saved response, with `Idempotency-Replayed: true`; with another URL
//!   or body → 422; while the first request is in flight → 409 with `Retry-After`.
//! - Responses that could differ the next time (5xx, 401, 403, 408, 409, 415, 425, 429) are not saved.
//! - An execution continues when its client disconnects, and a repetition finds its response. If the process dies, a
//!   repetition takes over as soon as the lock has expired. It then repeats what the dead process had committed without
//!   saving a response, so handlers use a single transaction.
//! - A response larger than 64 KiB is saved in a short form, if it has one (`Abridged`): that of a report names its
//!   batch and counts the refusals. An account may store 100,000 keys and 64 MiB of responses in a day. Beyond that a
//!   new key is refused with 429, because forgetting a key too early would let a request take effect twice.
//! - Bodies are sealed with `webhook.encryption_keys`, since some contain a secret that is shown once. Without an
//!   encryption key, successful responses with `Cache-Control: no-store` are saved without their body, and a repetition
//!   gets a 409 that explains this.
//! - While the database is unavailable, keys cannot be looked up. Requests with a key are then refused, except price
//!   reports on a bus that outlives the database: they are accepted, and a repetition is a report of its own.
//!
//! Handlers of JSON requests need no code for this: `middleware` does everything. A handler that streams its body calls
//! `begin` before reading it and `Execution::finish` after.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::TimeDelta;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use serde_json::{Map, Value};
use tokio::task::AbortHandle;
use uuid::Uuid;

use crate::app::App;
use crate::database::deadline::DeadlineExceeded;
use crate::domain::ids::AccountId;
use crate::error::{Error, FieldError, Kind, REQUEST_ID, Result, chain};
use crate::http::extract::body::{is_ndjson, read_limited};
use crate::http::extract::caller::{Caller, authenticate};
use crate::store::idempotency::{self as store, KeyState, Name, Saved};
use crate::store::lease::Lease;

const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Longest key, in bytes.
const MAX_KEY: usize = 255;
/// How long a response is kept.
const KEPT: TimeDelta = TimeDelta::hours(24);
/// How long the lock of a request lasts unless its process prolongs it.
const LOCK: Duration = Duration::from_secs(30);
/// Timeout of a statement about a key.
const KEY_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of claiming a key where the key is optional.
const OPTIONAL_KEY_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of bytes of a response that is saved unchanged. A larger one is saved in its `Abridged` form, if it
/// has one.
const MAX_KEPT: usize = 64 << 10;
/// Maximum number of bytes of a response that is read to be saved; none of ours is larger.
const MAX_ANSWER: u64 = 16 << 20;

/// Short form of a response that is too large to be saved whole; the handler adds it to the response's extensions.
#[derive(Clone)]
pub struct Abridged(pub Bytes);

/// Prefix of a body that is saved without encryption. A sealed one begins with its version, which is not 0 (see
/// `secrets`).
const PLAIN: u8 = 0;

/// The role of a request.
pub enum Begun {
    /// The first request with its key, or one without a key: execute it.
    Execution(Execution),
    /// A repetition: compare the body, and return the saved response.
    Repetition(Repetition),
}

/// How a route treats `Idempotency-Key`; the URL table states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idempotency {
    /// The body is read into memory, and the layer handles the key.
    Buffered,
    /// The handler reads the body as a stream, and calls `begin` and `Execution::finish` itself.
    Streaming,
    /// NDJSON is `Streaming`, JSON is `Buffered`. On a bus that outlives the database the key is optional: while the
    /// database is unavailable, a report is accepted without its key instead of being refused, since repeated prices
    /// change nothing.
    Reports,
}

impl Idempotency {
    /// Whether the handler of a request with these headers calls `begin` itself.
    fn is_left_to_handler(self, headers: &HeaderMap) -> bool {
        match self {
            Idempotency::Buffered => false,
            Idempotency::Streaming => true,
            Idempotency::Reports => is_ndjson(headers),
        }
    }
}

/// State of the layer: the app, and how each route of the URL table treats the key.
pub type Routes = (App, fn(route: &str) -> Idempotency);

/// Handles every POST that has a key and a body that is read into memory.
pub async fn middleware(
    State((app, idempotency_of)): State<Routes>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    if request.method() != Method::POST || !headers.contains_key(HEADER) {
        return next.run(request).await;
    }
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let idempotency = idempotency_of(route);
    if idempotency.is_left_to_handler(headers) {
        return next.run(request).await;
    }
    run(app, idempotency, request, next).await.unwrap_or_else(IntoResponse::into_response)
}

async fn run(app: App, idempotency: Idempotency, request: Request, next: Next) -> Result<Response> {
    let (mut parts, body) = request.into_parts();
    let caller = authenticate(&app, &mut parts).await?;
    let body = read_limited(&parts.headers, body, app.config.server.max_json_bytes).await?;
    let hash = digest(&SHA256, &body);
    let begun = begin(&app, &caller, idempotency, &parts.uri, &parts.headers, Some(hash.as_ref())).await?;
    let execution = match begun {
        Begun::Repetition(repetition) => return repetition.answer(hash.as_ref()),
        Begun::Execution(execution) => execution,
    };
    let request = Request::from_parts(parts, Body::from(body));
    let outliving = app.clone();
    let work = async move {
        let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
        let answer = match app.deadline.timeout(app.config.server.request_timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Error::internal("a handler panicked").into_response(),
            Err(DeadlineExceeded) => Error::unavailable("the handler took too long").into_response(),
        };
        execution.finish(answer, hash.as_ref()).await
    };
    outlive(&outliving, caller.account, work).await
}

/// Runs work in a separate task. It continues when the client disconnects, so a repetition finds a complete response.
///
/// # Errors
/// `Internal` if the work panicked.
pub async fn outlive<T: Send + 'static>(
    app: &App,
    account: AccountId,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T> {
    let id = REQUEST_ID.try_with(Clone::clone).unwrap_or_default();
    let cpu = app.cpu.clone();
    let work = async move { cpu.share(|| Some(account), work).await };
    tokio::spawn(REQUEST_ID.scope(id, work)).await.map_err(Error::internal)
}

/// Begins a request of `caller`. `hash` is the SHA-256 of the body, if that has been read.
///
/// # Errors
/// `Malformed` if the key is malformed, `Invalid` if it was used for another request, `Conflict` while the first
/// request is in flight, `TooManyRequests` if the account has no room for another key, `Unavailable` if the database is
/// and the key is not optional.
pub async fn begin(
    app: &App,
    caller: &Caller,
    idempotency: Idempotency,
    uri: &Uri,
    headers: &HeaderMap,
    hash: Option<&[u8]>,
) -> Result<Begun> {
    let Some(key) = read_key(headers)? else { return Ok(Begun::Execution(Execution(None))) };
    // The scopes of the token are part of the name: the response to a token with more scopes must not be returned to
    // one with fewer.
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let route = format!("{target} {}", caller.scopes.join(" "));
    // In a task of its own: a client that hangs up meanwhile leaves no row behind without an owner.
    let claim = claim(app.clone(), caller.account, key.clone(), route, hash.map(<[u8]>::to_vec));
    let claim = async { outlive(app, caller.account, claim).await? };
    let (found, execution) = if idempotency == Idempotency::Reports && app.bus.outlives_database() {
        match app.deadline.run(OPTIONAL_KEY_TIMEOUT, claim).await {
            // The report is accepted without its key, since repeated prices change nothing.
            Err(error) if error.kind == Kind::Unavailable => {
                return Ok(Begun::Execution(Execution(None)));
            }
            claimed => claimed?,
        }
    } else {
        claim.await?
    };
    match found {
        KeyState::Nothing { .. } => {
            // If there is no room for another key, dropping the execution gives it up.
            let now = app.clock.now();
            let room = app.kept_answers.check(&app.writer, caller.account, now, now - KEPT);
            app.deadline.run(KEY_TIMEOUT, room).await?;
            Ok(Begun::Execution(execution))
        }
        KeyState::Answered(saved) => {
            let owner = owner(caller.account, &key);
            Ok(Begun::Repetition(Repetition { app: app.clone(), owner, saved }))
        }
        KeyState::Another => Err(another_request()),
        KeyState::InFlight => {
            let mut refusal = Error::conflict("The request with this Idempotency-Key is still in flight.");
            refusal.retry_after_s = Some(1);
            Err(refusal)
        }
    }
}

/// Claims a key that is free. The execution is given up when it is dropped, also when its caller has gone.
async fn claim(
    app: App,
    account: AccountId,
    key: String,
    route: String,
    hash: Option<Vec<u8>>,
) -> Result<(KeyState, Execution)> {
    let now = app.clock.now();
    let name = Name { account, key: &key };
    let found = store::begin(&app.writer, name, &route, hash.as_deref(), now, now + LOCK, now - KEPT).await?;
    let KeyState::Nothing { began_at } = found else { return Ok((found, Execution(None))) };
    let claim = Claim { app, account, key, began_at };
    let heart = tokio::spawn(claim.clone().stay_alive()).abort_handle();
    Ok((found, Execution(Some(Open { claim, heart, closed: false }))))
}

fn another_request() -> Error {
    let detail = "was used for another request";
    let mut refusal = Error::new(Kind::Invalid, format!("The Idempotency-Key {detail}."));
    refusal.errors.push(FieldError { pointer: "Idempotency-Key".to_owned(), detail: detail.to_owned() });
    refusal
}

/// Reads the key: a quoted string of structured fields (RFC 9651), or the bare word that many clients send.
fn read_key(headers: &HeaderMap) -> Result<Option<String>> {
    let invalid = || Error::malformed("Idempotency-Key must be one quoted string of 1 to 255 characters.");
    let mut given = headers.get_all(HEADER).iter();
    let Some(value) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(invalid());
    }
    let text = value.to_str().map_err(|_| invalid())?.trim();
    let key = match text.strip_prefix('"') {
        Some(quoted) => unquote(quoted).ok_or_else(invalid)?,
        None if text.bytes().any(|b| matches!(b, b'"' | b'\\' | b',' | b' ')) => return Err(invalid()),
        None => text.to_owned(),
    };
    if key.is_empty() || key.len() > MAX_KEY { Err(invalid()) } else { Ok(Some(key)) }
}

/// Returns the content of a quoted string; parameters after it are ignored.
fn unquote(text: &str) -> Option<String> {
    let mut key = String::new();
    let mut rest = text.chars();
    loop {
        match rest.next()? {
            '"' => break,
            '\\' => key.push(rest.next().filter(|c| matches!(c, '"' | '\\'))?),
            c => key.push(c),
        }
    }
    let rest = rest.as_str().trim_start();
    (rest.is_empty() || rest.starts_with(';')).then_some(key)
}

/// Derives the owner of a sealed body: the body cannot be opened for another account or key.
fn owner(account: AccountId, key: &str) -> Uuid {
    let hash = digest(&SHA256, &[account.0.as_bytes(), key.as_bytes()].concat());
    let mut id = [0; 16];
    id.copy_from_slice(&hash.as_ref()[..16]);
    Uuid::from_bytes(id)
}

/// A request that is being executed. Dropping it without a response gives up its key.
pub struct Execution(Option<Open>);

struct Open {
    claim: Claim,
    heart: AbortHandle,
    closed: bool,
}

#[derive(Clone)]
struct Claim {
    app: App,
    account: AccountId,
    key: String,
    began_at: chrono::DateTime<chrono::Utc>,
}

impl Claim {
    fn name(&self) -> Name<'_> {
        Name { account: self.account, key: &self.key }
    }

    /// Extends the lock until this is aborted, or another process has taken over the request.
    async fn stay_alive(self) {
        loop {
            tokio::time::sleep(LOCK / 3).await;
            let until = self.app.clock.now() + LOCK;
            let prolong = store::prolong(&self.app.writer, self.name(), self.began_at, until);
            match self.app.deadline.timeout(KEY_TIMEOUT, prolong).await {
                Ok(Ok(Lease::Held)) | Err(DeadlineExceeded) => {}
                Ok(Ok(Lease::Lost)) => return,
                Ok(Err(error)) => {
                    log::warn!(target: "salebell::idempotency", "a lock is not prolonged: {}", chain(&error));
                }
            }
        }
    }

    async fn give_up(&self) {
        let give_up = store::give_up(&self.app.writer, self.name(), self.began_at);
        if let Ok(Err(error)) = self.app.deadline.timeout(KEY_TIMEOUT, give_up).await {
            log::warn!(target: "salebell::idempotency", "a key is not given up: {}", chain(&error));
        }
    }
}

impl Execution {
    /// Whether the response will be saved, which requires the hash of the body.
    pub fn has_key(&self) -> bool {
        self.0.is_some()
    }

    /// Saves the response if it may be repeated, and returns it. `hash` is the SHA-256 of the body.
    pub async fn finish(mut self, answer: Response, hash: &[u8]) -> Response {
        let Some(open) = self.0.as_mut() else { return answer };
        let known = axum::body::HttpBody::size_hint(answer.body()).exact();
        if !may_be_repeated(answer.status()) || known.is_none_or(|size| size > MAX_ANSWER) {
            open.closed = true;
            open.claim.give_up().await;
            return answer;
        }
        let (parts, body) = answer.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Error::internal(error).into_response(),
        };
        // From here on the request has a response. If saving it fails, the caller still receives it, and the lock
        // expires.
        open.closed = true;
        let kept = if body.len() > MAX_KEPT {
            parts.extensions.get::<Abridged>().map(|short| short.0.clone())
        } else {
            Some(body.clone())
        };
        let save = open.claim.save(parts.status, &parts.headers, kept.as_deref(), hash);
        if let Ok(Err(error)) = open.claim.app.deadline.timeout(KEY_TIMEOUT, save).await {
            log::warn!(target: "salebell::idempotency", "an answer is not saved: {}", chain(&error));
        }
        Response::from_parts(parts, Body::from(body))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.heart.abort();
        if self.closed {
            return;
        }
        let claim = self.claim.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { claim.give_up().await });
        }
    }
}

/// Whether the same request would get the same response again.
fn may_be_repeated(status: StatusCode) -> bool {
    !status.is_server_error() && !matches!(status.as_u16(), 401 | 403 | 408 | 409 | 415 | 425 | 429)
}

impl Claim {
    /// Saves the response. Without `body` it is too large to be kept.
    async fn save(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: Option<&[u8]>,
        hash: &[u8],
    ) -> Result<()> {
        let keyring = &self.app.keyring;
        let unstored = headers.get(header::CACHE_CONTROL).is_some_and(|value| value == "no-store");
        let secret = unstored && status.is_success();
        let body = match body {
            Some(body) if keyring.can_seal() => Some(keyring.seal(owner(self.account, &self.key), body)?),
            Some(body) if !secret => Some([&[PLAIN], body].concat()),
            _ => None,
        };
        let bytes = body.as_ref().map_or(0, Vec::len);
        self.app.kept_answers.note_kept(self.account, bytes);
        let text = |value: &HeaderValue| value.to_str().ok().map(Value::from);
        let headers: Map<String, Value> =
            headers.iter().filter_map(|(name, value)| Some((name.to_string(), text(value)?))).collect();
        let answer = Saved { digest: hash.to_vec(), status: status.as_u16(), headers: headers.into(), body };
        store::save(&self.app.writer, self.name(), self.began_at, &answer).await
    }
}

/// The saved response of the first execution.
pub struct Repetition {
    app: App,
    owner: Uuid,
    saved: Saved,
}

impl Repetition {
    /// Returns the saved response for a body with this SHA-256.
    ///
    /// # Errors
    /// `Invalid` if the body differs from the first one, `Conflict` if the response was not kept.
    pub fn answer(self, hash: &[u8]) -> Result<Response> {
        if self.saved.digest != hash {
            return Err(another_request());
        }
        let lost = || {
            let detail = "The request was executed, but its answer was not kept: it contained a secret or was too large.";
            let location = self.saved.headers.get("location").and_then(Value::as_str);
            Error::conflict(
                location.map_or(detail.to_owned(), |at| format!("{detail} The resource is at {at}.")),
            )
        };
        let body = match self.saved.body.as_deref() {
            None => return Err(lost()),
            Some([PLAIN, plain @ ..]) => plain.to_vec(),
            Some(sealed) => {
                use secrecy::ExposeSecret;
                self.app.keyring.open(self.owner, sealed).map_err(|_| lost())?.expose_secret().to_vec()
            }
        };
        let mut answer = Response::new(Body::from(body));
        *answer.status_mut() = StatusCode::from_u16(self.saved.status).map_err(Error::internal)?;
        for (name, value) in self.saved.headers.as_object().into_iter().flatten() {
            let name = HeaderName::try_from(name.as_str()).map_err(Error::internal)?;
            let value = HeaderValue::try_from(value.as_str().unwrap_or_default()).map_err(Error::internal)?;
            answer.headers_mut().insert(name, value);
        }
        answer.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        read_key(&headers).ok().flatten()
    }

    #[test]
    fn a_key_is_a_text_in_quotes_or_a_bare_word() {
        let long = "x".repeat(256);
        for (header, expected) in [
            ("\"8e03978e-40d5-43e8-bc93-6894a57f9324\"", Some("8e03978e-40d5-43e8-bc93-6894a57f9324")),
            ("8e03978e-40d5-43e8-bc93-6894a57f9324", Some("8e03978e-40d5-43e8-bc93-6894a57f9324")),
            (r#""a \"b\" \\c""#, Some(r#"a "b" \c"#)),
            ("\"a\";v=1", Some("a")),
            ("\"a\" ; v", Some("a")),
            (&long[..255], Some(&long[..255])),
            (&long, None),
            ("\"\"", None),
            ("", None),
            ("\"a", None),
            ("\"a\" b", None),
            (r#""a\b""#, None),
            ("a, b", None),
            ("a b", None),
            ("é", None),
        ] {
            assert_eq!(key(&[header]).as_deref(), expected, "{header}");
        }
        assert_eq!(key(&["\"a\"", "\"b\""]), None);
    }
}
