//! Table of metrics: the source of their descriptions in `/metrics`, of the selection for CloudWatch, and of
//! `salebell reference metrics`. `tests/it/project/source_rules.rs` compares the code with it.

use crate::domain::delivery::DisabledReason;
use crate::domain::price::TransitionKind;

/// Kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// A value that only grows. CloudWatch receives what was added since the last line.
    Counter,
    /// The current level of a value.
    Gauge,
    /// A distribution of values. CloudWatch receives the values since the last line, so it can compute percentiles.
    Histogram,
}

impl MetricKind {
    /// Name on the reference page.
    pub fn name(self) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        }
    }
}

/// Dimensions of a metric in CloudWatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloudWatch {
    /// Not sent to CloudWatch.
    No,
    /// Belongs to the process: by service, environment and these labels. All other labels are summed up.
    By(&'static [&'static str]),
    /// Belongs to the whole fleet, whichever process reports it: the only dimension is the environment.
    Fleet,
}

/// One metric.
#[derive(Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: MetricKind,
    /// Unit, one of CloudWatch's.
    pub unit: &'static str,
    /// Labels in Prometheus.
    pub labels: &'static [&'static str],
    pub cloudwatch: CloudWatch,
    /// Meaning in one line.
    pub help: &'static str,
}

const fn metric(
    name: &'static str,
    kind: MetricKind,
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
use MetricKind::{Counter, Gauge, Histogram};

/// All metrics, in the order of the data's path.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    metric("http_requests_total", Counter, COUNT, &["method", "route", "status"], By(&["status"]), "requests answered; `aborted` when the client went away"),
    metric("http_request_duration_seconds", Histogram, SECONDS, &["route", "status"], By(&[]), "from the headers of a request to those of its answer"),
    metric("grpc_requests_total", Counter, COUNT, &["route", "code"], By(&["code"]), "calls that have ended, streams too; `aborted` when the client went away"),
    metric("grpc_request_duration_seconds", Histogram, SECONDS, &["route", "code"], No, "from a call's headers to its end, streams too"),
    metric("grpc_streams", Gauge, COUNT, &[], No, "open watches of health and reflection, 100 at the most"),

    metric("salebell_prices_accepted_total", Counter, COUNT, &[], By(&[]), "prices put on the bus"),
    metric("bus_oldest_message_age_seconds", Gauge, SECONDS, &[], Fleet, "how long reports have waited to be recorded"),
    metric("bus_dead_messages", Gauge, COUNT, &[], Fleet, "messages that could not be recorded five times"),
    metric("salebell_observations_total", Counter, COUNT, &["outcome"], By(&["outcome"]), "prices taken from the bus"),
    metric("salebell_record_failures_total", Counter, COUNT, &[], By(&[]), "failed attempts to record a message"),
    metric("salebell_record_lag_seconds", Histogram, SECONDS, &[], By(&[]), "from a report to its record"),
    metric("salebell_transitions_total", Counter, COUNT, &["kind"], By(&["kind"]), "changes of prices by kind; `sale.started` counts sales"),

    metric("events_oldest_undispatched_age_seconds", Gauge, SECONDS, &[], Fleet, "how long events have waited for their notices"),
    metric("salebell_events_dispatched_total", Counter, COUNT, &[], By(&[]), "events whose notices have been made"),
    metric("salebell_dispatch_lag_seconds", Histogram, SECONDS, &[], By(&[]), "from an event to the last of its notices"),
    metric("salebell_notices_total", Counter, COUNT, &[], By(&[]), "notices"),
    metric("salebell_deliveries_created_total", Counter, COUNT, &[], By(&[]), "deliveries of notices"),

    metric("events_oldest_unpublished_age_seconds", Gauge, SECONDS, &[], Fleet, "how long events have waited to be published to other teams"),
    metric("salebell_events_published_total", Counter, COUNT, &[], By(&[]), "events published to other teams"),

    metric("deliveries_oldest_due_age_seconds", Gauge, SECONDS, &[], Fleet, "how long due deliveries have waited"),
    metric("salebell_delivery_lag_seconds", Histogram, SECONDS, &[], By(&[]), "from when a delivery was due to its attempt"),
    metric("salebell_sent_lag_seconds", Histogram, SECONDS, &[], By(&[]), "from an event to its delivery, of first attempts that succeed and did not have to wait for their hour"),
    metric("salebell_deliveries_in_flight", Gauge, COUNT, &[], By(&[]), "attempts in progress"),
    metric("salebell_delivery_attempts_total", Counter, COUNT, &["outcome"], By(&["outcome"]), "attempts made"),
    metric("salebell_deliveries_cancelled_total", Counter, COUNT, &["reason"], By(&[]), "deliveries that were not sent"),
    metric("salebell_deliveries_dead_total", Counter, COUNT, &[], By(&[]), "deliveries that were given up"),
    metric("salebell_channels_disabled_total", Counter, COUNT, &["reason"], By(&[]), "channels that were disabled"),
    metric("salebell_weekly_mails_total", Counter, COUNT, &["outcome"], By(&["outcome"]), "mails of the weekly report; `failed` ones are retried"),

    metric("salebell_worker_rounds_total", Counter, COUNT, &["task", "outcome"], No, "rounds of the worker's tasks: `more` did something, `idle` found nothing, `failed` is retried"),

    metric("salebell_files_expired_total", Counter, COUNT, &[], No, "files that expired"),
    metric("salebell_file_orphans_total", Counter, COUNT, &["side"], No, "bytes without a file, files without bytes (`row`, which should not happen), abandoned multipart uploads"),

    metric("salebell_failures_total", Counter, COUNT, &["kind"], By(&["kind"]), "lines of level warn and error in the log, by the part that logged them; `panic` is one of them"),
    metric("database_connections", Gauge, COUNT, &["pool", "state"], By(&["pool", "state"]), "connections of each pool, idle and used"),
    metric("database_connections_max", Gauge, COUNT, &[], By(&[]), "the most that a pool may have"),
    metric("database_wait_seconds", Histogram, SECONDS, &["pool"], By(&["pool"]), "how long a caller waited for a connection because all were in use"),
    metric("salebell_reader_lag_seconds", Gauge, SECONDS, &[], No, "with `database.reader_url`, how far the reader is behind the writer, to a second or two; NaN: unknown"),
    metric("salebell_reader_switches_total", Counter, COUNT, &["to"], By(&["to"]), "with `database.reader_url`, how often reads left the reader for the `writer`, and came back to the `reader`"),
    metric("salebell_database_token_age_seconds", Gauge, SECONDS, &[], By(&[]), "with `database.iam`, age of the token; above 700 s renewal fails"),
    metric("salebell_database_tokens_total", Counter, COUNT, &["outcome"], By(&["outcome"]), "with `database.iam`, tokens: `made`, `failed` (no credentials), `refused` (by the database, although new)"),
    metric("salebell_aws_credentials_failures_total", Counter, COUNT, &[], By(&[]), "credentials of AWS that could not be obtained or renewed; some at the start of an instance are normal"),
    metric("process_resident_memory_bytes", Gauge, BYTES, &[], By(&[]), "memory of the process"),
    metric("process_open_fds", Gauge, COUNT, &[], By(&[]), "its open files and sockets"),
    metric("build_info", Gauge, COUNT, &["version"], No, "1, with the version"),

    metric("salebell_draining", Gauge, COUNT, &[], No, "1: the process is stopping; a service that stays at 1 hangs"),
    metric("salebell_boots_failed_total", Counter, COUNT, &[], By(&[]), "launches that `salebell ready --abandon` gave up"),
    metric("salebell_dead_man_armed", Gauge, COUNT, &[], No, "1: the load balancer has checked this instance at least once"),
    metric("salebell_dead_man_silence_seconds", Gauge, SECONDS, &[], By(&[]), "time since its last health check"),
    metric("salebell_dead_man_total", Counter, COUNT, &["outcome"], By(&["outcome"]), "requests of the dead man's switch for a replacement, by outcome"),
    metric("salebell_disk_free_bytes", Gauge, BYTES, &[], By(&[]), "free on the instance's own disk, where `instance.disk_full_s` is set"),
    metric("salebell_disk_replacements_total", Counter, COUNT, &["outcome"], By(&["outcome"]), "requests for a replacement because of a full disk, by outcome"),
];

