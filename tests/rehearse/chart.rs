//! Chart of the rehearsal: requests and their failures, response times, numbers of instances. SVG, with the colours of
//! the surrounding page.

use std::fmt::Write as _;

use super::report::{Outcome, escape};
use super::timeline::{Event, Timeline};

const WIDTH: f64 = 1100.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 8.0;
/// Height of a line of text.
const LINE: f64 = 14.0;
/// Number of lines of text above the panels: neighbouring labels use different lines.
const LINES: usize = 4;
/// Heights of the panels, and the space between them.
const REQUESTS: f64 = 120.0;
const LATENCY: f64 = 70.0;
const INSTANCES: f64 = 90.0;
const GAP: f64 = 22.0;

struct Chart<'a> {
    timeline: &'a Timeline,
    from: f64,
    to: f64,
    svg: String,
}

/// Chart of the whole rehearsal, with a band for each scenario.
pub fn whole(timeline: &Timeline, outcomes: &[Outcome], end: f64) -> String {
    let mut chart = Chart::new(timeline, 0.0, end);
    for (at, outcome) in outcomes.iter().enumerate() {
        let (from, to) = (chart.x(outcome.begun), chart.x(outcome.ended));
        let band = if at % 2 == 0 { "band" } else { "band other" };
        let top = label_top(at) - LINE + 3.0;
        let _ = write!(
            chart.svg,
            "<rect class=\"{band}\" x={from:.1} y={top:.1} width={:.1} height={:.1}><title>{}</title></rect>",
            to - from,
            bottom() - top,
            escape(outcome.about),
        );
    }
    // A name may be wider than its band.
    for (at, outcome) in outcomes.iter().enumerate() {
        let class = if outcome.passed() { "name" } else { "name bad" };
        chart.label(chart.x(outcome.begun) + 2.0, at, class, outcome.scenario);
    }
    chart.marks(false);
    chart.finish()
}

/// Chart of one scenario, with what was done to the fleet.
pub fn of(timeline: &Timeline, outcome: &Outcome) -> String {
    let mut chart = Chart::new(timeline, outcome.begun, outcome.ended);
    chart.marks(true);
    chart.finish()
}

fn label_top(at: usize) -> f64 {
    LINE * ((at % LINES) as f64 + 1.0)
}

fn requests_top() -> f64 {
    LINE * LINES as f64 + GAP
}

fn latency_top() -> f64 {
    requests_top() + REQUESTS + GAP
}

fn instances_top() -> f64 {
    latency_top() + LATENCY + GAP
}

fn bottom() -> f64 {
    instances_top() + INSTANCES
}

