//! Shares processor time between requests, so that processing bytes from outside never blocks the rest of the process.
//!
//! - Such work yields after a time slice: loops call `give_way` (or `Stride::advance`, which checks the clock only now
//!   and then). Health checks, leases and transactions then make progress, and work whose client has hung up ends
//!   there, because its future is dropped.
//! - One account computes on one core at a time, and all accounts together on no more cores than there are. A future
//!   computes only inside `poll`, so `CpuTime::share` acquires the account's turn before each poll and releases it
//!   afterwards: no turn is held while a request waits for its body or for the database. The first slice of a request
//!   needs no turn, so that short requests never wait for each other.
//! - Work that cannot yield in the middle, such as parsing a large JSON body, runs on a blocking thread:
//!   `CpuTime::compute`.

use std::cell::Cell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;
use tokio_util::task::AbortOnDropHandle;

use crate::domain::ids::AccountId;
use crate::error::{Error, Result};

/// Longest time for which work continues without yielding. Yielding costs some microseconds, checking the clock some
/// nanoseconds.
const SLICE: Duration = Duration::from_millis(2);
/// Number of bytes after which a `Stride` checks the clock.
const CHECK_EVERY_BYTES: usize = 4 << 10;
/// Minimum number of bytes that one step of a `Stride` counts as: a refused line costs more than its bytes.
const STEP: usize = 256;
/// Number of bytes below which work takes less time than handing it to a thread.
const WORTH_A_THREAD: usize = 16 << 10;
/// Number of accounts in the map at which those that no longer compute are removed.
const SWEEP_AT: usize = 1024;

thread_local! {
    /// Start of the poll that runs on this thread, if it is a poll of `CpuTime::share`.
    static SLICE_BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Processor time of this process; cheap to clone.
#[derive(Clone)]
pub struct CpuTime {
    cores: Arc<Semaphore>,
    /// A semaphore with one permit for each account that computes, for as long as it does.
    accounts: Arc<Mutex<HashMap<AccountId, Weak<Semaphore>>>>,
}

impl Default for CpuTime {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        CpuTime { cores: Arc::new(Semaphore::new(cores)), accounts: Arc::default() }
    }
}

impl CpuTime {
    /// Runs `work` in turns with everything else. `account` returns the account that the work is for, once it is known.
    ///
    /// Must not be used inside work that is already shared: it would wait for a turn that it holds itself.
    pub async fn share<F: Future>(&self, account: impl Fn() -> Option<AccountId>, work: F) -> F::Output {
        let mut work = pin!(work);
        let mut used = Duration::ZERO;
        let mut turns: Option<Turns> = None;
        poll_fn(|context| {
            // The permits are held until the end of this poll.
            let _turn = if used < SLICE {
                None
            } else {
                let account = account();
                let mut mine = match turns.take() {
                    Some(turns) if turns.of == account => turns,
                    _ => self.turns(account),
                };
                let turn = mine.poll_take(context);
                turns = Some(mine);
                Some(ready!(turn))
            };
            let slice = Slice::begin();
            let polled = work.as_mut().poll(context);
            used += slice.end();
            polled
        })
        .await
    }

    /// Runs `work` on `bytes` bytes in the account's turn, on a blocking thread. Work on a few bytes runs immediately.
    ///
    /// # Errors
    /// The work panicked.
    pub async fn compute<T: Send + 'static>(
        &self,
        account: Option<AccountId>,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        if bytes < WORTH_A_THREAD {
            return Ok(work());
        }
        let (cores, account) = (self.cores.clone(), account.map(|account| self.turn_of(account)));
        // In a separate task: inside `share`, the permit would be assigned to this task while it holds the turn
        // already. The work does not begin once its client has hung up.
        let task = tokio::spawn(async move {
            // Neither semaphore is ever closed.
            let account = match account {
                Some(turn) => turn.acquire_owned().await.ok(),
                None => None,
            };
            let core = cores.acquire_owned().await.ok();
            let done = tokio::task::spawn_blocking(move || {
                let done = work();
                drop((core, account));
                done
            });
            done.await
        });
        AbortOnDropHandle::new(task).await.and_then(|done| done).map_err(Error::internal)
    }

    fn turns(&self, account: Option<AccountId>) -> Turns {
        Turns {
            of: account,
            account: account.map(|account| PollSemaphore::new(self.turn_of(account))),
            core: PollSemaphore::new(self.cores.clone()),
            held: None,
        }
    }

    fn turn_of(&self, account: AccountId) -> Arc<Semaphore> {
        let mut accounts = self.accounts.lock();
        if let Some(turn) = accounts.get(&account).and_then(Weak::upgrade) {
            return turn;
        }
        if accounts.len() >= SWEEP_AT {
            accounts.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::new(Semaphore::new(1));
        accounts.insert(account, Arc::downgrade(&turn));
        turn
    }
}

/// Acquisition of the turns of one request: first the account's, then a core.
struct Turns {
    of: Option<AccountId>,
    account: Option<PollSemaphore>,
    core: PollSemaphore,
    /// The account's turn, while waiting for a core.
    held: Option<OwnedSemaphorePermit>,
}

