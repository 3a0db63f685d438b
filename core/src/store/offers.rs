//! Offers: games in a store and region, with their current price.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor, Postgres, QueryBuilder};

use super::known_price::PriceColumns;
use super::offer_removal::delete_offers;
use super::stores;
use crate::database::pool::PgPool;
use crate::domain::ids::{GameId, OfferId, StoreId};
use crate::domain::money::Money;
use crate::domain::price::Price;
use crate::error::{Error, Result};

/// The store of an offer, a deal or a price, with the fields that are shown beside them.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreRef {
    pub id: StoreId,
    pub slug: String,
    pub name: String,
}

/// An offer with its current price.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    pub id: OfferId,
    pub game_id: GameId,
    pub store: StoreRef,
    pub sku: String,
    /// ISO 3166-1 alpha-2, or `ZZ` for everywhere.
    pub region: String,
    pub platform: Option<String>,
    pub url: Option<String>,
    /// `None` until the first observation.
    pub price: Option<Price>,
    /// Start of the sale in progress.
    pub sale_started_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// What is shown of an offer's price at a time. Fields are `None` until the first observation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShownPrice {
    /// Price at the last observation.
    pub price: Option<Money>,
    pub regular_price: Option<Money>,
    /// Whole per cent below the regular price.
    pub cut: Option<i16>,
    pub on_sale: bool,
    pub available: Option<bool>,
    pub observed_at: Option<DateTime<Utc>>,
    /// When the price became unknown: its sale has ended, as the store had announced.
    pub unknown_since: Option<DateTime<Utc>>,
    /// Lowest price ever paid.
    pub low: Option<Money>,
    pub low_at: Option<DateTime<Utc>>,
    /// Start of the latest giveaway.
    pub was_free_at: Option<DateTime<Utc>>,
    /// Start and announced end of the sale in progress.
    pub sale_started_at: Option<DateTime<Utc>>,
    pub sale_ends_at: Option<DateTime<Utc>>,
}

impl Offer {
    /// The price as it is shown at the time `now`: a sale ends at the time that its store announced.
    pub fn shown(&self, now: DateTime<Utc>) -> ShownPrice {
        let Some(price) = self.price else { return ShownPrice::default() };
        let money = |minor| Some(Money { minor, currency: price.currency });
        let on_sale = price.is_on_sale(now);
        ShownPrice {
            price: money(price.amount),
            regular_price: money(price.regular),
            cut: Some(price.cut()),
            on_sale,
            available: Some(price.available),
            observed_at: Some(price.observed_at),
            unknown_since: price.unknown_since(now),
            low: price.low.and_then(|low| money(low.amount)),
            low_at: price.low.map(|low| low.at),
            was_free_at: price.was_free_at,
            sale_started_at: self.sale_started_at.filter(|_| on_sale),
            sale_ends_at: price.sale.filter(|_| on_sale).and_then(|sale| sale.ends_at),
        }
    }
}

/// Fields of an existing offer that a caller can set. Store, SKU and region identify it and cannot be changed.
#[derive(Clone, Debug, PartialEq)]
pub struct OfferFields {
    pub game_id: GameId,
    pub platform: Option<String>,
    pub url: Option<String>,
}

/// A new offer, validated.
#[derive(Clone, Debug)]
pub struct NewOffer {
    /// Id, slug or name.
    pub store: String,
    pub sku: String,
    pub region: String,
    pub fields: OfferFields,
}

/// Filter for offers; `None` matches any.
#[derive(Clone, Debug, Default)]
pub struct OfferFilter {
    pub id: Option<OfferId>,
    pub game_id: Option<GameId>,
    pub store_id: Option<StoreId>,
    /// Regions to include.
    pub regions: Option<Vec<String>>,
}

