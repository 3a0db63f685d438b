//! Work on bytes from outside delays no other client, and ends with its client.
//!
//! Each measurement is compared with the same one in an idle process right before, and repeated if it is too slow: the
//! machine may have other work at the moment, but that cannot speed up a process that is blocked for seconds. Therefore
//! these tests run alone in `make test` (scripts/lib/run-checks.sh). Where all cores are busy with legitimate work on
//! bodies of megabytes, the measurement is compared with the effect of the same number of busy threads that have
//! nothing to do with the process's work.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_compression::tokio::bufread::{GzipEncoder, ZstdEncoder};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{TestApp, eventually, raw};

const SCOPES: [&str; 2] = ["prices:write", "catalogue:write"];
const CHECKS: usize = 300;
const ROUNDS: usize = 8;

/// A small body that causes much work: a megabyte of lines that are all refused.
async fn bomb() -> Vec<u8> {
    let mut packed = Vec::new();
    let lines = b"{\"x\":1}\n".repeat(125_000);
    GzipEncoder::new(lines.as_slice()).read_to_end(&mut packed).await.unwrap();
    assert!(packed.len() < 3_000, "{}", packed.len());
    packed
}

/// The 99th percentile of the times of successive health checks, on a thread of its own.
async fn slowest_check(app: &TestApp) -> Duration {
    let address = app.url.trim_start_matches("http://").to_owned();
    tokio::task::spawn_blocking(move || check(&address)).await.unwrap()
}

fn check(address: &str) -> Duration {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = [0; 4096];
    let mut took: Vec<Duration> = (0..CHECKS)
        .map(|_| {
            let begin = Instant::now();
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
            let read = stream.read(&mut buffer).unwrap();
            assert!(buffer[..read].starts_with(b"HTTP/1.1 200 "));
            begin.elapsed()
        })
        .collect();
    took.sort_unstable();
    took[CHECKS * 99 / 100]
}

/// The slowest check while threads unrelated to the process's work are busy: the effect of only the machine.
async fn slowest_check_among_others(app: &TestApp) -> Duration {
    let over = AtomicBool::new(false);
    let burn = || {
        while !over.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    };
    let address = app.url.trim_start_matches("http://").to_owned();
    // Four threads, as many as there are bodies.
    tokio::task::block_in_place(|| {
        std::thread::scope(|threads| {
            (0..4).for_each(|_| drop(threads.spawn(burn)));
            let slowest = threads.spawn(|| check(&address)).join();
            over.store(true, Ordering::Relaxed);
            slowest.unwrap()
        })
    })
}

