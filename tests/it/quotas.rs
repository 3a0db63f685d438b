//! What an account may have, asked for by forty at once: not one is made beyond the limit.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{TestApp, User};

const AT_ONCE: usize = 40;

/// Asks for the same thing forty times at once; returns how often it was made.
async fn made(app: &TestApp, user: &User, method: Method, path: &str, body: Value) -> usize {
    let asked = (0..AT_ONCE).map(|at| {
        // Nothing may take two of them for the same.
        let body: Value = serde_json::from_str(&body.to_string().replace("{at}", &at.to_string())).unwrap();
        app.call(user, method.clone(), path, body)
    });
    let answers = join_all(asked).await;
    let refused: Vec<u16> =
        answers.iter().map(|answer| answer.status).filter(|status| *status != 201).collect();
    assert!(refused.iter().all(|status| matches!(status, 409 | 413 | 429)), "{refused:?}");
    AT_ONCE - refused.len()
}

async fn with_connections(settings: &[(&str, &str)]) -> TestApp {
    TestApp::spawn_with(&[&[("SALEBELL_DATABASE__MAX_CONNECTIONS", "40")], settings].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn watches() {
    let app = with_connections(&[]).await;
    let (shop, anna) = (app.librarian().await, app.user("anna", &[]).await);
    let mut games = Vec::new();
    for at in 0..AT_ONCE {
        games.push(app.new_game(&shop, &format!("Game {at}")).await);
    }
    sqlx::query(
        "insert into watches (id, account_id, game_id, rule, created_at, updated_at)
         select uuid_v7(now()), $1, $2, 'any_sale', now(), now() from generate_series(1, 9995)",
    )
    .bind(anna.account)
    .bind(games[0])
    .execute(&app.app.writer)
    .await
    .unwrap();
    let asked = games.iter().map(|game| {
        app.call(&anna, Method::POST, "/v1/watches", json!({"game_id": game, "rule": {"new_low": {}}}))
    });
    let made = join_all(asked).await.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(made, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn channels() {
    let app = with_connections(&[("SALEBELL_WEBHOOK__CHANNELS_PER_ACCOUNT", "5")]).await;
    let anna = app.user("anna", &[]).await;
    let wanted = json!({"kind": "webhook", "name": "{at}", "url": "http://127.0.0.1:1/{at}"});
    assert_eq!(made(&app, &anna, Method::POST, "/v1/channels", wanted).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys() {
    let app = with_connections(&[]).await;
    // Of a hundred it has the one that it calls with, and more.
    let anna = app.user("anna", &[]).await;
    sqlx::query(
        "insert into api_keys (id, account_id, name, hint, digest, scopes, created_at)
         select uuid_v7(now()), $1, 'key', 'sbk_', sha256(n::text::bytea), '{}', now() from generate_series(1, 94) n",
    )
    .bind(anna.account)
    .execute(&app.app.writer)
    .await
    .unwrap();
    assert_eq!(made(&app, &anna, Method::POST, "/v1/keys", json!({"name": "{at}"})).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn exports() {
    let app = with_connections(&[]).await;
    let anna = app.user("anna", &[]).await;
    let wanted = json!({"kind": "watches", "format": "csv"});
    assert_eq!(made(&app, &anna, Method::POST, "/v1/exports", wanted).await, 20);
}

async fn upload(app: &TestApp, user: &User) -> String {
    let sent = app.post("/v1/files?name=a.csv").bearer_auth(&user.token).body("store,sku,price,currency\n");
    let file: Value = sent.send().await.unwrap().json().await.unwrap();
    file["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn links_of_a_file() {
    let app = with_connections(&[]).await;
    let anna = app.user("anna", &[]).await;
    let path = format!("/v1/files/{}/links", upload(&app, &anna).await);
    for _ in 0..2 {
        assert_eq!(made(&app, &anna, Method::POST, &path, json!({})).await, AT_ONCE);
    }
    assert_eq!(made(&app, &anna, Method::POST, &path, json!({})).await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn imports() {
    let app = with_connections(&[]).await;
    let anna = app.user("anna", &["prices:write"]).await;
    let wanted = json!({"file_id": upload(&app, &anna).await});
    for _ in 0..2 {
        assert_eq!(made(&app, &anna, Method::POST, "/v1/imports", wanted.clone()).await, AT_ONCE);
    }
    assert_eq!(made(&app, &anna, Method::POST, "/v1/imports", wanted).await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn files() {
    let app = with_connections(&[("SALEBELL_FILES__FILES_PER_ACCOUNT", "5")]).await;
    let anna = app.user("anna", &[]).await;
    let sent = (0..AT_ONCE).map(|at| {
        let request = app.post(&format!("/v1/files?name={at}")).bearer_auth(&anna.token);
        request.header("tus-resumable", "1.0.0").header("upload-length", "7").send()
    });
    let answers = join_all(sent).await;
    let made = answers.into_iter().filter(|answer| answer.as_ref().unwrap().status() == 201).count();
    assert_eq!(made, 5);
}
