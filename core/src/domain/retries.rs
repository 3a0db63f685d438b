//! Schedule of retries for failed deliveries.

use chrono::{DateTime, TimeDelta, Utc};

/// Waits between tries, in seconds: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h. A delivery is dead after the
/// try that follows the last wait.
const SCHEDULE_S: [i64; 9] =
    [5, 5 * 60, 30 * 60, 2 * 60 * 60, 5 * 60 * 60, 10 * 60 * 60, 14 * 60 * 60, 20 * 60 * 60, 24 * 60 * 60];

/// Largest shift of a planned wait, in percent, so that deliveries that failed together are not retried together.
const JITTER_PERCENT: i64 = 20;

/// Longest time beyond the planned wait by which a receiver may delay the next try.
const MAX_EXTENSION: TimeDelta = TimeDelta::hours(24);

/// How long to wait after `tries` failed tries (1: the first has just failed). `None`: there is no further try.
///
/// `random` determines the jitter; any value is valid. `retry_after` is the wait that the receiver requested: the next
/// try comes no earlier, but at most `MAX_EXTENSION` after the planned time. It never makes the wait shorter.
pub fn wait_after(tries: usize, random: u64, retry_after: Option<TimeDelta>) -> Option<TimeDelta> {
    let base_ms = SCHEDULE_S.get(tries.checked_sub(1)?)? * 1_000;
    let spread_ms = base_ms * JITTER_PERCENT / 100;
    // The modulo's bias is one in 2^64 / 35,000,000.
    let jitter_ms = (random % (2 * spread_ms + 1) as u64) as i64 - spread_ms;
    let planned = TimeDelta::milliseconds(base_ms + jitter_ms);
    Some(retry_after.map_or(planned, |requested| requested.clamp(planned, planned + MAX_EXTENSION)))
}

/// Reads `Retry-After` (RFC 9110, section 10.2.3): seconds, or an HTTP date. `None` if it is neither.
pub fn parse_retry_after(value: &str, now: DateTime<Utc>) -> Option<TimeDelta> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // A number that overflows is longer than any wait that matters.
        let seconds = value.parse::<i64>().unwrap_or(i64::MAX).min(10 * SCHEDULE_S[8]);
        return Some(TimeDelta::seconds(seconds));
    }
    // Accept all three forms of an HTTP date. Some servers write an RFC 2822 zone in place of GMT.
    let date = match httpdate::parse_http_date(value) {
        Ok(date) => DateTime::<Utc>::from(date),
        Err(_) => DateTime::parse_from_rfc2822(value).ok()?.to_utc(),
    };
    Some((date - now).max(TimeDelta::zero()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn there_are_nine_retries_and_then_no_more() {
        let middle = |tries| {
            let spread = SCHEDULE_S[tries - 1] * 1_000 * JITTER_PERCENT / 100;
            wait_after(tries, spread as u64, None).map(|wait| wait.num_seconds())
        };
        let waits: Vec<i64> = (1..=9).map(|tries| middle(tries).unwrap()).collect();
        assert_eq!(waits, SCHEDULE_S);
        assert_eq!(wait_after(10, 0, None), None);
        assert_eq!(wait_after(10, 0, Some(TimeDelta::seconds(1))), None);
        assert_eq!(wait_after(0, 0, None), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = DateTime::parse_from_rfc3339("1994-11-06T08:49:00Z").unwrap().to_utc();
        assert_eq!(parse_retry_after(" 120 ", now), Some(TimeDelta::seconds(120)));
        for date in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 06 Nov 1994 09:49:37 +0100",
        ] {
            assert_eq!(parse_retry_after(date, now), Some(TimeDelta::seconds(37)), "{date}");
        }
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(TimeDelta::zero()));
        for invalid in ["", "-1", "1.5", "soon", "٣", "+5", "1994-11-06T08:49:37Z"] {
            assert_eq!(parse_retry_after(invalid, now), None, "{invalid:?}");
        }
        assert!(parse_retry_after("99999999999999999999999", now).is_some());
    }

    proptest! {
        #[test]
        fn a_wait_stays_within_its_bounds(tries in 1_usize..=9, random: u64, requested in proptest::option::of(0_i64..10_000_000)) {
            let base = SCHEDULE_S[tries - 1] * 1_000;
            let planned = wait_after(tries, random, None).unwrap();
            prop_assert!((base * 8 / 10..=base * 12 / 10).contains(&planned.num_milliseconds()));
            let requested = requested.map(TimeDelta::seconds);
            let wait = wait_after(tries, random, requested).unwrap();
            let longest = planned + TimeDelta::hours(24);
            prop_assert!(wait >= planned && wait <= longest);
            if let Some(requested) = requested {
                prop_assert!(wait >= requested.min(longest));
                prop_assert!(requested < planned || wait <= requested);
            }
        }

        #[test]
        fn no_header_panics(value in ".{0,40}") {
            let now = DateTime::from_timestamp(1_750_000_000, 0).unwrap();
            let _ = parse_retry_after(&value, now);
        }
    }
}
