#!/usr/bin/env bash
# sqlx 0.9.0 (crate `sqlx`, PostgreSQL, tokio), rustc 1.94: a connection that a pool is opening is thrown away when the caller
# that it is opened for stops waiting.
#
# A pool of 5 connections with acquire_timeout 300 ms, in front of a server that takes connections and answers the start-up
# packet after 600 ms. Guess: after the first timeouts the pool has connections, since each log-in would succeed. Seen:
# every `acquire` opens a TCP connection of its own and closes it when its time is over, `pool.size()` goes back to 0, and
# no caller ever gets a connection, however often it asks. The same happens when the future of `acquire` is dropped, as a web
# server does with the handler of a client that hangs up.
#
# Output seen:
#   12 callers in turn: 12 timed out, 12 connections opened, pool size afterwards 0
#
# Ends with 0 when that is so, and with 1 when the pool keeps what it has begun to open.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"

[dependencies]
sqlx = { version = "=0.9.0", default-features = false, features = ["postgres", "runtime-tokio"] }
tokio = { version = "1", features = ["full"] }
TOML
cat >"$folder/src/main.rs" <<'RUST'
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// AuthenticationOk and ReadyForQuery: a log-in that has succeeded.
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

#[tokio::main]
async fn main() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut packet = [0; 1024];
                let _ = stream.read(&mut packet).await;
                tokio::time::sleep(Duration::from_millis(600)).await;
                let _ = stream.write_all(WELCOME).await;
                while matches!(stream.read(&mut packet).await, Ok(some) if some > 0) {}
            });
        }
    });
    let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(port).username("a")
        .ssl_mode(sqlx::postgres::PgSslMode::Disable);
    let connect = |patience| {
        PgPoolOptions::new().max_connections(5).acquire_timeout(Duration::from_millis(patience)).connect_lazy_with(options.clone())
    };
    // The server is good enough for a caller who waits.
    connect(5_000).acquire().await.expect("a patient caller gets a connection");
    let before = opened.load(Ordering::SeqCst);
    let pool = connect(300);
    let mut timed_out = 0;
    for _ in 0..12 {
        timed_out += usize::from(matches!(pool.acquire().await, Err(sqlx::Error::PoolTimedOut)));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let opened = opened.load(Ordering::SeqCst) - before;
    println!("12 callers in turn: {timed_out} timed out, {opened} connections opened, pool size afterwards {}", pool.size());
    assert_eq!((timed_out, opened, pool.size()), (12, 12, 0));
}
RUST
cd "$folder"
cargo run --quiet
