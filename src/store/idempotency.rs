//! What was answered to a POST with an `Idempotency-Key`, and which of them are being answered.
//!
//! A row without a status is a request in flight. It is locked for a moment, which the process that works on it
//! prolongs; after that it died, and the next one takes it over.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::error::Result;
use crate::store::pool::PgPool;

/// Which request: one key of one account.
#[derive(Clone, Copy)]
pub struct Name<'a> {
    pub account: Uuid,
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
pub enum Found {
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
) -> Result<Found> {
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
        name.account,
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
        return Ok(Found::Nothing { began_at: now });
    }
    let found = sqlx::query!(
        "select route, body_digest, status, headers, body from idempotency_keys
         where account_id = $1 and key = $2",
        name.account,
        name.key,
    )
    .fetch_optional(pool)
    .await?;
    // Given up between the two statements: the caller comes again.
    let Some(found) = found else { return Ok(Found::InFlight) };
    let same = digest.is_none() || found.body_digest.is_none() || found.body_digest.as_deref() == digest;
    if found.route != route || !same {
        return Ok(Found::Another);
    }
    let (Some(status), Some(digest)) = (found.status, found.body_digest) else { return Ok(Found::InFlight) };
    let headers = found.headers.unwrap_or_default();
    Ok(Found::Answered(Saved { digest, status: status as u16, headers, body: found.body }))
}

/// Prolongs the lock of what began at `began_at`. False: somebody else has it by now.
pub async fn prolong(
    executor: impl PgExecutor<'_>,
    name: Name<'_>,
    began_at: DateTime<Utc>,
    locked_until: DateTime<Utc>,
) -> Result<bool> {
    let prolonged = sqlx::query!(
        "update idempotency_keys set locked_until = $4
         where account_id = $1 and key = $2 and created_at = $3 and status is null",
        name.account,
        name.key,
        began_at,
        locked_until,
    )
    .execute(executor)
    .await?;
    Ok(prolonged.rows_affected() == 1)
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
        name.account,
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
        name.account,
        name.key,
        began_at,
    )
    .execute(executor)
    .await?;
    Ok(())
}
