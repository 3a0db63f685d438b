//! An S3 for tests: one server for all of them, a bucket for each, and proxies to it that cause failures.

use std::net::TcpListener;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{Response, StatusCode};
use chrono::{DateTime, Utc};
use salebell::clock::Clock;
use uuid::Uuid;

use super::aws::pass_on;
use test_support::ec2::Ec2;

/// Store of the bytes of files in a test.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Store {
    Directory,
    S3,
}

/// Runs each test of a file once on a directory and once on S3.
#[macro_export]
macro_rules! on_both_stores {
    ($($test:ident,)*) => {
        mod on_a_directory {
            $(#[tokio::test] async fn $test() { super::$test($crate::support::s3::Store::Directory).await })*
        }
        mod on_s3 {
            $(#[tokio::test] async fn $test() { super::$test($crate::support::s3::Store::S3).await })*
        }
    };
}

/// A loopback address where no connection of a test takes the port before the server does.
const HOST: &str = "127.0.0.2";

/// The server of this process; it ends when the pipe is closed.
static SERVER: OnceLock<(u16, ChildStdin)> = OnceLock::new();

fn port() -> u16 {
    SERVER
        .get_or_init(|| {
            let python = std::env::var("SALEBELL_TEST_PYTHON")
                .expect("SALEBELL_TEST_PYTHON is not set; `make test` sets it");
            std::env::var("AWS_ACCESS_KEY_ID").expect("AWS_ACCESS_KEY_ID is not set; `make test` sets it");
            let port = TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap().port();
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/s3.py");
            let mut command = Command::new(python);
            command.arg(script).arg(HOST).arg(port.to_string());
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
            let stdin = command.spawn().unwrap().stdin.take().unwrap();
            (port, stdin)
        })
        .0
}

/// Endpoint of the emulator, which also serves SNS, SQS, SSM and Secrets Manager. Waits until it has started.
pub async fn emulator() -> String {
    let endpoint = format!("http://{HOST}:{}", port());
    for _ in 0..1200 {
        if tokio::net::TcpStream::connect((HOST, port())).await.is_ok() {
            return endpoint;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no emulator on port {}", port());
}

/// A bucket for a single test.
pub struct Bucket {
    pub name: String,
    pub endpoint: String,
}

impl Bucket {
    pub async fn create() -> Bucket {
        let name = format!("test-{}", Uuid::now_v7().simple());
        let endpoint = emulator().await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.put(format!("{endpoint}/{name}")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        Bucket { name, endpoint }
    }

    /// Settings that lead to the bucket.
    pub fn settings(&self) -> [(&str, &str); 4] {
        [
            ("SALEBELL_FILES__STORE", "s3"),
            ("SALEBELL_FILES__S3_BUCKET", &self.name),
            ("SALEBELL_FILES__S3_REGION", "us-east-1"),
            ("SALEBELL_FILES__S3_ENDPOINT", &self.endpoint),
        ]
    }
}

/// The signer of a request, as S3 sees it.
#[derive(Clone, Debug)]
pub struct Signed {
    pub key: String,
    pub at: DateTime<Utc>,
    /// Reason of the refusal, if there is one.
    pub refused: Option<&'static str>,
}

/// Proxy to S3 that is as strict about the signer as AWS: the key must be one of the role, currently valid, and
/// accompanied by its session token. The signature itself is not computed. Returns its address, and the requests that
/// it has seen.
pub async fn strict(target: &str, ec2: Arc<Ec2>) -> (String, Arc<Mutex<Vec<Signed>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let (target, seen) = (target.to_owned(), Arc::new(Mutex::new(Vec::new())));
    let by = seen.clone();
    let router = Router::new().fallback(move |request: Request| {
        let (client, target, by, ec2) = (client.clone(), target.clone(), by.clone(), ec2.clone());
        async move {
            let (parts, body) = request.into_parts();
            let signed = judge(&parts, &ec2);
            let refused = signed.refused;
            by.lock().unwrap().push(signed);
            let body = to_bytes(body, usize::MAX).await.unwrap();
            if let Some(code) = refused {
                let text = format!("<Error><Code>{code}</Code><Message>No.</Message></Error>");
                return Response::builder().status(StatusCode::FORBIDDEN).body(Body::from(text)).unwrap();
            }
            pass_on(&client, &target, parts, body).await
        }
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, seen)
}

/// Determines the signer of a request: from its header, or from its query.
fn judge(parts: &Parts, ec2: &Ec2) -> Signed {
    let url = url::Url::parse(&format!("http://s3{}", parts.uri)).unwrap();
    let query =
        |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let of_header = header("authorization");
    let of_header = of_header.and_then(|text| Some(text.split_once("Credential=")?.1.to_owned()));
    let credential = of_header.or_else(|| query("X-Amz-Credential")).unwrap_or_default();
    let id = credential.split('/').next().unwrap_or_default().to_owned();
    let session = header("x-amz-security-token").or_else(|| query("X-Amz-Security-Token"));
    let at = Clock::system().now();
    let refused = match ec2.find_key(&id) {
        None => Some("InvalidAccessKeyId"),
        Some(key) if key.end <= at => Some("ExpiredToken"),
        Some(key) if session.as_deref() != Some(&*key.session) => Some("InvalidToken"),
        Some(_) => None,
    };
    Signed { key: id, at, refused }
}

/// Proxy to S3 that disturbs one in `every` requests: refuses it, loses the answer, or delays it.
pub async fn flaky(target: &str, every: usize) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let (target, count) = (target.to_owned(), Arc::new(AtomicUsize::new(0)));
    let router = Router::new().fallback(move |request: Request| {
        let (client, target) = (client.clone(), target.clone());
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            let failure = (number % every == 0).then_some((number / every) % 3);
            let refused =
                || Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).body(Body::empty()).unwrap();
            let (parts, body) = request.into_parts();
            let body = to_bytes(body, usize::MAX).await.unwrap();
            match failure {
                Some(0) => return refused(),
                Some(1) => tokio::time::sleep(Duration::from_millis(500)).await,
                _ => {}
            }
            let answer = pass_on(&client, &target, parts, body).await;
            if failure == Some(2) { refused() } else { answer }
        }
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}
