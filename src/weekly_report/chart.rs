//! Bars, a week each, as SVG: no script, and no style of its own, which the page's policy would not let through.

use std::fmt::Write;

use super::figures::Unit;

/// A figure of several weeks, the oldest first.
pub struct ChartSeries {
    pub title: &'static str,
    pub bars: Vec<Bar>,
    pub unit: Unit,
}

#[derive(Clone, Debug)]
pub struct Bar {
    /// Such as `W47`.
    pub label: String,
    /// Such as `2026-W47`.
    pub week: String,
    /// `None`: the week was not computed.
    pub value: Option<i64>,
    /// How much of it is drawn solid, where not all of it is.
    pub part: Option<i64>,
    /// Its week goes on.
    pub runs: bool,
}

const STEP: usize = 26;
const BAR: usize = 18;
const TOP: f64 = 16.0;
const HEIGHT: f64 = 84.0;
const BASE: f64 = TOP + HEIGHT;

/// The chart of a series.
pub fn draw(series: &ChartSeries) -> String {
    let width = series.bars.len() * STEP;
    let most = series.bars.iter().filter_map(|bar| bar.value).max().unwrap_or(0);
    let title = series.title;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {width} 116\" role=\"img\" aria-label=\"{title} by week, at most {}\">",
        series.unit.show(most)
    );
    if most > 0 {
        let _ = write!(
            svg,
            "<line class=\"most\" x1=\"0\" y1=\"{TOP}\" x2=\"{width}\" y2=\"{TOP}\" />\
             <text class=\"most\" x=\"{width}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            TOP - 5.0,
            series.unit.show(most)
        );
    }
    for (at, bar) in series.bars.iter().enumerate() {
        let x = at * STEP + (STEP - BAR) / 2;
        let told = bar.value.map_or_else(|| "not computed".to_owned(), |value| series.unit.show(value));
        let runs = if bar.runs { " runs" } else { "" };
        let _ = write!(svg, "<g class=\"week{runs}\"><title>{}: {told}</title>", bar.week);
        let mut rectangle = |class: &str, value: i64| {
            // What is there is seen, however little it is.
            let height = (HEIGHT * value as f64 / most as f64).max(1.5);
            let _ = write!(
                svg,
                "<rect class=\"{class}\" x=\"{x}\" y=\"{:.1}\" width=\"{BAR}\" height=\"{height:.1}\" rx=\"2\" />",
                BASE - height
            );
        };
        if let Some(value) = bar.value.filter(|value| *value > 0) {
            match bar.part {
                Some(part) => {
                    rectangle("rest", value);
                    if part > 0 {
                        rectangle("bar", part);
                    }
                }
                None => rectangle("bar", value),
            }
        }
        let middle = at * STEP + STEP / 2;
        let _ = write!(svg, "<text x=\"{middle}\" y=\"112\" text-anchor=\"middle\">{}</text></g>", bar.label);
    }
    let _ = write!(svg, "<line class=\"base\" x1=\"0\" y1=\"{BASE}\" x2=\"{width}\" y2=\"{BASE}\" /></svg>");
    svg
}
