//! Price history in buckets: the lowest, highest and last price in force in each day, week or month.

use chrono::{DateTime, Datelike, Days, Months, NaiveTime, Utc};
use serde::Deserialize;
use utoipa::ToSchema;

use super::money::Currency;

/// Resolution of a requested history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// Every change is a point.
    #[default]
    Change,
    /// One point per UTC day.
    Day,
    /// One point per week, from Monday (ISO 8601).
    Week,
    /// One point per month.
    Month,
}

impl Resolution {
    /// Start of the bucket that contains `instant`. A change is its own bucket.
    pub fn start_of(self, instant: DateTime<Utc>) -> DateTime<Utc> {
        let day = instant.date_naive();
        let first = match self {
            Resolution::Change => return instant,
            Resolution::Day => day,
            Resolution::Week => day - Days::new(u64::from(day.weekday().num_days_from_monday())),
            Resolution::Month => day - Days::new(u64::from(day.day0())),
        };
        first.and_time(NaiveTime::MIN).and_utc()
    }

    /// Start of the bucket `count` buckets after the one that begins at `start`.
    pub fn later(self, start: DateTime<Utc>, count: u32) -> DateTime<Utc> {
        let later = match self {
            Resolution::Change => Some(start),
            Resolution::Day => start.checked_add_days(Days::new(u64::from(count))),
            Resolution::Week => start.checked_add_days(Days::new(7 * u64::from(count))),
            Resolution::Month => start.checked_add_months(Months::new(count)),
        };
        later.unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

/// A price in force, in minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    pub currency: Currency,
    pub amount: i64,
    pub regular: i64,
    /// End of the sale as announced by the store, until which the price is known to hold; `None`: until the next
    /// change.
    pub holds_until: Option<DateTime<Utc>>,
}

/// Summary of the changes in one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketChanges {
    pub start: DateTime<Utc>,
    /// Time of the first change. The previous price was in force until then.
    pub first_at: DateTime<Utc>,
    /// Lowest amount in the currency of `last`.
    pub min: i64,
    pub max: i64,
    pub last: InForce,
}

/// One point of a bucketed history: the prices in force in a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    pub start: DateTime<Utc>,
    /// Lowest amount in the currency of `last`: amounts in two currencies are never compared.
    pub min: i64,
    pub max: i64,
    pub last: InForce,
}

/// Returns the first `limit` buckets of one offer, from the one that begins at `from` up to, but not including,
/// `until`.
///
/// `before` is the price in force at `from`, if there is one, and `changes` are the buckets with changes, in order. A
/// bucket without a change repeats the price that was in force at its start. There are no buckets before the first
/// price.
pub fn fill_buckets(
    resolution: Resolution,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
    before: Option<InForce>,
    changes: &[BucketChanges],
    limit: usize,
) -> Vec<Bucket> {
    let mut buckets = Vec::new();
    let mut carried = before;
    let mut changes = changes.iter().peekable();
    let mut start = from;
    while start < until && buckets.len() < limit {
        let changed = changes.next_if(|next| next.start <= start);
        let bucket = match (changed, carried) {
            (Some(changed), carried) => {
                let carried = carried
                    .filter(|price| price.currency == changed.last.currency && changed.first_at > start)
                    .map(|price| price.amount);
                Bucket {
                    start,
                    min: carried.map_or(changed.min, |amount| amount.min(changed.min)),
                    max: carried.map_or(changed.max, |amount| amount.max(changed.max)),
                    last: changed.last,
                }
            }
            (None, Some(price)) => Bucket { start, min: price.amount, max: price.amount, last: price },
            // No price so far: continue at the first one.
            (None, None) => match changes.peek() {
                Some(next) => {
                    start = next.start;
                    continue;
                }
                None => break,
            },
        };
        carried = Some(bucket.last);
        buckets.push(bucket);
        start = resolution.later(start, 1);
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn euros(amount: i64) -> InForce {
        InForce { currency: "EUR".parse().unwrap(), amount, regular: 1000, holds_until: None }
    }

    #[test]
    fn buckets_begin_where_people_expect_them() {
        let instant = at("2026-03-05T13:14:15Z");
        assert_eq!(Resolution::Day.start_of(instant), at("2026-03-05T00:00:00Z"));
        assert_eq!(Resolution::Week.start_of(instant), at("2026-03-02T00:00:00Z"));
        assert_eq!(Resolution::Month.start_of(instant), at("2026-03-01T00:00:00Z"));
        assert_eq!(Resolution::Month.later(at("2026-12-01T00:00:00Z"), 2), at("2027-02-01T00:00:00Z"));
    }

    #[test]
    fn a_price_is_carried_into_buckets_without_a_change() {
        let changes = [BucketChanges {
            start: at("2026-01-03T00:00:00Z"),
            first_at: at("2026-01-03T12:00:00Z"),
            min: 400,
            max: 700,
            last: euros(700),
        }];
        let fill = |before, limit| {
            let (from, until) = (at("2026-01-01T00:00:00Z"), at("2026-01-05T00:00:00Z"));
            fill_buckets(Resolution::Day, from, until, before, &changes, limit)
                .iter()
                .map(|bucket| (bucket.start.day(), bucket.min, bucket.max, bucket.last.amount))
                .collect::<Vec<_>>()
        };
        let carried = [(1, 1000, 1000, 1000), (2, 1000, 1000, 1000), (3, 400, 1000, 700), (4, 700, 700, 700)];
        assert_eq!(fill(Some(euros(1000)), 99), carried);
        assert_eq!(fill(Some(euros(1000)), 3), carried[..3]);
        assert_eq!(fill(None, 99), [(3, 400, 700, 700), (4, 700, 700, 700)]);
    }

    #[test]
    fn amounts_in_two_currencies_are_not_compared() {
        let dollars = InForce { currency: "USD".parse().unwrap(), ..euros(500) };
        let start = at("2026-01-01T00:00:00Z");
        let changes = [BucketChanges {
            start,
            first_at: at("2026-01-01T06:00:00Z"),
            min: 500,
            max: 500,
            last: dollars,
        }];
        let buckets =
            fill_buckets(Resolution::Day, start, at("2026-01-02T00:00:00Z"), Some(euros(100)), &changes, 9);
        assert_eq!(buckets, [Bucket { start, min: 500, max: 500, last: dollars }]);
    }

    proptest! {
        /// The pages contain each bucket once and in order: a page begins where the one before it stopped.
        #[test]
        fn pages_of_buckets_join(days in prop::collection::btree_set(0_u32..60, 0..20), size in 1_usize..9) {
            let from = at("2026-01-01T00:00:00Z");
            let until = at("2026-03-01T00:00:00Z");
            let changes: Vec<BucketChanges> = days.iter().map(|day| {
                let start = Resolution::Day.later(from, *day);
                let amount = i64::from(*day) + 100;
                BucketChanges { start, first_at: start + chrono::TimeDelta::hours(1), min: amount, max: amount, last: euros(amount) }
            }).collect();
            let whole = fill_buckets(Resolution::Day, from, until, None, &changes, 99);
            let mut paged: Vec<Bucket> = Vec::new();
            loop {
                let (start, before) = match paged.last() {
                    None => (from, None),
                    Some(last) => (Resolution::Day.later(last.start, 1), Some(last.last)),
                };
                let rest: Vec<_> = changes.iter().filter(|change| change.start >= start).copied().collect();
                let page = fill_buckets(Resolution::Day, start, until, before, &rest, size);
                if page.is_empty() {
                    break;
                }
                paged.extend(page);
            }
            prop_assert_eq!(paged, whole);
        }
    }
}
