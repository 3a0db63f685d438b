//! The OpenAPI document itself: it has every route, it says of each what it must, its examples fit its schemas, and it
//! is served in two versions. Whether it is true of the answers is checked wherever a test gets one
//! (`support::openapi`).

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use reqwest::Method;
use salebell::domain::api_key::SCOPES;
use salebell::error::Kind;
use salebell::http::ROUTES;
use salebell::http::document;
use salebell::http::openapi::Version;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::auth_coverage::{OPEN, at};
use crate::support::TestApp;
use crate::support::catalogue::answer;
use crate::support::openapi::{
    DOCUMENT, Operation, faults, faults_of_answer, is_json, operations, resolve, target,
};

/// Media types whose bodies are streams of items.
const STREAMS: [&str; 2] = ["application/x-ndjson", "text/event-stream"];

/// No faults.
const NOTHING: [&str; 0] = [];

/// Whether a value is a text that says something.
fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.trim().is_empty())
}

/// The members of an object; none if it is no object.
fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, member)| (name.as_str(), member))
}

/// The items of an array; none if it is no array.
fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[test]
fn the_document_has_the_routes_of_the_url_table_and_no_others() {
    let routes: BTreeSet<String> =
        ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    let described: BTreeSet<String> = operations().map(|operation| operation.to_string()).collect();
    let (missing, extra) = (&routes - &described, &described - &routes);
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:#?}; not in the table: {extra:#?}");
}

