//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07): a repeated request gets the response of its first
//! execution. HTTP has it as a header, gRPC as metadata.
//!
//! - The same key with the same target and body → the saved response; with another target or body → a refusal; while the
//!   first request is in flight → a conflict.
//! - An execution continues when its client disconnects, and a repetition finds its response. If the process dies, a
//!   repetition takes over as soon as the lock has expired. It then repeats what the dead process had committed without
//!   saving a response, so handlers use a single transaction.
//! - An account may store 100,000 keys and 64 MiB of responses in a day. Beyond that a new key is refused, because
//!   forgetting a key too early would let a request take effect twice.
//! - Bodies are sealed with `webhook.encryption_keys`, since some contain a secret that is shown once. Without an
//!   encryption key, a response with a secret is saved without its body, and a repetition gets a conflict that explains
//!   this.
//! - While the database is unavailable, keys cannot be looked up. Requests with a key are then refused, except those whose
//!   key is optional: price reports on a bus that outlives the database. They are accepted, and a repetition is a report
//!   of its own.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::{HeaderMap, HeaderName};
use chrono::TimeDelta;
use serde_json::{Map, Value};
use tokio::task::AbortHandle;
use uuid::Uuid;

use crate::app::App;
use crate::auth::Caller;
use crate::database::deadline::DeadlineExceeded;
use crate::domain::ids::AccountId;
use crate::error::{Error, FieldError, Kind, REQUEST_ID, Result, chain};
use crate::store::idempotency::{self as store, KeyState, Name, Saved};
use crate::store::lease::Lease;

/// The header, or metadata, that holds the key.
pub const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// The header, or metadata, that marks a repeated response.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
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
/// Maximum number of bytes of a response that is saved unchanged; a larger one is saved in a short form, if it has one.
pub const MAX_KEPT: usize = 64 << 10;
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

/// A response to be saved.
pub struct Answer<'a> {
    pub status: u16,
    pub headers: Map<String, Value>,
    /// `None`: the body is too large to be saved.
    pub body: Option<&'a [u8]>,
    /// Whether the body contains a secret, which is not saved in clear text.
    pub secret: bool,
}

/// A response that was saved.
pub struct SavedAnswer {
    pub status: u16,
    /// Names and values.
    pub headers: Value,
    pub body: Vec<u8>,
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

/// Begins a request of `caller`; `target` names what it does, and `hash` is the SHA-256 of its body, if that has been
/// read. Where the key is `optional`, a database that is unavailable leaves it unused.
///
/// # Errors
/// `Malformed` if the key is malformed, `Invalid` if it was used for another request, `Conflict` while the first
/// request is in flight, `TooManyRequests` if the account has no room for another key, `Unavailable` if the database is
/// and the key is not optional.
pub async fn begin(
    app: &App,
    caller: &Caller,
    target: &str,
    optional: bool,
    headers: &HeaderMap,
    hash: Option<&[u8]>,
) -> Result<Begun> {
    let Some(key) = read_key(headers)? else { return Ok(Begun::Execution(Execution(None))) };
    // The scopes of the token are part of the name: the response to a token with more scopes must not be returned to
    // one with fewer.
    let route = format!("{target} {}", caller.scopes.join(" "));
    // In a task of its own: a client that hangs up meanwhile leaves no row behind without an owner.
    let claim = claim(app.clone(), caller.account, key.clone(), route, hash.map(<[u8]>::to_vec));
    let claim = async { outlive(app, caller.account, claim).await? };
    let (found, execution) = if optional {
        match app.deadline.run(OPTIONAL_KEY_TIMEOUT, claim).await {
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

    /// Gives up the key: the next request with it is executed.
    pub async fn give_up(mut self) {
        if let Some(open) = self.0.as_mut() {
            open.closed = true;
            open.claim.give_up().await;
        }
    }

    /// Saves the response; `hash` is the SHA-256 of the body. If saving fails, the caller still receives the response,
    /// and the lock expires.
    pub async fn save(mut self, answer: Answer<'_>, hash: &[u8]) {
        let Some(open) = self.0.as_mut() else { return };
        open.closed = true;
        let save = open.claim.save(answer, hash);
        if let Ok(Err(error)) = open.claim.app.deadline.timeout(KEY_TIMEOUT, save).await {
            log::warn!(target: "salebell::idempotency", "an answer is not saved: {}", chain(&error));
        }
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

impl Claim {
    async fn save(&self, answer: Answer<'_>, hash: &[u8]) -> Result<()> {
        let keyring = &self.app.keyring;
        let body = match answer.body {
            Some(body) if keyring.can_seal() => Some(keyring.seal(owner(self.account, &self.key), body)?),
            Some(body) if !answer.secret => Some([&[PLAIN], body].concat()),
            _ => None,
        };
        let bytes = body.as_ref().map_or(0, Vec::len);
        self.app.kept_answers.note_kept(self.account, bytes);
        let (digest, status, headers) = (hash.to_vec(), answer.status, answer.headers.into());
        let answer = Saved { digest, status, headers, body };
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
    pub fn open(self, hash: &[u8]) -> Result<SavedAnswer> {
        if self.saved.digest != hash {
            return Err(another_request());
        }
        let headers = &self.saved.headers;
        let lost = || {
            let detail = "The request was executed, but its answer was not kept: it contained a secret or was too large.";
            let location = headers.get("location").and_then(Value::as_str);
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
        Ok(SavedAnswer { status: self.saved.status, headers: self.saved.headers, body })
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

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
