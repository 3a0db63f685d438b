//! `/v1/games/{id}/prices`: the price history of a game, by offer.

use std::borrow::Cow;

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AnyOfBuilder, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::answer::Tagged;
use super::extract::body::{Id, Params, bad_parameter};
use super::extract::conditional::IfNoneMatch;
use super::extract::page::{Page, Paging};
use super::stores::StoreRefResponse;
use crate::api::history::{HistoryPage, HistoryQuery};
use crate::app::App;
use crate::domain::history::{Bucket, InForce, Resolution};
use crate::domain::ids::{GameId, OfferId};
use crate::domain::money::{Money, cut_percent};
use crate::domain::observation::parse_instant;
use crate::domain::region::Region;
use crate::error::Result;
use crate::store::history::{PriceChange, PricedOffer};

/// Offer of a point of the history.
#[derive(Serialize, ToSchema)]
#[schema(as = PricedOffer)]
pub struct PricedOfferResponse {
    pub offer_id: OfferId,
    pub store: StoreRefResponse,
    /// ISO 3166-1 code of the country in which the offer is valid; `ZZ`: everywhere.
    #[schema(pattern = r"^[A-Z]{2}$")]
    pub region: String,
    /// Platform such as `windows`, in lower case.
    #[schema(required)]
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
#[derive(Serialize, ToSchema)]
#[schema(as = PriceChange, example = json!({
    "offer_id": "01a0b6f2-2222-7d3e-8a4b-1c2d3e4f5a6b",
    "store": {"id": "01a0b6f2-3333-7d3e-8a4b-1c2d3e4f5a6b", "slug": "gog-com", "name": "GOG.com"},
    "region": "DE",
    "platform": "windows",
    "observed_at": "2026-11-27T14:00:00Z",
    "price": {"amount": "9.99", "currency": "EUR"},
    "regular_price": {"amount": "29.99", "currency": "EUR"},
    "cut": 67,
    "available": true,
    "holds_until": "2026-12-03T22:59:00Z",
}))]
pub struct ChangeResponse {
    #[serde(flatten)]
    pub offer: PricedOfferResponse,
    pub observed_at: DateTime<Utc>,
    pub price: Money,
    pub regular_price: Money,
    /// Whole per cent below the regular price.
    #[schema(minimum = 0, maximum = 100)]
    pub cut: i16,
    /// Whether the store accepted orders at that price.
    pub available: bool,
    /// End of the time for which the price is known, because the store announced the end of its sale; null: it is known
    /// until the next change.
    #[schema(required)]
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
#[derive(Serialize, ToSchema)]
#[schema(as = PriceBucket, example = json!({
    "offer_id": "01a0b6f2-2222-7d3e-8a4b-1c2d3e4f5a6b",
    "store": {"id": "01a0b6f2-3333-7d3e-8a4b-1c2d3e4f5a6b", "slug": "gog-com", "name": "GOG.com"},
    "region": "DE",
    "platform": "windows",
    "start": "2026-11-27T00:00:00Z",
    "min": {"amount": "9.99", "currency": "EUR"},
    "max": {"amount": "29.99", "currency": "EUR"},
    "last": {"amount": "9.99", "currency": "EUR"},
    "regular_price": {"amount": "29.99", "currency": "EUR"},
    "cut": 67,
    "holds_until": "2026-12-03T22:59:00Z",
}))]
pub struct BucketResponse {
    #[serde(flatten)]
    pub offer: PricedOfferResponse,
    pub start: DateTime<Utc>,
    /// Lowest price in the currency of `last`.
    pub min: Money,
    /// Highest price in the currency of `last`.
    pub max: Money,
    /// Price at the end of the bucket.
    pub last: Money,
    /// Regular price at the time of `last`.
    pub regular_price: Money,
    /// Whole per cent by which `last` is below the regular price.
    #[schema(minimum = 0, maximum = 100)]
    pub cut: i16,
    /// Until when `last` is known, as the store said of its sale: from then on the price is unknown until it is observed again.
    #[schema(required)]
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

/// Filters of the history.
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct HistoryParams {
    /// Only offers of this store, named by its id, slug or name.
    #[param(min_length = 1, max_length = 100, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    store: Option<String>,
    /// Only offers that are valid in this region: its own, and those of `ZZ`.
    #[param(value_type = Option<Region>)]
    region: Option<String>,
    /// Beginning of the history: an RFC 3339 instant, from the year 1970 on.
    #[param(value_type = Option<DateTime<Utc>>, pattern = r"^(19[7-9][0-9]|[2-9][0-9]{3})-")]
    since: Option<String>,
    /// End of the history, exclusive: an RFC 3339 instant after `since`.
    #[param(value_type = Option<DateTime<Utc>>, pattern = r"^(19[7-9][0-9]|[2-9][0-9]{3})-")]
    until: Option<String>,
    /// Points of the history: every `change`, or one for each `day`, `week` (from Monday) or `month`, in UTC.
    #[serde(default)]
    #[param(default = "change")]
    resolution: Resolution,
}

/// A page of the history; its type depends on the resolution.
#[derive(Serialize)]
#[serde(untagged)]
pub enum HistoryResponse {
    Changes(Page<ChangeResponse>),
    Buckets(Page<BucketResponse>),
}

impl PartialSchema for HistoryResponse {
    fn schema() -> RefOr<Schema> {
        // Not `oneOf`: an empty page is both.
        AnyOfBuilder::new()
            .description(Some("A page of the history: changes, or with another `resolution` buckets."))
            .item(Page::<ChangeResponse>::schema())
            .item(Page::<BucketResponse>::schema())
            .examples([json!({"items": [], "next_cursor": null})])
            .into()
    }
}

impl ToSchema for HistoryResponse {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("PriceHistory")
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((ChangeResponse::name().into_owned(), ChangeResponse::schema()));
        schemas.push((BucketResponse::name().into_owned(), BucketResponse::schema()));
        Page::<ChangeResponse>::schemas(schemas);
        Page::<BucketResponse>::schemas(schemas);
    }
}

/// Lists the price history of a game, ordered by offer and then by time.
#[utoipa::path(get, path = "/v1/games/{id}/prices", operation_id = "list_price_history", tag = "catalogue")]
pub async fn list(
    State(app): State<App>,
    Id(game_id): Id<GameId>,
    Params(params): Params<HistoryParams>,
    paging: Paging,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<HistoryResponse>> {
    let query = HistoryQuery {
        game_id,
        store: params.store,
        region: params.region,
        since: instant("since", params.since.as_deref())?,
        until: instant("until", params.until.as_deref())?,
        resolution: params.resolution,
    };
    Ok(if_none_match.answer(match query.load(&app, &paging).await? {
        HistoryPage::Changes(page) => HistoryResponse::Changes(page.map(ChangeResponse::from)),
        HistoryPage::Buckets(page) => HistoryResponse::Buckets(page.map(BucketResponse::from)),
    }))
}

fn instant(name: &str, text: Option<&str>) -> Result<Option<DateTime<Utc>>> {
    text.map(|text| parse_instant(text).map_err(|problem| bad_parameter(name, &problem))).transpose()
}
