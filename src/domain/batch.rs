//! A batch of observations on its way: what lies on the bus, and what came of it.

use std::collections::BTreeMap;
use std::io::Read;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::observation::Observation;

use crate::domain::ids::{AccountId, BatchId};

/// The most observations of one message. One report of up to so many is ordered by time as a whole.
pub const MAX_OBSERVATIONS: usize = 16_384;

/// zstd's level: the quickest.
const PACKING: i32 = 1;

/// What a message needs besides its observations, in bytes, packed or not.
const HEAD: usize = 1024;

/// The most bytes that a message may unpack to: observations are checked before, so more is damage.
const MAX_UNPACKED: u64 = 256 << 20;

/// One message of the bus "prices": a part of a batch.
///
/// The version before and the version after read it too, so fields may be added, not changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PriceMessage {
    pub batch_id: BatchId,
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
    /// What its batch is, where the bus is not in the database: the report may have been taken while that was away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchNote>,
}

/// What is known of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchNote {
    #[serde(rename = "account")]
    pub account_id: AccountId,
    #[serde(with = "chrono::serde::ts_microseconds")]
    pub created_at: DateTime<Utc>,
    /// `None`: the report has not been read to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closing: Option<Closing>,
}

/// What is known of a report once it has been read to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// How many messages it became.
    pub parts: i32,
    pub accepted: i64,
    pub rejected: i64,
}

impl PriceMessage {
    /// JSON, packed with zstd: a tenth of the size, on disk as on the wire.
    ///
    /// # Errors
    /// Out of memory, in the words of the library.
    pub fn pack(&self) -> std::io::Result<Vec<u8>> {
        let mut encoder = zstd::Encoder::new(Vec::new(), PACKING)?;
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

/// Splits observations into messages that `pack` to at most `max` bytes. An offer's stand in one of them, in the order
/// in which they came; where they do not fit into one, earlier ones stand in an earlier message.
///
/// # Errors
/// Out of memory, in the words of the library.
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
        // In the middle, or where the offer of the middle begins or ends.
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

/// What names the offer that was seen.
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

/// What came of observations. Each is counted in exactly one of `recorded` to `failed`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservationCounts {
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
    /// Of all, those that were so old when they were reported that they ring nobody. Without them: a version before.
    #[serde(default)]
    pub too_old_to_ring: i64,
    /// Changes by kind, such as `sale.started`.
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

    /// Text that does not pack.
    fn noise(state: &mut u64) -> String {
        let mut next = || {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b' ' + (*state >> 33) as u8 % 90)
        };
        std::iter::repeat_with(&mut next).take(300).collect()
    }

    #[test]
    fn what_fits_stays_together() {
        let some: Vec<Observation> = (0..1000).map(|n| seen(n % 7, n as i64, "Hades".to_owned())).collect();
        assert_eq!(split(some.clone(), 20_000).unwrap(), [some], "packed it is a tenth");
        assert_eq!(split(Vec::new(), 20_000).unwrap(), [vec![]]);
    }

    #[test]
    fn an_offer_is_split_only_where_it_must_be_and_in_the_order_of_time() {
        let mut state = 1;
        // Offer 0 has half of them, and is too large for one message.
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
                let as_told: Vec<&Observation> = some.iter().filter(|seen| seen.sku == sku).collect();
                assert_eq!(of_offer, if as_told.is_empty() { vec![] } else { vec![as_told] });
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
