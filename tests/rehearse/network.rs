//! The network of the rehearsal, separate from the host's.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;

use nix::sched::{CloneFlags, unshare};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

/// Address at which instances find everything except each other.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Moves this process into a network namespace with a bridge for instances, and into a mount namespace for their disks.
///
/// # Errors
/// The process is not root, or lacks the privilege.
pub fn enter_namespace() -> Result<(), String> {
    if !nix::unistd::Uid::effective().is_root() {
        return Err(
            "a rehearsal is root's: it boots instances, in network namespaces and on overlays".to_owned()
        );
    }
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(|error| format!("no namespaces for network and mounts can be made: {error}"))?;
    run("mount", "--make-rprivate /")?;
    for arguments in [
        "link set lo up",
        "link add instances type bridge",
        "address add 10.77.0.1/24 dev instances",
        "address add 169.254.169.254/32 dev instances",
        "link set instances up",
    ] {
        ip(arguments)?;
    }
    Ok(())
}

/// Runs `ip` with these arguments.
///
/// # Errors
/// The command fails; contains its output.
pub fn ip(arguments: &str) -> Result<(), String> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &str) -> Result<(), String> {
    let output = Command::new(program).args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

pub async fn listen(port: u16) -> TcpListener {
    TcpListener::bind((HOST, port)).await.expect("a port of the namespace is free")
}

/// Starts a resolver that knows no name, and answers so at once.
pub async fn resolve_nothing() {
    let socket = UdpSocket::bind((HOST, 53)).await.expect("port 53 of the namespace is free");
    tokio::spawn(async move {
        let mut message = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut message).await {
            // Turns the query into the answer "no such name" (RFC 1035, section 4.1.1).
            message[2] |= 0x80;
            message[3] = (message[3] & 0xf0) | 3;
            let _ = socket.send_to(&message[..length], peer).await;
        }
    });
}

/// A port that leads to a changing server, like a name with a short TTL at AWS.
pub struct Way {
    target: Arc<watch::Sender<Option<u16>>>,
}

impl Way {
    /// Opens a port that leads to another one.
    pub async fn open(port: u16, target: u16) -> Way {
        let listener: TcpListener = listen(port).await;
        let target = Arc::new(watch::Sender::new(Some(target)));
        let to = target.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut to = to.subscribe();
                let Some(port) = *to.borrow_and_update() else { continue };
                tokio::spawn(async move {
                    let server = SocketAddr::from((HOST, port));
                    let Ok(mut server) = TcpStream::connect(server).await else { return };
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = to.changed() => {}
                    }
                });
            }
        });
        Way { target }
    }

    /// Redirects to another port, or to none; existing connections end.
    pub fn lead(&self, port: Option<u16>) {
        self.target.send_replace(port);
    }
}
