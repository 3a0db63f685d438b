//! Notices: notifications of watches, as shown in the inbox.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgExecutor, Postgres, QueryBuilder};

use crate::database::pool::PgPool;
use crate::domain::ids::{AccountId, GameId, NoticeId, OfferId, SaleId, WatchId};
use crate::error::{Error, Result};

/// A notice with the names of what it is about. Amounts are minor units of `currency`.
#[derive(Clone, Debug, FromRow)]
pub struct Notice {
    pub id: NoticeId,
    pub watch_id: WatchId,
    pub sale_id: SaleId,
    /// Transition that caused it, such as `sale.started`.
    pub event_kind: String,
    pub game_id: GameId,
    /// `None`: the game has been removed since; likewise the fields of the offer.
    pub game_title: Option<String>,
    pub offer_id: OfferId,
    pub store_slug: Option<String>,
    pub store_name: Option<String>,
    pub region: Option<String>,
    pub platform: Option<String>,
    pub url: Option<String>,
    pub currency: String,
    pub amount: i64,
    pub regular: i64,
    pub cut: i16,
    pub new_low: bool,
    /// Time at which the price was observed that caused the notice. `None`: the notice is older than this column.
    pub observed_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub read_at: Option<DateTime<Utc>>,
}

const SELECT: &str =
    "select n.id, n.watch_id, n.sale_id, n.event_kind, n.game_id, g.title as game_title, n.offer_id,
        st.slug as store_slug, st.name as store_name, o.region, o.platform, o.url,
        n.currency, n.amount, n.regular, n.cut, n.new_low, n.observed_at, n.created_at, n.read_at
    from notices n
    left join games g on g.id = n.game_id
    left join offers o on o.id = n.offer_id
    left join stores st on st.id = o.store_id
    where n.account_id = ";

/// Lists an account's notices, the newest first; `before` is the last id of the previous page.
pub async fn list_notices(
    executor: impl PgExecutor<'_>,
    account: AccountId,
    unread_only: bool,
    before: Option<NoticeId>,
    rows: i64,
) -> Result<Vec<Notice>> {
    let mut query = QueryBuilder::<Postgres>::new(SELECT);
    query.push_bind(account);
    if unread_only {
        // In the text rather than a parameter: the planner must see that the index of unread notices fits.
        query.push(" and n.read_at is null");
    }
    query.push(" and n.id < ").push_bind(before.unwrap_or(NoticeId::max()));
    query.push(" order by n.id desc limit ").push_bind(rows);
    Ok(query.build_query_as().fetch_all(executor).await?)
}

/// Finds a notice of an account.
///
/// # Errors
/// `NotFound`: the account has no such notice.
pub async fn find_notice(executor: impl PgExecutor<'_>, account: AccountId, id: NoticeId) -> Result<Notice> {
    let mut query = QueryBuilder::<Postgres>::new(SELECT);
    query.push_bind(account).push(" and n.id = ").push_bind(id);
    query.build_query_as().fetch_optional(executor).await?.ok_or_else(|| Error::not_found("notice"))
}

/// Marks a notice as read at a time, or as unread, unless `check` refuses. `None` leaves it as it is. A notice that
/// is read already keeps its time.
///
/// # Errors
/// `NotFound`: the account has no such notice. Also the errors of `check`.
pub async fn mark_notice(
    pool: &PgPool,
    account: AccountId,
    id: NoticeId,
    check: impl FnOnce(Notice) -> Result<()>,
    mark: Option<Option<DateTime<Utc>>>,
) -> Result<Notice> {
    let mut transaction = pool.begin().await?;
    sqlx::query!(
        "select id from notices where id = $1 and account_id = $2 for no key update",
        id.0,
        account.0
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let found = find_notice(&mut *transaction, account, id).await?;
    check(found.clone())?;
    let Some(read_at) = mark else { return Ok(found) };
    sqlx::query!(
        "update notices set read_at = case when $3::timestamptz is null then null else coalesce(read_at, $3) end
         where id = $1 and account_id = $2",
        id.0,
        account.0,
        read_at,
    )
    .execute(&mut *transaction)
    .await?;
    let changed = find_notice(&mut *transaction, account, id).await?;
    transaction.commit().await?;
    Ok(changed)
}
