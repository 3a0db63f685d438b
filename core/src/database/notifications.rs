//! Notifications (LISTEN/NOTIFY), which wake the consumers of queues at once. Polling finds what a lost notification
//! did not announce.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::database::pool::PgPool;

/// Channel for messages of prices on the bus.
pub const PRICES: &str = "salebell_prices";
/// Channel for events to dispatch or to publish.
pub const EVENTS: &str = "salebell_events";
/// Channel for deliveries that are due.
pub const DELIVERIES: &str = "salebell_deliveries";

/// Silence after which the connection is pinged.
const QUIET: Duration = Duration::from_secs(15);
/// Timeout of such a ping, and of opening a connection.
const LISTENER_TIMEOUT: Duration = Duration::from_secs(5);

/// Signals for the consumers, one for each queue. A signal sent while its consumer is busy is not lost: `Notify`
/// keeps one permit.
#[derive(Clone, Default)]
pub struct Notifications {
    pub prices: Arc<Notify>,
    pub events: Arc<Notify>,
    /// Woken by events too, which are both dispatched and published.
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

    /// Listens until the future is dropped. After a lost connection it reconnects and wakes all consumers, because
    /// notifications may have been missed meanwhile.
    pub async fn listen(&self, pool: &PgPool) {
        loop {
            if let Err(error) = self.listen_once(pool).await {
                log::warn!(target: "salebell::wakeups", "listening again after: {error}");
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn listen_once(&self, pool: &PgPool) -> sqlx::Result<()> {
        // A connection outside the pool: one that dies without a sign would never be returned.
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
                // Either there was no notification, or the server is gone.
                Err(_) => {
                    let sign_of_life = sqlx::query!("select 1 as one").fetch_one(&mut listener);
                    let answer = tokio::time::timeout(LISTENER_TIMEOUT, sign_of_life).await;
                    answer.map_err(|late| sqlx::Error::Io(late.into()))??;
                }
            }
        }
    }
}
