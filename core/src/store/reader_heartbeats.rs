//! Heartbeat of the writer, which its readers receive by replication: how far a reader is behind.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use crate::error::Result;

/// Newest heartbeat of the writer; times are by its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterHeartbeat {
    /// Time of the heartbeat.
    pub beat_at: DateTime<Utc>,
    /// Time of the first heartbeat since the last pause of more than ten seconds.
    pub since: DateTime<Utc>,
}

/// Writes a heartbeat, unless another process has done so within the last second, and returns the newest one that it
/// finds. A heartbeat that lies in the future is that of another server, which was the writer before, and is replaced.
///
/// # Errors
/// `Unavailable`: the database is unavailable.
pub async fn beat(executor: impl PgExecutor<'_>) -> Result<Option<WriterHeartbeat>> {
    // A little less than a second, so that a process that comes every second does not come too early every other time. A
    // process that has waited for the lock of another one evaluates the condition again.
    let newest = sqlx::query_as!(
        WriterHeartbeat,
        r#"with beat as (
            update reader_heartbeats set beat_at = clock_timestamp(), since = case
                when beat_at between clock_timestamp() - interval '10 seconds' and clock_timestamp() then since
                else clock_timestamp()
            end
            where beat_at not between clock_timestamp() - interval '900 milliseconds' and clock_timestamp()
            returning beat_at, since
        )
        select beat_at as "beat_at!", since as "since!" from beat
        union all
        select beat_at, since from reader_heartbeats where not exists (select from beat)"#
    )
    .fetch_optional(executor)
    .await?;
    Ok(newest)
}

/// Newest heartbeat that a reader has received, by the writer's clock.
///
/// # Errors
/// `Unavailable`: the database is unavailable.
pub async fn find_received(executor: impl PgExecutor<'_>) -> Result<Option<DateTime<Utc>>> {
    Ok(sqlx::query_scalar!("select beat_at from reader_heartbeats").fetch_optional(executor).await?)
}
