//! The rim and Pingora: two readers of one head. The bytes are a head and what follows it.

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, Method, Version, header};
use pingora_core::protocols::http::v1::server::HttpSession;
use portcullis::canonical::{self, Target};
use portcullis::framing::{self, Body, Framing, Limits, Progress};
use portcullis::request::Protocol;

use super::chunked::{self, Scanned};
use super::script::Script;

/// The bounds of a gateway that is told nothing else.
pub const LIMITS: Limits =
    Limits { header_fields: 100, header_bytes: 32 << 10, field_bytes: 8 << 10, uri_bytes: 8 << 10 };

/// A head that the rim accepts is accepted by Pingora too, and both read the same: method, target, version, fields, where the
/// body ends and what is in it, and whether the client waits for `100 Continue`. Where the end of a head is found does not
/// depend on how its bytes arrive.
pub fn run(data: &[u8]) {
    let found = framing::find_end(data, 0, &LIMITS);
    is_found_in_pieces(data, found);
    let Ok(Progress::Complete(length)) = found else { return };
    let (head, rest) = data.split_at(length);
    let Ok(framing) = framing::judge(head, &LIMITS) else { return };
    let Some(handed) = handed_on(&framing, head) else { return };
    let (body, content) = fenced(framing.body, rest);
    let mut session = HttpSession::new(Box::new(Script::new([Bytes::copy_from_slice(body)])));
    session.set_pipelined_prefix(BytesMut::from(&handed[..]));
    let read = session.read_request().now_or_never().expect("a whole head never waits");
    match read {
        Ok(Some(read)) => assert_eq!(read, handed.len(), "Pingora ends the head elsewhere"),
        other => panic!("Pingora refuses what the rim accepts: {other:?}"),
    }
    same_head(&framing, &handed, &session);
    same_body(&mut session, framing.body, content);
}

fn is_found_in_pieces(data: &[u8], whole: Result<Progress, framing::Denial>) {
    for at in 0..data.len().min(300) {
        let found = match framing::find_end(&data[..at], 0, &LIMITS) {
            Ok(Progress::Partial) => framing::find_end(data, at, &LIMITS),
            found => found,
        };
        let same = match (whole, found) {
            (Ok(whole), Ok(found)) => whole == found,
            // Which of several faults is met first may differ.
            (Err(_), Err(_)) => true,
            _ => false,
        };
        assert!(same, "cut at {at}: {found:?}, whole: {whole:?}");
    }
}

/// What the rim hands on: the head as it came, or with its target as Pingora can hold it. None where it is refused then.
pub fn handed_on(framing: &Framing<'_>, head: &[u8]) -> Option<Vec<u8>> {
    let is_path = framing.target.starts_with(b"/") || framing.target == b"*";
    let named_oddly = framing.host.is_some_and(|host| host.contains(&b'@'));
    if is_path && !named_oddly && !framing.target.iter().any(|byte| b"\"<>`".contains(byte)) {
        return Some(head.to_vec());
    }
    target_of(framing, Some("unsaid"))?;
    let method = Method::from_bytes(framing.method).expect("a token is a method");
    let target = match is_path || framing.host.is_none() {
        true => framing.target.to_vec(),
        false => canonical::path_of_absolute(&method, framing.target).concat(),
    };
    let text = String::from_utf8(target).expect("a canonical target is text");
    let (path, query) = text.split_at(text.find('?').unwrap_or(text.len()));
    let path = path.replace('"', "%22").replace('<', "%3C").replace('>', "%3E").replace('`', "%60");
    let after = &head[framing.method.len() + 1 + framing.target.len()..];
    Some([framing.method, b" ", path.as_bytes(), query.as_bytes(), after].concat())
}

/// What the gateway takes a judged head to ask for. None where it is refused, as HTTP/1.0 without Host is.
pub fn canonical_target(framing: &Framing<'_>) -> Option<Target> {
    target_of(framing, None)
}

