//! Stores, identified by id, slug and name.

use reqwest::Method;
use serde_json::json;

use crate::support::TestApp;
use crate::support::catalogue::{Price, answer};

#[tokio::test]
async fn a_store_is_known_by_its_id_and_its_slug() {
    let app = TestApp::spawn().await;
    let user = app.librarian().await;
    let created = app.create(&user, "/v1/stores", json!({"name": "GOG.com", "url": "https://gog.com"})).await;
    assert_eq!((created.status.as_u16(), created.body["slug"].as_str()), (201, Some("gog-com")));
    assert_eq!(app.read(&format!("/v1/stores/{}", created.id())).await, created.body);
    let by_slug = answer(app.get("/v1/stores/gog-com")).await;
    assert_eq!((&by_slug.body, by_slug.header("etag")), (&created.body, created.header("etag")));

    let patch = |body| app.request(Method::PATCH, "/v1/stores/gog-com").bearer_auth(&user.token).json(&body);
    let patched = answer(patch(json!({"name": "GOG", "url": null}))).await;
    assert_eq!(patched.body["name"], "GOG");
    assert_eq!((patched.body["slug"].as_str(), &patched.body["url"]), (Some("gog-com"), &json!(null)));
    let stale = answer(patch(json!({"name": "X"})).header("if-match", by_slug.header("etag"))).await;
    assert_eq!(stale.status, 412);

    app.new_store(&user, "Steam").await;
    let taken = answer(patch(json!({"slug": "steam"}))).await;
    assert_eq!((taken.status.as_u16(), taken.body["type"].as_str()), (409, Some("/problems/conflict")));
    assert_eq!(app.create(&user, "/v1/stores", json!({"name": "STEAM"})).await.status, 409);
    for (body, pointer) in [
        (json!({"name": "A", "slug": "Not A Slug"}), "/slug"),
        (json!({"name": "!!!"}), "/name"),
        (json!({"slug": "a"}), "/name"),
        (json!({"name": "A", "url": "ftp://a"}), "/url"),
        (json!({"name": "A", "country": "DE"}), "/country"),
    ] {
        let refused = app.create(&user, "/v1/stores", body).await;
        assert_eq!((refused.status.as_u16(), refused.pointers()), (422, vec![pointer]), "{}", refused.body);
    }
}

#[tokio::test]
async fn stores_are_listed_by_slug() {
    let app = TestApp::spawn().await;
    let user = app.librarian().await;
    for name in ["Steam", "Epic", "GOG.com", "Itch", "Humble"] {
        app.new_store(&user, name).await;
    }
    for limit in [1, 2, 200] {
        let items = app.read_all("/v1/stores", limit).await;
        let slugs: Vec<_> = items.iter().map(|item| item["slug"].as_str().unwrap()).collect();
        assert_eq!(slugs, ["epic", "gog-com", "humble", "itch", "steam"]);
    }
}

#[tokio::test]
async fn a_store_goes_with_its_offers_and_their_history() {
    let app = TestApp::spawn().await;
    let user = app.librarian().await;
    let (going, staying) = (app.new_store(&user, "Going").await, app.new_store(&user, "Staying").await);
    let game = app.new_game(&user, "A").await;
    for store in [going, staying] {
        let offer = app.new_offer(&user, game, store, "ZZ").await;
        let price =
            Price { currency: "EUR", amount: 500, regular: 1000, new_low: false, observed_at: app.minute(0) };
        app.set_price(offer, &price).await;
    }
    // More offers than fit into one slice.
    sqlx::query(
        "insert into offers (id, game_id, store_id, sku, region, created_at, updated_at)
         select gen_random_uuid(), $1, $2, n, 'ZZ', $3, $3 from generate_series(1, 2500) n",
    )
    .bind(game)
    .bind(going)
    .bind(app.minute(0))
    .execute(&app.state.writer)
    .await
    .unwrap();

    let removed = answer(app.request(Method::DELETE, "/v1/stores/going").bearer_auth(&user.token)).await;
    assert_eq!(removed.status, 204);
    let offers = app.read_all(&format!("/v1/games/{game}/offers"), 200).await;
    assert_eq!(offers.len(), 1);
    assert_eq!(offers[0]["store"]["slug"], "staying");
    for table in ["price_history", "sales"] {
        let count = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
        let left: i64 = sqlx::query_scalar(count).fetch_one(&app.state.writer).await.unwrap();
        assert_eq!(left, 1, "{table}");
    }
}
