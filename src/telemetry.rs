//! Logging: to the journal when systemd has connected us to it, readable on stderr otherwise. Metrics.
//!
//! Fields are dotted (`request.id`, `duration_ms`); the journal shows them as `REQUEST_ID`, `DURATION_MS`. No
//! token, key, e-mail address or query value is ever a field or part of a text: routes are logged as they stand
//! in the URL table, callers by their account's id.

mod stderr;

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use self::stderr::StderrLog;
use crate::config::{Log, LogTarget};
use crate::error::REQUEST_ID;

/// `http_requests_total{method,route,status}`: answers by status class; `aborted` when the client went away.
pub const HTTP_REQUESTS: &str = "http_requests_total";
/// `http_request_duration_seconds{route,status}`: from the request's headers to the answer's.
pub const HTTP_DURATION: &str = "http_request_duration_seconds";
/// `grpc_requests_total{route,code}`: calls that are over, streams too; `aborted` when the client went away.
pub const GRPC_REQUESTS: &str = "grpc_requests_total";
/// `grpc_request_duration_seconds{route,code}`: from the call's headers to its end.
pub const GRPC_DURATION: &str = "grpc_request_duration_seconds";

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
        drop(log::set_boxed_logger(Box::new(Discreet(journal))));
        return;
    }
    match StderrLog::start() {
        Ok(stderr) => drop(log::set_boxed_logger(Box::new(Discreet(stderr)))),
        Err(error) => eprintln!("there will be no log: {error}"),
    }
}

/// Drops what a library says at `trace` that shows secrets: what is signed, with the session of who signs it.
struct Discreet<L>(L);

impl<L: log::Log> log::Log for Discreet<L> {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        !metadata.target().starts_with("aws_sigv4") && self.0.enabled(metadata)
    }

    fn log(&self, record: &log::Record<'_>) {
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
        metrics::describe_counter!(GRPC_REQUESTS, "Calls that are over, by route and code");
        metrics::describe_histogram!(GRPC_DURATION, "Seconds from a call to its end");
        handle
    })
}
