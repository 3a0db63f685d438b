//! The bus of reported prices, between the acknowledgement of a report and its recording.
//!
//! Delivery is at least once. A message is hidden from other receivers while it is held, becomes visible again if it
//! is neither acknowledged nor extended in time, and is dead after `MAX_RECEIVES` receives.

mod clients;
mod message;
mod queue;
pub mod topic;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use self::clients::Clients;
use self::message::Receipt;
pub use self::message::ReceivedMessage;
use self::queue::PriceQueue;
use self::topic::{PRICES_AT_ONCE, Topic};
use crate::aws::Chain;
use crate::clock::{Clock, delta};
use crate::config;
use crate::database::pool::PgPool;
use crate::error::Result;
use crate::store::bus as table;
use crate::store::lease::Lease;

/// Receives without an acknowledgement after which a message is dead-lettered.
pub const MAX_RECEIVES: i16 = 5;

/// The bus, over one of its carriers.
pub enum Bus {
    /// A table of the database.
    Postgres { pool: PgPool, clock: Clock, topic: &'static str },
    /// A topic of SNS, and the SQS queue that is subscribed to it.
    Aws { topic: Topic, queue: PriceQueue },
}

/// Builds the bus that the settings name, and the topic of events if there is one. Makes no request.
pub fn connect(
    settings: &config::BusConfig,
    pool: PgPool,
    clock: Clock,
    chain: &Chain,
) -> (Bus, Option<Topic>) {
    let topics = [&settings.prices_topic, &settings.events_topic];
    let region = topics.into_iter().flatten().next().map(|topic| topic.region().to_owned());
    let clients = Arc::new(Clients::new(chain.clone(), region, settings.endpoint.clone()));
    let events = settings.events_topic.clone().map(|arn| Topic::new(clients.clone(), arn));
    let bus =
        match (settings.kind, &settings.prices_topic, &settings.prices_queue, &settings.prices_dead_queue) {
            (config::BusKind::Aws, Some(topic), Some(queue), Some(dead)) => Bus::Aws {
                topic: Topic::new(clients.clone(), topic.clone()),
                queue: PriceQueue::new(clients, clock, queue, dead),
            },
            _ => Bus::Postgres { pool, clock, topic: "prices" },
        };
    (bus, events)
}

impl Bus {
    /// Whether the bus accepts and keeps messages while the database is unavailable.
    pub fn outlives_database(&self) -> bool {
        matches!(self, Bus::Aws { .. })
    }

    /// Maximum number of bytes of one payload. `None`: no limit.
    pub fn max_payload(&self) -> Option<usize> {
        match self {
            Bus::Postgres { .. } => None,
            Bus::Aws { .. } => Some(topic::MAX_PAYLOAD),
        }
    }

    /// Sends messages, which are durable when this returns.
    ///
    /// # Errors
    /// `Unavailable`: the carrier is unavailable; some of the messages may have been sent nevertheless.
    pub async fn send_batch(&self, payloads: &[Vec<u8>]) -> Result<()> {
        match self {
            Bus::Postgres { pool, clock, topic } => table::send(pool, topic, payloads, clock.now()).await,
            Bus::Aws { topic, .. } => {
                for some in payloads.chunks(PRICES_AT_ONCE) {
                    topic.send(some.iter().map(|payload| queue::write(payload)).collect()).await?;
                }
                Ok(())
            }
        }
    }

    /// Receives up to `max` waiting messages and hides them for `hold`. If there are none, a bus that cannot send
    /// notifications waits for one, for `wait` and at most 20 s.
    ///
    /// # Errors
    /// `Unavailable`: the carrier is unavailable.
    pub async fn receive(&self, max: i64, hold: Duration, wait: Duration) -> Result<Vec<ReceivedMessage>> {
        match self {
            Bus::Postgres { pool, clock, topic } => {
                let now = clock.now();
                let rows = table::receive(pool, topic, max, now, now + delta(hold)).await?;
                Ok(rows.into_iter().map(ReceivedMessage::from).collect())
            }
            Bus::Aws { queue, .. } => queue.receive(max, hold, wait).await,
        }
    }

