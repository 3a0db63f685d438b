//! Log on stderr, written by a thread of its own: logging never blocks on a pipe that is not read, and many lines take
//! a single system call.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use chrono::SecondsFormat;
use parking_lot::{Condvar, Mutex};

/// Interval over which lines are collected before they are written together.
const COLLECT_INTERVAL: Duration = Duration::from_millis(5);
/// Maximum number of bytes of lines that wait to be written; further lines are only counted.
const MAX_WAITING: usize = 1 << 20;
/// Timeout for writing the remaining lines when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Logger that writes one line per record: time, level, target, text, fields.
#[derive(Default)]
pub struct StderrLog {
    lines: Mutex<Lines>,
    /// Signals that lines are waiting.
    filled: Condvar,
    /// Signals that the waiting lines have been written.
    written: Condvar,
}

#[derive(Default)]
struct Lines {
    waiting: Vec<u8>,
    /// Number of lines discarded because the buffer was full.
    dropped: u64,
    /// Whether the thread has taken lines that it has not written yet.
    writing: bool,
}

impl StderrLog {
    /// Creates the logger and starts its thread.
    ///
    /// # Errors
    /// Fails if the thread cannot be started.
    pub fn start() -> std::io::Result<&'static StderrLog> {
        let log: &'static StderrLog = Box::leak(Box::default());
        std::thread::Builder::new().name("log".to_owned()).spawn(|| log.write_for_ever())?;
        Ok(log)
    }

    fn write_for_ever(&self) -> ! {
        let mut taken = Vec::new();
        loop {
            self.filled.wait_while(&mut self.lines.lock(), |lines| lines.waiting.is_empty());
            std::thread::sleep(COLLECT_INTERVAL);
            let dropped = {
                let mut lines = self.lines.lock();
                lines.writing = true;
                std::mem::swap(&mut taken, &mut lines.waiting);
                std::mem::take(&mut lines.dropped)
            };
            let mut stderr = std::io::stderr().lock();
            let _ = stderr.write_all(&taken);
            if dropped > 0 {
                let _ = writeln!(stderr, "{dropped} lines were not logged: stderr was not read");
            }
            taken.clear();
            self.lines.lock().writing = false;
            self.written.notify_all();
        }
    }
}

impl log::Log for &'static StderrLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let now = crate::clock::Clock::system().now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let mut line = String::with_capacity(320);
        let _ = write!(line, "{now} {:5} {} ", record.level(), record.target());
        let _ = write!(OneLine(&mut line), "{}", record.args());
        let _ = record.key_values().visit(&mut Fields(&mut line));
        line.push('\n');
        let mut lines = self.lines.lock();
        if lines.waiting.len() + line.len() > MAX_WAITING {
            lines.dropped += 1;
            return;
        }
        let first = lines.waiting.is_empty();
        lines.waiting.extend_from_slice(line.as_bytes());
        drop(lines);
        if first {
            self.filled.notify_one();
        }
    }

    fn flush(&self) {
        let unwritten = |lines: &mut Lines| lines.writing || !lines.waiting.is_empty();
        self.written.wait_while_for(&mut self.lines.lock(), unwritten, FLUSH_TIMEOUT);
    }
}

/// Escapes control characters, so that a line break in outside text cannot forge a record.
struct OneLine<'a>(&'a mut String);

impl std::fmt::Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for part in text.split_inclusive(|c: char| c.is_control()) {
            match part.chars().next_back() {
                Some(last) if last.is_control() => {
                    self.0.push_str(&part[..part.len() - last.len_utf8()]);
                    self.0.extend(last.escape_default());
                }
                _ => self.0.push_str(part),
            }
        }
        Ok(())
    }
}

struct Fields<'a>(&'a mut String);

impl<'kvs> log::kv::VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(
        &mut self,
        key: log::kv::Key<'kvs>,
        value: log::kv::Value<'kvs>,
    ) -> Result<(), log::kv::Error> {
        let _ = write!(self.0, " {key}=");
        let _ = write!(OneLine(self.0), "{value}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_break_from_outside_forges_no_record() {
        let mut line = String::new();
        OneLine(&mut line).write_str("one\n2026 ERROR two\u{1b}[31m\r").unwrap();
        assert_eq!(line, "one\\n2026 ERROR two\\u{1b}[31m\\r");
    }
}
