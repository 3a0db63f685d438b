//! The database password that pools share, which may change while they are in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// Longest wait for another password: longer than Secrets Manager takes from setting one in the database to marking
/// it as current, and shorter than a request may take.
pub(super) const PASSWORD_TIMEOUT: Duration = Duration::from_secs(10);
/// Error of a caller that has waited for the first password in vain.
pub(super) const NO_PASSWORD_YET: &str = "there is no token yet to log in to the database with";
/// Interval at which a waiting caller reports the refused password again.
pub(super) const REFUSAL_INTERVAL: Duration = Duration::from_millis(250);

/// The generation before the first password.
pub(super) const NONE_YET: u64 = 0;

/// State of the password that pools share.
#[derive(Clone)]
pub struct Password {
    /// Signals that the database has refused the password.
    refusal: Arc<Notify>,
    /// Generation of the newest password that was refused.
    refused: Arc<AtomicU64>,
    /// Number of passwords so far. `None`: no task supplies further ones.
    generation: Arc<watch::Sender<Option<u64>>>,
}

impl Default for Password {
    fn default() -> Self {
        let generation = Arc::new(watch::Sender::new(None));
        Password { refusal: Arc::default(), refused: Arc::default(), generation }
    }
}

impl Password {
    /// Records that a task supplies further passwords.
    pub fn expect_renewals(&self) {
        self.generation.send_if_modified(|generation| generation.replace(generation.unwrap_or(1)).is_none());
    }

    /// Records that the pools have no password yet, and that a task supplies it.
    pub fn expect_first(&self) {
        self.generation.send_replace(Some(NONE_YET));
    }

    /// Waits for the first password, if there is none yet.
    pub async fn first(&self) {
        let mut generation = self.generation.subscribe();
        // Cannot fail: `self` holds the sender.
        let _ = generation.wait_for(|now| *now != Some(NONE_YET)).await;
    }

    /// Records that the pools have a new password.
    pub fn renewed(&self) {
        self.generation.send_modify(|generation| *generation = generation.map(|number| number + 1));
    }

    /// Generation of the current password. `None`: there will be no other.
    pub(super) fn generation(&self) -> Option<u64> {
        *self.generation.borrow()
    }

    /// Records that the database has refused the password of this generation.
    pub(super) fn refuse(&self, number: u64) {
        self.refused.fetch_max(number, Ordering::SeqCst);
        self.refusal.notify_one();
    }

    /// Waits until the database has refused the current password.
    pub async fn refused(&self) {
        loop {
            self.refusal.notified().await;
            // A refusal of the previous password may be signalled late.
            if *self.generation.borrow() == Some(self.refused.load(Ordering::SeqCst)) {
                return;
            }
        }
    }

    /// Waits at most `limit` for another password than `before`, and returns whether there is one.
    pub(super) async fn wait(&self, before: u64, limit: Duration) -> bool {
        let mut generation = self.generation.subscribe();
        let waiting = async {
            loop {
                self.refuse(before);
                let other = generation.wait_for(|now| now.is_some_and(|number| number != before));
                if let Ok(found) = tokio::time::timeout(REFUSAL_INTERVAL, other).await {
                    return found.is_ok();
                }
            }
        };
        tokio::time::timeout(limit, waiting).await.unwrap_or(false)
    }
}

/// Whether an error is `invalid_password`, or `invalid_authorization_specification`, with which RDS refuses IAM
/// tokens.
pub(super) fn is_refusal(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| matches!(code.as_ref(), "28P01" | "28000"))
}
