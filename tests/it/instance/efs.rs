//! The tunnel to EFS on a booted instance: it exists only with its setting, and connects to no other server. Needs
//! root. The mount itself is the kernel's, which test instances share with this machine: `make rehearse-vm` tests it.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::support::appliance::Surroundings;
use crate::support::eventually;

const NAME: &str = "fs-0123456789abcdef0.efs.eu-central-1.amazonaws.com";

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        // Without distinct names OpenSSL would consider its certificates self-signed.
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let text = STANDARD.encode(params.self_signed(&key).unwrap().der());
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|it| std::str::from_utf8(it).unwrap()).collect();
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Starts a server with a certificate for a name. It answers any client that completes the handshake.
    async fn serve(&self, name: &str) -> SocketAddr {
        let key = KeyPair::generate().unwrap();
        let made = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(mut client) = acceptor.accept(client).await else { continue };
                let _ = client.read(&mut [0; 512]).await;
                let _ = client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nit is EFS").await;
                // Waits until the client closes: on an immediate end, a tunnel may lose bytes that it has not passed on
                // yet.
                let _ = (client.flush().await, client.read(&mut [0; 512]).await);
            }
        });
        address
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_has_a_tunnel_to_its_efs_and_to_no_other_host() {
    let around = Surroundings::new().await;
    let (amazon, other) = (Authority::new(), Authority::new());
    for (port, server) in [
        (2049, amazon.serve(NAME).await),
        (2050, amazon.serve("fs-00000000000000000.efs.eu-central-1.amazonaws.com").await),
        (2051, other.serve(NAME).await),
    ] {
        around.offer(port, server);
    }
    let hosts = format!("127.0.0.1 localhost\n10.77.0.1 {NAME}\n");
    let files = [("salebell/efs.pem", amazon.pem.as_str()), ("hosts", &hosts)];
    let mut instance = around.launch_with(11, &files);
    instance.in_service(&around).await;
    // Without the setting.
    for unit in ["salebell-efs.socket", "salebell-efs.service", "var-lib-salebell-files.mount"] {
        instance.shows(unit, "ActiveState", "inactive").await;
    }
    instance.shows("var-lib-salebell-files.mount", "ConditionResult", "no").await;

    // As a boot with the setting writes it; this instance keeps its files on its own disk.
    for (name, value) in [("files/efs", NAME), ("files/mounted", "true")] {
        around.environment.put(name, value).await;
    }
    let boot = "systemd-run --quiet --wait --pipe --property=EnvironmentFile=/etc/salebell/instance.env \
        --property=User=salebell-boot --property=RuntimeDirectory=probe --property=RuntimeDirectoryPreserve=yes \
        /usr/bin/salebell --config /usr/lib/salebell/appliance.toml boot --directory /run/probe --environment";
    instance.ask(&format!("{boot} {} 2>&1", around.environment.name)).await;
    instance.ask("install -m 444 /run/probe/efs.conf /run/salebell/efs.conf").await;
    instance.ask("systemctl start salebell-efs.service").await;
    let ask = "curl --silent --max-time 10 http://127.0.0.1:20049/";
    assert_eq!(instance.ask(ask).await, "it is EFS");
    // A crash of the tunnel does not close the socket that clients connect to.
    instance.signal("salebell-efs", "KILL").await;
    assert_eq!(instance.ask(ask).await, "it is EFS");
    eventually("it was started anew", async || {
        instance.ask("systemctl show --value --property NRestarts salebell-efs").await.trim() == "1"
    })
    .await;
    for check in ["exposure", "sandbox", "listeners", "units"] {
        instance.ask(&format!("/usr/lib/salebell/check-instance.sh {check}")).await;
    }
    // The check reports that the files are not reachable yet.
    assert_eq!(instance.run("/usr/lib/salebell/check-instance.sh files").await.status.code(), Some(1));

    for (port, why) in [(2050, "Subject checks failed"), (2051, "Pre-verification error")] {
        instance
            .ask(&format!(
                "sed -i 's/:20[0-9]*$/:{port}/; s/^accept.*/accept = 127.0.0.1:20049/' /run/salebell/efs.conf"
            ))
            .await;
        instance.ask("systemctl restart salebell-efs.service").await;
        let answer = instance.run(ask).await;
        assert_eq!(String::from_utf8_lossy(&answer.stdout), "", "it speaks to port {port}");
        eventually("it says why", async || {
            let said = instance.ask("journalctl --quiet --output=cat --unit salebell-efs").await;
            said.contains(why) && said.contains("certificate verify failed")
        })
        .await;
    }
}
