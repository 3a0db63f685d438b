//! What leaves the process: the bus and webhooks.

pub mod addresses;
pub mod bus;
pub mod issuers;
pub mod jwks;
pub mod webhook;
