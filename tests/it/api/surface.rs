//! Behaviour that all routes share.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use axum::Router;
use axum::extract::Request;
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt;
use reqwest::Method;
use salebell::app::App;
use salebell::error::{Error, Problem};
use salebell::http;
use salebell::http::extract::body::{self, Json};
use salebell::telemetry::trace_context::TraceContext;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::support::{TestApp, raw};

/// Routes that behave like a broken or a slow handler.
fn misbehaving(app: App) -> Router {
    let routes = Router::new()
        .route("/panic", get(|| async { panic!("on purpose") as &str }))
        .route("/slow", get(|| async { std::future::pending::<&str>().await }))
        .route("/trace", get(|trace: TraceContext| async move { trace.traceparent() }))
        .route("/json", post(|Json(value): Json<serde_json::Value>| async move { value.to_string() }))
        .route("/stream", post(stream));
    http::layered(routes, app)
}

async fn stream(request: Request) -> Result<String, Error> {
    body::begin_stream(&request);
    let mut pieces = request.into_body().into_data_stream();
    let mut bytes = 0;
    while let Some(piece) = pieces.next().await {
        bytes += piece.map_err(|error| body::broken_off(&error))?.len();
    }
    Ok(bytes.to_string())
}

async fn problem(answer: reqwest::Response, status: u16) -> Problem {
    assert_eq!(answer.status(), status);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    let problem: Problem = answer.json().await.unwrap();
    assert_eq!(problem.status, status);
    assert_eq!(problem.instance, Some(id));
    problem
}

