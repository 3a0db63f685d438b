//! The SQS queue in which reported prices arrive, and its dead-letter queue.
//!
//! SQS dead-letters a message by itself once it was received too often. A message that we give up is moved there at
//! once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::types::{Message as SqsMessage, MessageSystemAttributeName, QueueAttributeName};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use url::Url;
use uuid::Uuid;

use super::clients::Clients;
use super::message::{HeldMessage, Receipt, ReceivedMessage};
use super::topic::TopicMessage;
use crate::aws::WHILE_SERVING;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::store::lease::Lease;

/// Longest wait for a message that SQS allows.
const LONG_POLL: Duration = Duration::from_secs(20);
/// Maximum number of messages of one receive.
const MAX_RECEIVED: i64 = 10;
/// How long a dead message is hidden while it is moved.
const DEAD_HOLD: Duration = Duration::from_secs(60);
/// How long a dead message is hidden while it is counted: shorter than `LONG_POLL`, so that a redrive at the same
/// time still finds it.
const DEAD_COUNT_HOLD: Duration = Duration::from_secs(15);

/// The queue and its dead-letter queue.
pub struct PriceQueue {
    clients: Arc<Clients>,
    clock: Clock,
    queue: String,
    dead: String,
    /// Age of the message that was received last, in milliseconds.
    last_age: AtomicU64,
}

/// Envelope in which SNS wraps a message unless the subscription asks for raw delivery.
#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "Message")]
    message: String,
}

/// Encodes a payload as a message of SNS, which accepts text only.
pub fn write(payload: &[u8]) -> TopicMessage {
    TopicMessage { body: STANDARD.encode(payload), ..TopicMessage::default() }
}

/// Decodes the payload of a message. A body that is not valid is returned as it is.
fn read(body: &str) -> Vec<u8> {
    let wrapped = body.starts_with('{').then(|| serde_json::from_str::<Envelope>(body).ok()).flatten();
    let text = wrapped.as_ref().map_or(body, |envelope| &envelope.message);
    STANDARD.decode(text).unwrap_or_else(|_| text.as_bytes().to_vec())
}

impl PriceQueue {
    pub fn new(clients: Arc<Clients>, clock: Clock, queue: &Url, dead: &Url) -> PriceQueue {
        let (queue, dead) = (queue.to_string(), dead.to_string());
        PriceQueue { clients, clock, queue, dead, last_age: AtomicU64::new(0) }
    }

    pub async fn receive(&self, max: i64, hold: Duration, wait: Duration) -> Result<Vec<ReceivedMessage>> {
        let received = self.receive_from(&self.queue, max, hold, wait).await?;
        let now = self.clock.now();
        let ages = received.iter().filter_map(|message| match &message.receipt {
            Receipt::Queue(held) => (now - held.sent_at).to_std().ok(),
            Receipt::Row(_) => None,
        });
        if let Some(age) = ages.max() {
            self.last_age.store(age.as_millis() as u64, Ordering::Relaxed);
        }
        Ok(received)
    }

    async fn receive_from(
        &self,
        queue: &str,
        max: i64,
        hold: Duration,
        wait: Duration,
    ) -> Result<Vec<ReceivedMessage>> {
        let wait = wait.min(LONG_POLL);
        let timeout = wait + WHILE_SERVING.attempt;
        let timeouts =
            TimeoutConfig::builder().operation_attempt_timeout(timeout).operation_timeout(timeout).build();
        let answer = self
            .clients
            .sqs()
            .await
            .receive_message()
            .queue_url(queue)
            .max_number_of_messages(max.clamp(1, MAX_RECEIVED) as i32)
            .visibility_timeout(seconds(hold))
            .wait_time_seconds(wait.as_secs() as i32)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .customize()
            .config_override(aws_sdk_sqs::config::Builder::default().timeout_config(timeouts))
            .send()
            .await
            .map_err(Error::unavailable)?;
        Ok(answer.messages.unwrap_or_default().into_iter().map(|message| self.take(message)).collect())
    }

    fn take(&self, message: SqsMessage) -> ReceivedMessage {
        let number = |name| {
            let text = message.attributes.as_ref()?.get(&name)?;
            text.parse::<i64>().ok()
        };
        let sent_at =
            number(MessageSystemAttributeName::SentTimestamp).and_then(DateTime::from_timestamp_millis);
        let receives = number(MessageSystemAttributeName::ApproximateReceiveCount).unwrap_or(1);
        let body = message.body.unwrap_or_default();
        ReceivedMessage {
            id: message.message_id.and_then(|id| Uuid::parse_str(&id).ok()).unwrap_or_default(),
            payload: read(&body),
            receives: receives.clamp(1, i16::MAX.into()) as i16,
            receipt: Receipt::Queue(HeldMessage {
                handle: message.receipt_handle.unwrap_or_default(),
                body,
                sent_at: sent_at.unwrap_or_else(|| self.clock.now()),
            }),
        }
    }

