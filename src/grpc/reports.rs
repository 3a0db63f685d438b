//! Messages of a report, whose observations are decoded one by one: one that is malformed costs no other.

use aws_lc_rs::digest::{Context, Digest, SHA256};
use bytes::Bytes;
use chrono::SecondsFormat;
use prost::Message;
use prost_types::Timestamp;

use super::convert::{given, problem, valid_instant};
use super::pb;
use crate::domain::observation::ReportedObservation;
use crate::error::{Error, Kind};
use crate::intake::{ListedProblem, MAX_OBSERVATION_BYTES, PriceIntake, Receipt};

/// `ReportRequest` of `proto/salebell/v1/prices.proto` on the wire.
#[derive(Clone, PartialEq, Message)]
pub struct RawReport {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub observations: Vec<Bytes>,
    #[prost(bool, tag = "2")]
    pub backfill: bool,
}

/// SHA-256 of a report's observations. It does not depend on how they are spread over messages.
pub struct ReportHash(Context);

impl ReportHash {
    pub fn new(backfill: bool) -> ReportHash {
        let mut context = Context::new(&SHA256);
        context.update(&[u8::from(backfill)]);
        ReportHash(context)
    }

    /// Adds the next observation.
    pub fn update(&mut self, observation: &[u8]) {
        self.0.update(&(observation.len() as u64).to_be_bytes());
        self.0.update(observation);
    }

    pub fn finish(self) -> Digest {
        self.0.finish()
    }
}

/// Decodes an observation and passes it to the intake.
pub fn take(intake: &mut PriceIntake, index: u64, observation: Bytes) {
    let size = observation.len();
    if size > MAX_OBSERVATION_BYTES {
        return intake.refuse(index, || Error::new(Kind::TooLarge, "The observation is too long."));
    }
    match pb::Observation::decode(observation) {
        Ok(observation) => intake.take(index, reported(observation), size),
        Err(error) => {
            intake.refuse(index, || Error::malformed(format!("The observation cannot be decoded: {error}.")))
        }
    }
}

fn reported(observation: pb::Observation) -> ReportedObservation {
    let text = |text: String| given(&text).is_some().then_some(text);
    let price = observation.price.unwrap_or_default();
    let regular_price = observation.regular_price.map(|regular| match given(&regular.currency) {
        // The check compares a currency behind the amount with that of the price.
        Some(currency) if !regular.amount.is_empty() => format!("{} {currency}", regular.amount),
        _ => regular.amount,
    });
    ReportedObservation {
        store: text(observation.store),
        sku: text(observation.sku),
        price: text(price.amount),
        currency: text(price.currency),
        title: text(observation.title),
        region: text(observation.region),
        regular_price,
        platform: text(observation.platform),
        url: text(observation.url),
        sale_ends_at: observation.sale_ends_at.map(instant_text),
        observed_at: observation.observed_at.map(instant_text),
        availability: text(observation.availability),
        ..ReportedObservation::default()
    }
}

/// The instant as a text; one that is out of range is refused as such by the check of the text.
fn instant_text(given: Timestamp) -> String {
    let instant = valid_instant(given);
    instant.map_or("1969-12-31T23:59:59Z".to_owned(), |at| at.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

impl From<Receipt> for pb::ReportResponse {
    fn from(receipt: Receipt) -> Self {
        pb::ReportResponse {
            batch_id: receipt.batch_id.to_string(),
            accepted: receipt.accepted,
            rejected_count: receipt.rejected_count,
            rejected: receipt.rejected.into_iter().map(listed).collect(),
            too_old_to_ring: receipt.too_old_to_ring,
            warnings_count: receipt.warnings_count,
            warnings: receipt.warnings.into_iter().map(listed).collect(),
            detail: None,
        }
    }
}

fn listed(item: ListedProblem) -> pb::ListedProblem {
    pb::ListedProblem { index: item.index, problem: Some(problem(item.problem)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_does_not_depend_on_the_bounds_of_messages_but_of_observations() {
        let hash = |backfill, observations: &[&[u8]]| {
            let mut hash = ReportHash::new(backfill);
            observations.iter().for_each(|observation| hash.update(observation));
            hash.finish().as_ref().to_vec()
        };
        assert_eq!(hash(false, &[b"a", b"b"]), hash(false, &[b"a", b"b"]));
        assert_ne!(hash(false, &[b"a", b"b"]), hash(false, &[b"ab"]));
        assert_ne!(hash(false, &[b"a"]), hash(true, &[b"a"]));
    }

    #[test]
    fn amounts_and_instants_become_the_texts_that_are_checked() {
        let money = |amount: &str, currency: &str| {
            Some(pb::Money { amount: amount.to_owned(), currency: currency.to_owned() })
        };
        let observation = pb::Observation {
            price: money("9.99", "EUR"),
            regular_price: money("49.99", "USD"),
            observed_at: Some(Timestamp { seconds: 1, nanos: 500_000_000 }),
            sale_ends_at: Some(Timestamp { seconds: -5, nanos: 0 }),
            ..pb::Observation::default()
        };
        let reported = reported(observation);
        assert_eq!(reported.price.as_deref(), Some("9.99"));
        assert_eq!(reported.currency.as_deref(), Some("EUR"));
        assert_eq!(reported.regular_price.as_deref(), Some("49.99 USD"));
        assert_eq!(reported.observed_at.as_deref(), Some("1970-01-01T00:00:01.500Z"));
        assert_eq!(reported.store, None);
        let problems = reported.check(chrono::DateTime::UNIX_EPOCH).unwrap_err();
        let problem = |field| problems.iter().find(|(name, _)| *name == field).map(|(_, text)| text.as_str());
        assert_eq!(problem("regular_price"), Some("is in USD, but the currency is EUR"));
        assert_eq!(problem("sale_ends_at"), Some("must lie between the years 1970 and 9999"));
        assert_eq!(problem("store"), Some("is required"));
    }
}
