//! Times as shops, databases and programs write them.

use std::str::FromStr;

use chrono::{
    DateTime, Days, FixedOffset, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, TimeZone, Utc,
};
use serde::{Serialize, Serializer};

/// A time as written in a text, with or without a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// An instant: the text includes its offset from UTC.
    Instant(DateTime<Utc>),
    /// A date and time in an unnamed zone.
    Local(NaiveDateTime),
    /// A day in an unnamed zone.
    Date(NaiveDate),
}

impl Time {
    /// Parses RFC 3339 and related formats: a date, then optionally a time after a `T` or white space, whose seconds
    /// and their fraction may be left out, then optionally an offset (`Z`, `UTC`, `GMT`, `+01`, `+0100`, `+01:00`).
    /// Returns `None` for everything else, including a leap second: no price was observed in one.
    pub fn read(text: &str) -> Option<Time> {
        let text = text.trim();
        let (date, rest) = text.split_at_checked("2026-11-20".len())?;
        let date = read_date(date.as_bytes())?;
        if rest.is_empty() {
            return Some(Time::Date(date));
        }
        let rest = match rest.strip_prefix(['T', 't']) {
            Some(rest) => rest,
            None => {
                let time = rest.trim_start();
                (time.len() < rest.len()).then_some(time)?
            }
        };
        let (time, rest) = read_time(rest)?;
        let local = date.and_time(time);
        let zone = rest.trim_start();
        if zone.is_empty() {
            return Some(Time::Local(local));
        }
        let is_utc = ["Z", "UTC", "GMT"].iter().any(|name| zone.eq_ignore_ascii_case(name));
        let offset = if is_utc { FixedOffset::east_opt(0)? } else { read_offset(zone.as_bytes())? };
        Some(Time::Instant(local.and_local_timezone(offset).single()?.to_utc()))
    }
}

fn read_date(text: &[u8]) -> Option<NaiveDate> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else { return None };
    let year = number(*y1, *y2)? * 100 + number(*y3, *y4)?;
    NaiveDate::from_ymd_opt(year as i32, number(*m1, *m2)?, number(*d1, *d2)?)
}

/// Parses the time at the beginning of a text, and returns it with the rest.
fn read_time(text: &str) -> Option<(NaiveTime, &str)> {
    let bytes = text.as_bytes();
    let two = |at: usize| number(*bytes.get(at)?, *bytes.get(at + 1)?);
    let (hour, minute) = (two(0)?, two(3)?);
    if bytes[2] != b':' {
        return None;
    }
    if bytes.get(5) != Some(&b':') {
        return Some((NaiveTime::from_hms_opt(hour, minute, 0)?, &text[5..]));
    }
    let second = two(6)?;
    let Some(fraction) = text[8..].strip_prefix('.') else {
        return Some((NaiveTime::from_hms_opt(hour, minute, second)?, &text[8..]));
    };
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return None;
    }
    // Digits beyond nanoseconds do not matter for prices.
    let nanos = fraction.bytes().take(digits).chain(std::iter::repeat(b'0')).take(9);
    let nanos = nanos.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Some((NaiveTime::from_hms_nano_opt(hour, minute, second, nanos)?, &fraction[digits..]))
}

fn read_offset(text: &[u8]) -> Option<FixedOffset> {
    let (sign, hours, minutes) = match text {
        [sign, h1, h2] => (sign, number(*h1, *h2)?, 0),
        [sign, h1, h2, m1, m2] | [sign, h1, h2, b':', m1, m2] => (sign, number(*h1, *h2)?, number(*m1, *m2)?),
        _ => return None,
    };
    if hours > 23 || minutes > 59 {
        return None;
    }
    let seconds = (hours * 3_600 + minutes * 60) as i32;
    match sign {
        b'+' => FixedOffset::east_opt(seconds),
        b'-' => FixedOffset::west_opt(seconds),
        _ => None,
    }
}

