//! Writing what a message has changed: one statement over arrays for each table.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::batch::PriceMessage;
use crate::domain::ledger::{Changes, SaleChange};
use crate::domain::price::Price;
use crate::error::{Error, Result};
use crate::store::{publications, wakeups};

/// Writes everything of a message. False when the message has been recorded before: then nothing may be committed.
pub async fn write(
    connection: &mut PgConnection,
    changes: &Changes,
    message: &PriceMessage,
    publish: bool,
    now: DateTime<Utc>,
) -> Result<bool> {
    let counts = &changes.counts;
    let transitions = serde_json::to_value(&counts.transitions).map_err(Error::internal)?;
    let first_time = sqlx::query!(
        "insert into batch_parts (batch_id, part, recorded_at, recorded, unchanged, stale, quarantined, failed,
            new_lows, transitions)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict (batch_id, part) do nothing",
        message.batch_id,
        message.part,
        now,
        counts.recorded as i32,
        counts.unchanged as i32,
        counts.stale as i32,
        counts.quarantined as i32,
        counts.failed as i32,
        counts.new_lows as i32,
        transitions,
    )
    .execute(&mut *connection)
    .await?;
    if first_time.rows_affected() == 0 {
        return Ok(false);
    }
    let source = Source { backfill: message.backfill, traceparent: message.traceparent.as_deref(), publish };
    write_prices(connection, changes, &source, now).await?;
    if changes.events.iter().any(|event| publish || (event.rings && !message.backfill)) {
        sqlx::query!("select pg_notify($1, '')::text as notified", wakeups::EVENTS)
            .fetch_one(connection)
            .await?;
    }
    Ok(true)
}

/// Where changes come from, and who hears of them.
pub struct Source<'a> {
    /// Historical: rings no bells.
    pub backfill: bool,
    /// W3C trace context of the report.
    pub traceparent: Option<&'a str>,
    /// Other teams hear of the events.
    pub publish: bool,
}

