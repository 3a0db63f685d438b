//! The inbox.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::TestApp;

#[tokio::test]
async fn a_notice_describes_the_sale_that_rang() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let rung = app.ring(&anna, &[]).await;
    let path = format!("/v1/notices/{}", rung.notice);
    let notice = app.see(&anna, &path).await;
    assert_eq!(notice["event"], "sale.started");
    assert_eq!(notice["game"], json!({"id": rung.game, "title": "The Witcher® 3"}));
    assert_eq!(notice["offer"]["id"], rung.offer.to_string());
    assert_eq!(notice["offer"]["store"]["name"], "Shop");
    assert_eq!(notice["offer"]["region"], "DE");
    assert_eq!(notice["offer"]["platform"], "windows");
    assert_eq!(notice["price"], json!({"amount": "9.99", "currency": "EUR"}));
    assert_eq!(notice["regular_price"], json!({"amount": "19.99", "currency": "EUR"}));
    assert_eq!(notice["cut"], 50);
    assert_eq!(notice["new_low"], true);
    assert_eq!(notice["url"], "https://shop.example/3");
    assert_eq!(notice["watch_id"], rung.watch.to_string());
    assert_eq!(notice["sale_id"], rung.sale.to_string());

    // A notice outlives the game that it refers to.
    sqlx::query("delete from games").execute(&app.state.writer).await.unwrap();
    let notice = app.see(&anna, &path).await;
    assert_eq!(notice["game"]["title"], Value::Null);
    assert_eq!(notice["offer"], Value::Null);
    assert_eq!(notice["price"]["amount"], "9.99");
}

#[tokio::test]
async fn notices_are_marked_as_read_and_as_unread() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let (first, second) = (app.ring(&anna, &[]).await.notice, app.ring(&anna, &[]).await.notice);
    let path = format!("/v1/notices/{first}");
    let read = app.call(&anna, Method::PATCH, &path, json!({"read": true})).await;
    assert_eq!((read.status, &read.body["read"]), (200, &json!(true)));
    let read_at = read.body["read_at"].clone();
    assert!(read_at.is_string());
    let again = app.call(&anna, Method::PATCH, &path, json!({"read": true})).await;
    assert_eq!(again.body["read_at"], read_at, "it was read when it was read first");

    let ids = |list: &Value| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|n| n["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&app.see(&anna, "/v1/notices?unread=true").await), [second.to_string()]);
    let all = [second.to_string(), first.to_string()];
    assert_eq!(ids(&app.see(&anna, "/v1/notices").await), all);
    assert_eq!(ids(&app.see(&anna, "/v1/notices?unread=false").await), all);
    let page = app.see(&anna, "/v1/notices?limit=1").await;
    let next = format!("/v1/notices?limit=1&cursor={}", page["next_cursor"].as_str().unwrap());
    assert_eq!(ids(&app.see(&anna, &next).await), [first.to_string()]);

    let unread = app.call(&anna, Method::PATCH, &path, json!({"read": false})).await;
    assert_eq!((&unread.body["read"], &unread.body["read_at"]), (&json!(false), &Value::Null));
    for refused in [json!({"read": null}), json!({"read": 1}), json!({"read": true, "x": 1})] {
        let answered = app.call(&anna, Method::PATCH, &path, refused.clone()).await;
        assert_eq!(answered.status, 422, "{refused}");
    }
    let answered = app.call(&anna, Method::GET, "/v1/notices?unread=maybe", Value::Null).await;
    assert_eq!(answered.status, 400);
}

#[tokio::test]
async fn a_notice_is_changed_in_the_version_that_was_read() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let path = format!("/v1/notices/{}", app.ring(&anna, &[]).await.notice);
    let etag = app.call(&anna, Method::GET, &path, Value::Null).await.etag.unwrap();
    let request = |method: Method| app.request(method, &path).bearer_auth(&anna.token);
    let same = request(Method::GET).header("if-none-match", &etag).send().await.unwrap();
    assert_eq!(same.status(), 304);
    let patch = || request(Method::PATCH).header("if-match", &etag).json(&json!({"read": true}));
    assert_eq!(patch().send().await.unwrap().status(), 200);
    assert_eq!(patch().send().await.unwrap().status(), 412);
}
