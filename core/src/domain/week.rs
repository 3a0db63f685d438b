//! Weeks of ISO 8601: they begin on Monday, in UTC, and the first week of a year is the one with its first Thursday.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, Utc, Weekday};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// A week such as `2026-W47`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Week {
    monday: NaiveDate,
}

/// Error for a text that is not a week.
#[derive(Debug, PartialEq, Eq)]
pub struct NoWeek;

impl fmt::Display for NoWeek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be an ISO week from 1970 on, such as 2026-W47")
    }
}

impl std::error::Error for NoWeek {}

impl Week {
    /// The week that contains an instant.
    pub fn at(time: DateTime<Utc>) -> Week {
        Week::of(time.date_naive())
    }

    /// The week that contains a day.
    pub fn of(day: NaiveDate) -> Week {
        Week { monday: day - Days::new(day.weekday().num_days_from_monday().into()) }
    }

    /// First day of the week.
    pub fn monday(self) -> NaiveDate {
        self.monday
    }

    /// Last day of the week.
    pub fn sunday(self) -> NaiveDate {
        self.monday + Days::new(6)
    }

    /// Instant at which the week begins.
    pub fn start(self) -> DateTime<Utc> {
        start_of(self.monday)
    }

    /// Instant at which the week is over: the beginning of the next week.
    pub fn end(self) -> DateTime<Utc> {
        self.next().start()
    }

    pub fn next(self) -> Week {
        Week { monday: self.monday + Days::new(7) }
    }

    /// The week `weeks` weeks earlier.
    pub fn back(self, weeks: u64) -> Week {
        Week { monday: self.monday - Days::new(7 * weeks) }
    }

    /// The days from Monday to Sunday.
    pub fn days(self) -> impl Iterator<Item = NaiveDate> {
        self.monday.iter_days().take(7)
    }
}

/// Instant at which a day begins in UTC.
pub fn start_of(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}

impl fmt::Display for Week {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let week = self.monday.iso_week();
        write!(f, "{:04}-W{:02}", week.year(), week.week())
    }
}

impl FromStr for Week {
    type Err = NoWeek;

    fn from_str(text: &str) -> Result<Week, NoWeek> {
        let (year, week) = text.split_once("-W").ok_or(NoWeek)?;
        let number = |digits: &str, count: usize| {
            let plain = digits.len() == count && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<u32>().ok().filter(|_| plain).ok_or(NoWeek)
        };
        let (year, week) = (number(year, 4)?, number(week, 2)?);
        // 9999 is excluded: the end of the last week must still be in a year of four digits.
        if !(1970..9999).contains(&year) {
            return Err(NoWeek);
        }
        let monday = NaiveDate::from_isoywd_opt(year as i32, week, Weekday::Mon);
        monday.map(|monday| Week { monday }).ok_or(NoWeek)
    }
}

impl PartialSchema for Week {
    fn schema() -> RefOr<Schema> {
        const YEAR: &str = "(19[7-9][0-9]|[2-8][0-9]{3}|9[0-8][0-9]{2}|99[0-8][0-9]|999[0-8])";
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("A week of ISO 8601, from 1970 on. It begins on Monday, in UTC."))
            .pattern(Some(format!("^{YEAR}-W(0[1-9]|[1-4][0-9]|5[0-3])$")))
            .examples([json!("2026-W47")])
            .into()
    }
}

impl ToSchema for Week {}

impl From<Week> for String {
    fn from(week: Week) -> String {
        week.to_string()
    }
}

impl TryFrom<String> for Week {
    type Error = NoWeek;

    fn try_from(text: String) -> Result<Week, NoWeek> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    #[test]
    fn the_days_around_new_year_belong_to_the_week_of_their_thursday() {
        for (date, week) in [
            ("2026-11-21", "2026-W47"),
            ("2026-01-01", "2026-W01"),
            ("2025-12-29", "2026-W01"),
            ("2025-12-28", "2025-W52"),
            // 2020 and 2026 have 53 weeks.
            ("2020-12-31", "2020-W53"),
            ("2021-01-03", "2020-W53"),
            ("2021-01-04", "2021-W01"),
            ("2026-12-31", "2026-W53"),
            ("2027-01-03", "2026-W53"),
            ("2022-01-01", "2021-W52"),
            ("2024-12-30", "2025-W01"),
            ("1970-01-01", "1970-W01"),
        ] {
            assert_eq!(Week::of(day(date)).to_string(), week, "{date}");
        }
    }

    #[test]
    fn a_week_is_parsed_from_its_own_text() {
        let mut week: Week = "1999-W50".parse().unwrap();
        for _ in 0..60 * 52 {
            assert_eq!(week.to_string().parse(), Ok(week));
            assert_eq!(week.monday().weekday(), Weekday::Mon);
            assert!(week.days().all(|day| Week::of(day) == week));
            assert_eq!((week.next().back(1), week.end()), (week, week.next().start()));
            assert_eq!(Week::at(week.end() - chrono::TimeDelta::microseconds(1)), week);
            week = week.next();
        }
    }

    #[test]
    fn texts_that_are_not_weeks_are_refused() {
        for text in [
            "",
            "2026",
            "2026-47",
            "2026-W",
            "2026-W7",
            "2026-W00",
            "2026-W54",
            "2025-W53",
            "2026W47",
            "2026-w47",
            "2026-W047",
            "02026-W47",
            "+026-W47",
            "2026-W+7",
            " 2026-W47",
            "2026-W47-1",
            "1969-W01",
            "9999-W01",
            "２０２６-W47",
        ] {
            assert_eq!(text.parse::<Week>(), Err(NoWeek), "{text:?}");
        }
    }
}
