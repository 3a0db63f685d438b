//! `server.tls`: encryption of the API's listeners.

use std::path::PathBuf;

use super::reader::Reader;

/// Value of `server.tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsConfig {
    /// `off`: plain HTTP.
    Off,
    /// `minted`: a certificate that the process makes at start, for a load balancer that does not verify it.
    Minted,
    /// `files`: `server.certificate` and `server.key`, both PEM; read again when they change.
    Files { certificate: PathBuf, key: PathBuf },
}

impl TlsConfig {
    pub(super) fn read(r: &mut Reader) -> Option<TlsConfig> {
        let kind: String = r.get("server.tls")?;
        let (certificate, key) = (r.optional("server.certificate"), r.optional("server.key"));
        let [certificate, key] = [certificate, key].map(|path| path.filter(|path| !path.is_empty()));
        for (name, path) in [("server.certificate", &certificate), ("server.key", &key)] {
            if path.is_some() != (kind == "files") {
                r.problem(name, "is required with server.tls = files, and has no use without");
            }
        }
        let [certificate, key] = [certificate, key].map(|path| PathBuf::from(path.unwrap_or_default()));
        match kind.as_str() {
            "off" => return Some(TlsConfig::Off),
            "minted" => return Some(TlsConfig::Minted),
            "files" => return Some(TlsConfig::Files { certificate, key }),
            _ => r.problem("server.tls", "must be off, minted or files"),
        }
        Some(TlsConfig::Off)
    }
}
