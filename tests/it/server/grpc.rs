//! gRPC on its own listener, with Python's grpcio as the client, and raw bytes for what grpcio would not send.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use nix::sys::signal::Signal;
use reqwest::{Body, RequestBuilder, Response};
use salebell::grpc::METHODS;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::server::smuggling_http2::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, SETTINGS, block, frame,
};
use crate::support::grpc::{Client, serve};
use crate::support::instance::start;
use crate::support::tls::{MINTED, connect};
use crate::support::{TestApp, eventually, raw};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEALTH: &str = "grpc.health.v1.Health";

#[tokio::test]
async fn a_real_client_finds_it_serving_over_tls_and_in_clear_text() {
    for tls in [MINTED, ("SALEBELL_SERVER__TLS", "off")] {
        let app = TestApp::builder().settings(&[tls]).spawn().await;
        let url = serve(&app).await;
        assert_eq!(url.starts_with("https://"), tls == MINTED);
        let mut client = Client::start(&url);
        for service in ["", HEALTH, "grpc.reflection.v1.ServerReflection", "salebell.v1.Prices"] {
            assert_eq!(client.check(service).await, "SERVING", "{service:?}");
        }
        assert_eq!(client.check("salebell.v2.Prices").await, "NOT_FOUND");
        assert_eq!(
            client.ask("watch", json!({"service": "what"})).await,
            json!({"status": "SERVICE_UNKNOWN"})
        );
        // The limit of a message is far beyond the length of a name.
        assert_eq!(client.check(&"a".repeat(4_000)).await, "NOT_FOUND");
        let refusal = client.ask("check", json!({"service": "a".repeat(5_000)})).await;
        assert_eq!(refusal["code"], "OUT_OF_RANGE", "{refusal}");
        assert!(refusal["details"].as_str().unwrap().contains("the limit is: 4096 bytes"), "{refusal}");
        let refusal = client.ask("check", json!({"service": "a".repeat(2_000_000)})).await;
        assert_eq!(refusal["code"], "OUT_OF_RANGE", "{refusal}");
        assert_eq!(client.check("").await, "SERVING");
    }
}

#[tokio::test]
async fn an_unavailable_database_leaves_it_serving() {
    let app = TestApp::builder()
        .settings(&[("SALEBELL_DATABASE__URL", "postgres://nobody@127.0.0.1:1/none")])
        .spawn()
        .await;
    assert_eq!(app.get("/readyz").send().await.unwrap().status(), 503);
    assert_eq!(Client::start(&serve(&app).await).check("").await, "SERVING");
}

