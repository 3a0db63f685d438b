//! Guard against server-side request forgery: users may not make us call private addresses.
//!
//! We resolve a name ourselves, check every address that it has, and connect only to those addresses. There is no
//! second look-up between the check and the connection that could answer differently. A connection that is reused
//! leads to an address that was checked when it was opened.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Special-purpose IPv4 networks of IANA's registry: all that are not globally reachable or lead somewhere else.
/// <https://www.iana.org/assignments/iana-ipv4-special-registry/>
const SPECIAL_V4: [(Ipv4Net, &str); 18] = [
    (v4(0, 0, 0, 0, 8), "unspecified"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "carrier-grade NAT"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "protocol assignments"),
    (v4(192, 0, 2, 0, 24), "documentation"),
    (v4(192, 31, 196, 0, 24), "AS112"),
    (v4(192, 52, 193, 0, 24), "multicast tunnels"),
    (v4(192, 88, 99, 0, 24), "6to4 relay"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(192, 175, 48, 0, 24), "AS112"),
    (v4(198, 18, 0, 0, 15), "benchmarking"),
    (v4(198, 51, 100, 0, 24), "documentation"),
    (v4(203, 0, 113, 0, 24), "documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
];

/// Special-purpose IPv6 networks of IANA's registry. The first that contains an address names its class.
/// <https://www.iana.org/assignments/iana-ipv6-special-registry/>
const SPECIAL_V6: [(Ipv6Net, &str); 19] = [
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), "unspecified"),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "loopback"),
    (v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), "IPv4-mapped"),
    (v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), "IPv4-translated"),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 96), "IPv4-compatible"),
    (v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), "NAT64"),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), "NAT64"),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), "discard-only"),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), "Teredo"),
    (v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), "benchmarking"),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "protocol assignments"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "documentation"),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), "6to4"),
    (v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48), "AS112"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "documentation"),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), "unique local"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link-local"),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "site-local"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast"),
];

/// Range that IANA allocates global unicast addresses from. Addresses outside it are refused.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(s: [u16; 8], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]), prefix)
}

/// Class that keeps an address from being public. `None`: it is public.
pub fn special_class(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => {
            SPECIAL_V4.iter().find(|(network, _)| network.contains(&v4)).map(|(_, class)| *class)
        }
        IpAddr::V6(v6) => SPECIAL_V6
            .iter()
            .find(|(network, _)| network.contains(&v6))
            .map(|(_, class)| *class)
            .or_else(|| (!GLOBAL_V6.contains(&v6)).then_some("not global unicast")),
    }
}

/// Refusal of an address. It names the class but not the address: outsiders must not learn from us what the names of
/// a private network resolve to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forbidden {
    /// Class of the address, such as `link-local`.
    pub class: &'static str,
}

impl std::fmt::Display for Forbidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the host has an address that is not public ({})", self.class)
    }
}

impl std::error::Error for Forbidden {}

/// Checks addresses: accepts public ones, and those in the networks that the configuration allows.
#[derive(Clone, Debug)]
pub struct SsrfGuard {
    allowed: Arc<[IpNet]>,
}

impl SsrfGuard {
    /// Creates a guard; `allowed` is `webhook.allow_networks`.
    pub fn new(allowed: &[IpNet]) -> SsrfGuard {
        SsrfGuard { allowed: allowed.into() }
    }

    /// Checks one address.
    ///
    /// # Errors
    /// The address is neither public nor in an allowed network.
    pub fn check(&self, address: IpAddr) -> Result<(), Forbidden> {
        match special_class(address) {
            Some(class) if !self.allowed.iter().any(|network| network.contains(&address)) => {
                Err(Forbidden { class })
            }
            _ => Ok(()),
        }
    }

    /// Checks the host of a URL if it is an address itself: the client connects to those without a resolver. The
    /// `url` crate has normalised every spelling by then (`0x7f.1`, `2130706433`, `[::ffff:7f00:1]`).
    ///
    /// # Errors
    /// As `check`.
    pub fn check_host(&self, host: Option<url::Host<&str>>) -> Result<(), Forbidden> {
        match host {
            Some(url::Host::Ipv4(v4)) => self.check(v4.into()),
            Some(url::Host::Ipv6(v6)) => self.check(v6.into()),
            Some(url::Host::Domain(_)) | None => Ok(()),
        }
    }
}

