//! Uploads that this process is receiving: another request for the same upload can end the request that writes it, or
//! have it make durable what has arrived. Also the turns in which requests of one account begin uploads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::domain::ids::{AccountId, FileId};
use crate::error::{Error, Kind, Result};

/// Timeout for a request that must end to make durable what it has received.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout for a request that waits until received bytes are durable.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Active uploads of the process. Clones share them.
#[derive(Clone, Default)]
pub struct Uploads {
    active: Arc<Mutex<HashMap<FileId, Active>>>,
    turns: Arc<Mutex<HashMap<AccountId, Arc<tokio::sync::Mutex<()>>>>>,
}

#[derive(Clone)]
struct Active {
    account: AccountId,
    stop: CancellationToken,
    /// Cancelled when the request has ended.
    ended: CancellationToken,
    settle: mpsc::UnboundedSender<oneshot::Sender<()>>,
}

/// Bounds on the number of uploads that are received at once.
#[derive(Clone, Copy)]
pub struct Limits {
    pub of_process: usize,
    pub of_account: usize,
}

/// Registration of one request that writes an upload, until it is dropped.
pub struct Receiving {
    uploads: Uploads,
    file: FileId,
    /// Cancelled when the request must end: another request takes over the upload, or it is removed.
    pub stop: CancellationToken,
    ended: CancellationToken,
    /// Requests to make durable what has arrived. Each sender is notified afterwards.
    pub settle: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
}

/// The turn of one account to check its quota, until it is dropped.
pub struct QuotaGuard {
    uploads: Uploads,
    account: AccountId,
    held: Option<OwnedMutexGuard<()>>,
}

impl Uploads {
    /// Waits until no other request of the account checks its quota. Such requests would only wait for the lock of the
    /// account's row, each with a database connection that others need.
    pub async fn turn(&self, account: AccountId) -> QuotaGuard {
        let mut turn = QuotaGuard { uploads: self.clone(), account, held: None };
        let queue = self.turns.lock().entry(account).or_default().clone();
        turn.held = Some(queue.lock_owned().await);
        turn
    }

    /// Begins to receive an upload. A request that is already writing it is ended first, and makes durable what it has.
    ///
    /// # Errors
    /// `Unavailable` or `TooManyRequests` beyond the limits of the process or the account; `Locked` if the other
    /// request does not end.
    pub async fn begin(&self, file: FileId, account: AccountId, limits: Limits) -> Result<Receiving> {
        loop {
            self.take_over(file).await?;
            let mut active = self.active.lock();
            if !active.contains_key(&file) {
                return self.enter(&mut active, file, account, limits);
            }
        }
    }

    /// Ends the request by which this process receives an upload, if there is one. It first makes durable what it has.
    ///
    /// # Errors
    /// `Locked` if the request does not end: it may be completing the upload, which takes a while in S3.
    pub async fn take_over(&self, file: FileId) -> Result<()> {
        let Some(other) = self.active.lock().get(&file).cloned() else { return Ok(()) };
        other.stop.cancel();
        if timeout(END_TIMEOUT, other.ended.cancelled()).await.is_err() {
            let detail = "Another request is still writing to this upload.";
            let mut refusal = Error::new(Kind::Locked, detail);
            refusal.retry_after_s = Some(END_TIMEOUT.as_secs());
            return Err(refusal);
        }
        Ok(())
    }

    fn enter(
        &self,
        active: &mut HashMap<FileId, Active>,
        file: FileId,
        account: AccountId,
        limits: Limits,
    ) -> Result<Receiving> {
        if active.len() >= limits.of_process {
            return Err(Error::unavailable("files.uploads_in_flight is reached"));
        }
        if active.values().filter(|upload| upload.account == account).count() >= limits.of_account {
            let detail = format!("An account can have at most {} uploads in progress.", limits.of_account);
            let mut refusal = Error::new(Kind::TooManyRequests, detail);
            refusal.retry_after_s = Some(5);
            return Err(refusal);
        }
        let (settle, settled) = mpsc::unbounded_channel();
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        active.insert(file, Active { account, stop: stop.clone(), ended: ended.clone(), settle });
        Ok(Receiving { uploads: self.clone(), file, stop, ended, settle: settled })
    }

    /// Number of uploads that are being received.
    pub fn count(&self) -> usize {
        self.active.lock().len()
    }

    /// Waits for a short time until what this process has received of an upload is durable and can be reported. The
    /// request that receives it continues.
    pub async fn settle(&self, file: FileId) {
        let Some(active) = self.active.lock().get(&file).cloned() else { return };
        let (confirm, confirmed) = oneshot::channel();
        if active.settle.send(confirm).is_ok() {
            let _ = timeout(SETTLE_TIMEOUT, confirmed).await;
        }
    }

    /// Ends the request that writes an upload, because the upload is to be removed.
    pub fn end(&self, file: FileId) {
        if let Some(active) = self.active.lock().get(&file) {
            active.stop.cancel();
        }
    }
}

impl Drop for QuotaGuard {
    fn drop(&mut self) {
        self.held = None;
        let mut turns = self.uploads.turns.lock();
        // Only the map still refers to the queue, and no other request can obtain it while the map is locked.
        if turns.get(&self.account).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            turns.remove(&self.account);
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.uploads.active.lock().remove(&self.file);
        self.ended.cancel();
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn turns_of_one_account_follow_each_other_and_leave_nothing() {
        let uploads = Uploads::default();
        let (anna, ben) = (AccountId(Uuid::from_u128(1)), AccountId(Uuid::from_u128(2)));
        let first = uploads.turn(anna).await;
        uploads.turn(ben).await;
        let second = uploads.turn(anna);
        tokio::pin!(second);
        assert!(timeout(Duration::ZERO, second.as_mut()).await.is_err());
        // A request that stops waiting does not block others.
        assert!(timeout(Duration::ZERO, uploads.turn(anna)).await.is_err());
        drop(first);
        drop(timeout(Duration::from_secs(5), second).await.expect("its turn"));
        assert!(uploads.turns.lock().is_empty());
    }
}
