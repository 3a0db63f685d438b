//! Rows and columns of each kind of export.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::app::App;
use crate::domain::export::{ExportFilter, ExportKind};
use crate::domain::ids::{AccountId, FileId, NoticeId, OfferId, SaleId, WatchId};
use crate::domain::money::Money as Amount;
use crate::error::{Error, Result};
use crate::store::exports;
use crate::store::exports::rows;
use crate::store::known_price::known_low;
use crate::tables::ColumnKind::{Boolean, Integer, Money, Text, Time};
use crate::tables::{Cell, Columns};

/// Rows of a page.
const PAGE: i64 = 5_000;

/// The columns that an import reads.
const PRICES: Columns = &[
    ("store", Text),
    ("sku", Text),
    ("title", Text),
    ("region", Text),
    ("platform", Text),
    ("url", Text),
    ("sale_ends_at", Time),
    ("availability", Text),
    ("currency", Text),
    ("price", Money),
    ("regular_price", Money),
    ("observed_at", Time),
];
const DEALS: Columns = &[
    ("id", Text),
    ("store", Text),
    ("sku", Text),
    ("title", Text),
    ("region", Text),
    ("platform", Text),
    ("url", Text),
    ("currency", Text),
    ("price", Money),
    ("regular_price", Money),
    ("cut", Integer),
    ("new_low", Boolean),
    ("started_at", Time),
    ("ends_at", Time),
    ("low", Money),
    ("low_at", Time),
];
const WATCHES: Columns = &[
    ("id", Text),
    ("game_id", Text),
    ("title", Text),
    ("rule", Text),
    ("target_price", Money),
    ("target_currency", Text),
    ("target_cut", Integer),
    ("regions", Text),
    ("platforms", Text),
    ("currency", Text),
    ("paused", Boolean),
    ("cadence", Text),
    ("priority", Text),
    ("created_at", Time),
];
const NOTICES: Columns = &[
    ("id", Text),
    ("watch_id", Text),
    ("event", Text),
    ("title", Text),
    ("store", Text),
    ("currency", Text),
    ("price", Money),
    ("regular_price", Money),
    ("cut", Integer),
    ("new_low", Boolean),
    ("created_at", Time),
    ("read_at", Time),
    ("observed_at", Time),
];
const FILES: Columns = &[
    ("id", Text),
    ("name", Text),
    ("media_type", Text),
    ("state", Text),
    ("length", Integer),
    ("offset", Integer),
    ("sha256", Text),
    ("created_at", Time),
    ("completed_at", Time),
    ("expires_at", Time),
];

/// Reads the rows of an export page by page.
pub struct RowSource {
    app: App,
    account: AccountId,
    kind: ExportKind,
    filter: ExportFilter,
    /// Key of the last row read; the time belongs to the key of prices only.
    after: (Uuid, DateTime<Utc>),
    over: bool,
}

impl RowSource {
    pub fn new(app: App, account: AccountId, kind: ExportKind, filter: ExportFilter) -> RowSource {
        RowSource { app, account, kind, filter, after: (Uuid::nil(), DateTime::UNIX_EPOCH), over: false }
    }

    pub fn columns(&self) -> Columns {
        match self.kind {
            ExportKind::Prices => PRICES,
            ExportKind::Deals => DEALS,
            ExportKind::Watches => WATCHES,
            ExportKind::Notices => NOTICES,
            ExportKind::Files => FILES,
        }
    }

