//! Jobs that run once in the whole fleet, and their statements.

use chrono::{DateTime, TimeDelta, Utc};

use crate::database::pool::PgPool;
use crate::error::Result;
use crate::store::lease::Claim;

/// Claims a job that is due and that no process holds.
pub async fn claim_job(pool: &PgPool, name: &str, now: DateTime<Utc>, lease: DateTime<Utc>) -> Result<Claim> {
    let claimed = sqlx::query!(
        "insert into jobs (name, next_at, leased_until) values ($1, $2, $3)
         on conflict (name) do update set leased_until = $3
            where jobs.next_at <= $2 and (jobs.leased_until is null or jobs.leased_until <= $2)",
        name,
        now,
        lease,
    )
    .execute(pool)
    .await?;
    Ok(Claim::of(&claimed))
}

/// Releases a job until `next_at`. `failure` is stored for operators.
pub async fn finish_job(
    pool: &PgPool,
    name: &str,
    now: DateTime<Utc>,
    next_at: DateTime<Utc>,
    failure: Option<&str>,
) -> Result<()> {
    sqlx::query!(
        "update jobs set next_at = $2, leased_until = null, failure = $4,
            finished_at = case when $4::text is null then $3 else finished_at end
         where name = $1",
        name,
        next_at,
        now,
        failure,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Creates the partitions of `price_history` up to the month of `until`.
pub async fn ensure_partitions(pool: &PgPool, until: DateTime<Utc>) -> Result<i32> {
    let made = sqlx::query_scalar!(r#"select ensure_price_history_partitions($1) as "made!""#, until)
        .fetch_one(pool)
        .await?;
    Ok(made)
}

/// Recomputes lows of 0 that were written by a version that counted giveaways.
pub async fn recompute_lows(pool: &PgPool) -> Result<()> {
    sqlx::query_scalar!("select recompute_zero_lows(null)").fetch_one(pool).await?;
    Ok(())
}

/// Maximum number of rows of each kind that one statement removes, so that none takes long.
const SWEEP: i64 = 10_000;

/// Outcome of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swept {
    Clean,
    /// A statement has removed as many rows as it may.
    MayBeMore,
}

/// Removes some of the rows that are no longer needed.
///
/// These are idempotency keys after 24 h, and after 30 days events that were dispatched and published, batches,
/// imports and exports. Dead messages stay until an operator redrives them.
pub async fn sweep(pool: &PgPool, now: DateTime<Utc>) -> Result<Swept> {
    let (day, month) = (now - TimeDelta::days(1), now - TimeDelta::days(30));
    let keys = sqlx::query!(
        "delete from idempotency_keys where (account_id, key) in
            (select account_id, key from idempotency_keys where created_at < $1 limit $2)",
        day,
        SWEEP,
    );
    let events = sqlx::query!(
        "delete from events where id in
            (select id from events where recorded_at < $1 and (dispatched_at is not null or not rings)
                and not exists (select from publications p where p.event_id = events.id) limit $2)",
        month,
        SWEEP,
    );
    let parts = sqlx::query!(
        "delete from batch_parts where (batch_id, part) in
            (select p.batch_id, p.part from batch_parts p join batches b on b.id = p.batch_id
             where b.created_at < $1 limit $2)",
        month,
        SWEEP,
    );
    let imports = sqlx::query!(
        "delete from imports where id in (select id from imports where created_at < $1
            and state not in ('queued', 'reading') limit $2)",
        month,
        SWEEP,
    );
    let exports = sqlx::query!(
        "delete from exports where id in (select id from exports where created_at < $1
            and state not in ('queued', 'writing') limit $2)",
        month,
        SWEEP,
    );
    let batches = sqlx::query!(
        "delete from batches where id in (select b.id from batches b where b.created_at < $1
            and not exists (select from batch_parts p where p.batch_id = b.id) limit $2)",
        month,
        SWEEP,
    );
    let mut more = false;
    for statement in [keys, events, parts, imports, exports, batches] {
        more |= statement.execute(pool).await?.rows_affected() == SWEEP as u64;
    }
    Ok(if more { Swept::MayBeMore } else { Swept::Clean })
}
