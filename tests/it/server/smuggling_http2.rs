//! Request smuggling over HTTP/2, where heads are lists and bodies are framed: bytes that would become another request
//! once a program rewrites them as HTTP/1.1 reach no handler. Frames are written by hand (RFC 9113, RFC 7541).

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::smuggling::spawn;
use crate::support::TestApp;
use crate::support::tls::{MINTED, connect};

pub const HEADERS: u8 = 1;
pub const DATA: u8 = 0;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Header block of literals without an index and without Huffman coding.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// Type of the frame that ends stream 1: the first one that ends the stream or the connection.
async fn outcome(app: &TestApp, frames: &[Vec<u8>]) -> u8 {
    let address = app.url.trim_start_matches("https://");
    let mut stream = connect(address, &["h2"]).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    frames.iter().for_each(|frame| bytes.extend(frame));
    let _ = stream.write_all(&bytes).await;
    let reading = async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return GOAWAY;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await.unwrap();
            if matches!(head[3], HEADERS | RST_STREAM | GOAWAY) {
                return head[3];
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), reading).await.expect("an outcome")
}

const GOOD: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "https"), (":path", "/seen/one"), (":authority", "a")];

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    GOOD.iter().chain(more).copied().collect()
}

fn replaced(name: &str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    GOOD.iter().map(|&(own, old)| (own, if own == name { value } else { old })).collect()
}

#[tokio::test]
async fn heads_that_http1_would_read_differently_are_refused() {
    let (app, seen) = spawn(&[MINTED]).await;
    let good = outcome(&app, &[frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&GOOD))]).await;
    assert_eq!((good, seen.lock().unwrap().drain(..).count()), (HEADERS, 1), "a good one is answered");

    let cases = [
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("connection", with(&[("connection", "close")])),
        ("proxy-connection", with(&[("proxy-connection", "keep-alive")])),
        ("keep-alive", with(&[("keep-alive", "timeout=5")])),
        ("upgrade", with(&[("upgrade", "h2c")])),
        ("te", with(&[("te", "chunked")])),
        ("a name in capitals", with(&[("X-Name", "a")])),
        ("a line end in a value", with(&[("x", "a\r\ntransfer-encoding: chunked")])),
        ("LF in a value", with(&[("x", "a\nb")])),
        ("NUL in a value", with(&[("x", "a\0b")])),
        ("a line end in a name", with(&[("x\r\ny", "a")])),
        ("a colon in a name", with(&[("x:y", "a")])),
        ("a space in a name", with(&[("x y", "a")])),
        ("no name", with(&[("", "a")])),
        ("two lengths", with(&[("content-length", "0"), ("content-length", "5")])),
        ("a length that is none", with(&[("content-length", "+0")])),
        ("another host", with(&[("host", "b")])),
        ("two paths", with(&[(":path", "/seen/two")])),
        ("two methods", with(&[(":method", "GET")])),
        ("a pseudo-header behind others", [vec![("x", "y")], with(&[])].concat()),
        ("an unknown pseudo-header", [vec![(":unknown", "y")], with(&[])].concat()),
        ("a pseudo-header of answers", [vec![(":status", "200")], with(&[])].concat()),
        ("no method", with(&[])[1..].to_vec()),
        ("no path", vec![GOOD[0], GOOD[1], GOOD[3]]),
        ("an empty path", replaced(":path", "")),
        ("a line in the path", replaced(":path", "/seen/one HTTP/1.1\r\nx: y")),
        ("a space in the path", replaced(":path", "/seen/one two")),
        ("a request in the method", replaced(":method", "GET /seen/two HTTP/1.1\r\nx:")),
        ("a user in the authority", replaced(":authority", "u@a")),
        ("a line in the authority", replaced(":authority", "a\r\nx: y")),
        ("a tunnel", vec![(":method", "CONNECT"), (":authority", "a:80")]),
    ];
    let mut wrong = Vec::new();
    for (name, fields) in cases {
        outcome(&app, &[frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields))]).await;
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        if !seen.is_empty() {
            wrong.push(format!("{name}: {seen:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_body_of_another_length_than_announced_is_refused() {
    let (app, seen) = spawn(&[MINTED]).await;
    for (said, sent) in [("3", "hello"), ("10", "hello"), ("0", "hello"), ("5", "")] {
        let head = frame(HEADERS, END_HEADERS, 1, &block(&with(&[("content-length", said)])));
        outcome(&app, &[head, frame(DATA, END_STREAM, 1, sent.as_bytes())]).await;
        assert_eq!(*seen.lock().unwrap(), [""; 0], "{said} {sent}");
    }
    // A non-zero content length although the stream ends with the head.
    let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&with(&[("content-length", "5")])));
    outcome(&app, &[head]).await;
    assert_eq!(*seen.lock().unwrap(), [""; 0]);
    let head = frame(HEADERS, END_HEADERS, 1, &block(&with(&[("content-length", "5")])));
    assert_eq!(outcome(&app, &[head, frame(DATA, END_STREAM, 1, b"hello")]).await, HEADERS);
    assert_eq!(*seen.lock().unwrap(), ["POST /seen/one hello"]);
}

#[tokio::test]
async fn floods_end_the_connection() {
    let (app, _) = spawn(&[MINTED]).await;
    // Rapid reset: streams that are cancelled as soon as they are opened (CVE-2023-44487).
    let mut reset = Vec::new();
    for at in 0..20_000 {
        let stream = 2 * at + 1;
        reset.push(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&GOOD)));
        reset.push(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    // A head that never ends (CVE-2024-27316).
    const CONTINUATION: u8 = 9;
    let mut endless = vec![frame(HEADERS, 0, 1, &block(&GOOD))];
    let more: Vec<(&str, &str)> = vec![("x", "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"); 200];
    endless.extend((0..2_000).map(|_| frame(CONTINUATION, 0, 1, &block(&more))));
    for (name, frames) in [("rapid reset", reset), ("a head without an end", endless)] {
        let address = app.url.trim_start_matches("https://");
        let stream = connect(address, &["h2"]).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &[]));
        frames.iter().for_each(|frame| bytes.extend(frame));
        let writing = tokio::spawn(async move { writer.write_all(&bytes).await });
        let mut said = Vec::new();
        let reading = async { while matches!(reader.read_buf(&mut said).await, Ok(some) if some > 0) {} };
        tokio::time::timeout(std::time::Duration::from_secs(20), reading).await.expect(name);
        writing.abort();
        assert_eq!(app.get("/seen/after").send().await.unwrap().status(), 200, "{name}");
    }
}
