//! Shows on standard error how far a command is: a bar on a terminal, else a line every few seconds.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How far a command is.
#[derive(Clone)]
pub struct ProgressLine {
    bar: Option<ProgressBar>,
    read: Arc<AtomicU64>,
    size: Option<u64>,
}

impl ProgressLine {
    /// `read` counts the bytes of the input, of `size` in all.
    pub fn new(read: Arc<AtomicU64>, size: Option<u64>) -> Self {
        Self::drawn(read, size, "{bar:32} {percent:>3} %  {msg}  {elapsed_precise}, {eta} left")
    }

    /// Of a transfer: `moved` counts the bytes, of `size` in all.
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

    /// What to say with, so that lines and bar do not mix.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Shows the state; `last` is when a line was printed last.
    pub fn show(&self, message: &str, last: &mut Instant) {
        let read = self.read.load(Ordering::Relaxed);
        match &self.bar {
            Some(bar) => {
                bar.set_position(read);
                bar.set_message(message.to_owned());
            }
            None if last.elapsed() >= LINE_EVERY => {
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

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
