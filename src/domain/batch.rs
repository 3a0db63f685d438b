//! A batch of observations on its way: what lies on the bus, and what came of it.

use std::collections::BTreeMap;
use std::io::Read;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::observation::Observation;

/// The most observations of one message. One report of up to so many is ordered by time as a whole.
pub const MAX_OBSERVATIONS: usize = 16_384;

/// The most bytes that a message may unpack to: observations are checked before, so more is damage.
const MAX_UNPACKED: u64 = 256 << 20;

/// One message of the bus "prices": a part of a batch.
///
/// The version before and the version after read it too, so fields may be added, not changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PriceMessage {
    pub batch_id: Uuid,
    /// The how-manieth message of the batch, from 0: a part that comes twice counts once.
    pub part: i32,
    /// Unknown stores are made: the reporter has `catalogue:write`.
    pub may_create_stores: bool,
    /// Historical: rings no bells.
    pub backfill: bool,
    /// W3C trace context of the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    #[serde(with = "chrono::serde::ts_microseconds")]
    pub reported_at: DateTime<Utc>,
    pub observations: Vec<Observation>,
}

impl PriceMessage {
    /// JSON, packed with zstd: a tenth of the size, on disk as on the wire.
    ///
    /// # Errors
    /// Out of memory, in the words of the library.
    pub fn pack(&self) -> std::io::Result<Vec<u8>> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1)?;
        serde_json::to_writer(&mut encoder, self)?;
        encoder.finish()
    }

    /// Reads what `pack` made.
    ///
    /// # Errors
    /// What is damaged.
    pub fn unpack(bytes: &[u8]) -> std::io::Result<PriceMessage> {
        let mut text = Vec::new();
        zstd::Decoder::new(bytes)?.take(MAX_UNPACKED).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// What came of observations. Each is counted in exactly one of `recorded` to `failed`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Changed an offer's price.
    pub recorded: i64,
    /// Said what was known.
    pub unchanged: i64,
    /// Older than what is known: history only.
    pub stale: i64,
    /// Held back as a glitch.
    pub quarantined: i64,
    /// Could not be recorded.
    pub failed: i64,
    /// Changes that were a new low.
    pub new_lows: i64,
    /// Changes by kind, such as `sale.started`.
    pub transitions: BTreeMap<String, i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_bus() {
        let message = PriceMessage {
            batch_id: Uuid::now_v7(),
            part: 3,
            may_create_stores: true,
            backfill: false,
            traceparent: None,
            reported_at: DateTime::from_timestamp_micros(1_750_000_000_123_456).unwrap(),
            observations: Vec::new(),
        };
        assert_eq!(PriceMessage::unpack(&message.pack().unwrap()).unwrap(), message);
        assert!(PriceMessage::unpack(b"damage").is_err());
    }
}
