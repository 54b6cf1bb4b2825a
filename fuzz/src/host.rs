//! Hosts. The first line of the bytes is a Host field, the second, where there is one, what else names a host (`:authority`).

use std::net::{Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, HeaderValue, Method, header};
use portcullis::canonical::{self, Authority};
use portcullis::request::Protocol;

/// What is accepted has one form, which is a fixed point and agrees with the oracle; two names are accepted only where they agree.
pub fn run(data: &[u8]) {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let host = lines.next().unwrap_or_default();
    let found = canonical_form(host);
    assert_eq!(found, oracle(host), "{}", host.escape_ascii());
    if let Some(form) = &found {
        assert_eq!(canonical_form(form.as_bytes()).as_ref(), Some(form), "not a fixed point");
        assert!(form.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.:[]".contains(&b)));
    }
    let Ok(field) = HeaderValue::from_bytes(host) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, field.clone());
    let told = |authority, headers: &HeaderMap, protocol| {
        let target = canonical::target(&Method::GET, b"/", authority, headers, protocol, usize::MAX);
        target.ok().map(|target| target.authority().to_owned())
    };
    assert_eq!(told(None, &headers, Protocol::Http11), found, "as Host");
    if let Some(other) = lines.next().and_then(|line| std::str::from_utf8(line).ok()) {
        let stated = canonical_form(other.as_bytes());
        let agreed = stated.filter(|stated| Some(stated) == found.as_ref());
        assert_eq!(told(Some(other), &headers, Protocol::Http2), agreed, "beside {other:?}");
    }
    headers.append(header::HOST, field);
    assert_eq!(told(None, &headers, Protocol::Http11), None, "two Host fields");
}

fn canonical_form(text: &[u8]) -> Option<String> {
    let authority = Authority::parse(text).ok()?;
    let mut form = String::new();
    authority.host.write(&mut form);
    if let Some(port) = authority.port {
        assert!(port > 0);
        form.push_str(&format!(":{port}"));
    }
    Some(form)
}

/// `host[:port]`, lower case: labels of letters, digits, `-` and `_`; or an IPv4 address in its only form; or IPv6 in brackets.
fn oracle(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let (host, port) = match text.rfind(']') {
        Some(end) => (&text[..=end], &text[end + 1..]),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(digits) => {
            let number: u16 = digits.parse().ok().filter(|number| *number > 0)?;
            (number.to_string() == digits).then(|| format!(":{number}"))?
        }
        None if port.is_empty() => String::new(),
        None => return None,
    };
    if let Some(v6) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return v6.parse::<Ipv6Addr>().ok().map(|v6| format!("[{v6}]{port}"));
    }
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = host.rsplit('.').next()?;
    let hex = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    let is_number = hex || last.bytes().all(|b| b.is_ascii_digit());
    let sound = host.len() <= 253
        && host.split('.').all(is_label)
        && (!is_number || host.parse::<Ipv4Addr>().is_ok_and(|address| address.to_string() == host));
    sound.then(|| format!("{host}{port}"))
}
