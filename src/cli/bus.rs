//! `salebell bus`: the messages that wait on the bus of reported prices, and its dead messages.

use clap::Subcommand;

use crate::app::App;
use crate::error::Result;
use crate::worker::record;

/// Show the state of the bus of reported prices, and redrive dead messages.
#[derive(Debug, Subcommand)]
pub enum BusAction {
    /// Show how long messages have waited, and how many are dead.
    Status,
    /// Put dead messages back on the bus, once the cause is fixed. Safe to repeat.
    Redrive,
}

/// Performs the action, and returns the text to print.
///
/// # Errors
/// Fails if the bus or the database is unavailable.
pub async fn run(app: &App, action: BusAction) -> Result<String> {
    match action {
        BusAction::Redrive => Ok(format!("{} messages wait again.\n", record::redrive(app).await?)),
        BusAction::Status => {
            let (age, dead) = app.bus.age_and_dead().await?;
            // With SQS, only a receiver knows the age of a message.
            let waiting = match (app.bus.outlives_database(), age > 0.0) {
                (_, false) => "No message waits".to_owned(),
                (true, true) => "Messages wait".to_owned(),
                (false, true) => format!("The oldest message has waited for {age:.0} s"),
            };
            Ok(format!("{waiting}; {dead} are dead.\n"))
        }
    }
}
