//! Fields that belong to one connection, not to the message (RFC 9110 §7.6.1), and the one way they cross: an upgrade.
//!
//! Pingora's own cleaning is turned off (`HttpUpstreamRequestPolicy::preserve`): it takes whatever `Connection` names, Authorization
//! and Cookie included, and refuses some requests after they were admitted.

use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::client;
use crate::gateway::Admitted;

/// Always removed, named by `Connection` or not. Not a constant: one would be made and dropped anew wherever it is looked through.
static HOP_BY_HOP: [HeaderName; 11] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authentication-info"),
    http::header::TE,
    http::header::TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The protocol a request asks for, if it may have it. HTTP/1.1 only (RFC 9113 §8.6), never with a body, whose end would be
/// the tunnel's beginning, and only one protocol at a time.
pub(super) fn upgrade(head: &RequestHeader, admitted: &Admitted) -> Option<HeaderValue> {
    let mut asked = head.headers.get_all(UPGRADE).iter();
    let (protocol, None) = (asked.next()?, asked.next()) else { return None };
    if head.version != Version::HTTP_11 || has_body(&head.headers) {
        return None;
    }
    let named = tokens(&head.headers).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    let word = protocol.to_str().ok()?.trim().to_ascii_lowercase();
    (named && admitted.permits_upgrade(&word)).then(|| protocol.clone())
}

/// Whether a request announces a body (RFC 9112 §6).
pub(super) fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
}

/// Whether repeating a request does no more than making it once (RFC 9110 §9.2.2).
pub(super) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// How many fields the gateway adds to a head, about: room is made for them once.
pub(super) const OWN_FIELDS: usize = 8;

/// Whether any field belongs to the connection. Most heads have none: one pass over their names costs less than eleven look-ups.
fn has_hop_by_hop(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| is_hop_by_hop(name.as_str()))
}

/// Whether [`HOP_BY_HOP`] has it. By length first, which few other names have in common with one of these.
fn is_hop_by_hop(name: &str) -> bool {
    match name.len() {
        2 => name == "te",
        7 => matches!(name, "trailer" | "upgrade"),
        10 => matches!(name, "connection" | "keep-alive"),
        14 => name == "http2-settings",
        16 => name == "proxy-connection",
        17 => name == "transfer-encoding",
        18 => name == "proxy-authenticate",
        19 => name == "proxy-authorization",
        25 => name == "proxy-authentication-info",
        _ => false,
    }
}

/// Removes from a request what belongs to the client's connection. Before the gateway adds anything, so that no `Connection` takes it
/// away again; `relied` says which fields stay though it names them. Pingora frames the body anew from Content-Length, or else as chunks.
pub(super) fn clean_request(headers: &mut HeaderMap, relied: impl Fn(&HeaderName) -> bool) {
    if has_hop_by_hop(headers) {
        let named: Vec<HeaderName> = tokens(headers)
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            .filter(|name| !client::is_protected(name.as_str()) && !relied(name))
            .collect();
        for name in named.iter().chain(&HOP_BY_HOP) {
            headers.remove(name);
        }
    }
    join_cookies(headers);
}

/// HTTP/2 may send cookies as several fields; HTTP/1.1 knows one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(_), Some(_)) = (crumbs.next(), crumbs.next()) else { return };
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, whole);
    }
}

/// Asks the upstream to switch.
pub(super) fn ask_upgrade(head: &mut RequestHeader, protocol: HeaderValue) {
    let _ = head.insert_header(CONNECTION, HeaderValue::from_static("Upgrade"));
    let _ = head.insert_header(UPGRADE, protocol);
}

/// Whether a 101 switches to the protocol asked for (RFC 9110 §7.8: to no other). Pingora looks at the status alone.
pub(super) fn is_switch_to(head: &ResponseHeader, asked: Option<&HeaderValue>) -> bool {
    let mut named = head.headers.get_all(UPGRADE).iter();
    let (Some(named), None, Some(asked)) = (named.next(), named.next(), asked) else { return false };
    tokens(&head.headers).any(|token| token.eq_ignore_ascii_case(b"upgrade"))
        && named.as_bytes().trim_ascii().eq_ignore_ascii_case(asked.as_bytes().trim_ascii())
}

/// How a response is framed towards the client: settled by Pingora before the gateway edits the head, put back after.
#[derive(Debug)]
pub(super) struct Framing {
    chunked: bool,
    length: Option<HeaderValue>,
    upgrade: Option<HeaderValue>,
}

