//! Hosts: one valid authority, whichever way it was said.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, header};

use super::{Denial, Form};
use crate::request::Protocol;

/// A valid authority, still as it was written.
#[derive(Clone, Copy, Debug)]
pub struct Authority<'a> {
    /// The host.
    pub host: Host<'a>,
    /// The port, where it was named.
    pub port: Option<u16>,
}

/// A valid host, without port and trailing dot.
#[derive(Clone, Copy, Debug)]
pub enum Host<'a> {
    /// A name or an IPv4 address, in any case.
    Name(&'a str),
    /// An IPv6 address.
    V6(Ipv6Addr),
}

impl<'a> Authority<'a> {
    /// Reads `host[:port]`. Narrower than RFC 3986 §3.2.2: names are letters, digits, `-` and `_` in labels of 1 to 63
    /// bytes, 253 in all; one trailing dot is dropped. What ends in a number must be a dotted IPv4 address in its only
    /// form, as other readers take `127.1` or `0x7f.1` for one. Ports are 1 to 65535 without leading zeros.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &'a [u8]) -> Result<Self, &'static str> {
        if let [b'[', inner @ ..] = text {
            return Self::parse_v6(inner);
        }
        let (host, port) = match memchr::memchr(b':', text) {
            Some(colon) => (text.get(..colon).unwrap_or_default(), text.get(colon + 1..)),
            None => (text, None),
        };
        Ok(Self { host: Host::Name(name(host)?), port: port.map(self::port).transpose()? })
    }

    /// What stands behind the opening bracket.
    fn parse_v6(inner: &'a [u8]) -> Result<Self, &'static str> {
        let inner = std::str::from_utf8(inner).map_err(|_| "the host is not ASCII")?;
        let (address, rest) = inner.split_once(']').ok_or("the host has an open bracket")?;
        let address = address.parse().map_err(|_| "the host is not an IPv6 address")?;
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(self::port(port.as_bytes())?),
            None if rest.is_empty() => None,
            None => return Err("something follows the host's bracket"),
        };
        Ok(Self { host: Host::V6(address), port })
    }

    /// An upper bound on what [`Authority::write`] writes.
    pub(super) fn length_max(&self) -> usize {
        let host = match self.host {
            Host::Name(name) => name.len(),
            Host::V6(_) => 41,
        };
        host + if self.port.is_some() { 6 } else { 0 }
    }

    /// Writes the canonical form; returns where the host ends.
    pub fn write(&self, out: &mut String) -> usize {
        self.host.write(out);
        let host_end = out.len();
        if let Some(port) = self.port {
            out.push(':');
            out.push_str(itoa::Buffer::new().format(port));
        }
        host_end
    }

    fn agrees_with(&self, other: &Self, default_port: Option<u16>) -> bool {
        self.port.or(default_port) == other.port.or(default_port) && self.host.is(&other.host)
    }
}

impl Host<'_> {
    /// Writes the canonical form: lower case; IPv6 in brackets as RFC 5952 has it.
    pub fn write(&self, out: &mut String) {
        match self {
            Self::Name(name) => {
                let start = out.len();
                out.push_str(name);
                if let Some(own) = out.get_mut(start..) {
                    own.make_ascii_lowercase();
                }
            }
            Self::V6(address) => {
                let written = write!(out, "[{address}]");
                debug_assert!(written.is_ok(), "a String takes everything");
            }
        }
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(a), Self::Name(b)) => a.eq_ignore_ascii_case(b),
            (Self::V6(a), Self::V6(b)) => a == b,
            _ => false,
        }
    }
}

/// One pass over the bytes; only a label that starts with a digit is looked at again.
fn name(text: &[u8]) -> Result<&str, &'static str> {
    let text = text.strip_suffix(b".").unwrap_or(text);
    if text.is_empty() {
        return Err("the host is empty");
    }
    if text.len() > 253 {
        return Err("the host is longer than 253 bytes");
    }
    let mut label_bytes = 0;
    let mut starts_with_digit = false;
    for byte in text {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' => {
                starts_with_digit &= label_bytes > 0;
                label_bytes += 1;
            }
            b'0'..=b'9' => {
                starts_with_digit |= label_bytes == 0;
                label_bytes += 1;
            }
            b'.' if label_bytes == 0 => return Err("the host has an empty label"),
            b'.' if label_bytes > 63 => return Err("the host has a label longer than 63 bytes"),
            b'.' => label_bytes = 0,
            0x80.. => return Err("the host is not ASCII"),
            _ => return Err("the host has a character that no host has"),
        }
    }
    match label_bytes {
        0 => return Err("the host has an empty label"),
        1..=63 => {}
        _ => return Err("the host has a label longer than 63 bytes"),
    }
    let text = std::str::from_utf8(text).map_err(|_| "the host is not ASCII")?;
    if starts_with_digit && ends_in_number(text) && text.parse::<Ipv4Addr>().is_err() {
        return Err("the host ends in a number but is not a dotted IPv4 address");
    }
    Ok(text)
}

/// As the URL standard's "ends in a number" checker: `a.1`, `a.0x7f`, `0x`.
fn ends_in_number(name: &str) -> bool {
    let label = name.rsplit('.').next().unwrap_or_default();
    let digits = label.bytes().all(|b| b.is_ascii_digit());
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    digits || hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn port(text: &[u8]) -> Result<u16, &'static str> {
    let digits = text.iter().all(u8::is_ascii_digit) && !text.starts_with(b"0");
    let text = std::str::from_utf8(text).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok()).ok_or("the host's port is not a number from 1 to 65535")
}

/// The authority of a request, from everything that names it: all must agree (RFC 9112 §3.2, RFC 9113 §8.3.1).
pub(super) fn decide<'a>(
    form: &Form<'a>,
    pseudo: Option<&'a str>,
    headers: &'a HeaderMap,
    protocol: Protocol,
) -> Result<Authority<'a>, Denial> {
    let field = field(headers)?;
    if protocol == Protocol::Http11 && field.is_none() {
        // RFC 9112 §3.2: 400 to a request without Host, also when its target names one.
        return Err(Denial::ambiguous("no_host", "there is no Host field"));
    }
    let (stated, default_port) = match form {
        Form::Absolute { authority, default_port, .. } => (Some(parse(authority)?), Some(*default_port)),
        Form::Origin(_) | Form::Asterisk => (pseudo.map(|text| parse(text.as_bytes())).transpose()?, None),
    };
    match (stated, field) {
        (Some(stated), Some(field)) if !stated.agrees_with(&field, default_port) => {
            Err(Denial::ambiguous("hosts_differ", "the request names two hosts"))
        }
        // Host rather than an absolute target: they may differ in naming the default port.
        (_, Some(field)) => Ok(field),
        (Some(stated), None) => Ok(stated),
        (None, None) => Err(Denial::ambiguous("no_host", "the request names no host")),
    }
}

fn field(headers: &HeaderMap) -> Result<Option<Authority<'_>>, Denial> {
    let mut fields = headers.get_all(header::HOST).iter();
    let Some(first) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        return Err(Denial::ambiguous("several_hosts", "there is more than one Host field"));
    }
    parse(first.as_bytes()).map(Some)
}

fn parse(text: &[u8]) -> Result<Authority<'_>, Denial> {
    Authority::parse(text).map_err(|message| Denial::ambiguous("bad_host", message))
}
