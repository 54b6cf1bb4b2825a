//! What leaves the gateway about a client: hop-by-hop fields end here, forwarding fields are set anew.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::forwarded::{self, X_FORWARDED_FOR, X_FORWARDED_PROTO};
use super::names::{self, dashed, has_odd_punctuation};
use super::{Client, Trusted};
use crate::request::{Fields, RequestId};

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What stays though `Connection` nominates it: what the gateway or the upstream relies on. Names starting with `content-`,
/// `x-forwarded-`, `access-control-` or `if-` stay too.
const PROTECTED: [&str; 23] = [
    "accept",
    "accept-encoding",
    "pragma",
    "range",
    "referer",
    "user-agent",
    "host",
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "origin",
    "forwarded",
    "via",
    "x-request-id",
    "x-real-ip",
    "x-api-key",
    "transfer-encoding",
    "expect",
    "cache-control",
    "date",
    "location",
    "vary",
];

/// Whether a message that asks for another protocol may go on asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// The route permits it: `Upgrade` stays, with `Connection: upgrade`.
    Keep,
    /// It goes.
    Drop,
}

/// What [`strip_hop_by_hop`] ends. Not a constant: one would be made and dropped anew wherever it is looked through.
pub(super) static GONE: [HeaderName; 7] = [
    header::CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::TE,
    header::TRAILER,
    HTTP2_SETTINGS,
    header::UPGRADE,
];

