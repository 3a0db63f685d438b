//! Deliveries as the workers see them: channels are leased, what is due in them is read and judged, and results are
//! recorded by the batch.
//!
//! The lease is on the channel, so a delivery is written once, when it has been tried; and no more deliveries of a
//! channel are in flight in the whole fleet than its one holder allows.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use crate::error::Result;
use crate::store::deliveries::MAX_TRIES_KEPT;

/// A channel without one success for so long is disabled.
pub const DISABLE_AFTER: TimeDelta = TimeDelta::days(5);

/// How many channels one look-out passes. Each is one descent of an index, a few microseconds.
const CHANNELS_LOOKED_AT: i32 = 1_024;

/// So many deliveries of a disabled channel are cancelled with one statement.
const CANCEL_SLICE: i64 = 5_000;

/// Which channels to lease.
pub struct LeaseRequest {
    /// The process.
    pub holder: Uuid,
    /// The channel after which the look-out begins; `Uuid::nil()` for the first.
    pub after: Uuid,
    /// How many channels with something due are wanted.
    pub wanted: usize,
    /// Until when new leases last.
    pub until: DateTime<Utc>,
    /// A lease of the holder's that ends before this is renewed.
    pub renew_before: DateTime<Utc>,
}

/// What a look-out has found.
pub struct Leased {
    /// Channels that the holder has leased, in the order of their ids. Something is due in each.
    pub channels: Vec<LeasedChannel>,
    /// Where the next look-out begins; `None` when this one has come to the last channel.
    pub next: Option<Uuid>,
}

/// A channel that the holder may send to.
pub struct LeasedChannel {
    pub id: Uuid,
    /// Nothing is sent to a disabled one; what waits for it is cancelled.
    pub active: bool,
    /// Its last delivery failed.
    pub failing: bool,
}

/// Leases channels with something due that nobody else holds.
pub async fn lease_channels(pool: &PgPool, request: &LeaseRequest, now: DateTime<Utc>) -> Result<Leased> {
    let rows = sqlx::query_file!(
        "src/store/lease_channels.sql",
        request.after,
        now,
        request.wanted as i64,
        request.holder,
        request.until,
        request.renew_before,
        CHANNELS_LOOKED_AT,
    )
    .fetch_all(pool)
    .await?;
    let next = rows.first().and_then(|row| row.last.filter(|_| !row.ended));
    // The one row of a look-out that has leased nothing tells only how far it came.
    let ours = rows
        .into_iter()
        .filter_map(|row| Some(LeasedChannel { id: row.id?, active: row.active?, failing: row.failing? }));
    let mut channels: Vec<_> = ours.collect();
    channels.sort_by_key(|channel| channel.id);
    Ok(Leased { channels, next })
}

