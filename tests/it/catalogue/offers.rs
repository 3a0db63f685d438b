//! Offers: created by hand, shown with their price, filtered.

use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::support::TestApp;
use crate::support::catalogue::{Price, answer};

#[tokio::test]
async fn an_offer_shows_its_price_and_its_sale() {
    let app = TestApp::spawn().await;
    let user = app.librarian().await;
    let (game, store) = (app.new_game(&user, "A").await, app.new_store(&user, "Steam").await);
    let body =
        json!({"game_id": game, "store": "Steam", "sku": "app/1", "region": "de", "platform": "Windows"});
    let created = app.create(&user, "/v1/offers", body.clone()).await;
    assert_eq!(created.status, 201, "{}", created.body);
    let path = format!("/v1/offers/{}", created.id());
    assert_eq!(created.header("location"), path);
    assert_eq!(created.body["store"], json!({"id": store, "slug": "steam", "name": "Steam"}));
    assert_eq!(
        (created.body["region"].as_str(), created.body["platform"].as_str()),
        (Some("DE"), Some("windows"))
    );
    for field in
        ["price", "regular_price", "low", "cut", "observed_at", "low_at", "sale_started_at", "sale_ends_at"]
    {
        assert_eq!(created.body[field], json!(null), "{field}");
    }
    assert_eq!(created.body["on_sale"], false);
    assert_eq!(app.create(&user, "/v1/offers", body).await.status, 409);

    let price = |amount, minute| Price {
        currency: "EUR",
        amount,
        regular: 1849,
        new_low: false,
        observed_at: app.minute(minute),
    };
    app.set_price(created.id(), &price(1479, 1)).await;
    app.set_price(created.id(), &price(1849, 2)).await;
    let shown = app.read(&path).await;
    assert_eq!((shown["on_sale"].as_bool(), shown["cut"].as_i64()), (Some(false), Some(0)));
    assert_eq!(shown["low"], json!({"amount": "14.79", "currency": "EUR"}));
    assert_eq!(shown["low_at"], "2026-01-01T00:01:00Z");

    app.set_price(created.id(), &price(925, 3)).await;
    let shown = app.read(&path).await;
    assert_eq!(shown["price"], json!({"amount": "9.25", "currency": "EUR"}));
    assert_eq!(shown["regular_price"], json!({"amount": "18.49", "currency": "EUR"}));
    assert_eq!((shown["on_sale"].as_bool(), shown["cut"].as_i64()), (Some(true), Some(50)));
    assert_eq!(shown["sale_started_at"], "2026-01-01T00:03:00Z");
    assert_eq!(shown["observed_at"], "2026-01-01T00:03:00Z");
    assert_eq!(app.read(&format!("/v1/games/{game}/offers")).await["items"], json!([shown]));
}

#[tokio::test]
async fn an_offer_moves_to_another_game_with_its_deal() {
    let app = TestApp::spawn().await;
    let user = app.librarian().await;
    let (wrong, right) = (app.new_game(&user, "Wrong").await, app.new_game(&user, "Right").await);
    let store = app.new_store(&user, "Steam").await;
    let offer = app.new_offer(&user, wrong, store, "ZZ").await;
    let price =
        Price { currency: "EUR", amount: 500, regular: 1000, new_low: false, observed_at: app.minute(0) };
    app.set_price(offer, &price).await;
    let path = format!("/v1/offers/{offer}");
    let before = answer(app.get(&path)).await;
    let patch = |body| app.request(Method::PATCH, &path).bearer_auth(&user.token).json(&body);
    let moved = answer(
        patch(json!({"game_id": right, "platform": "Switch", "url": "https://s/1"}))
            .header("if-match", before.header("etag")),
    )
    .await;
    assert_eq!(moved.status, 200, "{}", moved.body);
    assert_eq!(
        (moved.body["game_id"].as_str(), moved.body["platform"].as_str()),
        (Some(right.to_string().as_str()), Some("switch"))
    );
    let sale: (Uuid, Option<String>) =
        sqlx::query_as("select game_id, platform from sales where offer_id = $1")
            .bind(offer)
            .fetch_one(&app.state.writer)
            .await
            .unwrap();
    assert_eq!(sale, (right, Some("switch".to_owned())));
    let again = answer(patch(json!({"url": null})).header("if-match", before.header("etag"))).await;
    assert_eq!(again.status, 412);
    for (body, pointer) in [
        (json!({"game_id": Uuid::now_v7()}), "/game_id"),
        (json!({"game_id": null}), "/game_id"),
        (json!({"sku": "other"}), "/sku"),
        (json!({"url": "x"}), "/url"),
    ] {
        let refused = answer(patch(body)).await;
        assert_eq!((refused.status.as_u16(), refused.pointers()), (422, vec![pointer]), "{}", refused.body);
    }
    assert_eq!(answer(app.request(Method::DELETE, &path).bearer_auth(&user.token)).await.status, 204);
    assert_eq!(answer(app.get(&path)).await.status, 404);
}

