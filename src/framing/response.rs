//! The judge of an HTTP/1 response's head: the same strictness towards servers as towards clients.
//!
//! A response with two readings would let a broken or hostile server answer a request that it was never sent: what one reader
//! takes for the rest of a body, another takes for the next response. RFC 9112 lets a recipient mend much of what is refused
//! here (bare line feeds, folded fields, equal lengths said twice); a gateway that mends decides for all readers behind it.

use memchr::memchr;

use super::bytes::is_value;
use super::fields::{self, Seen};
use super::{BARE_LINE_FEED, Cause, Denial, scan_end};
use crate::request::Protocol;

/// Bytes of a response's head, its status line included.
pub const HEAD_BYTES: usize = 64 * 1024;
/// Fields of a response's head: as many as Pingora reads.
pub const HEADER_FIELDS: usize = 256;

/// What follows a response's head (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing: the next bytes are another response's, or nobody's.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// All until the server closes.
    Close,
    /// An interim response (RFC 9110 §15.2): the next head follows.
    Interim,
    /// Another protocol, in both directions.
    Tunnel,
}

/// A response's head that has one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What follows.
    pub content: Content,
    /// Whether a head that nothing follows says that something does (204 with a length, 304 with chunks): its server may
    /// well send it, so its connection must not serve again.
    pub overfull: bool,
}

/// What was asked, as far as it says how an answer ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// By HEAD, whose answers have no content.
    pub head: bool,
    /// For another protocol.
    pub upgrade: bool,
}

const NO_HTTP: Denial = Denial::ambiguous("status_line", "what came is no HTTP response");

/// Whether a head that was found incomplete is complete now; `searched` bytes were looked at before. So a head that drips is
/// not judged again for each of its bytes.
///
/// # Errors
/// A line that does not end in CRLF, or a head longer than [`HEAD_BYTES`].
pub fn is_complete(bytes: &[u8], searched: usize) -> Result<bool, Denial> {
    let end = scan_end(bytes, searched)?;
    bounded(end.unwrap_or(bytes.len()))?;
    Ok(end.is_some())
}

/// Judges the head at the beginning of these bytes, and says how long it is; none if it is not complete. One pass: what is
/// read most is read once.
///
/// # Errors
/// Says what has two readings, or is not HTTP/1.
pub fn judge(bytes: &[u8], asked: Asked) -> Result<Option<(usize, Answer)>, Denial> {
    if bytes.first().is_some_and(|b| *b != b'H') {
        return Err(NO_HTTP);
    }
    let mut rest = bytes;
    let Some(line) = take_line(&mut rest)? else { return bounded(bytes.len()).map(|()| None) };
    let (status, protocol) = status_line(line)?;
    let mut seen = Seen::default();
    let mut count = 0_usize;
    loop {
        let taken = seen.take(rest)?;
        let Some(behind) = taken.and_then(|length| rest.get(length..)) else {
            match take_line(&mut rest)? {
                None => return bounded(bytes.len()).map(|()| None),
                Some([]) => break,
                Some(line) => return Err(fields::fault(line)),
            }
        };
        rest = behind;
        count += 1;
        if count > HEADER_FIELDS {
            let message = "more than 256 fields";
            return Err(Denial::new(Cause::HeadersTooLarge, "response_header_fields", message));
        }
    }
    let length = bytes.len() - rest.len();
    bounded(length)?;
    let framing = seen.framing(protocol)?;
    Ok(Some((length, content(status, protocol, framing, asked)?)))
}

/// The next line without its CRLF; none if its end has not come. A CR elsewhere is refused with the line (RFC 9112 §2.2).
fn take_line<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Denial> {
    let feed = memchr(b'\n', rest);
    let Some((line, behind)) = feed.and_then(|at| rest.split_at_checked(at + 1)) else { return Ok(None) };
    *rest = behind;
    line.strip_suffix(b"\r\n").map(Some).ok_or(BARE_LINE_FEED)
}

fn bounded(length: usize) -> Result<(), Denial> {
    const LONG: Denial =
        Denial::new(Cause::HeadersTooLarge, "response_header_bytes", "the head is longer than 64 KiB");
    if length > HEAD_BYTES { Err(LONG) } else { Ok(()) }
}

/// What follows, in the order of RFC 9112 §6.3.
fn content(status: u16, protocol: Protocol, framing: Framed, asked: Asked) -> Result<Answer, Denial> {
    let says_more = !matches!(framing, Framed::Unsaid | Framed::Length(0));
    let answer = |content| Ok(Answer { content, overfull: false });
    match status {
        100..=199 if says_more => Err(Denial::ambiguous("interim_content", "an interim answer with content")),
        101 if !asked.upgrade => Err(Denial::ambiguous("unasked_switch", "101 that was not asked for")),
        101 if protocol == Protocol::Http10 => {
            Err(Denial::ambiguous("unasked_switch", "101 in an answer of HTTP/1.0"))
        }
        101 => answer(Content::Tunnel),
        100..=199 => answer(Content::Interim),
        204 => Ok(Answer { content: Content::None, overfull: says_more }),
        // Their length is the one that a GET, or a 200, would have had (RFC 9110 §8.6).
        304 => Ok(Answer { content: Content::None, overfull: framing == Framed::Chunked }),
        _ if asked.head => answer(Content::None),
        _ => answer(match framing {
            Framed::Length(length) => Content::Length(length),
            Framed::Chunked => Content::Chunked,
            Framed::Unsaid => Content::Close,
        }),
    }
}

