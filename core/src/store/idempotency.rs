//! Answers to POST requests with an `Idempotency-Key`, and the requests in flight.
//!
//! A row without a status is a request in flight. It is locked for a short time, which the process that works on it
//! extends. When the lock expires, that process has died and the next request takes the row over.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;
use serde_json::Value;
use sqlx::PgExecutor;

use crate::database::pool::PgPool;
use crate::domain::ids::AccountId;
use crate::error::{Error, Kind, Result};
use crate::store::lease::Lease;

/// Maximum number of keys kept for an account.
pub const MAX_KEYS: i64 = 100_000;
/// Maximum number of bytes kept with the keys of an account.
pub const MAX_BYTES: i64 = 64 << 20;
/// Approximate cost of a key beside its answer, in bytes.
const BYTES_OF_A_KEY: i64 = 512;
/// Time after which an account is counted again.
const COUNT_INTERVAL: TimeDelta = TimeDelta::minutes(1);
/// Divisor of the limits: an account that has used this fraction of one is counted again. A fraction, because counting
/// costs more the more there is.
const COUNT_AFTER: i64 = 100;
/// How long an account over its limits is refused without being counted again.
const FULL_FOR: TimeDelta = TimeDelta::seconds(10);
/// Maximum number of accounts remembered.
const MAX_ACCOUNTS: usize = 10_000;

/// Identity of a request: a key of an account.
#[derive(Clone, Copy)]
pub struct Name<'a> {
    pub account: AccountId,
    pub key: &'a str,
}

/// A stored answer.
pub struct Saved {
    /// SHA-256 of the request's body.
    pub digest: Vec<u8>,
    pub status: u16,
    /// Names and values.
    pub headers: Value,
    /// Encrypted by `api::idempotency`. `None`: it must not be stored.
    pub body: Option<Vec<u8>>,
}

/// State of a key.
pub enum KeyState {
    /// Unused, or left by a request that died. It is the caller's now, as `began_at` proves.
    Nothing {
        began_at: DateTime<Utc>,
    },
    InFlight,
    Answered(Saved),
    /// The key was used for another route or, if the digests are known, for another body.
    Another,
}

/// Begins a request unless it has begun already. `digest` is `None` if the body is yet to be read. A request that
/// began before `oldest` is forgotten.
pub async fn begin(
    pool: &PgPool,
    name: Name<'_>,
    route: &str,
    digest: Option<&[u8]>,
    now: DateTime<Utc>,
    locked_until: DateTime<Utc>,
    oldest: DateTime<Utc>,
) -> Result<KeyState> {
    let began = sqlx::query!(
        "insert into idempotency_keys as own (account_id, key, route, body_digest, locked_until, created_at)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (account_id, key) do update set
            route = $3, body_digest = $4, locked_until = $5, created_at = $6,
            status = null, headers = null, body = null
         where own.created_at < $7
            or (own.status is null and own.locked_until <= $6 and own.route = $3
                and ($4::bytea is null or own.body_digest is null or own.body_digest = $4))
         returning created_at",
        name.account.0,
        name.key,
        route,
        digest,
        locked_until,
        now,
        oldest,
    )
    .fetch_optional(pool)
    .await?;
    if began.is_some() {
        return Ok(KeyState::Nothing { began_at: now });
    }
    let found = sqlx::query!(
        "select route, body_digest, status, headers, body from idempotency_keys
         where account_id = $1 and key = $2",
        name.account.0,
        name.key,
    )
    .fetch_optional(pool)
    .await?;
    // Given up between the two statements: the client retries.
    let Some(found) = found else { return Ok(KeyState::InFlight) };
    let same = digest.is_none() || found.body_digest.is_none() || found.body_digest.as_deref() == digest;
    if found.route != route || !same {
        return Ok(KeyState::Another);
    }
    let (Some(status), Some(digest)) = (found.status, found.body_digest) else {
        return Ok(KeyState::InFlight);
    };
    let headers = found.headers.unwrap_or_default();
    Ok(KeyState::Answered(Saved { digest, status: status as u16, headers, body: found.body }))
}

