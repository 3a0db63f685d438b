//! Quarantined prices: viewed and resolved by operators.

use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::support::TestApp;
use crate::support::catalogue::answer;

#[tokio::test]
async fn an_operator_sees_glitches_and_discards_them() {
    let app = TestApp::spawn().await;
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let operator = app.user("operator", &["operator"]).await;
    let seen = |sku: &str, price: &str, at: &str| {
        json!({"store": "Steam", "sku": sku, "title": format!("Game {sku}"), "price": price,
            "regular_price": "50.00", "currency": "EUR", "observed_at": at})
    };
    let early = "2026-01-01T00:00:00Z";
    app.report(
        &shop,
        json!([seen("a", "50.00", early), seen("b", "50.00", early), seen("c", "0.01", early)]),
    )
    .await;
    app.record_all().await;
    let late = "2026-01-02T00:00:00Z";
    app.report(&shop, json!([seen("a", "0.49", late), seen("b", "1.50", late)])).await;
    app.record_all().await;

    for (method, path) in [
        (Method::GET, "/v1/quarantine".to_owned()),
        (Method::GET, format!("/v1/quarantine/{}", Uuid::now_v7())),
        (Method::POST, format!("/v1/quarantine/{}/discard", Uuid::now_v7())),
    ] {
        let request = || app.request(method.clone(), &path);
        assert_eq!(answer(request()).await.status, 401, "{path}");
        assert_eq!(answer(request().bearer_auth(&shop.token)).await.status, 403, "{path}");
    }
    let get = async |path: &str| answer(app.get(path).bearer_auth(&operator.token)).await;
    let list = get("/v1/quarantine?limit=200").await.body;
    let skus: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|held| held["sku"].as_str().unwrap()).collect();
    assert_eq!(skus, ["a", "c"], "1.50 of 50.00 is no glitch");
    let held = &list["items"][0];
    assert_eq!(
        (held["state"].as_str(), held["reason"].as_str()),
        (Some("held"), Some("price_far_below_regular"))
    );
    assert_eq!((held["title"].as_str(), held["store"]["slug"].as_str()), (Some("Game a"), Some("steam")));
    assert_eq!(held["price"], json!({"amount": "0.49", "currency": "EUR"}));
    assert_eq!(held["current_price"], json!({"amount": "50.00", "currency": "EUR"}));
    assert_eq!(list["items"][1]["current_price"], json!(null), "c has never had another price");

    let first = get("/v1/quarantine?limit=1").await.body;
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = get(&format!("/v1/quarantine?limit=1&cursor={cursor}")).await.body;
    assert_eq!((&second["items"][0], &second["next_cursor"]), (&list["items"][1], &json!(null)));

    let path = format!("/v1/quarantine/{}", held["id"].as_str().unwrap());
    assert_eq!(&get(&path).await.body, held);
    for _ in 0..2 {
        let discarded = answer(app.post(&format!("{path}/discard")).bearer_auth(&operator.token)).await;
        assert_eq!((discarded.status.as_u16(), discarded.body["state"].as_str()), (200, Some("discarded")));
    }
    assert_eq!(get("/v1/quarantine").await.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(get("/v1/quarantine?state=discarded").await.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(get("/v1/quarantine?state=gone").await.status, 400);
    assert_eq!(get(&format!("/v1/quarantine/{}", Uuid::now_v7())).await.status, 404);

    // A second observation confirms only the quarantined one.
    app.report(&shop, json!([seen("c", "0.01", "2026-01-03T00:00:00Z")])).await;
    app.record_all().await;
    let confirmed = get("/v1/quarantine?state=confirmed").await.body;
    assert_eq!(confirmed["items"][0]["sku"], "c");
    let path = format!("/v1/quarantine/{}/discard", confirmed["items"][0]["id"].as_str().unwrap());
    assert_eq!(answer(app.post(&path).bearer_auth(&operator.token)).await.status, 409);
}
