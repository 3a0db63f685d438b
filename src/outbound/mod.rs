//! What leaves the process: the bus, webhooks and blobs.

pub mod addresses;
pub mod blobs;
pub mod bus;
pub mod issuers;
pub mod jwks;
pub mod webhook;
