//! Whose request it is: trusted proxies and forwarded headers.

use std::net::IpAddr;

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