    /// Approximate number of rows, where it is known without reading them.
    pub async fn estimate(&self) -> Result<Option<i64>> {
        let ExportFilter { store: None, region: None, since: None, until: None } = self.filter else {
            return Ok(None);
        };
        match self.kind {
            ExportKind::Prices => {
                let reads = &self.app.reads;
                reads.run(|pool| async move { exports::estimate_prices(&pool).await }).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Reads the next page. Returns `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Vec<Cell>>>> {
        if self.over {
            return Ok(None);
        }
        let (reads, writer) = (&self.app.reads, &self.app.writer);
        let (account, after, filter) = (self.account, self.after, &self.filter);
        let mut last = after;
        let page: Vec<Vec<Cell>> = match self.kind {
            ExportKind::Prices => {
                let key = (OfferId(after.0), after.1);
                let rows = reads
                    .run(|pool| async move { rows::list_prices(&pool, filter, key, PAGE).await })
                    .await?;
                rows.into_iter()
                    .map(|row| {
                        last = (row.offer_id.0, row.observed_at);
                        let availability = if row.available { "in_stock" } else { "out_of_stock" };
                        let price = money(row.amount, &row.currency)?;
                        let regular = money(row.regular, &row.currency)?;
                        Ok(vec![
                            row.store.into(),
                            row.sku.into(),
                            row.title.into(),
                            row.region.into(),
                            row.platform.into(),
                            row.url.into(),
                            row.holds_until.into(),
                            availability.to_owned().into(),
                            row.currency.into(),
                            price.into(),
                            regular.into(),
                            row.observed_at.into(),
                        ])
                    })
                    .collect::<Result<_>>()?
            }
            ExportKind::Deals => {
                let now = self.app.clock.now();
                let after = SaleId(after.0);
                let rows = reads
                    .run(|pool| async move { rows::list_deals(&pool, filter, after, PAGE, now).await })
                    .await?;
                rows.into_iter()
                    .map(|row| {
                        last.0 = row.id.0;
                        let price = money(row.amount, &row.currency)?;
                        let regular = money(row.regular, &row.currency)?;
                        let low = known_low(row.low, row.low_at);
                        let lowest = low.map(|low| money(low.amount, &row.currency)).transpose()?;
                        Ok(vec![
                            row.id.0.into(),
                            row.store.into(),
                            row.sku.into(),
                            row.title.into(),
                            row.region.into(),
                            row.platform.into(),
                            row.url.into(),
                            row.currency.clone().into(),
                            price.into(),
                            regular.into(),
                            i64::from(row.cut).into(),
                            row.new_low.into(),
                            row.started_at.into(),
                            row.ends_at.into(),
                            lowest.into(),
                            low.map(|low| low.at).into(),
                        ])
                    })
                    .collect::<Result<_>>()?
            }
            ExportKind::Watches => {
                let rows = rows::list_watches(writer, account, WatchId(after.0), PAGE).await?;
                rows.into_iter()
                    .map(|row| {
                        last.0 = row.id.0;
                        let target = row.target_amount.zip(row.target_currency.as_deref());
                        Ok(vec![
                            row.id.0.into(),
                            row.game_id.0.into(),
                            row.title.into(),
                            row.rule.into(),
                            target.map(|(amount, currency)| money(amount, currency)).transpose()?.into(),
                            row.target_currency.into(),
                            row.target_cut.map(i64::from).into(),
                            row.regions.map(|regions| regions.join(" ")).into(),
                            row.platforms.map(|platforms| platforms.join(" ")).into(),
                            row.currency.into(),
                            row.paused.into(),
                            row.cadence.into(),
                            row.priority.into(),
                            row.created_at.into(),
                        ])
                    })
                    .collect::<Result<_>>()?
            }
            ExportKind::Notices => {
                let rows = rows::list_notices(writer, account, NoticeId(after.0), PAGE).await?;
                rows.into_iter()
                    .map(|row| {
                        last.0 = row.id.0;
                        let price = money(row.amount, &row.currency)?;
                        let regular = money(row.regular, &row.currency)?;
                        Ok(vec![
                            row.id.0.into(),
                            row.watch_id.0.into(),
                            row.event_kind.into(),
                            row.title.into(),
                            row.store.into(),
                            row.currency.into(),
                            price.into(),
                            regular.into(),
                            i64::from(row.cut).into(),
                            row.new_low.into(),
                            row.created_at.into(),
                            row.read_at.into(),
                            row.observed_at.into(),
                        ])
                    })
                    .collect::<Result<_>>()?
            }
            ExportKind::Files => {
                let now = self.app.clock.now();
                let rows = rows::list_files(writer, account, FileId(after.0), PAGE, now).await?;
                rows.into_iter()
                    .map(|row| {
                        last.0 = row.id.0;
                        Ok(vec![
                            row.id.0.into(),
                            row.name.into(),
                            row.media_type.into(),
                            row.state.into(),
                            row.length.into(),
                            row.stored.into(),
                            row.sha256.into(),
                            row.created_at.into(),
                            row.completed_at.into(),
                            row.expires_at.into(),
                        ])
                    })
                    .collect::<Result<_>>()?
            }
        };
        self.after = last;
        self.over = (page.len() as i64) < PAGE;
        Ok(Some(page).filter(|page| !page.is_empty()))
    }
}

fn money(minor: i64, currency: &str) -> Result<Amount> {
    Ok(Amount { minor, currency: currency.parse().map_err(Error::internal)? })
}
