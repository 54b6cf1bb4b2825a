//! Paths and queries.
//!
//! RFC 3986 §6.2.2: unreserved characters are decoded, other escapes are written in upper-case hex, dot segments are
//! removed; beyond it, `//` becomes `/` before dot segments are looked at. Characters that RFC 3986 allows in no path
//! (`"<>[]^{|}` and the grave accent) are percent-encoded: other proxies forward them as they are, and one form is what
//! matters here. Escapes are decoded once: a second pass would turn `%252e` into `.` (RFC 3986 §2.4).

use super::{Denial, Oddities, Oddity};

/// What a byte means in a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// As it is: unreserved but the dot, sub-delims, `:` and `@`.
    Plain,
    Dot,
    Slash,
    Percent,
    /// Of no path; percent-encoded.
    Encode,
    Backslash,
    NonAscii,
    /// Controls, space, `#`.
    Refused,
}

fn class(byte: u8) -> Class {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => Class::Plain,
        b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' => {
            Class::Plain
        }
        b'.' => Class::Dot,
        b'/' => Class::Slash,
        b'%' => Class::Percent,
        b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' => Class::Encode,
        b'\\' => Class::Backslash,
        0x80.. => Class::NonAscii,
        0..=0x20 | 0x7f | b'#' | b'?' => Class::Refused,
    }
}

/// What is to be done with a path.
pub(super) enum Plan<'a> {
    /// It is canonical.
    Copy(&'a str),
    /// It has to be gone through.
    Rewrite { raw: &'a [u8], bytes_max: usize },
}

/// One pass over the bytes: most paths need nothing.
pub(super) fn plan(raw: &[u8]) -> Result<Plan<'_>, Denial> {
    match raw {
        [] => return Ok(Plan::Copy("/")),
        b"*" => return Ok(Plan::Copy("*")),
        [b'/', ..] => {}
        _ => return Err(Denial::ambiguous("bad_target", "the path does not start with a slash")),
    }
    if is_canonical(raw)
        && let Ok(text) = std::str::from_utf8(raw)
    {
        return Ok(Plan::Copy(text));
    }
    let grows =
        raw.iter().filter(|b| matches!(class(**b), Class::Encode | Class::Backslash | Class::NonAscii));
    Ok(Plan::Rewrite { raw, bytes_max: raw.len() + 1 + 2 * grows.count() })
}

/// May say no to a canonical path (one with escapes, or with a segment that starts with a dot), never yes to another.
fn is_canonical(raw: &[u8]) -> bool {
    let mut after_slash = false;
    for byte in raw {
        match class(*byte) {
            Class::Plain => after_slash = false,
            Class::Dot if !after_slash => {}
            Class::Slash if !after_slash => after_slash = true,
            _ => return false,
        }
    }
    true
}

impl Plan<'_> {
    pub(super) fn bytes_max(&self) -> usize {
        match self {
            Self::Copy(text) => text.len(),
            Self::Rewrite { bytes_max, .. } => *bytes_max,
        }
    }

    pub(super) fn write(self, out: &mut String) -> Result<Oddities, Denial> {
        match self {
            Self::Copy(text) => {
                out.push_str(text);
                Ok(Oddities::default())
            }
            Self::Rewrite { raw, .. } => rewrite(raw, out),
        }
    }
}

fn rewrite(raw: &[u8], out: &mut String) -> Result<Oddities, Denial> {
    let base = out.len();
    let mut oddities = Oddities::default();
    let mut directory = false;
    for segment in raw.split(|b| *b == b'/').skip(1) {
        let start = out.len();
        out.push('/');
        self::segment(segment, out, &mut oddities)?;
        directory = true;
        match out.get(start + 1..).unwrap_or_default() {
            "" | "." => out.truncate(start),
            ".." => {
                out.truncate(start);
                let parent = out.get(base..).and_then(|path| path.rfind('/'));
                let Some(parent) = parent else {
                    return Err(Denial::ambiguous("above_root", "dot segments leave the root"));
                };
                out.truncate(base + parent);
            }
            text => {
                directory = false;
                note_dots(text, &mut oddities);
            }
        }
    }
    if directory {
        out.push('/');
    }
    Ok(oddities)
}

/// Notes what is a dot segment to those who cut path parameters off (`..;x`, `.%3B`), or who decode `%2F` and `%5C` before they
/// split (`..%2Fx`). `segment` is canonical.
fn note_dots(segment: &str, oddities: &mut Oddities) {
    if !segment.contains('.') {
        return;
    }
    let pieces = || segment.split("%2F").flat_map(|piece| piece.split("%5C"));
    let is_split = pieces().nth(1).is_some();
    for piece in pieces() {
        let Some(rest) = piece.strip_prefix("..").or_else(|| piece.strip_prefix('.')) else { continue };
        if rest.starts_with(';') || rest.starts_with("%3B") {
            oddities.insert(Oddity::SemicolonDots);
        } else if rest.is_empty() && is_split {
            oddities.insert(Oddity::HiddenDots);
        }
    }
}

