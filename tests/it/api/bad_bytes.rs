//! Paths and headers that are not UTF-8, and methods that a path does not support: refused with the same problem
//! document as every other error.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::Value;

use crate::api::auth_coverage::{at, routes};
use crate::support::{TestApp, raw};

/// Sends an HTTP/1.1 request with these headers, and returns the head and the body of the answer.
async fn request(app: &TestApp, method: &str, target: &[u8], headers: &[&[u8]]) -> (String, String) {
    let mut request =
        [method.as_bytes(), b" ", target, b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"].concat();
    for header in headers {
        request.extend_from_slice(&[header, &b"\r\n"[..]].concat());
    }
    request.extend_from_slice(b"\r\n");
    let answer = raw::exchange(&app.url, request).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_ascii_lowercase(), body.to_owned())
}

fn status(head: &str) -> u16 {
    head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default()
}

/// Why an answer is not a valid problem document; `None` if it is one.
fn is_no_problem(head: &str, body: &str) -> Option<String> {
    let problem: Option<Value> = serde_json::from_str(body).ok();
    let has_problem =
        problem.is_some_and(|problem| problem["status"] == status(head) && problem["type"].is_string());
    let typed = head.contains("content-type: application/problem+json");
    (!has_problem || !typed).then(|| format!("{head}\n{body}"))
}

