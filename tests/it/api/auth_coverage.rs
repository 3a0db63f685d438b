//! Tries every route of the URL table without a token, and every owned resource with another account's token.

use reqwest::Method;
use salebell::http::ROUTES;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::issuer::{KeyServer, SigningKey};
use crate::support::{TestApp, User};

/// Routes that need no token. This list may only shrink: a new route becomes open only with a stated reason.
pub const OPEN: &[&str] = &[
    // They describe the service, and contain no data of any account.
    "GET /",
    "GET /openapi.json",
    "GET /problems",
    "GET /problems/{type}",
    "GET /style.css",
    // Load balancers have no token.
    "GET /healthz",
    "GET /readyz",
    // The catalogue is readable without a token (design: "read open").
    "GET /v1/deals",
    "GET /v1/games",
    "GET /v1/games/{id}",
    "GET /v1/games/{id}/offers",
    "GET /v1/games/{id}/prices",
    "GET /v1/offers",
    "GET /v1/offers/{id}",
    "GET /v1/stores",
    "GET /v1/stores/{id}",
    // The capabilities of the server contain no data of any account.
    "OPTIONS /v1/files",
    "OPTIONS /v1/files/{id}",
    // The token is in the path: anyone who has the link may download.
    "GET /d/{token}",
];

/// Route whose path names a file that it creates, not an existing one.
const MAKES: &str = "PUT /v1/files/{id}";

/// Routes of resources without an owner: the scope decides.
const SHARED: &[&str] =
    &["/v1/games/", "/v1/offers/", "/v1/stores/", "/v1/quarantine/", "/v1/admin/stats/weekly/", "/d/"];

/// The URL table.
pub fn routes() -> Vec<(Method, String)> {
    ROUTES.iter().map(|route| (route.method.clone(), route.path.to_owned())).collect()
}

pub fn at(path: &str, id: impl ToString) -> String {
    let (before, after) = (path.find('{'), path.find('}'));
    match (before, after) {
        (Some(before), Some(after)) => {
            at(&format!("{}{}{}", &path[..before], id.to_string(), &path[after + 1..]), id)
        }
        _ => path.to_owned(),
    }
}

