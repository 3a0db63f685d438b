//! `Idempotency-Key`: a repeated POST has one effect and one answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use chrono::TimeDelta;
use reqwest::{RequestBuilder, Response};
use salebell::http;
use salebell::store::idempotency::{self, KeyState, Name};
use salebell::store::lease::Lease;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use crate::support::{TestApp, User, eventually, raw};

fn make_key(app: &TestApp, user: &User, key: &str, name: &str) -> RequestBuilder {
    let request = app.post("/v1/keys").bearer_auth(&user.token).header("idempotency-key", key);
    request.json(&json!({"name": name}))
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

async fn count(app: &TestApp, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&app.state.writer).await.unwrap()
}

/// The parts that the first and the repeated answer must have in common.
async fn essence(answer: Response) -> (u16, Vec<Option<String>>, Value) {
    let names = ["location", "etag", "content-type", "cache-control"];
    let header = |name: &&str| answer.headers().get(*name).map(|value| value.to_str().unwrap().to_owned());
    (answer.status().as_u16(), names.iter().map(header).collect(), answer.json().await.unwrap())
}

#[tokio::test]
async fn a_repetition_gets_the_first_answer_and_does_nothing() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let first = make_key(&app, &anna, "\"one\"", "till").send().await.unwrap();
    assert!(!first.headers().contains_key("idempotency-replayed"));
    let again = make_key(&app, &anna, "\"one\"", "till").send().await.unwrap();
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_ne!(again.headers()["x-request-id"], first.headers()["x-request-id"]);
    let first = essence(first).await;
    assert_eq!(first.0, 201);
    // Includes the secret, which is otherwise shown only once.
    assert_eq!(essence(again).await, first);
    let bare = make_key(&app, &anna, "one", "till").send().await.unwrap();
    assert_eq!(essence(bare).await, first, "with or without quotes");
    assert_eq!(count(&app, "select count(*) from api_keys where name = 'till'").await, 1);
    let saved: Vec<u8> =
        sqlx::query_scalar("select body from idempotency_keys").fetch_one(&app.state.writer).await.unwrap();
    let secret = first.2["key"].as_str().unwrap().as_bytes();
    assert!(!saved.windows(8).any(|bytes| bytes == &secret[..8]), "kept in the clear");
}

#[tokio::test]
async fn a_key_is_for_one_request_of_one_caller() {
    let app = TestApp::spawn().await;
    let (anna, ben) = (app.user("anna", &[]).await, app.user("ben", &[]).await);
    assert_eq!(status(make_key(&app, &anna, "\"one\"", "till")).await, 201);
    let other_body = make_key(&app, &anna, "\"one\"", "another").send().await.unwrap();
    assert_eq!(other_body.status(), 422);
    let problem: Value = other_body.json().await.unwrap();
    assert_eq!(problem["errors"][0]["pointer"], "Idempotency-Key");
    let elsewhere = app.post("/v1/keys?x=1").bearer_auth(&anna.token).header("idempotency-key", "\"one\"");
    assert_eq!(status(elsewhere.json(&json!({"name": "till"}))).await, 422);
    assert_eq!(status(make_key(&app, &ben, "\"one\"", "another")).await, 201);
    assert_eq!(status(make_key(&app, &anna, "\"two\"", "another")).await, 201);
    // The key expires after a day.
    app.clock.advance(TimeDelta::hours(24) - TimeDelta::minutes(1));
    assert_eq!(status(make_key(&app, &anna, "\"one\"", "another")).await, 422);
    app.clock.advance(TimeDelta::minutes(2));
    assert_eq!(status(make_key(&app, &anna, "\"one\"", "another")).await, 201);
}

#[tokio::test]
async fn many_at_once_have_one_effect() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let requests = (0..20).map(|_| make_key(&app, &anna, "\"one\"", "till").send());
    for answer in futures_util::future::join_all(requests).await {
        let answer = answer.unwrap();
        match answer.status().as_u16() {
            201 => {}
            409 => assert_eq!(answer.headers()["retry-after"], "1"),
            other => panic!("{other}"),
        }
    }
    assert_eq!(count(&app, "select count(*) from api_keys where name = 'till'").await, 1);
}

