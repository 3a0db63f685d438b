//! `salebell bus`: what waits on the bus of reported prices, and what died on it.

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

/// Does what is asked, and returns what to print.
///
/// # Errors
/// The bus or the database is away.
pub async fn run(app: &App, action: BusAction) -> Result<String> {
    match action {
        BusAction::Redrive => Ok(format!("{} messages wait again.\n", record::redrive(app).await?)),
        BusAction::Status => {
            let (age, dead) = app.bus.age_and_dead().await?;
            // Only who receives knows the age where SQS is asked.
            let waiting = match (app.bus.outlives_database(), age > 0.0) {
                (_, false) => "No message waits".to_owned(),
                (true, true) => "Messages wait".to_owned(),
                (false, true) => format!("The oldest message has waited for {age:.0} s"),
            };
            Ok(format!("{waiting}; {dead} are dead.\n"))
        }
    }
}