/// One request as bytes.
fn request(token: &str, media: &str, coding: &str, key: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /v1/prices HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\ncontent-type: {media}\r\n\
         content-encoding: {coding}\r\nidempotency-key: {key}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

async fn in_flight(app: &TestApp) -> i64 {
    let sql = "select count(*) from idempotency_keys where status is null";
    sqlx::query_scalar(sql).fetch_one(&app.state.writer).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_checks_are_answered_while_small_bodies_cause_much_work() {
    let app = TestApp::spawn().await;
    let bomb = bomb().await;
    let mut users = Vec::new();
    for name in ["anna", "ben", "cleo", "dora"] {
        users.push(app.user(name, &SCOPES).await);
    }
    for accounts in [1, 4] {
        let mut measured = Vec::new();
        for round in 0..ROUNDS {
            let idle = slowest_check(&app).await;
            let mut tasks = tokio::task::JoinSet::new();
            for at in 0..4 {
                let (url, token, bomb) = (app.url.clone(), users[at % accounts].token.clone(), bomb.clone());
                tasks.spawn(async move {
                    // Repeats for as long as the measurement runs.
                    for time in 0..1_000 {
                        let key = format!("{accounts}-{round}-{at}-{time}");
                        let request = request(&token, "application/x-ndjson", "gzip", &key, &bomb);
                        let mut stream = raw::connect(&url).await;
                        stream.write_all(&request).await.unwrap();
                        let _ = stream.read(&mut [0; 64]).await;
                    }
                });
            }
            eventually("they are worked on", async || in_flight(&app).await == 4).await;
            let loaded = slowest_check(&app).await;
            tasks.shutdown().await;
            eventually("the work ends with its clients", async || in_flight(&app).await == 0).await;
            measured.push((idle, loaded));
            if loaded <= 3 * idle + Duration::from_millis(20) {
                break;
            }
        }
        let (idle, loaded) = measured.pop().unwrap();
        assert!(loaded <= 3 * idle + Duration::from_millis(20), "{accounts}: {loaded:?} after {measured:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_body_of_any_kind_stops_the_process() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let mut blank = Vec::new();
    ZstdEncoder::new(b"\n".repeat(1 << 20).as_slice()).read_to_end(&mut blank).await.unwrap();
    let mut empty = Vec::new();
    GzipEncoder::new(&b""[..]).read_to_end(&mut empty).await.unwrap();
    let observation =
        json!({"store": "gog", "sku": "a", "price": "1.00", "currency": "EUR", "title": "x".repeat(400)});
    let many = json!({"observations": vec![observation.clone(); 1_000]}).to_string();
    let numbers = format!("{{\"observations\":[{}0]}}", "0,".repeat(500_000));
    let nested = format!("{{\"observations\":[{}]}}", "[[[[[[]]]]]],".repeat(50_000) + "0");
    let fields = format!("{{\"observations\":[{{{}\"b\":0}}]}}", "\"a\":0,".repeat(100_000));
    let good: String = (0..20_000).map(|_| observation.to_string() + "\n").collect();
    let (ndjson, json) = ("application/x-ndjson", "application/json");
    for (name, media, coding, body) in [
        ("blank lines", ndjson, "zstd", blank),
        ("members without a byte", ndjson, "gzip", empty.repeat(20_000)),
        ("a line without an end", ndjson, "identity", vec![b'['; 8 << 20]),
        ("long lines", ndjson, "identity", [b"[".repeat(60_000), b"\n".to_vec()].concat().repeat(100)),
        ("good lines", ndjson, "identity", good.into_bytes()),
        ("numbers", json, "identity", numbers.into_bytes()),
        ("nested", json, "identity", nested.into_bytes()),
        ("fields", json, "identity", fields.into_bytes()),
        ("many", json, "identity", many.into_bytes()),
    ] {
        let body = bytes::Bytes::from(body);
        let mut measured = Vec::new();
        for round in 0..ROUNDS {
            let beside = slowest_check_among_others(&app).await;
            let mut tasks = tokio::task::JoinSet::new();
            for at in 0..4 {
                let (url, token, body) = (app.url.clone(), anna.token.clone(), body.clone());
                tasks.spawn(async move {
                    // Repeats for as long as the measurement runs.
                    for time in 0..20 {
                        let key = format!("\"{name} {round} {at} {time}\"");
                        let request = request(&token, media, coding, &key, &body);
                        let mut stream = raw::connect(&url).await;
                        let _ = stream.write_all(&request).await;
                        let _ = stream.read(&mut [0; 64]).await;
                    }
                });
            }
            let loaded = slowest_check(&app).await;
            tasks.shutdown().await;
            measured.push((beside, loaded));
            if loaded <= 3 * beside + Duration::from_millis(20) {
                break;
            }
        }
        let (beside, loaded) = measured.pop().unwrap();
        assert!(loaded <= 3 * beside + Duration::from_millis(20), "{name}: {loaded:?} after {measured:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_ends_when_its_client_hangs_up() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let bomb = bomb().await;
    let ended_whole = async || -> i64 {
        let sql = "select count(*) from batches";
        sqlx::query_scalar(sql).fetch_one(&app.state.writer).await.unwrap()
    };
    let send = async |round: usize| {
        let mut stream = raw::connect(&app.url).await;
        let request = request(&anna.token, "application/x-ndjson", "gzip", &format!("round-{round}"), &bomb);
        stream.write_all(&request).await.unwrap();
        stream
    };
    let mut head = [0; 12];
    send(0).await.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 202");
    // A request that is not cancelled becomes a batch. On a machine with other work, it may end before the test cancels
    // it.
    for round in 1..=ROUNDS {
        let whole = ended_whole().await;
        let stream = send(round).await;
        eventually("it has begun", async || in_flight(&app).await == 1 || ended_whole().await > whole).await;
        drop(stream);
        eventually("it has ended", async || in_flight(&app).await == 0).await;
        if ended_whole().await == whole {
            return;
        }
    }
    panic!("each of {ROUNDS} went on to its end");
}
