//! The service `salebell.v1.Games`: the catalogue, as `/v1/games` has it.

use async_stream::try_stream;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::convert::{given, id, instant, of_field, offer};
use super::pb::{self, games_server};
use crate::api::catalogue::{find_games, offers_of_game};
use crate::api::history::{HistoryPage, HistoryQuery};
use crate::api::page::{MAX_LIMIT, Page, Paging};
use crate::app::App;
use crate::domain::history::Resolution;
use crate::error::{Error, Result};

/// The service `salebell.v1.Games`.
pub struct GamesService {
    app: App,
}

impl GamesService {
    pub fn new(app: App) -> GamesService {
        GamesService { app }
    }
}

#[tonic::async_trait]
impl games_server::Games for GamesService {
    type ListPricesStream = BoxStream<'static, Result<pb::GamesListPricesResponse, Status>>;

    async fn search(
        &self,
        request: Request<pb::GamesSearchRequest>,
    ) -> Result<Response<pb::GamesSearchResponse>, Status> {
        let pb::GamesSearchRequest { text, limit, cursor } = request.into_inner();
        let paging = paging(limit.map(i64::from), &cursor, &format!("Search {text:?}"))?;
        let page = find_games(&self.app, "text", Some(&text), &paging).await.map_err(of_field)?;
        let Page { items, next_cursor } = page.map(pb::Game::from);
        Ok(Response::new(pb::GamesSearchResponse { games: items, next_cursor }))
    }

    async fn get(
        &self,
        request: Request<pb::GamesGetRequest>,
    ) -> Result<Response<pb::GamesGetResponse>, Status> {
        let text = &request.get_ref().id;
        let game = self.app.games.find_game(id("game", text)?).await?;
        let game = game.ok_or_else(|| Error::not_found("game").about(text))?;
        Ok(Response::new(pb::GamesGetResponse { game: Some(game.into()) }))
    }

    async fn list_offers(
        &self,
        request: Request<pb::GamesListOffersRequest>,
    ) -> Result<Response<pb::GamesListOffersResponse>, Status> {
        let pb::GamesListOffersRequest { game_id, store, region, limit, cursor } = request.into_inner();
        let query = format!("ListOffers {game_id:?} {store:?} {region:?}");
        let paging = paging(limit.map(i64::from), &cursor, &query)?;
        let game = id("game", &game_id)?;
        let page = offers_of_game(&self.app, game, given(&store), given(&region), &paging).await;
        let now = self.app.clock.now();
        let page = page.map_err(|error| of_field(error).about(&game_id))?;
        let Page { items, next_cursor } = page.map(|found| offer(found, now));
        Ok(Response::new(pb::GamesListOffersResponse { offers: items, next_cursor }))
    }

    async fn list_prices(
        &self,
        request: Request<pb::GamesListPricesRequest>,
    ) -> Result<Response<Self::ListPricesStream>, Status> {
        let request = request.into_inner();
        let query = read_query(&request).map_err(of_field)?;
        let limit = request.limit.map_or(MAX_LIMIT, i64::from);
        let name = pb::GamesListPricesRequest { limit: None, cursor: String::new(), ..request.clone() };
        let name = format!("ListPrices {name:?}");
        let (app, game_id) = (self.app.clone(), request.game_id);
        let refusal = move |error| Status::from(of_field(error).about(&game_id));
        // The first page is loaded before the headers of the response: a refusal is the response to the call.
        let first = paging(Some(limit), &request.cursor, &name)?;
        let mut page = query.load(&app, &first).await.map_err(&refusal)?;
        Ok(Response::new(
            try_stream! {
                loop {
                    let message = message_of(page);
                    let next = message.next_cursor.clone();
                    yield message;
                    let Some(next) = next else { break };
                    let paging = paging(Some(limit), &next, &name)?;
                    page = query.load(&app, &paging).await.map_err(&refusal)?;
                }
            }
            .boxed(),
        ))
    }
}

/// The page of a list that a request names; `query` names the list and its filters.
fn paging(limit: Option<i64>, cursor: &str, query: &str) -> Result<Paging> {
    Paging::new(limit, given(cursor).map(str::to_owned), query).map_err(of_field)
}

fn read_query(request: &pb::GamesListPricesRequest) -> Result<HistoryQuery> {
    let resolution = match pb::Resolution::try_from(request.resolution) {
        Ok(pb::Resolution::Unspecified | pb::Resolution::Change) => Resolution::Change,
        Ok(pb::Resolution::Day) => Resolution::Day,
        Ok(pb::Resolution::Week) => Resolution::Week,
        Ok(pb::Resolution::Month) => Resolution::Month,
        Err(_) => return Err(Error::invalid("/resolution", "is unknown")),
    };
    Ok(HistoryQuery {
        game_id: id("game", &request.game_id)?,
        store: given(&request.store).map(str::to_owned),
        region: given(&request.region).map(str::to_owned),
        since: instant("since", request.since)?,
        until: instant("until", request.until)?,
        resolution,
    })
}

fn message_of(page: HistoryPage) -> pb::GamesListPricesResponse {
    match page {
        HistoryPage::Changes(page) => {
            let Page { items, next_cursor } = page.map(pb::PriceChange::from);
            pb::GamesListPricesResponse { changes: items, buckets: Vec::new(), next_cursor }
        }
        HistoryPage::Buckets(page) => {
            let Page { items, next_cursor } = page.map(pb::PriceBucket::from);
            pb::GamesListPricesResponse { changes: Vec::new(), buckets: items, next_cursor }
        }
    }
}
