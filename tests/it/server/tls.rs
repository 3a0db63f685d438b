//! TLS of the instance, tested with rustls and OpenSSL as clients.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use nix::sys::signal::Signal;
use salebell::http;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::Notify;
use tokio_rustls::rustls::HandshakeKind;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::support::binary::Binary;
use crate::support::database::TestDatabase;
use crate::support::scratch::Scratch;
use crate::support::tls::{self, MINTED, connect};
use crate::support::{TestApp, instance, raw};

fn address(app: &TestApp) -> &str {
    app.url.strip_prefix("https://").expect("it serves TLS")
}

#[tokio::test]
async fn a_minted_certificate_serves_http1_and_http2_by_alpn() {
    let app = TestApp::builder().settings(&[MINTED]).spawn().await;
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
    // A client that verifies the certificate learns that no authority vouches for it.
    let strict = reqwest::Client::builder().no_proxy().build().unwrap();
    assert!(strict.get(format!("{}/healthz", app.url)).send().await.is_err());
}

/// Connects with OpenSSL (tests/clients/tls.py) and returns what client and app have agreed on.
async fn openssl(app: &TestApp, mut task: Value) -> Value {
    task["address"] = address(app).into();
    let mut command = Command::new(std::env::var("SALEBELL_TEST_PYTHON").expect("`make test` sets it"));
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/tls.py")).kill_on_drop(true);
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    client.stdin.take().unwrap().write_all(task.to_string().as_bytes()).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), client.wait_with_output()).await.unwrap();
    serde_json::from_slice(&ended.unwrap().stdout).unwrap_or_else(|_| panic!("no answer to {task}"))
}

/// DER bytes of a certificate in PEM.
fn der(pem: &Value) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_str().unwrap().as_bytes()).unwrap().to_vec()
}

#[tokio::test]
async fn openssl_agrees_on_tls_1_2_and_1_3_and_on_nothing_older() {
    let app = TestApp::builder().settings(&[MINTED]).spawn().await;
    let anything = "ALL:@SECLEVEL=0";
    for (version, name) in [("TLSv1_2", "TLSv1.2"), ("TLSv1_3", "TLSv1.3")] {
        let agreed = openssl(&app, json!({"version": version, "ciphers": anything})).await;
        assert_eq!(agreed["version"], name, "{agreed}");
    }
    for version in ["TLSv1", "TLSv1_1"] {
        let agreed = openssl(&app, json!({"version": version, "ciphers": anything})).await;
        assert!(agreed["refused"].is_string(), "{version}: {agreed}");
    }
    // No static RSA, no CBC, no 3DES.
    for weak in ["AES128-SHA", "ECDHE-RSA-AES128-SHA", "ECDHE-ECDSA-AES128-SHA256"] {
        let task = json!({"version": "TLSv1_2", "ciphers": format!("{weak}:@SECLEVEL=0")});
        let agreed = openssl(&app, task).await;
        assert!(agreed["refused"].is_string(), "{weak}: {agreed}");
    }
}

#[tokio::test]
async fn the_minted_certificate_is_for_this_machine_and_for_ecdsa_on_p_256() {
    let app = TestApp::builder().settings(&[MINTED]).spawn().await;
    let minted = openssl(&app, json!({})).await["certificate"].clone();
    let trusting = openssl(&app, json!({"trusts": minted, "name": "127.0.0.1"})).await;
    assert_eq!(trusting["subject"], json!([["commonName", "salebell"]]), "{trusting}");
    let names = trusting["names"].as_array().unwrap();
    for name in [json!(["DNS", "localhost"]), json!(["IP Address", "127.0.0.1"])] {
        assert!(names.contains(&name), "{name} is missing in {trusting}");
    }
    let other = openssl(&app, json!({"trusts": minted, "name": "elsewhere.example"})).await;
    assert_eq!(other["refused"], "CERTIFICATE_VERIFY_FAILED");
    // In DER: id-ecPublicKey with the curve prime256v1 (RFC 5480), and the critical extension keyUsage with the single
    // bit digitalSignature (RFC 5280).
    let key = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
    let usage = b"\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x07\x80";
    let der = der(&minted);
    for part in [&key[..], usage] {
        assert!(der.windows(part.len()).any(|bytes| bytes == part), "{part:x?} is missing in {der:x?}");
    }
}

