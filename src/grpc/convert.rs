//! Messages of `proto/`, made of what the store returns.

use chrono::{DateTime, Datelike, Utc};
use prost_types::Timestamp;
use uuid::Uuid;

use super::pb;
use crate::api::parameters::bad_parameter;
use crate::domain::history::{Bucket, InForce};
use crate::domain::money::{Money, cut_percent};
use crate::error::grpc::field_path;
use crate::error::{Error, Kind, Problem, Result};
use crate::store::batches::Batch;
use crate::store::games::Game;
use crate::store::history::{PriceChange, PricedOffer};
use crate::store::offers::{Offer, StoreRef};

/// Parses the id of a resource. A text that is no UUID identifies nothing.
///
/// # Errors
/// `NotFound` for such a text; `what` is the kind of the resource.
pub fn id<T: From<Uuid>>(what: &str, text: &str) -> Result<T> {
    Uuid::try_parse(text).map(T::from).map_err(|_| Error::not_found(what).about(text))
}

/// The text of a field; empty is the same as absent.
pub fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// Parses an instant of a request, in the years 1970 to 9999. It is truncated to microseconds, as the database stores it.
///
/// # Errors
/// `Malformed` if it lies outside; `name` is the field.
pub fn instant(name: &str, given: Option<Timestamp>) -> Result<Option<DateTime<Utc>>> {
    let Some(given) = given else { return Ok(None) };
    let instant = valid_instant(given);
    instant.map(Some).ok_or_else(|| bad_parameter(name, "must lie between the years 1970 and 9999"))
}

