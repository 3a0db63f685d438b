//! A TCP proxy in front of PostgreSQL that fails as networks and hosts do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::TestApp;
use super::bus::Carrier;
use super::database::TestDatabase;

/// State of the proxy: its effect on bytes and connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    /// New connections are closed at once; existing ones are reset.
    Cut,
    /// New connections are accepted, but neither they nor existing ones get any bytes: a host that died silently.
    Silent,
}

/// Signal for silent connections that TCP gives up.
type GivenUp = watch::Sender<bool>;

/// Starts an app whose database is behind a proxy, with this carrier of prices; returns the database as well.
pub async fn spawn_behind_proxy(
    carrier: Carrier,
    settings: &[(&str, &str)],
) -> (TestApp, Proxy, TestDatabase) {
    let database = TestDatabase::create().await;
    let (proxy, url) = Proxy::before(&database).await;
    let settings = [&[("SALEBELL_DATABASE__URL", url.as_str())], settings].concat();
    (TestApp::builder().bus(carrier).settings(&settings).spawn().await, proxy, database)
}

/// Proxy that listens on a port of its own, and forwards to a server.
pub struct Proxy {
    pub port: u16,
    mode: Arc<watch::Sender<Mode>>,
    given_up: Arc<GivenUp>,
    /// Initial delay of a new connection, in milliseconds.
    delay_ms: Arc<AtomicU64>,
}

impl Proxy {
    /// Starts in front of a database; returns the database's URL through the proxy.
    pub async fn before(database: &TestDatabase) -> (Proxy, String) {
        let mut url = url::Url::parse(&database.url).unwrap();
        let host = url.host_str().unwrap_or("127.0.0.1").to_owned();
        let proxy = Proxy::start(format!("{host}:{}", url.port().unwrap_or(5432))).await;
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(proxy.port)).unwrap();
        (proxy, url.into())
    }

    /// Starts in front of `host:port`.
    pub async fn start(target: String) -> Proxy {
        Proxy::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), target)
    }

    /// Starts in front of `host:port`, on an existing listener.
    pub fn on(listener: TcpListener, target: String) -> Proxy {
        let port = listener.local_addr().unwrap().port();
        let (mode, _) = watch::channel(Mode::Open);
        let mode = Arc::new(mode);
        let given_up = Arc::new(watch::channel(false).0);
        let delay_ms = Arc::<AtomicU64>::default();
        let (modes, gives_up, delay) = (mode.clone(), given_up.clone(), delay_ms.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let passing = pass_on(client, target.clone(), modes.subscribe(), gives_up.subscribe());
                let delay = Duration::from_millis(delay.load(Ordering::Relaxed));
                let in_time = *modes.borrow() == Mode::Open;
                tokio::spawn(async move {
                    if in_time {
                        tokio::time::sleep(delay).await;
                    }
                    passing.await;
                });
            }
        });
        Proxy { port, mode, given_up, delay_ms }
    }

    /// From now on, a log-in takes longer by `delay`.
    pub fn delay_log_ins(&self, delay: Duration) {
        self.delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    pub fn open(&self) {
        self.mode.send_replace(Mode::Open);
    }

    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Ends the silent connections, as TCP does after enough retries.
    pub fn give_up(&self) {
        self.given_up.send_replace(true);
    }

    pub fn silence(&self) {
        self.mode.send_replace(Mode::Silent);
    }
}

async fn pass_on(
    mut client: TcpStream,
    target: String,
    mut mode: watch::Receiver<Mode>,
    mut given_up: watch::Receiver<bool>,
) {
    let now = *mode.borrow_and_update();
    match now {
        Mode::Open => {
            let mut server = TcpStream::connect(target).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
                _ = mode.changed() => {}
            }
            if *mode.borrow() == Mode::Silent {
                // The server's side ends, as it would for PostgreSQL; the client does not notice.
                drop(server);
                let _ = given_up.wait_for(|given_up| *given_up).await;
            }
        }
        Mode::Cut => {}
        Mode::Silent => drop(given_up.wait_for(|given_up| *given_up).await),
    }
    let _ = client.shutdown().await;
}
