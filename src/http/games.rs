//! `/v1/games`: the catalogue of games.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Datelike, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

use super::answer::{Created, Tagged};
use super::extract::body::{Id, Json, Params, bad_parameter};
use super::extract::caller::Caller;
use super::extract::conditional::{IfMatch, IfNoneMatch};
use super::extract::fields::{FieldChecks, Patch};
use super::extract::page::{Page, Paging};
use crate::app::App;
use crate::domain::ids::GameId;
use crate::domain::observation::check_text;
use crate::domain::title;
use crate::error::{Error, Result};
use crate::store::games::{self, Game, GameFields};
use crate::store::search;

/// Longest title, in characters.
const MAX_TITLE: usize = 500;
/// Longest publisher, in characters.
const MAX_PUBLISHER: usize = 200;
/// Longest search text, in characters.
const MAX_SEARCH: usize = 200;

/// A game in a response.
#[derive(Serialize)]
pub struct GameResponse {
    pub id: GameId,
    pub title: String,
    pub publisher: Option<String>,
    pub released_on: Option<NaiveDate>,
    pub url: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl From<Game> for GameResponse {
    fn from(game: Game) -> Self {
        let Game { id, title, publisher, released_on, url, created_at, updated_at } = game;
        GameResponse { id, title, publisher, released_on, url, created_at, updated_at }
    }
}

/// Body of a request that creates a game.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateGameRequest {
    title: Option<String>,
    publisher: Option<String>,
    released_on: Option<NaiveDate>,
    url: Option<String>,
}

/// Cleans a title as intake does, which keeps one game from being created twice.
fn clean_title(title: &str) -> String {
    title::clean(title).into_owned()
}

impl CreateGameRequest {
    /// Cleans the title of a client; stored titles must not be cleaned again.
    fn clean(self) -> Self {
        Self { title: self.title.as_deref().map(clean_title), ..self }
    }

    fn check(self) -> Result<GameFields> {
        let mut fields = FieldChecks::default();
        let checked = GameFields {
            title: fields.text("title", self.title.as_deref(), MAX_TITLE),
            publisher: fields.optional_text("publisher", self.publisher.as_deref(), MAX_PUBLISHER),
            released_on: self.released_on,
            url: fields.optional_url("url", self.url.as_deref()),
        };
        if self.released_on.is_some_and(|day| !(1950..=9999).contains(&day.year())) {
            fields.refuse("released_on", "must lie between the years 1950 and 9999");
        }
        fields.finish()?;
        Ok(checked)
    }
}

/// A merge patch of a game.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateGameRequest {
    #[serde(default)]
    title: Patch<String>,
    #[serde(default)]
    publisher: Patch<String>,
    #[serde(default)]
    released_on: Patch<NaiveDate>,
    #[serde(default)]
    url: Patch<String>,
}

impl UpdateGameRequest {
    fn apply(self, game: &Game) -> Result<GameFields> {
        CreateGameRequest {
            // The stored title is already clean, and decoding its entities again would change it.
            title: match self.title {
                Patch::Value(title) => Some(clean_title(&title)),
                kept => kept.apply(Some(game.title.clone())),
            },
            publisher: self.publisher.apply(game.publisher.clone()),
            released_on: self.released_on.apply(game.released_on),
            url: self.url.apply(game.url.clone()),
        }
        .check()
    }
}

/// Filters of the list: `q` is the text to search for in titles.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GameParams {
    q: Option<String>,
}

/// `GET /v1/games`: all games, the newest first, or the best matches for `q`.
pub async fn list(
    State(app): State<App>,
    Params(params): Params<GameParams>,
    paging: Paging,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<Page<GameResponse>>> {
    if let Some(text) = params.q.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
        check_text(text, MAX_SEARCH).map_err(|problem| bad_parameter("q", &problem))?;
        let found = search::search_games(&app.reader, text, paging.after()?, paging.rows()).await?;
        let page = paging.page(found, |(place, _)| *place)?;
        return Ok(if_none_match.answer(page.map(|(_, game)| GameResponse::from(game))));
    }
    let games = games::list_games(&app.reader, paging.after()?, paging.rows()).await?;
    let page = paging.page(games, |game| game.id)?;
    Ok(if_none_match.answer(page.map(GameResponse::from)))
}

/// `GET /v1/games/{id}`: a game.
pub async fn show(
    State(app): State<App>,
    Id(id): Id<GameId>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<GameResponse>> {
    let game = app.games.find_game(id).await?;
    let game = game.ok_or_else(|| Error::not_found("game"))?;
    Ok(if_none_match.answer(GameResponse::from(game)))
}

/// `POST /v1/games`: creates a game.
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(request): Json<CreateGameRequest>,
) -> Result<Created<GameResponse>> {
    caller.require("catalogue:write")?;
    let game = games::create_game(&app.writer, &request.clean().check()?, app.clock.now()).await?;
    Ok(Created { location: format!("/v1/games/{}", game.id), value: GameResponse::from(game) })
}

/// `PATCH /v1/games/{id}`: changes a game.
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<GameId>,
    if_match: IfMatch,
    Json(request): Json<UpdateGameRequest>,
) -> Result<Tagged<GameResponse>> {
    caller.require("catalogue:write")?;
    let game = games::update_game(&app.writer, id, app.clock.now(), |game| {
        if_match.check(&GameResponse::from(game.clone()))?;
        request.apply(game)
    })
    .await?;
    Ok(Tagged::new(GameResponse::from(game)))
}

/// `DELETE /v1/games/{id}`: deletes a game with its offers, their history, and every account's watches of it.
pub async fn remove(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<GameId>,
    if_match: IfMatch,
) -> Result<StatusCode> {
    caller.require("catalogue:write")?;
    let check = |game: &Game| if_match.check(&GameResponse::from(game.clone()));
    games::delete_game(&app.writer, id, check).await?;
    Ok(StatusCode::NO_CONTENT)
}
