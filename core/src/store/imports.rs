//! Imports: files that are read into observations.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, Postgres, QueryBuilder};
use uuid::Uuid;

use super::accounts;
use super::batches;
use crate::database::pool::PgPool;
use crate::domain::batch::Closing;
use crate::domain::ids::{AccountId, FileId, ImportId};
use crate::domain::text_enum::text_enum;
use crate::error::{Error, Kind, Result};
use crate::store::lease::Lease;

/// Maximum number of imports of an account that are waiting or being read.
const MAX_OPEN: i64 = 100;
/// Time in seconds after which a refused request may be repeated: one of the imports may have ended.
const RETRY_AFTER_S: u64 = 10;

text_enum! {
    pub enum ImportState {
        Queued = "queued",
        Reading = "reading",
        /// All of it is on the bus. Its batch says whether it is recorded.
        Sent = "sent",
        Failed = "failed",
        Cancelled = "cancelled",
    }
}

/// An import as its owner sees it. Its batch has the results of its observations.
#[derive(Clone, Debug, FromRow)]
pub struct Import {
    pub id: ImportId,
    pub file_id: FileId,
    pub file_name: String,
    pub options: Value,
    pub backfill: bool,
    pub state: ImportState,
    pub failure: Option<String>,
    pub rows_read: i64,
    pub bytes_read: i64,
    pub bytes_total: i64,
    pub refused: i64,
    pub warnings: i64,
    pub accepted: i64,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

const COLUMNS: &str =
    "id, file_id, file_name, options, backfill, state, failure, rows_read, bytes_read, bytes_total,
    refused, warnings, accepted, created_at, started_at, finished_at";

/// Fields of a new import.
pub struct NewImport<'a> {
    pub id: ImportId,
    pub file_id: FileId,
    pub file_name: &'a str,
    pub options: Value,
    pub backfill: bool,
    pub may_create_stores: bool,
    pub bytes_total: i64,
}

/// Queues an import, and creates the batch of the same id.
///
/// # Errors
/// `TooManyRequests`: too many of the account's imports are waiting or being read.
pub async fn create_import(
    pool: &PgPool,
    account: AccountId,
    new: &NewImport<'_>,
    now: DateTime<Utc>,
) -> Result<Import> {
    let mut transaction = pool.begin().await?;
    accounts::lock_account(&mut *transaction, account).await?;
    let open = sqlx::query_scalar!(
        r#"select count(*) as "count!" from imports where account_id = $1 and state in ('queued', 'reading')"#,
        account.0,
    )
    .fetch_one(&mut *transaction)
    .await?;
    if open >= MAX_OPEN {
        let detail = format!("An account can have at most {MAX_OPEN} imports waiting.");
        let mut refusal = Error::new(Kind::TooManyRequests, detail);
        refusal.retry_after_s = Some(RETRY_AFTER_S);
        return Err(refusal);
    }
    batches::create_batch(&mut *transaction, account, new.id.batch(), now).await?;
    let mut query = QueryBuilder::new(
        "insert into imports (id, account_id, file_id, file_name, options, backfill, may_create_stores, bytes_total,
            created_at) values (",
    );
    let mut values = query.separated(", ");
    values.push_bind(new.id).push_bind(account).push_bind(new.file_id).push_bind(new.file_name);
    values.push_bind(new.options.clone()).push_bind(new.backfill).push_bind(new.may_create_stores);
    values.push_bind(new.bytes_total).push_bind(now);
    query.push(") returning ").push(COLUMNS);
    let import = query.build_query_as().fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(import)
}

/// Lists an account's imports, the newest first; `before` is the last id of the previous page.
pub async fn list_imports(
    pool: &PgPool,
    account: AccountId,
    before: Option<ImportId>,
    rows: i64,
) -> Result<Vec<Import>> {
    let mut query = QueryBuilder::<Postgres>::new("select ");
    query.push(COLUMNS).push(" from imports where account_id = ").push_bind(account);
    query.push(" and id < ").push_bind(before.unwrap_or(ImportId::max()));
    query.push(" order by id desc limit ").push_bind(rows);
    Ok(query.build_query_as().fetch_all(pool).await?)
}