/// A program that reports metrics: the dimension `service` in CloudWatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Api,
    Worker,
    /// `salebell ready --abandon`, which reports the failed launch of an instance.
    Boot,
    /// `salebell dev`.
    Dev,
}

impl Service {
    pub const ALL: [Service; 4] = [Service::Api, Service::Worker, Service::Boot, Service::Dev];

    /// Value of the dimension.
    pub const fn name(self) -> &'static str {
        match self {
            Service::Api => "api",
            Service::Worker => "worker",
            Service::Boot => "boot",
            Service::Dev => "dev",
        }
    }
}

/// Values of a label that has few. Other labels are open: routes, methods, tasks, versions. `kind` of
/// `salebell_failures_total` is a part of the log (`log_table::PARTS`), or `other`.
#[derive(Debug)]
pub struct LabelValues {
    pub metric: &'static str,
    pub label: &'static str,
    pub values: &'static [&'static str],
    /// Meaning of the values, as far as their names do not give it.
    pub help: &'static str,
}

const fn values(
    metric: &'static str,
    label: &'static str,
    values: &'static [&'static str],
    help: &'static str,
) -> LabelValues {
    LabelValues { metric, label, values, help }
}

const CLASSES: &[&str] = &["1xx", "2xx", "3xx", "4xx", "5xx", "aborted"];

