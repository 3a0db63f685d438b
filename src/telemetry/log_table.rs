//! Table of the log: the parts that write lines, the fields of a line, and the messages that pages search for. It is the
//! source of `salebell reference logs`; `tests/it/project/source_rules.rs` compares the code with it.

use log::Level::{self, Debug, Error, Info, Warn};

/// A part of the program that writes log lines; their target is `salebell::` and its name.
#[derive(Debug)]
pub struct Part {
    pub name: &'static str,
    /// Levels of its lines, the most severe first. Those of `warn` and `error` count in `salebell_failures_total`.
    pub levels: &'static [Level],
    /// What it logs, in one line.
    pub help: &'static str,
}

const fn part(name: &'static str, levels: &'static [Level], help: &'static str) -> Part {
    Part { name, levels, help }
}

/// All parts, by name.
#[rustfmt::skip]
pub const PARTS: &[Part] = &[
    part("access", &[Info, Debug], "one line for each request and each gRPC call; successful health checks at `debug`"),
    part("activity", &[Warn], "what accounts did is not counted yet"),
    part("aws", &[Warn], "credentials for AWS that could not be obtained or renewed"),
    part("bus", &[Warn], "messages that SNS refused"),
    part("callers", &[Warn], "the last use of an API key is not noted"),
    part("clock", &[Error], "the clock of this machine differs from that of the database"),
    part("config", &[Warn], "invalid settings of `salebell ready` and `salebell terminating`, which have their defaults meanwhile"),
    part("dead_man", &[Error, Warn, Info], "the load balancer no longer checks this instance"),
    part("deliver", &[Error, Warn], "deliveries that could not be sent or recorded; channels that were disabled"),
    part("dev", &[Warn], "the private PostgreSQL of `salebell dev` is started again"),
    part("disk", &[Error, Warn], "the disk is full or cannot be written to"),
    part("dispatch", &[Warn], "rounds that failed"),
    part("emf", &[Warn, Info], "metrics for CloudWatch, and those that were not written"),
    part("error", &[Error, Warn], "causes of answers 5xx, which callers do not see; `warn`: of other refusals"),
    part("exports", &[Error, Warn], "exports that are retried or given up"),
    part("files", &[Error, Warn, Info, Debug], "the store of files: mounts, orphans, uploads and downloads that broke off"),
    part("health", &[Warn], "the database is unavailable"),
    part("iam", &[Error], "tokens for the database that were not renewed, or that it refuses"),
    part("idempotency", &[Warn], "keys and answers that are not saved"),
    part("imports", &[Error, Warn], "imports that are retried or given up"),
    part("jwks", &[Warn], "keys of an issuer that cannot be fetched"),
    part("lifecycle", &[Warn, Info, Debug], "calls to the group's hooks, and their retries"),
    part("load_balancer", &[Warn], "keys of the load balancer that cannot be fetched"),
    part("mail", &[Error, Warn, Info], "mails of the weekly report"),
    part("panic", &[Error], "a panic, which is a bug"),
    part("process", &[Error, Warn, Info], "start and stop of a process, its listeners, parts that failed"),
    part("publish", &[Warn], "rounds that failed, events that are published again"),
    part("reader", &[Warn, Info], "the database's reader is behind or does not answer, and reads use the writer; and when they use the reader again"),
    part("ready", &[Error, Info], "the launch of an instance: what it waits for, and how it ends"),
    part("record", &[Warn], "messages that are not recorded, and why"),
    part("renewal", &[Error, Warn, Info], "settings and secrets that changed without a restart, or could not be read again"),
    part("replacement", &[Warn], "the claim to be the one instance that is replaced"),
    part("schedule", &[Error, Warn, Info], "jobs of the worker"),
    part("server", &[Error, Warn, Debug], "connections that are refused or cut"),
    part("statistics", &[Info], "weeks that were computed for the first time"),
    part("terminating", &[Error, Warn, Info], "the drain of an instance before it is terminated"),
    part("tls", &[Error, Info], "certificates that were renewed, or could not be read"),
    part("wakeups", &[Warn], "the connection that listens for notifications of the database"),
];

/// A field of log lines.
#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    /// Parts that write it.
    pub parts: &'static [&'static str],
    pub help: &'static str,
}

const fn field(name: &'static str, parts: &'static [&'static str], help: &'static str) -> Field {
    Field { name, parts, help }
}

/// All fields, by name.
#[rustfmt::skip]
pub const FIELDS: &[Field] = &[
    field("account.id", &["access"], "account of the caller; `-`: none"),
    field("channel.id", &["deliver"], "channel"),
    field("code.place", &["panic"], "file and line"),
    field("dead_man.silence_s", &["dead_man"], "seconds since the last health check"),
    field("delivery.id", &["deliver"], "delivery"),
    field("disk.full_s", &["disk"], "seconds since the disk became full"),
    field("duration_ms", &["access", "ready", "terminating"], "milliseconds"),
    field("export.id", &["exports"], "export"),
    field("file.id", &["files"], "file"),
    field("grpc.code", &["access"], "status code of the call; -1: the client disconnected before"),
    field("http.response_bytes", &["access"], "length of the body; -1: not known when it begins"),
    field("http.status", &["access"], "status of the response; 499: the client disconnected before"),
    field("import.id", &["imports"], "import"),
    field("link.id", &["files"], "share link"),
    field("mail.id", &["mail"], "mail"),
    field("message.id", &["record"], "message of the bus"),
    field("reason", &["deliver"], "why a channel was disabled"),
    field("receives", &["record"], "how many times a message has been received"),
    field("request.id", &["access", "error", "panic"], "request id, which the header `X-Request-Id` repeats; `-`: none"),
    field("results", &["deliver"], "number of attempts that were not recorded"),
    field("status", &["error"], "status of the response"),
    field("trace.id", &["access"], "trace id of `traceparent`; `-`: none"),
    field("tries", &["mail"], "number of attempts so far"),
    field("week", &["mail"], "week of the report"),
];

/// A message that operators search for: pages quote it, so its words stay.
#[derive(Debug)]
pub struct Message {
    /// Part that logs it; `None`: it is the cause in a line of whichever part meets it.
    pub part: Option<&'static str>,
    /// The text, or the beginning of it.
    pub text: &'static str,
    pub help: &'static str,
}

const fn message(part: Option<&'static str>, text: &'static str, help: &'static str) -> Message {
    Message { part, text, help }
}

/// All messages of this kind, by part.
#[rustfmt::skip]
pub const MESSAGES: &[Message] = &[
    message(Some("bus"), "SNS did not take a message", "it is sent again"),
    message(Some("dispatch"), "a round failed, retrying", "the events wait"),
    message(Some("health"), "the database is away", "`/readyz` fails"),
    message(Some("lifecycle"), "trying again", "AWS refused the completion of a hook, or is unavailable"),
    message(Some("reader"), "reads use the writer", "the reader is too far behind, or does not answer"),
    message(Some("reader"), "reads use the reader again", "after three good probes"),
    message(Some("ready"), "the launch is abandoned", "the group launches another instance"),
    message(Some("record"), "a message is held until the database is back", "nothing is lost"),
    message(Some("record"), "a message was not recorded", "after five times it is dead"),
    message(Some("renewal"), "other webhook.encryption_keys are in force", "without a restart"),
    message(Some("terminating"), "looking again after", "the instance metadata service is unavailable"),
    message(None, "a sealed secret does not open: webhook.encryption_keys lacks its key", "a channel cannot sign"),
];
