//! The client behind the load balancers that we trust, as they report it (`server.trusted_proxies`). The same headers from
//! any other peer are ignored.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::{Extensions, HeaderMap};
use ipnet::IpNet;

use crate::api::request_state::Peer;

/// Maximum number of addresses of `X-Forwarded-For` that are examined, from the last one on: no chain of proxies is
/// longer.
const MAX_HOPS: usize = 16;

/// The client of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    pub address: IpAddr,
    /// Whether the client uses TLS, to us or to the load balancer.
    pub encrypted: bool,
    /// Whether a trusted load balancer has forwarded the request.
    pub proxied: bool,
}

impl Client {
    /// Finds the client of a request; `trusted` are the networks of `server.trusted_proxies`.
    pub fn of(headers: &HeaderMap, extensions: &Extensions, trusted: &[IpNet]) -> Client {
        let peer = extensions.get::<Peer>();
        let own = peer.map_or(Ipv6Addr::UNSPECIFIED.into(), |peer| peer.address.ip()).to_canonical();
        let encrypted = peer.is_some_and(|peer| peer.encrypted);
        if !is_trusted(&own, trusted) {
            return Client { address: own, encrypted, proxied: false };
        }
        let scheme = headers.get_all("x-forwarded-proto").iter().next_back();
        let scheme = scheme.and_then(|value| value.to_str().ok()?.rsplit(',').next());
        Client {
            address: before_proxies(own, headers, trusted),
            encrypted: scheme.map_or(encrypted, |scheme| scheme.trim().eq_ignore_ascii_case("https")),
            proxied: true,
        }
    }

    /// The address that requests are counted by: one customer has a whole /64 of IPv6.
    pub fn network(&self) -> IpAddr {
        match self.address {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
            v4 => v4,
        }
    }
}

fn is_trusted(address: &IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(address))
}

/// The last address of `X-Forwarded-For` that is not a trusted proxy. Those before it are the client's own claims.
fn before_proxies(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer;
    // An unreadable value ends the list, as an invalid address does.
    let values = headers.get_all("x-forwarded-for").iter().rev().map(|value| value.to_str().unwrap_or("?"));
    for hop in values.flat_map(|value| value.rsplit(',')).take(MAX_HOPS) {
        if !is_trusted(&client, trusted) {
            break;
        }
        let Some(address) = read_address(hop.trim()) else { break };
        client = address.to_canonical();
    }
    client
}

/// Parses an address, or one followed by the port that a load balancer may add.
fn read_address(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, encrypted: bool, given: &[(&'static str, &str)]) -> Client {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, axum::http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let mut extensions = Extensions::new();
        let address = SocketAddr::new(peer.parse().unwrap(), 4711);
        extensions.insert(Peer { address, encrypted });
        Client::of(&headers, &extensions, &trusted)
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_a_trusted_proxy() {
        let many = format!("203.0.113.9{}", ", 10.0.0.2".repeat(10_000));
        for (peer, forwarded, expected) in [
            ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
            ("10.0.0.1", "198.51.100.1, 203.0.113.9", "203.0.113.9"),
            ("10.0.0.1", "203.0.113.9, 10.0.0.7", "203.0.113.9"),
            ("10.0.0.1", "203.0.113.9:50312", "203.0.113.9"),
            ("10.0.0.1", "[2001:db8::1]:50312", "2001:db8::1"),
            ("fd00::1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6"),
            ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
            ("10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
            // The peer is no trusted proxy, so its header is ignored.
            ("203.0.113.1", "198.51.100.1", "203.0.113.1"),
            ("10.0.0.1", "what", "10.0.0.1"),
            ("10.0.0.1", "203.0.113.9, é", "10.0.0.1"),
            ("10.0.0.1", "203.0.113.9, what, 10.0.0.7", "10.0.0.7"),
            ("10.0.0.1", "203.0.113.9,", "10.0.0.1"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", &many, "10.0.0.2"),
        ] {
            let found = client(peer, false, &[("x-forwarded-for", forwarded)]);
            assert_eq!(found.address, expected.parse::<IpAddr>().unwrap(), "{peer} {forwarded}");
        }
        // Two headers form one list.
        let two = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "10.0.0.7")];
        assert_eq!(client("10.0.0.1", false, &two).address, "203.0.113.9".parse::<IpAddr>().unwrap());
        let of_six = client("fd00::1", false, &[("x-forwarded-for", "2001:db8:1:2:3:4:5:6")]);
        assert_eq!(of_six.network(), "2001:db8:1:2::".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn the_protocol_is_that_of_a_trusted_proxy_or_our_own() {
        for (peer, own, given, encrypted) in [
            ("10.0.0.1", true, &[("x-forwarded-proto", "http")][..], false),
            ("10.0.0.1", false, &[("x-forwarded-proto", "https")], true),
            ("10.0.0.1", false, &[("x-forwarded-proto", "http,https")], true),
            ("10.0.0.1", true, &[("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")], false),
            ("10.0.0.1", true, &[], true),
            ("203.0.113.1", false, &[("x-forwarded-proto", "https")], false),
        ] {
            let found = client(peer, own, given);
            assert_eq!((found.encrypted, found.proxied), (encrypted, peer == "10.0.0.1"), "{peer} {given:?}");
        }
    }
}
