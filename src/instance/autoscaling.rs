//! The Auto Scaling group of this instance: its lifecycle actions, and its view of the instance's health.
//! <https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks.html>

use anyhow::anyhow;
use aws_sdk_autoscaling::Client;
use aws_sdk_autoscaling::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use tokio::sync::OnceCell;

use super::metadata::Metadata;
use crate::aws::{self, Chain};
use crate::clock::Clock;
use crate::config;

/// Key of the tag in which Auto Scaling puts the group's name on each instance.
const GROUP_TAG: &str = "aws:autoscaling:groupName";

/// This instance in its group.
pub struct AutoScaling {
    /// Created by the first call, because that loads the root certificates; a process that only watches may make no
    /// call for months.
    client: OnceCell<Client>,
    chain: Chain,
    region: String,
    pub instance: String,
    pub group: String,
}

/// Result with which a lifecycle action is completed.
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

/// State of the lifecycle action that a call refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifecycleAction {
    Active,
    /// It has been completed or has timed out, or there was none.
    None,
}

/// Failure of a call to AWS.
#[derive(Debug)]
pub struct NotDone {
    pub failure: anyhow::Error,
    /// Whether AWS refused the call. If not, it is unknown whether the call took effect.
    pub refused: bool,
}

impl AutoScaling {
    /// Identifies the instance and its group. Without a credential `chain` of the process, it creates one of its own.
    ///
    /// # Errors
    /// Fails if the instance metadata service is unavailable, or the group is neither configured nor in a tag.
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

    /// Completes the lifecycle action of a hook.
    ///
    /// # Errors
    /// Fails if AWS is unavailable or refuses the call.
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

    /// Restarts the hook's timeout.
    ///
    /// # Errors
    /// Fails if AWS is unavailable or refuses the call.
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

    /// Marks the instance unhealthy, so the group replaces it.
    ///
    /// # Errors
    /// Fails if AWS is unavailable or refuses the call.
    pub async fn mark_unhealthy(&self) -> Result<(), NotDone> {
        let call = self
            .client()
            .await
            .set_instance_health()
            .instance_id(&self.instance)
            .health_status("Unhealthy")
            // The group has a grace period while it starts instances, but this one has been in service already.
            .should_respect_grace_period(false);
        call.send().await.map(drop).map_err(|error| NotDone {
            refused: matches!(&error, SdkError::ServiceError(said) if said.raw().status().is_client_error()),
            failure: failure(&error, "SetInstanceHealth"),
        })
    }

    /// State of the instance in its group, such as `Pending:Wait`; `None` if it is in no group.
    ///
    /// # Errors
    /// Fails if AWS is unavailable or refuses the call.
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
        // AWS has no error code of its own for this case.
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
    // Everything on one line, without details of the connection.
    anyhow!("{call}: {}", DisplayErrorContext(error))
}
