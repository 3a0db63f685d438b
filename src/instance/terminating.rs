//! `salebell terminating`: detects that the instance is about to end, and drains its services first.
//!
//! ```text
//! the group: target-lifecycle-state is Terminated ┐
//! EC2: spot interruption in two minutes           ├→ POST /drain to each service until both have ended,
//! EC2: it is at risk (instance.drain_on_rebalance)┘   heartbeats meanwhile → complete the termination hook
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use reqwest::Client;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use super::autoscaling::{AutoScaling, LifecycleResult};
use super::metadata::{Metadata, SpotAction};
use super::{jitter, lifecycle};
use crate::config::Config;
use crate::error::chain;
use crate::health::systemd::notify;
use crate::health::watchdog::{Heartbeat, Watchdog};

/// Header of `POST /drain` that carries the reason. Requiring it keeps web pages out: a browser does not send a custom
/// header to another origin without a preflight request.
pub const DRAIN_REASON: &str = "salebell-drain-reason";
/// Interval at which a service is sent `POST /drain`, which also checks whether it still runs.
const TICK: Duration = Duration::from_millis(500);
/// Consecutive refused connections after which a service counts as ended. One is not enough, because systemd might be
/// restarting the service.
const GONE_AFTER: u32 = 3;
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Time allowed on top of the services' own stop limit.
const MARGIN: Duration = Duration::from_secs(10);
/// Timeout for identifying the group, if the watch has not done so by then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest round of the watch. When the metadata service is unavailable, its timeouts take up half of this.
const LONGEST_ROUND: Duration = Duration::from_secs(60);
/// Interval between log messages while the metadata service is unavailable.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Reason why the instance is about to end.
#[derive(Debug, PartialEq)]
enum Reason {
    Terminated,
    Spot(SpotAction),
    Rebalance,
}

impl Reason {
    fn text(&self) -> String {
        match self {
            Reason::Terminated => "the group terminates the instance".to_owned(),
            Reason::Spot(action) => {
                format!("EC2 takes the spot instance away: {} at {}", action.action, action.time.to_rfc3339())
            }
            Reason::Rebalance => "EC2 says that the spot instance is at risk".to_owned(),
        }
    }
}

/// Watches until the instance is about to end, drains the services, and completes `instance.termination_hook`. SIGTERM
/// ends the watch, but not a drain that has begun.
///
/// # Errors
/// Fails if signal handlers cannot be installed, if the address of the metadata service is invalid, or if the
/// termination hook cannot be completed.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let mut watch = Watch::new(config)?;
    tokio::spawn(watch.watchdog.clone().feed_watchdog());
    notify(NotifyState::Ready);
    let Some(reason) = signals.unless_signalled(watch.until_ending()).await else { return Ok(()) };
    log::info!(target: "salebell::terminating", "draining: {}", reason.text());
    drain(config, &mut watch.group, &reason).await;
    let Some(hook) = &config.instance.termination_hook else { return Ok(()) };
    if reason != Reason::Terminated {
        // The group decides separately whether it terminates the instance: later, or never.
        if signals.unless_signalled(watch.until_terminated()).await.is_none() {
            return Ok(());
        }
    }
    let group = match watch.group.take() {
        Some(group) => group,
        None => lifecycle::connect(&config.instance, CONNECT_TIMEOUT).await?,
    };
    lifecycle::complete(&group, hook, LifecycleResult::Continue).await
}

/// Polls the instance metadata.
struct Watch<'a> {
    config: &'a Config,
    metadata: Metadata,
    /// Identified early, while the metadata service responds: it may be unavailable when the instance is about to end.
    group: Option<AutoScaling>,
    complained_at: Option<Instant>,
    is_at_risk: bool,
    /// Covers the watch only; the steps after it have time limits of their own.
    watchdog: Watchdog,
}

