//! `server.cors_origins`: pages of other sites that call the API from a browser.

use std::collections::BTreeSet;

use reqwest::{Method, Response, StatusCode};
use salebell::http::ROUTES;
use uuid::Uuid;

use crate::api::auth_coverage::{at, routes};
use crate::support::TestApp;
use crate::support::openapi::{operations, resolve};

const APP: &str = "https://app.example";
const OTHER: &str = "http://localhost:5173";
const EVIL: &str = "https://evil.example";
/// Headers of answers that every page may read (<https://fetch.spec.whatwg.org/#cors-safelisted-response-header-name>),
/// and those that are for the browser alone.
const OPEN_HEADERS: [&str; 7] = [
    "cache-control",
    "content-length",
    "content-type",
    "expires",
    "last-modified",
    "content-security-policy",
    "vary",
];
/// Headers of requests that the browser alone sets (<https://fetch.spec.whatwg.org/#forbidden-request-header>).
const OF_THE_BROWSER: [&str; 4] = ["accept-encoding", "content-length", "host", "trailer"];

async fn spawn(origins: &str) -> TestApp {
    TestApp::builder().settings(&[("SALEBELL_SERVER__CORS_ORIGINS", origins)]).spawn().await
}

async fn preflight(app: &TestApp, path: &str, origin: &str, method: &str) -> Response {
    let request = app.request(Method::OPTIONS, path).header("origin", origin);
    let request = request.header("access-control-request-method", method);
    request.header("access-control-request-headers", "authorization,content-type").send().await.unwrap()
}

async fn read(app: &TestApp, path: &str, origin: &str) -> Response {
    app.get(path).header("origin", origin).send().await.unwrap()
}

/// The items of a header, in lower case.
fn items(answer: &Response, name: &str) -> BTreeSet<String> {
    let values = answer.headers().get_all(name).iter().map(|value| value.to_str().unwrap());
    values.flat_map(|value| value.split(',')).map(|item| item.trim().to_lowercase()).collect()
}

fn varies(answer: &Response) -> bool {
    items(answer, "vary").contains("origin")
}

fn allows(answer: &Response) -> Option<&str> {
    answer.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap())
}

fn headers_of_cors(answer: &Response) -> Vec<String> {
    let names = answer.headers().keys().map(|name| name.as_str().to_owned());
    names.filter(|name| name.starts_with("access-control-")).collect()
}

