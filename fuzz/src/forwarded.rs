//! Forwarded headers. The first line of the bytes is the peer's address (or `unix`), the rest are fields.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;
use portcullis::client::{self, Client, Trusted};
use portcullis::config::{Build, Spanned};

use super::fields;

/// The proxies that are believed.
const TRUSTED: [&str; 3] = ["10.0.0.0/8", "2001:db8::/32", "unix:"];

static COMPILED: LazyLock<Trusted> = LazyLock::new(|| {
    let written = TRUSTED.map(|entry| Spanned::unwritten(entry.to_owned()));
    Trusted::compile(&written, &mut Build::default()).expect("a sound list")
});

/// Nobody is believed who is not listed: not a peer, not a hop, and nothing that an unlisted hop put in front. What the upstream
/// is told begins with the client that was found.
pub fn run(data: &[u8]) {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let peer = match lines.next().and_then(|line| std::str::from_utf8(line).ok()) {
        Some("unix") => None,
        Some(text) => match text.trim().parse::<IpAddr>() {
            Ok(address) => Some(SocketAddr::new(address, 4711)),
            Err(_) => return,
        },
        None => return,
    };
    let headers = fields::read(lines.next().unwrap_or_default());
    let direct = peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.ip().to_canonical());
    let client = client::determine(peer, false, &headers, &COMPILED);
    let believed = peer.is_none() || is_trusted(direct);
    assert_eq!(client.peer_trusted, believed);
    if !believed {
        let expected = Client { address: direct, peer_trusted: false, https: false };
        assert_eq!(client, expected, "an untrusted peer was believed");
        assert!(
            client::determine(peer, true, &headers, &COMPILED).https,
            "an untrusted peer took https away"
        );
    }
    if let Some(expected) = simple_chain(direct, believed, &headers) {
        assert_eq!(client.address, expected);
    }
    // A peer that says nothing of its client, or nothing that can be read, is the client itself.
    if client.address != direct {
        nothing_in_front_counts(peer, &client, &headers);
    }
    upstream_is_told(peer, &client, &headers);
}

fn is_trusted(address: IpAddr) -> bool {
    TRUSTED.iter().filter_map(|entry| entry.parse::<IpNet>().ok()).any(|network| network.contains(&address))
}

/// The client where `X-Forwarded-For` is made of bare addresses, up to 32: from the right, past those that are trusted.
fn simple_chain(direct: IpAddr, believed: bool, headers: &HeaderMap) -> Option<IpAddr> {
    let lines = fields::values(headers, "x-forwarded-for");
    if lines.is_empty() && headers.contains_key("forwarded") {
        return None;
    }
    let text = lines.into_iter().map(|line| std::str::from_utf8(line).ok()).collect::<Option<Vec<_>>>()?;
    let text = text.join(",");
    let hops = text.split(',').map(str::trim).filter(|hop| !hop.is_empty());
    let hops = hops.map(|hop| hop.parse::<IpAddr>().ok()).collect::<Option<Vec<_>>>()?;
    (hops.len() <= 32).then_some(())?;
    let mut client = direct;
    let mut trusted = believed;
    for hop in hops.iter().rev().map(IpAddr::to_canonical) {
        if !trusted {
            break;
        }
        client = hop;
        trusted = is_trusted(hop);
    }
    Some(client)
}

/// Where the client is no proxy of ours, whatever it wrote of itself stands in front, and changes nothing.
fn nothing_in_front_counts(peer: Option<SocketAddr>, client: &Client, headers: &HeaderMap) {
    if is_trusted(client.address) || !client.peer_trusted {
        return;
    }
    for name in ["x-forwarded-for", "forwarded"] {
        let lines = fields::values(headers, name);
        let Some((first, rest)) = lines.split_first() else { continue };
        for front in [&b"10.6.6.6, "[..], b"for=10.6.6.6;proto=https, ", b"\xff, ", b"\", "] {
            let mut forged = headers.clone();
            forged.insert(name, HeaderValue::from_bytes(&[front, first].concat()).unwrap());
            for line in rest {
                forged.append(name, HeaderValue::from_bytes(line).unwrap());
            }
            // A line that is not text is not read at all, which ends the way before it: only then may a hop be lost.
            let found = client::determine(peer, false, &forged, &COMPILED);
            if front.is_ascii() {
                assert_eq!(found.address, client.address, "{name}: {}", front.escape_ascii());
            } else {
                assert!(
                    !found.peer_trusted || found.address == client.address || is_hop(peer, found.address)
                );
            }
        }
    }
}

/// An address that was believed on the way: the peer or a proxy.
fn is_hop(peer: Option<SocketAddr>, address: IpAddr) -> bool {
    is_trusted(address) || peer.is_none_or(|peer| peer.ip().to_canonical() == address)
}

fn upstream_is_told(peer: Option<SocketAddr>, client: &Client, headers: &HeaderMap) {
    let mut told = headers.clone();
    client::forward(&mut told, peer, client, &COMPILED, "a.example:8443");
    let scheme: &[u8] = if client.https { b"https" } else { b"http" };
    assert_eq!(fields::values(&told, "x-forwarded-proto"), [scheme]);
    assert_eq!(fields::values(&told, "x-forwarded-host"), [b"a.example:8443"]);
    assert_eq!(fields::values(&told, "x-forwarded-port"), [b"8443"]);
    let [chain] = *fields::values(&told, "x-forwarded-for") else { panic!("one X-Forwarded-For") };
    let chain = std::str::from_utf8(chain).unwrap();
    let hops: Vec<IpAddr> = chain.split(", ").map(|hop| hop.parse().expect("an address")).collect();
    assert_eq!(hops.first(), Some(&client.address), "{chain}");
    assert!(hops.iter().skip(1).all(|hop| is_hop(peer, *hop)), "{chain}");
    let [element] = *fields::values(&told, "forwarded") else { panic!("one Forwarded") };
    let element = std::str::from_utf8(element).unwrap();
    let address = match client.address {
        IpAddr::V4(v4) => format!("for={v4};"),
        IpAddr::V6(v6) => format!("for=\"[{v6}]\";"),
    };
    assert!(element.starts_with(&address) && !element.contains(','), "{element}");
}