/// Finds an import of an account.
///
/// # Errors
/// `NotFound`: the account has no such import.
pub async fn find_import(pool: &PgPool, account: AccountId, id: ImportId) -> Result<Import> {
    let mut query = QueryBuilder::<Postgres>::new("select ");
    query.push(COLUMNS).push(" from imports where id = ").push_bind(id);
    query.push(" and account_id = ").push_bind(account);
    query.build_query_as().fetch_optional(pool).await?.ok_or_else(no_import)
}

/// Cancels an import: no more of it is sent. What was sent is still recorded.
///
/// # Errors
/// `NotFound`: the account has no such import. `Conflict`: it has ended.
pub async fn cancel_import(
    pool: &PgPool,
    account: AccountId,
    id: ImportId,
    now: DateTime<Utc>,
) -> Result<Import> {
    find_import(pool, account, id).await?;
    let mut transaction = pool.begin().await?;
    let cancelled = sqlx::query!(
        "update imports set state = 'cancelled', holder = null, leased_until = null, finished_at = $3
         where id = $1 and account_id = $2 and state in ('queued', 'reading')
         returning parts_sent, accepted, refused",
        id.0,
        account.0,
        now,
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(|| Error::conflict("The import has already been read to its end."))?;
    let closing =
        Closing { parts: cancelled.parts_sent, accepted: cancelled.accepted, rejected: cancelled.refused };
    batches::close_batch(&mut *transaction, id.batch(), &closing, now).await?;
    transaction.commit().await?;
    find_import(pool, account, id).await
}

/// A row that was refused, or accepted without some of its fields.
pub struct RowRefusal {
    pub line: i64,
    pub reason: String,
    /// Whether the row was accepted, without the fields that the reason names.
    pub warning: bool,
}

/// Lists some refusals of an import, by line, after the line `after`.
pub async fn list_refusals(pool: &PgPool, id: ImportId, after: i64, max: i64) -> Result<Vec<RowRefusal>> {
    let refusals = sqlx::query_as!(
        RowRefusal,
        "select line, reason, warning from import_refusals where import_id = $1 and line > $2 order by line limit $3",
        id.0,
        after,
        max,
    )
    .fetch_all(pool)
    .await?;
    Ok(refusals)
}

/// An import that a worker has claimed.
pub struct ClaimedImport {
    pub id: ImportId,
    pub account_id: AccountId,
    pub file_id: FileId,
    pub file_name: String,
    pub options: Value,
    pub backfill: bool,
    pub may_create_stores: bool,
    pub created_at: DateTime<Utc>,
    /// Progress of the previous worker, which has sent this much already.
    pub portions_sent: i32,
    pub parts_sent: i32,
    pub accepted: i64,
    /// Number of times it was claimed, this one included.
    pub tries: i32,
}

/// Claims the oldest import that no worker is reading.
pub async fn claim_import(
    pool: &PgPool,
    holder: Uuid,
    now: DateTime<Utc>,
    lease: DateTime<Utc>,
) -> Result<Option<ClaimedImport>> {
    let claimed = sqlx::query_as!(
        ClaimedImport,
        "update imports set state = 'reading', holder = $1, leased_until = $3, tries = tries + 1,
            started_at = coalesce(started_at, $2), rows_read = 0, bytes_read = 0, refused = 0,
            warnings = 0
         where id = (
            select id from imports
            where state in ('queued', 'reading') and (leased_until is null or leased_until <= $2)
            order by id limit 1 for no key update skip locked)
         returning id, account_id, file_id, file_name, options, backfill, may_create_stores, created_at, portions_sent,
            parts_sent, accepted, tries",
        holder,
        now,
        lease,
    )
    .fetch_optional(pool)
    .await?;
    Ok(claimed)
}

/// Progress of a worker with an import.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reached {
    pub rows: i64,
    pub bytes: i64,
    pub refused: i64,
    pub warnings: i64,
    /// Portions of the input that are processed, and the messages and observations that they became.
    pub portions: i32,
    pub parts: i32,
    pub accepted: i64,
}

