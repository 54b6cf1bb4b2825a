//! The PROXY protocol, versions 1 and 2: the line or block that a balancer of connections sends ahead of a client's bytes to say
//! whose they are (proxy-protocol.txt of HAProxy, 2020/03/05). Pure functions over bytes.

#[cfg(test)]
mod tests;
mod v1;
mod v2;

use std::net::{IpAddr, SocketAddr};

/// A whole header. The longest of version 1 has 107 bytes; version 2 allows 64 KiB, of which addresses need at most 232 and the
/// rest is extensions. 4 KiB, nginx's bound too, hold the extensions that are in use, a client certificate among them.
pub const HEADER_BYTES_MAX: usize = 4096;

/// The versions of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// A line of text.
    V1,
    /// A binary block.
    V2,
}

/// What a header says of the connection behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Header {
    /// It is the sender's own (`LOCAL`: a health check), or of a client that no address tells (`UNKNOWN`, `UNSPEC`, a Unix socket).
    Own,
    /// It is that of a client.
    Client {
        /// The client.
        source: SocketAddr,
        /// Where the client connected to.
        destination: SocketAddr,
    },
}

/// What has been read so far is …
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// … the beginning of a header, or nothing.
    Partial,
    /// … a header of `length` bytes; what follows is the client's.
    Complete {
        /// What it says; IPv4-mapped addresses are reduced.
        header: Header,
        /// In bytes.
        length: usize,
    },
}

/// Why there is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It does not begin like one.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// It begins like one and is none.
    #[error("{0}")]
    Malformed(&'static str),
}

/// Reads a header from the beginning of `input`, all that has come so far. The same bytes give the same result however they are
/// cut: a fault shows with the first byte that makes it one, or where that part of the header ends. Never needs more than
/// [`HEADER_BYTES_MAX`] bytes.
///
/// # Errors
/// As [`Fault`].
pub fn parse(input: &[u8]) -> Result<Progress, Fault> {
    if begins(input, v2::SIGNATURE) {
        return v2::parse(input);
    }
    if begins(input, v1::MARK) {
        return v1::parse(input);
    }
    Err(Fault::Missing)
}

/// Whether what was refused as the head of a request begins like a header instead: one of version 2 without its first two ends of
/// lines, which a request may have before it.
pub fn is_header(refused: &[u8]) -> bool {
    let (empty_lines, rest) = v2::SIGNATURE.split_at(4);
    refused.starts_with(v1::MARK) || refused.strip_prefix(empty_lines).unwrap_or(refused).starts_with(rest)
}

/// The header that says this.
pub fn write(version: Version, header: Header) -> Vec<u8> {
    match version {
        Version::V1 => v1::write(header),
        Version::V2 => v2::write(header),
    }
}

/// Whether `input` is `mark`, then anything, or the beginning of `mark`.
fn begins(input: &[u8], mark: &[u8]) -> bool {
    input.iter().zip(mark).all(|(own, other)| own == other)
}

fn client(source: SocketAddr, destination: SocketAddr) -> Header {
    let reduced = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    Header::Client { source: reduced(source), destination: reduced(destination) }
}

/// Two addresses of one family: where they differ, both as IPv6, mapped.
fn paired(source: IpAddr, destination: IpAddr) -> (IpAddr, IpAddr) {
    let mapped = |address: IpAddr| match address {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        IpAddr::V6(_) => address,
    };
    match (source, destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => (source, destination),
        _ => (mapped(source), mapped(destination)),
    }
}
