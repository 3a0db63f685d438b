//! `salebell stats`: shows, recomputes and mails the weekly statistics, directly from the database.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::{Subcommand, ValueEnum};
use lettre::Address;
use uuid::Uuid;

use crate::app::App;
use crate::domain::ids::AccountId;
use crate::domain::statistics::WeekCounts;
use crate::domain::week::Week;
use crate::error::{Error, Kind, Result};
use crate::http::extract::page::Page;
use crate::http::stats::WeekResponse;
use crate::store::statistics::{self, WeekRange, WeekStatistics};
use crate::store::weekly_mails::{self, MailState, WeeklyMail};
use crate::weekly_report::csv::write_csv;
use crate::weekly_report::page::make_page;
use crate::weekly_report::{WeeklyReport, mail};
use crate::worker;

/// Show, recompute and mail the weekly statistics.
#[derive(Debug, Subcommand)]
pub enum StatsAction {
    /// Print the weeks of the whole service, the newest first.
    Show {
        /// Only this week, such as 2026-W47.
        #[arg(long)]
        week: Option<Week>,
        /// The weeks of the account with this id.
        #[arg(long)]
        account: Option<AccountId>,
        #[arg(long, value_enum, default_value = "table")]
        format: PrintedFormat,
        /// The most weeks to print.
        #[arg(long, default_value = "52", value_parser = clap::value_parser!(u16).range(1..))]
        weeks: u16,
    },
    /// Recompute a week from what was counted.
    Recompute {
        /// Week, such as 2026-W47.
        #[arg(long)]
        week: Week,
    },
    /// Write the report page of a week.
    Report {
        /// Week, such as 2026-W47 [default: the newest].
        #[arg(long)]
        week: Option<Week>,
        /// HTML file to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Mail the report on a week now, whether the worker has mailed it or not.
    Mail {
        /// Week, such as 2026-W47 [default: the newest that is over].
        #[arg(long)]
        week: Option<Week>,
        /// A recipient; may be given several times. Without it those of `stats.mail_to`.
        #[arg(long, value_name = "ADDRESS")]
        to: Vec<Address>,
    },
    /// Print the addresses that the worker has mailed the report to, or why it could not.
    Mailed {
        /// The most lines to print.
        #[arg(long, default_value = "50", value_parser = clap::value_parser!(u16).range(1..))]
        lines: u16,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PrintedFormat {
    Table,
    Json,
    Csv,
}

/// Performs the action, and returns the text to print, which ends with a line break.
///
/// # Errors
/// Fails if the week cannot be computed, the file cannot be written, a mail cannot be sent, or the database is
/// unavailable.
pub async fn run(app: &App, action: StatsAction) -> Result<String> {
    match action {
        StatsAction::Show { week, account, format, weeks } => {
            let before = week.map(|week| week.next().monday());
            let range = WeekRange { from: week.map(Week::monday), before };
            let found = match account {
                Some(id) => statistics::list_weeks_of_account(&app.writer, id, range, weeks.into()).await?,
                None => statistics::list_weeks(&app.writer, range, weeks.into()).await?,
            };
            match format {
                PrintedFormat::Table => Ok(table(&found)),
                PrintedFormat::Csv => Ok(write_csv(&found)),
                PrintedFormat::Json => {
                    let items = found.into_iter().map(WeekResponse::from).collect();
                    let page = Page { items, next_cursor: None };
                    Ok(serde_json::to_string_pretty(&page).map_err(Error::internal)? + "\n")
                }
            }
        }
        StatsAction::Recompute { week } => {
            worker::statistics::recompute(app, week).await?;
            let range = WeekRange { from: Some(week.monday()), before: Some(week.next().monday()) };
            Ok(table(&statistics::list_weeks(&app.writer, range, 1).await?))
        }
        StatsAction::Report { week, out } => {
            let page = make_page(&app.writer, week).await?;
            tokio::fs::write(&out, page)
                .await
                .map_err(|error| Error::internal(format!("{} cannot be written: {error}", out.display())))?;
            Ok(format!("wrote {}\n", out.display()))
        }
        StatsAction::Mail { week, to } => mail_now(app, week, to).await,
        StatsAction::Mailed { lines } => Ok(mailed(
            &weekly_mails::list_mails(&app.writer, lines.into()).await?,
            app.config.stats.mail_to.len(),
        )),
    }
}

/// Mails the report to the recipients, one after the other.
async fn mail_now(app: &App, week: Option<Week>, to: Vec<Address>) -> Result<String> {
    if !app.mailer.is_on() {
        return Err(Error::invalid("email.smtp_url", "is not set, so no mail can be sent"));
    }
    let to = if to.is_empty() { app.config.stats.mail_to.clone() } else { to };
    if to.is_empty() {
        return Err(Error::invalid("to", "is missing, and stats.mail_to is not set"));
    }
    let now = app.clock.now();
    let report = WeeklyReport::load(&app.writer, Some(week.unwrap_or(Week::at(now).back(1)))).await?;
    let Some(report) = report.filter(|report| report.shown().is_some()) else {
        return Err(Error::invalid("week", "has not been computed; `salebell stats show` tells which have"));
    };
    let origin = app.config.origin_of_mails()?;
    let (mut text, mut failed) = (String::new(), false);
    for address in to {
        let id = format!("weekly-report.{}.{}", report.week, Uuid::now_v7());
        let sent = app.mailer.send(&mail::compose(&report, origin, id, address.clone(), now)).await;
        failed |= sent.is_err();
        match sent {
            Ok(()) => text.push_str(&format!("mailed {} to {address}\n", report.week)),
            Err(unsent) => text.push_str(&format!("not mailed to {address}: {unsent}\n")),
        }
    }
    if failed { Err(Error::new(Kind::Unavailable, text.trim_end())) } else { Ok(text) }
}

/// Formats one line per mail.
fn mailed(found: &[WeeklyMail], recipients: usize) -> String {
    let mut text = String::new();
    if recipients == 0 {
        text.push_str("stats.mail_to is not set: the report is mailed to nobody.\n");
    }
    for mail in found {
        let time = |at: DateTime<Utc>| at.format("%Y-%m-%d %H:%M UTC");
        let became = match (mail.state, mail.sent_at) {
            (MailState::Sent, Some(at)) => format!("sent {}", time(at)),
            (MailState::Failed, _) => "given up".to_owned(),
            _ if mail.tries == 0 => "waits".to_owned(),
            _ => format!("tried again after {}", time(mail.next_try_at)),
        };
        let tries = if mail.tries == 1 { "1 try".to_owned() } else { format!("{} tries", mail.tries) };
        let week = Week::of(mail.week);
        text.push_str(&format!("{week}  {}  {became}, {tries}", mail.recipient));
        if let Some(error) = mail.last_error.as_ref().filter(|_| mail.state != MailState::Sent) {
            text.push_str(&format!(": {error}"));
        }
        text.push('\n');
    }
    text
}

/// Formats a table, with each column as wide as its longest cell.
fn table(found: &[WeekStatistics]) -> String {
    let mut lines = vec![vec!["week".to_owned()]];
    lines[0].extend(WeekCounts::default().list().map(|(name, _)| name.to_owned()));
    for one in found {
        let runs = if one.computed_at < one.week.end() { "*" } else { "" };
        let mut line = vec![format!("{}{runs}", one.week)];
        line.extend(one.counts.list().map(|(_, figure)| figure.to_string()));
        lines.push(line);
    }
    let widths: Vec<usize> = (0..lines[0].len())
        .map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        text.push_str(&cells.join("  "));
        text.push('\n');
    }
    if found.iter().any(|one| one.computed_at < one.week.end()) {
        text.push_str("* the week ran still when it was counted\n");
    }
    text
}
