//! Whose request it is: trusted proxies and forwarded headers, and what upstreams are told of it.

mod fields;
mod forwarded;
mod names;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

pub(crate) use fields::is_protected;
pub use fields::{Upgrade, forward, remove_twins, request_id, strip_hop_by_hop};
pub(crate) use names::{is_forwarding, is_identity};

use crate::config::{Build, Spanned};

/// Whose request it is, after trusted proxies have been believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The client's address, IPv4-mapped forms reduced. A peer on a Unix socket that nobody vouches for is 127.0.0.1.
    pub address: IpAddr,
    /// Whether the peer is one of the listener's trusted proxies.
    pub peer_trusted: bool,
    /// Whether the client came by https (from the connection, or from a trusted peer's word).
    pub https: bool,
}

/// What trusted proxies write of their clients. What they do not write is a client's own word, and is not believed.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum ProxiesWrite {
    /// Nobody says: `X-Forwarded-For` is believed where there is one, else `Forwarded`.
    #[default]
    Any,
    /// `X-Forwarded-For` and `X-Forwarded-Proto`: what is in `Forwarded` is not believed.
    XForwarded,
    /// `Forwarded` (RFC 7239): what is in `X-Forwarded-*` is not believed.
    Forwarded,
}

/// Peers of a listener: those that it believes (`trusted_proxies`), or that must send a PROXY header (`proxy_protocol.from`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted {
    networks: Vec<IpNet>,
    unix: bool,
    write: ProxiesWrite,
}

impl Trusted {
    /// Compiles a list of peers: CIDRs or addresses, `unix:` for peers of a Unix socket. None when `build.errors` says why.
    pub fn compile(written: &[Spanned<String>], build: &mut Build) -> Option<Self> {
        let mut own = Self::default();
        let mut sound = true;
        for entry in written {
            match entry.as_str() {
                "unix:" => own.unix = true,
                text => match network(text) {
                    Ok(network) => own.networks.push(network),
                    Err((cause, cure)) => {
                        let cure = format!("{cure}; `unix:` is any peer of a Unix socket");
                        build.errors.push(&entry.site, &*entry.path, cause, cure);
                        sound = false;
                    }
                },
            }
        }
        own.networks = IpNet::aggregate(&own.networks);
        sound.then_some(own)
    }

    /// The same peers, who are known to write this.
    #[must_use]
    pub fn writing(self, write: ProxiesWrite) -> Self {
        Self { write, ..self }
    }

    /// Whether everybody whom this entry (well-formed, of a list like that of `trusted_proxies`) stands for is one of them.
    pub fn covers(&self, entry: &str) -> bool {
        match entry {
            "unix:" => self.unix,
            text => network(text).is_ok_and(|inner| self.networks.iter().any(|outer| outer.contains(&inner))),
        }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Whether a peer is one of them; `None` is one of a Unix socket.
    pub fn trusts_peer(&self, peer: Option<SocketAddr>) -> bool {
        peer.map_or(self.unix, |peer| self.trusts(peer.ip()))
    }
}

/// Reads a CIDR or an address; IPv4-mapped forms are reduced, bits behind the prefix are an error.
///
/// # Errors
/// Cause and cure.
pub(crate) fn network(text: &str) -> Result<IpNet, (String, String)> {
    let parsed = match text.parse::<IpNet>() {
        Ok(network) => network,
        Err(_) => match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => {
                let cause = format!("`{text}` is neither an address nor a CIDR");
                return Err((cause, "write `10.0.0.0/8`, `192.0.2.7` or `2001:db8::/32`".into()));
            }
        },
    };
    if parsed.addr() != parsed.network() {
        let cause = format!("`{text}` has bits set behind its prefix");
        return Err((
            cause,
            format!("write `{}`, or `{}` for the one address", parsed.trunc(), parsed.addr()),
        ));
    }
    Ok(match parsed {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => ipnet::Ipv4Net::new(v4, v6.prefix_len() - 96).map_or(parsed, IpNet::V4),
            None => parsed,
        },
        other => other,
    })
}

/// Whose an address is: itself, or its IPv6 network of 64 bits, which is what one subscriber has. IPv4-mapped forms are reduced.
pub fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
    }
}

/// Whose request it is. `peer` is none on a Unix socket; `tls` says whether the connection is.
///
/// Only a trusted peer's fields are read, from the right, past trusted hops, to the first address that is not trusted (or
/// the last there is). What is malformed ends the way: the last good hop is the client. Unless it is said what proxies write
/// ([`ProxiesWrite`]), `X-Forwarded-For` is read where there is one, else `Forwarded` (RFC 7239).
pub fn determine(peer: Option<SocketAddr>, tls: bool, headers: &HeaderMap, trusted: &Trusted) -> Client {
    let direct = peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.ip().to_canonical());
    if !trusted.trusts_peer(peer) {
        return Client { address: direct, peer_trusted: false, https: tls };
    }
    let mut address = direct;
    let mut https = None;
    forwarded::walk(headers, trusted, |hop| {
        address = hop.address;
        https = hop.https.or(https);
    });
    let https = forwarded::proto(headers, trusted).or(https).unwrap_or(tls);
    Client { address, peer_trusted: true, https }
}
