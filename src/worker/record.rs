//! Record: messages of the bus become prices, history, sales and events.

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

/// How long a message that could not be recorded rests before its next try.
const PAUSE: Duration = Duration::from_secs(2);
const GIVE_BACK_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Looks at dead messages, some each time, of one run of the job that counts them.
const MAX_LOOKS: usize = 1_000;
/// How long a bus that cannot ring is asked for a message. The question is heard to its end also when we are to stop: what
/// is handed to a question that nobody listens to any more rests for a lease.
const LONG_POLL: Duration = Duration::from_secs(20);

/// Task that records messages of the bus; one of `worker.record_concurrency`.
pub struct RecordTask {
    app: App,
    /// How long the bus is asked for a message.
    long_poll: Duration,
}

impl RecordTask {
    pub fn new(app: App) -> RecordTask {
        let long_poll = if app.bus.outlives_database() { LONG_POLL } else { Duration::ZERO };
        RecordTask { app, long_poll }
    }
}

impl Task for RecordTask {
    const NAME: &'static str = "record";
    const LOG_TARGET: &'static str = "salebell::record";

    fn interval(&self) -> Duration {
        self.app.config.worker.poll
    }

    fn longest_round(&self) -> Duration {
        self.app.config.worker.lease * 3 + attempt_limit(&self.app) + self.long_poll * 2
    }

    fn notification(&self) -> Option<&Notify> {
        Some(&self.app.notifications.prices)
    }

    async fn round(&mut self, heartbeat: &Heartbeat) -> Result<Progress> {
        let progress = round(&self.app, self.long_poll, &|| heartbeat.beat()).await?;
        if progress.is_more() {
            // Where one message was there may be more: another task may look too.
            self.app.notifications.prices.notify_one();
        }
        Ok(progress)
    }
}

async fn round(app: &App, long_poll: Duration, beat: &(dyn Fn() + Sync)) -> Result<Progress> {
    if !app.bus.outlives_database() {
        // Longer than the lease, and somebody else has the message anyway.
        return app.deadline.run(app.config.worker.lease, step(app)).await;
    }
    // A message that is received while the database is away has been received in vain, which counts against it.
    if !app.health.readiness.reasons().await.is_empty() {
        return Ok(Progress::Idle);
    }
    receive_one(app, long_poll, beat).await
}

/// Receives one message and records it.
///
/// # Errors
/// The bus or the database is unavailable.
pub async fn step(app: &App) -> Result<Progress> {
    receive_one(app, Duration::ZERO, &|| {}).await
}

async fn receive_one(app: &App, long_poll: Duration, beat: &(dyn Fn() + Sync)) -> Result<Progress> {
    let received = app.bus.receive(1, app.config.worker.lease, long_poll).await?.pop();
    let Some(received) = received else { return Ok(Progress::Idle) };
    settle(app, &received, beat).await?;
    Ok(Progress::More)
}

/// Records a message, or gives it back, or buries it. `beat` is called while it waits for the database.
///
/// Acknowledged after the commit: if we die in between, the message comes again and counts for nothing.
async fn settle(app: &App, received: &ReceivedMessage, beat: &(dyn Fn() + Sync)) -> Result<()> {
    // Whoever received it before has died of it, so often that we do not try.
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

/// How long a try to record may take: the lease is extended meanwhile, so what is slow and not silent comes to its end.
fn attempt_limit(app: &App) -> Duration {
    app.config.worker.lease.max(app.config.database.statement_timeout * 2)
}

/// Records a message of a bus that counts every receive: while the database is away it is held, and not given back.
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
    /// The database is away or overloaded: nothing that the message can do about it.
    Passing(String),
    Lasting(String),
}

impl From<DeadlineExceeded> for Failure {
    fn from(_: DeadlineExceeded) -> Failure {
        Failure::Passing("the database has not answered in time".to_owned())
    }
}

/// Gives a message back, however long the database does not listen: otherwise it would rest until its lease ends.
async fn release(app: &App, received: &ReceivedMessage, failure: &str, counts: bool) {
    let lease_ends = Instant::now() + app.config.worker.lease;
    // Who stops leaves it to another at once.
    let pause = if app.stopping.is_cancelled() { Duration::ZERO } else { PAUSE };
    while let Err(error) = app.bus.release(received, pause, failure, counts).await {
        log::warn!(target: "salebell::record", "giving a message back again after: {}", chain(&error));
        if Instant::now() > lease_ends || app.stopping.is_cancelled() {
            return;
        }
        tokio::time::sleep(GIVE_BACK_AGAIN_AFTER).await;
    }
}

/// Records a message while holding it: the lease is extended for as long as it takes.
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

/// The report may have been taken while the database was away: then nobody has written yet that there is such a batch.
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

/// Counts what is dead without our doing: SQS buries the message of a receiver that died, and tells nobody.
pub async fn count_dead(app: &App) -> Result<()> {
    for _ in 0..MAX_LOOKS {
        let some = app.bus.look_at_dead().await?;
        if some.is_empty() || app.stopping.is_cancelled() {
            break;
        }
        for dead in some {
            count_as_failed(app, &dead).await?;
        }
    }
    Ok(())
}

/// Makes dead messages wait again, as if they had never been received; returns how many. What dies again meanwhile
/// stays dead.
pub async fn redrive(app: &App) -> Result<usize> {
    let (mut redriven, now) = (0, app.clock.now());
    while let Some(dead) = app.bus.next_dead(now).await? {
        // What `dead_letter` counted as failed is to be counted anew.
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

/// Sales that are over as their stores had said.
pub fn count_told_ends(sales: u64) {
    if sales > 0 {
        counter!("salebell_transitions_total", "kind" => Transition::SaleEnded.name()).increment(sales);
    }
}
