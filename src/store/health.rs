//! Whether the database answers and has the schema that this binary needs.

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, Row};

use crate::error::Result;

/// Migrations that the binary carries and the database has not run. Newer ones of the database do not count: a
/// rolled-back binary runs on them.
///
/// # Errors
/// The database is away.
pub async fn find_missing_migrations(executor: impl PgExecutor<'_>) -> Result<Vec<i64>> {
    // Not checked at compile time: the table is sqlx's, and is not there before the first migration.
    let applied = sqlx::query("select version from _sqlx_migrations where success").fetch_all(executor).await;
    let applied: Vec<i64> = match applied {
        Ok(rows) => rows.iter().map(|row| row.try_get(0)).collect::<sqlx::Result<_>>()?,
        // 42P01, undefined_table: nothing has been run.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let wanted = super::migrator();
    Ok(wanted.iter().map(|migration| migration.version).filter(|one| !applied.contains(one)).collect())
}

/// The database answers.
///
/// # Errors
/// It does not.
pub async fn ping(executor: impl PgExecutor<'_>) -> Result<()> {
    sqlx::query!("select 1 as one").fetch_one(executor).await?;
    Ok(())
}

/// What time it is at the database.
///
/// # Errors
/// It is away.
pub async fn read_clock(executor: impl PgExecutor<'_>) -> Result<DateTime<Utc>> {
    Ok(sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#).fetch_one(executor).await?)
}
