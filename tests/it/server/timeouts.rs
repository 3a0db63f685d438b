//! Time limits for a client: for a handshake, for a head, between requests, for a body, for an answer. Over plain HTTP
//! and over TLS.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream;
use salebell::http;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use crate::support::tls::MINTED;
use crate::support::{TestApp, raw};

const PLAIN: (&str, &str) = ("SALEBELL_SERVER__TLS", "off");
const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";

async fn spawn(tls: (&str, &str), header_s: &str, idle_s: &str) -> TestApp {
    let settings =
        [tls, ("SALEBELL_SERVER__HEADER_TIMEOUT_S", header_s), ("SALEBELL_SERVER__IDLE_TIMEOUT_S", idle_s)];
    TestApp::builder().settings(&settings).spawn().await
}

/// Seconds until the server closes the connection.
async fn closes_after(stream: &mut (impl AsyncReadExt + Unpin)) -> f64 {
    let begin = Instant::now();
    raw::read_to_end(stream).await;
    begin.elapsed().as_secs_f64()
}

#[tokio::test]
async fn a_connection_may_idle_for_longer_than_a_head_may_take() {
    for tls in [PLAIN, MINTED] {
        let app = spawn(tls, "1", "5").await;
        let mut stream = raw::open(&app.url).await;
        // Both before the first request and between two requests.
        for _ in 0..2 {
            sleep(Duration::from_millis(1_500)).await;
            stream.write_all(REQUEST).await.unwrap();
            assert!(raw::read_answer(&mut stream).await.starts_with("HTTP/1.1 200 "), "{tls:?}");
        }
        let took = closes_after(&mut stream).await;
        assert!((4.5..15.0).contains(&took), "{tls:?}: closed after {took} s");
    }
}

#[tokio::test]
async fn a_head_has_its_time_from_its_first_byte_on() {
    for tls in [PLAIN, MINTED] {
        let app = spawn(tls, "1", "60").await;
        for first in [false, true] {
            let mut stream = raw::open(&app.url).await;
            if !first {
                stream.write_all(REQUEST).await.unwrap();
                raw::read_answer(&mut stream).await;
            }
            let (mut reader, mut writer) = tokio::io::split(stream);
            // An occasional byte does not extend the limit.
            let dripping = tokio::spawn(async move {
                for byte in REQUEST.iter().cycle() {
                    if *byte == b'\r' || writer.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                    sleep(Duration::from_millis(300)).await;
                }
                sleep(Duration::from_secs(20)).await;
            });
            let took = closes_after(&mut reader).await;
            assert!((0.8..5.0).contains(&took), "{tls:?}: closed after {took} s");
            dripping.abort();
        }
    }
}

#[tokio::test]
async fn half_a_preface_is_not_http2() {
    let app = spawn(PLAIN, "1", "60").await;
    for words in ["PRI * HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\nhost: a\r\n"] {
        let mut stream = raw::connect(&app.url).await;
        stream.write_all(words.as_bytes()).await.unwrap();
        let took = closes_after(&mut stream).await;
        assert!(took < 5.0, "{words:?}: closed after {took} s");
    }
}

#[tokio::test]
async fn an_idle_http2_connection_receives_goaway() {
    let app = spawn(MINTED, "1", "2").await;
    let address = app.url.trim_start_matches("https://");
    let mut stream = crate::support::tls::connect(address, &["h2"]).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let begin = Instant::now();
    let said = raw::read_to_end(&mut stream).await;
    assert!(begin.elapsed() < Duration::from_secs(8));
    let goaway: [u8; 4] = [7, 0, 0, 0];
    assert!(said.windows(4).any(|window| window == goaway), "{said:?}");
}

/// Accepts a body of any length and answers with that length.
fn counting(app: salebell::app::App) -> Router {
    let count = |body: Body| async {
        match to_bytes(body, usize::MAX).await {
            Ok(bytes) => bytes.len().to_string(),
            Err(_) => "broken".to_owned(),
        }
    };
    http::layered(Router::new().route("/count", post(count)), app)
}

