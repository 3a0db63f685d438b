//! Every metric that there is: `/metrics` describes them by this table, CloudWatch gets those that say so, and
//! docs/operations.md lists them. `tests/it/project/metrics.rs` holds the sources and the page against it.

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It grows. CloudWatch gets what was added since the last line.
    Counter,
    /// It stands somewhere just now.
    Gauge,
    /// Many values. CloudWatch gets those since the last line, so that it can tell percentiles.
    Histogram,
}

impl Kind {
    /// As the page has it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// What CloudWatch tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloudWatch {
    /// Nothing of it goes there.
    No,
    /// The process's own: by service and environment, and by these labels. All other labels are added up.
    By(&'static [&'static str]),
    /// The whole fleet's, whichever process has looked: by environment alone.
    Fleet,
}

/// One metric.
#[derive(Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// One of CloudWatch's units.
    pub unit: &'static str,
    /// The labels that Prometheus sees.
    pub labels: &'static [&'static str],
    pub cloudwatch: CloudWatch,
    /// What it tells, in one line.
    pub help: &'static str,
}

const fn metric(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    labels: &'static [&'static str],
    cloudwatch: CloudWatch,
    help: &'static str,
) -> Metric {
    Metric { name, kind, unit, labels, cloudwatch, help }
}

const COUNT: &str = "Count";
const SECONDS: &str = "Seconds";
const BYTES: &str = "Bytes";

use CloudWatch::{By, Fleet, No};
use Kind::{Counter, Gauge, Histogram};

