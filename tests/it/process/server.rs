//! Connections, signals and systemd, with the real binary where a process is under test.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use nix::sys::signal::Signal;
use salebell::http;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixDatagram;
use tokio::sync::Notify;

use crate::support::binary::Binary;
use crate::support::database::TestDatabase;
use crate::support::{TestApp, eventually, grpc, raw};

const API: [(&str, &str); 4] = [
    ("SALEBELL_SERVER__LISTEN", "127.0.0.1:0"),
    ("SALEBELL_SERVER__GRPC_LISTEN", "127.0.0.1:0"),
    ("SALEBELL_SERVER__METRICS_LISTEN", "127.0.0.1:0"),
    ("SALEBELL_SERVER__LINGER_S", "1"),
];

fn start_api(database: &TestDatabase, more: &[(&str, &str)]) -> Binary {
    let mut settings = API.to_vec();
    settings.push(("SALEBELL_DATABASE__URL", &database.url));
    settings.extend_from_slice(more);
    Binary::start(&["api"], &settings)
}

/// Route that signals when it is called, and answers when it is released.
fn held(begun: Arc<Notify>, release: Arc<Notify>) -> impl FnOnce(salebell::app::App) -> Router {
    move |app| {
        let handler = || async move {
            begun.notify_one();
            release.notified().await;
            "done"
        };
        http::layered(Router::new().route("/held", get(handler)), app)
    }
}

#[tokio::test]
async fn a_request_in_flight_finishes_while_idle_connections_close() {
    let (begun, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let app = TestApp::builder().router(held(begun.clone(), release.clone())).spawn().await;
    let mut idle = raw::connect(&app.url).await;
    let request = tokio::spawn(app.get("/held").send());
    begun.notified().await;
    app.state.stopping.cancel();
    // The idle connection ends, so the listener is closed by now.
    assert_eq!(raw::read_answer(&mut idle).await, "");
    assert!(tokio::net::TcpStream::connect(app.url.trim_start_matches("http://")).await.is_err());
    release.notify_one();
    assert_eq!(request.await.unwrap().unwrap().text().await.unwrap(), "done");
}

#[tokio::test]
async fn the_drain_has_an_end() {
    let (begun, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let settings = [("SALEBELL_SERVER__DRAIN_S", "1")];
    let app = TestApp::builder().settings(&settings).router(held(begun.clone(), release)).spawn().await;
    let request = tokio::spawn(app.get("/held").send());
    begun.notified().await;
    app.state.stopping.cancel();
    assert!(request.await.unwrap().is_err(), "the connection was cut");
}

#[tokio::test]
async fn http2_by_prior_knowledge_is_served_beside_http1() {
    let app = TestApp::spawn().await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let answer = client.get(format!("{}/healthz", app.url)).send().await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (reqwest::Version::HTTP_2, 200));
    let answer = client.get(format!("{}/v1/nothing", app.url)).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
}

#[tokio::test]
async fn beyond_the_limit_of_connections_health_checks_are_answered_and_all_else_is_refused() {
    for tls in ["off", "minted"] {
        let settings = [("SALEBELL_SERVER__MAX_CONNECTIONS", "1"), ("SALEBELL_SERVER__TLS", tls)];
        let app = TestApp::builder().settings(&settings).spawn().await;
        let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        let mut first = raw::open(&app.url).await;
        first.write_all(request("/v1/games").as_bytes()).await.unwrap();
        assert!(raw::read_answer(&mut first).await.starts_with("HTTP/1.1 200 "));
        for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/v1/games", 503), ("/healthzz", 503)] {
            let mut further = raw::open(&app.url).await;
            // Further requests on the same connection are not answered.
            further.write_all([request(path), request("/healthz")].concat().as_bytes()).await.unwrap();
            let answer = String::from_utf8(raw::read_to_end(&mut further).await).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{path}: {answer}");
            assert!(answer.contains("connection: close"), "{path}: {answer}");
            if status == 503 {
                assert!(
                    answer.contains("retry-after: 1") && answer.contains("/problems/unavailable"),
                    "{answer}"
                );
            }
        }
        // Idle connections do not keep health checks out.
        let mut idle = Vec::new();
        for _ in 0..100 {
            idle.push(raw::connect(app.url.trim_start_matches("https://")).await);
        }
        let mut checked = raw::open(&app.url).await;
        checked.write_all(request("/healthz").as_bytes()).await.unwrap();
        let answer = String::from_utf8(raw::read_to_end(&mut checked).await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        drop((first, idle));
        eventually("there is room again", async || {
            let mut further = raw::open(&app.url).await;
            further.write_all(request("/v1/games").as_bytes()).await.unwrap();
            raw::read_answer(&mut further).await.starts_with("HTTP/1.1 200 ")
        })
        .await;
    }
}

#[tokio::test]
async fn beyond_the_limit_of_connections_grpc_health_checks_are_answered() {
    let app = TestApp::builder().settings(&[("SALEBELL_SERVER__MAX_CONNECTIONS", "1")]).spawn().await;
    let url = grpc::serve(&app).await;
    // Distinct names keep the clients from sharing a connection.
    let mut first = grpc::Client::start_as(&url, Some("first"));
    assert_eq!(first.check("").await, "SERVING");
    let mut second = grpc::Client::start_as(&url, Some("second"));
    for _ in 0..2 {
        assert_eq!(second.check("").await, "SERVING");
    }
    assert_eq!(first.check("").await, "SERVING");
}

#[tokio::test]
async fn the_watchdog_is_not_fed_when_a_loop_is_silent() {
    let app = TestApp::spawn().await;
    let second = Duration::from_secs(1);
    assert_eq!(app.state.health.watchdog.check_alive(second).await, Ok(()));
    let stuck = app.state.health.watchdog.start("stuck", Duration::ZERO);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(app.state.health.watchdog.check_alive(second).await, Err("stuck"));
    drop(stuck);
    assert_eq!(app.state.health.watchdog.check_alive(second).await, Ok(()));
}

#[tokio::test]
async fn systemd_is_notified_of_ready_watchdog_and_stopping() {
    let folder = std::env::temp_dir().join(format!("salebell-{}", uuid::Uuid::now_v7().simple()));
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let database = TestDatabase::create().await;
    let notify = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "300000")];
    let mut api = start_api(&database, &notify);
    let mut received = Vec::new();
    let listen = async |received: &mut Vec<String>, until: &str| {
        let mut buffer = [0; 256];
        while received.last().map(String::as_str) != Some(until) {
            let receive = tokio::time::timeout(Duration::from_secs(20), socket.recv(&mut buffer));
            let bytes = receive.await.expect("systemd is notified").unwrap();
            received.push(String::from_utf8_lossy(&buffer[..bytes]).trim().to_owned());
        }
    };
    listen(&mut received, "READY=1").await;
    // READY=1 is sent only when the process can answer requests.
    let answer = reqwest::get(format!("{}/readyz", api.url().await)).await.unwrap();
    assert_eq!(answer.status(), 200);
    listen(&mut received, "WATCHDOG=1").await;
    received.clear();
    listen(&mut received, "WATCHDOG=1").await;
    api.signal(Signal::SIGTERM);
    listen(&mut received, "STOPPING=1").await;
    // The watchdog is also served during the linger.
    listen(&mut received, "WATCHDOG=1").await;
    assert_eq!(api.exit_code().await, Some(0));
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn readiness_fails_before_the_listener_closes() {
    let database = TestDatabase::create().await;
    let mut api = start_api(&database, &[]);
    let url = api.url().await;
    assert_eq!(reqwest::get(format!("{url}/readyz")).await.unwrap().status(), 200);
    api.signal(Signal::SIGTERM);
    api.logged("SIGTERM: stopping").await;
    // On new connections, as a load balancer checks.
    let answer = reqwest::get(format!("{url}/readyz")).await.unwrap();
    assert_eq!(answer.status(), 503);
    let problem: salebell::error::Problem = answer.json().await.unwrap();
    assert_eq!(problem.errors[0].pointer, "process");
    assert_eq!(reqwest::get(format!("{url}/healthz")).await.unwrap().status(), 200);
    assert_eq!(api.exit_code().await, Some(0));
    assert!(reqwest::get(format!("{url}/healthz")).await.is_err());
}