impl Framing {
    /// Reads it.
    pub(super) fn of(head: &ResponseHeader) -> Self {
        // Neither field with 1xx and 204 (RFC 9110 §8.6, RFC 9112 §6.1); no chunks with 304 either, which has none.
        let bare = head.status.is_informational() || head.status == StatusCode::NO_CONTENT;
        Self {
            chunked: head.headers.contains_key(TRANSFER_ENCODING)
                && !bare
                && head.status != StatusCode::NOT_MODIFIED,
            length: head.headers.get(CONTENT_LENGTH).filter(|_| !bare).cloned(),
            upgrade: head.headers.get(UPGRADE).filter(|_| head.status.as_u16() == 101).cloned(),
        }
    }

    /// Puts it back. A client of HTTP/1.0 knows no chunks (RFC 9112 §6.1): its body ends with the connection.
    pub(super) fn restore(self, headers: &mut HeaderMap, client: Version) {
        if has_hop_by_hop(headers) {
            for name in &HOP_BY_HOP {
                headers.remove(name);
            }
        }
        match self.length {
            Some(length) if !self.chunked => headers.insert(CONTENT_LENGTH, length),
            _ => headers.remove(CONTENT_LENGTH),
        };
        if self.chunked && client != Version::HTTP_10 {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        if let Some(protocol) = self.upgrade {
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, protocol);
        }
    }
}

/// Whether this head is all of its response (RFC 9112 §6.3).
pub(super) fn is_bodiless(head: &ResponseHeader, method: &Method) -> bool {
    *method == Method::HEAD
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || head.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0")
}

/// For how long a server says it will keep an unused connection (`Keep-Alive: timeout=5`). No RFC defines the field, but Node's servers
/// close after these five seconds, and a request on its way at that moment is lost.
pub(super) fn idle_hint(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("keep-alive")?.to_str().ok()?;
    let timeout = text.split(',').find_map(|part| part.trim().strip_prefix("timeout="))?;
    timeout.trim().parse().ok().map(Duration::from_secs)
}

/// What `Connection` names.
fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(CONNECTION).into_iter();
    values.flat_map(|value| value.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&'static str, &'static str)]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        head.set_version(Version::HTTP_11);
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn removes_what_belongs_to_the_connection() {
        let mut own = head(&[
            ("connection", "x-one, close"),
            ("connection", "X-Two,authorization , cookie,host, content-length,,\"x-three\""),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("authorization", "secret"),
            ("cookie", "a=b"),
            ("host", "a"),
            ("content-length", "3"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
        ]);
        super::super::view::edit_request(&mut own, |headers| clean_request(headers, |name| name == "x-two"));
        let mut left: Vec<_> = own.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "content-length", "cookie", "host", "x-three", "x-two"]);
    }

    #[test]
    fn knows_them_by_name() {
        for name in &HOP_BY_HOP {
            assert!(is_hop_by_hop(name.as_str()), "{name}");
        }
        for name in
            ["", "to", "traileR", "location", "connectiom", "x-http2-settin", "transfer-encodinG", "host"]
        {
            assert!(!is_hop_by_hop(name), "{name}");
        }
    }

    #[test]
    fn joins_crumbs() {
        let mut own = head(&[("cookie", "a=b"), ("x", "y"), ("cookie", "c=d"), ("cookie", "e=f")]);
        super::super::view::edit_request(&mut own, |headers| clean_request(headers, |_| false));
        let cookies: Vec<_> = own.headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=b; c=d; e=f"]);
    }

    #[test]
    fn reads_hints() {
        let hint = |text: &'static str| idle_hint(&head(&[("keep-alive", text)]).headers);
        assert_eq!(hint("timeout=5, max=100"), Some(Duration::from_secs(5)));
        assert_eq!(hint("max=100,timeout=5"), Some(Duration::from_secs(5)));
        assert_eq!(hint("timeout=soon"), None);
        assert_eq!(idle_hint(&head(&[]).headers), None);
    }

    #[test]
    fn knows_bodies() {
        assert!(!has_body(&head(&[]).headers));
        assert!(!has_body(&head(&[("content-length", "0")]).headers));
        assert!(has_body(&head(&[("content-length", "1")]).headers));
        assert!(has_body(&head(&[("transfer-encoding", "chunked")]).headers));
    }

    #[test]
    fn keeps_the_framing() {
        let mut own = ResponseHeader::build(200, None).unwrap();
        own.insert_header("transfer-encoding", "chunked").unwrap();
        let framing = Framing::of(&own);
        own.remove_header("transfer-encoding");
        own.insert_header("connection", "close").unwrap();
        super::super::view::edit_response(&mut own, |headers| framing.restore(headers, Version::HTTP_11));
        assert_eq!(own.headers.get("transfer-encoding").unwrap(), "chunked");
        assert!(own.headers.get("connection").is_none());
        let framing = Framing::of(&own);
        super::super::view::edit_response(&mut own, |headers| framing.restore(headers, Version::HTTP_10));
        assert!(own.headers.get("transfer-encoding").is_none());
    }
}
