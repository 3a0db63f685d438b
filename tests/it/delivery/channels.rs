//! Channels over HTTP.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::sink::{Behaviour, Sink};
use crate::support::{TestApp, User};

#[tokio::test]
async fn a_channel_is_created_with_a_secret_that_is_shown_once() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let body = json!({"kind": "webhook", "name": " mine ", "url": "http://127.0.0.1:9/hook"});
    let made = app.call(&anna, Method::POST, "/v1/channels", body).await;
    assert_eq!(made.status, 201);
    assert_eq!(made.body["kind"], "webhook");
    assert_eq!(made.body["name"], "mine");
    assert_eq!(made.body["url"], "http://127.0.0.1:9/hook");
    assert_eq!(made.body["state"], "active");
    let secret = made.body["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_") && secret.len() == 6 + 44, "{secret}");

    let path = format!("/v1/channels/{}", made.body["id"].as_str().unwrap());
    let shown = app.see(&anna, &path).await;
    assert_eq!(shown["secret"], Value::Null);
    assert_eq!(shown["failing_since"], Value::Null);

    // The secret is encrypted at rest.
    let stored: Vec<u8> =
        sqlx::query_scalar("select secret from channels").fetch_one(&app.state.writer).await.unwrap();
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(&secret[6..]).unwrap();
    assert!(!stored.windows(bytes.len()).any(|window| window == bytes));
}

#[tokio::test]
async fn an_invalid_channel_is_refused_with_all_reasons() {
    let app = TestApp::builder().settings(&[("SALEBELL_WEBHOOK__ALLOW_HTTP", "false")]).spawn().await;
    let anna = app.user("anna", &[]).await;
    for (body, pointers) in [
        (json!({"kind": "webhook", "name": "", "url": "http://example.com/"}), vec!["/name", "/url"]),
        (
            json!({"kind": "webhook", "name": "a\u{0}b", "url": "https://u:p@example.com/"}),
            vec!["/name", "/url"],
        ),
        (json!({"kind": "webhook", "name": "x".repeat(101), "url": "https://example.com/"}), vec!["/name"]),
        (json!({"kind": "webhook", "name": "a", "url": "https://169.254.169.254/latest"}), vec!["/url"]),
        (json!({"kind": "webhook", "name": "a", "url": "https://0xa9fea9fe/latest"}), vec!["/url"]),
        (json!({"kind": "webhook", "name": "a", "url": "https://[::ffff:10.0.0.1]/"}), vec!["/url"]),
        (json!({"kind": "webhook", "name": "a", "url": "nowhere"}), vec!["/url"]),
        (json!({"kind": "pigeon", "name": "a", "url": "https://example.com/"}), vec!["/kind"]),
        (
            json!({"kind": "webhook", "name": "a", "url": "https://example.com/", "secret": "x"}),
            vec!["/secret"],
        ),
    ] {
        let refused = app.call(&anna, Method::POST, "/v1/channels", body.clone()).await;
        assert_eq!(refused.status, 422, "{body}");
        let errors = refused.body["errors"].as_array().unwrap();
        let found: Vec<_> = errors.iter().map(|error| error["pointer"].as_str().unwrap()).collect();
        assert_eq!(found, pointers, "{body}: {}", refused.body);
    }
    assert_eq!(app.see(&anna, "/v1/channels").await["items"], json!([]));
}

#[tokio::test]
async fn the_number_of_channels_of_an_account_is_limited() {
    let app = TestApp::builder().settings(&[("SALEBELL_WEBHOOK__CHANNELS_PER_ACCOUNT", "2")]).spawn().await;
    let (anna, ben) = (app.user("anna", &[]).await, app.user("ben", &[]).await);
    let body = |n: usize| json!({"kind": "webhook", "name": "a", "url": format!("http://127.0.0.1/{n}")});
    let at_once = (0..5).map(|n| app.call(&anna, Method::POST, "/v1/channels", body(n)));
    let mut statuses: Vec<u16> =
        futures_util::future::join_all(at_once).await.iter().map(|answered| answered.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 201, 409, 409, 409]);
    assert_eq!(app.call(&ben, Method::POST, "/v1/channels", body(0)).await.status, 201);
    // Repeating an existing channel does not count against the quota.
    let there = app.see(&anna, "/v1/channels").await["items"][0]["url"].clone();
    let again = json!({"kind": "webhook", "name": "a", "url": there});
    assert_eq!(app.call(&anna, Method::POST, "/v1/channels", again).await.status, 200);
}

