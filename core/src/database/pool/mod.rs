//! Connection pool whose password may change while it is in use.
//!
//! An open connection is not affected by a new password, so only new connections notice a rotation. A caller whose
//! connection is refused waits for a while for another password and tries again. `connections` opens, tests and
//! closes them.

mod connections;
mod password;
mod settings;
mod transaction;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sqlx::postgres::{
    PgConnectOptions, PgListener, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo, Postgres,
};
use sqlx::{Either, Execute, Executor, Result, SqlSafeStr, SqlStr};

pub use self::connections::Connection;
use self::connections::{Connections, Reason};
pub use self::password::Password;
use self::password::{NO_PASSWORD_YET, NONE_YET, PASSWORD_TIMEOUT, is_refusal};
pub use self::settings::{OnConnect, PoolSettings};
pub use self::transaction::Transaction;

/// A pool of connections; cheap to clone.
#[derive(Clone)]
pub struct PgPool(Arc<Connections>);

impl PgPool {
    /// Creates a pool without opening connections.
    pub fn new(settings: PoolSettings) -> PgPool {
        PgPool(Connections::new(settings))
    }

    /// Acquires a connection.
    ///
    /// # Errors
    /// None was available in time.
    pub async fn acquire(&self) -> Result<Connection> {
        let _wait = self.0.is_used_up().then(|| Wait { pool: self.0.settings.name, since: Instant::now() });
        self.patiently(|| self.0.acquire()).await
    }

    /// Retries with the next password when this one is refused.
    async fn patiently<T, F: Future<Output = Result<T, Reason>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<T> {
        let password = &self.0.settings.password;
        let mut until = None;
        loop {
            let before = password.generation();
            let outcome = match before {
                // A log-in without a password would only be refused.
                Some(NONE_YET) => Err(Arc::new(sqlx::Error::Io(std::io::Error::other(NO_PASSWORD_YET)))),
                _ => attempt().await,
            };
            let reason = match outcome {
                Ok(connected) => return Ok(connected),
                Err(reason) if is_refusal(&reason) || before == Some(NONE_YET) => reason,
                Err(reason) => return Err(own(reason)),
            };
            let Some(before) = before else { return Err(own(reason)) };
            let until = *until.get_or_insert_with(|| Instant::now() + PASSWORD_TIMEOUT);
            let left = until.saturating_duration_since(Instant::now());
            if !password.wait(before, left).await {
                return Err(own(reason));
            }
        }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// No connection was available in time, or it was lost.
    pub async fn begin(&self) -> Result<Transaction> {
        Transaction::begin(self.acquire().await?, None).await
    }

    /// Begins a transaction with this statement.
    ///
    /// # Errors
    /// As `begin`.
    pub async fn begin_with(&self, statement: &'static str) -> Result<Transaction> {
        Transaction::begin(self.acquire().await?, Some(statement.into_sql_str())).await
    }

    /// Opens a connection to listen on, outside this pool.
    ///
    /// # Errors
    /// It could not be opened in time.
    pub async fn listener(&self, limit: Duration) -> Result<PgListener> {
        let connect = || async {
            let options = (*self.connect_options()).clone();
            let own = PgPoolOptions::new().max_connections(1).acquire_timeout(limit);
            PgListener::connect_with(&own.connect_lazy_with(options)).await.map_err(Arc::new)
        };
        self.patiently(connect).await
    }

    /// Options of new connections.
    pub fn connect_options(&self) -> Arc<PgConnectOptions> {
        self.0.options()
    }

    /// Replaces the options of new connections.
    pub fn set_connect_options(&self, options: PgConnectOptions) {
        self.0.set_options(options);
    }

    /// Number of open connections.
    pub fn size(&self) -> u32 {
        self.0.open_count()
    }

    /// Number of connections that are not in use.
    pub fn num_idle(&self) -> usize {
        self.0.idle_count()
    }

    /// Closes all connections, each as soon as it is released.
    pub async fn close(&self) {
        self.0.close().await;
    }
}

/// Converts to an error of the caller's own. If several callers share it, it becomes the source of an I/O error,
/// which means that the database does not answer.
fn own(reason: Reason) -> sqlx::Error {
    Arc::try_unwrap(reason).unwrap_or_else(|shared| sqlx::Error::Io(std::io::Error::other(shared)))
}

/// A wait for a connection to be released. It is recorded also when the caller gives up.
struct Wait {
    pool: &'static str,
    since: Instant,
}

impl Drop for Wait {
    fn drop(&mut self) {
        metrics::histogram!("database_wait_seconds", "pool" => self.pool).record(self.since.elapsed());
    }
}

impl std::fmt::Debug for PgPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PgPool")
    }
}

impl<'p> Executor<'p> for &PgPool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>>>
    where
        E: 'q + Execute<'q, Postgres>,
    {
        let pool = self.clone();
        Box::pin(async_stream::try_stream! {
            let mut connection = pool.acquire().await?;
            let mut rows = connection.fetch_many(query);
            while let Some(row) = rows.try_next().await? {
                yield row;
            }
        })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>>>
    where
        E: 'q + Execute<'q, Postgres>,
    {
        let pool = self.clone();
        Box::pin(async move { pool.acquire().await?.fetch_optional(query).await })
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, Result<PgStatement>>
    where
        'p: 'e,
    {
        let pool = self.clone();
        Box::pin(async move { pool.acquire().await?.prepare_with(sql, parameters).await })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>>>
    where
        'p: 'e,
    {
        let pool = self.clone();
        Box::pin(async move { pool.acquire().await?.describe(sql).await })
    }
}
