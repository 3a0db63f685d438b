//! `/v1/notices`: the inbox with the notices of the caller's watches.

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::answer::Tagged;
use super::extract::body::{Id, Json, Params, present};
use super::extract::caller::Caller;
use super::extract::conditional::{IfMatch, IfNoneMatch};
use super::extract::page::{Page, Paging};
use crate::app::App;
use crate::domain::ids::{GameId, NoticeId, OfferId, SaleId, WatchId};
use crate::domain::money::Money;
use crate::error::{Error, Result};
use crate::store::notices::{self, Notice};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListNoticesParams {
    /// `true`: only unread notices. `false`, the default: all.
    #[serde(default)]
    unread: bool,
}

/// A merge patch of a notice.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateNoticeRequest {
    #[serde(default, deserialize_with = "present")]
    read: Option<bool>,
}

#[derive(Serialize)]
pub struct NoticeResponse {
    id: NoticeId,
    /// The transition that caused the notice, such as `sale.started`.
    event: String,
    watch_id: WatchId,
    sale_id: SaleId,
    game: GameOfNotice,
    /// `null` if the offer has been deleted since.
    offer: Option<OfferOfNotice>,
    /// The price that caused the notice.
    price: Money,
    regular_price: Money,
    cut: i16,
    new_low: bool,
    url: Option<String>,
    /// Time at which that price was observed; `null` for notices from before this was stored.
    observed_at: Option<DateTime<Utc>>,
    read: bool,
    read_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

#[derive(Serialize)]
struct GameOfNotice {
    id: GameId,
    /// `null` if the game has been deleted since.
    title: Option<String>,
}

#[derive(Serialize)]
struct OfferOfNotice {
    id: OfferId,
    store: StoreOfNotice,
    region: String,
    platform: Option<String>,
}

#[derive(Serialize)]
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

/// `GET /v1/notices`: the caller's notices.
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

/// `GET /v1/notices/{id}`: one of the caller's notices.
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<NoticeId>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<NoticeResponse>> {
    let notice = notices::find_notice(&app.writer, caller.account, id).await?;
    Ok(if_none_match.answer(NoticeResponse::try_from(notice)?))
}

/// `PATCH /v1/notices/{id}`: marks a notice as read or unread.
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
