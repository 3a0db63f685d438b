//! TLS of the instance, with rustls and OpenSSL as clients.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use nix::sys::signal::Signal;
use salebell::http;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::Notify;

use crate::support::binary::Binary;
use crate::support::database::TestDatabase;
use crate::support::scratch::Scratch;
use crate::support::tls::{MINTED, connect};
use crate::support::{TestApp, instance, raw};

fn address(app: &TestApp) -> &str {
    app.url.strip_prefix("https://").expect("it serves TLS")
}

#[tokio::test]
async fn a_minted_certificate_serves_http1_and_http2_by_alpn() {
    let app = TestApp::spawn_with(&[MINTED]).await;
    for (offered, agreed) in
        [(&["h2", "http/1.1"][..], Some(&b"h2"[..])), (&["http/1.1"], Some(b"http/1.1")), (&[], None)]
    {
        let stream = connect(address(&app), offered).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed, "{offered:?}");
    }
    assert!(connect(address(&app), &["spdy/3"]).await.is_err(), "no protocol in common");
    let answer = app.get("/healthz").send().await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (reqwest::Version::HTTP_2, 200));
    let http1 = reqwest::Client::builder().no_proxy().http1_only().tls_danger_accept_invalid_certs(true);
    let answer = http1.build().unwrap().get(format!("{}/healthz", app.url)).send().await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (reqwest::Version::HTTP_11, 200));
    // Whoever asks whose it is hears that nobody vouches for it.
    let strict = reqwest::Client::builder().no_proxy().build().unwrap();
    assert!(strict.get(format!("{}/healthz", app.url)).send().await.is_err());
}

