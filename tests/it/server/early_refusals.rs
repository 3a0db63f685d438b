//! Refusals of requests whose body is still being sent: clients that send everything before they read see them too.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::support::{TestApp, eventually, raw};

const PLAIN: (&str, &str) = ("SALEBELL_SERVER__TLS", "off");
const MINTED: (&str, &str) = ("SALEBELL_SERVER__TLS", "minted");

#[tokio::test]
async fn python_and_node_see_every_refusal_of_five_megabytes() {
    let setting =
        |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; `make test` sets it"));
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");
    for tls in [PLAIN, MINTED] {
        let app = TestApp::builder().settings(&[tls]).spawn().await;
        let anna = app.user("anna", &["catalogue:write"]).await;
        for client in ["refused.py", "refused.cjs"] {
            let mut command = match client {
                "refused.py" => Command::new(setting("SALEBELL_TEST_PYTHON")),
                _ => Command::new("node"),
            };
            command.arg(format!("{folder}/{client}")).args([&app.url, &anna.token]).kill_on_drop(true);
            let output = command.output().await.unwrap();
            let seen = String::from_utf8(output.stdout).unwrap();
            let expected =
                ["413", "415", "401", "400", "404"].map(|status| format!("{status}\n").repeat(4)).concat();
            assert_eq!(seen, expected, "{client} {tls:?} {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// Sends a head and then an endless body; returns the answer, how many bytes the server accepted after the head, and
/// for how long.
async fn pour(url: &str, head: &str) -> (String, usize, Duration) {
    let (mut reader, mut writer) = tokio::io::split(raw::open(url).await);
    writer.write_all(head.as_bytes()).await.unwrap();
    let began = Instant::now();
    let pouring = tokio::spawn(async move {
        let (piece, mut sent) = ([b'x'; 64 * 1024], 0);
        while let Ok(some) = writer.write(&piece).await {
            sent += some;
        }
        sent
    });
    let mut answer = Vec::new();
    while matches!(reader.read_buf(&mut answer).await, Ok(some) if some > 0) {}
    let sent = pouring.await.unwrap();
    (String::from_utf8_lossy(&answer).into_owned(), sent, began.elapsed())
}

#[tokio::test]
async fn the_server_reads_on_for_a_limited_number_of_bytes() {
    for tls in [PLAIN, MINTED] {
        let app = TestApp::builder().settings(&[tls]).spawn().await;
        let refused = "POST /v1/prices HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\n";
        let heads = [
            (format!("{refused}Content-Length: 6000000000\r\n\r\n"), "401"),
            (format!("{refused}Transfer-Encoding: chunked\r\n\r\n10000000\r\n"), "401"),
            // A request that hyper itself cannot parse.
            ("POST /v1/prices HTTP/1.1\r\nHost: a\r\nno header at all\r\n\r\n".to_owned(), "400"),
        ];
        for (head, status) in heads {
            let (answer, sent, took) = pour(&app.url, &head).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
            assert!(answer.to_ascii_lowercase().contains("connection: close"), "{head}: {answer}");
            // 16 MiB, and what the kernel buffers at both ends.
            assert!((8 << 20..40 << 20).contains(&sent), "{head}: {sent} bytes were taken");
            assert!(took < Duration::from_secs(10), "{head}: {took:?}");
        }
    }
}

#[tokio::test]
async fn a_client_that_sends_nothing_more_is_left_after_a_moment() {
    let app = TestApp::spawn().await;
    let mut stream = raw::connect(&app.url).await;
    let head = "POST /v1/prices HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\nContent-Length: 99999\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let began = Instant::now();
    // The server half-closes at once: the answer ends although the request does not.
    assert!(String::from_utf8(raw::read_to_end(&mut stream).await).unwrap().starts_with("HTTP/1.1 401 "));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // The server closes the connection later: bytes sent after that are reset.
    eventually("it is closed", async || stream.write_all(b"x").await.is_err()).await;
    assert!(began.elapsed() > Duration::from_secs(3), "{:?}", began.elapsed());
}
