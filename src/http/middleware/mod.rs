//! Layers around every handler; `http::layered` lists them in their order.

pub mod access_log;
pub mod around;
pub mod cors;
pub mod handling;
pub mod idempotency;
pub mod rate_limit;
pub mod request_id;
pub mod request_limits;
pub mod response_headers;
pub mod time_limits;
