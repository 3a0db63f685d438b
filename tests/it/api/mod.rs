//! What every route has in common, and what a client may send to any of them.

pub mod auth_coverage;
mod bad_bytes;
mod bad_values;
mod empty_patches;
mod idempotency;
mod quotas;
mod rate_limit;
mod surface;
