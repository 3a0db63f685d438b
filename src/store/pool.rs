//! The pool of connections, whose password may change while it is in use.
//!
//! A connection keeps the rights of the password that it was made with, so a rotation is felt by new ones alone: sqlx
//! would hand the refusal on to whoever asked for the connection. Here that one waits for a while until another password is
//! known, and asks again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{
    PgConnectOptions, PgListener, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo, Postgres,
};
use sqlx::{Acquire, Either, Execute, Executor, Result, SqlStr, Transaction};
use tokio::sync::{Notify, watch};

/// A pool as sqlx has it, that outlives its password.
#[derive(Clone)]
pub struct PgPool {
    name: &'static str,
    pool: sqlx::PgPool,
    password: Password,
}

/// How long somebody waits for another password: longer than Secrets Manager takes from setting one in the database to
/// calling it the current one, and shorter than a request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What somebody hears who has waited for the first password in vain.
const NO_PASSWORD_YET: &str = "there is no token yet to log in to the database with";
/// How often somebody who waits asks for another password.
const RING_AGAIN: Duration = Duration::from_millis(250);

/// The generation before the first password.
const NONE_YET: u64 = 0;

/// What is known of the password that pools share.
#[derive(Clone)]
pub struct Password {
    /// Rung when the database has refused it.
    bell: Arc<Notify>,
    /// The newest one that was refused.
    refused: Arc<AtomicU64>,
    /// Counts the passwords that there were. `None`: nobody gets another one.
    generation: Arc<watch::Sender<Option<u64>>>,
}

impl Default for Password {
    fn default() -> Self {
        let generation = Arc::new(watch::Sender::new(None));
        Password { bell: Arc::default(), refused: Arc::default(), generation }
    }
}

impl Password {
    /// Says that somebody is there who gets another one.
    pub fn keep_new(&self) {
        self.generation.send_if_modified(|generation| generation.replace(generation.unwrap_or(1)).is_none());
    }

    /// Says that the pools have none yet, and that somebody is there who gets one.
    pub fn expect_first(&self) {
        self.generation.send_replace(Some(NONE_YET));
    }

    /// Waits for the first one, if there is none yet.
    pub async fn first(&self) {
        let mut generation = self.generation.subscribe();
        // We hold the other end.
        let _ = generation.wait_for(|now| *now != Some(NONE_YET)).await;
    }

    /// Says that the pools have another one.
    pub fn renewed(&self) {
        self.generation.send_modify(|generation| *generation = generation.map(|number| number + 1));
    }

    /// Waits until the database has refused the one that the pools have now.
    pub async fn refused(&self) {
        loop {
            self.bell.notified().await;
            // Who was refused with the one before may ring late.
            if *self.generation.borrow() == Some(self.refused.load(Ordering::SeqCst)) {
                return;
            }
        }
    }

    /// Whether there is another one than `before` within this time.
    async fn wait(&self, before: u64, limit: Duration) -> bool {
        let mut generation = self.generation.subscribe();
        let waiting = async {
            loop {
                self.refused.fetch_max(before, Ordering::SeqCst);
                self.bell.notify_one();
                let other = generation.wait_for(|now| now.is_some_and(|number| number != before));
                if let Ok(found) = tokio::time::timeout(RING_AGAIN, other).await {
                    return found.is_ok();
                }
            }
        };
        tokio::time::timeout(limit, waiting).await.unwrap_or(false)
    }
}

/// `invalid_password`, and `invalid_authorization_specification`, which RDS says of tokens of IAM.
fn is_refusal(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| matches!(code.as_ref(), "28P01" | "28000"))
}

impl PgPool {
    /// The metrics call it `name`. Pools that share a password share `password`.
    pub fn new(name: &'static str, pool: sqlx::PgPool, password: Password) -> PgPool {
        PgPool { name, pool, password }
    }

    /// A connection.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn acquire(&self) -> Result<PoolConnection<Postgres>> {
        self.patiently(|| self.pool.acquire()).await
    }

    /// A transaction.
    ///
    /// # Errors
    /// There is no connection in time, or it is lost.
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>> {
        self.patiently(|| self.pool.begin()).await
    }

    /// A transaction that begins with this statement.
    ///
    /// # Errors
    /// As `begin`.
    pub async fn begin_with(&self, statement: &'static str) -> Result<Transaction<'static, Postgres>> {
        self.patiently(|| self.pool.begin_with(statement)).await
    }

    async fn patiently<T, F: Future<Output = Result<T>>>(&self, ask: impl Fn() -> F) -> Result<T> {
        let _wait = self.is_used_up().then(|| Wait { pool: self.name, since: Instant::now() });
        let mut until = None;
        loop {
            let before = *self.password.generation.borrow();
            let asked = match before {
                // A log-in without one would only be refused.
                Some(NONE_YET) => Err(sqlx::Error::Io(std::io::Error::other(NO_PASSWORD_YET))),
                _ => ask().await,
            };
            let error = match asked {
                Err(error) if is_refusal(&error) || before == Some(NONE_YET) => error,
                end => return end,
            };
            let Some(before) = before else { return Err(error) };
            let until = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
            let left = until.saturating_duration_since(Instant::now());
            if !self.password.wait(before, left).await {
                return Err(error);
            }
        }
    }

    /// A connection of its own to listen with, that belongs to no pool of others.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn listener(&self, limit: Duration) -> Result<PgListener> {
        let connect = || async {
            let options = (*self.connect_options()).clone();
            let own = PgPoolOptions::new().max_connections(1).acquire_timeout(limit);
            PgListener::connect_with(&own.connect_lazy_with(options)).await
        };
        self.patiently(connect).await
    }

    fn is_used_up(&self) -> bool {
        self.pool.num_idle() == 0 && self.pool.size() >= self.pool.options().get_max_connections()
    }

    /// How connections are made.
    pub fn connect_options(&self) -> Arc<PgConnectOptions> {
        self.pool.connect_options()
    }

    /// How connections are made from now on.
    pub fn set_connect_options(&self, options: PgConnectOptions) {
        self.pool.set_connect_options(options);
    }

    /// Connections that there are.
    pub fn size(&self) -> u32 {
        self.pool.size()
    }

    /// Those that nobody uses.
    pub fn num_idle(&self) -> usize {
        self.pool.num_idle()
    }

    /// Ends all connections, each when it is given back.
    pub async fn close(&self) {
        self.pool.close().await;
    }
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

impl Acquire<'static> for &PgPool {
    type Database = Postgres;
    type Connection = PoolConnection<Postgres>;

    fn acquire(self) -> BoxFuture<'static, Result<PoolConnection<Postgres>>> {
        let pool = self.clone();
        Box::pin(async move { PgPool::acquire(&pool).await })
    }

    fn begin(self) -> BoxFuture<'static, Result<Transaction<'static, Postgres>>> {
        let pool = self.clone();
        Box::pin(async move { PgPool::begin(&pool).await })
    }
}
