//! What leaves the process: the bus, webhooks, e-mail and blobs.

pub mod bus;
pub mod email;
pub mod events;
pub mod ssrf_guard;
pub mod webhook;
