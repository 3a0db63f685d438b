//! The only integration binary: a folder for each area, and in it a file for each noun.

mod support;

mod api;
mod auth;
mod aws;
mod catalogue;
mod cli;
mod database;
mod delivery;
mod files;
mod grpc;
mod instance;
mod pricing;
mod process;
mod project;
mod server;
mod weekly_report;