    /// Hides a message for `hold` from now on.
    ///
    /// # Errors
    /// `Unavailable`: the carrier is unavailable.
    pub async fn extend(&self, message: &ReceivedMessage, hold: Duration) -> Result<Lease> {
        match (self, &message.receipt) {
            (Bus::Postgres { pool, clock, .. }, Receipt::Row(receipt)) => {
                table::hide_until(pool, message.id, *receipt, clock.now() + delta(hold)).await
            }
            (Bus::Aws { queue, .. }, Receipt::Queue(held)) => queue.hide(held, hold).await,
            _ => Ok(Lease::Lost),
        }
    }

    /// Removes a message that has been dealt with.
    ///
    /// # Errors
    /// `Unavailable`: the carrier is unavailable.
    pub async fn acknowledge(&self, message: &ReceivedMessage) -> Result<()> {
        match (self, &message.receipt) {
            (Bus::Postgres { pool, .. }, Receipt::Row(receipt)) => {
                table::delete(pool, message.id, *receipt).await
            }
            (Bus::Aws { queue, .. }, Receipt::Queue(held)) => queue.delete(held).await,
            _ => Ok(()),
        }
    }

    /// Releases a message, to be received again after `pause`. The carrier keeps `failure` for operators if it has a
    /// place for it. With `counts` false, the receive does not count against the message, if the carrier allows that.
    ///
    /// # Errors
    /// `Unavailable`: the carrier is unavailable.
    pub async fn release(
        &self,
        message: &ReceivedMessage,
        pause: Duration,
        failure: &str,
        counts: bool,
    ) -> Result<()> {
        match (self, &message.receipt) {
            (Bus::Postgres { pool, clock, .. }, Receipt::Row(receipt)) => {
                let until = clock.now() + delta(pause);
                table::release(pool, message.id, *receipt, until, failure, counts).await
            }
            (Bus::Aws { queue, .. }, Receipt::Queue(held)) => queue.hide(held, pause).await.map(drop),
            _ => Ok(()),
        }
    }

    /// Dead-letters a message, with the reason if the carrier has a place for it.
    ///
    /// # Errors
    /// `Unavailable`: the carrier is unavailable.
    pub async fn dead_letter(&self, message: &ReceivedMessage, failure: &str) -> Result<()> {
        match (self, &message.receipt) {
            (Bus::Postgres { pool, clock, .. }, Receipt::Row(receipt)) => {
                table::dead_letter(pool, message.id, *receipt, failure, clock.now()).await
            }
            (Bus::Aws { queue, .. }, Receipt::Queue(held)) => queue.dead_letter(held).await,
            _ => Ok(()),
        }
    }

    /// Next message that was dead-lettered before `before`. `None`: there are no more.
    ///
    /// # Errors
    /// `Unavailable`: the carrier is unavailable.
    pub async fn next_dead(&self, before: DateTime<Utc>) -> Result<Option<ReceivedMessage>> {
        match self {
            Bus::Postgres { pool, topic, .. } => {
                Ok(table::next_dead(pool, topic, before).await?.map(ReceivedMessage::from))
            }
            Bus::Aws { queue, .. } => queue.next_dead(before).await,
        }
    }

    /// Makes a dead message wait again as if it had never been received.
    ///
    /// # Errors
    /// `Unavailable`: the carrier is unavailable.
    pub async fn revive(&self, message: &ReceivedMessage) -> Result<()> {
        match (self, &message.receipt) {
            (Bus::Postgres { pool, clock, .. }, Receipt::Row(_)) => {
                table::revive(pool, message.id, clock.now()).await
            }
            (Bus::Aws { queue, .. }, Receipt::Queue(held)) => queue.revive(held).await,
            _ => Ok(()),
        }
    }

    /// Reads some messages that may have been dead-lettered without our doing, different ones each time. They stay
    /// dead.
    ///
    /// # Errors
    /// `Unavailable`: the carrier is unavailable.
    pub async fn list_dead(&self) -> Result<Vec<ReceivedMessage>> {
        match self {
            Bus::Postgres { .. } => Ok(Vec::new()),
            Bus::Aws { queue, .. } => queue.list_dead().await,
        }
    }

    /// Age in seconds of the oldest waiting message (0: none waits), and number of dead messages. SQS does not report
    /// the age: there it is that of the message that this process received last, and at least a second.
    ///
    /// # Errors
    /// `Unavailable`: the carrier is unavailable.
    pub async fn age_and_dead(&self) -> Result<(f64, i64)> {
        match self {
            Bus::Postgres { pool, clock, topic } => table::age_and_dead(pool, topic, clock.now()).await,
            Bus::Aws { queue, .. } => queue.age_and_dead().await,
        }
    }
}
