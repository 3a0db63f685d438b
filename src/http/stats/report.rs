//! The report page: a week of the whole service, the weeks before it as bars and a table, and who did most. It needs
//! nothing but itself, and may load nothing else.

use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sqlx::PgPool;

use super::chart::{Bar, Series, Unit, draw};
use super::last_day;
use crate::domain::statistics::Counts;
use crate::domain::week::Week;
use crate::error::Result;
use crate::store::statistics::{Span, WeekStatistics, list_accounts_of_week, list_weeks};

/// The weeks that are drawn.
const WEEKS: u64 = 12;
/// The accounts that are named.
const ACCOUNTS: i64 = 20;
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
pub async fn make_report(pool: &PgPool, week: Option<Week>) -> Result<String> {
    let newest = list_weeks(pool, Span::default(), 1).await?;
    let Some(week) = week.or(newest.first().map(|newest| newest.week)) else {
        let text = "<h1>Weekly report</h1><p class=\"about\">Nothing has been counted yet. The worker computes the \
            statistics every hour.</p>";
        return Ok(wrap("Weekly report", text));
    };
    let first = week.back(WEEKS - 1);
    let span = Span { from: Some(first.monday()), before: Some(week.next().monday()) };
    let known = list_weeks(pool, span, WEEKS as i64).await?;
    let mut weeks = Vec::new();
    let mut next = first;
    while next <= week {
        weeks.push((next, known.iter().find(|known| known.week == next).cloned()));
        next = next.next();
    }
    let accounts = list_accounts_of_week(pool, week, None, ACCOUNTS).await?;
    Ok(render(week, &weeks, &accounts))
}

/// A title, and the figure below it.
type Card = (&'static str, Unit, fn(&WeekStatistics) -> i64);

/// A week; `None`: it was not computed.
type KnownWeek = (Week, Option<WeekStatistics>);

fn render(week: Week, weeks: &[KnownWeek], accounts: &[WeekStatistics]) -> String {
    let shown = weeks.last().and_then(|(_, found)| found.as_ref());
    let mut text = String::new();
    let computed = match shown {
        Some(found) if found.computed_at >= week.end() => "complete".to_owned(),
        Some(found) => format!("as it stood at {} UTC", found.computed_at.format("%Y-%m-%d %H:%M")),
        None => "not computed".to_owned(),
    };
    let active = shown.and_then(|found| found.accounts).unwrap_or(0);
    let _ = write!(
        text,
        "<h1>Weekly report {week}</h1><p class=\"about\">{} to {} · {computed} · {} active account{}</p>",
        week.monday().format("%-d %B %Y"),
        last_day(week).format("%-d %B %Y"),
        Unit::Pieces.show(active),
        if active == 1 { "" } else { "s" },
    );
    text.push_str("<div class=\"cards\">");
    let cards: [Card; 11] = [
        ("Active accounts", Unit::Pieces, |of| of.accounts.unwrap_or(0)),
        ("Uploads", Unit::Pieces, |of| of.counts.uploads),
        ("Uploaded", Unit::Bytes, |of| of.counts.uploaded_bytes),
        ("Downloads", Unit::Pieces, |of| of.counts.downloads),
        ("Downloaded", Unit::Bytes, |of| of.counts.downloaded_bytes),
        ("Reports", Unit::Pieces, |of| of.counts.reports),
        ("Reported prices", Unit::Pieces, |of| of.counts.observations),
        ("Watches", Unit::Pieces, |of| of.counts.watches),
        ("Notices", Unit::Pieces, |of| of.counts.notices),
        ("Deliveries, solid: arrived", Unit::Pieces, |of| of.counts.deliveries),
        ("Log-ins", Unit::Pieces, |of| of.counts.logins),
    ];
    for (title, unit, value) in cards {
        let has_part = title.starts_with("Deliveries");
        let bars = weeks.iter().map(|(week, found)| Bar {
            label: week.to_string()[5..].to_owned(),
            week: week.to_string(),
            value: found.as_ref().map(value),
            part: found.as_ref().filter(|_| has_part).map(|found| found.counts.delivered),
            runs: found.as_ref().is_some_and(|found| found.computed_at < week.end()),
        });
        write_card(&mut text, &Series { title, unit, bars: bars.collect() });
    }
    text.push_str("</div>");

    text.push_str("<h2>Week by week</h2><div class=\"wide\"><table><thead><tr><th>Week</th>");
    write_head(&mut text);
    for (week, found) in weeks.iter().rev() {
        let Some(found) = found else { continue };
        let runs = if found.computed_at < week.end() { " (running)" } else { "" };
        let _ = write!(text, "<tr><td>{week}{runs}</td>");
        write_figures(&mut text, &found.counts);
    }
    text.push_str("</tbody></table></div>");

    let _ = write!(text, "<h2>Most active accounts of {week}</h2>");
    if accounts.is_empty() {
        text.push_str("<p class=\"note\">None.</p>");
    } else {
        text.push_str("<div class=\"wide\"><table><thead><tr><th>Account</th>");
        write_head(&mut text);
        for found in accounts {
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

fn write_card(text: &mut String, series: &Series) {
    let mut newest = series.bars.iter().rev();
    let (now, before) = (newest.next(), newest.next());
    let figure = now.and_then(|bar| bar.value);
    // A week that runs is not held against a whole one.
    let change = match now {
        Some(now) if now.runs => "<span class=\"change\">so far</span>".to_owned(),
        _ => change(figure, before.and_then(|bar| bar.value)),
    };
    let _ = write!(
        text,
        "<section class=\"card\"><h3>{}</h3><p class=\"figure\">{}{change}</p>{}</section>",
        series.title,
        figure.map_or_else(|| "–".to_owned(), |figure| series.unit.show(figure)),
        draw(series)
    );
}

/// How a figure stands to the one of the week before.
fn change(now: Option<i64>, before: Option<i64>) -> String {
    let (Some(now), Some(before)) = (now, before) else { return String::new() };
    if before == 0 || now == before {
        return String::new();
    }
    let percent = (now - before) as f64 / before as f64 * 100.0;
    let (class, sign) = if percent > 0.0 { ("up", "+") } else { ("down", "−") };
    let size = percent.abs();
    let size = if size > 999.0 { "over 999".to_owned() } else { format!("{size:.0}") };
    format!("<span class=\"change {class}\">{sign}{size} %</span>")
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

fn write_figures(text: &mut String, counts: &Counts) {
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

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}
