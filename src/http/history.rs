//! `/v1/games/{id}/prices`: the price history of a game, by offer.

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::answer::Tagged;
use super::extract::body::{Id, Params, bad_parameter};
use super::extract::conditional::IfNoneMatch;
use super::extract::page::{Page, Paging};
use super::offers::named_regions;
use super::stores::{StoreRefResponse, named_store};
use crate::app::App;
use crate::domain::history::{Bucket, InForce, Resolution};
use crate::domain::ids::{GameId, OfferId};
use crate::domain::money::{Money, cut_percent};
use crate::domain::observation::parse_instant;
use crate::error::{Error, Result};
use crate::store::games;
use crate::store::history::{self, HistoryFilter, HistoryKey, PriceChange, PricedOffer};

/// Offer of a point of the history.
#[derive(Serialize)]
pub struct PricedOfferResponse {
    pub offer_id: OfferId,
    pub store: StoreRefResponse,
    pub region: String,
    pub platform: Option<String>,
}

impl From<PricedOffer> for PricedOfferResponse {
    fn from(offer: PricedOffer) -> Self {
        let PricedOffer { id, store, region, platform } = offer;
        PricedOfferResponse { offer_id: id, store: store.into(), region, platform }
    }
}

/// A point with `resolution=change`: the price from `observed_at` on. The first point of an offer may be older than
/// `since`: its price was in force then.
#[derive(Serialize)]
pub struct ChangeResponse {
    #[serde(flatten)]
    pub offer: PricedOfferResponse,
    pub observed_at: DateTime<Utc>,
    pub price: Money,
    pub regular_price: Money,
    /// Whole per cent below the regular price.
    pub cut: i16,
    /// Whether the store accepted orders at that price.
    pub available: bool,
    /// End of the time for which the price is known, because the store announced the end of its sale; null: it is known
    /// until the next change.
    pub holds_until: Option<DateTime<Utc>>,
}

impl From<PriceChange> for ChangeResponse {
    fn from(change: PriceChange) -> Self {
        let PriceChange { offer, observed_at, price, available } = change;
        ChangeResponse {
            offer: offer.into(),
            observed_at,
            price: money(price, price.amount),
            regular_price: money(price, price.regular),
            cut: cut_percent(price.amount, price.regular),
            available,
            holds_until: price.holds_until,
        }
    }
}

/// A point with another resolution: the prices in force during the bucket that begins at `start`.
#[derive(Serialize)]
pub struct BucketResponse {
    #[serde(flatten)]
    pub offer: PricedOfferResponse,
    pub start: DateTime<Utc>,
    pub min: Money,
    pub max: Money,
    pub last: Money,
    /// Regular price at the time of `last`.
    pub regular_price: Money,
    /// Whole per cent by which `last` is below the regular price.
    pub cut: i16,
    /// Until when `last` is known, as the store said of its sale: from then on the price is unknown until it is observed again.
    pub holds_until: Option<DateTime<Utc>>,
}

impl From<(PricedOffer, Bucket)> for BucketResponse {
    fn from((offer, bucket): (PricedOffer, Bucket)) -> Self {
        let last = bucket.last;
        BucketResponse {
            offer: offer.into(),
            start: bucket.start,
            min: money(last, bucket.min),
            max: money(last, bucket.max),
            last: money(last, last.amount),
            regular_price: money(last, last.regular),
            cut: cut_percent(last.amount, last.regular),
            holds_until: last.holds_until,
        }
    }
}

fn money(price: InForce, minor: i64) -> Money {
    Money { minor, currency: price.currency }
}

/// Filters of the history. A region includes itself and `ZZ`; `since` and `until` are RFC 3339 instants, and `until` is
/// exclusive.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryParams {
    store: Option<String>,
    region: Option<String>,
    since: Option<String>,
    until: Option<String>,
    #[serde(default)]
    resolution: Resolution,
}

fn instant(name: &str, text: Option<&str>) -> Result<Option<DateTime<Utc>>> {
    text.map(|text| parse_instant(text).map_err(|problem| bad_parameter(name, &problem))).transpose()
}

/// A page of the history; its type depends on the resolution.
#[derive(Serialize)]
#[serde(untagged)]
pub enum HistoryResponse {
    Changes(Page<ChangeResponse>),
    Buckets(Page<BucketResponse>),
}

/// `GET /v1/games/{id}/prices`: the history, ordered by offer and then by time.
pub async fn list(
    State(app): State<App>,
    Id(game_id): Id<GameId>,
    Params(params): Params<HistoryParams>,
    paging: Paging,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<HistoryResponse>> {
    let since = instant("since", params.since.as_deref())?.unwrap_or(DateTime::UNIX_EPOCH);
    let until = instant("until", params.until.as_deref())?;
    if until.is_some_and(|until| until <= since) {
        return Err(bad_parameter("until", "must be after since"));
    }
    let store = named_store(&app, params.store.as_deref()).await?;
    let regions = named_regions(params.region.as_deref())?;
    if !games::game_exists(&app.reader, game_id).await? {
        return Err(Error::not_found("game"));
    }
    let after: Option<HistoryKey> = paging.after()?;
    let (reader, rows) = (&app.reader, paging.rows());
    let mut filter = HistoryFilter {
        game_id,
        store_id: store.map(|store| store.id),
        regions,
        since,
        until: until.unwrap_or(DateTime::<Utc>::MAX_UTC),
    };
    if params.resolution == Resolution::Change {
        let changes = history::list_changes(reader, &filter, after, rows).await?;
        let page = paging.page(changes, |change| (change.offer.id, change.observed_at))?;
        return Ok(if_none_match.answer(HistoryResponse::Changes(page.map(ChangeResponse::from))));
    }
    // A price is not carried into the future.
    filter.until = filter.until.min(app.clock.now());
    let buckets = history::list_buckets(reader, &filter, params.resolution, after, rows).await?;
    let page = paging.page(buckets, |(offer, bucket)| (offer.id, bucket.start))?;
    Ok(if_none_match.answer(HistoryResponse::Buckets(page.map(BucketResponse::from))))
}
