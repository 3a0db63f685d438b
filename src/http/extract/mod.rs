//! Extractors: what handlers take from a request, and what they refuse.

pub mod accept;
pub mod body;
pub mod caller;
pub mod conditional;
pub mod fields;
pub mod ndjson;
pub mod page;
