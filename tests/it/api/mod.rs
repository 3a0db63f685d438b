//! Behaviour that all routes share, and input that any of them may receive.

pub mod auth_coverage;
mod bad_bytes;
mod bad_values;
mod clients;
mod cors;
mod deprecation;
mod empty_patches;
mod every_operation;
mod idempotency;
mod openapi;
mod problems;
mod quotas;
mod rate_limit;
mod surface;
