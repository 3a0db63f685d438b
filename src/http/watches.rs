//! `/v1/watches`: a caller's own watches, and why they would or would not ring.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

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
use crate::domain::region::{Region, check_named_region};
use crate::domain::watch::{Cadence, Miss, Priority, Rule, misses};
use crate::error::Result;
use crate::store::Creation;
use crate::store::watches::{self, Watch, WatchFields};

/// Maximum number of entries of each list of a watch.
const MAX_SCOPE: usize = 100;

/// Body of a request that creates a watch.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({
    "game_id": "01a0b6f2-0f5c-7d3e-8a4b-1c2d3e4f5a6b",
    "rule": {"price_at_most": {"amount": "20.00", "currency": "EUR"}},
    "regions": ["DE", "AT"],
}))]
#[serde(deny_unknown_fields)]
pub struct CreateWatchRequest {
    game_id: GameId,
    rule: Rule,
    /// Slugs or ids of stores; null: all.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 100)]
    stores: Option<Vec<String>>,
    /// ISO 3166-1 codes; null: all.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Region>>, min_items = 1, max_items = 100)]
    regions: Option<Vec<String>>,
    /// Currency of the offers; null: all.
    #[serde(default)]
    currency: Option<Currency>,
    /// Platforms such as `windows`; null: all.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 100)]
    platforms: Option<Vec<String>>,
    /// Channels that ring; null: all of the account.
    #[serde(default)]
    #[schema(max_items = 100)]
    channels: Option<Vec<ChannelId>>,
    #[serde(default)]
    paused: bool,
    #[serde(default)]
    cadence: Cadence,
    #[serde(default)]
    priority: Priority,
}

/// A merge patch of a watch. The game cannot be changed: a watch of another game is another watch.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"paused": true, "regions": null}))]
#[serde(deny_unknown_fields)]
pub struct UpdateWatchRequest {
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Rule, required = false)]
    rule: Option<Rule>,
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>, min_items = 1, max_items = 100)]
    stores: Patch<Vec<String>>,
    #[serde(default)]
    #[schema(value_type = Option<Vec<Region>>, min_items = 1, max_items = 100)]
    regions: Patch<Vec<String>>,
    #[serde(default)]
    #[schema(value_type = Option<Currency>)]
    currency: Patch<Currency>,
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>, min_items = 1, max_items = 100)]
    platforms: Patch<Vec<String>>,
    #[serde(default)]
    #[schema(value_type = Option<Vec<ChannelId>>, max_items = 100)]
    channels: Patch<Vec<ChannelId>>,
    #[serde(default)]
    #[schema(value_type = Option<bool>)]
    paused: Patch<bool>,
    #[serde(default)]
    #[schema(value_type = Option<Cadence>)]
    cadence: Patch<Cadence>,
    #[serde(default)]
    #[schema(value_type = Option<Priority>)]
    priority: Patch<Priority>,
}

/// A watch in a response. A list or currency of null includes everything.
#[derive(Serialize, ToSchema)]
#[schema(as = Watch, example = json!({
    "id": "01a0b6f2-1111-7d3e-8a4b-1c2d3e4f5a6b",
    "game_id": "01a0b6f2-0f5c-7d3e-8a4b-1c2d3e4f5a6b",
    "rule": {"price_at_most": {"amount": "20.00", "currency": "EUR"}},
    "stores": null,
    "regions": ["DE", "AT"],
    "currency": null,
    "platforms": null,
    "channels": null,
    "paused": false,
    "cadence": "immediate",
    "priority": "normal",
    "created_at": "2026-11-29T10:00:00Z",
    "updated_at": "2026-11-29T10:00:00Z",
}))]
pub struct WatchResponse {
    id: WatchId,
    game_id: GameId,
    rule: Rule,
    /// Slugs of stores.
    #[schema(required)]
    stores: Option<Vec<String>>,
    #[schema(required)]
    regions: Option<Vec<String>>,
    #[schema(required)]
    currency: Option<Currency>,
    #[schema(required)]
    platforms: Option<Vec<String>>,
    #[schema(required)]
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
        match check_named_region(region) {
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
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct WatchParams {
    /// Only watches of this game.
    #[serde(default)]
    game_id: Option<GameId>,
}

/// Lists the caller's own watches, the newest first.
#[utoipa::path(get, path = "/v1/watches", operation_id = "list_watches", tag = "watches")]
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

/// Returns one of the caller's watches.
#[utoipa::path(get, path = "/v1/watches/{id}", operation_id = "get_watch", tag = "watches")]
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<WatchId>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<WatchResponse>> {
    let watch = watches::get_watch(&app.writer, caller.account, id).await?;
    Ok(if_none_match.answer(WatchResponse::from(watch)))
}

/// Creates a watch, or returns an equal one that exists.
#[utoipa::path(post, path = "/v1/watches", operation_id = "create_watch", tag = "watches")]
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

/// Changes a watch.
#[utoipa::path(patch, path = "/v1/watches/{id}", operation_id = "update_watch", tag = "watches")]
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

/// Deletes a watch.
#[utoipa::path(delete, path = "/v1/watches/{id}", operation_id = "delete_watch", tag = "watches")]
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

/// Why a watch would or would not ring.
#[derive(Serialize, ToSchema)]
#[schema(as = WatchExplanation, example = json!({
    "watch_id": "01a0b6f2-1111-7d3e-8a4b-1c2d3e4f5a6b",
    "would_ring": false,
    "offers": [{
        "offer_id": "01a0b6f2-2222-7d3e-8a4b-1c2d3e4f5a6b",
        "store": "gog",
        "region": "DE",
        "platform": "windows",
        "price": {"amount": "29.99", "currency": "EUR"},
        "regular_price": {"amount": "39.99", "currency": "EUR"},
        "would_ring": false,
        "notice_id": null,
        "reasons": [{"code": "price_too_high", "detail": "The price is above that of the rule."}],
    }],
}))]
pub struct ExplainResponse {
    watch_id: WatchId,
    /// Whether a sale of one of the offers would ring, given their current state.
    would_ring: bool,
    offers: Vec<OfferExplanation>,
}

#[derive(Serialize, ToSchema)]
struct OfferExplanation {
    offer_id: OfferId,
    store: String,
    region: String,
    #[schema(required)]
    platform: Option<String>,
    #[schema(required)]
    price: Option<Money>,
    #[schema(required)]
    regular_price: Option<Money>,
    would_ring: bool,
    /// The notice of this watch for the current sale: a watch rings once for each sale.
    #[schema(required)]
    notice_id: Option<NoticeId>,
    reasons: Vec<Reason>,
}

#[derive(Serialize, ToSchema)]
struct Reason {
    code: Miss,
    detail: &'static str,
}

/// Tells for each offer why the watch would or would not ring.
#[utoipa::path(get, path = "/v1/watches/{id}/explain", operation_id = "explain_watch", tag = "watches")]
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