const CODES: &[&str] = &[
    "Ok",
    "Cancelled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
    "aborted",
];

const POOLS: &[&str] = &["writer", "reader"];

/// The values of labels, in the order of the metrics.
#[rustfmt::skip]
pub const VALUES: &[LabelValues] = &[
    values("http_requests_total", "status", CLASSES, "class of the status; `aborted`: the client went away"),
    values("http_request_duration_seconds", "status", CLASSES, "as above"),
    values("grpc_requests_total", "code", CODES, "status of gRPC; `aborted`: the client went away"),
    values("grpc_request_duration_seconds", "code", CODES, "as above"),
    values("salebell_observations_total", "outcome", &["recorded", "unchanged", "stale", "quarantined", "failed"], "`stale`: older than the offer's last one"),
    values("salebell_transitions_total", "kind", TransitionKind::NAMES, ""),
    values("salebell_delivery_attempts_total", "outcome", &["delivered", "refused", "unanswered"], "`refused`: an answer other than 2xx"),
    values("salebell_deliveries_cancelled_total", "reason", &["channel_disabled", "price_no_longer_matches", "sale_ended", "watch_deleted", "watch_paused"], ""),
    values("salebell_channels_disabled_total", "reason", &[DisabledReason::Gone.name(), DisabledReason::Failing.name()], "`gone`: the receiver answered 410; `failing`: nothing was delivered for five days"),
    values("salebell_weekly_mails_total", "outcome", &["sent", "failed", "given_up"], "`failed`: it is retried"),
    values("salebell_worker_rounds_total", "outcome", &["more", "idle", "failed"], "`failed`: it is retried"),
    values("salebell_file_orphans_total", "side", &["row", "bytes", "upload"], "`row`: a file without bytes, which should not happen; `bytes`: bytes without a file; `upload`: an abandoned multipart upload"),
    values("database_connections", "pool", POOLS, ""),
    values("database_connections", "state", &["idle", "used"], ""),
    values("database_wait_seconds", "pool", POOLS, ""),
    values("salebell_reader_switches_total", "to", &["reader", "writer"], "server that reads use from then on"),
    values("salebell_database_tokens_total", "outcome", &["made", "failed", "refused"], "`failed`: there were no credentials; `refused`: by the database, although new"),
    values("salebell_dead_man_total", "outcome", &["fired", "held_back", "disarmed", "heard", "failed"], "`held_back`: another instance is being replaced; `disarmed`: not in service; `heard`: a health check came after all; `failed`: a query of the metadata, the database or AWS failed"),
    values("salebell_disk_replacements_total", "outcome", &["replaced", "held_back", "not_in_service", "failed"], "as of `salebell_dead_man_total`; `not_in_service`: the group does not want this instance in service"),
];

/// Metric of this name.
pub fn find(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}