#[tokio::test]
async fn creating_the_same_channel_again_returns_the_existing_one() {
    let app = TestApp::spawn().await;
    let (anna, ben) = (app.user("anna", &[]).await, app.user("ben", &[]).await);
    let post = async |user: &User, name: &str, url: &str| {
        let body = json!({"kind": "webhook", "name": name, "url": url});
        app.call(user, Method::POST, "/v1/channels", body).await
    };
    let made = post(&anna, "mine", "http://127.0.0.1:80/a?b").await;
    assert_eq!(made.status, 201);
    // With another name, and with its address in another notation.
    for url in ["http://127.0.0.1:80/a?b", "HTTP://127.0.0.1/a?b"] {
        let again = post(&anna, "other", url).await;
        assert_eq!(again.status, 200, "{}", again.body);
        let channel = app.see(&anna, &format!("/v1/channels/{}", made.body["id"].as_str().unwrap())).await;
        assert_eq!(again.body, channel, "no secret is in it, and its name stays");
        assert_eq!(channel["name"], "mine");
        assert!(again.etag.is_some());
    }
    for (user, url) in [(&anna, "http://127.0.0.1/a?c"), (&ben, "http://127.0.0.1/a?b")] {
        assert_eq!(post(user, "mine", url).await.status, 201, "{url}");
    }

    // A disabled channel too: creating it again must not hide that it was disabled.
    sqlx::query("update channels set state = 'disabled', disabled_reason = 'gone'")
        .execute(&app.state.writer)
        .await
        .unwrap();
    let disabled = post(&anna, "mine", "http://127.0.0.1/a?b").await;
    assert_eq!((disabled.status, &disabled.body["state"]), (200, &json!("disabled")));
    // Of existing duplicates, the active one is returned. A channel whose deletion was cut short counts as deleted.
    let copy = |state: &'static str, reason: Option<&'static str>| {
        sqlx::query_scalar::<_, Uuid>(
            "insert into channels (id, account_id, kind, name, url, state, disabled_reason, secret, created_at, updated_at)
             select uuid_v7($2), account_id, kind, name, url, $3, $4, secret, created_at, updated_at
             from channels where id = $1 returning id",
        )
        .bind(made.body["id"].as_str().unwrap().parse::<Uuid>().unwrap())
        .bind(app.clock.now())
        .bind(state)
        .bind(reason)
        .fetch_one(&app.state.writer)
    };
    copy("disabled", Some("deleted")).await.unwrap();
    let active = copy("active", None).await.unwrap();
    copy("active", None).await.unwrap();
    let found = post(&anna, "mine", "http://127.0.0.1/a?b").await;
    assert_eq!((found.status, &found.body["id"]), (200, &json!(active)));
    sqlx::query("update channels set state = 'disabled', disabled_reason = 'deleted'")
        .execute(&app.state.writer)
        .await
        .unwrap();
    assert_eq!(post(&anna, "mine", "http://127.0.0.1/a?b").await.status, 201);
}

#[tokio::test]
async fn of_twenty_concurrent_requests_for_the_same_channel_one_creates_it() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let body = json!({"kind": "webhook", "name": "mine", "url": "http://127.0.0.1/"});
    let at_once = (0..20).map(|_| app.call(&anna, Method::POST, "/v1/channels", body.clone()));
    let answers = futures_util::future::join_all(at_once).await;
    let made: Vec<_> = answers.iter().filter(|answer| answer.status == 201).collect();
    assert_eq!(made.len(), 1);
    assert!(made[0].body["secret"].is_string());
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        assert_eq!((answer.status, &answer.body["id"]), (200, &made[0].body["id"]), "{}", answer.body);
        assert_eq!(answer.body["secret"], Value::Null);
    }
}

