//! Readiness: whether the database is reachable and has all migrations, probed once for all load balancers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::database::deadline::Deadline;
use crate::database::pool::PgPool;
use crate::error::{FieldError, Result};
use crate::store;

/// Time after which a database that does not answer counts as unavailable.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one probe's result is reused: health checks from many zones cause one query a second.
const FRESH: Duration = Duration::from_secs(1);

/// Result of the last probe of the database.
pub struct Readiness {
    /// Separate pool with a single connection: a main pool that is merely busy does not take the instance out of
    /// service.
    pool: PgPool,
    deadline: Deadline,
    last: Mutex<Option<(Instant, Vec<FieldError>)>>,
    /// Migrations are never undone, so they are checked only until all have been found.
    migrated: AtomicBool,
}

impl Readiness {
    /// Readiness that is probed over `pool`, one connection at a time.
    pub fn new(pool: PgPool, deadline: Deadline) -> Readiness {
        Readiness { pool, deadline, last: Mutex::default(), migrated: AtomicBool::new(false) }
    }

    /// Pool of the connection that it probes with.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Reasons why the process is not ready; empty if it is. A caller that comes while a probe is under way waits for
    /// its result, at most `PING_TIMEOUT`.
    pub async fn reasons(&self) -> Vec<FieldError> {
        let mut last = self.last.lock().await;
        if let Some((at, reasons)) = last.as_ref()
            && at.elapsed() < FRESH
        {
            return reasons.clone();
        }
        let reasons = match self.deadline.timeout(PING_TIMEOUT, self.probe()).await {
            Ok(Ok(reasons)) => reasons,
            Ok(Err(error)) => {
                log::warn!(target: "salebell::health", "the database is away: {}", crate::error::chain(&error));
                vec![reason("database", "cannot be reached")]
            }
            Err(_) => vec![reason("database", "does not answer within a second")],
        };
        *last = Some((Instant::now(), reasons.clone()));
        reasons
    }

    async fn probe(&self) -> Result<Vec<FieldError>> {
        if self.migrated.load(Ordering::Relaxed) {
            store::health::ping(&self.pool).await?;
            return Ok(Vec::new());
        }
        let missing = store::health::find_missing_migrations(&self.pool).await?;
        if missing.is_empty() {
            self.migrated.store(true, Ordering::Relaxed);
            return Ok(Vec::new());
        }
        Ok(vec![reason("migrations", format!("{} are not applied; run salebell migrate", missing.len()))])
    }
}

fn reason(what: &str, detail: impl Into<String>) -> FieldError {
    FieldError { pointer: what.to_owned(), detail: detail.into() }
}
