//! Games: one identity across stores, platforms and editions.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{PgExecutor, Postgres, QueryBuilder};
use uuid::Uuid;

use super::offer_removal::delete_offers;
use crate::database::pool::PgPool;
use crate::domain::ids::{GameId, OfferId};
use crate::domain::title;
use crate::error::{Error, Result};

/// A game.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct Game {
    pub id: GameId,
    pub title: String,
    pub publisher: Option<String>,
    pub released_on: Option<NaiveDate>,
    pub url: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// Fields of a game that a caller can set, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct GameFields {
    pub title: String,
    pub publisher: Option<String>,
    pub released_on: Option<NaiveDate>,
    pub url: Option<String>,
}

/// Finds those games of `ids` that exist, in no particular order.
pub async fn find_games(executor: impl PgExecutor<'_>, ids: &[GameId]) -> Result<Vec<Game>> {
    let games = sqlx::query_as!(
        Game,
        "select id, title, publisher, released_on, url, created_at, updated_at from games where id = any($1)",
        ids as &[GameId],
    )
    .fetch_all(executor)
    .await?;
    Ok(games)
}

/// Whether a game exists.
pub async fn game_exists(executor: impl PgExecutor<'_>, id: GameId) -> Result<bool> {
    let found = sqlx::query_scalar!(r#"select 1 as "one!" from games where id = $1"#, id.0)
        .fetch_optional(executor)
        .await?;
    Ok(found.is_some())
}

/// Query for games, the newest first; `after` is the last id of the previous page.
pub fn list_games_query(after: Option<GameId>, rows: i64) -> QueryBuilder<Postgres> {
    let mut query =
        QueryBuilder::new("select id, title, publisher, released_on, url, created_at, updated_at from games");
    if let Some(after) = after {
        query.push(" where id < ").push_bind(after);
    }
    query.push(" order by id desc limit ").push_bind(rows);
    query
}

/// Lists one page of all games, the newest first.
pub async fn list_games(
    executor: impl PgExecutor<'_>,
    after: Option<GameId>,
    rows: i64,
) -> Result<Vec<Game>> {
    Ok(list_games_query(after, rows).build_query_as().fetch_all(executor).await?)
}

/// Creates a game. Two games may have the same title.
pub async fn create_game(
    executor: impl PgExecutor<'_>,
    fields: &GameFields,
    now: DateTime<Utc>,
) -> Result<Game> {
    let game = sqlx::query_as!(
        Game,
        "insert into games (id, title, normalised_title, match_title, publisher, released_on, url, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $8)
         returning id, title, publisher, released_on, url, created_at, updated_at",
        Uuid::now_v7(),
        fields.title,
        title::normalise(&fields.title),
        title::key(&fields.title),
        fields.publisher,
        fields.released_on,
        fields.url,
        now,
    )
    .fetch_one(executor)
    .await?;
    Ok(game)
}

/// Changes a game to the result of `change`, which receives the locked row and may refuse.
///
/// # Errors
/// `NotFound`: there is no such game. Also the errors of `change`.
pub async fn update_game(
    pool: &PgPool,
    id: GameId,
    now: DateTime<Utc>,
    change: impl FnOnce(&Game) -> Result<GameFields>,
) -> Result<Game> {
    let mut transaction = pool.begin().await?;
    let game = lock_game(&mut *transaction, id).await?;
    let fields = change(&game)?;
    let unchanged = GameFields {
        title: game.title.clone(),
        publisher: game.publisher.clone(),
        released_on: game.released_on,
        url: game.url.clone(),
    };
    if fields == unchanged {
        return Ok(game);
    }
    let game = sqlx::query_as!(
        Game,
        "update games
         set title = $2, normalised_title = $3, match_title = $4, publisher = $5, released_on = $6, url = $7, updated_at = $8
         where id = $1
         returning id, title, publisher, released_on, url, created_at, updated_at",
        id.0,
        fields.title,
        title::normalise(&fields.title),
        title::key(&fields.title),
        fields.publisher,
        fields.released_on,
        fields.url,
        now,
    )
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(game)
}

/// Removes a game with its offers, their history, and its watches, unless `check` refuses.
///
/// # Errors
/// `NotFound`: there is no such game. Also the errors of `check`.
pub async fn delete_game(pool: &PgPool, id: GameId, check: impl FnOnce(&Game) -> Result<()>) -> Result<()> {
    let mut transaction = pool.begin().await?;
    check(&lock_game(&mut *transaction, id).await?)?;
    let offers = sqlx::query_scalar!("select id from offers where game_id = $1 order by id for update", id.0)
        .fetch_all(&mut *transaction)
        .await?;
    let offers: Vec<OfferId> = offers.into_iter().map(OfferId).collect();
    delete_offers(&mut transaction, &offers).await?;
    sqlx::query!("delete from games where id = $1", id.0).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(())
}

async fn lock_game(executor: impl PgExecutor<'_>, id: GameId) -> Result<Game> {
    sqlx::query_as!(
        Game,
        "select id, title, publisher, released_on, url, created_at, updated_at from games
         where id = $1 for update",
        id.0,
    )
    .fetch_optional(executor)
    .await?
    .ok_or_else(|| Error::not_found("game"))
}
