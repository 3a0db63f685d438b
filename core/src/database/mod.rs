//! Connections to PostgreSQL: pooling, authentication, deadlines, and notifications.

pub mod connect;
pub mod deadline;
pub mod iam_tokens;
pub mod log_in;
pub mod notifications;
pub mod pool;
