//! `salebell.v1.Games`: the catalogue, which is that of HTTP.

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use prost_types::Timestamp;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::support::TestApp;
use crate::support::grpc::{games, message, observation, pb, prices, with_token};

const FIRST: i64 = 1_700_000_000;
const DAY: i64 = 86_400;

/// An app with the prices of games `a` and `b`: that of `a` changed each day, and is on sale.
async fn catalogue() -> TestApp {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &["prices:write", "catalogue:write"]).await;
    let at = |day: i64, sku: &str, amount: &str| pb::Observation {
        observed_at: Some(Timestamp { seconds: FIRST + day * DAY, nanos: 0 }),
        regular_price: Some(pb::Money { amount: "20.00".to_owned(), currency: "EUR".to_owned() }),
        platform: "windows".to_owned(),
        ..observation(sku, amount)
    };
    let observations = [at(0, "a", "20.00"), at(1, "a", "18.00"), at(2, "a", "15.00"), at(0, "b", "20.00")];
    let request = with_token(stream::iter([message(&observations)]), &anna.token);
    assert_eq!(prices(&app).report(request).await.unwrap().into_inner().accepted, 4);
    app.record_all().await;
    app
}

async fn http(app: &TestApp, path: &str) -> Value {
    app.get(path).send().await.unwrap().json().await.unwrap()
}

async fn game_a(app: &TestApp) -> pb::Game {
    let search = pb::GamesSearchRequest { text: "Game a".to_owned(), ..Default::default() };
    games(app).search(search).await.unwrap().into_inner().games.swap_remove(0)
}

fn text(at: &Option<Timestamp>) -> Value {
    let text = |at: &Timestamp| {
        let at: DateTime<Utc> = DateTime::from_timestamp(at.seconds, at.nanos as u32).unwrap();
        json!(at)
    };
    at.as_ref().map_or(Value::Null, text)
}

fn money(money: &Option<pb::Money>) -> Value {
    let json = |money: &pb::Money| json!({"amount": money.amount, "currency": money.currency});
    money.as_ref().map_or(Value::Null, json)
}

fn store(store: &Option<pb::StoreReference>) -> Value {
    let store = store.as_ref().unwrap();
    json!({"id": store.id, "slug": store.slug, "name": store.name})
}

#[tokio::test]
async fn a_game_and_its_offers_are_those_of_http() {
    let app = catalogue().await;
    let game = game_a(&app).await;
    let got = games(&app)
        .get(pb::GamesGetRequest { id: game.id.clone() })
        .await
        .unwrap()
        .into_inner()
        .game
        .unwrap();
    assert_eq!(got, game);
    let shown = json!({
        "id": got.id, "title": got.title, "publisher": got.publisher, "released_on": got.released_on,
        "url": got.url, "created_at": text(&got.created_at), "updated_at": text(&got.updated_at),
    });
    assert_eq!(shown, http(&app, &format!("/v1/games/{}", game.id)).await);
    let request = pb::GamesListOffersRequest { game_id: game.id.clone(), ..Default::default() };
    let answer = games(&app).list_offers(request).await.unwrap().into_inner();
    let offer = &answer.offers[0];
    assert!(offer.on_sale && offer.cut == Some(25), "{offer:?}");
    let shown = json!({
        "id": offer.id, "game_id": offer.game_id, "store": store(&offer.store), "sku": offer.sku,
        "region": offer.region, "platform": offer.platform, "url": offer.url,
        "price": money(&offer.price), "regular_price": money(&offer.regular_price), "cut": offer.cut,
        "on_sale": offer.on_sale, "available": offer.available, "observed_at": text(&offer.observed_at),
        "unknown_since": text(&offer.unknown_since), "low": money(&offer.low), "low_at": text(&offer.low_at),
        "was_free_at": text(&offer.was_free_at), "sale_started_at": text(&offer.sale_started_at),
        "sale_ends_at": text(&offer.sale_ends_at), "created_at": text(&offer.created_at),
        "updated_at": text(&offer.updated_at),
    });
    let path = format!("/v1/games/{}/offers", game.id);
    assert_eq!(json!({"items": [shown], "next_cursor": null}), http(&app, &path).await);
    assert_eq!(answer.next_cursor, None);
}

async fn history(
    app: &TestApp,
    request: pb::GamesListPricesRequest,
) -> Result<Vec<pb::GamesListPricesResponse>, Status> {
    let messages = games(app).list_prices(request).await?.into_inner().collect::<Vec<_>>().await;
    messages.into_iter().collect()
}

