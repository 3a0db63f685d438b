//! Leases of channels: claims due deliveries under them, and remembers which channel had its turn last.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use metrics::counter;
use tokio::time::Instant;
use uuid::Uuid;

use super::in_flight::{InFlight, Outbound, Room};
use crate::app::App;
use crate::clock::delta;
use crate::domain::delivery::DeliveryReason;
use crate::domain::ids::{ChannelId, DeliveryId};
use crate::error::{Error, Result, chain};
use crate::outbound::webhook::Receiver;
use crate::store::delivery_queue::{self, LeaseRequest, LeasedChannel};

/// Concurrent deliveries to a channel whose last delivery failed: a receiver that hangs holds one slot, not all of
/// the channel's.
const PLACES_WHILE_FAILING: usize = 1;
/// Maximum number of deliveries read with one statement: the first are sent while the next are read.
const READ_AT_ONCE: usize = 512;
/// Maximum number of deliveries read with one statement while the slots have nothing to do.
const READ_FIRST: usize = 64;

/// Leases of this process, under which it claims due deliveries.
pub struct ChannelLeases {
    app: App,
    in_flight: InFlight,
    /// Identity of this process towards other workers.
    holder: Uuid,
    /// Channels that this process may have leased.
    held: HashSet<ChannelId>,
    /// Channel that had its turn last.
    after: ChannelId,
}

impl ChannelLeases {
    pub fn new(app: App, in_flight: InFlight) -> ChannelLeases {
        ChannelLeases {
            app,
            in_flight,
            holder: Uuid::now_v7(),
            held: HashSet::new(),
            after: ChannelId::nil(),
        }
    }

    /// Claims due deliveries until `room` wait, going round all channels at most once. Of each channel it claims no
    /// more than its free places and `ahead` for each place. Returns how many deliveries were cancelled instead.
    ///
    /// # Errors
    /// `Unavailable`: the database is unavailable, or took too long for the leases to be of use.
    pub async fn claim_due(&mut self, room: usize, ahead: usize) -> Result<usize> {
        let began_after = self.after;
        let (mut cancelled, mut turned) = (0, false);
        let all = loop {
            let wanted = room.saturating_sub(self.in_flight.waiting());
            if wanted == 0 {
                break false;
            }
            let (now, leased_at) = (self.app.clock.now(), Instant::now());
            let timeout = delta(self.app.config.webhook.timeout);
            let request = LeaseRequest {
                holder: self.holder,
                after: self.after,
                wanted,
                until: now + timeout * 3,
                renew_before: now + timeout * 2,
            };
            let leased = delivery_queue::lease_channels(&self.app.writer, &request, now).await?;
            self.held.extend(leased.channels.iter().map(|channel| channel.id));
            cancelled += self.read(&leased.channels, wanted, ahead, leased_at).await?;
            self.after = leased.next.unwrap_or(ChannelId::nil());
            match leased.next {
                None if turned || began_after == ChannelId::nil() => break true,
                None => turned = true,
                Some(last) if turned && last >= began_after => break true,
                Some(_) => {}
            }
        };
        self.in_flight.record_round(all);
        Ok(cancelled)
    }

    /// Claims the due deliveries of leased channels, an equal share of each, and returns how many were cancelled
    /// instead.
    ///
    /// This is a separate statement from the one that leases, because it must see everything that the previous holder
    /// has recorded.
    async fn read(
        &self,
        channels: &[LeasedChannel],
        wanted: usize,
        ahead: usize,
        leased_at: Instant,
    ) -> Result<usize> {
        let (app, now) = (&self.app, self.app.clock.now());
        let (active, disabled): (Vec<_>, Vec<_>) = channels.iter().partition(|channel| channel.active);
        let places = active.iter().map(|channel| {
            if channel.failing {
                (channel.id, PLACES_WHILE_FAILING)
            } else {
                (channel.id, app.config.webhook.in_flight_per_channel)
            }
        });
        // Computed before the statements begin: deliveries that are no longer in flight by then are recorded, and the
        // statements see that.
        let rooms = self.in_flight.rooms(places, wanted, ahead);
        let mut cancelled = 0;
        if !disabled.is_empty() {
            let disabled: Vec<ChannelId> = disabled.iter().map(|channel| channel.id).collect();
            let in_flight = self.in_flight.of_channels(&disabled);
            cancelled = delivery_queue::cancel_for_disabled(&app.writer, &disabled, &in_flight, now).await?;
            counter!("salebell_deliveries_cancelled_total", "reason" => DeliveryReason::ChannelDisabled.name())
                .increment(cancelled);
        }
        let channels: HashMap<ChannelId, &LeasedChannel> =
            active.into_iter().map(|channel| (channel.id, channel)).collect();
        let mut rooms = rooms.as_slice();
        while !rooms.is_empty() {
            let most = if self.in_flight.waiting() == 0 { READ_FIRST } else { READ_AT_ONCE };
            let mut read = 0;
            let fits = |room: &&Room| {
                read += room.share;
                read - room.share < most
            };
            let (next, later) = rooms.split_at(rooms.iter().take_while(fits).count());
            cancelled += self.read_due(&channels, next, leased_at).await?;
            rooms = later;
        }
        Ok(cancelled as usize)
    }

