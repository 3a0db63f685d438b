//! What this process has read and not yet recorded: deliveries that wait for a slot, and those being sent.

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

/// What has waited longer since it was read and judged is forgotten, and read and judged again when its turn comes.
const FRESH: Duration = Duration::from_secs(1);

/// A delivery that may be sent, with what it shares with others: where to, and about what.
pub struct Outbound {
    pub delivery: DueDelivery,
    /// `None`: we cannot sign for it.
    pub receiver: Option<Arc<Receiver>>,
    pub sale: Arc<DueSale>,
    pub read_at: Instant,
}

/// Handles to the deliveries in hand.
#[derive(Clone, Default)]
pub struct InFlight(Arc<Shared>);

#[derive(Default)]
struct Shared {
    hands: Mutex<Hands>,
    /// Something can be sent. Whoever takes it passes the word on when there is more.
    filled: Notify,
    /// It is worth looking for more.
    wanting: Notify,
}

#[derive(Default)]
struct Hands {
    /// Read and not recorded, with the channel of each.
    deliveries: HashMap<DeliveryId, ChannelId>,
    channels: HashMap<ChannelId, Channel>,
    /// Channels with something waiting and a free place, in the order of their turns.
    turns: VecDeque<ChannelId>,
    /// How many deliveries wait, in all channels.
    waiting: usize,
    /// The last look-out had no room for all that is due; it is worth another when no more than so many wait.
    look_below: Option<usize>,
}

#[derive(Default)]
struct Channel {
    waiting: VecDeque<Outbound>,
    sending: usize,
    /// How many may be sent at once.
    places: usize,
    /// More is due than was read; it is worth another look-out when no more than so many wait.
    look_below: Option<usize>,
    has_turn: bool,
}

/// What one look-out may add to a channel.
pub struct Room {
    pub channel: ChannelId,
    /// How many more may be in hand.
    pub share: usize,
    /// What of it is in hand.
    pub in_flight: Vec<DeliveryId>,
}

impl InFlight {
    /// How many deliveries wait.
    pub fn waiting(&self) -> usize {
        self.0.hands.lock().waiting
    }

    /// Whether nothing waits, is being sent, or is to be recorded.
    pub fn is_empty(&self) -> bool {
        self.0.hands.lock().deliveries.is_empty()
    }

    /// Whether every result is there that is to come.
    pub fn nothing_is_being_sent(&self) -> bool {
        self.0.hands.lock().channels.values().all(|channel| channel.sending == 0)
    }

    /// What of `channels` is in hand.
    pub fn of_channels(&self, channels: &[ChannelId]) -> Vec<DeliveryId> {
        let hands = self.0.hands.lock();
        let of_them = hands.deliveries.iter().filter(|(_, channel)| channels.contains(channel));
        of_them.map(|(delivery, _)| *delivery).collect()
    }

