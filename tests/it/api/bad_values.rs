//! Values that no text, number or time in the database can hold: every route, every parameter, every field. The answer
//! is a refusal that the caller can understand, never a 500.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures_util::{StreamExt, stream};
use reqwest::{Method, RequestBuilder};
use salebell::worker::{exports, imports};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::auth_coverage::{at, own_everything, routes};
use crate::support::{TestApp, User};

/// Bad values for a text or a time.
const TEXTS: &[&str] = &[
    "\0",
    "a\0b",
    "\u{feff}\u{ffff}",
    "-262143-01-01T00:00:00Z",
    "+262142-12-31T23:59:59Z",
    "9999-12-31T23:59:60Z",
    "10000-01-01T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "-262143-01-01",
    "+262142-12-31",
    "99999999999999999999",
    "-1",
    "",
];
/// Every query parameter of any route; a route refuses those that it does not know.
const PARAMETERS: &[&str] = &[
    "q",
    "store",
    "region",
    "since",
    "until",
    "resolution",
    "currency",
    "platform",
    "min_cut",
    "max_price",
    "new_low",
    "sort",
    "state",
    "unread",
    "week",
    "by",
    "account",
    "name",
    "expires_in",
    "format",
    "backfill",
    "game_id",
    "limit",
    "cursor",
    "a\0b",
];

fn bad_values() -> Vec<Value> {
    let mut values: Vec<Value> = TEXTS.iter().map(|text| json!(text)).collect();
    values.push(json!("x".repeat(3_000)));
    values.extend([json!(i64::MAX), json!(i64::MIN), json!(u64::MAX), json!(1e308), json!(0.5)]);
    values.extend([json!(null), json!(true), json!([]), json!({}), json!(["a\0b"]), json!({"a\0b": "a\0b"})]);
    values
}

/// Variants of the body: each value in turn replaced by each bad one, and one with a bad key.
fn spoilt(body: &Value) -> Vec<Value> {
    let mut found = bad_values();
    match body {
        Value::Object(fields) => {
            for (name, value) in fields {
                for bad in spoilt(value) {
                    let mut fields = fields.clone();
                    fields.insert(name.clone(), bad);
                    found.push(Value::Object(fields));
                }
            }
            let mut fields = fields.clone();
            fields.insert("a\0b".to_owned(), json!("c"));
            found.push(Value::Object(fields));
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                for bad in spoilt(item) {
                    let mut items = items.clone();
                    items[at] = bad;
                    found.push(Value::Array(items));
                }
            }
        }
        _ => {}
    }
    found
}

/// Sends requests, several at once; returns those that were answered with a 5xx. A 503 is retried, because the machine
/// may be busy.
async fn failures(requests: Vec<(String, RequestBuilder)>) -> Vec<String> {
    let answers = stream::iter(requests).map(|(name, request)| async move {
        let mut failure = None;
        for _ in 0..5 {
            let answer = request.try_clone().unwrap().send().await.unwrap();
            let status = answer.status();
            if !status.is_server_error() {
                return None;
            }
            failure = Some(format!("{name}: {status} {}", answer.text().await.unwrap()));
            if status != 503 {
                break;
            }
        }
        failure
    });
    answers.buffer_unordered(4).filter_map(async |failure| failure).collect().await
}

struct World {
    app: TestApp,
    anna: User,
    owned: Vec<(&'static str, Uuid, Value)>,
}

async fn world() -> World {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &["prices:write", "catalogue:write", "operator"]).await;
    let owned = own_everything(&app, &anna).await;
    World { app, anna, owned }
}

impl World {
    async fn first(&self, list: &str) -> Uuid {
        self.app.read(list).await["items"][0]["id"].as_str().unwrap().parse().unwrap()
    }

    /// Path of a route, filled with the id of an existing resource or of none.
    async fn path(&self, path: &str) -> String {
        let owned = self.owned.iter().find(|(start, _, _)| path.starts_with(start)).map(|(_, id, _)| *id);
        let id = match path {
            _ if owned.is_some() => owned.unwrap(),
            _ if path.starts_with("/v1/games/") => self.first("/v1/games").await,
            _ if path.starts_with("/v1/offers/") => self.first("/v1/offers").await,
            _ if path.starts_with("/v1/stores/") => self.first("/v1/stores").await,
            _ => Uuid::now_v7(),
        };
        at(path, id)
    }

