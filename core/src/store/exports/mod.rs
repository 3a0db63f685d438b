//! Exports: queries whose results the worker writes into files. The queries are in `rows`.

pub mod rows;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, Postgres, QueryBuilder};
use uuid::Uuid;

use super::accounts;
use crate::database::pool::PgPool;
use crate::domain::ids::{AccountId, ExportId, FileId};
use crate::domain::text_enum::text_enum;
use crate::error::{Error, Kind, Result};
use crate::store::lease::Lease;

/// Maximum number of exports of an account that are waiting or being written.
const MAX_OPEN: i64 = 20;
/// Time in seconds after which a refused request may be repeated: one of the exports may have ended.
const RETRY_AFTER_S: u64 = 10;

text_enum! {
    pub enum ExportState {
        Queued = "queued",
        Writing = "writing",
        Done = "done",
        Failed = "failed",
        Cancelled = "cancelled",
    }
}

/// An export as its owner sees it.
#[derive(Clone, Debug, FromRow)]
pub struct Export {
    pub id: ExportId,
    pub options: Value,
    pub state: ExportState,
    pub failure: Option<String>,
    pub file_id: Option<FileId>,
    pub rows_written: i64,
    pub bytes_written: i64,
    pub rows_total: Option<i64>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

const COLUMNS: &str =
    "id, options, state, failure, file_id, rows_written, bytes_written, rows_total, created_at,
    started_at, finished_at";

/// Queues an export.
///
/// # Errors
/// `TooManyRequests`: too many of the account's exports are waiting or being written.
pub async fn create_export(
    pool: &PgPool,
    account: AccountId,
    id: ExportId,
    options: Value,
    keep_until: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<Export> {
    let mut transaction = pool.begin().await?;
    accounts::lock_account(&mut *transaction, account).await?;
    let open = sqlx::query_scalar!(
        r#"select count(*) as "count!" from exports where account_id = $1 and state in ('queued', 'writing')"#,
        account.0,
    )
    .fetch_one(&mut *transaction)
    .await?;
    if open >= MAX_OPEN {
        let detail = format!("An account can have at most {MAX_OPEN} exports waiting.");
        let mut refusal = Error::new(Kind::TooManyRequests, detail);
        refusal.retry_after_s = Some(RETRY_AFTER_S);
        return Err(refusal);
    }
    let mut query =
        QueryBuilder::new("insert into exports (id, account_id, options, keep_until, created_at) values (");
    let mut values = query.separated(", ");
    values.push_bind(id).push_bind(account).push_bind(options).push_bind(keep_until).push_bind(now);
    query.push(") returning ").push(COLUMNS);
    let export = query.build_query_as().fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(export)
}

/// Lists an account's exports, the newest first; `before` is the last id of the previous page.
pub async fn list_exports(
    pool: &PgPool,
    account: AccountId,
    before: Option<ExportId>,
    rows: i64,
) -> Result<Vec<Export>> {
    let mut query = QueryBuilder::<Postgres>::new("select ");
    query.push(COLUMNS).push(" from exports where account_id = ").push_bind(account);
    query.push(" and id < ").push_bind(before.unwrap_or(ExportId::max()));
    query.push(" order by id desc limit ").push_bind(rows);
    Ok(query.build_query_as().fetch_all(pool).await?)
}

/// Finds an export of an account.
///
/// # Errors
/// `NotFound`: the account has no such export.
pub async fn find_export(pool: &PgPool, account: AccountId, id: ExportId) -> Result<Export> {
    let mut query = QueryBuilder::<Postgres>::new("select ");
    query.push(COLUMNS).push(" from exports where id = ").push_bind(id);
    query.push(" and account_id = ").push_bind(account);
    query.build_query_as().fetch_optional(pool).await?.ok_or_else(|| Error::not_found("export"))
}

/// Cancels an export that is not done; the worker removes the bytes of its file.
///
/// # Errors
/// `NotFound`: the account has no such export. `Conflict`: it has ended.
pub async fn cancel_export(
    pool: &PgPool,
    account: AccountId,
    id: ExportId,
    now: DateTime<Utc>,
) -> Result<Export> {
    find_export(pool, account, id).await?;
    let cancelled = sqlx::query!(
        "with cancelled as (
            update exports set state = 'cancelled', holder = null, leased_until = null, finished_at = $3
            where id = $1 and account_id = $2 and state in ('queued', 'writing')
            returning file_id
         ),
         hidden as (
            update files f set state = 'removing', writer = null, updated_at = $3 from cancelled where f.id = cancelled.file_id
         )
         select 1 as one from cancelled",
        id.0,
        account.0,
        now,
    )
    .fetch_optional(pool)
    .await?;
    match cancelled {
        Some(_) => find_export(pool, account, id).await,
        None => Err(Error::conflict("The export has already ended.")),
    }
}

/// An export that a worker has claimed.
pub struct ClaimedExport {
    pub id: ExportId,
    pub account_id: AccountId,
    pub options: Value,
    pub keep_until: DateTime<Utc>,
    /// File that a previous worker has begun to write.
    pub file_id: Option<FileId>,
    /// Number of times it was claimed, this one included.
    pub tries: i32,
}

/// Claims the oldest export that no worker is writing.
pub async fn claim_export(
    pool: &PgPool,
    holder: Uuid,
    now: DateTime<Utc>,
    lease: DateTime<Utc>,
) -> Result<Option<ClaimedExport>> {
    let claimed = sqlx::query_as!(
        ClaimedExport,
        r#"update exports set state = 'writing', holder = $1, leased_until = $3, tries = tries + 1,
            started_at = coalesce(started_at, $2), rows_written = 0, bytes_written = 0
         where id = (
            select id from exports
            where state in ('queued', 'writing') and (leased_until is null or leased_until <= $2)
            order by id limit 1 for no key update skip locked)
         returning id, account_id, options, keep_until, file_id as "file_id: FileId", tries"#,
        holder,
        now,
        lease,
    )
    .fetch_optional(pool)
    .await?;
    Ok(claimed)
}

/// Progress of a worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExportProgress {
    pub rows: i64,
    pub bytes: i64,
    pub rows_total: Option<i64>,
    pub file_id: Option<FileId>,
}

