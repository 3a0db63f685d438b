//! The report as an e-mail: HTML with figures and small charts that need no style sheet, script, SVG or outside
//! resource; the same as text; and the weeks as CSV.

use std::fmt::Write;

use askama::Template;
use chrono::{DateTime, Utc};
use lettre::Address;

use super::csv::{MEDIA_TYPE, write_csv};
use super::figures::{FIGURES, Figure, FigureChange, Unit, change};
use super::{WeeklyReport, plain};
use crate::config::WebOrigin;
use crate::domain::week::Week;
use crate::outbound::email::{Attachment, Email};
use crate::store::statistics::WeekStatistics;

/// Maximum number of accounts that are named, fewer than on the page.
const ACCOUNTS: usize = 10;

/// Composes the e-mail to one recipient. `id` and `date` are the same for every attempt. `origin` is
/// `server.public_url`.
pub fn compose(
    report: &WeeklyReport,
    origin: &WebOrigin,
    id: String,
    to: Address,
    date: DateTime<Utc>,
) -> Email {
    let page = page_of(origin, report.week);
    let weeks: Vec<WeekStatistics> =
        report.weeks.iter().rev().filter_map(|(_, found)| found.clone()).collect();
    Email {
        id,
        to,
        date,
        subject: format!("Salebell: weekly report {}", report.week),
        text: write_text(report, &page),
        html: write_html(report, page),
        attachments: vec![Attachment {
            name: format!("weekly-statistics-{}.csv", report.week),
            media_type: MEDIA_TYPE,
            content: write_csv(&weeks).into_bytes(),
        }],
    }
}

/// Values of a figure, one per week, oldest first.
fn values(report: &WeeklyReport, value: fn(&WeekStatistics) -> i64) -> Vec<Option<i64>> {
    report.weeks.iter().map(|(_, found)| found.as_ref().map(value)).collect()
}

/// Value of this week, value of the week before, and the change between them.
fn newest(report: &WeeklyReport, values: &[Option<i64>]) -> (Option<i64>, Option<i64>, Option<FigureChange>) {
    let mut newest = values.iter().rev().copied();
    let (now, before) = (newest.next().flatten(), newest.next().flatten());
    // A week that is not over is not compared with a complete one.
    let whole = report.shown().is_some_and(|found| found.computed_at >= report.week.end());
    (now, before, whole.then(|| change(now, before)).flatten())
}

/// Short name of a week, such as `W47`.
fn label(week: Week) -> String {
    week.to_string()[5..].to_owned()
}

/// Name of an account, and its issuer.
fn name_of(found: &WeekStatistics) -> (String, Option<String>) {
    let account = found.account.as_ref();
    let name = account.and_then(|account| account.subject.clone());
    (name.unwrap_or_else(|| "removed".to_owned()), account.and_then(|account| account.issuer.clone()))
}

const FOOTER: &str = "Weeks are ISO weeks in UTC. The attached CSV holds the weeks of the charts.";

/// URL of the full report page.
fn page_of(origin: &WebOrigin, week: Week) -> String {
    origin.at(&format!("/v1/admin/stats/weekly?week={week}"))
}

/// Command that writes the full report page.
fn hint(week: Week) -> String {
    format!("salebell stats report --week {week} --out report.html")
}

// Text version.

fn write_text(report: &WeeklyReport, page: &str) -> String {
    let week = report.week;
    let mut text = format!("Salebell: weekly report {week}\n{}, {}\n\n", report.days(), report.state());
    let (first, before) = (report.weeks.first().map_or(week, |(first, _)| *first), week.back(1));
    let chart = format!("{} to {}", label(first), label(week));
    let _ = writeln!(text, "{:<18}{:>12}{:>12}{:>12}  {chart}", "", label(week), label(before), "change");
    for figure in &FIGURES {
        let title = figure.title.split(',').next().unwrap_or_default();
        write_line(&mut text, report, title, figure.unit, figure.value);
        if let Some(part) = figure.part {
            write_line(&mut text, report, "  arrived", figure.unit, part);
        }
    }
    text.push_str("\nMost active accounts, by what they did\n");
    for (at, found) in report.accounts.iter().take(ACCOUNTS).enumerate() {
        let (name, issuer) = name_of(found);
        let issuer = issuer.map_or_else(String::new, |issuer| format!(" ({})", plain(&issuer)));
        let actions = ordinary(&Unit::Pieces.show(found.counts.actions()));
        let _ = writeln!(text, "{:>3}. {}{issuer}: {actions}", at + 1, plain(&name));
    }
    if report.accounts.is_empty() {
        text.push_str("None.\n");
    }
    let _ = write!(text, "\n{FOOTER}\nAll of it as a page: {}\n{page}\n", hint(week));
    text
}

