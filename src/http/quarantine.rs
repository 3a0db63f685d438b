//! `/v1/quarantine`: observations that may be glitches.

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

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
use crate::error::{Error, Result};
use crate::store::quarantine::{self, QuarantinedPrice, Which};
use crate::store::recording;

/// A quarantined price in a response.
#[derive(Serialize)]
pub struct QuarantineResponse {
    pub id: QuarantinedPriceId,
    pub state: quarantine::State,
    /// Why the price was held, such as `price_far_below_regular`.
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
    pub current_price: Option<Money>,
    pub observed_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
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

/// Filters of the list: `state` is `held` (default), `confirmed`, `released` or `discarded`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuarantineParams {
    #[serde(default)]
    state: quarantine::State,
}

/// `GET /v1/quarantine`: quarantined prices, the latest first.
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

/// `GET /v1/quarantine/{id}`: a quarantined price.
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

/// `POST /v1/quarantine/{id}/discard`: discards a price that was a glitch.
pub async fn discard(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<QuarantinedPriceId>,
) -> Result<Tagged<QuarantineResponse>> {
    caller.require("operator")?;
    let held = quarantine::discard(&app.writer, id, app.clock.now()).await?;
    Ok(Tagged::new(QuarantineResponse::from(held)))
}

/// `POST /v1/quarantine/{id}/release`: releases a correct price, which takes effect now.
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