fn number(tens: u8, ones: u8) -> Option<u32> {
    let digits = tens.is_ascii_digit() && ones.is_ascii_digit();
    digits.then(|| u32::from(tens - b'0') * 10 + u32::from(ones - b'0'))
}

/// Zone that applies to times that name none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    Offset(FixedOffset),
    /// A named zone, with its daylight saving changes.
    Named(chrono_tz::Tz),
}

/// Choice between the two instants of a local time that occurs twice, because clocks are set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twice {
    Earlier,
    Later,
}

impl Zone {
    pub const UTC: Zone = Zone::Named(chrono_tz::Tz::UTC);

    /// The instant at which the zone's clocks show `local`. A time that they skip is read as if they had not been set
    /// forward yet: half past two becomes half past three. `None` if the result is out of the calendar's range.
    pub fn instant(&self, local: NaiveDateTime, twice: Twice) -> Option<DateTime<Utc>> {
        match self {
            Zone::Offset(offset) => offset.from_local_datetime(&local).single().map(|time| time.to_utc()),
            Zone::Named(zone) => match zone.from_local_datetime(&local) {
                MappedLocalTime::Single(time) => Some(time.to_utc()),
                MappedLocalTime::Ambiguous(earlier, later) => {
                    Some(if twice == Twice::Earlier { earlier } else { later }.to_utc())
                }
                MappedLocalTime::None => {
                    let day_before = local.checked_sub_days(Days::new(1))?;
                    let before = zone.from_local_datetime(&day_before).earliest()?;
                    Some(before.to_utc() + (local - day_before))
                }
            },
        }
    }
}

impl FromStr for Zone {
    type Err = String;

