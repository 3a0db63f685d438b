//! `/v1/deals`: current sales.

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::Tagged;
use super::extract::body::{Params, bad_parameter};
use super::extract::conditional::IfNoneMatch;
use super::extract::page::{Page, Paging};
use super::stores::StoreRefResponse;
use crate::api::parameters::{named_regions, named_store};
use crate::app::App;
use crate::domain::ids::{GameId, OfferId, SaleId};
use crate::domain::money::{Currency, Money};
use crate::domain::observation::check_text;
use crate::domain::region::Region;
use crate::domain::text::fold_white_space;
use crate::error::Result;
use crate::store::deals::{self, Deal, DealFilter, DealSort};

/// A deal in a response.
#[derive(Serialize, ToSchema)]
#[schema(as = Deal, example = json!({
    "id": "01a0b6f2-4444-7d3e-8a4b-1c2d3e4f5a6b",
    "game_id": "01a0b6f2-0f5c-7d3e-8a4b-1c2d3e4f5a6b",
    "title": "The Witcher® 3: Wild Hunt",
    "offer_id": "01a0b6f2-2222-7d3e-8a4b-1c2d3e4f5a6b",
    "store": {"id": "01a0b6f2-3333-7d3e-8a4b-1c2d3e4f5a6b", "slug": "gog-com", "name": "GOG.com"},
    "region": "DE",
    "platform": "windows",
    "url": "https://gog.example/the-witcher-3",
    "price": {"amount": "9.99", "currency": "EUR"},
    "regular_price": {"amount": "29.99", "currency": "EUR"},
    "cut": 67,
    "new_low": false,
    "started_at": "2026-11-27T14:00:00Z",
    "ends_at": "2026-12-03T22:59:00Z",
    "low": {"amount": "5.99", "currency": "EUR"},
    "low_at": "2026-06-25T13:00:00Z",
}))]
pub struct DealResponse {
    /// Id of the sale.
    pub id: SaleId,
    pub game_id: GameId,
    /// Title of the game.
    pub title: String,
    pub offer_id: OfferId,
    pub store: StoreRefResponse,
    /// ISO 3166-1 code of the country in which the offer is valid; `ZZ`: everywhere.
    #[schema(pattern = r"^[A-Z]{2}$")]
    pub region: String,
    /// Platform such as `windows`, in lower case.
    #[schema(required)]
    pub platform: Option<String>,
    /// Page of the offer in its store.
    #[schema(required)]
    pub url: Option<String>,
    pub price: Money,
    pub regular_price: Money,
    /// Whole per cent below the regular price.
    #[schema(minimum = 0, maximum = 100)]
    pub cut: i16,
    /// Whether this is the lowest price ever paid for the offer, or its first giveaway.
    pub new_low: bool,
    pub started_at: DateTime<Utc>,
    /// End of the sale, as announced by the store.
    #[schema(required)]
    pub ends_at: Option<DateTime<Utc>>,
    /// Lowest price ever paid for the offer; null if it has only ever been free.
    #[schema(required)]
    pub low: Option<Money>,
    /// Time at which that price was first observed.
    #[schema(required)]
    pub low_at: Option<DateTime<Utc>>,
}

impl From<Deal> for DealResponse {
    fn from(deal: Deal) -> Self {
        DealResponse {
            id: deal.id,
            game_id: deal.game_id,
            title: deal.title,
            offer_id: deal.offer_id,
            store: deal.store.into(),
            region: deal.region,
            platform: deal.platform,
            url: deal.url,
            price: Money { minor: deal.amount, currency: deal.currency },
            regular_price: Money { minor: deal.regular, currency: deal.currency },
            cut: deal.cut,
            new_low: deal.new_low,
            started_at: deal.started_at,
            ends_at: deal.ends_at,
            low: deal.low.map(|low| Money { minor: low.amount, currency: deal.currency }),
            low_at: deal.low.map(|low| low.at),
        }
    }
}

/// Filters and order of deals.
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DealParams {
    /// Only deals of this store, named by its id, slug or name.
    #[param(min_length = 1, max_length = 100, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    store: Option<String>,
    /// Only deals that are valid in this region: its own, and those of `ZZ`.
    #[param(value_type = Option<Region>)]
    region: Option<String>,
    /// Only deals in this currency.
    #[param(value_type = Option<Currency>)]
    currency: Option<String>,
    /// Only deals for this platform, such as `windows`.
    #[param(max_length = 50, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    platform: Option<String>,
    /// Smallest cut, in whole per cent.
    #[param(minimum = 0, maximum = 100)]
    min_cut: Option<i16>,
    /// Highest price: a decimal number such as `9.99` of `currency`, which must be given too.
    #[param(pattern = r"^[0-9]+(\.[0-9]+)?$", max_length = 40)]
    max_price: Option<String>,
    /// Only deals at the lowest price ever paid, or only the others.
    new_low: Option<bool>,
    /// Order: `cut`, the largest cut first; `price`, by currency and the cheapest first; `newest`, the latest start
    /// first.
    #[serde(default)]
    #[param(default = "cut")]
    sort: DealSort,
}

impl DealParams {
    async fn check(self, app: &App) -> Result<DealFilter> {
        let currency = self
            .currency
            .map(|code| code.parse::<Currency>())
            .transpose()
            .map_err(|problem| bad_parameter("currency", &problem))?;
        let max_amount = match (self.max_price, currency) {
            (None, _) => None,
            (Some(_), None) => {
                return Err(bad_parameter(
                    "max_price",
                    "requires currency: amounts in different currencies are not compared",
                ));
            }
            (Some(amount), Some(currency)) => {
                Some(currency.parse_amount(&amount).map_err(|problem| bad_parameter("max_price", &problem))?)
            }
        };
        if self.min_cut.is_some_and(|cut| !(0..=100).contains(&cut)) {
            return Err(bad_parameter("min_cut", "must be 0 to 100"));
        }
        let platform = self.platform.map(|platform| fold_white_space(&platform).to_lowercase());
        if let Some(platform) = &platform {
            if platform.is_empty() {
                return Err(bad_parameter("platform", "must not be empty"));
            }
            check_text(platform, 50).map_err(|problem| bad_parameter("platform", &problem))?;
        }
        Ok(DealFilter {
            regions: named_regions(self.region.as_deref())?,
            currency,
            platform,
            min_cut: self.min_cut,
            max_amount,
            new_low: self.new_low,
            sort: self.sort,
            store_id: named_store(app, self.store.as_deref()).await?.map(|store| store.id),
        })
    }
}

/// Lists current sales, filtered and sorted.
#[utoipa::path(get, path = "/v1/deals", operation_id = "list_deals", tag = "deals")]
pub async fn list(
    State(app): State<App>,
    Params(params): Params<DealParams>,
    paging: Paging,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<Page<DealResponse>>> {
    let filter = params.check(&app).await?;
    let deals =
        deals::list_deals(app.reader(), &filter, paging.after()?, paging.rows(), app.clock.now()).await?;
    let page = paging.page(deals, |deal| filter.sort.key(deal))?;
    Ok(if_none_match.answer(page.map(DealResponse::from)))
}
