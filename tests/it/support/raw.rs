//! HTTP as bytes, for what no client would send.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection to `url`, such as `http://127.0.0.1:1234`.
pub async fn connect(url: &str) -> TcpStream {
    TcpStream::connect(url.trim_start_matches("http://")).await.unwrap()
}

/// Sends bytes and reads until the server closes or has answered whole.
pub async fn exchange(url: &str, request: impl AsRef<[u8]>) -> String {
    let mut stream = connect(url).await;
    // The server may close before it has read everything.
    let _ = stream.write_all(request.as_ref()).await;
    read_answer(&mut stream).await
}

/// Reads one answer with its `Content-Length`, or everything until the end.
pub async fn read_answer(stream: &mut TcpStream) -> String {
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