    async fn read_due(
        &self,
        channels: &HashMap<ChannelId, &LeasedChannel>,
        rooms: &[Room],
        leased_at: Instant,
    ) -> Result<u64> {
        let (app, now) = (&self.app, self.app.clock.now());
        // Deliveries in flight are still in the table.
        let counts: Vec<(ChannelId, usize)> =
            rooms.iter().map(|room| (room.channel, room.share + room.in_flight.len())).collect();
        let in_flight: Vec<DeliveryId> =
            rooms.iter().flat_map(|room| room.in_flight.iter().copied()).collect();
        let due = delivery_queue::list_due_deliveries(&app.writer, &counts, &in_flight, now).await?;
        if leased_at.elapsed() > app.config.webhook.timeout / 2 {
            // The leases would no longer last for an attempt and its record; the next claim renews them.
            return Err(Error::unavailable("leasing channels and reading what is due in them took too long"));
        }
        // Taken now rather than before the query: a database that needs a second to answer must not make everything
        // stale.
        let read_at = Instant::now();
        let mut receivers: HashMap<ChannelId, Option<Arc<Receiver>>> = HashMap::new();
        let (mut ready, mut ended) = (Vec::new(), Vec::new());
        for delivery in due.deliveries {
            match due.sales.get(&delivery.sale_id) {
                Some(sale) if delivery.reason.is_none() => {
                    let id = delivery.channel_id;
                    let receiver =
                        receivers.entry(id).or_insert_with(|| self.receiver_of(channels.get(&id)?));
                    ready.push(Outbound {
                        sale: sale.clone(),
                        receiver: receiver.clone(),
                        delivery,
                        read_at,
                    });
                }
                _ => ended.push(delivery),
            }
        }
        self.in_flight.put(ready, rooms);
        if ended.is_empty() {
            return Ok(0);
        }
        let cancelled = delivery_queue::cancel_deliveries(&app.writer, &ended, &due.sales, now).await?;
        for reason in ended.into_iter().filter_map(|delivery| delivery.reason) {
            counter!("salebell_deliveries_cancelled_total", "reason" => reason.name()).increment(1);
        }
        Ok(cancelled)
    }

    /// Receiver of a channel. `None`: its secrets cannot be decrypted.
    fn receiver_of(&self, channel: &LeasedChannel) -> Option<Arc<Receiver>> {
        let sealed = (&channel.secret, channel.previous_secret.as_deref());
        match self.app.keyring.open_secrets(channel.id.0, sealed.0, sealed.1) {
            Ok(secrets) => Some(Arc::new(self.app.webhooks.receiver(&channel.url, &secrets))),
            Err(error) => {
                log::error!(target: "salebell::deliver", "channel.id" = channel.id.to_string();
                    "nothing can be signed for a channel: {}", chain(&error));
                None
            }
        }
    }

    /// Releases the channels.
    ///
    /// # Errors
    /// `Unavailable`: the database is unavailable. The leases then expire.
    pub async fn release(&mut self) -> Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let channels: Vec<ChannelId> = self.held.iter().copied().collect();
        // A release that fails here may still be executed later: it must not end leases that are taken meanwhile.
        let holder = std::mem::replace(&mut self.holder, Uuid::now_v7());
        delivery_queue::release_channels(&self.app.writer, holder, &channels).await?;
        self.held.clear();
        Ok(())
    }
}
