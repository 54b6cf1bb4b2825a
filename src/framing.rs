//! Where an HTTP/1 message ends, decided from its bytes: the judge of heads, and the scanner of chunked bodies. And where the
//! frames of HTTP/2 are.
//!
//! Strict where RFC 9112 lets a recipient choose: whatever two implementations could read in two ways is refused, so that
//! no message can be hidden behind another (request smuggling). No IO here.

mod bytes;
mod chunked;
mod fields;
pub mod frames;
mod pace;
pub mod response;
#[cfg(test)]
mod tests;

use memchr::memchr;

pub use chunked::{BadChunk, Chunked};
pub use fields::{expects_continue, judge_fields};
pub use pace::{BodyClock, Pace};

use crate::request::Protocol;
use bytes::is_token;
use fields::Seen;

/// Bounds on a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Fields.
    pub header_fields: usize,
    /// Bytes of the whole head.
    pub header_bytes: usize,
    /// Bytes of one field line.
    pub field_bytes: usize,
    /// Bytes of the request target.
    pub uri_bytes: usize,
}

/// The longest method: those that are registered have at most 17 letters.
pub const METHOD_BYTES: usize = 64;

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing: the request ends with its head (RFC 9112 §6.3, rule 7).
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// A head that has one reading. Borrows the bytes it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing<'a> {
    /// The method, a valid token.
    pub method: &'a [u8],
    /// The target as sent: visible ASCII and UTF-8 beyond it, no `#`.
    pub target: &'a [u8],
    /// HTTP/1.0 or HTTP/1.1.
    pub protocol: Protocol,
    /// The value of Host; none only on HTTP/1.0.
    pub host: Option<&'a [u8]>,
    /// What follows.
    pub body: Body,
    /// Whether the client lets the connection live on after the answer.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What sort of refusal it is.
    pub cause: Cause,
    /// A word for metrics.
    pub reason: &'static str,
    /// What happened, for the log.
    pub message: &'static str,
}

/// The sorts of refusal, each with a status of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// 400: two readings, or none.
    Ambiguous,
    /// 405: TRACE and CONNECT, which no route can have.
    Method,
    /// 417: an expectation other than 100-continue.
    Expectation,
    /// 414
    UriTooLong,
    /// 431
    HeadersTooLarge,
    /// 501: a transfer coding other than chunked.
    UnknownCoding,
    /// 505
    Version,
}

/// Whether content in a request of this method has no meaning that all agree on (RFC 9110 §9.3.1, §9.3.2, §9.3.5): a server
/// that does not read it takes it for the next request. Such a request passes, and its connections serve no other.
pub fn is_content_unexpected(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"DELETE")
}

impl Denial {
    const fn new(cause: Cause, reason: &'static str, message: &'static str) -> Self {
        Self { cause, reason, message }
    }

    const fn ambiguous(reason: &'static str, message: &'static str) -> Self {
        Self::new(Cause::Ambiguous, reason, message)
    }
}

/// How far the bytes read so far reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The head ends here: so many bytes, the empty line included.
    Complete(usize),
    /// More is needed.
    Partial,
}

/// Finds the end of a head in what has been read; `searched` bytes were looked at before (0 at first).
///
/// # Errors
/// A line that does not end in CRLF, a first byte that starts no method, or a head that is already longer than it may be.
pub fn find_end(bytes: &[u8], searched: usize, limits: &Limits) -> Result<Progress, Denial> {
    if bytes.first().is_some_and(|b| !is_token(*b)) {
        // TLS on a plain port, mostly: without this it would wait for a line feed until the deadline.
        return Err(Denial::ambiguous("request_line", "the first byte starts no method"));
    }
    match scan_end(bytes, searched)? {
        Some(end) => over(bytes, end, limits).map_or(Ok(Progress::Complete(end)), Err),
        None => over(bytes, bytes.len(), limits).map_or(Ok(Progress::Partial), Err),
    }
}

const BARE_LINE_FEED: Denial =
    Denial::ambiguous("bare_line_feed", "a line of the head ends in a bare line feed");

/// The end of a head, if it is there; every line up to it must end in CRLF (RFC 9112 §2.2).
fn scan_end(bytes: &[u8], searched: usize) -> Result<Option<usize>, Denial> {
    let mut at = searched;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr(b'\n', rest)) {
        let feed = at + found;
        if feed == 0 || bytes.get(feed - 1) != Some(&b'\r') {
            return Err(BARE_LINE_FEED);
        }
        if feed >= 3 && bytes.get(feed - 3..feed) == Some(b"\r\n\r") {
            return Ok(Some(feed + 1));
        }
        at = feed + 1;
    }
    Ok(None)
}

