//! Databases of a server, for whoever starts one.

use sqlx::PgConnection;

use crate::error::Result;

/// Makes the database `salebell` where it is missing.
pub async fn create_database(connection: &mut PgConnection) -> Result<()> {
    let found = sqlx::query_scalar!("select 1 from pg_database where datname = 'salebell'")
        .fetch_optional(&mut *connection)
        .await?;
    if found.is_none() {
        // Not a prepared statement: PostgreSQL runs it outside of transactions alone.
        sqlx::raw_sql("create database salebell").execute(connection).await?;
    }
    Ok(())
}
