//! Rows of exports, read page by page; each page begins after the key of the last row of the previous one. No
//! transaction is open between two pages: a row that changes meanwhile appears in its old or its new state.

use chrono::{DateTime, Utc};

use crate::database::pool::PgPool;
use crate::domain::export::ExportFilter;
use crate::domain::ids::{AccountId, FileId, GameId, NoticeId, OfferId, SaleId, WatchId};
use crate::error::Result;

/// End of the year 9999: no price was observed later.
const LAST_INSTANT: DateTime<Utc> = match DateTime::from_timestamp(253_402_300_799, 0) {
    Some(instant) => instant,
    None => DateTime::UNIX_EPOCH,
};

/// Row of the export of prices. Amounts are minor units of `currency`.
pub struct PriceRow {
    pub offer_id: OfferId,
    pub store: String,
    pub sku: String,
    pub title: String,
    pub region: String,
    pub platform: Option<String>,
    pub url: Option<String>,
    pub currency: String,
    pub amount: i64,
    pub regular: i64,
    pub observed_at: DateTime<Utc>,
    /// Time until which the price holds, as stated by the store.
    pub holds_until: Option<DateTime<Utc>>,
    pub available: bool,
}

/// Lists the history of prices by offer and time.
pub async fn list_prices(
    pool: &PgPool,
    filter: &ExportFilter,
    after: (OfferId, DateTime<Utc>),
    rows: i64,
) -> Result<Vec<PriceRow>> {
    let rows = sqlx::query_as!(
        PriceRow,
        "select h.offer_id, s.slug as store, o.sku, g.title, o.region, o.platform, o.url, h.currency, h.amount, h.regular,
            h.observed_at, h.holds_until, h.available
         from price_history h
         join offers o on o.id = h.offer_id
         join games g on g.id = o.game_id
         join stores s on s.id = o.store_id
         where (h.offer_id, h.observed_at) > ($1, $2)
            and ($3::text is null or s.slug = $3) and ($4::text is null or o.region = $4)
            and h.observed_at >= $5 and h.observed_at < $6
         order by h.offer_id, h.observed_at limit $7",
        after.0.0,
        after.1,
        filter.store,
        filter.region,
        filter.since.map_or(DateTime::UNIX_EPOCH, |since| since.0),
        filter.until.map_or(LAST_INSTANT, |until| until.0),
        rows,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows)
}

/// Row of the export of deals. Amounts are minor units of `currency`.
pub struct DealRow {
    pub id: SaleId,
    pub store: String,
    pub sku: String,
    pub title: String,
    pub region: String,
    pub platform: Option<String>,
    pub url: Option<String>,
    pub currency: String,
    pub amount: i64,
    pub regular: i64,
    pub cut: i16,
    pub new_low: bool,
    pub started_at: DateTime<Utc>,
    pub ends_at: Option<DateTime<Utc>>,
    pub low: Option<i64>,
    pub low_at: Option<DateTime<Utc>>,
}

/// Lists the sales that are in progress, by id.
pub async fn list_deals(
    pool: &PgPool,
    filter: &ExportFilter,
    after: SaleId,
    rows: i64,
    now: DateTime<Utc>,
) -> Result<Vec<DealRow>> {
    let rows = sqlx::query_as!(
        DealRow,
        "select x.id, s.slug as store, o.sku, g.title, o.region, o.platform, o.url, x.currency, x.amount, x.regular, x.cut,
            x.new_low, x.started_at, x.ends_at, o.low, o.low_at
         from sales x
         join offers o on o.id = x.offer_id
         join games g on g.id = x.game_id
         join stores s on s.id = x.store_id
         where x.ended_at is null and (x.ends_at is null or x.ends_at > $5) and x.id > $1
            and ($2::text is null or s.slug = $2) and ($3::text is null or x.region = $3)
         order by x.id limit $4",
        after.0,
        filter.store,
        filter.region,
        rows,
        now,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows)
}

/// Row of the export of watches, with the target of the rule. `target_amount` is minor units of `target_currency`.
pub struct WatchRow {
    pub id: WatchId,
    pub game_id: GameId,
    pub title: String,
    pub rule: String,
    pub target_amount: Option<i64>,
    pub target_currency: Option<String>,
    pub target_cut: Option<i16>,
    pub regions: Option<Vec<String>>,
    pub platforms: Option<Vec<String>>,
    pub currency: Option<String>,
    pub paused: bool,
    pub cadence: String,
    pub priority: String,
    pub created_at: DateTime<Utc>,
}

/// Lists an account's watches, by id.
pub async fn list_watches(
    pool: &PgPool,
    account: AccountId,
    after: WatchId,
    rows: i64,
) -> Result<Vec<WatchRow>> {
    let rows = sqlx::query_as!(
        WatchRow,
        "select w.id, w.game_id, g.title, w.rule, w.target_amount, w.target_currency, w.target_cut, w.regions, w.platforms,
            w.currency, w.paused, w.cadence, w.priority, w.created_at
         from watches w join games g on g.id = w.game_id
         where w.account_id = $1 and w.id > $2 order by w.id limit $3",
        account.0,
        after.0,
        rows,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows)
}

/// Row of the export of notices. Amounts are minor units of `currency`.
pub struct NoticeRow {
    pub id: NoticeId,
    pub watch_id: WatchId,
    pub event_kind: String,
    pub title: Option<String>,
    pub store: Option<String>,
    pub currency: String,
    pub amount: i64,
    pub regular: i64,
    pub cut: i16,
    pub new_low: bool,
    pub created_at: DateTime<Utc>,
    pub read_at: Option<DateTime<Utc>>,
    pub observed_at: Option<DateTime<Utc>>,
}

/// Lists an account's notices, by id.
pub async fn list_notices(
    pool: &PgPool,
    account: AccountId,
    after: NoticeId,
    rows: i64,
) -> Result<Vec<NoticeRow>> {
    let rows = sqlx::query_as!(
        NoticeRow,
        r#"select n.id, n.watch_id, n.event_kind, g.title as "title?", s.slug as "store?", n.currency, n.amount, n.regular,
            n.cut, n.new_low, n.created_at, n.read_at, n.observed_at
         from notices n
         left join games g on g.id = n.game_id
         left join offers o on o.id = n.offer_id
         left join stores s on s.id = o.store_id
         where n.account_id = $1 and n.id > $2 order by n.id limit $3"#,
        account.0,
        after.0,
        rows,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows)
}

/// Row of the export of files.
pub struct FileRow {
    pub id: FileId,
    pub name: String,
    pub media_type: String,
    pub state: String,
    pub length: Option<i64>,
    pub stored: i64,
    pub sha256: Option<String>,
    pub created_at: DateTime<Utc>,
    pub completed_at: Option<DateTime<Utc>>,
    pub expires_at: DateTime<Utc>,
}

/// Lists an account's files, by id.
pub async fn list_files(
    pool: &PgPool,
    account: AccountId,
    after: FileId,
    rows: i64,
    now: DateTime<Utc>,
) -> Result<Vec<FileRow>> {
    let rows = sqlx::query_as!(
        FileRow,
        "select id, name, media_type, state, length, stored, encode(sha256, 'hex') as sha256, created_at, completed_at,
            expires_at
         from files where account_id = $1 and id > $2 and state <> 'removing' and expires_at > $4
         order by id limit $3",
        account.0,
        after.0,
        rows,
        now,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows)
}
