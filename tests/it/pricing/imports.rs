//! Imports: files of every kind become prices; unusable content, failures, permissions.

use std::io::Write;
use std::time::{Duration, Instant};

use reqwest::Method;
use salebell::worker::{imports, record};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::files::uploads::bytes;
use crate::support::binary::Binary;
use crate::support::bus::{Carrier, Queues};
use crate::support::{TestApp, User};

crate::on_both_buses!(
    a_foreign_csv_gives_the_state_of_a_report_in_chronological_order,
    a_killed_worker_is_followed_by_another,
);

pub const SCOPES: [&str; 2] = ["prices:write", "catalogue:write"];

pub async fn upload(app: &TestApp, user: &User, name: &str, body: impl Into<reqwest::Body>) -> String {
    let request = app.request(Method::PUT, &format!("/v1/files/{name}")).bearer_auth(&user.token).body(body);
    let file: Value = request.send().await.unwrap().json().await.unwrap();
    file["id"].as_str().unwrap().to_owned()
}

pub async fn import(
    app: &TestApp,
    user: &User,
    mut options: Value,
    name: &str,
    body: impl Into<reqwest::Body>,
) -> Value {
    options["file_id"] = json!(upload(app, user, name, body).await);
    let answer = app.post("/v1/imports").bearer_auth(&user.token).json(&options).send().await.unwrap();
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

/// Lets a worker do everything that is due, and returns the resulting state of the import.
pub async fn finish(app: &TestApp, user: &User, import: &Value) -> Value {
    let path = format!("/v1/imports/{}", import["id"].as_str().unwrap());
    let recording = tokio::spawn({
        let app = app.state.clone();
        async move {
            loop {
                if !record::step(&app).await.unwrap().is_more() {
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    while imports::step(&app.state, || ()).await.unwrap().is_more() {}
    let mut seen = app.see(user, &path).await;
    while seen["state"] == "recording" {
        seen = app.see(user, &path).await;
    }
    recording.abort();
    seen
}

/// Every offer with its state and its history, as text from the database.
async fn state(app: &TestApp) -> Vec<String> {
    sqlx::query_scalar(
        "select concat_ws(' ', s.slug, o.sku, o.region, o.currency, o.amount, o.regular, o.observed_at, o.low, o.low_at,
            o.sale_id is not null,
            (select string_agg(concat_ws('/', h.observed_at, h.amount, h.regular), ' ' order by h.observed_at)
             from price_history h where h.offer_id = o.id),
            (select string_agg(concat_ws('/', x.started_at, x.ended_at, x.amount, x.cut), ' ' order by x.started_at)
             from sales x where x.offer_id = o.id))
         from offers o join stores s on s.id = o.store_id order by s.slug, o.sku, o.region",
    )
    .fetch_all(&app.state.writer)
    .await
    .unwrap()
}

/// Changes of some offers over a year, unordered, as lines of CSV and as observations.
fn changes(offers: u64, each: u64) -> Vec<(String, Value)> {
    let random = bytes((offers * each * 8) as usize);
    let mut changes: Vec<(u64, String, Value)> = (0..offers * each)
        .map(|at| {
            let (offer, step) = (at % offers, at / offers);
            let noise = u64::from_le_bytes(random[at as usize * 8..][..8].try_into().unwrap());
            let price = format!("{}.{:02}", 5 + noise % 40, noise % 97);
            let time = format!("2025-{:02}-{:02}T10:00:{:02}Z", 1 + step % 12, 1 + step / 12 % 28, noise % 60);
            let line = format!("{offer},{time},{price},49.99");
            let seen = json!({"store": "Steam", "sku": offer.to_string(), "price": price, "regular_price": "49.99",
                "currency": "EUR", "observed_at": time, "title": format!("Game {offer}")});
            (noise, line, seen)
        })
        .collect();
    changes.sort_by_key(|change| change.0);
    changes.into_iter().map(|(_, line, seen)| (line, seen)).collect()
}

async fn a_foreign_csv_gives_the_state_of_a_report_in_chronological_order(carrier: Carrier) {
    let (imported, reported) = (TestApp::builder().bus(carrier).spawn().await, TestApp::spawn().await);
    let (anna, ben) = (imported.user("anna", &SCOPES).await, reported.user("ben", &SCOPES).await);
    let changes = changes(40, 20);
    let mut csv = "\u{feff}ID,When,Now,Before\r\n".to_owned();
    changes.iter().for_each(|(line, _)| csv.push_str(&format!("{line}\r\n")));
    let mut packed = zstd::Encoder::new(Vec::new(), 3).unwrap();
    packed.write_all(csv.as_bytes()).unwrap();
    let options = json!({
        "columns": {"sku": "ID", "observed_at": "When", "price": "Now", "regular_price": "Before"},
        "constants": {"store": "Steam", "currency": "EUR"},
    });
    let done = import(&imported, &anna, options, "changes.csv.zst", packed.finish().unwrap()).await;
    assert_eq!(done["state"], "queued");
    let done = finish(&imported, &anna, &done).await;
    assert_eq!(
        (&done["state"], &done["accepted"], &done["refused"]),
        (&json!("done"), &json!(800), &json!(0))
    );
    assert_eq!(done["progress"]["rows_read"], 800);
    assert_eq!(done["progress"]["bytes_read"], done["progress"]["bytes_total"]);

    let mut seen: Vec<Value> = changes.into_iter().map(|(_, seen)| seen).collect();
    seen.sort_by_key(|seen| seen["observed_at"].as_str().unwrap().to_owned());
    for some in seen.chunks(100) {
        reported.report(&ben, json!(some)).await;
        reported.record_all().await;
    }
    let (imported, reported) = (state(&imported).await, state(&reported).await);
    assert_eq!(imported.len(), 40);
    assert_eq!(imported, reported);
}

const PRODUCTS: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<rss xmlns:g="http://base.google.com/ns/1.0" version="2.0"><channel><title>Shop</title>
<item><g:id>w3</g:id><title>The Witcher 3</title><link>https://shop.example/w3</link>
  <g:price>39.99 EUR</g:price><g:sale_price>9.99 EUR</g:sale_price>
  <g:sale_price_effective_date>2025-01-01T00:00-0800/2099-01-01T00:00-0800</g:sale_price_effective_date></item>
<item><g:id>old</g:id><title>Old sale</title><g:price>20.00 EUR</g:price><g:sale_price>5.00 EUR</g:sale_price>
  <g:sale_price_effective_date>2020-01-01T00:00-0800/2020-02-01T00:00-0800</g:sale_price_effective_date></item>
<item><g:id>bad</g:id><title>No currency</title><g:price>20.00</g:price></item>
</channel></rss>"#;

#[tokio::test]
async fn product_data_of_google_is_read_in_all_its_forms() {
    let tsv = "id\ttitle\tlink\tprice\tsale price\tsale_price_effective_date\n\
        w3\tThe Witcher 3\thttps://shop.example/w3\t39.99 EUR\t9.99 EUR\t2025-01-01T00:00-0800/2099-01-01T00:00-0800\n\
        old\tOld sale\t\t20.00 EUR\t5.00 EUR\t2020-01-01T00:00-0800/2020-02-01T00:00-0800\n\
        bad\tNo currency\t\t20.00\t\t\n";
    let atom = PRODUCTS
        .replace("<rss ", "<feed ")
        .replace("</rss>", "</feed>")
        .replace("<channel>", "")
        .replace("</channel>", "")
        .replace("item>", "entry>")
        .replace("<link>https://shop.example/w3</link>", "<link href=\"https://shop.example/w3\"/>");
    for (name, body) in
        [("feed.xml", PRODUCTS), ("feed.txt", tsv), ("feed.csv", &tsv.replace('\t', ",")), ("atom", &atom)]
    {
        let app = TestApp::spawn().await;
        let anna = app.user("anna", &SCOPES).await;
        let options = json!({"format": "merchant", "constants": {"store": "Shop", "region": "DE"}});
        let done = import(&app, &anna, options, name, body.to_owned()).await;
        let done = finish(&app, &anna, &done).await;
        assert_eq!(
            (&done["state"], &done["recorded"], &done["refused"]),
            (&json!("done"), &json!(2), &json!(1)),
            "{name}: {done}"
        );
        assert_eq!(done["transitions"], json!({"first.seen": 1, "sale.started": 1}), "{name}");
        let deals = app.read("/v1/deals").await;
        let deal = &deals["items"][0];
        assert_eq!(
            (&deal["price"]["amount"], &deal["regular_price"]["amount"]),
            (&json!("9.99"), &json!("39.99")),
            "{name}"
        );
        assert_eq!(
            (&deal["region"], &deal["url"]),
            (&json!("DE"), &json!("https://shop.example/w3")),
            "{name}"
        );
        let path = format!("{}?format=ndjson", done["refusals"].as_str().unwrap());
        let listed = app.get(&path).bearer_auth(&anna.token).send().await.unwrap().text().await.unwrap();
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let line = if name == "feed.xml" || name == "atom" { 8 } else { 4 };
        assert_eq!(listed["line"], line, "{name}");
        assert!(listed["reason"].as_str().unwrap().contains("18.49 EUR"), "{listed}");
    }
}

#[tokio::test]
async fn refused_rows_are_reported_with_their_line() {
    let app = TestApp::spawn().await;
    let (anna, mallory) = (app.user("anna", &SCOPES).await, app.user("mallory", &SCOPES).await);
    let body = "{\"store\": \"GOG\", \"sku\": \"a\", \"price\": \"1.00\", \"currency\": \"EUR\"}\n\
        not json\n\n{\"store\": \"GOG\", \"sku\": \"\", \"price\": \"1.123456789\", \"currency\": \"EUR\"}\n\
        {\"store\": \"GOG\", \"sku\": \"=b\", \"price\": \"1\", \"currency\": \"EUR\", \"=cmd\": 1}\n";
    let done = finish(&app, &anna, &import(&app, &anna, json!({}), "a.ndjson", body).await).await;
    assert_eq!((&done["state"], &done["accepted"], &done["refused"]), (&json!("done"), &json!(1), &json!(3)));
    let refusals = done["refusals"].as_str().unwrap();
    let listed = app.get(refusals).bearer_auth(&anna.token).send().await.unwrap();
    assert!(listed.headers()["content-disposition"].to_str().unwrap().starts_with("attachment"));
    let listed = listed.text().await.unwrap();
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines[0], "line,reason,kind");
    assert!(lines[1].starts_with("2,\"is not a JSON object"), "{listed}");
    assert!(lines[2].starts_with("4,\"sku is required; price"), "{listed}");
    assert!(lines[3].starts_with("5,\"unknown field `=cmd`"), "{listed}");
    assert_eq!(app.get(refusals).bearer_auth(&mallory.token).send().await.unwrap().status(), 404);

    // A caller without the right to write the catalogue cannot add stores.
    let shop = app.user("shop", &["prices:write"]).await;
    let body = "store,sku,price,currency\nGOG,a,2.00,EUR\nNowhere,b,1.00,EUR\n";
    let done = finish(&app, &shop, &import(&app, &shop, json!({}), "b.csv", body).await).await;
    assert_eq!((&done["accepted"], &done["refused"], &done["recorded"]), (&json!(1), &json!(1), &json!(1)));
    let listed = app.get(done["refusals"].as_str().unwrap()).bearer_auth(&shop.token).send().await.unwrap();
    assert!(listed.text().await.unwrap().contains("3,\"store is unknown"));

    // A file that is unreadable fails with a reason.
    let cut = {
        let mut packed = zstd::Encoder::new(Vec::new(), 3).unwrap();
        packed.write_all(b"store,sku,price,currency\n").unwrap();
        bytes(400_000).chunks(20).for_each(|sku| writeln!(packed, "GOG,{sku:?},1,EUR").unwrap());
        let whole = packed.finish().unwrap();
        whole[..whole.len() / 2].to_vec()
    };
    // A quarter of a gigabyte of nothing in a few kilobytes.
    let endless = {
        let mut packed = zstd::Encoder::new(Vec::new(), 3).unwrap();
        (0..256).for_each(|_| packed.write_all(&[b'\n'; 1 << 20]).unwrap());
        packed.finish().unwrap()
    };
    for (name, body, options, why) in [
        ("endless.csv.zst", endless, json!({}), "decompresses to more than 1000 times"),
        ("empty.csv", Vec::new(), json!({}), "empty"),
        ("a.csv", b"a,b\n1,2\n".to_vec(), json!({}), "nothing in the input says store"),
        ("a.csv.zst", cut, json!({}), "cannot read the input after line"),
        ("utf16.csv", b"\xff\xfea\0".to_vec(), json!({}), "nothing in the input says store"),
        (
            "a.xml",
            b"<rss><item>".to_vec(),
            json!({"format": "merchant", "constants": {"store": "s"}}),
            "ends in the middle",
        ),
        ("a.xml", PRODUCTS.into(), json!({}), "XML"),
    ] {
        let failed = finish(&app, &anna, &import(&app, &anna, options, name, body).await).await;
        assert_eq!(failed["state"], "failed", "{name}: {failed}");
        assert!(failed["failure"].as_str().unwrap().contains(why), "{name}: {}", failed["failure"]);
    }
    let refuse = async |user: &User, body: Value| {
        app.post("/v1/imports").bearer_auth(&user.token).json(&body).send().await.unwrap().status().as_u16()
    };
    let file = upload(&app, &anna, "x.csv", "x").await;
    assert_eq!(refuse(&anna, json!({"file_id": Uuid::now_v7()})).await, 404);
    assert_eq!(refuse(&mallory, json!({"file_id": file})).await, 404);
    assert_eq!(refuse(&anna, json!({"file_id": file, "columns": {"prize": "x"}})).await, 422);
    assert_eq!(refuse(&anna, json!({"file_id": file, "format": "excel"})).await, 422);
    let long = json!({"file_id": file, "constants": {"title": "x".repeat(2_001)}});
    assert_eq!(refuse(&anna, long).await, 422);
    let reader = app.user("reader", &[]).await;
    assert_eq!(refuse(&reader, json!({"file_id": file})).await, 403);
}

#[tokio::test]
async fn backfill_does_not_ring_and_a_cancelled_import_sends_no_more() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let body = "store,sku,price,regular_price,currency\nGOG,a,5.00,20.00,EUR\n";
    let done =
        finish(&app, &anna, &import(&app, &anna, json!({"backfill": true}), "a.csv", body).await).await;
    assert_eq!(done["transitions"], json!({"sale.started": 1}));
    let rings: i64 = sqlx::query_scalar("select count(*) from events where rings")
        .fetch_one(&app.state.writer)
        .await
        .unwrap();
    assert_eq!(rings, 0);

    let waiting = import(&app, &anna, json!({}), "b.csv", body).await;
    let path = format!("/v1/imports/{}", waiting["id"].as_str().unwrap());
    let cancelled = app.request(Method::DELETE, &path).bearer_auth(&anna.token).send().await.unwrap();
    assert_eq!(cancelled.status(), 200);
    assert!(!imports::step(&app.state, || ()).await.unwrap().is_more());
    assert_eq!(app.see(&anna, &path).await["state"], "cancelled");
    let again = app.request(Method::DELETE, &path).bearer_auth(&anna.token).send().await.unwrap();
    assert_eq!(again.status(), 409);
}

#[tokio::test]
async fn progress_is_reported_during_an_import() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let waiting = import(&app, &anna, json!({}), "a.csv", "store,sku,price,currency\nGOG,a,5.00,EUR\n").await;
    let path = format!("/v1/imports/{}/events", waiting["id"].as_str().unwrap());
    let mut events = app.get(&path).bearer_auth(&anna.token).send().await.unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let first = String::from_utf8(events.chunk().await.unwrap().unwrap().to_vec()).unwrap();
    assert!(first.starts_with("event: progress\ndata: {"), "{first}");
    finish(&app, &anna, &waiting).await;
    let mut rest = String::new();
    while let Some(chunk) = events.chunk().await.unwrap() {
        rest.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    let last = rest.split("event: end\ndata: ").nth(1).expect("an end");
    let last: Value = serde_json::from_str(last.trim()).unwrap();
    assert_eq!((&last["state"], &last["recorded"]), (&json!("done"), &json!(1)));
}

#[tokio::test]
async fn an_account_follows_a_limited_number_of_imports() {
    let app = TestApp::spawn().await;
    let (anna, ben) = (app.user("anna", &SCOPES).await, app.user("ben", &SCOPES).await);
    let follow = async |user: &User| {
        let waiting = import(&app, user, json!({}), "a.csv", "store,sku,price,currency\n").await;
        let path = format!("/v1/imports/{}/events", waiting["id"].as_str().unwrap());
        app.get(&path).bearer_auth(&user.token).send().await.unwrap()
    };
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(follow(&anna).await);
    }
    assert!(open.iter().all(|events| events.status() == 200));
    let refused = follow(&anna).await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"10".parse().unwrap()));
    assert_eq!(follow(&ben).await.status(), 200);
    // A client that disconnects frees its place.
    open.pop();
    let deadline = Instant::now() + Duration::from_secs(10);
    while follow(&anna).await.status() != 200 {
        assert!(Instant::now() < deadline, "a listener that has gone still counts");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Kills a worker between any two steps: another one continues, nothing is lost and nothing counted twice.
async fn a_killed_worker_is_followed_by_another(carrier: Carrier) {
    let app = TestApp::builder().bus(carrier).spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let (offers, each) = (20_000, 3);
    let mut csv = "ID,When,Now,Before\n".to_owned();
    changes(offers, each).iter().for_each(|(line, _)| csv.push_str(&format!("{line}\n")));
    let options = json!({
        "columns": {"sku": "ID", "observed_at": "When", "price": "Now", "regular_price": "Before"},
        "constants": {"store": "Steam", "currency": "EUR"},
        "backfill": true,
    });
    let waiting = import(&app, &anna, options, "changes.csv", csv).await;
    let settings = [
        ("SALEBELL_DATABASE__URL", app.database.url.as_str()),
        ("SALEBELL_FILES__DIRECTORY", app.files.path().to_str().unwrap()),
        ("SALEBELL_WORKER__METRICS_LISTEN", "127.0.0.1:0"),
        ("SALEBELL_WORKER__LEASE_S", "15"),
        ("SALEBELL_LOG__TO", "stderr"),
    ];
    let bus: Vec<_> = app.queues.iter().flat_map(Queues::settings_of_a_process).collect();
    let settings: Vec<(&str, &str)> =
        settings.into_iter().chain(bus.iter().map(|(key, value)| (*key, value.as_str()))).collect();
    for sent in [1, 2] {
        let mut worker = Binary::start(&["worker"], &settings);
        let begun =
            format!("select exists (select from imports where parts_sent >= {sent} or state = 'sent')");
        while !sqlx::query_scalar::<_, bool>(sqlx::AssertSqlSafe(begun.clone()))
            .fetch_one(&app.state.writer)
            .await
            .unwrap()
        {
            assert!(worker.is_running(), "{}", worker.log());
            tokio::task::yield_now().await;
        }
        app.kill(&mut worker).await;
        // As if the lease of the dead worker had expired.
        sqlx::query("update imports set leased_until = now()").execute(&app.state.writer).await.unwrap();
    }
    let mut worker = Binary::start(&["worker"], &settings);
    let path = format!("/v1/imports/{}", waiting["id"].as_str().unwrap());
    let mut done = app.see(&anna, &path).await;
    while done["state"] != "done" {
        assert!(worker.is_running(), "{}", worker.log());
        tokio::task::yield_now().await;
        done = app.see(&anna, &path).await;
    }
    let total = (offers * each) as i64;
    let sum = |names: &[&str]| names.iter().map(|name| done[name].as_i64().unwrap()).sum::<i64>();
    assert_eq!(
        (done["accepted"].as_i64().unwrap(), done["progress"]["rows_read"].as_i64().unwrap()),
        (total, total)
    );
    assert_eq!(sum(&["recorded", "unchanged", "stale", "quarantined", "failed"]), total, "{done}");
    assert_eq!(sum(&["stale", "failed"]), 0, "in the order of time, whoever sent it: {done}");
    let counted: i64 =
        sqlx::query_scalar("select count(*) from offers").fetch_one(&app.state.writer).await.unwrap();
    assert_eq!(counted, offers as i64);
}

#[tokio::test]
async fn an_account_has_a_limited_number_of_imports_that_wait() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let options = json!({"file_id": upload(&app, &anna, "a.csv", "store,sku,price,currency\n").await});
    let create = || app.post("/v1/imports").bearer_auth(&anna.token).json(&options).send();
    let answers = futures_util::future::try_join_all((0..101).map(|_| create())).await.unwrap();
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status() != 201).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!(
        (refused[0].status().as_u16(), &refused[0].headers()["retry-after"]),
        (429, &"10".parse().unwrap())
    );
}