#[derive(sqlx::FromRow)]
struct OfferRow {
    id: OfferId,
    game_id: GameId,
    store_id: StoreId,
    store_slug: String,
    store_name: String,
    sku: String,
    region: String,
    platform: Option<String>,
    url: Option<String>,
    #[sqlx(flatten)]
    price: PriceColumns,
    sale_started_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<OfferRow> for Offer {
    type Error = Error;

    fn try_from(row: OfferRow) -> Result<Offer> {
        Ok(Offer {
            id: row.id,
            game_id: row.game_id,
            store: StoreRef { id: row.store_id, slug: row.store_slug, name: row.store_name },
            sku: row.sku,
            region: row.region,
            platform: row.platform,
            url: row.url,
            price: row.price.price()?,
            sale_started_at: row.sale_started_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// Query for offers by id, which is the order of creation; `after` is the last id of the previous page.
///
/// The page is cut before it is joined, so that the joins cost no more than a look-up for each item.
pub fn list_offers_query(filter: &OfferFilter, after: Option<OfferId>, rows: i64) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new("with page as materialized (select * from offers where true");
    if let Some(id) = filter.id {
        query.push(" and id = ").push_bind(id);
    }
    if let Some(game_id) = filter.game_id {
        query.push(" and game_id = ").push_bind(game_id);
    }
    if let Some(store_id) = filter.store_id {
        query.push(" and store_id = ").push_bind(store_id);
    }
    match filter.regions.as_deref() {
        // A single region by `=`: the index of regions is in the order of ids only within one region.
        Some([region]) => drop(query.push(" and region = ").push_bind(region.clone())),
        Some(regions) => drop(query.push(" and region = any(").push_bind(regions.to_vec()).push(")")),
        None => {}
    }
    if let Some(after) = after {
        query.push(" and id > ").push_bind(after);
    }
    query.push(" order by id limit ").push_bind(rows);
    query.push(
        ") select o.id, o.game_id, o.store_id, s.slug as store_slug, s.name as store_name, o.sku, o.region,
            o.platform, o.url, o.currency, o.amount, o.regular, o.observed_at, o.available, o.low, o.low_at,
            o.was_free_at, o.sale_id, o.sale_ends_at, o.recent_sale_id, o.recent_sale_best, o.recent_sale_ended_at,
            o.recent_sale_was_free,
            sale.started_at as sale_started_at, o.created_at, o.updated_at
        from page o join stores s on s.id = o.store_id left join sales sale on sale.id = o.sale_id
        order by o.id",
    );
    query
}

/// Lists one page of offers, in the order of creation.
pub async fn list_offers(
    executor: impl PgExecutor<'_>,
    filter: &OfferFilter,
    after: Option<OfferId>,
    rows: i64,
) -> Result<Vec<Offer>> {
    let rows: Vec<OfferRow> =
        list_offers_query(filter, after, rows).build_query_as().fetch_all(executor).await?;
    rows.into_iter().map(Offer::try_from).collect()
}

/// Finds an offer.
pub async fn find_offer(executor: impl PgExecutor<'_>, id: OfferId) -> Result<Option<Offer>> {
    let filter = OfferFilter { id: Some(id), ..OfferFilter::default() };
    Ok(list_offers(executor, &filter, None, 1).await?.pop())
}

/// Creates an offer without a price.
///
/// # Errors
/// `Invalid`: the store or the game is unknown. `Conflict`: the store has an offer of this SKU and region already.
pub async fn create_offer(pool: &PgPool, offer: &NewOffer, now: DateTime<Utc>) -> Result<Offer> {
    let mut transaction = pool.begin().await?;
    let store = stores::find_store(&mut *transaction, &offer.store)
        .await?
        .ok_or_else(|| Error::invalid("/store", "is unknown"))?;
    let id = OfferId::now_v7();
    sqlx::query!(
        "insert into offers (id, game_id, store_id, sku, region, platform, url, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $8)",
        id.0,
        offer.fields.game_id.0,
        store.id.0,
        offer.sku,
        offer.region,
        offer.fields.platform,
        offer.fields.url,
        now,
    )
    .execute(&mut *transaction)
    .await?;
    let created = lock_offer(&mut transaction, id).await?;
    transaction.commit().await?;
    Ok(created)
}

/// Changes an offer and its sales to the result of `change`, which receives the locked row and may refuse.
///
/// # Errors
/// `NotFound`: there is no such offer. `Invalid`: the game is unknown. Also the errors of `change`.
pub async fn update_offer(
    pool: &PgPool,
    id: OfferId,
    now: DateTime<Utc>,
    change: impl FnOnce(&Offer) -> Result<OfferFields>,
) -> Result<Offer> {
    let mut transaction = pool.begin().await?;
    let offer = lock_offer(&mut transaction, id).await?;
    let fields = change(&offer)?;
    let unchanged =
        OfferFields { game_id: offer.game_id, platform: offer.platform.clone(), url: offer.url.clone() };
    if fields == unchanged {
        return Ok(offer);
    }
    sqlx::query!(
        "update offers set game_id = $2, platform = $3, url = $4, updated_at = $5 where id = $1",
        id.0,
        fields.game_id.0,
        fields.platform,
        fields.url,
        now,
    )
    .execute(&mut *transaction)
    .await?;
    // A sale has a copy of the columns that deals are filtered by.
    sqlx::query!(
        "update sales set game_id = $2, platform = $3
         where offer_id = $1 and (game_id, platform) is distinct from ($2, $3)",
        id.0,
        fields.game_id.0,
        fields.platform,
    )
    .execute(&mut *transaction)
    .await?;
    let offer = lock_offer(&mut transaction, id).await?;
    transaction.commit().await?;
    Ok(offer)
}

/// Removes an offer with its history, unless `check` refuses.
///
/// # Errors
/// `NotFound`: there is no such offer. Also the errors of `check`.
pub async fn delete_offer(
    pool: &PgPool,
    id: OfferId,
    check: impl FnOnce(&Offer) -> Result<()>,
) -> Result<()> {
    let mut transaction = pool.begin().await?;
    check(&lock_offer(&mut transaction, id).await?)?;
    delete_offers(&mut transaction, &[id]).await?;
    transaction.commit().await?;
    Ok(())
}

async fn lock_offer(connection: &mut PgConnection, id: OfferId) -> Result<Offer> {
    sqlx::query!("select id from offers where id = $1 for update", id.0)
        .fetch_optional(&mut *connection)
        .await?
        .ok_or_else(|| Error::not_found("offer"))?;
    find_offer(connection, id).await?.ok_or_else(|| Error::not_found("offer"))
}
