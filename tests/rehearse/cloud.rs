//! AWS: one emulator with Parameter Store, Secrets Manager, SNS, SQS and S3, reached over the bridge.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use aws_config::{AppName, BehaviorVersion, Region, SdkConfig};
use aws_sdk_secretsmanager::config::Credentials;
use aws_sdk_sqs::types::QueueAttributeName;
use aws_sdk_ssm::types::ParameterType;
use serde_json::json;
use tokio::process::{Child, Command};

use super::network::{HOST, Way};
use test_support::ec2::metadata::REGION;

pub const PORT: u16 = 4566;
/// Port of the proxy to SNS and SQS, which can be closed.
const BUS: u16 = 4568;
/// Environment of the rehearsal: the value of the instances' tag.
pub const ENVIRONMENT: &str = "rehearsal";
const BUCKET: &str = "salebell-files";

/// The running emulator.
pub struct Cloud {
    _process: Child,
    log: PathBuf,
    bus: Way,
    config: SdkConfig,
    ssm: aws_sdk_ssm::Client,
    secrets: aws_sdk_secretsmanager::Client,
}

impl Cloud {
    /// Starts it, with a topic, queues and a bucket, and the settings that lead there.
    pub async fn start(folder: &Path) -> Cloud {
        let python =
            std::env::var("SALEBELL_TEST_PYTHON").expect("SALEBELL_TEST_PYTHON is set by `make rehearse`");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/s3.py");
        let file = folder.join("aws.log");
        let log = std::fs::File::create(&file).expect("its log");
        let mut command = Command::new(python);
        // It stops when its standard input closes, that is, when this process ends.
        command.arg(script).arg("0.0.0.0").arg(PORT.to_string()).process_group(0);
        // URLs that it generates, such as those of queues, must lead here too.
        command.env("MOTO_PORT", PORT.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        let process = command.spawn().expect("the emulator starts");
        let endpoint = format!("http://{HOST}:{PORT}");
        while tokio::net::TcpStream::connect((HOST, PORT)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(aws_sdk_ssm::config::SharedCredentialsProvider::new(Credentials::new(
                "test", "test", None, None, "test",
            )))
            .endpoint_url(&endpoint)
            // Marks calls that are not the product's (tests/clients/recorder.py).
            .app_name(AppName::new("tests").expect("a name"))
            .build();
        let cloud = Cloud {
            _process: process,
            log: file,
            bus: Way::open(BUS, PORT).await,
            ssm: aws_sdk_ssm::Client::new(&config),
            secrets: aws_sdk_secretsmanager::Client::new(&config),
            config,
        };
        cloud.make_bucket(&endpoint).await;
        cloud.make_bus().await;
        cloud
    }

    async fn make_bucket(&self, endpoint: &str) {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let made = client.put(format!("{endpoint}/{BUCKET}")).send().await.expect("S3 answers");
        assert!(made.status().is_success(), "{made:?}");
        for (name, value) in [
            ("files/store", "s3"),
            ("files/s3_bucket", BUCKET),
            ("files/s3_region", "us-east-1"),
            ("files/s3_endpoint", endpoint),
            ("files/presign", "false"),
        ] {
            self.put(name, value).await;
        }
    }

    /// Makes the topic and the queues of prices, as docs/guides/bus-on-aws.md specifies.
    async fn make_bus(&self) {
        let (sns, sqs) = (aws_sdk_sns::Client::new(&self.config), aws_sdk_sqs::Client::new(&self.config));
        let topic =
            sns.create_topic().name("prices").send().await.expect("a topic").topic_arn.expect("its ARN");
        let (dead, dead_arn) = make_queue(&sqs, "prices-dead", None).await;
        let redrive = json!({"deadLetterTargetArn": dead_arn, "maxReceiveCount": 5}).to_string();
        let (queue, arn) = make_queue(&sqs, "prices", Some(redrive)).await;
        let subscription = sns.subscribe().topic_arn(&topic).protocol("sqs").endpoint(arn);
        subscription.attributes("RawMessageDelivery", "true").send().await.expect("a subscription");
        for (name, value) in [
            ("bus/kind", "aws"),
            ("bus/prices_topic", &topic),
            ("bus/prices_queue", &queue),
            ("bus/prices_dead_queue", &dead),
            ("bus/endpoint", &format!("http://{HOST}:{BUS}")),
        ] {
            self.put(name, value).await;
        }
    }

    /// Its latest errors: the emulator has faults of its own.
    pub fn complaints(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let errors = log.lines().rev().filter(|line| line.contains("Error") || line.contains("\" 500 "));
        errors.take(3).map(str::to_owned).collect()
    }

    /// Makes SNS and SQS unavailable, or available again.
    pub fn close_bus(&self, closed: bool) {
        self.bus.lead((!closed).then_some(PORT));
    }

    /// Sets a parameter, such as `database/url`.
    pub async fn put(&self, name: &str, value: &str) {
        let name = format!("/salebell/{ENVIRONMENT}/{name}");
        let put = self.ssm.put_parameter().name(name).value(value).overwrite(true);
        put.r#type(ParameterType::SecureString).send().await.expect("Parameter Store takes it");
    }

    /// Creates a secret, or changes its value.
    pub async fn put_secret(&self, name: &str, value: &str) {
        let made = self.secrets.create_secret().name(name).secret_string(value).send().await;
        if made.is_err() {
            let put = self.secrets.put_secret_value().secret_id(name).secret_string(value);
            put.send().await.expect("Secrets Manager takes it");
        }
    }
}

/// Makes a queue; returns its URL and its ARN.
async fn make_queue(sqs: &aws_sdk_sqs::Client, name: &str, redrive: Option<String>) -> (String, String) {
    let attributes = redrive.map(|policy| HashMap::from([(QueueAttributeName::RedrivePolicy, policy)]));
    let made = sqs.create_queue().queue_name(name).set_attributes(attributes).send().await.expect("a queue");
    let url = made.queue_url.expect("its URL");
    let asked = sqs.get_queue_attributes().queue_url(&url).attribute_names(QueueAttributeName::QueueArn);
    let mut attributes = asked.send().await.expect("its attributes").attributes.expect("some");
    (url, attributes.remove(&QueueAttributeName::QueueArn).expect("its ARN"))
}
