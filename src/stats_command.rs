//! `salebell stats`: the weekly statistics by hand, straight from the database.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use uuid::Uuid;

use crate::app::App;
use crate::domain::statistics::Counts;
use crate::domain::week::Week;
use crate::error::{Error, Result};
use crate::http::page::Page;
use crate::http::stats::WeekResponse;
use crate::http::stats::csv::write_csv;
use crate::http::stats::report::make_report;
use crate::store::statistics::{self, Span, WeekStatistics};
use crate::worker;

/// Show and recompute the weekly statistics.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Prints the weeks of the whole service, the newest first.
    Show {
        /// This week alone, such as 2026-W47.
        #[arg(long)]
        week: Option<Week>,
        /// The weeks of the account of this id.
        #[arg(long)]
        account: Option<Uuid>,
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
        /// No more weeks than this.
        #[arg(long, default_value = "52", value_parser = clap::value_parser!(u16).range(1..))]
        weeks: u16,
    },
    /// Computes a week anew from what was counted.
    Recompute {
        /// Such as 2026-W47.
        #[arg(long)]
        week: Week,
    },
    /// Writes the report page of a week.
    Report {
        /// Such as 2026-W47; without it the newest.
        #[arg(long)]
        week: Option<Week>,
        /// The HTML file to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    Table,
    Json,
    Csv,
}

/// Does it, and returns what to print, its last line ended.
///
/// # Errors
/// The week cannot be computed, the file not be written, or the database is away.
pub async fn run(app: &App, action: Action) -> Result<String> {
    match action {
        Action::Show { week, account, format, weeks } => {
            let before = week.map(|week| week.next().monday());
            let span = Span { from: week.map(Week::monday), before };
            let found = match account {
                Some(id) => statistics::list_weeks_of_account(&app.writer, id, span, weeks.into()).await?,
                None => statistics::list_weeks(&app.writer, span, weeks.into()).await?,
            };
            match format {
                Format::Table => Ok(table(&found)),
                Format::Csv => Ok(write_csv(&found)),
                Format::Json => {
                    let items = found.into_iter().map(WeekResponse::from).collect();
                    let page = Page { items, next_cursor: None };
                    Ok(serde_json::to_string_pretty(&page).map_err(Error::internal)? + "\n")
                }
            }
        }
        Action::Recompute { week } => {
            worker::statistics::recompute(app, week).await?;
            let span = Span { from: Some(week.monday()), before: Some(week.next().monday()) };
            Ok(table(&statistics::list_weeks(&app.writer, span, 1).await?))
        }
        Action::Report { week, out } => {
            let page = make_report(&app.writer, week).await?;
            tokio::fs::write(&out, page)
                .await
                .map_err(|error| Error::internal(format!("{} cannot be written: {error}", out.display())))?;
            Ok(format!("wrote {}\n", out.display()))
        }
    }
}

/// Columns as wide as what is in them.
fn table(found: &[WeekStatistics]) -> String {
    let mut lines = vec![vec!["week".to_owned()]];
    lines[0].extend(Counts::default().list().map(|(name, _)| name.to_owned()));
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
