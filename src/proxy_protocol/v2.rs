//! Version 2: a signature, command and family, a length, addresses, extensions (§2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Fault, HEADER_BYTES_MAX, Header, Progress, client, paired};

pub(super) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED: usize = 16;
/// The extension that holds a checksum of the whole header (§2.2.3).
const CRC32C: u8 = 0x03;

/// The families of addresses, all over a stream: a connection's client cannot have come in datagrams.
#[derive(Clone, Copy)]
enum Family {
    Unspecified,
    Inet,
    Inet6,
    Unix,
}

impl Family {
    /// What its two addresses take.
    fn bytes(self) -> usize {
        match self {
            Self::Unspecified => 0,
            Self::Inet => 12,
            Self::Inet6 => 36,
            Self::Unix => 216,
        }
    }
}

pub(super) fn parse(input: &[u8]) -> Result<Progress, Fault> {
    let Some((fixed, _)) = input.split_first_chunk::<FIXED>() else { return Ok(Progress::Partial) };
    let [.., command, family, high, low] = *fixed;
    let local = match command {
        0x20 => true,
        0x21 => false,
        0x22..=0x2f => return Err(Fault::Malformed("a PROXY block with an unknown command")),
        _ => return Err(Fault::Malformed("a PROXY block of another version than 2")),
    };
    let family = match family {
        0x00 => Family::Unspecified,
        0x11 => Family::Inet,
        0x21 => Family::Inet6,
        0x31 => Family::Unix,
        // The sender's own connection says nothing of a family that would have to be understood.
        _ if local => Family::Unspecified,
        0x12 | 0x22 | 0x32 => return Err(Fault::Malformed("a PROXY block that tells of datagrams")),
        _ => return Err(Fault::Malformed("a PROXY block of an unknown family")),
    };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > HEADER_BYTES_MAX {
        return Err(Fault::Malformed("a PROXY block of more than 4 KiB"));
    }
    let Some(block) = input.get(..length) else { return Ok(Progress::Partial) };
    if local {
        return Ok(Progress::Complete { header: Header::Own, length });
    }
    let body = block.get(FIXED..).unwrap_or_default();
    let Some((addresses, extensions)) = body.split_at_checked(family.bytes()) else {
        return Err(Fault::Malformed("a PROXY block shorter than its addresses"));
    };
    // Of a family that is not specified it is not known where addresses end.
    if !matches!(family, Family::Unspecified) {
        check(block, extensions)?;
    }
    Ok(Progress::Complete { header: header(addresses), length })
}

/// By length: only the two families of IP have addresses of theirs.
fn header(addresses: &[u8]) -> Header {
    if let Ok([a, b, c, d, e, f, g, h, ports @ ..]) = <[u8; 12]>::try_from(addresses) {
        return pair(Ipv4Addr::new(a, b, c, d).into(), Ipv4Addr::new(e, f, g, h).into(), ports);
    }
    if let Ok(addresses) = <[u8; 36]>::try_from(addresses)
        && let Some((source, rest)) = addresses.split_first_chunk::<16>()
        && let Some((destination, ports)) = rest.split_first_chunk::<16>()
        && let Ok(ports) = ports.try_into()
    {
        return pair(Ipv6Addr::from(*source).into(), Ipv6Addr::from(*destination).into(), ports);
    }
    Header::Own
}

fn pair(source: IpAddr, destination: IpAddr, [a, b, c, d]: [u8; 4]) -> Header {
    client(
        SocketAddr::new(source, u16::from_be_bytes([a, b])),
        SocketAddr::new(destination, u16::from_be_bytes([c, d])),
    )
}

/// Walks the extensions: each has its type, its length, its value, and they end where the block does. Nothing in them is used;
/// a checksum is verified where there is one, as the protocol demands.
fn check(block: &[u8], extensions: &[u8]) -> Result<(), Fault> {
    let mut rest = extensions;
    while !rest.is_empty() {
        let cut = Fault::Malformed("a PROXY block with an extension that is cut short");
        let (&[kind, high, low], after) = rest.split_first_chunk::<3>().ok_or(cut)?;
        let (value, next) =
            after.split_at_checked(usize::from(u16::from_be_bytes([high, low]))).ok_or(cut)?;
        if kind == CRC32C {
            let wrong = Fault::Malformed("a PROXY block with a wrong checksum");
            let sum: [u8; 4] = value.try_into().map_err(|_| wrong)?;
            let at = block.len() - next.len() - sum.len();
            let blanked = block.iter().enumerate().map(|(i, byte)| match (at..at + sum.len()).contains(&i) {
                true => 0,
                false => *byte,
            });
            if crc32c(blanked) != u32::from_be_bytes(sum) {
                return Err(wrong);
            }
        }
        rest = next;
    }
    Ok(())
}

/// RFC 4960 appendix B, bit by bit: few senders bother, and a header has 4 KiB at most.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & 0_u32.wrapping_sub(crc & 1)))
    })
}

pub(super) fn write(header: Header) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    let Header::Client { source, destination } = header else {
        out.extend([0x20, 0x00, 0, 0]);
        return out;
    };
    match paired(source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend([0x21, 0x11, 0, 12]);
            out.extend(from.octets().into_iter().chain(to.octets()));
        }
        (from, to) => {
            out.extend([0x21, 0x21, 0, 36]);
            for address in [from, to] {
                match address {
                    IpAddr::V6(v6) => out.extend(v6.octets()),
                    IpAddr::V4(v4) => out.extend(v4.to_ipv6_mapped().octets()),
                }
            }
        }
    }
    out.extend(source.port().to_be_bytes().into_iter().chain(destination.port().to_be_bytes()));
    out
}

#[cfg(test)]
pub(super) fn checksum(block: &[u8]) -> u32 {
    crc32c(block.iter().copied())
}
