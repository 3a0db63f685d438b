//! What happens after a report was accepted: record, dispatch, deliver; and what happens by the clock.

pub mod deliver;
pub mod dispatch;
pub mod exports;
pub mod files;
pub mod imports;
pub mod publish;
pub mod record;
pub mod schedule;
pub mod statistics;
pub mod weekly_mail;

use tokio::task::JoinSet;

use crate::app::App;
use crate::error::{Error, Result};
use crate::health::watchdog::Heartbeat;

/// Does all of the worker's work until `app.stopping`, then finishes or gives back what is in hand.
///
/// # Errors
/// One of the loops has ended before it was told to: a mistake of ours, and a reason to start anew.
pub async fn run(app: App) -> Result<()> {
    let listening = {
        let app = app.clone();
        tokio::spawn(async move { app.notifications.listen(&app.writer).await })
    };
    let mut loops = JoinSet::new();
    for _ in 0..app.config.worker.record_concurrency {
        loops.spawn(record::run(app.clone()));
    }
    loops.spawn(dispatch::run(app.clone()));
    loops.spawn(publish::run(app.clone()));
    loops.spawn(deliver::run(app.clone()));
    loops.spawn(imports::run(app.clone()));
    loops.spawn(exports::run(app.clone()));
    loops.spawn(schedule::run(app.clone()));
    loops.spawn(weekly_mail::run(app.clone()));
    let first = loops.join_next().await;
    let early = !app.stopping.is_cancelled();
    app.stopping.cancel();
    while loops.join_next().await.is_some() {}
    listening.abort();
    match first {
        Some(Err(panic)) => Err(Error::internal(panic)),
        _ if early => Err(Error::internal("a loop of the worker has ended")),
        _ => Ok(()),
    }
}

/// The sign of life of a loop whose rounds, pauses aside, wait for the database for three leases at most.
fn start_heartbeat(app: &App, name: &'static str) -> Heartbeat {
    app.watchdog.start(name, app.config.worker.lease * 3 + app.config.worker.poll)
}