/// Ends all leases of a process.
pub async fn release_channels(pool: &PgPool, holder: Uuid, channels: &[Uuid]) -> Result<()> {
    sqlx::query!(
        "update channels set lease_holder = null, leased_until = null where id = any($1) and lease_holder = $2",
        channels,
        holder,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// A delivery that is due, with all that its message says. The price is the one of now.
pub struct DueDelivery {
    pub id: Uuid,
    pub channel_id: Uuid,
    pub attempts: i16,
    /// Attempts before the schedule of retries began.
    pub schedule_from: i16,
    pub due_at: DateTime<Utc>,
    pub traceparent: Option<String>,
    pub url: String,
    /// Sealed for the channel.
    pub secret: Vec<u8>,
    pub previous_secret: Option<Vec<u8>>,
    pub notice_id: Uuid,
    pub noticed_at: DateTime<Utc>,
    pub event_kind: String,
    pub watch_id: Uuid,
    pub sale_id: Uuid,
    /// Why it must not be sent any more. Without a reason all below is there, but for what may be unknown.
    pub reason: Option<String>,
    pub game_id: Option<Uuid>,
    pub title: Option<String>,
    pub offer_id: Option<Uuid>,
    pub region: Option<String>,
    pub platform: Option<String>,
    pub offer_url: Option<String>,
    pub store_slug: Option<String>,
    pub store_name: Option<String>,
    pub currency: Option<String>,
    /// Minor units.
    pub amount: Option<i64>,
    pub regular: Option<i64>,
    pub cut: Option<i16>,
    pub new_low: Option<bool>,
    pub ends_at: Option<DateTime<Utc>>,
}

/// Reads what is due in leased channels: of each so many of the first, without those of `in_hand`.
pub async fn list_due_deliveries(
    pool: &PgPool,
    channels: &[(Uuid, usize)],
    in_hand: &[Uuid],
    now: DateTime<Utc>,
) -> Result<Vec<DueDelivery>> {
    let (ids, counts): (Vec<Uuid>, Vec<i64>) =
        channels.iter().map(|(id, count)| (*id, *count as i64)).unzip();
    let due = sqlx::query_file_as!(DueDelivery, "src/store/due_deliveries.sql", &ids, &counts, now, in_hand)
        .fetch_all(pool)
        .await?;
    Ok(due)
}

/// Cancels deliveries that must not be sent any more, each for its `reason`. Returns how many that were.
///
/// One whose price has changed since it was judged stays as it is. The sales are locked meanwhile: a price that
/// changes later finds its deliveries cancelled, and makes those due again that it suits (`dispatch`).
pub async fn cancel_deliveries(pool: &PgPool, judged: &[DueDelivery], now: DateTime<Utc>) -> Result<u64> {
    let cancelled = sqlx::query!(
        r#"with sale as materialized (
            select id, amount, regular from sales where id = any($3) order by id for share
        )
        update deliveries d set state = 'cancelled', reason = j.reason, finished_at = $6
        from unnest($1::uuid[], $2::text[], $3::uuid[], $4::bigint[], $5::bigint[])
                as j (id, reason, sale_id, amount, regular)
            left join sale on sale.id = j.sale_id
        where d.id = j.id and d.state = 'pending'
            and (j.amount, j.regular) is not distinct from (sale.amount, sale.regular)"#,
        &judged.iter().map(|delivery| delivery.id).collect::<Vec<_>>(),
        &judged.iter().map(|delivery| delivery.reason.clone()).collect::<Vec<_>>() as &[Option<String>],
        &judged.iter().map(|delivery| delivery.sale_id).collect::<Vec<_>>(),
        &judged.iter().map(|delivery| delivery.amount).collect::<Vec<_>>() as &[Option<i64>],
        &judged.iter().map(|delivery| delivery.regular).collect::<Vec<_>>() as &[Option<i64>],
        now,
    )
    .execute(pool)
    .await?;
    Ok(cancelled.rows_affected())
}

/// Cancels a slice of what waits for disabled channels, but for those of `in_hand`. Returns how many that were.
pub async fn cancel_for_disabled(
    pool: &PgPool,
    channels: &[Uuid],
    in_hand: &[Uuid],
    now: DateTime<Utc>,
) -> Result<u64> {
    let cancelled = sqlx::query!(
        "update deliveries set state = 'cancelled', reason = 'channel_disabled', finished_at = $3
         where id = any(array(
             select d.id from deliveries d join channels c on c.id = d.channel_id
             where d.channel_id = any($1) and d.state = 'pending' and c.state = 'disabled' and d.id <> all($2)
             limit $4
             for update of d skip locked))",
        channels,
        in_hand,
        now,
        CANCEL_SLICE,
    )
    .execute(pool)
    .await?;
    Ok(cancelled.rows_affected())
}

/// What became of one try.
#[derive(Clone, Debug)]
pub struct AttemptResult {
    pub delivery_id: Uuid,
    /// How many attempts there had been before.
    pub attempts: i16,
    pub succeeded: bool,
    /// The receiver wants nothing any more: its channel is disabled.
    pub gone: bool,
    pub at: DateTime<Utc>,
    pub duration_ms: i32,
    /// `None`: there was no answer.
    pub status: Option<u16>,
    pub error: Option<String>,
    /// The beginning of the answer to a failed try.
    pub response: Option<String>,
    /// `None`: it succeeded, or there will be no further try.
    pub next_at: Option<DateTime<Utc>>,
}

impl AttemptResult {
    /// As `deliveries::DeliveryTry` reads it.
    fn to_json(&self) -> serde_json::Value {
        let at = self.at.to_rfc3339_opts(SecondsFormat::Micros, true);
        let mut tried = json!({"number": self.attempts + 1, "at": at, "duration_ms": self.duration_ms});
        // What is not there takes no room.
        for (name, value) in
            [("status", json!(self.status)), ("error", json!(self.error)), ("response", json!(self.response))]
        {
            if !value.is_null() {
                tried[name] = value;
            }
        }
        tried
    }
}

/// A channel that has just been disabled, and why: `gone` or `failing`.
pub struct Disabled {
    pub id: Uuid,
    pub reason: String,
}

/// Records results with one statement, and returns the channels that were disabled by them.
pub async fn record_attempts(
    pool: &PgPool,
    results: &[AttemptResult],
    now: DateTime<Utc>,
) -> Result<Vec<Disabled>> {
    fn column<T>(results: &[AttemptResult], of: impl Fn(&AttemptResult) -> T) -> Vec<T> {
        results.iter().map(of).collect()
    }
    let disabled = sqlx::query_file_as!(
        Disabled,
        "src/store/record_attempts.sql",
        &column(results, |result| result.delivery_id),
        &column(results, |result| result.attempts),
        &column(results, |result| result.succeeded),
        &column(results, |result| result.gone),
        &column(results, |result| result.at),
        &column(results, AttemptResult::to_json),
        &column(results, |result| result.next_at) as &[Option<DateTime<Utc>>],
        now,
        now - DISABLE_AFTER,
        MAX_TRIES_KEPT,
    )
    .fetch_all(pool)
    .await?;
    Ok(disabled)
}
