//! A process of the program: its signals, its log, its health, its secrets and its use of processor time.

mod health;
mod logging;
mod processor_time;
mod secrets;
mod server;
mod worker_tasks;
