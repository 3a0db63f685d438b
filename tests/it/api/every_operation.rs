//! What holds for every operation of the OpenAPI document that states it: it is tried on each of them.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::auth_coverage::{at, own_everything};
use crate::support::TestApp;
use crate::support::openapi::{Operation, operations};

const SCOPES: [&str; 3] = ["prices:write", "catalogue:write", "operator"];

/// Whether an operation states a status.
fn states(operation: &Operation, status: &str) -> bool {
    operation.answers().any(|(stated, _)| stated == status)
}

fn method(operation: &Operation) -> Method {
    operation.method.parse().unwrap()
}

#[tokio::test]
async fn every_read_that_states_it_is_304_with_its_own_entity_tag() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let owned = own_everything(&app, &anna).await;
    let first = async |list: &str| -> Uuid {
        let list: Value = app.get(list).send().await.unwrap().json().await.unwrap();
        list["items"][0]["id"].as_str().unwrap().parse().unwrap()
    };
    let shared = [
        ("/v1/games/", first("/v1/games").await),
        ("/v1/offers/", first("/v1/offers").await),
        ("/v1/stores/", first("/v1/stores").await),
    ];
    let ids: Vec<(&str, Uuid)> = owned.iter().map(|(path, id, _)| (*path, *id)).chain(shared).collect();
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for operation in operations().filter(|one| one.method == "GET" && states(one, "304")) {
        let id = ids.iter().find(|(start, _)| operation.path.starts_with(start)).map(|(_, id)| *id);
        if operation.path.contains('{') && id.is_none() {
            // Rows in quarantine and share links have tests of their own.
            continue;
        }
        let path = at(operation.path, id.unwrap_or_default());
        let get = || app.get(&path).bearer_auth(&anna.token);
        let read = get().send().await.unwrap();
        let Some(tag) = read.headers().get("etag").cloned() else {
            wrong.push(format!("{operation}: {} without a tag", read.status()));
            continue;
        };
        let again = get().header("if-none-match", &tag).send().await.unwrap();
        if again.status() != 304 || again.headers().get("etag") != Some(&tag) {
            wrong.push(format!("{operation}: {}", again.status()));
        }
        tried += 1;
    }
    assert!(tried > 25, "{tried}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn every_json_body_that_is_too_large_is_refused() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let owned = own_everything(&app, &anna).await;
    let body = json!({"name": "x".repeat(1 << 21)}).to_string();
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for operation in operations().filter(|one| states(one, "413")) {
        let media =
            if operation.method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let takes_json = operation.stated["requestBody"]["content"].get(media).is_some();
        // A POST without a body of its own reads it for its key, to know a repetition.
        let is_empty = operation.method == "POST" && operation.stated.get("requestBody").is_none();
        if !takes_json && !is_empty {
            continue;
        }
        let id = owned.iter().find(|(start, ..)| operation.path.starts_with(start)).map(|(_, id, _)| *id);
        let mut request = app
            .request(method(&operation), &at(operation.path, id.unwrap_or_default()))
            .bearer_auth(&anna.token)
            .header("content-type", media)
            .body(body.clone());
        if is_empty {
            request = request.header("idempotency-key", Uuid::new_v4().to_string());
        }
        let status = request.send().await.unwrap().status();
        if status != 413 {
            wrong.push(format!("{operation}: {status}"));
        }
        tried += 1;
    }
    assert!(tried > 15, "{tried}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn every_change_that_states_it_is_refused_for_another_version() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let owned = own_everything(&app, &anna).await;
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for operation in operations().filter(|one| matches!(one.method, "PATCH" | "DELETE") && states(one, "412"))
    {
        let Some((_, id, body)) = owned.iter().find(|(start, ..)| operation.path.starts_with(start)) else {
            continue;
        };
        if operation.path.starts_with("/v1/files/") {
            // Its writes are conditional in the way of uploads, which have tests of their own.
            continue;
        }
        let request = app
            .request(method(&operation), &at(operation.path, id))
            .bearer_auth(&anna.token)
            .header("if-match", "\"another\"");
        let request = if operation.method == "PATCH" { request.json(body) } else { request };
        let status = request.send().await.unwrap().status();
        if status != 412 {
            wrong.push(format!("{operation}: {status}"));
        }
        tried += 1;
    }
    assert!(tried > 4, "{tried}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
