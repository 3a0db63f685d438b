//! Recording: a message of observations becomes prices, history, lows, sales and events in one transaction of a
//! few set-based statements.
//!
//! Rows of offers are locked in the order of their ids, so that workers that meet wait for each other and never
//! form a circle. Everything else that is written hangs on an offer, or on the message itself.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::database::notifications;
use crate::database::pool::PgPool;
use crate::domain::batch::{Counts, PriceMessage};
use crate::domain::ids::{GameId, OfferId, QuarantinedPriceId, StoreId};
use crate::domain::observation::Observation;
use crate::domain::observed_offers::ObservedOffers;
use crate::domain::offer_recorder::{Changes, Held, KnownOffer, OfferRecorder};
use crate::domain::price::{ObservedPrice, Price, Rules};
use crate::error::{Error, Result};
use crate::store::known_price::{parse_currency, price_columns};
use crate::store::price_changes::{Recording, Source};
use crate::store::{new_offers, price_changes};

/// What has come of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub counts: Counts,
    /// Sales whose told end had come before what was seen next.
    pub told_ends: u64,
}

/// Records a message; `None` when it has been recorded before. With `publish`, other teams hear of its events.
///
/// # Errors
/// The database's; nothing is written then.
pub async fn record(
    pool: &PgPool,
    message: &PriceMessage,
    rules: &Rules,
    publish: bool,
    now: DateTime<Utc>,
) -> Result<Option<Recorded>> {
    let mut observed = ObservedOffers::of(&message.observations);
    let mut connection = pool.acquire().await?;
    let stores = new_offers::find_stores(&mut connection, &observed, message.may_create_stores, now).await?;
    observed.set_stores(&stores);

    // Unknown offers are made in a transaction of their own: it takes a lock of the whole catalogue, which nobody
    // may wait for while holding offers. An offer without a price is harmless if we die in between.
    loop {
        let mut transaction = sqlx::Connection::begin(&mut *connection).await?;
        let offers = load_offers(&mut transaction, &observed).await?;
        let unknown = observed.unknown(&offers);
        if !unknown.is_empty() {
            transaction.rollback().await?;
            new_offers::create_offers(&mut connection, &unknown, now).await?;
            continue;
        }
        let source = Source {
            backfill: message.backfill,
            traceparent: message.traceparent.as_deref(),
            publish,
            rings_from: message.reported_at - rules.rings_within,
        };
        let mut changes = apply(&observed, offers, rules, &source);
        changes.resume_what_was_over(now);
        let recording = price_changes::write(&mut transaction, &changes, message, &source, now).await?;
        if recording == Recording::Repeated {
            transaction.rollback().await?;
            return Ok(None);
        }
        transaction.commit().await?;
        return Ok(Some(Recorded { counts: changes.counts, told_ends: changes.told_ends }));
    }
}

/// Locks the offers that were seen and returns them by their place in `observed`.
async fn load_offers(
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

/// Makes lows anew that the version before has written, and returns the prices with them.
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

/// Locks offers and returns them, without what of them is held in quarantine.
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

async fn load_held(connection: &mut PgConnection, offers: &[OfferId]) -> Result<HashMap<OfferId, Vec<Held>>> {
    let rows = sqlx::query!(
        "select id, offer_id, currency, amount, regular, observed_at, available, sale_ends_at from quarantined_prices
         where state = 'held' and offer_id = any($1)",
        offers as &[OfferId],
    )
    .fetch_all(connection)
    .await?;
    let mut held: HashMap<OfferId, Vec<Held>> = HashMap::new();
    for row in rows {
        let seen = ObservedPrice {
            currency: parse_currency(&row.currency)?,
            amount: row.amount,
            regular: Some(row.regular),
            observed_at: row.observed_at,
            available: row.available,
            sale_ends_at: row.sale_ends_at,
        };
        held.entry(OfferId(row.offer_id)).or_default().push(Held { id: QuarantinedPriceId(row.id), seen });
    }
    Ok(held)
}

fn apply(
    observed: &ObservedOffers<'_>,
    mut offers: HashMap<usize, KnownOffer>,
    rules: &Rules,
    source: &Source<'_>,
) -> Changes {
    let mut changes = Changes::default();
    for (place, group) in observed.offers.iter().enumerate() {
        let Some(offer) = offers.remove(&place) else {
            // Its store is gone, or was never there.
            changes.counts.failed += group.observations.len() as i64;
            continue;
        };
        let old = group.observations.iter().filter(|seen| source.is_too_old(seen.observed_at)).count();
        changes.counts.too_old_to_ring += old as i64;
        let mut recorder = OfferRecorder::open(offer, rules, &mut changes);
        for seen in &group.observations {
            let Observation { currency, amount, regular, observed_at, available, sale_ends_at, .. } = **seen;
            recorder.apply(&ObservedPrice {
                currency,
                amount,
                regular,
                observed_at,
                available,
                sale_ends_at,
            });
        }
        recorder.close();
    }
    changes
}

/// Lets a quarantined observation take effect: an operator says that it is true.
///
/// # Errors
/// `NotFound` when there is none of this id, `Conflict` when it has been judged already.
pub async fn release(
    pool: &PgPool,
    id: QuarantinedPriceId,
    rules: &Rules,
    publish: bool,
    now: DateTime<Utc>,
) -> Result<()> {
    let mut transaction = pool.begin().await?;
    // The offer first, as recording does, then the row that hangs on it.
    let offer = sqlx::query_scalar!("select offer_id from quarantined_prices where id = $1", id.0)
        .fetch_optional(&mut *transaction)
        .await?
        .ok_or_else(|| Error::not_found("quarantined observation"))?;
    let known = lock_offers(&mut transaction, &[OfferId(offer)]).await?.pop();
    let known = known.ok_or_else(|| Error::not_found("quarantined observation"))?;
    let held = sqlx::query!(
        "update quarantined_prices set state = 'released', resolved_at = $2 where id = $1 and state = 'held'
         returning currency, amount, regular, observed_at, available, sale_ends_at, backfill, created_at",
        id.0,
        now,
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(|| Error::conflict("It has been judged already."))?;

    let seen = ObservedPrice {
        currency: parse_currency(&held.currency)?,
        amount: held.amount,
        regular: Some(held.regular),
        observed_at: held.observed_at,
        available: held.available,
        sale_ends_at: held.sale_ends_at,
    };
    let mut changes = Changes::default();
    let mut recorder = OfferRecorder::open(known, rules, &mut changes);
    recorder.trust(&seen);
    recorder.close();
    // How old it was when it was reported counts, not how long the operator took.
    let rings_from = held.created_at - rules.rings_within;
    let source = Source { backfill: held.backfill, traceparent: None, publish, rings_from };
    changes.resume_what_was_over(now);
    price_changes::write_prices(&mut transaction, &changes, &source, now).await?;
    sqlx::query!("select pg_notify($1, '')::text as notified", notifications::EVENTS)
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}