/// Records the progress of a worker and renews its lease. The lease is lost if the export was cancelled.
pub async fn record_progress(
    pool: &PgPool,
    id: ExportId,
    holder: Uuid,
    written: &ExportProgress,
    lease: DateTime<Utc>,
) -> Result<Lease> {
    let kept = sqlx::query!(
        "update exports set rows_written = $3, bytes_written = $4, rows_total = $5, file_id = $6, leased_until = $7
         where id = $1 and holder = $2 and state = 'writing'",
        id.0,
        holder,
        written.rows,
        written.bytes,
        written.rows_total,
        written.file_id as Option<FileId>,
        lease,
    )
    .execute(pool)
    .await?;
    Ok(Lease::of(&kept))
}

/// Ends an export: its file is complete, or `failure` states why it is not.
pub async fn finish_export(
    pool: &PgPool,
    id: ExportId,
    holder: Uuid,
    written: &ExportProgress,
    failure: Option<&str>,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "update exports set state = case when $3::text is null then 'done' else 'failed' end, failure = $3, holder = null,
            leased_until = null, rows_written = $4, bytes_written = $5, rows_total = case when $3::text is null then $4
            else rows_total end, file_id = case when $3::text is null then $6::uuid end, finished_at = $7
         where id = $1 and holder = $2 and state = 'writing'",
        id.0,
        holder,
        failure,
        written.rows,
        written.bytes,
        written.file_id as Option<FileId>,
        now,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Releases an export that a worker could not finish; it can be claimed again at `again_at`.
pub async fn release_export(
    pool: &PgPool,
    id: ExportId,
    holder: Uuid,
    again_at: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "update exports set holder = null, leased_until = $3 where id = $1 and holder = $2 and state = 'writing'",
        id.0,
        holder,
        again_at,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Approximate number of prices, without counting them.
pub async fn estimate_prices(pool: &PgPool) -> Result<i64> {
    let estimate = sqlx::query_scalar!(
        r#"select greatest(coalesce(sum(c.reltuples), 0), 0)::bigint as "estimate!"
         from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'price_history'::regclass"#,
    )
    .fetch_one(pool)
    .await?;
    Ok(estimate)
}
