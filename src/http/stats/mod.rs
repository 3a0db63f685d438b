//! `/v1/stats/weekly` and `/v1/admin/stats/weekly`: weekly usage statistics, as JSON, CSV or a page.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::accept::{AcceptedFormat, choose};
use super::extract::body::{Params, bad_parameter};
use super::extract::caller::Caller;
use super::extract::conditional::IfNoneMatch;
use super::extract::page::{Page, Paging};
use crate::app::App;
use crate::domain::ids::AccountId;
use crate::domain::statistics::WeekCounts;
use crate::domain::week::Week;
use crate::error::{Error, Result};
use crate::store::statistics::{self, AccountName, WeekRange, WeekStatistics};
use crate::weekly_report::{csv, page};

/// Statistics of a week, for the whole service or one account.
#[derive(Serialize, ToSchema)]
#[schema(as = WeeklyStatistics, example = json!({
    "week": "2026-W47",
    "from": "2026-11-16",
    "to": "2026-11-22",
    "computed_at": "2026-11-21T15:00:00Z",
    "complete": false,
    "accounts": 26,
    "uploads": 31,
    "uploaded_bytes": 48_318_382_080_i64,
    "downloads": 90,
    "downloaded_bytes": 96_636_764_160_i64,
    "reports": 1_440,
    "observations": 861_000,
    "watches": 4_001,
    "notices": 380,
    "deliveries": 402,
    "delivered": 399,
    "logins": 512,
}))]
pub struct WeekResponse {
    week: Week,
    /// Monday of the week.
    from: NaiveDate,
    /// Sunday of the week.
    to: NaiveDate,
    /// Time of the computation; later activity is not included.
    computed_at: DateTime<Utc>,
    /// Whether the statistics were computed after the end of the week.
    complete: bool,
    /// Number of active accounts; only for the whole service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    accounts: Option<i64>,
    /// The account of the statistics; only for operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    account: Option<AccountResponse>,
    #[serde(flatten)]
    counts: WeekCounts,
}

/// A page of statistics.
type WeekPage = Page<WeekResponse>;

/// The account of some statistics.
#[derive(Serialize, ToSchema)]
#[schema(as = StatisticsAccount)]
struct AccountResponse {
    id: AccountId,
    /// Issuer of the account's tokens; `null` if the account has been deleted since.
    #[schema(required)]
    issuer: Option<String>,
    /// Name of the account at its issuer; `null` if the account has been deleted since.
    #[schema(required)]
    subject: Option<String>,
}

impl From<WeekStatistics> for WeekResponse {
    fn from(found: WeekStatistics) -> WeekResponse {
        let WeekStatistics { week, computed_at, accounts, account, counts } = found;
        WeekResponse {
            week,
            from: week.monday(),
            to: week.sunday(),
            computed_at,
            complete: computed_at >= week.end(),
            accounts,
            account: account.map(|AccountName { id, issuer, subject }| AccountResponse {
                id,
                issuer,
                subject,
            }),
            counts,
        }
    }
}

/// Filters of an account's statistics.
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct OwnStatisticsParams {
    /// Only this week.
    week: Option<Week>,
}

/// Subject of each line.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum By {
    Account,
}

/// Filters of the statistics for operators.
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct AdminStatisticsParams {
    /// Only this week; required with `by`. In HTML: the last of the twelve weeks.
    week: Option<Week>,
    /// The accounts of the week, the most active first, instead of the whole service. Not with `account`.
    #[param(inline)]
    #[schema(inline)]
    by: Option<By>,
    /// The weeks of this account instead of the whole service.
    account: Option<AccountId>,
}

