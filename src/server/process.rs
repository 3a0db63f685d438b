//! A serving process: its parts, its signals, the notifications to systemd, and its shutdown.
//!
//! ```text
//! SIGTERM or SIGINT → app.stopping: readiness fails, workers begin nothing new
//!                   → each part drains within its limits → exit
//! a second signal   → exit at once
//! ```

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::error::{Error, Result};
use crate::health::systemd::notify;
use crate::server::Server;
use crate::telemetry::emf::Reporter;
use crate::telemetry::gauges::Gauges;
use crate::telemetry::table::Service;

/// Timeout for writing the last metrics.
const METRICS_TIMEOUT: Duration = Duration::from_secs(1);

/// A part of the process that runs until `app.stopping` and then drains: the API or the worker.
pub struct Part {
    name: &'static str,
    work: BoxFuture<'static, Result<()>>,
}

impl Part {
    /// Creates a part, which the log calls `name`.
    pub fn new(name: &'static str, work: impl Future<Output = Result<()>> + Send + 'static) -> Part {
        Part { name, work: work.boxed() }
    }
}

/// Keeps secrets inside the process: the kernel writes no core dump of it, and no other process of its user may read
/// its memory.
///
/// # Errors
/// `Internal` if the kernel rejects a setting.
pub fn forbid_core_dumps() -> Result<()> {
    // The limit alone does not apply where cores are piped into a program.
    nix::sys::prctl::set_dumpable(false).map_err(Error::internal)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0).map_err(Error::internal)
}

/// Runs the parts until a signal, and then until they have drained. Serves `metrics`, writes them for CloudWatch under
/// the name `service`, notifies systemd when the process is ready and when it stops, and feeds systemd's watchdog.
///
/// # Errors
/// A part failed, ended before `app.stopping`, or did not end within its limit after it.
pub async fn run(app: App, service: Service, metrics: Server, parts: Vec<Part>) -> Result<()> {
    let signals = Signals::new()?;
    // The reporter starts before anything is counted.
    let reporter = Reporter::start(&app.config.telemetry, service);
    log::info!(target: "salebell::process", "metrics on http://{}/metrics", metrics.address()?);
    let drained = CancellationToken::new();
    let metrics = tokio::spawn(metrics.run_until(drained.clone().cancelled_owned()));
    let signals = tokio::spawn(signals.stop(app.clone(), reporter.clone()));
    let reports = reporter.clone().map(|reporter| tokio::spawn(report_metrics(app.clone(), reporter)));
    let watchdog = tokio::spawn(app.health.watchdog.clone().feed_watchdog());
    // Until the last request has been answered, reads need the server that serves.
    let reader = app.health.reader.is_some().then(|| tokio::spawn(watch_reader(app.clone())));
    notify(NotifyState::Ready);

    let parts = join_all(parts.into_iter().map(|part| run_part(app.clone(), part)));
    let limit = async {
        app.stopping.cancelled().await;
        notify(NotifyState::Stopping);
        tokio::time::sleep(app.config.server.stop_limit()).await;
    };
    let ends: Result<Vec<()>> = tokio::select! {
        ends = parts => ends.into_iter().collect(),
        () = limit => Err(Error::internal("not everything ended in time")),
    };
    // The metrics can be scraped until the last request has been answered.
    drained.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(1), metrics).await;
    signals.abort();
    watchdog.abort();
    reader.inspect(tokio::task::JoinHandle::abort);
    if let (Some(reporter), Some(reports)) = (reporter, reports) {
        reports.abort();
        write_last_metrics(&app, &reporter).await;
    }
    log::info!(target: "salebell::process", "stopped");
    ends.map(drop)
}

/// Watches over the reader of the database, if there is one; then it never returns.
async fn watch_reader(app: App) {
    if let Some(reader) = &app.health.reader {
        reader.run(&app.health.watchdog).await;
    }
}

/// Writes metrics for CloudWatch at an interval; never returns.
async fn report_metrics(app: App, reporter: Reporter) {
    let mut ticks = tokio::time::interval(reporter.every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick comes at once, when there is nothing to report.
    ticks.tick().await;
    let gauges = Gauges::default();
    loop {
        ticks.tick().await;
        gauges.refresh(&app).await;
        write_metrics(&app, &reporter).await;
    }
}

/// Writes the metrics and waits for their reader. Values that are not written are part of the next line.
async fn write_metrics(app: &App, reporter: &Reporter) {
    let (reporter, now) = (reporter.clone(), app.clock.now());
    let written = tokio::task::spawn_blocking(move || reporter.write(now)).await;
    if let Err(error) = written.map_err(std::io::Error::other).and_then(|written| written) {
        log::warn!(target: "salebell::emf", "metrics were not written: {error}");
    }
}

/// Writes the last metrics within `METRICS_TIMEOUT`: the shutdown does not wait for a reader that has stopped reading.
async fn write_last_metrics(app: &App, reporter: &Reporter) {
    if tokio::time::timeout(METRICS_TIMEOUT, write_metrics(app, reporter)).await.is_err() {
        log::warn!(target: "salebell::emf", "the last metrics were not written: nobody reads them");
    }
}

/// Runs a part. One that ends before `app.stopping` stops the whole process, and systemd restarts it.
async fn run_part(app: App, part: Part) -> Result<()> {
    // A separate task turns a panic into an error of this part, and the other parts can drain.
    let end = match tokio::spawn(part.work).await {
        Ok(end) => end,
        Err(panic) => Err(Error::internal(panic)),
    };
    let early = !app.stopping.is_cancelled();
    app.stopping.cancel();
    match end {
        Ok(()) if early => Err(Error::internal(format!("{} ended without being told to", part.name))),
        Ok(()) => Ok(()),
        Err(error) => {
            let reason = crate::error::chain(&error);
            log::error!(target: "salebell::process", "{} failed: {reason}", part.name);
            Err(error)
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        let listen = |kind| signal(kind).map_err(Error::internal);
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn stop(mut self, app: App, reporter: Option<Reporter>) {
        let name = self.next().await;
        log::info!(target: "salebell::process", "{name}: stopping");
        app.stopping.cancel();
        let name = self.next().await;
        log::warn!(target: "salebell::process", "{name} again: leaving at once");
        if let Some(reporter) = reporter {
            write_last_metrics(&app, &reporter).await;
        }
        log::logger().flush();
        std::process::exit(1);
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
