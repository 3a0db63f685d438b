//! A message of the bus while a process holds it.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::bus as table;

/// A message that this process holds for now.
pub struct ReceivedMessage {
    pub id: Uuid,
    pub payload: Vec<u8>,
    /// Number of times it has been received, this time included.
    pub receives: i16,
    pub(super) receipt: Receipt,
}

/// Proof that this process still holds a message.
pub(super) enum Receipt {
    Row(Uuid),
    Queue(HeldMessage),
}

/// A message that was received from one of the two queues.
pub struct HeldMessage {
    pub(super) handle: String,
    pub(super) body: String,
    pub(super) sent_at: DateTime<Utc>,
}

impl From<table::MessageRow> for ReceivedMessage {
    fn from(row: table::MessageRow) -> ReceivedMessage {
        ReceivedMessage {
            id: row.id,
            payload: row.payload,
            receives: row.receives,
            receipt: Receipt::Row(row.receipt),
        }
    }
}
