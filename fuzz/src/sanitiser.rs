//! What leaves the gateway of a request's fields. The bytes are the fields.

use std::collections::BTreeSet;

use http::HeaderMap;
use portcullis::client::{self, Client, Trusted, Upgrade};
use portcullis::framing;
use portcullis::request::Protocol;

use super::fields;

/// Fields of the connection: gone afterwards, whatever was nominated.
const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "http2-settings"];

/// A client's own word for who it is or what it asked for: gone, or the gateway's.
const FORWARDING: [&str; 16] = [
    "x-real-ip",
    "x-client-ip",
    "client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
    "x-original-url",
    "x-rewrite-url",
    "x-original-uri",
    "x-original-host",
    "x-host",
    "x-scheme",
    "x-forwarded",
    "proxy",
    "x-request-id",
    "x-envoy-external-address",
];

/// What the gateway sets itself.
const OWN: [&str; 5] =
    ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto"];

/// What no `Connection` may take away.
const PROTECTED: [&str; 10] = [
    "host",
    "authorization",
    "cookie",
    "origin",
    "via",
    "x-api-key",
    "cache-control",
    "range",
    "transfer-encoding",
    "expect",
];

/// Afterwards nothing is left of the connection's fields or of a client's word for itself; what is relied on is all there; and
/// nothing else is gone but what `Connection` nominated.
pub fn run(data: &[u8]) {
    let sent = fields::read(data);
    look_alikes_are_refused(&sent);
    twins_end(&sent);
    // What a route relies on beside what every gateway does.
    let cases: [(Upgrade, Relied); 3] = [
        (Upgrade::Drop, |_| false),
        (Upgrade::Keep, |_| false),
        (Upgrade::Drop, |name| name.starts_with("x-")),
    ];
    for (upgrade, relied) in cases {
        let mut left = sent.clone();
        client::strip_hop_by_hop(&mut left, upgrade, |name| relied(name.as_str()));
        let mut again = left.clone();
        client::strip_hop_by_hop(&mut again, upgrade, |name| relied(name.as_str()));
        assert_eq!(again, left, "done twice");
        nothing_of_the_connection_is_left(&sent, &left, upgrade);
        what_is_relied_on_stays(&sent, &left, relied);
        client_words_end(left);
    }
}

type Relied = fn(&str) -> bool;

/// Of the spellings that CGI takes for one of our names only the true one stays, and nothing else goes.
fn twins_end(sent: &HeaderMap) {
    let mut left = sent.clone();
    client::remove_twins(&mut left, |name| name.starts_with("x-client"));
    for name in sent.keys().map(http::HeaderName::as_str) {
        let is_twin = as_cgi_reads(name).starts_with("x-client") && as_cgi_reads(name) != name;
        assert_eq!(left.contains_key(name), !is_twin, "{name}");
    }
    assert!(
        left.iter()
            .all(|(name, _)| fields::values(&left, name.as_str()) == fields::values(sent, name.as_str()))
    );
}

/// A name as CGI and its kin know it: all punctuation is one.
fn as_cgi_reads(name: &str) -> String {
    name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-")
}

fn nothing_of_the_connection_is_left(sent: &HeaderMap, left: &HeaderMap, upgrade: Upgrade) {
    let keeps = upgrade == Upgrade::Keep && sent.contains_key("upgrade");
    for name in HOP_BY_HOP {
        match name {
            "connection" if keeps => assert_eq!(fields::values(left, name), [b"upgrade"]),
            "upgrade" if keeps => assert_eq!(fields::values(left, name), fields::values(sent, name)),
            _ => assert!(!left.contains_key(name), "{name} is left"),
        }
    }
}

fn what_is_relied_on_stays(sent: &HeaderMap, left: &HeaderMap, relied: Relied) {
    let nominated = nominated(sent);
    for name in sent.keys().map(http::HeaderName::as_str).filter(|name| !HOP_BY_HOP.contains(name)) {
        let relied_on = relied(name)
            || PROTECTED.contains(&name)
            || ["content-", "if-", "x-forwarded-", "access-control-"].iter().any(|p| name.starts_with(p));
        if relied_on || !nominated.contains(name) {
            assert_eq!(fields::values(left, name), fields::values(sent, name), "{name} was taken away");
        }
    }
    // `Connection: upgrade` beside a kept `Upgrade` is the gateway's own.
    for name in left.keys().map(http::HeaderName::as_str).filter(|name| *name != "connection") {
        assert!(sent.contains_key(name), "{name} was made up");
    }
}

/// What any reader could take for a nomination.
fn nominated(sent: &HeaderMap) -> BTreeSet<String> {
    let lines = fields::values(sent, "connection");
    let words = lines.iter().flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    words.map(|word| String::from_utf8_lossy(word).to_ascii_lowercase()).collect()
}

fn client_words_end(mut fields: HeaderMap) {
    let client = Client { address: [203, 0, 113, 9].into(), peer_trusted: false, https: true };
    let peer = Some(([203, 0, 113, 9], 4711).into());
    let before = fields.clone();
    client::forward(&mut fields, peer, &client, &Trusted::default(), "a.example");
    for name in fields.keys().map(http::HeaderName::as_str) {
        let read = as_cgi_reads(name);
        assert!(!name.contains('_'), "{name} is left");
        assert!(!FORWARDING.contains(&&*read), "{name} is left");
        assert!(
            !read.starts_with("x-forwarded-") && read != "forwarded" || OWN.contains(&name),
            "{name} is left"
        );
    }
    let own: Vec<_> = OWN.iter().flat_map(|name| fields::values(&fields, name)).collect();
    assert_eq!(
        own,
        [
            &b"for=203.0.113.9;host=\"a.example\";proto=https"[..],
            b"203.0.113.9",
            b"a.example",
            b"443",
            b"https"
        ]
    );
    for name in PROTECTED {
        assert_eq!(fields::values(&fields, name), fields::values(&before, name), "{name}");
    }
}

/// No name that some server takes for Content-Length or Transfer-Encoding passes beside the real ones.
fn look_alikes_are_refused(sent: &HeaderMap) {
    let alike = sent.keys().map(http::HeaderName::as_str).any(|name| {
        let letters: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        matches!(&*letters, "transferencoding" | "contentlength")
            && !matches!(name, "transfer-encoding" | "content-length")
    });
    if alike {
        for protocol in [Protocol::Http11, Protocol::Http2] {
            assert!(framing::judge_fields(sent, protocol).is_err(), "a look-alike passes");
        }
    }
}
