//! Exports: contents in every format, permissions, and failures.

use bytes::Bytes;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use reqwest::Method;
use salebell::worker::{exports, files, imports, record};
use serde_json::{Value, json};

use crate::support::{TestApp, User};

const SCOPES: [&str; 2] = ["prices:write", "catalogue:write"];

async fn request(app: &TestApp, user: &User, wanted: &Value) -> Value {
    let answer = app.post("/v1/exports").bearer_auth(&user.token).json(wanted).send().await.unwrap();
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

async fn see(app: &TestApp, user: &User, export: &Value) -> Value {
    app.see(user, &format!("/v1/exports/{}", export["id"].as_str().unwrap())).await
}

/// Lets the worker write an export, and downloads it.
async fn export(app: &TestApp, user: &User, wanted: Value) -> Bytes {
    let waiting = request(app, user, &wanted).await;
    assert_eq!((&waiting["state"], &waiting["file_id"]), (&json!("queued"), &Value::Null));
    while exports::step(&app.state, || ()).await.unwrap().is_more() {}
    let done = see(app, user, &waiting).await;
    assert_eq!((&done["state"], &done["rows_total"]), (&json!("done"), &done["rows_written"]), "{done}");
    let content = app.get(done["content"].as_str().unwrap()).bearer_auth(&user.token).send().await.unwrap();
    assert_eq!(content.status(), 200);
    let bytes = content.bytes().await.unwrap();
    assert_eq!(done["bytes_written"], bytes.len());
    bytes
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Makes some offers with two prices each.
async fn shop(app: &TestApp) -> User {
    let shop = app.user("shop", &SCOPES).await;
    let seen: Vec<Value> = (0..12)
        .map(|n| {
            let (offer, step) = (n / 2, n % 2);
            json!({"store": if offer % 2 == 0 { "GOG" } else { "Steam" }, "sku": format!("sku, {offer}"),
                "title": format!("Game \"{offer}\""), "price": if step == 0 { "20.00" } else { "7.50" },
                "regular_price": "20.00", "currency": "EUR", "observed_at": format!("2026-01-0{}T00:00:00Z", step + 1)})
        })
        .collect();
    app.report(&shop, json!(seen)).await;
    app.record_all().await;
    shop
}

#[tokio::test]
async fn exported_prices_can_be_imported() {
    let (one, other) = (TestApp::spawn().await, TestApp::spawn().await);
    let (anna, ben) = (shop(&one).await, other.user("ben", &SCOPES).await);
    let history = async |app: &TestApp| {
        sqlx::query_scalar::<_, String>(
            "select string_agg(concat_ws(' ', s.slug, o.sku, g.title, o.region, h.observed_at, h.amount, h.regular, o.low),
                '|' order by s.slug, o.sku, h.observed_at)
             from price_history h join offers o on o.id = h.offer_id join stores s on s.id = o.store_id
                join games g on g.id = o.game_id",
        )
        .fetch_one(&app.state.writer)
        .await
        .unwrap()
    };
    let before = history(&one).await;
    for format in ["csv", "ndjson"] {
        let bytes = export(&one, &anna, json!({"kind": "prices", "format": format})).await;
        let put =
            other.request(Method::PUT, &format!("/v1/files/a.{format}")).bearer_auth(&ben.token).body(bytes);
        let file: Value = put.send().await.unwrap().json().await.unwrap();
        let import = other.post("/v1/imports").bearer_auth(&ben.token).json(&json!({"file_id": file["id"]}));
        assert_eq!(import.send().await.unwrap().status(), 201);
        while imports::step(&other.state, || ()).await.unwrap().is_more() {}
        while record::step(&other.state).await.unwrap().is_more() {}
        assert_eq!(history(&other).await, before, "{format}");
    }
    let gog = export(
        &one,
        &anna,
        json!({"kind": "prices", "filter": {"store": "gog", "since": "2026-01-02T00:00:00Z"}}),
    )
    .await;
    let gog = text(&gog);
    assert_eq!(gog.lines().count(), 4, "{gog}");
    assert!(
        gog.lines()
            .skip(1)
            .all(|line| line.starts_with("gog,\"sku, ") && line.ends_with("7.50,20.00,2026-01-02T00:00:00Z"))
    );
}

#[tokio::test]
async fn formulas_are_exported_as_text_and_imported_unchanged() {
    let (one, other) = (TestApp::spawn().await, TestApp::spawn().await);
    let (anna, ben) = (one.user("anna", &SCOPES).await, other.user("ben", &SCOPES).await);
    let titles = [
        "=HYPERLINK(\"https://example.com\")",
        "-273 Degrees",
        "+1 Up",
        "@Home",
        "|pipe",
        "'=Quoted",
        "'Twas the Night",
        "''-Twice",
        "Plain = equal",
    ];
    let seen: Vec<Value> = titles
        .iter()
        .enumerate()
        .map(|(n, title)| json!({"store": "gog", "sku": format!("-{n}"), "title": title, "price": "1.00", "currency": "EUR"}))
        .collect();
    one.report(&anna, json!(seen)).await;
    one.record_all().await;
    let offers = async |app: &TestApp| {
        let sql = "select o.sku, g.title from offers o join games g on g.id = o.game_id order by o.sku";
        sqlx::query_as::<_, (String, String)>(sql).fetch_all(&app.state.writer).await.unwrap()
    };
    let before = offers(&one).await;
    assert_eq!(before.len(), titles.len());
    let csv = export(&one, &anna, json!({"kind": "prices"})).await;
    for guarded in [
        "'-0,\"'=HYPERLINK(",
        "'-1,'-273 Degrees,",
        "'-5,''=Quoted,",
        "'-6,'Twas the Night,",
        "'-8,Plain = equal,",
    ] {
        assert!(text(&csv).contains(guarded), "{guarded}: {}", text(&csv));
    }
    for (name, bytes) in [
        ("a.csv", csv),
        ("a.ndjson", export(&one, &anna, json!({"kind": "prices", "format": "ndjson"})).await),
    ] {
        let put =
            other.request(Method::PUT, &format!("/v1/files/{name}")).bearer_auth(&ben.token).body(bytes);
        let file: Value = put.send().await.unwrap().json().await.unwrap();
        let import = other.post("/v1/imports").bearer_auth(&ben.token).json(&json!({"file_id": file["id"]}));
        assert_eq!(import.send().await.unwrap().status(), 201);
        while imports::step(&other.state, || ()).await.unwrap().is_more() {}
        other.record_all().await;
        assert_eq!(offers(&other).await, before, "{name}");
    }
    // The owner chooses the name of a file.
    let put = one.request(Method::PUT, "/v1/files/=1+1.csv").bearer_auth(&anna.token).body("x");
    assert_eq!(put.send().await.unwrap().status(), 201);
    let files = export(&one, &anna, json!({"kind": "files"})).await;
    assert!(text(&files).contains(",'=1+1.csv,"), "{}", text(&files));
}

#[tokio::test]
async fn deals_and_the_callers_own_resources_are_exported_in_every_format() {
    let app = TestApp::spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    let deals =
        SerializedFileReader::new(export(&app, &shop, json!({"kind": "deals", "format": "parquet"})).await)
            .unwrap();
    let rows: Vec<_> = deals.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 6);
    let decimal = deals.metadata().file_metadata().schema_descr().column(8);
    assert_eq!((decimal.name(), decimal.type_precision(), decimal.type_scale()), ("price", 18, 4));
    assert_eq!(rows[0].get_decimal(8).unwrap().data(), 75_000_i64.to_be_bytes());
    assert_eq!((rows[0].get_string(7).unwrap().as_str(), rows[0].get_long(10).unwrap()), ("EUR", 63));
    assert!(rows[0].get_bool(11).unwrap(), "a new low");

    let game = app.read("/v1/games").await["items"][0]["id"].clone();
    for (at, rule) in
        [json!({"price_at_most": {"amount": "12.00", "currency": "EUR"}}), json!({"any_sale": {}})]
            .into_iter()
            .enumerate()
    {
        let watch = json!({"game_id": game, "rule": rule, "paused": at == 1});
        let made = app.post("/v1/watches").bearer_auth(&anna.token).json(&watch).send().await.unwrap();
        assert_eq!(made.status(), 201);
    }
    let watches = text(&export(&app, &anna, json!({"kind": "watches", "format": "ndjson"})).await);
    let watches: Vec<Value> = watches.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (&watches[0]["rule"], &watches[0]["target_price"]),
        (&json!("price_at_most"), &json!("12.00"))
    );
    assert_eq!((&watches[1]["paused"], &watches[1]["target_price"]), (&json!(true), &Value::Null));
    let others = text(&export(&app, &shop, json!({"kind": "watches", "format": "ndjson"})).await);
    assert_eq!(others, "", "only the caller's own");
    let empty = export(&app, &shop, json!({"kind": "notices", "format": "parquet"})).await;
    assert_eq!(SerializedFileReader::new(empty).unwrap().metadata().file_metadata().num_rows(), 0);
    let files = text(&export(&app, &anna, json!({"kind": "files"})).await);
    assert!(files.lines().nth(1).unwrap().contains("watches-"), "{files}");

    for (wanted, pointer) in [
        (json!({"kind": "watches", "filter": {"store": "gog"}}), "/filter/store"),
        (json!({"kind": "deals", "filter": {"since": "2026-01-01T00:00:00Z"}}), "/filter/since"),
        (json!({"kind": "deals", "filter": {"region": ""}}), "/filter/region"),
        (json!({"kind": "prices", "filter": {"store": " "}}), "/filter/store"),
        (json!({"kind": "deals", "expires_in": 0}), "/expires_in"),
        (json!({"kind": "everything"}), "/kind"),
    ] {
        let refused = app.post("/v1/exports").bearer_auth(&anna.token).json(&wanted).send().await.unwrap();
        assert_eq!(refused.status(), 422, "{wanted}");
        assert_eq!(refused.json::<Value>().await.unwrap()["errors"][0]["pointer"], pointer);
    }
}

