//! The bus as a table: `for update skip locked` distributes the messages, and `visible_at` is the end of a lease.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::database::notifications;
use crate::database::pool::PgPool;
use crate::error::Result;
use crate::store::lease::Lease;

/// A message that this process holds for now.
pub struct MessageRow {
    pub id: Uuid,
    /// Proof that this process still holds it.
    pub receipt: Uuid,
    pub payload: Vec<u8>,
    /// Number of times it has been received, this time included.
    pub receives: i16,
}

/// Sends messages to `topic`, all or none, and notifies the receivers.
pub async fn send(pool: &PgPool, topic: &str, payloads: &[Vec<u8>], now: DateTime<Utc>) -> Result<()> {
    let ids: Vec<Uuid> = payloads.iter().map(|_| Uuid::now_v7()).collect();
    sqlx::query!(
        r#"with sent as (
            insert into bus_messages (id, topic, payload, sent_at, visible_at)
            select id, $1, payload, $4, $4 from unnest($2::uuid[], $3::bytea[]) as m (id, payload)
        )
        select pg_notify($5, '')::text as "notified""#,
        topic,
        &ids,
        payloads,
        now,
        notifications::PRICES,
    )
    .fetch_one(pool)
    .await?;
    Ok(())
}

/// Receives the oldest visible messages.
pub async fn receive(
    pool: &PgPool,
    topic: &str,
    max: i64,
    now: DateTime<Utc>,
    hidden_until: DateTime<Utc>,
) -> Result<Vec<MessageRow>> {
    let receipt = Uuid::now_v7();
    let taken = sqlx::query!(
        r#"with waiting as (
            select id from bus_messages
            where topic = $1 and visible_at <= $3 and dead_at is null
            order by visible_at limit $2
            for update skip locked
        )
        update bus_messages m set visible_at = $4, receipt = $5, receives = m.receives + 1
        from waiting w where m.id = w.id
        returning m.id, m.payload, m.receives"#,
        topic,
        max,
        now,
        hidden_until,
        receipt,
    )
    .fetch_all(pool)
    .await?;
    Ok(taken
        .into_iter()
        .map(|row| MessageRow { id: row.id, receipt, payload: row.payload, receives: row.receives })
        .collect())
}

/// Moves the end of a lease.
pub async fn hide_until(
    executor: impl PgExecutor<'_>,
    id: Uuid,
    receipt: Uuid,
    until: DateTime<Utc>,
) -> Result<Lease> {
    let moved = sqlx::query!(
        "update bus_messages set visible_at = $3 where id = $1 and receipt = $2",
        id,
        receipt,
        until,
    )
    .execute(executor)
    .await?;
    Ok(Lease::of(&moved))
}

/// Releases a message, to be received again at `until`. With `counts` false, this receive does not count.
pub async fn release(
    executor: impl PgExecutor<'_>,
    id: Uuid,
    receipt: Uuid,
    until: DateTime<Utc>,
    failure: &str,
    counts: bool,
) -> Result<()> {
    sqlx::query!(
        "update bus_messages set visible_at = $3, receipt = null, failure = $4,
            receives = case when $5 then receives else greatest(receives - 1, 0) end
         where id = $1 and receipt = $2",
        id,
        receipt,
        until,
        failure,
        counts,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Dead-letters a message, unless another process holds it by now.
pub async fn dead_letter(
    executor: impl PgExecutor<'_>,
    id: Uuid,
    receipt: Uuid,
    failure: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "update bus_messages set dead_at = $3, receipt = null, failure = $4 where id = $1 and receipt = $2",
        id,
        receipt,
        now,
        failure,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Deletes a message, unless another process holds it by now.
pub async fn delete(executor: impl PgExecutor<'_>, id: Uuid, receipt: Uuid) -> Result<()> {
    sqlx::query!("delete from bus_messages where id = $1 and receipt = $2", id, receipt)
        .execute(executor)
        .await?;
    Ok(())
}

/// Oldest dead message among those that were dead-lettered before `before`.
pub async fn next_dead(
    executor: impl PgExecutor<'_>,
    topic: &str,
    before: DateTime<Utc>,
) -> Result<Option<MessageRow>> {
    let dead = sqlx::query!(
        "select id, payload, receives from bus_messages where topic = $1 and dead_at <= $2
         order by dead_at limit 1",
        topic,
        before,
    )
    .fetch_optional(executor)
    .await?;
    Ok(dead.map(|row| MessageRow {
        id: row.id,
        receipt: Uuid::nil(),
        payload: row.payload,
        receives: row.receives,
    }))
}

/// Makes a dead message wait again, and notifies the receivers.
pub async fn revive(executor: impl PgExecutor<'_>, id: Uuid, now: DateTime<Utc>) -> Result<()> {
    sqlx::query!(
        r#"with revived as (
            update bus_messages set dead_at = null, receives = 0, receipt = null, visible_at = $2
            where id = $1 and dead_at is not null
        )
        select pg_notify($3, '')::text as "notified""#,
        id,
        now,
        notifications::PRICES,
    )
    .fetch_one(executor)
    .await?;
    Ok(())
}

/// Age in seconds of the oldest message that is not dead, and number of dead messages.
pub async fn age_and_dead(
    executor: impl PgExecutor<'_>,
    topic: &str,
    now: DateTime<Utc>,
) -> Result<(f64, i64)> {
    let row = sqlx::query!(
        r#"select
            coalesce((select extract(epoch from $2 - min(sent_at)) from bus_messages
                where topic = $1 and dead_at is null), 0)::float8 as "age!",
            (select count(*) from bus_messages where topic = $1 and dead_at is not null) as "dead!""#,
        topic,
        now,
    )
    .fetch_one(executor)
    .await?;
    Ok((row.age.max(0.0), row.dead))
}
