//! Delivery of notices: leases channels, reads ahead what is due in them, sends it, and records the results.
//!
//! A delivery that was read is sent within a second or dropped from memory, and no attempt lasts longer than
//! `webhook.timeout`. A channel is read only under a lease that lasts at least twice as long: enough for an attempt
//! and its record. The lease therefore needs no heartbeat; the next claim renews it. A worker that dies between
//! sending and recording leaves leases that expire. Another worker then sends again under the same `webhook-id`, by
//! which the receiver recognises the duplicate. Delivery is at least once.

mod in_flight;
mod leases;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use metrics::{counter, histogram};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::in_flight::{InFlight, Outbound};
use self::leases::ChannelLeases;
use crate::app::App;
use crate::clock::delta;
use crate::domain::money::{Currency, Money};
use crate::domain::retries;
use crate::error::{Error, Kind, Result, chain};
use crate::outbound::webhook::{Attempt, GameData, OfferData, Outgoing, SaleData, StoreData, WebhookMessage};
use crate::store::delivery_queue::{self, AttemptResult};

/// Deliveries read ahead for each slot. A claim for every few slots would cost more than sending.
const AHEAD_OF_SLOTS: usize = 16;
/// Deliveries read ahead for each request that a channel may have in flight.
const AHEAD_OF_PLACES: usize = 16;
/// Minimum interval between two claims. What the last claim read is sent meanwhile.
const CLAIM_INTERVAL: Duration = Duration::from_millis(5);
/// How long results wait for others, to be committed together.
const LINGER: Duration = Duration::from_millis(10);
/// Maximum number of results committed together.
const MAX_BATCH: usize = 1024;
/// Wait before a batch that could not be recorded is tried again.
const RECORD_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Outcome of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Attempts made, successful or not.
    pub sent: usize,
    /// Deliveries cancelled because their price no longer stands or their channel is disabled.
    pub cancelled: usize,
}

/// Leases channels, sends what is due in them, records the results, and releases the channels. At most
/// `worker.deliver_concurrency` deliveries are sent, and of each channel no more than it may have in flight.
///
/// # Errors
/// `Unavailable`: the database is unavailable.
pub async fn step(app: &App) -> Result<Step> {
    let in_flight = InFlight::default();
    let mut leases = ChannelLeases::new(app.clone(), in_flight.clone());
    let cancelled = leases.claim_due(app.config.worker.deliver_concurrency, 0).await?;
    let taken: Vec<_> = std::iter::from_fn(|| in_flight.take()).collect();
    let results = join_all(taken.iter().map(|(outbound, _)| try_once(app, outbound))).await;
    record(app, &results).await?;
    leases.release().await?;
    Ok(Step { sent: results.len(), cancelled })
}

/// Delivers until `app.stopping`, then finishes and records what is in flight.
pub async fn run(app: App) {
    let concurrency = app.config.worker.deliver_concurrency;
    let in_flight = InFlight::default();
    // Capacity for all that can be in flight: a database that is slow to record holds back the next attempts.
    let (results, recorded) = mpsc::channel(concurrency + MAX_BATCH);
    let mut recorder = tokio::spawn(record_batches(app.clone(), recorded, in_flight.clone()));
    let mut slots = JoinSet::new();
    for _ in 0..concurrency {
        slots.spawn(send_one_after_another(app.clone(), in_flight.clone(), results.clone()));
    }
    drop(results);
    let mut leases = ChannelLeases::new(app.clone(), in_flight.clone());
    let ahead = concurrency * AHEAD_OF_SLOTS;
    let (limit, heartbeat) = (
        app.config.worker.lease,
        app.health.watchdog.start("deliver", app.config.worker.lease * 3 + app.config.worker.poll),
    );
    while !app.stopping.is_cancelled() {
        heartbeat.beat();
        let began = Instant::now();
        let claimed = app.deadline.run(limit, leases.claim_due(ahead, AHEAD_OF_PLACES)).await;
        let cancelled = claimed.unwrap_or_else(|error| {
            log::warn!(target: "salebell::deliver", "a claim failed, retrying: {}", chain(&error));
            0
        });
        // Cancelling has made room for the deliveries behind.
        if cancelled > 0 {
            continue;
        }
        // An idle process holds no lease: if it is killed, no delivery has to wait for one to expire.
        if in_flight.is_empty() {
            release(&app, &mut leases).await;
        }
        tokio::select! {
            () = in_flight.wants_more() => {}
            () = app.notifications.deliveries.notified() => {}
            () = tokio::time::sleep(app.config.worker.poll) => {}
            () = app.stopping.cancelled() => break,
            // The recorder has panicked. Returning ends the process, which systemd restarts.
            _ = &mut recorder => return,
        }
        tokio::time::sleep_until(began + CLAIM_INTERVAL).await;
    }
    in_flight.forget_waiting();
    while slots.join_next().await.is_some() {}
    if let Err(error) = recorder.await {
        log::error!(target: "salebell::deliver", "the recorder ended badly: {error}");
    }
    release(&app, &mut leases).await;
}

