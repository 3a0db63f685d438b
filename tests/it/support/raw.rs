//! HTTP as bytes, for what no client would send.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::tls;

/// A connection, encrypted or not.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Connects to an http or https URL, and completes the handshake.
pub async fn open(url: &str) -> Box<dyn Stream> {
    match url.strip_prefix("https://") {
        Some(address) => Box::new(tls::connect(address, &["http/1.1"]).await.unwrap()),
        None => Box::new(connect(url).await),
    }
}

/// Reads everything until the server closes.
pub async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    // An error is an end, too: TLS without a close_notify, or a reset.
    let reading = async { while matches!(stream.read_buf(&mut all).await, Ok(some) if some > 0) {} };
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("the server closes");
    all
}

/// Connects to `url`, such as `http://127.0.0.1:1234`.
pub async fn connect(url: &str) -> TcpStream {
    TcpStream::connect(url.trim_start_matches("http://")).await.unwrap()
}

/// Sends the head of a request, with `expect: 100-continue` added to it, and waits until the server asks for the body:
/// the request is in its handler by then. A request that is refused temporarily (503) is sent again.
pub async fn begin(url: &str, head: &str) -> TcpStream {
    const ASKS: &str = "HTTP/1.1 100 Continue\r\n\r\n";
    for _ in 0..100 {
        let mut stream = connect(url).await;
        let head = format!("{head}expect: 100-continue\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; ASKS.len()];
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read_exact(&mut answer)).await;
        read.expect("the server answers").unwrap();
        if answer == ASKS.as_bytes() {
            return stream;
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("refused for now, again and again");
}

/// Sends bytes and reads until the server closes or has answered completely.
pub async fn exchange(url: &str, request: impl AsRef<[u8]>) -> String {
    let mut stream = connect(url).await;
    // The server may close before it has read everything.
    let _ = stream.write_all(request.as_ref()).await;
    read_answer(&mut stream).await
}

/// Reads one answer by its `Content-Length`, or everything until the end.
pub async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut chunk));
        match read.await.expect("the server answers or closes") {
            Ok(0) | Err(_) => break,
            Ok(some) => answer.extend_from_slice(&chunk[..some]),
        }
        if is_whole(&answer) {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    if head.starts_with("HTTP/1.1 204 ") {
        return true;
    }
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
}
