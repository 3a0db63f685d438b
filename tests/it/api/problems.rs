//! The pages of problems: each kind has one, at the path that is its `type`, as HTML and as JSON.

use std::collections::BTreeSet;

use axum::http::HeaderMap;
use clap::CommandFactory;
use reqwest::RequestBuilder;
use salebell::cli::Arguments;
use salebell::cli::reference::ReferencePage;
use salebell::error::{Error, Kind, Problem};
use salebell::http::problems::explanations::explain;
use serde_json::{Value, json};

use crate::support::TestApp;
use crate::support::catalogue::answer;
use crate::support::openapi::faults;

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// The `type` of a kind, as its problem documents have it.
fn type_of(kind: Kind) -> String {
    Error::new(kind, "").problem().r#type
}

/// Opens a page as a browser does.
async fn open(app: &TestApp, path: &str) -> (HeaderMap, String) {
    let page = app.get(path).header("accept", BROWSER).send().await.unwrap();
    assert_eq!(page.status(), 200, "{path}");
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8", "{path}");
    (page.headers().clone(), page.text().await.unwrap())
}

/// The problem document that a request is refused with.
async fn refusal(request: RequestBuilder, status: u16) -> Problem {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), status);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    answer.json().await.unwrap()
}

/// A text of a page as a reader sees it.
fn unescaped(text: &str) -> String {
    let marks = [("&quot;", "\""), ("&#39;", "'"), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")];
    marks.into_iter().fold(text.to_owned(), |text, (mark, letter)| text.replace(mark, letter))
}

#[tokio::test]
async fn every_kind_of_problem_has_its_page_in_both_formats() {
    let app = TestApp::spawn().await;
    for kind in Kind::ALL {
        let path = type_of(kind);
        let json = answer(app.get(&path)).await;
        assert_eq!(json.status, 200, "{path}");
        assert_eq!(json.headers["content-type"], "application/json", "{path}");
        assert_eq!(json.headers["vary"], "accept", "{path}");
        assert_eq!(json.body["type"], path);
        assert_eq!(json.body["title"], kind.title());
        assert_eq!(json.body["status"], kind.status().as_u16());
        assert_eq!(json.body["meaning"], explain(kind).meaning);
        assert_eq!(json.body["remedy"], explain(kind).remedy);
        // The example is a problem document of this kind, and a valid one.
        let example = &json.body["example"];
        assert_eq!(faults(&json!({"$ref": "#/components/schemas/Problem"}), example), [""; 0], "{path}");
        for name in ["type", "title", "status"] {
            assert_eq!(example[name], json.body[name], "{path}");
        }
        assert!(example["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{path}");
        assert_eq!(example.get("errors").is_some(), kind == Kind::Invalid, "{path}");

        let (headers, page) = open(&app, &path).await;
        assert_eq!(headers["vary"], "accept", "{path}");
        assert_ne!(headers["etag"], json.headers["etag"], "{path}");
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"), "{page}");
        assert!(page.contains(&format!("<h1>{}</h1>", kind.title())), "{page}");
        assert!(page.contains(&path) && page.contains(r#"href="/problems""#), "{page}");
        let shown = page.split("<pre><code>").nth(1).and_then(|rest| rest.split("</code></pre>").next());
        let shown: Value = serde_json::from_str(&unescaped(shown.unwrap())).unwrap();
        assert_eq!(shown, *example, "{path}");
        let plain = unescaped(&page.replace("<code>", "`").replace("</code>", "`"));
        assert!(plain.contains(explain(kind).meaning) && plain.contains(explain(kind).remedy), "{plain}");
    }
}

#[tokio::test]
async fn the_list_has_all_kinds_of_problems_and_no_others() {
    let app = TestApp::spawn().await;
    let all: BTreeSet<String> = Kind::ALL.into_iter().map(type_of).collect();
    let json = answer(app.get("/problems")).await;
    assert_eq!(json.headers["content-type"], "application/json");
    let items = json.body["items"].as_array().unwrap();
    let listed: Vec<&str> = items.iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(listed.len(), all.len());
    assert_eq!(listed.iter().map(|one| (*one).to_owned()).collect::<BTreeSet<_>>(), all);
    for item in items {
        assert_eq!(answer(app.get(item["type"].as_str().unwrap())).await.body, *item);
    }
    let (_, page) = open(&app, "/problems").await;
    // The text above the table has a link to one of them as an example.
    let table = page.split("<tbody>").nth(1).unwrap();
    let links = table.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    assert_eq!(links.collect::<Vec<_>>(), listed);
}

#[tokio::test]
async fn a_kind_of_problem_that_does_not_exist_is_not_found() {
    let app = TestApp::spawn().await;
    for slug in ["nothing", "INVALID", "invalid%20", "%ff", "invalid%2fmore", "<b>"] {
        for accept in ["application/json", BROWSER] {
            let request = app.get(&format!("/problems/{slug}")).header("accept", accept);
            let refused = refusal(request, 404).await;
            assert_eq!(refused.r#type, "/problems/not-found", "{slug}");
        }
    }
}

#[tokio::test]
async fn a_problem_leads_to_its_page() {
    let app = TestApp::spawn().await;
    let refused = refusal(app.get("/v1/me"), 401).await;
    let (_, page) = open(&app, &refused.r#type).await;
    assert!(page.contains(&format!("<h1>{}</h1>", refused.title)), "{page}");
}

#[tokio::test]
async fn pages_load_only_the_style_sheet_and_are_304_for_a_browser_that_has_them() {
    let app = TestApp::spawn().await;
    for path in ["/", "/problems", "/problems/invalid"] {
        let (headers, page) = open(&app, path).await;
        assert_eq!(
            headers["content-security-policy"],
            "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'"
        );
        for name in ["cross-origin-opener-policy", "cross-origin-resource-policy"] {
            assert_eq!(headers[name], "same-origin", "{path}");
        }
        assert_eq!(headers["permissions-policy"], "camera=(), geolocation=(), microphone=(), payment=()");
        for part in ["<script", "<style", " style=", "<form", "<iframe", "http:", "https:"] {
            assert!(!page.contains(part), "{part} is in {page}");
        }
        for part in [
            r#"<html lang="en">"#,
            r#"name="viewport""#,
            "<header>",
            r#"<main id="main""#,
            r##"href="#main""##,
            r#"<link rel="stylesheet" href="/style.css">"#,
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
        let request = app.get(path).header("accept", BROWSER).header("if-none-match", &headers["etag"]);
        let again = request.send().await.unwrap();
        assert_eq!((again.status().as_u16(), &again.headers()["vary"]), (304, &headers["vary"]), "{path}");
        // The other format has another tag.
        let other = app.get(path).header("if-none-match", &headers["etag"]).send().await.unwrap();
        assert_eq!(other.status(), 200, "{path}");
    }
    let style = app.get("/style.css").send().await.unwrap();
    assert_eq!(style.status(), 200);
    assert_eq!(style.headers()["content-type"], "text/css; charset=utf-8");
    let tag = style.headers()["etag"].clone();
    let text = style.text().await.unwrap();
    assert!(text.contains("prefers-color-scheme: dark") && !text.contains("url("), "{text}");
    let again = app.get("/style.css").header("if-none-match", tag).send().await.unwrap();
    assert_eq!(again.status(), 304);
}

#[test]
fn the_reference_has_every_kind_with_its_meaning_and_remedy() {
    let page = ReferencePage::Problems.render(Arguments::command());
    for kind in Kind::ALL {
        let row = page.lines().find(|line| line.contains(&format!("| `{}` |", type_of(kind)))).unwrap();
        let explanation = explain(kind);
        assert!(row.contains(explanation.meaning) && row.contains(explanation.remedy), "{row}");
    }
}
