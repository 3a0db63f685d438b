//! Mails of the weekly report: a row for each week and recipient, so that each recipient gets one.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use uuid::Uuid;

use crate::database::pool::PgPool;
use crate::domain::text_enum::text_enum;
use crate::domain::week::Week;
use crate::error::Result;

/// Age at which a waiting mail is given up. A recipient that was not mailed in time, or was off the list meanwhile,
/// does not get it later.
const IN_TIME: TimeDelta = TimeDelta::days(7);

/// Creates the missing mails about a week once it has been computed as a whole, and gives up mails that are too old.
/// Returns how many were created.
pub async fn plan_mails(pool: &PgPool, week: Week, recipients: &[String], now: DateTime<Utc>) -> Result<u64> {
    let ids: Vec<Uuid> = recipients.iter().map(|_| Uuid::now_v7()).collect();
    // The rows are looked up first: nearly always there is nothing to write.
    let made = sqlx::query!(
        "with old as (
            update weekly_mails set state = 'failed', last_error = coalesce(last_error, 'not tried within a week'),
                holder = null, leased_until = null
            where state = 'waiting' and next_try_at <= $6 and created_at <= $6
         )
         insert into weekly_mails (id, week, recipient, next_try_at, created_at)
         select new.id, $1, new.recipient, $5, $5 from unnest($2::uuid[], $3::text[]) as new (id, recipient)
         where exists (select from weekly_totals where week = $1 and computed_at >= $4)
            and not exists (select from weekly_mails m where m.week = $1 and m.recipient = new.recipient)
         on conflict (week, recipient) do nothing",
        week.monday(),
        &ids,
        recipients,
        week.end(),
        now,
        now - IN_TIME,
    )
    .execute(pool)
    .await?;
    Ok(made.rows_affected())
}

/// A mail that a worker has claimed.
#[derive(Debug)]
pub struct ClaimedMail {
    pub id: Uuid,
    pub week: Week,
    pub recipient: String,
    /// Number of times it was claimed, this time included.
    pub tries: i32,
    pub created_at: DateTime<Utc>,
}

/// Claims a mail that is due to one of `recipients`. Recipients that are no longer among them get nothing.
pub async fn claim_mail(
    pool: &PgPool,
    holder: Uuid,
    recipients: &[String],
    now: DateTime<Utc>,
    lease: DateTime<Utc>,
) -> Result<Option<ClaimedMail>> {
    let claimed = sqlx::query!(
        "update weekly_mails set holder = $1, leased_until = $4, tries = tries + 1
         where id = (
            select id from weekly_mails
            where state = 'waiting' and next_try_at <= $3 and (leased_until is null or leased_until <= $3)
                and recipient = any($2)
            order by next_try_at limit 1 for no key update skip locked)
         returning id, week, recipient, tries, created_at",
        holder,
        recipients,
        now,
        lease,
    )
    .fetch_optional(pool)
    .await?;
    Ok(claimed.map(|row| ClaimedMail {
        id: row.id,
        week: Week::of(row.week),
        recipient: row.recipient,
        tries: row.tries,
        created_at: row.created_at,
    }))
}

/// Records that a mail was sent, even if another worker holds it by now: no further attempt is needed.
pub async fn record_sent(pool: &PgPool, id: Uuid, now: DateTime<Utc>) -> Result<()> {
    sqlx::query!(
        "update weekly_mails set state = 'sent', sent_at = coalesce(sent_at, $2), holder = null, leased_until = null
         where id = $1",
        id,
        now,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Records that a mail was not sent. It is tried again at `next_try_at`; with `None` it is given up.
pub async fn record_unsent(
    pool: &PgPool,
    id: Uuid,
    holder: Uuid,
    reason: &str,
    next_try_at: Option<DateTime<Utc>>,
) -> Result<()> {
    sqlx::query!(
        "update weekly_mails set state = case when $4::timestamptz is null then 'failed' else 'waiting' end,
            next_try_at = coalesce($4, next_try_at), last_error = $3, holder = null, leased_until = null
         where id = $1 and holder = $2 and state = 'waiting'",
        id,
        holder,
        reason,
        next_try_at,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Releases a mail whose attempt was not completed, so that another worker can claim it.
pub async fn release_mail(pool: &PgPool, id: Uuid, holder: Uuid) -> Result<()> {
    sqlx::query!(
        "update weekly_mails set holder = null, leased_until = null
         where id = $1 and holder = $2 and state = 'waiting'",
        id,
        holder,
    )
    .execute(pool)
    .await?;
    Ok(())
}

text_enum! {
    pub enum MailState {
        Waiting = "waiting",
        Sent = "sent",
        /// Given up after its last attempt.
        Failed = "failed",
    }
}

/// A mail and its state.
#[derive(Clone, Debug)]
pub struct WeeklyMail {
    pub week: NaiveDate,
    pub recipient: String,
    pub state: MailState,
    pub tries: i32,
    pub next_try_at: DateTime<Utc>,
    pub last_error: Option<String>,
    pub sent_at: Option<DateTime<Utc>>,
}

/// Lists the mails of the newest weeks, by recipient.
pub async fn list_mails(pool: &PgPool, rows: i64) -> Result<Vec<WeeklyMail>> {
    let found = sqlx::query_as!(
        WeeklyMail,
        r#"select week, recipient, state as "state: MailState", tries, next_try_at, last_error, sent_at from weekly_mails
         order by week desc, recipient desc limit $1"#,
        rows,
    )
    .fetch_all(pool)
    .await?;
    Ok(found)
}
