//! TLS of the listeners for HTTP and gRPC: TLS 1.2 and 1.3 by rustls, ALPN for the protocol, and a certificate that is
//! generated at start or read from files.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::RwLock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::server::TlsStream;

use crate::clock::Clock;
use crate::config;
use crate::error::{Error, Result};

/// Maximum number of concurrent handshakes that have received a first byte; further ones wait within their timeout.
/// Each holds some 50 KiB.
const MAX_HANDSHAKES: usize = 1_000;
/// Validity of a generated certificate from now on; an instance lives for 30 days at most.
const MINTED_FOR: TimeDelta = TimeDelta::days(90);
/// Interval at which a new certificate is generated, in case an instance lives longer.
const RENEWED_AFTER: TimeDelta = TimeDelta::days(30);
/// Validity of a generated certificate before now, because clocks may differ.
const VALID_BEFORE: TimeDelta = TimeDelta::hours(1);
/// Interval at which the certificate is checked for renewal.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// TLS acceptor of a listener; clones share the certificate and the limit of handshakes.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    certificate: Arc<Certificate>,
    handshakes: Arc<Semaphore>,
}

impl Tls {
    /// Loads or generates the certificate. `None` if TLS is off. `listen` is the address that a generated certificate
    /// names, `protocols` are those for ALPN: a client that offers only others is refused.
    ///
    /// # Errors
    /// `Internal` if the files cannot be read, or the key does not belong to the certificate.
    pub fn new(
        settings: &config::TlsConfig,
        listen: SocketAddr,
        protocols: &[&[u8]],
        clock: &Clock,
    ) -> Result<Option<Tls>> {
        let source = match settings {
            config::TlsConfig::Off => return Ok(None),
            config::TlsConfig::Minted => Source::Minted(names(listen)),
            config::TlsConfig::Files { certificate, key } => Source::Files(certificate.clone(), key.clone()),
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let first = source.load(&provider, clock.now())?;
        let current = RwLock::new(first);
        let certificate = Arc::new(Certificate { source, provider, clock: clock.clone(), current });
        let mut config = ServerConfig::builder_with_provider(certificate.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(Error::internal)?
            .with_no_client_auth()
            .with_cert_resolver(certificate.clone());
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        // Sessions are resumed by tickets, which need no storage here. Early data stays off, because it can be
        // replayed.
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(Error::internal)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Some(Tls { acceptor, certificate, handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)) }))
    }

    /// Performs the handshake. A client may delay it, so the caller sets a timeout. An `urgent` handshake does not wait
    /// for others. `None`: there is no TLS client at the other end.
    pub async fn accept(&self, mut stream: TcpStream, urgent: bool) -> Option<TlsStream<TcpStream>> {
        // A client that sends nothing does not use up a place.
        let mut first = [0];
        if stream.peek(&mut first).await.ok()? == 0 {
            return None;
        }
        if first[0].is_ascii_uppercase() {
            let _ = refuse_plain_http(&mut stream).await;
            return None;
        }
        // The semaphore is never closed.
        let _place = if urgent { None } else { Some(self.handshakes.acquire().await.ok()?) };
        // Errors are caused by the client, and common: a port scan, a health check over TCP.
        self.acceptor.accept(stream).await.ok()
    }

    /// Renews the certificate before it expires, or when its files change; never returns.
    pub async fn keep_fresh(self) {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let certificate = self.certificate.clone();
            // The files may be on a disk that does not respond.
            let _ = tokio::task::spawn_blocking(move || certificate.refresh()).await;
        }
    }
}

/// Answers a client that speaks plain HTTP with an explanation.
async fn refuse_plain_http(stream: &mut TcpStream) -> io::Result<()> {
    const ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\n\
        content-length: 30\r\n\r\nThis port speaks HTTPS alone.\n";
    stream.write_all(ANSWER).await?;
    stream.shutdown().await?;
    // Unread bytes would make the kernel reset the connection, and the response would be lost. At most the size of a
    // request head is read.
    tokio::io::copy(&mut stream.take(64 * 1024), &mut tokio::io::sink()).await?;
    Ok(())
}

/// The certificate and its key, which are held only in memory.
struct Certificate {
    source: Source,
    provider: Arc<CryptoProvider>,
    clock: Clock,
    current: RwLock<Loaded>,
}

#[derive(Clone)]
struct Loaded {
    key: Arc<CertifiedKey>,
    /// Contents of the certificate and key files.
    pem: (Vec<u8>, Vec<u8>),
    at: DateTime<Utc>,
}

enum Source {
    /// Generated for these names and addresses.
    Minted(Vec<String>),
    Files(PathBuf, PathBuf),
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate")
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current().key)
    }
}

impl Certificate {
    fn current(&self) -> Loaded {
        self.current.read().clone()
    }

    /// Renews the certificate if it is due or its files have changed. Files that cannot be read leave the current one
    /// in place.
    fn refresh(&self) {
        let (now, current) = (self.clock.now(), self.current());
        if matches!(self.source, Source::Minted(_)) && now - current.at < RENEWED_AFTER {
            return;
        }
        match self.source.load(&self.provider, now) {
            Ok(loaded) if matches!(self.source, Source::Files(..)) && loaded.pem == current.pem => {}
            Ok(loaded) => {
                *self.current.write() = loaded;
                log::info!(target: "salebell::tls", "another certificate is in use from now on");
            }
            Err(error) => {
                let reason = crate::error::chain(&error);
                log::error!(target: "salebell::tls", "the certificate stays as it was: {reason}");
            }
        }
    }
}

