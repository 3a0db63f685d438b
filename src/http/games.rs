//! `/v1/games`: the catalogue of games.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Datelike, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::{Created, Tagged};
use super::extract::body::{Id, Json, Params};
use super::extract::caller::Caller;
use super::extract::conditional::{IfMatch, IfNoneMatch};
use super::extract::fields::{FieldChecks, Patch};
use super::extract::page::{Page, Paging};
use crate::api::catalogue::find_games;
use crate::app::App;
use crate::domain::ids::GameId;
use crate::domain::title;
use crate::error::{Error, Result};
use crate::store::games::{self, Game, GameFields};

/// Longest title, in characters.
const MAX_TITLE: usize = 500;
/// Longest publisher, in characters.
const MAX_PUBLISHER: usize = 200;

/// A game in a response.
#[derive(Serialize, ToSchema)]
#[schema(as = Game, example = json!({
    "id": "01a0b6f2-0f5c-7d3e-8a4b-1c2d3e4f5a6b",
    "title": "The Witcher® 3: Wild Hunt",
    "publisher": "CD PROJEKT RED",
    "released_on": "2015-05-18",
    "url": "https://thewitcher.example/3",
    "created_at": "2026-11-29T10:00:00Z",
    "updated_at": "2026-11-29T10:00:00Z",
}))]
pub struct GameResponse {
    pub id: GameId,
    pub title: String,
    #[schema(required)]
    pub publisher: Option<String>,
    #[schema(required)]
    pub released_on: Option<NaiveDate>,
    /// Its own page on the web.
    #[schema(required)]
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
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({
    "title": "The Witcher® 3: Wild Hunt",
    "publisher": "CD PROJEKT RED",
    "released_on": "2015-05-18",
    "url": "https://thewitcher.example/3",
}))]
#[serde(deny_unknown_fields)]
pub struct CreateGameRequest {
    /// Title, which is stored without HTML entities, invisible characters and superfluous white space.
    #[schema(
        value_type = String,
        min_length = 1,
        max_length = 500,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x1f\x7f-\x9f\s][^\x00-\x1f\x7f-\x9f]*$",
    )]
    title: Option<String>,
    /// Publisher; an empty text means none.
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    publisher: Option<String>,
    /// Day of the release, from the year 1950 on.
    #[schema(pattern = r"^(19[5-9][0-9]|[2-9][0-9]{3})-[0-9]{2}-[0-9]{2}$")]
    released_on: Option<NaiveDate>,
    /// Its own page on the web.
    #[schema(format = "uri", max_length = 2000, pattern = r"^https?://[^/?#]")]
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
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"released_on": "2015-05-19", "url": null}))]
#[serde(deny_unknown_fields)]
pub struct UpdateGameRequest {
    #[serde(default)]
    #[schema(
        value_type = String,
        required = false,
        min_length = 1,
        max_length = 500,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x1f\x7f-\x9f\s][^\x00-\x1f\x7f-\x9f]*$",
    )]
    title: Patch<String>,
    /// Publisher; an empty text means none.
    #[serde(default)]
    #[schema(value_type = Option<String>, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    publisher: Patch<String>,
    /// Day of the release, from the year 1950 on.
    #[serde(default)]
    #[schema(value_type = Option<NaiveDate>, pattern = r"^(19[5-9][0-9]|[2-9][0-9]{3})-[0-9]{2}-[0-9]{2}$")]
    released_on: Patch<NaiveDate>,
    /// Its own page on the web.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = "uri", max_length = 2000, pattern = r"^https?://[^/?#]")]
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

/// Filters of the list.
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct GameParams {
    /// Text to search for in titles; misspelt words are found as well.
    #[param(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    q: Option<String>,
}

/// Lists all games, the newest first, or those that match `q`, the best match first.
#[utoipa::path(get, path = "/v1/games", operation_id = "list_games", tag = "catalogue")]
pub async fn list(
    State(app): State<App>,
    Params(params): Params<GameParams>,
    paging: Paging,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<Page<GameResponse>>> {
    let page = find_games(&app, "q", params.q.as_deref(), &paging).await?;
    Ok(if_none_match.answer(page.map(GameResponse::from)))
}

/// Returns a game.
#[utoipa::path(get, path = "/v1/games/{id}", operation_id = "get_game", tag = "catalogue")]
pub async fn show(
    State(app): State<App>,
    Id(id): Id<GameId>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<GameResponse>> {
    let game = app.games.find_game(id).await?;
    let game = game.ok_or_else(|| Error::not_found("game"))?;
    Ok(if_none_match.answer(GameResponse::from(game)))
}

/// Creates a game.
///
/// Two games may have the same title.
#[utoipa::path(
    post,
    path = "/v1/games",
    operation_id = "create_game",
    tag = "catalogue",
    security(("token" = ["catalogue:write"])),
)]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(request): Json<CreateGameRequest>,
) -> Result<Created<GameResponse>> {
    caller.require("catalogue:write")?;
    let game = games::create_game(&app.writer, &request.clean().check()?, app.clock.now()).await?;
    Ok(Created { location: format!("/v1/games/{}", game.id), value: GameResponse::from(game) })
}

/// Changes a game.
#[utoipa::path(
    patch,
    path = "/v1/games/{id}",
    operation_id = "update_game",
    tag = "catalogue",
    security(("token" = ["catalogue:write"])),
)]
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

/// Deletes a game with its offers, their history, and every account's watches of it.
#[utoipa::path(
    delete,
    path = "/v1/games/{id}",
    operation_id = "delete_game",
    tag = "catalogue",
    security(("token" = ["catalogue:write"])),
)]
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