    fn request(&self, method: &Method, path: &str) -> RequestBuilder {
        self.app.request(method.clone(), path).bearer_auth(&self.anna.token)
    }

    /// A valid body for the route.
    async fn body(&self, method: &Method, path: &str) -> Value {
        let (game, time) = (self.first("/v1/games").await, "2027-01-01T00:00:00Z");
        let of = |start: &str| self.owned.iter().find(|(known, _, _)| *known == start).unwrap().1;
        let url = "https://example.com/";
        match (method.as_str(), path) {
            (_, "/v1/keys" | "/v1/keys/{id}") => json!({"name": "till", "scopes": [], "expires_at": time}),
            (_, "/v1/prices") => json!({"observations": [{"store": "gog", "sku": "b", "price": "1.00",
                "currency": "EUR", "title": "t", "region": "DE", "regular_price": "2.00", "platform": "windows",
                "url": url, "sale_ends_at": time, "observed_at": "2026-01-01T00:00:00Z",
                "availability": "in_stock"}]}),
            (_, "/v1/games" | "/v1/games/{id}") => {
                json!({"title": "t", "publisher": "p", "released_on": "2026-01-01", "url": url})
            }
            ("POST", "/v1/offers") => json!({"game_id": game, "store": "gog", "sku": "c", "region": "DE",
                "platform": "windows", "url": url}),
            (_, "/v1/offers/{id}") => json!({"game_id": game, "platform": "windows", "url": url}),
            (_, "/v1/stores" | "/v1/stores/{id}") => json!({"name": "n", "slug": "n", "url": url}),
            ("PATCH", "/v1/files/{id}") => json!({"name": "n", "expires_at": time}),
            (_, "/v1/files/{id}/links") => json!({"expires_at": time, "max_downloads": 3}),
            (_, "/v1/exports") => json!({"kind": "prices", "format": "csv", "expires_in": 3_600,
                "filter": {"store": "gog", "region": "DE", "since": time, "until": time}}),
            (_, "/v1/imports") => {
                json!({"file_id": of("/v1/files/"), "format": "observations", "backfill": true,
                "columns": {"sku": "ID"}, "constants": {"store": "gog"}})
            }
            ("POST", "/v1/watches") => json!({"game_id": game, "cadence": "daily", "priority": "low",
                "rule": {"price_at_most": {"amount": "1.00", "currency": "EUR"}}, "stores": ["gog"],
                "regions": ["DE"], "currency": "EUR", "platforms": ["windows"], "channels": [of("/v1/channels/")]}),
            (_, "/v1/watches/{id}") => json!({"rule": {"cut_at_least": {"percent": 5}}, "stores": ["gog"],
                "regions": ["DE"], "currency": "EUR", "platforms": ["windows"], "channels": [], "paused": true}),
            (_, "/v1/notices/{id}") => json!({"read": true}),
            ("POST", "/v1/channels") => {
                json!({"kind": "webhook", "name": "n", "url": "https://example.com/hook"})
            }
            (_, "/v1/channels/{id}") => json!({"name": "n", "url": "https://example.com/hook"}),
            (_, "/v1/channels/{id}/recover") => json!({"since": "2026-01-01T00:00:00Z"}),
            _ => json!({}),
        }
    }
}

#[tokio::test]
async fn no_parameter_and_no_part_of_a_path_is_a_500() {
    let world = world().await;
    let mut requests = Vec::new();
    for (method, route) in routes().into_iter().filter(|(method, _)| *method != Method::DELETE) {
        let path = world.path(&route).await;
        for name in PARAMETERS {
            // An unknown parameter is refused by its name, whatever its value.
            let plain = world.request(&method, &format!("{path}?{name}=1")).send().await.unwrap();
            if plain.status() == 400 && plain.text().await.unwrap().contains("is unknown here") {
                continue;
            }
            for value in TEXTS.iter().copied().chain([&*"x".repeat(3_000)]) {
                let query =
                    url::form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish();
                let request = world.request(&method, &format!("{path}?{query}"));
                requests.push((format!("{method} {route}?{query}"), request));
            }
            requests.push((
                format!("{method} {route} {name} no UTF-8"),
                world.request(&method, &format!("{path}?{name}=%ff%fe")),
            ));
        }
    }
    for (method, route) in routes() {
        for part in [
            "%00",
            "a%00b",
            "%ff",
            "%F0%9F%92%A9",
            "99999999999999999999",
            "-262143-01-01",
            &"x".repeat(3_000),
        ] {
            requests.push((format!("{method} {route} {part}"), world.request(&method, &at(&route, part))));
        }
    }
    assert!(requests.len() > 1_000, "{}", requests.len());
    let failures = failures(requests).await;
    assert!(failures.is_empty(), "{failures:#?}");
}

