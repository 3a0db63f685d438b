//! A transaction, whose connection goes back to the pool when it is dropped.

use std::ops::{Deref, DerefMut};

use sqlx::postgres::PgTransactionManager;
use sqlx::{PgConnection, Result, SqlStr};
use sqlx_core::transaction::TransactionManager;

use super::connections::Connection;

/// A transaction on a connection of its own, rolled back unless it is committed.
#[derive(Debug)]
pub struct Transaction {
    connection: Connection,
    open: bool,
}

impl Transaction {
    /// Begins a transaction with `statement`, or with `begin`.
    pub(super) async fn begin(connection: Connection, statement: Option<SqlStr>) -> Result<Transaction> {
        // Open from the start: a `begin` whose answer is lost may have been executed.
        let mut transaction = Transaction { connection, open: true };
        PgTransactionManager::begin(&mut transaction.connection, statement).await?;
        Ok(transaction)
    }

    /// Commits the transaction.
    ///
    /// # Errors
    /// It was not committed, or the connection was lost before the confirmation.
    pub async fn commit(mut self) -> Result<()> {
        PgTransactionManager::commit(&mut self.connection).await?;
        self.open = false;
        Ok(())
    }

    /// Rolls the transaction back.
    ///
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
            // Queued here and sent when the connection is back in the pool.
            PgTransactionManager::start_rollback(&mut self.connection);
        }
    }
}
