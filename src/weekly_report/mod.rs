//! The weekly report on the whole service, for people: a page, an e-mail, and CSV for spreadsheets.

pub mod chart;
pub mod csv;
pub mod figures;
pub mod mail;
pub mod page;

use std::fmt;

use crate::database::pool::PgPool;
use crate::domain::week::Week;
use crate::error::Result;
use crate::store::statistics::{WeekRange, WeekStatistics, list_accounts_of_week, list_weeks};

/// Number of weeks shown.
const WEEKS: u64 = 12;
/// Maximum number of accounts that are named.
const ACCOUNTS: i64 = 20;

/// Statistics of a week and of those before it, and the most active accounts.
pub struct WeeklyReport {
    pub week: Week,
    /// Twelve weeks, oldest first, `week` last; `None` for a week that was not computed.
    weeks: Vec<(Week, Option<WeekStatistics>)>,
    /// Accounts, most active first.
    accounts: Vec<WeekStatistics>,
}

impl WeeklyReport {
    /// Loads the report on `week`, or on the newest week if that is `None`.
    ///
    /// Returns `None` if no week has been computed yet.
    ///
    /// # Errors
    /// Fails if the database is unavailable.
    pub async fn load(pool: &PgPool, week: Option<Week>) -> Result<Option<WeeklyReport>> {
        let newest = list_weeks(pool, WeekRange::default(), 1).await?;
        let Some(week) = week.or(newest.first().map(|newest| newest.week)) else { return Ok(None) };
        let first = week.back(WEEKS - 1);
        let range = WeekRange { from: Some(first.monday()), before: Some(week.next().monday()) };
        let known = list_weeks(pool, range, WEEKS as i64).await?;
        let mut weeks = Vec::new();
        let mut next = first;
        while next <= week {
            weeks.push((next, known.iter().find(|known| known.week == next).cloned()));
            next = next.next();
        }
        let accounts = list_accounts_of_week(pool, week, None, ACCOUNTS).await?;
        Ok(Some(WeeklyReport { week, weeks, accounts }))
    }

    /// Statistics of the report's own week; `None` if it was not computed.
    pub fn shown(&self) -> Option<&WeekStatistics> {
        self.weeks.last().and_then(|(_, found)| found.as_ref())
    }

    /// Days of the week, such as `16 November 2026 to 22 November 2026`.
    fn days(&self) -> String {
        let show = |day: chrono::NaiveDate| day.format("%-d %B %Y").to_string();
        format!("{} to {}", show(self.week.monday()), show(self.week.sunday()))
    }

    /// Whether the figures are complete, as text.
    fn state(&self) -> String {
        match self.shown() {
            Some(found) if found.computed_at >= self.week.end() => "complete".to_owned(),
            Some(found) => format!("as it stood at {} UTC", found.computed_at.format("%Y-%m-%d %H:%M")),
            None => "not computed".to_owned(),
        }
    }
}

/// Text chosen by another party, without characters that a terminal or a browser would act on.
fn plain(text: &str) -> String {
    text.chars().map(harmless).collect()
}

/// Replaces control characters with a space, including those that change the direction of writing.
fn harmless(c: char) -> char {
    let acts = c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if acts { ' ' } else { c }
}

/// Escapes every value of a template (`askama.toml`) that is not marked as safe.
#[derive(Clone, Copy)]
pub struct HtmlEscaper;

impl askama::filters::Escaper for HtmlEscaper {
    fn write_escaped_str<W: fmt::Write>(&self, mut to: W, text: &str) -> fmt::Result {
        for c in text.chars().map(harmless) {
            match c {
                '&' => to.write_str("&amp;")?,
                '<' => to.write_str("&lt;")?,
                '>' => to.write_str("&gt;")?,
                '"' => to.write_str("&quot;")?,
                '\'' => to.write_str("&#39;")?,
                c => to.write_char(c)?,
            }
        }
        Ok(())
    }
}