impl Turns {
    fn poll_take(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<(Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>)> {
        if let Some(account) = self.account.as_mut().filter(|_| self.held.is_none()) {
            self.held = ready!(account.poll_acquire(context));
        }
        let core = ready!(self.core.poll_acquire(context));
        Poll::Ready((self.held.take(), core))
    }
}

/// One poll of shared work. Restores the previous state when dropped, including after a panic.
struct Slice {
    began: Instant,
    before: Option<Instant>,
}

impl Slice {
    fn begin() -> Slice {
        let began = Instant::now();
        Slice { began, before: SLICE_BEGAN.replace(Some(began)) }
    }

    fn end(self) -> Duration {
        self.began.elapsed()
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        SLICE_BEGAN.set(self.before);
    }
}

/// Yields the processor if this work has used it for a slice. Every loop over bytes from outside that may run for long
/// without waiting for anything must call it.
pub async fn give_way() {
    poll_fn(poll_give_way).await;
}

/// `give_way` for code that polls.
pub fn poll_give_way(context: &mut Context<'_>) -> Poll<()> {
    if SLICE_BEGAN.get().is_none_or(|began| began.elapsed() < SLICE) {
        return Poll::Ready(());
    }
    // tokio's function lets the runtime check for I/O first; a task that only wakes itself would run before that. It is
    // pending once, and the next poll begins a new slice.
    pin!(tokio::task::yield_now()).poll(context)
}

/// Counter for a loop over many small pieces, which does not check the clock for each of them.
#[derive(Default)]
pub struct Stride {
    bytes: usize,
}

impl Stride {
    /// Yields now and then. Must be called for each piece, with its length.
    pub async fn advance(&mut self, bytes: usize) {
        self.bytes += bytes.max(STEP);
        if self.bytes >= CHECK_EVERY_BYTES {
            self.bytes = 0;
            give_way().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Computes for some slices, yielding in between.
    async fn busy(slices: usize) {
        for _ in 0..slices {
            let until = Instant::now() + SLICE;
            while Instant::now() < until {}
            give_way().await;
        }
    }

    #[tokio::test]
    async fn work_yields_by_time_and_only_on_a_shared_core() {
        let cpu = CpuTime::default();
        let (rounds, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let others = async {
            while done.load(Ordering::SeqCst) == 0 {
                rounds.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        };
        let work = async {
            cpu.share(|| None, busy(10)).await;
            done.store(1, Ordering::SeqCst);
        };
        tokio::join!(others, work);
        assert!((5..100).contains(&rounds.load(Ordering::SeqCst)), "{rounds:?}");
        assert!(poll_fn(|context| Poll::Ready(poll_give_way(context))).await.is_ready());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn an_account_computes_on_one_core_and_holds_no_turn_while_it_waits() {
        let cpu = CpuTime::default();
        let anna = AccountId(Uuid::from_u128(1));
        let (at_once, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = tokio::task::JoinSet::new();
        // This task has used its slice and waits for something that never happens.
        let waiting = tokio::spawn({
            let cpu = cpu.clone();
            async move {
                let work = async {
                    busy(2).await;
                    std::future::pending::<()>().await;
                };
                cpu.share(|| Some(anna), work).await;
            }
        });
        for at in 0..6 {
            let (cpu, at_once, most) = (cpu.clone(), at_once.clone(), most.clone());
            let count = move || {
                most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let until = Instant::now() + SLICE;
                while Instant::now() < until {}
                at_once.fetch_sub(1, Ordering::SeqCst);
            };
            tasks.spawn(async move {
                if at % 2 == 0 {
                    return cpu.compute(Some(anna), WORTH_A_THREAD, count).await.unwrap();
                }
                let work = async {
                    busy(2).await;
                    for _ in 0..5 {
                        count();
                        give_way().await;
                    }
                };
                cpu.share(|| Some(anna), work).await;
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), 1);
        waiting.abort();
    }

    #[tokio::test]
    async fn work_whose_client_has_gone_does_not_start() {
        let cpu = CpuTime::default();
        let anna = AccountId(Uuid::from_u128(1));
        let held = cpu.turn_of(anna).acquire_owned().await.unwrap();
        let begun = Arc::new(AtomicUsize::new(0));
        let counter = begun.clone();
        let work = cpu.compute(Some(anna), WORTH_A_THREAD, move || counter.fetch_add(1, Ordering::SeqCst));
        assert!(tokio::time::timeout(Duration::from_millis(10), work).await.is_err());
        drop(held);
        // The turn is available again as soon as the dropped work has ended.
        drop(cpu.turn_of(anna).acquire_owned().await.unwrap());
        assert_eq!(begun.load(Ordering::SeqCst), 0);
        cpu.compute(Some(anna), WORTH_A_THREAD, || panic!("on purpose")).await.unwrap_err();
        assert_eq!(cpu.compute(Some(anna), WORTH_A_THREAD, || 7).await.unwrap(), 7);
    }

    #[test]
    fn accounts_that_no_longer_compute_are_forgotten() {
        let cpu = CpuTime::default();
        for account in 0..3 * SWEEP_AT as u128 {
            cpu.turn_of(AccountId(Uuid::from_u128(account)));
        }
        assert!(cpu.accounts.lock().len() <= SWEEP_AT);
    }
}
