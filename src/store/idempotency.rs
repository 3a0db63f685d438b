//! What was answered to a POST with an `Idempotency-Key`, and which of them are being answered.
//!
//! A row without a status is a request in flight. It is locked for a moment, which the process that works on it
//! prolongs; after that it died, and the next one takes it over.

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

/// The most keys of an account that are kept at once,
pub const MAX_KEYS: i64 = 100_000;
/// and the most bytes of what is kept with them.
pub const MAX_BYTES: i64 = 64 << 20;
/// What a key costs beside its answer, in bytes, about.
const BYTES_OF_A_KEY: i64 = 512;
/// An account is counted anew after this long,
const COUNT_EVERY: TimeDelta = TimeDelta::minutes(1);
/// or when it has used this part of what it may have since: counting costs more the more there is.
const COUNT_AFTER: i64 = 100;
/// An account that has no room hears so for this long, without being counted again.
const FULL_FOR: TimeDelta = TimeDelta::seconds(10);
/// Accounts that are remembered.
const MAX_ACCOUNTS: usize = 10_000;

/// Which request: one key of one account.
#[derive(Clone, Copy)]
pub struct Name<'a> {
    pub account: AccountId,
    pub key: &'a str,
}

/// An answer as it is kept.
pub struct Saved {
    /// SHA-256 of the request's body.
    pub digest: Vec<u8>,
    pub status: u16,
    /// Names and values.
    pub headers: Value,
    /// Sealed by `http::idempotency`; none where it must not be kept.
    pub body: Option<Vec<u8>>,
}

/// What there is under a key.
pub enum KeyState {
    /// Nothing, or what died: it is ours now, and `began_at` proves it.
    Nothing {
        began_at: DateTime<Utc>,
    },
    InFlight,
    Answered(Saved),
    /// The key was used for another address or, where that is known by now, for another body.
    Another,
}

/// Begins a request unless it has begun already. `digest` is none when the body is still to come.
/// What began before `oldest` is forgotten.
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
    // Given up between the two statements: the caller comes again.
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

/// Prolongs the lock of what began at `began_at`.
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

/// Keeps the answer to what began at `began_at`, unless somebody else has taken it over.
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

/// Forgets what began at `began_at`: it may be tried again at once.
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

/// How much is kept for each account, counted now and then: exact counts would make the requests of an account wait for
/// each other. With several processes an account can have some hundredths more than its room.
#[derive(Clone, Default)]
pub struct KeptAnswers(Arc<Mutex<HashMap<AccountId, Counted>>>);

struct Counted {
    at: DateTime<Utc>,
    full: bool,
    /// Since it was counted.
    keys: i64,
    bytes: i64,
}

impl KeptAnswers {
    /// Checks that an account has room for one more key, which has been begun already.
    ///
    /// # Errors
    /// `TooManyRequests`: it has not.
    pub async fn check(
        &self,
        pool: &PgPool,
        account: AccountId,
        now: DateTime<Utc>,
        oldest: DateTime<Utc>,
    ) -> Result<()> {
        if let Some(full) = self.look(account, now) {
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
            accounts.retain(|_, counted| now - counted.at < COUNT_EVERY);
            if accounts.len() >= MAX_ACCOUNTS {
                accounts.clear();
            }
        }
        accounts.insert(account, Counted { at: now, full, keys: 0, bytes: 0 });
        if full { Err(no_room()) } else { Ok(()) }
    }

    /// Whether the account has no room, where that is known; one more key is begun.
    fn look(&self, account: AccountId, now: DateTime<Utc>) -> Option<bool> {
        let mut accounts = self.0.lock();
        let counted = accounts.get_mut(&account)?;
        let lasts = if counted.full { FULL_FOR } else { COUNT_EVERY };
        let much = counted.keys * COUNT_AFTER >= MAX_KEYS || counted.bytes * COUNT_AFTER >= MAX_BYTES;
        if now - counted.at >= lasts || (much && !counted.full) {
            return None;
        }
        counted.keys += 1;
        Some(counted.full)
    }

    /// So many bytes are kept for an account.
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