#[tokio::test]
async fn every_route_requires_a_token_unless_it_is_listed() {
    let app = TestApp::spawn().await;
    let routes = routes();
    assert!(routes.len() > 20, "{routes:?}");
    let mut wrong = Vec::new();
    for (method, path) in &routes {
        let name = format!("{method} {path}");
        let open = OPEN.contains(&name.as_str());
        let bodies = [None, Some("application/json"), Some("application/x-ndjson")];
        for (token, body) in [None, Some("sbk_wrong"), Some("a.b.c")].into_iter().zip(bodies) {
            let mut request = app.request(method.clone(), &at(path, Uuid::now_v7()));
            request = if let Some(token) = token { request.bearer_auth(token) } else { request };
            request = if let Some(media) = body {
                request.header("content-type", media).body("{}")
            } else {
                request
            };
            let status = request.send().await.unwrap().status().as_u16();
            if (status == 401) == open {
                wrong.push(format!("{name} answers {status} to the token {token:?}"));
            }
        }
    }
    for name in OPEN {
        if !routes.iter().any(|(method, path)| *name == format!("{method} {path}")) {
            wrong.push(format!("{name} is listed and does not exist"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn headers_of_a_load_balancer_are_ignored_from_other_clients() {
    let keys = KeyServer::start().await;
    let key = SigningKey::generate("ES256", &Uuid::new_v4().to_string());
    keys.answer(200, key.pem());
    let arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/salebell/1";
    let settings = [
        ("SALEBELL_AUTH__ALB__ARN", arn),
        ("SALEBELL_AUTH__ALB__ISSUER", "https://id.example"),
        ("SALEBELL_AUTH__ALB__CLIENT_ID", "browsers"),
        ("SALEBELL_AUTH__ALB__KEYS_URL", &keys.url),
        ("SALEBELL_AUTH__ALB__SCOPES", "prices:write, catalogue:write, operator"),
        // The test's own address is not in this network.
        ("SALEBELL_SERVER__TRUSTED_PROXIES", "10.0.0.0/8"),
    ];
    let app = TestApp::builder().settings(&settings).spawn().await;
    let header = json!({
        "alg": "ES256", "kid": key.id, "signer": arn, "iss": "https://id.example", "client": "browsers",
        "exp": app.clock.now().timestamp() + 120,
    });
    let data = key.padded_token(&header, &json!({"sub": "anna"}));
    let mut wrong = Vec::new();
    for (method, path) in routes() {
        let name = format!("{method} {path}");
        let request = app
            .request(method, &at(&path, Uuid::now_v7()))
            .header("x-amzn-oidc-data", &data)
            .header("x-amzn-oidc-identity", "anna")
            .header("x-amzn-oidc-accesstoken", &data)
            .header("x-forwarded-for", "10.0.0.1")
            .header("x-forwarded-proto", "https")
            .header("forwarded", "for=10.0.0.1;proto=https")
            .header("x-real-ip", "10.0.0.1")
            .header("sec-fetch-site", "same-origin");
        let status = request.send().await.unwrap().status().as_u16();
        if (status == 401) == OPEN.contains(&name.as_str()) {
            wrong.push(format!("{name} answers {status}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(keys.requests(), 0);
}

/// Makes one resource of each kind that an account can own; returns its path, its id, and a valid body for a write.
pub async fn own_everything(app: &TestApp, anna: &User) -> Vec<(&'static str, Uuid, Value)> {
    let id = |value: &Value| value["id"].as_str().unwrap().parse::<Uuid>().unwrap();
    let channel = app.hook(anna, "http://127.0.0.1:9/never").await.id;
    let rung = app.ring(anna, &[channel]).await;
    let observation = json!([{"store": "gog", "sku": "a", "price": "1.00", "currency": "EUR"}]);
    let batch = app.report(anna, observation).await["batch_id"].as_str().unwrap().parse().unwrap();
    let key = app.post("/v1/keys").bearer_auth(&anna.token).json(&json!({"name": "mine"}));
    let key = id(&key.send().await.unwrap().json().await.unwrap());
    let file = app.post("/v1/files?name=mine.txt").bearer_auth(&anna.token).body("mine");
    let file: Value = file.send().await.unwrap().json().await.unwrap();
    let import = json!({"file_id": id(&file)});
    let import = app.post("/v1/imports").bearer_auth(&anna.token).json(&import);
    let import = import.send().await.unwrap().json().await.unwrap();
    let export = app.post("/v1/exports").bearer_auth(&anna.token).json(&json!({"kind": "watches"}));
    let export = export.send().await.unwrap().json().await.unwrap();
    vec![
        ("/v1/keys/", key, json!({"name": "stolen"})),
        ("/v1/batches/", batch, json!({})),
        ("/v1/files/", id(&file), json!({"name": "stolen"})),
        ("/v1/imports/", id(&import), json!({})),
        ("/v1/exports/", id(&export), json!({})),
        ("/v1/watches/", rung.watch, json!({"paused": true})),
        ("/v1/notices/", rung.notice, json!({"read": true})),
        ("/v1/channels/", channel, json!({})),
        ("/v1/deliveries/", rung.deliveries[0], json!({})),
    ]
}

#[tokio::test]
async fn a_resource_of_another_account_is_not_found() {
    let app = TestApp::spawn().await;
    let every = ["prices:write", "catalogue:write", "operator"];
    let (anna, mallory) = (app.user("anna", &every).await, app.user("mallory", &every).await);
    let owned = own_everything(&app, &anna).await;
    let mut wrong = Vec::new();
    for (method, path) in routes() {
        let name = format!("{method} {path}");
        if name == MAKES || OPEN.contains(&name.as_str()) {
            continue;
        }
        if !path.contains('{') || SHARED.iter().any(|shared| path.starts_with(shared)) {
            continue;
        }
        let Some((_, id, body)) = owned.iter().find(|(start, _, _)| path.starts_with(start)) else {
            wrong.push(format!("{path} has no example here, and is not listed as shared"));
            continue;
        };
        let before = app.get(&at(&path, id)).bearer_auth(&anna.token).send().await.unwrap().status();
        assert_ne!(before, 404, "{path} is there for its owner");
        let mut request = app.request(method.clone(), &at(&path, id)).bearer_auth(&mallory.token);
        if method != Method::GET {
            // A link has another body than its file.
            let (empty, is_link) = (json!({}), path.ends_with("/links"));
            request = request.json(if is_link { &empty } else { body });
        }
        let status = request.send().await.unwrap().status();
        if status != 404 {
            wrong.push(format!("{method} {path} answers {status} to a stranger"));
        }
    }
    // Nothing has changed for its owner either.
    for (start, id, _) in &owned {
        let answer = app.get(&format!("{start}{id}")).bearer_auth(&anna.token).send().await.unwrap();
        if answer.status() != 200 {
            wrong.push(format!("{start} is gone: {}", answer.status()));
        }
        let text = answer.text().await.unwrap();
        if text.contains("stolen") || text.contains("\"paused\":true") || text.contains("\"read\":true") {
            wrong.push(format!("{start} has been changed: {text}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn lists_contain_only_the_callers_own_resources() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &["prices:write", "catalogue:write"]).await;
    own_everything(&app, &anna).await;
    let mallory = app.user("mallory", &["prices:write", "catalogue:write", "operator"]).await;
    let mut lists = 0;
    for (method, path) in routes() {
        let name = format!("{method} {path}");
        if method != Method::GET || path.contains('{') || OPEN.contains(&name.as_str()) || path == "/v1/me" {
            continue;
        }
        if SHARED.iter().any(|shared| shared.trim_end_matches('/') == path) {
            continue;
        }
        let list: Value =
            app.get(&path).bearer_auth(&mallory.token).send().await.unwrap().json().await.unwrap();
        let items = list["items"].as_array().unwrap_or_else(|| panic!("{path}: {list}"));
        // Mallory sees her own API key, and nothing else.
        let expected = usize::from(path == "/v1/keys");
        assert_eq!(items.len(), expected, "{path}: {list}");
        lists += 1;
    }
    assert!(lists >= 4);
}
