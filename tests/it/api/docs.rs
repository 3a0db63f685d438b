//! `/docs` and `/docs/try`: the reference has all that the OpenAPI document has, and Swagger UI's page has what it loads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use reqwest::Response;
use reqwest::header::HeaderMap;
use salebell::http::docs::view::reference;
use salebell::http::pages::render;
use serde_json::{Value, json};

use crate::support::TestApp;
use crate::support::openapi::{DOCUMENT, operations, resolve};

/// Files from the npm package, their version and hashes.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/docs/swagger");

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
                      connect-src 'self'; frame-ancestors 'none'";

async fn open(app: &TestApp, path: &str) -> (HeaderMap, String) {
    let page = app.get(path).send().await.unwrap();
    assert_eq!(page.status(), 200, "{path}");
    (page.headers().clone(), page.text().await.unwrap())
}

/// Values of an attribute in a page.
fn attributes<'p>(page: &'p str, name: &str) -> Vec<&'p str> {
    let begin = format!(" {name}=\"");
    page.split(begin.as_str()).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

/// The part of a page from an anchor to the next one of the same kind of heading.
fn section<'p>(page: &'p str, id: &str) -> &'p str {
    let begin = page.find(&format!("<h3 id=\"{id}\"")).unwrap_or_else(|| panic!("{id} has no heading"));
    let rest = &page[begin + 1..];
    &rest[..rest.find("<h3 ").into_iter().chain(rest.find("<h2 ")).min().unwrap_or(rest.len())]
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, member)| (name.as_str(), member))
}

#[tokio::test]
async fn the_reference_has_every_operation_webhook_and_schema_and_its_links_lead_somewhere() {
    let app = TestApp::spawn().await;
    let (headers, page) = open(&app, "/docs").await;
    assert_eq!(headers["content-type"], "text/html; charset=utf-8");
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));

    let all = attributes(&page, "id");
    let ids: BTreeSet<&str> = all.iter().copied().collect();
    assert_eq!(ids.len(), all.len(), "every id is there once");
    let webhooks =
        members(&DOCUMENT["webhooks"]).map(|(_, item)| item["post"]["operationId"].as_str().unwrap());
    let mut wanted: BTreeSet<String> =
        operations().map(|operation| operation.id()).chain(webhooks).map(str::to_owned).collect();
    assert!(wanted.len() > 80, "{wanted:?}");
    wanted.extend(members(&DOCUMENT["components"]["schemas"]).map(|(name, _)| format!("schema-{name}")));
    let missing: Vec<&String> = wanted.iter().filter(|id| !ids.contains(id.as_str())).collect();
    assert!(missing.is_empty(), "{missing:#?}");

    let links: BTreeSet<&str> = attributes(&page, "href").into_iter().collect();
    for link in links {
        match link.strip_prefix('#') {
            Some(id) => assert!(ids.contains(id), "{link} leads nowhere"),
            None if link.starts_with('/') => {
                assert_eq!(app.get(link).send().await.unwrap().status(), 200, "{link}");
            }
            None => assert_eq!(link, "data:,"),
        }
    }
    for part in ["<script", "<style", " style=", " onclick", "http:", "https:", "<form", "<img", "<iframe"] {
        let shown = page.find(part).map(|at| &page[at..page.len().min(at + 100)]);
        // Examples name URLs; nothing loads them.
        if !part.starts_with("http") {
            assert_eq!(shown, None, "{part}");
        }
        assert!(
            !attributes(&page, "href")
                .iter()
                .chain(&attributes(&page, "src"))
                .any(|url| url.starts_with(part))
        );
    }
    assert!(attributes(&page, "src").is_empty());
}

