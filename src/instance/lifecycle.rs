//! Steps that a launch and a termination share: keeping a lifecycle action alive during the work, and completing it.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::anyhow;
use tokio::time::Instant;

use super::autoscaling::{AutoScaling, LifecycleAction, LifecycleResult};
use super::jitter;
use super::metadata::Metadata;
use crate::config;
use crate::error::chain;

/// Interval between attempts after a failed call.
const RETRY: Duration = Duration::from_secs(2);
/// Timeout for completing an action, retries included. After that, the hook's own timeout decides.
const COMPLETE_TIMEOUT: Duration = Duration::from_secs(120);

/// Connects to the group of this instance; retries failures until `limit` has passed.
///
/// # Errors
/// Returns the cause of the last failed attempt.
pub async fn connect(settings: &config::InstanceConfig, limit: Duration) -> anyhow::Result<AutoScaling> {
    let until = Instant::now() + limit;
    let metadata = Metadata::from_environment()?;
    loop {
        match AutoScaling::connect(&metadata, settings, None).await {
            Ok(group) => return Ok(group),
            Err(failure) if Instant::now() >= until => return Err(failure),
            Err(failure) => {
                log::warn!(target: "salebell::lifecycle", "asking again: {}", chain(failure.as_ref()))
            }
        }
        tokio::time::sleep(RETRY.mul_f64(jitter())).await;
    }
}

/// Connects to the group of this instance; retries failures forever.
pub async fn find(settings: &config::InstanceConfig) -> AutoScaling {
    loop {
        match connect(settings, Duration::ZERO).await {
            Ok(found) => return found,
            Err(failure) => {
                log::warn!(target: "salebell::lifecycle", "no heartbeat: {}", chain(failure.as_ref()))
            }
        }
        tokio::time::sleep(RETRY.mul_f64(jitter())).await;
    }
}

/// Sends heartbeats to the hook until it is dropped. Connects to the group first if `group` is `None`.
pub async fn keep_alive(
    settings: &config::InstanceConfig,
    hook: &str,
    group: &mut Option<AutoScaling>,
) -> Infallible {
    let group = match group {
        Some(group) => group,
        none => none.insert(find(settings).await),
    };
    beat(settings, hook, group).await
}

/// Sends heartbeats to the hook until it is dropped.
pub async fn beat(settings: &config::InstanceConfig, hook: &str, group: &AutoScaling) -> Infallible {
    loop {
        match group.heartbeat(hook).await {
            Ok(LifecycleAction::Active) => log::debug!(target: "salebell::lifecycle", "heartbeat to {hook}"),
            // The lifecycle action has not begun yet, or has ended.
            Ok(LifecycleAction::None) => {}
            Err(failure) => {
                log::warn!(target: "salebell::lifecycle", "no heartbeat: {}", chain(failure.as_ref()))
            }
        }
        tokio::time::sleep(settings.heartbeat.mul_f64(jitter())).await;
    }
}

/// Completes a lifecycle action. It is not an error if it has been completed already or has timed out.
///
/// # Errors
/// Fails if AWS does not accept the call within two minutes, or if the instance waits at another hook.
pub async fn complete(group: &AutoScaling, hook: &str, outcome: LifecycleResult) -> anyhow::Result<()> {
    let until = Instant::now() + COMPLETE_TIMEOUT;
    loop {
        let failure = match group.complete(hook, outcome).await {
            Ok(LifecycleAction::Active) => {
                log::info!(target: "salebell::lifecycle", "the hook {hook} is completed: {}", outcome.name());
                return Ok(());
            }
            Ok(LifecycleAction::None) => match group.state().await {
                // This call was faster than the group, or the instance waits at another hook.
                Ok(Some(state)) if is_waiting(&state) => {
                    anyhow!("the instance is {state}, but not because of the hook {hook}")
                }
                Ok(state) => {
                    let state = state.unwrap_or_else(|| "in no group".to_owned());
                    log::info!(target: "salebell::lifecycle",
                        "the hook {hook} waits for nothing: the instance is {state}");
                    return Ok(());
                }
                Err(failure) => {
                    log::warn!(target: "salebell::lifecycle",
                        "the hook {hook} waits for nothing; the instance's state is not known: {}", chain(failure.as_ref()));
                    return Ok(());
                }
            },
            Err(failure) => failure,
        };
        if Instant::now() >= until {
            return Err(failure);
        }
        log::warn!(target: "salebell::lifecycle", "trying again: {}", chain(failure.as_ref()));
        tokio::time::sleep(RETRY.mul_f64(jitter())).await;
    }
}

/// Whether an instance in this state is held by a lifecycle action, or will be soon.
fn is_waiting(state: &str) -> bool {
    matches!(state, "Pending" | "Pending:Wait" | "Terminating" | "Terminating:Wait")
}
