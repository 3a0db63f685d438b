//! The report page: a week of the whole service, the weeks before it as bars and a table, and who did most. It needs
//! nothing but itself, and may load nothing else.

use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::chart::{Bar, ChartSeries, draw};
use super::figures::{FIGURES, Unit, change};
use super::{ACCOUNTS, WeeklyReport, escape};
use crate::database::pool::PgPool;
use crate::domain::statistics::WeekCounts;
use crate::domain::week::Week;
use crate::error::Result;

const STYLE: &str = include_str!("report.css");

/// Allows the page's own style and nothing else.
pub fn content_policy() -> String {
    let hash = STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'")
}

/// The page of a week; `None`: of the newest one.
///
/// # Errors
/// The database is away.
pub async fn make_page(pool: &PgPool, week: Option<Week>) -> Result<String> {
    Ok(match WeeklyReport::load(pool, week).await? {
        Some(report) => render(&report),
        None => {
            let text = "<h1>Weekly report</h1><p class=\"about\">Nothing has been counted yet. The worker computes \
                the statistics every hour.</p>";
            wrap("Weekly report", text)
        }
    })
}

fn render(report: &WeeklyReport) -> String {
    let week = report.week;
    let mut text = String::new();
    let active = report.shown().and_then(|found| found.accounts).unwrap_or(0);
    let _ = write!(
        text,
        "<h1>Weekly report {week}</h1><p class=\"about\">{} · {} · {} active account{}</p>",
        report.days(),
        report.state(),
        Unit::Pieces.show(active),
        if active == 1 { "" } else { "s" },
    );
    text.push_str("<div class=\"cards\">");
    for figure in &FIGURES {
        let bars = report.weeks.iter().map(|(week, found)| Bar {
            label: week.to_string()[5..].to_owned(),
            week: week.to_string(),
            value: found.as_ref().map(figure.value),
            part: found.as_ref().and_then(|found| figure.part.map(|part| part(found))),
            runs: found.as_ref().is_some_and(|found| found.computed_at < week.end()),
        });
        write_card(&mut text, &ChartSeries { title: figure.title, unit: figure.unit, bars: bars.collect() });
    }
    text.push_str("</div>");

    text.push_str("<h2>Week by week</h2><div class=\"wide\"><table><thead><tr><th>Week</th>");
    write_head(&mut text);
    for (week, found) in report.weeks.iter().rev() {
        let Some(found) = found else { continue };
        let runs = if found.computed_at < week.end() { " (running)" } else { "" };
        let _ = write!(text, "<tr><td>{week}{runs}</td>");
        write_figures(&mut text, &found.counts);
    }
    text.push_str("</tbody></table></div>");

    let _ = write!(text, "<h2>Most active accounts of {week}</h2>");
    if report.accounts.is_empty() {
        text.push_str("<p class=\"note\">None.</p>");
    } else {
        text.push_str("<div class=\"wide\"><table><thead><tr><th>Account</th>");
        write_head(&mut text);
        for found in &report.accounts {
            let Some(account) = &found.account else { continue };
            let name = account.subject.as_deref().map_or_else(|| "removed".to_owned(), escape);
            let issuer = account.issuer.as_deref().map(|issuer| format!(" · {}", escape(issuer)));
            let _ = write!(
                text,
                "<tr><td title=\"{name}{0}\">{name}<span class=\"id\">{1}{0}</span></td>",
                issuer.unwrap_or_default(),
                account.id
            );
            write_figures(&mut text, &found.counts);
        }
        text.push_str("</tbody></table></div>");
    }
    let _ = write!(
        text,
        "<footer>Weeks are ISO weeks in UTC. A paler bar is a week that still ran when it was counted. At most {ACCOUNTS} \
         accounts are named.</footer>"
    );
    wrap(&format!("Weekly report {week}"), &text)
}

fn write_card(text: &mut String, series: &ChartSeries) {
    let mut newest = series.bars.iter().rev();
    let (now, before) = (newest.next(), newest.next());
    let figure = now.and_then(|bar| bar.value);
    // A week that runs is not held against a whole one.
    let change = match now {
        Some(now) if now.runs => "<span class=\"change\">so far</span>".to_owned(),
        _ => change(figure, before.and_then(|bar| bar.value)).map_or_else(String::new, |change| {
            let class = if change.up { "up" } else { "down" };
            format!("<span class=\"change {class}\">{}</span>", change.text)
        }),
    };
    let _ = write!(
        text,
        "<section class=\"card\"><h3>{}</h3><p class=\"figure\">{}{change}</p>{}</section>",
        series.title,
        figure.map_or_else(|| "–".to_owned(), |figure| series.unit.show(figure)),
        draw(series)
    );
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

fn write_head(text: &mut String) {
    for column in COLUMNS {
        let _ = write!(text, "<th>{column}</th>");
    }
    text.push_str("</tr></thead><tbody>");
}

fn write_figures(text: &mut String, counts: &WeekCounts) {
    for (name, figure) in counts.list() {
        let unit = if name.ends_with("bytes") { Unit::Bytes } else { Unit::Pieces };
        let _ = write!(text, "<td>{}</td>", unit.show(figure));
    }
    text.push_str("</tr>");
}

fn wrap(title: &str, text: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\" />\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{}\" />\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\" />\
         <meta name=\"referrer\" content=\"no-referrer\" /><title>Salebell: {title}</title>\
         <style>{STYLE}</style></head><body><main><p class=\"name\">Salebell</p>{text}</main></body></html>\n",
        content_policy()
    )
}
