//! Deliveries that this process has read and not yet recorded: those that wait for a slot, and those being sent.
//!
//! A channel with waiting deliveries and a free place has a turn in a queue. A slot takes the channel at the front,
//! sends one of its deliveries, and the channel queues up again behind the others.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::ids::{ChannelId, DeliveryId};
use crate::outbound::webhook::Receiver;
use crate::store::delivery_queue::{AttemptResult, DueDelivery, DueSale};

/// How long a delivery may wait after it was read. An older one is dropped from memory and read again later, since
/// its price may no longer stand.
const FRESH: Duration = Duration::from_secs(1);

/// A delivery that may be sent, with the receiver and the sale that it shares with others.
pub struct Outbound {
    pub delivery: DueDelivery,
    /// `None`: it cannot be signed.
    pub receiver: Option<Arc<Receiver>>,
    pub sale: Arc<DueSale>,
    pub read_at: Instant,
}

/// Shared handle to the deliveries in flight.
#[derive(Clone, Default)]
pub struct InFlight(Arc<Shared>);

#[derive(Default)]
struct Shared {
    hands: Mutex<Hands>,
    /// Signals that a delivery can be sent. The slot that is woken signals again if there are more.
    filled: Notify,
    /// Signals that another claim is worthwhile.
    wanting: Notify,
}

#[derive(Default)]
struct Hands {
    /// Deliveries that were read and not yet recorded, with the channel of each.
    deliveries: HashMap<DeliveryId, ChannelId>,
    channels: HashMap<ChannelId, Channel>,
    /// Channels with a waiting delivery and a free place, in the order of their turns.
    turns: VecDeque<ChannelId>,
    /// Number of waiting deliveries, over all channels.
    waiting: usize,
    /// Set if the last claim had no room for all that is due: another claim is worthwhile once no more than this many
    /// deliveries wait.
    claim_below: Option<usize>,
}

#[derive(Default)]
struct Channel {
    waiting: VecDeque<Outbound>,
    sending: usize,
    /// Maximum number of deliveries sent concurrently.
    places: usize,
    /// Set if more is due than was read: another claim is worthwhile once no more than this many deliveries wait.
    claim_below: Option<usize>,
    has_turn: bool,
}

/// Allowance of one claim for a channel.
pub struct Room {
    pub channel: ChannelId,
    /// Maximum number of deliveries that may be added.
    pub share: usize,
    /// Deliveries of the channel that are in flight already.
    pub in_flight: Vec<DeliveryId>,
}

impl InFlight {
    /// Number of waiting deliveries.
    pub fn waiting(&self) -> usize {
        self.0.hands.lock().waiting
    }

    /// Whether nothing waits, is being sent, or is yet to be recorded.
    pub fn is_empty(&self) -> bool {
        self.0.hands.lock().deliveries.is_empty()
    }

    /// Whether no attempt is in progress, so that no further result will arrive.
    pub fn nothing_is_being_sent(&self) -> bool {
        self.0.hands.lock().channels.values().all(|channel| channel.sending == 0)
    }

    /// Lists the deliveries of `channels` that are in flight.
    pub fn of_channels(&self, channels: &[ChannelId]) -> Vec<DeliveryId> {
        let hands = self.0.hands.lock();
        let of_them = hands.deliveries.iter().filter(|(_, channel)| channels.contains(channel));
        of_them.map(|(delivery, _)| *delivery).collect()
    }

