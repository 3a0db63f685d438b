//! `/v1/offers`: offers, each of one game in one store and region, with their current prices.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::{Created, Tagged};
use super::extract::body::{Id, Json, Params};
use super::extract::caller::Caller;
use super::extract::conditional::{IfMatch, IfNoneMatch};
use super::extract::fields::{FieldChecks, Patch};
use super::extract::page::{Page, Paging};
use super::stores::StoreRefResponse;
use crate::api::catalogue::{list_offers, offers_of_game};
use crate::api::parameters::{named_region, named_store};
use crate::app::App;
use crate::domain::ids::{GameId, OfferId};
use crate::domain::money::Money;
use crate::domain::region::{Region, check_region};
use crate::error::{Error, Problem, Result};
use crate::store::offers::{self, NewOffer, Offer, OfferFields, OfferFilter};

/// An offer in a response. Fields of the price are null until the first observation.
#[derive(Serialize, ToSchema)]
#[schema(as = Offer, example = json!({
    "id": "01a0b6f2-2222-7d3e-8a4b-1c2d3e4f5a6b",
    "game_id": "01a0b6f2-0f5c-7d3e-8a4b-1c2d3e4f5a6b",
    "store": {"id": "01a0b6f2-3333-7d3e-8a4b-1c2d3e4f5a6b", "slug": "gog-com", "name": "GOG.com"},
    "sku": "1207664663",
    "region": "DE",
    "platform": "windows",
    "url": "https://gog.example/the-witcher-3",
    "price": {"amount": "9.99", "currency": "EUR"},
    "regular_price": {"amount": "29.99", "currency": "EUR"},
    "cut": 67,
    "on_sale": true,
    "available": true,
    "observed_at": "2026-11-29T10:00:00Z",
    "unknown_since": null,
    "low": {"amount": "5.99", "currency": "EUR"},
    "low_at": "2026-06-25T13:00:00Z",
    "was_free_at": null,
    "sale_started_at": "2026-11-27T14:00:00Z",
    "sale_ends_at": "2026-12-03T22:59:00Z",
    "created_at": "2026-03-01T10:00:00Z",
    "updated_at": "2026-03-01T10:00:00Z",
}))]
pub struct OfferResponse {
    pub id: OfferId,
    pub game_id: GameId,
    pub store: StoreRefResponse,
    /// Name of the offer within its store and region.
    pub sku: String,
    /// ISO 3166-1 code of the country in which the offer is valid; `ZZ`: everywhere.
    #[schema(pattern = r"^[A-Z]{2}$")]
    pub region: String,
    /// Platform such as `windows`, in lower case.
    #[schema(required)]
    pub platform: Option<String>,
    /// Page of the offer in its store.
    #[schema(required)]
    pub url: Option<String>,
    /// Price at the last observation.
    #[schema(required)]
    pub price: Option<Money>,
    #[schema(required)]
    pub regular_price: Option<Money>,
    /// Whole per cent below the regular price.
    #[schema(required, minimum = 0, maximum = 100)]
    pub cut: Option<i16>,
    pub on_sale: bool,
    /// Whether the store accepted orders at the last observation.
    #[schema(required)]
    pub available: Option<bool>,
    /// Time of the last observation.
    #[schema(required)]
    pub observed_at: Option<DateTime<Utc>>,
    /// When the price became unknown: its sale has ended, as the store had announced. `price` is the last one observed.
    #[schema(required)]
    pub unknown_since: Option<DateTime<Utc>>,
    /// Lowest price ever paid; null if the offer has only ever been free.
    #[schema(required)]
    pub low: Option<Money>,
    /// Time at which that price was first observed.
    #[schema(required)]
    pub low_at: Option<DateTime<Utc>>,
    /// Start of the latest giveaway.
    #[schema(required)]
    pub was_free_at: Option<DateTime<Utc>>,
    /// Start of the sale in progress.
    #[schema(required)]
    pub sale_started_at: Option<DateTime<Utc>>,
    /// End of the sale in progress, as announced by the store.
    #[schema(required)]
    pub sale_ends_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl OfferResponse {
    /// Creates the response for the time `now`: a sale ends at the time that its store announced.
    fn new(offer: Offer, now: DateTime<Utc>) -> Self {
        let shown = offer.shown(now);
        OfferResponse {
            id: offer.id,
            game_id: offer.game_id,
            store: offer.store.into(),
            sku: offer.sku,
            region: offer.region,
            platform: offer.platform,
            url: offer.url,
            price: shown.price,
            regular_price: shown.regular_price,
            cut: shown.cut,
            on_sale: shown.on_sale,
            available: shown.available,
            observed_at: shown.observed_at,
            unknown_since: shown.unknown_since,
            low: shown.low,
            low_at: shown.low_at,
            was_free_at: shown.was_free_at,
            sale_started_at: shown.sale_started_at,
            sale_ends_at: shown.sale_ends_at,
            created_at: offer.created_at,
            updated_at: offer.updated_at,
        }
    }
}

/// Body of a request that creates an offer.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({
    "game_id": "01a0b6f2-0f5c-7d3e-8a4b-1c2d3e4f5a6b",
    "store": "gog-com",
    "sku": "1207664663",
    "region": "DE",
    "platform": "windows",
    "url": "https://gog.example/the-witcher-3",
}))]
#[serde(deny_unknown_fields)]
pub struct CreateOfferRequest {
    #[schema(value_type = GameId)]
    game_id: Option<GameId>,
    /// Id, slug or name of a store.
    #[schema(
        value_type = String,
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x1f\x7f-\x9f\s][^\x00-\x1f\x7f-\x9f]*$",
    )]
    store: Option<String>,
    /// Name of the offer within its store and region.
    #[schema(
        value_type = String,
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x1f\x7f-\x9f\s][^\x00-\x1f\x7f-\x9f]*$",
    )]
    sku: Option<String>,
    /// Country in which the offer is valid; without one, it is valid everywhere.
    #[schema(value_type = Option<Region>, default = "ZZ")]
    region: Option<String>,
    /// Platform such as `windows`; an empty text means none.
    #[schema(max_length = 50, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    platform: Option<String>,
    /// Page of the offer in its store.
    #[schema(format = "uri", max_length = 2000, pattern = r"^https?://[^/?#]")]
    url: Option<String>,
}

