//! The queue of deliveries as the workers see it: channels are leased, what is due in them is read and checked, and
//! results are recorded in batches.
//!
//! The lease is on the channel. A delivery is therefore written only once, after its attempt, and no more deliveries
//! of a channel are in flight in the whole fleet than the holder of its lease allows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Serialize;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use crate::database::pool::PgPool;
use crate::domain::delivery::{DeliveryReason, DisabledReason, MAX_TRIES_KEPT};
use crate::domain::ids::{ChannelId, DeliveryId, GameId, NoticeId, OfferId, SaleId, WatchId};
use crate::error::Result;

/// Time without a successful delivery after which a channel is disabled.
pub const DISABLE_AFTER: TimeDelta = TimeDelta::days(5);

/// Maximum number of channels visited by one claim. Each is one descent of an index, a few microseconds.
const MAX_CHANNELS_VISITED: i32 = 1_024;

/// Maximum number of channels visited to find out how long deliveries have waited.
const CHANNELS_AGED: i64 = 2_000;

/// Deliveries of disabled channels cancelled with one statement.
const CANCEL_SLICE: i64 = 5_000;

/// Which channels to lease.
pub struct LeaseRequest {
    /// Identity of the process.
    pub holder: Uuid,
    /// Channel after which the claim begins; `ChannelId::nil()` for the first.
    pub after: ChannelId,
    /// Number of channels wanted that have something due.
    pub wanted: usize,
    /// End of new leases.
    pub until: DateTime<Utc>,
    /// A lease of this holder that ends earlier is renewed.
    pub renew_before: DateTime<Utc>,
}

/// Result of a claim.
pub struct Leased {
    /// Channels leased by the holder, in the order of their ids. Something is due in each.
    pub channels: Vec<LeasedChannel>,
    /// Where the next claim begins. `None`: this one has reached the last channel.
    pub next: Option<ChannelId>,
}

/// A channel that the holder may send to.
pub struct LeasedChannel {
    pub id: ChannelId,
    /// Whether it is active. Nothing is sent to a disabled channel; its deliveries are cancelled.
    pub active: bool,
    /// Whether its last delivery failed.
    pub failing: bool,
    pub url: String,
    /// Encrypted for the channel.
    pub secret: Vec<u8>,
    /// Previous secret, while it signs too.
    pub previous_secret: Option<Vec<u8>>,
}

/// Leases channels with something due that no other process holds.
pub async fn lease_channels(pool: &PgPool, request: &LeaseRequest, now: DateTime<Utc>) -> Result<Leased> {
    let rows = sqlx::query_file!(
        "src/store/lease_channels.sql",
        request.after.0,
        now,
        request.wanted as i64,
        request.holder,
        request.until,
        request.renew_before,
        MAX_CHANNELS_VISITED,
    )
    .fetch_all(pool)
    .await?;
    let next = rows.first().and_then(|row| row.last.filter(|_| !row.ended)).map(ChannelId);
    // If nothing was leased, there is one row, which says only how far the claim came.
    let ours = rows.into_iter().filter_map(|row| {
        Some(LeasedChannel {
            id: ChannelId(row.id?),
            active: row.active?,
            failing: row.failing?,
            url: row.url?,
            secret: row.secret?,
            previous_secret: row.previous_secret,
        })
    });
    let mut channels: Vec<_> = ours.collect();
    channels.sort_by_key(|channel| channel.id);
    Ok(Leased { channels, next })
}

