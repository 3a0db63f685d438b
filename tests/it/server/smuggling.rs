//! Request smuggling: anything that two programs in a row may interpret differently is refused, or interpreted by one
//! rule. Sent as bytes, over plain HTTP and over TLS.
//!
//! Each case is followed by bytes that would be a request of their own if the server lost its place in the stream; none
//! of them may ever reach a handler.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::routing::any;
use futures_util::future::join_all;
use salebell::http;
use tokio::io::AsyncWriteExt;

use crate::support::tls::MINTED;
use crate::support::{TestApp, raw};

/// Requests that the handler has seen: method, path, body.
pub type Seen = Arc<Mutex<Vec<String>>>;

/// Starts an app that records every request under `/seen/` whose body has arrived completely.
pub async fn spawn(settings: &[(&str, &str)]) -> (TestApp, Seen) {
    let seen = Seen::default();
    let notes = seen.clone();
    let handler = move |request: Request| async move {
        let (parts, body) = request.into_parts();
        let Ok(body) = to_bytes(body, usize::MAX).await else { return "broken" };
        let body = String::from_utf8_lossy(&body).into_owned();
        notes.lock().unwrap().push(format!("{} {} {body}", parts.method, parts.uri.path()));
        "seen"
    };
    let mut own = vec![("SALEBELL_SERVER__IDLE_TIMEOUT_S", "2"), ("SALEBELL_SERVER__HEADER_TIMEOUT_S", "2")];
    own.extend_from_slice(settings);
    let router = |app| http::layered(Router::new().route("/seen/{name}", any(handler)), app);
    (TestApp::builder().settings(&own).router(router).spawn().await, seen)
}

const SMUGGLED: &str = "GET /seen/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sends bytes on a separate connection, and returns everything that comes back until the connection ends.
async fn send(app: &TestApp, bytes: &[u8]) -> String {
    let mut stream = raw::open(&app.url).await;
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    String::from_utf8_lossy(&raw::read_to_end(&mut stream).await).into_owned()
}

/// Sends each case to `/seen/<number>`: the answer must be a refusal, the connection must end, and no handler may see
/// anything.
async fn all_are_refused(cases: &[(&str, String)]) {
    for tls in [("SALEBELL_SERVER__TLS", "off"), MINTED] {
        let (app, seen) = spawn(&[tls]).await;
        let answers = join_all(cases.iter().map(|(_, bytes)| send(&app, bytes.as_bytes()))).await;
        let mut wrong = Vec::new();
        for ((name, bytes), answer) in cases.iter().zip(answers) {
            let status = answer.strip_prefix("HTTP/1.1 ").or(answer.strip_prefix("HTTP/1.0 "));
            let status = status.and_then(|rest| rest.get(..3)).unwrap_or("none");
            let refused = matches!(status, "400" | "405" | "414" | "431" | "501" | "505" | "none");
            if !refused || answer.matches("HTTP/1.").count() > 1 {
                wrong.push(format!("{name}: {bytes:?} → {answer}"));
            }
        }
        assert!(wrong.is_empty(), "{tls:?}\n{}", wrong.join("\n"));
        assert_eq!(*seen.lock().unwrap(), [""; 0], "{tls:?}");
    }
}

fn with_header(lines: &str) -> String {
    format!("POST /seen/one HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n")
}

#[tokio::test]
async fn two_lengths_and_invalid_lengths_are_refused() {
    let length = SMUGGLED.len();
    let cases = [
        ("two lengths", format!("Content-Length: 0\r\nContent-Length: {length}")),
        ("two lengths, the other way", format!("Content-Length: {length}\r\nContent-Length: 0")),
        ("a list", format!("Content-Length: 0, {length}")),
        ("a list of the same", "Content-Length: 0, 0".to_owned()),
        ("plus", format!("Content-Length: +{length}")),
        ("minus", "Content-Length: -1".to_owned()),
        ("hexadecimal", "Content-Length: 0x10".to_owned()),
        ("nothing", "Content-Length:".to_owned()),
        ("two words", "Content-Length: 1 2".to_owned()),
        ("a fraction", "Content-Length: 1.0".to_owned()),
        ("beyond 64 bits", "Content-Length: 18446744073709551616".to_owned()),
        ("beyond 63 bits", "Content-Length: 18446744073709551615".to_owned()),
        ("space before the colon", format!("Content-Length : {length}")),
        ("a fold", format!("Content-Length:\r\n {length}")),
        ("a vertical tab", format!("Content-Length: \u{b}{length}")),
    ];
    all_are_refused(&cases.map(|(name, lines)| (name, with_header(&lines) + SMUGGLED))).await;
}

#[tokio::test]
async fn transfer_encodings_but_plain_chunked_are_refused() {
    let lines = [
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: , chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: identity",
        "Transfer-Encoding:",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding: chunked\u{b}",
        "Transfer-Encoding: chunked\u{0}",
        "Transfer-Encoding: chu\r\n nked",
        "Transfer-Encoding:\r\n chunked",
        " Transfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-encoding: x",
        "Content-Length: 4\r\nTransfer-Encoding: xchunked",
        "Content-Length: 4\r\nTransfer-Encoding : chunked",
    ];
    let cases = lines.map(|lines| (lines, with_header(lines) + "0\r\n\r\n" + SMUGGLED));
    all_are_refused(&cases).await;
    let old = format!(
        "POST /seen/old HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
    );
    all_are_refused(&[("HTTP/1.0 has no encodings", old)]).await;
}

