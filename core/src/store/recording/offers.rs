//! Offers under their lock: what is known of them before a message is recorded.

use std::collections::HashMap;

use sqlx::PgConnection;

use crate::domain::ids::{GameId, OfferId, QuarantinedPriceId, StoreId};
use crate::domain::observed_offers::ObservedOffers;
use crate::domain::offer_recorder::{HeldPrice, KnownOffer};
use crate::domain::price::{ObservedPrice, Price};
use crate::error::Result;
use crate::store::known_price::{parse_currency, price_columns};

/// Locks the observed offers that exist, in the order of their ids, and returns them by their index in `observed`.
pub(super) async fn lock_observed(
    connection: &mut PgConnection,
    observed: &ObservedOffers<'_>,
) -> Result<HashMap<usize, KnownOffer>> {
    let mut places = Vec::with_capacity(observed.offers.len());
    let mut stores = Vec::with_capacity(observed.offers.len());
    let mut skus = Vec::with_capacity(observed.offers.len());
    let mut regions = Vec::with_capacity(observed.offers.len());
    for (place, offer) in observed.offers.iter().enumerate() {
        let Some(store_id) = offer.store_id else { continue };
        places.push(place as i32);
        stores.push(store_id);
        skus.push(offer.observations[0].sku.as_str());
        regions.push(offer.observations[0].region.as_str());
    }
    let rows = sqlx::query!(
        r#"select k.place as "place!", o.id, o.game_id, o.currency, o.amount, o.regular, o.observed_at, o.available, o.low,
            o.low_at, o.was_free_at, o.sale_id, o.sale_ends_at, o.recent_sale_id, o.recent_sale_best,
            o.recent_sale_ended_at,
            o.recent_sale_was_free
        from unnest($1::int[], $2::uuid[], $3::text[], $4::text[]) as k (place, store_id, sku, region)
        join offers o on o.store_id = k.store_id and o.sku = k.sku and o.region = k.region
        order by o.id
        for no key update of o"#,
        &places,
        &stores as &[StoreId],
        &skus as &[&str],
        &regions as &[&str],
    )
    .fetch_all(&mut *connection)
    .await?;

    let mut offers = HashMap::with_capacity(rows.len());
    let mut ids = Vec::with_capacity(rows.len());
    let mut foreign = Vec::new();
    for row in rows {
        let (id, game_id) = (OfferId(row.id), GameId(row.game_id));
        ids.push(id);
        let columns = price_columns!(row);
        if columns.has_foreign_low() {
            foreign.push(id);
        }
        let offer = KnownOffer { id, game_id, price: columns.price()?, held: Vec::new() };
        offers.insert(row.place as usize, offer);
    }
    if !foreign.is_empty() {
        let mut lows = recompute_lows(&mut *connection, &foreign).await?;
        for offer in offers.values_mut() {
            offer.price = lows.remove(&offer.id).unwrap_or(offer.price);
        }
    }
    let mut held = load_held(connection, &ids).await?;
    if !held.is_empty() {
        for offer in offers.values_mut() {
            offer.held = held.remove(&offer.id).unwrap_or_default();
        }
    }
    Ok(offers)
}

/// Recomputes lows that were written by the previous version, and returns the prices with them.
async fn recompute_lows(
    connection: &mut PgConnection,
    offers: &[OfferId],
) -> Result<HashMap<OfferId, Option<Price>>> {
    sqlx::query_scalar!("select recompute_zero_lows($1)", offers as &[OfferId])
        .fetch_one(&mut *connection)
        .await?;
    let known = lock_offers(connection, offers).await?;
    Ok(known.into_iter().map(|offer| (offer.id, offer.price)).collect())
}

/// Locks offers and returns them, without their held observations.
pub(super) async fn lock_offers(connection: &mut PgConnection, ids: &[OfferId]) -> Result<Vec<KnownOffer>> {
    let rows = sqlx::query!(
        "select o.id, o.game_id, o.currency, o.amount, o.regular, o.observed_at, o.available, o.low, o.low_at,
            o.was_free_at, o.sale_id, o.sale_ends_at, o.recent_sale_id, o.recent_sale_best, o.recent_sale_ended_at,
            o.recent_sale_was_free
        from offers o where o.id = any($1) order by o.id for no key update",
        ids as &[OfferId],
    )
    .fetch_all(connection)
    .await?;
    let known = rows.into_iter().map(|row| {
        let (id, game_id) = (OfferId(row.id), GameId(row.game_id));
        Ok(KnownOffer { id, game_id, price: price_columns!(row).price()?, held: Vec::new() })
    });
    known.collect()
}

async fn load_held(
    connection: &mut PgConnection,
    offers: &[OfferId],
) -> Result<HashMap<OfferId, Vec<HeldPrice>>> {
    let rows = sqlx::query!(
        "select id, offer_id, currency, amount, regular, observed_at, available, sale_ends_at from quarantined_prices
         where state = 'held' and offer_id = any($1)",
        offers as &[OfferId],
    )
    .fetch_all(connection)
    .await?;
    let mut held: HashMap<OfferId, Vec<HeldPrice>> = HashMap::new();
    for row in rows {
        let seen = ObservedPrice {
            currency: parse_currency(&row.currency)?,
            amount: row.amount,
            regular: Some(row.regular),
            observed_at: row.observed_at,
            available: row.available,
            sale_ends_at: row.sale_ends_at,
        };
        held.entry(OfferId(row.offer_id))
            .or_default()
            .push(HeldPrice { id: QuarantinedPriceId(row.id), seen });
    }
    Ok(held)
}
