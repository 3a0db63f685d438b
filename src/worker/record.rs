//! Record: messages of the bus become prices, history, sales and events.

use std::time::Duration;

use metrics::{counter, histogram};

use crate::app::App;
use crate::domain::batch::{Counts, PriceMessage};
use crate::error::{Kind, Result, chain};
use crate::outbound::bus::{MAX_RECEIVES, Received};
use crate::store::{batches, prices};

/// How long a message that could not be recorded rests before its next try.
const PAUSE: Duration = Duration::from_secs(2);
const GIVE_BACK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Records messages until `app.stopping`; one of `worker.record_concurrency` such loops.
pub async fn run(app: App) {
    let pulse = super::start_pulse(&app, "record");
    while !app.stopping.is_cancelled() {
        pulse.beat();
        // Longer than the lease, and somebody else has the message anyway.
        let step = app.suspicion.limit(app.config.worker.lease, step(&app)).await;
        match step.unwrap_or_else(|gave_up| Err(gave_up.into())) {
            Ok(true) => {
                // Where one message was there may be more: another loop may look too.
                app.wakeups.prices.notify_one();
                continue;
            }
            Ok(false) => {}
            Err(error) => log::warn!(target: "salebell::record", "looking again after: {}", chain(&error)),
        }
        tokio::select! {
            () = app.wakeups.prices.notified() => {}
            () = tokio::time::sleep(app.config.worker.poll) => {}
            () = app.stopping.cancelled() => {}
        }
    }
}

/// Takes one message and records it. False: none waits.
///
/// Acknowledged after the commit: if we die in between, the message comes again and counts for nothing.
pub async fn step(app: &App) -> Result<bool> {
    let Some(received) = app.bus.receive(1, app.config.worker.lease).await?.pop() else { return Ok(false) };
    // Whoever received it before has died of it, so often that we do not try.
    if received.receives > MAX_RECEIVES {
        bury(app, &received, "its receivers died").await?;
        return Ok(true);
    }
    match record_held(app, &received).await {
        Ok(()) => app.bus.acknowledge(&received).await?,
        Err(Failure::Passing(failure)) => {
            log::warn!(target: "salebell::record", "message.id" = received.id.to_string();
                "a message waits for the database: {failure}");
            give_back(app, &received, &failure, false).await;
        }
        Err(Failure::Lasting(failure)) => {
            log::warn!(target: "salebell::record", "message.id" = received.id.to_string(),
                receives = received.receives; "a message was not recorded: {failure}");
            counter!("salebell_record_failures_total").increment(1);
            if received.receives >= MAX_RECEIVES {
                bury(app, &received, &failure).await?;
            } else {
                give_back(app, &received, &failure, true).await;
            }
        }
    }
    Ok(true)
}

/// Why a message was not recorded.
enum Failure {
    /// The database is away or overloaded: nothing that the message can do about it.
    Passing(String),
    Lasting(String),
}

/// Gives a message back, however long the database does not listen: otherwise it would rest until its lease ends.
async fn give_back(app: &App, received: &Received, failure: &str, counts: bool) {
    let lease_ends = tokio::time::Instant::now() + app.config.worker.lease;
    while let Err(error) = app.bus.give_back(received, PAUSE, failure, counts).await {
        log::warn!(target: "salebell::record", "giving a message back again after: {}", chain(&error));
        if tokio::time::Instant::now() > lease_ends || app.stopping.is_cancelled() {
            return;
        }
        tokio::time::sleep(GIVE_BACK_AGAIN_AFTER).await;
    }
}

/// Records a message while holding it: the lease is extended for as long as it takes.
async fn record_held(app: &App, received: &Received) -> Result<(), Failure> {
    let damaged = |error| Failure::Lasting(format!("damaged: {error}"));
    let message = PriceMessage::unpack(&received.payload).map_err(damaged)?;
    let lease = app.config.worker.lease;
    let work = prices::record(&app.writer, &message, &app.config.quarantine, app.clock.now());
    tokio::pin!(work);
    let counts = loop {
        tokio::select! {
            counts = &mut work => break counts.map_err(|error| match error.kind {
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
    if let Some(counts) = counts {
        count(&counts);
        let waited = app.clock.now() - message.reported_at;
        histogram!("salebell_record_lag_seconds").record(waited.as_seconds_f64());
    }
    Ok(())
}

async fn bury(app: &App, received: &Received, failure: &str) -> Result<()> {
    if let Ok(message) = PriceMessage::unpack(&received.payload) {
        let observations = message.observations.len() as i64;
        batches::fail_part(&app.writer, message.batch_id, message.part, observations, app.clock.now())
            .await?;
    }
    app.bus.bury(received, failure).await
}

/// Makes dead messages wait again, as if they had never been received; returns how many.
pub async fn redrive(app: &App) -> Result<usize> {
    let mut redriven = 0;
    while let Some(dead) = app.bus.next_dead().await? {
        // What `bury` counted as failed is to be counted anew.
        if let Ok(message) = PriceMessage::unpack(&dead.payload) {
            batches::forget_failed_part(&app.writer, message.batch_id, message.part).await?;
        }
        app.bus.revive(&dead).await?;
        redriven += 1;
    }
    Ok(redriven)
}

fn count(counts: &Counts) {
    for (outcome, observations) in [
        ("recorded", counts.recorded),
        ("unchanged", counts.unchanged),
        ("stale", counts.stale),
        ("quarantined", counts.quarantined),
        ("failed", counts.failed),
    ] {
        counter!("salebell_observations_total", "outcome" => outcome).increment(observations as u64);
    }
    for (kind, changes) in &counts.transitions {
        counter!("salebell_transitions_total", "kind" => kind.clone()).increment(*changes as u64);
    }
}
