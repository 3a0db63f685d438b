//! Has this instance replaced by its group, if it may: only an instance that the group wants in service, and one at a time.
//!
//! Whatever cannot be found out on the way is a reason to stay: what is wrong here may be wrong everywhere, and must not
//! empty the group. docs/decisions/0016-dead-man-switch.md tells more.

use std::time::{Duration, Instant};

use chrono::TimeDelta;

use super::autoscaling::AutoScaling;
use super::metadata::Metadata;
use crate::app::App;
use crate::error::{Error, Result, chain};
use crate::store::lease::Claim;
use crate::store::{health, self_terminations};

/// For so long no other instance of the group has itself replaced: longer than a new one takes to serve.
pub const PAUSE: Duration = Duration::from_secs(600);
/// When the instance could not have itself replaced, it tries again so much later.
pub const RETRY: Duration = Duration::from_secs(10);
/// No round of asking takes longer, the calls of AWS included.
pub const LONGEST_ROUND: Duration = Duration::from_secs(120);
const DATABASE_TIMEOUT: Duration = Duration::from_secs(3);

/// What became of the wish to be replaced.
#[derive(Debug, PartialEq, Eq)]
pub enum ReplacementVerdict {
    Replaced,
    /// The reason has gone meanwhile.
    CalledOff,
    /// The group does not want the instance in service.
    NotInService(String),
    /// Another instance is being replaced.
    HeldBack,
}

/// The way to be replaced.
pub struct Replacement {
    app: App,
    metadata: Metadata,
    /// Once it has been found out.
    group: Option<AutoScaling>,
}

impl Replacement {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// The address of the instance metadata is none.
    pub fn new(app: App) -> Result<Replacement> {
        let metadata = Metadata::from_environment().map_err(Error::internal)?.with_attempts(2);
        Ok(Replacement { app, metadata, group: None })
    }

    /// Has the instance replaced, if it may, and if there is `still` a reason for it. Can be dropped at any point: what was
    /// claimed expires by itself.
    ///
    /// # Errors
    /// The metadata, the database or AWS are away or refuse. The instance may be marked all the same.
    pub async fn ask(&mut self, still: impl Fn() -> bool) -> anyhow::Result<ReplacementVerdict> {
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
                // Without an answer it may have been done all the same: then no other instance may follow.
                if not_done.refused {
                    release(app, group).await;
                }
                Err(not_done.failure)
            }
        }
    }
}

/// Granted while no other instance of the group is being replaced. The database's clock counts.
async fn claim(app: &App, group: &AutoScaling) -> Result<Claim> {
    let claiming = async {
        let asked = Instant::now();
        app.clock.observe(health::read_clock(&app.writer).await?, asked);
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
