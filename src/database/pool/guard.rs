//! A connection in use, and a transaction on one: both go back to the pool when they are dropped.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use sqlx::postgres::PgTransactionManager;
use sqlx::{PgConnection, Result, SqlStr};
use sqlx_core::transaction::TransactionManager;

use super::connections::Connections;

/// An open connection and its age.
pub(super) struct Live {
    pub(super) raw: PgConnection,
    pub(super) opened_at: Instant,
}

/// A connection that somebody uses.
pub struct Connection {
    /// `None` only while it is being dropped.
    live: Option<Live>,
    pool: Arc<Connections>,
}

/// Only `drop` and `into_live` take it out, and both end the guard.
const IN_USE: &str = "a connection is there until its guard ends";

impl Connection {
    pub(super) fn new(live: Live, pool: Arc<Connections>) -> Connection {
        Connection { live: Some(live), pool }
    }

    /// Takes the connection out of its guard; the pool still counts it as open.
    pub(super) fn into_live(mut self) -> Option<Live> {
        self.live.take()
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.live.as_ref().expect(IN_USE).raw
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.live.as_mut().expect(IN_USE).raw
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(live) = self.live.take() {
            self.pool.give_back(live);
        }
    }
}

/// A transaction on a connection of its own, rolled back unless it is committed.
#[derive(Debug)]
pub struct Transaction {
    connection: Connection,
    open: bool,
}

impl Transaction {
    /// Begins one with `statement`, or with `begin`.
    pub(super) async fn begin(connection: Connection, statement: Option<SqlStr>) -> Result<Transaction> {
        // Open from the start: a `begin` whose answer is lost may have begun it.
        let mut transaction = Transaction { connection, open: true };
        PgTransactionManager::begin(&mut transaction.connection, statement).await?;
        Ok(transaction)
    }

    /// # Errors
    /// It is not committed, or the connection was lost before it was confirmed.
    pub async fn commit(mut self) -> Result<()> {
        PgTransactionManager::commit(&mut self.connection).await?;
        self.open = false;
        Ok(())
    }

    /// # Errors
    /// The connection is lost, and the transaction with it.
    pub async fn rollback(mut self) -> Result<()> {
        PgTransactionManager::rollback(&mut self.connection).await?;
        self.open = false;
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.open {
            // Queued here; the pool waits for it when the connection comes back.
            PgTransactionManager::start_rollback(&mut self.connection);
        }
    }
}
