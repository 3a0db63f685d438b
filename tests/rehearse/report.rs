//! What came of it: a table, and a page with a timeline that needs nothing but itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::timeline::{Timeline, now};

/// How a scenario ended.
pub struct Outcome {
    pub scenario: &'static str,
    pub about: &'static str,
    pub begun: f64,
    pub ended: f64,
    /// Attempts: of reads and of reports.
    pub requests: usize,
    pub failed: usize,
    /// Of the failed ones.
    pub allowed: usize,
    /// How often the upload went on where it was broken off.
    pub resumed: usize,
    /// Notices so far, and how many came again under the same id.
    pub notices: usize,
    pub repeated: usize,
    pub failures: BTreeMap<String, usize>,
    pub problems: Vec<String>,
    /// The fleet is in order again.
    pub settled: bool,
}

impl Outcome {
    pub fn passed(&self) -> bool {
        self.problems.is_empty() && self.settled
    }

    pub fn verdict(&self) -> &'static str {
        if self.passed() { "passed" } else { "FAILED" }
    }
}

const HEAD: [&str; 9] =
    ["scenario", "seconds", "requests", "failed", "allowed", "resumed", "notices", "repeated", "verdict"];

fn row(outcome: &Outcome) -> [String; 9] {
    [
        outcome.scenario.to_owned(),
        format!("{:.0}", outcome.ended - outcome.begun),
        outcome.requests.to_string(),
        outcome.failed.to_string(),
        outcome.allowed.to_string(),
        outcome.resumed.to_string(),
        outcome.notices.to_string(),
        outcome.repeated.to_string(),
        outcome.verdict().to_owned(),
    ]
}

/// For the terminal.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for cells in [HEAD.map(str::to_owned)].into_iter().chain(outcomes.iter().map(row)) {
        let [first, middle @ .., last] = cells;
        let middle: String = middle.iter().map(|cell| format!("{cell:>9}")).collect();
        let _ = writeln!(text, "{first:<20}{middle}  {last}");
    }
    text
}

