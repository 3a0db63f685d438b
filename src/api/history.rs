//! The price history of a game, as it is queried and paged.

use chrono::{DateTime, Utc};

use super::page::{Page, Paging};
use super::parameters::{bad_parameter, named_regions, named_store};
use crate::app::App;
use crate::domain::history::{Bucket, Resolution};
use crate::domain::ids::GameId;
use crate::error::{Error, Result};
use crate::store::games;
use crate::store::history::{self, HistoryFilter, HistoryKey, PriceChange, PricedOffer};

/// Query for a price history.
pub struct HistoryQuery {
    pub game_id: GameId,
    /// Id, slug or name of the only store.
    pub store: Option<String>,
    /// Region in which the offers are valid.
    pub region: Option<String>,
    pub since: Option<DateTime<Utc>>,
    pub until: Option<DateTime<Utc>>,
    pub resolution: Resolution,
}

/// A page of a history.
pub enum HistoryPage {
    Changes(Page<PriceChange>),
    Buckets(Page<(PricedOffer, Bucket)>),
}

impl HistoryQuery {
    /// Loads a page of the history.
    ///
    /// # Errors
    /// `Malformed` if a parameter is invalid, `NotFound` if there is no such game.
    pub async fn load(&self, app: &App, paging: &Paging) -> Result<HistoryPage> {
        let since = self.since.unwrap_or(DateTime::UNIX_EPOCH);
        if self.until.is_some_and(|until| until <= since) {
            return Err(bad_parameter("until", "must be after since"));
        }
        let store = named_store(app, self.store.as_deref()).await?;
        let regions = named_regions(self.region.as_deref())?;
        if !games::game_exists(app.reader(), self.game_id).await? {
            return Err(Error::not_found("game"));
        }
        let after: Option<HistoryKey> = paging.after()?;
        let (reader, rows) = (app.reader(), paging.rows());
        let mut filter = HistoryFilter {
            game_id: self.game_id,
            store_id: store.map(|store| store.id),
            regions,
            since,
            until: self.until.unwrap_or(DateTime::<Utc>::MAX_UTC),
        };
        if self.resolution == Resolution::Change {
            let changes = history::list_changes(reader, &filter, after, rows).await?;
            let page = paging.page(changes, |change| (change.offer.id, change.observed_at))?;
            return Ok(HistoryPage::Changes(page));
        }
        // A price is not carried into the future.
        filter.until = filter.until.min(app.clock.now());
        let buckets = history::list_buckets(reader, &filter, self.resolution, after, rows).await?;
        let page = paging.page(buckets, |(offer, bucket)| (offer.id, bucket.start))?;
        Ok(HistoryPage::Buckets(page))
    }
}
