//! The password of the database, which may change while pools are in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// How long somebody waits for another password: longer than Secrets Manager takes from setting one in the database to
/// calling it the current one, and shorter than a request may take.
pub(super) const PASSWORD_TIMEOUT: Duration = Duration::from_secs(10);
/// What somebody hears who has waited for the first password in vain.
pub(super) const NO_PASSWORD_YET: &str = "there is no token yet to log in to the database with";
/// How often somebody who waits asks for another password.
pub(super) const RING_AGAIN: Duration = Duration::from_millis(250);

/// The generation before the first password.
pub(super) const NONE_YET: u64 = 0;

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

    /// The number of the current one; `None` when there will be no other.
    pub(super) fn generation(&self) -> Option<u64> {
        *self.generation.borrow()
    }

    /// Says that the database has refused the one of this number.
    pub(super) fn refuse(&self, number: u64) {
        self.refused.fetch_max(number, Ordering::SeqCst);
        self.bell.notify_one();
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
    pub(super) async fn wait(&self, before: u64, limit: Duration) -> bool {
        let mut generation = self.generation.subscribe();
        let waiting = async {
            loop {
                self.refuse(before);
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
pub(super) fn is_refusal(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| matches!(code.as_ref(), "28P01" | "28000"))
}