#[tokio::test]
async fn missing_fields_of_an_offer_are_named() {
    let app = TestApp::spawn().await;
    let user = app.librarian().await;
    let (game, _) = (app.new_game(&user, "A").await, app.new_store(&user, "Steam").await);
    let refused = app.create(&user, "/v1/offers", json!({"region": "Germany"})).await;
    assert_eq!(refused.pointers(), ["/store", "/sku", "/region", "/game_id"]);
    for (body, pointer) in [
        (json!({"game_id": game, "store": "Nobody", "sku": "1"}), "/store"),
        (json!({"game_id": Uuid::now_v7(), "store": "steam", "sku": "1"}), "/game_id"),
        (json!({"game_id": "x", "store": "steam", "sku": "1"}), "/game_id"),
        (json!({"game_id": game, "store": "steam", "sku": "1", "price": "9.99"}), "/price"),
    ] {
        let refused = app.create(&user, "/v1/offers", body).await;
        assert_eq!((refused.status.as_u16(), refused.pointers()), (422, vec![pointer]), "{}", refused.body);
    }
}

#[tokio::test]
async fn offers_are_filtered_and_paged() {
    let app = TestApp::spawn().await;
    let user = app.librarian().await;
    let mut all = Vec::new();
    let mut games = Vec::new();
    for number in 0..3 {
        games.push(app.new_game(&user, &format!("Game {number}")).await);
    }
    for store in ["Steam", "Epic"] {
        let id = app.new_store(&user, store).await;
        for game in &games {
            for region in ["ZZ", "DE", "US"] {
                let offer = app.new_offer(&user, *game, id, region).await;
                all.push((offer.to_string(), store, region, game.to_string()));
            }
        }
    }
    let expect = |wanted: &dyn Fn(&str, &str, &str) -> bool| {
        let wanted = |(_, store, region, game): &&(String, &str, &str, String)| wanted(store, region, game);
        all.iter().filter(wanted).map(|(id, ..)| id.clone()).collect::<Vec<_>>()
    };
    let game = games[1].to_string();
    for (path, expected) in [
        ("/v1/offers".to_owned(), expect(&|_, _, _| true)),
        ("/v1/offers?store=steam".to_owned(), expect(&|store, _, _| store == "Steam")),
        ("/v1/offers?region=de".to_owned(), expect(&|_, region, _| region == "DE")),
        ("/v1/offers?store=epic&region=US".to_owned(), expect(&|s, r, _| s == "Epic" && r == "US")),
        (format!("/v1/offers?game_id={game}&store=epic"), expect(&|s, _, g| s == "Epic" && g == game)),
        (format!("/v1/games/{game}/offers"), expect(&|_, _, g| g == game)),
        // A buyer in Germany can buy what is sold there and what is sold everywhere.
        (format!("/v1/games/{game}/offers?region=DE"), expect(&|_, r, g| g == game && r != "US")),
        (format!("/v1/games/{game}/offers?region=ZZ"), expect(&|_, r, g| g == game && r == "ZZ")),
        (format!("/v1/games/{game}/offers?store=steam"), expect(&|s, _, g| g == game && s == "Steam")),
    ] {
        for limit in [2, 200] {
            let found = app.read_all(&path, limit).await;
            let ids: Vec<_> = found.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect();
            assert_eq!(ids, expected, "{path}");
        }
    }
    for path in
        ["/v1/offers?store=nobody", "/v1/offers?region=Germany", "/v1/offers?game_id=1", "/v1/offers?sku=1"]
    {
        assert_eq!(answer(app.get(path)).await.status, 400, "{path}");
    }
    let cursor = app.read("/v1/offers?store=steam&limit=1").await["next_cursor"].as_str().unwrap().to_owned();
    assert_eq!(answer(app.get(&format!("/v1/offers?store=epic&limit=1&cursor={cursor}"))).await.status, 400);
}

#[tokio::test]
async fn offers_reported_for_the_uk_have_its_iso_code_after_the_migration() {
    let app = TestApp::spawn().await;
    let user = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let seen = |sku: &str, region: &str| json!({"store": "steam", "sku": sku, "region": region, "price": "5.00", "regular_price": "20.00", "currency": "GBP"});
    app.report(&user, json!([seen("a", "FR"), seen("b", "FR"), seen("b", "GB"), seen("c", "DE")])).await;
    app.record_all().await;
    let anna = app.user("anna", &[]).await;
    let game = app.read("/v1/games").await["items"][0]["id"].clone();
    let body = json!({"game_id": game, "rule": {"any_sale": {}}, "regions": ["FR", "GB", "DE"]});
    assert_eq!(
        app.post("/v1/watches").bearer_auth(&anna.token).json(&body).send().await.unwrap().status(),
        201
    );
    for before in [
        "update offers set region = 'UK' where region = 'FR'",
        "update sales set region = 'UK' where region = 'FR'",
        "update watches set regions = array_replace(regions, 'FR', 'UK')",
    ] {
        sqlx::query(before).execute(&app.state.writer).await.unwrap();
    }
    let regions = async || {
        sqlx::query_scalar::<_, String>(
            "select string_agg(concat_ws(' ', o.sku, o.region, s.region), ', ' order by o.sku, o.region)
                || '; ' || (select array_to_string(array(select unnest(regions) order by 1), ' ') from watches)
             from offers o join sales s on s.offer_id = o.id",
        )
        .fetch_one(&app.state.writer)
        .await
        .unwrap()
    };
    // Twice: the second time there is nothing to do.
    for _ in 0..2 {
        let migration = include_str!("../../../migrations/20261129040200_rename_uk.sql");
        sqlx::raw_sql(migration).execute(&app.state.writer).await.unwrap();
        assert_eq!(regions().await, "a GB GB, b GB GB, b UK UK, c DE DE; DE GB");
    }
}
