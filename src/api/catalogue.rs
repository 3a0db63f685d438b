//! Pages of the catalogue: games and offers.

use super::page::{Page, Paging};
use super::parameters::{bad_parameter, named_regions, named_store};
use crate::app::App;
use crate::domain::ids::GameId;
use crate::domain::observation::check_text;
use crate::error::{Error, Result};
use crate::store::games::{self, Game};
use crate::store::offers::{self, Offer, OfferFilter};
use crate::store::search;

/// Longest search text, in characters.
const MAX_SEARCH: usize = 200;

/// Lists all games, the newest first, or those that match a text, the best match first. `name` is the parameter that
/// holds the text.
///
/// # Errors
/// `Malformed` if the text or the cursor is invalid.
pub async fn find_games(app: &App, name: &str, text: Option<&str>, paging: &Paging) -> Result<Page<Game>> {
    if let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) {
        check_text(text, MAX_SEARCH).map_err(|problem| bad_parameter(name, &problem))?;
        let found = search::search_games(app.reader(), text, paging.after()?, paging.rows()).await?;
        let page = paging.page(found, |(place, _)| *place)?;
        return Ok(page.map(|(_, game)| game));
    }
    let games = games::list_games(app.reader(), paging.after()?, paging.rows()).await?;
    paging.page(games, |game| game.id)
}

/// Lists the offers that match a filter, in order of creation.
///
/// # Errors
/// `Malformed` if the cursor is invalid.
pub async fn list_offers(app: &App, filter: &OfferFilter, paging: &Paging) -> Result<Page<Offer>> {
    let offers = offers::list_offers(app.reader(), filter, paging.after()?, paging.rows()).await?;
    paging.page(offers, |offer| offer.id)
}

/// Lists the offers of a game: of one store, or those that are valid in a region, if they are named.
///
/// # Errors
/// `NotFound` if there is no such game, `Malformed` if a parameter is invalid.
pub async fn offers_of_game(
    app: &App,
    game_id: GameId,
    store: Option<&str>,
    region: Option<&str>,
    paging: &Paging,
) -> Result<Page<Offer>> {
    if !games::game_exists(app.reader(), game_id).await? {
        return Err(Error::not_found("game"));
    }
    let filter = OfferFilter {
        id: None,
        game_id: Some(game_id),
        store_id: named_store(app, store).await?.map(|store| store.id),
        regions: named_regions(region)?,
    };
    list_offers(app, &filter, paging).await
}
