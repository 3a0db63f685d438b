//! The load balancer: haproxy, set as an Application Load Balancer is: TLS to both sides, health checks, no request sent
//! twice, targets that are taken out finish what they have.

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

/// The last part of the addresses that targets may have.
pub const TARGETS: std::ops::RangeInclusive<u8> = 11..=250;

/// What the balancer thinks of a target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Health {
    /// Registered, and it answers.
    Healthy,
    /// Registered, and it does not answer, or has not yet.
    Unhealthy,
    /// Taken out; so many connections are in use still.
    Leaving(u32),
    Unknown,
}

pub struct Balancer {
    _process: Child,
    socket: PathBuf,
    /// A line for each request: its `HEADER` and its target.
    requests: PathBuf,
}

/// The number of a request, by which the balancer's log has it.
pub const HEADER: &str = "x-rehearsal";

impl Balancer {
    pub async fn start(folder: &Path) -> Balancer {
        let folder = folder.join("haproxy");
        std::fs::create_dir(&folder).expect("a folder");
        let socket = folder.join("socket");
        let names = vec![HOST.to_string(), "salebell.test".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let pem =
            pem("CERTIFICATE", made.cert.der()) + &pem("PRIVATE KEY", &made.signing_key.serialize_der());
        std::fs::write(folder.join("front.pem"), pem).expect("its file");
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

    /// Says something on its socket; `None` when it does not answer.
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

    /// A new target. It gets requests once it has answered two health checks.
    pub async fn register(&self, number: u8) {
        self.ask(&format!("set server fleet/t{number} state ready")).await;
        self.ask(&format!("set server fleet/t{number} health down")).await;
    }

    /// No new requests for it; those in flight finish.
    pub async fn deregister(&self, number: u8) {
        self.ask(&format!("set server fleet/t{number} state drain")).await;
    }

    /// Whatever is left on it ends, and nobody asks it any more.
    pub async fn forget(&self, number: u8) {
        self.ask(&format!("set server fleet/t{number} state maint")).await;
        self.ask(&format!("shutdown sessions server fleet/t{number}")).await;
    }

    /// Health checks stop, or go on: for all targets (`None`) or one.
    pub async fn check(&self, number: u8, on: bool) {
        let verb = if on { "enable" } else { "disable" };
        self.ask(&format!("{verb} health fleet/t{number}")).await;
    }

    /// Which target each request was given to; one that was given to none is left out.
    pub fn targets(&self) -> BTreeMap<u64, u8> {
        let log = std::fs::read_to_string(&self.requests).unwrap_or_default();
        let read = |line: &str| {
            let (request, target) = line.split_once(' ')?;
            Some((request.parse().ok()?, target.strip_prefix('t')?.parse().ok()?))
        };
        log.lines().filter_map(read).collect()
    }

    /// What it thinks of its targets.
    pub async fn health(&self) -> BTreeMap<u8, Health> {
        let table = self.ask("show stat").await.unwrap_or_default();
        let mut lines = table.trim_start_matches("# ").lines();
        let columns: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
        let column = |name: &str| columns.iter().position(|column| *column == name).unwrap_or(usize::MAX);
        let (backend, server, status, current) =
            (column("pxname"), column("svname"), column("status"), column("scur"));
        let mut found = BTreeMap::new();
        for line in lines {
            let cells: Vec<&str> = line.split(',').collect();
            let cell = |at: usize| cells.get(at).copied().unwrap_or_default();
            let Some(number) = cell(server).strip_prefix('t').and_then(|number| number.parse().ok()) else {
                continue;
            };
            if cell(backend) != "fleet" {
                continue;
            }
            let health = match cell(status) {
                up if up == "UP" || up.starts_with("UP ") => Health::Healthy,
                // Checks that were disabled: it stays what it was.
                "no check" => Health::Healthy,
                down if down.starts_with("DOWN") => Health::Unhealthy,
                drain if drain.starts_with("DRAIN") => Health::Leaving(cell(current).parse().unwrap_or(0)),
                _ => Health::Unknown,
            };
            found.insert(number, health);
        }
        found
    }
}

/// RFC 7468.
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
  log stdout format raw local0
  stats socket {socket} mode 600 level admin
  maxconn 4000
  nbthread 2
  hard-stop-after 1s
defaults
  mode http
  # As an Application Load Balancer's: it waits 60 s for anybody, and sends no request twice.
  timeout client 60s
  timeout server 60s
  timeout connect 5s
  timeout http-keep-alive 60s
  timeout check 2s
  retries 0
  option forwardfor
frontend front
  bind {HOST}:443 ssl crt {certificate} alpn h2,http/1.1
  log global
  http-request capture req.hdr({HEADER}) len 20
  log-format \"%[capture.req.hdr(0)] %s\"
  http-request set-header X-Forwarded-Proto https
  default_backend fleet
backend fleet
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
    for number in TARGETS {
        let _ = writeln!(text, "  server t{number} 10.77.0.{number}:8443");
    }
    text
}