#[tokio::test]
async fn reflection_lists_all_services_and_no_other_answers() {
    let app = TestApp::spawn().await;
    let mut client = Client::start(&serve(&app).await);
    let answer = client.ask("reflect", json!({})).await;
    let mut services: Vec<&str> =
        METHODS.iter().map(|method| method.path.split('/').nth(1).unwrap()).collect();
    services.sort();
    services.dedup();
    assert_eq!(answer, json!({"services": services, "methods": ["Check", "Watch"]}));
    for path in [
        "/salebell.v1.Prices/Other",
        "/salebell.v1.prices/Report",
        "/Prices/Report",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/check",
        "/grpc.health.v1.Health/",
        "/grpc.health.v1.Health",
        "/grpc.reflection.v1.ServerReflection/Other",
        "/AWS.ALB/healthcheck",
        "/healthz",
        "/v1/games",
        "/",
    ] {
        let answer = client.ask("call", json!({"path": path})).await;
        assert_eq!(answer["code"], "UNIMPLEMENTED", "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_watch_receives_the_change_on_sigterm_before_the_listener_closes() {
    let app = TestApp::spawn().await;
    let settings = [MINTED, ("SALEBELL_SERVER__LINGER_S", "8"), ("SALEBELL_SERVER__DRAIN_S", "60")];
    let mut api = start(&app, "api", &settings);
    let url = api.logged("gRPC on ").await;
    let mut watching = Client::start(&url);
    let mut client = Client::start_as(&url, Some("ELB-HealthChecker/2.0"));
    assert_eq!(watching.ask("watch", json!({})).await, json!({"status": "SERVING"}));
    assert_eq!(client.check("").await, "SERVING");
    api.signal(Signal::SIGTERM);
    let begin = Instant::now();
    assert_eq!(watching.next().await, json!({"status": "NOT_SERVING"}));
    assert!(begin.elapsed() < Duration::from_secs(6), "it waits for the end");
    // During the linger, a program reads the answer and a load balancer reads the code.
    assert_eq!(watching.check("").await, "NOT_SERVING");
    assert_eq!(client.check("").await, "UNAVAILABLE");
    assert_eq!(client.check("what").await, "NOT_FOUND");
    let listening = connect(url.trim_start_matches("https://"), &["h2"]).await;
    assert!(listening.is_ok(), "the listener is there while it lingers");
    drop(listening);
    assert!(begin.elapsed() < Duration::from_secs(8), "too slow for a conclusion");
    let end = watching.next().await;
    assert_eq!((&end["code"], &end["details"]), (&json!("UNAVAILABLE"), &json!("The process is stopping.")));
    // Open streams have not delayed the shutdown.
    assert_eq!(api.exit_code().await, Some(0));
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    assert!(api.log().contains("gRPC /grpc.health.v1.Health/Watch Unavailable"), "{}", api.log());
}

/// Returns the types of the frames until the server closes. Pings are answered, because a drain that says goodbye waits
/// for that.
async fn frames(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Vec<u8> {
    const PING: u8 = 6;
    const ACK: u8 = 1;
    let mut kinds = Vec::new();
    let reading = async {
        let mut head = [0; 9];
        while stream.read_exact(&mut head).await.is_ok() {
            kinds.push(head[3]);
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            if stream.read_exact(&mut payload).await.is_err() {
                return;
            }
            if head[3] == PING && head[4] == 0 {
                let _ = stream.write_all(&frame(PING, ACK, 0, &payload)).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("the server closes");
    kinds
}

fn begin_call(path: &'static str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "a"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &block(&fields)));
    bytes
}

#[tokio::test]
async fn at_the_end_connections_receive_goaway_and_streams_their_code() {
    let settings = [MINTED, ("SALEBELL_SERVER__DRAIN_S", "60"), ("SALEBELL_SERVER__HEADER_TIMEOUT_S", "2")];
    let app = TestApp::builder().settings(&settings).spawn().await;
    let url = serve(&app).await;
    let address = url.trim_start_matches("https://");
    // A connection that does not start to speak the protocol.
    let mut silent = connect(address, &["h2"]).await.unwrap();
    let mut idle = connect(address, &["h2"]).await.unwrap();
    idle.write_all(PREFACE).await.unwrap();
    idle.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    let mut reflecting = connect(address, &["h2"]).await.unwrap();
    // A stream that never sends a request.
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    reflecting.write_all(&begin_call(path)).await.unwrap();
    let mut watching = connect(address, &["h2"]).await.unwrap();
    watching.write_all(&begin_call("/grpc.health.v1.Health/Watch")).await.unwrap();
    watching.write_all(&frame(DATA, END_STREAM, 1, &[0; 5])).await.unwrap();
    let mut first = [0; 9];
    for stream in [&mut idle, &mut reflecting, &mut watching] {
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(first[3], SETTINGS);
        let mut payload = vec![0; u32::from_be_bytes([0, first[0], first[1], first[2]]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
    }
    app.state.stopping.cancel();
    assert!(frames(&mut idle).await.contains(&GOAWAY));
    frames(&mut silent).await;
    for stream in [&mut reflecting, &mut watching] {
        let kinds = frames(stream).await;
        assert!(kinds.contains(&GOAWAY), "{kinds:?}");
        assert_eq!(
            kinds.iter().filter(|kind| **kind == HEADERS).count(),
            2,
            "headers and trailers: {kinds:?}"
        );
    }
}

#[tokio::test]
async fn a_connection_may_idle_for_its_time_and_a_stream_for_longer() {
    for tls in [MINTED, ("SALEBELL_SERVER__TLS", "off")] {
        let app = TestApp::builder().settings(&[tls, ("SALEBELL_SERVER__IDLE_TIMEOUT_S", "2")]).spawn().await;
        let url = serve(&app).await;
        let open = async |bytes: Vec<u8>| {
            let mut stream: Box<dyn raw::Stream> = match url.strip_prefix("https://") {
                Some(address) => Box::new(connect(address, &["h2"]).await.unwrap()),
                None => Box::new(raw::connect(&url).await),
            };
            stream.write_all(&bytes).await.unwrap();
            stream
        };
        let watch =
            [begin_call("/grpc.health.v1.Health/Watch"), frame(DATA, END_STREAM, 1, &[0; 5])].concat();
        let mut watching = open(watch).await;
        let begin = Instant::now();
        let mut idle = open([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        assert!(frames(&mut idle).await.contains(&GOAWAY));
        let took = begin.elapsed().as_secs_f64();
        assert!((1.5..10.0).contains(&took), "{tls:?}: closed after {took} s");
        let much_longer = tokio::time::timeout(Duration::from_secs(2), frames(&mut watching));
        assert!(much_longer.await.is_err(), "{tls:?}: the stream has ended");
    }
}

#[tokio::test]
async fn clients_without_http2_are_refused() {
    let app = TestApp::builder().settings(&[MINTED]).spawn().await;
    let url = serve(&app).await;
    let address = url.trim_start_matches("https://");
    assert!(connect(address, &["http/1.1"]).await.is_err(), "no protocol in common");
    let both = connect(address, &["http/1.1", "h2"]).await.unwrap();
    assert_eq!(both.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let request = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut none = connect(address, &[]).await.unwrap();
    let _ = none.write_all(request).await;
    assert_eq!(raw::read_to_end(&mut none).await, b"");
    let said = raw::exchange(&url.replace("https", "http"), request).await;
    assert!(said.starts_with("HTTP/1.1 400 "), "{said}");

    let app = TestApp::spawn().await;
    let mut clear = raw::connect(&serve(&app).await).await;
    let _ = clear.write_all(request).await;
    let said = raw::read_to_end(&mut clear).await;
    assert!(!String::from_utf8_lossy(&said).contains("HTTP/1.1"), "{said:?}");
}

fn post(url: &str, path: &str) -> RequestBuilder {
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    client.post(format!("{url}{path}")).header("content-type", "application/grpc").header("te", "trailers")
}

/// Body of a message that never arrives.
fn never() -> Body {
    Body::wrap_stream(stream::pending::<Result<Bytes, std::io::Error>>())
}

fn code(answer: &Response) -> Option<&str> {
    answer.headers().get("grpc-status")?.to_str().ok()
}

#[tokio::test]
async fn a_deadline_is_obeyed_whatever_the_client_does() {
    let app = TestApp::builder().settings(&[("SALEBELL_SERVER__REQUEST_TIMEOUT_S", "4")]).spawn().await;
    let url = serve(&app).await;
    let mut client = Client::start(&url);
    let refusal = client.ask("watch", json!({"timeout": 0.5})).await;
    assert_eq!(refusal["status"], "SERVING");
    assert_eq!(client.next().await["code"], "DEADLINE_EXCEEDED");
    // Both calls run concurrently.
    let methods = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];
    let cases = [(Some("300m"), 0.3, 3.9), (Some("9H"), 4.0, 15.0), (None, 4.0, 15.0)];
    let calls = methods.into_iter().flat_map(|path| cases.map(|case| (path, case)));
    join_all(calls.map(async |(path, (timeout, least, most))| {
        let request = post(&url, path).body(never());
        let request = timeout.into_iter().fold(request, |request, text| request.header("grpc-timeout", text));
        let begin = Instant::now();
        let answer = request.send().await.unwrap();
        let took = begin.elapsed().as_secs_f64();
        assert_eq!(code(&answer), Some("4"), "{path} {timeout:?}");
        assert!((least..most).contains(&took), "{path} {timeout:?} took {took} s");
    }))
    .await;
    for path in methods {
        let request = post(&url, path).header("grpc-timeout", "soon").body(vec![0; 5]);
        assert_eq!(code(&request.send().await.unwrap()), Some("3"), "{path}");
    }
    // The server ends a stream as well, if its client does not.
    let watch = post(&url, "/grpc.health.v1.Health/Watch").header("grpc-timeout", "500m").body(vec![0; 5]);
    let (begin, mut body) = (Instant::now(), watch.send().await.unwrap().bytes_stream());
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await {
        bytes.extend(piece.unwrap());
    }
    assert_eq!(bytes, b"\0\0\0\0\x02\x08\x01", "serving, and nothing else");
    assert!((0.4..5.0).contains(&begin.elapsed().as_secs_f64()), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn requests_that_are_not_grpc_are_refused_in_http() {
    let app = TestApp::spawn().await;
    let url = serve(&app).await;
    for media in ["application/json", "application/grpc-web+proto", "text/plain"] {
        let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
        let request = client.post(format!("{url}/grpc.health.v1.Health/Check")).header("content-type", media);
        let response = request.header("x-request-id", "mine").body("{}").send().await.unwrap();
        assert_eq!(response.status(), 415, "{media}");
        assert_eq!(response.headers()["x-request-id"], "mine");
    }
    // Media types are compared without case.
    for media in ["application/grpc", "Application/GRPC+proto"] {
        let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
        let request = client.post(format!("{url}/grpc.health.v1.Health/Check")).header("content-type", media);
        let response = request.header("te", "trailers").body(vec![0; 5]).send().await.unwrap();
        assert_eq!(response.status(), 200, "{media}");
    }
    let answer = post(&url, "/grpc.health.v1.Health/Check").header("x-request-id", "mine").body(vec![0; 5]);
    let answer = answer.send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["x-request-id"]),
        (200, &"mine".parse().unwrap())
    );
    assert_eq!(&answer.bytes().await.unwrap()[..], b"\0\0\0\0\x02\x08\x01");
    // The HTTP listener does not serve gRPC either.
    let answer = post(&app.url, "/grpc.health.v1.Health/Check").body(vec![0; 5]).send().await.unwrap();
    assert_eq!(answer.status(), 404);
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_checks_go_on() {
    let app = TestApp::spawn().await;
    let mut client = Client::start(&serve(&app).await);
    let answer = client.ask("watch_many", json!({"count": 103, "connections": 3})).await;
    assert_eq!((&answer["answered"], &answer["refused"]), (&json!(100), &json!(3)), "{answer}");
    assert_eq!(answer["refusal"]["code"], "RESOURCE_EXHAUSTED", "{answer}");
    assert_eq!(client.check("").await, "SERVING");
    assert_eq!(client.ask("leave_one", json!({})).await["left"], 99);
    // A place becomes free once the server has noticed that a client has disconnected.
    let mut one: Value = Value::Null;
    eventually("a place is free", async || {
        one = client.ask("watch", json!({})).await;
        one == json!({"status": "SERVING"})
    })
    .await;
}

#[tokio::test]
async fn calls_are_counted_and_logged_by_their_method_only() {
    let app = TestApp::spawn().await;
    let api = start(&app, "api", &[]);
    let (url, metrics) = (api.logged("gRPC on ").await, api.logged("metrics on ").await);
    let mut client = Client::start(&url);
    let metadata = json!([["authorization", "Bearer hunter2"], ["x-request-id", "hunter-1"]]);
    client.ask("check", json!({"service": "hunter3", "metadata": metadata})).await;
    client.check("").await;
    client.ask("call", json!({"path": "/hunter4.Service/Call"})).await;
    assert_eq!(client.ask("watch_many", json!({"count": 2, "connections": 1})).await["answered"], 2);
    api.logged("gRPC /grpc.health.v1.Health/Check NotFound").await;
    api.logged("gRPC unmatched Unimplemented").await;
    let read = async || app.client.get(&metrics).send().await.unwrap().text().await.unwrap();
    let text = read().await;
    for line in [
        r#"grpc_requests_total{route="/grpc.health.v1.Health/Check",code="NotFound"} 1"#,
        r#"grpc_requests_total{route="/grpc.health.v1.Health/Check",code="Ok"} 1"#,
        r#"grpc_requests_total{route="unmatched",code="Unimplemented"} 1"#,
        r#"grpc_request_duration_seconds_count{route="/grpc.health.v1.Health/Check",code="Ok"} 1"#,
        "grpc_streams 2",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    drop(client);
    api.logged("gRPC /grpc.health.v1.Health/Watch aborted").await;
    eventually("no stream is open", async || read().await.contains("grpc_streams 0\n")).await;
    let log = api.log();
    assert!(log.contains("hunter-1"), "the request's id is logged: {log}");
    for secret in ["hunter2", "hunter3", "hunter4"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
    assert!(!log.contains("Check Ok"), "a check is not worth a line: {log}");
}

#[tokio::test]
async fn it_can_be_switched_off() {
    let app = TestApp::spawn().await;
    for off in ["off", ""] {
        let api = start(&app, "api", &[("SALEBELL_SERVER__GRPC_LISTEN", off)]);
        api.logged("metrics on ").await;
        assert!(!api.log().contains("gRPC"), "{}", api.log());
    }
}
