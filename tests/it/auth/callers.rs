//! Authentication of callers: JSON Web Tokens of trusted issuers.

use std::sync::LazyLock;

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::support::TestApp;
use crate::support::issuer::{KeyServer, SigningKey, unsigned};

const ISSUER: &str = "https://id.example";

/// Shared, because generating RSA keys takes long.
static RSA: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate("RS256", "rsa"));
static EC: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate("ES256", "ec"));
static ED: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate("EdDSA", "ed"));

/// Starts an app that trusts one issuer.
async fn spawn(change: impl FnOnce(&mut Value)) -> TestApp {
    let mut issuer = json!({
        "issuer": ISSUER,
        "audiences": ["salebell", "salebell-cli"],
        "algorithms": ["RS256", "ES256", "EdDSA"],
        "jwks": {"keys": [RSA.jwk(), EC.jwk(), ED.jwk()]},
    });
    change(&mut issuer);
    TestApp::builder().settings(&[("SALEBELL_AUTH__ISSUERS", &json!([issuer]).to_string())]).spawn().await
}

async fn spawn_with_url(url: &str) -> TestApp {
    spawn(|issuer| {
        issuer["jwks_url"] = json!(url);
        issuer["jwks"] = Value::Null;
    })
    .await
}

/// Valid claims with changes; a change to null removes the claim.
fn claims(app: &TestApp, changes: Value) -> Value {
    let now = app.clock.now().timestamp();
    let mut claims = json!({
        "iss": ISSUER, "sub": "anna", "aud": "salebell", "exp": now + 3600, "nbf": now, "iat": now,
    });
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

/// Status and body of `GET /v1/me`.
async fn me(app: &TestApp, token: &str) -> (u16, Value) {
    let answer = app.get("/v1/me").bearer_auth(token).send().await.unwrap();
    let status = answer.status().as_u16();
    assert_eq!(status == 401, answer.headers().contains_key("www-authenticate"));
    (status, answer.json().await.unwrap())
}

#[tokio::test]
async fn an_account_is_created_on_first_use_and_stays_the_same() {
    let app = spawn(|_| {}).await;
    let mut ids = Vec::new();
    for key in [&*RSA, &*EC, &*ED] {
        let (status, body) = me(&app, &key.token(&claims(&app, json!({})))).await;
        assert_eq!(status, 200, "{}: {body}", key.algorithm());
        ids.push(body["id"].clone());
    }
    assert!(ids.windows(2).all(|two| two[0] == two[1]));
    let (_, ben) = me(&app, &ED.token(&claims(&app, json!({"sub": "ben"})))).await;
    assert_ne!(ben["id"], ids[0]);
    // Concurrent first requests create a single account.
    let token = |at: i64| ED.token(&claims(&app, json!({"sub": "carl", "jti": at})));
    let tokens: Vec<String> = (0..20).map(token).collect();
    let answers = futures_util::future::join_all(tokens.iter().map(|token| me(&app, token))).await;
    assert!(answers.iter().all(|(status, body)| *status == 200 && body["id"] == answers[0].1["id"]));
}

#[tokio::test]
async fn scopes_are_a_text_or_a_list_and_only_ours_count() {
    let app = spawn(|_| {}).await;
    for scope in [json!("openid prices:write operator"), json!(["operator", 7, "prices:write", "*"])] {
        let (_, body) = me(&app, &ED.token(&claims(&app, json!({"scope": scope})))).await;
        assert_eq!(body["scopes"], json!(["prices:write", "operator"]));
    }
    let cognito = spawn(|issuer| {
        issuer["scope_claim"] = json!("permissions");
        issuer["scope_prefix"] = json!("salebell/");
    })
    .await;
    let scope = json!({"permissions": "salebell/prices:write operator", "scope": "operator"});
    let (_, body) = me(&cognito, &ED.token(&claims(&cognito, scope))).await;
    assert_eq!(body["scopes"], json!(["prices:write"]));
}

#[tokio::test]
async fn the_audience_or_the_client_is_ours() {
    let app = spawn(|_| {}).await;
    for (changes, status) in [
        (json!({"aud": ["other", "salebell-cli"]}), 200),
        (json!({"aud": null, "client_id": "salebell"}), 200),
        (json!({"aud": "other"}), 401),
        (json!({"aud": "other", "client_id": "salebell"}), 401),
        (json!({"aud": []}), 401),
        (json!({"aud": 7}), 401),
        (json!({"aud": null}), 401),
        (json!({"aud": null, "client_id": "other"}), 401),
    ] {
        let (got, body) = me(&app, &ED.token(&claims(&app, changes.clone()))).await;
        assert_eq!(got, status, "{changes}: {body}");
    }
}

#[tokio::test]
async fn a_client_can_be_pinned_beside_or_instead_of_the_audience() {
    let alone = spawn(|issuer| {
        issuer["audiences"] = json!([]);
        issuer["client_ids"] = json!(["cli"]);
    })
    .await;
    let both = spawn(|issuer| issuer["client_ids"] = json!(["cli"])).await;
    for (changes, by_client, by_both) in [
        (json!({"aud": null, "client_id": "cli", "token_use": "access"}), 200, 200),
        (json!({"aud": "salebell", "client_id": "cli"}), 200, 200),
        (json!({"aud": "other", "client_id": "cli"}), 200, 401),
        (json!({"aud": "salebell"}), 401, 401),
        (json!({"aud": "cli"}), 401, 401),
        (json!({"aud": null, "client_id": "other"}), 401, 401),
        (json!({"aud": null, "client_id": ["cli"]}), 401, 401),
        (json!({"aud": null, "client_id": "cli", "token_use": "id"}), 401, 401),
        (json!({"aud": null, "client_id": "cli", "token_use": null}), 200, 200),
        (json!({"aud": null, "client_id": "cli", "token_use": 1}), 401, 401),
    ] {
        for (app, expected) in [(&alone, by_client), (&both, by_both)] {
            let (status, body) = me(app, &ED.token(&claims(app, changes.clone()))).await;
            assert_eq!(status, expected, "{changes}: {body}");
        }
    }
}

#[tokio::test]
async fn groups_bring_scopes() {
    let app = spawn(|issuer| {
        issuer["scope_prefix"] = json!("salebell/");
        issuer["group_scopes"] =
            json!({"operators": ["operator", "prices:write"], "shops": ["prices:write"]});
    })
    .await;
    for (changes, scopes) in [
        (json!({"cognito:groups": ["operators"]}), json!(["prices:write", "operator"])),
        (
            json!({"cognito:groups": ["shops", "unknown"], "scope": "salebell/operator"}),
            json!(["prices:write", "operator"]),
        ),
        (json!({"cognito:groups": ["salebell/operator", "operator"]}), json!([])),
        (json!({"cognito:groups": 7}), json!([])),
    ] {
        let (_, body) = me(&app, &ED.token(&claims(&app, changes.clone()))).await;
        assert_eq!(body["scopes"], scopes, "{changes}");
    }
}

#[tokio::test]
async fn times_have_a_minute_of_leeway_by_our_clock() {
    let app = spawn(|_| {}).await;
    let now = app.clock.now().timestamp();
    for (changes, status) in [
        (json!({"exp": now - 50}), 200),
        (json!({"exp": now as f64 + 0.5}), 200),
        (json!({"nbf": now + 50}), 200),
        (json!({"exp": now - 61}), 401),
        (json!({"nbf": now + 90}), 401),
        (json!({"exp": null}), 401),
        (json!({"exp": "tomorrow"}), 401),
        (json!({"exp": 1e300}), 401),
        (json!({"exp": -1e18}), 401),
    ] {
        let (got, body) = me(&app, &ED.token(&claims(&app, changes.clone()))).await;
        assert_eq!(got, status, "{changes}: {body}");
    }
    // A cached token still expires.
    let token = ED.token(&claims(&app, json!({"exp": now + 100})));
    assert_eq!(me(&app, &token).await.0, 200);
    app.clock.advance(TimeDelta::seconds(150));
    assert_eq!(me(&app, &token).await.0, 200);
    app.clock.advance(TimeDelta::seconds(15));
    assert_eq!(me(&app, &token).await.0, 401);
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    let app = spawn(|issuer| issuer["algorithms"] = json!(["ES256", "EdDSA"])).await;
    let good = claims(&app, json!({}));
    let forger = SigningKey::generate("EdDSA", "ed");
    // The public key of an asymmetric algorithm, misused as the secret of a symmetric one.
    let hmac = |secret: &[u8]| {
        let text = unsigned(&json!({"alg": "HS256", "kid": "ed"}), &good);
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
        let tag = aws_lc_rs::hmac::sign(&key, text.as_bytes());
        use base64::Engine;
        format!("{text}.{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(tag))
    };
    let mut altered = ED.token(&good).into_bytes();
    let payload = altered.iter().position(|&b| b == b'.').unwrap() + 5;
    altered[payload] = if altered[payload] == b'A' { b'B' } else { b'A' };
    let tokens = [
        ("signed by another key", forger.token(&good)),
        ("with its key inside", {
            forger.token_with(&json!({"alg": "EdDSA", "kid": "x", "jwk": forger.jwk()}), &good)
        }),
        ("altered", String::from_utf8(altered).unwrap()),
        ("none", format!("{}.", unsigned(&json!({"alg": "none"}), &good))),
        ("None", format!("{}.", unsigned(&json!({"alg": "None", "kid": "ed"}), &good))),
        ("no signature", format!("{}.", unsigned(&json!({"alg": "EdDSA", "kid": "ed"}), &good))),
        ("HMAC with a key's text", hmac(ED.jwk()["x"].as_str().unwrap().as_bytes())),
        ("HMAC with nothing", hmac(b"")),
        ("another algorithm than the key's", ED.token_with(&json!({"alg": "ES256", "kid": "ed"}), &good)),
        ("another key's id", ED.token_with(&json!({"alg": "EdDSA", "kid": "ec"}), &good)),
        ("an algorithm that is not allowed", RSA.token(&good)),
        ("unknown key", ED.token_with(&json!({"alg": "EdDSA", "kid": "new"}), &good)),
        ("critical extension", ED.token_with(&json!({"alg": "EdDSA", "kid": "ed", "crit": ["b64"]}), &good)),
        ("another issuer", ED.token(&claims(&app, json!({"iss": "https://id.example.org"})))),
        ("no issuer", ED.token(&claims(&app, json!({"iss": null})))),
        ("no subject", ED.token(&claims(&app, json!({"sub": null})))),
        ("empty subject", ED.token(&claims(&app, json!({"sub": ""})))),
        ("NUL in the subject", ED.token(&claims(&app, json!({"sub": "a\u{0}b"})))),
        ("long subject", ED.token(&claims(&app, json!({"sub": "x".repeat(256)})))),
        ("long token", ED.token(&claims(&app, json!({"more": "x".repeat(9000)})))),
        ("no claims", ED.token(&json!([1]))),
        ("nothing", "..".to_owned()),
        ("words", "a.b.c".to_owned()),
    ];
    for (what, token) in tokens {
        let (status, body) = me(&app, &token).await;
        assert_eq!(status, 401, "{what}: {body}");
        assert!(!body.to_string().contains(&token), "{what} is repeated");
    }
    assert_eq!(me(&app, &ED.token(&good)).await.0, 200);
    // Only one key fits, so a token need not name it.
    assert_eq!(me(&app, &ED.token_with(&json!({"alg": "EdDSA"}), &good)).await.0, 200);
}

#[tokio::test]
async fn other_headers_are_refused() {
    let app = spawn(|_| {}).await;
    let token = ED.token(&claims(&app, json!({})));
    for header in ["", "Bearer", "Bearer ", "Basic YTpi", &token, &format!("Token {token}"), "Bearer sbk_x"] {
        let answer = app.get("/v1/me").header("authorization", header).send().await.unwrap();
        assert_eq!(answer.status(), 401, "{header}");
    }
    let twice = app.get("/v1/me").bearer_auth(&token).bearer_auth(&token).send().await.unwrap();
    assert_eq!(twice.status(), 401);
    let lower = app.get("/v1/me").header("authorization", format!("bearer {token}")).send().await.unwrap();
    assert_eq!(lower.status(), 200);
}

#[tokio::test]
async fn keys_are_fetched_once_and_rarely_again_for_an_unknown_one() {
    let server = KeyServer::start().await;
    server.serve(&[&ED]);
    let app = spawn_with_url(&server.url).await;
    let token = |key: &SigningKey, sub: i64| key.token(&claims(&app, json!({"sub": sub.to_string()})));
    // Twenty concurrent requests cause a single fetch.
    let tokens: Vec<String> = (0..20).map(|sub| token(&ED, sub)).collect();
    let answers = futures_util::future::join_all(tokens.iter().map(|token| me(&app, token))).await;
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert_eq!(server.requests(), 1);

    // The issuer has a new key: it is fetched when a token names it, at most every 30 seconds.
    server.serve(&[&ED, &EC]);
    assert_eq!(me(&app, &token(&EC, 1)).await.0, 401);
    assert_eq!(server.requests(), 1);
    app.clock.advance(TimeDelta::seconds(31));
    assert_eq!(me(&app, &token(&EC, 1)).await.0, 200);
    for _ in 0..5 {
        assert_eq!(me(&app, &token(&RSA, 1)).await.0, 401);
    }
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn keys_stay_while_their_issuer_is_down_and_go_when_it_withdraws_them() {
    let server = KeyServer::start().await;
    server.serve(&[&ED]);
    let app = spawn_with_url(&server.url).await;
    let token = |key: &SigningKey| key.token(&claims(&app, json!({"exp": i64::from(i32::MAX)})));
    assert_eq!(me(&app, &token(&ED)).await.0, 200);
    let too_large = format!("{{\"keys\": [], \"more\": \"{}\"}}", "x".repeat(300_000));
    for (status, body) in [(500, ""), (200, "no JSON"), (200, "{\"keys\": []}"), (302, ""), (200, &too_large)]
    {
        server.answer(status, body);
        app.clock.advance(TimeDelta::minutes(11));
        let before = server.requests();
        assert_eq!(me(&app, &token(&ED)).await.0, 200);
        assert_eq!(me(&app, &token(&EC)).await.0, 401);
        // Fetched in the background or because of the unknown key, but exactly once.
        assert_eq!(server.requests(), before + 1, "{status}");
    }
    // The key is withdrawn: the next background fetch drops it.
    server.serve(&[&EC]);
    app.clock.advance(TimeDelta::minutes(11));
    let mut status = 200;
    for _ in 0..200 {
        status = me(&app, &ED.token(&claims(&app, json!({"jti": uuid::Uuid::now_v7()})))).await.0;
        if status == 401 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(status, 401);
    assert_eq!(me(&app, &token(&EC)).await.0, 200);
}

#[tokio::test]
async fn without_any_key_the_issuer_is_unavailable_and_the_token_is_not_invalid() {
    let server = KeyServer::start().await;
    let app = spawn_with_url(&server.url).await;
    let token = ED.token(&claims(&app, json!({})));
    let answer = app.get("/v1/me").bearer_auth(&token).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    server.serve(&[&ED]);
    app.clock.advance(TimeDelta::seconds(3));
    assert_eq!(me(&app, &token).await.0, 200);
    assert_eq!(server.requests(), 2);
}