/// Appends one segment in its canonical form; dot segments are the caller's.
pub(crate) fn segment(raw: &[u8], out: &mut String, oddities: &mut Oddities) -> Result<(), Denial> {
    let mut rest = raw;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match class(*byte) {
            Class::Plain | Class::Dot | Class::Slash => out.push(char::from(*byte)),
            Class::Encode => push_escape(*byte, out),
            Class::Backslash => {
                oddities.insert(Oddity::Backslash);
                push_escape(*byte, out);
            }
            Class::Percent => rest = escape(tail, out, oddities)?,
            Class::NonAscii => {
                oddities.insert(Oddity::RawNonAscii);
                rest = character(*byte, tail, out, raw_byte)?;
            }
            Class::Refused => {
                return Err(Denial::ambiguous(
                    "bad_path",
                    "the path has a control character, a space or a `#`",
                ));
            }
        }
    }
    Ok(())
}

/// One escape; `rest` stands behind its `%`.
fn escape<'a>(rest: &'a [u8], out: &mut String, oddities: &mut Oddities) -> Result<&'a [u8], Denial> {
    let Some((byte, rest)) = hex_byte(rest) else {
        return Err(Denial::ambiguous("bad_escape", "the path has a `%` without two hex digits"));
    };
    match byte {
        0..=0x1f | 0x7f => {
            return Err(Denial::ambiguous("bad_escape", "the path has an encoded control character"));
        }
        0x80.. => return character(byte, rest, out, escaped_byte),
        b'/' => oddities.insert(Oddity::EncodedSlash),
        b'\\' => oddities.insert(Oddity::EncodedBackslash),
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            out.push(char::from(byte)); // unreserved, RFC 3986 §2.3
            return Ok(rest);
        }
        _ => {}
    }
    push_escape(byte, out);
    Ok(rest)
}

/// Takes the next byte of one way of writing.
type Next = fn(&[u8]) -> Option<(u8, &[u8])>;

/// One character beyond ASCII, its bytes all raw or all escaped: UTF-8 in its only form (RFC 3629 §3), written escaped.
fn character<'a>(lead: u8, rest: &'a [u8], out: &mut String, next: Next) -> Result<&'a [u8], Denial> {
    let invalid = || Denial::ambiguous("bad_utf8", "the path has bytes that are not UTF-8");
    let width = match lead {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Err(invalid()),
    };
    let mut bytes = [lead, 0, 0, 0];
    let mut rest = rest;
    for byte in bytes.iter_mut().take(width).skip(1) {
        (*byte, rest) = next(rest).ok_or_else(invalid)?;
    }
    let bytes = bytes.get(..width).unwrap_or_default();
    if std::str::from_utf8(bytes).is_err() {
        return Err(invalid());
    }
    for byte in bytes {
        push_escape(*byte, out);
    }
    Ok(rest)
}

fn raw_byte(bytes: &[u8]) -> Option<(u8, &[u8])> {
    bytes.split_first().map(|(byte, rest)| (*byte, rest))
}

fn escaped_byte(bytes: &[u8]) -> Option<(u8, &[u8])> {
    bytes.strip_prefix(b"%").and_then(hex_byte)
}

fn hex_byte(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let [high, low, rest @ ..] = bytes else { return None };
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some((digit(*high)? * 16 + digit(*low)?, rest))
}

fn push_escape(byte: u8, out: &mut String) {
    let digit = |d: u8| char::from(if d < 10 { b'0' + d } else { b'A' + d - 10 });
    out.push('%');
    out.push(digit(byte >> 4));
    out.push(digit(byte & 15));
}

/// A query with its `?`, byte for byte; only what no query can bear is refused. `"`, `<` and `>` are among it: RFC 3986 §3.4 has
/// them in no query, and an upstream could not be given them as they are.
pub(super) fn query(raw: &[u8]) -> Result<&str, Denial> {
    let sound = raw.iter().all(|b| matches!(b, 0x21..=0x7e) && !matches!(b, b'#' | b'"' | b'<' | b'>'));
    match std::str::from_utf8(raw) {
        Ok(text) if sound => Ok(text),
        _ => Err(Denial::ambiguous(
            "bad_query",
            "the query has a control character, a space, one of `#\"<>` or a byte beyond ASCII",
        )),
    }
}