/// Extends the lock of the request that began at `began_at`.
pub async fn prolong(
    executor: impl PgExecutor<'_>,
    name: Name<'_>,
    began_at: DateTime<Utc>,
    locked_until: DateTime<Utc>,
) -> Result<Lease> {
    let prolonged = sqlx::query!(
        "update idempotency_keys set locked_until = $4
         where account_id = $1 and key = $2 and created_at = $3 and status is null",
        name.account.0,
        name.key,
        began_at,
        locked_until,
    )
    .execute(executor)
    .await?;
    Ok(Lease::of(&prolonged))
}

/// Stores the answer to the request that began at `began_at`, unless another process has taken it over.
pub async fn save(
    executor: impl PgExecutor<'_>,
    name: Name<'_>,
    began_at: DateTime<Utc>,
    answer: &Saved,
) -> Result<()> {
    sqlx::query!(
        "update idempotency_keys set body_digest = $4, status = $5, headers = $6, body = $7
         where account_id = $1 and key = $2 and created_at = $3 and status is null",
        name.account.0,
        name.key,
        began_at,
        answer.digest,
        answer.status as i16,
        answer.headers,
        answer.body,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Forgets the request that began at `began_at`, so that it can be retried at once.
pub async fn give_up(executor: impl PgExecutor<'_>, name: Name<'_>, began_at: DateTime<Utc>) -> Result<()> {
    sqlx::query!(
        "delete from idempotency_keys
         where account_id = $1 and key = $2 and created_at = $3 and status is null",
        name.account.0,
        name.key,
        began_at,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Approximate usage of each account, counted now and then: exact counts would make the requests of an account wait
/// for each other. With several processes an account may exceed its limits by a few per cent.
#[derive(Clone, Default)]
pub struct KeptAnswers(Arc<Mutex<HashMap<AccountId, Counted>>>);

struct Counted {
    at: DateTime<Utc>,
    full: bool,
    /// Number of keys since the last count.
    keys: i64,
    bytes: i64,
}

impl KeptAnswers {
    /// Checks that an account has room for one more key, which has been begun already.
    ///
    /// # Errors
    /// `TooManyRequests`: it has no room.
    pub async fn check(
        &self,
        pool: &PgPool,
        account: AccountId,
        now: DateTime<Utc>,
        oldest: DateTime<Utc>,
    ) -> Result<()> {
        if let Some(full) = self.count_key(account, now) {
            return if full { Err(no_room()) } else { Ok(()) };
        }
        let kept = sqlx::query!(
            r#"select count(*) as "keys!",
                coalesce(sum(octet_length(route) + coalesce(octet_length(body), 0)), 0)::bigint as "bytes!"
            from idempotency_keys where account_id = $1 and created_at >= $2"#,
            account.0,
            oldest,
        )
        .fetch_one(pool)
        .await?;
        let full = kept.keys > MAX_KEYS || kept.bytes + kept.keys * BYTES_OF_A_KEY > MAX_BYTES;
        let mut accounts = self.0.lock();
        if accounts.len() >= MAX_ACCOUNTS {
            accounts.retain(|_, counted| now - counted.at < COUNT_INTERVAL);
            if accounts.len() >= MAX_ACCOUNTS {
                accounts.clear();
            }
        }
        accounts.insert(account, Counted { at: now, full, keys: 0, bytes: 0 });
        if full { Err(no_room()) } else { Ok(()) }
    }

    /// Whether the account is full, if that is known; counts one more key.
    fn count_key(&self, account: AccountId, now: DateTime<Utc>) -> Option<bool> {
        let mut accounts = self.0.lock();
        let counted = accounts.get_mut(&account)?;
        let lasts = if counted.full { FULL_FOR } else { COUNT_INTERVAL };
        let much = counted.keys * COUNT_AFTER >= MAX_KEYS || counted.bytes * COUNT_AFTER >= MAX_BYTES;
        if now - counted.at >= lasts || (much && !counted.full) {
            return None;
        }
        counted.keys += 1;
        Some(counted.full)
    }

    /// Counts bytes that were stored for an account.
    pub fn note_kept(&self, account: AccountId, bytes: usize) {
        if let Some(counted) = self.0.lock().get_mut(&account) {
            counted.bytes += bytes as i64;
        }
    }
}

fn no_room() -> Error {
    let detail = format!(
        "The account has used its quota of Idempotency-Keys: {MAX_KEYS} keys and {} MiB of answers in 24 hours.",
        MAX_BYTES >> 20
    );
    let mut refusal = Error::new(Kind::TooManyRequests, detail);
    refusal.retry_after_s = Some(60);
    refusal
}
