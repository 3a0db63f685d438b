//! `POST /v1/prices`: what is accepted, what is refused, and that accepted prices are durable.

use reqwest::{Body, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::support::bus::Carrier;
use crate::support::{TestApp, User};

crate::on_both_buses!(
    every_item_is_judged_by_itself,
    a_broken_line_in_the_middle_affects_only_that_line,
    compressed_reports_are_read_and_bombs_are_not,
    a_report_that_is_too_large_or_of_another_type_is_refused,
    only_a_token_for_the_catalogue_may_add_a_store,
    a_reporter_needs_the_scope_and_sees_only_its_own_batches,
    a_stream_longer_than_a_message_becomes_parts_of_one_batch,
    refusals_repeat_little_of_the_refused_lines,
);

async fn shop(app: &TestApp) -> User {
    app.user("shop", &["prices:write", "catalogue:write"]).await
}

fn ndjson(app: &TestApp, user: &User, body: impl Into<Body>) -> RequestBuilder {
    app.post("/v1/prices").bearer_auth(&user.token).header("content-type", "application/x-ndjson").body(body)
}

async fn accepted(request: RequestBuilder) -> Value {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    answer.json().await.unwrap()
}

/// Index and pointers of each refusal.
fn refusals(answer: &Value) -> Vec<(u64, Vec<&str>)> {
    let mut refused = Vec::new();
    for item in answer["rejected"].as_array().unwrap() {
        let errors = item["problem"]["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        let pointers = errors.iter().map(|error| error["pointer"].as_str().unwrap()).collect();
        refused.push((item["index"].as_u64().unwrap(), pointers));
    }
    refused
}

const GOOD: &str = r#"{"store": "steam", "sku": "a", "price": "9.99", "currency": "EUR"}"#;

async fn every_item_is_judged_by_itself(carrier: Carrier) {
    let app = TestApp::builder().bus(carrier).spawn().await;
    let shop = shop(&app).await;
    let answer = app
        .report(
            &shop,
            json!([
                {"store": "steam", "sku": "a", "price": "9.99", "currency": "EUR"},
                {"store": "steam", "sku": "b", "price": "9.9900001", "currency": "EUR"},
                {"store": "steam", "sku": "c", "price": 9.99, "currency": "EUR"},
                {"store": "steam", "sku": "d\u{0}", "price": "9.99", "currency": "EUR"},
                {"store": "steam", "sku": "e", "price": "9.99", "currency": "EUR", "observed_at": "10000-01-01T00:00:00Z"},
                {"store": "steam", "sku": "f", "price": "9.99", "currency": "XXX", "region": "Europe"},
                {"store": "steam", "sku": "g", "price": "9.99", "currency": "EUR", "prise": "1"},
                [],
                {"sku": "h"},
            ]),
        )
        .await;
    assert_eq!(answer["accepted"], 1);
    assert_eq!(
        refusals(&answer),
        [
            (1, vec!["/price"]),
            (2, vec!["/price"]),
            (3, vec!["/sku"]),
            (4, vec!["/observed_at"]),
            (5, vec!["/region", "/currency"]),
            (6, vec!["/prise"]),
            (7, vec![""]),
            (8, vec!["/store", "/currency", "/price"]),
        ]
    );
}

async fn a_broken_line_in_the_middle_affects_only_that_line(carrier: Carrier) {
    let app = TestApp::builder().bus(carrier).spawn().await;
    let shop = shop(&app).await;
    let mut body = format!("{GOOD}\n{{\"store\": \n\n{GOOD}\r\n").into_bytes();
    body.extend_from_slice(
        b"{\"store\": \"steam\", \"sku\": \"\xff\", \"price\": \"1\", \"currency\": \"EUR\"}\n",
    );
    body.extend_from_slice(GOOD.as_bytes());
    let answer = accepted(ndjson(&app, &shop, body)).await;
    assert_eq!(answer["accepted"], 3);
    assert_eq!(refusals(&answer), [(1, vec![]), (4, vec![])]);
    app.record_all().await;
    let batch = app.batch(&shop, &answer).await;
    assert_eq!((&batch["done"], &batch["rejected"]), (&json!(true), &json!(2)));
}

#[tokio::test]
async fn a_line_of_100_megabytes_is_skipped_without_being_kept() {
    let app = TestApp::spawn().await;
    let shop = shop(&app).await;
    let huge = bytes::Bytes::from(vec![b'x'; 1 << 20]);
    let pieces = std::iter::once(bytes::Bytes::from(format!("{GOOD}\n")))
        .chain(std::iter::repeat_n(huge, 100))
        .chain(std::iter::once(bytes::Bytes::from(format!("\n{GOOD}\n"))))
        .map(Ok::<_, std::io::Error>);
    let answer = accepted(ndjson(&app, &shop, Body::wrap_stream(futures_util::stream::iter(pieces)))).await;
    assert_eq!(answer["accepted"], 2);
    assert_eq!(answer["rejected"][0]["index"], 1);
    assert_eq!(answer["rejected"][0]["problem"]["type"], "/problems/too-large");
}

async fn compressed_reports_are_read_and_bombs_are_not(carrier: Carrier) {
    let app = TestApp::builder().bus(carrier).spawn().await;
    let shop = shop(&app).await;
    let body = format!("{GOOD}\n").repeat(1000);
    let packed = zstd::encode_all(body.as_bytes(), 3).unwrap();
    let answer = accepted(ndjson(&app, &shop, packed).header("content-encoding", "zstd")).await;
    assert_eq!(answer["accepted"], 1000);

    let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(b'\n'), 1 << 30), 3).unwrap();
    let answer = ndjson(&app, &shop, bomb).header("content-encoding", "zstd").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let damaged =
        ndjson(&app, &shop, "this is no gzip").header("content-encoding", "gzip").send().await.unwrap();
    assert_eq!(damaged.status(), StatusCode::BAD_REQUEST);
    let unknown = ndjson(&app, &shop, GOOD).header("content-encoding", "br").send().await.unwrap();
    assert_eq!(unknown.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

async fn a_report_that_is_too_large_or_of_another_type_is_refused(carrier: Carrier) {
    let app = TestApp::builder().bus(carrier).spawn().await;
    let shop = shop(&app).await;
    let post = |body: Vec<u8>, media_type: &'static str| {
        app.post("/v1/prices").bearer_auth(&shop.token).header("content-type", media_type).body(body).send()
    };
    let status = |answer: reqwest::Result<reqwest::Response>| answer.unwrap().status().as_u16();
    assert_eq!(status(post(vec![b' '; (1 << 20) + 1], "application/json").await), 413);
    assert_eq!(status(post(b"{}".to_vec(), "text/csv").await), 415);
    assert_eq!(status(post(b"{".to_vec(), "application/json").await), 400);
    assert_eq!(status(post(b"{}".to_vec(), "application/json").await), 422);
    assert_eq!(status(post(br#"{"observations": [], "x": 1}"#.to_vec(), "application/json").await), 422);
    let many = format!(r#"{{"observations": [{}]}}"#, vec![GOOD; 1001].join(","));
    assert_eq!(status(post(many.into_bytes(), "application/json").await), 422);
    let none = post(br#"{"observations": []}"#.to_vec(), "application/json").await.unwrap();
    assert_eq!(none.status(), 202);
    let batch = app.batch(&shop, &none.json().await.unwrap()).await;
    assert_eq!(batch["done"], true);
}

async fn only_a_token_for_the_catalogue_may_add_a_store(carrier: Carrier) {
    let app = TestApp::builder().bus(carrier).spawn().await;
    let (shop, keeper) = (app.user("shop", &["prices:write"]).await, shop(&app).await);
    let observation = json!([{"store": "GOG.com", "sku": "a", "price": "9.99", "currency": "EUR"}]);
    let refused = app.report(&shop, observation.clone()).await;
    assert_eq!((refused["accepted"].as_i64(), refusals(&refused)), (Some(0), vec![(0, vec!["/store"])]));
    app.report(&keeper, observation.clone()).await;
    app.record_all().await;
    let taken = app.report(&shop, observation).await;
    assert_eq!(taken["accepted"], 1);
    let store = sqlx::query!("select slug, name from stores").fetch_one(&app.state.writer).await.unwrap();
    assert_eq!((store.slug.as_str(), store.name.as_str()), ("gog-com", "GOG.com"));
}

async fn a_reporter_needs_the_scope_and_sees_only_its_own_batches(carrier: Carrier) {
    let app = TestApp::builder().bus(carrier).spawn().await;
    let (shop, other, reader) =
        (shop(&app).await, app.user("other", &["prices:write"]).await, app.user("reader", &[]).await);
    let answer = app.report(&shop, json!([serde_json::from_str::<Value>(GOOD).unwrap()])).await;
    let path = format!("/v1/batches/{}", answer["batch_id"].as_str().unwrap());
    for (user, status) in [(&shop, 200), (&other, 404), (&reader, 403)] {
        assert_eq!(app.get(&path).bearer_auth(&user.token).send().await.unwrap().status(), status);
    }
    assert_eq!(ndjson(&app, &reader, GOOD).send().await.unwrap().status(), 403);
}

async fn a_stream_longer_than_a_message_becomes_parts_of_one_batch(carrier: Carrier) {
    let app = TestApp::builder().bus(carrier).spawn().await;
    let shop = shop(&app).await;
    let line = |sku: usize| format!(r#"{{"store":"s","sku":"{sku}","price":"9.99","currency":"EUR"}}"#);
    let body: Vec<String> = (0..20_000).map(line).collect();
    let answer = accepted(ndjson(&app, &shop, body.join("\n"))).await;
    assert_eq!(answer["accepted"], 20_000);
    app.record_all().await;
    let batch = app.batch(&shop, &answer).await;
    assert_eq!((&batch["done"], &batch["recorded"]), (&json!(true), &json!(20_000)));
    assert_eq!(batch["transitions"], json!({"first.seen": 20_000}));
}

async fn refusals_repeat_little_of_the_refused_lines(carrier: Carrier) {
    let app = TestApp::builder().bus(carrier).spawn().await;
    let shop = shop(&app).await;
    let line = format!("{{\"{}\": 1}}\n", "ä".repeat(30_000));
    for (lines, all_are_listed) in [(100, true), (1_000, false)] {
        let answer = ndjson(&app, &shop, line.repeat(lines)).send().await.unwrap();
        assert_eq!(answer.status(), 202);
        let body = answer.bytes().await.unwrap();
        assert!(body.len() < 260 << 10, "{} bytes", body.len());
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["rejected_count"], json!(lines));
        let listed = answer["rejected"].as_array().unwrap().len();
        assert!(listed >= 100 && (listed == lines) == all_are_listed, "{listed} of {lines}");
    }
}

#[tokio::test]
async fn an_observation_accepted_without_a_field_has_a_warning() {
    let app = TestApp::spawn().await;
    let shop = shop(&app).await;
    let seen = |sku: &str, url: &str| json!({"store": "steam", "sku": sku, "price": "9.99", "currency": "EUR", "url": url});
    let some = [
        seen("a", "https://shop.example/a"),
        seen("b", "javascript:alert(1)"),
        seen("c", "shop.example/c"),
        json!({"store": "steam", "sku": "d"}),
    ];
    let lines: String = some.iter().map(|seen| format!("{seen}\n")).collect();
    for answer in [app.report(&shop, json!(some)).await, accepted(ndjson(&app, &shop, lines)).await] {
        assert_eq!((&answer["accepted"], &answer["rejected_count"]), (&json!(3), &json!(1)));
        assert_eq!(answer["warnings_count"], 2);
        for (at, index) in [(0, 1), (1, 2)] {
            let warning = &answer["warnings"][at];
            assert_eq!(warning["index"], index);
            assert_eq!(warning["problem"]["errors"][0]["pointer"], "/url", "{warning}");
        }
    }
    app.record_all().await;
    let offers = app.read("/v1/offers").await;
    let urls: Vec<&Value> = offers["items"].as_array().unwrap().iter().map(|offer| &offer["url"]).collect();
    assert_eq!(urls, [&json!("https://shop.example/a"), &Value::Null, &Value::Null]);
}

#[tokio::test]
async fn times_regions_and_prices_are_read_as_the_trade_writes_them() {
    let app = TestApp::spawn().await;
    let shop = shop(&app).await;
    let mut some = Vec::new();
    let times = [
        "2026-01-20 12:00:00+01",
        "2026-01-20T11:00Z",
        "2026-01-20 11:00:00 GMT",
        "2026-01-20T12:00:00.000+0100",
        "2026-01-20 11:00+00",
    ];
    for (sku, time) in times.iter().enumerate() {
        some.push(json!({"store": "steam", "sku": sku.to_string(), "price": "EUR\u{a0}9.99", "regular_price": "19.99 EUR",
            "currency": "EUR", "region": "UK", "observed_at": time, "sale_ends_at": time, "title": "Tom\n &amp;\tJerry"}));
    }
    for (field, value) in [
        ("region", "EU"),
        ("region", "EN"),
        ("observed_at", "2026-01-20 12:00:00"),
        ("sale_ends_at", "9999-12-31T23:59:60Z"),
        ("price", "9.99 USD"),
        ("price", "1,299.00"),
        ("availability", "perhaps"),
    ] {
        let mut odd = json!({"store": "steam", "sku": "odd", "price": "9.99", "currency": "EUR"});
        odd[field] = json!(value);
        some.push(odd);
    }
    let answer = app.report(&shop, json!(some)).await;
    assert_eq!(
        (&answer["accepted"], &answer["rejected_count"]),
        (&json!(times.len()), &json!(7)),
        "{answer}"
    );
    let details: Vec<&str> = answer["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["problem"]["detail"].as_str().unwrap())
        .collect();
    for (detail, field) in details.iter().zip([
        "region",
        "region",
        "observed_at",
        "sale_ends_at",
        "price",
        "price",
        "availability",
    ]) {
        assert!(detail.starts_with(field), "{details:?}");
    }
    app.record_all().await;
    for region in ["UK", "gb"] {
        let offers = app.read(&format!("/v1/offers?region={region}")).await;
        let offers = offers["items"].as_array().unwrap();
        assert_eq!(offers.len(), times.len());
        for offer in offers {
            assert_eq!(
                (&offer["region"], &offer["observed_at"]),
                (&json!("GB"), &json!("2026-01-20T11:00:00Z"))
            );
            assert_eq!(offer["price"]["amount"], "9.99");
        }
    }
    assert_eq!(app.get("/v1/offers?region=EU").send().await.unwrap().status(), 400);
    let games = app.read("/v1/games").await;
    assert_eq!(games["items"].as_array().unwrap().len(), 1);
    assert_eq!(games["items"][0]["title"], "Tom & Jerry");
}
