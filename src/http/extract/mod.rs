//! Extractors: the parts of a request that handlers use, with the refusals of invalid ones.

pub mod accept;
pub mod body;
pub mod caller;
pub mod conditional;
pub mod fields;
pub mod ndjson;
pub mod page;
