//! All the SQL: one file for each noun, and one public function for each use case.
//!
//! Functions that read take `impl PgExecutor<'_>`, functions that write take `&mut PgConnection`, and the caller owns
//! the transaction. A function that is a whole use case takes the pool.

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
pub mod reader_heartbeats;
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

/// Result of creating something that may exist already.
#[derive(Debug)]
pub enum Creation<T> {
    Made(T),
    Found(T),
}

/// Updates the schema under sqlx's advisory lock, so that a second run waits and finds nothing to do. Then fills, in
/// slices, the columns that SQL cannot compute.
///
/// A binary that is older than the schema runs on it, as it must after a roll-back.
///
/// # Errors
/// `Internal`: a migration failed, or one that has run was edited since. `Unavailable`: the database is unavailable.
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

/// The migrations compiled into the binary, written to expand first and contract later.
pub fn migrator() -> Migrator {
    let mut migrator: Migrator = sqlx::migrate!("../migrations");
    migrator.set_ignore_missing(true);
    migrator
}