/// Ends hop-by-hop fields (RFC 9110 §7.6.1): those of the standard and those that `Connection` nominates, except what must
/// not be lost. `Transfer-Encoding` is the framing's own business and stays. Comes before the gateway's own fields are set.
/// `relied` says of other fields whether they must stay too.
pub fn strip_hop_by_hop(fields: &mut impl Fields, upgrade: Upgrade, relied: impl Fn(&HeaderName) -> bool) {
    // One pass over the names costs less than seven look-ups: most heads have one of these or none.
    let mut found = [false; GONE.len()];
    for name in fields.fields().keys() {
        if let Some(found) = place_in_gone(name.as_str()).and_then(|at| found.get_mut(at)) {
            *found = true;
        }
    }
    if found == [false; GONE.len()] {
        return;
    }
    let keep_upgrade = upgrade == Upgrade::Keep && fields.fields().contains_key(header::UPGRADE);
    for name in nominated(fields.fields()) {
        if !(relied(&name) || keep_upgrade && name == header::UPGRADE) {
            fields.remove(&name);
        }
    }
    for (name, found) in GONE.iter().zip(found) {
        if found && !(keep_upgrade && *name == header::UPGRADE) {
            fields.remove(name);
        }
    }
    if keep_upgrade {
        fields.set(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Where [`GONE`] has it. By length first, which few other names have in common with one of these.
pub(super) fn place_in_gone(name: &str) -> Option<usize> {
    match (name.len(), name) {
        (10, "connection") => Some(0),
        (10, "keep-alive") => Some(1),
        (16, "proxy-connection") => Some(2),
        (2, "te") => Some(3),
        (7, "trailer") => Some(4),
        (14, "http2-settings") => Some(5),
        (7, "upgrade") => Some(6),
        _ => None,
    }
}

fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(header::CONNECTION).iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(',').map(str::trim))
        // What most lines say: `close` is no field, and `Keep-Alive` goes in any case.
        .filter(|name| !name.eq_ignore_ascii_case("close") && !name.eq_ignore_ascii_case("keep-alive"))
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .filter(|name| headers.contains_key(name) && !is_protected(name.as_str()))
        .collect()
}

/// Whether a field stays though `Connection` nominates it: a client that could have it removed would choose what the upstream
/// believes.
pub(crate) fn is_protected(name: &str) -> bool {
    let prefixes = ["content-", "x-forwarded-", "access-control-", "if-"];
    PROTECTED.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// Tells the upstream whose request it is: removes every forwarding field there is and every name with `_`, and sets
/// - `X-Forwarded-For`: the client as this gateway knows it, then the trusted hops in order, the peer last. The first
///   address is always the client, and none in it is only a client's word;
/// - `X-Forwarded-Proto`, `X-Forwarded-Host`, `X-Forwarded-Port`: scheme, host and port that the client asked for;
/// - `Forwarded` (RFC 7239): one element that says the same of the client.
///
/// `fields` are still those that came with the request; `authority` is the canonical host and port, `host` without.
pub fn forward(
    fields: &mut impl Fields,
    peer: Option<SocketAddr>,
    client: &Client,
    trusted: &Trusted,
    authority: &str,
) {
    let chain = chain(fields.fields(), peer, client, trusted);
    for name in client_words(fields.fields()) {
        fields.remove(&name);
    }
    let scheme = if client.https { "https" } else { "http" };
    let first = chain.split(',').next().unwrap_or_default();
    let element = element(first, authority, scheme);
    put(fields, X_FORWARDED_FOR, chain);
    fields.set(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    if !authority.is_empty() {
        put(fields, X_FORWARDED_HOST, authority);
    }
    match port(authority) {
        Some(port) => put(fields, X_FORWARDED_PORT, port),
        None => {
            fields.set(X_FORWARDED_PORT, HeaderValue::from_static(if client.https { "443" } else { "80" }))
        }
    }
    put(fields, header::FORWARDED, element);
}

/// The value is made of addresses and a canonical authority: always valid.
fn put<V: TryInto<HeaderValue>>(fields: &mut impl Fields, name: HeaderName, value: V) {
    if let Ok(value) = value.try_into() {
        fields.set(name, value);
    }
}

fn chain(headers: &HeaderMap, peer: Option<SocketAddr>, client: &Client, trusted: &Trusted) -> String {
    let mut text = String::with_capacity(40);
    let peer = peer.map(|peer| peer.ip().to_canonical());
    if !client.peer_trusted {
        push_address(peer.unwrap_or(client.address), &mut text);
        return text;
    }
    let mut hops: Vec<IpAddr> = Vec::from_iter(peer);
    forwarded::walk(headers, trusted, |hop| hops.push(hop.address));
    if hops.is_empty() {
        hops.push(client.address);
    }
    for (index, hop) in hops.iter().rev().enumerate() {
        text.push_str(if index == 0 { "" } else { ", " });
        push_address(*hop, &mut text);
    }
    text
}

/// IPv4 by hand: `Display` takes three times as long.
fn push_address(address: IpAddr, text: &mut String) {
    let IpAddr::V4(v4) = address else {
        let written = write!(text, "{address}");
        debug_assert!(written.is_ok(), "a String takes everything");
        return;
    };
    let mut buffer = itoa::Buffer::new();
    for (index, octet) in v4.octets().into_iter().enumerate() {
        text.push_str(if index == 0 { "" } else { "." });
        text.push_str(buffer.format(octet));
    }
}

/// Colons and brackets want quotes (RFC 7239 §6).
fn element(client: &str, authority: &str, scheme: &str) -> String {
    let mut text = String::with_capacity(client.len() + authority.len() + 32);
    let (before, after) = if client.contains(':') { ("for=\"[", "]\"") } else { ("for=", "") };
    for part in [before, client, after] {
        text.push_str(part);
    }
    if !authority.is_empty() {
        for part in [";host=\"", authority, "\""] {
            text.push_str(part);
        }
    }
    text.push_str(";proto=");
    text.push_str(scheme);
    text
}

/// The port that an authority names.
fn port(authority: &str) -> Option<&str> {
    let named = authority.rsplit_once(':').map(|(_, port)| port);
    named.filter(|port| port.bytes().all(|b| b.is_ascii_digit()))
}

/// Removes fields whose name is one of ours but for its punctuation: `x.client` beside `x-client`. CGI and its kin make one
/// variable of both. `is_ours` is asked for the name with `-`.
pub fn remove_twins(fields: &mut impl Fields, is_ours: impl Fn(&str) -> bool) {
    let twins = fields.fields().keys().filter(|name| has_odd_punctuation(name.as_str()));
    let twins: Vec<HeaderName> = twins.filter(|name| is_ours(&dashed(name.as_str()))).cloned().collect();
    for name in twins {
        fields.remove(&name);
    }
}

fn client_words(headers: &HeaderMap) -> Vec<HeaderName> {
    headers.keys().filter(|name| names::is_no_clients(name.as_str())).cloned().collect()
}

/// The request's id: a trusted peer's single, well-formed `X-Request-Id`, else a new one.
pub fn request_id(headers: &HeaderMap, peer_trusted: bool) -> RequestId {
    let mut fields = headers.get_all(&X_REQUEST_ID).iter();
    let (Some(id), None, true) = (fields.next(), fields.next(), peer_trusted) else {
        return RequestId::generate();
    };
    RequestId::parse(id.as_bytes()).unwrap_or_else(RequestId::generate)
}
