//! Salebell rings when a game that you want goes on sale.
//!
//! The data's path, from top to bottom; the folders follow it:
//!
//! ```text
//! report           http/prices.rs, cli/report/     a price is observed by a shop or a program; worker/imports.rs reads files
//!   → intake       intake.rs                       each observation is checked, and becomes part of a message
//!   → bus          outbound/bus/                   durable before the 202; a table of PostgreSQL, or SNS and SQS
//!   → record       worker/record.rs                one transaction: price, history, low, sale, event (outbox)
//!   → dispatch     worker/dispatch.rs              event → watches that match → notices → deliveries
//!   → publish      worker/publish.rs               every event to a topic of SNS, for other teams; beside the dispatch
//!   → deliver      worker/deliver.rs               lease, check that the price stands, send, record the attempt
//!   → webhook      outbound/webhook.rs             and the inbox, http/notices.rs
//! ```
//!
//! The modules below are the layers, from top to bottom: each may import those that stand below it and no other
//! (`tests/it/project/source_rules.rs`).

/// Every program and benchmark of the crate has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The command line: one file or folder a subcommand.
pub mod cli;

/// Listeners: TLS, timeouts of connections, signals, and the drain at the end of a process.
pub mod server;

/// The HTTP surface: the URL table, the layers that every request passes, and one file for each resource.
pub mod http;

/// The gRPC surface: health and reflection.
pub mod grpc;

/// The loops that record, dispatch, deliver, import and export.
pub mod worker;

/// Reports of prices while they are read: checked, and put on the bus.
pub mod intake;

/// The appliance on EC2: boot, launch and termination hooks, replacement of the instance.
pub mod instance;

/// Logs, metrics and trace context.
pub mod telemetry;

/// What all parts of a process share: settings, pools, clock, processor time.
pub mod app;

/// The weekly statistics as a page, an e-mail and CSV.
pub mod weekly_report;

/// What others ask about the process: watchdog, readiness, the last health check.
pub mod health;

/// Verification of API keys and JSON Web Tokens.
pub mod auth;

/// The bytes of files: the store of blobs, uploads in progress, concatenation.
pub mod files;

/// What leaves the process: the bus, webhooks behind the SSRF guard, e-mail, events.
pub mod outbound;

/// All the SQL: a function for each use case.
pub mod store;

/// Connections to PostgreSQL: the pool, log-ins, deadlines, notifications.
pub mod database;

/// Credentials for AWS, and what its errors mean.
pub mod aws;

/// Readers of CSV, NDJSON, JSON and XML feeds.
pub mod feed;

/// Writers of CSV, NDJSON and Parquet.
pub mod tables;

/// Settings, from a file and the environment.
pub mod config;

/// Encryption of the secrets that the database holds.
pub mod secrets;

/// The rules, without I/O: money, prices and sales, watches, titles.
pub mod domain;

/// The time, which the whole fleet takes from the database.
pub mod clock;

/// What can go wrong, for callers, operators and people at a terminal.
pub mod error;
