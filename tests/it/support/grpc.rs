//! Clients of gRPC: generated from `proto/` and called in process, and Python's grpcio, controlled line by line
//! (`tests/clients/grpc_client.py`).

use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use salebell::grpc::router;
use salebell::server::Server;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio_util::sync::CancellationToken;
use tonic::Request;

use self::pb::games_client::GamesClient;
use self::pb::prices_client::PricesClient;
use super::TestApp;

/// Messages and clients of `proto/`, which `build.rs` generates for tests.
pub mod pb {
    #![allow(clippy::all, reason = "generated code")]
    include!(concat!(env!("OUT_DIR"), "/client/salebell.v1.rs"));
}

/// The services in process. They close when `closing` is cancelled.
pub fn services(app: &TestApp, closing: &CancellationToken) -> Router {
    router(app.state.clone(), closing.clone()).unwrap()
}

/// Client of the catalogue, in process.
pub fn games(app: &TestApp) -> GamesClient<Router> {
    GamesClient::new(services(app, &CancellationToken::new()))
}

/// Client of the reports, in process.
pub fn prices(app: &TestApp) -> PricesClient<Router> {
    PricesClient::new(services(app, &CancellationToken::new()))
}

/// A request with a token.
pub fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// A valid observation of a sku for this many euros.
pub fn observation(sku: &str, amount: &str) -> pb::Observation {
    pb::Observation {
        store: "gog".to_owned(),
        sku: sku.to_owned(),
        title: format!("Game {sku}"),
        price: Some(pb::Money { amount: amount.to_owned(), currency: "EUR".to_owned() }),
        ..pb::Observation::default()
    }
}

/// A message of a report.
pub fn message(observations: &[pb::Observation]) -> pb::ReportRequest {
    pb::ReportRequest { observations: observations.to_vec(), backfill: false }
}

/// Serves gRPC for this app too, and returns the address, such as `https://127.0.0.1:9000`.
pub async fn serve(app: &TestApp) -> String {
    let server = Server::bind_grpc(app.state.clone()).await.unwrap().expect("it is on");
    let url = server.url().unwrap();
    tokio::spawn(server.run());
    url
}

/// One client, killed when it is dropped.
pub struct Client {
    _child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Client {
    /// Starts a client for this address, with TLS for https.
    pub fn start(url: &str) -> Client {
        Client::start_as(url, None)
    }

    /// Starts a client with a user agent.
    pub fn start_as(url: &str, user_agent: Option<&str>) -> Client {
        let python = std::env::var("SALEBELL_TEST_PYTHON")
            .expect("SALEBELL_TEST_PYTHON is not set; `make test` sets it");
        let (scheme, address) = url.split_once("://").unwrap();
        let options = json!({"address": address, "tls": scheme == "https", "user_agent": user_agent});
        let mut child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/grpc_client.py"))
            .arg(options.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Client { _child: child, commands, answers: BufReader::new(answers).lines() }
    }

    /// Runs an action, and returns its first result.
    pub async fn ask(&mut self, what: &str, mut arguments: Value) -> Value {
        arguments["do"] = json!(what);
        self.commands.write_all(format!("{arguments}\n").as_bytes()).await.unwrap();
        self.next().await
    }

    /// Status that a check returns, or the code of its refusal.
    pub async fn check(&mut self, service: &str) -> String {
        let answer = self.ask("check", json!({"service": service})).await;
        let status = answer.get("status").or(answer.get("code"));
        status.and_then(Value::as_str).expect("a status or a code").to_owned()
    }

    /// Next result.
    pub async fn next(&mut self) -> Value {
        let line = tokio::time::timeout(Duration::from_secs(40), self.answers.next_line());
        let line = line.await.expect("it prints a line").unwrap().expect("it still runs");
        serde_json::from_str(&line).unwrap()
    }
}
