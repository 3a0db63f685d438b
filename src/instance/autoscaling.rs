//! The Auto Scaling group of this instance: its lifecycle actions, and its opinion of the instance's health.
//! <https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks.html>

use anyhow::anyhow;
use aws_sdk_autoscaling::Client;
use aws_sdk_autoscaling::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use tokio::sync::OnceCell;

use super::metadata::Metadata;
use crate::aws::{self, Chain};
use crate::clock::Clock;
use crate::config;

/// The tag that Auto Scaling gives to each instance of a group.
const GROUP_TAG: &str = "aws:autoscaling:groupName";
/// This instance in its group.
pub struct AutoScaling {
    /// Made with the first call: it reads the authorities, and who only watches has nothing to say for months.
    client: OnceCell<Client>,
    chain: Chain,
    region: String,
    pub instance: String,
    pub group: String,
}

/// How a lifecycle action is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifecycleResult {
    Continue,
    Abandon,
}

impl LifecycleResult {
    pub fn name(self) -> &'static str {
        match self {
            LifecycleResult::Continue => "CONTINUE",
            LifecycleResult::Abandon => "ABANDON",
        }
    }
}

/// Whether there was a lifecycle action to speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifecycleAction {
    Active,
    /// It has been completed, its time is over, or there was none.
    None,
}

/// A call that has not done what it should.
#[derive(Debug)]
pub struct NotDone {
    pub failure: anyhow::Error,
    /// AWS has said no. Otherwise nobody knows whether it was done.
    pub refused: bool,
}

impl AutoScaling {
    /// Finds out which instance this is and to which group it belongs. Without the chain of the process
    /// it has one of its own.
    ///
    /// # Errors
    /// The instance metadata are away; the group is neither configured nor in a tag.
    pub async fn connect(
        metadata: &Metadata,
        settings: &config::InstanceConfig,
        chain: Option<Chain>,
    ) -> anyhow::Result<AutoScaling> {
        let identity = metadata.identity().await?;
        let group = match &settings.group {
            Some(group) => group.clone(),
            None => metadata.required_tag(GROUP_TAG).await?,
        };
        let chain = chain.unwrap_or_else(|| Chain::new(Some(&identity.region), Clock::system()));
        let (instance, region) = (identity.instance_id, identity.region);
        Ok(AutoScaling { client: OnceCell::new(), chain, region, instance, group })
    }

    async fn client(&self) -> &Client {
        let make = async || Client::new(&self.chain.load(Some(&self.region), None, aws::WHILE_SERVING).await);
        self.client.get_or_init(make).await
    }

    /// Ends the wait at a hook.
    ///
    /// # Errors
    /// AWS is away or refuses.
    pub async fn complete(&self, hook: &str, outcome: LifecycleResult) -> anyhow::Result<LifecycleAction> {
        let call = self
            .client()
            .await
            .complete_lifecycle_action()
            .auto_scaling_group_name(&self.group)
            .lifecycle_hook_name(hook)
            .instance_id(&self.instance)
            .lifecycle_action_result(outcome.name());
        action_of(call.send().await, "CompleteLifecycleAction")
    }

    /// Makes the hook's time-out begin anew.
    ///
    /// # Errors
    /// AWS is away or refuses.
    pub async fn heartbeat(&self, hook: &str) -> anyhow::Result<LifecycleAction> {
        let call = self
            .client()
            .await
            .record_lifecycle_action_heartbeat()
            .auto_scaling_group_name(&self.group)
            .lifecycle_hook_name(hook)
            .instance_id(&self.instance);
        action_of(call.send().await, "RecordLifecycleActionHeartbeat")
    }

    /// Has the instance replaced.
    ///
    /// # Errors
    /// AWS is away or refuses.
    pub async fn mark_unhealthy(&self) -> Result<(), NotDone> {
        let call = self
            .client()
            .await
            .set_instance_health()
            .instance_id(&self.instance)
            .health_status("Unhealthy")
            // A group that is being built up has a grace period, and this instance has been in service already.
            .should_respect_grace_period(false);
        call.send().await.map(drop).map_err(|error| NotDone {
            refused: matches!(&error, SdkError::ServiceError(said) if said.raw().status().is_client_error()),
            failure: failure(&error, "SetInstanceHealth"),
        })
    }

    /// The instance's state in its group, such as `Pending:Wait`; `None` when it is in no group.
    ///
    /// # Errors
    /// AWS is away or refuses.
    pub async fn state(&self) -> anyhow::Result<Option<String>> {
        let call = self.client().await.describe_auto_scaling_instances().instance_ids(&self.instance);
        let answer = call.send().await.map_err(|error| failure(&error, "DescribeAutoScalingInstances"))?;
        let found = answer.auto_scaling_instances().first();
        Ok(found.and_then(|instance| instance.lifecycle_state()).map(str::to_owned))
    }
}

fn action_of<T, E>(answer: Result<T, SdkError<E>>, call: &str) -> anyhow::Result<LifecycleAction>
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    match answer {
        Ok(_) => Ok(LifecycleAction::Active),
        // There is no code of its own for it.
        Err(error)
            if error.code() == Some("ValidationError")
                && error.message().is_some_and(|text| text.contains("No active Lifecycle Action found")) =>
        {
            Ok(LifecycleAction::None)
        }
        Err(error) => Err(failure(&error, call)),
    }
}

fn failure<E: std::error::Error + 'static>(error: &SdkError<E>, call: &str) -> anyhow::Error {
    // On one line, without what belongs to the connection.
    anyhow!("{call}: {}", DisplayErrorContext(error))
}