async fn release(app: &App, leases: &mut ChannelLeases) {
    let released = app.deadline.run(app.config.worker.lease, leases.release()).await;
    if let Err(error) = released {
        log::warn!(target: "salebell::deliver", "channels were not given back: {}", chain(&error));
    }
}

/// Body of a slot: makes one attempt at a time.
async fn send_one_after_another(app: App, in_flight: InFlight, results: mpsc::Sender<AttemptResult>) {
    while let Some((outbound, sending)) = in_flight.next(&app.stopping).await {
        // A panic is a bug of ours and must not cost a slot; the delivery is found again by a later claim.
        let Ok(result) = AssertUnwindSafe(try_once(&app, &outbound)).catch_unwind().await else { continue };
        sending.end();
        if results.send(result).await.is_err() {
            // Without a recorder, every delivery would be sent again and again.
            return;
        }
    }
}

/// Sends one delivery. A failure on our side counts as a failed attempt and is retried by the schedule.
async fn try_once(app: &App, outbound: &Outbound) -> AttemptResult {
    let delivery = &outbound.delivery;
    let now = app.clock.now();
    histogram!("salebell_delivery_lag_seconds").record((now - delivery.due_at).as_seconds_f64().max(0.0));
    let (attempt, failed_here) = match send(app, outbound, now).await {
        Ok(attempt) => (attempt, false),
        Err(error) => {
            log::error!(target: "salebell::deliver", "delivery.id" = delivery.id.to_string();
                "a delivery could not be sent: {}", chain(&error));
            (Attempt::failed_here(now), true)
        }
    };
    let outcome = match attempt.status {
        _ if attempt.succeeded() => "delivered",
        Some(_) => "refused",
        None => "unanswered",
    };
    counter!("salebell_delivery_attempts_total", "outcome" => outcome).increment(1);
    // Later attempts are late because of the receiver.
    if let Some(event_at) = delivery.event_at.filter(|_| attempt.succeeded() && delivery.attempts == 0) {
        let lag = app.clock.now() - event_at;
        histogram!("salebell_sent_lag_seconds").record(lag.as_seconds_f64().max(0.0));
    }
    let next_at = if attempt.succeeded() || attempt.is_gone() {
        None
    } else {
        let tries = usize::try_from(delivery.attempts - delivery.schedule_from).unwrap_or(0) + 1;
        retries::wait_after(tries, random(), attempt.retry_after).map(|wait| app.clock.now() + wait)
    };
    if next_at.is_none() && !attempt.succeeded() {
        counter!("salebell_deliveries_dead_total").increment(1);
    }
    AttemptResult {
        delivery_id: delivery.id,
        attempts: delivery.attempts,
        succeeded: attempt.succeeded(),
        gone: attempt.is_gone(),
        failed_here,
        at: attempt.at,
        duration_ms: attempt.duration_ms,
        status: attempt.status,
        error: attempt.error,
        response: attempt.answer,
        next_at,
    }
}

async fn send(app: &App, outbound: &Outbound, now: DateTime<Utc>) -> Result<Attempt> {
    let outgoing = Outgoing {
        id: outbound.delivery.id,
        body: body_of(outbound)?,
        traceparent: outbound.delivery.traceparent.as_deref(),
        now,
    };
    let receiver =
        outbound.receiver.as_ref().ok_or_else(|| Error::internal("there is nothing to sign with"))?;
    app.webhooks.send(receiver, &outgoing).await
}

