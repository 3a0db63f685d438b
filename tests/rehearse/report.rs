//! The results: a table, and a self-contained page with a timeline.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::timeline::{Timeline, now};
use super::{chart, facts};

/// Outcome of a scenario.
pub struct Outcome {
    pub scenario: &'static str,
    pub about: &'static str,
    pub begun: f64,
    pub ended: f64,
    /// Number of attempts: reads and reports.
    pub requests: usize,
    pub failed: usize,
    /// Number of failed attempts that the scenario allows.
    pub allowed: usize,
    /// Instances that existed at the beginning and no longer at the end.
    pub replaced: usize,
    /// Longest time in which no client got a good answer, in seconds.
    pub pause: f64,
    /// Number of times that the upload resumed after a break.
    pub resumed: usize,
    /// Number of notices received, and of those received again under the same id.
    pub notices: usize,
    pub repeated: usize,
    pub failures: BTreeMap<String, usize>,
    pub problems: Vec<String>,
    /// Whether the fleet is in order again.
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

const HEAD: [&str; 11] = [
    "scenario", "seconds", "requests", "failed", "allowed", "replaced", "pause", "resumed", "notices",
    "repeated", "verdict",
];
/// Explanations below the table of the page.
const MEANINGS: &str = "<p class=legend><b>requests</b>: reads and reports, each attempt. <b>failed</b>: without an answer, or \
    with one of 5xx; each was repeated and has succeeded. <b>allowed</b>: those of them that the lost instance had, or that \
    the scenario explains. <b>pause</b>: the longest time without a good answer to anybody, in seconds. <b>resumed</b>: how \
    often the large upload went on where it was broken off. <b>notices</b>: none of them is missing, and none came under two \
    ids; <b>repeated</b>: those that came again under their own.</p>";

fn row(outcome: &Outcome) -> [String; 11] {
    [
        outcome.scenario.to_owned(),
        format!("{:.0}", outcome.ended - outcome.begun),
        outcome.requests.to_string(),
        outcome.failed.to_string(),
        outcome.allowed.to_string(),
        outcome.replaced.to_string(),
        format!("{:.1}", outcome.pause),
        outcome.resumed.to_string(),
        outcome.notices.to_string(),
        outcome.repeated.to_string(),
        outcome.verdict().to_owned(),
    ]
}

/// Table for the terminal.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for cells in [HEAD.map(str::to_owned)].into_iter().chain(outcomes.iter().map(row)) {
        let [first, middle @ .., last] = cells;
        let middle: String = middle.iter().map(|cell| format!("{cell:>9}")).collect();
        let _ = writeln!(text, "{first:<20}{middle}  {last}");
    }
    text
}

/// Writes the page; returns its path. `chosen` is the number of scenarios that were to be performed.
pub fn write(timeline: &Timeline, outcomes: &[Outcome], chosen: usize) -> PathBuf {
    let file = PathBuf::from(concat!(env!("CARGO_TARGET_TMPDIR"), "/rehearsal.html"));
    let file = std::env::var_os("SALEBELL_REHEARSE_REPORT").map_or(file, PathBuf::from);
    std::fs::write(&file, page(timeline, outcomes, chosen)).expect("the report is written");
    file
}

fn page(timeline: &Timeline, outcomes: &[Outcome], chosen: usize) -> String {
    let end = outcomes.last().map_or_else(now, |last| last.ended);
    let passed = outcomes.iter().filter(|outcome| outcome.passed()).count();
    let class = if passed == chosen { "passed" } else { "failed" };
    let facts: String = facts::gather()
        .iter()
        .map(|(name, value)| format!("<dt>{name}</dt><dd>{}</dd>", escape(value)))
        .collect();
    let mut events = String::new();
    for event in timeline.events() {
        let _ = writeln!(events, "<tr><td>{:.1} s</td><td>{}</td></tr>", event.at, escape(&event.text));
    }
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <meta name=color-scheme content=\"light dark\"><title>Salebell: rehearsal of a fleet</title>\
         <style>{STYLE}</style><h1>Rehearsal of a fleet</h1>\
         <p class=\"verdict {class}\">{passed} of {chosen} scenarios passed</p>{}<dl>{facts}</dl>\
         <h2>What happened to it</h2>{}<h2>When</h2>{}{LEGEND}\
         <h2>One by one</h2>{}<details><summary>Everything that happened</summary>\
         <table class=events>{events}</table></details></html>",
        summary(outcomes, end),
        scenarios(outcomes),
        chart::whole(timeline, outcomes, end),
        outcomes.iter().map(|outcome| one(timeline, outcome)).collect::<String>(),
    )
}

