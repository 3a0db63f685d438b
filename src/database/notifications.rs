//! LISTEN/NOTIFY: what wakes the queues' consumers at once. Polling finds what a lost notification did not.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::database::pool::PgPool;

/// Messages of prices wait on the bus.
pub const PRICES: &str = "salebell_prices";
/// Events wait for their dispatch, or to be published.
pub const EVENTS: &str = "salebell_events";
/// Deliveries are due.
pub const DELIVERIES: &str = "salebell_deliveries";

/// After so long without a notification the connection is asked for a sign of life.
const QUIET: Duration = Duration::from_secs(15);
/// How long that may take, and a new connection.
const LISTENER_TIMEOUT: Duration = Duration::from_secs(5);

/// One bell a queue. A bell that rings while its consumer is busy is not lost: `Notify` keeps one permit.
#[derive(Clone, Default)]
pub struct Notifications {
    pub prices: Arc<Notify>,
    pub events: Arc<Notify>,
    /// Events too: they are published as well.
    pub publications: Arc<Notify>,
    pub deliveries: Arc<Notify>,
}

impl Notifications {
    fn ring(&self, channel: &str) {
        match channel {
            PRICES => self.prices.notify_one(),
            EVENTS => {
                self.events.notify_one();
                self.publications.notify_one();
            }
            DELIVERIES => self.deliveries.notify_one(),
            _ => {}
        }
    }

    /// Listens until the future is dropped; a lost connection is made anew, and everything is rung after it,
    /// because a notification may have gone by meanwhile.
    pub async fn listen(&self, pool: &PgPool) {
        loop {
            if let Err(error) = self.listen_once(pool).await {
                log::warn!(target: "salebell::wakeups", "listening again after: {error}");
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn listen_once(&self, pool: &PgPool) -> sqlx::Result<()> {
        // A connection of its own: one that has died without a word never comes back to its pool.
        let mut listener = pool.listener(LISTENER_TIMEOUT).await?;
        listener.listen_all([PRICES, EVENTS, DELIVERIES]).await?;
        for channel in [PRICES, EVENTS, DELIVERIES] {
            self.ring(channel);
        }
        loop {
            match tokio::time::timeout(QUIET, listener.try_recv()).await {
                Ok(Ok(Some(notification))) => self.ring(notification.channel()),
                // A lost connection.
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                // Nobody rings, or nobody is there any more.
                Err(_) => {
                    let sign_of_life = sqlx::query!("select 1 as one").fetch_one(&mut listener);
                    let answer = tokio::time::timeout(LISTENER_TIMEOUT, sign_of_life).await;
                    answer.map_err(|late| sqlx::Error::Io(late.into()))??;
                }
            }
        }
    }
}