/// `host` is that of HTTP/1.0 without one.
fn target_of(framing: &Framing<'_>, host: Option<&str>) -> Option<Target> {
    let method = Method::from_bytes(framing.method).expect("a token is a method");
    let mut fields = HeaderMap::new();
    if let Some(host) = framing.host {
        fields.insert(header::HOST, HeaderValue::from_bytes(host).expect("a judged value"));
    }
    let host = host.filter(|_| framing.protocol == Protocol::Http10 && framing.host.is_none());
    canonical::target(&method, framing.target, host, &fields, framing.protocol, LIMITS.uri_bytes).ok()
}

/// What the fence lets through of the bytes behind a head, and its content where it is whole.
fn fenced(body: Body, rest: &[u8]) -> (&[u8], Option<Vec<u8>>) {
    match body {
        Body::None => (&[], Some(Vec::new())),
        Body::Length(length) => match usize::try_from(length).ok().and_then(|length| rest.get(..length)) {
            Some(content) => (content, Some(content.to_vec())),
            None => (rest, None),
        },
        Body::Chunked => match chunked::scan(&[rest]) {
            Scanned::Done(length) => (&rest[..length], chunked::oracle(rest).map(|(content, _)| content)),
            Scanned::Partial => (rest, None),
            // The fence breaks before anything is handed on.
            Scanned::Bad => (&[], None),
        },
    }
}

fn same_head(framing: &Framing<'_>, handed: &[u8], session: &HttpSession) {
    let head = session.req_header();
    assert_eq!(head.method.as_str().as_bytes(), framing.method);
    let target = handed.split(|byte| *byte == b' ').nth(1).expect("a target");
    assert_eq!(head.raw_path(), target, "target");
    let protocol = match head.version {
        Version::HTTP_11 => Protocol::Http11,
        Version::HTTP_10 => Protocol::Http10,
        other => panic!("{other:?}"),
    };
    assert_eq!(protocol, framing.protocol);
    let host = head.headers.get(header::HOST).map(HeaderValue::as_bytes);
    assert_eq!(host, framing.host, "Host");
    let mut told: Vec<(String, Vec<u8>)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    let mut fields = fields(handed);
    assert_eq!(told.len(), fields.len(), "count of fields");
    // Of fields of one name the order counts, among names it does not: the sort is stable.
    told.sort_by(|a, b| a.0.cmp(&b.0));
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(told, fields, "fields");
    let waits = head.version == Version::HTTP_11
        && head
            .headers
            .get(header::EXPECT)
            .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    assert!(
        !waits || framing.expects_continue,
        "Pingora sends 100 Continue where the rim does not know of it"
    );
}

/// The field lines: names in lower case, values without the white space around them (RFC 9112 §5).
fn fields(head: &[u8]) -> Vec<(String, Vec<u8>)> {
    let text = &head[..head.len() - 4];
    let lines = text.split(|byte| *byte == b'\n').skip(1);
    lines
        .map(|line| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let colon = line.iter().position(|byte| *byte == b':').expect("a colon");
            let name = String::from_utf8(line[..colon].to_ascii_lowercase()).expect("a token");
            (name, line[colon + 1..].trim_ascii().to_vec())
        })
        .collect()
}

fn same_body(session: &mut HttpSession, body: Body, content: Option<Vec<u8>>) {
    let empty = matches!(body, Body::None | Body::Length(0));
    assert_eq!(session.is_body_empty(), empty, "whether there is a body");
    let mut read = Vec::new();
    let end = loop {
        match session.read_body_bytes().now_or_never().expect("a script never waits") {
            Ok(Some(bytes)) => read.extend_from_slice(&bytes),
            end => break end.map(|_| ()),
        }
    };
    match content {
        Some(content) => {
            assert!(end.is_ok(), "Pingora does not read the body: {end:?}");
            assert!(session.is_body_done(), "Pingora waits for more of the body");
            assert_eq!(read, content, "content");
        }
        None => assert!(end.is_err(), "Pingora takes a part of the body for the whole"),
    }
    let script = session.stream().as_any().downcast_ref::<Script>().expect("the script");
    assert!(script.is_read(), "Pingora left bytes of the body unread");
}