/// What `openssl s_client` says, with these options.
async fn openssl(app: &TestApp, options: &[&str]) -> (bool, String) {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", address(app)]).args(options).stdin(Stdio::null());
    let ended = tokio::time::timeout(Duration::from_secs(20), command.output()).await.unwrap().unwrap();
    let text = [ended.stdout, ended.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (ended.status.success(), text.join("\n"))
}

#[tokio::test]
async fn openssl_agrees_on_tls_1_2_and_1_3_and_on_nothing_older() {
    let app = TestApp::spawn_with(&[MINTED]).await;
    let anything = ["-cipher", "ALL:@SECLEVEL=0"];
    for (option, name) in [("-tls1_2", Some("TLSv1.2")), ("-tls1_3", Some("TLSv1.3"))]
        .into_iter()
        .chain([("-tls1", None), ("-tls1_1", None)])
    {
        let (succeeded, said) = openssl(&app, &[&[option][..], &anything].concat()).await;
        assert_eq!(succeeded, name.is_some(), "{option}: {said}");
        if let Some(name) = name {
            assert!(said.contains(&format!("New, {name}, Cipher is")), "{said}");
            assert!(said.contains("CN = salebell") && said.contains("id-ecPublicKey"), "{said}");
        }
    }
    // No static RSA, no CBC, no 3DES.
    for weak in ["AES128-SHA", "ECDHE-RSA-AES128-SHA", "ECDHE-ECDSA-AES128-SHA256"] {
        let (succeeded, said) = openssl(&app, &["-tls1_2", "-cipher", &format!("{weak}:@SECLEVEL=0")]).await;
        assert!(!succeeded, "{weak}: {said}");
    }
    let (_, text) = openssl(&app, &["-showcerts"]).await;
    let mut x509 = Command::new("openssl");
    x509.args(["x509", "-noout", "-text"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut x509 = x509.spawn().unwrap();
    x509.stdin.take().unwrap().write_all(text.as_bytes()).await.unwrap();
    let shown = String::from_utf8(x509.wait_with_output().await.unwrap().stdout).unwrap();
    for part in ["NIST CURVE: P-256", "DNS:localhost", "IP Address:127.0.0.1", "Digital Signature"] {
        assert!(shown.contains(part), "{part} is missing in {shown}");
    }
}

#[tokio::test]
async fn openssl_resumes_a_session_instead_of_a_second_handshake() {
    let app = TestApp::spawn_with(&[MINTED]).await;
    let folder = Scratch::new();
    let session = folder.path().join("session").to_str().unwrap().to_owned();
    // It waits for the ticket: TLS 1.3 sends it behind the handshake, with the answer.
    let mut first = Command::new("openssl");
    first.args(["s_client", "-connect", address(&app), "-sess_out", &session, "-ign_eof"]);
    let mut first = first.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut stdin = first.stdin.take().unwrap();
    stdin.write_all(request).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), first.wait()).await.unwrap().unwrap();
    let (succeeded, said) = openssl(&app, &["-sess_in", &session]).await;
    assert!(succeeded && said.contains("Reused, TLSv1.3"), "{said}");
    assert!(said.contains("Max Early Data: 0") || !said.contains("Early data was accepted"), "{said}");
}

#[tokio::test]
async fn plain_http_hears_that_it_is_the_wrong_port() {
    let app = TestApp::spawn_with(&[MINTED]).await;
    let plain = app.url.replace("https", "http");
    let answer = raw::exchange(&plain, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("HTTPS alone."), "{answer}");
    // What is neither is closed, with or without an alert.
    for bytes in [&b"\0\0\0\0\0\0\0\0"[..], b"SSH-2.0", b"\x16\x03\x01\x40\x01garbage", b"\x80\x2e\x01\0\x02"]
    {
        let mut stream = raw::connect(&plain).await;
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let said = raw::read_to_end(&mut stream).await;
        assert!(!said.starts_with(b"HTTP/1.1 2"), "{bytes:?}: {said:?}");
    }
    assert_eq!(app.get("/healthz").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn who_drags_out_a_handshake_is_dropped_and_delays_nobody() {
    let app = TestApp::spawn_with(&[MINTED, ("SALEBELL_SERVER__HEADER_TIMEOUT_S", "2")]).await;
    let plain = app.url.replace("https", "http");
    let begin = Instant::now();
    let mut slow = Vec::new();
    for at in 0..50 {
        let mut stream = raw::connect(&plain).await;
        // Silent, or with half a ClientHello.
        stream.write_all(&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..at % 12]).await.unwrap();
        slow.push(stream);
    }
    assert_eq!(app.get("/healthz").send().await.unwrap().status(), 200);
    assert!(begin.elapsed() < Duration::from_secs(2), "the others wait");
    for stream in &mut slow {
        raw::read_to_end(stream).await;
    }
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn the_drain_does_not_wait_for_handshakes_but_for_requests() {
    let (asked, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let held = {
        let (asked, release) = (asked.clone(), release.clone());
        move |app| {
            let handler = || async move {
                asked.notify_one();
                release.notified().await;
                "done"
            };
            http::layered(Router::new().route("/held", get(handler)), app)
        }
    };
    let settings = [MINTED, ("SALEBELL_SERVER__HEADER_TIMEOUT_S", "60"), ("SALEBELL_SERVER__DRAIN_S", "60")];
    let app = TestApp::spawn_router(&settings, held).await;
    let mut shaking = raw::connect(&app.url.replace("https", "http")).await;
    shaking.write_all(b"\x16\x03\x01").await.unwrap();
    let mut idle = raw::open(&app.url).await;
    // Over HTTP/2, which is told to go and finishes first.
    let request = tokio::spawn(app.get("/held").send());
    asked.notified().await;
    app.app.stopping.cancel();
    assert_eq!(raw::read_to_end(&mut shaking).await, b"");
    assert_eq!(raw::read_to_end(&mut idle).await, b"");
    assert!(tokio::net::TcpStream::connect(address(&app)).await.is_err());
    release.notify_one();
    let answer = request.await.unwrap().unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert_eq!(answer.text().await.unwrap(), "done");
}

#[tokio::test]
async fn a_file_is_the_same_over_tls() {
    let app = TestApp::spawn_with(&[MINTED]).await;
    let anna = app.user("anna", &[]).await;
    let bytes: Vec<u8> = (0..3_000_001_u32).flat_map(u32::to_le_bytes).collect();
    let sent = app.post("/v1/files?name=a.bin").bearer_auth(&anna.token).body(bytes.clone());
    let file: serde_json::Value = sent.send().await.unwrap().json().await.unwrap();
    let path = format!("/v1/files/{}/content", file["id"].as_str().unwrap());
    let got = app.get(&path).bearer_auth(&anna.token).send().await.unwrap().bytes().await.unwrap();
    assert!(got == bytes, "{} bytes of {}", got.len(), bytes.len());
}

/// A certificate and its key by OpenSSL.
fn make_files(folder: &Scratch, name: &str) -> [String; 2] {
    let paths = ["cert", "key"]
        .map(|kind| folder.path().join(format!("{name}-{kind}.pem")).to_str().unwrap().to_owned());
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=of-a-file"])
        .args(["-out", &paths[0], "-keyout", &paths[1]])
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    paths
}

#[tokio::test]
async fn a_certificate_of_ones_own_is_read_from_files_and_what_is_wrong_with_it_is_told() {
    let folder = Scratch::new();
    let (one, other) = (make_files(&folder, "one"), make_files(&folder, "other"));
    let files = |certificate, key| {
        [
            ("SALEBELL_SERVER__TLS", "files"),
            ("SALEBELL_SERVER__CERTIFICATE", certificate),
            ("SALEBELL_SERVER__KEY", key),
        ]
    };
    let app = TestApp::spawn_with(&files(&one[0], &one[1])).await;
    let (succeeded, said) = openssl(&app, &[]).await;
    assert!(succeeded && said.contains("CN = of-a-file"), "{said}");

    let database = TestDatabase::create().await;
    for (certificate, key, problem) in [
        (&one[0], &other[1], "are no certificate with its key"),
        (&one[1], &one[1], "are no certificate with its key"),
        (&"/nowhere.pem".to_owned(), &one[1], "/nowhere.pem cannot be read"),
    ] {
        let mut settings = files(certificate, key).to_vec();
        settings.push(("SALEBELL_DATABASE__URL", &database.url));
        settings.push(("SALEBELL_SERVER__LISTEN", "127.0.0.1:0"));
        let mut api = Binary::start(&["api"], &settings);
        api.logged(problem).await;
        assert_eq!(api.exit_code().await, Some(1));
    }
}

#[tokio::test]
async fn the_program_itself_serves_tls_and_stops_cleanly() {
    let app = TestApp::spawn().await;
    let mut api = instance::start(&app, "api", &[MINTED]);
    let url = api.url().await;
    assert!(url.starts_with("https://"), "{url}");
    assert_eq!(app.client.get(format!("{url}/readyz")).send().await.unwrap().status(), 200);
    let mut shaking = raw::connect(&url.replace("https", "http")).await;
    shaking.write_all(b"\x16").await.unwrap();
    api.signal(Signal::SIGTERM);
    let mut end = [0];
    assert!(matches!(shaking.read(&mut end).await, Ok(0) | Err(_)));
    assert_eq!(api.exit_code().await, Some(0));
}
