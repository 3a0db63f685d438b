//! Deliver: channels are leased, what is due in them is sent, and the results are recorded.
//!
//! What is read is sent at once, and no try lasts longer than `webhook.timeout`. A channel is only read under a lease
//! that lasts for two of that: enough to try and to record, so a lease needs no heartbeat beside the next look-out,
//! which renews it. A worker that dies between sending and recording leaves leases that expire; another sends again
//! under the same `webhook-id`, by which the receiver knows that it has it already. Delivery is at least once.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use metrics::{counter, gauge, histogram};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;
use uuid::Uuid;

use crate::app::App;
use crate::domain::money::{Currency, Money};
use crate::domain::retries;
use crate::error::{Error, Result, chain};
use crate::outbound::webhook::{Attempt, GameData, Message, OfferData, Outgoing, SaleData, StoreData};
use crate::store::delivery_queue::{self, AttemptResult, DueDelivery, LeaseRequest, LeasedChannel};

/// A channel whose last delivery failed is tried with one at a time: who hangs holds one slot, not all of a channel's.
const PLACES_WHILE_FAILING: usize = 1;
/// Results wait so long for others, to be committed together.
const LINGER: Duration = Duration::from_millis(10);
/// And no more than so many are.
const MAX_BATCH: usize = 512;
/// A batch that cannot be recorded is tried again after this.
const RECORD_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Tries that were made, well or badly.
    pub sent: usize,
    /// Deliveries that were cancelled: their price no longer stands, or their channel is disabled.
    pub cancelled: usize,
}

/// Leases channels, sends what is due in them, up to `worker.deliver_concurrency` deliveries, records what came of it,
/// and gives the channels back.
///
/// # Errors
/// The database is away.
pub async fn step(app: &App) -> Result<Step> {
    let mut lookout = Lookout::new(app.clone(), InHand::default());
    let (due, cancelled) = lookout.find(app.config.worker.deliver_concurrency).await?;
    let results = join_all(due.iter().map(|(delivery, _)| try_once(app, delivery))).await;
    record(app, &results).await?;
    drop(due);
    lookout.release().await?;
    Ok(Step { sent: results.len(), cancelled })
}

/// Delivers until `app.stopping`; then what is in flight is finished and recorded.
pub async fn run(app: App) {
    let concurrency = app.config.worker.deliver_concurrency;
    let slots = Arc::new(Semaphore::new(concurrency));
    // Rings when it is worth looking again: places of channels or enough slots have become free.
    let again = Arc::new(Notify::new());
    let in_hand = InHand::default();
    // Room for all that can be in flight: a database that is slow to record holds the next tries back.
    let (results, recorded) = mpsc::channel(concurrency);
    let recorder = tokio::spawn(record_batches(app.clone(), recorded, in_hand.clone(), again.clone()));
    let mut lookout = Lookout::new(app.clone(), in_hand.clone());
    while !app.stopping.is_cancelled() {
        let (found, cancelled) = match lookout.find(slots.available_permits()).await {
            Ok(found) => found,
            Err(error) => {
                log::warn!(target: "salebell::deliver", "looking again after: {}", chain(&error));
                (Vec::new(), 0)
            }
        };
        for (delivery, sending) in found {
            // Nobody else takes slots, so there are as many as were free.
            let Ok(slot) = slots.clone().acquire_owned().await else { break };
            let (app, slots, again) = (app.clone(), slots.clone(), again.clone());
            let results = results.clone();
            tokio::spawn(async move {
                let result = try_once(&app, &delivery).await;
                sending.end();
                // The recorder ends only after us.
                let _ = results.send(result).await;
                drop(slot);
                // A look-out for every single slot would be a statement for every delivery.
                if slots.available_permits() * 4 >= concurrency {
                    again.notify_one();
                }
            });
        }
        // What was cancelled has made place for what waits behind it.
        if cancelled > 0 {
            continue;
        }
        // What is idle holds nothing: a process that is killed then keeps nobody waiting.
        if in_hand.is_empty()
            && let Err(error) = lookout.release().await
        {
            log::warn!(target: "salebell::deliver", "channels were not given back: {}", chain(&error));
        }
        tokio::select! {
            () = again.notified() => {}
            () = app.wakeups.deliveries.notified() => {}
            () = tokio::time::sleep(app.config.worker.poll) => {}
            () = app.stopping.cancelled() => {}
        }
    }
    drop(results);
    if let Err(error) = recorder.await {
        log::error!(target: "salebell::deliver", "the recorder ended badly: {error}");
    }
    if let Err(error) = lookout.release().await {
        log::warn!(target: "salebell::deliver", "channels were not given back: {}", chain(&error));
    }
}