/// The instant, if it lies in the years 1970 to 9999.
pub fn valid_instant(given: Timestamp) -> Option<DateTime<Utc>> {
    let nanos = u32::try_from(given.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    let instant = DateTime::from_timestamp(given.seconds, nanos / 1000 * 1000)?;
    (1970..=9999).contains(&instant.year()).then_some(instant)
}

/// Turns the refusal of a parameter into that of a field of a message; other errors stay as they are.
pub fn of_field(error: Error) -> Error {
    match error.errors.as_slice() {
        [field] if error.kind == Kind::Malformed => {
            Error::invalid(format!("/{}", field.pointer), &field.detail)
        }
        _ => error,
    }
}

fn timestamp(at: DateTime<Utc>) -> Timestamp {
    Timestamp { seconds: at.timestamp(), nanos: at.timestamp_subsec_nanos() as i32 }
}

fn money(money: Money) -> pb::Money {
    let Money { minor, currency } = money;
    pb::Money { amount: currency.format_amount(minor), currency: currency.code().to_owned() }
}

impl From<Game> for pb::Game {
    fn from(game: Game) -> Self {
        pb::Game {
            id: game.id.to_string(),
            title: game.title,
            publisher: game.publisher,
            released_on: game.released_on.map(|day| day.to_string()),
            url: game.url,
            created_at: Some(timestamp(game.created_at)),
            updated_at: Some(timestamp(game.updated_at)),
        }
    }
}

impl From<StoreRef> for pb::StoreReference {
    fn from(store: StoreRef) -> Self {
        pb::StoreReference { id: store.id.to_string(), slug: store.slug, name: store.name }
    }
}

/// An offer as it is shown at the time `now`.
pub fn offer(offer: Offer, now: DateTime<Utc>) -> pb::Offer {
    let shown = offer.shown(now);
    pb::Offer {
        id: offer.id.to_string(),
        game_id: offer.game_id.to_string(),
        store: Some(offer.store.into()),
        sku: offer.sku,
        region: offer.region,
        platform: offer.platform,
        url: offer.url,
        price: shown.price.map(money),
        regular_price: shown.regular_price.map(money),
        cut: shown.cut.map(i32::from),
        on_sale: shown.on_sale,
        available: shown.available,
        observed_at: shown.observed_at.map(timestamp),
        unknown_since: shown.unknown_since.map(timestamp),
        low: shown.low.map(money),
        low_at: shown.low_at.map(timestamp),
        was_free_at: shown.was_free_at.map(timestamp),
        sale_started_at: shown.sale_started_at.map(timestamp),
        sale_ends_at: shown.sale_ends_at.map(timestamp),
        created_at: Some(timestamp(offer.created_at)),
        updated_at: Some(timestamp(offer.updated_at)),
    }
}

impl From<PricedOffer> for pb::PricedOffer {
    fn from(offer: PricedOffer) -> Self {
        let PricedOffer { id, store, region, platform } = offer;
        pb::PricedOffer { id: id.to_string(), store: Some(store.into()), region, platform }
    }
}

/// An amount in the currency of a price.
fn amount(price: InForce, minor: i64) -> Option<pb::Money> {
    Some(money(Money { minor, currency: price.currency }))
}

impl From<PriceChange> for pb::PriceChange {
    fn from(change: PriceChange) -> Self {
        let price = change.price;
        pb::PriceChange {
            offer: Some(change.offer.into()),
            observed_at: Some(timestamp(change.observed_at)),
            price: amount(price, price.amount),
            regular_price: amount(price, price.regular),
            cut: cut_percent(price.amount, price.regular).into(),
            available: change.available,
            holds_until: price.holds_until.map(timestamp),
        }
    }
}

impl From<(PricedOffer, Bucket)> for pb::PriceBucket {
    fn from((offer, bucket): (PricedOffer, Bucket)) -> Self {
        let last = bucket.last;
        pb::PriceBucket {
            offer: Some(offer.into()),
            start: Some(timestamp(bucket.start)),
            min: amount(last, bucket.min),
            max: amount(last, bucket.max),
            last: amount(last, last.amount),
            regular_price: amount(last, last.regular),
            cut: cut_percent(last.amount, last.regular).into(),
            holds_until: last.holds_until.map(timestamp),
        }
    }
}

impl From<Batch> for pb::Batch {
    fn from(batch: Batch) -> Self {
        let counts = batch.counts;
        pb::Batch {
            id: batch.id.to_string(),
            created_at: Some(timestamp(batch.created_at)),
            done: batch.done,
            accepted: batch.accepted,
            rejected: batch.rejected,
            recorded: counts.recorded,
            unchanged: counts.unchanged,
            stale: counts.stale,
            quarantined: counts.quarantined,
            failed: counts.failed,
            new_lows: counts.new_lows,
            too_old_to_ring: counts.too_old_to_ring,
            transitions: counts.transitions.into_iter().collect(),
        }
    }
}

/// A problem with an observation. The currency of an observation is that of its price.
pub fn problem(problem: Problem) -> pb::Problem {
    let field = |pointer: &str| match pointer {
        "/currency" => "price.currency".to_owned(),
        other => field_path(other),
    };
    let fields = problem.errors.into_iter();
    pb::Problem {
        reason: problem.r#type.trim_start_matches("/problems/").to_owned(),
        title: problem.title,
        detail: problem.detail,
        fields: fields
            .map(|error| pb::FieldProblem { field: field(&error.pointer), detail: error.detail })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_lies_in_the_years_that_the_database_takes() {
        let read = |seconds, nanos| valid_instant(Timestamp { seconds, nanos });
        assert_eq!(read(0, 0), Some(DateTime::UNIX_EPOCH));
        assert_eq!(read(1, 999_999_999).unwrap().timestamp_subsec_nanos(), 999_999_000);
        for (seconds, nanos) in
            [(-1, 0), (253_402_300_800, 0), (i64::MAX, 0), (i64::MIN, 0), (0, -1), (0, 1_000_000_000)]
        {
            assert_eq!(read(seconds, nanos), None, "{seconds} {nanos}");
        }
        assert!(read(253_402_300_799, 0).is_some());
    }

    #[test]
    fn the_refusal_of_a_parameter_names_the_field() {
        let refusal = of_field(bad_parameter("store", "does not name a store"));
        assert_eq!((refusal.kind, refusal.detail.as_str()), (Kind::Invalid, "store does not name a store"));
        assert_eq!(of_field(Error::not_found("game")).kind, Kind::NotFound);
    }
}
