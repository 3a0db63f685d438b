//! Channels: the destinations of notices.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, PgExecutor};

use super::{Creation, accounts};
use crate::database::notifications;
use crate::database::pool::PgPool;
use crate::domain::delivery::{DEAD, DeliveryReason, DisabledReason};
use crate::domain::ids::{AccountId, ChannelId, DeliveryId};
use crate::domain::text_enum::text_enum;
use crate::error::{Error, Kind, Result};
use crate::store::delivery_queue;

/// Minimum interval between two tests of a channel, so that we cannot be used to flood a receiver.
const TEST_AGAIN_AFTER: TimeDelta = TimeDelta::seconds(2);

text_enum! {
    pub enum ChannelKind {
        Webhook = "webhook",
    }
}

text_enum! {
    pub enum ChannelState {
        Active = "active",
        Disabled = "disabled",
    }
}

/// A channel without its secrets.
#[derive(Clone, Debug)]
pub struct Channel {
    pub id: ChannelId,
    pub kind: ChannelKind,
    pub name: String,
    pub url: String,
    pub state: ChannelState,
    pub disabled_reason: Option<DisabledReason>,
    /// Time since which no delivery has succeeded.
    pub failing_since: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// Address and secrets of a channel, to send to it. The secrets are encrypted for its id.
pub struct Target {
    pub url: String,
    pub secret: Vec<u8>,
    pub previous_secret: Option<Vec<u8>>,
}

/// Fields of a new channel.
pub struct NewChannel<'a> {
    pub id: ChannelId,
    pub kind: ChannelKind,
    pub name: &'a str,
    pub url: &'a str,
    /// Encrypted for `id`.
    pub sealed_secret: &'a [u8],
}

