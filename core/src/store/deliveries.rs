//! Deliveries as their owner sees them. `delivery_queue` has what the workers need to send them.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use sqlx::types::Json;
use sqlx::{PgExecutor, Postgres, QueryBuilder};

use crate::database::notifications;
use crate::database::pool::PgPool;
use crate::domain::delivery::{CANCELLED, DEAD, DeliveryReason, DeliveryState};
use crate::domain::ids::{AccountId, ChannelId, DeliveryId, NoticeId};
use crate::error::{Error, Result};
use crate::store::delivery_queue;

/// One notice on its way to one channel.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Delivery {
    pub id: DeliveryId,
    pub notice_id: NoticeId,
    pub channel_id: ChannelId,
    pub state: DeliveryState,
    /// Why it is dead or cancelled.
    pub reason: Option<DeliveryReason>,
    pub attempts: i32,
    /// `None`: there will be no further attempt.
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// One attempt of a delivery.
#[derive(Clone, Debug, Deserialize)]
pub struct DeliveryTry {
    /// Number of the attempt, from 1, over all attempts ever made.
    pub number: i32,
    pub at: DateTime<Utc>,
    pub duration_ms: i32,
    /// Status code of the answer. `None`: there was no answer.
    pub status: Option<u16>,
    pub error: Option<String>,
    /// Beginning of the answer to a failed attempt.
    pub response: Option<String>,
}

/// Lists a channel's deliveries, the newest first; `before` is the last id of the previous page.
///
/// # Errors
/// `NotFound`: the account has no such channel.
pub async fn list_deliveries(
    pool: &PgPool,
    account: AccountId,
    channel: ChannelId,
    state: Option<DeliveryState>,
    before: Option<DeliveryId>,
    rows: i64,
) -> Result<Vec<Delivery>> {
    super::channels::find_channel(pool, account, channel).await?;
    let mut query = list_deliveries_query(channel, state, before, rows);
    Ok(query.build_query_as().persistent(false).fetch_all(pool).await?)
}

/// Query for a page of deliveries. Each state has its own access path: pending deliveries are read from the queue,
/// dead and cancelled ones are merged from lists by reason, and the others are read from the channel's deliveries.
pub fn list_deliveries_query(
    channel: ChannelId,
    state: Option<DeliveryState>,
    before: Option<DeliveryId>,
    rows: i64,
) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new("with page as materialized (");
    let from = match state {
        Some(DeliveryState::Pending) => "select delivery_id as id from delivery_queue where ",
        Some(DeliveryState::Dead | DeliveryState::Cancelled) => {
            let reasons = if state == Some(DeliveryState::Dead) { &DEAD[..] } else { &CANCELLED[..] };
            let reasons: Vec<&str> = reasons.iter().map(|reason| reason.name()).collect();
            query
                .push("select d.id from unnest(")
                .push_bind(reasons)
                .push(") as why (reason) cross join lateral (");
            "select id from deliveries where reason = why.reason and "
        }
        Some(DeliveryState::Delivered) => "select id from deliveries where state = 'delivered' and ",
        None => "select id from deliveries where ",
    };
    query.push(from).push("channel_id = ").push_bind(channel);
    let id = if state == Some(DeliveryState::Pending) { "delivery_id" } else { "id" };
    query.push(" and ").push(id).push(" < ").push_bind(before.unwrap_or(DeliveryId::max()));
    query.push(" order by ").push(id).push(" desc limit ").push_bind(rows);
    if matches!(state, Some(DeliveryState::Dead | DeliveryState::Cancelled)) {
        query.push(") d order by d.id desc limit ").push_bind(rows);
    }
    query.push(
        ") select d.id, d.notice_id, d.channel_id, d.state, d.reason, d.attempts, q.next_attempt_at, d.created_at,
            d.finished_at
        from page join deliveries d on d.id = page.id left join delivery_queue q on q.delivery_id = page.id
        order by d.id desc",
    );
    query
}

/// Finds a delivery of an account and its attempts, the oldest first.
///
/// # Errors
/// `NotFound`: the account has no such delivery.
pub async fn find_delivery(
    executor: impl PgExecutor<'_>,
    account: AccountId,
    id: DeliveryId,
) -> Result<(Delivery, Vec<DeliveryTry>)> {
    let row = sqlx::query!(
        r#"select d.id, d.notice_id, d.channel_id, d.state as "state: DeliveryState", d.reason as "reason: DeliveryReason",
             d.attempts, d.created_at, d.finished_at,
             q.next_attempt_at as "next_attempt_at?", d.tries as "tries: Json<Vec<DeliveryTry>>"
         from deliveries d left join delivery_queue q on q.delivery_id = d.id
         where d.id = $1 and d.account_id = $2"#,
        id.0,
        account.0,
    )
    .fetch_optional(executor)
    .await?
    .ok_or_else(no_delivery)?;
    let delivery = Delivery {
        id: DeliveryId(row.id),
        notice_id: NoticeId(row.notice_id),
        channel_id: ChannelId(row.channel_id),
        state: row.state,
        reason: row.reason,
        attempts: row.attempts,
        next_attempt_at: row.next_attempt_at,
        created_at: row.created_at,
        finished_at: row.finished_at,
    };
    Ok((delivery, row.tries.0))
}

/// Makes a delivery due now, whatever its state, with the schedule of retries from the beginning.
///
/// # Errors
/// `NotFound`: the account has no such delivery. `Conflict`: its channel is disabled.
pub async fn redeliver(
    pool: &PgPool,
    account: AccountId,
    id: DeliveryId,
    now: DateTime<Utc>,
) -> Result<(Delivery, Vec<DeliveryTry>)> {
    let active = sqlx::query_scalar!(
        r#"select c.state = 'active' as "active!" from deliveries d join channels c on c.id = d.channel_id
         where d.id = $1 and d.account_id = $2"#,
        id.0,
        account.0,
    )
    .fetch_optional(pool)
    .await?
    .ok_or_else(no_delivery)?;
    if !active {
        return Err(Error::conflict("The channel is disabled; recover it first."));
    }
    let mut transaction = pool.begin().await?;
    sqlx::query!(
        "update deliveries set state = 'pending', reason = null, finished_at = null where id = $1 and account_id = $2",
        id.0,
        account.0,
    )
    .execute(&mut *transaction)
    .await?;
    delivery_queue::queue_again(&mut transaction, &[id], now).await?;
    sqlx::query!(r#"select pg_notify($1, '')::text as "notified""#, notifications::DELIVERIES)
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    find_delivery(pool, account, id).await
}

fn no_delivery() -> Error {
    Error::not_found("delivery")
}
