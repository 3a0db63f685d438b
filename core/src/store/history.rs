//! Price history of a game, offer by offer, as changes or in buckets.

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, Postgres, QueryBuilder};

use super::known_price::parse_currency;
use super::offers::StoreRef;
use crate::domain::history::{Bucket, BucketChanges, InForce, Resolution, fill_buckets};
use crate::domain::ids::{GameId, OfferId, StoreId};
use crate::error::{Error, Result};

/// Filter for the history.
#[derive(Clone, Debug)]
pub struct HistoryFilter {
    pub game_id: GameId,
    pub store_id: Option<StoreId>,
    /// Regions of the offers; `None` matches any.
    pub regions: Option<Vec<String>>,
    /// Beginning of the history; the price in force at this instant comes first.
    pub since: DateTime<Utc>,
    /// End of the history, exclusive.
    pub until: DateTime<Utc>,
}

/// The offer that a price belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct PricedOffer {
    pub id: OfferId,
    pub store: StoreRef,
    pub region: String,
    pub platform: Option<String>,
}

/// A price change: the price from `observed_at` on.
#[derive(Clone, Debug, PartialEq)]
pub struct PriceChange {
    pub offer: PricedOffer,
    pub observed_at: DateTime<Utc>,
    pub price: InForce,
    /// Whether the store accepted orders.
    pub available: bool,
}

/// Position of the last point of the previous page: its offer, and the instant or the beginning of the bucket.
pub type HistoryKey = (OfferId, DateTime<Utc>);

#[derive(sqlx::FromRow)]
struct OfferColumns {
    offer_id: OfferId,
    store_id: StoreId,
    store_slug: String,
    store_name: String,
    region: String,
    platform: Option<String>,
}

impl From<OfferColumns> for PricedOffer {
    fn from(row: OfferColumns) -> Self {
        PricedOffer {
            id: row.offer_id,
            store: StoreRef { id: row.store_id, slug: row.store_slug, name: row.store_name },
            region: row.region,
            platform: row.platform,
        }
    }
}

#[derive(sqlx::FromRow)]
struct ChangeRow {
    #[sqlx(flatten)]
    offer: OfferColumns,
    observed_at: DateTime<Utc>,
    currency: String,
    amount: i64,
    regular: i64,
    holds_until: Option<DateTime<Utc>>,
    available: bool,
}

/// A bucket with changes, or an offer without any, with the price that was in force before.
#[derive(sqlx::FromRow)]
struct BucketRow {
    #[sqlx(flatten)]
    offer: OfferColumns,
    begins_at: DateTime<Utc>,
    before_currency: Option<String>,
    before_amount: Option<i64>,
    before_regular: Option<i64>,
    before_holds_until: Option<DateTime<Utc>>,
    start: Option<DateTime<Utc>>,
    first_at: Option<DateTime<Utc>>,
    min: Option<i64>,
    max: Option<i64>,
    last_currency: Option<String>,
    last_amount: Option<i64>,
    last_regular: Option<i64>,
    last_holds_until: Option<DateTime<Utc>>,
}

/// Appends a query for the game's offers in the order of their ids, beginning with that of the previous page, each
/// with the instant `lower` from which its history is wanted.
fn push_offers(
    query: &mut QueryBuilder<Postgres>,
    filter: &HistoryFilter,
    after: Option<HistoryKey>,
    since: DateTime<Utc>,
) {
    query.push("select id, store_id, region, platform, ");
    match after {
        Some((id, lower)) => {
            query.push("case when id = ").push_bind(id).push(" then ").push_bind(lower);
            query.push(" else ").push_bind(since).push(" end as lower");
            query.push(", id = ").push_bind(id).push(" as begun");
        }
        None => drop(query.push_bind(since).push(" as lower, false as begun")),
    }
    query.push(" from offers where game_id = ").push_bind(filter.game_id);
    if let Some(store_id) = filter.store_id {
        query.push(" and store_id = ").push_bind(store_id);
    }
    if let Some(regions) = &filter.regions {
        query.push(" and region = any(").push_bind(regions.clone()).push(")");
    }
    if let Some((id, _)) = after {
        query.push(" and id >= ").push_bind(id);
    }
    query.push(" order by id");
}