impl<'a> Watch<'a> {
    fn new(config: &'a Config) -> anyhow::Result<Watch<'a>> {
        // Two attempts are enough: the next round queries again.
        let metadata = Metadata::from_environment()?.with_attempts(2);
        let watchdog = Watchdog::default();
        Ok(Watch { config, metadata, group: None, complained_at: None, is_at_risk: false, watchdog })
    }

    fn heartbeat(&self) -> Heartbeat {
        self.watchdog.start("the watch", LONGEST_ROUND)
    }

    async fn until_ending(&mut self) -> Reason {
        let heartbeat = self.heartbeat();
        loop {
            heartbeat.beat();
            match self.poll().await {
                Ok(Some(reason)) => return reason,
                Ok(None) => {
                    if self.complained_at.take().is_some() {
                        log::info!(target: "salebell::terminating", "the instance metadata answer again");
                    }
                }
                Err(failure) => self.complain(&failure),
            }
            self.pause().await;
        }
    }

    async fn until_terminated(&mut self) {
        let heartbeat = self.heartbeat();
        loop {
            heartbeat.beat();
            match self.metadata.target_lifecycle_state().await {
                Ok(Some(state)) if state == "Terminated" => return,
                Ok(_) => {}
                Err(failure) => self.complain(&failure),
            }
            self.pause().await;
        }
    }

    /// Polls once. One successful query is enough for a reason, even if another query fails.
    async fn poll(&mut self) -> anyhow::Result<Option<Reason>> {
        let (state, spot, rebalance) = tokio::join!(
            self.metadata.target_lifecycle_state(),
            self.metadata.spot_action(),
            self.metadata.rebalance()
        );
        if matches!(&state, Ok(Some(state)) if state == "Terminated") {
            return Ok(Some(Reason::Terminated));
        }
        if let Ok(Some(action)) = &spot {
            return Ok(Some(Reason::Spot(action.clone())));
        }
        if let Ok(Some(_)) = &rebalance {
            if self.config.instance.drain_on_rebalance {
                return Ok(Some(Reason::Rebalance));
            }
            if !std::mem::replace(&mut self.is_at_risk, true) {
                log::warn!(target: "salebell::terminating",
                    "EC2 says that this spot instance is at risk; it serves until the group or EC2 ends it");
            }
        }
        if self.group.is_none() && self.config.instance.termination_hook.is_some() {
            self.group = Some(AutoScaling::connect(&self.metadata, &self.config.instance, None).await?);
        }
        state.map(drop).and(spot.map(drop)).and(rebalance.map(drop))?;
        Ok(None)
    }

    fn complain(&mut self, failure: &anyhow::Error) {
        if self.complained_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            log::warn!(target: "salebell::terminating", "looking again after: {}", chain(failure.as_ref()));
            self.complained_at = Some(Instant::now());
        }
    }

    async fn pause(&self) {
        tokio::time::sleep(self.config.instance.poll.mul_f64(jitter())).await;
    }
}

/// Drains the services of this instance while sending heartbeats to the hook.
async fn drain(config: &Config, group: &mut Option<AutoScaling>, reason: &Reason) {
    let begun = Instant::now();
    let limit = config.server.stop_limit() + MARGIN;
    let services =
        [("salebell api", config.server.metrics_listen), ("salebell worker", config.worker.metrics_listen)];
    let draining = join_all(services.map(|(name, address)| drain_service(name, address, reason)));
    let draining = tokio::time::timeout(limit, draining);
    let drained = match &config.instance.termination_hook {
        Some(hook) => tokio::select! {
            drained = draining => drained.is_ok(),
            never = lifecycle::keep_alive(&config.instance, hook, group) => match never {},
        },
        None => draining.await.is_ok(),
    };
    let took = begun.elapsed().as_millis() as u64;
    if drained {
        log::info!(target: "salebell::terminating", duration_ms = took; "drained");
    } else {
        // Nothing is lost: leases expire, and uploads continue on other instances.
        log::error!(target: "salebell::terminating", duration_ms = took;
            "not drained within {} s; what is in hand is left to others", limit.as_secs());
    }
}

/// Sends `POST /drain` to a service until it has ended.
async fn drain_service(name: &str, address: SocketAddr, reason: &Reason) {
    let client = Client::builder().timeout(CALL_TIMEOUT).no_proxy().build();
    let Ok(client) = client else { return };
    let mut gone = 0;
    while gone < GONE_AFTER {
        let call = client.post(format!("http://{address}/drain")).header(DRAIN_REASON, reason.text());
        match call.send().await {
            Err(error) if error.is_connect() => gone += 1,
            // A service that hangs is still alive.
            _ => gone = 0,
        }
        tokio::time::sleep(TICK).await;
    }
    log::info!(target: "salebell::terminating", "{name} has ended");
}

/// Signals that end the watch: systemd sends SIGTERM to this process, as to all others, when the machine shuts down.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Signals> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Runs `work` until it is done or a signal arrives; `None` means that a signal came first.
    async fn unless_signalled<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            _ = self.terminate.recv() => None,
            _ = self.interrupt.recv() => None,
        }
    }
}