#[tokio::test]
async fn without_the_setting_no_answer_speaks_of_other_sites() {
    let app = TestApp::spawn().await;
    for answer in [
        read(&app, "/v1/deals", APP).await,
        read(&app, "/v1/me", APP).await,
        preflight(&app, "/v1/deals", APP, "GET").await,
        preflight(&app, "/v1/files", APP, "POST").await,
    ] {
        assert_eq!(headers_of_cors(&answer), Vec::<String>::new(), "{}", answer.url());
        assert!(!varies(&answer), "{}", answer.url());
    }
    assert_eq!(preflight(&app, "/v1/deals", APP, "GET").await.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn every_route_answers_a_preflight_without_a_token() {
    for origins in [format!("{APP},{OTHER}"), "*".to_owned()] {
        let app = spawn(&origins).await;
        let is_listed = origins != "*";
        for (method, path) in routes() {
            let answer = preflight(&app, &at(&path, Uuid::now_v7()), APP, method.as_str()).await;
            let name = format!("{method} {path}");
            assert_eq!(answer.status(), StatusCode::NO_CONTENT, "{name}");
            assert_eq!(allows(&answer), Some(if is_listed { APP } else { "*" }), "{name}");
            assert_eq!(varies(&answer), is_listed, "{name}");
            let allowed = items(&answer, "access-control-allow-methods");
            let of_path = ROUTES.iter().filter(|route| route.path == path);
            let mut expected: BTreeSet<String> =
                of_path.map(|route| route.method.as_str().to_lowercase()).collect();
            if expected.contains("get") {
                expected.insert("head".to_owned());
            }
            assert_eq!(allowed, expected, "{name}");
            assert_eq!(answer.headers().get("access-control-allow-credentials"), None, "{name}");
            assert_eq!(answer.headers()["access-control-max-age"], "600", "{name}");
            assert_eq!(answer.bytes().await.unwrap().len(), 0, "{name}");
        }
    }
}

#[tokio::test]
async fn a_page_may_send_every_header_that_is_read_and_read_every_one_that_is_sent() {
    let app = spawn(APP).await;
    let answer = preflight(&app, "/v1/files", APP, "POST").await;
    let may_send = items(&answer, "access-control-allow-headers");
    for header in ["authorization", "content-type", "traceparent", "tracestate", "x-request-id"] {
        assert!(may_send.contains(header), "{header}");
    }
    let may_read = items(&read(&app, "/v1/deals", APP).await, "access-control-expose-headers");
    let (mut read, mut sent) = (BTreeSet::new(), BTreeSet::new());
    for operation in operations() {
        for parameter in operation.stated["parameters"].as_array().into_iter().flatten().map(resolve) {
            if parameter["in"] == "header" {
                read.insert(parameter["name"].as_str().unwrap().to_lowercase());
            }
        }
        let headers = operation.answers().filter_map(|(_, answer)| answer["headers"].as_object());
        sent.extend(headers.flat_map(|headers| headers.keys()).map(|name| name.to_lowercase()));
    }
    assert!(read.len() > 15 && sent.len() > 20, "{read:?} {sent:?}");
    let cannot_send: Vec<&String> = read
        .iter()
        .filter(|name| !may_send.contains(*name) && !OF_THE_BROWSER.contains(&name.as_str()))
        .collect();
    let cannot_read: Vec<&String> = sent
        .iter()
        .filter(|name| !may_read.contains(*name) && !OPEN_HEADERS.contains(&name.as_str()))
        .collect();
    assert!(cannot_send.is_empty() && cannot_read.is_empty(), "{cannot_send:?} {cannot_read:?}");
}

#[tokio::test]
async fn listed_origins_may_read_all_answers_and_others_none() {
    let app = spawn(&format!("{APP}, {OTHER}")).await;
    let long = format!("/v1/deals?store={}", "a".repeat(17_000));
    let paths = ["/", "/healthz", "/v1/deals", "/v1/me", "/v1/nothing", "/v1/deals?limit=x", long.as_str()];
    let mut statuses = BTreeSet::new();
    for path in paths {
        for (origin, allowed) in [(APP, true), (OTHER, true), (EVIL, false), ("null", false)] {
            let answer = read(&app, path, origin).await;
            assert_eq!(allows(&answer), allowed.then_some(origin), "{path} {origin}");
            assert!(varies(&answer), "{path} {origin}");
            assert_eq!(answer.headers().get("access-control-allow-credentials"), None);
            statuses.insert(answer.status().as_u16());
        }
        // A cache may hand this answer to a page, too.
        assert!(varies(&app.get(path).send().await.unwrap()), "{path}");
    }
    assert_eq!(statuses, BTreeSet::from([200, 400, 401, 404, 414]));
    // Other reasons for which an answer varies stay.
    assert!(items(&read(&app, "/", APP).await, "vary").contains("accept"));
    let tag = read(&app, "/v1/deals", APP).await.headers()["etag"].clone();
    let known = app.get("/v1/deals").header("origin", APP).header("if-none-match", tag).send().await.unwrap();
    assert_eq!((known.status().as_u16(), allows(&known), varies(&known)), (304, Some(APP), true));
    let refused = preflight(&app, "/v1/deals", EVIL, "GET").await;
    assert_eq!((refused.status().as_u16(), headers_of_cors(&refused), varies(&refused)), (204, vec![], true));
}

#[tokio::test]
async fn any_site_may_read_with_a_star_and_caches_need_no_distinction() {
    let app = spawn("*").await;
    let anna = app.user("anna", &[]).await;
    for path in ["/v1/deals", "/v1/me", "/v1/nothing"] {
        let answer = app.get(path).bearer_auth(&anna.token).header("origin", EVIL).send().await.unwrap();
        assert_eq!((allows(&answer), varies(&answer)), (Some("*"), false), "{path}");
        assert_eq!(answer.headers().get("access-control-allow-credentials"), None, "{path}");
    }
    // Without an origin no page asks.
    assert_eq!(allows(&app.get("/v1/deals").send().await.unwrap()), None);
}

#[tokio::test]
async fn what_is_no_preflight_is_answered_as_ever() {
    let app = spawn(APP).await;
    // A client of tus asks what the server can.
    let plain = app.request(Method::OPTIONS, "/v1/files").header("origin", APP).send().await.unwrap();
    assert_eq!(plain.headers()["tus-version"], "1.0.0");
    assert_eq!((allows(&plain), plain.headers().get("access-control-allow-methods")), (Some(APP), None));
    let without_origin = app.request(Method::OPTIONS, "/v1/deals");
    let without_origin = without_origin.header("access-control-request-method", "GET").send().await.unwrap();
    assert_eq!(without_origin.status(), StatusCode::METHOD_NOT_ALLOWED);
    // A path that is not in the table has no methods, and a read of one is no preflight.
    assert_eq!(preflight(&app, "/v1/nothing", APP, "GET").await.status(), StatusCode::NOT_FOUND);
    let read = app.get("/v1/deals").header("origin", APP).header("access-control-request-method", "GET");
    assert_eq!(read.send().await.unwrap().status(), StatusCode::OK);
}