const OFFER_COLUMNS: &str = "page.id as offer_id, page.store_id, s.slug as store_slug, s.name as store_name,
    page.region, page.platform";

/// Query for changes by offer and time. Each offer's part is read in order from the index of its history, so that the
/// page is full before the rest is read.
pub fn list_changes_query(
    filter: &HistoryFilter,
    after: Option<HistoryKey>,
    rows: i64,
) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new("with page as materialized (select o.*, h.* from (");
    push_offers(&mut query, filter, after, filter.since);
    query.push(
        ") o cross join lateral (
            (select observed_at, currency, amount, regular, holds_until, available from price_history
            where offer_id = o.id and observed_at <= o.lower and not o.begun and observed_at < ",
    );
    query.push_bind(filter.until);
    query.push(
        " order by observed_at desc limit 1)
            union all
            (select observed_at, currency, amount, regular, holds_until, available from price_history
            where offer_id = o.id and observed_at > o.lower and observed_at > ",
    );
    // The bound that is common to all offers lets the planner skip partitions.
    query.push_bind(filter.since).push(" and observed_at < ").push_bind(filter.until);
    query.push(" order by observed_at limit ").push_bind(rows);
    query.push(")) h order by o.id, h.observed_at limit ").push_bind(rows);
    query.push(format_args!(
        ") select {OFFER_COLUMNS}, page.observed_at, page.currency, page.amount, page.regular,
            page.holds_until, page.available
        from page join stores s on s.id = page.store_id order by page.id, page.observed_at"
    ));
    query
}

/// Lists one page of changes, by offer and time.
pub async fn list_changes(
    executor: impl PgExecutor<'_>,
    filter: &HistoryFilter,
    after: Option<HistoryKey>,
    rows: i64,
) -> Result<Vec<PriceChange>> {
    let rows: Vec<ChangeRow> =
        list_changes_query(filter, after, rows).build_query_as().fetch_all(executor).await?;
    rows.into_iter()
        .map(|row| {
            let price = in_force(&row.currency, row.amount, row.regular, row.holds_until)?;
            let (observed_at, available) = (row.observed_at, row.available);
            Ok(PriceChange { offer: row.offer.into(), observed_at, price, available })
        })
        .collect()
}

/// Query for buckets with changes by offer and time, with the price that was in force before them. Each row yields at
/// least one point of the page, and no more of an offer's history is read than the page can show.
pub fn list_buckets_query(
    filter: &HistoryFilter,
    resolution: Resolution,
    after: Option<HistoryKey>,
    rows: i64,
) -> QueryBuilder<Postgres> {
    let (name, length) = match resolution {
        // `Change` is not used here: a change is its own bucket.
        Resolution::Change | Resolution::Day => ("day", "1 day"),
        Resolution::Week => ("week", "7 days"),
        Resolution::Month => ("month", "1 month"),
    };
    let after = after.map(|(id, start)| (id, resolution.later(start, 1)));
    let since = resolution.start_of(filter.since);
    let mut query = QueryBuilder::new(
        "with page as materialized (
            select o.*, begins.begins_at, before.currency as before_currency, before.amount as before_amount,
                before.regular as before_regular, before.holds_until as before_holds_until, b.*
            from (",
    );
    push_offers(&mut query, filter, after, since);
    query.push(
        ") o left join lateral (
            select currency, amount, regular, holds_until from price_history
            where offer_id = o.id and observed_at < o.lower and observed_at < ",
    );
    query.push_bind(filter.until);
    query.push(
        " order by observed_at desc limit 1
        ) before on true
        cross join lateral (
            select case when before.currency is not null then o.lower else (
                select date_trunc(",
    );
    query.push_bind(name).push(
        ", observed_at, 'UTC') from price_history
                where offer_id = o.id and observed_at >= o.lower and observed_at >= ",
    );
    query.push_bind(since).push(" and observed_at < ").push_bind(filter.until);
    query.push(
        " order by observed_at limit 1
            ) end as begins_at
        ) begins
        left join lateral (
            select start, min(observed_at) as first_at, last_currency, last_amount, last_regular, last_holds_until,
                min(amount) filter (where currency = last_currency) as min,
                max(amount) filter (where currency = last_currency) as max
            from (
                select start, observed_at, currency, amount, first_value(currency) over latest as last_currency,
                    first_value(amount) over latest as last_amount,
                    first_value(regular) over latest as last_regular,
                    first_value(holds_until) over latest as last_holds_until
                from (
                    select date_trunc(",
    );
    query.push_bind(name).push(
        ", observed_at, 'UTC') as start, observed_at, currency, amount, regular, holds_until from price_history
                    where offer_id = o.id and observed_at >= begins.begins_at
                        and observed_at < begins.begins_at + ",
    );
    query.push_bind(rows as f64).push(format_args!(" * interval '{length}' and observed_at >= "));
    query.push_bind(since).push(" and observed_at < ").push_bind(filter.until);
    query.push(
        ") starts
                window latest as (partition by start order by observed_at desc)
            ) changes
            group by start, last_currency, last_amount, last_regular, last_holds_until
        ) b on true
        where begins.begins_at < ",
    );
    query.push_bind(filter.until).push(" order by o.id, b.start limit ").push_bind(rows);
    query.push(format_args!(
        ") select {OFFER_COLUMNS}, page.begins_at, page.before_currency, page.before_amount, page.before_regular, page.before_holds_until,
            page.start, page.first_at, page.min, page.max, page.last_currency, page.last_amount, page.last_regular,
            page.last_holds_until
        from page join stores s on s.id = page.store_id order by page.id, page.start"
    ));
    query
}

/// Lists one page of buckets, by offer and time. The price in force is carried into buckets without a change.
pub async fn list_buckets(
    executor: impl PgExecutor<'_>,
    filter: &HistoryFilter,
    resolution: Resolution,
    after: Option<HistoryKey>,
    rows: i64,
) -> Result<Vec<(PricedOffer, Bucket)>> {
    let found: Vec<BucketRow> =
        list_buckets_query(filter, resolution, after, rows).build_query_as().fetch_all(executor).await?;
    let mut points = Vec::new();
    let mut found = found.into_iter().peekable();
    while let Some(row) = found.next() {
        let before = match (&row.before_currency, row.before_amount, row.before_regular) {
            (Some(currency), Some(amount), Some(regular)) => {
                Some(in_force(currency, amount, regular, row.before_holds_until)?)
            }
            _ => None,
        };
        let mut changes = Vec::new();
        changes.extend(bucket_changes(&row)?);
        while let Some(next) = found.next_if(|next| next.offer.offer_id == row.offer.offer_id) {
            changes.extend(bucket_changes(&next)?);
        }
        let wanted = (rows as usize).saturating_sub(points.len());
        let buckets = fill_buckets(resolution, row.begins_at, filter.until, before, &changes, wanted);
        let offer = PricedOffer::from(row.offer);
        points.extend(buckets.into_iter().map(|bucket| (offer.clone(), bucket)));
    }
    Ok(points)
}

/// Changes of a row's bucket. `None`: the offer's price did not change.
fn bucket_changes(row: &BucketRow) -> Result<Option<BucketChanges>> {
    let (Some(start), Some(first_at)) = (row.start, row.first_at) else { return Ok(None) };
    match (row.min, row.max, &row.last_currency, row.last_amount, row.last_regular) {
        (Some(min), Some(max), Some(currency), Some(amount), Some(regular)) => {
            let last = in_force(currency, amount, regular, row.last_holds_until)?;
            Ok(Some(BucketChanges { start, first_at, min, max, last }))
        }
        _ => Err(Error::internal("a bucket of price_history has no last price")),
    }
}

fn in_force(
    currency: &str,
    amount: i64,
    regular: i64,
    holds_until: Option<DateTime<Utc>>,
) -> Result<InForce> {
    Ok(InForce { currency: parse_currency(currency)?, amount, regular, holds_until })
}
