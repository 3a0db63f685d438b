//! Signs of life: what the watchdog asks before it tells systemd that the process is alive.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The loops of this process that must come round again and again.
#[derive(Clone, Default)]
pub struct Pulses(Arc<Mutex<Vec<Beat>>>);

struct Beat {
    name: &'static str,
    last: Instant,
    limit: Duration,
    serial: usize,
}

/// One loop's sign of life; the loop is not watched any more when this is dropped.
pub struct Pulse {
    pulses: Pulses,
    serial: usize,
}

impl Pulses {
    /// Watches a loop that promises to `beat` at least every `limit`.
    pub fn start(&self, name: &'static str, limit: Duration) -> Pulse {
        static SERIAL: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.beats().push(Beat { name, last: Instant::now(), limit, serial });
        Pulse { pulses: self.clone(), serial }
    }

    /// The name of a loop that has been silent for too long.
    pub fn silent(&self) -> Option<&'static str> {
        self.beats().iter().find(|beat| beat.last.elapsed() > beat.limit).map(|beat| beat.name)
    }

    fn beats(&self) -> std::sync::MutexGuard<'_, Vec<Beat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pulse {
    /// The loop has come round.
    pub fn beat(&self) {
        if let Some(beat) = self.pulses.beats().iter_mut().find(|beat| beat.serial == self.serial) {
            beat.last = Instant::now();
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.pulses.beats().retain(|beat| beat.serial != self.serial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_silent_until_it_beats_and_forgotten_when_it_ends() {
        let pulses = Pulses::default();
        let pulse = pulses.start("accept", Duration::ZERO);
        let steady = pulses.start("steady", Duration::from_secs(3600));
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(pulses.silent(), Some("accept"));
        steady.beat();
        drop(pulse);
        assert_eq!(pulses.silent(), None);
    }
}