#[tokio::test]
async fn the_reference_has_what_the_document_says_of_each_operation() {
    let app = TestApp::spawn().await;
    let (_, page) = open(&app, "/docs").await;
    let escaped = |text: &str| {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        text.replace('"', "&quot;").replace('\'', "&#39;")
    };
    let mut wrong = Vec::new();
    for operation in operations() {
        let section = section(&page, operation.id());
        let mut demand = |text: String| {
            if !section.contains(&text) {
                wrong.push(format!("{operation}: {text}"));
            }
        };
        demand(format!("<code>{} {}</code>", operation.method, escaped(operation.path)));
        // Parts between backticks are marked.
        for part in operation.stated["summary"].as_str().unwrap().split('`') {
            demand(escaped(part));
        }
        operation.scopes().into_iter().flatten().for_each(|scope| demand(format!("<code>{scope}</code>")));
        for parameter in operation.stated["parameters"].as_array().into_iter().flatten().map(resolve) {
            let (name, place) = (parameter["name"].as_str().unwrap(), parameter["in"].as_str().unwrap());
            demand(format!("<dt><code>{name}</code> <span>in the {place}: "));
            for bound in ["minimum", "maximum", "minLength", "maxLength", "pattern", "default"] {
                match &parameter["schema"][bound] {
                    Value::Null => {}
                    Value::String(text) => demand(escaped(text)),
                    value => demand(value.to_string()),
                }
            }
            for value in parameter["schema"]["enum"].as_array().into_iter().flatten() {
                demand(format!("<code>{}</code>", escaped(value.as_str().unwrap())));
            }
        }
        let body = resolve(&operation.stated["requestBody"]);
        members(&body["content"]).for_each(|(media, _)| demand(format!("<code>{media}</code>: ")));
        for (status, answer) in members(&operation.stated["responses"]) {
            demand(format!("<dt><code>{status}</code>"));
            if answer.get("$ref").is_none() {
                members(&answer["content"]).for_each(|(media, _)| demand(format!("<code>{media}</code>: ")));
                members(&answer["headers"]).for_each(|(name, _)| demand(format!(">{name}<")));
            }
        }
    }
    for (name, schema) in members(&DOCUMENT["components"]["schemas"]) {
        let section = section(&page, &format!("schema-{name}"));
        for (field, _) in members(&schema["properties"]) {
            if !section.contains(&format!("<dt><code>{field}</code>")) {
                wrong.push(format!("{name}: {field}"));
            }
        }
    }
    for (name, answer) in members(&DOCUMENT["components"]["responses"]) {
        let section = section(&page, &format!("answer-{name}"));
        let headers = members(&answer["headers"]).map(|(name, _)| format!("#header-{name}"));
        for part in headers.chain(["application/problem+json".to_owned(), "<pre><code>".to_owned()]) {
            if !section.contains(&part) {
                wrong.push(format!("{name}: {part}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The example of a request stands there as JSON.
    let watch = section(&page, "create_watch");
    let example = watch.split("<pre><code>").nth(1).unwrap().split("</code>").next().unwrap();
    let example: Value = serde_json::from_str(&example.replace("&quot;", "\"")).unwrap();
    assert!(example["rule"].is_object(), "{example}");
}

#[test]
fn every_text_of_the_document_is_escaped() {
    let evil = "<script>alert(\"1\")</script>'&";
    let schema = json!({
        "description": evil, "type": "object", "pattern": evil, "format": evil, "default": evil,
        "enum": [evil], "examples": [{evil: evil}], "required": [evil],
        "properties": {evil: {"type": evil, "description": evil, "example": evil}},
        "oneOf": [{"$ref": format!("#/components/schemas/{evil}")}, {"properties": {evil: {}}, "description": evil}],
    });
    let carrier = json!({"name": evil, "in": evil, "description": evil, "schema": schema, "example": evil});
    let answer = json!({"description": format!("`{evil}`"), "headers": {evil: carrier, "a": {"$ref": "#/b"}},
        "content": {evil: {"schema": schema, "example": evil}}});
    let operation = json!({"get": {
        "operationId": evil, "summary": evil, "description": format!("- {evil}\n\n`{evil}`"), "tags": [evil],
        "security": [{evil: [evil]}], "parameters": [carrier],
        "requestBody": {"description": evil, "content": {evil: {"schema": schema}}},
        "responses": {evil: answer, "404": {"$ref": format!("#/components/responses/{evil}")}},
    }});
    let document = json!({
        "info": {"title": evil, "version": evil, "description": evil},
        "tags": [{"name": evil, "description": evil}],
        "paths": {evil: operation}, "webhooks": {evil: operation},
        "components": {"schemas": {evil: schema}, "responses": {evil: answer}, "headers": {evil: carrier},
            "securitySchemes": {evil: {"description": evil}}},
    });
    let view = reference(&document).unwrap();
    render(&view).unwrap();
    let page = askama::Template::render(&view).unwrap();
    let count = |text: &str| page.matches(text).count();
    assert!(count("&lt;script&gt;") > 30, "{page}");
    assert_eq!((count("<script"), count("alert(\"1\")"), count("'&")), (0, 0, 0), "{page}");
}

#[tokio::test]
async fn a_reader_who_has_the_pages_gets_304() {
    let app = TestApp::spawn().await;
    for path in ["/docs", "/docs/try", "/docs/try/start.js", "/docs/try/swagger-ui.css"] {
        let (headers, page) = open(&app, path).await;
        let tag = headers["etag"].to_str().unwrap();
        assert!(tag.starts_with('"') && tag.len() > 10, "{tag} is a strong tag");
        let again = app.get(path).header("if-none-match", tag).send().await.unwrap();
        assert_eq!(
            (again.status().as_u16(), again.headers()["etag"].to_str().unwrap()),
            (304, tag),
            "{path}"
        );
        let other = app.get(path).header("if-none-match", "\"other\"").send().await.unwrap();
        assert_eq!(other.text().await.unwrap(), page, "{path}");
    }
}

/// Asks for a file as it is, or compressed.
async fn load(app: &TestApp, path: &str, encoding: &str) -> Response {
    app.get(path).header("accept-encoding", encoding).send().await.unwrap()
}

#[tokio::test]
async fn swagger_ui_has_its_exact_policy_and_every_file_that_it_names() {
    let app = TestApp::spawn().await;
    let (headers, page) = open(&app, "/docs/try").await;
    assert_eq!(headers["content-type"], "text/html; charset=utf-8");
    assert_eq!(headers.get_all("content-security-policy").iter().collect::<Vec<_>>(), [POLICY]);
    for part in ["<style", " style=", " onload", "http:", "https:", "<script>"] {
        assert!(!page.contains(part), "{part} is in {page}");
    }
    let mut types = BTreeMap::new();
    for path in attributes(&page, "href").into_iter().chain(attributes(&page, "src")) {
        let Some(name) = path.strip_prefix("/docs/try/") else { continue };
        let file = load(&app, path, "identity").await;
        assert_eq!(file.status(), 200, "{path}");
        assert!(!file.headers().contains_key("content-encoding"), "{path}");
        assert_eq!(file.headers()["vary"], "accept-encoding", "{path}");
        types.insert(name.to_owned(), file.headers()["content-type"].to_str().unwrap().to_owned());
    }
    let of = |name: &str| types[name].as_str();
    assert_eq!(types.len(), 6, "{types:?}");
    assert_eq!(of("start.js"), "text/javascript; charset=utf-8");
    assert_eq!(of("swagger-ui-bundle.js"), "text/javascript; charset=utf-8");
    assert_eq!(of("swagger-ui.css"), "text/css; charset=utf-8");
    assert_eq!(of("LICENSE"), "text/plain; charset=utf-8");
    for path in ["nothing.js", "SHA256SUMS", "..%2Fmod.rs", "swagger-ui-bundle.js.gz", "%ff"] {
        assert_eq!(app.get(&format!("/docs/try/{path}")).send().await.unwrap().status(), 404, "{path}");
    }
}

#[tokio::test]
async fn files_of_swagger_ui_are_those_whose_hashes_are_listed() {
    let app = TestApp::spawn().await;
    let sums = fs::read_to_string(Path::new(FOLDER).join("SHA256SUMS")).unwrap();
    let (version, listed) = sums.split_once('\n').unwrap();
    let version = version.strip_prefix("# swagger-ui-dist ").unwrap();
    assert!(version.starts_with("5.35."), "{version}");
    let (_, page) = open(&app, "/docs/try").await;
    assert!(page.contains(&format!("Swagger UI {version}:")), "{page}");
    assert_eq!(listed.lines().count(), 5);
    for line in listed.lines() {
        let (sum, name) = line.split_once("  ").unwrap();
        let path = format!("/docs/try/{name}");
        let plain = load(&app, &path, "identity").await;
        let (tag, bytes) = (plain.headers()["etag"].clone(), plain.bytes().await.unwrap());
        let found: String =
            digest(&SHA256, &bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, sum, "{name}");
        let small = load(&app, &path, "br, gzip;q=0.9").await;
        assert_eq!(small.status(), 200);
        if name.ends_with(".css") || name.ends_with(".js") {
            assert_eq!(small.headers()["content-encoding"], "gzip", "{name}");
            // The bytes are others, and so is the tag.
            assert_ne!(small.headers()["etag"], tag, "{name}");
            assert!(small.bytes().await.unwrap().len() < bytes.len() / 3, "{name}");
        } else {
            assert!(!small.headers().contains_key("content-encoding"), "{name}");
            assert_eq!(small.headers()["etag"], tag, "{name}");
        }
    }
    let start = load(&app, "/docs/try/start.js", "gzip").await.text().await.unwrap();
    for setting in ["persistAuthorization: false", "validatorUrl: null", "queryConfigEnabled: false"] {
        assert!(start.contains(setting), "{setting} is not in {start}");
    }
}
