//! What the commands print: lines, sizes, times, and the progress of a transfer.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use indicatif::BinaryBytes;
use parking_lot::Mutex;

use crate::cli::api_client::progress::ProgressLine;

/// Exit code by which shells recognize that Ctrl-C ended a command.
pub(super) const INTERRUPTED: u8 = 130;
/// Interval between updates of a bar.
const UPDATE_INTERVAL: Duration = Duration::from_millis(100);
/// Formats the time from now in its two largest units.
pub(super) fn until(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    // Rounded up: what was created a moment ago for two days has two days left.
    let minutes = ((time - now).num_seconds() + 59).div_euclid(60);
    match (minutes / 1440, minutes % 1440 / 60, minutes % 60) {
        _ if minutes <= 0 => "now".to_owned(),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes:02}"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

pub(super) fn size(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// Replaces control characters, which could affect the terminal.
pub(super) fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Prints a line on standard output; a closed pipe is not an error.
///
/// # Errors
/// Fails if standard output cannot be written to.
pub(super) fn print(line: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// Number of bytes transferred, for each part of a transfer.
#[derive(Clone)]
pub struct Positions(Arc<Vec<AtomicU64>>);

impl Positions {
    pub(super) fn new(parts: usize) -> Self {
        Self(Arc::new((0..parts).map(|_| AtomicU64::new(0)).collect()))
    }

    pub(super) fn set(&self, part: usize, bytes: u64) {
        self.0[part].store(bytes, Ordering::Relaxed);
    }

    pub(super) fn get(&self, part: usize) -> u64 {
        self.0[part].load(Ordering::Relaxed)
    }

    pub(super) fn sum(&self) -> u64 {
        self.0.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum()
    }
}

/// Terminal output during a transfer. All messages go through it, so that they do not disturb the bar.
#[derive(Clone, Default)]
pub(super) struct Display(Arc<Mutex<Option<ProgressLine>>>);

impl Display {
    pub(super) fn say(&self, line: &str) {
        match &*self.0.lock() {
            Some(progress) => progress.say(line),
            None => eprintln!("{line}"),
        }
    }

    pub(super) fn as_say(&self) -> Box<dyn Fn(&str) + Send + Sync> {
        let display = self.clone();
        Box::new(move |line| display.say(line))
    }

    pub(super) fn set(&self, progress: Option<ProgressLine>) {
        *self.0.lock() = progress;
    }

    /// Shows the progress while the work runs.
    pub(super) async fn during<T>(
        &self,
        name: &str,
        size: Option<u64>,
        positions: &Positions,
        work: impl Future<Output = T>,
    ) -> T {
        let moved = Arc::new(AtomicU64::new(0));
        let progress = ProgressLine::of_transfer(moved.clone(), size);
        // Removes the bar even if the work is dropped midway.
        let _shown = Shown { display: self, progress: progress.clone() };
        self.set(Some(progress.clone()));
        let (name, mut last) = (printable(name), Instant::now());
        let show = async {
            loop {
                moved.store(positions.sum(), Ordering::Relaxed);
                progress.show(&name, &mut last);
                tokio::time::sleep(UPDATE_INTERVAL).await;
            }
        };
        tokio::select! { done = work => done, () = show => unreachable!("it shows for ever") }
    }
}

struct Shown<'d> {
    display: &'d Display,
    progress: ProgressLine,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.progress.finish();
        self.display.set(None);
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn durations_are_written_in_two_units() {
        let now = DateTime::UNIX_EPOCH;
        for (minutes, expected) in [(-5, "now"), (5, "5 min"), (65, "1 h 05"), (1440 * 13 - 1, "12 d 23 h")] {
            assert_eq!(until(now + TimeDelta::minutes(minutes), now), expected);
            assert_eq!(until(now + TimeDelta::minutes(minutes) - TimeDelta::seconds(2), now), expected);
        }
    }
}
