//! Connections to PostgreSQL, failures of PostgreSQL, and query plans.

mod plans;
mod pool;
mod reader;
mod unhealthy;
