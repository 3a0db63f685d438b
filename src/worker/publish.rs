//! Publish: sends events to the topic of other teams, each at least once, and those of one offer in order.
//!
//! One process of the fleet publishes at a time. It removes sent events from the list; if it dies before that, the
//! same events are sent again under the same ids.

use std::collections::HashSet;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::future::join_all;
use metrics::counter;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::driver::{Progress, Task};
use crate::app::App;
use crate::error::{Error, Result, chain};
use crate::health::watchdog::Heartbeat;
use crate::outbound::bus::topic::{Topic, TopicMessage, requests};
use crate::outbound::events;
use crate::store::jobs;
use crate::store::lease::Claim;
use crate::store::publications::{self, UnpublishedEvent};

/// Name of the publisher's job in the table of jobs.
const JOB: &str = "publish_events";
/// Lease of the publishing process. When it expires, another process takes over.
const LEASE: TimeDelta = TimeDelta::seconds(60);
/// Bound on one turn, shorter than the lease by more than the longest request.
const TURN: Duration = Duration::from_secs(30);
/// Wait after a failure before the topic is tried again.
const RETRY: TimeDelta = TimeDelta::seconds(2);
/// Maximum number of events read at once.
const EVENTS_AT_ONCE: i64 = 500;
/// Maximum number of events in flight at once, in requests of ten.
const WAVE: usize = 80;

/// Task that publishes events, where the settings name a topic.
pub struct PublishTask;

impl Task for PublishTask {
    const NAME: &'static str = "publish";
    const LOG_TARGET: &'static str = "salebell::publish";

    fn longest_round(&self, app: &App) -> Duration {
        app.config.worker.lease * 4 + TURN * 2
    }

    fn notification<'a>(&'a self, app: &'a App) -> Option<&'a Notify> {
        Some(&app.notifications.publications)
    }

    async fn round(&mut self, app: &App, _: &Heartbeat) -> Result<Progress> {
        step(app).await
    }
}

/// Publishes some events. Returns `Idle` if no event waits or another process is publishing.
///
/// # Errors
/// `Unavailable`: the topic or the database is unavailable.
pub async fn step(app: &App) -> Result<Progress> {
    let Some(topic) = &app.events_topic else { return Ok(Progress::Idle) };
    let limit = app.config.worker.lease;
    if !app.deadline.run(limit, publications::is_any_waiting(&app.writer)).await? {
        return Ok(Progress::Idle);
    }
    let now = app.clock.now();
    let claim = app.deadline.run(limit, jobs::claim_job(&app.writer, JOB, now, now + LEASE)).await?;
    if claim == Claim::Refused {
        return Ok(Progress::Idle);
    }
    let published = publish_some(app, topic).await;
    let now = app.clock.now();
    let (failure, next_at) = match &published {
        Ok(_) => (None, now),
        Err(error) => (Some(chain(error)), now + RETRY),
    };
    let finish = jobs::finish_job(&app.writer, JOB, now, next_at, failure.as_deref());
    app.deadline.run(limit, finish).await?;
    published
}

async fn publish_some(app: &App, topic: &Topic) -> Result<Progress> {
    let began = Instant::now();
    let limit = app.config.worker.lease.min(TURN);
    let list = publications::list_waiting(&app.writer, EVENTS_AT_ONCE);
    let mut waiting = app.deadline.run(limit, list).await?;
    let found = !waiting.is_empty();
    while !waiting.is_empty() && !app.stopping.is_cancelled() && began.elapsed() < TURN {
        let published = publish_wave(topic, &waiting).await?;
        let (count, finish) = (published.len(), publications::finish(&app.writer, &published));
        app.deadline.run(limit, finish).await?;
        counter!("salebell_events_published_total").increment(count as u64);
        if count == 0 {
            return Err(Error::unavailable("the topic of events takes none"));
        }
        let published: HashSet<i64> = published.into_iter().collect();
        waiting.retain(|event| !published.contains(&event.seq));
    }
    Ok(Progress::of(found))
}

/// Publishes the first event of each offer, and returns the sequence numbers of those that were accepted. Later
/// events of an offer wait, so that they cannot overtake the first.
async fn publish_wave(topic: &Topic, waiting: &[UnpublishedEvent]) -> Result<Vec<i64>> {
    let mut offers = HashSet::new();
    let wave: Vec<&UnpublishedEvent> =
        waiting.iter().filter(|event| offers.insert(event.offer_id)).take(WAVE).collect();
    let messages = wave.iter().map(|event| events::message(event, topic.is_fifo()));
    let messages = messages.collect::<Result<Vec<TopicMessage>>>()?;
    let answers = requests(&messages).into_iter().map(async |request| {
        let answer = topic.publish(&messages[request.clone()]).await;
        (request, answer)
    });
    let mut published = Vec::new();
    for (request, answer) in join_all(answers).await {
        match answer {
            Ok(taken) => {
                let taken = wave[request].iter().zip(taken).filter(|(_, taken)| *taken);
                published.extend(taken.map(|(event, _)| event.seq));
            }
            Err(error) => {
                log::warn!(target: "salebell::publish", "events are published again after: {}", chain(&error));
            }
        }
    }
    Ok(published)
}
