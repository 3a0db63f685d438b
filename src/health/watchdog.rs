//! Signs of life: what the watchdog asks before it tells systemd that the process is alive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sd_notify::NotifyState;

use super::systemd::notify;

/// The loops of this process that must come round again and again.
#[derive(Clone, Default)]
pub struct Watchdog(Arc<Mutex<Vec<Beat>>>);

struct Beat {
    name: &'static str,
    last: Instant,
    limit: Duration,
    serial: usize,
}

/// One loop's sign of life; the loop is not watched any more when this is dropped.
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

    /// The name of a loop that has been silent for too long.
    pub fn stale(&self) -> Option<&'static str> {
        self.0.lock().iter().find(|beat| beat.last.elapsed() > beat.limit).map(|beat| beat.name)
    }

    /// Whether the runtime runs tasks and every watched loop comes round. The database is not asked: a restart of ours
    /// would not mend it.
    ///
    /// # Errors
    /// What is silent.
    pub async fn check_alive(&self, patience: Duration) -> Result<(), &'static str> {
        // Goes through the queue that every task waits in.
        if tokio::time::timeout(patience, tokio::spawn(async {})).await.is_err() {
            return Err("the runtime");
        }
        self.stale().map_or(Ok(()), Err)
    }

    /// Pings systemd's watchdog as long as there is a sign of life. Ends at once where systemd has none for us.
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
    /// The loop has come round.
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