    /// Parses an IANA name or an offset from UTC.
    fn from_str(text: &str) -> Result<Zone, String> {
        let text = text.trim();
        if let Some(offset) = read_offset(text.as_bytes()) {
            return Ok(Zone::Offset(offset));
        }
        match text {
            "Z" | "z" => Ok(Zone::UTC),
            _ => text.parse().map(Zone::Named).map_err(|_| {
                "must be a zone such as \"Europe/Berlin\", or an offset such as \"+01:00\"".to_owned()
            }),
        }
    }
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Zone::Offset(offset) => serializer.collect_str(offset),
            Zone::Named(zone) => serializer.collect_str(zone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn instant(text: &str) -> String {
        match Time::read(text) {
            Some(Time::Instant(instant)) => instant.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_time_with_an_offset_is_an_instant() {
        for text in [
            "2026-11-20T12:00:00Z",
            "2026-11-20t12:00:00z",
            "2026-11-20T12:00Z",
            "2026-11-20 12:00Z",
            "2026-11-20 12:00:00 Z",
            "2026-11-20 12:00:00.000+00",
            "2026-11-20 13:00:00+01",
            "2026-11-20 13:00:00 +01",
            "2026-11-20T13:00+0100",
            "2026-11-20T13:00:00.0+01:00",
            "2026-11-20 12:00:00 GMT",
            "2026-11-20T12:00 UTC",
            "2026-11-20 12:00GMT",
            "2026-11-20T04:00-0800",
            "2026-11-20 04:00:00-08",
            "2026-11-20T17:30:00+05:30",
            "  2026-11-20\u{a0}12:00:00-00:00\t",
        ] {
            assert_eq!(instant(text), "2026-11-20T12:00:00Z", "{text:?}");
        }
        assert_eq!(instant("2026-11-20 12:00:00.123456789123+00"), "2026-11-20T12:00:00.123456789Z");
        assert_eq!(instant("2026-12-31T23:30:00-01:00"), "2027-01-01T00:30:00Z");
    }

    #[test]
    fn a_time_without_an_offset_belongs_to_a_zone_and_an_ambiguous_one_is_refused() {
        let local = NaiveDate::from_ymd_opt(2026, 11, 20).unwrap().and_hms_opt(12, 0, 0).unwrap();
        assert_eq!(Time::read("2026-11-20 12:00"), Some(Time::Local(local)));
        assert_eq!(Time::read("2026-11-20T12:00:00"), Some(Time::Local(local)));
        assert_eq!(Time::read("2026-11-20"), Some(Time::Date(local.date())));
        for text in [
            "",
            "now",
            "20.11.2026",
            "11/20/2026",
            "2026-11-2",
            "2026-02-30",
            "0000-00-00",
            "2026-11-20T",
            "2026-11-2012:00Z",
            "2026-11-20T1:00Z",
            "2026-11-20T12Z",
            "2026-11-20T24:00Z",
            "2026-11-20T12:60Z",
            "2026-11-20T12:00:60Z",
            "2026-11-20T12:00:00.Z",
            "2026-11-20T12:00:00,5Z",
            "2026-11-20T12:00:00 CET",
            "2026-11-20T12:00:00 GMT+1",
            "2026-11-20T12:00:00 UTC+01:00",
            "2026-11-20T12:00+1",
            "2026-11-20T12:00+01:60",
            "2026-11-20T12:00+24",
            "2026-11-20T12:00:00Z/",
            "12026-11-20T12:00:00Z",
            "+2026-11-20T12:00:00Z",
            "２０２６-11-20T12:00:00Z",
            "2026-11-20T12:00:00\u{2212}01:00",
        ] {
            assert_eq!(Time::read(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_clocks_of_a_zone_skip_and_repeat_hours() {
        let zone = |name: &str| name.parse::<Zone>().unwrap();
        let at = |name: &str, local: &str, twice| {
            zone(name).instant(local.parse().unwrap(), twice).unwrap().to_rfc3339()
        };
        for (name, local, earlier, later) in [
            ("UTC", "2026-03-29T02:30:00", "2026-03-29T02:30:00", "2026-03-29T02:30:00"),
            ("-0800", "2026-03-29T02:30:00", "2026-03-29T10:30:00", "2026-03-29T10:30:00"),
            ("Europe/Berlin", "2026-07-01T00:00:00", "2026-06-30T22:00:00", "2026-06-30T22:00:00"),
            ("Europe/Berlin", "2026-03-29T02:30:00", "2026-03-29T01:30:00", "2026-03-29T01:30:00"),
            ("Europe/Berlin", "2026-10-25T02:30:00", "2026-10-25T00:30:00", "2026-10-25T01:30:00"),
            // A day that begins at one o'clock, and a day that was skipped entirely.
            ("Africa/Cairo", "2026-04-24T00:00:00", "2026-04-23T22:00:00", "2026-04-23T22:00:00"),
            ("Pacific/Apia", "2011-12-30T12:00:00", "2011-12-30T22:00:00", "2011-12-30T22:00:00"),
        ] {
            assert_eq!(at(name, local, Twice::Earlier), format!("{earlier}+00:00"), "{name} {local}");
            assert_eq!(at(name, local, Twice::Later), format!("{later}+00:00"), "{name} {local}");
        }
        for invalid in ["", "Berlin", "europe/berlin", "+1", "CEST", "+25", "GMT+1"] {
            assert!(invalid.parse::<Zone>().is_err(), "{invalid:?}");
        }
    }

    proptest! {
        #[test]
        fn every_time_of_rfc_3339_is_accepted(seconds in 0_i64..253_402_300_799, nanos in 0_u32..1_000_000_000, offset in -1439_i32..1440) {
            let zone = FixedOffset::east_opt(offset * 60).unwrap();
            let time = DateTime::from_timestamp(seconds, nanos).unwrap().with_timezone(&zone);
            prop_assume!((0..=9999).contains(&chrono::Datelike::year(&time)));
            prop_assert_eq!(Time::read(&time.to_rfc3339()), Some(Time::Instant(time.to_utc())));
        }

        #[test]
        fn no_text_is_too_odd(text in ".{0,40}", tail in "[0-9T:. Z+-]{0,30}") {
            let _ = Time::read(&text);
            let _ = Time::read(&format!("2026-11-20{tail}"));
        }
    }
}
