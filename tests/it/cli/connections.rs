//! Messages of the commands when there is no connection: in words for people, not in those of libraries.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::TestApp;
use crate::support::binary::command;
use crate::support::database::server_url;
use crate::support::scratch::Scratch;
use crate::support::tls::MINTED;

/// Words that no message for people contains.
const JARGON: &[&str] =
    &["os error", "tcp connect", "client error", "dns error", "hyper", "pool timed out", "request id"];

/// An address where nothing listens.
fn unused_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Accepts connections, answers the first bytes with `answer`, and closes.
async fn answers(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1000]).await;
            let _ = stream.write_all(answer).await;
        }
    });
    address
}

/// Error message of a command that must fail.
async fn complaint(arguments: &[&str], settings: &[(&str, &str)]) -> String {
    let output = command(arguments, settings).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    for word in JARGON {
        assert!(!said.contains(word), "{word} is in {said}");
    }
    said
}

#[tokio::test]
async fn commands_say_why_they_cannot_reach_the_api() {
    let (unused_address, hangs_up) = (unused_address(), answers(b"").await);
    let ssh = answers(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    let (plain, minted) = (TestApp::spawn().await, TestApp::builder().settings(&[MINTED]).spawn().await);
    let [plain_at, minted_at] =
        [&plain.url, &minted.url].map(|url| url.split_once("//").unwrap().1.to_owned());
    let scratch = Scratch::new();
    let file = scratch.path().join("a.csv");
    std::fs::write(&file, "store,sku,price,currency\na,1,1.00,EUR\n").unwrap();
    for (url, expected) in [
        (format!("http://{ssh}"), format!("http://{ssh} does not speak HTTP; is it https and not http?")),
        (
            format!("http://{unused_address}"),
            format!("nothing listens at http://{unused_address}; is `make run` running?"),
        ),
        ("http://nowhere.invalid".to_owned(), "the name nowhere.invalid does not resolve".to_owned()),
        (
            format!("http://{hangs_up}"),
            format!("http://{hangs_up} closed the connection before it had answered"),
        ),
        (format!("https://{hangs_up}"), format!("https://{hangs_up} has closed the connection")),
        (
            format!("https://{plain_at}"),
            format!("https://{plain_at} does not speak TLS; is it http and not https?"),
        ),
        (format!("http://{minted_at}"), "400 Bad Request: This port speaks HTTPS alone.".to_owned()),
        (
            format!("https://{minted_at}"),
            format!(
                "the certificate of https://{minted_at} is not signed by an authority that this machine trusts"
            ),
        ),
    ] {
        let state = scratch.path().to_str().unwrap();
        let settings =
            [("SALEBELL_TOKEN", "sbk_x"), ("SALEBELL_URL", url.as_str()), ("XDG_STATE_HOME", state)];
        for arguments in [["files", "ls"].as_slice(), &["report", file.to_str().unwrap()]] {
            let arguments = [arguments, &["--max-wait", "0"]].concat();
            let said = complaint(&arguments, &settings).await;
            assert!(said.contains(&expected), "{arguments:?}: {expected} is not in {said}");
        }
    }
}

#[tokio::test]
async fn commands_say_why_they_cannot_reach_the_database() {
    let (unused_address, hangs_up) = (unused_address(), answers(b"").await);
    let mut server = url::Url::parse(&server_url()).unwrap();
    server.set_path("no_such_database");
    let no_database = server.to_string();
    let at = format!("{}:{}", server.host_str().unwrap_or("localhost"), server.port().unwrap_or(5432));
    for (url, expected) in [
        (format!("postgres://a@{unused_address}/a"), format!("nothing listens at {unused_address}")),
        ("postgres://a@nowhere.invalid/a".to_owned(), "the name nowhere.invalid does not resolve".to_owned()),
        (
            "postgres://a@localhost/a?host=/nowhere".to_owned(),
            "nothing listens at the socket in /nowhere (port 5432)".to_owned(),
        ),
        (
            format!("postgres://a@{hangs_up}/a"),
            format!("what listens at {hangs_up} does not answer as PostgreSQL does"),
        ),
        (no_database, format!("PostgreSQL at {at} has no database no_such_database")),
    ] {
        let settings =
            [("SALEBELL_DATABASE__URL", url.as_str()), ("SALEBELL_DATABASE__ACQUIRE_TIMEOUT_MS", "300")];
        for arguments in [
            ["migrate"].as_slice(),
            &["key", "list", "--subject", "a"],
            &["stats", "show"],
            &["bus", "status"],
        ] {
            let said = complaint(arguments, &settings).await;
            let expected = format!("the database is unavailable: {expected}");
            assert!(said.contains(&expected), "{arguments:?}: {expected} is not in {said}");
        }
    }
}
