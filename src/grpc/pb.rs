//! Messages and routes of `proto/`, which `build.rs` generates.

// The style of generated code is that of its generator.
#![allow(clippy::all)]

include!(concat!(env!("OUT_DIR"), "/server/salebell.v1.rs"));

/// Descriptors of the messages and services, which reflection serves.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/salebell.v1.bin"));