/// The deliveries of this process between being read and being recorded.
#[derive(Clone, Default)]
struct InHand(Arc<Mutex<Hands>>);

#[derive(Default)]
struct Hands {
    /// Read and not recorded, with the channel of each.
    deliveries: HashMap<Uuid, Uuid>,
    /// How many are being sent, by channel.
    sending: HashMap<Uuid, usize>,
}

impl InHand {
    /// Counts a delivery as being sent to its channel for as long as what is returned lives, and as in hand until it is recorded.
    fn begin(&self, delivery: &DueDelivery) -> OneSending {
        let mut hands = self.lock();
        hands.deliveries.insert(delivery.id, delivery.channel_id);
        *hands.sending.entry(delivery.channel_id).or_default() += 1;
        gauge!("salebell_deliveries_in_flight").increment(1);
        OneSending {
            in_hand: self.clone(),
            delivery: delivery.id,
            channel: delivery.channel_id,
            has_result: false,
        }
    }

    fn remove(&self, results: &[AttemptResult]) {
        let mut hands = self.lock();
        for result in results {
            hands.deliveries.remove(&result.delivery_id);
        }
    }

    fn is_empty(&self) -> bool {
        self.lock().deliveries.is_empty()
    }

    fn nothing_is_being_sent(&self) -> bool {
        self.lock().sending.is_empty()
    }

    /// Whoever panicked with the lock had changed one entry or none.
    fn lock(&self) -> MutexGuard<'_, Hands> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct OneSending {
    in_hand: InHand,
    delivery: Uuid,
    channel: Uuid,
    has_result: bool,
}

impl OneSending {
    /// It has been sent, and its result will be recorded.
    fn end(mut self) {
        self.has_result = true;
    }
}

impl Drop for OneSending {
    fn drop(&mut self) {
        let mut hands = self.in_hand.lock();
        if !self.has_result {
            // Its task has panicked: let it be found again.
            hands.deliveries.remove(&self.delivery);
        }
        if let Entry::Occupied(mut count) = hands.sending.entry(self.channel) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        gauge!("salebell_deliveries_in_flight").decrement(1);
    }
}

/// How many more deliveries each channel may have.
type Shares = HashMap<Uuid, usize>;

/// Finds what is due, and remembers whose turn it is.
struct Lookout {
    app: App,
    in_hand: InHand,
    /// Who we are to other workers.
    holder: Uuid,
    /// Channels that we may have leased.
    held: HashSet<Uuid>,
    /// The channel that had its turn last.
    after: Uuid,
}

impl Lookout {
    fn new(app: App, in_hand: InHand) -> Lookout {
        Lookout { app, in_hand, holder: Uuid::now_v7(), held: HashSet::new(), after: Uuid::nil() }
    }

    /// Up to `free` due deliveries, going once around all channels at most. The second number counts those that were
    /// cancelled instead.
    async fn find(&mut self, free: usize) -> Result<(Vec<(DueDelivery, OneSending)>, usize)> {
        let began_after = self.after;
        let (mut found, mut cancelled, mut turned) = (Vec::new(), 0, false);
        while found.len() < free {
            let wanted = free - found.len();
            let now = self.app.clock.now();
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
            let (due, ended) = self.read(&leased.channels, wanted).await?;
            cancelled += ended;
            found.extend(due);
            self.after = leased.next.unwrap_or(Uuid::nil());
            match leased.next {
                None if turned || began_after.is_nil() => break,
                None => turned = true,
                Some(last) if turned && last >= began_after => break,
                Some(_) => {}
            }
        }
        Ok((found, cancelled))
    }