/// Creates a channel of `account`, unless it has one of this kind and URL, or `limit` channels already.
///
/// A lock rather than a unique index, because there may be duplicates: older ones, and those made by a PATCH. Of
/// duplicates, the first active one is returned. A channel that is being deleted does not count.
///
/// # Errors
/// `Conflict`: the account is at the limit.
pub async fn create_channel(
    pool: &PgPool,
    account: AccountId,
    new: &NewChannel<'_>,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Creation<Channel>> {
    let mut transaction = pool.begin().await?;
    accounts::lock_account(&mut *transaction, account).await?;
    let present = sqlx::query_as!(
        Channel,
        r#"select id, kind as "kind: ChannelKind", name, url, state as "state: ChannelState",
            disabled_reason as "disabled_reason: DisabledReason", failing_since, created_at, updated_at
         from channels where account_id = $1 and kind = $2 and disabled_reason is distinct from 'deleted'
         order by state, id"#,
        account.0,
        new.kind.name(),
    )
    .fetch_all(&mut *transaction)
    .await?;
    // `https://EXAMPLE.com` and `https://example.com:443/` are the same address.
    let wanted = url::Url::parse(new.url).ok();
    let is_same = |url: &str| url == new.url || (wanted.is_some() && url::Url::parse(url).ok() == wanted);
    if let Some(same) = present.into_iter().find(|channel| is_same(&channel.url)) {
        return Ok(Creation::Found(same));
    }
    let created = sqlx::query_as!(
        Channel,
        r#"insert into channels (id, account_id, kind, name, url, secret, created_at, updated_at)
         select $1, $2, $3, $4, $5, $6, $7, $7
         where (select count(*) from channels where account_id = $2) < $8
         returning id, kind as "kind: ChannelKind", name, url, state as "state: ChannelState",
            disabled_reason as "disabled_reason: DisabledReason", failing_since, created_at, updated_at"#,
        new.id.0,
        account.0,
        new.kind.name(),
        new.name,
        new.url,
        new.sealed_secret,
        now,
        limit,
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(|| Error::conflict(format!("An account can have at most {limit} channels.")))?;
    transaction.commit().await?;
    Ok(Creation::Made(created))
}

/// Lists an account's channels, the newest first; `before` is the last id of the previous page.
pub async fn list_channels(
    executor: impl PgExecutor<'_>,
    account: AccountId,
    before: Option<ChannelId>,
    rows: i64,
) -> Result<Vec<Channel>> {
    let channels = sqlx::query_as!(
        Channel,
        r#"select id, kind as "kind: ChannelKind", name, url, state as "state: ChannelState",
            disabled_reason as "disabled_reason: DisabledReason", failing_since, created_at, updated_at
         from channels where account_id = $1 and id < $2 order by id desc limit $3"#,
        account.0,
        before.unwrap_or(ChannelId::max()).0,
        rows,
    )
    .fetch_all(executor)
    .await?;
    Ok(channels)
}

/// Finds a channel of an account.
///
/// # Errors
/// `NotFound`: the account has no such channel.
pub async fn find_channel(
    executor: impl PgExecutor<'_>,
    account: AccountId,
    id: ChannelId,
) -> Result<Channel> {
    sqlx::query_as!(
        Channel,
        r#"select id, kind as "kind: ChannelKind", name, url, state as "state: ChannelState",
            disabled_reason as "disabled_reason: DisabledReason", failing_since, created_at, updated_at
         from channels where id = $1 and account_id = $2"#,
        id.0,
        account.0,
    )
    .fetch_optional(executor)
    .await?
    .ok_or_else(no_channel)
}

/// Finds a channel and locks it against changes until the transaction ends.
///
/// # Errors
/// `NotFound`: the account has no such channel.
pub async fn lock_channel(
    connection: &mut PgConnection,
    account: AccountId,
    id: ChannelId,
) -> Result<Channel> {
    sqlx::query_as!(
        Channel,
        r#"select id, kind as "kind: ChannelKind", name, url, state as "state: ChannelState",
            disabled_reason as "disabled_reason: DisabledReason", failing_since, created_at, updated_at
         from channels where id = $1 and account_id = $2 for no key update"#,
        id.0,
        account.0,
    )
    .fetch_optional(connection)
    .await?
    .ok_or_else(no_channel)
}

/// Sets the name and URL of a channel. The caller has checked the account with `lock_channel`.
pub async fn update_channel(
    connection: &mut PgConnection,
    account: AccountId,
    id: ChannelId,
    name: &str,
    url: &str,
    now: DateTime<Utc>,
) -> Result<Channel> {
    sqlx::query_as!(
        Channel,
        r#"update channels set name = $3, url = $4, updated_at = $5 where id = $1 and account_id = $2
         returning id, kind as "kind: ChannelKind", name, url, state as "state: ChannelState",
            disabled_reason as "disabled_reason: DisabledReason", failing_since, created_at, updated_at"#,
        id.0,
        account.0,
        name,
        url,
        now,
    )
    .fetch_optional(connection)
    .await?
    .ok_or_else(no_channel)
}

/// Maximum number of deliveries handled by one statement. There may be a million.
const SLICE: i64 = 10_000;

/// Removes a channel with its deliveries, in slices that hold their locks only briefly. If it is interrupted, a
/// disabled channel is left, which can be deleted again.
///
/// # Errors
/// `NotFound`: the account has no such channel. Also the errors of `check`.
pub async fn delete_channel(
    pool: &PgPool,
    account: AccountId,
    id: ChannelId,
    check: impl FnOnce(Channel) -> Result<()>,
    now: DateTime<Utc>,
) -> Result<()> {
    let mut transaction = pool.begin().await?;
    check(lock_channel(&mut transaction, account, id).await?)?;
    sqlx::query!(
        "update channels set state = 'disabled', disabled_reason = 'deleted', updated_at = $3
         where id = $1 and account_id = $2",
        id.0,
        account.0,
        now,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    loop {
        let removed = sqlx::query!(
            "delete from deliveries where id = any(array(
                select id from deliveries where channel_id = $1 limit $2))",
            id.0,
            SLICE,
        )
        .execute(pool)
        .await?;
        if removed.rows_affected() < SLICE as u64 {
            break;
        }
    }
    sqlx::query!("delete from channels where id = $1 and account_id = $2", id.0, account.0)
        .execute(pool)
        .await?;
    Ok(())
}

