//! Shows on standard error how far a report is: a bar on a terminal, else a line every few seconds.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How far a report is.
#[derive(Clone)]
pub struct Progress {
    bar: Option<ProgressBar>,
    read: Arc<AtomicU64>,
    size: Option<u64>,
}

/// What has been counted so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub accepted: u64,
    pub refused: u64,
}

impl Progress {
    /// `read` counts the bytes of the input, of `size` in all.
    pub fn new(read: Arc<AtomicU64>, size: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = match size {
                Some(_) => "{bar:32} {percent:>3} %  {msg}  {elapsed_precise}, {eta} left",
                None => "{spinner} {bytes}  {msg}  {elapsed_precise}",
            };
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = size.map_or_else(ProgressBar::new_spinner, ProgressBar::new).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, read, size }
    }

    /// What to say with, so that lines and bar do not mix.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Shows the state; `last` is when a line was printed last.
    pub fn show(&self, tally: Tally, last: &mut Instant) {
        let read = self.read.load(Ordering::Relaxed);
        match &self.bar {
            Some(bar) => {
                bar.set_position(read);
                bar.set_message(describe(tally));
            }
            None if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                let share = match self.size {
                    Some(size) if size > 0 => format!("{:.0} %, ", 100.0 * read as f64 / size as f64),
                    _ => String::new(),
                };
                eprintln!("{share}{}", describe(tally));
            }
            None => {}
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn describe(tally: Tally) -> String {
    format!("{} accepted, {} refused", tally.accepted, tally.refused)
}
