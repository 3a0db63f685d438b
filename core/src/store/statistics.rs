//! Weekly statistics: computed from the counts of `activity`, and kept.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::database::pool::PgPool;
use crate::domain::ids::AccountId;
use crate::domain::statistics::WeekCounts;
use crate::domain::week::Week;
use crate::error::Result;

/// Time after which a week is computed once more. Deliveries are attempted for several days, and those of its last
/// days are settled by then.
const SETTLES_AFTER: TimeDelta = TimeDelta::days(7);

/// A week whose statistics are missing or not final.
#[derive(Debug, PartialEq, Eq)]
pub struct DueWeek {
    pub week: Week,
    /// Time of the last computation.
    pub computed_at: Option<DateTime<Utc>>,
}

/// Lists the weeks since `first` that must be computed, the oldest first: those that are missing, the current one,
/// and those that have ended or settled since they were computed.
pub async fn list_due_weeks(
    executor: impl PgExecutor<'_>,
    first: Week,
    now: DateTime<Utc>,
) -> Result<Vec<DueWeek>> {
    let rows = sqlx::query!(
        "select week, computed_at from weekly_totals where week >= $1 order by week",
        first.monday()
    )
    .fetch_all(executor)
    .await?;
    let mut known = rows.into_iter().peekable();
    let mut due = Vec::new();
    let mut week = first;
    while week <= Week::at(now) {
        let computed_at = known.next_if(|row| row.week == week.monday()).map(|row| row.computed_at);
        let stands = computed_at.is_some_and(|at| {
            let settled = week.end() + SETTLES_AFTER;
            at >= settled || (at >= week.end() && now < settled)
        });
        if !stands {
            due.push(DueWeek { week, computed_at });
        }
        week = week.next();
    }
    Ok(due)
}

/// Time at which a week was last computed.
pub async fn find_computed_at(executor: impl PgExecutor<'_>, week: Week) -> Result<Option<DateTime<Utc>>> {
    let at = sqlx::query_scalar!("select computed_at from weekly_totals where week = $1", week.monday())
        .fetch_optional(executor)
        .await?;
    Ok(at)
}

/// Recomputes the statistics of a week, for every account and for the whole service. Concurrent calls run one
/// after another and yield the same result.
///
/// Watches are counted as they are now. Once a week has been computed after its end, their count is kept.
pub async fn compute_week(pool: &PgPool, week: Week, now: DateTime<Utc>) -> Result<()> {
    let mut transaction = pool.begin().await?;
    // No request waits for this, and a million accounts take longer than a request may.
    sqlx::query!("set local statement_timeout = '5min'").execute(&mut *transaction).await?;
    sqlx::query!("select pg_advisory_xact_lock(hashtext('salebell statistics'))::text as locked")
        .fetch_one(&mut *transaction)
        .await?;
    let computed_at = find_computed_at(&mut *transaction, week).await?;
    let keep_watches = computed_at.is_some_and(|at| at >= week.end());
    sqlx::query_file!(
        "src/store/compute_week.sql",
        week.monday(),
        week.next().monday(),
        week.end(),
        keep_watches,
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!(
        "insert into weekly_totals (week, computed_at, accounts, uploads, uploaded_bytes, downloads, downloaded_bytes,
            reports, observations, watches, notices, deliveries, delivered, logins)
         select $1, $2, count(*) filter (where actions > 0), coalesce(sum(uploads), 0), coalesce(sum(uploaded_bytes), 0),
            coalesce(sum(downloads), 0), coalesce(sum(downloaded_bytes), 0), coalesce(sum(reports), 0),
            coalesce(sum(observations), 0), coalesce(sum(watches), 0), coalesce(sum(notices), 0),
            coalesce(sum(deliveries), 0), coalesce(sum(delivered), 0), coalesce(sum(logins), 0)
         from weekly_statistics where week = $1
         on conflict (week) do update set computed_at = excluded.computed_at, accounts = excluded.accounts,
            uploads = excluded.uploads, uploaded_bytes = excluded.uploaded_bytes, downloads = excluded.downloads,
            downloaded_bytes = excluded.downloaded_bytes, reports = excluded.reports,
            observations = excluded.observations, watches = excluded.watches, notices = excluded.notices,
            deliveries = excluded.deliveries, delivered = excluded.delivered, logins = excluded.logins",
        week.monday(),
        now,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}

/// Statistics of a week, of the whole service or of one account.
#[derive(Clone, Debug, PartialEq)]
pub struct WeekStatistics {
    pub week: Week,
    pub computed_at: DateTime<Utc>,
    /// Number of accounts that were active in the week; only for the whole service.
    pub accounts: Option<i64>,
    /// `None`: the statistics are of the whole service.
    pub account: Option<AccountName>,
    pub counts: WeekCounts,
}

/// The account that statistics belong to.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountName {
    pub id: AccountId,
    /// `None`, like `subject`: the account has been removed since.
    pub issuer: Option<String>,
    pub subject: Option<String>,
}

