//! The repository itself: layers of the source, pages about the program, scripts on the machine that runs them.

mod canary_verdict;
mod machine;
mod metrics;
mod readme;
mod reference;
mod source_rules;
