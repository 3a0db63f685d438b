//! Browser users whom the load balancer has logged in: `x-amzn-oidc-data`.

use chrono::TimeDelta;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::auth_coverage::at;
use crate::support::TestApp;
use crate::support::issuer::{KeyServer, SigningKey};
use crate::support::openapi::operations;

const ARN: &str =
    "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/salebell/50dc6c495c0c9188";
const ISSUER: &str = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_abc";
const TRUSTED: (&str, &str) = ("SALEBELL_SERVER__TRUSTED_PROXIES", "127.0.0.0/8");
const HEADER: &str = "x-amzn-oidc-data";

/// A load balancer: its key, and where the public half is published.
struct Balancer {
    key: SigningKey,
    keys: KeyServer,
}

impl Balancer {
    async fn start() -> Balancer {
        let key = SigningKey::generate("ES256", &Uuid::new_v4().to_string());
        let keys = KeyServer::start().await;
        keys.answer(200, key.pem());
        Balancer { key, keys }
    }

    async fn app_with(&self, settings: &[(&str, &str)]) -> TestApp {
        let mut own = vec![
            ("SALEBELL_AUTH__ALB__ARN", ARN),
            ("SALEBELL_AUTH__ALB__ISSUER", ISSUER),
            ("SALEBELL_AUTH__ALB__CLIENT_ID", "browsers"),
            ("SALEBELL_AUTH__ALB__KEYS_URL", &self.keys.url),
        ];
        own.extend_from_slice(settings);
        TestApp::builder().settings(&own).spawn().await
    }

    async fn app(&self) -> TestApp {
        self.app_with(&[TRUSTED]).await
    }

    fn header(&self, app: &TestApp) -> Value {
        json!({
            "typ": "JWT", "kid": self.key.id, "alg": "ES256", "iss": ISSUER, "client": "browsers",
            "signer": ARN, "exp": app.clock.now().timestamp() + 120,
        })
    }

    /// Token that the load balancer issues for a user, with changes to header and claims; a change to null removes the
    /// entry.
    fn says(&self, app: &TestApp, header: Value, claims: Value) -> String {
        let of_user = json!({"sub": "anna", "email": "anna@example.com", "username": "anna"});
        self.key.padded_token(&changed(self.header(app), header), &changed(of_user, claims))
    }
}

fn changed(mut value: Value, changes: Value) -> Value {
    for (name, change) in changes.as_object().unwrap() {
        match change {
            Value::Null => drop(value.as_object_mut().unwrap().remove(name)),
            change => value[name] = change.clone(),
        }
    }
    value
}

