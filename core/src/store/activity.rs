//! Activity of accounts, added up by day as it happens or soon after, since its sources are not kept for long.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::database::pool::PgPool;
use crate::domain::ids::AccountId;
use crate::domain::week::start_of;
use crate::error::Result;

/// Interval within which further logins of an account are not counted.
pub const LOGIN_RESOLUTION: TimeDelta = TimeDelta::hours(1);

/// Actions of one kind of an account on a day.
#[derive(Clone, Debug)]
pub struct Done {
    pub day: NaiveDate,
    pub account: AccountId,
    /// `download` or `login`; uploads are counted where they are completed.
    pub kind: &'static str,
    pub count: i64,
    /// Bytes of downloads.
    pub amount: i64,
    pub last_at: DateTime<Utc>,
}

/// Adds to the counts. The combination of account, day and kind must be unique in `done`.
pub async fn add_activity(executor: impl PgExecutor<'_>, done: &[Done]) -> Result<()> {
    let days: Vec<NaiveDate> = done.iter().map(|done| done.day).collect();
    let accounts: Vec<AccountId> = done.iter().map(|done| done.account).collect();
    let kinds: Vec<String> = done.iter().map(|done| done.kind.to_owned()).collect();
    let counts: Vec<i64> = done.iter().map(|done| done.count).collect();
    let amounts: Vec<i64> = done.iter().map(|done| done.amount).collect();
    let times: Vec<DateTime<Utc>> = done.iter().map(|done| done.last_at).collect();
    // In the order of the key, so that two processes cannot deadlock. Many processes see the same login: one within
    // an hour of the last counted one is not counted again.
    sqlx::query!(
        "insert into activity (day, account_id, kind, count, amount, last_at)
         select day, account_id, kind, count, amount, last_at
         from unnest($1::date[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::timestamptz[])
            as done (day, account_id, kind, count, amount, last_at)
         order by day, account_id, kind
         on conflict (day, account_id, kind) do update
            set count = activity.count + excluded.count, amount = activity.amount + excluded.amount,
                last_at = greatest(activity.last_at, excluded.last_at)
            where activity.kind <> 'login' or activity.last_at <= excluded.last_at - $7::interval",
        &days,
        &accounts as &[AccountId],
        &kinds,
        &counts,
        &amounts,
        &times,
        sqlx::postgres::types::PgInterval::try_from(LOGIN_RESOLUTION)
            .map_err(crate::error::Error::internal)?,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Counts the notices, deliveries and reports of a day from their own tables, which keep them for at least a month.
///
/// Repeated, it adds what is new and never lowers a count, since counted rows may have been removed. Notices and
/// deliveries are found by their ids, which contain their time, so only those of the day are read.
pub async fn count_day(pool: &PgPool, day: NaiveDate, now: DateTime<Utc>) -> Result<()> {
    let (start, end) = (start_of(day), start_of(day) + TimeDelta::days(1));
    let mut transaction = pool.begin().await?;
    // No request waits for this, and a busy day takes longer than a request may.
    sqlx::query!("set local statement_timeout = '5min'").execute(&mut *transaction).await?;
    sqlx::query!(
        "insert into activity (day, account_id, kind, count, amount, last_at)
         select $1, account_id, kind, count, amount, $6
         from (
            select account_id, 'notice' as kind, count(*) as count, 0::bigint as amount
            from notices where id >= $2 and id < $3 group by account_id
            union all
            select account_id, 'delivery', count(*), count(*) filter (where state = 'delivered')
            from deliveries where id >= $2 and id < $3 group by account_id
            union all
            select account_id, 'report', count(*), sum(accepted)::bigint
            from batches where created_at >= $4 and created_at < $5 and closed_at is not null group by account_id
         ) counted
         order by account_id, kind
         on conflict (day, account_id, kind) do update
            set count = greatest(activity.count, excluded.count), amount = greatest(activity.amount, excluded.amount),
                last_at = excluded.last_at
            where activity.count < excluded.count or activity.amount < excluded.amount",
        day,
        first_id_at(start),
        first_id_at(end),
        start,
        end,
        now,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}

/// Lower bound of the UUIDv7 ids of this instant or later.
fn first_id_at(time: DateTime<Utc>) -> Uuid {
    Uuid::from_u128(u128::from(time.timestamp_millis().unsigned_abs()) << 80)
}

/// First day with any activity.
pub async fn first_day(executor: impl PgExecutor<'_>) -> Result<Option<NaiveDate>> {
    let day = sqlx::query_scalar!(
        "select least(
            (select min(day) from activity),
            (select (created_at at time zone 'UTC')::date from notices order by id limit 1),
            (select (min(created_at) at time zone 'UTC')::date from batches)
         ) as day",
    )
    .fetch_one(executor)
    .await?;
    Ok(day)
}
