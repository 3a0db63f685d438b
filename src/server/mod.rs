//! Listeners: accepting connections, TLS, connection limits, and the drain.
//!
//! Known quirks: a request that hyper cannot parse as HTTP gets a bare 400 (or 414, or 431 beyond twice our limits)
//! without a problem document, and the connection is closed, because no request exists yet to which a document could
//! refer. `pipeline_flush` stays off: with it, hyper 1.12 does not even send that response.

pub mod process;

mod room;
mod speaks;
mod timeouts;
mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Version, header};
use axum::response::{IntoResponse, Response};
use futures_util::future::Either;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use self::room::{Place, Room};
use self::speaks::Speaks;
use self::timeouts::{Answering, Arriving, ConnectionTimeouts, Overdue, WatchedStream};
use self::tls::Tls;
use crate::api::request_state::Peer;
use crate::app::App;
use crate::error::{Error, Kind, Result};
use crate::http::middleware::request_limits::MAX_HEADER_BYTES;
use crate::{config, grpc, http, telemetry};

/// A bound listener, whose address is known before it serves.
pub struct Server {
    app: App,
    listener: TcpListener,
    router: Router,
    name: &'static str,
    tls: Option<Tls>,
    speaks: Speaks,
    /// Cancelled when no connection may accept another request.
    closing: CancellationToken,
}

/// Timeout of a connection on which only health checks are answered: the next health check needs its place.
const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of such a connection until its request has arrived.
const HEALTH_CHECK_PAUSE: Duration = Duration::from_secs(1);
const FULL: &str = "All connections are in use; please try again in a moment.";

impl Server {
    /// Binds `server.listen` for the API.
    ///
    /// # Errors
    /// `Internal` if the address is in use or does not belong to this machine.
    pub async fn bind(app: App) -> Result<Server> {
        let router = http::router(app.clone());
        Server::bind_router(app, router).await
    }

    /// Binds `server.listen` for another router, as tests do.
    ///
    /// # Errors
    /// `Internal` if the address is in use or does not belong to this machine.
    pub async fn bind_router(app: App, router: Router) -> Result<Server> {
        let (address, tls) = (app.config.server.listen, app.config.server.tls.clone());
        Server::bind_to(app, address, &tls, Speaks::Http, router, "accept").await
    }

    /// Binds `server.grpc_listen`, with the TLS settings of the API. `None` if gRPC is off.
    ///
    /// # Errors
    /// `Internal` if the address is in use or does not belong to this machine.
    pub async fn bind_grpc(app: App) -> Result<Option<Server>> {
        let Some(address) = app.config.server.grpc_listen else { return Ok(None) };
        let (closing, tls) = (CancellationToken::new(), app.config.server.tls.clone());
        let router = grpc::router(app.clone(), closing.clone())?;
        let server = Server::bind_to(app, address, &tls, Speaks::Grpc, router, "accept of gRPC").await?;
        Ok(Some(Server { closing, ..server }))
    }

    /// Binds `address` for scrapes by Prometheus.
    ///
    /// # Errors
    /// `Internal` if the address is in use or does not belong to this machine.
    pub async fn bind_metrics(app: App, address: SocketAddr) -> Result<Server> {
        telemetry::metrics();
        let router = http::metrics_router(app.clone());
        Server::bind_to(app, address, &config::TlsConfig::Off, Speaks::Http, router, "accept of metrics")
            .await
    }

