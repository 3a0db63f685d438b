//! Connections to PostgreSQL: pooling, authentication, deadlines, notifications, and the choice
//! of the server for reads.

pub mod connect;
pub mod deadline;
pub mod iam_tokens;
pub mod log_in;
pub mod notifications;
pub mod pool;
pub mod reads;