    /// Allowances of those `channels` that may get more deliveries. Each channel is given with its number of places. Its
    /// allowance is the number of free places plus `ahead` for each place, less what waits already, but no more than an
    /// equal share of `wanted`.
    pub fn rooms(
        &self,
        channels: impl ExactSizeIterator<Item = (ChannelId, usize)>,
        wanted: usize,
        ahead: usize,
    ) -> Vec<Room> {
        let mut hands = self.0.hands.lock();
        let mut in_flight_of: HashMap<ChannelId, Vec<DeliveryId>> = HashMap::new();
        for (delivery, channel) in &hands.deliveries {
            in_flight_of.entry(*channel).or_default().push(*delivery);
        }
        let count = channels.len();
        let rooms = channels.enumerate().map(|(at, (id, places))| {
            let channel = hands.channels.entry(id).or_default();
            channel.places = places;
            let free = places.saturating_sub(channel.sending);
            // A channel without a free place may hang: deliveries read ahead for it would only grow stale.
            let ahead = if free == 0 || places == 1 { 0 } else { places * ahead };
            // Deliveries that were read when there were more places take room from other channels.
            let beyond = channel.waiting.split_off(channel.waiting.len().min(free + ahead));
            if !beyond.is_empty() {
                channel.claim_below = Some(channel.waiting.len() / 2);
            }
            hands.waiting -= beyond.len();
            for outbound in beyond {
                hands.deliveries.remove(&outbound.delivery.id);
            }
            let channel = hands.channels.entry(id).or_default();
            let equal = wanted / count + usize::from(at < wanted % count);
            let share = (free + ahead).saturating_sub(channel.waiting.len()).min(equal);
            if share == 0 {
                channel.claim_below = Some(channel.waiting.len() / 2);
            }
            Room { channel: id, share, in_flight: in_flight_of.remove(&id).unwrap_or_default() }
        });
        rooms.filter(|room| room.share > 0).collect()
    }

    /// Adds the deliveries that were read for `rooms`. Those without an allowance are dropped: they are still in the
    /// database.
    pub fn put(&self, read: Vec<Outbound>, rooms: &[Room]) {
        let mut hands = self.0.hands.lock();
        let mut shares: HashMap<ChannelId, usize> =
            rooms.iter().map(|room| (room.channel, room.share)).collect();
        let mut taken = 0;
        for outbound in read {
            let id = outbound.delivery.channel_id;
            let Some(share) = shares.get_mut(&id).filter(|share| **share > 0) else { continue };
            *share -= 1;
            taken += 1;
            hands.deliveries.insert(outbound.delivery.id, id);
            hands.channels.entry(id).or_default().waiting.push_back(outbound);
        }
        hands.waiting += taken;
        for room in rooms {
            if let Some(channel) = hands.channels.get_mut(&room.channel) {
                // A filled share may have left deliveries behind.
                channel.claim_below = (shares[&room.channel] == 0).then_some(channel.waiting.len() / 2);
            }
            hands.give_turn(room.channel);
        }
        drop(hands);
        self.0.filled.notify_one();
    }

    /// Records whether the last claim came round all channels.
    pub fn record_round(&self, all: bool) {
        let mut hands = self.0.hands.lock();
        hands.claim_below = (!all).then_some(hands.waiting / 2);
        hands.channels.retain(|_, channel| channel.sending > 0 || !channel.waiting.is_empty());
    }

    /// Waits for the next delivery to send. Returns `None` when `stopping`.
    pub async fn next(&self, stopping: &CancellationToken) -> Option<(Outbound, Sending)> {
        loop {
            if stopping.is_cancelled() {
                return None;
            }
            if let Some(next) = self.take() {
                return Some(next);
            }
            tokio::select! {
                () = self.0.filled.notified() => {}
                () = stopping.cancelled() => {}
            }
        }
    }

