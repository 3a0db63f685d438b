//! Logging and metrics. The log goes to the journal if systemd has connected the process to it, otherwise to stderr as
//! readable lines.
//!
//! Fields are dotted (`request.id`, `duration_ms`); the journal shows them as `REQUEST_ID`, `DURATION_MS`. No token,
//! key, e-mail address or query value is ever a field or part of a text: routes are logged as the URL table has them,
//! callers by the id of their account.

pub mod gauges;
pub mod trace_context;

pub mod emf;
pub mod log_table;
mod recorder;
mod stderr;
pub mod table;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use self::recorder::Both;
use self::stderr::StderrLog;
use self::table::{METRICS, MetricKind};
use crate::config::{LogConfig, LogTarget};
use crate::error::REQUEST_ID;

/// Starts logging; only the first call of a process has an effect. From then on panics are logged too, with the request
/// id.
pub fn start_logging(settings: &LogConfig) {
    let to_journal = match settings.to {
        LogTarget::Journal => true,
        LogTarget::Stderr => false,
        LogTarget::Auto => systemd_journal_logger::connected_to_journal(),
    };
    log::set_max_level(settings.level);
    std::panic::set_hook(Box::new(log_panic));
    if to_journal && let Ok(journal) = systemd_journal_logger::JournalLog::new() {
        drop(log::set_boxed_logger(Box::new(Screened(Journal(journal)))));
        return;
    }
    match StderrLog::start() {
        Ok(stderr) => drop(log::set_boxed_logger(Box::new(Screened(stderr)))),
        Err(error) => eprintln!("there will be no log: {error}"),
    }
}

/// Whether the log is currently limited to warnings and errors.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Guard that limits the log to our warnings and errors until it is dropped, for a start that a person watches.
/// Warnings of libraries, such as one about a slow statement, are not shown either.
pub struct Quiet(());

impl Quiet {
    pub fn start() -> Quiet {
        QUIET.store(true, Ordering::Relaxed);
        Quiet(())
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        QUIET.store(false, Ordering::Relaxed);
    }
}

fn is_wanted(metadata: &log::Metadata<'_>) -> bool {
    let ours = metadata.target().starts_with("salebell");
    let limit = if ours { log::Level::Warn } else { log::Level::Error };
    !QUIET.load(Ordering::Relaxed) || metadata.level() <= limit
}

/// Journal logger with the priorities that readers of the journal expect. The library itself logs `info` as notice (5)
/// and `debug` as info (6).
struct Journal(systemd_journal_logger::JournalLog);

impl Journal {
    /// Level that makes the library write the priority that `level` should have.
    fn shifted(level: log::Level) -> log::Level {
        match level {
            log::Level::Info => log::Level::Debug,
            log::Level::Debug => log::Level::Trace,
            other => other,
        }
    }
}

impl log::Log for Journal {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut shifted = record.to_builder();
        self.0.log(&shifted.level(Journal::shifted(record.level())).build());
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// Logger that counts warnings and errors by the part that logs them, since whatever is worth a warning is worth a
/// metric. It also drops messages of `aws_sigv4`: at `trace`, they show what is signed, including session tokens.
struct Screened<L>(L);

impl<L: log::Log> log::Log for Screened<L> {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        !metadata.target().starts_with("aws_sigv4") && is_wanted(metadata) && self.0.enabled(metadata)
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.level() <= log::Level::Warn {
            // All libraries share one value, to keep the number of series small.
            let kind = record.target().strip_prefix("salebell::").unwrap_or("other").to_owned();
            metrics::counter!("salebell_failures_total", "kind" => kind).increment(1);
        }
        if self.enabled(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let request_id = REQUEST_ID.try_with(Clone::clone);
    let request_id = request_id.as_deref().unwrap_or("-");
    let place = panic.location().map_or_else(String::new, |at| format!("{}:{}", at.file(), at.line()));
    let text = panic.payload_as_str().unwrap_or("without a text");
    // Captured only if RUST_BACKTRACE enables it.
    let trace = std::backtrace::Backtrace::capture();
    let trace = match trace.status() {
        std::backtrace::BacktraceStatus::Captured => format!("\n{trace}"),
        _ => String::new(),
    };
    log::error!(target: "salebell::panic", "request.id" = request_id, "code.place" = place;
        "panicked: {text}{trace}");
}

/// Handle to the metrics of this process. The first call starts recording. If another recorder is already installed, it
/// logs an error and nothing is recorded.
pub fn metrics() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &seconds)
            .unwrap_or_else(|_| PrometheusBuilder::new())
            .build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(Both(recorder)).is_err() {
            log::error!(target: "salebell::process", "another metrics recorder is installed; there will be no metrics");
        }
        for metric in METRICS {
            match metric.kind {
                MetricKind::Counter => metrics::describe_counter!(metric.name, metric.help),
                MetricKind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
                MetricKind::Histogram => metrics::describe_histogram!(metric.name, metric.help),
            }
        }
        handle
    })
}
