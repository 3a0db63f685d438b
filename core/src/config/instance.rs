//! `[instance]`: how an instance acts within its Auto Scaling group.

use std::time::Duration;

use url::Url;

use super::reader::Reader;

/// `[instance]`: the group, its hooks, and when the instance requests its replacement.
#[derive(Clone, Debug)]
pub struct InstanceConfig {
    /// `instance.group`: name of the Auto Scaling group; without it, the tag `aws:autoscaling:groupName` counts.
    pub group: Option<String>,
    /// `instance.launch_hook`: hook that `salebell ready` completes; without it, or with `off`, none.
    pub launch_hook: Option<String>,
    /// `instance.termination_hook`: hook that `salebell terminating` completes; without it, or with `off`, none.
    pub termination_hook: Option<String>,
    /// `instance.ready_url`: address that `salebell ready` polls; without it, `/readyz` at `server.listen`.
    pub ready_url: Option<Url>,
    /// `instance.ready_limit_s`: time after which an instance that is not ready is given up and its launch abandoned.
    pub ready_limit: Duration,
    /// `instance.heartbeat_s`: interval of heartbeats to a hook. Far below the hook's own timeout.
    pub heartbeat: Duration,
    /// `instance.poll_s`: interval at which `salebell terminating` polls the instance metadata.
    pub poll: Duration,
    /// `instance.drain_on_rebalance`: whether to drain as soon as EC2 reports that a spot instance is at risk.
    pub drain_on_rebalance: bool,
    /// `instance.dead_man_s`: time without a health check of the load balancer after which the instance requests its
    /// replacement. `None` (0): never.
    pub dead_man: Option<Duration>,
    /// `instance.disk_full_s`: time for which the instance's own disk must have been full before it requests its
    /// replacement. `None` (0): never.
    pub disk_full: Option<Duration>,
    /// `instance.min_free_bytes`: a disk with fewer bytes free is full.
    pub min_free_bytes: u64,
}

impl InstanceConfig {
    pub(super) fn read(r: &mut Reader) -> Option<InstanceConfig> {
        let filled = |text: &String| !text.is_empty();
        // `off` exists because Parameter Store cannot hold an empty value, and the image sets hooks by default.
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

/// Enforces the lower bound of a loop's interval, even if problems are only reported (`Config::load_beside`).
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