/// Records the progress of a worker and renews its lease. The lease is lost if the import was cancelled.
pub async fn record_progress(
    pool: &PgPool,
    id: ImportId,
    holder: Uuid,
    reached: &Reached,
    lease: DateTime<Utc>,
) -> Result<Lease> {
    let kept = sqlx::query!(
        "update imports set rows_read = $3, bytes_read = $4, refused = $5, portions_sent = $6, parts_sent = $7,
            accepted = $8, leased_until = $9, warnings = $10
         where id = $1 and holder = $2 and state = 'reading'",
        id.0,
        holder,
        reached.rows,
        reached.bytes,
        reached.refused,
        reached.portions,
        reached.parts,
        reached.accepted,
        lease,
        reached.warnings,
    )
    .execute(pool)
    .await?;
    Ok(Lease::of(&kept))
}

/// Stores refusals and warnings for the owner to read. If a row was warned of and refused later, only the refusal is
/// kept. XML may have many rows on one line: their reasons are joined, each once.
pub async fn record_refusals(pool: &PgPool, id: ImportId, refusals: &[&RowRefusal]) -> Result<()> {
    sqlx::query!(
        "insert into import_refusals (import_id, line, reason, warning)
         select $1, line, left(string_agg(distinct reason, '; '), 1000), bool_and(warning)
         from unnest($2::bigint[], $3::text[], $4::boolean[]) as r (line, reason, warning)
         group by line
         on conflict (import_id, line) do update set reason = excluded.reason, warning = false
            where import_refusals.warning and not excluded.warning",
        id.0,
        &refusals.iter().map(|refusal| refusal.line).collect::<Vec<_>>(),
        &refusals.iter().map(|refusal| refusal.reason.clone()).collect::<Vec<_>>(),
        &refusals.iter().map(|refusal| refusal.warning).collect::<Vec<_>>(),
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Number of an import's messages that have been recorded.
pub async fn count_recorded_parts(pool: &PgPool, id: ImportId) -> Result<i64> {
    let count =
        sqlx::query_scalar!(r#"select count(*) as "count!" from batch_parts where batch_id = $1"#, id.0)
            .fetch_one(pool)
            .await?;
    Ok(count)
}

/// Ends an import: all of it was sent, or `failure` states why not. The lease is lost if the import was cancelled.
pub async fn finish_import(
    pool: &PgPool,
    id: ImportId,
    holder: Uuid,
    reached: &Reached,
    failure: Option<&str>,
    now: DateTime<Utc>,
) -> Result<Lease> {
    let mut transaction = pool.begin().await?;
    let finished = sqlx::query!(
        "update imports set state = case when $3::text is null then 'sent' else 'failed' end, failure = $3, holder = null,
            leased_until = null, rows_read = $4, bytes_read = $5, refused = $6, finished_at = $7, warnings = $8
         where id = $1 and holder = $2 and state = 'reading'",
        id.0,
        holder,
        failure,
        reached.rows,
        reached.bytes,
        reached.refused,
        now,
        reached.warnings,
    )
    .execute(&mut *transaction)
    .await?;
    if Lease::of(&finished) == Lease::Lost {
        return Ok(Lease::Lost);
    }
    let closing = Closing { parts: reached.parts, accepted: reached.accepted, rejected: reached.refused };
    batches::close_batch(&mut *transaction, id.batch(), &closing, now).await?;
    transaction.commit().await?;
    Ok(Lease::Held)
}

/// Releases an import that a worker could not finish; it can be claimed again at `again_at`.
pub async fn release_import(
    pool: &PgPool,
    id: ImportId,
    holder: Uuid,
    again_at: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "update imports set holder = null, leased_until = $3 where id = $1 and holder = $2 and state = 'reading'",
        id.0,
        holder,
        again_at,
    )
    .execute(pool)
    .await?;
    Ok(())
}

fn no_import() -> Error {
    Error::not_found("import")
}