/// Returns the weeks of the caller's account, the newest first.
///
/// `Accept` chooses JSON or CSV.
#[utoipa::path(
    get,
    path = "/v1/stats/weekly",
    operation_id = "list_own_weekly_statistics",
    tag = "statistics",
    params((
        "If-None-Match" = Option<String>,
        Header,
        description = "Entity tags of versions that the caller has: 304 if one is current.",
        nullable = false
    )),
    responses(
        (
            status = 200,
            description = "The weeks.",
            content((WeekPage = "application/json"), (String = "text/csv")),
            headers(
                ("ETag" = String, description = "Version of the answer, for `If-None-Match`."),
                ("Vary" = String, description = "`accept`."),
                ("Content-Disposition" = String, description = "Of CSV: `attachment`, with the name of the file."),
                ("Link" = String, description = "Of CSV: the next page (`rel=\"next\"`), if there is one.")
            )
        ),
        (
            status = 304,
            description = "The caller has the current version.",
            headers(("ETag" = String, description = "Version of the answer."))
        ),
    )
)]
pub async fn own(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<OwnStatisticsParams>,
    paging: Paging,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response> {
    let range = span_of(params.week, paging.after()?);
    let found = statistics::list_weeks_of_account(&app.writer, caller.account, range, paging.rows()).await?;
    let mut page = paging.page(found, |found| found.week.monday())?;
    // The account is always the caller's own.
    page.items.iter_mut().for_each(|found| found.account = None);
    respond(&headers, &uri, page, choose(&headers, &[AcceptedFormat::Json, AcceptedFormat::Csv]))
}

/// Returns the weeks of the whole service, the newest first; or the accounts of a week; or the weeks of an account.
///
/// `Accept` chooses JSON, CSV or HTML. HTML is the weekly report, which only covers the whole service.
#[utoipa::path(
    get,
    path = "/v1/admin/stats/weekly",
    operation_id = "list_weekly_statistics",
    tag = "statistics",
    security(("token" = ["operator"])),
    params((
        "If-None-Match" = Option<String>,
        Header,
        description = "Entity tags of versions that the caller has: 304 if one is current.",
        nullable = false
    )),
    responses(
        (
            status = 200,
            description = "The weeks, or the accounts of a week.",
            content((WeekPage = "application/json"), (String = "text/csv"), (String = "text/html")),
            headers(
                ("ETag" = String, description = "Version of the answer, for `If-None-Match`."),
                ("Vary" = String, description = "`accept`."),
                ("Content-Disposition" = String, description = "Of CSV: `attachment`, with the name of the file."),
                ("Content-Security-Policy" = String, description = "Of HTML: only the page's own style is allowed."),
                ("Link" = String, description = "Of CSV: the next page (`rel=\"next\"`), if there is one.")
            )
        ),
        (
            status = 304,
            description = "The caller has the current version.",
            headers(("ETag" = String, description = "Version of the answer."))
        ),
    )
)]
pub async fn admin(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<AdminStatisticsParams>,
    paging: Paging,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response> {
    caller.require("operator")?;
    let AdminStatisticsParams { week, by, account } = params;
    let mut format = choose(&headers, &[AcceptedFormat::Json, AcceptedFormat::Csv, AcceptedFormat::Html]);
    if matches!(format, AcceptedFormat::Html) && by.is_none() && account.is_none() {
        let page = page::make_page(app.reader(), week).await?;
        return page_response(&headers, page);
    }
    // The report only covers the whole service.
    if matches!(format, AcceptedFormat::Html) {
        format = AcceptedFormat::Json;
    }
    let page = match (by, account) {
        (Some(_), Some(_)) => return Err(bad_parameter("by", "cannot be combined with account")),
        (Some(By::Account), None) => {
            let week = week.ok_or_else(|| bad_parameter("week", "is required with by"))?;
            let (after, rows) = (paging.after()?, paging.rows());
            let found = statistics::list_accounts_of_week(app.reader(), week, after, rows).await?;
            paging.page(found, |found| {
                (
                    found.counts.actions(),
                    found.account.as_ref().map_or(AccountId::nil(), |account| account.id),
                )
            })?
        }
        (None, account) => {
            let (range, rows) = (span_of(week, paging.after()?), paging.rows());
            let found = match account {
                Some(id) => statistics::list_weeks_of_account(app.reader(), id, range, rows).await?,
                None => statistics::list_weeks(app.reader(), range, rows).await?,
            };
            paging.page(found, |found| found.week.monday())?
        }
    };
    respond(&headers, &uri, page, format)
}

/// Returns all weeks before `before`, or only the requested one.
fn span_of(week: Option<Week>, before: Option<NaiveDate>) -> WeekRange {
    let end = week.map(|week| week.next().monday());
    WeekRange { from: week.map(Week::monday), before: before.into_iter().chain(end).min() }
}

fn respond(
    headers: &HeaderMap,
    uri: &Uri,
    page: Page<WeekStatistics>,
    format: AcceptedFormat,
) -> Result<Response> {
    let mut response = match format {
        AcceptedFormat::Csv => {
            let body = csv::write_csv(&page.items).into_bytes();
            let mut response = IfNoneMatch::of(headers).respond(csv::MEDIA_TYPE, body)?;
            let file = HeaderValue::from_static("attachment; filename=\"weekly-statistics.csv\"");
            response.headers_mut().insert(header::CONTENT_DISPOSITION, file);
            if let Some(cursor) = &page.next_cursor {
                let next = HeaderValue::from_str(&next_link(uri, cursor)).map_err(Error::internal)?;
                response.headers_mut().insert(header::LINK, next);
            }
            response
        }
        _ => IfNoneMatch::of(headers).answer(page.map(WeekResponse::from)).into_response(),
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// Builds a Link header (RFC 8288) to the next page, since CSV has no place for a cursor.
fn next_link(uri: &Uri, cursor: &str) -> String {
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs.filter(|(name, _)| name != "cursor")).append_pair("cursor", cursor);
    format!("<{}?{}>; rel=\"next\"", uri.path(), query.finish())
}

fn page_response(headers: &HeaderMap, page: String) -> Result<Response> {
    let mut response = IfNoneMatch::of(headers).respond("text/html; charset=utf-8", page.into_bytes())?;
    let policy = HeaderValue::from_str(&format!("{}; frame-ancestors 'none'", page::content_policy()));
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy.map_err(Error::internal)?);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}