impl CreateOfferRequest {
    fn check(self) -> Result<NewOffer> {
        let mut fields = FieldChecks::default();
        let store = fields.text("store", self.store.as_deref(), 100);
        let sku = fields.folded_text("sku", self.sku.as_deref(), 200);
        let region = check_region(self.region.as_deref()).unwrap_or_else(|problem| {
            fields.refuse("region", problem);
            String::new()
        });
        let game_id = self.game_id;
        let checked = check_fields(&mut fields, game_id, self.platform.as_deref(), self.url.as_deref());
        fields.finish()?;
        Ok(NewOffer { store, sku, region, fields: checked })
    }
}

fn check_fields(
    fields: &mut FieldChecks,
    game_id: Option<GameId>,
    platform: Option<&str>,
    url: Option<&str>,
) -> OfferFields {
    if game_id.is_none() {
        fields.refuse("game_id", "is required");
    }
    OfferFields {
        game_id: game_id.unwrap_or_default(),
        platform: platform
            .filter(|platform| !platform.trim().is_empty())
            .map(|platform| fields.folded_text("platform", Some(platform), 50).to_lowercase()),
        url: fields.optional_url("url", url),
    }
}

/// A merge patch of an offer. Store, sku and region identify the offer, and cannot be changed.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"platform": "linux", "url": null}))]
#[serde(deny_unknown_fields)]
pub struct UpdateOfferRequest {
    #[serde(default)]
    #[schema(value_type = GameId, required = false)]
    game_id: Patch<GameId>,
    /// Platform such as `windows`; an empty text means none.
    #[serde(default)]
    #[schema(value_type = Option<String>, max_length = 50, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    platform: Patch<String>,
    /// Page of the offer in its store.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = "uri", max_length = 2000, pattern = r"^https?://[^/?#]")]
    url: Patch<String>,
}

impl UpdateOfferRequest {
    fn apply(self, offer: &Offer) -> Result<OfferFields> {
        let mut fields = FieldChecks::default();
        let platform = self.platform.apply(offer.platform.clone());
        let url = self.url.apply(offer.url.clone());
        let game_id = self.game_id.apply(Some(offer.game_id));
        let checked = check_fields(&mut fields, game_id, platform.as_deref(), url.as_deref());
        fields.finish()?;
        Ok(checked)
    }
}

/// Filters of `GET /v1/offers`.
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct OfferParams {
    /// Only offers of this store, named by its id, slug or name.
    #[param(min_length = 1, max_length = 100, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    store: Option<String>,
    /// Only offers of exactly this region.
    #[param(value_type = Option<Region>)]
    region: Option<String>,
    /// Only offers of this game.
    game_id: Option<GameId>,
}

