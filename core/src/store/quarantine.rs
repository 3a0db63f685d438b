//! Quarantined observations, which look like glitches, for operators to review.

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, Postgres, QueryBuilder};

use super::known_price::parse_currency;
use super::offers::StoreRef;
use crate::database::pool::PgPool;
use crate::domain::ids::{GameId, OfferId, QuarantinedPriceId, StoreId};
use crate::domain::money::Money;
use crate::domain::price::GlitchReason;
use crate::domain::text_enum::text_enum;
use crate::error::{Error, Result};

text_enum! {
    /// State of a quarantined price.
    #[derive(Default)]
    pub enum State {
        /// It waits for a second observation, or for an operator.
        #[default]
        Held = "held",
        /// A second observation agreed, and it took effect.
        Confirmed = "confirmed",
        /// An operator let it take effect.
        Released = "released",
        /// An operator judged it to be a glitch.
        Discarded = "discarded",
    }
}

/// A quarantined price with the current price of its offer.
#[derive(Clone, Debug, PartialEq)]
pub struct QuarantinedPrice {
    pub id: QuarantinedPriceId,
    pub offer_id: OfferId,
    pub game_id: GameId,
    /// Title of the game.
    pub title: String,
    pub store: StoreRef,
    pub sku: String,
    pub region: String,
    pub price: Money,
    pub regular: Money,
    /// Current price of the offer. `None`: it has none yet.
    pub current: Option<Money>,
    pub observed_at: DateTime<Utc>,
    /// Why it was held.
    pub reason: GlitchReason,
    pub state: State,
    pub created_at: DateTime<Utc>,
    pub resolved_at: Option<DateTime<Utc>>,
}

#[derive(sqlx::FromRow)]
struct QuarantineRow {
    id: QuarantinedPriceId,
    offer_id: OfferId,
    game_id: GameId,
    title: String,
    store_id: StoreId,
    store_slug: String,
    store_name: String,
    sku: String,
    region: String,
    currency: String,
    amount: i64,
    regular: i64,
    current_currency: Option<String>,
    current_amount: Option<i64>,
    observed_at: DateTime<Utc>,
    reason: GlitchReason,
    state: State,
    created_at: DateTime<Utc>,
    resolved_at: Option<DateTime<Utc>>,
}

impl TryFrom<QuarantineRow> for QuarantinedPrice {
    type Error = Error;

    fn try_from(row: QuarantineRow) -> Result<QuarantinedPrice> {
        let currency = parse_currency(&row.currency)?;
        let current = match (&row.current_currency, row.current_amount) {
            (Some(code), Some(minor)) => Some(Money { minor, currency: parse_currency(code)? }),
            _ => None,
        };
        Ok(QuarantinedPrice {
            id: row.id,
            offer_id: row.offer_id,
            game_id: row.game_id,
            title: row.title,
            store: StoreRef { id: row.store_id, slug: row.store_slug, name: row.store_name },
            sku: row.sku,
            region: row.region,
            price: Money { minor: row.amount, currency },
            regular: Money { minor: row.regular, currency },
            current,
            observed_at: row.observed_at,
            reason: row.reason,
            state: row.state,
            created_at: row.created_at,
            resolved_at: row.resolved_at,
        })
    }
}

/// Filter for quarantined prices.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    One(QuarantinedPriceId),
    /// Those in a state, the latest first, with the last id of the previous page.
    Of(State, Option<QuarantinedPriceId>),
}

/// Query for quarantined prices. The page is cut before it is joined.
pub fn list_quarantine_query(which: Which, rows: i64) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new("with page as materialized (select * from quarantined_prices where ");
    match which {
        Which::One(id) => drop(query.push("id = ").push_bind(id)),
        Which::Of(state, after) => {
            query.push("state = ").push_bind(state.name());
            if let Some(after) = after {
                query.push(" and id < ").push_bind(after);
            }
        }
    }
    query.push(" order by id desc limit ").push_bind(rows);
    query.push(
        ") select page.id, page.offer_id, o.game_id, g.title, o.store_id, s.slug as store_slug,
            s.name as store_name, o.sku, o.region, page.currency, page.amount, page.regular,
            o.currency as current_currency, o.amount as current_amount, page.observed_at, page.reason,
            page.state, page.created_at, page.resolved_at
        from page
        join offers o on o.id = page.offer_id
        join games g on g.id = o.game_id
        join stores s on s.id = o.store_id
        order by page.id desc",
    );
    query
}

/// Lists one page of quarantined prices, the latest first.
pub async fn list_quarantine(
    executor: impl PgExecutor<'_>,
    which: Which,
    rows: i64,
) -> Result<Vec<QuarantinedPrice>> {
    let rows: Vec<QuarantineRow> =
        list_quarantine_query(which, rows).build_query_as().fetch_all(executor).await?;
    rows.into_iter().map(QuarantinedPrice::try_from).collect()
}

/// Finds a quarantined price.
pub async fn find_quarantined(
    executor: impl PgExecutor<'_>,
    id: QuarantinedPriceId,
) -> Result<Option<QuarantinedPrice>> {
    Ok(list_quarantine(executor, Which::One(id), 1).await?.pop())
}

/// Discards a held price as a glitch: it will never take effect. Discarding it again changes nothing.
///
/// # Errors
/// `NotFound`: there is no such price. `Conflict`: it has taken effect already.
pub async fn discard(pool: &PgPool, id: QuarantinedPriceId, now: DateTime<Utc>) -> Result<QuarantinedPrice> {
    sqlx::query!(
        "update quarantined_prices set state = 'discarded', resolved_at = $2 where id = $1 and state = 'held'",
        id.0,
        now,
    )
    .execute(pool)
    .await?;
    let held = find_quarantined(pool, id).await?.ok_or_else(|| Error::not_found("quarantined price"))?;
    match held.state {
        State::Discarded => Ok(held),
        _ => Err(Error::conflict("It has already taken effect.")),
    }
}
