//! `salebell ready`: the gate of a launch. The Auto Scaling group holds a new instance at its launch hook until this says
//! that it serves, or that it never will.

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
/// The pause between two looks is an eighth of the time so far, within these: what comes up soon is seen soon.
const PROBE_PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(250)];
/// An answer of `/readyz` is no longer.
const MAX_BYTES: usize = 64 * 1024;
/// How long the group is looked for when nobody could say which it is until then.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);

/// Waits until the API is ready, and the worker where `with_worker`, and completes the launch hook; abandons it when that
/// takes too long. Without `instance.launch_hook` it only waits.
///
/// # Errors
/// They have not become ready; AWS does not hear of it.
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
    // What the group has to be told with is got ready meanwhile, and not begun anew when it is not there yet.
    let (probed, group) = match select(pin!(probing), pin!(lifecycle::find(settings))).await {
        Either::Left((probed, finding)) => (probed, tokio::time::timeout(CONNECT_LIMIT, finding).await.ok()),
        Either::Right((group, probing)) => tokio::select! {
            probed = probing => (probed, Some(group)),
            never = lifecycle::beat(settings, hook, &group) => match never {},
        },
    };
    let finish = async |outcome| {
        let group = match group {
            Some(group) => group,
            // Once more, for the reason.
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
            // Before the call, which may take its time or fail.
            log::error!(target: "salebell::ready", "the launch is abandoned: {}", chain(failure.as_ref()));
            finish(LifecycleResult::Abandon).await?;
            Err(failure)
        }
    }
}

/// Gives the instance up: abandons its launch, where `instance.launch_hook` names what waits for it, and marks it
/// unhealthy, so that the group replaces one that serves already.
///
/// # Errors
/// AWS does not hear of it.
pub async fn abandon(config: &Config, reason: &str) -> anyhow::Result<()> {
    log::error!(target: "salebell::ready", "the launch is abandoned: {reason}");
    metrics::counter!("salebell_boots_failed_total").increment(1);
    let group = lifecycle::connect(&config.instance, CONNECT_LIMIT).await?;
    let abandoned = match &config.instance.launch_hook {
        Some(hook) => lifecycle::complete(&group, hook, LifecycleResult::Abandon).await,
        None => Ok(()),
    };
    match group.mark_unhealthy().await {
        Ok(()) => {
            log::info!(target: "salebell::ready", "the group has heard that this instance is unhealthy")
        }
        // Of an instance that was abandoned a moment ago it may know nothing any more.
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

/// `instance.ready_url`, or the API's own address on this machine.
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

/// Asks again and again, one after the other. The error is why it was not ready when it was last asked.
async fn wait_until_ready(urls: &[Url], until: Instant) -> Result<(), String> {
    let begun = Instant::now();
    let client = Client::builder()
        .timeout(PROBE_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        // The certificate is the instance's own, minted at its start: nobody has signed it.
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

/// All of them in one round: who was ready a moment ago may be none any more.
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
