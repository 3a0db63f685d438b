//! `server.rate_limits`.

use chrono::TimeDelta;
use reqwest::{Method, Response};
use salebell::http::middleware::rate_limit::class_of;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::auth_coverage::{at, routes};
use crate::support::TestApp;
use crate::support::openapi::{operations, resolve};

const READ: &str = "SALEBELL_SERVER__RATE_LIMITS__READ";
const WRITE: &str = "SALEBELL_SERVER__RATE_LIMITS__WRITE";
const HEAVY: &str = "SALEBELL_SERVER__RATE_LIMITS__HEAVY";

/// Status of an answer, and its `RateLimit`, whose class and limit are as expected.
fn limits(answer: &Response, class: &str, limit: u64) -> (u16, String) {
    let policy = answer.headers()["ratelimit-policy"].to_str().unwrap();
    assert_eq!(policy, format!("\"{class}\";q={limit};w=60"), "{}", answer.url());
    let state = answer.headers()["ratelimit"].to_str().unwrap().to_owned();
    (answer.status().as_u16(), state)
}

fn has_no_limit(answer: &Response) -> bool {
    ["ratelimit", "ratelimit-policy"].iter().all(|name| !answer.headers().contains_key(*name))
}

async fn spawn(settings: &[(&str, &str)]) -> TestApp {
    TestApp::builder().settings(settings).spawn().await
}