/// Function that finds the addresses of a name, unchecked.
pub type LookUp = Arc<dyn Fn(String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> + Send + Sync>;

/// The system's resolver.
pub fn system_look_up() -> LookUp {
    Arc::new(|name| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

/// Resolver of the HTTP client, which checks every address. One forbidden address refuses the whole name: a name that
/// is both public and private is an attack or a mistake.
pub struct GuardedResolver {
    pub guard: SsrfGuard,
    pub look_up: LookUp,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, found) = (self.guard.clone(), (self.look_up)(name.as_str().to_owned()));
        Box::pin(async move {
            let addresses = found.await?;
            addresses.iter().try_for_each(|address| guard.check(*address))?;
            // The client replaces port 0 by that of the URL.
            let addresses: Addrs = Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn class(address: &str) -> Option<&'static str> {
        special_class(address.parse().unwrap())
    }

    #[test]
    fn every_class_is_recognized_up_to_its_bounds() {
        for (first, last, name) in [
            ("0.0.0.0", "0.255.255.255", "unspecified"),
            ("10.0.0.0", "10.255.255.255", "private"),
            ("100.64.0.0", "100.127.255.255", "carrier-grade NAT"),
            ("127.0.0.0", "127.255.255.255", "loopback"),
            ("169.254.0.0", "169.254.255.255", "link-local"),
            ("172.16.0.0", "172.31.255.255", "private"),
            ("192.0.0.0", "192.0.0.255", "protocol assignments"),
            ("192.0.2.0", "192.0.2.255", "documentation"),
            ("192.88.99.0", "192.88.99.255", "6to4 relay"),
            ("192.168.0.0", "192.168.255.255", "private"),
            ("198.18.0.0", "198.19.255.255", "benchmarking"),
            ("198.51.100.0", "198.51.100.255", "documentation"),
            ("203.0.113.0", "203.0.113.255", "documentation"),
            ("224.0.0.0", "239.255.255.255", "multicast"),
            ("240.0.0.0", "255.255.255.255", "reserved"),
            ("::", "::", "unspecified"),
            ("::1", "::1", "loopback"),
            ("::2", "::ffff:ffff", "IPv4-compatible"),
            ("::ffff:0.0.0.0", "::ffff:255.255.255.255", "IPv4-mapped"),
            ("::ffff:0:0.0.0.0", "::ffff:0:255.255.255.255", "IPv4-translated"),
            ("64:ff9b::", "64:ff9b::ffff:ffff", "NAT64"),
            ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "NAT64"),
            ("100::", "100::ffff:ffff:ffff:ffff", "discard-only"),
            ("2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", "Teredo"),
            ("2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff", "benchmarking"),
            ("2001:10::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "protocol assignments"),
            ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "documentation"),
            ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "6to4"),
            ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "documentation"),
            ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "unique local"),
            ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "link-local"),
            ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "site-local"),
            ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast"),
            ("4000::", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "not global unicast"),
        ] {
            assert_eq!(class(first), Some(name), "{first}");
            assert_eq!(class(last), Some(name), "{last}");
        }
    }

    #[test]
    fn public_neighbours_of_the_classes_are_public() {
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::",
            "2001:db7:ffff::",
            "2003::",
            "2606:4700:4700::1111",
            "2a00:1450::1",
            "3ffe:ffff::",
        ] {
            assert_eq!(class(address), None, "{address}");
        }
    }

    #[test]
    fn every_spelling_of_an_address_is_judged() {
        let guard = SsrfGuard::new(&[]);
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f.1/",
            "http://0x7f000001/",
            "http://2130706433/",
            "http://017700000001/",
            "http://127.0.0.1./",
            "http://%31%32%37.0.0.1/",
            "http://１２７.0.0.1/",
            "http://[::1]/",
            "http://[0:0:0:0:0:0:0:1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:7f00:1]/",
            "http://[::7f00:1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[2002:7f00:1::]/",
            "http://169.254.169.254/latest/meta-data/",
            "http://[fd00:ec2::254]/latest/meta-data/",
            "http://0/",
            "http://255.255.255.255/",
        ] {
            let url = url::Url::parse(url).unwrap();
            assert!(guard.check_host(url.host()).is_err(), "{url}");
        }
    }

    proptest! {
        /// The standard library's stable predicates are a second opinion on the classes that it knows.
        #[test]
        fn addresses_that_the_standard_library_calls_special_are_refused(bits: u32) {
            let address = Ipv4Addr::from_bits(bits);
            let special = address.is_private() || address.is_loopback() || address.is_link_local()
                || address.is_broadcast() || address.is_documentation() || address.is_multicast()
                || address.is_unspecified();
            prop_assert!(!special || special_class(address.into()).is_some());
        }

        /// However an IPv4 address is wrapped in IPv6, the wrapping is refused.
        #[test]
        fn no_wrapping_of_an_ipv4_address_is_public(bits: u32) {
            let [a, b, c, d] = Ipv4Addr::from_bits(bits).octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            for wrapped in [
                [0, 0, 0, 0, 0, 0, high, low],
                [0, 0, 0, 0, 0, 0xffff, high, low],
                [0, 0, 0, 0, 0xffff, 0, high, low],
                [0x64, 0xff9b, 0, 0, 0, 0, high, low],
                [0x64, 0xff9b, 1, 0, 0, 0, high, low],
                [0x2002, high, low, 0, 0, 0, 0, 1],
                [0x2001, 0, high, low, 0, 0, !high, !low],
            ] {
                prop_assert!(special_class(Ipv6Addr::from(wrapped).into()).is_some());
            }
        }

        #[test]
        fn only_global_unicast_is_public(bits: u128) {
            let address = Ipv6Addr::from_bits(bits);
            if special_class(address.into()).is_none() {
                prop_assert!(address.segments()[0] >> 13 == 1);
                prop_assert!(!address.is_multicast() && !address.is_loopback());
            }
        }

        /// An allowed network exempts its own addresses and no others.
        #[test]
        fn an_allowed_network_is_the_only_exception(bits: u32, prefix in 0_u8..=32, other: u32) {
            let network = Ipv4Net::new(Ipv4Addr::from_bits(bits), prefix).unwrap();
            let guard = SsrfGuard::new(&[network.into()]);
            prop_assert!(guard.check(Ipv4Addr::from_bits(bits).into()).is_ok());
            let other = Ipv4Addr::from_bits(other);
            let expected = network.contains(&other) || special_class(other.into()).is_none();
            prop_assert_eq!(guard.check(other.into()).is_ok(), expected);
        }
    }
}
