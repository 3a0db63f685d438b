//! API keys: over the API and by the command line.

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::binary::command;
use crate::support::{TestApp, User};

async fn create(app: &TestApp, user: &User, body: Value) -> (u16, Value) {
    let answer = app.post("/v1/keys").bearer_auth(&user.token).json(&body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn status_of_me(app: &TestApp, token: &str) -> u16 {
    app.get("/v1/me").bearer_auth(token).send().await.unwrap().status().as_u16()
}

async fn get(app: &TestApp, user: &User, path: &str) -> Value {
    app.get(path).bearer_auth(&user.token).send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn a_key_is_shown_once_and_lives_until_it_is_revoked() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &["prices:write"]).await;
    let (status, made) = create(&app, &anna, json!({"name": "till", "scopes": ["prices:write"]})).await;
    assert_eq!(status, 201, "{made}");
    let (key, path) = (made["key"].as_str().unwrap(), format!("/v1/keys/{}", made["id"].as_str().unwrap()));
    assert!(key.starts_with(made["hint"].as_str().unwrap()) && key.len() == 53);
    let me: Value = app.get("/v1/me").bearer_auth(key).send().await.unwrap().json().await.unwrap();
    assert_eq!(me, json!({"id": anna.account, "scopes": ["prices:write"]}));

    // The key is never shown again, nor anything from which it could be derived.
    for text in [get(&app, &anna, "/v1/keys").await.to_string(), get(&app, &anna, &path).await.to_string()] {
        assert!(!text.contains(key) && !text.contains("digest"), "{text}");
    }
    let listed = get(&app, &anna, "/v1/keys?limit=1").await;
    assert_eq!(listed["items"][0]["id"], made["id"]);
    let next = format!("/v1/keys?limit=1&cursor={}", listed["next_cursor"].as_str().unwrap());
    assert_eq!(get(&app, &anna, &next).await["items"].as_array().unwrap().len(), 1);

    let patch = json!({"name": "the till", "scopes": []});
    let answer =
        app.request(Method::PATCH, &path).bearer_auth(&anna.token).json(&patch).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let me: Value = app.get("/v1/me").bearer_auth(key).send().await.unwrap().json().await.unwrap();
    assert_eq!(me["scopes"], json!([]), "the change holds at once");

    let stale = app.request(Method::DELETE, &path).header("if-match", "\"other\"").bearer_auth(&anna.token);
    assert_eq!(stale.send().await.unwrap().status(), 412);
    let answer = app.request(Method::DELETE, &path).bearer_auth(&anna.token).send().await.unwrap();
    assert_eq!(answer.status(), 204);
    assert_eq!(status_of_me(&app, key).await, 401, "revoked at once here");
    assert_eq!(get(&app, &anna, &path).await["status"], 404);
}

#[tokio::test]
async fn another_process_refuses_a_revoked_key_within_five_seconds() {
    let app = TestApp::spawn().await;
    let other = TestApp::builder().settings(&[("SALEBELL_DATABASE__URL", &app.database.url)]).spawn().await;
    let anna = app.user("anna", &[]).await;
    let (_, made) = create(&app, &anna, json!({"name": "lent"})).await;
    let key = made["key"].as_str().unwrap();
    assert_eq!(status_of_me(&other, key).await, 200);
    let path = format!("/v1/keys/{}", made["id"].as_str().unwrap());
    app.request(Method::DELETE, &path).bearer_auth(&anna.token).send().await.unwrap();
    other.clock.advance(TimeDelta::seconds(5));
    assert_eq!(status_of_me(&other, key).await, 401);
}

#[tokio::test]
async fn no_key_may_do_more_or_live_longer_than_its_maker() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &["prices:write"]).await;
    let (status, problem) = create(&app, &anna, json!({"name": "a", "scopes": ["operator"]})).await;
    assert_eq!((status, problem["type"].as_str().unwrap()), (403, "/problems/forbidden"));
    let end = app.clock.now() + TimeDelta::days(1);
    let (_, made) = create(&app, &anna, json!({"name": "day", "expires_at": end})).await;
    let day = User { account: anna.account, token: made["key"].as_str().unwrap().to_owned() };
    for (expires_at, expected) in [
        (json!(null), 403),
        (json!(end + TimeDelta::seconds(1)), 403),
        (json!(end - TimeDelta::seconds(1)), 201),
    ] {
        let body = json!({"name": "b", "expires_at": expires_at});
        assert_eq!(create(&app, &day, body).await.0, expected, "{expires_at}");
    }
    // A patch cannot add scopes either; but a key keeps those it has when only its name changes.
    let path = format!("/v1/keys/{}", made["id"].as_str().unwrap());
    let patch = async |user: &User, body: Value| {
        let request = app.request(Method::PATCH, &path).bearer_auth(&user.token).json(&body);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(patch(&day, json!({"expires_at": null})).await, 403);
    assert_eq!(patch(&day, json!({"scopes": ["prices:write"]})).await, 403);
    assert_eq!(patch(&anna, json!({"scopes": ["prices:write"]})).await, 200);
    assert_eq!(patch(&day, json!({"name": "renamed"})).await, 200);

    app.clock.advance(TimeDelta::days(1));
    assert_eq!(status_of_me(&app, &day.token).await, 401, "it has expired");
}

