//! Creation of databases, for the commands that start a server.

use sqlx::PgConnection;

use crate::error::Result;

/// Creates the database `salebell` if it does not exist.
pub async fn create_database(connection: &mut PgConnection) -> Result<()> {
    let found = sqlx::query_scalar!("select 1 from pg_database where datname = 'salebell'")
        .fetch_optional(&mut *connection)
        .await?;
    if found.is_none() {
        // Not a prepared statement: PostgreSQL runs it only outside of transactions.
        sqlx::raw_sql("create database salebell").execute(connection).await?;
    }
    Ok(())
}
