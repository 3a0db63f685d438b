//! Everything that the process sends to other services: the bus, webhooks and e-mail, with the SSRF guard.

pub mod bus;
pub mod email;
pub mod events;
pub mod ssrf_guard;
pub mod webhook;