/// The refusal of a head that is longer than it may be, complete or not.
fn over(bytes: &[u8], length: usize, limits: &Limits) -> Option<Denial> {
    let line = bytes.get(..length).map_or(length, |head| memchr(b'\n', head).unwrap_or(length));
    if line > limits.uri_bytes.saturating_add(64) {
        return Some(Denial::new(
            Cause::UriTooLong,
            "uri_bytes",
            "the request line is longer than `server.limits.uri_bytes` allows",
        ));
    }
    (length > limits.header_bytes).then(|| {
        Denial::new(
            Cause::HeadersTooLarge,
            "header_bytes",
            "the head is longer than `server.limits.header_bytes` allows",
        )
    })
}

/// Judges a complete head, its empty line included.
///
/// # Errors
/// Says what has two readings, is too large, or is not spoken here.
pub fn judge<'a>(head: &'a [u8], limits: &Limits) -> Result<Framing<'a>, Denial> {
    let mut rest = head;
    let (method, target, protocol) = request_line(take_line(&mut rest)?, limits)?;
    let mut seen = Seen::default();
    let mut count = 0_usize;
    while !rest.is_empty() {
        let taken = seen.take(rest)?;
        let Some((line, behind)) = taken.and_then(|length| rest.split_at_checked(length)) else {
            match take_line(&mut rest)? {
                [] => break,
                line => return Err(fields::fault(line)),
            }
        };
        rest = behind;
        count += 1;
        if count > limits.header_fields {
            return Err(Denial::new(
                Cause::HeadersTooLarge,
                "header_fields",
                "more fields than `server.limits.header_fields` allows",
            ));
        }
        if line.len() > limits.field_bytes + 2 {
            return Err(Denial::new(
                Cause::HeadersTooLarge,
                "field_bytes",
                "a field is longer than `server.limits.field_bytes` allows",
            ));
        }
    }
    let body = seen.body(protocol)?;
    let host = seen.host(protocol)?;
    seen.expectations()?;
    if matches!(method, b"TRACE" | b"CONNECT") {
        return Err(Denial::new(Cause::Method, "method", "TRACE and CONNECT are not served"));
    }
    Ok(Framing {
        method,
        target,
        protocol,
        host,
        body,
        keep_alive: seen.keep_alive(protocol),
        expects_continue: seen.expects_continue,
    })
}

/// The request line: exactly two single spaces (RFC 9112 §3; the lenient reading of §3-4 is not taken).
fn request_line<'a>(line: &'a [u8], limits: &Limits) -> Result<(&'a [u8], &'a [u8], Protocol), Denial> {
    const SHAPE: Denial =
        Denial::ambiguous("request_line", "the request line is not `METHOD target HTTP/1.1`");
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(SHAPE);
    };
    if method.is_empty() || target.is_empty() || !method.iter().all(|b| is_token(*b)) {
        return Err(SHAPE);
    }
    if method.len() > METHOD_BYTES {
        return Err(Denial::ambiguous("method_bytes", "the method is longer than any that is known"));
    }
    if target.len() > limits.uri_bytes {
        return Err(Denial::new(
            Cause::UriTooLong,
            "uri_bytes",
            "the target is longer than `server.limits.uri_bytes` allows",
        ));
    }
    // Bytes beyond ASCII are the canonical form's business, as long as they are text.
    if target.iter().any(|b| b.is_ascii() && !b.is_ascii_graphic()) {
        return Err(Denial::ambiguous("target_bytes", "the target has control characters or spaces"));
    }
    if !target.is_ascii() && std::str::from_utf8(target).is_err() {
        return Err(Denial::ambiguous("target_bytes", "the target has bytes that are not UTF-8"));
    }
    if target.contains(&b'#') {
        return Err(Denial::ambiguous("target_fragment", "the target has a fragment"));
    }
    let protocol = match version {
        b"HTTP/1.1" => Protocol::Http11,
        b"HTTP/1.0" => Protocol::Http10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            // RFC 9110 §2.5 lets 1.2 be read as 1.1; nobody speaks it, and not every parser behind us agrees.
            return Err(Denial::new(Cause::Version, "http_version", "a version other than 1.0 and 1.1"));
        }
        _ => return Err(SHAPE),
    };
    Ok((method, target, protocol))
}

/// The next line without its CRLF; a CR elsewhere is an error (RFC 9112 §2.2).
fn take_line<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Denial> {
    const BARE: Denial =
        Denial::ambiguous("bare_carriage_return", "a carriage return or line feed stands alone");
    let feed = memchr(b'\n', rest).ok_or(BARE)?;
    let (line, behind) = rest.split_at_checked(feed + 1).ok_or(BARE)?;
    *rest = behind;
    let line = line.strip_suffix(b"\r\n").ok_or(BARE)?;
    if memchr(b'\r', line).is_some() { Err(BARE) } else { Ok(line) }
}
