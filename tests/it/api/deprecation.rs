//! Deprecated routes: how their end is announced, and what comes after it. The table of the program is not needed: these
//! tests have routes and tables of their own.

use axum::Router;
use axum::http::header;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{Method, Response};
use salebell::app::App;
use salebell::error::Problem;
use salebell::http;
use salebell::http::deprecation::{self, Deprecated};
use salebell::http::openapi::Version;
use salebell::http::{document, document_with};
use serde_json::json;

use crate::support::TestApp;

const PAGE: &str = "https://docs.salebell.test/2026/old";

fn at(time: &str) -> DateTime<Utc> {
    time.parse().unwrap()
}

fn route(method: Method, path: &'static str, sunset: Option<DateTime<Utc>>) -> Deprecated {
    let since = at("2026-01-01T00:00:00Z");
    Deprecated { method, path, since, sunset, replacement: "GET /new/{id}", documentation: PAGE }
}

/// An app with routes of which those in the table are deprecated.
async fn spawn(table: Vec<Deprecated>) -> TestApp {
    let table: &'static [Deprecated] = table.leak();
    let router = move |app: App| {
        let paged = || async { ([(header::LINK, "</old?cursor=a>; rel=\"next\"")], "old") };
        let routes = Router::new()
            .route("/old/{id}", get(|| async { "old" }).post(|| async { "made" }))
            .route("/paged", get(paged))
            .route("/new/{id}", get(|| async { "new" }))
            .layer(from_fn_with_state((app.clone(), table), deprecation::middleware));
        http::layered(routes, app)
    };
    TestApp::builder().router(router).spawn().await
}

fn texts<'a>(answer: &'a Response, name: &str) -> Vec<&'a str> {
    answer.headers().get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

fn says_nothing(answer: &Response) -> bool {
    ["deprecation", "sunset", "link"].iter().all(|name| texts(answer, name).is_empty())
}

#[tokio::test]
async fn the_end_of_a_route_is_announced_by_its_answers_alone() {
    let sunset = at("9000-06-30T23:59:59Z");
    let app =
        spawn(vec![route(Method::GET, "/old/{id}", Some(sunset)), route(Method::GET, "/paged", None)]).await;
    let link = format!("<{PAGE}>; rel=\"deprecation\"; type=\"text/html\"");
    for method in [Method::GET, Method::HEAD] {
        let answer = app.request(method, "/old/1").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(texts(&answer, "deprecation"), ["@1767225600"]);
        assert_eq!(texts(&answer, "sunset"), ["Mon, 30 Jun 9000 23:59:59 GMT"]);
        assert_eq!(texts(&answer, "link"), [link.as_str()]);
    }
    // Without a sunset there is none to announce, and a link of the handler stays.
    let paged = app.get("/paged").send().await.unwrap();
    assert_eq!((texts(&paged, "deprecation").len(), texts(&paged, "sunset").len()), (1, 0));
    assert_eq!(texts(&paged, "link"), ["</old?cursor=a>; rel=\"next\"", link.as_str()]);
    // Neither another method of the path, nor another path.
    for answer in [
        app.post("/old/1").send().await.unwrap(),
        app.get("/new/1").send().await.unwrap(),
        app.get("/nothing").send().await.unwrap(),
    ] {
        assert!(says_nothing(&answer), "{}", answer.url());
    }
}

#[tokio::test]
async fn after_its_sunset_a_route_answers_410_and_names_what_replaces_it() {
    let start = TestApp::spawn().await.clock.now();
    let sunset = start + TimeDelta::days(100);
    let app = spawn(vec![route(Method::GET, "/old/{id}", Some(sunset))]).await;
    assert_eq!(app.get("/old/1").send().await.unwrap().status(), 200);
    app.clock.advance(sunset - app.clock.now() - TimeDelta::minutes(5));
    assert_eq!(app.get("/old/1").send().await.unwrap().status(), 200);
    app.clock.advance(TimeDelta::minutes(5));
    let answer = app.get("/old/1").send().await.unwrap();
    assert_eq!(answer.status(), 410);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert_eq!((texts(&answer, "deprecation").len(), texts(&answer, "sunset").len()), (1, 1));
    let problem: Problem = answer.json().await.unwrap();
    assert_eq!((problem.r#type.as_str(), problem.status), ("/problems/gone", 410));
    let ended = sunset.format("GET /old/{id} ended on %a, %d %b %Y %H:%M:%S GMT.");
    assert_eq!(problem.detail, format!("{ended} Use GET /new/{{id}}: {PAGE}"));
    // The rest of the path goes on.
    assert_eq!(app.post("/old/1").send().await.unwrap().text().await.unwrap(), "made");
}

#[test]
fn the_document_marks_the_operations_of_the_table() {
    let sunset = Some(at("9000-06-30T23:59:59Z"));
    let table = [route(Method::GET, "/v1/deals", sunset), route(Method::POST, "/v1/games", None)];
    for version in [Version::V3_1, Version::V3_2] {
        let (marked, plain) = (document_with(version, &table).unwrap(), document(version).unwrap());
        let mut deprecated = Vec::new();
        for (path, operations) in marked["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                if operation["deprecated"] == true {
                    deprecated.push(format!("{method} {path}"));
                } else {
                    assert_eq!(*operation, plain["paths"][path][method], "{method} {path}");
                }
            }
        }
        assert_eq!(deprecated, ["get /v1/deals", "post /v1/games"]);
        let deals = &marked["paths"]["/v1/deals"]["get"]["responses"];
        assert_eq!(deals["410"], json!({"$ref": "#/components/responses/Gone"}));
        assert!(marked["components"]["responses"]["Gone"]["description"].is_string());
        for header in ["Deprecation", "Sunset"] {
            assert!(deals["200"]["headers"][header]["description"].is_string(), "{header}");
        }
        assert_eq!(marked["paths"]["/v1/games"]["post"]["responses"].get("410"), None);
    }
}