#[tokio::test]
async fn an_export_that_ends_early_leaves_nothing() {
    let app = TestApp::builder().settings(&[("SALEBELL_FILES__BYTES_PER_ACCOUNT", "200")]).spawn().await;
    let anna = shop(&app).await;
    let count = async || -> i64 {
        files::remove_expired(&app.state).await.unwrap();
        sqlx::query_scalar("select count(*) from files").fetch_one(&app.state.writer).await.unwrap()
    };
    // Larger than the free space of the account.
    let waiting = request(&app, &anna, &json!({"kind": "prices"})).await;
    assert!(exports::step(&app.state, || ()).await.unwrap().is_more());
    let failed = see(&app, &anna, &waiting).await;
    assert_eq!((&failed["state"], &failed["file_id"]), (&json!("failed"), &Value::Null));
    assert!(failed["failure"].as_str().unwrap().contains("room for 200 bytes"), "{failed}");
    assert_eq!(count().await, 0);

    let waiting = request(&app, &anna, &json!({"kind": "watches"})).await;
    let path = format!("/v1/exports/{}", waiting["id"].as_str().unwrap());
    let cancelled = app.request(Method::DELETE, &path).bearer_auth(&anna.token).send().await.unwrap();
    assert_eq!(cancelled.status(), 200);
    assert!(!exports::step(&app.state, || ()).await.unwrap().is_more());
    let again = app.request(Method::DELETE, &path).bearer_auth(&anna.token).send().await.unwrap();
    assert_eq!(again.status(), 409);

    // A worker that died left a half-written file; its successor starts again and removes it.
    let waiting = request(&app, &anna, &json!({"kind": "watches"})).await;
    let dead = app.post("/v1/files").bearer_auth(&anna.token).header("tus-resumable", "1.0.0");
    let dead = dead.header("upload-defer-length", "1").send().await.unwrap();
    let dead = dead.headers()["location"].to_str().unwrap().rsplit('/').next().unwrap().to_owned();
    sqlx::query("update exports set state = 'writing', file_id = $1::uuid, leased_until = now() where state = 'queued'")
        .bind(&dead)
        .execute(&app.state.writer)
        .await
        .unwrap();
    app.clock.advance(chrono::TimeDelta::minutes(5));
    assert!(exports::step(&app.state, || ()).await.unwrap().is_more());
    let done = see(&app, &anna, &waiting).await;
    assert_eq!(done["state"], "done");
    assert_ne!(done["file_id"], json!(dead));
    assert_eq!(count().await, 1);
}

#[tokio::test]
async fn at_most_twenty_exports_of_an_account_wait() {
    let app = TestApp::spawn().await;
    let (anna, ben) = (app.user("anna", &[]).await, app.user("ben", &[]).await);
    let create = async |user: &User| {
        let wanted = app.post("/v1/exports").bearer_auth(&user.token).json(&json!({"kind": "watches"}));
        let answer = wanted.send().await.unwrap();
        let wait = answer.headers().get("retry-after").map(|wait| wait.to_str().unwrap());
        assert_eq!(wait, (answer.status() == 429).then_some("10"));
        answer.status().as_u16()
    };
    // All at once: no request sees an export that another is just creating.
    let mut answers = futures_util::future::join_all((0..40).map(|_| create(&anna))).await;
    answers.sort_unstable();
    assert_eq!((answers[19], answers[20], answers[39]), (201, 429, 429), "{answers:?}");
    assert_eq!(create(&ben).await, 201);
}