#[tokio::test]
async fn a_session_is_resumed_instead_of_a_second_handshake_and_takes_no_early_data() {
    let app = TestApp::builder().settings(&[MINTED]).spawn().await;
    for (version, name) in [("TLSv1_2", "TLSv1.2"), ("TLSv1_3", "TLSv1.3")] {
        let agreed = openssl(&app, json!({"version": version, "resumes": true})).await;
        assert_eq!((&agreed["version"], &agreed["resumed"]), (&json!(name), &json!(true)), "{agreed}");
    }
    let client = tls::client(&["http/1.1"], true);
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut stream = tls::connect_with(&client, address(&app)).await.unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        // The session ticket arrives with the answer.
        raw::read_to_end(&mut stream).await;
        let agreed = stream.get_ref().1;
        assert_eq!(agreed.handshake_kind(), Some(kind));
        assert!(!agreed.is_early_data_accepted(), "early data can be replayed");
    }
}

#[tokio::test]
async fn plain_http_on_the_tls_port_is_answered_with_an_explanation() {
    let app = TestApp::builder().settings(&[MINTED]).spawn().await;
    let plain = app.url.replace("https", "http");
    let answer = raw::exchange(&plain, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("HTTPS alone.\n"), "{answer}");
    // Bytes that are neither TLS nor HTTP end the connection, with or without an alert.
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
async fn a_client_that_drags_out_a_handshake_is_dropped_and_delays_no_other() {
    let app =
        TestApp::builder().settings(&[MINTED, ("SALEBELL_SERVER__HEADER_TIMEOUT_S", "2")]).spawn().await;
    let plain = app.url.replace("https", "http");
    let begin = Instant::now();
    let mut slow = Vec::new();
    for at in 0..50 {
        let mut stream = raw::connect(&plain).await;
        // A client that sends nothing, or half a ClientHello.
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
    let (begun, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let held = {
        let (begun, release) = (begun.clone(), release.clone());
        move |app| {
            let handler = || async move {
                begun.notify_one();
                release.notified().await;
                "done"
            };
            http::layered(Router::new().route("/held", get(handler)), app)
        }
    };
    let settings = [MINTED, ("SALEBELL_SERVER__HEADER_TIMEOUT_S", "60"), ("SALEBELL_SERVER__DRAIN_S", "60")];
    let app = TestApp::builder().settings(&settings).router(held).spawn().await;
    let mut shaking = raw::connect(&app.url.replace("https", "http")).await;
    shaking.write_all(b"\x16\x03\x01").await.unwrap();
    let mut idle = raw::open(&app.url).await;
    // Over HTTP/2, whose connection gets a GOAWAY and finishes its requests first.
    let request = tokio::spawn(app.get("/held").send());
    begun.notified().await;
    app.state.stopping.cancel();
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
    let app = TestApp::builder().settings(&[MINTED]).spawn().await;
    let anna = app.user("anna", &[]).await;
    let bytes: Vec<u8> = (0..3_000_001_u32).flat_map(u32::to_le_bytes).collect();
    let sent = app.post("/v1/files?name=a.bin").bearer_auth(&anna.token).body(bytes.clone());
    let file: serde_json::Value = sent.send().await.unwrap().json().await.unwrap();
    let path = format!("/v1/files/{}/content", file["id"].as_str().unwrap());
    let got = app.get(&path).bearer_auth(&anna.token).send().await.unwrap().bytes().await.unwrap();
    assert!(got == bytes, "{} bytes of {}", got.len(), bytes.len());
}

/// Makes a certificate and its key with OpenSSL.
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
async fn a_certificate_is_read_from_files_and_its_faults_are_reported() {
    let folder = Scratch::new();
    let (one, other) = (make_files(&folder, "one"), make_files(&folder, "other"));
    let files = |certificate, key| {
        [
            ("SALEBELL_SERVER__TLS", "files"),
            ("SALEBELL_SERVER__CERTIFICATE", certificate),
            ("SALEBELL_SERVER__KEY", key),
        ]
    };
    let app = TestApp::builder().settings(&files(&one[0], &one[1])).spawn().await;
    let shown = openssl(&app, json!({})).await;
    let own = std::fs::read_to_string(&one[0]).unwrap().into();
    assert_eq!(der(&shown["certificate"]), der(&own));

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