#[test]
fn every_operation_is_described() {
    let tags: BTreeSet<&str> = items(&DOCUMENT["tags"]).filter_map(|tag| tag["name"].as_str()).collect();
    let name = json!({"pattern": "^[a-z]+(_[a-z0-9]+)+$"});
    let mut ids = BTreeSet::new();
    let mut wrong = Vec::new();
    for operation in operations() {
        let stated = operation.stated;
        let mut demand = |holds: bool, what: &str| {
            if !holds {
                wrong.push(format!("{operation}: {what}"));
            }
        };
        demand(faults(&name, &stated["operationId"]).is_empty() && is_text(&stated["operationId"]), "its id");
        demand(ids.insert(operation.id()), "another operation has its id");
        demand(
            is_text(&stated["summary"]) && stated["summary"].as_str().is_some_and(|text| text.ends_with('.')),
            "the summary is no sentence",
        );
        let own_tags: Vec<&str> = items(&stated["tags"]).filter_map(Value::as_str).collect();
        demand(own_tags.len() == 1 && tags.contains(own_tags[0]), "it needs one known tag");
        for (status, answer) in operation.answers() {
            demand(is_text(&answer["description"]), &format!("{status} has no description"));
        }
        let succeeds = operation.answers().any(|(status, _)| status.starts_with(['2', '3']));
        demand(succeeds, "every answer is a refusal");
    }
    assert!(ids.len() > 50, "{ids:?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_parameter_of_a_path_is_described_once() {
    let mut wrong = Vec::new();
    for operation in operations() {
        let parameters: Vec<&Value> = items(&operation.stated["parameters"]).map(resolve).collect();
        let mut seen = BTreeSet::new();
        for parameter in &parameters {
            let key = (parameter["in"].as_str(), parameter["name"].as_str().map(str::to_ascii_lowercase));
            if !is_text(&parameter["description"]) || !seen.insert(key) {
                wrong.push(format!("{operation}: {} is twice here, or not described", parameter["name"]));
            }
        }
        let in_path = parameters.iter().filter(|parameter| parameter["in"] == "path");
        let described: BTreeSet<&str> = in_path
            .filter(|parameter| parameter["required"] == true)
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        let named: BTreeSet<&str> =
            operation.path.split('{').skip(1).filter_map(|rest| rest.split('}').next()).collect();
        if described != named {
            wrong.push(format!("{operation}: describes {described:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn operations_need_a_token_unless_they_are_listed_as_open() {
    let mut wrong = Vec::new();
    for operation in operations() {
        if operation.scopes().is_some() == OPEN.contains(&operation.to_string().as_str()) {
            wrong.push(format!("{operation}: {}", operation.stated["security"]));
        }
        for (scheme, _) in items(&operation.stated["security"]).flat_map(members) {
            if DOCUMENT["components"]["securitySchemes"].get(scheme).is_none() {
                wrong.push(format!("{operation}: {scheme} is not described"));
            }
        }
        for scope in operation.scopes().unwrap_or_default() {
            if !SCOPES.contains(&scope) {
                wrong.push(format!("{operation}: there is no scope {scope}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The schemas directly within a schema, with their places.
fn parts_of(schema: &Value) -> Vec<(String, &Value)> {
    let mut parts = Vec::new();
    for (name, member) in members(schema) {
        match name {
            "properties" | "patternProperties" | "$defs" => {
                parts.extend(members(member).map(|(part, schema)| (format!("{name}/{part}"), schema)));
            }
            "allOf" | "anyOf" | "oneOf" | "prefixItems" => {
                parts.extend(items(member).enumerate().map(|(at, part)| (format!("{name}/{at}"), part)));
            }
            "items" | "additionalProperties" | "contains" | "not" => parts.push((name.to_owned(), member)),
            _ => {}
        }
    }
    parts
}

/// Notes each example in a schema and its parts that does not fit, and counts all of them.
fn check_examples(place: &str, schema: &Value, wrong: &mut Vec<String>) -> usize {
    let own: Vec<&Value> = schema.get("example").into_iter().chain(items(&schema["examples"])).collect();
    for example in &own {
        wrong.extend(faults(schema, example).into_iter().map(|fault| format!("{place}: {fault}")));
    }
    let mut found = own.len();
    for (at, part) in parts_of(schema) {
        found += check_examples(&format!("{place}/{at}"), part, wrong);
    }
    found
}

/// Everything outside of schemas that has one: contents, parameters and headers, with their places.
fn carriers(place: &str, node: &'static Value, found: &mut Vec<(String, &'static Value)>) {
    if node.get("schema").is_some() {
        found.push((place.to_owned(), node));
    }
    for (name, member) in members(node) {
        if !["schema", "schemas", "example", "examples"].contains(&name) {
            carriers(&format!("{place}/{name}"), member, found);
        }
    }
    for (at, item) in items(node).enumerate() {
        carriers(&format!("{place}/{at}"), item, found);
    }
}

/// Examples of a content, parameter or header, beside its schema.
fn examples_beside(carrier: &Value) -> Vec<&Value> {
    let named = members(&carrier["examples"]).filter_map(|(_, example)| example.get("value"));
    carrier.get("example").into_iter().chain(named).collect()
}

#[test]
fn every_example_fits_its_schema() {
    let mut wrong = Vec::new();
    let mut found = 0;
    for (name, schema) in members(&DOCUMENT["components"]["schemas"]) {
        if let Err(error) = jsonschema::meta::validate(schema) {
            wrong.push(format!("{name} is no schema: {error}"));
            continue;
        }
        found += check_examples(name, schema, &mut wrong);
    }
    let mut carrying = Vec::new();
    carriers("", &DOCUMENT, &mut carrying);
    for (place, carrier) in carrying {
        found += check_examples(&place, &carrier["schema"], &mut wrong);
        for example in examples_beside(carrier) {
            let faults = faults(&carrier["schema"], example);
            wrong.extend(faults.into_iter().map(|fault| format!("{place}: {fault}")));
            found += 1;
        }
    }
    assert!(found > 50, "{found}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// An example of a JSON body: beside its schema, or in it. A list is shown by its item, a page by its items.
fn example_of(content: &'static Value) -> Option<Value> {
    let beside = examples_beside(content).into_iter().next().cloned();
    beside.or_else(|| example_in(&content["schema"]))
}

fn example_in(schema: &'static Value) -> Option<Value> {
    let own = schema.get("example").or_else(|| items(&schema["examples"]).next());
    if let Some(own) = own {
        return Some(own.clone());
    }
    if let Some(reference) = schema["$ref"].as_str() {
        return example_in(target(&DOCUMENT, reference)?);
    }
    if let Some(item) = schema.get("items") {
        return Some(json!([example_in(item)?]));
    }
    let page = &schema["properties"];
    page.get("next_cursor")?;
    Some(json!({"items": example_in(page.get("items")?)?, "next_cursor": null}))
}

/// A JSON body: `request` or the status of its answer, its media type, and what the document says of it.
type JsonBody = (&'static str, &'static str, &'static Value);

/// JSON bodies of an operation.
fn json_bodies(operation: Operation) -> Vec<JsonBody> {
    let request = resolve(&operation.stated["requestBody"]);
    let mut found = Vec::new();
    for (of, stated) in std::iter::once(("request", request)).chain(operation.answers()) {
        let contents = members(&stated["content"]).filter(|(media, _)| is_json(media));
        found.extend(contents.map(|(media, content)| (of, media, content)));
    }
    found
}

#[test]
fn every_json_body_has_an_example() {
    let mut wrong = BTreeSet::new();
    for operation in operations() {
        for (of, media, content) in json_bodies(operation) {
            if example_of(content).is_none() {
                // A schema that many operations share is told once.
                let shared = content["schema"]["$ref"].as_str().map(str::to_owned);
                wrong.insert(shared.unwrap_or_else(|| format!("{operation}: {of}: {media}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_body_has_a_schema() {
    let mut wrong = Vec::new();
    for operation in operations() {
        let request = resolve(&operation.stated["requestBody"]);
        for (of, stated) in std::iter::once(("request", request)).chain(operation.answers()) {
            let bare = members(&stated["content"]).filter(|(_, content)| content.get("schema").is_none());
            wrong.extend(bare.map(|(media, _)| format!("{operation}: {of}: {media}")));
        }
    }
    assert!(wrong.is_empty(), "generators of clients leave these out: {wrong:#?}");
}

/// Contents of streams, wherever they are.
fn streams<'d>(node: &'d Value, found: &mut Vec<&'d Map<String, Value>>) {
    for (name, member) in members(node) {
        if STREAMS.contains(&name) {
            found.extend(member.as_object());
        }
        streams(member, found);
    }
    items(node).for_each(|item| streams(item, found));
}

#[tokio::test]
async fn the_document_is_served_in_two_versions_without_a_token() {
    let app = TestApp::spawn().await;
    let get = async |query: &str| answer(app.get(&format!("/openapi.json{query}"))).await;
    let plain = get("").await;
    assert_eq!((plain.status.as_u16(), plain.header("content-type")), (200, "application/json"));
    assert!(plain.body == *DOCUMENT, "it is the one that the answers are checked against");
    let tag = plain.header("etag");
    assert!(tag.starts_with('"') && tag.len() > 10, "{tag} is a strong tag");
    let again = app.get("/openapi.json").header("if-none-match", tag).send().await.unwrap();
    assert_eq!((again.status().as_u16(), again.headers()["etag"].to_str().unwrap()), (304, tag));
    assert!(plain.body["openapi"].as_str().unwrap().starts_with("3.1."), "{}", plain.body["openapi"]);
    assert_eq!(get("?version=3.1").await.body, plain.body);

    let newer = get("?version=3.2").await;
    assert_eq!(newer.status, 200);
    assert!(newer.body["openapi"].as_str().unwrap().starts_with("3.2."), "{}", newer.body["openapi"]);
    assert_ne!(newer.header("etag"), tag);
    let (mut old, mut new) = (Vec::new(), Vec::new());
    streams(&plain.body, &mut old);
    streams(&newer.body, &mut new);
    assert!(!old.is_empty() && old.len() == new.len(), "{} and {}", old.len(), new.len());
    assert!(old.iter().all(|content| !content.contains_key("itemSchema")), "{old:#?}");
    assert!(new.iter().all(|content| content.contains_key("itemSchema")), "{new:#?}");

    for query in ["?version=2", "?version=3.0", "?version=", "?kind=yaml"] {
        assert_eq!(get(query).await.status, 400, "{query}");
    }
}

/// References in a part of the document.
fn references<'d>(node: &'d Value, found: &mut BTreeSet<&'d str>) {
    found.extend(node.get("$ref").and_then(Value::as_str));
    members(node).for_each(|(_, member)| references(member, found));
    items(node).for_each(|item| references(item, found));
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_used() {
    for version in [Version::V3_1, Version::V3_2] {
        let document = document(version).unwrap();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        let broken: Vec<_> =
            found.into_iter().filter(|reference| target(&document, reference).is_none()).collect();
        assert!(broken.is_empty(), "{broken:#?}");
    }
    // Version 3.1 has the schemas of a stream's items too, but no place that could refer to them.
    let document = document(Version::V3_2).unwrap();
    let mut used = BTreeSet::new();
    references(&document["paths"], &mut used);
    references(&document["webhooks"], &mut used);
    loop {
        let before = used.len();
        let targets: Vec<&Value> = used.iter().filter_map(|reference| target(&document, reference)).collect();
        targets.into_iter().for_each(|part| references(part, &mut used));
        if used.len() == before {
            break;
        }
    }
    let unused: Vec<&str> = members(&document["components"]["schemas"])
        .map(|(name, _)| name)
        .filter(|name| !used.contains(format!("#/components/schemas/{name}").as_str()))
        .collect();
    assert!(unused.is_empty(), "{unused:#?}");
}

#[test]
fn every_kind_of_problem_is_in_the_document() {
    let kinds: BTreeSet<String> = Kind::ALL.iter().map(|kind| format!("/problems/{}", kind.slug())).collect();
    let schema = &DOCUMENT["components"]["schemas"]["Problem"]["properties"]["type"];
    let stated = items(&resolve(schema)["enum"]).filter_map(Value::as_str).map(str::to_owned);
    assert_eq!(stated.collect::<BTreeSet<String>>(), kinds);
}

#[tokio::test]
async fn scopes_are_demanded_as_the_document_says() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let (mut wrong, mut demanding) = (Vec::new(), 0);
    for operation in operations() {
        let Some(scopes) = operation.scopes() else { continue };
        let method: Method = operation.method.parse().unwrap();
        let mut request = app.request(method, &at(operation.path, Uuid::now_v7())).bearer_auth(&anna.token);
        // A valid body: an operation may read it before it looks at the token's scopes.
        let body = json_bodies(operation).into_iter().find(|(of, ..)| *of == "request");
        if let Some((_, media, content)) = body
            && let Some(example) = example_of(content)
        {
            request = request.header("content-type", media).body(example.to_string());
        }
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        let refused = status == 403 && text.contains("The token lacks the scope");
        if refused == scopes.is_empty() {
            wrong.push(format!("{operation} with {scopes:?}: {status} {text}"));
        }
        if let Some(scope) = scopes.first().filter(|_| scopes.len() == 1)
            && refused
            && !text.contains(&format!("The token lacks the scope {scope}."))
        {
            wrong.push(format!("{operation} demands another scope than {scope}: {text}"));
        }
        demanding += usize::from(refused);
    }
    assert!(demanding > 10, "{demanding}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_answer_that_the_document_does_not_know_is_found() {
    let (path, json) = ("/v1/watches/{id}", "application/json");
    let show = operations().find(|one| (one.method, one.path) == ("GET", path)).unwrap();
    let body = json_bodies(show).into_iter().find(|(of, media, _)| (*of, *media) == ("200", json));
    let mut body = example_of(body.unwrap().2).unwrap();
    let check = |method: Method, path: &str, status: u16, media: &str, body: &Value| {
        let text = body.to_string();
        let answer = Response::builder().status(StatusCode::from_u16(status).unwrap());
        let answer = answer.header("content-type", media).body(Body::from(text.clone())).unwrap();
        faults_of_answer(&method, path, &answer, Some(text.as_bytes()))
    };
    assert_eq!(check(Method::GET, path, 200, json, &body), NOTHING);
    assert_eq!(check(Method::GET, path, 200, "application/json; charset=utf-8", &body), NOTHING);
    assert_eq!(check(Method::HEAD, path, 200, json, &body), NOTHING, "a GET implies it");
    assert_eq!(check(Method::PUT, path, 405, "application/problem+json", &json!({})), NOTHING);
    for faults in [
        check(Method::GET, path, 418, json, &body),
        check(Method::GET, path, 200, "text/html", &body),
        check(Method::PUT, path, 200, json, &body),
        check(Method::GET, path, 200, json, &json!({})),
        check(Method::GET, path, 404, "application/problem+json", &json!({"type": "/problems/none"})),
    ] {
        assert!(!faults.is_empty());
    }
    body["created_at"] = json!("yesterday");
    assert!(!check(Method::GET, path, 200, json, &body).is_empty(), "formats count");
    body["created_at"] = json!("2026-11-29T10:00:00Z");
    body["rule"]["surprise"] = json!(1);
    assert!(!check(Method::GET, path, 200, json, &body).is_empty(), "and fields of fields");
}

#[test]
fn a_field_that_a_composed_schema_does_not_know_is_found() {
    let problem = json!({"type": "/problems/invalid", "title": "Invalid", "status": 422, "detail": "x"});
    let with = |name: &str| {
        let mut value = problem.clone();
        value[name] = json!(7);
        value
    };
    let alone = json!({"$ref": "#/components/schemas/Problem"});
    assert_eq!(faults(&alone, &problem), NOTHING);
    assert_eq!(faults(&alone, &with("line")).len(), 1);
    let composed = json!({"allOf": [alone, {"type": "object", "properties": {"line": {"type": "integer"}}}]});
    assert_eq!(faults(&composed, &with("line")), NOTHING);
    assert_eq!(faults(&composed, &with("lines")).len(), 1);
}