/// Body of the message. What happened comes from the notice; the price and the time of its observation are the
/// current ones.
fn body_of(Outbound { delivery, sale, .. }: &Outbound) -> Result<Bytes> {
    let currency: Currency = sale.currency.parse().map_err(Error::internal)?;
    let kind = format!("{}.v1", delivery.event_kind);
    let data = SaleData {
        notice_id: delivery.notice_id,
        watch_id: delivery.watch_id,
        sale_id: delivery.sale_id,
        game: GameData { id: sale.game_id, title: &sale.title },
        offer: OfferData {
            id: sale.offer_id,
            store: StoreData { slug: &sale.store_slug, name: &sale.store_name },
            region: &sale.region,
            platform: sale.platform.as_deref(),
        },
        price: Money { minor: sale.amount, currency },
        regular_price: Money { minor: sale.regular, currency },
        cut: sale.cut,
        new_low: sale.new_low,
        observed_at: Some(sale.changed_at),
        url: sale.url.as_deref(),
        sale_ends_at: sale.ends_at,
    };
    WebhookMessage { kind: &kind, timestamp: delivery.noticed_at, data }.to_body()
}

/// Group commit: records results that arrive close together with one statement.
async fn record_batches(app: App, mut results: mpsc::Receiver<AttemptResult>, in_flight: InFlight) {
    let mut batch = Vec::new();
    while results.recv_many(&mut batch, MAX_BATCH).await > 0 {
        // With nothing else in flight, no further result will arrive.
        if !in_flight.nothing_is_being_sent() {
            tokio::time::sleep(LINGER).await;
        }
        while batch.len() < MAX_BATCH
            && let Ok(result) = results.try_recv()
        {
            batch.push(result);
        }
        record_until_it_works(&app, &batch, &in_flight).await;
        batch.clear();
    }
}

/// Retries until the leases have certainly expired. From then on another worker may have sent again.
async fn record_until_it_works(app: &App, batch: &[AttemptResult], in_flight: &InFlight) {
    let lease = delta(app.config.webhook.timeout) * 3;
    loop {
        let recorded = app.deadline.run(app.config.worker.lease, record(app, batch)).await;
        let Err(error) = recorded else { break };
        log::warn!(target: "salebell::deliver", results = batch.len(); "recording again after: {}", chain(&error));
        // A result that cannot be recorded must not hold up the others.
        if error.kind != Kind::Unavailable && batch.len() > 1 {
            for result in batch.iter().cloned() {
                tokio::spawn(record_alone(app.clone(), result, in_flight.clone()));
            }
            return;
        }
        let now = app.clock.now();
        if batch.iter().all(|result| result.at + lease < now) {
            log::error!(target: "salebell::deliver", results = batch.len();
                "results could not be recorded; their deliveries will be sent again");
            break;
        }
        tokio::time::sleep(RECORD_AGAIN_AFTER).await;
    }
    in_flight.remove(batch);
}

/// Boxed because the future is recursive.
fn record_alone(app: App, result: AttemptResult, in_flight: InFlight) -> BoxFuture<'static, ()> {
    async move { record_until_it_works(&app, &[result], &in_flight).await }.boxed()
}

async fn record(app: &App, results: &[AttemptResult]) -> Result<()> {
    if results.is_empty() {
        return Ok(());
    }
    // The owner sees it in the channel's `disabled_reason`, operators in the log and the counter.
    for disabled in delivery_queue::record_attempts(&app.writer, results, app.clock.now()).await? {
        log::warn!(target: "salebell::deliver", "channel.id" = disabled.id.to_string(),
            reason = disabled.reason.name(); "a channel was disabled");
        counter!("salebell_channels_disabled_total", "reason" => disabled.reason.name()).increment(1);
    }
    Ok(())
}

/// Random bits for the jitter. Zero if the system has none, which only makes the wait the shortest possible.
fn random() -> u64 {
    let mut bytes = [0; 8];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}
