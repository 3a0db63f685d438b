//! Listeners: accept, TLS, limits of connections, drain.
//!
//! Known quirks. What hyper itself cannot read as HTTP it answers with a bare 400 (or 414, 431 beyond twice our
//! limits) without a problem document, and closes the connection: no request exists yet to which one could belong.
//! `pipeline_flush` stays off: with it hyper 1.12 forgets to send even that.

pub mod process;

mod room;
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
use self::timeouts::{Answering, Arriving, ConnectionTimeouts, Overdue, WatchedStream};
use self::tls::Tls;
use crate::app::App;
use crate::error::{Error, Kind, Result};
use crate::http::middleware::request_limits::MAX_HEADER_BYTES;
use crate::http::request_state::Peer;
use crate::{config, grpc, http, telemetry};

/// A bound listener: its address is known before it serves.
pub struct Server {
    app: App,
    listener: TcpListener,
    router: Router,
    name: &'static str,
    tls: Option<Tls>,
    speaks: Speaks,
    /// No further request on any connection.
    closing: CancellationToken,
}

/// Limits of a connection on which only health checks are answered: as a whole, and until its request has come. The next
/// one wants its place.
const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(5);
const HEALTH_CHECK_PAUSE: Duration = Duration::from_secs(1);
const FULL: &str = "All connections are in use; please try again in a moment.";

/// What is spoken on a listener.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    /// HTTP/1.1, or HTTP/2 by ALPN or by prior knowledge.
    Http,
    /// HTTP/2 alone, by ALPN or, without TLS, by prior knowledge.
    Grpc,
}

impl Speaks {
    /// What is agreed on by ALPN, the best first.
    fn protocols(self) -> &'static [&'static [u8]] {
        match self {
            Speaks::Http => &[b"h2", b"http/1.1"],
            Speaks::Grpc => &[b"h2"],
        }
    }
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
        let (address, tls) = (app.config.server.listen, app.config.server.tls.clone());
        Server::bind_to(app, address, &tls, Speaks::Http, router, "accept").await
    }

    /// Binds `server.grpc_listen`, with the TLS of the API. `None` where it is off.
    ///
    /// # Errors
    /// The address is taken or not ours.
    pub async fn bind_grpc(app: App) -> Result<Option<Server>> {
        let Some(address) = app.config.server.grpc_listen else { return Ok(None) };
        let (closing, tls) = (CancellationToken::new(), app.config.server.tls.clone());
        let router = grpc::router(app.clone(), closing.clone())?;
        let server = Server::bind_to(app, address, &tls, Speaks::Grpc, router, "accept of gRPC").await?;
        Ok(Some(Server { closing, ..server }))
    }

    /// Binds `address` for Prometheus.
    ///
    /// # Errors
    /// The address is taken or not ours.
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

    /// Where it listens; the port is never 0.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(Error::internal)
    }

    /// Where clients find it, such as `https://127.0.0.1:8443`.
    pub fn url(&self) -> Result<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.address()?))
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

    /// Takes connections for ever.
    async fn accept(&self, connections: &Connections) {
        const ROUND: Duration = Duration::from_secs(1);
        let heartbeat = self.app.health.watchdog.start(self.name, 10 * ROUND);
        let room = Room::new(&self.app.config, self.speaks);
        let mut full = false;
        loop {
            heartbeat.beat();
            // Comes round although nobody connects: the watchdog wants to see it.
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

/// Never returns.
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
    /// No further request on any connection.
    closing: CancellationToken,
    /// The end, whatever is in flight.
    cut: CancellationToken,
    tasks: TaskTracker,
}

/// How long a client may take.
#[derive(Clone, Copy)]
struct Limits {
    /// For a handshake, and from the first byte of a head to its last.
    header: Duration,
    /// Between two requests, and to the first.
    idle: Duration,
    /// To acknowledge what we send, and to make room for more.
    stalled: Duration,
}

impl Limits {
    /// No longer than this for what a client may do at leisure.
    fn at_most(self, limit: Duration) -> Limits {
        Limits { header: self.header.min(limit), idle: self.idle.min(limit), ..self }
    }
}

impl Connections {
    /// Serves one connection to its end. With `only_health` it answers one health check, or refuses something else.
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
            // Answers are written whole, so waiting for more to send only adds latency.
            let _ = stream.set_nodelay(true);
            hand_over_little(&stream);
            end_when_stalled(&stream, conversation.limits.stalled);
            let Some(tls) = tls else { return conversation.hold(stream, only_http2).await };
            let stream = tokio::select! {
                stream = tokio::time::timeout(conversation.limits.header, tls.accept(stream, only_health)) => stream,
                // Nobody has asked anything yet.
                () = conversation.closing.cancelled() => return,
            };
            let Ok(Some(stream)) = stream else { return };
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            // Who offers nothing by ALPN gets through the handshake.
            if http2 || !only_http2 {
                conversation.hold(stream, http2).await;
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

/// The kernel ends a connection whose other end acknowledges nothing, or takes nothing, for so long: it is gone, or
/// would hold an answer for ever. A slow client takes a little all the time.
fn end_when_stalled(stream: &TcpStream, after: Duration) {
    use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
    let millis = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = setsockopt(stream, TcpUserTimeout, &millis) {
        log::debug!(target: "salebell::server", "a connection is not watched for stalls: {error}");
    }
}

/// The kernel takes no more than this to send later. It would take megabytes, which are lost with a client that goes
/// away, and count as given out where bytes are counted.
const MOST_UNSENT: u32 = 128 * 1024;

fn hand_over_little(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_tcp_notsent_lowat(MOST_UNSENT) {
        log::debug!(target: "salebell::server", "a connection takes as much as it likes: {error}");
    }
}

/// One connection after its handshake.
struct Conversation {
    router: Router,
    peer: Peer,
    limits: Limits,
    closing: CancellationToken,
    cut: CancellationToken,
    /// Nothing else is answered, and the connection is closed after the first answer.
    only_health: Option<Speaks>,
}

/// Answers a request for which there is no room, unless it is a health check. The connection ends with it.
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
        Speaks::Http => {
            let mut refusal = Error::new(Kind::Unavailable, FULL);
            refusal.retry_after_s = Some(1);
            refusal.into_response()
        }
        Speaks::Grpc => tonic::Status::unavailable(FULL).into_http(),
    };
    if http1 {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    closing.cancel();
    Ok(answer)
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
                // What goes wrong on one connection is its client's doing, and common.
                _ = connection.as_mut() => return,
                () = self.closing.cancelled(), if !leaving => {
                    leaving = true;
                    // Who has not begun to speak HTTP/2, or does not answer its good-bye, is not waited for.
                    idle = self.limits.header;
                    timeouts.rest();
                    connection.as_mut().graceful_shutdown();
                }
                what = timeouts.overdue(idle, self.limits.header) => {
                    if what == Overdue::Head || leaving {
                        return;
                    }
                    // HTTP/2 says good-bye, and its client may just have asked something more.
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

/// Streams of one connection at once; a load balancer opens no more.
const MAX_STREAMS: u32 = 128;
/// What waits in memory to be sent on each of them, in bytes.
const MAX_SEND_BUFFER: usize = 64 * 1024;

fn builder(http2: bool, limits: Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // `timeouts` looks after both.
        .header_read_timeout(None)
        // Twice our own limit, which answers with a problem document.
        .max_buf_size(2 * MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(2 * MAX_HEADER_BYTES as u32)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(limits.stalled);
    // What ALPN has agreed on is spoken, or what the listener is for.
    if http2 { builder.http2_only() } else { builder }
}
