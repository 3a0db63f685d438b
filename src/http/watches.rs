//! `/v1/watches`: a caller's own watches, and why they would or would not ring.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::answer::{Created, OrExisting, Tagged};
use super::extract::body::{Id, Json, Params, present};
use super::extract::caller::Caller;
use super::extract::conditional::{IfMatch, IfNoneMatch};
use super::extract::fields::{FieldChecks, Patch};
use super::extract::page::{Page, Paging};
use crate::app::App;
use crate::app::cpu_time::give_way;
use crate::domain::ids::{ChannelId, GameId, NoticeId, OfferId, WatchId};
use crate::domain::money::{Currency, Money};
use crate::domain::region::check_region;
use crate::domain::watch::{Cadence, Miss, Priority, Rule, misses};
use crate::error::Result;
use crate::store::Creation;
use crate::store::watches::{self, Watch, WatchFields};

/// Maximum number of entries of each list of a watch.
const MAX_SCOPE: usize = 100;

/// Body of a request that creates a watch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateWatchRequest {
    game_id: GameId,
    rule: Rule,
    #[serde(default)]
    stores: Option<Vec<String>>,
    #[serde(default)]
    regions: Option<Vec<String>>,
    #[serde(default)]
    currency: Option<Currency>,
    #[serde(default)]
    platforms: Option<Vec<String>>,
    #[serde(default)]
    channels: Option<Vec<ChannelId>>,
    #[serde(default)]
    paused: bool,
    #[serde(default)]
    cadence: Cadence,
    #[serde(default)]
    priority: Priority,
}

/// A merge patch of a watch. The game cannot be changed: a watch of another game is another watch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateWatchRequest {
    #[serde(default, deserialize_with = "present")]
    rule: Option<Rule>,
    #[serde(default)]
    stores: Patch<Vec<String>>,
    #[serde(default)]
    regions: Patch<Vec<String>>,
    #[serde(default)]
    currency: Patch<Currency>,
    #[serde(default)]
    platforms: Patch<Vec<String>>,
    #[serde(default)]
    channels: Patch<Vec<ChannelId>>,
    #[serde(default)]
    paused: Patch<bool>,
    #[serde(default)]
    cadence: Patch<Cadence>,
    #[serde(default)]
    priority: Patch<Priority>,
}

/// A watch in a response. A list or currency of null includes everything.
#[derive(Serialize)]
pub struct WatchResponse {
    id: WatchId,
    game_id: GameId,
    rule: Rule,
    /// Slugs of stores.
    stores: Option<Vec<String>>,
    regions: Option<Vec<String>>,
    currency: Option<Currency>,
    platforms: Option<Vec<String>>,
    channels: Option<Vec<ChannelId>>,
    paused: bool,
    cadence: Cadence,
    priority: Priority,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<Watch> for WatchResponse {
    fn from(watch: Watch) -> Self {
        WatchResponse {
            id: watch.id,
            game_id: watch.game_id,
            rule: watch.rule,
            stores: watch.store_slugs.or(watch.scope.stores.map(|_| Vec::new())),
            regions: watch.scope.regions,
            currency: watch.scope.currency,
            platforms: watch.scope.platforms,
            channels: watch.channels,
            paused: watch.paused,
            cadence: watch.cadence,
            priority: watch.priority,
            created_at: watch.created_at,
            updated_at: watch.updated_at,
        }
    }
}

/// Checks the rules for both new and patched watches. Regions that the watch already has (`known`) may date from a time
/// when other codes were accepted.
fn check(mut wanted: WatchFields, known: &[String]) -> Result<WatchFields> {
    let mut fields = FieldChecks::default();
    match wanted.rule {
        Rule::CutAtLeast { percent } if !(1..=100).contains(&percent) => {
            fields.refuse("rule/cut_at_least/percent", "must be 1 to 100");
        }
        Rule::PriceAtMost(Money { currency, .. })
            if wanted.currency.is_some_and(|other| other != currency) =>
        {
            fields.refuse("currency", "is not the currency of the rule");
        }
        _ => {}
    }
    for (name, length) in [
        ("stores", wanted.stores.as_ref().map(Vec::len)),
        ("regions", wanted.regions.as_ref().map(Vec::len)),
        ("platforms", wanted.platforms.as_ref().map(Vec::len)),
        ("channels", wanted.channels.as_ref().map(Vec::len)),
    ] {
        match length {
            Some(0) if name != "channels" => fields.refuse(name, "must not be empty; null means all"),
            Some(length) if length > MAX_SCOPE => {
                fields.refuse(name, format!("has more than {MAX_SCOPE} entries"))
            }
            _ => {}
        }
    }
    for (at, region) in wanted.regions.iter_mut().flatten().enumerate() {
        match check_region(Some(region)) {
            Ok(code) => *region = code,
            Err(_) if known.contains(region) => {}
            Err(problem) => fields.refuse(&format!("regions/{at}"), problem),
        }
    }
    for (at, platform) in wanted.platforms.iter_mut().flatten().enumerate() {
        *platform = fields.folded_text(&format!("platforms/{at}"), Some(platform), 50).to_lowercase();
    }
    for (at, store) in wanted.stores.iter_mut().flatten().enumerate() {
        *store = fields.text(&format!("stores/{at}"), Some(store), 100);
    }
    fields.finish()?;
    Ok(wanted)
}

impl CreateWatchRequest {
    fn check(self) -> Result<(GameId, WatchFields)> {
        let fields = WatchFields {
            rule: self.rule,
            stores: self.stores,
            regions: self.regions,
            currency: self.currency,
            platforms: self.platforms,
            channels: self.channels,
            paused: self.paused,
            cadence: self.cadence,
            priority: self.priority,
        };
        Ok((self.game_id, check(fields, &[])?))
    }
}

impl UpdateWatchRequest {
    fn apply(self, watch: &Watch) -> Result<WatchFields> {
        let slugs = watch.store_slugs.clone();
        let fields = WatchFields {
            rule: self.rule.unwrap_or(watch.rule),
            stores: self.stores.apply(slugs),
            regions: self.regions.apply(watch.scope.regions.clone()),
            currency: self.currency.apply(watch.scope.currency),
            platforms: self.platforms.apply(watch.scope.platforms.clone()),
            channels: self.channels.apply(watch.channels.clone()),
            paused: self.paused.apply(Some(watch.paused)).unwrap_or_default(),
            cadence: self.cadence.apply(Some(watch.cadence)).unwrap_or_default(),
            priority: self.priority.apply(Some(watch.priority)).unwrap_or_default(),
        };
        check(fields, watch.scope.regions.as_deref().unwrap_or_default())
    }
}

/// Filters of the list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchParams {
    #[serde(default)]
    game_id: Option<GameId>,
}

