//! Clients of SNS and SQS, made when somebody first needs them.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use tokio::sync::OnceCell;
use url::Url;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// And one attempt at a request.
pub const ATTEMPT: Duration = Duration::from_secs(6);
/// And a request with its repetitions: shorter than `server.drain_s`, and than what a caller waits for.
const REQUEST: Duration = Duration::from_secs(15);

/// Credentials come from the SDK's chain: environment, web identity, container, instance.
pub struct Clients {
    region: Option<String>,
    endpoint: Option<Url>,
    made: OnceCell<(aws_sdk_sns::Client, aws_sdk_sqs::Client)>,
}

impl Clients {
    /// Without a region, the SDK's chain tells it; without an endpoint it is that of AWS, or `AWS_ENDPOINT_URL`.
    pub fn new(region: Option<String>, endpoint: Option<Url>) -> Clients {
        Clients { region, endpoint, made: OnceCell::new() }
    }

    pub async fn sns(&self) -> &aws_sdk_sns::Client {
        &self.both().await.0
    }

    pub async fn sqs(&self) -> &aws_sdk_sqs::Client {
        &self.both().await.1
    }

    async fn both(&self) -> &(aws_sdk_sns::Client, aws_sdk_sqs::Client) {
        self.made
            .get_or_init(|| async {
                let config = self.load().await;
                (aws_sdk_sns::Client::new(&config), aws_sdk_sqs::Client::new(&config))
            })
            .await
    }

    async fn load(&self) -> SdkConfig {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(ATTEMPT)
            .operation_timeout(REQUEST)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(3));
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(endpoint) = &self.endpoint {
            loader = loader.endpoint_url(endpoint.as_str());
        }
        loader.load().await
    }
}