/// What the fields of a head say of the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framed {
    Unsaid,
    Length(u64),
    Chunked,
}

/// The status line (RFC 9112 §4). The space before an absent reason may be absent too: many servers leave it out, and nothing
/// can be read into it.
fn status_line(line: &[u8]) -> Result<(u16, Protocol), Denial> {
    const SHAPE: Denial = Denial::ambiguous("status_line", "the status line is not `HTTP/1.1 200 Reason`");
    let (version, rest) = line.split_at_checked(9).ok_or(SHAPE)?;
    let protocol = match version {
        b"HTTP/1.1 " => Protocol::Http11,
        b"HTTP/1.0 " => Protocol::Http10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor, b' ']
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(Denial::new(Cause::Version, "http_version", "a version other than 1.0 and 1.1"));
        }
        _ => return Err(SHAPE),
    };
    let (code, reason) = rest.split_at_checked(3).ok_or(SHAPE)?;
    if !code.iter().all(u8::is_ascii_digit) || reason.first().is_some_and(|b| *b != b' ') {
        return Err(SHAPE);
    }
    if !is_value(reason) {
        return Err(Denial::ambiguous("status_line", "the reason has control characters"));
    }
    let status = code.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    // RFC 9110 §15: what is beyond is invalid, and to be taken for a failure of the server.
    if !(100..600).contains(&status) {
        return Err(Denial::ambiguous("status_code", "a status that is not from 100 to 599"));
    }
    Ok((status, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(head: &str, asked: Asked) -> Result<(Content, bool), &'static str> {
        judge(head.as_bytes(), asked)
            .map(|found| found.expect("a whole head"))
            .map(|(length, answer)| {
                assert_eq!(length, head.len());
                (answer.content, answer.overfull)
            })
            .map_err(|denial| denial.reason)
    }

    #[test]
    fn answers_that_have_one_reading() {
        let get = Asked::default();
        let head = Asked { head: true, ..get };
        let upgrade = Asked { upgrade: true, ..get };
        let rows = [
            ("HTTP/1.1 200 OK\r\n\r\n", get, Content::Close, false),
            ("HTTP/1.1 200\r\nContent-Length: 3\r\n\r\n", get, Content::Length(3), false),
            ("HTTP/1.1 200 \r\nContent-Length:3 \r\n\r\n", get, Content::Length(3), false),
            ("HTTP/1.0 200 OK\r\ncontent-length: \t0\r\n\r\n", get, Content::Length(0), false),
            (
                "HTTP/1.1 599 \u{e9}t\u{e9}\r\nTransfer-Encoding: Chunked\r\n\r\n",
                get,
                Content::Chunked,
                false,
            ),
            ("HTTP/1.1 100 Continue\r\n\r\n", get, Content::Interim, false),
            ("HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n", get, Content::Interim, false),
            ("HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\n", head, Content::Interim, false),
            ("HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", upgrade, Content::Tunnel, false),
            ("HTTP/1.1 204 None\r\n\r\n", get, Content::None, false),
            ("HTTP/1.1 204 None\r\nContent-Length: 4\r\n\r\n", get, Content::None, true),
            ("HTTP/1.1 204 None\r\nTransfer-Encoding: chunked\r\n\r\n", get, Content::None, true),
            ("HTTP/1.1 304 Same\r\nContent-Length: 4\r\n\r\n", get, Content::None, false),
            ("HTTP/1.1 304 Same\r\nTransfer-Encoding: chunked\r\n\r\n", get, Content::None, true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", head, Content::None, false),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", head, Content::None, false),
            ("HTTP/1.1 205 Reset\r\nContent-Length: 4\r\n\r\n", get, Content::Length(4), false),
            (
                "HTTP/1.1 426 No\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\n",
                upgrade,
                Content::Length(2),
                false,
            ),
        ];
        for (bytes, asked, content, overfull) in rows {
            assert_eq!(judged(bytes, asked), Ok((content, overfull)), "{bytes:?}");
        }
    }

    #[test]
    fn answers_that_have_two_or_none() {
        let one = |field: &str| format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n");
        let line = |line: &str| format!("{line}\r\nContent-Length: 0\r\n\r\n");
        let many = one(&"X: y\r\n".repeat(HEADER_FIELDS + 1));
        let rows = [
            (one("Content-Length: 5\r\nTransfer-Encoding: chunked"), "transfer_encoding"),
            (one("Content-Length: 5\r\nContent-Length: 6"), "content_length"),
            (one("Content-Length: 5\r\nContent-Length: 5"), "content_length"),
            (one("Content-Length: 5, 5"), "content_length"),
            (one("Content-Length: +5"), "content_length"),
            (one("Content-Length: -5"), "content_length"),
            (one("Content-Length: 0x5"), "content_length"),
            (one("Content-Length: 5 5"), "content_length"),
            (one("Content-Length: 5;"), "content_length"),
            (one("Content-Length:"), "content_length"),
            (one("Content-Length: 18446744073709551621"), "content_length"),
            (one("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), "transfer_encoding"),
            (one("Transfer-Encoding: chunked, chunked"), "transfer_encoding"),
            (one("Transfer-Encoding: gzip"), "transfer_encoding"),
            (one("Transfer-Encoding: chunked, gzip"), "transfer_encoding"),
            (one("Transfer-Encoding: gzip, chunked"), "transfer_coding"),
            (one("Transfer-Encoding: xchunked"), "transfer_coding"),
            (one("Transfer-Encoding:"), "transfer_coding"),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(), "transfer_encoding"),
            (one("Transfer_Encoding: chunked"), "field_look_alike"),
            (one("X: a\rb"), "field_value"),
            (one("X\r: b"), "field_name"),
            (line("HTTP/1.1 200 O\rK"), "status_line"),
            (one("X: a\nY: b"), "bare_line_feed"),
            (line("HTTP/1.1 200 OK\n"), "bare_line_feed"),
            (one("X: a\0b"), "field_value"),
            (one("X: a\u{7f}b"), "field_value"),
            (one("X: a\r\n b"), "folded_field"),
            (one("X : a"), "field_name"),
            (one(": a"), "field_name"),
            (one("no colon"), "field_name"),
            (one("X\u{e9}: a"), "field_name"),
            (line("HTTP/2.0 200 OK"), "http_version"),
            (line("HTTP/0.9 200 OK"), "http_version"),
            (line("HTTP/1.2 200 OK"), "http_version"),
            (line("http/1.1 200 OK"), "status_line"),
            (line("HTTP/1.1  200 OK"), "status_line"),
            (line("HTTP/1.1\t200 OK"), "status_line"),
            (line("HTTP/1.1 20 OK"), "status_line"),
            (line("HTTP/1.1 2000 OK"), "status_line"),
            (line("HTTP/1.1 2x0 OK"), "status_line"),
            (line("HTTP/1.1 200\tOK"), "status_line"),
            (line("HTTP/1.1 200 O\0K"), "status_line"),
            (line("HTTP/1.1 "), "status_line"),
            (line("HTTP/1.1"), "status_line"),
            (line("HTTP/1.1 000 OK"), "status_code"),
            (line("HTTP/1.1 099 OK"), "status_code"),
            (line("HTTP/1.1 600 OK"), "status_code"),
            (line("HTTP/1.1 999 OK"), "status_code"),
            ("HTTP/1.1 103 Hints\r\nContent-Length: 2\r\n\r\n".into(), "interim_content"),
            ("HTTP/1.1 100 Go\r\nTransfer-Encoding: chunked\r\n\r\n".into(), "interim_content"),
            ("HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n".into(), "unasked_switch"),
            (many, "response_header_fields"),
        ];
        for (bytes, reason) in rows {
            assert_eq!(judged(&bytes, Asked::default()), Err(reason), "{bytes:?}");
        }
        let upgrade = Asked { upgrade: true, ..Asked::default() };
        assert_eq!(judged("HTTP/1.0 101 Switching\r\nUpgrade: x\r\n\r\n", upgrade), Err("unasked_switch"));
    }

    #[test]
    fn ends_are_found_in_pieces() {
        let head = b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n";
        for searched in 0..head.len() {
            assert_eq!(judge(&head[..searched], Asked::default()), Ok(None));
            assert_eq!(is_complete(&head[..searched], searched / 2), Ok(false));
            assert_eq!(is_complete(head, searched), Ok(true), "{searched}");
        }
        let more = [&head[..], b"HTTP/1.1 100"].concat();
        assert_eq!(judge(&more, Asked::default()).unwrap().unwrap().0, head.len());
        let judged = |bytes: &[u8]| judge(bytes, Asked::default()).unwrap_err().reason;
        assert_eq!(judged(b"\r\nHTTP/1.1 200 OK"), "status_line");
        assert_eq!(judged(b"HTTP/1.1 200 OK\n"), "bare_line_feed");
        assert_eq!(is_complete(b"HTTP/1.1 200 OK\n", 3).unwrap_err().reason, "bare_line_feed");
        let long = [b"HTTP/1.1 200 OK\r\nX: ", &[b'a'; HEAD_BYTES][..], b"\r\n\r\n"].concat();
        assert_eq!(judge(&long[..HEAD_BYTES], Asked::default()), Ok(None));
        assert_eq!(judged(&long[..HEAD_BYTES + 1]), "response_header_bytes");
        assert_eq!(judged(&long), "response_header_bytes");
        assert_eq!(is_complete(&long, 0).unwrap_err().reason, "response_header_bytes");
    }
}
