//! The one integration binary: a file a noun, and the files that cut across them.

mod support;

mod auth_coverage;
mod callers;
mod channels;
mod cluster;
mod config_cli;
mod deals;
mod deliveries;
mod delivery_turns;
mod dev;
mod games;
mod health;
mod history;
mod idempotency;
mod keys;
mod kills;
mod layering;
mod logging;
mod notices;
mod offers;
mod operations;
mod plans;
mod prices;
mod quarantine;
mod rate_limit;
mod record;
mod report;
mod search;
mod server;
mod stores;
mod surface;
mod unhealthy_database;
mod watches;
mod webhooks;
