//! The pool of connections, whose password may change while it is in use.
//!
//! A connection keeps the rights of the password that it was made with, so only new ones notice a rotation. A caller whose
//! connection is refused waits for a while until another password is known, and asks again. How connections are opened,
//! tested and closed is in `connections`.

mod connections;
mod password;
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
pub use self::connections::OnConnect;
use self::connections::{Connections, Reason};
pub use self::password::Password;
use self::password::{NO_PASSWORD_YET, NONE_YET, PASSWORD_TIMEOUT, is_refusal};
pub use self::transaction::Transaction;
use crate::database::deadline::Deadline;

/// A pool of connections; cheap to clone.
#[derive(Clone)]
pub struct PgPool(Arc<Connections>);

/// What a pool is made of.
pub struct PoolSettings {
    /// What metrics call it.
    pub name: &'static str,
    /// How connections are made.
    pub options: PgConnectOptions,
    pub max_connections: u32,
    /// Longest wait for a connection, unless some are being opened just then.
    pub acquire_timeout: Duration,
    /// Longest time that the server may take for what was begun on a connection that is given back.
    pub settle_timeout: Duration,
    pub on_connect: Option<OnConnect>,
    /// While it is raised, connections that are given back must answer at once.
    pub deadline: Deadline,
    /// Shared by the pools that log in with the same.
    pub password: Password,
}

impl PoolSettings {
    /// Those of a small pool.
    pub fn new(name: &'static str, options: PgConnectOptions) -> PoolSettings {
        PoolSettings {
            name,
            options,
            max_connections: 5,
            acquire_timeout: Duration::from_secs(3),
            settle_timeout: Duration::from_secs(35),
            on_connect: None,
            deadline: Deadline::default(),
            password: Password::default(),
        }
    }
}

impl PgPool {
    /// Opens nothing yet.
    pub fn new(settings: PoolSettings) -> PgPool {
        PgPool(Connections::new(settings))
    }

    /// A connection.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn acquire(&self) -> Result<Connection> {
        let _wait = self.0.is_used_up().then(|| Wait { pool: self.0.settings.name, since: Instant::now() });
        self.patiently(|| self.0.acquire()).await
    }

    /// Asks again with the next password when this one is refused.
    async fn patiently<T, F: Future<Output = Result<T, Reason>>>(&self, ask: impl Fn() -> F) -> Result<T> {
        let password = &self.0.settings.password;
        let mut until = None;
        loop {
            let before = password.generation();
            let asked = match before {
                // A log-in without one would only be refused.
                Some(NONE_YET) => Err(Arc::new(sqlx::Error::Io(std::io::Error::other(NO_PASSWORD_YET)))),
                _ => ask().await,
            };
            let reason = match asked {
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

    /// A transaction.
    ///
    /// # Errors
    /// There is no connection in time, or it is lost.
    pub async fn begin(&self) -> Result<Transaction> {
        Transaction::begin(self.acquire().await?, None).await
    }

    /// A transaction that begins with this statement.
    ///
    /// # Errors
    /// As `begin`.
    pub async fn begin_with(&self, statement: &'static str) -> Result<Transaction> {
        Transaction::begin(self.acquire().await?, Some(statement.into_sql_str())).await
    }

    /// A connection of its own to listen with, that belongs to no pool of others.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn listener(&self, limit: Duration) -> Result<PgListener> {
        let connect = || async {
            let options = (*self.connect_options()).clone();
            let own = PgPoolOptions::new().max_connections(1).acquire_timeout(limit);
            PgListener::connect_with(&own.connect_lazy_with(options)).await.map_err(Arc::new)
        };
        self.patiently(connect).await
    }

    /// How connections are made.
    pub fn connect_options(&self) -> Arc<PgConnectOptions> {
        self.0.options()
    }

    /// How connections are made from now on.
    pub fn set_connect_options(&self, options: PgConnectOptions) {
        self.0.set_options(options);
    }

    /// Connections that there are.
    pub fn size(&self) -> u32 {
        self.0.open_count()
    }

    /// Those that nobody uses.
    pub fn num_idle(&self) -> usize {
        self.0.idle_count()
    }

    /// Ends all connections, each when it is given back.
    pub async fn close(&self) {
        self.0.close().await;
    }
}

/// As an error of its own; where others have heard it too, it is the source of one that says that nothing answers.
fn own(reason: Reason) -> sqlx::Error {
    Arc::try_unwrap(reason).unwrap_or_else(|shared| sqlx::Error::Io(std::io::Error::other(shared)))
}

/// Somebody waits for a connection that another gives back; it counts also when they give up.
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