#[tokio::test]
async fn no_forged_cursor_is_a_500() {
    let world = world().await;
    let id = Uuid::now_v7();
    let mut keys: Vec<Value> = bad_values();
    keys.push(json!(id));
    for key in bad_values() {
        keys.push(json!([key, id]));
        keys.push(json!([id, key]));
        keys.push(json!({"way": "Typed", "score": key, "id": id}));
    }
    let lists = ["/v1/games?q=a", "/v1/admin/stats/weekly?by=account&week=2026-W47"].map(str::to_owned);
    let gets = routes().into_iter().filter(|(method, _)| *method == Method::GET).map(|(_, route)| route);
    let sorted = ["cut", "price", "newest", "started", "new"]
        .map(|sort| format!("/v1/deals?currency=EUR&sort={sort}"));
    let resolutions = ["change", "day"].map(|of| format!("/v1/games/{{id}}/prices?resolution={of}"));
    let mut requests = Vec::new();
    for route in gets.chain(lists).chain(sorted).chain(resolutions) {
        let path = world.path(&route).await;
        let (bare, query) = path.split_once('?').unwrap_or((&path, ""));
        let mut pairs: Vec<(String, String)> =
            url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        pairs.sort();
        let text = format!("{bare} {pairs:?}");
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        for key in &keys {
            let cursor = serde_json::to_vec(&(&hash.as_ref()[..8], key)).unwrap();
            let separator = if query.is_empty() { "?" } else { "&" };
            let target = format!("{path}{separator}cursor={}", URL_SAFE_NO_PAD.encode(cursor));
            requests.push((format!("{route} {key}"), world.request(&Method::GET, &target)));
        }
    }
    let failures = failures(requests).await;
    assert!(failures.is_empty(), "{failures:#?}");
}

#[tokio::test]
async fn no_field_of_a_body_is_a_500_now_or_later() {
    let world = world().await;
    let mut requests = Vec::new();
    for (method, route) in routes() {
        if !matches!(method, Method::POST | Method::PATCH | Method::PUT) {
            continue;
        }
        let (path, body) = (world.path(&route).await, world.body(&method, &route).await);
        for bad in spoilt(&body) {
            let request = world.request(&method, &path).json(&bad);
            requests.push((format!("{method} {route} {bad}"), request));
        }
    }
    for observation in spoilt(&world.body(&Method::POST, "/v1/prices").await["observations"][0]) {
        let request =
            world.request(&Method::POST, "/v1/prices").header("content-type", "application/x-ndjson");
        requests.push((format!("NDJSON {observation}"), request.body(observation.to_string())));
    }
    assert!(requests.len() > 1_500, "{}", requests.len());
    let failures = failures(requests).await;
    assert!(failures.is_empty(), "{failures:#?}");
    // Accepted values are processed to the end.
    let app = &world.app;
    app.record_all().await;
    while exports::step(&app.state, || ()).await.unwrap().is_more() {}
    while imports::step(&app.state, || ()).await.unwrap().is_more() {}
    app.record_all().await;
    let ours = "select coalesce(sum(failed), 0)::bigint from batch_parts";
    assert_eq!(sqlx::query_scalar::<_, i64>(ours).fetch_one(&app.state.writer).await.unwrap(), 0);
    for table in ["exports", "imports"] {
        let failed = format!(
            "select count(*) from {table} where failure like '%our side%' or state in ('queued', 'reading', 'writing')"
        );
        let failed: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(failed)).fetch_one(&app.state.writer).await.unwrap();
        assert_eq!(failed, 0, "{table}");
    }
}

