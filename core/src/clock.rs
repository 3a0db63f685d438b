//! The current time. The whole fleet uses the database's clock, so that all processes agree on what has expired, whatever
//! the clocks of their machines.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;

use crate::error::{Error, Result};

/// Largest normal difference between two synchronized clocks.
const AGREED_WITHIN: TimeDelta = TimeDelta::seconds(60);
/// Smallest difference that is corrected. Smaller ones are ignored to keep the time steady.
const CORRECTED_FROM: TimeDelta = TimeDelta::seconds(1);

/// Source of the current time. Clones share their state.
#[derive(Clone)]
pub struct Clock {
    machine: Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>,
    /// The last time observed from the database; `None` in a clock that never follows the database.
    database: Option<Arc<Mutex<Option<Observed>>>>,
}

#[derive(Clone, Copy)]
struct Observed {
    time: DateTime<Utc>,
    at: Instant,
}

impl Clock {
    /// The database's clock; the system's until the first observation.
    pub fn system() -> Clock {
        #[expect(clippy::disallowed_methods, reason = "this is the clock")]
        Clock::of_fleet(Utc::now)
    }

    /// The database's clock; `machine` until the first observation.
    pub fn of_fleet(machine: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Clock {
        Clock { machine: Arc::new(machine), database: Some(Arc::default()) }
    }

    /// A clock that follows only `now`, which tests control.
    pub fn new(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Clock {
        Clock { machine: Arc::new(now), database: None }
    }

    /// Current time in UTC, in whole microseconds as PostgreSQL stores it.
    pub fn now(&self) -> DateTime<Utc> {
        let now = match self.observed() {
            // Elapsed time is monotonic: it does not follow jumps of the machine's clock.
            Some(observed) => observed.time + TimeDelta::from_std(observed.at.elapsed()).unwrap_or_default(),
            None => (self.machine)(),
        };
        DateTime::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now)
    }

    /// Records a time that the database has just reported; the query was sent at `asked`.
    pub fn observe(&self, time: DateTime<Utc>, sent_at: Instant) {
        let Some(database) = &self.database else { return };
        let took = TimeDelta::from_std(sent_at.elapsed()).unwrap_or_default();
        let observed = Observed { time: time + took / 2, at: Instant::now() };
        let known = self.observed().is_some();
        if known && (observed.time - self.now()).abs() < CORRECTED_FROM + took {
            return;
        }
        *database.lock() = Some(observed);
        if let Err(error) = self.check() {
            log::error!(target: "salebell::clock", "{}", crate::error::chain(&error));
        }
    }

    /// Compares the machine's clock with the database's.
    ///
    /// # Errors
    /// Fails if the two are more than a minute apart: one of them is incorrect, and there is no way to know which.
    pub fn check(&self) -> Result<()> {
        if self.observed().is_none() {
            return Ok(());
        }
        let ahead = (self.machine)() - self.now();
        if ahead.abs() <= AGREED_WITHIN {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "the clock of this machine is {} s ahead of the database's",
            ahead.num_seconds()
        )))
    }

    fn observed(&self) -> Option<Observed> {
        self.database.as_ref().and_then(|database| *database.lock())
    }
}

/// The same length of time as a difference of two times; the largest one if it is longer.
pub fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_comes_from_the_database_and_not_from_a_machine_whose_clock_jumps() {
        let epoch = DateTime::UNIX_EPOCH;
        let machine = Arc::new(Mutex::new(epoch));
        let clock = Clock::of_fleet({
            let machine = machine.clone();
            move || *machine.lock()
        });
        assert_eq!(clock.now(), epoch, "the database has not reported a time");
        let near = |time: DateTime<Utc>| (clock.now() - time).abs() < TimeDelta::seconds(1);
        let year = TimeDelta::days(365);
        clock.observe(epoch + year, Instant::now());
        assert!(near(epoch + year) && clock.check().is_err());
        *machine.lock() = epoch + year * 2;
        assert!(near(epoch + year) && clock.check().is_err());
        *machine.lock() = epoch + year + TimeDelta::seconds(30);
        assert!(near(epoch + year) && clock.check().is_ok());
        // A difference within the duration of the query is ignored; a larger one is corrected.
        let before = clock.now();
        clock.observe(before + TimeDelta::milliseconds(500), Instant::now());
        assert!(near(before));
        clock.observe(before + TimeDelta::seconds(5), Instant::now());
        assert!(near(before + TimeDelta::seconds(5)));
    }
}
