//! Deadlines for work with the database, which may become unavailable without a sign: a host that died, a network
//! that drops packets.
//!
//! A query to such a database would wait until TCP gives up, which takes a quarter of an hour. When its deadline
//! passes, the query is dropped and its connection goes back to the pool, which tests it with a ping that has no
//! limit of its own: the pool would lose one connection after another. A deadline that passes therefore first marks
//! all connections as suspect: for a while they are tested with a limit before they go back, and discarded if they
//! are dead. That test costs a round trip, too much for normal operation.
//!
//! One case remains: a connection that was just going back when the deadline passed is lost to its pool until TCP
//! gives up. `net.ipv4.tcp_retries2` on the machine determines when that is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::Error;

/// How long connections are suspect after a deadline has passed.
const LASTS: Duration = Duration::from_secs(60);

/// Runs work with a deadline; shared with the pools, which test suspect connections.
#[derive(Clone)]
pub struct Deadline {
    begin: Instant,
    /// End of the suspicion, in milliseconds from `begin`.
    until: Arc<AtomicU64>,
}

impl From<DeadlineExceeded> for Error {
    fn from(_: DeadlineExceeded) -> Error {
        Error::unavailable("the database has not answered in time")
    }
}

impl Default for Deadline {
    fn default() -> Self {
        Deadline { begin: Instant::now(), until: Arc::default() }
    }
}

/// Error of work that took longer than its deadline allows.
#[derive(Debug, PartialEq, Eq)]
pub struct DeadlineExceeded;

impl Deadline {
    /// Marks all connections as suspect. Must be called before the query is dropped.
    pub fn suspect_connections(&self) {
        let until = self.begin.elapsed() + LASTS;
        self.until.store(until.as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether a deadline has passed recently.
    pub fn suspects_connections(&self) -> bool {
        (self.begin.elapsed().as_millis() as u64) < self.until.load(Ordering::Relaxed)
    }

    /// Runs work with the database for at most `limit`.
    ///
    /// # Errors
    /// Those of the work; or `Unavailable` if it took longer. Completed work then stands, or is rolled back with its
    /// transaction.
    pub async fn run<T, E: From<DeadlineExceeded>>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.timeout(limit, work).await.unwrap_or_else(|late| Err(late.into()))
    }

    /// Like `run`, for a caller that treats the deadline differently from other errors.
    ///
    /// # Errors
    /// The work took longer.
    pub async fn timeout<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, DeadlineExceeded> {
        let raised = async {
            tokio::time::sleep(limit).await;
            // Not in the handler: `select!` has dropped the work by the time its handlers run.
            self.suspect_connections();
        };
        tokio::select! {
            done = work => Ok(done),
            () = raised => Err(DeadlineExceeded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_suspected_before_the_work_is_dropped() {
        struct Work(Deadline);
        impl Drop for Work {
            fn drop(&mut self) {
                assert!(self.0.suspects_connections());
            }
        }
        let deadline = Deadline::default();
        assert_eq!(deadline.timeout(Duration::from_secs(9), async { 7 }).await, Ok(7));
        assert!(!deadline.suspects_connections());
        let work = Work(deadline.clone());
        let never = async move {
            let _work = work;
            std::future::pending::<()>().await;
        };
        assert_eq!(deadline.timeout(Duration::from_millis(1), never).await, Err(DeadlineExceeded));
    }
}