    /// Hides a message for `pause` from now on.
    pub async fn hide(&self, held: &HeldMessage, pause: Duration) -> Result<Lease> {
        let request = self.clients.sqs().await.change_message_visibility().queue_url(&self.queue);
        let hidden = request.receipt_handle(&held.handle).visibility_timeout(seconds(pause)).send().await;
        match hidden {
            Ok(_) => Ok(Lease::Held),
            Err(error) if is_lost(error.code()) => Ok(Lease::Lost),
            Err(error) => Err(Error::unavailable(error)),
        }
    }

    pub async fn delete(&self, held: &HeldMessage) -> Result<()> {
        self.delete_from(&self.queue, held).await
    }

    async fn delete_from(&self, queue: &str, held: &HeldMessage) -> Result<()> {
        let request = self.clients.sqs().await.delete_message().queue_url(queue);
        match request.receipt_handle(&held.handle).send().await {
            Ok(_) => Ok(()),
            Err(error) if is_lost(error.code()) => Ok(()),
            Err(error) => Err(Error::unavailable(error)),
        }
    }

    pub async fn dead_letter(&self, held: &HeldMessage) -> Result<()> {
        self.move_to(&self.dead, &self.queue, held).await
    }

    pub async fn revive(&self, held: &HeldMessage) -> Result<()> {
        self.move_to(&self.queue, &self.dead, held).await
    }

    /// Moves a message between the queues. It is in both for a moment, and for longer if the process dies in between,
    /// which is harmless: each part of a batch counts once.
    async fn move_to(&self, to: &str, from: &str, held: &HeldMessage) -> Result<()> {
        let request = self.clients.sqs().await.send_message().queue_url(to).message_body(&held.body);
        request.send().await.map_err(Error::unavailable)?;
        self.delete_from(from, held).await
    }

    pub async fn next_dead(&self, before: DateTime<Utc>) -> Result<Option<ReceivedMessage>> {
        let mut wait = Duration::ZERO;
        loop {
            let Some(dead) = self.receive_from(&self.dead, 1, DEAD_HOLD, wait).await?.pop() else {
                if !wait.is_zero() || self.count(&self.dead).await? == 0 {
                    return Ok(None);
                }
                // Another process is reading one, or SQS has not searched all its servers.
                wait = LONG_POLL;
                continue;
            };
            // A message that was dead-lettered again since then stays hidden for now, and dead.
            if matches!(&dead.receipt, Receipt::Queue(held) if held.sent_at < before) {
                return Ok(Some(dead));
            }
        }
    }

    pub async fn list_dead(&self) -> Result<Vec<ReceivedMessage>> {
        self.receive_from(&self.dead, MAX_RECEIVED, DEAD_COUNT_HOLD, Duration::ZERO).await
    }

    pub async fn age_and_dead(&self) -> Result<(f64, i64)> {
        let (waiting, dead) = tokio::try_join!(self.count(&self.queue), self.count(&self.dead))?;
        let age = match waiting {
            0 => 0.0,
            _ => (self.last_age.load(Ordering::Relaxed) as f64 / 1000.0).max(1.0),
        };
        Ok((age, dead))
    }

    /// Approximate number of all messages of a queue: waiting, held, and not yet visible.
    async fn count(&self, queue: &str) -> Result<i64> {
        let counts = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ];
        let request = self.clients.sqs().await.get_queue_attributes().queue_url(queue);
        let answer =
            request.set_attribute_names(Some(counts.to_vec())).send().await.map_err(Error::unavailable)?;
        let attributes = answer.attributes.unwrap_or_default();
        Ok(counts.iter().filter_map(|name| attributes.get(name)?.parse::<i64>().ok()).sum())
    }
}

/// Whether SQS says that a message is no longer ours: its time ran out, another receiver has it, or it was deleted.
fn is_lost(code: Option<&str>) -> bool {
    code.is_some_and(|code| {
        ["MessageNotInflight", "ReceiptHandleIsInvalid", "InvalidParameterValue"]
            .iter()
            .any(|lost| code.contains(lost))
    })
}

/// Whole seconds, rounded up, and at most as long as SQS can hide a message.
fn seconds(duration: Duration) -> i32 {
    duration.as_secs_f64().ceil().min(43_200.0) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_survives_sns_wrapped_or_raw() {
        let payload = [0, 255, b'{', 10];
        let body = write(&payload).body;
        assert_eq!(read(&body), payload);
        let wrapped =
            serde_json::json!({"Type": "Notification", "MessageId": "a", "Message": body}).to_string();
        assert_eq!(read(&wrapped), payload);
        assert_eq!(read("{damage"), b"{damage");
        assert_eq!((seconds(Duration::from_millis(1)), seconds(Duration::MAX)), (1, 43_200));
    }
}
