//! Sales that end at the time their store had stated, without a further observation of their offers.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::database::pool::PgPool;
use crate::domain::ids::OfferId;
use crate::domain::offer_recorder::{Changes, OfferRecorder};
use crate::domain::price::Rules;
use crate::error::Result;
use crate::store::recording::changes::{self, ChangeSource};
use crate::store::recording::offers::lock_offers;

/// Maximum number of sales ended in one transaction.
const SLICE: i64 = 1_000;

/// Result of one slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedSales {
    /// Number of sales that have ended.
    pub sales: u64,
    /// Whether there may be more.
    pub more: bool,
}

/// Ends a slice of the sales whose stated end has come. A sale that another transaction has ended meanwhile is left
/// alone: offers are checked under their lock, as in recording.
///
/// # Errors
/// Those of the database; nothing is written then.
pub async fn end_sales(
    pool: &PgPool,
    rules: &Rules,
    publish: bool,
    now: DateTime<Utc>,
) -> Result<EndedSales> {
    let mut transaction = pool.begin().await?;
    let due = sqlx::query!(
        "select id, offer_id from sales where ended_at is null and ends_at <= $1 order by ends_at, id limit $2",
        now,
        SLICE,
    )
    .fetch_all(&mut *transaction)
    .await?;
    if due.is_empty() {
        return Ok(EndedSales { sales: 0, more: false });
    }
    let offers: Vec<OfferId> = due.iter().map(|sale| OfferId(sale.offer_id)).collect();
    let mut changes = Changes::default();
    for offer in lock_offers(&mut transaction, &offers).await? {
        let mut recorder = OfferRecorder::open(offer, rules, &mut changes);
        // If the end in the offer has not come, the sale and its offer disagree, and the offer is right.
        recorder.restate_sale();
        recorder.lapse(now);
        recorder.close();
    }
    let source = ChangeSource { backfill: false, traceparent: None, publish, rings_from: now };
    changes::write_prices(&mut transaction, &changes, &source, now).await?;
    // An offer never has two sales: one that its offer does not refer to was left by another version.
    let sales: Vec<Uuid> = due.iter().map(|sale| sale.id).collect();
    sqlx::query!(
        "update sales s set ended_at = s.ends_at from offers o
         where s.id = any($1) and s.ended_at is null and o.id = s.offer_id and o.sale_id is distinct from s.id",
        &sales,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(EndedSales { sales: changes.told_ends, more: due.len() as i64 == SLICE })
}
