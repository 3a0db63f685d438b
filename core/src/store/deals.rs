//! Deals: the sales that are in progress.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{PgExecutor, Postgres, QueryBuilder};
use utoipa::ToSchema;

use super::known_price::known_low;
use super::known_price::parse_currency;
use super::offers::StoreRef;
use crate::domain::ids::{GameId, OfferId, SaleId, StoreId};
use crate::domain::money::Currency;
use crate::domain::price::Low;
use crate::error::{Error, Result};

/// A sale in progress with the details shown beside it. Amounts are minor units of `currency`.
#[derive(Clone, Debug, PartialEq)]
pub struct Deal {
    /// Id of the sale.
    pub id: SaleId,
    pub offer_id: OfferId,
    pub game_id: GameId,
    pub title: String,
    pub store: StoreRef,
    pub region: String,
    pub platform: Option<String>,
    pub url: Option<String>,
    pub currency: Currency,
    pub amount: i64,
    pub regular: i64,
    /// Whole percent below the regular price.
    pub cut: i16,
    pub new_low: bool,
    pub started_at: DateTime<Utc>,
    pub ends_at: Option<DateTime<Utc>>,
    /// Lowest amount that was ever paid for the offer.
    pub low: Option<Low>,
}

/// Sort order of deals; each ends with the sale's id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DealSort {
    /// Largest cut first.
    #[default]
    Cut,
    /// By currency, and the cheapest first within each.
    Price,
    /// Latest start first.
    Newest,
}

/// Position of a deal in its sort order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum DealKey {
    Cut(i16, SaleId),
    Price(String, i64, SaleId),
    Newest(DateTime<Utc>, SaleId),
}

impl DealSort {
    /// Position of `deal` in this order.
    pub fn key(self, deal: &Deal) -> DealKey {
        match self {
            DealSort::Cut => DealKey::Cut(deal.cut, deal.id),
            DealSort::Price => DealKey::Price(deal.currency.code().to_owned(), deal.amount, deal.id),
            DealSort::Newest => DealKey::Newest(deal.started_at, deal.id),
        }
    }

    fn columns(self) -> &'static str {
        match self {
            DealSort::Cut => "cut desc, id desc",
            DealSort::Price => "currency, amount, id",
            DealSort::Newest => "started_at desc, id desc",
        }
    }
}

/// Filter for deals; `None` matches any.
#[derive(Clone, Debug, Default)]
pub struct DealFilter {
    pub store_id: Option<StoreId>,
    /// Regions of the offers.
    pub regions: Option<Vec<String>>,
    pub currency: Option<Currency>,
    pub platform: Option<String>,
    /// Whole percent.
    pub min_cut: Option<i16>,
    /// Minor units of `currency`, which must be given too.
    pub max_amount: Option<i64>,
    pub new_low: Option<bool>,
    pub sort: DealSort,
}

#[derive(sqlx::FromRow)]
struct DealRow {
    id: SaleId,
    offer_id: OfferId,
    game_id: GameId,
    title: String,
    store_id: StoreId,
    store_slug: String,
    store_name: String,
    region: String,
    platform: Option<String>,
    url: Option<String>,
    currency: String,
    amount: i64,
    regular: i64,
    cut: i16,
    new_low: bool,
    started_at: DateTime<Utc>,
    ends_at: Option<DateTime<Utc>>,
    low: Option<i64>,
    low_at: Option<DateTime<Utc>>,
}

impl TryFrom<DealRow> for Deal {
    type Error = Error;

    fn try_from(row: DealRow) -> Result<Deal> {
        Ok(Deal {
            currency: parse_currency(&row.currency)?,
            id: row.id,
            offer_id: row.offer_id,
            game_id: row.game_id,
            title: row.title,
            store: StoreRef { id: row.store_id, slug: row.store_slug, name: row.store_name },
            region: row.region,
            platform: row.platform,
            url: row.url,
            amount: row.amount,
            regular: row.regular,
            cut: row.cut,
            new_low: row.new_low,
            started_at: row.started_at,
            ends_at: row.ends_at,
            low: known_low(row.low, row.low_at),
        })
    }
}