#[tokio::test]
async fn a_history_is_sent_to_its_end_and_resumed_anywhere() {
    let app = catalogue().await;
    let game_id = game_a(&app).await.id;
    let request = pb::GamesListPricesRequest { game_id: game_id.clone(), ..Default::default() };
    let whole = history(&app, request.clone()).await.unwrap();
    assert_eq!((whole.len(), whole[0].changes.len(), &whole[0].next_cursor), (1, 3, &None));
    let path = format!("/v1/games/{game_id}/prices");
    let http = http(&app, &path).await;
    for (change, item) in whole[0].changes.iter().zip(http["items"].as_array().unwrap()) {
        let offer = change.offer.as_ref().unwrap();
        let shown = json!({
            "offer_id": offer.id, "store": store(&offer.store), "region": offer.region,
            "platform": offer.platform, "observed_at": text(&change.observed_at),
            "price": money(&change.price), "regular_price": money(&change.regular_price), "cut": change.cut,
            "available": change.available, "holds_until": text(&change.holds_until),
        });
        assert_eq!(&shown, item);
    }
    let request = pb::GamesListPricesRequest { limit: Some(1), ..request };
    let single = history(&app, request.clone()).await.unwrap();
    let changes: Vec<_> = single.iter().flat_map(|page| page.changes.clone()).collect();
    assert_eq!((single.len(), &changes), (3, &whole[0].changes));
    let cursor = single[0].next_cursor.clone().unwrap();
    // The rest may come in pages of another length.
    let rest = pb::GamesListPricesRequest { cursor, limit: Some(2), ..request.clone() };
    assert_eq!(history(&app, rest).await.unwrap()[0].changes, whole[0].changes[1..]);
    let days = pb::GamesListPricesRequest {
        resolution: pb::Resolution::Day.into(),
        since: Some(Timestamp { seconds: FIRST, nanos: 0 }),
        until: Some(Timestamp { seconds: FIRST + 2 * DAY, nanos: 0 }),
        ..request
    };
    let days = history(&app, days).await.unwrap();
    assert!(days.iter().all(|page| page.changes.is_empty() && page.buckets.len() == 1), "{days:?}");
    assert_eq!(money(&days[0].buckets[0].last), json!({"amount": "20.00", "currency": "EUR"}));
}

#[tokio::test]
async fn a_cursor_belongs_to_its_query() {
    let app = catalogue().await;
    let search = async |text: &str, cursor: &str| {
        let (text, cursor) = (text.to_owned(), cursor.to_owned());
        games(&app)
            .search(pb::GamesSearchRequest { text, limit: Some(1), cursor })
            .await
            .map(|it| it.into_inner())
    };
    let first = search("game", "").await.unwrap();
    let cursor = first.next_cursor.unwrap();
    let second = search("game", &cursor).await.unwrap();
    assert_ne!(first.games[0].id, second.games[0].id);
    assert_eq!((second.games.len(), second.next_cursor), (1, None));
    for (text, cursor) in [("", cursor.as_str()), ("game", "what")] {
        let refusal = search(text, cursor).await.unwrap_err();
        let details = refusal.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "cursor");
    }
}

#[tokio::test]
async fn a_refusal_names_the_field_or_the_resource() {
    let app = catalogue().await;
    let game_id = game_a(&app).await.id;
    let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let valid = || pb::GamesListPricesRequest { game_id: game_id.clone(), ..Default::default() };
    for (field, request) in [
        ("store", pb::GamesListPricesRequest { store: "what".to_owned(), ..valid() }),
        ("region", pb::GamesListPricesRequest { region: "what".to_owned(), ..valid() }),
        ("since", pb::GamesListPricesRequest { since: at(-1), ..valid() }),
        ("until", pb::GamesListPricesRequest { since: at(5), until: at(5), ..valid() }),
        ("resolution", pb::GamesListPricesRequest { resolution: 99, ..valid() }),
        ("limit", pb::GamesListPricesRequest { limit: Some(201), ..valid() }),
        ("limit", pb::GamesListPricesRequest { limit: Some(0), ..valid() }),
    ] {
        let refusal = history(&app, request).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal:?}");
        let details = refusal.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, field, "{refusal:?}");
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("invalid", "salebell"));
        assert!(refusal.message().starts_with(&format!("{field} ")), "{refusal:?}");
        let id = details.request_info().unwrap().request_id.as_str();
        assert_eq!(refusal.metadata().get("x-request-id").unwrap(), id);
    }
    let text = pb::GamesSearchRequest { text: "x".repeat(201), ..Default::default() };
    let refusal = games(&app).search(text).await.unwrap_err();
    assert_eq!(refusal.get_error_details().bad_request().unwrap().field_violations[0].field, "text");
    for id in [Uuid::now_v7().to_string(), "what".to_owned()] {
        let offers = pb::GamesListOffersRequest { game_id: id.clone(), ..Default::default() };
        let prices = pb::GamesListPricesRequest { game_id: id.clone(), ..Default::default() };
        for refusal in [
            games(&app).get(pb::GamesGetRequest { id: id.clone() }).await.unwrap_err(),
            games(&app).list_offers(offers).await.unwrap_err(),
            history(&app, prices).await.unwrap_err(),
        ] {
            assert_eq!(refusal.code(), Code::NotFound);
            let details = refusal.get_error_details();
            let resource = details.resource_info().unwrap();
            assert_eq!((resource.resource_type.as_str(), &resource.resource_name), ("game", &id));
        }
    }
}