impl Chart<'_> {
    fn new(timeline: &Timeline, from: f64, to: f64) -> Chart<'_> {
        let height = bottom() + LINE + 6.0;
        let svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=img>");
        Chart { timeline, from, to: to.max(from + 1.0), svg }
    }

    fn x(&self, at: f64) -> f64 {
        let part = (at - self.from) / (self.to - self.from);
        LEFT + part.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn label(&mut self, x: f64, at: usize, class: &str, text: &str) {
        // A label that would not fit is placed to the left of its mark.
        let (x, anchor) =
            if x > WIDTH - 7.0 * text.chars().count() as f64 { (x - 4.0, "end") } else { (x, "start") };
        let y = label_top(at);
        let _ = write!(
            self.svg,
            "<text class=\"{class}\" x={x:.1} y={y:.1} text-anchor={anchor}>{}</text>",
            escape(text)
        );
    }

    /// Draws each action on the fleet as a line through all panels.
    fn marks(&mut self, named: bool) {
        let marks: Vec<Event> = self.timeline.events().into_iter().filter(|event| event.is_mark).collect();
        let marks = marks.into_iter().filter(|mark| (self.from..=self.to).contains(&mark.at));
        for (at, mark) in marks.collect::<Vec<_>>().iter().enumerate() {
            let x = self.x(mark.at);
            let top = if named { label_top(at) + 2.0 } else { requests_top() - 4.0 };
            let text = escape(&mark.text);
            let _ = write!(
                self.svg,
                "<line class=mark x1={x:.1} x2={x:.1} y1={top:.1} y2={:.1}><title>{:.1} s: {text}</title></line>",
                bottom(),
                mark.at,
            );
            if named {
                self.label(x + 3.0, at, "name", &mark.text);
            }
        }
    }

    fn finish(mut self) -> String {
        self.requests();
        self.instances();
        let ticks = 8;
        for tick in 0..=ticks {
            let at = self.from + (self.to - self.from) * f64::from(tick) / f64::from(ticks);
            let anchor = match tick {
                0 => "start",
                _ if tick == ticks => "end",
                _ => "middle",
            };
            let (x, y) = (self.x(at), bottom() + LINE);
            let _ = write!(self.svg, "<text x={x:.1} y={y:.1} text-anchor={anchor}>{at:.0} s</text>");
        }
        self.svg + "</svg>"
    }

    fn requests(&mut self) {
        let seconds = (self.to - self.from) as usize + 1;
        let (mut good, mut bad, mut took) =
            (vec![0.0; seconds], vec![0.0; seconds], vec![Vec::new(); seconds]);
        let attempts = self.timeline.attempts(self.from);
        for attempt in attempts.iter().filter(|attempt| attempt.kind != "notice" && attempt.at < self.to) {
            let at = ((attempt.at - self.from) as usize).min(seconds - 1);
            match attempt.error {
                Some(_) => bad[at] += 1.0,
                None => good[at] += 1.0,
            }
            took[at].push(attempt.millis);
        }
        let took: Vec<f64> = took.into_iter().map(slow).collect();
        let most = good.iter().zip(&bad).map(|(good, bad)| good + bad).fold(1.0, f64::max);
        let slowest = took.iter().copied().fold(1.0, f64::max);
        self.panel(
            requests_top(),
            REQUESTS,
            &format!("requests answered in each second, and failed ones (up to {most:.0})"),
        );
        self.line("good", &good, requests_top(), REQUESTS, most);
        for (at, failed) in bad.iter().enumerate().filter(|(_, failed)| **failed > 0.0) {
            let height = (REQUESTS * failed / most).max(4.0);
            let (x, y) = (self.x(self.from + at as f64 + 0.5), requests_top() + REQUESTS - height);
            let _ = write!(
                self.svg,
                "<rect class=failures x={x:.1} y={y:.1} width=3 height={height:.1}><title>{failed} failed</title></rect>"
            );
        }
        self.panel(
            latency_top(),
            LATENCY,
            &format!("how long 95 of 100 took at most (up to {slowest:.0} ms)"),
        );
        self.line("slow", &took, latency_top(), LATENCY, slowest);
    }

    fn panel(&mut self, top: f64, height: f64, title: &str) {
        let (right, under) = (WIDTH - RIGHT, top + height);
        let _ = write!(
            self.svg,
            "<line class=axis x1={LEFT} x2={right} y1={under:.1} y2={under:.1} />\
             <text x={LEFT} y={:.1}>{title}</text>",
            top - 6.0
        );
    }

    fn line(&mut self, class: &str, values: &[f64], top: f64, height: f64, most: f64) {
        let points: String = values
            .iter()
            .enumerate()
            .map(|(at, value)| {
                let x = self.x(self.from + at as f64 + 0.5);
                format!("{x:.1},{:.1} ", top + height * (1.0 - value / most))
            })
            .collect();
        let _ = write!(self.svg, "<polyline class={class} points=\"{points}\" />");
    }

    /// Draws the numbers of instances of each kind, stacked.
    fn instances(&mut self) {
        let counts = self.timeline.counts();
        let total = counts.iter().map(|count| count.serving + count.coming + count.leaving);
        let most = total.max().unwrap_or(1).max(1);
        let unit = INSTANCES / most as f64;
        self.panel(instances_top(), INSTANCES, "instances: serving, starting, leaving");
        for (at, count) in counts.iter().enumerate() {
            let until = counts.get(at + 1).map_or(self.to, |next| next.at);
            if until <= self.from || count.at >= self.to {
                continue;
            }
            let (from, to) = (self.x(count.at), self.x(until));
            let mut base = bottom();
            for (number, class) in
                [(count.serving, "serving"), (count.coming, "starting"), (count.leaving, "leaving")]
            {
                let height = unit * number as f64;
                base -= height;
                if number > 0 {
                    let _ = write!(
                        self.svg,
                        "<rect class={class} x={from:.1} y={base:.1} width={:.2} height={height:.1}>\
                         <title>{number} {class}</title></rect>",
                        to - from + 0.3
                    );
                }
            }
        }
    }
}

/// 95th percentile.
fn slow(mut millis: Vec<f64>) -> f64 {
    millis.sort_by(f64::total_cmp);
    millis.get(millis.len() * 95 / 100).copied().unwrap_or(0.0)
}
