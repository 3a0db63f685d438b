//! Writing of a message's changes: one statement over arrays for each table.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::database::notifications;
use crate::domain::batch::PriceMessage;
use crate::domain::ids::{EventId, GameId, OfferId, QuarantinedPriceId, SaleId};
use crate::domain::offer_recorder::{Changes, Event, PastPrice, SaleChange};
use crate::domain::price::Price;
use crate::error::{Error, Result};
use crate::store::known_price::NEVER_PAID;
use crate::store::publications;

/// Whether a message was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    New,
    /// The message was recorded before: nothing may be committed.
    Repeated,
}

/// Writes all changes of a message, unless it was recorded before.
pub async fn write(
    connection: &mut PgConnection,
    changes: &Changes,
    message: &PriceMessage,
    source: &ChangeSource<'_>,
    now: DateTime<Utc>,
) -> Result<Written> {
    let counts = &changes.counts;
    let transitions = serde_json::to_value(&counts.transitions).map_err(Error::internal)?;
    let first_time = sqlx::query!(
        "insert into batch_parts (batch_id, part, recorded_at, recorded, unchanged, stale, quarantined, failed,
            new_lows, transitions, too_old_to_ring)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) on conflict (batch_id, part) do nothing",
        message.batch_id.0,
        message.part,
        now,
        counts.recorded as i32,
        counts.unchanged as i32,
        counts.stale as i32,
        counts.quarantined as i32,
        counts.failed as i32,
        counts.new_lows as i32,
        transitions,
        counts.too_old_to_ring as i32,
    )
    .execute(&mut *connection)
    .await?;
    if first_time.rows_affected() == 0 {
        return Ok(Written::Repeated);
    }
    write_prices(connection, changes, source, now).await?;
    if changes.events.iter().any(|event| source.publish || source.rings(event)) {
        sqlx::query!("select pg_notify($1, '')::text as notified", notifications::EVENTS)
            .fetch_one(connection)
            .await?;
    }
    Ok(Written::New)
}

/// Origin of changes, which decides whether their events are published and cause notices.
pub struct ChangeSource<'a> {
    /// Whether the report is historical and causes no notices.
    pub backfill: bool,
    /// W3C trace context of the report.
    pub traceparent: Option<&'a str>,
    /// Whether the events are published to other teams.
    pub publish: bool,
    /// Earliest time of observation that causes notices; older observations were too old when they were reported.
    pub rings_from: DateTime<Utc>,
}

impl ChangeSource<'_> {
    /// Whether an observation of this time causes no notices only because of its age.
    pub fn is_too_old(&self, observed_at: DateTime<Utc>) -> bool {
        !self.backfill && observed_at < self.rings_from
    }

    fn rings(&self, event: &Event) -> bool {
        event.rings && !self.backfill && event.price.observed_at >= self.rings_from
    }
}

/// Writes prices, history, sales, events and quarantine.
pub async fn write_prices(
    connection: &mut PgConnection,
    changes: &Changes,
    source: &ChangeSource<'_>,
    now: DateTime<Utc>,
) -> Result<()> {
    write_offers(connection, changes).await?;
    // Before newer rows are written.
    if !changes.moved_ends.is_empty() {
        move_ends(connection, &changes.moved_ends).await?;
    }
    write_history(connection, changes).await?;
    if !changes.stale.is_empty() {
        write_stale(connection, changes).await?;
    }
    if !changes.started_sales.is_empty() {
        insert_sales(connection, &changes.started_sales).await?;
    }
    if !changes.changed_sales.is_empty() {
        update_sales(connection, &changes.changed_sales).await?;
    }
    if !changes.events.is_empty() {
        insert_events(connection, changes, source, now).await?;
        if source.publish {
            publications::queue_events(connection, &changes.events, source.backfill).await?;
        }
    }
    if !changes.quarantined.is_empty() || !changes.confirmed.is_empty() {
        write_quarantine(connection, changes, source.backfill, now).await?;
    }
    Ok(())
}

