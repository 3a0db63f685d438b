//! The report as an e-mail: figures and small charts that are read where no style sheet, script, SVG or outside
//! resource is; the same as text; and the weeks as CSV.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use lettre::Address;

use super::csv::{MEDIA_TYPE, write_csv};
use super::figures::{FIGURES, Figure, FigureChange, Unit, change};
use super::{WeeklyReport, escape, plain};
use crate::domain::week::Week;
use crate::outbound::email::{Attachment, Email};
use crate::store::statistics::WeekStatistics;

/// The accounts that are named: fewer than on the page.
const ACCOUNTS: usize = 10;

/// The e-mail to one recipient. `id` and `date` are the same for every try.
pub fn compose(report: &WeeklyReport, id: String, to: Address, date: DateTime<Utc>) -> Email {
    let weeks: Vec<WeekStatistics> =
        report.weeks.iter().rev().filter_map(|(_, found)| found.clone()).collect();
    Email {
        id,
        to,
        date,
        subject: format!("Salebell: weekly report {}", report.week),
        text: write_text(report),
        html: write_html(report),
        attachments: vec![Attachment {
            name: format!("weekly-statistics-{}.csv", report.week),
            media_type: MEDIA_TYPE,
            content: write_csv(&weeks).into_bytes(),
        }],
    }
}

/// A figure in every week, the oldest first.
fn values(report: &WeeklyReport, value: fn(&WeekStatistics) -> i64) -> Vec<Option<i64>> {
    report.weeks.iter().map(|(_, found)| found.as_ref().map(value)).collect()
}

/// This week's value, the one of the week before, and how they stand to each other.
fn newest(report: &WeeklyReport, values: &[Option<i64>]) -> (Option<i64>, Option<i64>, Option<FigureChange>) {
    let mut newest = values.iter().rev().copied();
    let (now, before) = (newest.next().flatten(), newest.next().flatten());
    // A week that runs is not held against a whole one.
    let whole = report.shown().is_some_and(|found| found.computed_at >= report.week.end());
    (now, before, whole.then(|| change(now, before)).flatten())
}

/// Such as `W47`.
fn label(week: Week) -> String {
    week.to_string()[5..].to_owned()
}

/// The name of an account and who issued it.
fn name_of(found: &WeekStatistics) -> (String, Option<String>) {
    let account = found.account.as_ref();
    let name = account.and_then(|account| account.subject.clone());
    (name.unwrap_or_else(|| "removed".to_owned()), account.and_then(|account| account.issuer.clone()))
}

const FOOTER: &str = "Weeks are ISO weeks in UTC. The attached CSV holds the weeks of the charts.";

/// How the page with everything on it is got.
fn hint(week: Week) -> String {
    format!("salebell stats report --week {week} --out report.html")
}

// As text.

fn write_text(report: &WeeklyReport) -> String {
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
    let _ = write!(text, "\n{FOOTER}\nAll of it as a page: {}\n", hint(week));
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

/// Spaces that every terminal has.
fn ordinary(text: &str) -> String {
    text.replace(['\u{202f}', '\u{a0}'], " ")
}

/// A column of blocks for each week; a space where there is nothing.
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

// As HTML. Mail programs know tables, `bgcolor` and styles on the element; some (Outlook) no height but a cell's.

const INK: &str = "#1b2430";
const SOFT: &str = "#5d6b7c";
const LINE: &str = "#dde2e8";
const PAPER: &str = "#f6f7f9";
const BAR: &str = "#2f6fde";
const REST: &str = "#b9cdf3";
const UP: &str = "#1d7a46";
const DOWN: &str = "#b3402e";
const FONT: &str = "font-family:-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif";
/// The highest bar, in pixels.
const HEIGHT: f64 = 56.0;
const TABLE: &str = "<table role=\"presentation\" cellpadding=\"0\" cellspacing=\"0\" border=\"0\"";

fn write_html(report: &WeeklyReport) -> String {
    let week = report.week;
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light\"><title>Salebell: weekly report {week}</title></head>\n\
         <body style=\"margin:0;padding:0;background:{PAPER}\" bgcolor=\"{PAPER}\">\
         {TABLE} width=\"100%\" bgcolor=\"{PAPER}\" style=\"table-layout:fixed\"><tr><td align=\"center\" \
         style=\"padding:24px 8px\">\n\
         {TABLE} width=\"640\" style=\"width:640px;max-width:100%;{FONT};color:{INK};font-size:14px;line-height:1.4\">\n\
         <tr><td colspan=\"2\" style=\"padding:0 8px 16px\">\
         <div style=\"color:{BAR};font-weight:600\">Salebell</div>\
         <h1 style=\"margin:2px 0;font-size:24px;line-height:1.2\">Weekly report {week}</h1>\
         <div style=\"color:{SOFT}\">{} · {}</div></td></tr>\n",
        report.days(),
        report.state()
    );
    for pair in FIGURES.chunks(2) {
        html.push_str("<tr>");
        for figure in pair {
            write_card(&mut html, report, figure);
        }
        if pair.len() == 1 {
            html.push_str("<td></td>");
        }
        html.push_str("</tr>\n");
    }
    write_accounts(&mut html, report);
    let _ = write!(
        html,
        "<tr><td colspan=\"2\" style=\"padding:20px 8px 0;color:{SOFT};font-size:12px\">{FOOTER} All of it as a page: \
         <code>{}</code></td></tr>\n</table></td></tr></table></body></html>\n",
        hint(week)
    );
    html
}

