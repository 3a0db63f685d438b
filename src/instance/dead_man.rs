//! The dead man's switch: when the load balancer's health checks cease, the instance requests its own replacement.
//!
//! ```text
//! the first health check          → armed
//! dead_man_s without another      → is the instance in service? (metadata)
//!                                 → is no other instance of the group being replaced? (a row of the database)
//!                                 → SetInstanceHealth Unhealthy → the process stops serving
//! ```
//!
//! If any check on the way fails, the instance stays: a broken health checker or an unavailable database must not empty
//! the group. See docs/decisions/0016-dead-man-switch.md.

use std::time::{Duration, Instant};

use metrics::{counter, gauge};

use super::replacement::{LONGEST_ROUND, RETRY, Replacement, ReplacementVerdict};
use crate::app::App;
use crate::error::{Result, chain};

/// Exit code of `salebell api` after the switch has fired: systemd does not restart it then.
pub const EXIT_CODE: u8 = 90;

/// Interval between two checks of the silence.
const TICK: Duration = Duration::from_secs(1);
/// Maximum time that counts as silence between two checks. A process that was stopped, or whose machine slept, received
/// nothing in that time, which proves nothing.
const LONGEST_TICK: Duration = Duration::from_secs(2);

/// Time since the last health check, by the monotonic clock.
#[derive(Debug)]
pub struct Silence {
    armed: bool,
    received: u64,
    lasts: Duration,
    updated_at: Instant,
}

impl Silence {
    /// Creates a switch that is not armed.
    pub fn new(now: Instant) -> Silence {
        Silence { armed: false, received: 0, lasts: Duration::ZERO, updated_at: now }
    }

    /// Updates the silence; `received` is the number of health checks received so far. Returns the time without one, or
    /// `None` while the switch is not armed.
    pub fn update(&mut self, received: u64, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.updated_at).min(LONGEST_TICK);
        self.updated_at = now;
        if received != self.received {
            *self = Silence { armed: true, received, lasts: Duration::ZERO, updated_at: now };
        } else if self.armed {
            self.lasts += since;
        }
        self.armed.then_some(self.lasts)
    }

    /// Disarms the switch until the next health check.
    pub fn disarm(&mut self) {
        self.armed = false;
        self.lasts = Duration::ZERO;
    }
}

/// Watches until `app.stopping`, which it triggers itself once the switch fires.
///
/// # Errors
/// Fails if the address of the instance metadata service is invalid.
pub async fn run(app: App) -> Result<()> {
    let Some(limit) = app.config.instance.dead_man else { return Ok(()) };
    let mut replacement = Replacement::new(app.clone())?;
    let heartbeat = app.health.watchdog.start("the dead man's switch", LONGEST_ROUND);
    let mut silence = Silence::new(Instant::now());
    let mut not_before = Instant::now();
    loop {
        heartbeat.beat();
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            // While the process drains, the load balancer is expected to stop checking.
            () = app.stopping.cancelled() => return Ok(()),
        }
        let received = app.health.dead_man.health_checks();
        let lasts = silence.update(received, Instant::now());
        gauge!("salebell_dead_man_armed").set(f64::from(u8::from(lasts.is_some())));
        gauge!("salebell_dead_man_silence_seconds").set(lasts.unwrap_or_default().as_secs_f64());
        let Some(lasts) = lasts.filter(|lasts| *lasts >= limit) else { continue };
        if Instant::now() < not_before {
            continue;
        }
        let seconds = lasts.as_secs();
        let verdict = tokio::select! {
            verdict = replacement.request(|| app.health.dead_man.health_checks() == received) => verdict,
            () = app.stopping.cancelled() => return Ok(()),
        };
        not_before = Instant::now() + RETRY;
        let outcome = match verdict {
            Ok(ReplacementVerdict::Replaced) => {
                counter!("salebell_dead_man_total", "outcome" => "fired").increment(1);
                log::error!(target: "salebell::dead_man", "dead_man.silence_s" = seconds;
                    "no health check for {seconds} s: this instance has itself replaced and stops serving");
                app.health.dead_man.fire();
                app.stopping.cancel();
                return Ok(());
            }
            Ok(ReplacementVerdict::CalledOff) => "heard",
            Ok(ReplacementVerdict::NotInService(state)) => {
                log::info!(target: "salebell::dead_man",
                    "no health check for {seconds} s, as it should be: the group wants this instance {state}");
                silence.disarm();
                "disarmed"
            }
            Ok(ReplacementVerdict::HeldBack) => {
                log::warn!(target: "salebell::dead_man", "dead_man.silence_s" = seconds;
                    "no health check for {seconds} s, held back: another instance of the group is being replaced");
                "held_back"
            }
            Err(failure) => {
                log::error!(target: "salebell::dead_man", "dead_man.silence_s" = seconds;
                    "no health check for {seconds} s, and this instance goes on: {}", chain(failure.as_ref()));
                "failed"
            }
        };
        counter!("salebell_dead_man_total", "outcome" => outcome).increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn silence_counts_from_the_first_health_check() {
        let mut now = Instant::now();
        let mut silence = Silence::new(now);
        for _ in 0..1000 {
            now += SECOND;
            assert_eq!(silence.update(0, now), None, "no health check has arrived yet");
        }
        assert_eq!(silence.update(1, now), Some(Duration::ZERO));
        for seconds in 1..=89 {
            now += SECOND;
            assert_eq!(silence.update(1, now), Some(SECOND * seconds));
        }
        assert_eq!(silence.update(2, now), Some(Duration::ZERO), "another one in time");
        now += SECOND;
        assert_eq!(silence.update(2, now), Some(SECOND));
        silence.disarm();
        now += SECOND;
        assert_eq!(silence.update(2, now), None);
        assert_eq!(silence.update(3, now), Some(Duration::ZERO));
    }

    #[test]
    fn a_process_that_was_stopped_has_not_been_silent() {
        let mut now = Instant::now();
        let mut silence = Silence::new(now);
        silence.update(1, now);
        now += SECOND * 600;
        assert_eq!(silence.update(1, now), Some(LONGEST_TICK));
        // A clock that goes backwards, as monotonic clocks have been seen to do.
        assert_eq!(silence.update(1, now - SECOND * 300), Some(LONGEST_TICK));
    }
}
