//! Batches of observations: their messages on the bus, and the result of recording them.

use std::collections::BTreeMap;
use std::io::Read;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::observation::Observation;
use super::price::TransitionKind;

use crate::domain::ids::{AccountId, BatchId};

/// Maximum number of observations in one message. A report of up to this many is ordered by time as a whole.
pub const MAX_OBSERVATIONS: usize = 16_384;

/// Compression level of zstd: the fastest.
const PACKING: i32 = 1;

/// Upper bound of a message's size without its observations, in bytes, compressed or not.
const HEAD: usize = 1024;

/// Largest decompressed size of a message in bytes. Observations are checked beforehand, so a larger one is damaged.
const MAX_UNPACKED: u64 = 256 << 20;

/// One message of the bus "prices": a part of a batch.
///
/// The previous and the next version read it too, so fields may be added, but not changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PriceMessage {
    pub batch_id: BatchId,
    /// Zero-based index of the message in the batch. A part that arrives twice counts once.
    pub part: i32,
    /// Whether unknown stores are created: the reporter has `catalogue:write`.
    pub may_create_stores: bool,
    /// Whether the observations are historical: they ring nothing.
    pub backfill: bool,
    /// W3C trace context of the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    #[serde(with = "chrono::serde::ts_microseconds")]
    pub reported_at: DateTime<Utc>,
    pub observations: Vec<Observation>,
    /// Description of the batch, if the bus is not in the database: a report may be accepted while the database is
    /// unavailable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchNote>,
}

/// Description of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchNote {
    #[serde(rename = "account")]
    pub account_id: AccountId,
    #[serde(with = "chrono::serde::ts_microseconds")]
    pub created_at: DateTime<Utc>,
    /// Totals of the report; `None`: it has not been read to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closing: Option<Closing>,
}

/// Totals of a report that has been read to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// Number of messages of the batch.
    pub parts: i32,
    pub accepted: i64,
    pub rejected: i64,
}

impl PriceMessage {
    /// Serialises the message as JSON compressed with zstd, a tenth of the size both on disk and on the network.
    ///
    /// # Errors
    /// zstd runs out of memory; the error is that of the library.
    pub fn pack(&self) -> std::io::Result<Vec<u8>> {
        let mut encoder = zstd::Encoder::new(Vec::new(), PACKING)?;
        serde_json::to_writer(&mut encoder, self)?;
        encoder.finish()
    }