/// Writes prices, history, sales, events and quarantine.
pub async fn write_prices(
    connection: &mut PgConnection,
    changes: &Changes,
    source: &Source<'_>,
    now: DateTime<Utc>,
) -> Result<()> {
    write_offers(connection, changes).await?;
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
    let prices = Prices::of(rows.iter().map(|row| (row.id, &row.price)));
    let lows: Vec<i64> = rows.iter().map(|row| row.price.low).collect();
    let low_ats: Vec<DateTime<Utc>> = rows.iter().map(|row| row.price.low_at).collect();
    let sales: Vec<Option<Uuid>> = rows.iter().map(|row| row.sale_id).collect();
    let ends: Vec<Option<DateTime<Utc>>> = rows.iter().map(|row| row.sale_ends_at).collect();
    sqlx::query!(
        r#"update offers o set currency = u.currency, amount = u.amount, regular = u.regular,
            observed_at = u.observed_at, low = u.low, low_at = u.low_at, sale_id = u.sale_id,
            sale_ends_at = case when u.sale_id is not distinct from o.sale_id
                then coalesce(u.sale_ends_at, o.sale_ends_at) else u.sale_ends_at end
        from unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::bigint[],
            $7::timestamptz[], $8::uuid[], $9::timestamptz[])
            as u (id, currency, amount, regular, observed_at, low, low_at, sale_id, sale_ends_at)
        where o.id = u.id"#,
        &prices.ids,
        &prices.currencies as &[&str],
        &prices.amounts,
        &prices.regulars,
        &prices.instants,
        &lows,
        &low_ats,
        &sales as &[Option<Uuid>],
        &ends as &[Option<DateTime<Utc>>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_history(connection: &mut PgConnection, changes: &Changes) -> Result<()> {
    if changes.history.is_empty() {
        return Ok(());
    }
    let prices = Prices::of(changes.history.iter().map(|(offer, price)| (*offer, price)));
    // A row of the same instant is one that the lower price has just outdone.
    sqlx::query!(
        r#"insert into price_history (offer_id, observed_at, currency, amount, regular)
        select offer_id, observed_at, currency, amount, regular
        from unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::bigint[], $5::bigint[])
            as u (offer_id, observed_at, currency, amount, regular)
        on conflict (offer_id, observed_at) do update
            set currency = excluded.currency, amount = excluded.amount, regular = excluded.regular"#,
        &prices.ids,
        &prices.instants,
        &prices.currencies as &[&str],
        &prices.amounts,
        &prices.regulars,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Puts sights from the past into history, so that it still holds changes and not repetitions.
async fn write_stale(connection: &mut PgConnection, changes: &Changes) -> Result<()> {
    let mut stale: Vec<&(Uuid, Price)> = changes.stale.iter().collect();
    // One row an instant, the lowest.
    stale.sort_by_key(|(offer, price)| (*offer, price.observed_at, price.amount));
    stale.dedup_by_key(|(offer, price)| (*offer, price.observed_at));
    let prices = Prices::of(stale.iter().map(|(offer, price)| (*offer, price)));
    sqlx::query!(
        r#"insert into price_history (offer_id, observed_at, currency, amount, regular)
        select offer_id, observed_at, currency, amount, regular
        from unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::bigint[], $5::bigint[])
            as u (offer_id, observed_at, currency, amount, regular)
        on conflict (offer_id, observed_at) do update
            set currency = excluded.currency, amount = excluded.amount, regular = excluded.regular
            where excluded.currency = price_history.currency and excluded.amount < price_history.amount"#,
        &prices.ids,
        &prices.instants,
        &prices.currencies as &[&str],
        &prices.amounts,
        &prices.regulars,
    )
    .execute(&mut *connection)
    .await?;
    // Where each offer's history has changed from.
    stale.dedup_by_key(|(offer, _)| *offer);
    let offers: Vec<Uuid> = stale.iter().map(|(offer, _)| *offer).collect();
    let since: Vec<DateTime<Utc>> = stale.iter().map(|(_, price)| price.observed_at).collect();
    // A sight between the last change and now parts the current price in two: it came back afterwards.
    sqlx::query!(
        r#"insert into price_history (offer_id, observed_at, currency, amount, regular)
        select o.id, o.observed_at, o.currency, o.amount, o.regular
        from offers o cross join lateral (
            select h.currency, h.amount, h.regular from price_history h
            where h.offer_id = o.id order by h.observed_at desc limit 1
        ) newest
        where o.id = any($1)
            and (newest.currency, newest.amount, newest.regular) is distinct from (o.currency, o.amount, o.regular)
        on conflict (offer_id, observed_at) do nothing"#,
        &offers,
    )
    .execute(&mut *connection)
    .await?;
    // What says the same as the row before it, from the last row before the first that has come.
    sqlx::query!(
        r#"delete from price_history h using (
            select s.offer_id, s.observed_at, (s.currency, s.amount, s.regular) is not distinct from
                lag((s.currency, s.amount, s.regular)) over (partition by s.offer_id order by s.observed_at) as repeats
            from unnest($1::uuid[], $2::timestamptz[]) as u (offer_id, since)
            join price_history s on s.offer_id = u.offer_id and s.observed_at >= coalesce(
                (select max(p.observed_at) from price_history p
                 where p.offer_id = u.offer_id and p.observed_at < u.since), u.since)
        ) stretch
        where stretch.repeats and h.offer_id = stretch.offer_id and h.observed_at = stretch.observed_at"#,
        &offers,
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
        &rows.ids,
        &rows.prices.ids,
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
            ends_at = coalesce(u.ends_at, s.ends_at), ended_at = u.ended_at
        from unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::smallint[], $6::boolean[],
            $7::timestamptz[], $8::timestamptz[], $9::timestamptz[])
            as u (id, currency, amount, regular, cut, new_low, changed_at, ends_at, ended_at)
        where s.id = u.id"#,
        &rows.ids,
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
    source: &Source<'_>,
    now: DateTime<Utc>,
) -> Result<()> {
    let events = &changes.events;
    let prices = Prices::of(events.iter().map(|event| (event.offer_id, &event.price)));
    let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.name()).collect();
    let games: Vec<Uuid> = events.iter().map(|event| event.game_id).collect();
    let sales: Vec<Option<Uuid>> = events.iter().map(|event| event.sale_id).collect();
    let previous: Vec<Option<i64>> = events.iter().map(|event| event.previous_amount).collect();
    let cuts: Vec<i16> = events.iter().map(|event| event.price.cut()).collect();
    let new_lows: Vec<bool> = events.iter().map(|event| event.new_low).collect();
    let rings: Vec<bool> = events.iter().map(|event| event.rings && !source.backfill).collect();
    sqlx::query!(
        r#"insert into events (id, kind, offer_id, game_id, sale_id, currency, amount, regular, previous_amount, cut,
            new_low, observed_at, rings, recorded_at, traceparent)
        select u.*, $14, $15
        from unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::bigint[],
            $8::bigint[], $9::bigint[], $10::smallint[], $11::boolean[], $12::timestamptz[], $13::boolean[]) as u"#,
        &ids,
        &kinds as &[&str],
        &prices.ids,
        &games,
        &sales as &[Option<Uuid>],
        &prices.currencies as &[&str],
        &prices.amounts,
        &prices.regulars,
        &previous as &[Option<i64>],
        &cuts,
        &new_lows,
        &prices.instants,
        &rings,
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
    // First what is not held any more: of what is, an offer has each price once.
    sqlx::query!(
        "update quarantined_prices set state = 'confirmed', resolved_at = $2 where id = any($1) and state = 'held'",
        &changes.confirmed,
        now,
    )
    .execute(&mut *connection)
    .await?;
    let rows = &changes.quarantined;
    let prices = Prices::of(rows.iter().map(|row| (row.offer_id, &row.price)));
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let reasons: Vec<&str> = rows.iter().map(|row| row.reason).collect();
    let confirmed: Vec<bool> = rows.iter().map(|row| row.confirmed).collect();
    sqlx::query!(
        r#"insert into quarantined_prices (id, offer_id, currency, amount, regular, observed_at, reason, state,
            resolved_at, backfill, created_at)
        select u.id, u.offer_id, u.currency, u.amount, u.regular, u.observed_at, u.reason,
            case when u.confirmed then 'confirmed' else 'held' end, case when u.confirmed then $10::timestamptz end,
            $9, $10
        from unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::text[],
            $8::boolean[])
            as u (id, offer_id, currency, amount, regular, observed_at, reason, confirmed)"#,
        &ids,
        &prices.ids,
        &prices.currencies as &[&str],
        &prices.amounts,
        &prices.regulars,
        &prices.instants,
        &reasons as &[&str],
        &confirmed,
        backfill,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Prices as columns, which is how a statement takes thousands of them.
struct Prices {
    /// Of the offers.
    ids: Vec<Uuid>,
    currencies: Vec<&'static str>,
    amounts: Vec<i64>,
    regulars: Vec<i64>,
    instants: Vec<DateTime<Utc>>,
}

impl Prices {
    fn of<'a>(rows: impl ExactSizeIterator<Item = (Uuid, &'a Price)>) -> Prices {
        let with = rows.len();
        let mut columns = Prices {
            ids: Vec::with_capacity(with),
            currencies: Vec::with_capacity(with),
            amounts: Vec::with_capacity(with),
            regulars: Vec::with_capacity(with),
            instants: Vec::with_capacity(with),
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

/// Sales as columns.
struct Sales {
    ids: Vec<Uuid>,
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