/// All of them, along the data's path.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    metric("http_requests_total", Counter, COUNT, &["method", "route", "status"], By(&["status"]), "requests answered; `aborted` when the client went away"),
    metric("http_request_duration_seconds", Histogram, SECONDS, &["route", "status"], By(&[]), "from a request's headers to its answer's"),
    metric("grpc_requests_total", Counter, COUNT, &["route", "code"], By(&["code"]), "calls that are over, streams too; `aborted` when the client went away"),
    metric("grpc_request_duration_seconds", Histogram, SECONDS, &["route", "code"], No, "from a call's headers to its end, streams too"),
    metric("grpc_streams", Gauge, COUNT, &[], No, "streams that are open, 100 at the most"),

    metric("salebell_prices_accepted_total", Counter, COUNT, &[], By(&[]), "prices put on the bus"),
    metric("bus_oldest_message_age_seconds", Gauge, SECONDS, &[], Fleet, "how long reports wait to be recorded"),
    metric("bus_dead_messages", Gauge, COUNT, &[], Fleet, "messages that could not be recorded five times over"),
    metric("salebell_observations_total", Counter, COUNT, &["outcome"], By(&["outcome"]), "prices taken from the bus"),
    metric("salebell_record_failures_total", Counter, COUNT, &[], By(&[]), "messages that could not be recorded, each time"),
    metric("salebell_record_lag_seconds", Histogram, SECONDS, &[], By(&[]), "from a report to its record"),
    metric("salebell_transitions_total", Counter, COUNT, &["kind"], By(&["kind"]), "what prices have changed; `sale.started` are sales"),

    metric("events_oldest_undispatched_age_seconds", Gauge, SECONDS, &[], Fleet, "how long events wait for their notices"),
    metric("salebell_events_dispatched_total", Counter, COUNT, &[], By(&[]), "events whose notices are made"),
    metric("salebell_dispatch_lag_seconds", Histogram, SECONDS, &[], By(&[]), "from an event to the last of its notices"),
    metric("salebell_notices_total", Counter, COUNT, &[], By(&[]), "notices"),
    metric("salebell_deliveries_created_total", Counter, COUNT, &[], By(&[]), "deliveries of notices"),

    metric("events_oldest_unpublished_age_seconds", Gauge, SECONDS, &[], Fleet, "how long events wait for other teams' topic"),
    metric("salebell_events_published_total", Counter, COUNT, &[], By(&[]), "events that other teams have heard of"),

    metric("deliveries_oldest_due_age_seconds", Gauge, SECONDS, &[], Fleet, "how long deliveries wait that are due"),
    metric("salebell_delivery_lag_seconds", Histogram, SECONDS, &[], By(&[]), "from when a delivery was due to its attempt"),
    metric("salebell_sent_lag_seconds", Histogram, SECONDS, &[], By(&[]), "from an event to its delivery, of first attempts that succeed and were not to wait for their hour"),
    metric("salebell_deliveries_in_flight", Gauge, COUNT, &[], By(&[]), "attempts that are being made"),
    metric("salebell_delivery_attempts_total", Counter, COUNT, &["outcome"], By(&["outcome"]), "attempts made"),
    metric("salebell_deliveries_cancelled_total", Counter, COUNT, &["reason"], By(&[]), "deliveries that were not sent"),
    metric("salebell_deliveries_dead_total", Counter, COUNT, &[], By(&[]), "deliveries that were given up"),
    metric("salebell_channels_disabled_total", Counter, COUNT, &["reason"], By(&[]), "receivers that were given up"),
    metric("salebell_weekly_mails_total", Counter, COUNT, &["outcome"], By(&["outcome"]), "weekly reports; `failed` is tried again"),

    metric("salebell_worker_rounds_total", Counter, COUNT, &["task", "outcome"], No, "rounds of the worker's tasks: `more` did something, `idle` found nothing, `failed` is tried again"),

    metric("salebell_files_expired_total", Counter, COUNT, &[], No, "files whose time was over"),
    metric("salebell_file_orphans_total", Counter, COUNT, &["side"], No, "bytes without a file, files without bytes (`row`, which should not happen), uploads that nobody finishes"),

    metric("salebell_failures_total", Counter, COUNT, &["kind"], By(&["kind"]), "lines of level warn and error in the log, by the part that logged them; `panic` is one of them"),
    metric("database_connections", Gauge, COUNT, &["pool", "state"], By(&["pool", "state"]), "connections of each pool, idle and used"),
    metric("database_connections_max", Gauge, COUNT, &[], By(&[]), "the most that a pool may have"),
    metric("database_wait_seconds", Histogram, SECONDS, &["pool"], By(&["pool"]), "how long somebody waited who found the pool used up"),
    metric("salebell_database_token_age_seconds", Gauge, SECONDS, &[], By(&[]), "with `database.iam`, age of the token: above 700 s tokens are not renewed"),
    metric("salebell_database_tokens_total", Counter, COUNT, &["outcome"], By(&["outcome"]), "with `database.iam`, what became of tokens: `made`, `failed` (no credentials), `refused` (by the database, although new)"),
    metric("salebell_aws_credentials_failures_total", Counter, COUNT, &[], By(&[]), "credentials of AWS that could not be had, or renewed; some at the start of an instance are none to worry about"),
    metric("process_resident_memory_bytes", Gauge, BYTES, &[], By(&[]), "memory of the process"),
    metric("process_open_fds", Gauge, COUNT, &[], By(&[]), "its open files and sockets"),
    metric("build_info", Gauge, COUNT, &["version"], No, "1, with the version"),

    metric("salebell_draining", Gauge, COUNT, &[], No, "1: the process stops; a service that stays so hangs"),
    metric("salebell_boots_failed_total", Counter, COUNT, &[], By(&[]), "launches that `salebell ready --abandon` gave up"),
    metric("salebell_dead_man_armed", Gauge, COUNT, &[], No, "1: the load balancer has asked at least once"),
    metric("salebell_dead_man_silence_seconds", Gauge, SECONDS, &[], By(&[]), "for how long it has not"),
    metric("salebell_dead_man_total", Counter, COUNT, &["outcome"], By(&["outcome"]), "what became of the wish to be replaced"),
    metric("salebell_disk_free_bytes", Gauge, BYTES, &[], By(&[]), "free on the instance's own disk, where `instance.disk_full_s` is set"),
    metric("salebell_disk_replacements_total", Counter, COUNT, &["outcome"], By(&["outcome"]), "what became of the wish to be replaced because of it"),
];

/// The metric of this name.
pub fn find(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}
