//! API keys. Only the SHA-256 of a key is stored, never the key itself.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::accounts;
use crate::database::pool::PgPool;
use crate::domain::ids::{AccountId, ApiKeyId};
use crate::error::{Error, Result};

/// Maximum number of keys of one account.
const MAX_KEYS: i64 = 100;

/// An API key as its owner sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub id: ApiKeyId,
    pub name: String,
    /// Beginning of the key, by which its owner recognises it.
    pub hint: String,
    pub scopes: Vec<String>,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    /// Time of the last use, accurate to a minute.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// A key that is valid now.
pub struct ValidKey {
    pub id: ApiKeyId,
    pub account_id: AccountId,
    pub scopes: Vec<String>,
    pub expires_at: Option<DateTime<Utc>>,
    pub last_used_at: Option<DateTime<Utc>>,
}

/// Finds the key with a SHA-256, unless it has expired.
pub async fn find_valid_key(
    executor: impl PgExecutor<'_>,
    digest: &[u8],
    now: DateTime<Utc>,
) -> Result<Option<ValidKey>> {
    let key = sqlx::query_as!(
        ValidKey,
        "select id, account_id, scopes, expires_at, last_used_at from api_keys
         where digest = $1 and (expires_at is null or expires_at > $2)",
        digest,
        now,
    )
    .fetch_optional(executor)
    .await?;
    Ok(key)
}

/// Records that a key was used `now`, unless a use after `before` is recorded already: many processes see it at once.
pub async fn note_use(
    executor: impl PgExecutor<'_>,
    id: ApiKeyId,
    now: DateTime<Utc>,
    before: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "update api_keys set last_used_at = $2 where id = $1 and (last_used_at is null or last_used_at <= $3)",
        id.0,
        now,
        before,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Fields of a new API key.
pub struct NewKey<'a> {
    pub name: &'a str,
    /// Beginning of the key.
    pub hint: &'a str,
    pub digest: &'a [u8],
    pub scopes: &'a [String],
    pub expires_at: Option<DateTime<Utc>>,
}

/// Creates an API key of `account`.
///
/// # Errors
/// `Conflict`: the account has too many keys already.
pub async fn create_key(
    pool: &PgPool,
    account: AccountId,
    key: &NewKey<'_>,
    now: DateTime<Utc>,
) -> Result<Key> {
    let mut transaction = pool.begin().await?;
    accounts::lock_account(&mut *transaction, account).await?;
    let made = sqlx::query_as!(
        Key,
        "insert into api_keys (id, account_id, name, hint, digest, scopes, created_at, expires_at)
         select $1, $2, $3, $4, $5, $6, $7, $8
         where (select count(*) from api_keys where account_id = $2) < $9
         returning id, name, hint, scopes, created_at, expires_at, last_used_at",
        Uuid::now_v7(),
        account.0,
        key.name,
        key.hint,
        key.digest,
        key.scopes,
        now,
        key.expires_at,
        MAX_KEYS,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    transaction.commit().await?;
    made.ok_or_else(|| Error::conflict(format!("The account already has {MAX_KEYS} keys; delete one first.")))
}

/// Lists an account's keys, the newest first; `before` is the last id of the previous page.
pub async fn list_keys(
    executor: impl PgExecutor<'_>,
    account: AccountId,
    before: Option<ApiKeyId>,
    rows: i64,
) -> Result<Vec<Key>> {
    let keys = sqlx::query_as!(
        Key,
        "select id, name, hint, scopes, created_at, expires_at, last_used_at from api_keys
         where account_id = $1 and id < coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
         order by id desc limit $3",
        account.0,
        before as Option<ApiKeyId>,
        rows,
    )
    .fetch_all(executor)
    .await?;
    Ok(keys)
}

/// Finds a key of an account.
///
/// # Errors
/// `NotFound`: the account has no such key.
pub async fn find_key(executor: impl PgExecutor<'_>, account: AccountId, id: ApiKeyId) -> Result<Key> {
    let key = sqlx::query_as!(
        Key,
        "select id, name, hint, scopes, created_at, expires_at, last_used_at from api_keys
         where account_id = $1 and id = $2",
        account.0,
        id.0,
    )
    .fetch_optional(executor)
    .await?;
    key.ok_or_else(|| Error::not_found("key"))
}

/// Changes name, scopes and expiry of a key to the result of `change`.
///
/// # Errors
/// `NotFound`: the account has no such key. Also the errors of `change`.
pub async fn update_key(
    pool: &PgPool,
    account: AccountId,
    id: ApiKeyId,
    change: impl FnOnce(Key) -> Result<Key>,
) -> Result<Key> {
    let mut transaction = pool.begin().await?;
    let key = change(lock_key(&mut transaction, account, id).await?)?;
    sqlx::query!(
        "update api_keys set name = $3, scopes = $4, expires_at = $5 where account_id = $1 and id = $2",
        account.0,
        id.0,
        key.name,
        &key.scopes,
        key.expires_at,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(key)
}

/// Revokes a key, unless `check` refuses.
///
/// # Errors
/// `NotFound`: the account has no such key. Also the errors of `check`.
pub async fn delete_key(
    pool: &PgPool,
    account: AccountId,
    id: ApiKeyId,
    check: impl FnOnce(Key) -> Result<()>,
) -> Result<()> {
    let mut transaction = pool.begin().await?;
    check(lock_key(&mut transaction, account, id).await?)?;
    sqlx::query!("delete from api_keys where account_id = $1 and id = $2", account.0, id.0)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

async fn lock_key(connection: &mut PgConnection, account: AccountId, id: ApiKeyId) -> Result<Key> {
    sqlx::query!("select id from api_keys where account_id = $1 and id = $2 for update", account.0, id.0)
        .fetch_optional(&mut *connection)
        .await?;
    find_key(connection, account, id).await
}