impl Source {
    fn load(&self, provider: &CryptoProvider, now: DateTime<Utc>) -> Result<Loaded> {
        match self {
            Source::Minted(names) => {
                let key = mint(names, provider, now).map_err(Error::internal)?;
                Ok(Loaded { key: Arc::new(key), pem: Default::default(), at: now })
            }
            Source::Files(certificate, key) => {
                let read = |path: &Path| {
                    std::fs::read(path).map_err(|error| {
                        Error::internal(format!("{} cannot be read: {error}", path.display()))
                    })
                };
                let pem = (read(certificate)?, read(key)?);
                let key = read_pair(&pem, provider).map_err(|error| {
                    let paths = format!("{} and {}", certificate.display(), key.display());
                    Error::internal(format!("{paths} are no certificate with its key: {error}"))
                })?;
                Ok(Loaded { key: Arc::new(key), pem, at: now })
            }
        }
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn read_pair(pem: &(Vec<u8>, Vec<u8>), provider: &CryptoProvider) -> Result<CertifiedKey, AnyError> {
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&pem.0).collect::<Result<_, _>>()?;
    if chain.is_empty() {
        return Err("there is no certificate".into());
    }
    // This fails if the key does not belong to the certificate.
    Ok(CertifiedKey::from_der(chain, PrivateKeyDer::from_pem_slice(&pem.1)?, provider)?)
}

/// A self-signed certificate for ECDSA on P-256, which every client of TLS 1.2 and 1.3 supports.
fn mint(names: &[String], provider: &CryptoProvider, now: DateTime<Utc>) -> Result<CertifiedKey, AnyError> {
    use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut certificate = CertificateParams::new(names)?;
    certificate.distinguished_name.push(DnType::CommonName, "salebell");
    certificate.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    certificate.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch = |time: DateTime<Utc>| (time - DateTime::UNIX_EPOCH).to_std();
    certificate.not_before = epoch + since_epoch(now - VALID_BEFORE)?;
    certificate.not_after = epoch + since_epoch(now + MINTED_FOR)?;
    let der = certificate.self_signed(&key)?.der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der())?;
    Ok(CertifiedKey::from_der(vec![der], key, provider)?)
}

/// Names by which a client may reach this machine: its host name, and the addresses that it listens on.
fn names(listen: SocketAddr) -> Vec<String> {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let mut names: BTreeSet<String> = ["localhost".to_owned()].into();
    names.extend(host.filter(|name| rcgen::string::Ia5String::try_from(name.as_str()).is_ok()));
    match listen.ip() {
        any if any.is_unspecified() => {
            let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
            names.extend(interfaces.filter_map(|interface| {
                let address = interface.address?;
                let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
                let ip = v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())));
                ip.map(|ip| ip.to_string())
            }));
        }
        one => drop(names.insert(one.to_string())),
    }
    names.into_iter().filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(source: Source, clock: Clock) -> Certificate {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let current = RwLock::new(source.load(&provider, clock.now()).unwrap());
        Certificate { source, provider, clock, current }
    }

    #[test]
    fn a_minted_certificate_is_renewed_long_before_it_expires() {
        let now = Arc::new(RwLock::new(DateTime::from_timestamp(1_800_000_000, 0).unwrap()));
        let clock = Clock::new({
            let now = now.clone();
            move || *now.read()
        });
        let listen = "0.0.0.0:8443".parse().unwrap();
        let minted = certificate(Source::Minted(names(listen)), clock);
        let first = minted.current().key;
        *now.write() += TimeDelta::days(29);
        minted.refresh();
        assert_eq!(minted.current().key.cert, first.cert);
        *now.write() += TimeDelta::days(2);
        minted.refresh();
        assert_ne!(minted.current().key.cert, first.cert);
    }

    #[test]
    fn files_are_read_again_when_they_change_and_never_replaced_by_nonsense() {
        let folder = std::env::temp_dir().join(format!("salebell-{}", uuid::Uuid::now_v7().simple()));
        std::fs::create_dir(&folder).unwrap();
        let paths = (folder.join("cert.pem"), folder.join("key.pem"));
        let write = || {
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap();
            let certificate = certificate.self_signed(&key).unwrap();
            let pem = |kind: &str, der: &[u8]| {
                use base64::Engine;
                let text = base64::engine::general_purpose::STANDARD.encode(der);
                format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
            };
            std::fs::write(&paths.0, pem("CERTIFICATE", certificate.der())).unwrap();
            pem("PRIVATE KEY", &key.serialize_der())
        };
        std::fs::write(&paths.1, write()).unwrap();
        let clock = Clock::new(|| DateTime::from_timestamp(1_800_000_000, 0).unwrap());
        let files = certificate(Source::Files(paths.0.clone(), paths.1.clone()), clock);
        let first = files.current().key;
        files.refresh();
        assert!(Arc::ptr_eq(&first, &files.current().key), "nothing has changed");
        // The certificate is written before its key.
        let key = write();
        files.refresh();
        assert_eq!(files.current().key.cert, first.cert);
        std::fs::write(&paths.1, key).unwrap();
        files.refresh();
        let second = files.current().key;
        assert_ne!(second.cert, first.cert);
        std::fs::write(&paths.0, "what").unwrap();
        files.refresh();
        assert_eq!(files.current().key.cert, second.cert);
        std::fs::remove_dir_all(&folder).unwrap();
        files.refresh();
        assert_eq!(files.current().key.cert, second.cert);
    }
}
