//! Salebell rings when a game that you want goes on sale.
//!
//! The data's path, from top to bottom; the folders follow it:
//!
//! ```text
//! report           http/prices.rs, report/         a price is seen by a shop or a program; worker/imports.rs reads files
//!   → bus          outbound/bus/                   durable before the 202; a table of PostgreSQL, or SNS and SQS
//!   → record       worker/record.rs                one transaction: price, history, low, sale, event (outbox)
//!   → dispatch     worker/dispatch.rs              event → watches that match → notices → deliveries
//!   → publish      worker/publish.rs              every event to a topic of SNS, for other teams; beside the dispatch
//!   → deliver      worker/deliver.rs               lease, check that the price stands, send, record the attempt
//!   → webhook      outbound/webhook.rs             and the inbox, http/notices.rs
//! ```
//!
//! `domain` holds the rules and does no I/O, `store` holds all the SQL, `http` and `worker` call `store`; `grpc` tells
//! whether we serve. Imports go down only; `tests/it/layering.rs` keeps it so.

/// Every program and benchmark of the crate has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub mod app;
pub mod auth;
pub mod aws;
pub mod cli;
pub mod clock;
pub mod config;
pub mod database;
pub mod domain;
pub mod error;
pub mod feed;
pub mod files;
pub mod grpc;
pub mod health;
pub mod http;
pub mod instance;
pub mod outbound;
pub mod secrets;
pub mod server;
pub mod store;
pub mod tables;
pub mod telemetry;
pub mod weekly_report;
pub mod worker;
