//! Watches: what accounts want to be notified of.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::accounts;
use crate::database::pool::PgPool;
use crate::domain::ids::{AccountId, ChannelId, GameId, NoticeId, OfferId, StoreId, WatchId};
use crate::domain::money::{Currency, Money};
use crate::domain::watch::{Cadence, Priority, Rule, Scope, WatchedOffer};
use crate::error::{Error, Result};
use crate::store::Creation;
use crate::store::known_price::price_columns;

/// An account's rule for a game.
#[derive(Clone, Debug)]
pub struct Watch {
    pub id: WatchId,
    pub game_id: GameId,
    pub rule: Rule,
    pub scope: Scope,
    /// Slugs of the scope's stores, for display.
    pub store_slugs: Option<Vec<String>>,
    /// `None`: all of the account's active channels.
    pub channels: Option<Vec<ChannelId>>,
    pub paused: bool,
    pub cadence: Cadence,
    pub priority: Priority,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// Fields of a watch that a caller can set, validated.
#[derive(Clone, Debug)]
pub struct WatchFields {
    pub rule: Rule,
    /// Ids, slugs or names.
    pub stores: Option<Vec<String>>,
    pub regions: Option<Vec<String>>,
    pub currency: Option<Currency>,
    pub platforms: Option<Vec<String>>,
    pub channels: Option<Vec<ChannelId>>,
    pub paused: bool,
    pub cadence: Cadence,
    pub priority: Priority,
}

/// Maximum number of watches of an account.
pub const MAX_WATCHES: i64 = 10_000;

struct WatchRow {
    id: WatchId,
    game_id: GameId,
    rule: String,
    target_amount: Option<i64>,
    target_currency: Option<String>,
    target_cut: Option<i16>,
    stores: Option<Vec<Uuid>>,
    store_slugs: Option<Vec<String>>,
    regions: Option<Vec<String>>,
    currency: Option<String>,
    platforms: Option<Vec<String>>,
    channels: Option<Vec<Uuid>>,
    paused: bool,
    cadence: Cadence,
    priority: Priority,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<WatchRow> for Watch {
    type Error = Error;

    fn try_from(row: WatchRow) -> Result<Watch> {
        let currency =
            |code: Option<String>| code.map(|code| code.parse()).transpose().map_err(Error::internal);
        let rule =
            match (row.rule.as_str(), row.target_amount, currency(row.target_currency)?, row.target_cut) {
                ("any_sale", ..) => Rule::AnySale {},
                ("price_at_most", Some(minor), Some(currency), _) => {
                    Rule::PriceAtMost(Money { minor, currency })
                }
                ("cut_at_least", _, _, Some(percent)) => Rule::CutAtLeast { percent },
                ("new_low", ..) => Rule::NewLow {},
                _ => return Err(Error::internal(format!("watch {} has no rule that we know", row.id))),
            };
        let scope = Scope {
            stores: row.stores.map(|ids| ids.into_iter().map(StoreId).collect()),
            regions: row.regions,
            currency: currency(row.currency)?,
            platforms: row.platforms,
        };
        Ok(Watch {
            id: row.id,
            game_id: row.game_id,
            rule,
            scope,
            store_slugs: row.store_slugs,
            channels: row.channels.map(|ids| ids.into_iter().map(ChannelId).collect()),
            paused: row.paused,
            cadence: row.cadence,
            priority: row.priority,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// Lists one page of an account's watches, the newest first; `before` is the last id of the previous page.
pub async fn list_watches(
    executor: impl PgExecutor<'_>,
    account: AccountId,
    game: Option<GameId>,
    before: Option<WatchId>,
    rows: i64,
) -> Result<Vec<Watch>> {
    let watches = sqlx::query_as!(
        WatchRow,
        r#"select w.id, w.game_id, w.rule, w.target_amount, w.target_currency, w.target_cut, w.stores,
            (select array_agg(s.slug order by s.slug) from stores s where s.id = any(w.stores)) as store_slugs,
            w.regions, w.currency, w.platforms, w.channels, w.paused, w.cadence as "cadence: Cadence",
            w.priority as "priority: Priority", w.created_at, w.updated_at
        from watches w
        where w.account_id = $1 and ($2::uuid is null or w.game_id = $2) and ($3::uuid is null or w.id < $3)
        order by w.id desc limit $4"#,
        account.0,
        game as Option<GameId>,
        before as Option<WatchId>,
        rows,
    )
    .fetch_all(executor)
    .await?;
    watches.into_iter().map(Watch::try_from).collect()
}

/// Finds a watch of an account.
///
/// # Errors
/// `NotFound`: the account has no such watch.
pub async fn get_watch(executor: impl PgExecutor<'_>, account: AccountId, id: WatchId) -> Result<Watch> {
    let row = sqlx::query_as!(
        WatchRow,
        r#"select w.id, w.game_id, w.rule, w.target_amount, w.target_currency, w.target_cut, w.stores,
            (select array_agg(s.slug order by s.slug) from stores s where s.id = any(w.stores)) as store_slugs,
            w.regions, w.currency, w.platforms, w.channels, w.paused, w.cadence as "cadence: Cadence",
            w.priority as "priority: Priority", w.created_at, w.updated_at
        from watches w where w.account_id = $1 and w.id = $2"#,
        account.0,
        id.0,
    )
    .fetch_optional(executor)
    .await?;
    row.ok_or_else(|| Error::not_found("watch"))?.try_into()
}

/// Creates a watch, unless the account has the same one: with this game, rule and scope, and the same channels and
/// cadence. Lists are compared without their order, and `paused` and `priority` do not matter.
///
/// A lock rather than a unique index, as for channels: of existing duplicates the first is returned.
///
/// # Errors
/// `Invalid`: the game or a store is unknown, or a channel is not one of the account's. `Conflict`: the account has
/// `MAX_WATCHES` watches.
pub async fn create_watch(
    pool: &PgPool,
    account: AccountId,
    game: GameId,
    fields: &WatchFields,
    now: DateTime<Utc>,
) -> Result<Creation<Watch>> {
    let mut transaction = pool.begin().await?;
    accounts::lock_account(&mut *transaction, account).await?;
    let (stores, channels) = check_references(&mut transaction, account, fields).await?;
    let (target, cut) = targets(&fields.rule);
    accounts::lock_account(&mut *transaction, account).await?;
    let same = sqlx::query_scalar!(
        "select id from watches
         where account_id = $1 and game_id = $2 and rule = $3 and cadence = $11
             and target_amount is not distinct from $4 and target_currency is not distinct from $5
             and target_cut is not distinct from $6 and currency is not distinct from $7
             -- lists as sets; one that is missing is not an empty one
             and (stores = $8 or stores @> $8 and stores <@ $8 or coalesce(stores, $8) is null)
             and (regions = $9 or regions @> $9 and regions <@ $9 or coalesce(regions, $9) is null)
             and (platforms = $10 or platforms @> $10 and platforms <@ $10 or coalesce(platforms, $10) is null)
             and (channels = $12 or channels @> $12 and channels <@ $12 or coalesce(channels, $12) is null)
         order by id limit 1",
        account.0,
        game.0,
        fields.rule.name(),
        target.map(|money| money.minor),
        target.map(|money| money.currency.code()),
        cut,
        fields.currency.map(Currency::code),
        stores.as_deref() as Option<&[StoreId]>,
        fields.regions.as_deref(),
        fields.platforms.as_deref(),
        fields.cadence.name(),
        channels as Option<&[ChannelId]>,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    if let Some(same) = same {
        return Ok(Creation::Found(get_watch(&mut *transaction, account, WatchId(same)).await?));
    }
    let own =
        sqlx::query_scalar!(r#"select count(*) as "own!" from watches where account_id = $1"#, account.0)
            .fetch_one(&mut *transaction)
            .await?;
    if own >= MAX_WATCHES {
        return Err(Error::conflict(format!("An account can have at most {MAX_WATCHES} watches.")));
    }
    let id = WatchId::now_v7();
    sqlx::query!(
        "insert into watches (id, account_id, game_id, rule, target_amount, target_currency, target_cut, stores, regions,
            currency, platforms, channels, paused, cadence, priority, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $16)",
        id.0,
        account.0,
        game.0,
        fields.rule.name(),
        target.map(|money| money.minor),
        target.map(|money| money.currency.code()),
        cut,
        stores.as_deref() as Option<&[StoreId]>,
        fields.regions.as_deref(),
        fields.currency.map(Currency::code),
        fields.platforms.as_deref(),
        channels as Option<&[ChannelId]>,
        fields.paused,
        fields.cadence.name(),
        fields.priority.name(),
        now,
    )
    .execute(&mut *transaction)
    .await?;
    let watch = get_watch(&mut *transaction, account, id).await?;
    transaction.commit().await?;
    Ok(Creation::Made(watch))
}

/// Changes a watch to the result of `change`, which receives the locked row and may refuse.
///
/// # Errors
/// `NotFound`: the account has no such watch. `Invalid`: as for `create_watch`. Also the errors of `change`.
pub async fn update_watch(
    pool: &PgPool,
    account: AccountId,
    id: WatchId,
    now: DateTime<Utc>,
    change: impl FnOnce(&Watch) -> Result<WatchFields>,
) -> Result<Watch> {
    let mut transaction = pool.begin().await?;
    let watch = lock_watch(&mut transaction, account, id).await?;
    let fields = change(&watch)?;
    let (stores, channels) = check_references(&mut transaction, account, &fields).await?;
    let (target, cut) = targets(&fields.rule);
    sqlx::query!(
        "update watches set rule = $2, target_amount = $3, target_currency = $4, target_cut = $5, stores = $6,
            regions = $7, currency = $8, platforms = $9, channels = $10, paused = $11, cadence = $12, priority = $13,
            updated_at = $14
         where id = $1",
        id.0,
        fields.rule.name(),
        target.map(|money| money.minor),
        target.map(|money| money.currency.code()),
        cut,
        stores.as_deref() as Option<&[StoreId]>,
        fields.regions.as_deref(),
        fields.currency.map(Currency::code),
        fields.platforms.as_deref(),
        channels as Option<&[ChannelId]>,
        fields.paused,
        fields.cadence.name(),
        fields.priority.name(),
        now,
    )
    .execute(&mut *transaction)
    .await?;
    let watch = get_watch(&mut *transaction, account, id).await?;
    transaction.commit().await?;
    Ok(watch)
}

/// Removes a watch, unless `check` refuses. Its notices stay in the inbox.
///
/// # Errors
/// `NotFound`: the account has no such watch. Also the errors of `check`.
pub async fn delete_watch(
    pool: &PgPool,
    account: AccountId,
    id: WatchId,
    check: impl FnOnce(&Watch) -> Result<()>,
) -> Result<()> {
    let mut transaction = pool.begin().await?;
    check(&lock_watch(&mut transaction, account, id).await?)?;
    sqlx::query!("delete from watches where id = $1", id.0).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(())
}

async fn lock_watch(connection: &mut PgConnection, account: AccountId, id: WatchId) -> Result<Watch> {
    sqlx::query!("select id from watches where account_id = $1 and id = $2 for update", account.0, id.0)
        .fetch_optional(&mut *connection)
        .await?
        .ok_or_else(|| Error::not_found("watch"))?;
    get_watch(connection, account, id).await
}

fn targets(rule: &Rule) -> (Option<Money>, Option<i16>) {
    match rule {
        Rule::PriceAtMost(target) => (Some(*target), None),
        Rule::CutAtLeast { percent } => (None, Some(*percent)),
        Rule::AnySale {} | Rule::NewLow {} => (None, None),
    }
}

/// Returns the ids of the stores, and the channels, which must be the account's own.
async fn check_references<'f>(
    connection: &mut PgConnection,
    account: AccountId,
    fields: &'f WatchFields,
) -> Result<(Option<Vec<StoreId>>, Option<&'f [ChannelId]>)> {
    let mut stores = None;
    if let Some(references) = &fields.stores {
        let mut ids = Vec::with_capacity(references.len());
        for (at, reference) in references.iter().enumerate() {
            let store = super::stores::find_store(&mut *connection, reference).await?;
            ids.push(
                store.ok_or_else(|| Error::invalid(format!("/stores/{at}"), "does not name a store"))?.id,
            );
        }
        stores = Some(ids);
    }
    if let Some(channels) = &fields.channels {
        let strange = sqlx::query_scalar!(
            r#"select k.at as "at!" from unnest($1::uuid[]) with ordinality as k (id, at)
            where not exists (select from channels c where c.id = k.id and c.account_id = $2) order by k.at limit 1"#,
            channels as &[ChannelId],
            account.0,
        )
        .fetch_optional(connection)
        .await?;
        if let Some(at) = strange {
            return Err(Error::invalid(format!("/channels/{}", at - 1), "is not one of your channels"));
        }
    }
    Ok((stores, fields.channels.as_deref()))
}

/// An offer of a watch's game, for an explanation.
pub struct ExplainedOffer {
    pub offer_id: OfferId,
    pub store_slug: String,
    pub seen: WatchedOffer,
    /// The watch's notice of the sale in progress, if there is one.
    pub notice_id: Option<NoticeId>,
}

/// Lists all offers of a watch's game as the watch sees them.
pub async fn explain_offers(executor: impl PgExecutor<'_>, watch: &Watch) -> Result<Vec<ExplainedOffer>> {
    let rows = sqlx::query!(
        r#"select o.id, o.store_id, s.slug, o.region, o.platform, o.currency, o.amount, o.regular, o.observed_at,
            o.available, o.low, o.low_at, o.was_free_at, o.sale_id, o.sale_ends_at, o.recent_sale_id, o.recent_sale_best,
            o.recent_sale_ended_at, o.recent_sale_was_free, coalesce(d.new_low, false) as "new_low!", n.id as "notice_id?"
        from offers o
        join stores s on s.id = o.store_id
        left join sales d on d.id = o.sale_id
        left join notices n on n.watch_id = $2 and n.sale_id = o.sale_id
        where o.game_id = $1 order by o.id limit 1000"#,
        watch.game_id.0,
        watch.id.0,
    )
    .fetch_all(executor)
    .await?;
    let explained = rows.into_iter().map(|row| {
        let (offer_id, notice_id) = (OfferId(row.id), row.notice_id.map(NoticeId));
        let seen = WatchedOffer {
            store_id: StoreId(row.store_id),
            region: row.region,
            platform: row.platform,
            new_low: row.new_low,
            price: price_columns!(row).price()?,
        };
        Ok(ExplainedOffer { offer_id, store_slug: row.slug, seen, notice_id })
    });
    explained.collect()
}