#[tokio::test]
async fn a_path_that_is_no_utf8_is_refused_with_a_problem() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &["catalogue:write", "prices:write", "operator"]).await;
    let bearer = format!("Authorization: Bearer {}", anna.token);
    let mut wrong = Vec::new();
    for (method, path) in routes() {
        if !path.contains('{') || method == Method::HEAD || method == Method::OPTIONS {
            continue;
        }
        for bytes in ["%ff", "a%ff", "%c3%28", "%ed%a0%80"] {
            let target = at(&path, bytes);
            let headers = [bearer.as_bytes(), b"Content-Type: application/json", b"Content-Length: 0"];
            let (head, body) = request(&app, method.as_str(), target.as_bytes(), &headers).await;
            let expected: &[u16] = if path.starts_with("/d/") { &[404] } else { &[400, 404, 405] };
            if !expected.contains(&status(&head)) {
                wrong.push(format!("{method} {target}: {head}"));
            }
            wrong.extend(is_no_problem(&head, &body).map(|why| format!("{method} {target}: {why}")));
        }
    }
    // Cases outside the URL table.
    for (target, expected) in
        [("/%ff", 404), ("/v1/%ff", 404), ("/d/%ff/x", 404), ("/v1/deals?store=%ff", 400)]
    {
        let (head, body) = request(&app, "GET", target.as_bytes(), &[]).await;
        if status(&head) != expected {
            wrong.push(format!("{target}: {head}"));
        }
        wrong.extend(is_no_problem(&head, &body).map(|why| format!("{target}: {why}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_query_that_is_no_utf8_is_refused_and_not_guessed() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    for path in ["/v1/files?name=%ff", "/v1/files?name=a%c3", "/v1/files?%ff=1"] {
        let answer = app.post(path).bearer_auth(&anna.token).body("x").send().await.unwrap();
        assert_eq!(answer.status(), 400, "{path}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
    let named = app.post("/v1/files?name=%ef%bf%bd+%C3%A9").bearer_auth(&anna.token).body("x");
    let named: Value = named.send().await.unwrap().json().await.unwrap();
    assert_eq!(named["name"], "\u{fffd} é");
}

#[tokio::test]
async fn a_header_that_is_no_utf8_is_refused_with_a_problem_or_ignored() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &["catalogue:write", "prices:write"]).await;
    let file =
        crate::files::downloads::upload(&app, &anna, "a.bin", "", crate::files::uploads::bytes(1_000)).await;
    let content = format!("{file}/content");
    let bearer = format!("Authorization: Bearer {}", anna.token);
    let bearer = bearer.as_bytes();
    let tus: &[u8] = b"Tus-Resumable: 1.0.0";
    let json: &[u8] = b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let mut wrong = Vec::new();
    for (method, target, headers, expected) in [
        ("GET", "/v1/me", vec![b"Authorization: Bearer \xff" as &[u8]], 401),
        ("GET", "/v1/me", vec![b"Authorization: \xff"], 401),
        ("GET", "/v1/me", vec![bearer, b"X-Request-Id: \xff"], 200),
        ("GET", "/v1/me", vec![bearer, b"traceparent: \xff", b"tracestate: \xff"], 200),
        ("GET", "/v1/me", vec![bearer, b"If-None-Match: \xff"], 200),
        ("GET", "/v1/me", vec![bearer, b"Accept: \xff", b"X-Forwarded-For: \xff"], 200),
        ("GET", "/v1/me", vec![bearer, b"X-Whatever: \xff\xfe"], 200),
        ("GET", &content, vec![bearer, b"Range: bytes=0-\xff"], 200),
        ("GET", &content, vec![bearer, b"Range: bytes=0-1", b"If-Range: \xff"], 200),
        ("GET", &content, vec![bearer, b"If-Match: \xff"], 412),
        ("GET", &content, vec![bearer, b"If-None-Match: \xff"], 200),
        ("GET", &content, vec![bearer, b"If-Modified-Since: \xff"], 200),
        ("PATCH", &file, vec![bearer, b"If-Match: \xff", json], 412),
        ("DELETE", &file, vec![bearer, b"If-Match: \xff"], 412),
        ("POST", "/v1/keys", vec![bearer, b"Idempotency-Key: \"\xff\"", json], 400),
        ("POST", "/v1/keys", vec![bearer, b"Content-Type: application/\xff", b"Content-Length: 0"], 415),
        ("POST", "/v1/keys", vec![bearer, b"Content-Encoding: \xff", json], 415),
        ("POST", "/v1/files", vec![bearer, tus, b"Upload-Length: \xff"], 400),
        ("POST", "/v1/files", vec![bearer, tus, b"Upload-Length: 1", b"Upload-Metadata: \xff"], 400),
        ("POST", "/v1/files", vec![bearer, tus, b"Upload-Length: 1", b"Upload-Concat: \xff"], 400),
        ("POST", "/v1/files", vec![bearer, tus, b"Upload-Defer-Length: \xff"], 400),
        ("POST", "/v1/files", vec![bearer, b"Tus-Resumable: \xff"], 412),
        ("POST", "/v1/files", vec![bearer, b"Upload-Complete: ?0", b"Upload-Metadata: \xff"], 400),
        ("POST", "/v1/files", vec![bearer, b"Content-Digest: \xff", b"Content-Length: 0"], 400),
        ("POST", "/v1/files", vec![bearer, b"Content-Disposition: attachment; filename=\"\xff\""], 400),
        ("POST", &file, vec![bearer, b"X-HTTP-Method-Override: \xff"], 405),
        ("GET", "/healthz", vec![b"Host: \xff"], 400),
        ("GET", "/d/none", vec![b"Range: \xff", b"If-Match: \xff"], 404),
    ] {
        let (head, body) = request(&app, method, target.as_bytes(), &headers).await;
        let shown: Vec<_> = headers.iter().map(|header| String::from_utf8_lossy(header)).collect();
        if status(&head) != expected {
            wrong.push(format!("{method} {target} {shown:?}: {expected}: {head}\n{body}"));
        } else if expected >= 400 {
            wrong
                .extend(is_no_problem(&head, &body).map(|why| format!("{method} {target} {shown:?}: {why}")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A file name in UTF-8 is valid, as curl and browsers send it.
    let named = [
        bearer,
        "Content-Disposition: attachment; filename=\"Ä.csv\"".as_bytes(),
        b"Content-Length: 1\r\n\r\nx",
    ];
    let (head, body) = request(&app, "POST", b"/v1/files", &named).await;
    assert_eq!(status(&head), 201, "{body}");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["name"], "Ä.csv");
}

#[tokio::test]
async fn an_unsupported_method_is_answered_with_the_supported_ones_on_every_path() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &["catalogue:write", "prices:write", "operator"]).await;
    let bearer = format!("Authorization: Bearer {}", anna.token);
    let mut table: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (method, path) in routes() {
        let known = table.entry(path).or_default();
        if method == Method::GET {
            known.insert("HEAD".to_owned());
        }
        known.insert(method.to_string());
    }
    let mut wrong = Vec::new();
    for (path, known) in &table {
        let target = at(path, uuid::Uuid::now_v7());
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            if known.contains(method) {
                continue;
            }
            let headers = [bearer.as_bytes(), b"Content-Length: 0"];
            let (head, body) = request(&app, method, target.as_bytes(), &headers).await;
            let allow = head.lines().find_map(|line| line.strip_prefix("allow: ")).unwrap_or_default();
            let allowed: BTreeSet<String> =
                allow.split(',').map(|method| method.trim().to_ascii_uppercase()).collect();
            if status(&head) != 405 || allowed != *known {
                wrong.push(format!("{method} {target} knows {known:?}: {head}"));
            }
            if method != "HEAD" {
                wrong.extend(is_no_problem(&head, &body).map(|why| format!("{method} {target}: {why}")));
            }
        }
    }
    for (method, target) in
        [("TRACE", "/nothing"), ("TRACE", "/"), ("CONNECT", "a:443"), ("POST", "/v1/files/x")]
    {
        let target = if target == "/v1/files/x" {
            at("/v1/files/{id}", uuid::Uuid::now_v7())
        } else {
            target.to_owned()
        };
        let (head, body) =
            request(&app, method, target.as_bytes(), &[bearer.as_bytes(), b"Content-Length: 0"]).await;
        // The file does not exist.
        if target.starts_with("/v1/files") {
            assert_eq!(status(&head), 404);
            continue;
        }
        assert!(status(&head) == 405 && head.contains("\r\nallow: get"), "{method} {target}: {head}");
        assert_eq!(is_no_problem(&head, &body), None);
    }
    let file = crate::files::downloads::upload(&app, &anna, "a", "", "x".into()).await;
    let (head, _) = request(&app, "POST", file.as_bytes(), &[bearer.as_bytes(), b"Content-Length: 0"]).await;
    assert!(status(&head) == 405 && head.contains("\r\nallow: "), "{head}");
}
