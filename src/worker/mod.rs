//! Work done after a report was accepted: recording, dispatching, publishing and delivering; and the jobs that run on
//! a schedule.

pub mod deliver;
pub mod dispatch;
pub mod driver;
pub mod exports;
pub mod files;
pub mod imports;
pub mod publish;
pub mod record;
pub mod schedule;
pub mod statistics;
pub mod weekly_mail;

use tokio::task::JoinSet;

use self::dispatch::DispatchTask;
use self::exports::ExportTask;
use self::imports::ImportTask;
use self::publish::PublishTask;
use self::record::RecordTask;
use self::schedule::ScheduleTask;
use self::weekly_mail::WeeklyMailTask;
use crate::app::App;
use crate::error::{Error, Result};

/// Runs the worker's tasks until `app.stopping`, then finishes or releases what is in progress.
///
/// # Errors
/// A task ended although the process was not stopping: a bug, and a reason to restart.
pub async fn run(app: App) -> Result<()> {
    let listening = {
        let app = app.clone();
        tokio::spawn(async move { app.notifications.listen(&app.writer).await })
    };
    let mut tasks = JoinSet::new();
    for _ in 0..app.config.worker.record_concurrency {
        tasks.spawn(driver::run(app.clone(), RecordTask));
    }
    tasks.spawn(driver::run(app.clone(), DispatchTask::default()));
    if app.events_topic.is_some() {
        tasks.spawn(driver::run(app.clone(), PublishTask));
    }
    tasks.spawn(deliver::run(app.clone()));
    tasks.spawn(driver::run(app.clone(), ImportTask));
    tasks.spawn(driver::run(app.clone(), ExportTask));
    tasks.spawn(driver::run(app.clone(), ScheduleTask));
    tasks.spawn(driver::run(app.clone(), WeeklyMailTask));
    let first = tasks.join_next().await;
    let early = !app.stopping.is_cancelled();
    app.stopping.cancel();
    while tasks.join_next().await.is_some() {}
    listening.abort();
    match first {
        Some(Err(panic)) => Err(Error::internal(panic)),
        _ if early => Err(Error::internal("a task of the worker has ended")),
        _ => Ok(()),
    }
}