#[tokio::test]
async fn an_unknown_path_is_a_problem_with_a_request_id() {
    let app = TestApp::spawn().await;
    let answer = app.get("/v1/nothing").header("x-request-id", "abc-1").send().await.unwrap();
    assert_eq!(answer.headers()["x-request-id"], "abc-1");
    assert_eq!(problem(answer, 404).await.r#type, "/problems/not-found");
    // A request id that is unsafe to echo is replaced.
    let answer = app.get("/v1/nothing").header("x-request-id", "a b").send().await.unwrap();
    assert_ne!(problem(answer, 404).await.instance.as_deref(), Some("a b"));
}

#[tokio::test]
async fn an_unsupported_method_is_answered_with_the_supported_ones() {
    let app = TestApp::spawn().await;
    for method in ["PUT", "OPTIONS", "TRACE", "BREW"] {
        let answer = app.request(method.parse().unwrap(), "/v1/me").send().await.unwrap();
        assert_eq!(answer.headers()["allow"], "GET,HEAD", "{method}");
        assert_eq!(problem(answer, 405).await.r#type, "/problems/method-not-allowed");
    }
}

#[tokio::test]
async fn responses_make_browsers_and_caches_careful() {
    let app = TestApp::spawn().await;
    let user = app.user("anna", &[]).await;
    let answer = app.get("/v1/me").bearer_auth(&user.token).send().await.unwrap();
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    assert_eq!(answer.headers()["content-security-policy"], "default-src 'none'; frame-ancestors 'none'");
    assert_eq!(answer.headers()["cache-control"], "private, no-cache");
    assert_eq!(app.get("/healthz").send().await.unwrap().headers()["cache-control"], "no-cache");
    assert_eq!(app.get("/v1/me").send().await.unwrap().headers()["cache-control"], "no-store");
}

#[tokio::test]
async fn json_ends_with_a_line_feed_and_its_length_and_tag_count_it() {
    let app = TestApp::spawn().await;
    let user = app.user("anna", &["prices:write", "catalogue:write", "operator"]).await;
    let call = async |method: Method, path: &str, body: Option<Value>| {
        let request = app.request(method.clone(), path).bearer_auth(&user.token);
        let request = if let Some(body) = body { request.json(&body) } else { request };
        let answer = request.send().await.unwrap();
        let media = answer.headers()["content-type"].to_str().unwrap().to_owned();
        let (length, status) =
            (answer.headers()["content-length"].to_str().unwrap().to_owned(), answer.status());
        let text = answer.text().await.unwrap();
        assert!(
            media == "application/json" || media == "application/problem+json",
            "{method} {path}: {media}"
        );
        assert!(text.ends_with("}\n"), "{method} {path}: {text:?}");
        assert_eq!(length, text.len().to_string(), "{method} {path}");
        (status.as_u16(), serde_json::from_str::<Value>(&text).unwrap())
    };
    let observation =
        json!({"store": "gog", "sku": "1", "title": "Hades", "price": "9.99", "currency": "EUR"});
    let report = json!({"observations": [observation, {}]});
    let (_, batch) = call(Method::POST, "/v1/prices", Some(report)).await;
    app.record_all().await;
    let (_, games) = call(Method::GET, "/v1/games", None).await;
    let watch = json!({"game_id": games["items"][0]["id"], "rule": {"any_sale": {}}});
    let channel = json!({"kind": "webhook", "name": "mine", "url": "http://127.0.0.1:9/"});
    let mut paths = vec![format!("/v1/batches/{}", batch["batch_id"].as_str().unwrap())];
    for (place, body) in [("/v1/watches", watch), ("/v1/channels", channel)] {
        // Created, found, changed.
        assert_eq!(call(Method::POST, place, Some(body.clone())).await.0, 201);
        let (status, found) = call(Method::POST, place, Some(body)).await;
        assert_eq!(status, 200);
        let path = format!("{place}/{}", found["id"].as_str().unwrap());
        assert_eq!(call(Method::PATCH, &path, Some(json!({}))).await.0, 200);
        paths.push(path);
    }
    for action in ["test", "rotate-secret", "recover"] {
        call(Method::POST, &format!("{}/{action}", paths[2]), Some(json!({}))).await;
    }
    for (method, path, status) in [
        (Method::GET, "/v1/nothing", 404),
        (Method::GET, "/v1/games?color=red", 400),
        (Method::PUT, "/v1/me", 405),
        (Method::POST, "/v1/watches", 415),
    ] {
        assert_eq!(call(method, path, None).await.0, status, "{path}");
    }
    paths.extend(["/", "/healthz", "/readyz", "/v1/me", "/v1/deals", "/v1/files"].map(str::to_owned));
    for path in &paths {
        call(Method::GET, path, None).await;
        let get = app.get(path).bearer_auth(&user.token).send().await.unwrap();
        let head = app.request(Method::HEAD, path).bearer_auth(&user.token).send().await.unwrap();
        assert_eq!(head.headers()["content-length"], get.headers()["content-length"], "{path}");
        let Some(tag) = get.headers().get("etag") else { continue };
        let known = app.get(path).bearer_auth(&user.token).header("if-none-match", tag).send().await.unwrap();
        assert_eq!(known.status(), 304, "{path}");
        // The entity tag is that of these bytes, not of the bytes before the line feed was added.
        let digest = digest(&SHA256, &get.bytes().await.unwrap());
        let expected = format!("\"{}\"", URL_SAFE_NO_PAD.encode(&digest.as_ref()[..16]));
        assert_eq!(known.headers()["etag"], expected, "{path}");
    }
}

#[tokio::test]
async fn a_browser_at_the_root_gets_a_page_with_a_link_to_the_documentation() {
    let app = TestApp::spawn().await;
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let page = app.get("/").header("accept", browser).send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    assert_eq!(page.headers()["vary"], "accept");
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    for part in ["default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    let text = page.text().await.unwrap();
    assert!(text.starts_with("<!DOCTYPE html>") && text.ends_with("</html>\n"), "{text}");
    for part in ["game", "sale", "README.md", "docs/reference/api.md", "/problems", "/openapi.json"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    for part in ["<script", "<style", " style=", "http:", "https:", "<form", "<img"] {
        assert!(!text.contains(part), "{part} is in {text}");
    }
    // Its links resolve.
    let links: Vec<&str> =
        text.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(links.len() > 2);
    // Fragments lead to a place of the page itself, and `data:` needs no request.
    for link in links.into_iter().filter(|link| link.starts_with('/')) {
        assert_eq!(app.get(link).send().await.unwrap().status(), 200, "{link}");
    }
    for accept in ["*/*", "application/json", "text/html;q=0.1, application/json"] {
        let answer = app.get("/").header("accept", accept).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/json", "{accept}");
        let front: Value = answer.json().await.unwrap();
        assert!(front["documentation"].as_str().unwrap().contains("docs/reference/api.md"), "{front}");
        assert_eq!(front["problems"], "/problems", "{front}");
    }
    assert_eq!(app.post("/").send().await.unwrap().status(), 405);
}

#[tokio::test]
async fn a_panic_is_a_500_and_the_process_lives() {
    let app = TestApp::builder().router(misbehaving).spawn().await;
    for _ in 0..3 {
        let problem = problem(app.get("/panic").send().await.unwrap(), 500).await;
        assert!(!problem.detail.contains("on purpose"));
    }
    assert_eq!(app.get("/trace").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn connections_are_suspect_before_the_work_of_a_client_that_hung_up_is_dropped() {
    /// Reports its start, and on drop whether connections are suspect.
    struct Work(App, UnboundedSender<bool>);
    impl Drop for Work {
        fn drop(&mut self) {
            let _ = self.1.send(self.0.deadline.suspects_connections());
        }
    }
    let (sender, mut seen) = unbounded_channel();
    let router = move |app: App| {
        let state = app.clone();
        let held = move || {
            let _ = sender.send(state.deadline.suspects_connections());
            let work = Work(state.clone(), sender.clone());
            async move {
                let _work = work;
                std::future::pending::<()>().await
            }
        };
        http::layered(Router::new().route("/held", get(held)), app)
    };
    let app = TestApp::builder().router(router).spawn().await;
    let mut client = raw::connect(&app.url).await;
    client.write_all(b"GET /held HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert_eq!(seen.recv().await, Some(false));
    drop(client);
    assert_eq!(seen.recv().await, Some(true));
}

#[tokio::test]
async fn a_trace_is_passed_through() {
    let app = TestApp::builder().router(misbehaving).spawn().await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let answer = app.get("/trace").header("traceparent", parent).send().await.unwrap();
    let ours = answer.text().await.unwrap();
    assert!(ours.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && ours != parent, "{ours}");
}

#[tokio::test]
async fn a_handler_that_is_late_is_a_503_and_a_body_that_is_late_a_408() {
    let app = TestApp::builder()
        .settings(&[("SALEBELL_SERVER__REQUEST_TIMEOUT_S", "1")])
        .router(misbehaving)
        .spawn()
        .await;
    let answer = app.get("/slow").send().await.unwrap();
    assert_eq!(answer.headers()["retry-after"], "1");
    problem(answer, 503).await;

    let head =
        "POST /json HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    let answer = raw::exchange(&app.url, head).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("/problems/timeout"), "{answer}");
}

#[tokio::test]
async fn a_streamed_body_may_take_longer_than_a_request_but_not_pause() {
    let settings =
        [("SALEBELL_SERVER__REQUEST_TIMEOUT_S", "1"), ("SALEBELL_SERVER__BODY_IDLE_TIMEOUT_S", "2")];
    let app = TestApp::builder().settings(&settings).router(misbehaving).spawn().await;
    let mut stream = raw::connect(&app.url).await;
    let head = "POST /stream HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..6 {
        // Real time is the subject here.
        tokio::time::sleep(Duration::from_millis(400)).await;
        stream.write_all(b"1\r\nx\r\n").await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let answer = raw::read_answer(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n6"), "{answer}");

    let answer = raw::exchange(&app.url, format!("{head}1\r\nx\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn bodies_of_an_unsupported_type_size_or_coding_are_refused() {
    let app = TestApp::builder()
        .settings(&[("SALEBELL_SERVER__MAX_JSON_BYTES", "100")])
        .router(misbehaving)
        .spawn()
        .await;
    let post = |body: Vec<u8>| app.post("/json").header("content-type", "application/json").body(body);
    problem(app.post("/json").body("{}").send().await.unwrap(), 415).await;
    problem(post(b"{}".to_vec()).header("content-encoding", "gzip").send().await.unwrap(), 415).await;
    // Codings are compared without case (RFC 9110, section 8.4.1).
    let identity = post(b"{}".to_vec()).header("content-encoding", "Identity").send().await.unwrap();
    assert_eq!(identity.status(), 200);
    problem(post(vec![b' '; 101]).send().await.unwrap(), 413).await;
    problem(post(b"{".to_vec()).send().await.unwrap(), 400).await;
    problem(post(b"\"\xff\"".to_vec()).send().await.unwrap(), 400).await;
    // No length announced in advance.
    let mut chunked = b"POST /json HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n".to_vec();
    chunked.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n65\r\n");
    chunked.extend_from_slice(&[b' '; 101]);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    assert!(raw::exchange(&app.url, chunked).await.starts_with("HTTP/1.1 413 "));
}

#[tokio::test]
async fn heads_that_are_too_large_or_not_http_are_refused() {
    let app = TestApp::spawn().await;
    let answer = app.get(&format!("/v1/me?{}", "q".repeat(17_000))).send().await.unwrap();
    assert_eq!(problem(answer, 414).await.r#type, "/problems/uri-too-long");
    let large = "x".repeat(30_000);
    let answer = app.get("/v1/me").header("a", &large).header("b", &large).header("c", &large);
    assert_eq!(problem(answer.send().await.unwrap(), 431).await.r#type, "/problems/headers-too-large");
    let no_host = raw::exchange(&app.url, "GET /v1/me HTTP/1.1\r\n\r\n").await;
    assert!(no_host.starts_with("HTTP/1.1 400 ") && no_host.contains("Host header"), "{no_host}");
    // hyper's own refusals, without a document (see `server`).
    for (request, status) in [
        ("what\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nbad header\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(200_000)), 431),
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(200)), 431),
    ] {
        let answer = raw::exchange(&app.url, &request).await;
        let start = &request[..request.len().min(40)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{start:?} {status}: {answer}");
    }
    assert_eq!(app.get("/healthz").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_token_is_known_by_its_account() {
    let app = TestApp::spawn().await;
    let (anna, ben) = (app.user("anna", &[]).await, app.user("ben", &["prices:write"]).await);
    let me: serde_json::Value =
        app.get("/v1/me").bearer_auth(&anna.token).send().await.unwrap().json().await.unwrap();
    assert_eq!(me["id"], anna.account.to_string());
    assert_ne!(anna.account, ben.account);
    assert_eq!(app.get("/v1/me").send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn an_unknown_or_repeated_query_parameter_is_named() {
    let app = TestApp::spawn().await;
    for (query, detail) in [
        ("colour=red", "The query parameter colour is unknown here."),
        ("min_cut=x", "The query parameter min_cut is invalid: invalid digit found in string."),
        ("min_cut=1&min_cut=2", "The query parameter min_cut is given more than once."),
        ("limit=0", "The query parameter limit must be 1 to 200."),
        ("cursor=x", "The query parameter cursor is not a valid cursor."),
    ] {
        let answer = app.get(&format!("/v1/deals?{query}")).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{query}");
        let problem: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(problem["detail"], detail);
        assert_eq!(problem["errors"][0]["pointer"], query.split('=').next().unwrap());
    }
}

#[tokio::test]
async fn a_forged_cursor_is_a_bad_request() {
    let app = TestApp::spawn().await;
    // The hash has no secret: anyone who knows the source can compute it.
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"/v1/stores []");
    let forged = serde_json::to_vec(&(&hash.as_ref()[..8], "a\0b")).unwrap();
    let path = format!("/v1/stores?cursor={}", URL_SAFE_NO_PAD.encode(forged));
    assert_eq!(app.get(&path).send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn browsers_are_told_to_stay_with_https_where_the_public_url_is_https() {
    for (public_url, expected) in
        [("https://salebell.test", Some("max-age=31536000")), ("http://salebell.test", None), ("", None)]
    {
        let app = TestApp::builder().settings(&[("SALEBELL_SERVER__PUBLIC_URL", public_url)]).spawn().await;
        let long = format!("/{}", "a".repeat(17_000));
        for path in ["/", "/healthz", "/v1/me", "/v1/nothing", &long] {
            let answer = app.get(path).send().await.unwrap();
            let told = answer.headers().get("strict-transport-security").map(|value| value.to_str().unwrap());
            assert_eq!(told, expected, "{public_url} {}", answer.status());
        }
    }
}