/// Summary in a few sentences.
fn summary(outcomes: &[Outcome], end: f64) -> String {
    let sum = |of: fn(&Outcome) -> usize| outcomes.iter().map(of).sum::<usize>();
    let (failed, allowed) = (sum(|outcome| outcome.failed), sum(|outcome| outcome.allowed));
    let resumed = sum(|outcome| outcome.resumed);
    format!(
        "<p>Instances booted from their image, behind a load balancer, under a steady load for {:.0} minutes: {} requests, of \
         which {failed} failed, {allowed} of them as the scenario allows; {} notices to a webhook; {} large uploads, broken \
         off and resumed {resumed} times in all; {} instances replaced.</p>",
        (end / 60.0).ceil(),
        sum(|outcome| outcome.requests),
        sum(|outcome| outcome.notices),
        outcomes.len(),
        sum(|outcome| outcome.replaced),
    )
}

fn scenarios(outcomes: &[Outcome]) -> String {
    let mut rows = String::new();
    for outcome in outcomes {
        let class = if outcome.passed() { "passed" } else { "failed" };
        let [name, cells @ ..] = row(outcome);
        let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        let about = escape(outcome.about);
        let _ =
            writeln!(rows, "<tr class={class}><td><b>{name}</b><br><small>{about}</small></td>{cells}</tr>");
        for problem in &outcome.problems {
            let _ = writeln!(rows, "<tr class=note><td colspan=11>{}</td></tr>", escape(problem));
        }
    }
    let head: String = HEAD.iter().map(|name| format!("<th>{name}</th>")).collect();
    format!(
        "<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{MEANINGS}"
    )
}

fn one(timeline: &Timeline, outcome: &Outcome) -> String {
    let told = outcome.failures.iter().map(|(what, times)| format!("<li>{times} × {}</li>", escape(what)));
    format!(
        "<details><summary>{}: {}</summary>{}<ul>{}</ul></details>",
        outcome.scenario,
        escape(outcome.about),
        chart::of(timeline, outcome),
        told.collect::<String>()
    )
}

const LEGEND: &str = "<p class=legend><i class=good></i>answered <i class=failures></i>failed <i class=slow></i>time \
    <i class=serving></i>serving <i class=starting></i>starting <i class=leaving></i>leaving \
    <i class=mark></i>something is done to the fleet. Between two scenarios the clients rest while everything is counted.</p>";

const STYLE: &str = "\
:root{--text:#1d2530;--soft:#5b6675;--line:#d5dbe5;--back:#fff;--band:#eef3fb;--other:#f8f4e9;--good:#2563a8;\
--bad:#c0182c;--slow:#8a5a00;--serving:#3c9a6a;--starting:#7db8de;--leaving:#e2a76f;--passed:#14683c}\
@media(prefers-color-scheme:dark){:root{--text:#e4e9f0;--soft:#9aa6b6;--line:#39424f;--back:#14181e;--band:#1b2430;\
--other:#25221a;--good:#6ea8e8;--bad:#ff6b7a;--slow:#d9a441;--serving:#3f8f66;--starting:#4f86ab;--leaving:#b27a45;\
--passed:#6fcf97}}\
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:var(--text);\
background:var(--back)}h1{margin-bottom:.3rem}h2{font-size:1.15rem;margin:1.8rem 0 .4rem}\
.verdict{font-size:1.3rem;font-weight:600;margin:.2rem 0 .6rem}.verdict.passed{color:var(--passed)}\
.verdict.failed{color:var(--bad)}dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:.6rem 0;\
font-size:14px}dt{color:var(--soft)}dd{margin:0}.wide{overflow-x:auto}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
td,th{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top}\
th{font-size:13px;color:var(--soft);font-weight:600}td:first-child,th:first-child,.events td,.note td{text-align:left}\
small,.note td,.legend{color:var(--soft);font-size:13px}.passed td:last-child{color:var(--passed)}\
.failed td:last-child,.note td{color:var(--bad)}.failed td:last-child{font-weight:600}\
svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:var(--soft)}svg .name{fill:var(--text)}\
svg .name.bad{fill:var(--bad)}.band{fill:var(--band)}.band.other{fill:var(--other)}.axis{stroke:var(--line)}\
line.mark{stroke:var(--text);stroke-dasharray:2 3;opacity:.55}polyline{fill:none;stroke-width:1.4}\
.good{stroke:var(--good);background:var(--good)}.slow{stroke:var(--slow);background:var(--slow)}\
.failures{fill:var(--bad);background:var(--bad)}.serving{fill:var(--serving);background:var(--serving)}\
.starting{fill:var(--starting);background:var(--starting)}.leaving{fill:var(--leaving);background:var(--leaving)}\
.legend i{display:inline-block;width:.8em;height:.8em;margin:0 .35em 0 .9em}.legend i.mark{background:var(--text);\
width:2px}details{margin:.4rem 0}summary{cursor:pointer}";

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