#[tokio::test]
async fn broken_chunks_end_the_connection() {
    let bombs = ["x".repeat(20_000), format!("5;{}\r\nhello\r\n", "x=y;".repeat(10_000))];
    let endless: String = (0..5_000).map(|at| format!("1;a={}\r\nx\r\n", at)).collect();
    let trailers: String = (0..5_000).map(|at| format!("x-{at}: {at}\r\n")).collect();
    let cases = [
        ("negative", "-1\r\nhello\r\n".to_owned()),
        ("plus", "+5\r\nhello\r\n".to_owned()),
        ("0x", "0x5\r\nhello\r\n".to_owned()),
        ("no hexadecimal digit", "g\r\nhello\r\n".to_owned()),
        ("nothing", "\r\nhello\r\n".to_owned()),
        ("beyond 64 bits", "FFFFFFFFFFFFFFFFF\r\nhello\r\n".to_owned()),
        ("wraps to five", "10000000000000005\r\nhello\r\n".to_owned()),
        ("two numbers", "5 5\r\nhello\r\n".to_owned()),
        ("garbage behind the bytes", "5\r\nhelloX\r\n".to_owned()),
        ("more bytes than said", "3\r\nhello\r\n".to_owned()),
        ("a bare LF behind the size", "5\nhello\r\n".to_owned()),
        ("a bare CR behind the size", "5\rhello\r\n".to_owned()),
        ("a bare LF behind the bytes", "5\r\nhello\n".to_owned()),
        ("a bare LF in an extension", "5;a\nb\r\nhello\r\n".to_owned()),
        ("a bare CR in an extension", "5;a\rb\r\nhello\r\n".to_owned()),
        ("a size that does not end", bombs[0].clone()),
        ("an extension that does not end", bombs[1].clone()),
        ("extensions that do not end", endless),
    ];
    let request = |body: &str| with_header("Transfer-Encoding: chunked") + body + "0\r\n\r\n" + SMUGGLED;
    for tls in [("SALEBELL_SERVER__TLS", "off"), MINTED] {
        let (app, seen) = spawn(&[tls]).await;
        for (name, body) in &cases {
            let answer = send(&app, request(body).as_bytes()).await;
            assert!(answer.matches("HTTP/1.1").count() <= 1, "{name}: {answer}");
            assert_eq!(*seen.lock().unwrap(), [""; 0], "{name}: {answer}");
        }
        let body = with_header("Transfer-Encoding: chunked") + "0\r\n" + &trailers + "\r\n" + SMUGGLED;
        let answer = send(&app, body.as_bytes()).await;
        assert!(!seen.lock().unwrap().iter().any(|one| one.contains("smuggled")), "trailers: {answer}");
    }
}

#[tokio::test]
async fn invalid_heads_are_refused() {
    let get = |line: &str, lines: &str| format!("{line}\r\n{lines}\r\n\r\n{SMUGGLED}");
    let one = "GET /seen/one HTTP/1.1";
    let cases = [
        ("no Host", get(one, "X: y")),
        ("two Hosts", get(one, "Host: a\r\nHost: b")),
        ("the same Host twice", get(one, "Host: a\r\nHost: a")),
        ("an empty Host", get(one, "Host:")),
        ("a Host with a space", get(one, "Host: a b")),
        ("a Host with a path", get(one, "Host: a/b")),
        ("a Host with a user", get(one, "Host: u@a")),
        ("two Hosts in HTTP/1.0", get("GET /seen/one HTTP/1.0", "Host: a\r\nHost: b")),
        (
            "two Hosts in HTTP/1.0 that is to go on",
            get("GET /seen/one HTTP/1.0", "Host: a\r\nHost: b\r\nConnection: keep-alive"),
        ),
        ("another host in the address", get("GET http://b/seen/one HTTP/1.1", "Host: a")),
        ("a host in the address alone", get("GET http://a/seen/one HTTP/1.1", "X: y")),
        ("a fold", get(one, "Host: a\r\nX: y\r\n z")),
        ("a fold by a tab", get(one, "Host: a\r\nX: y\r\n\tz")),
        ("a fold at once", get(one, " Host: a")),
        ("NUL in a value", get(one, "Host: a\r\nX: a\0b")),
        ("NUL in a name", get(one, "Host: a\r\nX\0: b")),
        ("CR in a value", get(one, "Host: a\r\nX: a\rb")),
        ("CR in a name", get(one, "Host: a\r\nX\r: b")),
        ("space before a colon", get(one, "Host: a\r\nX : b")),
        ("no colon", get(one, "Host: a\r\nX")),
        ("no name", get(one, "Host: a\r\n: b")),
        ("a name in quotes", get(one, "Host: a\r\n\"X\": b")),
        ("a name of umlauts", get(one, "Host: a\r\nÄ: b")),
        ("two spaces", get("GET  /seen/one HTTP/1.1", "Host: a")),
        ("a space behind", get("GET /seen/one HTTP/1.1 ", "Host: a")),
        ("a tab", get("GET\t/seen/one HTTP/1.1", "Host: a")),
        ("NUL in the address", get("GET /seen/one\0 HTTP/1.1", "Host: a")),
        ("a space in the address", get("GET /seen/one two HTTP/1.1", "Host: a")),
        ("no version", get("GET /seen/one", "Host: a")),
        ("an unknown version", get("GET /seen/one HTTP/1.2", "Host: a")),
        ("HTTP/2 in the line", get("GET /seen/one HTTP/2.0", "Host: a")),
        ("a version in small letters", get("GET /seen/one http/1.1", "Host: a")),
        ("a method with a colon", get("GE:T /seen/one HTTP/1.1", "Host: a")),
        ("a tunnel", get("CONNECT a:80 HTTP/1.1", "Host: a:80")),
        ("a tunnel to a path", get("CONNECT /seen/one HTTP/1.1", "Host: a")),
        ("an echo", get("TRACE /seen/one HTTP/1.1", "Host: a")),
        (
            "an address that is too long",
            get(&format!("GET /seen/{} HTTP/1.1", "x".repeat(17_000)), "Host: a"),
        ),
        ("a header that is too long", get(one, &format!("Host: a\r\nX: {}", "x".repeat(66_000)))),
        ("too many headers", get(one, &format!("Host: a\r\n{}Y: z", "X: y\r\n".repeat(200)))),
    ];
    all_are_refused(&cases).await;
}

