//! Connection limit of a listener, and the reserve for health checks when the limit is reached.

use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::speaks::Speaks;
use crate::config::{Config, ConnectionLimit};

/// Number of connections beyond the limit, on which only health checks are answered.
const RESERVE: usize = 64;
/// Number of file descriptors for everything except connections, database and webhooks: listeners, logs, AWS, mail.
const OTHERS: u64 = 64;
/// Upper bound of the descriptors that count; an unlimited number is treated as this one.
const MAX_DESCRIPTORS: u64 = 1 << 20;
/// Lower bound of a listener's connections, regardless of the number of descriptors.
const MIN_CONNECTIONS: u64 = 16;

/// Places for the connections of one listener.
pub(super) struct Room {
    whole: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
}

/// Place of one connection; dropping it releases the place.
pub(super) enum Place {
    Whole {
        _permit: Option<OwnedSemaphorePermit>,
    },
    /// A place on which only health checks are answered.
    Reserve {
        _permit: Option<OwnedSemaphorePermit>,
    },
}

impl Room {
    pub(super) fn new(config: &Config, speaks: Speaks) -> Room {
        let places = match config.server.max_connections {
            ConnectionLimit::Unlimited => Semaphore::MAX_PERMITS,
            ConnectionLimit::Count(count) => count.min(Semaphore::MAX_PERMITS),
            ConnectionLimit::Automatic => {
                let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
                automatic(config, descriptors, speaks)
            }
        };
        Room { whole: Arc::new(Semaphore::new(places)), reserve: Arc::new(Semaphore::new(RESERVE)) }
    }

    /// Waits until there is a place of either kind.
    pub(super) async fn place(&self) -> Place {
        // Neither semaphore is ever closed.
        tokio::select! {
            biased;
            permit = self.whole.clone().acquire_owned() => Place::Whole { _permit: permit.ok() },
            permit = self.reserve.clone().acquire_owned() => Place::Reserve { _permit: permit.ok() },
        }
    }

    /// Exchanges a place of the reserve for a regular one, if one has become free.
    pub(super) fn upgrade(&self, place: Place) -> Place {
        match (place, self.whole.clone().try_acquire_owned()) {
            (Place::Reserve { .. }, Ok(permit)) => Place::Whole { _permit: Some(permit) },
            (place, _) => place,
        }
    }
}

/// Maximum number of connections of a listener in a process that may open `descriptors` file descriptors. An HTTP
/// connection may need a second one, for the file that it sends or receives.
fn automatic(config: &Config, descriptors: u64, speaks: Speaks) -> usize {
    let pools = 2 * u64::from(config.database.max_connections);
    let webhooks = config.worker.deliver_concurrency as u64;
    let free =
        descriptors.min(MAX_DESCRIPTORS).saturating_sub(pools + webhooks + OTHERS + 2 * RESERVE as u64);
    let places = match speaks {
        Speaks::Http => free / 5 * 2,
        Speaks::Grpc => free / 5,
    };
    places.max(MIN_CONNECTIONS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_their_files_leave_descriptors_for_the_rest() {
        let url = ("SALEBELL_DATABASE__URL".to_owned(), "postgres://a@b/c".to_owned());
        let config = Config::load(None, [url]).unwrap();
        assert_eq!(config.server.max_connections, ConnectionLimit::Automatic);
        for descriptors in [1024, 65_536, 262_144, 1 << 40] {
            let (http, grpc) = (
                automatic(&config, descriptors, Speaks::Http),
                automatic(&config, descriptors, Speaks::Grpc),
            );
            let most = 2 * (http + RESERVE) + grpc + RESERVE;
            let (pools, webhooks) =
                (2 * config.database.max_connections as usize, config.worker.deliver_concurrency);
            assert!(((most + pools + webhooks) as u64) < descriptors, "{http} and {grpc} of {descriptors}");
            assert!((http as u64) > descriptors.min(1 << 20) / 8, "{http} of {descriptors}");
        }
        assert_eq!(automatic(&config, 256, Speaks::Http), 16);
    }

    #[tokio::test]
    async fn the_reserve_is_used_only_when_all_places_are_taken() {
        let room = Room { whole: Arc::new(Semaphore::new(1)), reserve: Arc::new(Semaphore::new(1)) };
        let first = room.place().await;
        assert!(matches!(first, Place::Whole { .. }));
        let second = room.place().await;
        assert!(matches!(second, Place::Reserve { .. }));
        drop(first);
        assert!(matches!(room.upgrade(second), Place::Whole { .. }));
        assert!(matches!(room.upgrade(room.place().await), Place::Whole { .. }));
    }
}
