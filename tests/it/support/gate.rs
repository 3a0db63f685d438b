//! A TCP proxy in front of the API that passes a limited number of bytes, and breaks connections on demand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Proxy between a client and the API.
pub struct Gate {
    pub url: String,
    state: Arc<State>,
}

struct State {
    /// Bytes passed so far, in both directions.
    passed: AtomicU64,
    /// Bytes that may pass in total.
    allowed: watch::Sender<u64>,
    /// Number of the current round; connections of an older round end.
    round: watch::Sender<u64>,
}

impl Gate {
    /// Starts in front of the API at `url`, without a limit.
    pub async fn start(url: &str) -> Gate {
        let target = url.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            passed: AtomicU64::new(0),
            allowed: watch::channel(u64::MAX).0,
            round: watch::channel(0).0,
        });
        let gate = Gate { url, state: state.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, state) = (target.clone(), state.clone());
                tokio::spawn(async move {
                    let mut round = state.round.subscribe();
                    let now = *round.borrow_and_update();
                    let Ok(server) = TcpStream::connect(target).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::select! {
                        () = pass(from_client, to_server, state.clone()) => {}
                        () = pass(from_server, to_client, state.clone()) => {}
                        _ = round.wait_for(|round| *round > now) => {}
                    }
                });
            }
        });
        gate
    }

    /// Lets `bytes` more bytes through, and no more.
    pub fn allow_more(&self, bytes: u64) {
        self.state.allowed.send_replace(self.passed().saturating_add(bytes));
    }

    /// Lets everything through.
    pub fn open(&self) {
        self.state.allowed.send_replace(u64::MAX);
    }

    /// Breaks every existing connection.
    pub fn cut(&self) {
        self.state.round.send_modify(|round| *round += 1);
    }

    /// Bytes that went through so far.
    pub fn passed(&self) -> u64 {
        self.state.passed.load(Ordering::SeqCst)
    }

    /// Waits until all permitted bytes have passed.
    pub async fn until_shut(&self) {
        let shut = async {
            while self.passed() < *self.state.allowed.borrow() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), shut).await.expect("it comes that far");
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: Arc<State>) {
    let mut allowed = state.allowed.subscribe();
    let mut bytes = [0; 16 << 10];
    loop {
        let Ok(read) = from.read(&mut bytes).await else { return };
        if read == 0 {
            // The other direction may continue.
            let _ = to.shutdown().await;
            return std::future::pending().await;
        }
        if allowed.wait_for(|&allowed| state.passed.load(Ordering::SeqCst) < allowed).await.is_err() {
            return;
        }
        state.passed.fetch_add(read as u64, Ordering::SeqCst);
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
