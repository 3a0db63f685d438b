//! Health of the database: whether it answers, and whether it has the schema that this binary needs.

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, Row};

use crate::error::Result;

/// Lists migrations of the binary that the database has not run. Newer ones in the database do not count: a
/// rolled-back binary runs on them.
///
/// # Errors
/// `Unavailable`: the database is unavailable.
pub async fn find_missing_migrations(executor: impl PgExecutor<'_>) -> Result<Vec<i64>> {
    // Not checked at compile time: the table is sqlx's, and does not exist before the first migration.
    let applied = sqlx::query("select version from _sqlx_migrations where success").fetch_all(executor).await;
    let applied: Vec<i64> = match applied {
        Ok(rows) => rows.iter().map(|row| row.try_get(0)).collect::<sqlx::Result<_>>()?,
        // 42P01, undefined_table: no migration has run.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let wanted = super::migrator();
    Ok(wanted.iter().map(|migration| migration.version).filter(|one| !applied.contains(one)).collect())
}

/// Checks that the database answers.
///
/// # Errors
/// `Unavailable`: it does not.
pub async fn ping(executor: impl PgExecutor<'_>) -> Result<()> {
    sqlx::query!("select 1 as one").fetch_one(executor).await?;
    Ok(())
}

/// Current time of the database.
///
/// # Errors
/// `Unavailable`: the database is unavailable.
pub async fn read_clock(executor: impl PgExecutor<'_>) -> Result<DateTime<Utc>> {
    Ok(sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#).fetch_one(executor).await?)
}
