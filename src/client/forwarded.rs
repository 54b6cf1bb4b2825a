//! `X-Forwarded-For`, `X-Forwarded-Proto` and `Forwarded`, read from the right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, HeaderName, header};

use super::{ProxiesWrite, Trusted};

pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The most elements that are looked at: no honest chain is longer, and a request must not buy work.
const HOPS_MAX: usize = 32;

/// One believed element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    /// Whom the hop's writer was talking to.
    pub(super) address: IpAddr,
    /// What it said of the scheme; `Forwarded` only.
    pub(super) https: Option<bool>,
}

/// Calls `visit` with each believed element, the nearest first. The last one visited is the client.
pub(super) fn walk(headers: &HeaderMap, trusted: &Trusted, mut visit: impl FnMut(Hop)) {
    let of_their_own = match trusted.write {
        ProxiesWrite::Any => headers.contains_key(&X_FORWARDED_FOR),
        ProxiesWrite::XForwarded => true,
        ProxiesWrite::Forwarded => false,
    };
    let (name, read): (_, fn(&str) -> Option<Hop>) = match of_their_own {
        true => (&X_FORWARDED_FOR, |element| address(element).map(|address| Hop { address, https: None })),
        false => (&header::FORWARDED, forwarded_element),
    };
    let mut looked_at = 0;
    for line in headers.get_all(name).iter().rev() {
        let Ok(line) = line.to_str() else { return };
        let mut rest = Some(line);
        while let Some(left) = rest {
            let Some((before, element)) = last_piece(left, b',') else { return };
            rest = before;
            let element = element.trim();
            if element.is_empty() {
                continue;
            }
            looked_at += 1;
            if looked_at > HOPS_MAX {
                return;
            }
            let Some(hop) = read(element) else { return };
            visit(hop);
            if !trusted.trusts(hop.address) {
                return;
            }
        }
    }
}

/// What the nearest proxy says of the scheme its client used: the last word of the last `X-Forwarded-Proto`.
pub(super) fn proto(headers: &HeaderMap, trusted: &Trusted) -> Option<bool> {
    if trusted.write == ProxiesWrite::Forwarded {
        return None;
    }
    let line = headers.get_all(&X_FORWARDED_PROTO).iter().next_back()?.to_str().ok()?;
    scheme(line.rsplit(',').next().unwrap_or_default().trim())
}

fn scheme(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("https") {
        return Some(true);
    }
    text.eq_ignore_ascii_case("http").then_some(false)
}

/// The last piece behind a separator that stands in no quoted string (RFC 9110 §5.6.4), and what is before that. From the right, as whatever
/// is wrong on the left is a client's. None where a quoted string has no beginning.
fn last_piece(text: &str, separator: u8) -> Option<(Option<&str>, &str)> {
    let bytes = text.as_bytes();
    let is_escaped = |at: usize| {
        let before = bytes.get(..at).unwrap_or_default();
        before.iter().rev().take_while(|b| **b == b'\\').count() % 2 == 1
    };
    let mut quoted = false;
    for (at, b) in bytes.iter().enumerate().rev() {
        if *b == b'"' && !is_escaped(at) {
            quoted = !quoted;
        } else if *b == separator && !quoted {
            return Some((text.get(..at), text.get(at + 1..)?));
        }
    }
    (!quoted).then_some((None, text))
}

/// `for=192.0.2.43;proto=https` (RFC 7239 §4). An obfuscated or unknown `for` names nobody.
fn forwarded_element(element: &str) -> Option<Hop> {
    let mut hop = None;
    let mut https = None;
    let mut rest = Some(element);
    while let Some(left) = rest {
        let (before, pair) = last_piece(left, b';')?;
        rest = before;
        // There may be none between two separators.
        if pair.trim().is_empty() {
            continue;
        }
        let (name, value) = pair.split_once('=')?;
        let name = name.trim();
        let value = value.trim();
        let value = match value.strip_prefix('"') {
            Some(quoted) => quoted.strip_suffix('"')?,
            None => value,
        };
        if name.eq_ignore_ascii_case("for") {
            if hop.is_some() {
                return None; // each parameter once (RFC 7239 §4)
            }
            hop = Some(address(value)?);
        } else if name.eq_ignore_ascii_case("proto") {
            https = Some(scheme(value)?);
        }
    }
    hop.map(|address| Hop { address, https })
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`; a zone is dropped, a mapped form reduced.
fn address(text: &str) -> Option<IpAddr> {
    if let Some(inner) = text.strip_prefix('[') {
        let (inside, rest) = inner.split_once(']')?;
        let sound = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        return if sound { v6(inside) } else { None };
    }
    match text.split_once(':') {
        None => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        Some((v4, port)) if v4.contains('.') => {
            let address = v4.parse::<Ipv4Addr>().ok()?;
            is_port(port).then_some(IpAddr::V4(address))
        }
        Some(_) => v6(text),
    }
}

fn v6(text: &str) -> Option<IpAddr> {
    let text = match text.split_once('%') {
        Some((address, zone)) if !zone.is_empty() && zone.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            address
        }
        Some(_) => return None,
        None => text,
    };
    text.parse::<Ipv6Addr>().ok().map(|address| IpAddr::V6(address).to_canonical())
}

/// A number, or what stands for one (RFC 7239 §6.3).
fn is_port(text: &str) -> bool {
    if let Some(hidden) = text.strip_prefix('_') {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        return !hidden.is_empty() && hidden.bytes().all(fits);
    }
    text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}
