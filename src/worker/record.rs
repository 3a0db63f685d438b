//! Record: turns messages of the bus into prices, history, sales and events.

use std::time::Duration;

use metrics::{counter, histogram};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::driver::{Progress, Task};
use crate::app::App;
use crate::database::deadline::DeadlineExceeded;
use crate::domain::batch::PriceMessage;
use crate::domain::price::TransitionKind as Transition;
use crate::error::{Kind, Result, chain};
use crate::health::watchdog::Heartbeat;
use crate::outbound::bus::{MAX_RECEIVES, ReceivedMessage};
use crate::store::recording::Recorded;
use crate::store::{batches, recording};

/// Wait before a message that could not be recorded is tried again.
const PAUSE: Duration = Duration::from_secs(2);
/// Interval between attempts to release a message.
const RELEASE_RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum number of reads of dead messages, several messages each, in one run of the job that counts them.
const MAX_READS: usize = 1_000;
/// How long one request for a message waits on a bus that cannot send notifications. The request is awaited to its
/// end even when the process stops: a message handed to an abandoned request would be invisible until its lease
/// expires.
const LONG_POLL: Duration = Duration::from_secs(20);

/// Task that records messages of the bus; one of `worker.record_concurrency`.
pub struct RecordTask;

/// How long the bus is asked for a message.
fn long_poll(app: &App) -> Duration {
    if app.bus.outlives_database() { LONG_POLL } else { Duration::ZERO }
}

impl Task for RecordTask {
    const NAME: &'static str = "record";
    const LOG_TARGET: &'static str = "salebell::record";

    fn longest_round(&self, app: &App) -> Duration {
        app.config.worker.lease * 3 + attempt_limit(app) + long_poll(app) * 2
    }

    fn notification<'a>(&'a self, app: &'a App) -> Option<&'a Notify> {
        Some(&app.notifications.prices)
    }

    async fn round(&mut self, app: &App, heartbeat: &Heartbeat) -> Result<Progress> {
        let progress = round(app, long_poll(app), &|| heartbeat.beat()).await?;
        if progress.is_more() {
            // Where one message was, there may be more: wake another task.
            app.notifications.prices.notify_one();
        }
        Ok(progress)
    }
}

async fn round(app: &App, long_poll: Duration, beat: &(dyn Fn() + Sync)) -> Result<Progress> {
    if !app.bus.outlives_database() {
        // Past the lease another receiver has the message anyway.
        return app.deadline.run(app.config.worker.lease, step(app)).await;
    }
    // A receive counts against the message even if the database is unavailable and it cannot be recorded.
    if !app.health.readiness.reasons().await.is_empty() {
        return Ok(Progress::Idle);
    }
    receive_one(app, long_poll, beat).await
}

/// Receives one message and records it.
///
/// # Errors
/// `Unavailable`: the bus or the database is unavailable.
pub async fn step(app: &App) -> Result<Progress> {
    receive_one(app, Duration::ZERO, &|| {}).await
}

async fn receive_one(app: &App, long_poll: Duration, beat: &(dyn Fn() + Sync)) -> Result<Progress> {
    let received = app.bus.receive(1, app.config.worker.lease, long_poll).await?.pop();
    let Some(received) = received else { return Ok(Progress::Idle) };
    settle(app, &received, beat).await?;
    Ok(Progress::More)
}

/// Records a message, releases it, or dead-letters it. `beat` is called while it waits for the database.
///
/// The message is acknowledged after the commit: if the process dies in between, the message arrives again and counts
/// for nothing.
async fn settle(app: &App, received: &ReceivedMessage, beat: &(dyn Fn() + Sync)) -> Result<()> {
    // Earlier receivers crashed on this message; do not try again.
    if received.receives > MAX_RECEIVES {
        return dead_letter(app, received, "its receivers died").await;
    }
    let recorded = if !app.bus.outlives_database() {
        record_held(app, received).await
    } else if app.stopping.is_cancelled() {
        Err(Failure::Passing("we are stopping".to_owned()))
    } else {
        record_patiently(app, received, beat).await
    };
    match recorded {
        Ok(()) => app.bus.acknowledge(received).await?,
        Err(Failure::Passing(failure)) => {
            log::warn!(target: "salebell::record", "message.id" = received.id.to_string();
                "a message waits for the database: {failure}");
            release(app, received, &failure, false).await;
        }
        Err(Failure::Lasting(failure)) => {
            log::warn!(target: "salebell::record", "message.id" = received.id.to_string(),
                receives = received.receives; "a message was not recorded: {failure}");
            counter!("salebell_record_failures_total").increment(1);
            if received.receives >= MAX_RECEIVES {
                dead_letter(app, received, &failure).await?;
            } else {
                release(app, received, &failure, true).await;
            }
        }
    }
    Ok(())
}

/// Bound on one attempt to record a message. The lease is extended meanwhile, so slow work can finish; only a silent
/// database runs into it.
fn attempt_limit(app: &App) -> Duration {
    app.config.worker.lease.max(app.config.database.statement_timeout * 2)
}

/// Records a message of a bus that counts every receive: while the database is unavailable, the message is held
/// rather than released.
async fn record_patiently(
    app: &App,
    received: &ReceivedMessage,
    beat: &(dyn Fn() + Sync),
) -> Result<(), Failure> {
    let lease = app.config.worker.lease;
    loop {
        let attempt = app.deadline.run(attempt_limit(app), record_held(app, received)).await;
        let Err(Failure::Passing(failure)) = attempt else { return attempt };
        log::warn!(target: "salebell::record", "message.id" = received.id.to_string();
            "a message is held until the database is back: {failure}");
        loop {
            beat();
            if let Err(error) = app.bus.extend(received, lease).await {
                log::warn!(target: "salebell::record", "a lease was not extended: {}", chain(&error));
            }
            tokio::select! {
                () = tokio::time::sleep(app.config.worker.poll.min(lease / 3)) => {}
                () = app.stopping.cancelled() => return Err(Failure::Passing(failure)),
            }
            if app.health.readiness.reasons().await.is_empty() {
                break;
            }
        }
    }
}