#[tokio::test]
async fn no_header_is_a_500() {
    let world = world().await;
    let mut requests = Vec::new();
    let values: Vec<Vec<u8>> = TEXTS
        .iter()
        .flat_map(|text| [STANDARD.encode(text).into_bytes(), text.replace('\0', "").into_bytes()])
        .chain([b"\xff\xfe".to_vec(), vec![b'x'; 3_000]])
        .collect();
    for value in &values {
        let value = reqwest::header::HeaderValue::from_bytes(value).unwrap();
        for name in [
            "accept",
            "content-type",
            "content-disposition",
            "content-encoding",
            "if-match",
            "if-none-match",
            "if-range",
            "range",
            "idempotency-key",
            "traceparent",
            "upload-checksum",
            "upload-complete",
            "upload-concat",
            "upload-defer-length",
            "upload-length",
            "upload-metadata",
            "upload-offset",
            "user-agent",
            "x-request-id",
            "x-http-method-override",
            "last-event-id",
            "origin",
        ] {
            for (method, route) in [
                (Method::POST, "/v1/files"),
                (Method::PATCH, "/v1/files/{id}"),
                (Method::HEAD, "/v1/files/{id}"),
                (Method::GET, "/v1/files/{id}/content"),
                (Method::POST, "/v1/files/{id}"),
                (Method::POST, "/v1/keys"),
                (Method::GET, "/v1/games"),
                (Method::GET, "/v1/admin/stats/weekly"),
            ] {
                let path = world.path(route).await;
                for tus in [false, true] {
                    let mut request = world.request(&method, &path).body("{}");
                    if tus {
                        request = request.header("tus-resumable", "1.0.0").header("upload-defer-length", "1");
                    }
                    requests.push((
                        format!("{method} {route} {name}: {value:?}"),
                        request.header(name, value.clone()),
                    ));
                }
            }
        }
        for metadata in ["filename", "name", "filetype", "type", "a"] {
            let text = STANDARD.encode(value.as_bytes());
            let request = world.request(&Method::POST, "/v1/files").header("tus-resumable", "1.0.0");
            let request =
                request.header("upload-length", "0").header("upload-metadata", format!("{metadata} {text}"));
            requests.push((format!("{metadata}: {value:?}"), request));
        }
    }
    let failures = failures(requests).await;
    assert!(failures.is_empty(), "{failures:#?}");
}

#[tokio::test]
async fn impossible_texts_and_times_are_refused_with_their_field() {
    let world = world().await;
    let file = world.body(&Method::POST, "/v1/imports").await["file_id"].clone();
    for (path, body, pointer) in [
        ("/v1/imports", json!({"file_id": file, "columns": {"sku": "a\0b"}}), "/columns/sku"),
        ("/v1/imports", json!({"file_id": file, "columns": {"a\0/b": "c"}}), "/columns/a\0~1b"),
        ("/v1/imports", json!({"file_id": file, "constants": {"store": "a\0b"}}), "/constants/store"),
        ("/v1/exports", json!({"kind": "prices", "filter": {"store": "a\0b"}}), "/filter/store"),
        ("/v1/exports", json!({"kind": "prices", "filter": {"region": "a\0b"}}), "/filter/region"),
        (
            "/v1/exports",
            json!({"kind": "prices", "filter": {"since": "-262143-01-01T00:00:00Z"}}),
            "/filter/since",
        ),
        (
            "/v1/exports",
            json!({"kind": "prices", "filter": {"until": "9999-12-31T23:59:60Z"}}),
            "/filter/until",
        ),
        ("/v1/keys", json!({"name": "a", "expires_at": "9999-12-31T23:59:60Z"}), "/expires_at"),
        ("/v1/keys", json!({"name": "a", "expires_at": "+10000-01-01T00:00:00Z"}), "/expires_at"),
        ("/v1/channels", json!({"kind": "webhook", "name": "a", "url": "https://example.com/\0"}), "/url"),
    ] {
        let answer = world.request(&Method::POST, path).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 422, "{body}");
        assert_eq!(answer.json::<Value>().await.unwrap()["errors"][0]["pointer"], pointer, "{body}");
    }
    let observation = json!({"store": "gog", "sku": "z", "price": "1.00", "currency": "EUR",
        "sale_ends_at": "9999-12-31T23:59:60Z"});
    let answer = world.app.report(&world.anna, json!([observation])).await;
    assert_eq!(answer["rejected"][0]["problem"]["errors"][0]["pointer"], "/sale_ends_at", "{answer}");
}

