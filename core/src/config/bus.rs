//! `[bus]`: the bus for reported prices, and the topic for events.

use std::str::FromStr;

use url::Url;

use super::reader::Reader;

/// `[bus]`: kind of the bus, and its topics and queues on AWS.
#[derive(Clone, Debug)]
pub struct BusConfig {
    /// `bus.kind`: `postgres` or `aws`.
    pub kind: BusKind,
    /// `bus.prices_topic`: ARN of the SNS topic that reported prices are published to.
    pub prices_topic: Option<Arn>,
    /// `bus.prices_queue`: URL of the SQS queue that is subscribed to `bus.prices_topic`.
    pub prices_queue: Option<Url>,
    /// `bus.prices_dead_queue`: URL of the dead-letter queue of `bus.prices_queue`.
    pub prices_dead_queue: Option<Url>,
    /// `bus.events_topic`: ARN of the SNS topic that events are published to, with any `bus.kind`.
    pub events_topic: Option<Arn>,
    /// `bus.endpoint`: address of an SNS and SQS other than those of AWS.
    pub endpoint: Option<Url>,
}

/// Kind of bus that carries reported prices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusKind {
    /// A table of the database.
    Postgres,
    /// SNS and SQS.
    Aws,
}

impl FromStr for BusKind {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "postgres" => Ok(BusKind::Postgres),
            "aws" => Ok(BusKind::Aws),
            _ => Err("must be postgres or aws"),
        }
    }
}

/// ARN of an SNS topic: `arn:aws:sns:eu-central-1:123456789012:salebell-prices`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arn(String);

impl Arn {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Region of the topic.
    pub fn region(&self) -> &str {
        self.0.split(':').nth(3).unwrap_or_default()
    }

    /// Whether the topic is FIFO, which keeps the order of each message group.
    pub fn is_fifo(&self) -> bool {
        self.0.ends_with(".fifo")
    }
}

impl FromStr for Arn {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(':').collect();
        match parts.as_slice() {
            ["arn", partition, "sns", region, account, name]
                if ![partition, region, account, name].iter().any(|part| part.is_empty()) =>
            {
                Ok(Arn(text.to_owned()))
            }
            _ => Err("must be the ARN of an SNS topic"),
        }
    }
}

impl BusConfig {
    pub(super) fn read(r: &mut Reader) -> Option<BusConfig> {
        let bus = BusConfig {
            kind: r.get("bus.kind")?,
            prices_topic: r
                .optional("bus.prices_topic")
                .and_then(|text| read_arn(r, "bus.prices_topic", &text)),
            prices_queue: r
                .optional("bus.prices_queue")
                .and_then(|text| read_url(r, "bus.prices_queue", &text)),
            prices_dead_queue: r
                .optional("bus.prices_dead_queue")
                .and_then(|text| read_url(r, "bus.prices_dead_queue", &text)),
            events_topic: r
                .optional("bus.events_topic")
                .and_then(|text| read_arn(r, "bus.events_topic", &text)),
            endpoint: r.optional("bus.endpoint").and_then(|text| read_url(r, "bus.endpoint", &text)),
        };
        if bus.kind == BusKind::Aws {
            for (key, missing) in [
                ("bus.prices_topic", bus.prices_topic.is_none()),
                ("bus.prices_queue", bus.prices_queue.is_none()),
                ("bus.prices_dead_queue", bus.prices_dead_queue.is_none()),
            ] {
                if missing {
                    r.problem(key, "is required with bus.kind = aws");
                }
            }
        }
        if bus.prices_topic.as_ref().is_some_and(Arn::is_fifo) {
            r.problem("bus.prices_topic", "must be a standard topic");
        }
        let regions: Vec<&str> =
            [&bus.prices_topic, &bus.events_topic].into_iter().flatten().map(Arn::region).collect();
        if let [one, other] = regions[..]
            && one != other
        {
            r.problem("bus.events_topic", "must be in the region of bus.prices_topic");
        }
        Some(bus)
    }
}

fn read_arn(r: &mut Reader, key: &str, text: &str) -> Option<Arn> {
    if text.is_empty() {
        return None;
    }
    text.parse().map_err(|problem| r.problem(key, problem)).ok()
}

fn read_url(r: &mut Reader, key: &str, text: &str) -> Option<Url> {
    if text.is_empty() {
        return None;
    }
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
        _ => {
            r.problem(key, "must be an address of http or https");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_read_from_the_arn_of_a_topic() {
        let arn: Arn = "arn:aws:sns:eu-central-1:123456789012:prices".parse().unwrap();
        assert_eq!((arn.region(), arn.is_fifo()), ("eu-central-1", false));
        assert!("arn:aws:sns:eu-central-1:123456789012:events.fifo".parse::<Arn>().unwrap().is_fifo());
        for text in
            ["", "prices", "arn:aws:sqs:eu-central-1:1:prices", "arn:aws:sns::1:prices", "arn:aws:sns:a:1:"]
        {
            assert!(text.parse::<Arn>().is_err(), "{text}");
        }
    }
}
