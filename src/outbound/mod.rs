//! What leaves the process: the bus, webhooks, e-mail and blobs.

pub mod addresses;
pub mod blobs;
pub mod bus;
pub mod email;
mod fetch;
pub mod issuers;
pub mod jwks;
pub mod load_balancer;
pub mod webhook;
