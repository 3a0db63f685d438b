//! Connections to PostgreSQL, a PostgreSQL that fails, and the plans of queries.

mod plans;
mod pool;
mod unhealthy;
