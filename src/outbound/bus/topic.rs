//! A topic of SNS.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sns::types::{MessageAttributeValue, PublishBatchRequestEntry};

use super::clients::Clients;
use crate::config::Arn;
use crate::error::{Error, Result};

/// Maximum number of bytes of a request. SNS accepts 256 KiB, for one message or for ten; the rest is left for names
/// and envelopes.
const MAX_BYTES: usize = 250 << 10;
/// Maximum number of messages that SNS accepts in a request.
pub const MAX_MESSAGES: usize = 10;
/// Maximum number of bytes of a payload of the bus: base64 adds a third, and SQS adds an envelope.
pub const MAX_PAYLOAD: usize = 180 << 10;
/// Payloads encoded as text at once, which bounds the memory of a request.
pub(super) const PRICES_AT_ONCE: usize = MAX_MESSAGES;
/// Attempts to send messages that SNS rejects for reasons of its own.
const TRIES: u32 = 4;

/// A topic, and the clients to reach it with.
pub struct Topic {
    clients: Arc<Clients>,
    arn: Arn,
}

/// A message to publish.
#[derive(Clone, Debug, Default)]
pub struct TopicMessage {
    pub body: String,
    /// Attributes that subscribers filter by.
    pub attributes: Vec<(&'static str, Attribute)>,
    /// Group and deduplication id, for a topic that keeps the order.
    pub group: Option<(String, String)>,
}

/// Value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    Text(String),
    Number(i64),
}

impl TopicMessage {
    fn size(&self) -> usize {
        let value = |value: &Attribute| match value {
            Attribute::Text(text) => text.len(),
            Attribute::Number(_) => 20,
        };
        // Each attribute carries the name of its type.
        self.body.len() + self.attributes.iter().map(|(name, is)| name.len() + value(is) + 6).sum::<usize>()
    }

    fn to_entry(&self, at: usize) -> Result<PublishBatchRequestEntry> {
        let mut entry = PublishBatchRequestEntry::builder().id(at.to_string()).message(&self.body);
        for (name, value) in &self.attributes {
            let (kind, text) = match value {
                Attribute::Text(text) => ("String", text.clone()),
                Attribute::Number(number) => ("Number", number.to_string()),
            };
            let value = MessageAttributeValue::builder().data_type(kind).string_value(text).build();
            entry = entry.message_attributes(*name, value.map_err(Error::internal)?);
        }
        if let Some((group, id)) = &self.group {
            entry = entry.message_group_id(group).message_deduplication_id(id);
        }
        entry.build().map_err(Error::internal)
    }
}

impl Topic {
    pub(super) fn new(clients: Arc<Clients>, arn: Arn) -> Topic {
        Topic { clients, arn }
    }

    /// Whether the topic keeps the order within each group.
    pub fn is_fifo(&self) -> bool {
        self.arn.is_fifo()
    }

    /// Publishes messages that `requests` puts into one request, and returns for each whether it was accepted.
    ///
    /// # Errors
    /// `Unavailable`: as far as is known, none was accepted.
    pub async fn publish(&self, messages: &[TopicMessage]) -> Result<Vec<bool>> {
        let entries = messages.iter().enumerate().map(|(at, message)| message.to_entry(at));
        let entries = entries.collect::<Result<Vec<_>>>()?;
        let request = self.clients.sns().await.publish_batch().topic_arn(self.arn.as_str());
        let answer = request
            .set_publish_batch_request_entries(Some(entries))
            .send()
            .await
            .map_err(Error::unavailable)?;
        for failed in answer.failed() {
            log::warn!(target: "salebell::bus", "SNS did not take a message: {} {}",
                failed.code(), failed.message().unwrap_or_default());
        }
        let taken: Vec<&str> = answer.successful().iter().filter_map(|one| one.id()).collect();
        Ok((0..messages.len()).map(|at| taken.contains(&at.to_string().as_str())).collect())
    }

    /// Publishes all messages, in as few requests as they fit into.
    ///
    /// # Errors
    /// `Unavailable`: some may have been published nevertheless.
    pub(super) async fn send(&self, messages: Vec<TopicMessage>) -> Result<()> {
        for request in requests(&messages) {
            let mut left = messages[request].to_vec();
            for attempt in 0..TRIES {
                if attempt > 0 {
                    tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
                }
                let mut taken = self.publish(&left).await?.into_iter();
                left.retain(|_| !taken.next().unwrap_or_default());
                if left.is_empty() {
                    break;
                }
            }
            if !left.is_empty() {
                return Err(Error::unavailable("SNS does not take all messages"));
            }
        }
        Ok(())
    }
}

/// Ranges of messages that each fit into one request.
pub fn requests(messages: &[TopicMessage]) -> Vec<std::ops::Range<usize>> {
    let (mut requests, mut bytes) = (Vec::<std::ops::Range<usize>>::new(), 0);
    for (at, message) in messages.iter().enumerate() {
        let size = message.size();
        match requests.last_mut().filter(|open| open.len() < MAX_MESSAGES && bytes + size <= MAX_BYTES) {
            Some(open) => (open.end, bytes) = (at + 1, bytes + size),
            None => {
                requests.push(at..at + 1);
                bytes = size;
            }
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_at_most_ten_messages_and_256_kib() {
        let message = |size: usize| TopicMessage { body: "x".repeat(size), ..TopicMessage::default() };
        let sizes = |of: &[usize]| requests(&of.iter().map(|size| message(*size)).collect::<Vec<_>>());
        assert!(sizes(&[]).is_empty());
        assert_eq!(sizes(&[1; 23]), [0..10, 10..20, 20..23]);
        let kib = |sizes: &[usize]| sizes.iter().map(|size| size << 10).collect::<Vec<_>>();
        assert_eq!(sizes(&kib(&[240, 9, 2, 240, 240, 100, 100, 50])), [0..2, 2..4, 4..5, 5..8]);
        // As text, the largest payload goes in a request of its own.
        assert!(MAX_PAYLOAD.div_ceil(3) * 4 <= MAX_BYTES);
    }
}
