//! `/v1/offers`: offers, each of one game in one store and region, with their current prices.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::answer::{Created, Tagged};
use super::extract::body::{Id, Json, Params, bad_parameter};
use super::extract::caller::Caller;
use super::extract::conditional::{IfMatch, IfNoneMatch};
use super::extract::fields::{FieldChecks, Patch};
use super::extract::page::{Page, Paging};
use super::stores::{StoreRefResponse, named_store};
use crate::app::App;
use crate::domain::ids::{GameId, OfferId};
use crate::domain::money::Money;
use crate::domain::region::check_region;
use crate::error::{Error, Result};
use crate::store::games;
use crate::store::offers::{self, NewOffer, Offer, OfferFields, OfferFilter};

/// An offer in a response. Fields of the price are null until the first observation.
#[derive(Serialize)]
pub struct OfferResponse {
    pub id: OfferId,
    pub game_id: GameId,
    pub store: StoreRefResponse,
    pub sku: String,
    pub region: String,
    pub platform: Option<String>,
    pub url: Option<String>,
    pub price: Option<Money>,
    pub regular_price: Option<Money>,
    /// Whole per cent below the regular price.
    pub cut: Option<i16>,
    pub on_sale: bool,
    /// Whether the store accepted orders at the last observation.
    pub available: Option<bool>,
    pub observed_at: Option<DateTime<Utc>>,
    /// When the price became unknown: its sale has ended, as the store had announced. `price` is the last one observed.
    pub unknown_since: Option<DateTime<Utc>>,
    /// Lowest price ever paid; null if the offer has only ever been free.
    pub low: Option<Money>,
    /// Time at which that price was first observed.
    pub low_at: Option<DateTime<Utc>>,
    /// Start of the latest giveaway.
    pub was_free_at: Option<DateTime<Utc>>,
    pub sale_started_at: Option<DateTime<Utc>>,
    pub sale_ends_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl OfferResponse {
    /// Creates the response for the time `now`: a sale ends at the time that its store announced.
    fn new(offer: Offer, now: DateTime<Utc>) -> Self {
        let price = offer.price;
        let low = price.and_then(|price| price.low);
        let on_sale = price.is_some_and(|price| price.is_on_sale(now));
        let sale = price.and_then(|price| price.sale).filter(|_| on_sale);
        OfferResponse {
            id: offer.id,
            game_id: offer.game_id,
            store: offer.store.into(),
            sku: offer.sku,
            region: offer.region,
            platform: offer.platform,
            url: offer.url,
            price: price.map(|price| Money { minor: price.amount, currency: price.currency }),
            regular_price: price.map(|price| Money { minor: price.regular, currency: price.currency }),
            cut: price.map(|price| price.cut()),
            on_sale,
            available: price.map(|price| price.available),
            observed_at: price.map(|price| price.observed_at),
            unknown_since: price.and_then(|price| price.unknown_since(now)),
            low: low.zip(price).map(|(low, price)| Money { minor: low.amount, currency: price.currency }),
            low_at: low.map(|low| low.at),
            was_free_at: price.and_then(|price| price.was_free_at),
            sale_started_at: offer.sale_started_at.filter(|_| on_sale),
            sale_ends_at: sale.and_then(|sale| sale.ends_at),
            created_at: offer.created_at,
            updated_at: offer.updated_at,
        }
    }
}

/// Body of a request that creates an offer. `store` is an id, a slug or a name; `region` defaults to `ZZ`, which means
/// everywhere.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateOfferRequest {
    game_id: Option<GameId>,
    store: Option<String>,
    sku: Option<String>,
    region: Option<String>,
    platform: Option<String>,
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
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateOfferRequest {
    #[serde(default)]
    game_id: Patch<GameId>,
    #[serde(default)]
    platform: Patch<String>,
    #[serde(default)]
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

/// Filters of `GET /v1/offers`; a region includes only itself.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfferParams {
    store: Option<String>,
    region: Option<String>,
    game_id: Option<GameId>,
}

/// Filters of `GET /v1/games/{id}/offers`; a region includes itself and `ZZ`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GameOfferParams {
    store: Option<String>,
    region: Option<String>,
}

/// Parses the region of a query parameter; `None` without the parameter.
///
/// # Errors
/// `Malformed` if the value is not a region.
pub fn named_region(region: Option<&str>) -> Result<Option<String>> {
    region
        .map(|region| check_region(Some(region)).map_err(|problem| bad_parameter("region", &problem)))
        .transpose()
}

/// The regions whose offers are valid in the region of a query parameter: that region, and everywhere.
///
/// # Errors
/// `Malformed` if the value is not a region.
pub fn named_regions(region: Option<&str>) -> Result<Option<Vec<String>>> {
    Ok(named_region(region)?.map(|region| match region.as_str() {
        "ZZ" => vec![region],
        _ => vec![region, "ZZ".to_owned()],
    }))
}

/// `GET /v1/offers`: offers in order of creation.
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
    Ok(if_none_match.answer(page_of_offers(&app, &filter, &paging).await?))
}

/// `GET /v1/games/{id}/offers`: the offers of a game.
pub async fn list_of_game(
    State(app): State<App>,
    Id(game_id): Id<GameId>,
    Params(params): Params<GameOfferParams>,
    paging: Paging,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<Page<OfferResponse>>> {
    if !games::game_exists(&app.reader, game_id).await? {
        return Err(Error::not_found("game"));
    }
    let filter = OfferFilter {
        id: None,
        game_id: Some(game_id),
        store_id: named_store(&app, params.store.as_deref()).await?.map(|store| store.id),
        regions: named_regions(params.region.as_deref())?,
    };
    Ok(if_none_match.answer(page_of_offers(&app, &filter, &paging).await?))
}

async fn page_of_offers(app: &App, filter: &OfferFilter, paging: &Paging) -> Result<Page<OfferResponse>> {
    let offers = offers::list_offers(&app.reader, filter, paging.after()?, paging.rows()).await?;
    let page = paging.page(offers, |offer| offer.id)?;
    let now = app.clock.now();
    Ok(page.map(|offer| OfferResponse::new(offer, now)))
}

/// `GET /v1/offers/{id}`: an offer.
pub async fn show(
    State(app): State<App>,
    Id(id): Id<OfferId>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<OfferResponse>> {
    let offer = offers::find_offer(&app.reader, id).await?.ok_or_else(|| Error::not_found("offer"))?;
    Ok(if_none_match.answer(OfferResponse::new(offer, app.clock.now())))
}

/// `POST /v1/offers`: creates an offer.
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

/// `PATCH /v1/offers/{id}`: changes an offer.
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

/// `DELETE /v1/offers/{id}`: deletes an offer with its history.
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