/// Filters of `GET /v1/games/{id}/offers`.
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct GameOfferParams {
    /// Only offers of this store, named by its id, slug or name.
    #[param(min_length = 1, max_length = 100, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    store: Option<String>,
    /// Only offers that are valid in this region: its own, and those of `ZZ`.
    #[param(value_type = Option<Region>)]
    region: Option<String>,
}

/// Lists offers in order of creation.
#[utoipa::path(get, path = "/v1/offers", operation_id = "list_offers", tag = "catalogue")]
pub async fn list(
    State(app): State<App>,
    Params(params): Params<OfferParams>,
    paging: Paging,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<Page<OfferResponse>>> {
    let filter = OfferFilter {
        id: None,
        game_id: params.game_id,
        store_id: named_store(&app, params.store.as_deref()).await?.map(|store| store.id),
        regions: named_region(params.region.as_deref())?.map(|region| vec![region]),
    };
    let page = list_offers(&app, &filter, &paging).await?;
    let now = app.clock.now();
    Ok(if_none_match.answer(page.map(|offer| OfferResponse::new(offer, now))))
}

/// Lists the offers of a game.
#[utoipa::path(get, path = "/v1/games/{id}/offers", operation_id = "list_game_offers", tag = "catalogue")]
pub async fn list_of_game(
    State(app): State<App>,
    Id(game_id): Id<GameId>,
    Params(params): Params<GameOfferParams>,
    paging: Paging,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<Page<OfferResponse>>> {
    let (store, region) = (params.store.as_deref(), params.region.as_deref());
    let page = offers_of_game(&app, game_id, store, region, &paging).await?;
    let now = app.clock.now();
    Ok(if_none_match.answer(page.map(|offer| OfferResponse::new(offer, now))))
}

/// Returns an offer.
#[utoipa::path(get, path = "/v1/offers/{id}", operation_id = "get_offer", tag = "catalogue")]
pub async fn show(
    State(app): State<App>,
    Id(id): Id<OfferId>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<OfferResponse>> {
    let offer = offers::find_offer(app.reader(), id).await?.ok_or_else(|| Error::not_found("offer"))?;
    Ok(if_none_match.answer(OfferResponse::new(offer, app.clock.now())))
}

/// Creates an offer, which has no price until the first observation.
#[utoipa::path(
    post,
    path = "/v1/offers",
    operation_id = "create_offer",
    tag = "catalogue",
    responses((
        status = 409,
        body = Problem,
        content_type = "application/problem+json",
        description = "The store already has an offer with this sku and region, or \
            an earlier request with the same `Idempotency-Key` is still in flight.",
    )),
    security(("token" = ["catalogue:write"])),
)]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(request): Json<CreateOfferRequest>,
) -> Result<Created<OfferResponse>> {
    caller.require("catalogue:write")?;
    let now = app.clock.now();
    let offer = offers::create_offer(&app.writer, &request.check()?, now).await?;
    Ok(Created { location: format!("/v1/offers/{}", offer.id), value: OfferResponse::new(offer, now) })
}

/// Changes an offer.
#[utoipa::path(
    patch,
    path = "/v1/offers/{id}",
    operation_id = "update_offer",
    tag = "catalogue",
    security(("token" = ["catalogue:write"])),
)]
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<OfferId>,
    if_match: IfMatch,
    Json(request): Json<UpdateOfferRequest>,
) -> Result<Tagged<OfferResponse>> {
    caller.require("catalogue:write")?;
    let now = app.clock.now();
    let offer = offers::update_offer(&app.writer, id, now, |offer| {
        if_match.check(&OfferResponse::new(offer.clone(), now))?;
        request.apply(offer)
    })
    .await?;
    Ok(Tagged::new(OfferResponse::new(offer, now)))
}

/// Deletes an offer with its history.
#[utoipa::path(
    delete,
    path = "/v1/offers/{id}",
    operation_id = "delete_offer",
    tag = "catalogue",
    security(("token" = ["catalogue:write"])),
)]
pub async fn remove(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<OfferId>,
    if_match: IfMatch,
) -> Result<StatusCode> {
    caller.require("catalogue:write")?;
    let now = app.clock.now();
    let check = |offer: &Offer| if_match.check(&OfferResponse::new(offer.clone(), now));
    offers::delete_offer(&app.writer, id, check).await?;
    Ok(StatusCode::NO_CONTENT)
}