/// Ends all leases of a process.
pub async fn release_channels(pool: &PgPool, holder: Uuid, channels: &[ChannelId]) -> Result<()> {
    sqlx::query!(
        "update channels set lease_holder = null, leased_until = null where id = any($1) and lease_holder = $2",
        channels as &[ChannelId],
        holder,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Queues deliveries that have been made pending again: they are due now, and their schedule of retries starts again.
///
/// Must be part of the transaction that has changed them.
pub async fn queue_again(
    connection: &mut PgConnection,
    deliveries: &[DeliveryId],
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "insert into delivery_queue (delivery_id, channel_id, next_attempt_at, attempts, schedule_from, notice_id,
            watch_id, sale_id, event_kind, traceparent, noticed_at, observed_at)
         select d.id, d.channel_id, $2, d.attempts, d.attempts, d.notice_id, n.watch_id, n.sale_id, n.event_kind,
            e.traceparent, n.created_at, n.observed_at
         from deliveries d join notices n on n.id = d.notice_id left join events e on e.id = n.event_id
         where d.id = any($1) and d.state = 'pending'
         on conflict (delivery_id) do update
            set next_attempt_at = excluded.next_attempt_at, schedule_from = excluded.schedule_from,
                event_kind = excluded.event_kind, observed_at = excluded.observed_at",
        deliveries as &[DeliveryId],
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Due deliveries in one snapshot.
pub struct Due {
    /// In the order in which those of a channel are to be sent.
    pub deliveries: Vec<DueDelivery>,
    /// The sales that they are about. Many deliveries are about few sales.
    pub sales: HashMap<SaleId, Arc<DueSale>>,
}

/// A delivery that is due.
pub struct DueDelivery {
    pub id: DeliveryId,
    pub channel_id: ChannelId,
    pub attempts: i32,
    /// Attempts before the schedule of retries began.
    pub schedule_from: i32,
    pub due_at: DateTime<Utc>,
    pub traceparent: Option<String>,
    pub notice_id: NoticeId,
    pub noticed_at: DateTime<Utc>,
    /// Time at which its event was recorded. `None`: the delivery waited for its daily hour, or is sent again.
    pub event_at: Option<DateTime<Utc>>,
    pub event_kind: String,
    pub watch_id: WatchId,
    pub sale_id: SaleId,
    /// Why it must not be sent any more.
    pub reason: Option<DeliveryReason>,
}

/// A sale with all that a message contains about it, at its current price.
pub struct DueSale {
    pub id: SaleId,
    pub game_id: GameId,
    pub title: String,
    pub offer_id: OfferId,
    pub region: String,
    pub platform: Option<String>,
    /// Where the offer can be bought.
    pub url: Option<String>,
    pub store_slug: String,
    pub store_name: String,
    pub currency: String,
    /// Minor units.
    pub amount: i64,
    /// Minor units.
    pub regular: i64,
    pub cut: i16,
    pub new_low: bool,
    /// Time at which this price was observed.
    pub changed_at: DateTime<Utc>,
    pub ends_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// Reads what is due in leased channels: for each channel the given number of deliveries, without those of
/// `in_flight`.
pub async fn list_due_deliveries(
    pool: &PgPool,
    channels: &[(ChannelId, usize)],
    in_flight: &[DeliveryId],
    now: DateTime<Utc>,
) -> Result<Due> {
    let (ids, counts): (Vec<ChannelId>, Vec<i64>) =
        channels.iter().map(|(id, count)| (*id, *count as i64)).unzip();
    // One snapshot: a delivery is checked against the very price that it will contain.
    let mut snapshot = pool.begin_with("begin isolation level repeatable read read only").await?;
    let deliveries = sqlx::query_file_as!(
        DueDelivery,
        "src/store/due_deliveries.sql",
        &ids as &[ChannelId],
        &counts,
        now,
        in_flight as &[DeliveryId]
    )
    .fetch_all(&mut *snapshot)
    .await?;
    let named: HashSet<SaleId> = deliveries.iter().map(|delivery| delivery.sale_id).collect();
    let sales = sqlx::query_as!(
        DueSale,
        r#"select
            s.id, g.id as game_id, g.title, o.id as offer_id, o.region, o.platform, o.url,
            st.slug as store_slug, st.name as store_name, s.currency, s.amount, s.regular,
            s.cut, s.new_low, s.changed_at, s.ends_at, s.ended_at
        from unnest($1::uuid[]) as named (sale_id)
        cross join lateral (select * from sales where id = named.sale_id limit 1) s
        cross join lateral (select * from offers where id = s.offer_id limit 1) o
        cross join lateral (select * from games where id = o.game_id limit 1) g
        cross join lateral (select * from stores where id = o.store_id limit 1) st"#,
        &named.into_iter().collect::<Vec<_>>() as &[SaleId],
    )
    .fetch_all(&mut *snapshot)
    .await?;
    snapshot.commit().await?;
    Ok(Due { deliveries, sales: sales.into_iter().map(|sale| (sale.id, Arc::new(sale))).collect() })
}

/// Cancels deliveries that must not be sent any more, each for its `reason`. Returns how many there were.
///
/// A delivery whose price or end has changed since it was checked stays as it is. The sales are locked meanwhile: a
/// price that changes later finds its deliveries cancelled, and makes those due again that it matches (`dispatch`).
pub async fn cancel_deliveries(
    pool: &PgPool,
    judged: &[DueDelivery],
    sales: &HashMap<SaleId, Arc<DueSale>>,
    now: DateTime<Utc>,
) -> Result<u64> {
    let price = |of: fn(&DueSale) -> i64| -> Vec<Option<i64>> {
        judged.iter().map(|delivery| sales.get(&delivery.sale_id).map(|sale| of(sale))).collect()
    };
    let instant = |of: fn(&DueSale) -> Option<DateTime<Utc>>| -> Vec<Option<DateTime<Utc>>> {
        judged.iter().map(|delivery| sales.get(&delivery.sale_id).and_then(|sale| of(sale))).collect()
    };
    let mut transaction = pool.begin().await?;
    let cancelled = sqlx::query!(
        r#"with sale as materialized (
            select id, amount, regular, ends_at, ended_at from sales where id = any($3) order by id for share
        )
        update deliveries d set state = 'cancelled', reason = j.reason, finished_at = $6
        from unnest($1::uuid[], $2::text[], $3::uuid[], $4::bigint[], $5::bigint[], $7::timestamptz[], $8::timestamptz[])
                as j (id, reason, sale_id, amount, regular, ends_at, ended_at)
            left join sale on sale.id = j.sale_id
        where d.id = j.id and d.state = 'pending'
            and (j.amount, j.regular, j.ends_at, j.ended_at)
                is not distinct from (sale.amount, sale.regular, sale.ends_at, sale.ended_at)"#,
        &judged.iter().map(|delivery| delivery.id).collect::<Vec<_>>() as &[DeliveryId],
        &judged.iter().map(|delivery| delivery.reason.map(DeliveryReason::name)).collect::<Vec<_>>()
            as &[Option<&str>],
        &judged.iter().map(|delivery| delivery.sale_id).collect::<Vec<_>>() as &[SaleId],
        &price(|sale| sale.amount) as &[Option<i64>],
        &price(|sale| sale.regular) as &[Option<i64>],
        now,
        &instant(|sale| sale.ends_at) as &[Option<DateTime<Utc>>],
        &instant(|sale| sale.ended_at) as &[Option<DateTime<Utc>>],
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!(
        "delete from delivery_queue q
         where q.delivery_id = any($1)
            and (select d.state from deliveries d where d.id = q.delivery_id) is distinct from 'pending'",
        &judged.iter().map(|delivery| delivery.id).collect::<Vec<_>>() as &[DeliveryId],
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(cancelled.rows_affected())
}

/// Cancels a slice of the deliveries of disabled channels, except those of `in_flight`. Returns how many there were.
pub async fn cancel_for_disabled(
    pool: &PgPool,
    channels: &[ChannelId],
    in_flight: &[DeliveryId],
    now: DateTime<Utc>,
) -> Result<u64> {
    let cancelled = sqlx::query!(
        "with slice as materialized (
            select q.delivery_id as id
            from delivery_queue q join channels c on c.id = q.channel_id join deliveries d on d.id = q.delivery_id
            where q.channel_id = any($1) and c.state = 'disabled' and q.delivery_id <> all($2)
            limit $4
            for update of d skip locked
        ),
        cancelled as (
            update deliveries set state = 'cancelled', reason = 'channel_disabled', finished_at = $3
            where id = any (array(select id from slice)) and state = 'pending'
        )
        delete from delivery_queue where delivery_id = any (array(select id from slice))",
        channels as &[ChannelId],
        in_flight as &[DeliveryId],
        now,
        CANCEL_SLICE,
    )
    .execute(pool)
    .await?;
    Ok(cancelled.rows_affected())
}

/// Result of one attempt.
#[derive(Clone, Debug)]
pub struct AttemptResult {
    pub delivery_id: DeliveryId,
    /// Number of attempts before this one.
    pub attempts: i32,
    pub succeeded: bool,
    /// Whether the receiver wants no more messages: its channel is disabled.
    pub gone: bool,
    /// Whether it failed on our side, which says nothing about the channel.
    pub failed_here: bool,
    pub at: DateTime<Utc>,
    pub duration_ms: i32,
    /// Status code of the answer. `None`: there was no answer.
    pub status: Option<u16>,
    pub error: Option<String>,
    /// Beginning of the answer to a failed attempt.
    pub response: Option<String>,
    /// `None`: it succeeded, or there will be no further attempt.
    pub next_at: Option<DateTime<Utc>>,
}

/// Stored form of an attempt, as `deliveries::DeliveryTry` reads it. Absent values are left out to save space.
#[derive(Serialize)]
struct Tried<'a> {
    number: i32,
    at: String,
    duration_ms: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<&'a str>,
}

impl<'a> From<&'a AttemptResult> for Tried<'a> {
    fn from(result: &'a AttemptResult) -> Tried<'a> {
        Tried {
            number: result.attempts + 1,
            at: result.at.to_rfc3339_opts(SecondsFormat::Micros, true),
            duration_ms: result.duration_ms,
            status: result.status,
            error: result.error.as_deref(),
            response: result.response.as_deref(),
        }
    }
}

/// A channel that was just disabled, and why.
pub struct Disabled {
    pub id: ChannelId,
    pub reason: DisabledReason,
}

/// Records results with one statement, and returns the channels that they have disabled.
pub async fn record_attempts(
    pool: &PgPool,
    results: &[AttemptResult],
    now: DateTime<Utc>,
) -> Result<Vec<Disabled>> {
    fn column<'a, T>(results: &'a [AttemptResult], of: impl Fn(&'a AttemptResult) -> T) -> Vec<T> {
        results.iter().map(of).collect()
    }
    let disabled = sqlx::query_file_as!(
        Disabled,
        "src/store/record_attempts.sql",
        &column(results, |result| result.delivery_id) as &[DeliveryId],
        &column(results, |result| result.attempts),
        &column(results, |result| result.succeeded),
        &column(results, |result| result.gone),
        &column(results, |result| result.at),
        &column(results, |result| Json(Tried::from(result))) as &[Json<Tried>],
        &column(results, |result| result.next_at) as &[Option<DateTime<Utc>>],
        now,
        now - DISABLE_AFTER,
        MAX_TRIES_KEPT,
        &column(results, |result| result.failed_here),
    )
    .fetch_all(pool)
    .await?;
    Ok(disabled)
}

/// Time in seconds since the oldest waiting delivery was due (0: none is due). If there are many channels, some
/// thousand are checked, different ones each time: a backlog caused by us rather than by a receiver is in most of
/// them.
pub async fn age(pool: &PgPool, now: DateTime<Utc>) -> Result<f64> {
    let from = Uuid::new_v4();
    let (age, seen) = age_after(pool, from, CHANNELS_AGED, now).await?;
    let (of_others, _) = if seen < CHANNELS_AGED {
        age_after(pool, Uuid::nil(), CHANNELS_AGED - seen, now).await?
    } else {
        (0.0, 0)
    };
    Ok(age.max(of_others))
}

/// Largest age among up to `max` channels after `after`, and the number of channels found.
async fn age_after(pool: &PgPool, after: Uuid, max: i64, now: DateTime<Utc>) -> Result<(f64, i64)> {
    // As in lease_channels.sql: one descent of the index for each channel.
    let row = sqlx::query!(
        r#"with recursive scan (channel_id, due_at, seen) as (
            (
                select channel_id, greatest(next_attempt_at, noticed_at), 1::bigint
                from delivery_queue
                where channel_id > $2
                order by channel_id, next_attempt_at
                limit 1
            )
            union all
            select next.channel_id, next.due_at, scan.seen + 1
            from scan
            cross join lateral (
                select q.channel_id, greatest(q.next_attempt_at, q.noticed_at) as due_at
                from delivery_queue q
                where q.channel_id > scan.channel_id
                order by q.channel_id, q.next_attempt_at
                limit 1
            ) next
            where scan.seen < $3
        )
        select coalesce(extract(epoch from $1 - min(due_at)), 0)::float8 as "age!", count(*) as "seen!" from scan"#,
        now,
        after,
        max,
    )
    .fetch_one(pool)
    .await?;
    Ok((row.age.max(0.0), row.seen))
}
