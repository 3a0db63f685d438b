//! `/v1/deals`: current sales.

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::answer::Tagged;
use super::extract::body::{Params, bad_parameter};
use super::extract::conditional::IfNoneMatch;
use super::extract::page::{Page, Paging};
use super::offers::named_regions;
use super::stores::{StoreRefResponse, named_store};
use crate::app::App;
use crate::domain::ids::{GameId, OfferId, SaleId};
use crate::domain::money::{Currency, Money};
use crate::domain::observation::check_text;
use crate::domain::text::fold_white_space;
use crate::error::Result;
use crate::store::deals::{self, Deal, DealFilter, DealSort};

/// A deal in a response.
#[derive(Serialize)]
pub struct DealResponse {
    /// Id of the sale.
    pub id: SaleId,
    pub game_id: GameId,
    /// Title of the game.
    pub title: String,
    pub offer_id: OfferId,
    pub store: StoreRefResponse,
    pub region: String,
    pub platform: Option<String>,
    pub url: Option<String>,
    pub price: Money,
    pub regular_price: Money,
    /// Whole per cent below the regular price.
    pub cut: i16,
    /// Whether this is the lowest price ever paid for the offer, or its first giveaway.
    pub new_low: bool,
    pub started_at: DateTime<Utc>,
    /// End of the sale, as announced by the store.
    pub ends_at: Option<DateTime<Utc>>,
    /// Lowest price ever paid for the offer; null if it has only ever been free.
    pub low: Option<Money>,
    /// Time at which that price was first observed.
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

/// Filters and order of deals. A region includes itself and `ZZ`; `max_price` is a decimal number of `currency`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DealParams {
    store: Option<String>,
    region: Option<String>,
    currency: Option<String>,
    platform: Option<String>,
    min_cut: Option<i16>,
    max_price: Option<String>,
    new_low: Option<bool>,
    #[serde(default)]
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

/// `GET /v1/deals`: current sales, filtered and sorted.
pub async fn list(
    State(app): State<App>,
    Params(params): Params<DealParams>,
    paging: Paging,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<Page<DealResponse>>> {
    let filter = params.check(&app).await?;
    let deals =
        deals::list_deals(&app.reader, &filter, paging.after()?, paging.rows(), app.clock.now()).await?;
    let page = paging.page(deals, |deal| filter.sort.key(deal))?;
    Ok(if_none_match.answer(page.map(DealResponse::from)))
}
