//! Removal of offers with their history.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::error::Result;

/// Removes offers, which the caller has locked, and their history.
pub(super) async fn delete_offers(connection: &mut PgConnection, ids: &[Uuid]) -> Result<()> {
    // The history is partitioned and bears no foreign key, which would cost every recorded price a look-up.
    sqlx::query!("delete from price_history where offer_id = any($1)", ids).execute(&mut *connection).await?;
    sqlx::query!("delete from offers where id = any($1)", ids).execute(connection).await?;
    Ok(())
}
