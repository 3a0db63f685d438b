//! Weekly statistics: computes, one after another, every week that is missing or has changed since it was computed.

use crate::app::App;
use crate::domain::week::Week;
use crate::error::{Error, Result};
use crate::store::{activity, statistics};

/// Computes the weeks that are due, including those of a fleet that was down for months.
///
/// # Errors
/// `Unavailable`: the database is unavailable. Finished weeks are kept, and the next round continues.
pub async fn compute_due(app: &App) -> Result<()> {
    let Some(first) = activity::first_day(&app.writer).await? else { return Ok(()) };
    let now = app.clock.now();
    for due in statistics::list_due_weeks(&app.writer, Week::of(first), now).await? {
        if app.stopping.is_cancelled() {
            return Ok(());
        }
        // For the current week, the days before the last computation have been counted.
        let counted = due.computed_at.filter(|_| due.week == Week::at(now)).map(|at| at.date_naive());
        for day in due.week.days().filter(|day| *day <= now.date_naive()) {
            if counted.is_none_or(|counted| day >= counted) {
                activity::count_day(&app.writer, day, now).await?;
            }
        }
        statistics::compute_week(&app.writer, due.week, now).await?;
        if due.computed_at.is_none() {
            log::info!(target: "salebell::statistics", "computed the week {} for the first time", due.week);
        }
    }
    Ok(())
}

/// Recomputes a week, whether it is due or not.
///
/// # Errors
/// `Invalid`: the week has not begun, or it ended before the first activity.
pub async fn recompute(app: &App, week: Week) -> Result<()> {
    let now = app.clock.now();
    if week > Week::at(now) {
        return Err(Error::invalid("week", "has not begun yet"));
    }
    let first = activity::first_day(&app.writer).await?.map(Week::of);
    if first.is_none_or(|first| week < first) {
        return Err(Error::invalid("week", "ended before anything was done"));
    }
    for day in week.days().filter(|day| *day <= now.date_naive()) {
        activity::count_day(&app.writer, day, now).await?;
    }
    statistics::compute_week(&app.writer, week, now).await
}