    /// Next delivery to send, if there is one now, from the channel whose turn it is.
    pub fn take(&self) -> Option<(Outbound, Sending)> {
        let mut hands = self.0.hands.lock();
        let mut claim_wanted = false;
        let next = loop {
            let Some(id) = hands.turns.pop_front() else { break None };
            let Some(channel) = hands.channels.get_mut(&id) else { continue };
            channel.has_turn = false;
            // The channel may have lost places since it got its turn.
            if channel.sending >= channel.places {
                continue;
            }
            let Some(outbound) = channel.waiting.pop_front() else { continue };
            let fresh = outbound.read_at.elapsed() < FRESH;
            if fresh {
                channel.sending += 1;
            } else {
                channel.claim_below = Some(channel.waiting.len());
            }
            claim_wanted |= channel.is_worth_a_claim();
            hands.waiting -= 1;
            hands.give_turn(id);
            if fresh {
                break Some((id, outbound));
            }
            hands.deliveries.remove(&outbound.delivery.id);
        };
        let more = !hands.turns.is_empty();
        // All waiting deliveries may be for channels that hang.
        if hands.claim_below.is_some_and(|below| hands.waiting <= below || !more) {
            hands.claim_below = None;
            claim_wanted = true;
        }
        drop(hands);
        if claim_wanted {
            self.0.wanting.notify_one();
        }
        if more {
            self.0.filled.notify_one();
        }
        next.map(|(channel, outbound)| {
            gauge!("salebell_deliveries_in_flight").increment(1);
            let sending = Sending {
                in_flight: self.clone(),
                delivery: outbound.delivery.id,
                channel,
                has_result: false,
            };
            (outbound, sending)
        })
    }

    /// Removes deliveries whose results have been recorded.
    pub fn remove(&self, results: &[AttemptResult]) {
        let mut hands = self.0.hands.lock();
        for result in results {
            hands.deliveries.remove(&result.delivery_id);
        }
        if hands.deliveries.is_empty() {
            // The leases can be released.
            self.0.wanting.notify_one();
        }
    }

    /// Drops the waiting deliveries, so that no new attempt begins.
    pub fn forget_waiting(&self) {
        let mut hands = self.0.hands.lock();
        let mut forgotten = HashSet::new();
        for channel in hands.channels.values_mut() {
            forgotten.extend(channel.waiting.drain(..).map(|outbound| outbound.delivery.id));
        }
        hands.deliveries.retain(|id, _| !forgotten.contains(id));
        hands.waiting = 0;
    }

    /// Waits until another claim is worthwhile.
    pub async fn wants_more(&self) {
        self.0.wanting.notified().await;
    }
}

impl Hands {
    /// Queues a channel for a turn, once, if it has a waiting delivery and a free place.
    fn give_turn(&mut self, id: ChannelId) {
        if let Some(channel) = self.channels.get_mut(&id)
            && !channel.has_turn
            && !channel.waiting.is_empty()
            && channel.sending < channel.places
        {
            channel.has_turn = true;
            self.turns.push_back(id);
        }
    }
}

impl Channel {
    /// Whether another claim is worthwhile for this channel. Returns true at most once per refill.
    fn is_worth_a_claim(&mut self) -> bool {
        let worth =
            self.sending < self.places && self.claim_below.is_some_and(|below| self.waiting.len() <= below);
        if worth {
            self.claim_below = None;
        }
        worth
    }
}

/// Guard of an attempt. The delivery counts as being sent while this lives, and as in flight until it is recorded.
pub struct Sending {
    in_flight: InFlight,
    delivery: DeliveryId,
    channel: ChannelId,
    has_result: bool,
}

impl Sending {
    /// Ends an attempt that has a result, which will be recorded.
    pub fn end(mut self) {
        self.has_result = true;
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut hands = self.in_flight.0.hands.lock();
        if !self.has_result {
            // Its task has panicked: let a later claim find the delivery again.
            hands.deliveries.remove(&self.delivery);
        }
        let mut wanting = false;
        if let Some(channel) = hands.channels.get_mut(&self.channel) {
            channel.sending -= 1;
            wanting = channel.is_worth_a_claim();
        }
        hands.give_turn(self.channel);
        let more = !hands.turns.is_empty();
        drop(hands);
        if wanting {
            self.in_flight.0.wanting.notify_one();
        }
        if more {
            self.in_flight.0.filled.notify_one();
        }
        gauge!("salebell_deliveries_in_flight").decrement(1);
    }
}