#[tokio::test]
async fn invalid_keys_and_unknown_callers_are_refused() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    for key in ["", "\"", "\"\"", &"x".repeat(256), "a b", "\"a\" \"b\""] {
        assert_eq!(status(make_key(&app, &anna, key, "till")).await, 400, "{key}");
    }
    let stranger = app.post("/v1/keys").header("idempotency-key", "\"one\"").json(&json!({"name": "a"}));
    assert_eq!(status(stranger).await, 401);
    assert_eq!(count(&app, "select count(*) from idempotency_keys").await, 0);
}

#[tokio::test]
async fn refusals_are_repeated_and_failures_tried_again() {
    let calls = Arc::new(AtomicUsize::new(0));
    let app = TestApp::builder()
        .router({
            let calls = calls.clone();
            move |app| {
                let fail_first = move || async move {
                    match calls.fetch_add(1, Ordering::SeqCst) {
                        0 => panic!("on purpose"),
                        1 => StatusCode::SERVICE_UNAVAILABLE,
                        2 => StatusCode::CONFLICT,
                        3 => StatusCode::FORBIDDEN,
                        _ => StatusCode::UNPROCESSABLE_ENTITY,
                    }
                };
                http::layered(Router::new().route("/do", post(fail_first)), app)
            }
        })
        .spawn()
        .await;
    let anna = app.user("anna", &[]).await;
    let send = || status(app.post("/do").bearer_auth(&anna.token).header("idempotency-key", "a"));
    for expected in [500, 503, 409, 403, 422, 422, 422] {
        assert_eq!(send().await, expected);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_request_in_flight_continues_when_its_client_hangs_up() {
    let (calls, release) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let app = TestApp::builder()
        .router({
            let (calls, release) = (calls.clone(), release.clone());
            move |app| {
                let held = move || async move {
                    calls.fetch_add(1, Ordering::SeqCst);
                    release.notified().await;
                    "done"
                };
                http::layered(Router::new().route("/held", post(held)), app)
            }
        })
        .spawn()
        .await;
    let anna = app.user("anna", &[]).await;
    let request = format!(
        "POST /held HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\nidempotency-key: \"a\"\r\ncontent-length: 0\r\n\r\n",
        anna.token
    );
    let mut client = raw::connect(&app.url).await;
    client.write_all(request.as_bytes()).await.unwrap();
    while calls.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(client);
    let again = || app.post("/held").bearer_auth(&anna.token).header("idempotency-key", "a").send();
    let answer = again().await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (409, &"1".parse().unwrap()));
    release.notify_one();
    let answer = loop {
        let answer = again().await.unwrap();
        if answer.status() != 409 {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(answer.headers()["idempotency-replayed"], "true");
    assert_eq!(answer.text().await.unwrap(), "done");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_request_that_died_is_taken_over_when_its_lock_has_expired() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    // A process that begins to execute the request, and is killed.
    let now = app.state.clock.now();
    let name = Name { account: anna.account, key: "one" };
    let body = json!({"name": "till"}).to_string();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.as_bytes());
    let begin = idempotency::begin(
        &app.state.writer,
        name,
        // without scopes
        "/v1/keys ",
        Some(hash.as_ref()),
        now,
        now + TimeDelta::seconds(30),
        now - TimeDelta::hours(24),
    );
    let KeyState::Nothing { began_at } = begin.await.unwrap() else { panic!("it was there") };
    assert_eq!(status(make_key(&app, &anna, "\"one\"", "till")).await, 409);
    app.clock.advance(TimeDelta::seconds(31));
    assert_eq!(status(make_key(&app, &anna, "\"one\"", "another")).await, 422, "not by another request");
    assert_eq!(status(make_key(&app, &anna, "\"one\"", "till")).await, 201);
    // The process presumed dead was only slow: it has lost its claim.
    let until = app.state.clock.now() + TimeDelta::seconds(30);
    assert_eq!(idempotency::prolong(&app.state.writer, name, began_at, until).await.unwrap(), Lease::Lost);
    idempotency::give_up(&app.state.writer, name, began_at).await.unwrap();
    let again = make_key(&app, &anna, "\"one\"", "till").send().await.unwrap();
    assert_eq!(again.headers()["idempotency-replayed"], "true");
}

#[tokio::test]
async fn without_an_encryption_key_no_secret_is_kept() {
    let app = TestApp::builder().settings(&[("SALEBELL_WEBHOOK__ENCRYPTION_KEYS", "")]).spawn().await;
    let anna = app.user("anna", &[]).await;
    assert_eq!(status(make_key(&app, &anna, "\"one\"", "till")).await, 201);
    let again = make_key(&app, &anna, "\"one\"", "till").send().await.unwrap();
    assert_eq!(again.status(), 409);
    assert_eq!(count(&app, "select count(*) from api_keys where name = 'till'").await, 1);
    assert_eq!(count(&app, "select count(*) from idempotency_keys where body is not null").await, 0);
    // An answer without a secret is kept.
    assert_eq!(status(make_key(&app, &anna, "\"two\"", "")).await, 422);
    let again = make_key(&app, &anna, "\"two\"", "").send().await.unwrap();
    assert_eq!(
        (again.status().as_u16(), again.headers()["idempotency-replayed"].to_str().unwrap()),
        (422, "true")
    );
}

#[tokio::test]
async fn a_streamed_report_is_one_batch_however_often_it_is_sent() {
    let app = TestApp::spawn().await;
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let report = |price: &str| {
        let line = |at: usize| {
            let sku = format!("sku-{at}");
            json!({"store": "gog", "sku": sku, "price": price, "currency": "EUR"}).to_string() + "\n"
        };
        (0..10).map(line).collect::<String>()
    };
    let send = |body: String| {
        let request = app.post("/v1/prices").bearer_auth(&shop.token).header("idempotency-key", "\"r\"");
        request.header("content-type", "application/x-ndjson").body(body)
    };
    // The upload breaks off: nothing of it is kept.
    let mut stream = raw::connect(&app.url).await;
    let head = format!(
        "POST /v1/prices HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\nidempotency-key: \"r\"\r\n\
         content-type: application/x-ndjson\r\ncontent-length: 1000\r\n\r\n{{}}\n",
        shop.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    while count(&app, "select count(*) from idempotency_keys").await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(status(send(report("9.99"))).await, 409, "it is in flight");
    drop(stream);
    while count(&app, "select count(*) from idempotency_keys").await == 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let first = send(report("9.99")).send().await.unwrap();
    let again = send(report("9.99")).send().await.unwrap();
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    let first = essence(first).await;
    assert_eq!((first.0, &first.2["accepted"]), (202, &json!(10)));
    assert_eq!(essence(again).await, first);
    assert_eq!(status(send(report("8.99"))).await, 422);
    assert_eq!(count(&app, "select count(*) from batches where closed_at is not null").await, 1);
}

#[tokio::test]
async fn the_answer_of_a_stronger_token_is_not_for_a_weaker_one() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &["operator"]).await;
    let body = json!({"name": "till", "scopes": ["operator"]});
    let post = |token: &str| {
        let request = app.post("/v1/keys").bearer_auth(token).header("idempotency-key", "\"one\"");
        request.json(&body).send()
    };
    assert_eq!(post(&anna.token).await.unwrap().status(), 201);
    let weak = app.user("anna", &[]).await;
    assert_eq!(weak.account, anna.account);
    assert_eq!(post(&weak.token).await.unwrap().status(), 422);
}

#[tokio::test]
async fn many_refusals_are_reported_and_kept_within_limits() {
    let app = TestApp::spawn().await;
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let good = json!({"store": "gog", "sku": "a", "price": "1.00", "currency": "EUR"}).to_string() + "\n";
    let bad = json!({"store": "gog", "sku": "a", "price": "x", "currency": "y", "region": "z", "url": "u"});
    let lines = good + &(bad.to_string() + "\n").repeat(5_000) + &"{\"x\":1}\n".repeat(5_000);
    let send = |key: &str, body: String| {
        let request =
            app.post("/v1/prices").bearer_auth(&shop.token).header("idempotency-key", key.to_owned());
        request.header("content-type", "application/x-ndjson").body(body).send()
    };
    let first = send("many", lines.clone()).await.unwrap();
    let answered: Value = serde_json::from_slice(&first.bytes().await.unwrap()).unwrap();
    let rejected = answered["rejected"].as_array().unwrap();
    assert_eq!((&answered["accepted"], &answered["rejected_count"]), (&json!(1), &json!(10_000)));
    assert!((100..=1_000).contains(&rejected.len()), "{}", rejected.len());
    assert!(answered.to_string().len() < (256 << 10) + 1_000, "{}", answered.to_string().len());
    assert_eq!(rejected.last().unwrap()["index"], rejected.len(), "the first ones");
    assert_eq!(answered["detail"], Value::Null);

    let again = send("many", lines).await.unwrap();
    assert_eq!(
        (again.status().as_u16(), &again.headers()["idempotency-replayed"]),
        (202, &"true".parse().unwrap())
    );
    assert_eq!(
        again.headers()["location"],
        format!("/v1/batches/{}", answered["batch_id"].as_str().unwrap())
    );
    let again: Value = again.json().await.unwrap();
    for field in ["batch_id", "accepted", "rejected_count"] {
        assert_eq!(again[field], answered[field], "{field}");
    }
    assert_eq!(again["rejected"], json!([]));
    assert!(again["detail"].as_str().unwrap().contains("only their counts were kept"), "{again}");
    let kept = "select coalesce(sum(octet_length(body)), 0)::bigint from idempotency_keys";
    assert!(count(&app, kept).await < 64 << 10);

    // A few refusals are kept completely.
    let few = |_: u8| send("few", (bad.to_string() + "\n").repeat(3));
    let (first, again) = (few(1).await.unwrap(), few(2).await.unwrap());
    assert_eq!(essence(again).await, essence(first).await);
    // JSON reports have the same bounds.
    let body = json!({"observations": vec![bad.clone(); 1_000]});
    let json = |_: u8| {
        let request = app.post("/v1/prices").bearer_auth(&shop.token).header("idempotency-key", "json");
        request.json(&body).send()
    };
    let answered: Value = json(1).await.unwrap().json().await.unwrap();
    assert!(answered["rejected"].as_array().unwrap().len() < 1_000 && answered["rejected_count"] == 1_000);
    let again: Value = json(2).await.unwrap().json().await.unwrap();
    assert_eq!((&again["rejected_count"], &again["rejected"]), (&json!(1_000), &json!([])));
    assert!(count(&app, kept).await < 3 * (64 << 10));
}

#[tokio::test]
async fn an_answer_too_large_to_be_kept_is_not_given_twice() {
    let calls = Arc::new(AtomicUsize::new(0));
    let app = TestApp::builder()
        .router({
            let calls = calls.clone();
            move |app| {
                let answer = move || async move {
                    calls.fetch_add(1, Ordering::SeqCst);
                    "x".repeat((64 << 10) + 1)
                };
                http::layered(Router::new().route("/large", post(answer)), app)
            }
        })
        .spawn()
        .await;
    let anna = app.user("anna", &[]).await;
    let send = || status(app.post("/large").bearer_auth(&anna.token).header("idempotency-key", "a"));
    assert_eq!((send().await, send().await), (200, 409));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(count(&app, "select count(*) from idempotency_keys where body is not null").await, 0);
}

#[tokio::test]
async fn an_account_has_a_limit_of_keys_and_of_bytes() {
    let app = TestApp::spawn().await;
    for (name, keys, bytes) in [("anna", idempotency::MAX_KEYS, 10), ("ben", 1_100, 63_000)] {
        let user = app.user(name, &[]).await;
        assert_eq!(status(make_key(&app, &user, "old", "till")).await, 201);
        let fill = "insert into idempotency_keys
                (account_id, key, route, body_digest, locked_until, status, headers, body, created_at)
            select $1, 'k' || n, '/', '', $2, 201, '{}', convert_to(repeat('x', $3), 'UTF8'), $2
            from generate_series(1, $4) n";
        let now = app.state.clock.now();
        let fill = sqlx::query(fill).bind(user.account).bind(now).bind(bytes).bind(keys);
        fill.execute(&app.state.writer).await.unwrap();
        // The counter starts again after a while.
        app.clock.advance(TimeDelta::minutes(2));
        let refused = make_key(&app, &user, "new", "till").send().await.unwrap();
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()["retry-after"]),
            (429, &"60".parse().unwrap())
        );
        assert_eq!(status(make_key(&app, &user, "newer", "till")).await, 429);
        let mine = app.post("/v1/keys").bearer_auth(&user.token).json(&json!({"name": "without a key"}));
        assert_eq!(status(mine).await, 201);
        // A repetition is still answered, and no other account is refused.
        let again = make_key(&app, &user, "old", "till").send().await.unwrap();
        assert_eq!(again.headers()["idempotency-replayed"], "true");
        let other = app.user("somebody", &[]).await;
        assert_eq!(status(make_key(&app, &other, name, "till")).await, 201);
        app.clock.advance(TimeDelta::hours(24));
        assert_eq!(status(make_key(&app, &user, "new", "till")).await, 201);
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_while_a_key_is_claimed_leaves_nothing_in_flight() {
    // Once where the request itself executes, and once where the execution outlives the request.
    for media in ["application/x-ndjson", "application/json"] {
        let app = TestApp::spawn().await;
        let anna = app.user("anna", &["prices:write", "catalogue:write"]).await;
        let mut admin = app.state.writer.begin().await.unwrap();
        // Another unexpired claim of the same key: this request waits while the other executes.
        sqlx::query(
            "insert into idempotency_keys (account_id, key, route, locked_until, created_at)
             values ($1, $2, '', now(), now())",
        )
        .bind(anna.account)
        .bind(media)
        .execute(&mut *admin)
        .await
        .unwrap();
        let mut client = raw::connect(&app.url).await;
        let body = json!({"store": "gog", "sku": "a", "price": "1.00", "currency": "EUR"});
        let body = if media == "application/json" {
            json!({"observations": [body]}).to_string()
        } else {
            body.to_string()
        };
        let request = format!(
            "POST /v1/prices HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\nidempotency-key: \"{media}\"\r\n\
             content-type: {media}\r\ncontent-length: {}\r\n\r\n{body}",
            anna.token,
            body.len()
        );
        client.write_all(request.as_bytes()).await.unwrap();
        let waiting = "select count(*) from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock' and query like '%idempotency_keys%'";
        eventually("it waits for the other", async || count(&app, waiting).await == 1).await;
        drop(client);
        eventually("the hang-up is noticed", async || app.state.deadline.suspects_connections()).await;
        admin.rollback().await.unwrap();
        // The statement continues in the server even if its client stops waiting.
        let claiming = "select count(*) from pg_stat_activity where datname = current_database()
            and state = 'active' and pid <> pg_backend_pid() and query like '%insert into idempotency_keys%'";
        eventually("the claim is over", async || count(&app, claiming).await == 0).await;
        let in_flight = "select count(*) from idempotency_keys where status is null";
        eventually("nothing is in flight", async || count(&app, in_flight).await == 0).await;
    }
}
