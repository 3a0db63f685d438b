//! The uploads that this process receives just now: who asks for an upload can end the request that writes it, or have
//! it make durable what has arrived.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};

/// How long a request that is told to end may take to make durable what it has.
const END_WITHIN: Duration = Duration::from_secs(10);
/// How long who asks for the offset waits for what is on its way to the disk.
const SETTLE_WITHIN: Duration = Duration::from_secs(2);

/// Handles to the uploads of the process.
#[derive(Clone, Default)]
pub struct Uploads(Arc<Mutex<HashMap<Uuid, Active>>>);

#[derive(Clone)]
struct Active {
    account: Uuid,
    stop: CancellationToken,
    /// Cancelled when its request has ended.
    ended: CancellationToken,
    settle: mpsc::UnboundedSender<oneshot::Sender<()>>,
}

/// How many uploads may be received at once.
#[derive(Clone, Copy)]
pub struct Limits {
    pub of_process: usize,
    pub of_account: usize,
}

/// One request that writes an upload, for as long as this lives.
pub struct Receiving {
    uploads: Uploads,
    file: Uuid,
    /// Another request wants to write.
    pub stop: CancellationToken,
    ended: CancellationToken,
    /// Somebody waits until what has arrived is durable.
    pub settle: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
}

impl Uploads {
    /// Begins to receive an upload; a request that is at it is ended first, and has then made durable what it had.
    ///
    /// # Errors
    /// `TooManyRequests` or `Unavailable` beyond the limits; `Conflict` when the other request does not end.
    pub async fn begin(&self, file: Uuid, account: Uuid, limits: Limits) -> Result<Receiving> {
        loop {
            let other = {
                let mut active = self.lock();
                match active.get(&file) {
                    Some(other) => other.clone(),
                    None => return self.enter(&mut active, file, account, limits),
                }
            };
            other.stop.cancel();
            if timeout(END_WITHIN, other.ended.cancelled()).await.is_err() {
                let mut refusal = Error::conflict("Another request that writes this upload does not end.");
                refusal.retry_after_s = Some(END_WITHIN.as_secs());
                return Err(refusal);
            }
        }
    }

    fn enter(
        &self,
        active: &mut HashMap<Uuid, Active>,
        file: Uuid,
        account: Uuid,
        limits: Limits,
    ) -> Result<Receiving> {
        if active.len() >= limits.of_process {
            return Err(Error::unavailable("files.uploads_in_flight is reached"));
        }
        if active.values().filter(|upload| upload.account == account).count() >= limits.of_account {
            let detail = format!("No more than {} uploads of an account at once.", limits.of_account);
            let mut refusal = Error::new(Kind::TooManyRequests, detail);
            refusal.retry_after_s = Some(5);
            return Err(refusal);
        }
        let (settle, settled) = mpsc::unbounded_channel();
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        active.insert(file, Active { account, stop: stop.clone(), ended: ended.clone(), settle });
        Ok(Receiving { uploads: self.clone(), file, stop, ended, settle: settled })
    }

    /// Waits until what this process has received of an upload is durable and can be told; not for long.
    pub async fn settle(&self, file: Uuid) {
        let Some(active) = self.lock().get(&file).cloned() else { return };
        let (tell, told) = oneshot::channel();
        if active.settle.send(tell).is_ok() {
            let _ = timeout(SETTLE_WITHIN, told).await;
        }
    }

    /// Ends the request that writes an upload, which is to be removed.
    pub fn end(&self, file: Uuid) {
        if let Some(active) = self.lock().get(&file) {
            active.stop.cancel();
        }
    }

    /// Whoever panicked with the lock had changed one entry or none.
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Active>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.uploads.lock().remove(&self.file);
        self.ended.cancel();
    }
}
