//! Scheduled jobs: each runs once in the whole fleet, and is caught up on when it was missed.

use std::time::{Duration, Instant};

use chrono::TimeDelta;

use super::driver::{Progress, Task};
use super::{files, record, statistics};
use crate::app::App;
use crate::error::{Result, chain};
use crate::health::watchdog::Heartbeat;
use crate::store::lease::Claim;
use crate::store::recording::told_ends;
use crate::store::{health, jobs, matching};

/// Lease of a job. One that takes longer is taken over by another process.
const LEASE: TimeDelta = TimeDelta::minutes(10);
/// Bound on one run of a job, below the lease.
const JOB_LIMIT: Duration = Duration::from_secs(9 * 60);
/// Wait before a failed job is tried again.
const RETRY: TimeDelta = TimeDelta::minutes(1);
/// How far ahead partitions are made: a fleet that was down for months still finds them.
const PARTITIONS_AHEAD: TimeDelta = TimeDelta::days(180);

#[derive(Clone, Copy)]
enum Job {
    /// Runs before `Sweep`, which removes what it counts.
    ComputeStatistics,
    /// Ends the sales whose stated end has come.
    EndSales,
    RecomputeLows,
    MakePartitions,
    Sweep,
    AssembleFiles,
    RemoveFiles,
    SweepFiles,
    CountDead,
    /// Fills the match keys of games that were written by the previous version.
    FillKeys,
}

impl Job {
    const ALL: [Job; 10] = [
        Job::ComputeStatistics,
        Job::EndSales,
        Job::RecomputeLows,
        Job::MakePartitions,
        Job::Sweep,
        Job::AssembleFiles,
        Job::RemoveFiles,
        Job::SweepFiles,
        Job::CountDead,
        Job::FillKeys,
    ];

    fn name(self) -> &'static str {
        match self {
            Job::ComputeStatistics => "compute_statistics",
            Job::EndSales => "end_sales",
            Job::RecomputeLows => "recompute_lows",
            Job::MakePartitions => "make_partitions",
            Job::Sweep => "sweep",
            Job::AssembleFiles => "assemble_files",
            Job::RemoveFiles => "remove_files",
            Job::SweepFiles => "sweep_files",
            Job::CountDead => "count_dead",
            Job::FillKeys => "fill_keys",
        }
    }

    fn period(self, app: &App) -> TimeDelta {
        match self {
            Job::ComputeStatistics => TimeDelta::seconds(app.config.stats.compute_every.as_secs() as i64),
            // Only the events for other teams wait for it: lists and deliveries go by the stated end itself.
            Job::EndSales => TimeDelta::seconds(30),
            Job::MakePartitions | Job::RecomputeLows => TimeDelta::days(1),
            Job::Sweep => TimeDelta::minutes(10),
            Job::AssembleFiles | Job::RemoveFiles | Job::CountDead | Job::FillKeys => TimeDelta::minutes(1),
            Job::SweepFiles => TimeDelta::days(1),
        }
    }

    async fn work(self, app: &App) -> Result<()> {
        let now = app.clock.now();
        match self {
            Job::ComputeStatistics => statistics::compute_due(app).await,
            Job::EndSales => end_sales(app).await,
            Job::RecomputeLows => jobs::recompute_lows(&app.writer).await,
            Job::MakePartitions => {
                let made = jobs::ensure_partitions(&app.writer, now + PARTITIONS_AHEAD).await?;
                if made > 0 {
                    log::info!(target: "salebell::schedule", "made {made} partitions of price_history");
                }
                Ok(())
            }
            Job::Sweep => {
                while jobs::sweep(&app.writer, now).await? == jobs::Swept::MayBeMore
                    && !app.stopping.is_cancelled()
                {}
                Ok(())
            }
            Job::AssembleFiles => files::assemble_left(app).await,
            Job::RemoveFiles => files::remove_expired(app).await,
            Job::SweepFiles => files::sweep_orphans(app).await,
            Job::CountDead => record::count_dead(app).await,
            Job::FillKeys => {
                while matching::fill_keys(&app.writer).await? > 0 && !app.stopping.is_cancelled() {}
                Ok(())
            }
        }
    }
}

/// Task that runs the jobs that are due.
pub struct ScheduleTask;

impl Task for ScheduleTask {
    const NAME: &'static str = "schedule";
    const LOG_TARGET: &'static str = "salebell::schedule";

    fn interval(&self, _: &App) -> Duration {
        Duration::from_secs(10)
    }

    fn longest_round(&self, app: &App) -> Duration {
        JOB_LIMIT * Job::ALL.len() as u32 + app.config.worker.lease * 3
    }

    async fn round(&mut self, app: &App, _: &Heartbeat) -> Result<Progress> {
        // Idle even after a job: no job is due again at once.
        round(app).await.map(|_| Progress::Idle)
    }
}

/// Runs `step` unless this machine and the database disagree about the time. What is removed too early is lost; what
/// is removed later, or by another process, is not.
///
/// # Errors
/// The clocks disagree, or the database is unavailable.
pub async fn round(app: &App) -> Result<usize> {
    let sent_at = Instant::now();
    let time = health::read_clock(&app.writer);
    app.clock.observe(app.deadline.run(app.config.worker.lease, time).await?, sent_at);
    app.clock.check()?;
    step(app).await
}

/// Runs every job that is due, and returns how many there were.
pub async fn step(app: &App) -> Result<usize> {
    let mut done = 0;
    for job in Job::ALL {
        let now = app.clock.now();
        let claim = jobs::claim_job(&app.writer, job.name(), now, now + LEASE);
        if app.deadline.run(app.config.worker.lease, claim).await? == Claim::Refused {
            continue;
        }
        let worked = app.deadline.run(JOB_LIMIT, job.work(app)).await;
        let failure = worked.err().map(|error| chain(&error));
        if let Some(failure) = &failure {
            log::error!(target: "salebell::schedule", "the job {} failed: {failure}", job.name());
        }
        let next_at = now + if failure.is_some() { RETRY } else { job.period(app) };
        let finish = jobs::finish_job(&app.writer, job.name(), app.clock.now(), next_at, failure.as_deref());
        app.deadline.run(app.config.worker.lease, finish).await?;
        done += 1;
    }
    Ok(done)
}

async fn end_sales(app: &App) -> Result<()> {
    let (rules, publish) = (&app.config.prices, app.events_topic.is_some());
    loop {
        let ended = told_ends::end_sales(&app.writer, rules, publish, app.clock.now()).await?;
        record::count_told_ends(ended.sales);
        if !ended.more || app.stopping.is_cancelled() {
            return Ok(());
        }
    }
}
