//! The weekly report by e-mail: once for each week and recipient in the whole fleet.
//!
//! Only the newest completed week is mailed, as soon as it has been computed: its report shows the weeks before it
//! too. A worker that dies between sending and recording leaves a lease that expires; another worker then sends again
//! under the same `Message-ID`. Delivery is at least once.

use std::time::Duration;

use chrono::TimeDelta;
use lettre::Address;
use metrics::counter;
use uuid::Uuid;

use super::driver::{Progress, Task};
use crate::app::App;
use crate::clock::delta;
use crate::domain::retries;
use crate::domain::week::Week;
use crate::error::{Error, Result, chain};
use crate::health::watchdog::Heartbeat;
use crate::outbound::email::{Email, Unsent};
use crate::store::weekly_mails::{self, ClaimedMail};
use crate::weekly_report::{WeeklyReport, mail};

/// Wait before an outcome that could not be recorded is tried again.
const RECORD_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Task that mails the weekly report.
pub struct WeeklyMailTask;

impl Task for WeeklyMailTask {
    const NAME: &'static str = "weekly mail";
    const LOG_TARGET: &'static str = "salebell::mail";

    fn interval(&self, _: &App) -> Duration {
        Duration::from_secs(5)
    }

    fn longest_round(&self, app: &App) -> Duration {
        app.config.email.timeout + app.config.worker.lease * 6
    }

    async fn round(&mut self, app: &App, _: &Heartbeat) -> Result<Progress> {
        step(app).await
    }
}

/// Plans the mails about the newest completed week, and sends one that is due.
///
/// # Errors
/// `Unavailable`: the database is unavailable. A claimed mail is due again when its lease has expired.
pub async fn step(app: &App) -> Result<Progress> {
    let recipients: Vec<String> = app.config.stats.mail_to.iter().map(Address::to_string).collect();
    if recipients.is_empty() {
        return Ok(Progress::Idle);
    }
    let (now, limit) = (app.clock.now(), app.config.worker.lease);
    let plan = weekly_mails::plan_mails(&app.writer, Week::at(now).back(1), &recipients, now);
    app.deadline.run(limit, plan).await?;
    let (holder, now) = (Uuid::now_v7(), app.clock.now());
    // Long enough for claiming, reading, sending and recording.
    let lease = now + delta(app.config.email.timeout + limit * 3);
    let claim = weekly_mails::claim_mail(&app.writer, holder, &recipients, now, lease);
    let Some(claimed) = app.deadline.run(limit, claim).await? else { return Ok(Progress::Idle) };
    let email = app.deadline.run(limit, compose(app, &claimed)).await?;
    let sent = tokio::select! {
        sent = app.mailer.send(&email) => sent,
        () = stopped(app) => {
            let release = weekly_mails::release_mail(&app.writer, claimed.id, holder);
            app.deadline.run(limit, release).await?;
            return Ok(Progress::More);
        }
    };
    report(&claimed, &sent);
    // Until the lease has expired; from then on another worker sends again.
    while let Err(error) = record(app, &claimed, holder, &sent).await {
        log::warn!(target: "salebell::mail", "mail.id" = claimed.id.to_string();
            "recording again after: {}", chain(&error));
        if app.clock.now() >= lease {
            return Err(error);
        }
        tokio::time::sleep(RECORD_AGAIN_AFTER).await;
    }
    Ok(Progress::More)
}

/// Composes the report as it stands now.
async fn compose(app: &App, claimed: &ClaimedMail) -> Result<Email> {
    let report = WeeklyReport::load(&app.writer, Some(claimed.week)).await?;
    let report = report.ok_or_else(|| Error::internal("the week of a mail is not there"))?;
    let to = claimed.recipient.parse().map_err(Error::internal)?;
    let id = format!("weekly-report.{}.{}", claimed.week, claimed.id);
    Ok(mail::compose(&report, app.config.origin_of_mails()?, id, to, claimed.created_at))
}

/// Completes when the process is stopping and the time granted to requests in progress is over.
async fn stopped(app: &App) {
    app.stopping.cancelled().await;
    tokio::time::sleep(app.config.server.drain).await;
}

/// Logs and counts the outcome. The log names no recipient; `salebell stats mailed` does.
fn report(claimed: &ClaimedMail, sent: &Result<(), Unsent>) {
    let (id, week) = (claimed.id.to_string(), claimed.week.to_string());
    let outcome = match sent {
        Ok(()) => {
            log::info!(target: "salebell::mail", "mail.id" = id, week = week; "the weekly report was mailed");
            "sent"
        }
        Err(unsent) if next_wait(claimed, unsent).is_some() => {
            log::warn!(target: "salebell::mail", "mail.id" = id, week = week, tries = claimed.tries;
                "the weekly report will be mailed again after: {}", unsent.in_short());
            "failed"
        }
        Err(unsent) => {
            log::error!(target: "salebell::mail", "mail.id" = id, week = week, tries = claimed.tries;
                "mailing the weekly report is given up after: {}", unsent.in_short());
            "given_up"
        }
    };
    counter!("salebell_weekly_mails_total", "outcome" => outcome).increment(1);
}

async fn record(app: &App, claimed: &ClaimedMail, holder: Uuid, sent: &Result<(), Unsent>) -> Result<()> {
    let (now, limit) = (app.clock.now(), app.config.worker.lease);
    match sent {
        Ok(()) => app.deadline.run(limit, weekly_mails::record_sent(&app.writer, claimed.id, now)).await,
        Err(unsent) => {
            let (reason, next) = (unsent.to_string(), next_wait(claimed, unsent).map(|wait| now + wait));
            let record = weekly_mails::record_unsent(&app.writer, claimed.id, holder, &reason, next);
            app.deadline.run(limit, record).await
        }
    }
}

/// Wait before the next attempt, by the schedule that webhooks use too. `None`: there is no further attempt.
fn next_wait(claimed: &ClaimedMail, unsent: &Unsent) -> Option<TimeDelta> {
    let tries = usize::try_from(claimed.tries).unwrap_or(0);
    // The id is random enough to spread out mails that failed together.
    let wait = || retries::wait_after(tries, claimed.id.as_u64_pair().1, None);
    if unsent.permanent { None } else { wait() }
}