#[tokio::test]
async fn an_array_is_not_an_object() {
    let world = world().await;
    let send = async |method: &Method, path: &str, body: &Value| {
        let answer = world.request(method, path).json(body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let mut refused = 0;
    for (method, route) in routes() {
        if !matches!(method, Method::POST | Method::PATCH | Method::PUT) {
            continue;
        }
        let path = world.path(&route).await;
        // The remaining routes do not read JSON.
        if send(&method, &path, &json!(5)).await.0 != 422 {
            continue;
        }
        let body = world.body(&method, &route).await;
        let fields: Vec<&Value> = body.as_object().unwrap().values().collect();
        for array in [json!([]), json!([null]), json!([true]), json!([null, 5]), json!(fields)] {
            let (status, text) = send(&method, &path, &array).await;
            assert_eq!(status, 422, "{method} {route} {array}: {text}");
            let problem: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(problem["errors"][0]["pointer"], "", "{text}");
            assert_eq!(problem["detail"], "must be an object, not an array", "{text}");
        }
        refused += 1;
    }
    assert!(refused >= 14, "{refused}");

    let game = world.first("/v1/games").await;
    for (rule, pointer) in [
        (json!({"any_sale": []}), "/rule/any_sale"),
        (json!({"new_low": []}), "/rule/new_low"),
        (json!({"price_at_most": ["5.00", "EUR"]}), "/rule/price_at_most"),
        (json!({"cut_at_least": [50]}), "/rule/cut_at_least"),
        (json!({"cut_at_least": {"percent": "5"}}), "/rule/cut_at_least/percent"),
        (json!(["any_sale", {}]), "/rule"),
        (json!("any_sale"), "/rule"),
        (json!({}), "/rule"),
        (json!({"any_sale": {}, "new_low": {}}), "/rule"),
    ] {
        let (status, text) =
            send(&Method::POST, "/v1/watches", &json!({"game_id": game, "rule": rule})).await;
        assert_eq!(status, 422, "{rule}: {text}");
        let problem: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{text}");
        assert!(!text.contains("struct") && !text.contains("invalid type"), "{text}");
    }
    for (body, pointer) in [
        (json!({"kind": "prices", "filter": ["gog"]}), "/filter"),
        (json!({"kind": "prices", "filter": []}), "/filter"),
        (json!({"kind": 5}), "/kind"),
        (json!({"kind": ["prices"]}), "/kind"),
    ] {
        let (status, text) = send(&Method::POST, "/v1/exports", &body).await;
        assert_eq!(status, 422, "{body}: {text}");
        let problem: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{text}");
    }

    let seen = json!(["gog", "z", "1.00", "EUR", null, null, null, null, null, null, null, null]);
    let lines = world.request(&Method::POST, "/v1/prices").header("content-type", "application/x-ndjson");
    let lines = lines.body(seen.to_string()).send().await.unwrap().json::<Value>().await.unwrap();
    for answer in [world.app.report(&world.anna, json!([seen])).await, lines] {
        assert_eq!((&answer["accepted"], &answer["rejected_count"]), (&json!(0), &json!(1)), "{answer}");
        let problem = &answer["rejected"][0]["problem"];
        assert_eq!(problem["detail"], "must be an object, not an array", "{answer}");
    }
}

#[tokio::test]
async fn a_response_is_not_much_larger_than_its_request() {
    let world = world().await;
    let long = "x".repeat(500_000);
    for (path, body) in [
        ("/v1/watches", json!({long.clone(): 1})),
        ("/v1/watches", json!({"game_id": long})),
        ("/v1/imports", json!({"file_id": Uuid::nil(), "columns": {long.clone(): "a"}})),
        (
            "/v1/imports",
            json!({"file_id": Uuid::nil(), "format": "merchant", "constants": {long.clone(): "a"}}),
        ),
        ("/v1/keys", json!({"name": "a", "scopes": vec!["b"; 100_000]})),
        ("/v1/prices", json!({"observations": [{long.clone(): 1}]})),
        ("/v1/prices", json!({"observations": [{"store": 1, "sku": long}]})),
    ] {
        let answer = world.request(&Method::POST, path).json(&body).send().await.unwrap();
        let text = answer.text().await.unwrap();
        assert!(text.len() < 20_000, "{path}: {} bytes: {}", text.len(), &text[..500]);
    }
    let answer = world.request(&Method::GET, &format!("/v1/deals?{}=1", "y".repeat(15_000)));
    assert!(answer.send().await.unwrap().text().await.unwrap().len() < 2_000);
}
