//! Explanations of failed connections for a human reader. The libraries' own texts name their internal layers and error
//! numbers of the operating system.

use std::error::Error;
use std::io;

use tokio_rustls::rustls::{self, CertificateError};

/// A host name that does not resolve. Resolvers put it into the errors that [`explain`] reads, because the operating
/// system's error has no kind of its own for it.
#[derive(Debug)]
pub struct UnknownName(pub String);

impl std::fmt::Display for UnknownName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the name {} does not resolve; is it spelled correctly, and is there a network?", self.0)
    }
}

impl Error for UnknownName {}

/// Explains why there is no connection to `peer`, or why it broke off. `None` if the error is about something else.
pub fn explain(error: &(dyn Error + 'static), peer: &str) -> Option<String> {
    links(error).into_iter().find_map(|link| {
        if let Some(unknown) = link.downcast_ref::<UnknownName>() {
            return Some(unknown.to_string());
        }
        if let Some(error) = link.downcast_ref::<rustls::Error>() {
            return Some(explain_tls(error, peer));
        }
        if let Some(error) = link.downcast_ref::<hyper::Error>() {
            return explain_http(error, peer);
        }
        explain_kind(link.downcast_ref::<io::Error>()?.kind(), peer)
    })
}

/// Whether the connection was refused because nothing listens at the other end.
pub fn is_refused(error: &(dyn Error + 'static)) -> bool {
    let kinds = links(error).into_iter().filter_map(|link| link.downcast_ref::<io::Error>());
    kinds.map(io::Error::kind).any(|kind| kind == io::ErrorKind::ConnectionRefused)
}

/// The error and its causes. `source` of an `io::Error` skips the error that it wraps, so that one is taken from
/// `get_ref`.
fn links<'e>(error: &'e (dyn Error + 'static)) -> Vec<&'e (dyn Error + 'static)> {
    let (mut found, mut next) = (Vec::new(), Some(error));
    while let Some(link) = next {
        found.push(link);
        next = match link.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped as &(dyn Error + 'static)),
            None => link.source(),
        };
    }
    found
}

fn explain_kind(kind: io::ErrorKind, peer: &str) -> Option<String> {
    Some(match kind {
        // `NotFound` is the error for a Unix socket that does not exist.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => format!("nothing listens at {peer}"),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => format!("{peer} has closed the connection"),
        io::ErrorKind::TimedOut => format!("{peer} does not answer"),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
            format!("there is no network route to {peer}")
        }
        _ => return None,
    })
}

fn explain_tls(error: &rustls::Error, peer: &str) -> String {
    match error {
        rustls::Error::InvalidCertificate(reason) => {
            let reason = match reason {
                CertificateError::UnknownIssuer => {
                    "is not signed by an authority that this machine trusts".to_owned()
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "has expired".to_owned()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "is not valid yet; is this machine's clock right?".to_owned()
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    "is for another name".to_owned()
                }
                other => format!("is not accepted: {other}"),
            };
            format!("the certificate of {peer} {reason}")
        }
        rustls::Error::InvalidMessage(_) => format!("{peer} does not speak TLS; is it http and not https?"),
        rustls::Error::AlertReceived(alert) => format!("{peer} has ended the TLS handshake: {alert:?}"),
        other => format!("TLS with {peer} failed: {other}"),
    }
}

fn explain_http(error: &hyper::Error, peer: &str) -> Option<String> {
    if error.is_parse() {
        return Some(format!("{peer} does not speak HTTP; is it https and not http?"));
    }
    error.is_incomplete_message().then(|| format!("{peer} closed the connection before it had answered"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_a_library_wraps_is_found_at_any_depth() {
        let of_tls = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, of_tls));
        let text = explain(&wrapped, "https://shop.example").unwrap();
        assert_eq!(
            text,
            "the certificate of https://shop.example is not signed by an authority that this machine trusts"
        );
        assert!(!is_refused(&wrapped));
        let refused = io::Error::other(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(explain(&refused, "a:1").unwrap(), "nothing listens at a:1");
        assert!(is_refused(&refused));
        let unknown = io::Error::other(UnknownName("nowhere.invalid".to_owned()));
        assert!(explain(&unknown, "x").unwrap().starts_with("the name nowhere.invalid does not resolve"));
        assert_eq!(explain(&io::Error::other("something else"), "x"), None);
    }
}
