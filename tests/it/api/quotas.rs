//! Quotas of an account, tested with forty concurrent requests at two instances: not one resource is created beyond the
//! limit.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{TestApp, User};

const AT_ONCE: usize = 40;

/// Two instances on one database and store.
struct Fleet([TestApp; 2]);

impl Fleet {
    async fn spawn(settings: &[(&str, &str)]) -> Fleet {
        let settings = [&[("SALEBELL_DATABASE__MAX_CONNECTIONS", "20")], settings].concat();
        let one = TestApp::builder().settings(&settings).spawn().await;
        let other = TestApp::builder().beside(&one).settings(&settings).spawn().await;
        Fleet([one, other])
    }

    fn one(&self) -> &TestApp {
        &self.0[0]
    }

    /// The instances alternate.
    fn instance(&self, at: usize) -> &TestApp {
        &self.0[at % 2]
    }
}

/// Sends the same request forty times at once; returns how many succeeded.
async fn made(fleet: &Fleet, user: &User, method: Method, path: &str, body: Value) -> usize {
    let requests = (0..AT_ONCE).map(|at| {
        // The requests must differ, so none counts as a repetition of another.
        let body: Value = serde_json::from_str(&body.to_string().replace("{at}", &at.to_string())).unwrap();
        fleet.instance(at).call(user, method.clone(), path, body)
    });
    let answers = join_all(requests).await;
    let refused: Vec<u16> =
        answers.iter().map(|answer| answer.status).filter(|status| *status != 201).collect();
    assert!(refused.iter().all(|status| matches!(status, 409 | 413 | 429)), "{refused:?}");
    AT_ONCE - refused.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn watches() {
    let fleet = Fleet::spawn(&[]).await;
    let (shop, anna) = (fleet.one().librarian().await, fleet.one().user("anna", &[]).await);
    let mut games = Vec::new();
    for at in 0..AT_ONCE {
        games.push(fleet.one().new_game(&shop, &format!("Game {at}")).await);
    }
    sqlx::query(
        "insert into watches (id, account_id, game_id, rule, created_at, updated_at)
         select uuid_v7(now()), $1, $2, 'any_sale', now(), now() from generate_series(1, 9995)",
    )
    .bind(anna.account)
    .bind(games[0])
    .execute(&fleet.one().state.writer)
    .await
    .unwrap();
    let requests = games.iter().enumerate().map(|(at, game)| {
        let wanted = json!({"game_id": game, "rule": {"new_low": {}}});
        fleet.instance(at).call(&anna, Method::POST, "/v1/watches", wanted)
    });
    let made = join_all(requests).await.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(made, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn channels() {
    let fleet = Fleet::spawn(&[("SALEBELL_WEBHOOK__CHANNELS_PER_ACCOUNT", "5")]).await;
    let anna = fleet.one().user("anna", &[]).await;
    let wanted = json!({"kind": "webhook", "name": "{at}", "url": "http://127.0.0.1:1/{at}"});
    assert_eq!(made(&fleet, &anna, Method::POST, "/v1/channels", wanted).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys() {
    let fleet = Fleet::spawn(&[]).await;
    // The key that authenticates the requests is one of the hundred, and there are more.
    let anna = fleet.one().user("anna", &[]).await;
    sqlx::query(
        "insert into api_keys (id, account_id, name, hint, digest, scopes, created_at)
         select uuid_v7(now()), $1, 'key', 'sbk_', sha256(n::text::bytea), '{}', now() from generate_series(1, 94) n",
    )
    .bind(anna.account)
    .execute(&fleet.one().state.writer)
    .await
    .unwrap();
    assert_eq!(made(&fleet, &anna, Method::POST, "/v1/keys", json!({"name": "{at}"})).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn exports() {
    let fleet = Fleet::spawn(&[]).await;
    let anna = fleet.one().user("anna", &[]).await;
    let wanted = json!({"kind": "watches", "format": "csv"});
    assert_eq!(made(&fleet, &anna, Method::POST, "/v1/exports", wanted).await, 20);
}

async fn upload(app: &TestApp, user: &User) -> String {
    let sent = app.post("/v1/files?name=a.csv").bearer_auth(&user.token).body("store,sku,price,currency\n");
    let file: Value = sent.send().await.unwrap().json().await.unwrap();
    file["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn links_of_a_file() {
    let fleet = Fleet::spawn(&[]).await;
    let anna = fleet.one().user("anna", &[]).await;
    let path = format!("/v1/files/{}/links", upload(fleet.one(), &anna).await);
    for _ in 0..2 {
        assert_eq!(made(&fleet, &anna, Method::POST, &path, json!({})).await, AT_ONCE);
    }
    assert_eq!(made(&fleet, &anna, Method::POST, &path, json!({})).await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn imports() {
    let fleet = Fleet::spawn(&[]).await;
    let anna = fleet.one().user("anna", &["prices:write"]).await;
    let wanted = json!({"file_id": upload(fleet.one(), &anna).await});
    for _ in 0..2 {
        assert_eq!(made(&fleet, &anna, Method::POST, "/v1/imports", wanted.clone()).await, AT_ONCE);
    }
    assert_eq!(made(&fleet, &anna, Method::POST, "/v1/imports", wanted).await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn files() {
    let fleet = Fleet::spawn(&[("SALEBELL_FILES__FILES_PER_ACCOUNT", "5")]).await;
    let anna = fleet.one().user("anna", &[]).await;
    let sent = (0..AT_ONCE).map(|at| {
        let request = fleet.instance(at).post(&format!("/v1/files?name={at}")).bearer_auth(&anna.token);
        request.header("tus-resumable", "1.0.0").header("upload-length", "7").send()
    });
    let answers = join_all(sent).await;
    let made = answers.into_iter().filter(|answer| answer.as_ref().unwrap().status() == 201).count();
    assert_eq!(made, 5);
}