    /// Parses the result of `pack`.
    ///
    /// # Errors
    /// The bytes are damaged.
    pub fn unpack(bytes: &[u8]) -> std::io::Result<PriceMessage> {
        let mut text = Vec::new();
        zstd::Decoder::new(bytes)?.take(MAX_UNPACKED).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// Splits observations into messages that `pack` to at most `max` bytes. All observations of an offer are in one
/// message, in their original order; if they do not fit into one, earlier ones are in an earlier message.
///
/// # Errors
/// zstd runs out of memory; the error is that of the library.
pub fn split(observations: Vec<Observation>, max: usize) -> std::io::Result<Vec<Vec<Observation>>> {
    if fits(&observations, max)? {
        return Ok(vec![observations]);
    }
    let mut sorted = observations;
    sorted.sort_by(|one, other| offer(one).cmp(&offer(other)));
    let (mut messages, mut waiting) = (Vec::new(), vec![sorted]);
    while let Some(mut some) = waiting.pop() {
        if some.len() < 2 || fits(&some, max)? {
            messages.push(some);
            continue;
        }
        // Cut in the middle, or where the offer in the middle begins or ends.
        let middle = some.len() / 2;
        let same = |seen: &Observation| offer(seen) == offer(&some[middle]);
        let begin = some.iter().position(same).unwrap_or(middle);
        let end = some.iter().rposition(same).map_or(middle, |last| last + 1);
        let cut = match (begin, end == some.len()) {
            (0, true) => {
                some.sort_by_key(|seen| seen.observed_at);
                middle
            }
            (0, false) => end,
            _ => begin,
        };
        let rest = some.split_off(cut);
        waiting.extend([rest, some]);
    }
    Ok(messages)
}

/// Identifies the offer of an observation.
fn offer(seen: &Observation) -> (&str, &str, &str) {
    (&seen.store, &seen.sku, &seen.region)
}

fn fits(observations: &[Observation], max: usize) -> std::io::Result<bool> {
    let room = max.saturating_sub(HEAD);
    if observations.iter().map(Observation::wire_size).sum::<usize>() <= room {
        return Ok(true);
    }
    let mut encoder = zstd::Encoder::new(Vec::new(), PACKING)?;
    serde_json::to_writer(&mut encoder, observations)?;
    Ok(encoder.finish()?.len() <= room)
}

/// Results of observations. Each is counted in exactly one of `recorded` to `failed`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ObservationCounts {
    /// Observations that changed an offer's price.
    pub recorded: i64,
    /// Observations that repeated the known price.
    pub unchanged: i64,
    /// Observations older than the known price, which go into history only.
    pub stale: i64,
    /// Observations in quarantine as possible glitches.
    pub quarantined: i64,
    /// Observations that could not be recorded.
    pub failed: i64,
    /// Changes that were a new low.
    pub new_lows: i64,
    /// Observations, of any result, that were too old to ring when they were reported.
    // Missing in the previous version.
    #[serde(default)]
    #[schema(required)]
    pub too_old_to_ring: i64,
    /// Changes by kind, such as `sale.started`.
    #[schema(value_type = BTreeMap<TransitionKind, i64>)]
    pub transitions: BTreeMap<String, i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_bus() {
        let message = PriceMessage {
            batch_id: BatchId::now_v7(),
            part: 3,
            may_create_stores: true,
            backfill: false,
            traceparent: None,
            reported_at: DateTime::from_timestamp_micros(1_750_000_000_123_456).unwrap(),
            observations: Vec::new(),
            batch: Some(BatchNote {
                account_id: AccountId::now_v7(),
                created_at: DateTime::from_timestamp_micros(1_750_000_000_123_456).unwrap(),
                closing: Some(Closing { parts: 4, accepted: 5, rejected: 6 }),
            }),
        };
        assert_eq!(PriceMessage::unpack(&message.pack().unwrap()).unwrap(), message);
        assert!(PriceMessage::unpack(b"damage").is_err());
    }

    fn seen(sku: u64, time: i64, title: String) -> Observation {
        Observation {
            store: "steam".to_owned(),
            store_name: None,
            sku: sku.to_string(),
            region: "ZZ".to_owned(),
            currency: "EUR".parse().unwrap(),
            amount: 999,
            regular: None,
            observed_at: DateTime::from_timestamp(1_750_000_000 + time, 0).unwrap(),
            title: Some(title),
            platform: None,
            url: None,
            sale_ends_at: None,
            available: true,
        }
    }

    /// Text that cannot be compressed.
    fn noise(state: &mut u64) -> String {
        let mut next = || {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b' ' + (*state >> 33) as u8 % 90)
        };
        std::iter::repeat_with(&mut next).take(300).collect()
    }

    #[test]
    fn items_that_fit_into_one_message_stay_together() {
        let some: Vec<Observation> = (0..1000).map(|n| seen(n % 7, n as i64, "Hades".to_owned())).collect();
        assert_eq!(split(some.clone(), 20_000).unwrap(), [some], "packed it is a tenth");
        assert_eq!(split(Vec::new(), 20_000).unwrap(), [vec![]]);
    }

    #[test]
    fn an_offer_is_split_only_where_it_must_be_and_in_chronological_order() {
        let mut state = 1;
        // Offer 0 has half of the observations, too many for one message.
        let some: Vec<Observation> = (0..2000_u64)
            .map(|n| {
                let offer = if n % 2 == 0 { 0 } else { 1 + n * 7 % 40 };
                seen(offer, (n as i64 * 37) % 2000, noise(&mut state))
            })
            .collect();
        let messages = split(some.clone(), 100_000).unwrap();
        assert!((6..20).contains(&messages.len()), "{}", messages.len());
        assert_eq!(messages.iter().map(Vec::len).sum::<usize>(), some.len());
        for offer in 0..=40 {
            let sku = offer.to_string();
            let of_offer: Vec<Vec<&Observation>> = messages
                .iter()
                .map(|message| message.iter().filter(|seen| seen.sku == sku).collect::<Vec<_>>())
                .filter(|found| !found.is_empty())
                .collect();
            if offer > 0 {
                let as_reported: Vec<&Observation> = some.iter().filter(|seen| seen.sku == sku).collect();
                assert_eq!(of_offer, if as_reported.is_empty() { vec![] } else { vec![as_reported] });
                continue;
            }
            assert!(of_offer.len() > 1);
            let times: Vec<_> =
                of_offer.iter().map(|found| found.iter().map(|seen| seen.observed_at)).collect();
            for pair in times.windows(2) {
                assert!(pair[0].clone().max() <= pair[1].clone().min());
            }
        }
        for observations in messages {
            let message = PriceMessage {
                batch_id: BatchId::now_v7(),
                part: 1,
                may_create_stores: true,
                backfill: false,
                traceparent: None,
                reported_at: DateTime::UNIX_EPOCH,
                observations,
                batch: None,
            };
            assert!(message.pack().unwrap().len() <= 100_000);
        }
    }
}
