//! `/v1/notices`: the inbox with the notices of the caller's watches.

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::Tagged;
use super::extract::body::{Id, Json, Params, present};
use super::extract::caller::Caller;
use super::extract::conditional::{IfMatch, IfNoneMatch};
use super::extract::page::{Page, Paging};
use crate::app::App;
use crate::domain::ids::{GameId, NoticeId, OfferId, SaleId, WatchId};
use crate::domain::money::Money;
use crate::domain::price::TransitionKind;
use crate::error::{Error, Result};
use crate::store::notices::{self, Notice};

/// Filters of the list.
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListNoticesParams {
    /// `true`: only unread notices. `false`, the default: all.
    #[serde(default)]
    unread: bool,
}

/// A merge patch of a notice.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"read": true}))]
#[serde(deny_unknown_fields)]
pub struct UpdateNoticeRequest {
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = bool, required = false)]
    read: Option<bool>,
}

/// A notice in a response: one notification for a watch and a sale.
#[derive(Serialize, ToSchema)]
#[schema(as = Notice, example = json!({
    "id": "01a0b6f2-5555-7d3e-8a4b-1c2d3e4f5a6b",
    "event": "sale.started",
    "watch_id": "01a0b6f2-1111-7d3e-8a4b-1c2d3e4f5a6b",
    "sale_id": "01a0b6f2-6666-7d3e-8a4b-1c2d3e4f5a6b",
    "game": {"id": "01a0b6f2-0f5c-7d3e-8a4b-1c2d3e4f5a6b", "title": "The Witcher® 3: Wild Hunt"},
    "offer": {
        "id": "01a0b6f2-2222-7d3e-8a4b-1c2d3e4f5a6b",
        "store": {"slug": "gog-com", "name": "GOG.com"},
        "region": "DE",
        "platform": "windows",
    },
    "price": {"amount": "9.99", "currency": "EUR"},
    "regular_price": {"amount": "49.99", "currency": "EUR"},
    "cut": 80,
    "new_low": true,
    "url": "https://www.gog.com/en/game/the_witcher_3_wild_hunt",
    "observed_at": "2026-11-29T09:59:58Z",
    "read": false,
    "read_at": null,
    "created_at": "2026-11-29T10:00:01Z",
}))]
pub struct NoticeResponse {
    id: NoticeId,
    /// The transition that caused the notice, such as `sale.started`.
    #[schema(value_type = TransitionKind)]
    event: String,
    watch_id: WatchId,
    sale_id: SaleId,
    game: GameOfNotice,
    /// The offer; null if it has been deleted since.
    #[schema(required)]
    offer: Option<OfferOfNotice>,
    /// The price that caused the notice.
    price: Money,
    regular_price: Money,
    /// Whole percent below the regular price.
    #[schema(minimum = 0, maximum = 100)]
    cut: i16,
    /// Whether the price is strictly below every earlier price that was paid for the offer, or is its first giveaway.
    new_low: bool,
    /// Where the offer can be bought.
    #[schema(required)]
    url: Option<String>,
    /// Time at which that price was observed; null for notices from before this was stored.
    #[schema(required)]
    observed_at: Option<DateTime<Utc>>,
    read: bool,
    /// Time at which the notice was marked as read; null while it is unread.
    #[schema(required)]
    read_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

#[derive(Serialize, ToSchema)]
struct GameOfNotice {
    id: GameId,
    /// Title of the game; null if it has been deleted since.
    #[schema(required)]
    title: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct OfferOfNotice {
    id: OfferId,
    store: StoreOfNotice,
    /// ISO 3166-1 code, or `ZZ` for everywhere.
    #[schema(pattern = r"^[A-Z]{2}$")]
    region: String,
    /// Platform such as `windows`; null if it was never reported.
    #[schema(required)]
    platform: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct StoreOfNotice {
    slug: String,
    name: String,
}

impl TryFrom<Notice> for NoticeResponse {
    type Error = Error;

    /// Builds the response for a stored notice.
    ///
    /// # Errors
    /// `Internal` if the database contains an invalid currency.
    fn try_from(notice: Notice) -> Result<Self> {
        let currency = notice.currency.parse().map_err(Error::internal)?;
        let offer = match (notice.store_slug, notice.store_name, notice.region) {
            (Some(slug), Some(name), Some(region)) => Some(OfferOfNotice {
                id: notice.offer_id,
                store: StoreOfNotice { slug, name },
                region,
                platform: notice.platform,
            }),
            _ => None,
        };
        Ok(NoticeResponse {
            id: notice.id,
            event: notice.event_kind,
            watch_id: notice.watch_id,
            sale_id: notice.sale_id,
            game: GameOfNotice { id: notice.game_id, title: notice.game_title },
            offer,
            price: Money { minor: notice.amount, currency },
            regular_price: Money { minor: notice.regular, currency },
            cut: notice.cut,
            new_low: notice.new_low,
            url: notice.url,
            observed_at: notice.observed_at,
            read: notice.read_at.is_some(),
            read_at: notice.read_at,
            created_at: notice.created_at,
        })
    }
}

/// Lists the caller's notices, the newest first.
#[utoipa::path(get, path = "/v1/notices", operation_id = "list_notices", tag = "notices")]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    paging: Paging,
    Params(params): Params<ListNoticesParams>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<Page<NoticeResponse>>> {
    let found =
        notices::list_notices(&app.writer, caller.account, params.unread, paging.after()?, paging.rows())
            .await?;
    let items: Vec<_> = found.into_iter().map(NoticeResponse::try_from).collect::<Result<_>>()?;
    Ok(if_none_match.answer(paging.page(items, |notice| notice.id)?))
}

/// Returns one of the caller's notices.
#[utoipa::path(get, path = "/v1/notices/{id}", operation_id = "get_notice", tag = "notices")]
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<NoticeId>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<NoticeResponse>> {
    let notice = notices::find_notice(&app.writer, caller.account, id).await?;
    Ok(if_none_match.answer(NoticeResponse::try_from(notice)?))
}

/// Changes whether a notice is marked as read.
#[utoipa::path(patch, path = "/v1/notices/{id}", operation_id = "update_notice", tag = "notices")]
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<NoticeId>,
    if_match: IfMatch,
    Json(request): Json<UpdateNoticeRequest>,
) -> Result<Tagged<NoticeResponse>> {
    let check = |current: Notice| if_match.check(&NoticeResponse::try_from(current)?);
    let mark = request.read.map(|read| read.then(|| app.clock.now()));
    let changed = notices::mark_notice(&app.writer, caller.account, id, check, mark).await?;
    Ok(Tagged::new(NoticeResponse::try_from(changed)?))
}