fn write_line(
    text: &mut String,
    report: &WeeklyReport,
    title: &str,
    unit: Unit,
    value: fn(&WeekStatistics) -> i64,
) {
    let values = values(report, value);
    let (now, before, change) = newest(report, &values);
    let show = |value: Option<i64>| value.map_or_else(|| "-".to_owned(), |value| ordinary(&unit.show(value)));
    let change = change.map_or_else(String::new, |change| change.text.replace('−', "-"));
    let _ = writeln!(
        text,
        "{title:<18}{:>12}{:>12}{change:>12}  {}",
        show(now),
        show(before),
        sparkline(&values).trim_end()
    );
}

/// Replaces special spaces with ones that every terminal can show.
fn ordinary(text: &str) -> String {
    text.replace(['\u{202f}', '\u{a0}'], " ")
}

/// Draws one block character per week; a space if there is nothing.
fn sparkline(values: &[Option<i64>]) -> String {
    let most = values.iter().flatten().max().copied().unwrap_or(0);
    let block = |value: &Option<i64>| match value {
        Some(value) if *value > 0 => {
            let eighths = (*value as f64 / most as f64 * 8.0).ceil() as usize;
            ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'][eighths.clamp(1, 8) - 1]
        }
        _ => ' ',
    };
    values.iter().map(block).collect()
}

// HTML version.

/// Height of the tallest bar in pixels; the cells of the template have the same.
const HEIGHT: f64 = 56.0;

#[derive(Template)]
#[template(path = "mail.html")]
struct Mail {
    week: Week,
    days: String,
    state: String,
    /// Rows of two cards each.
    pairs: Vec<Vec<Card>>,
    accounts: Vec<Account>,
    footer: &'static str,
    /// URL of the full report page.
    page: String,
    hint: String,
}

/// A figure with its chart.
struct Card {
    title: &'static str,
    figure: String,
    change: Option<FigureChange>,
    bars: Vec<Bar>,
}

/// One week of a chart.
struct Bar {
    week: Week,
    /// Number of the week, such as `47`.
    label: String,
    value: String,
    is_drawn: bool,
    /// Height in pixels of the pale part, above the solid one.
    pale: i64,
    solid: i64,
}

struct Account {
    name: String,
    issuer: String,
    actions: String,
}

fn write_html(report: &WeeklyReport, page: String) -> String {
    let accounts = report.accounts.iter().take(ACCOUNTS).map(|found| {
        let (name, issuer) = name_of(found);
        let actions = Unit::Pieces.show(found.counts.actions());
        Account { name, issuer: issuer.unwrap_or_default(), actions }
    });
    let pairs = FIGURES.chunks(2).map(|pair| pair.iter().map(|figure| card(report, figure)).collect());
    Mail {
        week: report.week,
        days: report.days(),
        state: report.state(),
        pairs: pairs.collect(),
        accounts: accounts.collect(),
        footer: FOOTER,
        page,
        hint: hint(report.week),
    }
    .to_string()
}

fn card(report: &WeeklyReport, figure: &Figure) -> Card {
    let values = values(report, figure.value);
    let (now, _, change) = newest(report, &values);
    let most = values.iter().flatten().max().copied().unwrap_or(0);
    let bars = report.weeks.iter().map(|(week, found)| {
        let value = found.as_ref().map(figure.value);
        let drawn = found.as_ref().zip(value).filter(|(_, value)| *value > 0);
        let (pale, solid) = drawn.map_or((0, 0), |(found, value)| {
            let (whole, solid) = (value, figure.part.map_or(value, |part| part(found)));
            (pixels(whole, most) - pixels(solid, most), pixels(solid, most))
        });
        Bar {
            week: *week,
            label: label(*week)[1..].to_owned(),
            value: value.map_or_else(|| "not computed".to_owned(), |value| figure.unit.show(value)),
            is_drawn: drawn.is_some(),
            pale,
            solid,
        }
    });
    Card {
        title: figure.title,
        figure: now.map_or_else(|| "–".to_owned(), |now| figure.unit.show(now)),
        change,
        bars: bars.collect(),
    }
}

/// Height in pixels; at least 2 for any positive value, so that it stays visible.
fn pixels(value: i64, most: i64) -> i64 {
    if value <= 0 { 0 } else { ((HEIGHT * value as f64 / most as f64) as i64).max(2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_shows_every_value_however_small() {
        assert_eq!(sparkline(&[Some(0), None, Some(1), Some(500), Some(1000)]), "  ▁▄█");
        assert_eq!(sparkline(&[Some(0), None]), "  ");
        assert_eq!(sparkline(&[Some(i64::MAX)]), "█");
    }
}
