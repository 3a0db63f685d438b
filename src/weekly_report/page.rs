//! The report page: a week of the whole service, the weeks before it as bars and as a table, and the most active
//! accounts. The page is self-contained, and its policy lets it load nothing.

use askama::Template;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::chart::{Bar, Chart, ChartSeries};
use super::figures::{FIGURES, Figure, FigureChange, Unit, change};
use super::{ACCOUNTS, WeeklyReport};
use crate::database::pool::PgPool;
use crate::domain::ids::AccountId;
use crate::domain::statistics::WeekCounts;
use crate::domain::week::Week;
use crate::error::Result;

const STYLE: &str = include_str!("report.css");

/// Content security policy that allows the page's own style and nothing else.
pub fn content_policy() -> String {
    let hash = STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'")
}

/// Renders the page of `week`, or of the newest week if that is `None`.
///
/// # Errors
/// Fails if the database is unavailable.
pub async fn make_page(pool: &PgPool, week: Option<Week>) -> Result<String> {
    let report = WeeklyReport::load(pool, week).await?;
    Ok(render(report.as_ref()))
}

fn render(report: Option<&WeeklyReport>) -> String {
    Page { policy: content_policy(), style: STYLE, report: report.map(Report::of) }.to_string()
}

#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    policy: String,
    style: &'static str,
    /// The report; `None` if nothing has been counted yet.
    report: Option<Report<'a>>,
}

struct Report<'a> {
    week: Week,
    days: String,
    state: String,
    /// Number of accounts that did anything.
    active: String,
    is_one_active: bool,
    cards: Vec<Card>,
    /// Column heads of both tables.
    columns: [&'static str; 11],
    /// Rows of the weeks, newest first.
    weeks: Vec<WeekRow>,
    has_no_accounts: bool,
    accounts: Vec<AccountRow<'a>>,
    most_accounts: i64,
}

/// A figure with its chart.
struct Card {
    title: &'static str,
    figure: String,
    /// Whether its week is not over yet.
    runs: bool,
    change: Option<FigureChange>,
    chart: Chart,
}

struct WeekRow {
    week: Week,
    runs: bool,
    figures: Vec<String>,
}

struct AccountRow<'a> {
    name: &'a str,
    /// Issuer with its separator; empty if the account has been removed.
    issuer: String,
    id: AccountId,
    figures: Vec<String>,
}

impl<'a> Report<'a> {
    fn of(report: &'a WeeklyReport) -> Report<'a> {
        let active = report.shown().and_then(|found| found.accounts).unwrap_or(0);
        let weeks = report.weeks.iter().rev().filter_map(|(week, found)| {
            let found = found.as_ref()?;
            let runs = found.computed_at < week.end();
            Some(WeekRow { week: *week, runs, figures: figures(&found.counts) })
        });
        let accounts = report.accounts.iter().filter_map(|found| {
            let account = found.account.as_ref()?;
            Some(AccountRow {
                name: account.subject.as_deref().unwrap_or("removed"),
                issuer: account.issuer.as_ref().map(|issuer| format!(" · {issuer}")).unwrap_or_default(),
                id: account.id,
                figures: figures(&found.counts),
            })
        });
        Report {
            week: report.week,
            days: report.days(),
            state: report.state(),
            active: Unit::Pieces.show(active),
            is_one_active: active == 1,
            cards: FIGURES.iter().map(|figure| card(report, figure)).collect(),
            columns: COLUMNS,
            weeks: weeks.collect(),
            has_no_accounts: report.accounts.is_empty(),
            accounts: accounts.collect(),
            most_accounts: ACCOUNTS,
        }
    }
}

fn card(report: &WeeklyReport, figure: &Figure) -> Card {
    let bars = report.weeks.iter().map(|(week, found)| Bar {
        label: week.to_string()[5..].to_owned(),
        week: week.to_string(),
        value: found.as_ref().map(figure.value),
        part: found.as_ref().and_then(|found| figure.part.map(|part| part(found))),
        runs: found.as_ref().is_some_and(|found| found.computed_at < week.end()),
    });
    let series = ChartSeries { title: figure.title, unit: figure.unit, bars: bars.collect() };
    let mut newest = series.bars.iter().rev();
    let (now, before) = (newest.next(), newest.next());
    let value = now.and_then(|bar| bar.value);
    Card {
        title: figure.title,
        figure: value.map_or_else(|| "–".to_owned(), |value| figure.unit.show(value)),
        // The template then shows no change: a week that is not over is not compared with a complete one.
        runs: now.is_some_and(|bar| bar.runs),
        change: change(value, before.and_then(|bar| bar.value)),
        chart: Chart::new(&series),
    }
}

const COLUMNS: [&str; 11] = [
    "Uploads",
    "Uploaded",
    "Downloads",
    "Downloaded",
    "Reports",
    "Prices",
    "Watches",
    "Notices",
    "Deliveries",
    "Arrived",
    "Log-ins",
];

/// One cell per column.
fn figures(counts: &WeekCounts) -> Vec<String> {
    let show = |(name, figure): (&str, i64)| {
        let unit = if name.ends_with("bytes") { Unit::Bytes } else { Unit::Pieces };
        unit.show(figure)
    };
    counts.list().into_iter().map(show).collect()
}
