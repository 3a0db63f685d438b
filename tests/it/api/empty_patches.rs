//! A patch that changes nothing returns the resource as it is, and only to its owner.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::TestApp;

#[tokio::test]
async fn a_patch_without_a_field_changes_nothing_anywhere() {
    let app = TestApp::spawn().await;
    let (librarian, anna, ben) =
        (app.librarian().await, app.user("anna", &[]).await, app.user("ben", &[]).await);
    let hook = app.hook(&anna, "http://127.0.0.1:1/").await;
    let rung = app.ring(&anna, &[hook.id]).await;
    let store = app.new_store(&librarian, "A store of its own").await;
    let key = app.call(&anna, Method::POST, "/v1/keys", json!({"name": "a key"})).await.body;
    let sent = app.post("/v1/files?name=a.txt").bearer_auth(&anna.token).body("text").send().await.unwrap();
    let file: Value = sent.json().await.unwrap();
    let own = [
        format!("/v1/notices/{}", rung.notice),
        format!("/v1/watches/{}", rung.watch),
        format!("/v1/channels/{}", hook.id),
        format!("/v1/keys/{}", key["id"].as_str().unwrap()),
        format!("/v1/files/{}", file["id"].as_str().unwrap()),
    ];
    let of_the_catalogue = [
        format!("/v1/games/{}", rung.game),
        format!("/v1/offers/{}", rung.offer),
        format!("/v1/stores/{store}"),
    ];
    let with_owner = own.iter().map(|path| (path, &anna));
    for (path, owner) in with_owner.chain(of_the_catalogue.iter().map(|path| (path, &librarian))) {
        let before = app.see(owner, path).await;
        let patched = app.call(owner, Method::PATCH, path, json!({})).await;
        assert_eq!(patched.status, 200, "{path}: {}", patched.body);
        let without_time = |mut value: Value| {
            value.as_object_mut().unwrap().remove("updated_at");
            value
        };
        assert_eq!(without_time(patched.body), without_time(before), "{path}");
    }
    for path in &own {
        let patched = app.call(&ben, Method::PATCH, path, json!({})).await;
        assert_eq!(patched.status, 404, "{path}: {}", patched.body);
    }
    let notice = &own[0];
    let answer = app.request(Method::PATCH, notice).bearer_auth(&anna.token).header("if-match", "\"other\"");
    assert_eq!(answer.json(&json!({})).send().await.unwrap().status(), 412);
    assert_eq!(app.call(&anna, Method::PATCH, notice, json!({"read": null})).await.status, 422);
    let read = app.call(&anna, Method::PATCH, notice, json!({"read": true})).await.body;
    assert_eq!(app.call(&anna, Method::PATCH, notice, json!({})).await.body, read);
}
