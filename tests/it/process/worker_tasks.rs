//! The driver of the worker's tasks.

use std::sync::Arc;
use std::time::Duration;

use salebell::app::App;
use salebell::error::{Error, Result};
use salebell::health::watchdog::Heartbeat;
use salebell::worker::driver::{self, Progress, Task};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::support::TestApp;

const INTERVAL: Duration = Duration::from_millis(200);

/// Task whose rounds end as the script says; after the end of the script it is idle.
struct Scripted {
    rounds: std::vec::IntoIter<Result<Progress>>,
    interval: Duration,
    notification: Arc<Notify>,
    began: mpsc::UnboundedSender<&'static str>,
}

impl Task for Scripted {
    const NAME: &'static str = "scripted";
    const LOG_TARGET: &'static str = "salebell::scripted";

    fn interval(&self, _: &App) -> Duration {
        self.interval
    }

    fn longest_round(&self, _: &App) -> Duration {
        Duration::from_secs(1)
    }

    fn notification<'a>(&'a self, _: &'a App) -> Option<&'a Notify> {
        Some(&self.notification)
    }

    async fn round(&mut self, _: &App, _: &Heartbeat) -> Result<Progress> {
        self.began.send("round").unwrap();
        self.rounds.next().unwrap_or(Ok(Progress::Idle))
    }

    async fn finish(&mut self, _: &App) -> Result<()> {
        self.began.send("finish").unwrap();
        Ok(())
    }
}

struct Running {
    app: TestApp,
    notification: Arc<Notify>,
    events: mpsc::UnboundedReceiver<&'static str>,
    driver: tokio::task::JoinHandle<()>,
}

async fn start(interval: Duration, rounds: Vec<Result<Progress>>) -> Running {
    let app = TestApp::spawn().await;
    let notification = Arc::new(Notify::new());
    let (began, events) = mpsc::unbounded_channel();
    let task =
        Scripted { rounds: rounds.into_iter(), interval, notification: Arc::clone(&notification), began };
    let driver = tokio::spawn(driver::run(app.state.clone(), task));
    Running { app, notification, events, driver }
}

impl Running {
    /// Time until the next event, which is a round.
    async fn next_round(&mut self) -> Duration {
        let began = Instant::now();
        let event = tokio::time::timeout(Duration::from_secs(20), self.events.recv()).await.unwrap();
        assert_eq!(event, Some("round"));
        began.elapsed()
    }
}

fn failure() -> Result<Progress> {
    Err(Error::unavailable("the database has not answered in time"))
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_follow_each_other_while_there_is_more_and_then_wait_for_a_notification() {
    let hour = Duration::from_secs(3600);
    let mut running = start(hour, vec![Ok(Progress::More), Ok(Progress::More)]).await;
    for _ in 0..3 {
        running.next_round().await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(running.events.try_recv().is_err(), "an idle task waits");
    running.notification.notify_one();
    running.next_round().await;
    // The task stops while it waits, and releases what it holds.
    running.app.state.stopping.cancel();
    assert_eq!(running.events.recv().await, Some("finish"));
    running.driver.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_rounds_are_retried_at_growing_intervals_and_never_before_the_interval() {
    let mut running = start(INTERVAL, vec![failure(), failure(), failure(), Ok(Progress::Idle)]).await;
    running.next_round().await;
    for doubled in [INTERVAL, INTERVAL * 2, INTERVAL * 4] {
        let waited = running.next_round().await;
        assert!(waited > doubled - INTERVAL / 4, "{waited:?} of {doubled:?}");
    }
    // A success resets the number of failures.
    assert!(running.next_round().await < INTERVAL * 3);
    running.app.state.stopping.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_ends_the_wait_after_a_failure_but_not_before_the_interval() {
    let rounds = (0..5).map(|_| failure()).chain([Ok(Progress::Idle)]).collect();
    let mut running = start(INTERVAL, rounds).await;
    running.next_round().await;
    for _ in 0..5 {
        running.notification.notify_one();
        let waited = running.next_round().await;
        assert!(waited > INTERVAL - INTERVAL / 4, "{waited:?}");
    }
    running.app.state.stopping.cancel();
}
