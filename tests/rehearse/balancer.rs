//! The load balancer: haproxy, configured like an Application Load Balancer: TLS on both sides, health checks, no
//! request sent twice, deregistered targets that finish their requests. It has two target groups, between which a
//! weight decides.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::network::HOST;

/// Last parts of the addresses that targets may have.
pub const TARGETS: std::ops::RangeInclusive<u8> = 11..=110;

/// A target group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pool {
    /// The live group's targets.
    Fleet,
    /// The canary's targets. The group is in the rule with weight 0 too, and its targets are checked.
    Canary,
}

impl Pool {
    pub const ALL: [Pool; 2] = [Pool::Fleet, Pool::Canary];

    pub fn name(self) -> &'static str {
        match self {
            Pool::Fleet => "fleet",
            Pool::Canary => "canary",
        }
    }
}

/// A request that passed through, as the log records it at its end.
#[derive(Clone, Debug)]
pub struct Given {
    /// Number in its `HEADER`, if it has one.
    pub request: Option<u64>,
    pub pool: Option<Pool>,
    /// Target of the request; none if no target was available.
    pub target: Option<u8>,
    /// Whether the target itself answered with 5xx, rather than the balancer in its place.
    pub failed_there: bool,
}

/// State of a target as the balancer sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Health {
    /// Registered, and answers its health checks.
    Healthy,
    /// Registered, and does not answer its health checks, or not yet.
    Unhealthy,
    /// Deregistered, with the number of connections still in use.
    Leaving(u32),
    Unknown,
}

pub struct Balancer {
    _process: Child,
    socket: PathBuf,
    /// Log with a line for each request: its `HEADER` and its target.
    requests: PathBuf,
}

/// Header with the number of a request, by which the balancer's log identifies it.
pub const HEADER: &str = "x-rehearsal";

impl Balancer {
    pub async fn start(folder: &Path) -> Balancer {
        let folder = folder.join("haproxy");
        std::fs::create_dir(&folder).expect("a folder");
        let socket = folder.join("socket");
        let (certificate, key) = certificate();
        std::fs::write(folder.join("front.pem"), certificate + &key).expect("its file");
        let file = folder.join("haproxy.cfg");
        std::fs::write(&file, settings(&folder, &socket)).expect("its settings");
        let log = std::fs::File::create(folder.join("log")).expect("its log");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "haproxy", "-db", "-f"]).arg(&file).process_group(0);
        let requests = folder.join("requests");
        let lines = std::fs::File::create(&requests).expect("its log of requests");
        command.stdin(Stdio::null()).stdout(lines).stderr(log).kill_on_drop(true);
        let process = command.spawn().expect("setpriv");
        let balancer = Balancer { _process: process, socket, requests };
        for _ in 0..200 {
            if balancer.ask("show info").await.is_some() {
                return balancer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("haproxy does not start: {}", std::fs::read_to_string(folder.join("log")).unwrap_or_default());
    }

    /// Sends a command to its socket; `None` without an answer.
    async fn ask(&self, command: &str) -> Option<String> {
        let asking = async {
            let mut stream = UnixStream::connect(&self.socket).await.ok()?;
            stream.write_all(format!("{command}\n").as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer)
        };
        tokio::time::timeout(Duration::from_secs(5), asking).await.ok()?
    }

    /// Registers a target. It gets requests once it has answered two health checks.
    pub async fn register(&self, pool: Pool, number: u8) {
        let name = pool.name();
        self.ask(&format!("set server {name}/t{number} state ready")).await;
        self.ask(&format!("set server {name}/t{number} health down")).await;
    }

    /// Stops new requests to a target; those in flight finish.
    pub async fn deregister(&self, pool: Pool, number: u8) {
        self.ask(&format!("set server {}/t{number} state drain", pool.name())).await;
    }

    /// Closes the remaining connections of a target, and stops its health checks.
    pub async fn forget(&self, pool: Pool, number: u8) {
        let name = pool.name();
        self.ask(&format!("set server {name}/t{number} state maint")).await;
        self.ask(&format!("shutdown sessions server {name}/t{number}")).await;
    }

    /// Stops or resumes the health checks of a target of the fleet.
    pub async fn check(&self, number: u8, on: bool) {
        let verb = if on { "enable" } else { "disable" };
        self.ask(&format!("{verb} health fleet/t{number}")).await;
    }

    /// Sends `canary` of a hundred requests to the canary, the others to the fleet.
    pub async fn weigh(&self, canary: u32) {
        // haproxy 2.6 considers this experimental.
        self.ask(&format!("experimental-mode on; set var proc.canary int({canary})")).await;
    }

    /// The weight set by `weigh`, as haproxy reports it.
    pub async fn weight(&self) -> Option<u32> {
        // proc.canary: type=sint value=<0>
        let answer = self.ask("get var proc.canary").await?;
        answer.split_once("value=<")?.1.split_once('>')?.0.parse().ok()
    }

    /// All finished requests, in the order of their ends.
    pub fn given(&self) -> Vec<Given> {
        let log = std::fs::read_to_string(&self.requests).unwrap_or_default();
        log.lines().filter_map(read_line).collect()
    }

    /// Target of each request; requests without a target are left out.
    pub fn targets(&self) -> BTreeMap<u64, u8> {
        self.given().iter().filter_map(|given| Some((given.request?, given.target?))).collect()
    }

    /// State of each target.
    pub async fn health(&self) -> BTreeMap<(Pool, u8), Health> {
        let mut found = BTreeMap::new();
        for pool in Pool::ALL {
            // 4: servers.
            let table = self.ask(&format!("show stat {} 4 -1", pool.name())).await.unwrap_or_default();
            let mut lines = table.trim_start_matches("# ").lines();
            let columns: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
            let column = |name: &str| columns.iter().position(|column| *column == name).unwrap_or(usize::MAX);
            let (server, status, current) = (column("svname"), column("status"), column("scur"));
            for line in lines {
                let cells: Vec<&str> = line.split(',').collect();
                let cell = |at: usize| cells.get(at).copied().unwrap_or_default();
                let number = cell(server).strip_prefix('t').and_then(|number| number.parse().ok());
                let Some(number) = number else { continue };
                let health = match cell(status) {
                    up if up == "UP" || up.starts_with("UP ") => Health::Healthy,
                    // With checks disabled, the state remains what it was.
                    "no check" => Health::Healthy,
                    down if down.starts_with("DOWN") => Health::Unhealthy,
                    drain if drain.starts_with("DRAIN") => {
                        Health::Leaving(cell(current).parse().unwrap_or(0))
                    }
                    _ => Health::Unknown,
                };
                found.insert((pool, number), health);
            }
        }
        found
    }
}

