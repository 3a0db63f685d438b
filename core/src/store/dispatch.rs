//! Dispatch: turns an event into notices and deliveries, a slice of watches at a time.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::database::notifications;
use crate::database::pool::{PgPool, Transaction};
use crate::domain::delivery::DeliveryReason;
use crate::domain::ids::{DeliveryId, EventId, GameId, WatchId};
use crate::domain::price::TransitionKind;
use crate::error::Result;
use crate::store::delivery_queue;
use crate::store::lease::Lease;

/// An event whose game has watches, leased to this process.
pub struct WaitingEvent {
    pub id: EventId,
    pub kind: TransitionKind,
    pub game_id: GameId,
    pub recorded_at: DateTime<Utc>,
    /// Whether it also notifies watches that have been notified of its sale already.
    pub rings_again: bool,
    /// Progress of its dispatch: the last watch that was processed.
    pub last_watch_id: Option<WatchId>,
    /// End of its next slice. `None`: the last watch of the game.
    pub slice_end: Option<WatchId>,
}

/// Events claimed from the outbox.
pub struct ClaimedEvents {
    /// Number of events of games without active watches; they are done.
    pub quiet: i64,
    /// Events to dispatch, the oldest first.
    pub waiting: Vec<WaitingEvent>,
}

/// Leases up to `max` of the oldest events, and finishes those at once whose game has no active watch. A slice has
/// `size` watches.
pub async fn claim_events(
    pool: &PgPool,
    max: i64,
    size: i64,
    now: DateTime<Utc>,
    lease: DateTime<Utc>,
) -> Result<ClaimedEvents> {
    let rows = sqlx::query!(
        r#"with waiting as (
            select e.id, exists (select from watches w where w.game_id = e.game_id and not w.paused) as watched
            from events e
            where e.rings and e.dispatched_at is null and (e.leased_until is null or e.leased_until <= $2)
            order by e.id limit $1
            for update of e skip locked
        )
        update events e set
            leased_until = case when w.watched then $3::timestamptz end,
            dispatched_at = case when not w.watched then $2::timestamptz end
        from waiting w where e.id = w.id
        returning e.id, e.kind as "kind: TransitionKind", e.game_id, e.recorded_at, e.rings_again, e.last_watch_id, w.watched as "watched!",
            (
                select w.id from watches w
                where w.game_id = e.game_id and w.id > coalesce(e.last_watch_id, $4)
                order by w.id offset $5 limit 1
            ) as slice_end"#,
        max,
        now,
        lease,
        Uuid::nil(),
        size - 1,
    )
    .fetch_all(pool)
    .await?;
    let taken = rows.len() as i64;
    let mut waiting: Vec<WaitingEvent> = rows
        .into_iter()
        .filter(|row| row.watched)
        .map(|row| WaitingEvent {
            id: EventId(row.id),
            kind: row.kind,
            game_id: GameId(row.game_id),
            recorded_at: row.recorded_at,
            rings_again: row.rings_again,
            last_watch_id: row.last_watch_id.map(WatchId),
            slice_end: row.slice_end.map(WatchId),
        })
        .collect();
    waiting.sort_by_key(|event| event.id);
    Ok(ClaimedEvents { quiet: taken - waiting.len() as i64, waiting })
}

/// End of the slice of `size` watches that begins after `after`. `None`: the last watch of the game.
pub async fn find_slice_end(
    pool: &PgPool,
    game: GameId,
    after: WatchId,
    size: i64,
) -> Result<Option<WatchId>> {
    let end = sqlx::query_scalar!(
        "select id from watches where game_id = $1 and id > $2 order by id offset $3 limit 1",
        game.0,
        after.0,
        size - 1,
    )
    .fetch_optional(pool)
    .await?;
    Ok(end.map(WatchId))
}

