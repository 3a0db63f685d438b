//! Subcommands for people.

mod cluster;
mod commands;
mod connections;
pub mod dev;
mod files_command;
mod files_resume;
pub mod report;
mod report_rows;
