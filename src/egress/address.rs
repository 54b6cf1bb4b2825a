//! What kind of address one is: public, or one of those that lead inside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// To one machine of the internet, as far as addresses tell.
    Public,
    /// Elsewhere: what it is called.
    Inner(&'static str),
    /// To no single machine, or to whoever asks: never a place to fetch from.
    Nowhere(&'static str),
}

impl Kind {
    /// Judges an address by the registries of special purposes (RFC 6890, and what IANA has added since). What carries an IPv4
    /// address inside is not looked through: whoever wants NAT64 lists its prefix.
    pub(super) fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => v4(ip),
            IpAddr::V6(ip) => v6(ip),
        }
    }
}

fn v4(ip: Ipv4Addr) -> Kind {
    let [a, b, c, _] = ip.octets();
    match (a, b, c) {
        (0, ..) => Kind::Nowhere("this network (RFC 791)"),
        (224..=239, ..) => Kind::Nowhere("a multicast address"),
        (255, 255, 255) if ip.is_broadcast() => Kind::Nowhere("the broadcast address"),
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => Kind::Inner("a private address"),
        (127, ..) => Kind::Inner("a loopback address"),
        (169, 254, _) => Kind::Inner("a link-local address"),
        (100, 64..=127, _) => Kind::Inner("an address of a carrier's NAT"),
        (192, 0, 0) => Kind::Inner("an address of a protocol's own"),
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => Kind::Inner("an address for documentation"),
        (192, 88, 99) => Kind::Inner("a relay of 6to4"),
        (198, 18..=19, _) => Kind::Inner("an address for benchmarks"),
        (240.., ..) => Kind::Inner("a reserved address"),
        _ => Kind::Public,
    }
}

fn v6(ip: Ipv6Addr) -> Kind {
    let [a, b, c, d, e, f, ..] = ip.segments();
    match (a, b, c) {
        _ if ip.is_unspecified() => Kind::Nowhere("the unspecified address"),
        _ if ip.is_loopback() => Kind::Inner("a loopback address"),
        (0xff00.., ..) => Kind::Nowhere("a multicast address"),
        (0xfe80..=0xfebf, ..) => Kind::Inner("a link-local address"),
        (0xfec0..=0xfeff, ..) => Kind::Inner("a site-local address"),
        (0xfc00..=0xfdff, ..) => Kind::Inner("a unique local address"),
        (0, 0, 0) if (d, e, f) == (0, 0, 0xffff) => Kind::Inner("an IPv4 address within IPv6"),
        (0x64, 0xff9b, _) => Kind::Inner("an IPv4 address behind NAT64"),
        (0x2002, ..) => Kind::Inner("an IPv4 address behind 6to4"),
        (0x2001, 0, _) => Kind::Inner("an IPv4 address behind Teredo"),
        (0x2001, 0x0001..=0x01ff, _) => Kind::Inner("an address of a protocol's own"),
        (0x2001, 0x0db8, _) | (0x3fff, 0..=0x0fff, _) => Kind::Inner("an address for documentation"),
        // Global unicast is 2000::/3 and nothing else (RFC 4291 §2.4, by IANA's allocation).
        (0x2000..=0x3fff, ..) => Kind::Public,
        _ => Kind::Inner("a reserved address"),
    }
}
