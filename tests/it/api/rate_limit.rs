//! `server.rate_limit_per_minute`.

use chrono::TimeDelta;
use reqwest::Response;

use crate::support::TestApp;

fn limits(answer: &Response) -> (u16, String) {
    assert_eq!(answer.headers()["ratelimit-policy"], "\"default\";q=3;w=60");
    let state = answer.headers()["ratelimit"].to_str().unwrap().to_owned();
    (answer.status().as_u16(), state)
}

async fn spawn() -> TestApp {
    TestApp::builder().settings(&[("SALEBELL_SERVER__RATE_LIMIT_PER_MINUTE", "3")]).spawn().await
}

#[tokio::test]
async fn an_account_has_a_limit_of_requests_per_minute() {
    let app = spawn().await;
    let (anna, ben) = (app.user("anna", &[]).await, app.user("ben", &[]).await);
    let me = async |token: &str| app.get("/v1/me").bearer_auth(token).send().await.unwrap();
    for left in [2, 1, 0] {
        let (status, state) = limits(&me(&anna.token).await);
        assert!(status == 200 && state.starts_with(&format!("\"default\";r={left};t=")), "{state}");
    }
    let refused = me(&anna.token).await;
    let (status, state) = limits(&refused);
    assert_eq!((status, &state[..13]), (429, "\"default\";r=0"));
    let wait: i64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait) && state.ends_with(&format!(";t={wait}")), "{wait} {state}");
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    // Neither other accounts nor requests without a token are affected.
    assert_eq!(me(&ben.token).await.status(), 200);
    assert_eq!(app.get("/v1/deals").send().await.unwrap().status(), 200);
    assert_eq!(app.get("/readyz").send().await.unwrap().status(), 200);
    // After the announced wait, requests succeed again.
    app.clock.advance(TimeDelta::seconds(wait));
    assert_eq!(me(&anna.token).await.status(), 200);
}

#[tokio::test]
async fn an_address_without_a_token_has_its_own_count_and_304_costs_nothing() {
    let app = spawn().await;
    let first = app.get("/v1/deals").send().await.unwrap();
    let tag = first.headers()["etag"].clone();
    for _ in 0..5 {
        let again = app.get("/v1/deals").header("if-none-match", &tag).send().await.unwrap();
        let (status, state) = limits(&again);
        assert!(status == 304 && state.starts_with("\"default\";r=2"), "{status} {state}");
    }
    // An invalid token counts against the address.
    for expected in [401, 401, 429] {
        let answer = app.get("/v1/me").bearer_auth("a.b.c").send().await.unwrap();
        assert_eq!(answer.status(), expected);
    }
}

#[tokio::test]
async fn anonymous_clients_are_counted_by_the_address_that_a_trusted_proxy_reports_only() {
    let limit = ("SALEBELL_SERVER__RATE_LIMIT_PER_MINUTE", "1");
    let of = async |app: &TestApp, address: &str| {
        app.get("/v1/deals").header("x-forwarded-for", address).send().await.unwrap().status().as_u16()
    };
    let behind = TestApp::builder()
        .settings(&[limit, ("SALEBELL_SERVER__TRUSTED_PROXIES", "127.0.0.0/8")])
        .spawn()
        .await;
    for (address, status) in [
        ("203.0.113.1", 200),
        ("203.0.113.1", 429),
        // Entries before it are claims of the client.
        ("198.51.100.1, 203.0.113.1", 429),
        ("203.0.113.2", 200),
    ] {
        assert_eq!(of(&behind, address).await, status, "{address}");
    }
    let open = TestApp::builder()
        .settings(&[limit, ("SALEBELL_SERVER__TRUSTED_PROXIES", "10.0.0.0/8")])
        .spawn()
        .await;
    assert_eq!(of(&open, "203.0.113.1").await, 200);
    assert_eq!(of(&open, "203.0.113.2").await, 429);
}
