//! Settings of a pool.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;

use super::password::Password;
use crate::database::deadline::Deadline;

/// Hook that runs on each new connection before it is used.
pub type OnConnect = Arc<dyn Fn(&mut PgConnection) -> BoxFuture<'_, sqlx::Result<()>> + Send + Sync>;

/// Settings of a pool.
pub struct PoolSettings {
    /// Name in metrics.
    pub name: &'static str,
    /// Options of its connections.
    pub options: PgConnectOptions,
    pub max_connections: u32,
    /// Longest wait for a connection, unless some are being opened at that moment.
    pub acquire_timeout: Duration,
    /// Longest time that the server may take to finish what was begun on a connection that is released.
    pub settle_timeout: Duration,
    pub on_connect: Option<OnConnect>,
    /// While connections are suspect, released ones must answer at once.
    pub deadline: Deadline,
    /// Shared by the pools that log in with the same password.
    pub password: Password,
}

impl PoolSettings {
    /// Settings of a small pool.
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