/// Parses a line of the log: the `HEADER` or `-`, the backend, the server, the status, and the termination state of the
/// session.
fn read_line(line: &str) -> Option<Given> {
    let mut words = line.split(' ');
    let (request, backend, server) = (words.next()?, words.next()?, words.next()?);
    let (status, ended) = (words.next()?, words.next()?);
    Some(Given {
        request: request.parse().ok(),
        pool: Pool::ALL.into_iter().find(|pool| pool.name() == backend),
        target: server.strip_prefix('t').and_then(|number| number.parse().ok()),
        // "--": neither side broke it off. Answers of haproxy in a target's place always have another termination
        // state.
        failed_there: status.starts_with('5') && ended == "--",
    })
}

/// Makes a self-signed certificate and its key.
pub fn certificate() -> (String, String) {
    let names = vec![HOST.to_string(), "salebell.test".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    (pem("CERTIFICATE", made.cert.der()), pem("PRIVATE KEY", &made.signing_key.serialize_der()))
}

/// Textual encoding of DER (RFC 7468).
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn settings(folder: &Path, socket: &Path) -> String {
    let (certificate, socket) = (folder.join("front.pem"), socket.to_owned());
    let mut text = format!(
        "\
global
  set-var proc.canary int(0)
  log stdout format raw local0
  stats socket {socket} mode 600 level admin
  maxconn 4000
  nbthread 2
  hard-stop-after 1s
defaults general
  mode http
  # As an Application Load Balancer's: it waits 60 s for anybody, and sends no request twice.
  timeout client 60s
  timeout server 60s
  timeout connect 5s
  timeout http-keep-alive 60s
  timeout check 2s
  retries 0
  option forwardfor
frontend front from general
  bind {HOST}:443 ssl crt {certificate} alpn h2,http/1.1
  log global
  http-request capture req.hdr({HEADER}) len 20
  log-format \"%[capture.req.hdr(0)] %b %s %ST %ts\"
  http-request set-header X-Forwarded-Proto https
  # Each request by itself, as between target groups of one rule.
  http-request set-var(txn.draw) rand(100)
  use_backend canary if {{ var(txn.draw),sub(proc.canary) lt 0 }}
  default_backend fleet
defaults targets from general
  balance leastconn
  # Connections to targets are shared by all clients, as there.
  http-reuse always
  option httpchk
  http-check send meth GET uri /healthz ver HTTP/1.1 hdr Host {HOST} hdr User-Agent ELB-HealthChecker/2.0
  http-check expect status 200
  default-server ssl verify none check inter 1s fall 2 rise 2 disabled
",
        certificate = certificate.display(),
        socket = socket.display(),
    );
    for pool in Pool::ALL {
        let _ = writeln!(text, "backend {} from targets", pool.name());
        for number in TARGETS {
            let _ = writeln!(text, "  server t{number} 10.77.0.{number}:8443");
        }
    }
    text
}
