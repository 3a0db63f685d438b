//! `[instance]`: what an instance does about its own place in the Auto Scaling group.

use std::time::Duration;

use url::Url;

use super::Reader;

/// `[instance]`
#[derive(Clone, Debug)]
pub struct InstanceConfig {
    /// `instance.group`: the Auto Scaling group; its tag `aws:autoscaling:groupName` tells when it is not set.
    pub group: Option<String>,
    /// `instance.launch_hook`: what `salebell ready` completes; nothing when it is not set, or `off`.
    pub launch_hook: Option<String>,
    /// `instance.termination_hook`: what `salebell terminating` completes; nothing when it is not set, or `off`.
    pub termination_hook: Option<String>,
    /// `instance.ready_url`: what `salebell ready` asks; `/readyz` at `server.listen` when it is not set.
    pub ready_url: Option<Url>,
    /// `instance.ready_limit_s`: an instance that is not ready by then never was: the launch is abandoned.
    pub ready_limit: Duration,
    /// `instance.heartbeat_s`: how often a hook is told that work goes on. Well below the hook's own time-out.
    pub heartbeat: Duration,
    /// `instance.poll_s`: how often `salebell terminating` looks whether the instance is to go.
    pub poll: Duration,
    /// `instance.drain_on_rebalance`: drain at once when EC2 says that a spot instance is at risk.
    pub drain_on_rebalance: bool,
    /// `instance.dead_man_s`: after how long without a health check of the load balancer the instance has itself
    /// replaced. `None` (0): never.
    pub dead_man: Option<Duration>,
    /// `instance.disk_full_s`: after how long without room on its own disk the instance has itself replaced. `None` (0):
    /// never.
    pub disk_full: Option<Duration>,
    /// `instance.min_free_bytes`: a disk with fewer is full.
    pub min_free_bytes: u64,
}

impl InstanceConfig {
    pub(super) fn read(r: &mut Reader) -> Option<InstanceConfig> {
        let filled = |text: &String| !text.is_empty();
        // Parameter Store keeps no empty value, and the image names hooks of its own.
        let hook = |text: &String| filled(text) && text != "off";
        let some = |time: Duration| (!time.is_zero()).then_some(time);
        let (heartbeat, poll) = (r.seconds("instance.heartbeat_s")?, r.seconds("instance.poll_s")?);
        Some(InstanceConfig {
            group: r.optional("instance.group").filter(filled),
            launch_hook: r.optional("instance.launch_hook").filter(hook),
            termination_hook: r.optional("instance.termination_hook").filter(hook),
            ready_url: r.optional("instance.ready_url").filter(filled).and_then(|text| read_url(r, &text)),
            ready_limit: r.seconds("instance.ready_limit_s")?,
            heartbeat: at_least_a_second(r, "instance.heartbeat_s", heartbeat),
            poll: at_least_a_second(r, "instance.poll_s", poll),
            drain_on_rebalance: r.get("instance.drain_on_rebalance")?,
            dead_man: some(r.seconds("instance.dead_man_s")?),
            disk_full: some(r.seconds("instance.disk_full_s")?),
            min_free_bytes: r.get("instance.min_free_bytes")?,
        })
    }
}

/// A loop goes by it, also where problems are only told (`Config::load_beside`).
fn at_least_a_second(r: &mut Reader, key: &str, value: Duration) -> Duration {
    if value.is_zero() {
        r.problem(key, "must be at least 1");
    }
    value.max(Duration::from_secs(1))
}

fn read_url(r: &mut Reader, text: &str) -> Option<Url> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
        _ => {
            r.problem("instance.ready_url", "must be an address of http or https");
            None
        }
    }
}
