//! Salebell sends notifications when a watched game goes on sale.
//!
//! Path of the data, from top to bottom; the folders follow it:
//!
//! ```text
//! report           http/, grpc/, cli/report/       prices from a store or a program; worker/imports.rs reads files
//!   → intake       intake.rs                       each observation is checked and added to a message
//!   → bus          outbound/bus/                   durable before the 202; a table of PostgreSQL, or SNS and SQS
//!   → record       worker/record.rs                one transaction: price, history, low, sale, event (outbox)
//!   → dispatch     worker/dispatch.rs              event → matching watches → notices → deliveries
//!   → publish      worker/publish.rs               every event to an SNS topic, for other teams; beside dispatch
//!   → deliver      worker/deliver.rs               lease, check that the price still holds, send, record the attempt
//!   → webhook      outbound/webhook.rs             and the inbox, http/notices.rs
//! ```
//!
//! The modules below are the upper layers, from top to bottom; `core/src/lib.rs` has the lower ones. Each may import only
//! those below it (`tests/it/project/source_rules.rs`).

/// Allocator of every program and benchmark that links this crate.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The command line: one file or folder for each subcommand.
pub mod cli;

/// Listeners: TLS, connection timeouts, signals, and the drain before a process exits.
pub mod server;

/// The HTTP API: the URL table, the layers that every request passes through, and one file for each resource.
pub mod http;

/// The gRPC API: reports, the catalogue, health checks and reflection.
pub mod grpc;

/// What the HTTP and the gRPC API share: tokens, keys of idempotency, parameters and pages.
pub mod api;

/// The worker's loops: they record, dispatch, deliver, import and export.
pub mod worker;

/// Intake of price reports: the observations are checked and put on the bus.
pub mod intake;

/// The appliance on EC2: boot, launch and termination hooks, and the replacement of the instance.
pub mod instance;

/// Logs, metrics and trace context.
pub mod telemetry;

/// State that all parts of a process share: settings, pools, clock, processor time.
pub mod app;

/// Weekly statistics as a page, an e-mail and CSV.
pub mod weekly_report;

/// Health of the process, as others check it: watchdog, readiness, the last health check.
pub mod health;

/// Verification of API keys and JSON Web Tokens.
pub mod auth;

/// Contents of files: the store of blobs, uploads in progress, concatenation.
pub mod files;

/// Everything that the process sends: the bus, webhooks behind the SSRF guard, e-mail, events.
pub mod outbound;

// The lower layers: a crate of their own, which a change above does not compile again.
pub use salebell_core::{aws, clock, config, database, domain, error, feed, secrets, store, tables};
