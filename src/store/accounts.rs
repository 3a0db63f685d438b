//! Accounts, on first sight.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::database::pool::PgPool;
use crate::domain::ids::AccountId;
use crate::error::Result;

/// The account of a token's subject, made when it is seen for the first time.
pub async fn find_or_create_account(
    pool: &PgPool,
    issuer: &str,
    subject: &str,
    now: DateTime<Utc>,
) -> Result<AccountId> {
    if let Some(id) = find_account(pool, issuer, subject).await? {
        return Ok(id);
    }
    // Two first sights at once: the second finds the row of the first.
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

/// The account of a subject, if it has ever been seen.
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

/// Holds the account to the transaction's end: two at once must not both find the last place below a limit free. What
/// is counted must be read by a later statement, which then sees what the one before has made.
pub async fn lock_account(executor: impl PgExecutor<'_>, account: AccountId) -> Result<()> {
    sqlx::query!("select 1 as one from accounts where id = $1 for no key update", account.0)
        .fetch_one(executor)
        .await?;
    Ok(())
}