    /// What is due in leased channels, an equal share of each; and how many were cancelled instead.
    ///
    /// It is another statement than the one that leases, for it must see all that a holder before us has recorded.
    async fn read(
        &self,
        channels: &[LeasedChannel],
        wanted: usize,
    ) -> Result<(Vec<(DueDelivery, OneSending)>, usize)> {
        let (app, now) = (&self.app, self.app.clock.now());
        let (active, disabled): (Vec<_>, Vec<_>) = channels.iter().partition(|channel| channel.active);
        // Taken before the statement begins: what has left it by then is recorded, and the statement sees that.
        let (in_hand, mut shares, counts) = self.shares(&active, wanted);
        let mut cancelled = 0;
        if !disabled.is_empty() {
            let disabled: Vec<Uuid> = disabled.iter().map(|channel| channel.id).collect();
            cancelled = delivery_queue::cancel_for_disabled(&app.writer, &disabled, &in_hand, now).await?;
            counter!("salebell_deliveries_cancelled_total", "reason" => "channel_disabled")
                .increment(cancelled);
        }
        let (mut due, mut ended) = (Vec::new(), Vec::new());
        if !counts.is_empty() {
            for delivery in delivery_queue::list_due_deliveries(&app.writer, &counts, &in_hand, now).await? {
                let share = shares.entry(delivery.channel_id).or_default();
                if delivery.reason.is_some() {
                    ended.push(delivery);
                } else if *share > 0 {
                    *share -= 1;
                    let sending = self.in_hand.begin(&delivery);
                    due.push((delivery, sending));
                }
                // One that is beyond its channel's share is forgotten: only what is in hand is ours.
            }
        }
        if !ended.is_empty() {
            cancelled += delivery_queue::cancel_deliveries(&app.writer, &ended, now).await?;
            for reason in ended.into_iter().filter_map(|delivery| delivery.reason) {
                counter!("salebell_deliveries_cancelled_total", "reason" => reason).increment(1);
            }
        }
        Ok((due, cancelled as usize))
    }

    /// What is in hand, how many deliveries each channel may have now, and how many to read of each: what is in hand
    /// still stands in the table.
    fn shares(&self, channels: &[&LeasedChannel], wanted: usize) -> (Vec<Uuid>, Shares, Vec<(Uuid, usize)>) {
        let hands = self.in_hand.lock();
        let mut in_hand_of: HashMap<Uuid, usize> = HashMap::new();
        for channel in hands.deliveries.values() {
            *in_hand_of.entry(*channel).or_default() += 1;
        }
        let (mut shares, mut counts) = (HashMap::new(), Vec::new());
        for (at, channel) in channels.iter().enumerate() {
            let places = match channel.failing {
                true => PLACES_WHILE_FAILING,
                false => self.app.config.webhook.in_flight_per_channel,
            };
            let free = places.saturating_sub(hands.sending.get(&channel.id).copied().unwrap_or(0));
            let equal = wanted / channels.len() + usize::from(at < wanted % channels.len());
            let share = free.min(equal);
            if share > 0 {
                shares.insert(channel.id, share);
                counts.push((channel.id, share + in_hand_of.get(&channel.id).copied().unwrap_or(0)));
            }
        }
        (hands.deliveries.keys().copied().collect(), shares, counts)
    }

    /// Gives the channels back.
    async fn release(&mut self) -> Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let channels: Vec<Uuid> = self.held.iter().copied().collect();
        delivery_queue::release_channels(&self.app.writer, self.holder, &channels).await?;
        self.held.clear();
        Ok(())
    }
}

/// Sends one delivery. What fails on our side counts as a failed try: it is made again by the schedule.
async fn try_once(app: &App, delivery: &DueDelivery) -> AttemptResult {
    let now = app.clock.now();
    histogram!("salebell_delivery_lag_seconds").record((now - delivery.due_at).as_seconds_f64().max(0.0));
    let attempt = match send(app, delivery, now).await {
        Ok(attempt) => attempt,
        Err(error) => {
            log::error!(target: "salebell::deliver", "delivery.id" = delivery.id.to_string();
                "a delivery could not be sent: {}", chain(&error));
            Attempt::failed_here(now)
        }
    };
    let outcome = match attempt.status {
        _ if attempt.succeeded() => "delivered",
        Some(_) => "refused",
        None => "unanswered",
    };
    counter!("salebell_delivery_attempts_total", "outcome" => outcome).increment(1);
    let next_at = match attempt.succeeded() || attempt.is_gone() {
        true => None,
        false => {
            let tries = usize::try_from(delivery.attempts - delivery.schedule_from).unwrap_or(0) + 1;
            retries::wait_after(tries, random(), attempt.retry_after).map(|wait| app.clock.now() + wait)
        }
    };
    AttemptResult {
        delivery_id: delivery.id,
        attempts: delivery.attempts,
        succeeded: attempt.succeeded(),
        gone: attempt.is_gone(),
        at: attempt.at,
        duration_ms: attempt.duration_ms,
        status: attempt.status,
        error: attempt.error,
        response: attempt.answer,
        next_at,
    }
}

