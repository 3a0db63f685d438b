//! Clients of SNS and SQS, created on first use.

use tokio::sync::OnceCell;
use url::Url;

use crate::aws::{self, Chain};

/// Clients built from what is known at start. No request is made before the first use.
pub struct Clients {
    chain: Chain,
    region: Option<String>,
    endpoint: Option<Url>,
    made: OnceCell<(aws_sdk_sns::Client, aws_sdk_sqs::Client)>,
}

impl Clients {
    /// Without a region, the SDK's chain finds it; without an endpoint, the one of AWS or `AWS_ENDPOINT_URL` is used.
    pub fn new(chain: Chain, region: Option<String>, endpoint: Option<Url>) -> Clients {
        Clients { chain, region, endpoint, made: OnceCell::new() }
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
                let (region, endpoint) = (self.region.as_deref(), self.endpoint.as_ref());
                let config = self.chain.load(region, endpoint, aws::WHILE_SERVING).await;
                (aws_sdk_sns::Client::new(&config), aws_sdk_sqs::Client::new(&config))
            })
            .await
    }
}
