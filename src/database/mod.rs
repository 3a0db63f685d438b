//! Connections to PostgreSQL: how they are pooled, authenticated, given up on, and woken by NOTIFY.

pub mod connect;
pub mod deadline;
pub mod iam_tokens;
pub mod log_in;
pub mod notifications;
pub mod pool;
