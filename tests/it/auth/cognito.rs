//! Access tokens of Cognito, as an emulator really signs them.

use serde_json::{Value, json};

use crate::support::TestApp;
use crate::support::s3::Bucket;

const PASSWORD: &str = "Correct-horse-1";

/// A user pool with a client and a user in a group.
struct Pool {
    endpoint: String,
    http: reqwest::Client,
    id: String,
    client: String,
}

impl Pool {
    async fn create() -> Pool {
        // The S3 emulator emulates Cognito as well.
        let endpoint = Bucket::create().await.endpoint;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut pool = Pool { endpoint, http, id: String::new(), client: String::new() };
        let made = pool.call("CreateUserPool", json!({"PoolName": "salebell"})).await;
        pool.id = made["UserPool"]["Id"].as_str().unwrap().to_owned();
        pool.client = pool.create_client("salebell").await;
        let (id, user) = (pool.id.clone(), "anna");
        pool.call("CreateGroup", json!({"UserPoolId": id, "GroupName": "operators"})).await;
        pool.call("AdminCreateUser", json!({"UserPoolId": id, "Username": user})).await;
        let password = json!({"UserPoolId": id, "Username": user, "Password": PASSWORD, "Permanent": true});
        pool.call("AdminSetUserPassword", password).await;
        let group = json!({"UserPoolId": id, "Username": user, "GroupName": "operators"});
        pool.call("AdminAddUserToGroup", group).await;
        pool
    }

    async fn create_client(&self, name: &str) -> String {
        let flows = ["ALLOW_ADMIN_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"];
        let client = json!({"UserPoolId": self.id, "ClientName": name, "ExplicitAuthFlows": flows});
        let made = self.call("CreateUserPoolClient", client).await;
        made["UserPoolClient"]["ClientId"].as_str().unwrap().to_owned()
    }

    async fn call(&self, action: &str, body: Value) -> Value {
        let request = self
            .http
            .post(&self.endpoint)
            .header("x-amz-target", format!("AWSCognitoIdentityProviderService.{action}"))
            .header("content-type", "application/x-amz-json-1.1")
            // Marks a request of the tests, by which tests/clients/recorder.py excludes it from those of the product.
            .header("user-agent", "app/tests")
            .header(
                "authorization",
                "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/cognito-idp/aws4_request, \
                 SignedHeaders=host, Signature=0",
            );
        let answer = request.body(body.to_string()).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{action}: {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Returns access token and identity token of the user for a client.
    async fn tokens(&self, client: &str) -> (String, String) {
        let login = json!({
            "UserPoolId": self.id, "ClientId": client, "AuthFlow": "ADMIN_USER_PASSWORD_AUTH",
            "AuthParameters": {"USERNAME": "anna", "PASSWORD": PASSWORD},
        });
        let answer = self.call("AdminInitiateAuth", login).await;
        let text = |name: &str| answer["AuthenticationResult"][name].as_str().unwrap().to_owned();
        (text("AccessToken"), text("IdToken"))
    }

    /// Starts an app that trusts the pool.
    async fn app(&self, change: impl FnOnce(&mut Value)) -> TestApp {
        let mut issuer = json!({
            "issuer": format!("https://cognito-idp.us-east-1.amazonaws.com/{}", self.id),
            "jwks_url": format!("{}/{}/.well-known/jwks.json", self.endpoint, self.id),
            "client_ids": [self.client],
            "algorithms": ["RS256"],
            "scope_prefix": "salebell/",
            "group_scopes": {"operators": ["operator"], "others": ["catalogue:write"]},
        });
        change(&mut issuer);
        TestApp::builder().settings(&[("SALEBELL_AUTH__ISSUERS", &json!([issuer]).to_string())]).spawn().await
    }
}

async fn me(app: &TestApp, token: &str) -> (u16, Value) {
    let answer = app.get("/v1/me").bearer_auth(token).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn an_access_token_of_our_client_is_accepted_and_its_groups_count() {
    let pool = Pool::create().await;
    let app = pool.app(|_| {}).await;
    let (access, identity) = pool.tokens(&pool.client).await;
    let (status, body) = me(&app, &access).await;
    assert_eq!((status, &body["scopes"]), (200, &json!(["operator"])), "{body}");
    // An identity token grants no access.
    let (status, body) = me(&app, &identity).await;
    assert_eq!((status, &body["detail"]), (401, &json!("The token is not an access token.")), "{body}");
    // Tokens for another client of the same pool are not accepted either.
    let other = pool.create_client("other").await;
    let (status, body) = me(&app, &pool.tokens(&other).await.0).await;
    assert_eq!((status, &body["detail"]), (401, &json!("The token is for another audience.")), "{body}");
}

#[tokio::test]
async fn an_identity_token_is_refused_even_where_its_audience_is_listed() {
    let pool = Pool::create().await;
    let client = pool.client.clone();
    let app = pool.app(|issuer| {
        issuer["audiences"] = json!([client]);
        issuer["client_ids"] = json!([]);
    });
    let app = app.await;
    let (access, identity) = pool.tokens(&pool.client).await;
    assert_eq!(me(&app, &identity).await.0, 401);
    assert_eq!(me(&app, &access).await.0, 200);
}