#[tokio::test]
async fn an_account_has_a_limit_of_requests_per_minute() {
    let app = spawn(&[(READ, "3")]).await;
    let (anna, ben) = (app.user("anna", &[]).await, app.user("ben", &[]).await);
    let me = async |token: &str| app.get("/v1/me").bearer_auth(token).send().await.unwrap();
    for left in [2, 1, 0] {
        let (status, state) = limits(&me(&anna.token).await, "read", 3);
        assert!(status == 200 && state.starts_with(&format!("\"read\";r={left};t=")), "{state}");
    }
    let refused = me(&anna.token).await;
    let (status, state) = limits(&refused, "read", 3);
    assert_eq!((status, &state[..10]), (429, "\"read\";r=0"));
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
async fn each_class_of_requests_has_its_own_limit() {
    let app = spawn(&[(READ, "5"), (WRITE, "2"), (HEAVY, "1")]).await;
    let anna = app.user("anna", &["catalogue:write"]).await;
    let send = async |method: Method, path: &str, body: Option<Value>| {
        let request = app.request(method, path).bearer_auth(&anna.token);
        let request = if let Some(body) = body { request.json(&body) } else { request };
        request.send().await.unwrap()
    };
    let search = async || send(Method::GET, "/v1/games?q=witcher", None).await;
    assert_eq!(limits(&search().await, "heavy", 1).0, 200);
    // A key that is spelled otherwise is the same key.
    let spelled = send(Method::GET, "/v1/games?limit=1&%71=witcher", None).await;
    let (status, detail) = (limits(&spelled, "heavy", 1).0, spelled.json::<Value>().await.unwrap());
    assert_eq!((status, &detail["type"]), (429, &json!("/problems/too-many-requests")));
    assert!(detail["detail"].as_str().unwrap().contains("\"heavy\""), "{detail}");
    for (method, path) in [
        (Method::POST, "/v1/exports".to_owned()),
        (Method::POST, "/v1/imports".to_owned()),
        (Method::GET, format!("/v1/watches/{}/explain", Uuid::now_v7())),
        (Method::POST, format!("/v1/channels/{}/test", Uuid::now_v7())),
    ] {
        let body = (method == Method::POST).then(|| json!({}));
        assert_eq!(limits(&send(method, &path, body).await, "heavy", 1).0, 429, "{path}");
    }
    // Other requests have their own.
    assert_eq!(limits(&send(Method::GET, "/v1/games", None).await, "read", 5).0, 200);
    assert_eq!(limits(&send(Method::HEAD, "/v1/games", None).await, "read", 5).0, 200);
    let store = |name: &str| Some(json!({"name": name}));
    assert_eq!(limits(&send(Method::POST, "/v1/stores", store("a")).await, "write", 2).0, 201);
    assert_eq!(limits(&send(Method::DELETE, "/v1/stores/nothing", None).await, "write", 2).0, 404);
    assert_eq!(limits(&send(Method::POST, "/v1/stores", store("b")).await, "write", 2).0, 429);
    // A path that does not exist counts, too.
    assert_eq!(limits(&send(Method::GET, "/v1/nothing", None).await, "read", 5).0, 404);
}

#[tokio::test]
async fn a_class_without_a_limit_has_no_headers() {
    let app = spawn(&[(HEAVY, "1")]).await;
    for _ in 0..3 {
        let answer = app.get("/v1/games").send().await.unwrap();
        assert!(answer.status() == 200 && has_no_limit(&answer));
    }
    assert_eq!(limits(&app.get("/v1/games?q=a").send().await.unwrap(), "heavy", 1).0, 200);
    let off = TestApp::spawn().await;
    assert!(has_no_limit(&off.get("/v1/games?q=a").send().await.unwrap()));
}

#[tokio::test]
async fn an_address_without_a_token_has_its_own_count_and_304_costs_nothing() {
    let app = spawn(&[(READ, "3"), (HEAVY, "2")]).await;
    for (path, class, limit) in [("/v1/deals", "read", 3), ("/v1/games?q=a", "heavy", 2)] {
        let first = app.get(path).send().await.unwrap();
        let tag = first.headers()["etag"].clone();
        for _ in 0..5 {
            let again = app.get(path).header("if-none-match", &tag).send().await.unwrap();
            let (status, state) = limits(&again, class, limit);
            let expected = format!("\"{class}\";r={}", limit - 1);
            assert!(status == 304 && state.starts_with(&expected), "{status} {state}");
        }
    }
    // An invalid token counts against the address.
    for expected in [401, 401, 429] {
        let answer = app.get("/v1/me").bearer_auth("a.b.c").send().await.unwrap();
        assert_eq!(answer.status(), expected);
    }
}

#[tokio::test]
async fn transfers_of_bytes_count_for_nothing() {
    let app = spawn(&[(READ, "1"), (WRITE, "2")]).await;
    let anna = app.user("anna", &[]).await;
    let begun = app.post("/v1/files").bearer_auth(&anna.token).header("tus-resumable", "1.0.0");
    let begun = begun.header("upload-length", 10).send().await.unwrap();
    assert_eq!(limits(&begun, "write", 2).0, 201);
    let file = begun.headers()["location"].to_str().unwrap().to_owned();
    for offset in 0..10 {
        let chunk = app.request(Method::PATCH, &file).bearer_auth(&anna.token).body("x");
        let chunk = chunk.header("tus-resumable", "1.0.0").header("upload-offset", offset);
        let chunk = chunk.header("content-type", "application/offset+octet-stream").send().await.unwrap();
        assert!(chunk.status() == 204 && has_no_limit(&chunk), "{offset}: {}", chunk.status());
    }
    let link = app.post(&format!("{file}/links")).bearer_auth(&anna.token).json(&json!({}));
    let link: Value = link.send().await.unwrap().json().await.unwrap();
    for path in [format!("{file}/content"), link["path"].as_str().unwrap().to_owned()] {
        for from in 0..10 {
            let range = format!("bytes={from}-{from}");
            let part = app.get(&path).bearer_auth(&anna.token).header("range", range).send().await.unwrap();
            assert!(part.status() == 206 && has_no_limit(&part), "{path}: {}", part.status());
        }
    }
    // The limits are those of the account all the same.
    let another = app.post("/v1/files").bearer_auth(&anna.token).body("x").send().await.unwrap();
    assert_eq!(limits(&another, "write", 2).0, 429);
}

#[tokio::test]
async fn anonymous_clients_are_counted_by_the_address_that_a_trusted_proxy_reports_only() {
    let limit = (READ, "1");
    let of = async |app: &TestApp, address: &str| {
        app.get("/v1/deals").header("x-forwarded-for", address).send().await.unwrap().status().as_u16()
    };
    let behind = spawn(&[limit, ("SALEBELL_SERVER__TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    for (address, status) in [
        ("203.0.113.1", 200),
        ("203.0.113.1", 429),
        // Entries before it are claims of the client.
        ("198.51.100.1, 203.0.113.1", 429),
        ("203.0.113.2", 200),
    ] {
        assert_eq!(of(&behind, address).await, status, "{address}");
    }
    let open = spawn(&[limit, ("SALEBELL_SERVER__TRUSTED_PROXIES", "10.0.0.0/8")]).await;
    assert_eq!(of(&open, "203.0.113.1").await, 200);
    assert_eq!(of(&open, "203.0.113.2").await, 429);
}

#[tokio::test]
async fn health_checks_and_preflights_have_no_limit() {
    let cors = ("SALEBELL_SERVER__CORS_ORIGINS", "*");
    let app = spawn(&[(READ, "1"), (WRITE, "1"), (HEAVY, "1"), cors]).await;
    for _ in 0..4 {
        for path in ["/healthz", "/readyz"] {
            let answer = app.get(path).send().await.unwrap();
            assert!(answer.status() == 200 && has_no_limit(&answer), "{path}");
        }
        let preflight = app.request(Method::OPTIONS, "/v1/deals").header("origin", "https://app.example");
        let preflight = preflight.header("access-control-request-method", "GET").send().await.unwrap();
        assert!(preflight.status() == 204 && has_no_limit(&preflight));
    }
}

#[tokio::test]
async fn every_route_has_the_headers_of_its_class() {
    let app = spawn(&[(READ, "1000"), (WRITE, "1000"), (HEAVY, "1000")]).await;
    let mut unlimited = Vec::new();
    for (method, path) in routes() {
        let answer = app.request(method.clone(), &at(&path, Uuid::now_v7())).send().await.unwrap();
        let name = format!("{method} {path}");
        let is_limited = class_of(&method, &path, None).is_some();
        assert_eq!(has_no_limit(&answer), !is_limited, "{name}");
        unlimited.extend((!is_limited).then_some(name));
    }
    let expected = [
        "GET /healthz",
        "GET /readyz",
        "PATCH /v1/files/{id}",
        "POST /v1/files/{id}",
        "GET /v1/files/{id}/content",
        "GET /d/{token}",
    ];
    assert_eq!(unlimited, expected);
}

#[test]
fn the_document_states_429_and_the_limits_where_they_can_come() {
    for operation in operations() {
        let class = class_of(&operation.method.parse().unwrap(), operation.path, None);
        for (status, answer) in operation.answers() {
            let has = |name: &str| answer["headers"].get(name).is_some();
            let is_limited = class.is_some();
            assert_eq!(
                (has("RateLimit"), has("RateLimit-Policy")),
                (is_limited, is_limited),
                "{operation} {status}"
            );
            if status == "429" {
                assert!(has("Retry-After"), "{operation}");
                let retry_after = resolve(&answer["headers"]["Retry-After"]);
                assert!(retry_after["description"].is_string(), "{operation}");
            }
        }
        // Beside too many others, an upload is refused, too.
        let refuses = class.is_some() || ["PATCH", "POST"].contains(&operation.method);
        assert_eq!(operation.answers().any(|(status, _)| status == "429"), refuses, "{operation}");
    }
}