#[tokio::test]
async fn a_long_body_is_spared_as_long_as_it_moves() {
    for (tls, http2) in [(PLAIN, false), (PLAIN, true), (MINTED, false), (MINTED, true)] {
        let settings = [
            tls,
            ("SALEBELL_SERVER__HEADER_TIMEOUT_S", "1"),
            ("SALEBELL_SERVER__IDLE_TIMEOUT_S", "1"),
            ("SALEBELL_SERVER__BODY_IDLE_TIMEOUT_S", "2"),
        ];
        let app = TestApp::builder().settings(&settings).router(counting).spawn().await;
        let builder = reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true);
        let client = if http2 { builder.http2_prior_knowledge() } else { builder.http1_only() };
        let client = client.build().unwrap();
        let slow = |pause_ms: u64, pieces: u32| {
            let stream = stream::unfold(0, move |at| async move {
                sleep(Duration::from_millis(pause_ms)).await;
                (at < pieces).then(|| (Ok::<_, Infallible>(Bytes::from_static(b"0123456789")), at + 1))
            });
            client.post(format!("{}/count", app.url)).body(reqwest::Body::wrap_stream(stream)).send()
        };
        // Longer than every limit except the one for a pause.
        let answer = slow(400, 9).await.unwrap();
        assert_eq!(answer.version() == reqwest::Version::HTTP_2, http2);
        assert_eq!(answer.text().await.unwrap(), "90", "{tls:?} {http2}");
        // A pause ends the request: the handler sees that the body broke off.
        let begin = Instant::now();
        let ended = slow(8_000, 2).await;
        assert!(begin.elapsed() < Duration::from_secs(7), "{tls:?} {http2}");
        if let Ok(answer) = ended {
            assert_eq!(answer.text().await.unwrap(), "broken", "{tls:?} {http2}");
        }
    }
}

/// Sends an endless answer.
fn pouring(app: salebell::app::App) -> Router {
    let pour = || async {
        let piece = Bytes::from(vec![b'x'; 64 * 1024]);
        Body::from_stream(stream::repeat_with(move || Ok::<_, Infallible>(piece.clone())))
    };
    http::layered(Router::new().route("/pour", get(pour)), app)
}

#[tokio::test]
async fn a_client_that_reads_nothing_of_a_response_is_cut_off_and_a_slow_reader_is_not() {
    let settings = [("SALEBELL_SERVER__BODY_IDLE_TIMEOUT_S", "4")];
    let app = TestApp::builder().settings(&settings).router(pouring).spawn().await;
    let request = b"GET /pour HTTP/1.1\r\nhost: a\r\n\r\n";
    let (mut slow, mut stalled) = (raw::connect(&app.url).await, raw::connect(&app.url).await);
    stalled.write_all(request).await.unwrap();
    slow.write_all(request).await.unwrap();
    let mut buffer = vec![0; 1024 * 1024];
    for _ in 0..12 {
        sleep(Duration::from_millis(600)).await;
        slow.read_exact(&mut buffer).await.unwrap();
    }
    // What was sent before the cut is still readable; the end of the stream follows it.
    let reading = async { while matches!(stalled.read(&mut buffer).await, Ok(some) if some > 0) {} };
    let ended = tokio::time::timeout(Duration::from_secs(20), reading).await;
    assert!(ended.is_ok(), "the answer without an end has ended");
    slow.read_exact(&mut buffer).await.unwrap();
}

/// Sends a chunked report byte by byte; returns the answer.
async fn drip(app: &TestApp, token: &str, report: &str, pause: Duration) -> String {
    let stream = raw::open(&app.url).await;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let head = format!(
        "POST /v1/prices HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let report = report.to_owned();
    let dripping = tokio::spawn(async move {
        writer.write_all(head.as_bytes()).await.unwrap();
        for byte in report.chars() {
            if writer.write_all(format!("1\r\n{byte}\r\n").as_bytes()).await.is_err() {
                return;
            }
            sleep(pause).await;
        }
        let _ = writer.write_all(b"0\r\n\r\n").await;
        // A connection that is closed too early would lose the answer.
        sleep(Duration::from_secs(20)).await;
    });
    let answer = raw::read_answer(&mut reader).await;
    dripping.abort();
    answer
}

#[tokio::test]
async fn a_report_that_hardly_moves_is_cut_off_and_a_slow_one_is_spared() {
    for tls in [PLAIN, MINTED] {
        // At least ten bytes a second, checked every second.
        let settings =
            [tls, ("SALEBELL_FILES__MIN_BYTES_PER_MINUTE", "600"), ("SALEBELL_FILES__SLOW_AFTER_S", "1")];
        let app = TestApp::builder().settings(&settings).spawn().await;
        let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
        let report = r#"{"store": "gog", "sku": "1", "price": "1", "currency": "EUR"}"#;
        let (hardly, slow) = tokio::join!(
            drip(&app, &shop.token, report, Duration::from_millis(200)),
            drip(&app, &shop.token, report, Duration::from_millis(40)),
        );
        assert!(hardly.starts_with("HTTP/1.1 408 ") && hardly.contains("too slowly"), "{hardly}");
        assert!(slow.starts_with("HTTP/1.1 202 ") && slow.contains(r#""accepted":1"#), "{slow}");
    }
}