/// Range of weeks, from `from` up to, but not including, `before`.
#[derive(Clone, Copy, Debug, Default)]
pub struct WeekRange {
    pub from: Option<NaiveDate>,
    pub before: Option<NaiveDate>,
}

struct Row {
    week: NaiveDate,
    computed_at: DateTime<Utc>,
    accounts: Option<i64>,
    account_id: Option<Uuid>,
    issuer: Option<String>,
    subject: Option<String>,
    uploads: i64,
    uploaded_bytes: i64,
    downloads: i64,
    downloaded_bytes: i64,
    reports: i64,
    observations: i64,
    watches: i64,
    notices: i64,
    deliveries: i64,
    delivered: i64,
    logins: i64,
}

impl From<Row> for WeekStatistics {
    fn from(row: Row) -> WeekStatistics {
        let Row { issuer, subject, .. } = row;
        WeekStatistics {
            week: Week::of(row.week),
            computed_at: row.computed_at,
            accounts: row.accounts,
            account: row.account_id.map(|id| AccountName { id: AccountId(id), issuer, subject }),
            counts: WeekCounts {
                uploads: row.uploads,
                uploaded_bytes: row.uploaded_bytes,
                downloads: row.downloads,
                downloaded_bytes: row.downloaded_bytes,
                reports: row.reports,
                observations: row.observations,
                watches: row.watches,
                notices: row.notices,
                deliveries: row.deliveries,
                delivered: row.delivered,
                logins: row.logins,
            },
        }
    }
}

/// Lists weeks of the whole service, the newest first.
pub async fn list_weeks(
    executor: impl PgExecutor<'_>,
    range: WeekRange,
    rows: i64,
) -> Result<Vec<WeekStatistics>> {
    let found = sqlx::query_as!(
        Row,
        r#"select week, computed_at, accounts as "accounts?", null::uuid as account_id, null as issuer, null as subject,
            uploads, uploaded_bytes, downloads, downloaded_bytes, reports, observations, watches, notices, deliveries,
            delivered, logins
         from weekly_totals
         where week >= coalesce($1, '-infinity'::date) and week < coalesce($2, 'infinity'::date)
         order by week desc limit $3"#,
        range.from,
        range.before,
        rows,
    )
    .fetch_all(executor)
    .await?;
    Ok(found.into_iter().map(WeekStatistics::from).collect())
}

/// Lists weeks of an account, the newest first. Weeks in which it did nothing and had no watches are left out.
pub async fn list_weeks_of_account(
    executor: impl PgExecutor<'_>,
    account: AccountId,
    range: WeekRange,
    rows: i64,
) -> Result<Vec<WeekStatistics>> {
    let found = sqlx::query_as!(
        Row,
        r#"select s.week, t.computed_at, null::bigint as accounts, s.account_id as "account_id?", a.issuer as "issuer?",
            a.subject as "subject?", s.uploads, s.uploaded_bytes, s.downloads, s.downloaded_bytes, s.reports,
            s.observations, s.watches, s.notices, s.deliveries, s.delivered, s.logins
         from weekly_statistics s join weekly_totals t on t.week = s.week left join accounts a on a.id = s.account_id
         where s.account_id = $1 and s.week >= coalesce($2, '-infinity'::date)
            and s.week < coalesce($3, 'infinity'::date)
         order by s.week desc limit $4"#,
        account.0,
        range.from,
        range.before,
        rows,
    )
    .fetch_all(executor)
    .await?;
    Ok(found.into_iter().map(WeekStatistics::from).collect())
}

/// Lists the accounts of a week, the most active first; `after` is the number of actions and the id of the last one
/// of the previous page.
pub async fn list_accounts_of_week(
    executor: impl PgExecutor<'_>,
    week: Week,
    after: Option<(i64, AccountId)>,
    rows: i64,
) -> Result<Vec<WeekStatistics>> {
    let (actions, id) = after.unwrap_or((i64::MAX, AccountId::max()));
    let found = sqlx::query_as!(
        Row,
        r#"select s.week, t.computed_at, null::bigint as accounts, s.account_id as "account_id?", a.issuer as "issuer?",
            a.subject as "subject?", s.uploads, s.uploaded_bytes, s.downloads, s.downloaded_bytes, s.reports,
            s.observations, s.watches, s.notices, s.deliveries, s.delivered, s.logins
         from weekly_statistics s join weekly_totals t on t.week = s.week left join accounts a on a.id = s.account_id
         where s.week = $1 and (s.actions, s.account_id) < ($2, $3)
         order by s.actions desc, s.account_id desc limit $4"#,
        week.monday(),
        actions,
        id.0,
        rows,
    )
    .fetch_all(executor)
    .await?;
    Ok(found.into_iter().map(WeekStatistics::from).collect())
}