/// Why a message was not recorded.
enum Failure {
    /// The database is unavailable or overloaded: the message is not the cause.
    Passing(String),
    Lasting(String),
}

impl From<DeadlineExceeded> for Failure {
    fn from(_: DeadlineExceeded) -> Failure {
        Failure::Passing("the database has not answered in time".to_owned())
    }
}

/// Releases a message, retrying while the database does not answer: otherwise it would be invisible until its lease
/// ends.
async fn release(app: &App, received: &ReceivedMessage, failure: &str, counts: bool) {
    let lease_ends = Instant::now() + app.config.worker.lease;
    // A stopping process leaves it to another at once.
    let pause = if app.stopping.is_cancelled() { Duration::ZERO } else { PAUSE };
    while let Err(error) = app.bus.release(received, pause, failure, counts).await {
        log::warn!(target: "salebell::record", "giving a message back again after: {}", chain(&error));
        if Instant::now() > lease_ends || app.stopping.is_cancelled() {
            return;
        }
        tokio::time::sleep(RELEASE_RETRY_INTERVAL).await;
    }
}

/// Records a message while holding it: the lease is extended until the work ends.
async fn record_held(app: &App, received: &ReceivedMessage) -> Result<(), Failure> {
    let damaged = |error| Failure::Lasting(format!("damaged: {error}"));
    let payload = received.payload.clone();
    let unpack = app.cpu.compute(None, payload.len(), move || PriceMessage::unpack(&payload)).await;
    let message = unpack.map_err(|error| Failure::Lasting(chain(&error)))?.map_err(damaged)?;
    let lease = app.config.worker.lease;
    let work = async {
        note_batch(app, &message).await?;
        let publish = app.events_topic.is_some();
        recording::record(&app.writer, &message, &app.config.prices, publish, app.clock.now()).await
    };
    tokio::pin!(work);
    let recorded = loop {
        tokio::select! {
            recorded = &mut work => break recorded.map_err(|error| match error.kind {
                Kind::Unavailable => Failure::Passing(chain(&error)),
                _ => Failure::Lasting(chain(&error)),
            })?,
            () = tokio::time::sleep(lease / 3) => {
                if let Err(error) = app.bus.extend(received, lease).await {
                    log::warn!(target: "salebell::record", "a lease was not extended: {}", chain(&error));
                }
            }
        }
    };
    if let Some(recorded) = recorded {
        count(&recorded);
        let waited = app.clock.now() - message.reported_at;
        histogram!("salebell_record_lag_seconds").record(waited.as_seconds_f64());
    }
    Ok(())
}

/// Notes the batch if the message carries a note: the report may have been accepted while the database was
/// unavailable, and the batch is then not stored yet.
async fn note_batch(app: &App, message: &PriceMessage) -> Result<()> {
    match &message.batch {
        Some(note) => batches::note_batch(&app.writer, message.batch_id, note, message.reported_at).await,
        None => Ok(()),
    }
}

async fn dead_letter(app: &App, received: &ReceivedMessage, failure: &str) -> Result<()> {
    count_as_failed(app, received).await?;
    app.bus.dead_letter(received, failure).await
}

async fn count_as_failed(app: &App, dead: &ReceivedMessage) -> Result<()> {
    let Ok(message) = PriceMessage::unpack(&dead.payload) else { return Ok(()) };
    note_batch(app, &message).await?;
    let observations = message.observations.len() as i64;
    batches::fail_part(&app.writer, message.batch_id, message.part, observations, app.clock.now()).await
}

/// Counts messages that were dead-lettered without our doing: SQS does so, without a notification, when receivers
/// keep dying.
pub async fn count_dead(app: &App) -> Result<()> {
    for _ in 0..MAX_READS {
        let some = app.bus.list_dead().await?;
        if some.is_empty() || app.stopping.is_cancelled() {
            break;
        }
        for dead in some {
            count_as_failed(app, &dead).await?;
        }
    }
    Ok(())
}

/// Makes dead messages wait again as if they had never been received, and returns how many. A message that is
/// dead-lettered again meanwhile stays dead.
pub async fn redrive(app: &App) -> Result<usize> {
    let (mut redriven, now) = (0, app.clock.now());
    while let Some(dead) = app.bus.next_dead(now).await? {
        // Observations that `dead_letter` counted as failed must be counted again.
        if let Ok(message) = PriceMessage::unpack(&dead.payload) {
            batches::forget_failed_part(&app.writer, message.batch_id, message.part).await?;
        }
        app.bus.revive(&dead).await?;
        redriven += 1;
    }
    Ok(redriven)
}

fn count(Recorded { counts, told_ends }: &Recorded) {
    for (outcome, observations) in [
        ("recorded", counts.recorded),
        ("unchanged", counts.unchanged),
        ("stale", counts.stale),
        ("quarantined", counts.quarantined),
        ("failed", counts.failed),
    ] {
        counter!("salebell_observations_total", "outcome" => outcome).increment(observations as u64);
    }
    count_told_ends(*told_ends);
    for (kind, changes) in &counts.transitions {
        counter!("salebell_transitions_total", "kind" => kind.clone()).increment(*changes as u64);
    }
}

/// Counts sales that have ended at the time their stores had stated.
pub fn count_told_ends(sales: u64) {
    if sales > 0 {
        counter!("salebell_transitions_total", "kind" => Transition::SaleEnded.name()).increment(sales);
    }
}