    /// The `channels` that may have more in hand, each with so many places: `ahead` for each of these beyond them, and
    /// no more than an equal share of `wanted`.
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
            // Who has no place free may hang: what is read for it would only grow old.
            let ahead = if free == 0 || places == 1 { 0 } else { places * ahead };
            // What was read when there were more places is in the way of others.
            let beyond = channel.waiting.split_off(channel.waiting.len().min(free + ahead));
            if !beyond.is_empty() {
                channel.look_below = Some(channel.waiting.len() / 2);
            }
            hands.waiting -= beyond.len();
            for outbound in beyond {
                hands.deliveries.remove(&outbound.delivery.id);
            }
            let channel = hands.channels.entry(id).or_default();
            let equal = wanted / count + usize::from(at < wanted % count);
            let share = (free + ahead).saturating_sub(channel.waiting.len()).min(equal);
            if share == 0 {
                channel.look_below = Some(channel.waiting.len() / 2);
            }
            Room { channel: id, share, in_flight: in_flight_of.remove(&id).unwrap_or_default() }
        });
        rooms.filter(|room| room.share > 0).collect()
    }

    /// Takes what was read into `rooms`. What has no room is forgotten: it still stands in the database.
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
                // A share that was filled may have left something behind.
                channel.look_below = (shares[&room.channel] == 0).then_some(channel.waiting.len() / 2);
            }
            hands.give_turn(room.channel);
        }
        drop(hands);
        self.0.filled.notify_one();
    }

    /// Remembers whether the last look-out came around all channels.
    pub fn looked_around(&self, all: bool) {
        let mut hands = self.0.hands.lock();
        hands.look_below = (!all).then_some(hands.waiting / 2);
        hands.channels.retain(|_, channel| channel.sending > 0 || !channel.waiting.is_empty());
    }

    /// The next delivery to send, when there is one; `None` when `stopping`.
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

    /// The next delivery to send, if there is one now: of the channel whose turn it is.
    pub fn take(&self) -> Option<(Outbound, Sending)> {
        let mut hands = self.0.hands.lock();
        let mut looked_below = false;
        let next = loop {
            let Some(id) = hands.turns.pop_front() else { break None };
            let Some(channel) = hands.channels.get_mut(&id) else { continue };
            channel.has_turn = false;
            // There may have been more places when it got its turn.
            if channel.sending >= channel.places {
                continue;
            }
            let Some(outbound) = channel.waiting.pop_front() else { continue };
            let fresh = outbound.read_at.elapsed() < FRESH;
            if fresh {
                channel.sending += 1;
            } else {
                channel.look_below = Some(channel.waiting.len());
            }
            looked_below |= channel.is_worth_a_look();
            hands.waiting -= 1;
            hands.give_turn(id);
            if fresh {
                break Some((id, outbound));
            }
            hands.deliveries.remove(&outbound.delivery.id);
        };
        let more = !hands.turns.is_empty();
        // What waits may all be for channels that hang.
        if hands.look_below.is_some_and(|below| hands.waiting <= below || !more) {
            hands.look_below = None;
            looked_below = true;
        }
        drop(hands);
        if looked_below {
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

    /// Forgets what has been recorded.
    pub fn remove(&self, results: &[AttemptResult]) {
        let mut hands = self.0.hands.lock();
        for result in results {
            hands.deliveries.remove(&result.delivery_id);
        }
        if hands.deliveries.is_empty() {
            // Leases can be given back.
            self.0.wanting.notify_one();
        }
    }

    /// Forgets what waits: nothing new is begun.
    pub fn forget_waiting(&self) {
        let mut hands = self.0.hands.lock();
        let mut forgotten = HashSet::new();
        for channel in hands.channels.values_mut() {
            forgotten.extend(channel.waiting.drain(..).map(|outbound| outbound.delivery.id));
        }
        hands.deliveries.retain(|id, _| !forgotten.contains(id));
        hands.waiting = 0;
    }

    /// Waits until a look-out is worth its while.
    pub async fn wants_more(&self) {
        self.0.wanting.notified().await;
    }
}

impl Hands {
    /// Queues a channel that has something waiting and a free place, once.
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
    /// Says so once.
    fn is_worth_a_look(&mut self) -> bool {
        let worth =
            self.sending < self.places && self.look_below.is_some_and(|below| self.waiting.len() <= below);
        if worth {
            self.look_below = None;
        }
        worth
    }
}

/// A delivery counts as being sent to its channel for as long as this lives, and as in hand until it is recorded.
pub struct Sending {
    in_flight: InFlight,
    delivery: DeliveryId,
    channel: ChannelId,
    has_result: bool,
}

impl Sending {
    /// It has been sent, and its result will be recorded.
    pub fn end(mut self) {
        self.has_result = true;
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut hands = self.in_flight.0.hands.lock();
        if !self.has_result {
            // Its task has panicked: let it be found again.
            hands.deliveries.remove(&self.delivery);
        }
        let mut wanting = false;
        if let Some(channel) = hands.channels.get_mut(&self.channel) {
            channel.sending -= 1;
            wanting = channel.is_worth_a_look();
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