#[tokio::test]
async fn invalid_fields_are_named() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    for (body, pointer) in [
        (json!({}), None),
        (json!({"name": ""}), Some("/name")),
        (json!({"name": "x".repeat(101)}), Some("/name")),
        (json!({"name": "a", "scopes": ["prices:write", "root"]}), Some("/scopes/1")),
        (json!({"name": "a", "expires_at": "2020-01-01T00:00:00Z"}), Some("/expires_at")),
        (json!({"name": "a", "expires_at": "soon"}), Some("/expires_at")),
        (json!({"name": "a", "key": "sbk_mine"}), Some("/key")),
    ] {
        let (status, problem) = create(&app, &anna, body.clone()).await;
        assert_eq!(status, 422, "{body}");
        if let Some(pointer) = pointer {
            let pointers: Vec<_> =
                problem["errors"].as_array().unwrap().iter().map(|e| &e["pointer"]).collect();
            assert!(pointers.contains(&&json!(pointer)), "{body}: {problem}");
        }
    }
}

#[tokio::test]
async fn an_account_has_a_limit_of_keys() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    for at in 0..99 {
        assert_eq!(create(&app, &anna, json!({"name": format!("key {at}")})).await.0, 201);
    }
    assert_eq!(create(&app, &anna, json!({"name": "one too many"})).await.0, 409);
    let ben = app.user("ben", &[]).await;
    assert_eq!(create(&app, &ben, json!({"name": "his first"})).await.0, 201);
}

#[tokio::test]
async fn the_last_use_is_noted_at_most_once_a_minute() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let last_use = async || -> Option<DateTime<Utc>> {
        sqlx::query_scalar("select last_used_at from api_keys").fetch_one(&app.state.writer).await.unwrap()
    };
    assert_eq!(status_of_me(&app, &anna.token).await, 200);
    // The time of use is written after the answer.
    let wait_for = async |before: Option<DateTime<Utc>>| loop {
        match last_use().await {
            time if time != before => return time,
            _ => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    };
    let first = wait_for(None).await;
    for _ in 0..5 {
        app.clock.advance(TimeDelta::seconds(10));
        status_of_me(&app, &anna.token).await;
    }
    app.clock.advance(TimeDelta::seconds(15));
    status_of_me(&app, &anna.token).await;
    let second = wait_for(first).await;
    assert!(second.unwrap() - first.unwrap() >= TimeDelta::seconds(60), "{first:?} {second:?}");
}

#[tokio::test]
async fn keys_are_created_listed_and_revoked_by_command() {
    let app = TestApp::spawn().await;
    let key = async |arguments: &[&str]| {
        let settings = [("SALEBELL_DATABASE__URL", app.database.url.as_str())];
        let output = command(&[&["key"], arguments].concat(), &settings).output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim_end().to_owned();
        (output.status.success(), text(output.stdout), text(output.stderr))
    };
    let (success, made, errors) =
        key(&["create", "--subject", "till", "--name", "the till", "--scope", "prices:write"]).await;
    assert!(success, "{errors}");
    let me: Value = app.get("/v1/me").bearer_auth(&made).send().await.unwrap().json().await.unwrap();
    assert_eq!(me["scopes"], json!(["prices:write"]));
    let (_, listed, _) = key(&["list", "--subject", "till"]).await;
    assert!(listed.contains("\"the till\"") && listed.contains(&made[..8]) && !listed.contains(&made));
    let id = listed.split_whitespace().next().unwrap();
    assert!(!key(&["revoke", "--subject", "another", id]).await.0);
    let (success, _, errors) = key(&["revoke", "--subject", "till", id]).await;
    assert!(success, "{errors}");
    app.clock.advance(TimeDelta::seconds(5));
    assert_eq!(status_of_me(&app, &made).await, 401);
    let (success, _, errors) = key(&["create", "--subject", "till", "--scope", "root"]).await;
    assert!(!success && errors.contains("prices:write"), "{errors}");
}
