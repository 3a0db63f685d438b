//! What time it is. The whole fleet goes by the database's clock: what one process lets live, no other takes for dead,
//! whatever its machine believes.

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;

use crate::error::{Error, Result};

/// Two clocks that are kept right are never so far apart.
const AGREED_WITHIN: TimeDelta = TimeDelta::seconds(60);
/// What is less is left alone: the time shall not jitter.
const CORRECTED_FROM: TimeDelta = TimeDelta::seconds(1);

/// Where the time comes from. Clones are one clock.
#[derive(Clone)]
pub struct Clock {
    machine: Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>,
    /// What the database last told and when; `None` in a clock that does not ask.
    database: Option<Arc<Mutex<Option<Observed>>>>,
}

#[derive(Clone, Copy)]
struct Observed {
    time: DateTime<Utc>,
    at: Instant,
}

impl Clock {
    /// The database's, and the system's until that is known.
    pub fn system() -> Clock {
        #[expect(clippy::disallowed_methods, reason = "this is the clock")]
        Clock::of_fleet(Utc::now)
    }

    /// The database's, on a machine whose own is this.
    pub fn of_fleet(machine: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Clock {
        Clock { machine: Arc::new(machine), database: Some(Arc::default()) }
    }

    /// This and no other: tests move it.
    pub fn new(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Clock {
        Clock { machine: Arc::new(now), database: None }
    }

    /// UTC, in whole microseconds as PostgreSQL keeps them.
    pub fn now(&self) -> DateTime<Utc> {
        let now = match self.told() {
            // The machine's clock may jump meanwhile, its ticks do not.
            Some(told) => told.time + TimeDelta::from_std(told.at.elapsed()).unwrap_or_default(),
            None => (self.machine)(),
        };
        DateTime::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now)
    }

    /// The database, which was asked at `asked`, has just told its time.
    pub fn observe(&self, time: DateTime<Utc>, asked: Instant) {
        let Some(database) = &self.database else { return };
        let took = TimeDelta::from_std(asked.elapsed()).unwrap_or_default();
        let told = Observed { time: time + took / 2, at: Instant::now() };
        let known = self.told().is_some();
        if known && (told.time - self.now()).abs() < CORRECTED_FROM + took {
            return;
        }
        *database.lock() = Some(told);
        if let Err(error) = self.check() {
            log::error!(target: "salebell::clock", "{}", crate::error::chain(&error));
        }
    }

    /// # Errors
    /// The machine and the database are more than a minute apart: one of them is wrong, and nobody can tell which.
    pub fn check(&self) -> Result<()> {
        if self.told().is_none() {
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

    fn told(&self) -> Option<Observed> {
        self.database.as_ref().and_then(|database| *database.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_tells_the_time_and_a_machine_that_jumps_does_not() {
        let epoch = DateTime::UNIX_EPOCH;
        let machine = Arc::new(Mutex::new(epoch));
        let clock = Clock::of_fleet({
            let machine = machine.clone();
            move || *machine.lock()
        });
        assert_eq!(clock.now(), epoch, "nobody has told another");
        let near = |time: DateTime<Utc>| (clock.now() - time).abs() < TimeDelta::seconds(1);
        let year = TimeDelta::days(365);
        clock.observe(epoch + year, Instant::now());
        assert!(near(epoch + year) && clock.check().is_err());
        *machine.lock() = epoch + year * 2;
        assert!(near(epoch + year) && clock.check().is_err());
        *machine.lock() = epoch + year + TimeDelta::seconds(30);
        assert!(near(epoch + year) && clock.check().is_ok());
        // What a slow answer says within its time is no news; what is off by more is.
        let before = clock.now();
        clock.observe(before + TimeDelta::milliseconds(500), Instant::now());
        assert!(near(before));
        clock.observe(before + TimeDelta::seconds(5), Instant::now());
        assert!(near(before + TimeDelta::seconds(5)));
    }
}
