//! Share links with a number of downloads: the bytes sent count, whatever kinds of requests fetch them.

use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::files::downloads::upload;
use crate::files::uploads::bytes;
use crate::support::scratch::Scratch;
use crate::support::{TestApp, User, eventually, raw};

const MIB: usize = 1 << 20;

/// A file and a link to it.
struct Shared {
    app: TestApp,
    anna: User,
    whole: bytes::Bytes,
    file: String,
    path: String,
}

impl Shared {
    async fn new(size: usize, downloads: usize) -> Shared {
        let app = TestApp::spawn().await;
        let anna = app.user("anna", &[]).await;
        let whole = bytes(size);
        let file = upload(&app, &anna, "a.bin", "", whole.clone()).await;
        let mut shared = Shared { app, anna, whole, file, path: String::new() };
        shared.path = shared.link(json!({"max_downloads": downloads})).await;
        shared
    }

    async fn link(&self, wanted: Value) -> String {
        let request = self.app.post(&format!("{}/links", self.file)).bearer_auth(&self.anna.token);
        let answer = request.json(&wanted).send().await.unwrap();
        assert_eq!(answer.status(), 201);
        answer.json::<Value>().await.unwrap()["path"].as_str().unwrap().to_owned()
    }

    /// Sends a request with these headers; returns the status and the bytes.
    async fn ask(&self, method: Method, headers: &[(&str, &str)]) -> (u16, bytes::Bytes) {
        let request = self.app.request(method, &self.path);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.bytes().await.unwrap())
    }

    async fn range(&self, range: &str) -> u16 {
        self.ask(Method::GET, &[("range", range)]).await.0
    }

    /// Opens a connection, sends the request, and reads the head of the answer; returns the connection and the status.
    async fn begin(&self, range: Option<&str>) -> (TcpStream, String) {
        let mut stream = raw::connect(&self.app.url).await;
        let range = range.map(|range| format!("Range: {range}\r\n")).unwrap_or_default();
        let head = format!("GET {} HTTP/1.1\r\nHost: a\r\n{range}\r\n", self.path);
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        (stream, String::from_utf8(answer).unwrap()[9..12].to_owned())
    }

    async fn listed(&self) -> Value {
        self.app.see(&self.anna, &format!("{}/links", self.file)).await["items"][0].clone()
    }

    /// Waits until the link is used up: for some seconds, parts of a download may be requested again.
    async fn becomes_used_up(&self) {
        eventually("it is used up", async || self.ask(Method::HEAD, &[]).await.0 == 404).await;
        self.assert_used_up().await;
    }

    async fn assert_used_up(&self) {
        for method in [Method::GET, Method::HEAD] {
            for headers in [
                &[][..],
                &[("range", "bytes=0-0")],
                &[("range", "bytes=1-")],
                &[("range", "bytes=-1")],
                &[("range", "bytes=99999999999-")],
                &[("if-none-match", "*")],
                &[("if-match", "\"other\"")],
                &[("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT")],
            ] {
                assert_eq!(self.ask(method.clone(), headers).await.0, 404, "{method} {headers:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_link_that_is_used_up_is_gone_for_every_method_and_range() {
    for size in [0, 1, 300_000] {
        let shared = Shared::new(size, 2).await;
        for _ in 0..2 {
            assert_eq!(shared.ask(Method::HEAD, &[]).await.0, 200, "{size}");
            assert_eq!(shared.ask(Method::GET, &[]).await, (200, shared.whole.clone()), "{size}");
        }
        shared.assert_used_up().await;
        assert_eq!(shared.listed().await["downloads"], 2);
    }
}

#[tokio::test]
async fn probing_a_link_uses_up_no_download() {
    let shared = Shared::new(300_000, 1).await;
    for _ in 0..5 {
        assert_eq!(shared.ask(Method::HEAD, &[]).await.0, 200);
        assert_eq!(shared.ask(Method::HEAD, &[("range", "bytes=0-0")]).await.0, 200);
        assert_eq!(shared.range("bytes=0-0").await, 206);
        assert_eq!(shared.range("bytes=-1").await, 206);
        assert_eq!(shared.range("bytes=300000-").await, 416);
        assert_eq!(shared.ask(Method::GET, &[("if-none-match", "*")]).await.0, 304);
    }
    assert_eq!(shared.listed().await["downloads"], 0);
    assert_eq!(shared.ask(Method::GET, &[]).await, (200, shared.whole.clone()));
    shared.assert_used_up().await;
}

#[tokio::test]
async fn a_copy_by_ranges_is_a_download() {
    let shared = Shared::new(300_000, 1).await;
    let mut copy = Vec::new();
    for range in ["bytes=250000-", "bytes=0-99999", "Bytes=100000-249999"] {
        let (status, bytes) = shared.ask(Method::GET, &[("range", range)]).await;
        assert_eq!(status, 206, "{range}");
        copy.push(bytes);
    }
    assert_eq!([&copy[1][..], &copy[2], &copy[0]].concat(), shared.whole);
    assert_eq!(shared.ask(Method::GET, &[]).await.0, 404, "a second copy, at once");
    shared.becomes_used_up().await;
    let listed = shared.listed().await;
    assert_eq!((&listed["downloads"], &listed["bytes_served"]), (&json!(1), &json!(300_000)));

    // Repeatedly fetching all but one byte is not free either.
    let shared = Shared::new(300_000, 1).await;
    let mut served = 0;
    for _ in 0..10 {
        served += shared.ask(Method::GET, &[("range", "bytes=1-")]).await.1.len() / 299_999;
        served += shared.ask(Method::GET, &[("range", "bytes=0-299998")]).await.1.len() / 299_999;
    }
    assert_eq!(served, 1);
}

#[tokio::test]
async fn of_two_downloads_at_once_where_one_is_left_one_is_refused() {
    let shared = Shared::new(24 * MIB, 1).await;
    let (first, status) = shared.begin(None).await;
    assert_eq!(status, "200");
    // The client stops reading, so the download is not finished.
    assert_eq!(shared.ask(Method::GET, &[]).await.0, 404);
    assert_eq!(shared.range("bytes=0-").await, 503);
    // The download breaks off: the bytes it got are counted, and the download is available again.
    drop(first);
    eventually("the bytes that were not sent are given back", async || {
        shared.listed().await["bytes_served"].as_u64().unwrap() < 16 << 20
    })
    .await;
    assert_eq!(shared.listed().await["downloads"], 0);
    assert_eq!(shared.ask(Method::GET, &[]).await.0, 200);
    shared.assert_used_up().await;

    let shared = Shared::new(300_000, 3).await;
    let answers = join_all((0..20).map(|_| shared.ask(Method::GET, &[]))).await;
    assert_eq!(answers.iter().filter(|(status, _)| *status == 200).count(), 3);
}

#[tokio::test]
async fn clients_that_fetch_a_file_in_parts_at_once_use_up_one_download() {
    for size in [MIB, 24 * MIB] {
        // As axel does: it requests everything, disconnects after the head, and requests the parts.
        let shared = Shared::new(size, 1).await;
        let (probe, status) = shared.begin(Some("bytes=0-")).await;
        assert_eq!(status, "206");
        drop(probe);
        let part = |i: usize| format!("bytes={}-{}", i * size / 4, (i + 1) * size / 4 - 1);
        let parts: Vec<String> = (0..4).map(part).collect();
        let answers = join_all(parts.iter().map(|part| shared.range(part))).await;
        assert_eq!(answers, [206; 4], "{size}");
        shared.becomes_used_up().await;
        assert_eq!(shared.listed().await["downloads"], 1);

        // As aria2 does: it continues to read the first answer, and disconnects where the next part begins.
        let shared = Shared::new(size, 1).await;
        let (mut first, status) = shared.begin(None).await;
        assert_eq!(status, "200");
        let answers = join_all(parts[1..].iter().map(|part| shared.range(part))).await;
        assert_eq!(answers, [206; 3], "{size}");
        let mut own = vec![0; size / 4];
        first.read_exact(&mut own).await.unwrap();
        assert!(own == shared.whole[..size / 4]);
        drop(first);
        shared.becomes_used_up().await;
        assert_eq!(shared.listed().await["downloads"], 1);
    }
}

#[tokio::test]
async fn parts_that_break_off_and_are_requested_again_are_one_download() {
    // Concurrent open-ended ranges, each cut where the next one began.
    let size = 20 * MIB;
    let shared = Shared::new(size, 1).await;
    let fetch = async |start: usize, length: usize| {
        loop {
            let (mut stream, status) = shared.begin(Some(&format!("bytes={start}-"))).await;
            match status.as_str() {
                "206" => {}
                "503" => continue,
                _ => return status,
            }
            let mut part = vec![0; length];
            stream.read_exact(&mut part).await.unwrap();
            assert!(part == shared.whole[start..][..length]);
            return status;
        }
    };
    assert_eq!(join_all((0..4).map(|i| fetch(i * size / 4, size / 4))).await, ["206"; 4]);
    shared.becomes_used_up().await;
    assert_eq!(shared.listed().await["downloads"], 1);

    // Parts that fit into the buffers: all are sent completely, but one is read by half, and the other half is
    // requested again.
    let size = MIB;
    let shared = Shared::new(size, 1).await;
    let part = |i: usize| format!("bytes={}-{}", i * size / 16, (i + 1) * size / 16 - 1);
    let (unread, status) = shared.begin(Some(&part(0))).await;
    assert_eq!(status, "206");
    for i in 1..16 {
        assert_eq!(shared.range(&part(i)).await, 206);
    }
    drop(unread);
    let rest = format!("bytes={}-{}", size / 32, size / 16 - 1);
    assert_eq!(shared.range(&rest).await, 206);
    shared.becomes_used_up().await;
    assert_eq!(shared.listed().await["downloads"], 1);
}

#[tokio::test]
async fn curl_resumes_within_one_download() {
    let shared = Shared::new(24 * MIB, 1).await;
    let folder = Scratch::new();
    let part = folder.path().join("part");
    let (to, url) = (part.to_str().unwrap(), format!("{}{}", shared.app.url, shared.path));
    let mut curl = Command::new("curl");
    curl.args(["-sf", "--limit-rate", "4M", "-o", to, &url]).stdout(Stdio::null()).kill_on_drop(true);
    let mut broken = curl.spawn().unwrap();
    let size = || std::fs::metadata(&part).map_or(0, |part| part.len());
    eventually("some has come", async || size() > 1_000_000).await;
    broken.kill().await.unwrap();
    let had = size();
    assert!(had < 12 << 20, "{had}");
    let resumed = Command::new("curl").args(["-sf", "-C", "-", "-o", to, &url]).status().await.unwrap();
    assert!(resumed.success(), "after {had}");
    assert!(std::fs::read(&part).unwrap() == shared.whole);
    shared.becomes_used_up().await;
    assert_eq!(shared.listed().await["downloads"], 1);
}

#[tokio::test]
async fn downloads_counted_by_the_previous_version_stay_counted() {
    let shared = Shared::new(1_000, 2).await;
    let counted = "update file_links set downloads = downloads + 1";
    for (status, _) in [(200, 1), (404, 2)] {
        sqlx::query(counted).execute(&shared.app.state.writer).await.unwrap();
        assert_eq!(shared.ask(Method::HEAD, &[]).await.0, status);
    }
}

#[tokio::test]
async fn bytes_granted_by_a_process_that_died_count_as_sent() {
    let shared = Shared::new(24 * MIB, 1).await;
    let api = crate::support::instance::start(&shared.app, "api", &[]);
    let mut stream = raw::connect(&api.url().await).await;
    stream.write_all(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", shared.path).as_bytes()).await.unwrap();
    let mut some = vec![0; 100_000];
    stream.read_exact(&mut some).await.unwrap();
    api.signal(nix::sys::signal::Signal::SIGKILL);
    drop(stream);
    // How much arrived is unknown: no further download starts, but the one that broke off can continue.
    assert_eq!(shared.ask(Method::GET, &[]).await.0, 404);
    assert_eq!(shared.range("bytes=100000-").await, 206);
}

#[tokio::test]
async fn a_link_without_a_limit_counts_and_never_refuses() {
    let mut shared = Shared::new(300_000, 1).await;
    shared.path = shared.link(json!({})).await;
    for _ in 0..3 {
        assert_eq!(shared.ask(Method::GET, &[]).await.0, 200);
    }
    assert_eq!(shared.range("bytes=0-9").await, 206);
    let counted = async || {
        let listed = shared.listed().await;
        (listed["downloads"].as_u64(), listed["bytes_served"].as_u64()) == (Some(3), Some(900_010))
    };
    tokio::time::timeout(Duration::from_secs(10), async { while !counted().await {} }).await.unwrap();
}

#[tokio::test]
async fn a_link_is_an_absolute_url_where_the_service_knows_its_own() {
    for public_url in [None, Some("https://salebell.test")] {
        let settings = public_url.map(|url| ("SALEBELL_SERVER__PUBLIC_URL", url));
        let app = TestApp::builder().settings(settings.as_slice()).spawn().await;
        let anna = app.user("anna", &[]).await;
        let file = upload(&app, &anna, "a.bin", "", bytes(100)).await;
        let request = app.post(&format!("{file}/links")).bearer_auth(&anna.token).json(&json!({}));
        let link: Value = request.send().await.unwrap().json().await.unwrap();
        let url = public_url.map(|origin| format!("{origin}{}", link["path"].as_str().unwrap()));
        assert_eq!(link["url"], json!(url), "{link}");
    }
}
