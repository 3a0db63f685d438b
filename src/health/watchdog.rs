//! Heartbeats of this process's loops, which are checked before systemd's watchdog is fed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sd_notify::NotifyState;

use super::systemd::notify;

/// The loops of this process that must keep coming round.
#[derive(Clone, Default)]
pub struct Watchdog(Arc<Mutex<Vec<Beat>>>);

struct Beat {
    name: &'static str,
    last: Instant,
    limit: Duration,
    serial: usize,
}

/// Heartbeat of one loop. Dropping it ends the watch over the loop.
pub struct Heartbeat {
    watchdog: Watchdog,
    serial: usize,
}

impl Watchdog {
    /// Watches a loop that promises to `beat` at least every `limit`.
    pub fn start(&self, name: &'static str, limit: Duration) -> Heartbeat {
        static SERIAL: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.lock().push(Beat { name, last: Instant::now(), limit, serial });
        Heartbeat { watchdog: self.clone(), serial }
    }

    /// Name of a loop that has been silent for too long.
    pub fn stale(&self) -> Option<&'static str> {
        self.0.lock().iter().find(|beat| beat.last.elapsed() > beat.limit).map(|beat| beat.name)
    }

    /// Checks that the runtime runs tasks and that every watched loop comes round. The database is not queried:
    /// restarting this process would not repair it.
    ///
    /// # Errors
    /// Returns the name of the silent loop, or that the runtime is silent.
    pub async fn check_alive(&self, timeout: Duration) -> Result<(), &'static str> {
        // A new task waits in the same queue as all others.
        if tokio::time::timeout(timeout, tokio::spawn(async {})).await.is_err() {
            return Err("the runtime");
        }
        self.stale().map_or(Ok(()), Err)
    }

    /// Feeds systemd's watchdog for as long as the process is alive. Returns at once if systemd has no watchdog for it.
    pub async fn feed_watchdog(self) {
        let Some(period) = sd_notify::watchdog_enabled() else { return };
        let mut ticks = tokio::time::interval(period / 3);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.check_alive(period / 3).await {
                Ok(()) => notify(NotifyState::Watchdog),
                Err(silent) => {
                    log::error!(target: "salebell::process", "no sign of life to the watchdog: {silent} is silent");
                }
            }
        }
    }
}

impl Heartbeat {
    /// Records that the loop has come round.
    pub fn beat(&self) {
        if let Some(beat) = self.watchdog.0.lock().iter_mut().find(|beat| beat.serial == self.serial) {
            beat.last = Instant::now();
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.watchdog.0.lock().retain(|beat| beat.serial != self.serial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_stale_until_it_beats_and_forgotten_when_it_ends() {
        let watchdog = Watchdog::default();
        let heartbeat = watchdog.start("accept", Duration::ZERO);
        let steady = watchdog.start("steady", Duration::from_secs(3600));
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(watchdog.stale(), Some("accept"));
        steady.beat();
        drop(heartbeat);
        assert_eq!(watchdog.stale(), None);
    }
}
