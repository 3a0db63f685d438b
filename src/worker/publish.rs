//! Publish: events go to the topic of other teams, each at least once, those of an offer one after another.
//!
//! One process of the fleet publishes at a time. What it has sent it takes off the list; if it dies before that, the same
//! events are sent again, under the same ids.

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

/// Who publishes, in the table of jobs.
const JOB: &str = "publish_events";
/// Who publishes and tells nothing for so long is taken for dead.
const LEASE: TimeDelta = TimeDelta::seconds(60);
/// So a turn is shorter, by more than the longest request.
const TURN: Duration = Duration::from_secs(30);
/// After a failure the topic is tried again this much later.
const RETRY: TimeDelta = TimeDelta::seconds(2);
/// So many events are read at once.
const EVENTS_AT_ONCE: i64 = 500;
/// So many are on their way at once, in requests of ten.
const WAVE: usize = 80;

/// Task that publishes events.
pub struct PublishTask {
    app: App,
}

impl PublishTask {
    /// `None` if the settings name no topic.
    pub fn new(app: App) -> Option<PublishTask> {
        app.events_topic.is_some().then_some(PublishTask { app })
    }
}

impl Task for PublishTask {
    const NAME: &'static str = "publish";
    const LOG_TARGET: &'static str = "salebell::publish";

    fn interval(&self) -> Duration {
        self.app.config.worker.poll
    }

    fn longest_round(&self) -> Duration {
        self.app.config.worker.lease * 4 + TURN * 2
    }

    fn notification(&self) -> Option<&Notify> {
        Some(&self.app.notifications.publications)
    }

    async fn round(&mut self, _: &Heartbeat) -> Result<Progress> {
        step(&self.app).await
    }
}

/// Publishes some events. `Idle`: none waits, or another process is publishing.
///
/// # Errors
/// The topic or the database is unavailable.
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

/// Publishes the first event of each offer, and returns the numbers of those that were taken: a later one of the same
/// offer must not overtake it.
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
