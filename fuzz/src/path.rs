//! Paths and queries. The bytes are a request target in origin form.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderValue, Method, header};
use portcullis::canonical::{self, Denial, Target};
use portcullis::request::Protocol;

const HOST: &str = "a.example";

/// The canonical form agrees with the oracle, is a fixed point, never leaves the root, bears nothing raw that a path may not
/// have, and is the same for the absolute form.
pub fn run(data: &[u8]) {
    let found = origin_form(data);
    let expected = oracle(data);
    match (&found, &expected) {
        (Ok(target), Some(expected)) => {
            assert_eq!(target.path_and_query(), expected.text, "another canonical form");
            let names: BTreeSet<_> = target.oddities().names().collect();
            assert_eq!(names, expected.oddities, "other oddities");
            is_sound(target);
            is_cut_as_expected(target);
            let again =
                origin_form(target.path_and_query().as_bytes()).expect("a canonical target is accepted");
            assert_eq!(again.path_and_query(), target.path_and_query(), "not a fixed point");
        }
        (Err(_), None) => {}
        (Ok(target), None) => panic!("accepted as {:?}", target.path_and_query()),
        (Err(denial), Some(expected)) => panic!("refused as {}: {}", denial.reason, expected.text),
    }
    if data.starts_with(b"/") {
        let absolute = absolute_form(data).map(|target| target.path_and_query().to_owned());
        assert_eq!(
            absolute.ok(),
            found.ok().map(|target| target.path_and_query().to_owned()),
            "absolute form"
        );
    }
}

fn origin_form(raw: &[u8]) -> Result<Target, Denial> {
    canonical::target(&Method::GET, raw, Some(HOST), &HeaderMap::new(), Protocol::Http2, usize::MAX)
}

fn absolute_form(raw: &[u8]) -> Result<Target, Denial> {
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_static(HOST));
    let whole = [b"http://", HOST.as_bytes(), raw].concat();
    canonical::target(&Method::GET, &whole, None, &headers, Protocol::Http11, usize::MAX)
}

/// What servers see that cut path parameters off is what the oracle makes of the path without them.
fn is_cut_as_expected(target: &Target) {
    let found = target.without_parameters();
    let cut = cut(target.path());
    assert_eq!(found.is_some(), cut.is_some(), "whether {} has parameters", target.path());
    let (Some(found), Some(cut)) = (found, cut) else { return };
    let query = target.query().map(|query| format!("?{query}")).unwrap_or_default();
    let expected = oracle(format!("{cut}{query}").as_bytes());
    if let Ok(found) = &found {
        assert_eq!((found.authority(), found.host()), (target.authority(), target.host()));
        is_sound(found);
    }
    let found = found.ok().map(|found| {
        let names: BTreeSet<_> = found.oddities().names().collect();
        (found.path_and_query().to_owned(), names)
    });
    assert_eq!(found, expected.map(|expected| (expected.text, expected.oddities)), "without parameters");
}

/// A canonical path, each of its segments only up to the first `;`, however that is written. None where there is none.
pub fn cut(path: &str) -> Option<String> {
    let plain = path.replace("%3B", ";");
    let cut = |segment: &str| segment.split(';').next().unwrap_or_default().to_owned();
    plain.contains(';').then(|| plain.split('/').map(cut).collect::<Vec<_>>().join("/"))
}

/// The oracle's form of a path alone. None where it is refused.
pub fn canonical_path(path: &str) -> Option<String> {
    oracle(path.as_bytes()).map(|expected| expected.text)
}

/// What holds of every canonical target, whatever it came from.
fn is_sound(target: &Target) {
    let path = target.path();
    assert!(path.starts_with('/') && !path.contains("//"), "{path}");
    assert!(path.split('/').all(|segment| !matches!(segment, "." | "..")), "dot segments: {path}");
    let mut rest = path.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte == b'%' {
            let escape = std::str::from_utf8(&tail[..2]).unwrap();
            let value = u8::from_str_radix(escape, 16).unwrap();
            assert_eq!(escape, escape.to_uppercase(), "{path}");
            assert!(!is_unreserved(value) && !value.is_ascii_control(), "%{escape} in {path}");
            rest = &tail[2..];
        } else {
            assert!(is_unreserved(*byte) || b"/!$&'()*+,;=:@".contains(byte), "a raw {byte:#x} in {path}");
        }
    }
    let query = target.query().unwrap_or_default();
    assert!(query.bytes().all(|byte| byte.is_ascii_graphic() && !b"#\"<>".contains(&byte)), "{query}");
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

