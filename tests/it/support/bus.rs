//! The bus of a test: a table of its database, or its own topic and queues at the emulator.

use std::collections::HashMap;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::{Value, json};
use uuid::Uuid;

use super::s3::emulator;

/// Carrier of reported prices in a test.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    Postgres,
    Aws,
}

/// Runs each test once with each carrier.
#[macro_export]
macro_rules! on_both_buses {
    ($($test:ident,)*) => {
        mod on_postgres {
            $(#[tokio::test] async fn $test() { super::$test($crate::support::bus::Carrier::Postgres).await })*
        }
        mod on_aws {
            $(#[tokio::test] async fn $test() { super::$test($crate::support::bus::Carrier::Aws).await })*
        }
    };
}

/// Clients of the emulator.
pub async fn clients() -> (aws_sdk_sns::Client, aws_sdk_sqs::Client) {
    let config = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(emulator().await)
        .app_name(super::aws::tests())
        .load()
        .await;
    (aws_sdk_sns::Client::new(&config), aws_sdk_sqs::Client::new(&config))
}

/// A topic for prices with its queue and dead-letter queue, as docs/guides/bus-on-aws.md specifies them.
pub struct Queues {
    pub topic: String,
    pub queue: String,
    pub dead: String,
    pub endpoint: String,
}

impl Queues {
    pub async fn create() -> Queues {
        Queues::create_with(true).await
    }

    /// Without raw delivery, SNS wraps its messages.
    pub async fn create_with(raw: bool) -> Queues {
        let (sns, _) = clients().await;
        let name = format!("prices-{}", Uuid::now_v7().simple());
        let topic = sns.create_topic().name(&name).send().await.unwrap().topic_arn.unwrap();
        let (dead, dead_arn) = create_queue(&format!("{name}-dead"), &[]).await;
        let redrive = json!({"deadLetterTargetArn": dead_arn, "maxReceiveCount": 5}).to_string();
        let (queue, arn) = create_queue(&name, &[(QueueAttributeName::RedrivePolicy, &redrive)]).await;
        let raw = raw.then_some(("RawMessageDelivery", "true"));
        subscribe(&topic, &arn, raw.as_slice()).await;
        Queues { topic, queue, dead, endpoint: emulator().await }
    }

    /// Settings for a separate process, with its credentials.
    pub fn settings_of_a_process(&self) -> Vec<(&'static str, String)> {
        let who = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        let who = who.map(|name| (name, std::env::var(name).unwrap()));
        self.settings().map(|(key, value)| (key, value.to_owned())).into_iter().chain(who).collect()
    }

    /// Number of messages that are leased by receivers.
    pub async fn held(&self) -> usize {
        let (_, sqs) = clients().await;
        let name = QueueAttributeName::ApproximateNumberOfMessagesNotVisible;
        let request = sqs.get_queue_attributes().queue_url(&self.queue).attribute_names(name.clone());
        request.send().await.unwrap().attributes.unwrap()[&name].parse().unwrap()
    }

    /// Settings that lead to the topic and the queues.
    pub fn settings(&self) -> [(&'static str, &str); 5] {
        [
            ("SALEBELL_BUS__KIND", "aws"),
            ("SALEBELL_BUS__PRICES_TOPIC", &self.topic),
            ("SALEBELL_BUS__PRICES_QUEUE", &self.queue),
            ("SALEBELL_BUS__PRICES_DEAD_QUEUE", &self.dead),
            ("SALEBELL_BUS__ENDPOINT", &self.endpoint),
        ]
    }
}

/// Another team's queue, subscribed to a topic of events.
pub struct Subscriber {
    url: String,
}

/// Makes a topic for events.
pub async fn create_events_topic(fifo: bool) -> String {
    let (sns, _) = clients().await;
    let name = format!("events-{}{}", Uuid::now_v7().simple(), if fifo { ".fifo" } else { "" });
    let mut topic = sns.create_topic().name(name);
    if fifo {
        topic = topic.attributes("FifoTopic", "true");
    }
    topic.send().await.unwrap().topic_arn.unwrap()
}

impl Subscriber {
    /// Makes a queue that subscribes with a filter policy; `null` subscribes to everything.
    pub async fn create(topic: &str, filter: Value) -> Subscriber {
        let fifo = topic.ends_with(".fifo");
        let name = format!("team-{}{}", Uuid::now_v7().simple(), if fifo { ".fifo" } else { "" });
        let attributes = if fifo { vec![(QueueAttributeName::FifoQueue, "true")] } else { Vec::new() };
        let (url, arn) = create_queue(&name, &attributes).await;
        let filter = filter.to_string();
        let mut attributes = vec![("RawMessageDelivery", "true")];
        if filter != "null" {
            attributes.push(("FilterPolicy", &filter));
        }
        subscribe(topic, &arn, &attributes).await;
        Subscriber { url }
    }

    /// Receives and deletes the messages that have arrived, in order.
    pub async fn take(&self) -> Vec<Value> {
        let (_, sqs) = clients().await;
        let mut taken = Vec::new();
        loop {
            let request = sqs.receive_message().queue_url(&self.url).max_number_of_messages(10);
            let messages = request.wait_time_seconds(0).send().await.unwrap().messages.unwrap_or_default();
            if messages.is_empty() {
                return taken;
            }
            for message in messages {
                taken.push(serde_json::from_str(message.body().unwrap()).unwrap());
                let handle = message.receipt_handle().unwrap();
                sqs.delete_message().queue_url(&self.url).receipt_handle(handle).send().await.unwrap();
            }
        }
    }

    /// Receives until there are `count` messages.
    pub async fn wait_for(&self, count: usize) -> Vec<Value> {
        let mut taken = Vec::new();
        for _ in 0..600 {
            taken.extend(self.take().await);
            if taken.len() >= count {
                return taken;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} of {count} events: {taken:?}", taken.len());
    }
}

/// Makes a queue; returns its URL and its ARN.
async fn create_queue(name: &str, attributes: &[(QueueAttributeName, &str)]) -> (String, String) {
    let (_, sqs) = clients().await;
    let attributes: HashMap<QueueAttributeName, String> =
        attributes.iter().map(|(name, value)| (name.clone(), (*value).to_owned())).collect();
    let attributes = (!attributes.is_empty()).then_some(attributes);
    let made = sqs.create_queue().queue_name(name).set_attributes(attributes).send().await.unwrap();
    let url = made.queue_url.unwrap();
    let arn = sqs.get_queue_attributes().queue_url(&url).attribute_names(QueueAttributeName::QueueArn);
    let arn = arn.send().await.unwrap().attributes.unwrap().remove(&QueueAttributeName::QueueArn).unwrap();
    (url, arn)
}

async fn subscribe(topic: &str, queue: &str, attributes: &[(&str, &str)]) {
    let (sns, _) = clients().await;
    let mut request = sns.subscribe().topic_arn(topic).protocol("sqs").endpoint(queue);
    for (name, value) in attributes {
        request = request.attributes(*name, *value);
    }
    request.send().await.unwrap();
}