/// Writes the page; returns where it is.
pub fn write(timeline: &Timeline, outcomes: &[Outcome]) -> PathBuf {
    let file = PathBuf::from(concat!(env!("CARGO_TARGET_TMPDIR"), "/rehearsal.html"));
    let file = std::env::var_os("SALEBELL_REHEARSE_REPORT").map_or(file, PathBuf::from);
    let mut rows = String::new();
    for outcome in outcomes {
        let class = if outcome.passed() { "passed" } else { "failed" };
        let cells: String = row(outcome).iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        let _ = writeln!(rows, "<tr class={class} title=\"{}\">{cells}</tr>", escape(outcome.about));
        let told = outcome.failures.iter().map(|(what, times)| format!("{times} × {what}"));
        for line in outcome.problems.iter().cloned().chain(told) {
            let _ = writeln!(rows, "<tr class=note><td colspan=9>{}</td></tr>", escape(&line));
        }
    }
    let head: String = HEAD.iter().map(|cell| format!("<th>{cell}</th>")).collect();
    let passed = outcomes.iter().filter(|outcome| outcome.passed()).count();
    let requests: usize = outcomes.iter().map(|outcome| outcome.requests).sum();
    let mut events = String::new();
    for (at, text) in timeline.events() {
        let _ = writeln!(events, "<tr><td>{at:.1}</td><td>{}</td></tr>", escape(&text));
    }
    let page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Salebell: rehearsal</title><style>{STYLE}</style>\
         <h1>Rehearsal</h1><p>{passed} of {} scenarios passed; {requests} requests in {:.0} s.</p>{}\
         <table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>\
         <details><summary>Everything that happened</summary><table class=events>{events}</table></details></html>",
        outcomes.len(),
        now(),
        chart(timeline, outcomes),
    );
    std::fs::write(&file, page).expect("the report is written");
    file
}

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1d2530}\
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .8rem;border-bottom:1px solid #dde;text-align:right}\
td:first-child,th:first-child,td:last-child,.events td,.note td{text-align:left}.passed td:last-child{color:#177245}\
.failed td:last-child{color:#b00020;font-weight:600}.note td{color:#666;font-size:13px;border:0}\
svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#556}";

const WIDTH: f64 = 1100.0;
const LEFT: f64 = 60.0;
/// Top and height of the panels.
const REQUESTS: (f64, f64) = (30.0, 120.0);
const LATENCY: (f64, f64) = (180.0, 80.0);
const INSTANCES: (f64, f64) = (290.0, 110.0);
const BOTTOM: f64 = 420.0;

fn chart(timeline: &Timeline, outcomes: &[Outcome]) -> String {
    let end = now().max(1.0);
    let x = |at: f64| LEFT + at / end * (WIDTH - LEFT - 10.0);
    let seconds = end as usize + 1;
    let (mut good, mut bad, mut slow) = (vec![0.0; seconds], vec![0.0; seconds], vec![Vec::new(); seconds]);
    for attempt in timeline.attempts(0.0).iter().filter(|attempt| attempt.kind != "notice") {
        let at = (attempt.at as usize).min(seconds - 1);
        if attempt.error.is_some() {
            bad[at] += 1.0
        } else {
            good[at] += 1.0
        }
        slow[at].push(attempt.millis);
    }
    let tail = |mut millis: Vec<f64>| {
        millis.sort_by(f64::total_cmp);
        millis.get(millis.len() * 95 / 100).copied().unwrap_or(0.0)
    };
    let slow: Vec<f64> = slow.into_iter().map(tail).collect();
    let most = good.iter().zip(&bad).map(|(good, bad)| good + bad).fold(1.0, f64::max);
    let slowest = slow.iter().copied().fold(1.0, f64::max);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {BOTTOM}\" role=img>");
    for (number, outcome) in outcomes.iter().enumerate() {
        let (from, to) = (x(outcome.begun), x(outcome.ended));
        let fill = if number % 2 == 0 { "#eef3fb" } else { "#f7f3e8" };
        let _ = write!(
            svg,
            "<rect x={from:.1} y=18 width={:.1} height={:.1} fill=\"{fill}\"><title>{}</title></rect>\
             <text x={:.1} y=14>{}</text>",
            to - from,
            BOTTOM - 38.0,
            escape(outcome.about),
            from + 2.0,
            outcome.scenario
        );
    }
    let line = |svg: &mut String, values: &[f64], (top, height): (f64, f64), most: f64, colour: &str| {
        let points: String = values
            .iter()
            .enumerate()
            .map(|(at, value)| format!("{:.1},{:.1} ", x(at as f64), top + height * (1.0 - value / most)))
            .collect();
        let _ =
            write!(svg, "<polyline points=\"{points}\" fill=none stroke=\"{colour}\" stroke-width=1.5 />");
    };
    line(&mut svg, &good, REQUESTS, most, "#2563a8");
    for (at, failed) in bad.iter().enumerate().filter(|(_, failed)| **failed > 0.0) {
        let height = (REQUESTS.1 * failed / most).max(3.0);
        let top = REQUESTS.0 + REQUESTS.1 - height;
        let _ = write!(
            svg,
            "<rect x={:.1} y={top:.1} width=2.5 height={height:.1} fill=\"#c0182c\"><title>{failed} failed</title></rect>",
            x(at as f64)
        );
    }
    line(&mut svg, &slow, LATENCY, slowest, "#8a5a00");
    instances(&mut svg, timeline, end, x);
    for (at, text) in timeline.events() {
        let (x, text) = (x(at), escape(&text));
        let _ = write!(
            svg,
            "<line x1={x:.1} x2={x:.1} y1=404 y2=412 stroke=\"#667\"><title>{at:.1} s: {text}</title></line>"
        );
    }
    for (label, (top, _)) in [
        (format!("requests/s, failed in red (top: {most:.0})"), REQUESTS),
        (format!("p95 in ms (top: {slowest:.0})"), LATENCY),
        ("instances: serving, coming, leaving".to_owned(), INSTANCES),
    ] {
        let _ = write!(svg, "<text x={LEFT} y={:.1}>{label}</text>", top + 8.0);
    }
    for tick in 0..=6 {
        let at = end * f64::from(tick) / 6.0;
        let _ = write!(svg, "<text x={:.1} y={BOTTOM} text-anchor=middle>{at:.0} s</text>", x(at));
    }
    svg + "</svg>"
}

/// How many there were of each kind, one upon the other.
fn instances(svg: &mut String, timeline: &Timeline, end: f64, x: impl Fn(f64) -> f64) {
    let counts = timeline.counts();
    let most =
        counts.iter().map(|count| count.serving + count.coming + count.leaving).max().unwrap_or(1).max(1);
    let unit = (INSTANCES.1 - 14.0) / most as f64;
    for (at, count) in counts.iter().enumerate() {
        let until = counts.get(at + 1).map_or(end, |next| next.at);
        let (from, width) = (x(count.at), x(until) - x(count.at));
        let mut bottom = INSTANCES.0 + INSTANCES.1;
        for (number, colour, what) in [
            (count.serving, "#3c9a6a", "serving"),
            (count.coming, "#8fc7e8", "coming"),
            (count.leaving, "#e2a76f", "leaving"),
        ] {
            let height = unit * number as f64;
            bottom -= height;
            if number > 0 {
                let _ = write!(
                    svg,
                    "<rect x={from:.1} y={bottom:.1} width={width:.1} height={height:.1} fill=\"{colour}\">\
                     <title>{number} {what}</title></rect>"
                );
            }
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
