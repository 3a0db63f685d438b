//! What a listener speaks.

/// Protocols of a listener.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    /// HTTP/1.1, or HTTP/2 by ALPN or by prior knowledge.
    Http,
    /// Only HTTP/2, by ALPN or, without TLS, by prior knowledge.
    Grpc,
}

impl Speaks {
    /// Protocols for ALPN, in order of preference.
    pub(super) fn protocols(self) -> &'static [&'static [u8]] {
        match self {
            Speaks::Http => &[b"h2", b"http/1.1"],
            Speaks::Grpc => &[b"h2"],
        }
    }
}
