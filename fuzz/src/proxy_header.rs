//! PROXY headers. The bytes are what a balancer sends, and what follows.

use std::net::{IpAddr, SocketAddr};

use portcullis::proxy_protocol::{self, HEADER_BYTES_MAX, Header, Progress, Version};

/// The verdict does not depend on how the bytes arrive, comes within the bound, and is the oracle's for version 1; what a header
/// says is what is read again when it is written, in either version.
pub fn run(data: &[u8]) {
    let whole = proxy_protocol::parse(data);
    let mut settled = None;
    for at in 0..=data.len().min(HEADER_BYTES_MAX + 1) {
        let found = proxy_protocol::parse(&data[..at]);
        if let Some((earlier, first)) = settled {
            assert_eq!(found, first, "{at} bytes say otherwise than {earlier}");
        } else if found != Ok(Progress::Partial) {
            settled = Some((at, found));
        } else {
            assert!(at < HEADER_BYTES_MAX, "a header without end");
        }
    }
    assert_eq!(whole, settled.map_or(Ok(Progress::Partial), |(_, found)| found), "the whole says otherwise");
    let Ok(Progress::Complete { header, length }) = whole else { return };
    assert_eq!(settled.map(|(at, _)| at), Some(length), "known before or after its last byte");
    if data.starts_with(b"PROXY") {
        assert_eq!(Some(header), oracle(&data[..length]), "version 1");
    }
    for version in [Version::V1, Version::V2] {
        let written = proxy_protocol::write(version, header);
        let expected = Progress::Complete { header, length: written.len() };
        assert_eq!(proxy_protocol::parse(&written), Ok(expected), "{version:?}: {}", written.escape_ascii());
    }
}

/// `PROXY TCP4 source destination port port`, with its end of line.
fn oracle(line: &[u8]) -> Option<Header> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?;
    let words: Vec<_> = line.split(' ').collect();
    if words.get(..2)? == ["PROXY", "UNKNOWN"] {
        return Some(Header::Own);
    }
    let ["PROXY", family, source, destination, from, to] = words[..] else { return None };
    let address = |text: &str, port: &str| {
        let address: IpAddr = text.parse().ok()?;
        let number: u16 = port.parse().ok()?;
        let sound = address.is_ipv4() == (family == "TCP4") && number.to_string() == port;
        sound.then(|| SocketAddr::new(address.to_canonical(), number))
    };
    matches!(family, "TCP4" | "TCP6").then_some(())?;
    Some(Header::Client { source: address(source, from)?, destination: address(destination, to)? })
}
