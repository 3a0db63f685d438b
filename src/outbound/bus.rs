//! The bus of reported prices: what lies between a report's acknowledgement and its recording.
//!
//! Delivery is at least once. A message is hidden from others while it is held, comes back when it is neither
//! acknowledged nor extended in time, and its receiver buries it after `MAX_RECEIVES` receives.

use std::time::Duration;

use chrono::TimeDelta;

use crate::app::Clock;
use crate::error::Result;
use crate::store::bus as table;
pub use crate::store::bus::Received;
use crate::store::pool::PgPool;

/// After so many receives without an acknowledgement a message is to be buried.
pub const MAX_RECEIVES: i16 = 5;

/// One bus, whatever carries it.
pub enum Bus {
    /// A table of the database.
    Postgres { pool: PgPool, clock: Clock, topic: &'static str },
}

impl Bus {
    /// The bus "prices" in the database of `pool`.
    pub fn postgres(pool: PgPool, clock: Clock) -> Bus {
        Bus::Postgres { pool, clock, topic: "prices" }
    }

    /// Sends messages, all or none. They are durable when this returns.
    pub async fn send_batch(&self, payloads: &[Vec<u8>]) -> Result<()> {
        match self {
            Bus::Postgres { pool, clock, topic } => table::send(pool, topic, payloads, clock.now()).await,
        }
    }

    /// Takes up to `max` waiting messages and hides them for `hold`; returns at once when there are none.
    pub async fn receive(&self, max: i64, hold: Duration) -> Result<Vec<Received>> {
        match self {
            Bus::Postgres { pool, clock, topic } => {
                let now = clock.now();
                table::receive(pool, topic, max, now, now + delta(hold)).await
            }
        }
    }

    /// Hides a message for `hold` from now on. False: somebody else has it by now.
    pub async fn extend(&self, message: &Received, hold: Duration) -> Result<bool> {
        match self {
            Bus::Postgres { pool, clock, .. } => {
                table::hide_until(pool, message, clock.now() + delta(hold)).await
            }
        }
    }

    /// The message has been dealt with: it is gone.
    pub async fn acknowledge(&self, message: &Received) -> Result<()> {
        match self {
            Bus::Postgres { pool, .. } => table::delete(pool, message).await,
        }
    }

    /// Gives a message back, to be received again after `pause`; `failure` is kept for whoever looks. With `counts`
    /// false the receive does not count against the message.
    pub async fn give_back(
        &self,
        message: &Received,
        pause: Duration,
        failure: &str,
        counts: bool,
    ) -> Result<()> {
        match self {
            Bus::Postgres { pool, clock, .. } => {
                table::give_back(pool, message, clock.now() + delta(pause), failure, counts).await
            }
        }
    }

    /// Sets a message aside as dead, with the reason.
    pub async fn bury(&self, message: &Received, failure: &str) -> Result<()> {
        match self {
            Bus::Postgres { pool, clock, .. } => table::bury(pool, message, failure, clock.now()).await,
        }
    }

    /// The message that has been dead the longest.
    pub async fn next_dead(&self) -> Result<Option<Received>> {
        match self {
            Bus::Postgres { pool, topic, .. } => table::next_dead(pool, topic).await,
        }
    }

    /// Makes a dead message wait again, as if it had never been received.
    pub async fn revive(&self, message: &Received) -> Result<()> {
        match self {
            Bus::Postgres { pool, clock, .. } => table::revive(pool, message.id, clock.now()).await,
        }
    }

    /// Seconds since the oldest waiting message was sent (0: none waits), and how many are dead.
    pub async fn age_and_dead(&self) -> Result<(f64, i64)> {
        match self {
            Bus::Postgres { pool, clock, topic } => table::age_and_dead(pool, topic, clock.now()).await,
        }
    }
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}
