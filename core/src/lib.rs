//! Lower layers of Salebell, from top to bottom; `src/lib.rs` has the upper ones.
//!
//! Each may import only those below it (`tests/it/project/source_rules.rs`).

/// All SQL statements, as one function for each use case.
pub mod store;

/// Connections to PostgreSQL: the pool, logins, deadlines, notifications.
pub mod database;

/// Credentials for AWS, and the meaning of its errors.
pub mod aws;

/// Readers of CSV, NDJSON, JSON and XML feeds.
pub mod feed;

/// Writers of CSV, NDJSON and Parquet.
pub mod tables;

/// Settings, from a file and the environment.
pub mod config;

/// Encryption of the secrets that the database holds.
pub mod secrets;

/// The business rules, without I/O: money, prices and sales, watches, titles.
pub mod domain;

/// The clock, which the whole fleet sets by the database.
pub mod clock;

/// Errors, as callers, operators and users of the command line see them.
pub mod error;
