//! The repository itself: layers of the source, pages beside the program, scripts on the machine that runs them.

mod machine;
mod metrics;
mod operations;
mod readme;
mod source_rules;