#[tokio::test]
async fn a_slow_request_finishes_after_sigterm_and_the_exit_is_clean() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let mut api = start_api(&app.database, &[]);
    let url = api.url().await;
    let body = r#"{"name": "made while stopping"}"#;
    let head = format!(
        "POST /v1/keys HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        anna.token,
        body.len()
    );
    let mut slow = raw::connect(&url).await;
    slow.write_all(head.as_bytes()).await.unwrap();
    // The server asks for the body, so the request is in its handler.
    let mut interim = [0; 25];
    slow.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    slow.write_all(&body.as_bytes()[..10]).await.unwrap();
    api.signal(Signal::SIGTERM);
    api.logged("SIGTERM: stopping").await;
    // The listener closes after the linger; the request is still being handled.
    while reqwest::get(format!("{url}/healthz")).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(api.is_running());
    slow.write_all(&body.as_bytes()[10..]).await.unwrap();
    let answer = raw::read_answer(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    assert_eq!(api.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let database = TestDatabase::create().await;
    let mut api = start_api(&database, &[("SALEBELL_SERVER__LINGER_S", "60")]);
    api.url().await;
    let begin = Instant::now();
    api.signal(Signal::SIGINT);
    api.logged("SIGINT: stopping").await;
    assert!(api.is_running());
    api.signal(Signal::SIGTERM);
    assert_eq!(api.exit_code().await, Some(1));
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_taken_address_is_reported() {
    let database = TestDatabase::create().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let keys = ["SALEBELL_SERVER__LISTEN", "SALEBELL_SERVER__GRPC_LISTEN", "SALEBELL_SERVER__METRICS_LISTEN"];
    for key in keys {
        let mut api = start_api(&database, &[(key, &address)]);
        assert!(api.logged("cannot listen on").await.contains(&address));
        assert_eq!(api.exit_code().await, Some(1));
    }
}
