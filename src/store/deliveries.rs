//! Deliveries as their owner sees them; how they are sent is in `delivery_queue`.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use sqlx::types::Json;
use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::store::wakeups;

/// One notice on its way to one channel.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub id: Uuid,
    pub notice_id: Uuid,
    pub channel_id: Uuid,
    /// `pending`, `delivered`, `dead` or `cancelled`.
    pub state: String,
    /// Why it is dead or cancelled.
    pub reason: Option<String>,
    pub attempts: i32,
    pub next_attempt_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// One try of a delivery.
#[derive(Clone, Debug, Deserialize)]
pub struct DeliveryTry {
    /// Counted from 1 over all tries that there ever were.
    pub number: i32,
    pub at: DateTime<Utc>,
    pub duration_ms: i32,
    /// `None`: there was no answer.
    pub status: Option<u16>,
    pub error: Option<String>,
    /// The beginning of the answer to a failed try.
    pub response: Option<String>,
}

/// Five times the schedule: who redelivers for ever sees the newest.
pub const MAX_TRIES_KEPT: i32 = 50;

/// Every state that a delivery can be in.
const STATES: [&str; 4] = ["pending", "delivered", "dead", "cancelled"];

/// A channel's deliveries, the newest first; `before` is the id after which the page begins.
///
/// # Errors
/// `NotFound` when the channel is not the account's.
pub async fn list_deliveries(
    pool: &PgPool,
    account: Uuid,
    channel: Uuid,
    state: Option<&str>,
    before: Option<Uuid>,
    rows: i64,
) -> Result<Vec<Delivery>> {
    super::channels::find_channel(pool, account, channel).await?;
    let states: Vec<String> = match state {
        Some(state) => vec![state.to_owned()],
        None => STATES.map(str::to_owned).to_vec(),
    };
    // One index, by channel and state, serves both lists: that of all merges the beginnings of the four states.
    let deliveries = sqlx::query_as!(
        Delivery,
        r#"select d.id, d.notice_id, d.channel_id, d.state, d.reason, d.attempts, d.next_attempt_at,
             d.created_at, d.finished_at
         from unnest($2::text[]) as wanted (state)
         cross join lateral (
             select id, notice_id, channel_id, state, reason, attempts, next_attempt_at, created_at, finished_at
             from deliveries
             where channel_id = $1 and state = wanted.state and id < $3
             order by id desc limit $4) d
         order by d.id desc limit $4"#,
        channel,
        &states,
        before.unwrap_or(Uuid::max()),
        rows,
    )
    .fetch_all(pool)
    .await?;
    Ok(deliveries)
}

/// A delivery and its tries, the oldest first.
///
/// # Errors
/// `NotFound`, also for another account's.
pub async fn find_delivery(
    executor: impl PgExecutor<'_>,
    account: Uuid,
    id: Uuid,
) -> Result<(Delivery, Vec<DeliveryTry>)> {
    let row = sqlx::query!(
        r#"select id, notice_id, channel_id, state, reason, attempts, next_attempt_at, created_at, finished_at,
             tries as "tries: Json<Vec<DeliveryTry>>"
         from deliveries where id = $1 and account_id = $2"#,
        id,
        account,
    )
    .fetch_optional(executor)
    .await?
    .ok_or_else(no_delivery)?;
    let delivery = Delivery {
        id: row.id,
        notice_id: row.notice_id,
        channel_id: row.channel_id,
        state: row.state,
        reason: row.reason,
        attempts: row.attempts,
        next_attempt_at: row.next_attempt_at,
        created_at: row.created_at,
        finished_at: row.finished_at,
    };
    Ok((delivery, row.tries.0))
}

/// Makes a delivery due now, whatever became of it, with the schedule of retries from its beginning.
///
/// # Errors
/// `NotFound`, also for another account's; `Conflict` when its channel is disabled.
pub async fn redeliver(
    pool: &PgPool,
    account: Uuid,
    id: Uuid,
    now: DateTime<Utc>,
) -> Result<(Delivery, Vec<DeliveryTry>)> {
    let active = sqlx::query_scalar!(
        r#"select c.state = 'active' as "active!" from deliveries d join channels c on c.id = d.channel_id
         where d.id = $1 and d.account_id = $2"#,
        id,
        account,
    )
    .fetch_optional(pool)
    .await?
    .ok_or_else(no_delivery)?;
    if !active {
        return Err(Error::conflict("The channel is disabled; recover it first."));
    }
    sqlx::query!(
        r#"with due as (
            update deliveries set state = 'pending', reason = null, next_attempt_at = $3, finished_at = null,
                schedule_from = attempts
            where id = $1 and account_id = $2
         )
         select pg_notify($4, '')::text as "notified""#,
        id,
        account,
        now,
        wakeups::DELIVERIES,
    )
    .fetch_one(pool)
    .await?;
    find_delivery(pool, account, id).await
}

fn no_delivery() -> Error {
    Error::not_found("delivery")
}
