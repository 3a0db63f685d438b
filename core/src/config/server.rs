//! `[server]`: listeners and HTTP limits.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::origin::WebOrigin;
use super::reader::Reader;
use super::tls::TlsConfig;

/// `[server]`: listeners and HTTP limits.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// `server.listen`: address of the API; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `server.public_url`: origin at which clients reach this deployment, with which absolute links begin.
    pub public_url: Option<WebOrigin>,
    /// `server.grpc_listen`: address of gRPC; port 0 takes a free one. `None` (`off`, or empty): no gRPC.
    pub grpc_listen: Option<SocketAddr>,
    /// `server.tls`, `server.certificate`, `server.key`: encryption of the HTTP and the gRPC listener.
    pub tls: TlsConfig,
    /// `server.metrics_listen`: address of the Prometheus metrics of `salebell api`; loopback only.
    pub metrics_listen: SocketAddr,
    /// `server.request_timeout_s`: timeout of a request with a bounded body.
    pub request_timeout: Duration,
    /// `server.header_timeout_s`: timeout of a TLS handshake, and of a request's headers from their first byte on.
    pub header_timeout: Duration,
    /// `server.idle_timeout_s`: timeout of an idle connection. Longer than the load balancer's own, 60 s, which
    /// therefore never sends a request on a connection that is being closed.
    pub idle_timeout: Duration,
    /// `server.body_idle_timeout_s`: longest pause of a streamed body, and longest time in which a client reads nothing
    /// of a response.
    pub body_idle_timeout: Duration,
    /// `server.linger_s`: time for which new connections are still accepted after SIGTERM, while readiness already
    /// fails. Longer than the load balancer needs to notice.
    pub linger: Duration,
    /// `server.drain_s`: time that requests in flight have to finish after `server.linger_s`. The unit's stop timeout
    /// must be longer than the sum of both.
    pub drain: Duration,
    /// `server.max_connections`: most concurrent connections of a listener. Beyond them only health checks are
    /// answered.
    pub max_connections: ConnectionLimit,
    /// `server.max_json_bytes`: size of the largest JSON body.
    pub max_json_bytes: usize,
    /// `server.rate_limits`: most requests a minute of one account, or of one address without a token.
    pub rate_limits: RateLimits,
    /// `server.cors_origins`: sites whose pages may read the answers of the API in a browser.
    pub cors_origins: CorsOrigins,
    /// `server.trusted_proxies`: networks of load balancers, whose `X-Forwarded-*` headers are trusted.
    pub trusted_proxies: Vec<IpNet>,
}

/// Value of `server.max_connections`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionLimit {
    /// `auto`: the file descriptors that the process may open, less a reserve for everything else.
    Automatic,
    /// `0`: no limit.
    Unlimited,
    Count(usize),
}

impl FromStr for ConnectionLimit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<ConnectionLimit, Self::Err> {
        match text {
            "auto" => Ok(ConnectionLimit::Automatic),
            number => match number.parse() {
                Ok(0) => Ok(ConnectionLimit::Unlimited),
                Ok(count) => Ok(ConnectionLimit::Count(count)),
                Err(_) => Err("must be auto or a number"),
            },
        }
    }
}

/// `[server.rate_limits]`: most requests a minute, by class. 0: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimits {
    /// `server.rate_limits.read`: requests that change nothing.
    pub read: u64,
    /// `server.rate_limits.write`: requests that change something.
    pub write: u64,
    /// `server.rate_limits.heavy`: requests of either kind that cost much.
    pub heavy: u64,
}

impl RateLimits {
    fn read(r: &mut Reader) -> Option<RateLimits> {
        // The one limit of earlier versions, whose instances run beside ours while a version is rolled out.
        let all: Option<u64> = r.get("server.rate_limit_per_minute");
        Some(RateLimits {
            read: r.get_or("server.rate_limits.read", all)?,
            write: r.get_or("server.rate_limits.write", all)?,
            heavy: r.get_or("server.rate_limits.heavy", all)?,
        })
    }
}

/// Value of `server.cors_origins`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsOrigins {
    /// `*`: any site.
    Any,
    /// These sites alone; without one, answers have no headers for pages of other sites.
    Listed(Vec<WebOrigin>),
}

/// One word of `server.cors_origins`. `None`: `*`.
struct CorsOrigin(Option<WebOrigin>);

impl FromStr for CorsOrigin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<CorsOrigin, Self::Err> {
        if text == "*" { Ok(CorsOrigin(None)) } else { text.parse().map(|origin| CorsOrigin(Some(origin))) }
    }
}

impl CorsOrigins {
    fn read(r: &mut Reader) -> Option<CorsOrigins> {
        let words: Vec<CorsOrigin> = r.words("server.cors_origins")?;
        let all = words.len();
        let listed: Vec<WebOrigin> = words.into_iter().filter_map(|CorsOrigin(origin)| origin).collect();
        match (all - listed.len(), listed.is_empty()) {
            (0, _) => Some(CorsOrigins::Listed(listed)),
            (_, true) => Some(CorsOrigins::Any),
            (_, false) => {
                r.problem("server.cors_origins", "must be * alone, or origins without it");
                Some(CorsOrigins::Listed(listed))
            }
        }
    }

    /// Whether no page of another site may read answers.
    pub fn is_off(&self) -> bool {
        *self == CorsOrigins::Listed(Vec::new())
    }
}

/// Address of a listener that can be off. `off` exists because Parameter Store cannot hold an empty value.
struct Listen(Option<SocketAddr>);

impl FromStr for Listen {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Listen, Self::Err> {
        match text {
            "" | "off" => Ok(Listen(None)),
            address => Ok(Listen(Some(address.parse()?))),
        }
    }
}

fn read_public_url(r: &mut Reader) -> Option<WebOrigin> {
    let text = r.optional("server.public_url").filter(|text| !text.is_empty())?;
    WebOrigin::of_url(&text).map_err(|problem| r.problem("server.public_url", problem)).ok()
}

impl ServerConfig {
    pub(super) fn read(r: &mut Reader) -> Option<ServerConfig> {
        let Listen(grpc_listen) = r.get("server.grpc_listen")?;
        Some(ServerConfig {
            listen: r.get("server.listen")?,
            public_url: read_public_url(r),
            grpc_listen,
            tls: TlsConfig::read(r)?,
            metrics_listen: r.get("server.metrics_listen")?,
            request_timeout: r.seconds("server.request_timeout_s")?,
            header_timeout: r.seconds("server.header_timeout_s")?,
            idle_timeout: r.seconds("server.idle_timeout_s")?,
            body_idle_timeout: r.seconds("server.body_idle_timeout_s")?,
            linger: r.seconds("server.linger_s")?,
            drain: r.seconds("server.drain_s")?,
            max_connections: r.get("server.max_connections")?,
            max_json_bytes: r.get("server.max_json_bytes")?,
            rate_limits: RateLimits::read(r)?,
            cors_origins: CorsOrigins::read(r)?,
            trusted_proxies: r.words("server.trusted_proxies")?,
        })
    }

    /// Time within which a process ends after SIGTERM: `server.linger_s`, `server.drain_s` and another 5 s.
    pub fn stop_limit(&self) -> Duration {
        self.linger + self.drain + Duration::from_secs(5)
    }
}
