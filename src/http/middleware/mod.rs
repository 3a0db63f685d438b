//! The layers around every handler, the outermost first: `request`, `rate_limit`, `idempotency`.

pub mod idempotency;
pub mod rate_limit;
pub mod request;
pub mod request_limits;
pub mod trusted_proxies;