struct Expected {
    text: String,
    oddities: BTreeSet<&'static str>,
}

/// A byte of a path, and whether it was written as an escape.
type Written = (u8, bool);

/// The canonical form by steps: unescape, check, split, remove, write. None where the target is refused.
fn oracle(raw: &[u8]) -> Option<Expected> {
    let (path, query) = match raw.iter().position(|byte| *byte == b'?') {
        Some(at) => (&raw[..at], std::str::from_utf8(&raw[at..]).ok()?),
        None => (raw, ""),
    };
    if !query.bytes().all(|byte| byte.is_ascii_graphic() && !b"#\"<>".contains(&byte)) {
        return None;
    }
    let written = unescape(path.strip_prefix(b"/")?)?;
    is_utf8(&written).then_some(())?;
    let mut oddities = BTreeSet::new();
    for (byte, escaped) in &written {
        let odd = match (byte, escaped) {
            (b'/', true) => "encoded_slash",
            (b'\\', true) => "encoded_backslash",
            (b'\\', false) => "backslash",
            (0x80.., false) => "raw_non_ascii",
            _ => continue,
        };
        oddities.insert(odd);
    }
    let mut kept: Vec<String> = Vec::new();
    let mut ends_in_slash = false;
    for segment in written.split(|written| *written == (b'/', false)) {
        let text = write(segment);
        ends_in_slash = matches!(&*text, "" | "." | "..");
        match &*text {
            "" | "." => {}
            ".." => {
                kept.pop()?;
            }
            _ => {
                oddities.extend(dots(&text));
                kept.push(text);
            }
        }
    }
    let end = if ends_in_slash && !kept.is_empty() { "/" } else { "" };
    Some(Expected { text: format!("/{}{end}{query}", kept.join("/")), oddities })
}

/// What of a segment is dots to those who cut parameters off, or who take an escaped slash or backslash for a slash.
fn dots(segment: &str) -> BTreeSet<&'static str> {
    let pieces: Vec<_> = segment.split("%2F").flat_map(|piece| piece.split("%5C")).collect();
    let whole = pieces.iter().filter(|_| pieces.len() > 1).filter(|piece| matches!(**piece, "." | ".."));
    let before =
        pieces.iter().filter(|piece| ["..;", ".;", "..%3B", ".%3B"].iter().any(|d| piece.starts_with(d)));
    whole.map(|_| "hidden_dots").chain(before.map(|_| "semicolon_dots")).collect()
}

fn unescape(path: &[u8]) -> Option<Vec<Written>> {
    let mut written = Vec::new();
    let mut at = 0;
    while at < path.len() {
        let (byte, escaped) = match path[at] {
            b'%' => {
                let digits = path.get(at + 1..at + 3)?;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                at += 2;
                (u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?, true)
            }
            byte => (byte, false),
        };
        at += 1;
        let refused = byte.is_ascii_control() || !escaped && matches!(byte, b' ' | b'#');
        (!refused).then_some(())?;
        written.push((byte, escaped && !is_unreserved(byte)));
    }
    Some(written)
}

/// Bytes beyond ASCII are UTF-8, no character of which is written in two ways.
fn is_utf8(written: &[Written]) -> bool {
    let kind = |(byte, escaped): &Written| (*byte >= 0x80, *escaped);
    written
        .chunk_by(|a, b| kind(a) == kind(b))
        .filter(|run| run[0].0 >= 0x80)
        .all(|run| std::str::from_utf8(&run.iter().map(|(byte, _)| *byte).collect::<Vec<_>>()).is_ok())
}

fn write(segment: &[Written]) -> String {
    let mut text = String::new();
    for (byte, escaped) in segment {
        if !escaped && (is_unreserved(*byte) || b"!$&'()*+,;=:@".contains(byte)) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}
