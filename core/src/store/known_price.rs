//! Price columns of an offer, and their interpretation.

use chrono::{DateTime, Utc};

use crate::domain::ids::SaleId;
use crate::domain::money::Currency;
use crate::domain::price::{EndedSale, Low, Price, Sale};
use crate::error::{Error, Result};

/// Placeholder for the time of the low of an offer for which nothing was ever paid; its low is 0. The previous
/// version knows no offer without a low.
pub const NEVER_PAID: DateTime<Utc> = DateTime::UNIX_EPOCH;

/// Columns of `offers`. Those that are nullable are null until the offer is first observed.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct PriceColumns {
    pub currency: Option<String>,
    pub amount: Option<i64>,
    pub regular: Option<i64>,
    pub observed_at: Option<DateTime<Utc>>,
    pub available: bool,
    pub low: Option<i64>,
    pub low_at: Option<DateTime<Utc>>,
    pub was_free_at: Option<DateTime<Utc>>,
    pub sale_id: Option<SaleId>,
    pub sale_ends_at: Option<DateTime<Utc>>,
    pub recent_sale_id: Option<SaleId>,
    pub recent_sale_best: Option<i64>,
    pub recent_sale_was_free: bool,
    pub recent_sale_ended_at: Option<DateTime<Utc>>,
}

/// Builds `PriceColumns` from a row that has all the columns.
macro_rules! price_columns {
    ($row:expr) => {
        $crate::store::known_price::PriceColumns {
            currency: $row.currency,
            amount: $row.amount,
            regular: $row.regular,
            observed_at: $row.observed_at,
            available: $row.available,
            low: $row.low,
            low_at: $row.low_at,
            was_free_at: $row.was_free_at,
            sale_id: $row.sale_id.map($crate::domain::ids::SaleId),
            sale_ends_at: $row.sale_ends_at,
            recent_sale_id: $row.recent_sale_id.map($crate::domain::ids::SaleId),
            recent_sale_best: $row.recent_sale_best,
            recent_sale_was_free: $row.recent_sale_was_free,
            recent_sale_ended_at: $row.recent_sale_ended_at,
        }
    };
}
pub(crate) use price_columns;

/// Low that two columns hold. A low of 0 means none: a giveaway is not paid for.
pub fn known_low(low: Option<i64>, low_at: Option<DateTime<Utc>>) -> Option<Low> {
    let (amount, at) = low.zip(low_at)?;
    (amount > 0).then_some(Low { amount, at })
}

impl PriceColumns {
    /// Whether a low of 0 was written by the previous version, which counts giveaways.
    pub fn has_foreign_low(&self) -> bool {
        self.low == Some(0) && self.low_at != Some(NEVER_PAID)
    }

    /// Price that the columns hold. `None`: the offer was never observed.
    ///
    /// # Errors
    /// `Internal`: the currency is unknown.
    pub fn price(self) -> Result<Option<Price>> {
        let (Some(currency), Some(amount), Some(regular), Some(observed_at)) =
            (self.currency, self.amount, self.regular, self.observed_at)
        else {
            return Ok(None);
        };
        // What is known of a sale, if it is the sale in progress: the previous version changes only `sale_id`.
        let recent = self.recent_sale_id.filter(|id| self.sale_id.is_none_or(|open| open == *id));
        // A best of 0 means that nothing has been paid in it. The previous version writes it for any sale that was
        // free.
        let recent_best = recent.and(self.recent_sale_best);
        let was_free = recent.is_some() && (self.recent_sale_was_free || recent_best == Some(0));
        let recent_paid = recent_best.filter(|best| *best > 0);
        let ended_at = recent.and(self.recent_sale_ended_at);
        Ok(Some(Price {
            currency: parse_currency(&currency)?,
            amount,
            regular,
            observed_at,
            available: self.available,
            low: known_low(self.low, self.low_at),
            was_free_at: self.was_free_at,
            sale: self.sale_id.map(|id| Sale {
                id,
                best: recent_paid.into_iter().chain((amount > 0).then_some(amount)).min(),
                was_free: was_free || amount == 0,
                ends_at: self.sale_ends_at,
                interrupted_at: ended_at,
            }),
            ended: match self.sale_id {
                Some(_) => None,
                None => recent.filter(|_| recent_best.is_some()).zip(ended_at).map(|(id, at)| EndedSale {
                    id,
                    best: recent_paid,
                    was_free,
                    at,
                }),
            },
        }))
    }
}

/// Parses a currency from the database. An unknown one is a bug of ours.
pub(super) fn parse_currency(code: &str) -> Result<Currency> {
    code.parse().map_err(|_| Error::internal(format!("the database has an unknown currency {code:?}")))
}