/// Consecutive watches of an event's game.
#[derive(Clone, Copy)]
pub struct WatchSlice {
    /// `None`: from the first one.
    pub after: Option<WatchId>,
    /// `None`: to the last one, which completes the event.
    pub end: Option<WatchId>,
}

/// A slice whose notices and deliveries are written but not committed.
pub struct MadeSlice {
    transaction: Transaction,
    slice: WatchSlice,
    pub notices: i64,
    pub deliveries: i64,
    rearmed: u64,
}

/// When the deliveries of a slice are due, and how long the event stays leased.
pub struct Times {
    pub now: DateTime<Utc>,
    /// Next delivery time of watches with cadence `daily`.
    pub daily: DateTime<Utc>,
    pub lease: DateTime<Utc>,
}

/// Matches a slice of the watches of an event's game, and creates notices and deliveries, in one statement.
///
/// A notice is unique by watch and sale, so a repetition creates nothing twice. An event with `rings_again`
/// renews existing notices and has them delivered once more, unless they are about this event, a later price or a
/// lower price already.
///
/// A sale that is over by its stated end notifies no watch. A resumed sale notifies watches that are older than it
/// and have no notice of it: they could not be notified when it started, because it was over by then or observed too
/// long ago. It also makes deliveries due again that were cancelled because of the interruption (`rearm_deliveries`).
pub async fn make_slice(
    pool: &PgPool,
    event: &WaitingEvent,
    slice: WatchSlice,
    times: &Times,
) -> Result<MadeSlice> {
    let mut transaction = pool.begin().await?;
    // Planned for this game each time: a plan for the average game would be ruinous for one with a million watches.
    sqlx::query!("set local plan_cache_mode = force_custom_plan").execute(&mut *transaction).await?;
    // Slices wait for each other's commit in this process, where PostgreSQL cannot detect a deadlock: another
    // worker's event of the same sale may wait for one of them and be waited for by the other.
    sqlx::query!("set local lock_timeout = '5s'").execute(&mut *transaction).await?;
    // The rules are in domain::watch too, for explanations; tests/it/delivery/watches.rs checks that both agree.
    let row = sqlx::query!(
        r#"with event as (
            select e.id, e.kind, e.sale_id, e.game_id, e.offer_id, e.currency, e.amount, e.regular, e.cut,
                -- What is resumed is as low as it was, which is no news but to those who were not rung.
                e.new_low or e.kind = $7 and coalesce(s.new_low and s.amount = e.amount, false) as new_low,
                e.observed_at, e.recorded_at, e.traceparent, o.store_id, o.region, o.platform
            from events e join offers o on o.id = e.offer_id left join sales s on s.id = e.sale_id
            where e.id = $1 and (s.ends_at <= $5) is not true
        ),
        slice as materialized (
            select w.id, w.account_id, w.rule, w.target_amount, w.target_currency, w.target_cut, w.stores, w.regions,
                w.currency, w.platforms, w.channels, w.cadence, w.priority
            from watches w
            where w.game_id = $2 and not w.paused and w.id > $3 and ($4::uuid is null or w.id <= $4)
            order by w.id
        ),
        matching as not materialized (
            select w.account_id, w.id as watch_id, e.sale_id, e.id as event_id, e.kind, e.game_id, e.offer_id, e.currency,
                e.amount, e.regular, e.cut, e.new_low, e.observed_at
            from event e join slice w on
                case w.rule
                    when 'any_sale' then true
                    when 'price_at_most' then e.currency = w.target_currency and e.amount <= w.target_amount
                    when 'cut_at_least' then e.cut >= w.target_cut
                    when 'new_low' then e.new_low
                end
                and (w.stores is null or e.store_id = any(w.stores))
                and (w.regions is null or e.region = 'ZZ' or e.region = any(w.regions))
                and (w.currency is null or e.currency = w.currency)
                and (w.platforms is null or e.platform = any(w.platforms))
            -- Ids grow with time: a watch that was made after the sale had begun is not rung because it flaps.
            where e.sale_id is not null and (e.kind <> $7 or w.id < e.sale_id)
        ),
        renewed as (
            update notices n set event_id = m.event_id, event_kind = m.kind, currency = m.currency, amount = m.amount,
                regular = m.regular, cut = m.cut, new_low = m.new_low, observed_at = m.observed_at, read_at = null
            from matching m
            where $8 and n.watch_id = m.watch_id and n.sale_id = m.sale_id
                -- Nothing costs less than a giveaway, and what is paid after it is news all the same.
                and (n.amount > m.amount or n.amount = 0)
                and n.event_id <> m.event_id and coalesce(n.observed_at <= m.observed_at, true)
            returning n.id, n.watch_id, n.account_id, n.event_kind, n.observed_at
        ),
        -- What waits for its hour or its next try tells of the notice as it is now. What is due may be on its way.
        retold as (
            update delivery_queue q set event_kind = n.event_kind, observed_at = n.observed_at
            from renewed n join deliveries d on d.notice_id = n.id
            where q.delivery_id = d.id and q.next_attempt_at > $5
        ),
        made as (
            insert into notices (id, account_id, watch_id, sale_id, event_id, event_kind, game_id, offer_id, currency,
                amount, regular, cut, new_low, observed_at, created_at)
            select uuid_v7($5), account_id, watch_id, sale_id, event_id, kind, game_id, offer_id, currency, amount,
                regular, cut, new_low, observed_at, $5
            from matching
            on conflict (watch_id, sale_id) do nothing
            returning id, watch_id, account_id
        ),
        told as (
            select id, watch_id, account_id, false as again from made
            union all select id, watch_id, account_id, true from renewed
        ),
        addressed as materialized (
            select uuid_v7($5) as id, n.id as notice_id, c.id as channel_id, n.account_id, n.watch_id,
                -- A channel's deliveries go in the order of this time: priority moves them within a backlog.
                case when w.cadence = 'daily' then $6::timestamptz
                    else $5::timestamptz - case w.priority when 'high' then interval '1 hour'
                        when 'low' then interval '-1 second' else interval '0' end
                end as next_attempt_at
            from told n
            -- By its key and not from the slice: how many are made is beyond any estimate.
            join watches w on w.id = n.watch_id
            join channels c on c.account_id = n.account_id and c.state = 'active'
                and (w.channels is null or c.id = any(w.channels))
                -- What waits for its hour or its next try, or is made due again below, will tell the new price.
                and not (n.again and exists (
                    select from deliveries d left join delivery_queue q on q.delivery_id = d.id
                    where d.notice_id = n.id and d.channel_id = c.id
                        and (q.next_attempt_at > $5 or d.state = 'cancelled' and d.reason = any($9))
                ))
        ),
        sent as (
            insert into deliveries (id, notice_id, channel_id, account_id, created_at)
            select id, notice_id, channel_id, account_id, $5 from addressed
        ),
        queued as (
            insert into delivery_queue (delivery_id, channel_id, next_attempt_at, attempts, schedule_from, notice_id,
                watch_id, sale_id, event_kind, traceparent, noticed_at, event_at, observed_at)
            select a.id, a.channel_id, a.next_attempt_at, 0, 0, a.notice_id, a.watch_id, e.sale_id, e.kind,
                e.traceparent, $5, case when a.next_attempt_at <= $5 + interval '1 second' then e.recorded_at end,
                e.observed_at
            from addressed a cross join event e
        )
        select (select count(*) from told) as "notices!", (select count(*) from addressed) as "deliveries!""#,
        event.id.0,
        event.game_id.0,
        slice.after.unwrap_or_default().0,
        slice.end as Option<WatchId>,
        times.now,
        times.daily,
        TransitionKind::SaleResumed.name(),
        event.rings_again,
        &REARMED.map(DeliveryReason::name) as &[&str],
    )
    .fetch_one(&mut *transaction)
    .await?;
    let rearmed = rearm_deliveries(&mut transaction, event, slice, times.now).await?;
    Ok(MadeSlice { transaction, slice, notices: row.notices, deliveries: row.deliveries, rearmed })
}

