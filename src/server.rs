//! Listeners: accept, limits of connections, drain.
//!
//! Known quirks. What hyper itself cannot read as HTTP it answers with a bare 400 (or 414, 431 beyond twice our
//! limits) without a problem document, and closes the connection: no request exists yet to which one could belong.
//! `pipeline_flush` stays off: with it hyper 1.12 forgets to send even that.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::app::App;
use crate::error::{Error, Result};
use crate::http::request::{MAX_HEADER_BYTES, Peer};
use crate::{http, telemetry};

/// A bound listener: its address is known before it serves.
pub struct Server {
    app: App,
    listener: TcpListener,
    router: Router,
    name: &'static str,
}

impl Server {
    /// Binds `server.listen` for the API.
    ///
    /// # Errors
    /// The address is taken or not ours.
    pub async fn bind(app: App) -> Result<Server> {
        let router = http::router(app.clone());
        Server::bind_router(app, router).await
    }

    /// Binds `server.listen` for another router, which tests do.
    ///
    /// # Errors
    /// The address is taken or not ours.
    pub async fn bind_router(app: App, router: Router) -> Result<Server> {
        let address = app.config.server.listen;
        Server::bind_to(app, address, router, "accept").await
    }

    /// Binds `address` for Prometheus.
    ///
    /// # Errors
    /// The address is taken or not ours.
    pub async fn bind_metrics(app: App, address: SocketAddr) -> Result<Server> {
        telemetry::metrics();
        let router = http::metrics_router(app.clone());
        Server::bind_to(app, address, router, "accept of metrics").await
    }

    async fn bind_to(app: App, address: SocketAddr, router: Router, name: &'static str) -> Result<Server> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| Error::internal(format!("cannot listen on {address}: {error}")))?;
        Ok(Server { app, listener, router, name })
    }

    /// Where it listens; the port is never 0.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(Error::internal)
    }

    /// Serves until `app.stopping`, and `server.linger_s` longer: by then load balancers have seen that readiness
    /// fails. Requests in flight may finish within `server.drain_s`.
    pub async fn run(self) -> Result<()> {
        let (stopping, linger) = (self.app.stopping.clone(), self.app.config.server.linger);
        self.run_until(async move {
            stopping.cancelled().await;
            tokio::time::sleep(linger).await;
        })
        .await
    }

    /// Serves until `end`, then drains.
    pub async fn run_until(self, end: impl Future<Output = ()>) -> Result<()> {
        let settings = &self.app.config.server;
        let connections = Connections {
            router: self.router.clone(),
            header_timeout: settings.header_timeout,
            closing: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        tokio::select! {
            () = self.accept(&connections) => {}
            () = end => {}
        }
        drop(self.listener);
        connections.drain(settings.drain).await;
        Ok(())
    }

    /// Takes connections for ever.
    async fn accept(&self, connections: &Connections) {
        const ROUND: Duration = Duration::from_secs(1);
        let pulse = self.app.pulses.start(self.name, 10 * ROUND);
        let slots = match self.app.config.server.max_connections {
            0 => Semaphore::MAX_PERMITS,
            some => some.min(Semaphore::MAX_PERMITS),
        };
        let slots = Arc::new(Semaphore::new(slots));
        loop {
            pulse.beat();
            // Comes round although nobody connects: the watchdog wants to see it.
            let next = async {
                // The semaphore is never closed.
                let slot = slots.clone().acquire_owned().await.ok();
                (slot, self.listener.accept().await)
            };
            let Ok((slot, accepted)) = tokio::time::timeout(ROUND, next).await else { continue };
            match accepted {
                Ok((stream, peer)) => {
                    let connection = connections.serve(stream, peer);
                    connections.tasks.spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => {
                    // Out of file descriptors, most likely: those in use will be given back.
                    log::error!(target: "salebell::server", "cannot accept connections: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Errors of a connection that is gone already, not of the listener.
fn is_of_the_peer(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// The connections of one listener.
struct Connections {
    router: Router,
    header_timeout: Duration,
    /// No further request on any connection.
    closing: CancellationToken,
    /// The end, whatever is in flight.
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Connections {
    /// Serves one connection to its end: HTTP/1.1, or HTTP/2 by prior knowledge.
    fn serve(&self, stream: TcpStream, peer: SocketAddr) -> impl Future<Output = ()> + use<> {
        let (closing, cut) = (self.closing.clone(), self.cut.clone());
        let (router, header_timeout) = (self.router.clone(), self.header_timeout);
        async move {
            // Answers are written whole, so waiting for more to send only adds latency.
            let _ = stream.set_nodelay(true);
            let begun = Arc::new(AtomicBool::new(false));
            let service = hyper::service::service_fn({
                let begun = begun.clone();
                move |request: hyper::Request<Incoming>| {
                    begun.store(true, Ordering::Relaxed);
                    let mut request = request.map(Body::new);
                    request.extensions_mut().insert(Peer(peer));
                    router.clone().oneshot(request)
                }
            });
            let builder = builder(header_timeout);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            // hyper limits the time for headers once it knows the version; this is for who never says a word.
            let silence = tokio::time::sleep(header_timeout);
            tokio::pin!(silence);
            let (mut told, mut waiting) = (false, true);
            loop {
                tokio::select! {
                    // What goes wrong on one connection is its client's doing, and common.
                    _ = connection.as_mut() => return,
                    () = closing.cancelled(), if !told => {
                        told = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    () = &mut silence, if waiting => {
                        waiting = false;
                        if !begun.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                    () = cut.cancelled() => return,
                }
            }
        }
    }

    /// Ends idle connections at once, the others after their requests, and after `limit` all.
    async fn drain(self, limit: Duration) {
        self.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout(limit, self.tasks.wait()).await.is_err() {
            log::warn!(target: "salebell::server", "{} connections are cut: they took longer than server.drain_s",
                self.tasks.len());
            self.cut.cancel();
            self.tasks.wait().await;
        }
    }
}

fn builder(header_timeout: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Runs between requests too, so it is how long a connection may idle: longer than a load balancer's 60 s.
        .header_read_timeout(header_timeout)
        // Twice our own limit, which answers with a problem document.
        .max_buf_size(2 * MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(2 * MAX_HEADER_BYTES as u32)
        .max_concurrent_streams(250)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}
