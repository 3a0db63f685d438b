//! `/v1/quarantine`: observations that may be glitches.

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::Tagged;
use super::extract::body::{Id, Params};
use super::extract::caller::Caller;
use super::extract::conditional::IfNoneMatch;
use super::extract::page::{Page, Paging};
use super::stores::StoreRefResponse;
use crate::app::App;
use crate::domain::ids::{GameId, OfferId, QuarantinedPriceId};
use crate::domain::money::Money;
use crate::domain::price::GlitchReason;
use crate::error::{Error, Problem, Result};
use crate::store::quarantine::{self, QuarantinedPrice, Which};
use crate::store::recording;

/// An observed price that is held back because it looks like a glitch.
#[derive(Serialize, ToSchema)]
#[schema(as = QuarantinedPrice, example = json!({
    "id": "01a0b6f2-5555-7d3e-8a4b-1c2d3e4f5a6b",
    "state": "held",
    "reason": "price_far_below_regular",
    "offer_id": "01a0b6f2-2222-7d3e-8a4b-1c2d3e4f5a6b",
    "game_id": "01a0b6f2-0f5c-7d3e-8a4b-1c2d3e4f5a6b",
    "title": "The Witcher® 3: Wild Hunt",
    "store": {"id": "01a0b6f2-6666-7d3e-8a4b-1c2d3e4f5a6b", "slug": "gog", "name": "GOG.com"},
    "sku": "1207664643",
    "region": "DE",
    "price": {"amount": "0.49", "currency": "EUR"},
    "regular_price": {"amount": "49.99", "currency": "EUR"},
    "current_price": {"amount": "49.99", "currency": "EUR"},
    "observed_at": "2026-11-20T12:00:00Z",
    "created_at": "2026-11-20T12:00:02Z",
    "resolved_at": null,
}))]
pub struct QuarantineResponse {
    pub id: QuarantinedPriceId,
    #[schema(inline)]
    pub state: quarantine::State,
    /// Why the price was held.
    pub reason: GlitchReason,
    pub offer_id: OfferId,
    pub game_id: GameId,
    /// Title of the game.
    pub title: String,
    pub store: StoreRefResponse,
    pub sku: String,
    pub region: String,
    pub price: Money,
    pub regular_price: Money,
    /// Current price of the offer; null if it has none yet.
    #[schema(required)]
    pub current_price: Option<Money>,
    pub observed_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    /// Time at which the price was confirmed, released or discarded.
    #[schema(required)]
    pub resolved_at: Option<DateTime<Utc>>,
}

impl From<QuarantinedPrice> for QuarantineResponse {
    fn from(held: QuarantinedPrice) -> Self {
        QuarantineResponse {
            id: held.id,
            state: held.state,
            reason: held.reason,
            offer_id: held.offer_id,
            game_id: held.game_id,
            title: held.title,
            store: held.store.into(),
            sku: held.sku,
            region: held.region,
            price: held.price,
            regular_price: held.regular,
            current_price: held.current,
            observed_at: held.observed_at,
            created_at: held.created_at,
            resolved_at: held.resolved_at,
        }
    }
}

/// Filters of the list.
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct QuarantineParams {
    /// Only prices in this state; default: `held`.
    #[serde(default)]
    #[param(inline)]
    #[schema(inline)]
    state: quarantine::State,
}

/// Lists quarantined prices, the latest first.
#[utoipa::path(
    get,
    path = "/v1/quarantine",
    operation_id = "list_quarantined_prices",
    tag = "prices",
    security(("token" = ["operator"]))
)]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<QuarantineParams>,
    paging: Paging,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<Page<QuarantineResponse>>> {
    caller.require("operator")?;
    let which = Which::Of(params.state, paging.after()?);
    let held = quarantine::list_quarantine(&app.writer, which, paging.rows()).await?;
    let page = paging.page(held, |held| held.id)?;
    Ok(if_none_match.answer(page.map(QuarantineResponse::from)))
}

/// Returns a quarantined price.
#[utoipa::path(
    get,
    path = "/v1/quarantine/{id}",
    operation_id = "get_quarantined_price",
    tag = "prices",
    security(("token" = ["operator"]))
)]
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<QuarantinedPriceId>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<QuarantineResponse>> {
    caller.require("operator")?;
    let held = quarantine::find_quarantined(&app.writer, id).await?;
    let held = held.ok_or_else(|| Error::not_found("quarantined price"))?;
    Ok(if_none_match.answer(QuarantineResponse::from(held)))
}

/// Discards a price that was a glitch.
///
/// Discarding it again changes nothing.
#[utoipa::path(
    post,
    path = "/v1/quarantine/{id}/discard",
    operation_id = "discard_quarantined_price",
    tag = "prices",
    security(("token" = ["operator"])),
    responses((
        status = 409,
        description = "The price has already taken effect, or the first request with the `Idempotency-Key` is in \
            flight.",
        body = Problem,
        content_type = "application/problem+json"
    ))
)]
pub async fn discard(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<QuarantinedPriceId>,
) -> Result<Tagged<QuarantineResponse>> {
    caller.require("operator")?;
    let held = quarantine::discard(&app.writer, id, app.clock.now()).await?;
    Ok(Tagged::new(QuarantineResponse::from(held)))
}

/// Releases a correct price, which takes effect now.
#[utoipa::path(
    post,
    path = "/v1/quarantine/{id}/release",
    operation_id = "release_quarantined_price",
    tag = "prices",
    security(("token" = ["operator"])),
    responses((
        status = 409,
        description = "The price has already been released or discarded, or the first request with the \
            `Idempotency-Key` is in flight.",
        body = Problem,
        content_type = "application/problem+json"
    ))
)]
pub async fn release(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<QuarantinedPriceId>,
) -> Result<Tagged<QuarantineResponse>> {
    caller.require("operator")?;
    let publish = app.events_topic.is_some();
    recording::release(&app.writer, id, &app.config.prices, publish, app.clock.now()).await?;
    let held = quarantine::find_quarantined(&app.writer, id).await?;
    let held = held.ok_or_else(|| Error::not_found("quarantined price"))?;
    Ok(Tagged::new(QuarantineResponse::from(held)))
}
