//! Creation of database connections: their options, and the first query on each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use super::deadline::Deadline;
use super::pool::{OnConnect, Password, PgPool, PoolSettings};
use crate::clock::Clock;
use crate::config::DatabaseConfig;
use crate::error::{Error, Result};

/// Creates a pool without opening connections. With `writer`, each connection sets that clock, and must not be to a
/// replica.
///
/// # Errors
/// `Internal`: the URL cannot be parsed.
pub fn make_pool(
    name: &'static str,
    settings: &DatabaseConfig,
    url: &str,
    writer: Option<&Clock>,
    deadline: &Deadline,
    password: &Password,
) -> Result<PgPool> {
    Ok(PgPool::new(PoolSettings {
        max_connections: settings.max_connections,
        acquire_timeout: settings.acquire_timeout,
        // The server itself ends statements that take longer than `statement_timeout`.
        settle_timeout: settings.statement_timeout + SETTLE_GRACE,
        on_connect: writer.map(observe_clock),
        deadline: deadline.clone(),
        password: password.clone(),
        ..PoolSettings::new(name, connect_options(settings, url)?)
    }))
}

/// Time for rolling back a statement that the server has ended.
const SETTLE_GRACE: Duration = Duration::from_secs(5);

/// Options of a connection: the URL of the settings, and what applies to all connections.
///
/// # Errors
/// `Internal`: the URL cannot be parsed.
pub fn connect_options(settings: &DatabaseConfig, url: &str) -> Result<PgConnectOptions> {
    let mut options: PgConnectOptions = url.parse().map_err(Error::from)?;
    if let Some(user) = &settings.user {
        options = options.username(user);
    }
    if let Some(password) = &settings.password {
        options = options.password(password.expose_secret());
    }
    let statement_timeout = settings.statement_timeout.as_millis().to_string();
    Ok(options.application_name("salebell").log_statements(log::LevelFilter::Off).options([
        ("statement_timeout", statement_timeout.as_str()),
        // A process that is paused between two statements must not hold its locks for longer either.
        ("idle_in_transaction_session_timeout", statement_timeout.as_str()),
        ("timezone", "UTC"),
        ("jit", "off"),
    ]))
}

/// Hook that reads the writer's time into the clock before any other query.
fn observe_clock(clock: &Clock) -> OnConnect {
    let clock = clock.clone();
    Arc::new(move |connection| {
        let clock = clock.clone();
        Box::pin(async move {
            let sent_at = Instant::now();
            // After a failover, the old writer's name may still lead to what is now a replica.
            let (replica, time): (bool, DateTime<Utc>) =
                sqlx::query_as("select pg_is_in_recovery(), clock_timestamp()").fetch_one(connection).await?;
            if replica {
                return Err(sqlx::Error::Io(std::io::Error::other("this database is a replica")));
            }
            clock.observe(time, sent_at);
            Ok(())
        })
    })
}