/// Commits a slice and advances its event. Slices are committed in order. The lease is lost if another process has
/// continued the event meanwhile.
pub async fn commit_slice(made: MadeSlice, event: &WaitingEvent, times: &Times) -> Result<Lease> {
    let MadeSlice { mut transaction, slice, .. } = made;
    let ours = sqlx::query!(
        "update events set last_watch_id = coalesce($3, last_watch_id), leased_until = $4,
            dispatched_at = case when $3::uuid is null then $5::timestamptz end
         where id = $1 and dispatched_at is null and last_watch_id is not distinct from $2",
        event.id.0,
        slice.after as Option<WatchId>,
        slice.end as Option<WatchId>,
        times.lease,
        times.now,
    )
    .execute(&mut *transaction)
    .await?;
    if Lease::of(&ours) == Lease::Lost {
        transaction.rollback().await?;
        return Ok(Lease::Lost);
    }
    if made.deliveries > 0 || made.rearmed > 0 {
        sqlx::query!("select pg_notify($1, '')::text as notified", notifications::DELIVERIES)
            .fetch_one(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(Lease::Held)
}

/// Reasons of cancelled deliveries that are made due again when their sale continues.
const REARMED: [DeliveryReason; 3] =
    [DeliveryReason::PriceNoLongerMatches, DeliveryReason::WatchPaused, DeliveryReason::SaleEnded];

/// Makes cancelled deliveries due again: those cancelled because the price no longer matched, when a better price
/// arrives, and those cancelled because the sale had ended, when it continues. Their notice exists, so the watch gets
/// no other of this sale. Whether the price matches now is checked before sending.
async fn rearm_deliveries(
    connection: &mut PgConnection,
    event: &WaitingEvent,
    slice: WatchSlice,
    now: DateTime<Utc>,
) -> Result<u64> {
    if event.kind == TransitionKind::SaleStarted {
        return Ok(0);
    }
    let rearmed = sqlx::query_scalar!(
        "update deliveries d set state = 'pending', reason = null, finished_at = null
         from watches w join events e on e.id = $1 join notices n on n.watch_id = w.id and n.sale_id = e.sale_id
         where w.game_id = $2 and w.id > $3 and ($4::uuid is null or w.id <= $4) and not w.paused and d.notice_id = n.id
            and d.state = 'cancelled' and d.reason = any($5)
         returning d.id",
        event.id.0,
        event.game_id.0,
        slice.after.unwrap_or_default().0,
        slice.end as Option<WatchId>,
        &REARMED.map(DeliveryReason::name) as &[&str],
    )
    .fetch_all(&mut *connection)
    .await?;
    let rearmed: Vec<DeliveryId> = rearmed.into_iter().map(DeliveryId).collect();
    if !rearmed.is_empty() {
        delivery_queue::queue_again(connection, &rearmed, now).await?;
    }
    Ok(rearmed.len() as u64)
}

/// Releases events that were leased and not begun, as a stopping process does.
pub async fn release_events(pool: &PgPool, events: &[EventId]) -> Result<()> {
    sqlx::query!(
        "update events set leased_until = null where id = any($1) and dispatched_at is null",
        events as &[EventId]
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Age in seconds of the oldest event that waits for its notices (0: none waits).
pub async fn age(executor: impl PgExecutor<'_>, now: DateTime<Utc>) -> Result<f64> {
    let age = sqlx::query_scalar!(
        r#"select coalesce(extract(epoch from $1 - (
            select recorded_at from events where rings and dispatched_at is null order by id limit 1
        )), 0)::float8 as "age!""#,
        now,
    )
    .fetch_one(executor)
    .await?;
    Ok(age.max(0.0))
}
