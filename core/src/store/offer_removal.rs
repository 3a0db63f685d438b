//! Removal of offers with their history.

use sqlx::PgConnection;

use crate::domain::ids::OfferId;
use crate::error::Result;

/// Removes offers, which the caller has locked, and their history.
pub(super) async fn delete_offers(connection: &mut PgConnection, ids: &[OfferId]) -> Result<()> {
    // The history is partitioned and has no foreign key, which would cost a look-up for every recorded price.
    sqlx::query!("delete from price_history where offer_id = any($1)", ids as &[OfferId])
        .execute(&mut *connection)
        .await?;
    sqlx::query!("delete from offers where id = any($1)", ids as &[OfferId]).execute(connection).await?;
    Ok(())
}
