//! Bar charts as SVG, one bar per week. They have no script and no style of their own, which the page's policy would
//! block.

use askama::Template;

use super::figures::Unit;

/// Values of a figure over several weeks, oldest first.
pub struct ChartSeries {
    pub title: &'static str,
    pub bars: Vec<Bar>,
    pub unit: Unit,
}

#[derive(Clone, Debug)]
pub struct Bar {
    /// Short name of the week, such as `W47`.
    pub label: String,
    /// Full name of the week, such as `2026-W47`.
    pub week: String,
    /// Value of the week; `None` if it was not computed.
    pub value: Option<i64>,
    /// The share of the value that is drawn solid, if not all of it is.
    pub part: Option<i64>,
    /// Whether the week is not over yet.
    pub runs: bool,
}

// The template repeats these numbers.
const STEP: usize = 26;
const BAR: usize = 18;
const TOP: f64 = 16.0;
const HEIGHT: f64 = 84.0;
const BASE: f64 = TOP + HEIGHT;

/// A series drawn as a picture.
#[derive(Template)]
#[template(path = "chart.svg")]
pub struct Chart {
    title: &'static str,
    width: usize,
    /// Highest value, formatted for people.
    most: String,
    /// Whether every week is zero or missing.
    is_empty: bool,
    columns: Vec<Column>,
}

struct Column {
    week: String,
    label: String,
    value: String,
    runs: bool,
    x: usize,
    middle: usize,
    rectangles: Vec<Rectangle>,
}

struct Rectangle {
    /// Style of the rectangle: `bar` or, paler, `rest`.
    class: &'static str,
    y: String,
    height: String,
}

impl Chart {
    pub fn new(series: &ChartSeries) -> Chart {
        let most = series.bars.iter().filter_map(|bar| bar.value).max().unwrap_or(0);
        let columns = series.bars.iter().enumerate().map(|(at, bar)| Column {
            week: bar.week.clone(),
            label: bar.label.clone(),
            value: bar.value.map_or_else(|| "not computed".to_owned(), |value| series.unit.show(value)),
            runs: bar.runs,
            x: at * STEP + (STEP - BAR) / 2,
            middle: at * STEP + STEP / 2,
            rectangles: rectangles(bar, most),
        });
        Chart {
            title: series.title,
            width: series.bars.len() * STEP,
            most: series.unit.show(most),
            is_empty: most <= 0,
            columns: columns.collect(),
        }
    }
}

/// A single bar, or a pale one with the solid part in front of it.
fn rectangles(bar: &Bar, most: i64) -> Vec<Rectangle> {
    let rectangle = |class, value: i64| {
        // Even the smallest value stays visible.
        let height = (HEIGHT * value as f64 / most as f64).max(1.5);
        Rectangle { class, y: format!("{:.1}", BASE - height), height: format!("{height:.1}") }
    };
    match (bar.value.filter(|value| *value > 0), bar.part) {
        (None, _) => Vec::new(),
        (Some(value), None) => vec![rectangle("bar", value)],
        (Some(value), Some(part)) if part > 0 => vec![rectangle("rest", value), rectangle("bar", part)],
        (Some(value), Some(_)) => vec![rectangle("rest", value)],
    }
}
