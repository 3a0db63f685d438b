//! Batches: the observations of accepted reports, and their progress.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use crate::domain::batch::{BatchNote, Closing, ObservationCounts};
use crate::domain::ids::{AccountId, BatchId};
use crate::error::{Error, Result};

/// A batch and the results so far.
pub struct Batch {
    pub id: BatchId,
    pub created_at: DateTime<Utc>,
    /// Whether the report was read to its end and every part is recorded.
    pub done: bool,
    pub accepted: i64,
    pub rejected: i64,
    pub counts: ObservationCounts,
}

/// Creates an open batch.
pub async fn create_batch(
    executor: impl PgExecutor<'_>,
    account: AccountId,
    id: BatchId,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "insert into batches (id, account_id, created_at) values ($1, $2, $3)",
        id.0,
        account.0,
        now
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Closes a batch: its report has been read to its end, and all of it is on the bus.
pub async fn close_batch(
    executor: impl PgExecutor<'_>,
    id: BatchId,
    closing: &Closing,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "update batches set closed_at = $2, parts = $3, accepted = $4, rejected = $5 where id = $1",
        id.0,
        now,
        closing.parts,
        closing.accepted,
        closing.rejected,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Stores what is known of a batch, which may exist already: the report's request, or a worker with another of its
/// messages, may have stored it. A closed batch stays as it is.
pub async fn note_batch(
    executor: impl PgExecutor<'_>,
    id: BatchId,
    note: &BatchNote,
    now: DateTime<Utc>,
) -> Result<()> {
    let closing = note.closing.as_ref();
    // A deleted account has no batches.
    sqlx::query!(
        "insert into batches (id, account_id, created_at, closed_at, parts, accepted, rejected)
         select $1, $2, $3, $4, $5, $6, $7 where exists (select from accounts where id = $2)
         on conflict (id) do update set closed_at = excluded.closed_at, parts = excluded.parts,
            accepted = excluded.accepted, rejected = excluded.rejected
            where batches.closed_at is null and excluded.closed_at is not null",
        id.0,
        note.account_id.0,
        note.created_at,
        closing.map(|_| now),
        closing.map(|closing| closing.parts),
        closing.map_or(0, |closing| closing.accepted),
        closing.map_or(0, |closing| closing.rejected),
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Finds an account's batch, with the sums of its parts.
///
/// # Errors
/// `NotFound`: the account has no such batch.
pub async fn get_batch(executor: impl PgExecutor<'_>, account: AccountId, id: BatchId) -> Result<Batch> {
    list_batches(executor, account, &[id]).await?.pop().ok_or_else(|| Error::not_found("batch"))
}

/// Lists those of some batches that belong to the account, in no particular order.
pub async fn list_batches(
    executor: impl PgExecutor<'_>,
    account: AccountId,
    ids: &[BatchId],
) -> Result<Vec<Batch>> {
    let rows = sqlx::query!(
        r#"select b.id, b.created_at, b.accepted, b.rejected,
            (b.closed_at is not null and count(p.part) >= b.parts) as "done!",
            coalesce(sum(p.recorded), 0)::bigint as "recorded!",
            coalesce(sum(p.unchanged), 0)::bigint as "unchanged!",
            coalesce(sum(p.stale), 0)::bigint as "stale!",
            coalesce(sum(p.quarantined), 0)::bigint as "quarantined!",
            coalesce(sum(p.failed), 0)::bigint as "failed!",
            coalesce(sum(p.new_lows), 0)::bigint as "new_lows!",
            coalesce(sum(p.too_old_to_ring), 0)::bigint as "too_old_to_ring!",
            (select coalesce(jsonb_object_agg(kind, total), '{}') from (
                select t.key as kind, sum(t.value::bigint) as total
                from batch_parts q, jsonb_each_text(q.transitions) t where q.batch_id = b.id group by t.key
            ) kinds) as "transitions!"
        from batches b left join batch_parts p on p.batch_id = b.id
        where b.id = any($1) and b.account_id = $2
        group by b.id"#,
        ids as &[BatchId],
        account.0,
    )
    .fetch_all(executor)
    .await?;
    let batches = rows.into_iter().map(|row| {
        Ok(Batch {
            id: BatchId(row.id),
            created_at: row.created_at,
            done: row.done,
            accepted: row.accepted,
            rejected: row.rejected,
            counts: ObservationCounts {
                recorded: row.recorded,
                unchanged: row.unchanged,
                stale: row.stale,
                quarantined: row.quarantined,
                failed: row.failed,
                new_lows: row.new_lows,
                too_old_to_ring: row.too_old_to_ring,
                transitions: serde_json::from_value(row.transitions).map_err(Error::internal)?,
            },
        })
    });
    batches.collect()
}

/// Removes the record that a message failed, so that it can be recorded after all.
pub async fn forget_failed_part(executor: impl PgExecutor<'_>, batch: BatchId, part: i32) -> Result<()> {
    sqlx::query!(
        "delete from batch_parts where batch_id = $1 and part = $2
            and failed > 0 and recorded + unchanged + stale + quarantined = 0",
        batch.0,
        part,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Counts the observations of a message that is given up as failed, once.
pub async fn fail_part(
    executor: impl PgExecutor<'_>,
    batch: BatchId,
    part: i32,
    observations: i64,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "insert into batch_parts (batch_id, part, recorded_at, recorded, unchanged, stale, quarantined, failed,
            new_lows, transitions)
         values ($1, $2, $3, 0, 0, 0, 0, $4, 0, '{}') on conflict (batch_id, part) do nothing",
        batch.0,
        part,
        now,
        observations as i32,
    )
    .execute(executor)
    .await?;
    Ok(())
}