fn write_card(html: &mut String, report: &WeeklyReport, figure: &Figure) {
    let values = values(report, figure.value);
    let (now, _, change) = newest(report, &values);
    let shown = now.map_or_else(|| "–".to_owned(), |now| figure.unit.show(now));
    let _ = write!(
        html,
        "<td width=\"50%\" valign=\"top\" style=\"padding:6px 8px\">\
         {TABLE} width=\"100%\" bgcolor=\"#ffffff\" style=\"background:#ffffff;border:1px solid {LINE};border-radius:8px\">\
         <tr><td style=\"padding:10px 12px 0\"><div style=\"color:{SOFT};font-size:13px\">{}</div>\
         <span style=\"font-size:22px;font-weight:600\">{shown}</span>",
        figure.title
    );
    if let Some(FigureChange { up, text }) = change {
        let _ = write!(
            html,
            " <span style=\"color:{};font-size:13px\">{text}</span>",
            if up { UP } else { DOWN }
        );
    }
    let _ = write!(
        html,
        "</td></tr><tr><td style=\"padding:4px 12px 8px\">{TABLE} width=\"100%\" style=\"table-layout:fixed\"><tr>"
    );
    let most = values.iter().flatten().max().copied().unwrap_or(0);
    for (week, found) in &report.weeks {
        let value = found.as_ref().map(figure.value);
        let told = value.map_or_else(|| "not computed".to_owned(), |value| figure.unit.show(value));
        let _ = write!(
            html,
            "<td valign=\"bottom\" align=\"center\" height=\"{HEIGHT}\" title=\"{week}: {told}\" \
             style=\"height:{HEIGHT}px;border-bottom:1px solid {LINE};font-size:1px;line-height:1px\">"
        );
        if let Some((found, value)) = found.as_ref().zip(value).filter(|(_, value)| *value > 0) {
            let solid = figure.part.map_or(value, |part| part(found));
            write_bar(html, value, solid, most);
        }
        html.push_str("</td>");
    }
    html.push_str("</tr><tr>");
    for (week, _) in &report.weeks {
        let _ = write!(
            html,
            "<td align=\"center\" style=\"color:{SOFT};font-size:9px;padding-top:2px\">{}</td>",
            &label(*week)[1..]
        );
    }
    html.push_str("</tr></table></td></tr></table></td>");
}

/// A table of one cell, or of a paler one above a solid one.
fn write_bar(html: &mut String, value: i64, solid: i64, most: i64) {
    // What is there is seen, however little it is.
    let pixels =
        |value: i64| if value <= 0 { 0 } else { ((HEIGHT * value as f64 / most as f64) as i64).max(2) };
    let (whole, solid) = (pixels(value), pixels(solid));
    html.push_str(TABLE);
    html.push_str(" width=\"72%\">");
    for (height, colour) in [(whole - solid, REST), (solid, BAR)] {
        if height > 0 {
            let _ = write!(
                html,
                "<tr><td height=\"{height}\" bgcolor=\"{colour}\" style=\"height:{height}px\"></td></tr>"
            );
        }
    }
    html.push_str("</table>");
}

fn write_accounts(html: &mut String, report: &WeeklyReport) {
    let _ = write!(
        html,
        "<tr><td colspan=\"2\" style=\"padding:20px 8px 0\"><h2 style=\"margin:0 0 6px;font-size:16px\">Most active \
         accounts, by what they did</h2>{TABLE} width=\"100%\" bgcolor=\"#ffffff\" \
         style=\"background:#ffffff;border:1px solid {LINE};border-radius:8px;font-size:13px\">"
    );
    for (at, found) in report.accounts.iter().take(ACCOUNTS).enumerate() {
        let line = if at > 0 { format!("border-top:1px solid {LINE};") } else { String::new() };
        let (name, issuer) = name_of(found);
        let _ = write!(
            html,
            "<tr><td style=\"{line}padding:6px 12px;word-break:break-word\">{} <span style=\"color:{SOFT}\">{}</span></td>\
             <td align=\"right\" style=\"{line}padding:6px 12px\">{}</td></tr>",
            escape(&name),
            escape(&issuer.unwrap_or_default()),
            Unit::Pieces.show(found.counts.actions())
        );
    }
    if report.accounts.is_empty() {
        html.push_str("<tr><td style=\"padding:6px 12px\">None.</td></tr>");
    }
    html.push_str("</table></td></tr>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_shows_what_is_there_however_little_it_is() {
        assert_eq!(sparkline(&[Some(0), None, Some(1), Some(500), Some(1000)]), "  ▁▄█");
        assert_eq!(sparkline(&[Some(0), None]), "  ");
        assert_eq!(sparkline(&[Some(i64::MAX)]), "█");
    }
}
