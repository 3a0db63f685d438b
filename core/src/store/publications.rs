//! Publications: events that are yet to be published to other teams.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use crate::domain::ids::{EventId, GameId, OfferId, SaleId};
use crate::domain::offer_recorder::Event;
use crate::domain::price::{EndReason, TransitionKind};
use crate::error::Result;

/// An event to publish, with the current details of its offer.
pub struct UnpublishedEvent {
    pub seq: i64,
    pub event_id: EventId,
    pub kind: TransitionKind,
    pub offer_id: OfferId,
    pub game_id: GameId,
    pub sale_id: Option<SaleId>,
    pub currency: String,
    pub amount: i64,
    pub regular: i64,
    pub cut: i16,
    pub new_low: bool,
    pub reason: Option<EndReason>,
    pub observed_at: DateTime<Utc>,
    pub recorded_at: DateTime<Utc>,
    pub traceparent: Option<String>,
    pub backfill: bool,
    /// `None`, like all fields below: the offer has been removed.
    pub store_slug: Option<String>,
    pub store_name: Option<String>,
    pub sku: Option<String>,
    pub region: Option<String>,
    pub platform: Option<String>,
    pub url: Option<String>,
    pub title: Option<String>,
}

/// Queues events for publication, in the transaction that writes them. The caller has locked their offers.
pub async fn queue_events(connection: &mut PgConnection, events: &[Event], backfill: bool) -> Result<()> {
    let ids: Vec<EventId> = events.iter().map(|event| event.id).collect();
    let offers: Vec<OfferId> = events.iter().map(|event| event.offer_id).collect();
    sqlx::query!(
        "insert into publications (event_id, offer_id, backfill)
         select event_id, offer_id, $3 from unnest($1::uuid[], $2::uuid[])
            with ordinality as u (event_id, offer_id, place)
         order by place",
        &ids as &[EventId],
        &offers as &[OfferId],
        backfill,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether there is an event to publish.
pub async fn is_any_waiting(executor: impl PgExecutor<'_>) -> Result<bool> {
    let any = sqlx::query_scalar!(r#"select exists (select from publications) as "any!""#);
    Ok(any.fetch_one(executor).await?)
}

/// Lists the first `max` events, in order.
pub async fn list_waiting(executor: impl PgExecutor<'_>, max: i64) -> Result<Vec<UnpublishedEvent>> {
    let waiting = sqlx::query_as!(
        UnpublishedEvent,
        r#"select p.seq, e.id as event_id, e.kind as "kind: TransitionKind", e.offer_id, e.game_id, e.sale_id as "sale_id: SaleId", e.currency, e.amount, e.regular,
            e.cut, e.new_low, e.reason as "reason: EndReason", e.observed_at, e.recorded_at, e.traceparent, p.backfill,
            s.slug as "store_slug?", s.name as "store_name?", o.sku as "sku?", o.region as "region?", o.platform, o.url, g.title as "title?"
        from publications p
        join events e on e.id = p.event_id
        left join offers o on o.id = e.offer_id
        left join stores s on s.id = o.store_id
        left join games g on g.id = e.game_id
        order by p.seq limit $1"#,
        max,
    )
    .fetch_all(executor)
    .await?;
    Ok(waiting)
}

/// Removes published events from the queue.
pub async fn finish(executor: impl PgExecutor<'_>, published: &[i64]) -> Result<()> {
    sqlx::query!("delete from publications where seq = any($1)", published).execute(executor).await?;
    Ok(())
}

/// Age in seconds of the oldest event that waits (0: none waits).
pub async fn age(executor: impl PgExecutor<'_>, now: DateTime<Utc>) -> Result<f64> {
    let age = sqlx::query_scalar!(
        r#"select coalesce(extract(epoch from $1 - (
            select e.recorded_at from publications p join events e on e.id = p.event_id order by p.seq limit 1
        )), 0)::float8 as "age!""#,
        now,
    )
    .fetch_one(executor)
    .await?;
    Ok(age.max(0.0))
}