async fn sent(request: RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn me(app: &TestApp, token: &str) -> (u16, Value) {
    sent(app.get("/v1/me").header(HEADER, token)).await
}

#[tokio::test]
async fn a_user_is_the_same_account_as_with_a_token_of_the_same_issuer() {
    let balancer = Balancer::start().await;
    let signer = SigningKey::generate("EdDSA", "ed");
    let issuers = json!([{
        "issuer": ISSUER, "client_ids": ["cli"], "algorithms": ["EdDSA"], "jwks": {"keys": [signer.jwk()]},
    }]);
    let settings = [
        TRUSTED,
        ("SALEBELL_AUTH__ISSUERS", &issuers.to_string()),
        ("SALEBELL_AUTH__ALB__SCOPES", "prices:write"),
        ("SALEBELL_AUTH__ALB__SCOPE_CLAIM", "custom:scopes"),
        ("SALEBELL_AUTH__ALB__SCOPE_PREFIX", "salebell/"),
    ];
    let app = balancer.app_with(&settings).await;
    let (status, anna) = me(&app, &balancer.says(&app, json!({}), json!({}))).await;
    assert_eq!((status, &anna["scopes"]), (200, &json!(["prices:write"])), "{anna}");
    let scopes = json!({"custom:scopes": "salebell/operator catalogue:write"});
    let (_, more) = me(&app, &balancer.says(&app, json!({}), scopes)).await;
    assert_eq!((&more["id"], &more["scopes"]), (&anna["id"], &json!(["prices:write", "operator"])));
    let (_, ben) = me(&app, &balancer.says(&app, json!({}), json!({"sub": "ben"}))).await;
    assert_ne!(ben["id"], anna["id"]);
    let claims = json!({
        "iss": ISSUER, "sub": "anna", "client_id": "cli", "token_use": "access",
        "exp": app.clock.now().timestamp() + 60,
    });
    let (_, token) = sent(app.get("/v1/me").bearer_auth(signer.token(&claims))).await;
    assert_eq!(token["id"], anna["id"]);
    // The answer is private to the user, also in caches.
    let answer =
        app.get("/v1/me").header(HEADER, balancer.says(&app, json!({}), json!({}))).send().await.unwrap();
    assert_eq!(answer.headers()["cache-control"], "private, no-cache");
}

#[tokio::test]
async fn forged_headers_of_a_load_balancer_are_refused() {
    let balancer = Balancer::start().await;
    let app = balancer.app().await;
    let now = app.clock.now().timestamp();
    let forger =
        Balancer { key: SigningKey::generate("ES256", &balancer.key.id), keys: KeyServer::start().await };
    let says = |header: Value, claims: Value| balancer.says(&app, header, claims);
    let good = says(json!({}), json!({}));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let tokens = [
        ("another's key", forger.says(&app, json!({}), json!({}))),
        ("another load balancer", says(json!({"signer": ARN.replace("50dc", "50dd")}), json!({}))),
        ("another account", says(json!({"signer": ARN.replace("1234", "1235")}), json!({}))),
        ("no signer", says(json!({"signer": null}), json!({}))),
        ("another issuer", says(json!({"iss": "https://id.example"}), json!({}))),
        ("another issuer in the claims", says(json!({}), json!({"iss": "https://id.example"}))),
        ("another client", says(json!({"client": "other"}), json!({}))),
        ("expired", says(json!({"exp": now - 61}), json!({}))),
        ("expired claims", says(json!({}), json!({"exp": now - 61}))),
        ("no expiry", says(json!({"exp": null}), json!({}))),
        ("an expiry of words", says(json!({"exp": "tomorrow"}), json!({}))),
        ("another algorithm", says(json!({"alg": "ES384"}), json!({}))),
        ("none", says(json!({"alg": "none"}), json!({}))),
        ("HMAC", says(json!({"alg": "HS256"}), json!({}))),
        ("a critical extension", says(json!({"crit": ["b64"]}), json!({}))),
        ("a key that is a path", says(json!({"kid": "../../evil"}), json!({}))),
        ("a key that is an address", says(json!({"kid": "https://evil.example/"}), json!({}))),
        ("a key in capitals", says(json!({"kid": balancer.key.id.to_uppercase()}), json!({}))),
        ("a key in braces", says(json!({"kid": format!("{{{}}}", balancer.key.id)}), json!({}))),
        ("no subject", says(json!({}), json!({"sub": null}))),
        ("NUL in the subject", says(json!({}), json!({"sub": "a\0b"}))),
        ("no signature", format!("{signed}.")),
        ("half a signature", format!("{signed}.{}", &signature[..40])),
        ("four parts", format!("{good}.x")),
        ("two parts", signed.to_owned()),
        ("words", "what".to_owned()),
        ("too long", says(json!({}), json!({"more": "x".repeat(20_000)}))),
        ("padding in the middle", good.replacen('.', "=.", 1)),
    ];
    for (what, token) in tokens {
        let (status, body) = me(&app, &token).await;
        assert_eq!(status, 401, "{what}: {body}");
    }
    let twice = app.get("/v1/me").header(HEADER, &good).header(HEADER, &good);
    assert_eq!(sent(twice).await.0, 401);
    assert_eq!(me(&app, &good).await.0, 200);
    // With or without padding, and with a time as a string of digits: the signature covers what was sent.
    let plain = balancer.key.token_with(&balancer.header(&app), &json!({"sub": "anna"}));
    assert_eq!(me(&app, &plain).await.0, 200);
    assert_eq!(me(&app, &says(json!({"exp": (now + 60).to_string()}), json!({}))).await.0, 200);
    // The token is not accepted as a bearer token, cached or not.
    assert_eq!(sent(app.get("/v1/me").bearer_auth(&good)).await.0, 401);
    // A cached token still expires.
    app.clock.advance(TimeDelta::seconds(181));
    assert_eq!(me(&app, &good).await.0, 401);
}

#[tokio::test]
async fn only_a_trusted_proxy_is_believed_and_only_where_there_is_a_load_balancer() {
    let balancer = Balancer::start().await;
    let stranger = balancer.app_with(&[("SALEBELL_SERVER__TRUSTED_PROXIES", "10.0.0.0/8")]).await;
    let good = balancer.says(&stranger, json!({}), json!({}));
    let request = stranger.get("/v1/me").header(HEADER, &good).header("x-forwarded-for", "10.0.0.1");
    let (status, body) = sent(request).await;
    assert_eq!((status, &body["detail"]), (401, &json!("The Authorization header is missing.")));
    let without = TestApp::builder().settings(&[TRUSTED]).spawn().await;
    assert_eq!(me(&without, &good).await.0, 401);
    assert_eq!(balancer.keys.requests(), 0);
}

#[tokio::test]
async fn a_bearer_token_takes_precedence_over_the_load_balancer() {
    let balancer = Balancer::start().await;
    let app = balancer.app().await;
    let ben = app.user("ben", &["operator"]).await;
    let good = balancer.says(&app, json!({}), json!({}));
    let both = |token: &str| app.get("/v1/me").header(HEADER, &good).bearer_auth(token);
    let (status, body) = sent(both(&ben.token)).await;
    assert_eq!((status, &body["id"]), (200, &json!(ben.account)));
    assert_eq!(sent(both("sbk_wrong")).await.0, 401);
}

#[tokio::test]
async fn another_site_cannot_make_a_browser_change_anything() {
    let balancer = Balancer::start().await;
    let app = balancer.app().await;
    let good = balancer.says(&app, json!({}), json!({}));
    let host = "salebell.example";
    let own = "https://salebell.example";
    let attempt = async |method: Method, headers: &[(&str, &str)]| {
        let body = json!({"name": "made"}).to_string();
        let request = app.request(method, "/v1/keys").header(HEADER, &good).header("host", host);
        let request = request.header("content-type", "application/json").body(body);
        let https = request.header("x-forwarded-proto", "https");
        let request = headers.iter().fold(https, |request, (name, value)| request.header(*name, *value));
        request.send().await.unwrap().status().as_u16()
    };
    for (headers, status) in [
        (&[("sec-fetch-site", "same-origin")][..], 201),
        (&[("sec-fetch-site", "none")], 201),
        (&[("origin", own)], 201),
        (&[("origin", "https://salebell.example:443")], 201),
        (&[("sec-fetch-site", "same-origin"), ("origin", own)], 201),
        (&[], 403),
        (&[("sec-fetch-site", "cross-site")], 403),
        (&[("sec-fetch-site", "same-site")], 403),
        (&[("sec-fetch-site", "")], 403),
        (&[("sec-fetch-site", "cross-site"), ("origin", own)], 403),
        (&[("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")], 403),
        (&[("origin", own), ("origin", "https://evil.example")], 403),
        (&[("origin", "https://evil.example")], 403),
        (&[("origin", "http://salebell.example")], 403),
        (&[("origin", "https://salebell.example:8443")], 403),
        (&[("origin", "https://salebell.example.evil.example")], 403),
        (&[("origin", "null")], 403),
        (&[("origin", "what")], 403),
        (&[("origin", "")], 403),
    ] {
        assert_eq!(attempt(Method::POST, headers).await, status, "{headers:?}");
    }
    // Neither an idempotency key, nor another method, nor a form bypasses the check.
    assert_eq!(attempt(Method::POST, &[("idempotency-key", "\"a\""), ("origin", "null")]).await, 403);
    let mut tried = 0;
    for operation in operations().filter(|operation| operation.scopes().is_some()) {
        let method: Method = operation.method.parse().unwrap();
        if !method.is_safe() {
            let path = at(operation.path, Uuid::now_v7());
            let answer = app.request(method, &path).header(HEADER, &good).body("x").send().await.unwrap();
            assert_eq!(answer.status(), 403, "{operation}");
            tried += 1;
        }
    }
    assert!(tried > 30, "{tried}");
    // A read needs no proof of origin: without an `Origin` no page sees the answer.
    assert_eq!(
        sent(app.get("/v1/keys").header(HEADER, &good).header("sec-fetch-site", "cross-site")).await.0,
        200
    );
    // A browser does not send a bearer token by itself.
    let ben = app.user("ben", &[]).await;
    let request = app.post("/v1/keys").bearer_auth(&ben.token).header("origin", "https://evil.example");
    assert_eq!(request.json(&json!({"name": "made"})).send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn a_page_of_another_site_reads_nothing_as_the_browsers_user() {
    let balancer = Balancer::start().await;
    let cors = ("SALEBELL_SERVER__CORS_ORIGINS", "https://app.example");
    let public = ("SALEBELL_SERVER__PUBLIC_URL", "https://bell.example");
    for (settings, ours, theirs) in [
        // Without a public URL, our own origin is that of the host.
        (vec![TRUSTED, cors], "https://salebell.example", "https://bell.example"),
        (vec![TRUSTED, cors, public], "https://bell.example", "https://salebell.example"),
    ] {
        let app = balancer.app_with(&settings).await;
        let good = balancer.says(&app, json!({}), json!({}));
        let read = async |path: &str, origins: &[&str]| {
            let request = app.get(path).header(HEADER, &good).header("host", "salebell.example");
            let request = request.header("x-forwarded-proto", "https");
            let request = origins.iter().fold(request, |request, origin| request.header("origin", *origin));
            sent(request).await
        };
        assert_eq!(read("/v1/me", &[]).await.0, 200);
        assert_eq!(read("/v1/me", &[ours]).await.0, 200);
        for origins in [
            &[theirs][..],
            &["https://app.example"],
            &["https://evil.example"],
            &["null"],
            &[""],
            &[ours, theirs],
        ] {
            let (status, body) = read("/v1/me", origins).await;
            let missing = json!("The Authorization header is missing.");
            assert_eq!((status, &body["detail"]), (401, &missing), "{origins:?}");
            // The open part of the API answers as without a token.
            assert_eq!(read("/v1/deals", origins).await.0, 200, "{origins:?}");
        }
        // A token counts from every site.
        let ben = app.user("ben", &[]).await;
        let request = app.get("/v1/me").header(HEADER, &good).bearer_auth(&ben.token);
        let (status, body) = sent(request.header("origin", "https://app.example")).await;
        assert_eq!((status, &body["id"]), (200, &json!(ben.account)));
        // A change is refused as one of another site, also where that site may read.
        let write = app.post("/v1/keys").header(HEADER, &good).json(&json!({"name": "made"}));
        let write = write.header("x-forwarded-proto", "https").header("origin", "https://app.example");
        assert_eq!(sent(write).await.0, 403);
    }
}

#[tokio::test]
async fn a_key_is_fetched_once_and_stays_while_its_address_is_unavailable() {
    let balancer = Balancer::start().await;
    let app = balancer.app().await;
    let tokens: Vec<String> =
        (0..20).map(|at| balancer.says(&app, json!({}), json!({"sub": at.to_string()}))).collect();
    let answers = futures_util::future::join_all(tokens.iter().map(|token| me(&app, token))).await;
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert_eq!(balancer.keys.requests(), 1);
    for (status, body) in [(500, ""), (404, ""), (200, "nonsense")] {
        balancer.keys.answer(status, body);
        app.clock.advance(TimeDelta::hours(30));
        let (status, body) = me(&app, &balancer.says(&app, json!({}), json!({}))).await;
        assert_eq!(status, 200, "{body}");
    }
    assert_eq!(balancer.keys.requests(), 1);
}

#[tokio::test]
async fn without_its_key_the_address_is_unavailable_and_the_user_is_not_refused() {
    let balancer = Balancer::start().await;
    let app = balancer.app().await;
    let rsa = SigningKey::generate("EdDSA", "ed").pem();
    let long = "x".repeat(10_000);
    for (status, body) in [(500, ""), (302, ""), (200, "nonsense"), (200, rsa.as_str()), (200, long.as_str())]
    {
        balancer.keys.answer(status, body);
        let before = balancer.keys.requests();
        for _ in 0..3 {
            let token = balancer.says(&app, json!({}), json!({}));
            let answer = app.get("/v1/me").header(HEADER, token).send().await.unwrap();
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["retry-after"]),
                (503, &"1".parse().unwrap())
            );
        }
        assert_eq!(balancer.keys.requests(), before + 1);
        app.clock.advance(TimeDelta::seconds(3));
    }
    balancer.keys.answer(200, balancer.key.pem());
    assert_eq!(me(&app, &balancer.says(&app, json!({}), json!({}))).await.0, 200);
}

#[tokio::test]
async fn unknown_keys_cause_no_flood() {
    let balancer = Balancer::start().await;
    let app = balancer.app().await;
    let good = |at: i64| balancer.says(&app, json!({}), json!({"jti": at}));
    assert_eq!(me(&app, &good(0)).await.0, 200);
    balancer.keys.answer(403, "<Error><Code>AccessDenied</Code></Error>");
    let of_key = |id: &str| balancer.says(&app, json!({"kid": id}), json!({}));
    // An unknown key is requested once in 30 seconds.
    let id = Uuid::new_v4().to_string();
    for _ in 0..5 {
        assert_eq!(me(&app, &of_key(&id)).await.0, 401);
    }
    assert_eq!(balancer.keys.requests(), 2);
    // Invented keys: the number of requests for them is limited.
    let mut statuses = Vec::new();
    for _ in 0..60 {
        statuses.push(me(&app, &of_key(&Uuid::new_v4().to_string())).await.0);
    }
    assert_eq!(balancer.keys.requests(), 21);
    assert!(statuses[..19].iter().all(|status| *status == 401), "{statuses:?}");
    assert!(statuses[19..].iter().all(|status| *status == 503), "{statuses:?}");
    // Users whose key is known are not affected.
    assert_eq!(me(&app, &good(1)).await.0, 200);
    // The limit ends.
    app.clock.advance(TimeDelta::seconds(31));
    balancer.keys.answer(200, balancer.key.pem());
    assert_eq!(me(&app, &of_key(&id)).await.0, 200);
}
