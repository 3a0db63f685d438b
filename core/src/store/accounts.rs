//! Accounts, created when their subject is first seen.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::database::pool::PgPool;
use crate::domain::ids::AccountId;
use crate::error::Result;

/// Finds the account of a token's subject, or creates it if the subject is new.
pub async fn find_or_create_account(
    pool: &PgPool,
    issuer: &str,
    subject: &str,
    now: DateTime<Utc>,
) -> Result<AccountId> {
    if let Some(id) = find_account(pool, issuer, subject).await? {
        return Ok(id);
    }
    // Two requests may be the first at once: the second finds the row of the first.
    let id = sqlx::query_scalar!(
        "insert into accounts (id, issuer, subject, created_at) values ($1, $2, $3, $4)
         on conflict (issuer, subject) do update set subject = excluded.subject returning id",
        Uuid::now_v7(),
        issuer,
        subject,
        now,
    )
    .fetch_one(pool)
    .await?;
    Ok(AccountId(id))
}

/// Finds the account of a subject, if it has ever been seen.
pub async fn find_account(
    executor: impl PgExecutor<'_>,
    issuer: &str,
    subject: &str,
) -> Result<Option<AccountId>> {
    let id =
        sqlx::query_scalar!("select id from accounts where issuer = $1 and subject = $2", issuer, subject)
            .fetch_optional(executor)
            .await?;
    Ok(id.map(AccountId))
}

/// Locks the account until the transaction ends, so that two transactions cannot both take the last place below a
/// limit. The rows must be counted by a later statement, which then sees those of the transaction that held the lock
/// before.
pub async fn lock_account(executor: impl PgExecutor<'_>, account: AccountId) -> Result<()> {
    sqlx::query!("select 1 as one from accounts where id = $1 for no key update", account.0)
        .fetch_one(executor)
        .await?;
    Ok(())
}
