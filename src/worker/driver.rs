//! Driver of the worker's tasks: runs a task round by round, waits between rounds, and backs off after failures.
//!
//! A task states its name, how often it polls, and what a round does. Everything that the tasks have in common is here:
//! the heartbeat, the wait, the log line and the metric. `deliver`, which keeps many requests in flight at once, has a
//! loop of its own.

use std::time::Duration;

use metrics::counter;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::app::App;
use crate::error::{Result, chain};
use crate::health::watchdog::Heartbeat;

/// Longest wait after failures, unless the task's interval is longer. It is short because a database that has failed
/// over is back within seconds.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Outcome of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It did something, and there may be more to do: the next round follows at once.
    More,
    /// There was nothing to do: the next round waits for a notification or for the interval.
    Idle,
}

impl Progress {
    /// `More` if something was done.
    pub fn of(done: bool) -> Progress {
        if done { Progress::More } else { Progress::Idle }
    }

    /// Whether the next round follows at once.
    pub fn is_more(self) -> bool {
        self == Progress::More
    }
}

/// A task of the worker. A round takes no input: its work is read from the bus or the database, so that a lost
/// notification or a crash costs time and nothing else.
pub trait Task: Send {
    /// Name in the watchdog and in the metric's label `task`.
    const NAME: &'static str;
    /// Target of its log lines.
    const LOG_TARGET: &'static str;

    /// Time from the beginning of an idle round to the next round.
    fn interval(&self, app: &App) -> Duration {
        app.config.worker.poll
    }

    /// Longest time between two heartbeats of a round: when it has passed, the watchdog considers the process hung. The
    /// default is for rounds that wait for the database three times at most.
    fn longest_round(&self, app: &App) -> Duration {
        app.config.worker.lease * 3
    }

    /// Signal that there may be something to do before the interval is over.
    fn notification<'a>(&'a self, _: &'a App) -> Option<&'a Notify> {
        None
    }

    /// Runs one round. A long round beats in between.
    ///
    /// # Errors
    /// The round failed; it is logged and tried again.
    fn round(&mut self, app: &App, heartbeat: &Heartbeat) -> impl Future<Output = Result<Progress>> + Send;

    /// Releases what the task still holds when the process stops.
    ///
    /// # Errors
    /// It was not released, and waits for its lease to expire.
    fn finish(&mut self, _: &App) -> impl Future<Output = Result<()>> + Send {
        std::future::ready(Ok(()))
    }
}

/// Runs a task until `app.stopping`; the round in progress is finished first.
pub async fn run<T: Task>(app: App, mut task: T) {
    let interval = task.interval(&app);
    let heartbeat = app.health.watchdog.start(T::NAME, task.longest_round(&app) + MAX_BACKOFF.max(interval));
    let mut failures = 0;
    while !app.stopping.is_cancelled() {
        heartbeat.beat();
        let began = Instant::now();
        let progress = task.round(&app, &heartbeat).await;
        count_round(T::NAME, &progress);
        let wait = async {
            match progress {
                Ok(Progress::More) => failures = 0,
                Ok(Progress::Idle) => {
                    failures = 0;
                    // From its beginning: a round that has itself waited for a message of the bus waits no longer.
                    notified_or(task.notification(&app), began + interval).await;
                }
                Err(error) => {
                    log::warn!(target: T::LOG_TARGET, "a round failed, retrying: {}", chain(&error));
                    // A notification shortens the wait, but never below the interval: every round may meet the same
                    // failure.
                    let failed = Instant::now();
                    sleep(interval).await;
                    notified_or(task.notification(&app), failed + backoff(interval, failures)).await;
                    failures += 1;
                }
            }
        };
        tokio::select! {
            () = wait => {}
            () = app.stopping.cancelled() => {}
        }
    }
    if let Err(error) = task.finish(&app).await {
        log::warn!(target: T::LOG_TARGET, "what is held waits for its lease to expire: {}", chain(&error));
    }
}

async fn notified_or(notification: Option<&Notify>, at: Instant) {
    let notified = async {
        match notification {
            Some(notification) => notification.notified().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = notified => {}
        () = sleep_until(at) => {}
    }
}

/// Wait after a failure that followed `failures` others.
fn backoff(interval: Duration, failures: u32) -> Duration {
    let doubled = interval.saturating_mul(1 << failures.min(16));
    doubled.min(MAX_BACKOFF.max(interval))
}

/// Counts a round of a task by its outcome.
pub(super) fn count_round(task: &'static str, progress: &Result<Progress>) {
    let outcome = match progress {
        Ok(Progress::More) => "more",
        Ok(Progress::Idle) => "idle",
        Err(_) => "failed",
    };
    counter!("salebell_worker_rounds_total", "task" => task, "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_a_bound_and_is_never_shorter_than_the_interval() {
        let second = Duration::from_secs(1);
        let waits: Vec<u64> = (0..5).map(|failures| backoff(second, failures).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        assert_eq!(backoff(second, u32::MAX), MAX_BACKOFF);
        assert_eq!(backoff(Duration::from_secs(10), 3), Duration::from_secs(10));
        assert_eq!(backoff(Duration::ZERO, 3), Duration::ZERO);
    }
}