/// `GET /v1/watches`: the caller's own watches, the newest first.
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<WatchParams>,
    paging: Paging,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<Page<WatchResponse>>> {
    let rows =
        watches::list_watches(&app.writer, caller.account, params.game_id, paging.after()?, paging.rows());
    let page = paging.page(rows.await?, |watch| watch.id)?;
    Ok(if_none_match.answer(page.map(WatchResponse::from)))
}

/// `GET /v1/watches/{id}`: one of the caller's watches.
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<WatchId>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<WatchResponse>> {
    let watch = watches::get_watch(&app.writer, caller.account, id).await?;
    Ok(if_none_match.answer(WatchResponse::from(watch)))
}

/// `POST /v1/watches`: creates a watch, or returns an equal one that exists.
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(request): Json<CreateWatchRequest>,
) -> Result<OrExisting<Created<WatchResponse>, WatchResponse>> {
    let (game, fields) = request.check()?;
    let _turn = app.files.uploads.turn(caller.account).await;
    let location = |watch: &Watch| format!("/v1/watches/{}", watch.id);
    let creation = watches::create_watch(&app.writer, caller.account, game, &fields, app.clock.now()).await?;
    Ok(match creation {
        Creation::Made(watch) => OrExisting::New(Created { location: location(&watch), value: watch.into() }),
        Creation::Found(watch) => OrExisting::Existing { location: location(&watch), value: watch.into() },
    })
}

/// `PATCH /v1/watches/{id}`: changes a watch.
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<WatchId>,
    if_match: IfMatch,
    Json(request): Json<UpdateWatchRequest>,
) -> Result<Tagged<WatchResponse>> {
    let watch = watches::update_watch(&app.writer, caller.account, id, app.clock.now(), |watch| {
        if_match.check(&WatchResponse::from(watch.clone()))?;
        request.apply(watch)
    })
    .await?;
    Ok(Tagged::new(WatchResponse::from(watch)))
}

/// `DELETE /v1/watches/{id}`: deletes a watch.
pub async fn remove(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<WatchId>,
    if_match: IfMatch,
) -> Result<StatusCode> {
    let check = |watch: &Watch| if_match.check(&WatchResponse::from(watch.clone()));
    watches::delete_watch(&app.writer, caller.account, id, check).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Serialize)]
pub struct ExplainResponse {
    watch_id: WatchId,
    /// Whether a sale of one of the offers would ring, given their current state.
    would_ring: bool,
    offers: Vec<OfferExplanation>,
}

#[derive(Serialize)]
struct OfferExplanation {
    offer_id: OfferId,
    store: String,
    region: String,
    platform: Option<String>,
    price: Option<Money>,
    regular_price: Option<Money>,
    would_ring: bool,
    /// The notice of this watch for the current sale: a watch rings once for each sale.
    notice_id: Option<NoticeId>,
    reasons: Vec<Reason>,
}

#[derive(Serialize)]
struct Reason {
    code: Miss,
    detail: &'static str,
}

/// `GET /v1/watches/{id}/explain`: why the watch would or would not ring, for each offer.
pub async fn explain(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<WatchId>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<ExplainResponse>> {
    let watch = watches::get_watch(&app.writer, caller.account, id).await?;
    let now = app.clock.now();
    let mut offers = Vec::new();
    for offer in watches::explain_offers(&app.writer, &watch).await? {
        give_way().await;
        let misses = misses(&watch.rule, &watch.scope, watch.paused, &offer.seen, now);
        let money = |minor| offer.seen.price.map(|price| Money { minor, currency: price.currency });
        offers.push(OfferExplanation {
            offer_id: offer.offer_id,
            store: offer.store_slug,
            price: offer.seen.price.and_then(|price| money(price.amount)),
            regular_price: offer.seen.price.and_then(|price| money(price.regular)),
            region: offer.seen.region,
            platform: offer.seen.platform,
            would_ring: misses.is_empty(),
            notice_id: offer.notice_id,
            reasons: misses.into_iter().map(|code| Reason { code, detail: code.detail() }).collect(),
        });
    }
    let would_ring = offers.iter().any(|offer| offer.would_ring);
    Ok(if_none_match.answer(ExplainResponse { watch_id: watch.id, would_ring, offers }))
}
