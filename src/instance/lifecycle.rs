//! What a launch and a termination have in common: a lifecycle action is kept alive while there is work, and completed.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::anyhow;
use tokio::time::Instant;

use super::autoscaling::{AutoScaling, LifecycleAction, LifecycleResult};
use super::jitter;
use super::metadata::Metadata;
use crate::config;
use crate::error::chain;

/// Between two calls that did not come to their end.
const RETRY: Duration = Duration::from_secs(2);
/// How long the end of an action is tried to be told. After that the hook's own time-out decides.
const COMPLETE_LIMIT: Duration = Duration::from_secs(120);

/// This instance in its group; asks until `limit` while that cannot be found out.
///
/// # Errors
/// Why it could not be found out at last.
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

/// This instance in its group; asks for as long as that cannot be found out.
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

/// Tells the hook again and again that work goes on, until it is dropped. Finds the group when it is not known yet.
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

/// Tells the hook again and again that work goes on, until it is dropped.
pub async fn beat(settings: &config::InstanceConfig, hook: &str, group: &AutoScaling) -> Infallible {
    loop {
        match group.heartbeat(hook).await {
            Ok(LifecycleAction::Active) => log::debug!(target: "salebell::lifecycle", "heartbeat to {hook}"),
            // Not there yet, or not any more.
            Ok(LifecycleAction::None) => {}
            Err(failure) => {
                log::warn!(target: "salebell::lifecycle", "no heartbeat: {}", chain(failure.as_ref()))
            }
        }
        tokio::time::sleep(settings.heartbeat.mul_f64(jitter())).await;
    }
}

/// Completes a lifecycle action. One that has been completed already, or whose time is over, is no error.
///
/// # Errors
/// AWS has not taken it within two minutes; the instance waits at another hook than this.
pub async fn complete(group: &AutoScaling, hook: &str, outcome: LifecycleResult) -> anyhow::Result<()> {
    let until = Instant::now() + COMPLETE_LIMIT;
    loop {
        let failure = match group.complete(hook, outcome).await {
            Ok(LifecycleAction::Active) => {
                log::info!(target: "salebell::lifecycle", "the hook {hook} is completed: {}", outcome.name());
                return Ok(());
            }
            Ok(LifecycleAction::None) => match group.state().await {
                // Faster than the group, or at another hook.
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

/// There is, or will be, an action that holds the instance.
fn is_waiting(state: &str) -> bool {
    matches!(state, "Pending" | "Pending:Wait" | "Terminating" | "Terminating:Wait")
}
