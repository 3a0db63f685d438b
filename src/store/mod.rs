//! All the SQL. One file a noun, and each public function one use case.
//!
//! Reads take `impl PgExecutor<'_>`, writes `&mut PgConnection`: the caller owns the transaction. Where a
//! function is a whole use case of its own it takes the pool.

pub mod activity_counter;

pub mod accounts;
pub mod activity;
pub mod batches;
pub mod bus;
pub mod channels;
pub mod databases;
pub mod deals;
pub mod deliveries;
pub mod delivery_queue;
pub mod dispatch;
pub mod exports;
pub mod files;
pub mod game_loader;
pub mod games;
pub mod health;
pub mod history;
pub mod idempotency;
pub mod imports;
pub mod jobs;
pub mod keys;
pub mod known_price;
pub mod lease;
pub mod matching;
pub mod notices;
mod offer_removal;
pub mod offers;
pub mod publications;
pub mod quarantine;
pub mod recording;
pub mod search;
pub mod self_terminations;
pub mod statistics;
pub mod stores;
pub mod unreachable;
pub mod watches;
pub mod weekly_mails;

use sqlx::migrate::{MigrateError, Migrator};

use crate::database::pool::PgPool;
use crate::error::database::is_transient;
use crate::error::{Error, Result};

/// What came of making something that may be there already.
#[derive(Debug)]
pub enum Creation<T> {
    Made(T),
    Found(T),
}

/// Brings the schema up to date, under sqlx's advisory lock: a second run waits and finds nothing to do. Then the rows
/// that SQL cannot fill, in slices.
///
/// A binary that is older than the schema runs on it, as it must after a roll-back.
///
/// # Errors
/// A migration failed, or one that has run was edited since. `Unavailable` when the database is away.
pub async fn migrate(pool: &PgPool) -> Result<()> {
    let mut connection = pool.acquire().await?;
    let migrated = migrator().run(&mut *connection).await;
    drop(connection);
    migrated.map_err(|error| match error {
        MigrateError::Execute(error) if is_transient(&error) => Error::unavailable(error),
        error => Error::internal(error),
    })?;
    while matching::fill_keys(pool).await? > 0 {}
    Ok(())
}

/// The migrations that the binary carries; expand, then contract.
pub fn migrator() -> Migrator {
    let mut migrator: Migrator = sqlx::migrate!();
    migrator.set_ignore_missing(true);
    migrator
}