/// Query for deals in their order; `after` is the position of the last deal of the previous page. Sales whose stated
/// end is not after `now` are left out.
///
/// The page is cut along an index of the order, which also holds every column that is filtered by: only rows of the
/// page itself are read. Filters that no index begins with are checked on the way, so that price reports have few
/// indexes to maintain.
///
/// # Errors
/// `Malformed`: `after` belongs to another order.
pub fn list_deals_query(
    filter: &DealFilter,
    after: Option<DealKey>,
    rows: i64,
    now: DateTime<Utc>,
) -> Result<QueryBuilder<Postgres>> {
    // Sales that are over but not ended yet are the few of the last half minute. They are collected by an index of
    // their own, so that the indexes of the orders need not contain the ends.
    let mut query = QueryBuilder::new(
        "with named as materialized (select id from sales where ended_at is null
            and id not in (select id from sales where ended_at is null and ends_at <= ",
    );
    query.push_bind(now).push(")");
    if let Some(store_id) = filter.store_id {
        query.push(" and store_id = ").push_bind(store_id);
    }
    if let Some(regions) = &filter.regions {
        query.push(" and region = any(").push_bind(regions.clone()).push(")");
    }
    if let Some(currency) = filter.currency {
        query.push(" and currency = ").push_bind(currency.code());
    }
    if let Some(platform) = &filter.platform {
        query.push(" and platform = ").push_bind(platform.clone());
    }
    if let Some(min_cut) = filter.min_cut {
        query.push(" and cut >= ").push_bind(min_cut);
    }
    if let Some(max_amount) = filter.max_amount {
        query.push(" and amount <= ").push_bind(max_amount);
    }
    if let Some(new_low) = filter.new_low {
        query.push(" and new_low = ").push_bind(new_low);
    }
    match (filter.sort, after) {
        (_, None) => {}
        (DealSort::Cut, Some(DealKey::Cut(cut, id))) => {
            query.push(" and (cut, id) < (").push_bind(cut).push(", ").push_bind(id).push(")");
        }
        (DealSort::Price, Some(DealKey::Price(currency, amount, id))) => {
            query.push(" and (currency, amount, id) > (").push_bind(currency);
            query.push(", ").push_bind(amount).push(", ").push_bind(id).push(")");
        }
        (DealSort::Newest, Some(DealKey::Newest(started_at, id))) => {
            query.push(" and (started_at, id) < (").push_bind(started_at).push(", ").push_bind(id).push(")");
        }
        (_, Some(_)) => return Err(Error::malformed("The cursor belongs to another sort order.")),
    }
    query.push(" order by ").push(filter.sort.columns()).push(" limit ").push_bind(rows);
    query.push(
        "), page as materialized (
            select s.* from named cross join lateral (select * from sales where id = named.id limit 1) s
        ) select page.id, page.offer_id, page.game_id, g.title, page.store_id, s.slug as store_slug,
            s.name as store_name, page.region, page.platform, o.url, page.currency, page.amount, page.regular,
            page.cut, page.new_low, page.started_at, page.ends_at, o.low, o.low_at
        from page
        join games g on g.id = page.game_id
        join stores s on s.id = page.store_id
        join offers o on o.id = page.offer_id
        order by ",
    );
    query.push(match filter.sort {
        DealSort::Cut => "page.cut desc, page.id desc",
        DealSort::Price => "page.currency, page.amount, page.id",
        DealSort::Newest => "page.started_at desc, page.id desc",
    });
    Ok(query)
}

/// Lists one page of deals.
///
/// # Errors
/// `Malformed`: `after` belongs to another order.
pub async fn list_deals(
    executor: impl PgExecutor<'_>,
    filter: &DealFilter,
    after: Option<DealKey>,
    rows: i64,
    now: DateTime<Utc>,
) -> Result<Vec<Deal>> {
    let mut query = list_deals_query(filter, after, rows, now)?;
    // Planned for its values each time: they decide whether to walk an index or to collect the rows of a rare value.
    let rows: Vec<DealRow> = query.build_query_as().persistent(false).fetch_all(executor).await?;
    rows.into_iter().map(Deal::try_from).collect()
}
