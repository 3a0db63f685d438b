//! Recording: a message of observations becomes prices, history, lows, sales and events in one transaction of a
//! few set-based statements.
//!
//! Each step hands its whole result to the next: group the observations by offer (`ObservedOffers::of`), find their
//! stores, lock the offers, fold the observations over what is known of them (`ObservedOffers::fold`, without I/O),
//! write the changes.
//!
//! Offers are locked in the order of their ids, so that concurrent workers wait for each other and never deadlock.
//! Everything else that is written belongs to an offer, or to the message itself.

mod changes;
mod new_offers;
mod offers;
pub mod stores;
pub mod told_ends;

use chrono::{DateTime, Utc};

use self::changes::{ChangeSource, Written};
use crate::database::notifications;
use crate::database::pool::PgPool;
use crate::domain::batch::{ObservationCounts, PriceMessage};
use crate::domain::ids::{OfferId, QuarantinedPriceId};
use crate::domain::observed_offers::ObservedOffers;
use crate::domain::offer_recorder::{Changes, OfferRecorder};
use crate::domain::price::{ObservedPrice, Rules};
use crate::error::{Error, Result};
use crate::store::known_price::parse_currency;

/// Result of recording a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub counts: ObservationCounts,
    /// Sales that had ended, as their stores had stated, before the next observation.
    pub told_ends: u64,
}

/// Records a message. Returns `None` if it was recorded before. With `publish`, its events are also queued for other
/// teams.
///
/// # Errors
/// Those of the database; nothing is written then.
pub async fn record(
    pool: &PgPool,
    message: &PriceMessage,
    rules: &Rules,
    publish: bool,
    now: DateTime<Utc>,
) -> Result<Option<Recorded>> {
    let source = ChangeSource {
        backfill: message.backfill,
        traceparent: message.traceparent.as_deref(),
        publish,
        rings_from: message.reported_at - rules.rings_within,
    };
    let mut observed = ObservedOffers::of(&message.observations);
    let mut connection = pool.acquire().await?;
    let stores = stores::find_stores(&mut connection, &observed, message.may_create_stores, now).await?;
    observed.set_stores(&stores);

    // Unknown offers are created in a transaction of their own: it locks the whole catalogue, which no process may wait
    // for while it holds offers. An offer without a price is harmless if the process dies in between.
    loop {
        let mut transaction = sqlx::Connection::begin(&mut *connection).await?;
        let offers = offers::lock_observed(&mut transaction, &observed).await?;
        let unknown = observed.unknown(&offers);
        if !unknown.is_empty() {
            transaction.rollback().await?;
            new_offers::create_offers(&mut connection, &unknown, now).await?;
            continue;
        }
        let changes = observed.fold(offers, rules, |observed_at| source.is_too_old(observed_at), now);
        return match changes::write(&mut transaction, &changes, message, &source, now).await? {
            Written::New => {
                transaction.commit().await?;
                Ok(Some(Recorded { counts: changes.counts, told_ends: changes.told_ends }))
            }
            Written::Repeated => {
                transaction.rollback().await?;
                Ok(None)
            }
        };
    }
}

/// Lets a quarantined observation take effect, after an operator has confirmed it.
///
/// # Errors
/// `NotFound`: there is no such observation. `Conflict`: it was released or discarded already.
pub async fn release(
    pool: &PgPool,
    id: QuarantinedPriceId,
    rules: &Rules,
    publish: bool,
    now: DateTime<Utc>,
) -> Result<()> {
    let mut transaction = pool.begin().await?;
    // The offer is locked before the row that depends on it, in the same order as in `record`.
    let offer = sqlx::query_scalar!("select offer_id from quarantined_prices where id = $1", id.0)
        .fetch_optional(&mut *transaction)
        .await?
        .ok_or_else(|| Error::not_found("quarantined observation"))?;
    let known = offers::lock_offers(&mut transaction, &[OfferId(offer)]).await?.pop();
    let known = known.ok_or_else(|| Error::not_found("quarantined observation"))?;
    let held = sqlx::query!(
        "update quarantined_prices set state = 'released', resolved_at = $2 where id = $1 and state = 'held'
         returning currency, amount, regular, observed_at, available, sale_ends_at, backfill, created_at",
        id.0,
        now,
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(|| Error::conflict("It has already been released or discarded."))?;

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
    // The age at the time of the report counts, not the time that the operator took.
    let rings_from = held.created_at - rules.rings_within;
    let source = ChangeSource { backfill: held.backfill, traceparent: None, publish, rings_from };
    changes.resume_prolonged_sales(now);
    changes::write_prices(&mut transaction, &changes, &source, now).await?;
    sqlx::query!("select pg_notify($1, '')::text as notified", notifications::EVENTS)
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}
