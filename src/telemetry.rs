//! Logging: to the journal when systemd has connected us to it, readable on stderr otherwise. Metrics.
//!
//! Fields are dotted (`request.id`, `duration_ms`); the journal shows them as `REQUEST_ID`, `DURATION_MS`. No
//! token, key, e-mail address or query value is ever a field or part of a text: routes are logged as they stand
//! in the URL table, callers by their account's id.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::OnceLock;

use chrono::SecondsFormat;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::config::{Log, LogTarget};
use crate::error::REQUEST_ID;

/// `http_requests_total{method,route,status}`: answers by status class; `aborted` when the client went away.
pub const HTTP_REQUESTS: &str = "http_requests_total";
/// `http_request_duration_seconds{route,status}`: from the request's headers to the answer's.
pub const HTTP_DURATION: &str = "http_request_duration_seconds";

/// Starts logging; the first call of a process counts. From then on a panic is logged too, with the request id.
pub fn start_logging(settings: &Log) {
    let to_journal = match settings.to {
        LogTarget::Journal => true,
        LogTarget::Stderr => false,
        LogTarget::Auto => systemd_journal_logger::connected_to_journal(),
    };
    log::set_max_level(settings.level);
    std::panic::set_hook(Box::new(log_panic));
    if to_journal && let Ok(journal) = systemd_journal_logger::JournalLog::new() {
        let _ = journal.install();
        return;
    }
    let _ = log::set_logger(&StderrLog);
}

fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let request_id = REQUEST_ID.try_with(Clone::clone);
    let request_id = request_id.as_deref().unwrap_or("-");
    let place = panic.location().map_or_else(String::new, |at| format!("{}:{}", at.file(), at.line()));
    let text = panic.payload_as_str().unwrap_or("without a text");
    // Only where RUST_BACKTRACE asks for it.
    let trace = std::backtrace::Backtrace::capture();
    let trace = match trace.status() {
        std::backtrace::BacktraceStatus::Captured => format!("\n{trace}"),
        _ => String::new(),
    };
    log::error!(target: "salebell::panic", "request.id" = request_id, "code.place" = place;
        "panicked: {text}{trace}");
}

/// The process's metrics. Recording begins with the first call.
///
/// # Panics
/// When something else has installed a recorder, which nothing does.
pub fn metrics() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &seconds)
            .unwrap_or_else(|_| PrometheusBuilder::new())
            .build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            log::error!("another metrics recorder is installed; there will be no metrics");
        }
        metrics::describe_counter!(HTTP_REQUESTS, "Requests answered, by route and status class");
        metrics::describe_histogram!(HTTP_DURATION, "Seconds from a request to its answer");
        handle
    })
}

/// One line a record: time, level, target, text, fields.
struct StderrLog;

impl log::Log for StderrLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let now = crate::app::Clock::system().now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let mut line = String::with_capacity(320);
        let _ = write!(line, "{now} {:5} {} ", record.level(), record.target());
        let _ = write!(OneLine(&mut line), "{}", record.args());
        let _ = record.key_values().visit(&mut Fields(&mut line));
        line.push('\n');
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// Keeps a record on its line, whatever is in it: a line break that came from outside cannot forge a record.
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
