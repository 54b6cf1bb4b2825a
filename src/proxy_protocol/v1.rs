//! Version 1: `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443␍␊` (§2.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Fault, Header, Progress, client, paired};

pub(super) const MARK: &[u8] = b"PROXY ";
/// The longest line, with its end: `UNKNOWN` and two IPv6 addresses.
const LINE_BYTES_MAX: usize = 107;

pub(super) fn parse(input: &[u8]) -> Result<Progress, Fault> {
    let window = input.get(..LINE_BYTES_MAX).unwrap_or(input);
    let Some(end) = memchr::memchr(b'\n', window) else {
        return match input.len() < LINE_BYTES_MAX {
            true => Ok(Progress::Partial),
            false => Err(Fault::Malformed("a PROXY line of more than 107 bytes")),
        };
    };
    let line = window.get(..end).unwrap_or_default();
    let Some(line) = line.strip_suffix(b"\r") else {
        return Err(Fault::Malformed("a PROXY line that ends without a carriage return"));
    };
    Ok(Progress::Complete { header: header(line)?, length: end + 1 })
}

/// Fields are parted by exactly one space; what follows `UNKNOWN` means nothing.
fn header(line: &[u8]) -> Result<Header, Fault> {
    let line = line.strip_prefix(MARK).unwrap_or_default();
    let text = std::str::from_utf8(line).map_err(|_| Fault::Malformed("a PROXY line that is not ASCII"))?;
    let mut fields = text.split(' ');
    let family = fields.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(Header::Own);
    }
    let fields: [&str; 4] = {
        let mut next = || fields.next();
        match (next(), next(), next(), next(), next()) {
            (Some(a), Some(b), Some(c), Some(d), None) => [a, b, c, d],
            _ => return Err(Fault::Malformed("a PROXY line without its five fields")),
        }
    };
    let [source, destination, from, to] = fields;
    let (source, destination) = match family {
        "TCP4" => (address::<Ipv4Addr>(source)?, address::<Ipv4Addr>(destination)?),
        "TCP6" => (address::<Ipv6Addr>(source)?, address::<Ipv6Addr>(destination)?),
        _ => return Err(Fault::Malformed("a PROXY line of another family than TCP4, TCP6 and UNKNOWN")),
    };
    Ok(client(SocketAddr::new(source, port(from)?), SocketAddr::new(destination, port(to)?)))
}

fn address<T: FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, Fault> {
    let wrong = |_| Fault::Malformed("a PROXY line with an address that is not one of its family");
    text.parse::<T>().map(Into::into).map_err(wrong)
}

/// Decimal, without leading zeros.
fn port(text: &str) -> Result<u16, Fault> {
    let canonical = text == "0" || text.starts_with(|c: char| matches!(c, '1'..='9'));
    let port = text.parse().ok().filter(|_| canonical && text.bytes().all(|b| b.is_ascii_digit()));
    port.ok_or(Fault::Malformed("a PROXY line with a port that is none"))
}

pub(super) fn write(header: Header) -> Vec<u8> {
    let Header::Client { source, destination } = header else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let (from, to) = paired(source.ip(), destination.ip());
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}