async fn write_offers(connection: &mut PgConnection, changes: &Changes) -> Result<()> {
    let rows = &changes.offers;
    if rows.is_empty() {
        return Ok(());
    }
    let prices = Prices::of(rows.iter().map(|(id, price)| (*id, price)));
    let lows: Vec<i64> = rows.iter().map(|(_, price)| price.low.map_or(0, |low| low.amount)).collect();
    let low_ats: Vec<DateTime<Utc>> =
        rows.iter().map(|(_, price)| price.low.map_or(NEVER_PAID, |low| low.at)).collect();
    let sales = sparse(rows.iter().map(|(_, price)| price.sale.map(|sale| sale.id)));
    let ends = sparse(rows.iter().map(|(_, price)| price.sale.and_then(|sale| sale.ends_at)));
    let available = sparse(rows.iter().map(|(_, price)| (!price.available).then_some(false)));
    let free_ats = sparse(rows.iter().map(|(_, price)| price.was_free_at));
    // Columns of the recent sale: the one in progress, or else the last one that has ended.
    let ended = sparse(rows.iter().map(|(_, price)| price.ended.map(|ended| ended.id)));
    let best_of = |price: &Price| {
        let open = price.sale.map(|sale| (sale.best, sale.was_free));
        open.or(price.ended.map(|ended| (ended.best, ended.was_free)))
    };
    // 0 means that nothing has been paid in the sale.
    let bests = sparse(rows.iter().map(|(_, price)| best_of(price).map(|(best, _)| best.unwrap_or(0))));
    let were_free =
        sparse(rows.iter().map(|(_, price)| best_of(price).map(|(_, free)| free).filter(|free| *free)));
    let ended_ats = sparse(rows.iter().map(|(_, price)| {
        price.sale.and_then(|sale| sale.interrupted_at).or(price.ended.map(|ended| ended.at))
    }));
    sqlx::query!(
        r#"update offers o set currency = u.currency, amount = u.amount, regular = u.regular,
            observed_at = u.observed_at, low = u.low, low_at = u.low_at, sale_id = u.sale_id,
            sale_ends_at = u.sale_ends_at, available = coalesce(u.available, true), was_free_at = u.was_free_at,
            recent_sale_id = coalesce(u.sale_id, u.ended_sale_id), recent_sale_best = u.recent_sale_best,
            recent_sale_ended_at = u.recent_sale_ended_at, recent_sale_was_free = coalesce(u.recent_sale_was_free, false)
        from unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::bigint[],
            $7::timestamptz[], $8::uuid[], $9::timestamptz[], $10::boolean[], $11::timestamptz[], $12::uuid[],
            $13::bigint[], $14::timestamptz[], $15::boolean[])
            as u (id, currency, amount, regular, observed_at, low, low_at, sale_id, sale_ends_at, available, was_free_at,
                ended_sale_id, recent_sale_best, recent_sale_ended_at, recent_sale_was_free)
        where o.id = u.id"#,
        &prices.ids as &[OfferId],
        &prices.currencies as &[&str],
        &prices.amounts,
        &prices.regulars,
        &prices.instants,
        &lows,
        &low_ats,
        &sales as &[Option<SaleId>],
        &ends as &[Option<DateTime<Utc>>],
        &available as &[Option<bool>],
        &free_ats as &[Option<DateTime<Utc>>],
        &ended as &[Option<SaleId>],
        &bests as &[Option<i64>],
        &ended_ats as &[Option<DateTime<Utc>>],
        &were_free as &[Option<bool>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Column with values in few rows, and usually in none: an empty one is sent then, which `unnest` pads with nulls.
fn sparse<T>(values: impl Iterator<Item = Option<T>>) -> Vec<Option<T>> {
    let mut column: Vec<Option<T>> = values.collect();
    if column.iter().all(Option::is_none) {
        column.clear();
    }
    column
}

async fn write_history(connection: &mut PgConnection, changes: &Changes) -> Result<()> {
    if changes.history.is_empty() {
        return Ok(());
    }
    let rows = PastPrices::of(&changes.history);
    // A row of the same instant is replaced, because the new price is lower.
    sqlx::query!(
        r#"insert into price_history (offer_id, observed_at, currency, amount, regular, holds_until, available)
        select offer_id, observed_at, currency, amount, regular, holds_until, coalesce(available, true)
        from unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::bigint[], $5::bigint[], $6::timestamptz[],
            $7::boolean[])
            as u (offer_id, observed_at, currency, amount, regular, holds_until, available)
        on conflict (offer_id, observed_at) do update
            set currency = excluded.currency, amount = excluded.amount, regular = excluded.regular,
                holds_until = excluded.holds_until, available = excluded.available"#,
        &rows.prices.ids as &[OfferId],
        &rows.prices.instants,
        &rows.prices.currencies as &[&str],
        &rows.prices.amounts,
        &rows.prices.regulars,
        &rows.ends as &[Option<DateTime<Utc>>],
        &rows.available as &[Option<bool>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Updates the stated end of the last history row that each offer had before the message.
async fn move_ends(connection: &mut PgConnection, moved: &[(OfferId, Option<DateTime<Utc>>)]) -> Result<()> {
    let (offers, ends): (Vec<OfferId>, Vec<Option<DateTime<Utc>>>) = moved.iter().copied().unzip();
    sqlx::query!(
        r#"update price_history h set holds_until = last.holds_until
        from (
            select u.offer_id, u.holds_until, newest.observed_at
            from unnest($1::uuid[], $2::timestamptz[]) as u (offer_id, holds_until)
            cross join lateral (
                select p.observed_at from price_history p
                where p.offer_id = u.offer_id order by p.observed_at desc limit 1
            ) newest
        ) last
        where h.offer_id = last.offer_id and h.observed_at = last.observed_at"#,
        &offers as &[OfferId],
        &ends as &[Option<DateTime<Utc>>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Inserts observations from the past into the history, and keeps it free of repetitions.
async fn write_stale(connection: &mut PgConnection, changes: &Changes) -> Result<()> {
    let mut stale = changes.stale.clone();
    // One row for each instant: the lowest price.
    stale.sort_by_key(|past| {
        (past.offer_id, past.price.observed_at, past.price.amount, !past.price.available)
    });
    stale.dedup_by_key(|past| (past.offer_id, past.price.observed_at));
    let rows = PastPrices::of(&stale);
    sqlx::query!(
        r#"insert into price_history (offer_id, observed_at, currency, amount, regular, holds_until, available)
        select offer_id, observed_at, currency, amount, regular, holds_until, coalesce(available, true)
        from unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::bigint[], $5::bigint[], $6::timestamptz[],
            $7::boolean[])
            as u (offer_id, observed_at, currency, amount, regular, holds_until, available)
        on conflict (offer_id, observed_at) do update
            set currency = excluded.currency, amount = excluded.amount, regular = excluded.regular,
                holds_until = excluded.holds_until, available = excluded.available
            where excluded.currency = price_history.currency
                and (excluded.amount, not excluded.available) < (price_history.amount, not price_history.available)"#,
        &rows.prices.ids as &[OfferId],
        &rows.prices.instants,
        &rows.prices.currencies as &[&str],
        &rows.prices.amounts,
        &rows.prices.regulars,
        &rows.ends as &[Option<DateTime<Utc>>],
        &rows.available as &[Option<bool>],
    )
    .execute(&mut *connection)
    .await?;
    // Time from which each offer's history has changed.
    stale.dedup_by_key(|past| past.offer_id);
    let offers: Vec<OfferId> = stale.iter().map(|past| past.offer_id).collect();
    let since: Vec<DateTime<Utc>> = stale.iter().map(|past| past.price.observed_at).collect();
    // An observation between the last change and now splits the current price in two: the price came back afterwards.
    sqlx::query!(
        r#"insert into price_history (offer_id, observed_at, currency, amount, regular, holds_until, available)
        select o.id, o.observed_at, o.currency, o.amount, o.regular,
            -- As the store said of the sale that is open, or was the last: it has ended since the offer was seen.
            coalesce(o.sale_ends_at, case when o.recent_sale_ended_at > o.observed_at then o.recent_sale_ended_at end),
            o.available
        from offers o cross join lateral (
            select h.currency, h.amount, h.regular from price_history h
            where h.offer_id = o.id order by h.observed_at desc limit 1
        ) newest
        where o.id = any($1)
            and (newest.currency, newest.amount, newest.regular) is distinct from (o.currency, o.amount, o.regular)
        on conflict (offer_id, observed_at) do nothing"#,
        &offers as &[OfferId],
    )
    .execute(&mut *connection)
    .await?;
    // Removes rows that repeat the row before, beginning with the last row before the first inserted one.
    sqlx::query!(
        r#"delete from price_history h using (
            select s.offer_id, s.observed_at, (s.currency, s.amount, s.regular, s.available) is not distinct from
                lag((s.currency, s.amount, s.regular, s.available)) over earlier
                -- A price that held no more is none to repeat, and one that holds no more is told of.
                and (lag(s.holds_until) over earlier <= s.observed_at) is not true
                and (s.holds_until <= s.observed_at) is not true as repeats
            from unnest($1::uuid[], $2::timestamptz[]) as u (offer_id, since)
            join price_history s on s.offer_id = u.offer_id and s.observed_at >= coalesce(
                (select max(p.observed_at) from price_history p
                 where p.offer_id = u.offer_id and p.observed_at < u.since), u.since)
            window earlier as (partition by s.offer_id order by s.observed_at)
        ) stretch
        where stretch.repeats and h.offer_id = stretch.offer_id and h.observed_at = stretch.observed_at"#,
        &offers as &[OfferId],
        &since,
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_sales(connection: &mut PgConnection, sales: &[SaleChange]) -> Result<()> {
    let rows = Sales::of(sales);
    sqlx::query!(
        r#"insert into sales (id, offer_id, game_id, store_id, region, platform, currency, amount, regular, cut,
            new_low, started_at, changed_at, ends_at, ended_at)
        select u.id, o.id, o.game_id, o.store_id, o.region, o.platform, u.currency, u.amount, u.regular, u.cut,
            coalesce(u.new_low, false), u.started_at, u.changed_at, u.ends_at, u.ended_at
        from unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::smallint[], $7::boolean[],
            $8::timestamptz[], $9::timestamptz[], $10::timestamptz[], $11::timestamptz[])
            as u (id, offer_id, currency, amount, regular, cut, new_low, started_at, changed_at, ends_at, ended_at)
        join offers o on o.id = u.offer_id"#,
        &rows.ids as &[SaleId],
        &rows.prices.ids as &[OfferId],
        &rows.prices.currencies as &[&str],
        &rows.prices.amounts,
        &rows.prices.regulars,
        &rows.cuts,
        &rows.new_lows as &[Option<bool>],
        &rows.starts,
        &rows.prices.instants,
        &rows.ends as &[Option<DateTime<Utc>>],
        &rows.ended as &[Option<DateTime<Utc>>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn update_sales(connection: &mut PgConnection, sales: &[SaleChange]) -> Result<()> {
    let rows = Sales::of(sales);
    sqlx::query!(
        r#"update sales s set currency = u.currency, amount = u.amount, regular = u.regular, cut = u.cut,
            new_low = coalesce(u.new_low, s.new_low), changed_at = u.changed_at,
            ends_at = u.ends_at, ended_at = u.ended_at
        from unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::smallint[], $6::boolean[],
            $7::timestamptz[], $8::timestamptz[], $9::timestamptz[])
            as u (id, currency, amount, regular, cut, new_low, changed_at, ends_at, ended_at)
        where s.id = u.id"#,
        &rows.ids as &[SaleId],
        &rows.prices.currencies as &[&str],
        &rows.prices.amounts,
        &rows.prices.regulars,
        &rows.cuts,
        &rows.new_lows as &[Option<bool>],
        &rows.prices.instants,
        &rows.ends as &[Option<DateTime<Utc>>],
        &rows.ended as &[Option<DateTime<Utc>>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_events(
    connection: &mut PgConnection,
    changes: &Changes,
    source: &ChangeSource<'_>,
    now: DateTime<Utc>,
) -> Result<()> {
    let events = &changes.events;
    let prices = Prices::of(events.iter().map(|event| (event.offer_id, &event.price)));
    let ids: Vec<EventId> = events.iter().map(|event| event.id).collect();
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.name()).collect();
    let games: Vec<GameId> = events.iter().map(|event| event.game_id).collect();
    let sales: Vec<Option<SaleId>> = events.iter().map(|event| event.sale_id).collect();
    let previous: Vec<Option<i64>> = events.iter().map(|event| event.previous_amount).collect();
    let cuts: Vec<i16> = events.iter().map(|event| event.price.cut()).collect();
    let new_lows: Vec<bool> = events.iter().map(|event| event.new_low).collect();
    let rings: Vec<bool> = events.iter().map(|event| source.rings(event)).collect();
    let reasons = sparse(events.iter().map(|event| event.reason.map(|reason| reason.name())));
    let again = sparse(events.iter().map(|event| event.rings_again.then_some(true)));
    sqlx::query!(
        r#"insert into events (id, kind, offer_id, game_id, sale_id, currency, amount, regular, previous_amount, cut,
            new_low, observed_at, rings, reason, rings_again, recorded_at, traceparent)
        select u.id, u.kind, u.offer_id, u.game_id, u.sale_id, u.currency, u.amount, u.regular, u.previous_amount, u.cut,
            u.new_low, u.observed_at, u.rings, u.reason, coalesce(u.rings_again, false), $16, $17
        from unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::bigint[],
            $8::bigint[], $9::bigint[], $10::smallint[], $11::boolean[], $12::timestamptz[], $13::boolean[],
            $14::text[], $15::boolean[])
            as u (id, kind, offer_id, game_id, sale_id, currency, amount, regular, previous_amount, cut, new_low,
                observed_at, rings, reason, rings_again)"#,
        &ids as &[EventId],
        &kinds as &[&str],
        &prices.ids as &[OfferId],
        &games as &[GameId],
        &sales as &[Option<SaleId>],
        &prices.currencies as &[&str],
        &prices.amounts,
        &prices.regulars,
        &previous as &[Option<i64>],
        &cuts,
        &new_lows,
        &prices.instants,
        &rings,
        &reasons as &[Option<&str>],
        &again as &[Option<bool>],
        now,
        source.traceparent,
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_quarantine(
    connection: &mut PgConnection,
    changes: &Changes,
    backfill: bool,
    now: DateTime<Utc>,
) -> Result<()> {
    // Rows that are no longer held come first: an offer holds each price only once.
    sqlx::query!(
        "update quarantined_prices set state = 'confirmed', resolved_at = $2 where id = any($1) and state = 'held'",
        &changes.confirmed as &[QuarantinedPriceId],
        now,
    )
    .execute(&mut *connection)
    .await?;
    let rows = &changes.quarantined;
    let prices = Prices::of(rows.iter().map(|row| (row.offer_id, &row.price)));
    let ids: Vec<QuarantinedPriceId> = rows.iter().map(|row| row.id).collect();
    let reasons: Vec<&str> = rows.iter().map(|row| row.reason.name()).collect();
    let confirmed: Vec<bool> = rows.iter().map(|row| row.confirmed).collect();
    let available: Vec<bool> = rows.iter().map(|row| row.price.available).collect();
    let ends: Vec<Option<DateTime<Utc>>> = rows.iter().map(|row| row.sale_ends_at).collect();
    sqlx::query!(
        r#"insert into quarantined_prices (id, offer_id, currency, amount, regular, observed_at, reason, state,
            resolved_at, backfill, created_at, available, sale_ends_at)
        select u.id, u.offer_id, u.currency, u.amount, u.regular, u.observed_at, u.reason,
            case when u.confirmed then 'confirmed' else 'held' end, case when u.confirmed then $10::timestamptz end,
            $9, $10, u.available, u.sale_ends_at
        from unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::text[],
            $8::boolean[], $11::boolean[], $12::timestamptz[])
            as u (id, offer_id, currency, amount, regular, observed_at, reason, confirmed, available, sale_ends_at)"#,
        &ids as &[QuarantinedPriceId],
        &prices.ids as &[OfferId],
        &prices.currencies as &[&str],
        &prices.amounts,
        &prices.regulars,
        &prices.instants,
        &reasons as &[&str],
        &confirmed,
        backfill,
        now,
        &available,
        &ends as &[Option<DateTime<Utc>>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Prices as columns, the form in which a statement accepts thousands of them.
struct Prices {
    /// Ids of the offers.
    ids: Vec<OfferId>,
    currencies: Vec<&'static str>,
    amounts: Vec<i64>,
    regulars: Vec<i64>,
    instants: Vec<DateTime<Utc>>,
}

impl Prices {
    fn of<'a>(rows: impl ExactSizeIterator<Item = (OfferId, &'a Price)>) -> Prices {
        let count = rows.len();
        let mut columns = Prices {
            ids: Vec::with_capacity(count),
            currencies: Vec::with_capacity(count),
            amounts: Vec::with_capacity(count),
            regulars: Vec::with_capacity(count),
            instants: Vec::with_capacity(count),
        };
        for (id, price) in rows {
            columns.ids.push(id);
            columns.currencies.push(price.currency.code());
            columns.amounts.push(price.amount);
            columns.regulars.push(price.regular);
            columns.instants.push(price.observed_at);
        }
        columns
    }
}

/// History rows as columns.
struct PastPrices {
    prices: Prices,
    ends: Vec<Option<DateTime<Utc>>>,
    /// Null means true.
    available: Vec<Option<bool>>,
}

impl PastPrices {
    fn of(rows: &[PastPrice]) -> PastPrices {
        PastPrices {
            prices: Prices::of(rows.iter().map(|past| (past.offer_id, &past.price))),
            ends: sparse(rows.iter().map(|past| past.holds_until)),
            available: sparse(rows.iter().map(|past| (!past.price.available).then_some(false))),
        }
    }
}

/// Sales as columns.
struct Sales {
    ids: Vec<SaleId>,
    prices: Prices,
    cuts: Vec<i16>,
    new_lows: Vec<Option<bool>>,
    starts: Vec<DateTime<Utc>>,
    ends: Vec<Option<DateTime<Utc>>>,
    ended: Vec<Option<DateTime<Utc>>>,
}

impl Sales {
    fn of(sales: &[SaleChange]) -> Sales {
        Sales {
            ids: sales.iter().map(|sale| sale.id).collect(),
            prices: Prices::of(sales.iter().map(|sale| (sale.offer_id, &sale.price))),
            cuts: sales.iter().map(|sale| sale.price.cut()).collect(),
            new_lows: sales.iter().map(|sale| sale.new_low).collect(),
            starts: sales.iter().map(|sale| sale.started_at).collect(),
            ends: sales.iter().map(|sale| sale.ends_at).collect(),
            ended: sales.iter().map(|sale| sale.ended_at).collect(),
        }
    }
}