#[tokio::test]
async fn ambiguities_that_http_permits_are_read_by_one_rule() {
    let chunked = format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
    let length = format!("Content-Length: {}", SMUGGLED.len());
    let post = |lines: &str, body: &str| with_header(lines) + body;
    let (as_body, empty) = (format!("POST /seen/one {SMUGGLED}"), "POST /seen/one ".to_owned());
    let cases = [
        ("a length", post(&length, SMUGGLED), &as_body),
        ("the same length twice", post(&format!("{length}\r\n{length}"), SMUGGLED), &as_body),
        ("chunks", post("Transfer-Encoding: chunked", &chunked), &as_body),
        ("chunks, in capitals", post("TRANSFER-ENCODING:\tCHUNKED\t", &chunked), &as_body),
        // RFC 9112, section 6.3: the encoding overrides the length, and the connection ends.
        ("length, then chunks", post("Content-Length: 3\r\nTransfer-Encoding: chunked", &chunked), &as_body),
        ("chunks, then length", post("Transfer-Encoding: chunked\r\nContent-Length: 3", &chunked), &as_body),
        (
            "an empty chunked body beside a length",
            post(&format!("{length}\r\nTransfer-Encoding: chunked"), "0\r\n\r\n") + SMUGGLED,
            &empty,
        ),
        (
            "an upgrade to HTTP/2 is ignored",
            post(
                &format!(
                    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\n{length}"
                ),
                SMUGGLED,
            ),
            &as_body,
        ),
        ("an unknown expectation", post(&format!("Expect: 200-ok\r\n{length}"), SMUGGLED), &as_body),
        // RFC 9112, section 2.2: a lone LF may end a line. It does so everywhere, and one LF never ends two lines.
        ("LF alone", post(&length, SMUGGLED).replacen("\r\n", "\n", 4), &as_body),
        (
            "an address with its host",
            post(&length, SMUGGLED).replace("/seen/one", "http://a/seen/one"),
            &as_body,
        ),
    ];
    // Each case has its own path, so all of them can run at once.
    let own = |text: &str, at: usize| text.replacen("/seen/one", &format!("/seen/{at}"), 1);
    for tls in [("SALEBELL_SERVER__TLS", "off"), MINTED] {
        let (app, seen) = spawn(&[tls]).await;
        let requests: Vec<String> =
            cases.iter().enumerate().map(|(at, (_, bytes, _))| own(bytes, at)).collect();
        let answers = join_all(requests.iter().map(|bytes| send(&app, bytes.as_bytes()))).await;
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), cases.len(), "{seen:?}");
        for (at, ((name, _, expected), answer)) in cases.iter().zip(answers).enumerate() {
            assert!(seen.contains(&own(expected, at)), "{name}: {answer}\n{seen:?}");
            assert!(answer.starts_with("HTTP/1.1 200 "), "{name}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{name}: {answer}");
        }
    }
}

#[tokio::test]
async fn two_requests_in_one_packet_are_two_and_a_refusal_ends_the_rest() {
    let (app, seen) = spawn(&[]).await;
    let one = "GET /seen/one HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = send(&app, format!("{one}{SMUGGLED}").as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    assert_eq!(seen.lock().unwrap().drain(..).count(), 2);
    let wrong = "GET /seen/one HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    let answer = send(&app, format!("{wrong}{SMUGGLED}").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("connection: close"), "{answer}");
    assert_eq!(*seen.lock().unwrap(), [""; 0], "{answer}");
}