#[tokio::test]
async fn channels_are_listed_page_by_page() {
    let app = TestApp::spawn().await;
    let (anna, ben) = (app.user("anna", &[]).await, app.user("ben", &[]).await);
    let mut made = Vec::new();
    for n in 0..5 {
        made.insert(0, app.hook(&anna, &format!("http://127.0.0.1/{n}")).await.id.to_string());
    }
    app.hook(&ben, "http://127.0.0.1/").await;
    let (mut listed, mut path) = (Vec::new(), "/v1/channels?limit=2".to_owned());
    loop {
        let page = app.see(&anna, &path).await;
        listed.extend(page["items"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/channels?limit=2&cursor={cursor}");
    }
    assert_eq!(listed, made);
    let answered = app.call(&anna, Method::GET, "/v1/channels?cursor=nonsense", Value::Null).await;
    assert_eq!(answered.status, 400);
    let answered = app.call(&anna, Method::GET, "/v1/channels?color=red", Value::Null).await;
    assert_eq!(answered.status, 400);
}

#[tokio::test]
async fn a_channel_is_patched_in_the_version_that_was_read() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let path = format!("/v1/channels/{}", app.hook(&anna, "http://127.0.0.1/a").await.id);
    let etag = app.call(&anna, Method::GET, &path, Value::Null).await.etag.unwrap();

    let patch = |body: Value, etag: Option<String>| {
        let mut request = app.request(Method::PATCH, &path).bearer_auth(&anna.token).json(&body);
        if let Some(etag) = etag {
            request = request.header("if-match", etag);
        }
        async move { request.send().await.unwrap() }
    };
    let changed = patch(json!({"name": "other"}), Some(etag.clone())).await;
    assert_eq!(changed.status(), 200);
    let new_etag = changed.headers()["etag"].to_str().unwrap().to_owned();
    let changed: Value = changed.json().await.unwrap();
    assert_eq!((&changed["name"], &changed["url"]), (&json!("other"), &json!("http://127.0.0.1/a")));
    assert_eq!(patch(json!({"name": "late"}), Some(etag)).await.status(), 412);
    assert_eq!(patch(json!({"url": "http://127.0.0.1/b"}), None).await.status(), 200);
    for refused in [json!({"name": null}), json!({"url": "http://10.0.0.1/"}), json!({"state": "active"})] {
        assert_eq!(patch(refused.clone(), None).await.status(), 422, "{refused}");
    }
    let shown = app.call(&anna, Method::GET, &path, Value::Null).await;
    assert_eq!(shown.body["url"], "http://127.0.0.1/b");
    assert_eq!(shown.body["name"], "other");
    assert_ne!(shown.etag.unwrap(), new_etag);
}

#[tokio::test]
async fn a_channel_is_deleted_with_its_deliveries() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let (gone, stays) =
        (app.hook(&anna, "http://127.0.0.1/a").await, app.hook(&anna, "http://127.0.0.1/b").await);
    let rung = app.ring(&anna, &[gone.id, stays.id]).await;
    let path = format!("/v1/channels/{}", gone.id);
    assert_eq!(app.call(&anna, Method::DELETE, &path, Value::Null).await.status, 204);
    assert_eq!(app.call(&anna, Method::DELETE, &path, Value::Null).await.status, 404);
    assert_eq!(app.call(&anna, Method::GET, &path, Value::Null).await.status, 404);
    let deliveries = |id: Uuid| format!("/v1/deliveries/{id}");
    let get = |path: String| app.call(&anna, Method::GET, Box::leak(path.into_boxed_str()), Value::Null);
    assert_eq!(get(deliveries(rung.deliveries[0])).await.status, 404);
    assert_eq!(get(deliveries(rung.deliveries[1])).await.status, 200);
    app.see(&anna, &format!("/v1/notices/{}", rung.notice)).await;
}

#[tokio::test]
async fn a_channel_of_another_account_is_not_found() {
    let app = TestApp::spawn().await;
    let (anna, ben) = (app.user("anna", &[]).await, app.user("ben", &[]).await);
    let sink = Sink::start().await;
    let hook = app.hook(&anna, &sink.url("/")).await;
    let rung = app.ring(&anna, &[hook.id]).await;
    let channel = format!("/v1/channels/{}", hook.id);
    let delivery = format!("/v1/deliveries/{}", rung.deliveries[0]);
    let notice = format!("/v1/notices/{}", rung.notice);
    for (method, path, body) in [
        (Method::GET, channel.clone(), Value::Null),
        (Method::PATCH, channel.clone(), json!({"name": "stolen"})),
        (Method::DELETE, channel.clone(), Value::Null),
        (Method::POST, format!("{channel}/test"), Value::Null),
        (Method::POST, format!("{channel}/rotate-secret"), Value::Null),
        (Method::POST, format!("{channel}/recover"), json!({"since": "2026-01-01T00:00:00Z"})),
        (Method::GET, format!("{channel}/deliveries"), Value::Null),
        (Method::GET, delivery.clone(), Value::Null),
        (Method::POST, format!("{delivery}/redeliver"), Value::Null),
        (Method::GET, notice.clone(), Value::Null),
        (Method::PATCH, notice.clone(), json!({"read": true})),
    ] {
        let answered = app.call(&ben, method.clone(), &path, body.clone()).await;
        assert_eq!(answered.status, 404, "{method} {path}");
        assert_eq!(answered.body["type"], "/problems/not-found");
        let mut request = app.request(method.clone(), &path);
        if !body.is_null() {
            request = request.json(&body);
        }
        assert_eq!(request.send().await.unwrap().status(), 401, "{method} {path} without a token");
    }
    for list in ["/v1/channels", "/v1/notices"] {
        assert_eq!(app.see(&ben, list).await["items"], json!([]));
    }
    assert_eq!(app.see(&anna, &channel).await["name"], "mine");
    assert_eq!(app.see(&anna, &notice).await["read"], false);
    assert_eq!(sink.received("/").len(), 0);
}

