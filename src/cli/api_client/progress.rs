//! Progress of a command on standard error: a bar on a terminal, otherwise a line every few seconds.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Interval between lines if there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Progress display of a command.
#[derive(Clone)]
pub struct ProgressLine {
    bar: Option<ProgressBar>,
    read: Arc<AtomicU64>,
    size: Option<u64>,
}

impl ProgressLine {
    /// Display for reading an input: `read` counts its bytes, out of `size`.
    pub fn new(read: Arc<AtomicU64>, size: Option<u64>) -> Self {
        Self::drawn(read, size, "{bar:32} {percent:>3} %  {msg}  {elapsed_precise}, {eta} left")
    }

    /// Display for a transfer: `moved` counts its bytes, out of `size`.
    pub fn of_transfer(moved: Arc<AtomicU64>, size: Option<u64>) -> Self {
        let template = "{msg}  {bar:32} {percent:>3} %  {binary_bytes} of {binary_total_bytes}  \
            {binary_bytes_per_sec}, {eta} left";
        Self::drawn(moved, size, template)
    }

    fn drawn(read: Arc<AtomicU64>, size: Option<u64>, template: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = match size {
                Some(_) => template,
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

    /// Prints a message without disturbing the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Shows the current state; `last` is the time of the last printed line.
    pub fn show(&self, message: &str, last: &mut Instant) {
        let read = self.read.load(Ordering::Relaxed);
        match &self.bar {
            Some(bar) => {
                bar.set_position(read);
                bar.set_message(message.to_owned());
            }
            None if last.elapsed() >= LINE_INTERVAL => {
                *last = Instant::now();
                let share = match self.size {
                    Some(size) if size > 0 => format!("{:.0} %, ", 100.0 * read as f64 / size as f64),
                    _ => String::new(),
                };
                eprintln!("{share}{message}");
            }
            None => {}
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
