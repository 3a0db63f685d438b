//! Dispatch: turns events into notices, at most one for each watch and sale, and into deliveries.

use std::ops::ControlFlow;
use std::time::Duration;

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use metrics::{counter, histogram};
use tokio::sync::Notify;

use super::driver::{Progress, Task};
use crate::app::App;
use crate::clock::delta;
use crate::domain::ids::EventId;
use crate::error::Result;
use crate::health::watchdog::Heartbeat;
use crate::store::dispatch::{self, MadeSlice, Times, WaitingEvent, WatchSlice};
use crate::store::lease::Lease;

/// Maximum number of events claimed from the outbox at once. Most of them concern games without a watch.
const EVENTS_AT_ONCE: i64 = 500;

/// Slices of an event made concurrently: one waits for the disk while the others compute.
const SLICES_AT_ONCE: usize = 3;

/// Claims some events and dispatches them.
///
/// # Errors
/// `Unavailable`: the database is unavailable. Claimed events wait until their lease has expired.
pub async fn step(app: &App) -> Result<Progress> {
    let heartbeat = app.health.watchdog.start(DispatchTask::NAME, Duration::MAX);
    DispatchTask::default().round(app, &heartbeat).await
}

/// Task that dispatches events. It remembers which events it holds, and releases them as soon as the database
/// answers.
#[derive(Default)]
pub struct DispatchTask {
    held: Vec<EventId>,
}

impl Task for DispatchTask {
    const NAME: &'static str = "dispatch";
    const LOG_TARGET: &'static str = "salebell::dispatch";

    fn notification<'a>(&'a self, app: &'a App) -> Option<&'a Notify> {
        Some(&app.notifications.events)
    }

    async fn round(&mut self, app: &App, heartbeat: &Heartbeat) -> Result<Progress> {
        self.release_all(app).await?;
        let now = app.clock.now();
        let claim = dispatch::claim_events(
            &app.writer,
            EVENTS_AT_ONCE,
            app.config.worker.fanout_slice,
            now,
            lease(app),
        );
        let claimed = app.deadline.run(app.config.worker.lease, claim).await?;
        let found = claimed.quiet > 0 || !claimed.waiting.is_empty();
        counter!("salebell_events_dispatched_total").increment(claimed.quiet as u64);
        self.held = claimed.waiting.iter().map(|event| event.id).collect();
        for event in claimed.waiting {
            if app.stopping.is_cancelled() {
                break;
            }
            if self.dispatch_event(app, event, heartbeat).await?.is_break() {
                break;
            }
        }
        Ok(Progress::of(found))
    }

    async fn finish(&mut self, app: &App) -> Result<()> {
        self.release_all(app).await
    }
}

impl DispatchTask {
    /// Releases the events that are held and not done.
    async fn release_all(&mut self, app: &App) -> Result<()> {
        release(app, self.held.clone()).await?;
        self.held.clear();
        Ok(())
    }

    /// Dispatches an event to all watches of its game. Several slices of watches are made concurrently and committed
    /// in order; a process that takes over continues where this one stopped. Ends the round if the event had more
    /// than one slice: the other held events were released first, so that other processes could dispatch them
    /// meanwhile.
    async fn dispatch_event(
        &mut self,
        app: &App,
        event: WaitingEvent,
        heartbeat: &Heartbeat,
    ) -> Result<ControlFlow<()>> {
        let limit = app.config.worker.lease;
        let mut next = Some(WatchSlice { after: event.last_watch_id, end: event.slice_end });
        let mut go_on = ControlFlow::Continue(());
        if event.slice_end.is_some() {
            go_on = ControlFlow::Break(());
            let others = self.held.extract_if(.., |held| *held != event.id).collect();
            release(app, others).await?;
        }
        let mut making = FuturesOrdered::new();
        loop {
            while let Some(slice) =
                next.filter(|_| making.len() < SLICES_AT_ONCE && !app.stopping.is_cancelled())
            {
                making.push_back(make_slice(app, &event, slice));
                next = match slice.end {
                    None => None,
                    Some(after) => {
                        let size = app.config.worker.fanout_slice;
                        let end = dispatch::find_slice_end(&app.writer, event.game_id, after, size);
                        Some(WatchSlice { after: Some(after), end: app.deadline.run(limit, end).await? })
                    }
                };
            }
            let Some(made) = making.next().await else { break };
            heartbeat.beat();
            let (made, times) = made?;
            let (notices, deliveries) = (made.notices, made.deliveries);
            let lease = app.deadline.run(limit, dispatch::commit_slice(made, &event, &times)).await?;
            if lease == Lease::Lost {
                self.held.retain(|held| *held != event.id);
                return Ok(go_on);
            }
            counter!("salebell_notices_total").increment(notices as u64);
            counter!("salebell_deliveries_created_total").increment(deliveries as u64);
        }
        if next.is_some() {
            // The process is stopping, and releases this event with all the others.
            return Ok(ControlFlow::Break(()));
        }
        self.held.retain(|held| *held != event.id);
        counter!("salebell_events_dispatched_total").increment(1);
        let lag = app.clock.now() - event.recorded_at;
        histogram!("salebell_dispatch_lag_seconds").record(lag.as_seconds_f64().max(0.0));
        Ok(go_on)
    }
}

async fn release(app: &App, events: Vec<EventId>) -> Result<()> {
    if !events.is_empty() {
        let release = dispatch::release_events(&app.writer, &events);
        app.deadline.run(app.config.worker.lease, release).await?;
    }
    Ok(())
}

async fn make_slice(app: &App, event: &WaitingEvent, slice: WatchSlice) -> Result<(MadeSlice, Times)> {
    let now = app.clock.now();
    let times = Times { now, daily: next_daily(now, app.config.worker.daily_hour), lease: lease(app) };
    let made = dispatch::make_slice(&app.writer, event, slice, &times);
    Ok((app.deadline.run(app.config.worker.lease, made).await?, times))
}

fn lease(app: &App) -> DateTime<Utc> {
    app.clock.now() + delta(app.config.worker.lease)
}

/// Next time at which it is `hour` o'clock in UTC.
fn next_daily(now: DateTime<Utc>, hour: u32) -> DateTime<Utc> {
    let time = NaiveTime::from_hms_opt(hour, 0, 0).unwrap_or_default();
    let today = now.date_naive().and_time(time).and_utc();
    if today > now { today } else { today + TimeDelta::days(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daily_delivery_waits_for_the_next_occurrence_of_its_hour() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        assert_eq!(next_daily(at("2026-11-20T08:59:00Z"), 9), at("2026-11-20T09:00:00Z"));
        assert_eq!(next_daily(at("2026-11-20T09:00:00Z"), 9), at("2026-11-21T09:00:00Z"));
        assert_eq!(next_daily(at("2026-12-31T23:00:00Z"), 0), at("2027-01-01T00:00:00Z"));
    }
}
