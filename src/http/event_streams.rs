//! Limits of open streams of server-sent events: each costs a query every half second.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::ids::AccountId;
use crate::error::{Error, Kind, Result};

/// Maximum number of event streams of a process.
const OF_PROCESS: usize = 500;
/// Maximum number of event streams of an account.
const OF_ACCOUNT: usize = 10;
/// Time in seconds after which a refused stream may be asked for again: others end with their import.
const RETRY_AFTER_S: u64 = 10;

/// Number of open event streams, by account.
#[derive(Clone, Default)]
pub struct EventStreamLimits(Arc<Mutex<HashMap<AccountId, usize>>>);

/// An open event stream; dropping it releases its place.
pub struct OpenEventStream {
    limits: EventStreamLimits,
    account: AccountId,
}

impl EventStreamLimits {
    /// Opens an event stream for an account.
    ///
    /// # Errors
    /// `TooManyRequests` beyond the limit of an account, `Unavailable` beyond that of the process.
    pub fn begin(&self, account: AccountId) -> Result<OpenEventStream> {
        let mut counts = self.0.lock();
        if counts.values().sum::<usize>() >= OF_PROCESS {
            return Err(Error::unavailable(format!("{OF_PROCESS} streams of events are open")));
        }
        let of_account = counts.entry(account).or_default();
        if *of_account >= OF_ACCOUNT {
            let detail = format!("An account can have at most {OF_ACCOUNT} event streams open.");
            let mut refusal = Error::new(Kind::TooManyRequests, detail);
            refusal.retry_after_s = Some(RETRY_AFTER_S);
            return Err(refusal);
        }
        *of_account += 1;
        Ok(OpenEventStream { limits: self.clone(), account })
    }
}

impl Drop for OpenEventStream {
    fn drop(&mut self) {
        let mut counts = self.limits.0.lock();
        if let Some(count) = counts.get_mut(&self.account) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.account);
            }
        }
    }
}