    async fn bind_to(
        app: App,
        address: SocketAddr,
        tls: &config::TlsConfig,
        speaks: Speaks,
        router: Router,
        name: &'static str,
    ) -> Result<Server> {
        let tls = Tls::new(tls, address, speaks.protocols(), &app.clock)?;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| Error::internal(format!("cannot listen on {address}: {error}")))?;
        Ok(Server { app, listener, router, name, tls, speaks, closing: CancellationToken::new() })
    }

    /// Address of the listener; its port is never 0.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(Error::internal)
    }

    /// Base URL of the listener, such as `https://127.0.0.1:8443`.
    pub fn url(&self) -> Result<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.address()?))
    }

    /// Serves until `server.linger_s` after `app.stopping`: by then load balancers have seen that readiness fails.
    /// Requests in flight may finish within `server.drain_s`.
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
            tls: self.tls.clone(),
            speaks: self.speaks,
            limits: Limits {
                header: settings.header_timeout,
                idle: settings.idle_timeout,
                stalled: settings.body_idle_timeout,
            },
            closing: self.closing.clone(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        tokio::select! {
            () = self.accept(&connections) => {}
            () = keep_fresh(self.tls.clone()) => {}
            () = end => {}
        }
        drop(self.listener);
        connections.drain(settings.drain).await;
        Ok(())
    }

    /// Accepts connections; never returns.
    async fn accept(&self, connections: &Connections) {
        const ROUND: Duration = Duration::from_secs(1);
        let heartbeat = self.app.health.watchdog.start(self.name, 10 * ROUND);
        let room = Room::new(&self.app.config, self.speaks);
        let mut full = false;
        loop {
            heartbeat.beat();
            // The loop also runs while no client connects, because the watchdog expects its heartbeat.
            let next = async { (room.place().await, self.listener.accept().await) };
            let Ok((place, accepted)) = tokio::time::timeout(ROUND, next).await else { continue };
            match accepted {
                Ok((stream, peer)) => {
                    let place = room.upgrade(place);
                    let only_health = matches!(place, Place::Reserve { .. });
                    if only_health && !full {
                        log::warn!(target: "salebell::server", "{}: all connections of server.max_connections are in use, \
                            further ones are refused", self.name);
                    }
                    full = only_health;
                    let connection = connections.serve(stream, peer, only_health);
                    connections.tasks.spawn(async move {
                        if only_health {
                            drop(tokio::time::timeout(HEALTH_CHECK_TIMEOUT, connection).await)
                        } else {
                            connection.await
                        }
                        drop(place);
                    });
                }
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => {
                    // Most likely the process is out of file descriptors, and some will be released.
                    log::error!(target: "salebell::server", "cannot accept connections: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Whether the error concerns a connection that has already ended, and not the listener.
fn is_of_the_peer(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Keeps the certificate up to date; never returns.
async fn keep_fresh(tls: Option<Tls>) {
    match tls {
        Some(tls) => tls.keep_fresh().await,
        None => std::future::pending().await,
    }
}

/// The connections of one listener.
struct Connections {
    router: Router,
    tls: Option<Tls>,
    speaks: Speaks,
    limits: Limits,
    /// Cancelled when no connection may accept another request.
    closing: CancellationToken,
    /// Cancelled when all connections must end, regardless of requests in flight.
    cut: CancellationToken,
    tasks: TaskTracker,
}

/// Timeouts for what a client does on a connection.
#[derive(Clone, Copy)]
struct Limits {
    /// Timeout of a handshake, and from the first byte of a request head to its last.
    header: Duration,
    /// Timeout between two requests, and until the first one.
    idle: Duration,
    /// Timeout for acknowledging the bytes that we send, and for making room for more.
    stalled: Duration,
}

impl Limits {
    /// The limits with `limit` as the upper bound for handshake, head and idle time.
    fn at_most(self, limit: Duration) -> Limits {
        Limits { header: self.header.min(limit), idle: self.idle.min(limit), ..self }
    }
}

impl Connections {
    /// Serves one connection to its end. With `only_health` it answers one health check, or refuses any other request.
    fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        only_health: bool,
    ) -> impl Future<Output = ()> + use<> {
        let conversation = Conversation {
            router: self.router.clone(),
            peer: Peer { address: peer, encrypted: self.tls.is_some() },
            limits: if only_health { self.limits.at_most(HEALTH_CHECK_PAUSE) } else { self.limits },
            closing: if only_health { self.closing.child_token() } else { self.closing.clone() },
            cut: self.cut.clone(),
            only_health: only_health.then_some(self.speaks),
        };
        let (tls, only_http2) = (self.tls.clone(), self.speaks == Speaks::Grpc);
        async move {
            // Responses are written as a whole, so Nagle's delay would only add latency.
            let _ = stream.set_nodelay(true);
            hand_over_little(&stream);
            end_when_stalled(&stream, conversation.limits.stalled);
            let Some(tls) = tls else { return conversation.hold(stream, only_http2).await };
            let stream = tokio::select! {
                stream = tokio::time::timeout(conversation.limits.header, tls.accept(stream, only_health)) => stream,
                // No request has been sent yet.
                () = conversation.closing.cancelled() => return,
            };
            let Ok(Some(stream)) = stream else { return };
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            // A client that does not use ALPN passes the handshake.
            if http2 || !only_http2 {
                conversation.hold(stream, http2).await;
            }
        }
    }

    /// Ends idle connections at once, busy ones after their requests, and all remaining ones after `limit`.
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

/// Makes the kernel end a connection whose peer acknowledges nothing, or accepts no data, for the given time: the peer
/// is gone, or would hold a response forever. A slow client accepts a little all the time.
fn end_when_stalled(stream: &TcpStream, after: Duration) {
    use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
    let millis = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = setsockopt(stream, TcpUserTimeout, &millis) {
        log::debug!(target: "salebell::server", "a connection is not watched for stalls: {error}");
    }
}

/// Maximum number of unsent bytes that the kernel buffers for a connection. By default it would buffer megabytes, which
/// are lost when a client disconnects, and which would be counted as delivered where bytes are counted.
const MAX_UNSENT_BYTES: u32 = 128 * 1024;

fn hand_over_little(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_tcp_notsent_lowat(MAX_UNSENT_BYTES) {
        log::debug!(target: "salebell::server", "a connection takes as much as it likes: {error}");
    }
}

/// A connection after its handshake.
struct Conversation {
    router: Router,
    peer: Peer,
    limits: Limits,
    closing: CancellationToken,
    cut: CancellationToken,
    /// If set, only a health check is answered, and the connection is closed after the first response.
    only_health: Option<Speaks>,
}

/// Answers a request beyond the connection limit: a health check is served, any other request is refused. The
/// connection ends with the response.
async fn answer_health(
    router: Router,
    speaks: Speaks,
    request: Request,
    closing: CancellationToken,
) -> Result<Response, Infallible> {
    let (http1, path) = (request.version() < Version::HTTP_2, request.uri().path());
    let mut answer = match speaks {
        Speaks::Http if matches!(path, "/healthz" | "/readyz") => router.oneshot(request).await?,
        Speaks::Grpc if path == grpc::HEALTH_CHECK => router.oneshot(request).await?,
        Speaks::Http => full().into_response(),
        Speaks::Grpc => tonic::Status::from(full()).into_http(),
    };
    if http1 {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    closing.cancel();
    Ok(answer)
}

fn full() -> Error {
    let mut refusal = Error::new(Kind::Unavailable, FULL);
    refusal.retry_after_s = Some(1);
    refusal
}

impl Conversation {
    async fn hold<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S, http2: bool) {
        let timeouts = ConnectionTimeouts::new(http2);
        let service = hyper::service::service_fn(|request: hyper::Request<Incoming>| {
            let in_flight = timeouts.begin(request.version() == hyper::Version::HTTP_2);
            let mut request = request.map(|body| Body::new(Arriving::new(body, timeouts.clone())));
            request.extensions_mut().insert(self.peer);
            let router = self.router.clone();
            let answer = match self.only_health {
                None => Either::Left(router.oneshot(request)),
                Some(speaks) => Either::Right(answer_health(router, speaks, request, self.closing.clone())),
            };
            async move { answer.await.map(|answer| answer.map(|body| Answering::new(body, in_flight))) }
        });
        let builder = builder(http2, self.limits);
        let connection =
            builder.serve_connection(TokioIo::new(WatchedStream::new(stream, timeouts.clone())), service);
        tokio::pin!(connection);
        let (mut leaving, mut idle) = (false, self.limits.idle);
        loop {
            tokio::select! {
                // Errors of one connection are caused by its client, and common.
                _ = connection.as_mut() => return,
                () = self.closing.cancelled(), if !leaving => {
                    leaving = true;
                    // A client that has not begun to speak HTTP/2, or does not answer GOAWAY, gets only this time.
                    idle = self.limits.header;
                    timeouts.rest();
                    connection.as_mut().graceful_shutdown();
                }
                what = timeouts.overdue(idle, self.limits.header) => {
                    if what == Overdue::Head || leaving {
                        return;
                    }
                    // HTTP/2 sends GOAWAY first, because the client may just have sent another request.
                    leaving = true;
                    idle = self.limits.header;
                    timeouts.rest();
                    connection.as_mut().graceful_shutdown();
                }
                () = self.cut.cancelled() => return,
            }
        }
    }
}

/// Maximum number of concurrent streams of one connection; a load balancer opens no more.
const MAX_STREAMS: u32 = 128;
/// Maximum number of bytes that wait in memory to be sent on each stream.
const MAX_SEND_BUFFER: usize = 64 * 1024;

fn builder(http2: bool, limits: Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // `timeouts` enforces both the idle and the header timeout.
        .header_read_timeout(None)
        // Twice our own limit, whose refusal is a problem document.
        .max_buf_size(2 * MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(2 * MAX_HEADER_BYTES as u32)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(limits.stalled);
    // Only HTTP/2 if ALPN has selected it, or if the listener serves nothing else.
    if http2 { builder.http2_only() } else { builder }
}
