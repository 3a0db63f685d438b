//! Whether the database may have gone away without a word: a host that died, a network that swallows packets.
//!
//! A query that waits for such a database would wait for as long as TCP tries, a quarter of an hour. Who gives up
//! waiting drops the query, and its connection goes back to the pool, which asks it for a sign of life without a
//! limit of its own: the pool would lose one connection after another. So whoever gives up says so here first, and
//! for a while connections are tested with a limit before they go back, and thrown away when they are dead. The test
//! is a round trip, too much to do it always.
//!
//! What remains: a connection that was just going back, before anybody gave up, is lost to its pool until TCP gives
//! up. `net.ipv4.tcp_retries2` on the machine decides when that is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::Error;

/// How long connections are tested after somebody has given up.
const LASTS: Duration = Duration::from_secs(60);

/// Shared by the pools and by those who give up.
#[derive(Clone)]
pub struct Suspicion {
    begin: Instant,
    /// Milliseconds from `begin`.
    until: Arc<AtomicU64>,
}

impl From<GaveUp> for Error {
    fn from(_: GaveUp) -> Error {
        Error::unavailable("the database has not answered in time")
    }
}

impl Default for Suspicion {
    fn default() -> Self {
        Suspicion { begin: Instant::now(), until: Arc::default() }
    }
}

/// Somebody has waited for too long.
#[derive(Debug, PartialEq, Eq)]
pub struct GaveUp;

impl Suspicion {
    /// To be called before the query is dropped.
    pub fn raise(&self) {
        let until = self.begin.elapsed() + LASTS;
        self.until.store(until.as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether somebody has given up lately.
    pub fn is_raised(&self) -> bool {
        (self.begin.elapsed().as_millis() as u64) < self.until.load(Ordering::Relaxed)
    }

    /// Waits for work with the database, not longer than `limit`.
    ///
    /// # Errors
    /// It took longer. What it has done stands, or is rolled back with its transaction.
    pub async fn limit<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Result<T, GaveUp> {
        let raised = async {
            tokio::time::sleep(limit).await;
            // Here, because `select!` has dropped the work when its handlers run.
            self.raise();
        };
        tokio::select! {
            done = work => Ok(done),
            () = raised => Err(GaveUp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn suspicion_is_raised_before_the_work_is_dropped() {
        struct Work(Suspicion);
        impl Drop for Work {
            fn drop(&mut self) {
                assert!(self.0.is_raised());
            }
        }
        let suspicion = Suspicion::default();
        assert_eq!(suspicion.limit(Duration::from_secs(9), async { 7 }).await, Ok(7));
        assert!(!suspicion.is_raised());
        let work = Work(suspicion.clone());
        let never = async move {
            let _work = work;
            std::future::pending::<()>().await;
        };
        assert_eq!(suspicion.limit(Duration::from_millis(1), never).await, Err(GaveUp));
    }
}
