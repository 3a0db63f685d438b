//! Sales that end because the store said that they would, and nobody has seen their offers since.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::database::pool::PgPool;
use crate::domain::ids::OfferId;
use crate::domain::offer_recorder::{Changes, OfferRecorder};
use crate::domain::price::Rules;
use crate::error::Result;
use crate::store::recording::changes::{self, ChangeSource};
use crate::store::recording::offers::lock_offers;

/// So many sales are ended in one transaction.
const SLICE: i64 = 1_000;

/// What one slice has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedSales {
    /// Sales that are over.
    pub sales: u64,
    /// There may be more.
    pub more: bool,
}

/// Ends a slice of the sales whose told end has come. What another has ended in the meantime is left alone: offers are
/// judged under their lock, as by recording.
///
/// # Errors
/// The database's; nothing is written then.
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
        // The sale says otherwise than its offer, if the offer's end has not come: then the offer is right.
        recorder.restate_sale();
        recorder.lapse(now);
        recorder.close();
    }
    let source = ChangeSource { backfill: false, traceparent: None, publish, rings_from: now };
    changes::write_prices(&mut transaction, &changes, &source, now).await?;
    // Nor has an offer two sales: what hangs loose was left by another version.
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