#[tokio::test]
async fn a_test_delivery_reports_its_outcome() {
    let app = TestApp::builder().settings(&[("SALEBELL_WEBHOOK__TIMEOUT_MS", "500")]).spawn().await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    sink.on("/broken", Behaviour::Answer(500, "", "no\u{0} such table"));
    sink.on("/hangs", Behaviour::Hang);
    for (path, delivered, status, error, response) in [
        ("/fine", true, json!(204), json!(null), json!(null)),
        ("/broken", false, json!(500), json!("the receiver answered 500"), json!("no  such table")),
        ("/hangs", false, json!(null), json!("no answer within 500 ms"), json!(null)),
    ] {
        let hook = app.hook(&anna, &sink.url(path)).await;
        let test = format!("/v1/channels/{}/test", hook.id);
        let answered = app.call(&anna, Method::POST, &test, Value::Null).await;
        assert_eq!(answered.status, 200, "{}", answered.body);
        assert_eq!(answered.body["delivered"], delivered, "{path}");
        assert_eq!(answered.body["status"], status, "{path}");
        assert_eq!(answered.body["error"], error, "{path}");
        assert_eq!(answered.body["response"], response, "{path}");
        assert!(answered.body["duration_ms"].is_i64());
        let received = sink.wait_for(path, 1).await;
        assert_eq!(received.len(), 1, "a test is tried once");
        let again = app.call(&anna, Method::POST, &test, Value::Null).await;
        assert_eq!(again.status, 429, "{}", again.body);
        let body = received[0].json();
        assert_eq!(body["type"], "channel.test.v1");
        assert_eq!(body["data"]["channel_id"], hook.id.to_string());
        assert_eq!(app.see(&anna, &format!("/v1/channels/{}", hook.id)).await["failing_since"], Value::Null);
    }
}

#[tokio::test]
async fn recovering_a_disabled_channel_redelivers_its_dead_deliveries_since_then() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let hook = app.hook(&anna, "http://127.0.0.1/").await;
    let mut rungs = vec![app.ring(&anna, &[hook.id]).await];
    app.clock.advance(TimeDelta::hours(2));
    for _ in 0..3 {
        rungs.push(app.ring(&anna, &[hook.id]).await);
    }
    let since = app.state.clock.now() - TimeDelta::hours(1);
    // One was dead-lettered before and one after `since`, one was cancelled with the channel, one because the sale was
    // over.
    for (rung, state, reason) in [
        (&rungs[0], "dead", "no_tries_left"),
        (&rungs[1], "dead", "gone"),
        (&rungs[2], "cancelled", "channel_disabled"),
        (&rungs[3], "cancelled", "sale_ended"),
    ] {
        app.finish(rung.deliveries[0], state, Some(reason)).await;
    }
    sqlx::query(
        "update channels set state = 'disabled', disabled_reason = 'gone', failing_since = created_at",
    )
    .execute(&app.state.writer)
    .await
    .unwrap();
    let redeliver = format!("/v1/deliveries/{}/redeliver", rungs[1].deliveries[0]);
    assert_eq!(app.call(&anna, Method::POST, &redeliver, Value::Null).await.status, 409);

    let path = format!("/v1/channels/{}/recover", hook.id);
    let recovered = app.call(&anna, Method::POST, &path, json!({"since": since})).await;
    assert_eq!(recovered.status, 200, "{}", recovered.body);
    assert_eq!(recovered.body["state"], "active");
    assert_eq!(recovered.body["disabled_reason"], Value::Null);
    assert_eq!(recovered.body["failing_since"], Value::Null);
    assert_eq!(recovered.body["recovered"], 2);
    let mut states = Vec::new();
    for rung in &rungs {
        states.push(app.delivery(&anna, rung.deliveries[0]).await["state"].clone());
    }
    assert_eq!(states, ["dead", "pending", "pending", "cancelled"]);
    let answered = app.call(&anna, Method::POST, &path, json!({"since": "9999999-01-01T00:00:00Z"})).await;
    assert_eq!(answered.status, 422);
}
