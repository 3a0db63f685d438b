//! Replacement of this instance by its group: only an instance that the group wants in service may request it, and only
//! one at a time.
//!
//! If any check on the way fails, the instance stays: what fails here may fail on every instance, and must not empty
//! the group. See docs/decisions/0016-dead-man-switch.md.

use std::time::{Duration, Instant};

use chrono::TimeDelta;

use super::autoscaling::AutoScaling;
use super::metadata::Metadata;
use crate::app::App;
use crate::error::{Error, Result, chain};
use crate::store::lease::Claim;
use crate::store::{health, self_terminations};

/// Period during which no other instance of the group may request its replacement. Longer than a new instance takes to
/// start serving.
pub const PAUSE: Duration = Duration::from_secs(600);
/// Interval between attempts while the instance could not request its replacement.
pub const RETRY: Duration = Duration::from_secs(10);
/// Longest round of an attempt, including the calls to AWS.
pub const LONGEST_ROUND: Duration = Duration::from_secs(120);
const DATABASE_TIMEOUT: Duration = Duration::from_secs(3);

/// Outcome of an attempt to request the replacement.
#[derive(Debug, PartialEq, Eq)]
pub enum ReplacementVerdict {
    Replaced,
    /// The reason no longer holds.
    CalledOff,
    /// The group does not want the instance in service; holds its target lifecycle state.
    NotInService(String),
    /// Another instance of the group is being replaced.
    HeldBack,
}

/// Requests the replacement of this instance.
pub struct Replacement {
    app: App,
    metadata: Metadata,
    /// Cached once it has been identified.
    group: Option<AutoScaling>,
}

impl Replacement {
    /// Creates the client without sending a request.
    ///
    /// # Errors
    /// Fails if the address of the instance metadata service is invalid.
    pub fn new(app: App) -> Result<Replacement> {
        let metadata = Metadata::from_environment().map_err(Error::internal)?.with_attempts(2);
        Ok(Replacement { app, metadata, group: None })
    }

    /// Requests the replacement of the instance if the group wants it in service, no other instance is being replaced,
    /// and `still` confirms the reason. Cancel-safe: a claim expires by itself.
    ///
    /// # Errors
    /// Fails if the metadata service, the database or AWS is unavailable or refuses the request. The instance may have
    /// been marked unhealthy all the same.
    pub async fn request(&mut self, still: impl Fn() -> bool) -> anyhow::Result<ReplacementVerdict> {
        match self.metadata.target_lifecycle_state().await? {
            Some(state) if state == "InService" => {}
            other => {
                return Ok(ReplacementVerdict::NotInService(
                    other.unwrap_or_else(|| "in no group".to_owned()),
                ));
            }
        }
        let app = &self.app;
        let group = match &mut self.group {
            Some(group) => group,
            none => {
                let chain = Some(app.aws.clone());
                none.insert(AutoScaling::connect(&self.metadata, &app.config.instance, chain).await?)
            }
        };
        if claim(app, group).await? == Claim::Refused {
            return Ok(ReplacementVerdict::HeldBack);
        }
        if !still() {
            release(app, group).await;
            return Ok(ReplacementVerdict::CalledOff);
        }
        match group.mark_unhealthy().await {
            Ok(()) => Ok(ReplacementVerdict::Replaced),
            Err(not_done) => {
                // Without a response, the instance may have been marked all the same; the claim then has to stand.
                if not_done.refused {
                    release(app, group).await;
                }
                Err(not_done.failure)
            }
        }
    }
}

/// Claims the right to be replaced, unless another instance of the group holds it. Expiry goes by the database's clock.
async fn claim(app: &App, group: &AutoScaling) -> Result<Claim> {
    let claiming = async {
        let sent_at = Instant::now();
        app.clock.observe(health::read_clock(&app.writer).await?, sent_at);
        let now = app.clock.now();
        let until = now + TimeDelta::from_std(PAUSE).map_err(Error::internal)?;
        self_terminations::claim(&app.writer, &group.group, &group.instance, now, until).await
    };
    app.deadline.run(DATABASE_TIMEOUT, claiming).await
}

async fn release(app: &App, group: &AutoScaling) {
    let releasing = self_terminations::release(&app.writer, &group.group, &group.instance);
    if let Ok(Err(error)) = app.deadline.timeout(DATABASE_TIMEOUT, releasing).await {
        log::warn!(target: "salebell::replacement", "others are held back for ten minutes: {}", chain(&error));
    }
}