async fn send(app: &App, delivery: &DueDelivery, now: DateTime<Utc>) -> Result<Attempt> {
    let sealed = (&delivery.secret, delivery.previous_secret.as_deref());
    let outgoing = Outgoing {
        id: delivery.id,
        url: &delivery.url,
        secrets: &app.keyring.open_secrets(delivery.channel_id, sealed.0, sealed.1)?,
        body: body_of(delivery)?,
        traceparent: delivery.traceparent.as_deref(),
        now,
    };
    app.webhooks.send(&outgoing).await
}

/// The message: what happened and when is the notice's, the price is the one that stands now.
fn body_of(delivery: &DueDelivery) -> Result<Bytes> {
    let lost = || Error::internal("a delivery without a reason against it lacks what the schema demands");
    let currency: Currency =
        delivery.currency.as_deref().ok_or_else(lost)?.parse().map_err(Error::internal)?;
    let kind = format!("{}.v1", delivery.event_kind);
    let data = SaleData {
        notice_id: delivery.notice_id,
        watch_id: delivery.watch_id,
        sale_id: delivery.sale_id,
        game: GameData {
            id: delivery.game_id.ok_or_else(lost)?,
            title: delivery.title.as_deref().ok_or_else(lost)?,
        },
        offer: OfferData {
            id: delivery.offer_id.ok_or_else(lost)?,
            store: StoreData {
                slug: delivery.store_slug.as_deref().ok_or_else(lost)?,
                name: delivery.store_name.as_deref().ok_or_else(lost)?,
            },
            region: delivery.region.as_deref().ok_or_else(lost)?,
            platform: delivery.platform.as_deref(),
        },
        price: Money { minor: delivery.amount.ok_or_else(lost)?, currency },
        regular_price: Money { minor: delivery.regular.ok_or_else(lost)?, currency },
        cut: delivery.cut.ok_or_else(lost)?,
        new_low: delivery.new_low.ok_or_else(lost)?,
        url: delivery.offer_url.as_deref(),
        sale_ends_at: delivery.ends_at,
    };
    Message { kind: &kind, timestamp: delivery.noticed_at, data }.to_body()
}

/// Group commit: results that come close together are recorded with one statement.
async fn record_batches(
    app: App,
    mut results: mpsc::Receiver<AttemptResult>,
    in_hand: InHand,
    again: Arc<Notify>,
) {
    let mut batch = Vec::new();
    while results.recv_many(&mut batch, MAX_BATCH).await > 0 {
        let until = Instant::now() + LINGER;
        // With nothing else in flight there is nothing to wait for.
        while batch.len() < MAX_BATCH && (!in_hand.nothing_is_being_sent() || !results.is_empty()) {
            let room = MAX_BATCH - batch.len();
            match tokio::time::timeout_at(until, results.recv_many(&mut batch, room)).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
        record_until_it_works(&app, &batch).await;
        in_hand.remove(&batch);
        batch.clear();
        again.notify_one();
    }
}

/// Tries until the leases have expired for sure: from then on another may have sent again.
async fn record_until_it_works(app: &App, batch: &[AttemptResult]) {
    let lease = delta(app.config.webhook.timeout) * 3;
    while let Err(error) = record(app, batch).await {
        log::warn!(target: "salebell::deliver", results = batch.len(); "recording again after: {}", chain(&error));
        let now = app.clock.now();
        if batch.iter().all(|result| result.at + lease < now) {
            log::error!(target: "salebell::deliver", results = batch.len();
                "results could not be recorded; their deliveries will be sent again");
            return;
        }
        tokio::time::sleep(RECORD_AGAIN_AFTER).await;
    }
}

async fn record(app: &App, results: &[AttemptResult]) -> Result<()> {
    if results.is_empty() {
        return Ok(());
    }
    // The owner is told by the channel's `disabled_reason`; operators by the log and the counter.
    for disabled in delivery_queue::record_attempts(&app.writer, results, app.clock.now()).await? {
        log::warn!(target: "salebell::deliver", "channel.id" = disabled.id.to_string(),
            reason = disabled.reason; "a channel was disabled");
        counter!("salebell_channels_disabled_total", "reason" => disabled.reason).increment(1);
    }
    Ok(())
}

/// For the jitter. Zero bytes when the system has no random ones: a wait at its shortest, and no more.
fn random() -> u64 {
    let mut bytes = [0; 8];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}
