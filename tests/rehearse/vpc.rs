//! Network services of a virtual machine: an address, and the time.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::net::UdpSocket;
use tokio::process::{Child, Command};

use super::balancer::TARGETS;
use super::network::{HOST, ip};

/// Address of the Amazon Time Service.
const CLOCK: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 123);

/// Timeout for the start of dnsmasq.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The running services; dropping this value stops them.
pub struct Vpc {
    _dhcp: Child,
}

/// Starts DHCP by dnsmasq, with the addresses of boot-vm.sh, and a clock.
pub async fn start(folder: &Path) -> Vpc {
    ip(&format!("address add {CLOCK}/32 dev instances")).expect("an address for the clock");
    tell_the_time().await;
    let mut lines = format!(
        "port=0\ninterface=instances\nbind-interfaces\nno-ping\nleasefile-ro\ndhcp-authoritative\n\
         dhcp-range={HOST},static,255.255.255.0,1h\ndhcp-option=option:router,{HOST}\n\
         dhcp-option=option:dns-server,{HOST}\ndhcp-option=option:domain-name,eu-central-1.compute.internal\n"
    );
    for number in TARGETS {
        lines += &format!("dhcp-host=02:00:0a:4d:00:{number:02x},10.77.0.{number},ip-10-77-0-{number}\n");
    }
    let settings = folder.join("dnsmasq.conf");
    std::fs::write(&settings, lines).expect("its settings");
    let log = std::fs::File::create(folder.join("dnsmasq.log")).expect("its log");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "dnsmasq", "--keep-in-foreground", "--pid-file="]);
    // A process that changes its user or group no longer gets the signal of its parent's death.
    command.args(["--user=root", "--group=root"]);
    command.arg("--log-facility=-").arg(format!("--conf-file={}", settings.display())).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
    let mut dhcp = command.spawn().expect("setpriv");
    // Port 67, in hexadecimal.
    let listens =
        || std::fs::read_to_string("/proc/self/net/udp").is_ok_and(|table| table.contains(":0043 "));
    let begun = Instant::now();
    while !listens() {
        if !matches!(dhcp.try_wait(), Ok(None)) || begun.elapsed() > START_LIMIT {
            let said = std::fs::read_to_string(folder.join("dnsmasq.log")).unwrap_or_default();
            panic!("dnsmasq does not start: {said}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Vpc { _dhcp: dhcp }
}

/// Serves this machine's time by SNTP (RFC 4330).
async fn tell_the_time() {
    let socket = UdpSocket::bind((CLOCK, 123)).await.expect("port 123 of the namespace is free");
    tokio::spawn(async move {
        let mut question = [0; 128];
        while let Ok((length, peer)) = socket.recv_from(&mut question).await {
            if length >= 48 {
                let _ = socket.send_to(&answer(&question, stamp()), peer).await;
            }
        }
    });
}

/// Current time as seconds since 1900, and units of 2⁻³² s.
fn stamp() -> [u8; 8] {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let seconds = (since.as_secs() + 2_208_988_800) as u32;
    let parts = ((u64::from(since.subsec_nanos()) << 32) / 1_000_000_000) as u32;
    ((u64::from(seconds) << 32) | u64::from(parts)).to_be_bytes()
}

fn answer(question: &[u8], now: [u8; 8]) -> [u8; 48] {
    let mut answer = [0; 48];
    // No leap second, version 4, a server; stratum 2; polled every 64 s; precise to a microsecond.
    answer[..4].copy_from_slice(&[0b00_100_100, 2, 6, 0xec]);
    answer[12..16].copy_from_slice(&HOST.octets());
    answer[16..24].copy_from_slice(&now);
    answer[24..32].copy_from_slice(&question[40..48]);
    answer[32..40].copy_from_slice(&now);
    answer[40..48].copy_from_slice(&now);
    answer
}