/// Finds what is needed to send a test to a channel now. The next test is allowed after `TEST_AGAIN_AFTER`.
///
/// # Errors
/// `NotFound`: the account has no such channel. `TooManyRequests`: it was tested just before.
pub async fn find_test_target(
    pool: &PgPool,
    account: AccountId,
    id: ChannelId,
    now: DateTime<Utc>,
) -> Result<Target> {
    let target = sqlx::query_as!(
        Target,
        "update channels set tested_at = $3
         where id = $1 and account_id = $2 and (tested_at is null or tested_at <= $4)
         returning url, secret, case when previous_secret_until > $3 then previous_secret end as previous_secret",
        id.0,
        account.0,
        now,
        now - TEST_AGAIN_AFTER,
    )
    .fetch_optional(pool)
    .await?;
    if let Some(target) = target {
        return Ok(target);
    }
    find_channel(pool, account, id).await?;
    let seconds = TEST_AGAIN_AFTER.num_seconds();
    let detail = format!("A channel can be tested at most once in {seconds} seconds.");
    let mut refusal = Error::new(Kind::TooManyRequests, detail);
    refusal.retry_after_s = Some(seconds as u64);
    Err(refusal)
}

/// Sets a new secret for a channel. Until `old_until`, the old one signs as well.
///
/// # Errors
/// `NotFound`: the account has no such channel.
pub async fn rotate_secret(
    executor: impl PgExecutor<'_>,
    account: AccountId,
    id: ChannelId,
    sealed_secret: &[u8],
    old_until: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<Channel> {
    sqlx::query_as!(
        Channel,
        r#"update channels set secret = $3, previous_secret = secret, previous_secret_until = $4, updated_at = $5
         where id = $1 and account_id = $2
         returning id, kind as "kind: ChannelKind", name, url, state as "state: ChannelState",
            disabled_reason as "disabled_reason: DisabledReason", failing_since, created_at, updated_at"#,
        id.0,
        account.0,
        sealed_secret,
        old_until,
        now,
    )
    .fetch_optional(executor)
    .await?
    .ok_or_else(no_channel)
}

/// Activates a channel, and makes its deliveries pending again that are dead or were cancelled because it was disabled,
/// if they were created at `since` or later. Returns the channel and the number of these deliveries.
///
/// # Errors
/// `NotFound`: the account has no such channel.
pub async fn recover_channel(
    pool: &PgPool,
    account: AccountId,
    id: ChannelId,
    since: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<(Channel, i64)> {
    let channel = sqlx::query_as!(
        Channel,
        r#"update channels set state = 'active', disabled_reason = null, failing_since = null, updated_at = $3
         where id = $1 and account_id = $2
         returning id, kind as "kind: ChannelKind", name, url, state as "state: ChannelState",
            disabled_reason as "disabled_reason: DisabledReason", failing_since, created_at, updated_at"#,
        id.0,
        account.0,
        now,
    )
    .fetch_optional(pool)
    .await?
    .ok_or_else(no_channel)?;
    let mut recovered = 0;
    for reason in DEAD.into_iter().chain([DeliveryReason::ChannelDisabled]) {
        let mut before = Some(DeliveryId::max());
        while let (Some(since), Some(id_before)) = (since, before) {
            let mut transaction = pool.begin().await?;
            let slice = sqlx::query!(
                r#"with slice as materialized (
                    select id from deliveries
                    where channel_id = $1 and reason = $2 and id < $3 order by id desc limit $4
                ),
                recovered as (
                    update deliveries d set state = 'pending', reason = null, finished_at = null
                    from slice where d.id = slice.id and d.reason = $2 and d.created_at >= $5
                    returning d.id
                )
                select (select id from slice order by id limit 1) as last,
                    array(select id from recovered) as "recovered!""#,
                id.0,
                reason.name(),
                id_before.0,
                SLICE,
                since,
            )
            .fetch_one(&mut *transaction)
            .await?;
            let ids: Vec<DeliveryId> = slice.recovered.into_iter().map(DeliveryId).collect();
            delivery_queue::queue_again(&mut transaction, &ids, now).await?;
            transaction.commit().await?;
            recovered += ids.len() as i64;
            before = slice.last.map(DeliveryId);
        }
    }
    sqlx::query!(r#"select pg_notify($1, '')::text as "notified""#, notifications::DELIVERIES)
        .fetch_one(pool)
        .await?;
    Ok((channel, recovered))
}

fn no_channel() -> Error {
    Error::not_found("channel")
}
