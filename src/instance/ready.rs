//! `salebell ready`: the readiness gate of a launch. The Auto Scaling group holds a new instance at its launch hook
//! until this command reports that the instance serves, or that it never will.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use futures_util::future::{Either, select};
use reqwest::{Client, StatusCode, Url};
use tokio::time::Instant;

use super::autoscaling::LifecycleResult;
use super::lifecycle;
use crate::config::{Config, TlsConfig};
use crate::error::{Problem, chain};

const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Bounds of the pause between two probes. The pause is an eighth of the time elapsed, so a fast start is noticed fast.
const PROBE_PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(250)];
/// Maximum number of bytes read of a `/readyz` response.
const MAX_BYTES: usize = 64 * 1024;
/// Timeout for identifying the group, if that has not succeeded by the time the probes end.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until the API is ready, and the worker too if `with_worker`, then completes the launch hook; abandons the
/// launch if that takes longer than `instance.ready_limit_s`. Without `instance.launch_hook` it only waits.
///
/// # Errors
/// Fails if they do not become ready in time, or if the hook cannot be completed.
pub async fn ready(config: &Config, with_worker: bool) -> anyhow::Result<()> {
    let settings = &config.instance;
    let mut urls = vec![ready_url(config)?];
    if with_worker {
        let worker = format!("http://{}/healthz", config.worker.metrics_listen);
        urls.push(Url::parse(&worker).context("the address of the worker")?);
    }
    let (begun, limit) = (Instant::now(), settings.ready_limit);
    let probing = wait_until_ready(&urls, begun + limit);
    let Some(hook) = &settings.launch_hook else {
        probing.await.map_err(|reason| never(limit, &reason))?;
        log::info!(target: "salebell::ready", "ready; instance.launch_hook is not set, so nobody is told");
        return Ok(());
    };
    // The group is identified while the probes run. If it is not found by their end, that search continues rather than
    // starting over.
    let (probed, group) = match select(pin!(probing), pin!(lifecycle::find(settings))).await {
        Either::Left((probed, finding)) => {
            (probed, tokio::time::timeout(CONNECT_TIMEOUT, finding).await.ok())
        }
        Either::Right((group, probing)) => tokio::select! {
            probed = probing => (probed, Some(group)),
            never = lifecycle::beat(settings, hook, &group) => match never {},
        },
    };
    let finish = async |outcome| {
        let group = match group {
            Some(group) => group,
            // One more attempt, to return the cause.
            None => lifecycle::connect(settings, Duration::ZERO).await?,
        };
        lifecycle::complete(&group, hook, outcome).await
    };
    match probed {
        Ok(()) => {
            finish(LifecycleResult::Continue).await?;
            log::info!(target: "salebell::ready", duration_ms = begun.elapsed().as_millis() as u64; "ready");
            Ok(())
        }
        Err(reason) => {
            let failure = never(limit, &reason);
            // Logged before the call to AWS, which may take long or fail.
            log::error!(target: "salebell::ready", "the launch is abandoned: {}", chain(failure.as_ref()));
            finish(LifecycleResult::Abandon).await?;
            Err(failure)
        }
    }
}

/// Abandons the instance: ends its launch if `instance.launch_hook` names the hook that holds it, and marks it
/// unhealthy, which makes the group replace an instance that is already in service.
///
/// # Errors
/// Fails if the group cannot be identified or AWS cannot be informed.
pub async fn abandon(config: &Config, reason: &str) -> anyhow::Result<()> {
    log::error!(target: "salebell::ready", "the launch is abandoned: {reason}");
    metrics::counter!("salebell_boots_failed_total").increment(1);
    let group = lifecycle::connect(&config.instance, CONNECT_TIMEOUT).await?;
    let abandoned = match &config.instance.launch_hook {
        Some(hook) => lifecycle::complete(&group, hook, LifecycleResult::Abandon).await,
        None => Ok(()),
    };
    match group.mark_unhealthy().await {
        Ok(()) => {
            log::info!(target: "salebell::ready", "the group has heard that this instance is unhealthy")
        }
        // The group may no longer know an instance whose launch was abandoned a moment ago.
        Err(not_done) if abandoned.is_ok() && not_done.refused => {
            log::info!(target: "salebell::ready", "not marked unhealthy: {}", chain(not_done.failure.as_ref()));
        }
        Err(not_done) => return Err(not_done.failure),
    }
    abandoned
}

fn never(limit: Duration, reason: &str) -> anyhow::Error {
    anyhow!("not ready within {} s: {reason}", limit.as_secs())
}

/// Returns `instance.ready_url`, or else the API's own address on this machine.
fn ready_url(config: &Config) -> anyhow::Result<Url> {
    if let Some(url) = &config.instance.ready_url {
        return Ok(url.clone());
    }
    let mut address = config.server.listen;
    if address.port() == 0 {
        bail!("instance.ready_url is required where server.listen has port 0");
    }
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    let scheme = if config.server.tls == TlsConfig::Off { "http" } else { "https" };
    Url::parse(&format!("{scheme}://{address}/readyz")).context("the address of the API")
}

/// Probes until all URLs are ready. The error is the reason from the last probe.
async fn wait_until_ready(urls: &[Url], until: Instant) -> Result<(), String> {
    let begun = Instant::now();
    let client = Client::builder()
        .timeout(PROBE_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        // The instance minted its own certificate at start, and no authority has signed it.
        .tls_danger_accept_invalid_certs(true)
        .build()
        .map_err(|error| chain(&error))?;
    let mut reason = "it was not asked".to_owned();
    while Instant::now() < until {
        match probe_all(&client, urls).await {
            Ok(()) => return Ok(()),
            Err(other) => {
                if other != reason {
                    log::info!(target: "salebell::ready", "not ready yet: {other}");
                }
                reason = other;
            }
        }
        let [shortest, longest] = PROBE_PAUSES;
        tokio::time::sleep((begun.elapsed() / 8).clamp(shortest, longest)).await;
    }
    Err(reason)
}

/// Probes all URLs in one round: a service that was ready a moment ago may not be any more.
async fn probe_all(client: &Client, urls: &[Url]) -> Result<(), String> {
    for url in urls {
        probe(client, url).await?;
    }
    Ok(())
}

async fn probe(client: &Client, url: &Url) -> Result<(), String> {
    let mut answer = client.get(url.clone()).send().await.map_err(|error| chain(&error))?;
    let status = answer.status();
    if status == StatusCode::OK {
        return Ok(());
    }
    let mut body = Vec::new();
    while let Ok(Some(piece)) = answer.chunk().await {
        if body.len() + piece.len() > MAX_BYTES {
            break;
        }
        body.extend_from_slice(&piece);
    }
    let reasons = serde_json::from_slice::<Problem>(&body).map(|problem| {
        problem.errors.iter().map(|one| format!("{} {}", one.pointer, one.detail)).collect::<Vec<_>>()
    });
    match reasons {
        Ok(reasons) if !reasons.is_empty() => Err(reasons.join(", ")),
        _ => Err(format!("it answers {}", status.as_u16())),
    }
}
