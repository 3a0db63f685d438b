//! Parameter Store and Secrets Manager for tests: a separate environment for each, at the emulator that also serves S3;
//! and a proxy to it that fails as AWS does on bad days.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_config::{AppName, BehaviorVersion, Region, SdkConfig};
use aws_sdk_secretsmanager::config::Credentials;
use aws_sdk_ssm::types::ParameterType;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use serde_json::{Value, json};
use uuid::Uuid;

use super::s3;

pub const READ_PARAMETERS: &str = "AmazonSSM.GetParametersByPath";
pub const READ_SECRET: &str = "secretsmanager.GetSecretValue";
pub const REGION: &str = "eu-central-1";

/// Name that the tests' own AWS clients send, to distinguish their calls from the product's
/// (tests/clients/recorder.py).
pub fn tests() -> AppName {
    AppName::new("tests").unwrap()
}

/// Fault with which AWS treats a request.
#[derive(Clone, Debug)]
pub enum Fault {
    Throttle,
    /// Answers after this time.
    Slow(Duration),
    Refuse(&'static str, String),
    /// A status with a body that is not AWS's.
    Foreign(StatusCode, &'static str),
    /// Ends the connection in the middle of the answer.
    CutOff,
}

/// The settings of one environment.
pub struct Environment {
    pub name: String,
    /// Endpoint for its requests.
    pub endpoint: String,
    ssm: aws_sdk_ssm::Client,
    secrets: aws_sdk_secretsmanager::Client,
    config: SdkConfig,
    way: Arc<Mutex<Way>>,
}

#[derive(Default)]
struct Way {
    /// Faults of the next requests, by operation. Without one, that of `lasting` applies.
    faults: BTreeMap<&'static str, VecDeque<Fault>>,
    lasting: BTreeMap<&'static str, Fault>,
    requests: BTreeMap<String, usize>,
}

impl Environment {
    /// Makes an environment without parameters.
    pub async fn create() -> Environment {
        let way = Arc::new(Mutex::new(Way::default()));
        let emulator = s3::emulator().await;
        let endpoint = lead(emulator.clone(), way.clone()).await;
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(aws_sdk_ssm::config::SharedCredentialsProvider::new(Credentials::new(
                "test", "test", None, None, "test",
            )))
            .endpoint_url(emulator)
            .app_name(tests())
            .build();
        Environment {
            name: format!("test-{}", Uuid::now_v7().simple()),
            ssm: aws_sdk_ssm::Client::new(&config),
            secrets: aws_sdk_secretsmanager::Client::new(&config),
            config: {
                let mut of_the_product = config.into_builder().endpoint_url(&endpoint);
                of_the_product.set_app_name(None);
                of_the_product.build()
            },
            way,
            endpoint,
        }
    }

    pub fn path(&self) -> String {
        format!("/salebell/{}", self.name)
    }

    /// Sets a parameter, such as `database/url`, or `/salebell/elsewhere/database/url`.
    pub async fn put(&self, name: &str, value: &str) {
        self.put_as(name, value, ParameterType::SecureString).await;
    }

    pub async fn put_as(&self, name: &str, value: &str, kind: ParameterType) {
        let name = if name.starts_with('/') { name.to_owned() } else { format!("{}/{name}", self.path()) };
        self.ssm.put_parameter().name(name).value(value).r#type(kind).overwrite(true).send().await.unwrap();
    }

    /// Makes a secret, and returns its ARN.
    pub async fn create_secret(&self, name: &str, value: &str) -> String {
        let name = format!("{}/{name}", self.name);
        let made = self.secrets.create_secret().name(name).secret_string(value).send().await.unwrap();
        made.arn.unwrap()
    }

    /// Gives a secret a new value at this stage.
    pub async fn put_secret(&self, id: &str, value: &str, stage: &str) {
        let put = self.secrets.put_secret_value().secret_id(id).secret_string(value);
        put.version_stages(stage).send().await.unwrap();
    }

    /// Gives the next requests of an operation these faults, one each.
    pub fn fail(&self, operation: &'static str, faults: impl IntoIterator<Item = Fault>) {
        self.way.lock().unwrap().faults.entry(operation).or_default().extend(faults);
    }

    /// Gives all further requests of an operation this fault; `None` ends it.
    pub fn fail_always(&self, operation: &'static str, fault: Option<Fault>) {
        let lasting = &mut self.way.lock().unwrap().lasting;
        match fault {
            Some(fault) => drop(lasting.insert(operation, fault)),
            None => drop(lasting.remove(operation)),
        }
    }

    /// Number of requests of an operation so far.
    pub fn requests(&self, operation: &str) -> usize {
        self.way.lock().unwrap().requests.get(operation).copied().unwrap_or_default()
    }

    /// Configuration that directs a client within the test to this environment.
    pub fn config(&self) -> SdkConfig {
        self.config.clone()
    }

    /// Settings that direct a process to this environment, with credentials of its own.
    pub fn settings(&self) -> [(&str, &str); 3] {
        [
            ("AWS_ENDPOINT_URL", &self.endpoint),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
        ]
    }
}

/// Starts the proxy, which passes on requests without a fault; returns its address.
async fn lead(target: String, way: Arc<Mutex<Way>>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let router = Router::new().fallback(move |request: Request| {
        let (client, target, way) = (client.clone(), target.clone(), way.clone());
        async move {
            let (parts, body) = request.into_parts();
            let operation = parts.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
            let operation = operation.unwrap_or_default().to_owned();
            let fault = {
                let mut way = way.lock().unwrap();
                *way.requests.entry(operation.clone()).or_default() += 1;
                let next = way.faults.get_mut(operation.as_str()).and_then(VecDeque::pop_front);
                next.or_else(|| way.lasting.get(operation.as_str()).cloned())
            };
            match fault {
                Some(Fault::Throttle) => {
                    return refuse("ThrottlingException", json!({"message": "Rate exceeded"}));
                }
                Some(Fault::Refuse(code, message)) => return refuse(code, json!({"Message": message})),
                Some(Fault::Foreign(status, body)) => {
                    return Response::builder().status(status).body(Body::from(body)).unwrap();
                }
                Some(Fault::CutOff) => {
                    let part = futures_util::stream::iter([Ok("{\"Parameters\": ["), Err("cut off")]);
                    return Response::new(Body::from_stream(part));
                }
                Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
                None => {}
            }
            let body = to_bytes(body, usize::MAX).await.unwrap();
            pass_on(&client, &target, parts, body).await
        }
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Sends the same request to `target`, and returns its answer.
pub async fn pass_on(client: &reqwest::Client, target: &str, parts: Parts, body: Bytes) -> Response<Body> {
    let url = format!("{target}{}", parts.uri);
    let answer = client.request(parts.method, url).headers(parts.headers).body(body).send().await.unwrap();
    let mut response = Response::builder().status(answer.status());
    *response.headers_mut().unwrap() = answer.headers().clone();
    response.body(Body::from(answer.bytes().await.unwrap())).unwrap()
}

/// A refusal as AWS sends it in JSON 1.1.
fn refuse(code: &str, mut body: Value) -> Response<Body> {
    body["__type"] = code.into();
    Response::builder()
        .status(StatusCode::BAD_REQUEST)
        .header("content-type", "application/x-amz-json-1.1")
        .header("x-amzn-requestid", Uuid::now_v7().to_string())
        .body(Body::from(body.to_string()))
        .unwrap()
}
