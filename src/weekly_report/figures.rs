//! The figures of a week, formatted for people.

use crate::store::statistics::WeekStatistics;

/// One figure of a week: its title, unit and value.
pub struct Figure {
    pub title: &'static str,
    pub unit: Unit,
    pub value: fn(&WeekStatistics) -> i64,
    /// The share of the value that is drawn solid, if not all of it is; `title` says what it stands for.
    pub part: Option<fn(&WeekStatistics) -> i64>,
}

const fn figure(title: &'static str, unit: Unit, value: fn(&WeekStatistics) -> i64) -> Figure {
    Figure { title, unit, value, part: None }
}

/// All figures, in the order in which they are shown.
pub const FIGURES: [Figure; 11] = [
    figure("Active accounts", Unit::Pieces, |of| of.accounts.unwrap_or(0)),
    figure("Uploads", Unit::Pieces, |of| of.counts.uploads),
    figure("Uploaded", Unit::Bytes, |of| of.counts.uploaded_bytes),
    figure("Downloads", Unit::Pieces, |of| of.counts.downloads),
    figure("Downloaded", Unit::Bytes, |of| of.counts.downloaded_bytes),
    figure("Reports", Unit::Pieces, |of| of.counts.reports),
    figure("Reported prices", Unit::Pieces, |of| of.counts.observations),
    figure("Watches", Unit::Pieces, |of| of.counts.watches),
    figure("Notices", Unit::Pieces, |of| of.counts.notices),
    Figure {
        part: Some(|of| of.counts.delivered),
        ..figure("Deliveries, solid: arrived", Unit::Pieces, |of| of.counts.deliveries)
    },
    figure("Log-ins", Unit::Pieces, |of| of.counts.logins),
];

/// Change of a figure from the week before.
pub struct FigureChange {
    pub up: bool,
    /// Change in per cent, such as `+50 %`.
    pub text: String,
}

/// Change from `before` to `now`; `None` if they are equal, or there is no basis for comparison.
pub fn change(now: Option<i64>, before: Option<i64>) -> Option<FigureChange> {
    let (now, before) = (now?, before?);
    if before == 0 || now == before {
        return None;
    }
    let percent = (now - before) as f64 / before as f64 * 100.0;
    let up = percent > 0.0;
    let size = percent.abs();
    let size = if size > 999.0 { "over 999".to_owned() } else { format!("{size:.0}") };
    Some(FigureChange { up, text: format!("{}{size} %", if up { "+" } else { "−" }) })
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Pieces,
    Bytes,
}

impl Unit {
    /// Formats a value for people: `12 345`, `1.4 GiB`.
    pub fn show(self, value: i64) -> String {
        match self {
            Unit::Pieces => pieces(value),
            Unit::Bytes => bytes(value),
        }
    }
}

/// Groups thousands with a narrow no-break space.
fn pieces(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::from(if value < 0 { "−" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

fn bytes(value: i64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut size, mut unit) = (value as f64, 0);
    // 1023.95 would be shown as 1024.0.
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    let places = usize::from(unit > 0 && size < 99.95);
    format!("{size:.places$}\u{a0}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_for_people() {
        for (value, pieces, bytes) in [
            (0, "0", "0\u{a0}B"),
            (999, "999", "999\u{a0}B"),
            (1_000, "1\u{202f}000", "1000\u{a0}B"),
            (1_024, "1\u{202f}024", "1.0\u{a0}KiB"),
            (12_345_678, "12\u{202f}345\u{202f}678", "11.8\u{a0}MiB"),
            (1_048_575, "1\u{202f}048\u{202f}575", "1.0\u{a0}MiB"),
            (-1_234, "−1\u{202f}234", "-1234\u{a0}B"),
            (i64::MAX, "9\u{202f}223\u{202f}372\u{202f}036\u{202f}854\u{202f}775\u{202f}807", "8.0\u{a0}EiB"),
        ] {
            assert_eq!(
                (Unit::Pieces.show(value).as_str(), Unit::Bytes.show(value).as_str()),
                (pieces, bytes)
            );
        }
    }
}
