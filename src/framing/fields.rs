//! The fields that say where a message ends, and the form that every field must have.

use http::HeaderMap;
use http::header::{EXPECT, HOST};

use super::bytes::{find_control, is_token, token_length};
use super::response::Framed;
use super::{Body, Cause, Denial};
use crate::request::Protocol;

/// Judges fields that have been parsed elsewhere by what they say of the body. (h2 lets equal lengths pass; towards an upstream of
/// HTTP/1.1 only one may be said.)
///
/// # Errors
/// As [`super::judge`].
pub fn judge_fields(headers: &HeaderMap, protocol: Protocol) -> Result<Body, Denial> {
    let mut seen = Seen::default();
    for (name, value) in headers {
        // h2 makes names with `HeaderName::from_lowercase`, which takes a quotation mark for part of a token.
        if !name.as_str().bytes().all(is_token) {
            return Err(NAME);
        }
        // Hosts are the canonical form's business.
        if *name != HOST {
            seen.understand(name.as_str().as_bytes(), value.as_bytes())?;
        }
    }
    seen.expectations()?;
    seen.body(protocol)
}

const NAME: Denial = Denial::ambiguous("field_name", "a field's name is not a token");

/// Whether these fields ask for `100 Continue` (RFC 9110 §10.1.1).
pub fn expects_continue(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(EXPECT).iter();
    values.any(|value| expectations(value.as_bytes()).any(is_continue))
}

/// `Expect` is a list (RFC 9110 §10.1.1); its empty elements count for nothing (§5.6.1).
fn expectations(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

fn is_continue(expectation: &[u8]) -> bool {
    expectation.eq_ignore_ascii_case(b"100-continue")
}

/// The refusal of a name that [`is_look_alike`].
const LOOK_ALIKE: Denial =
    Denial::ambiguous("field_look_alike", "a field's name is all but Transfer-Encoding or Content-Length");

/// Whether a name would be Transfer-Encoding or Content-Length if its punctuation were something else: `Transfer_Encoding`,
/// `Content--Length`. Some servers read such a name as the field itself, and then see another body than we do.
fn is_look_alike(name: &[u8]) -> bool {
    let mut squeezed = name.iter().filter(|b| b.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase);
    // The first letter and the last tell nearly all names apart.
    let rest = match (squeezed.next(), squeezed.next_back()) {
        (Some(b't'), Some(b'g')) => &b"ransferencodin"[..],
        (Some(b'c'), Some(b'h')) => b"ontentlengt",
        _ => return false,
    };
    squeezed.eq(rest.iter().copied())
}

/// What is wrong with a field line (RFC 9112 §5) that [`Seen::take`] did not take, its line end apart.
pub(super) fn fault(line: &[u8]) -> Denial {
    if line.first().is_some_and(|b| matches!(b, b' ' | b'\t')) {
        return Denial::ambiguous("folded_field", "a field is folded over lines");
    }
    let name = line.split(|b| *b == b':').next().unwrap_or_default();
    if name.len() == line.len() {
        return Denial::ambiguous("field_name", "a field has no colon");
    }
    if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
        return NAME;
    }
    Denial::ambiguous("field_value", "a field's value has control characters")
}

/// What the fields of a head have said so far.
#[derive(Debug, Default)]
pub(super) struct Seen<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    coding: Option<&'a [u8]>,
    close: bool,
    keep_alive: bool,
    pub(super) expects_continue: bool,
    expects_more: bool,
}

impl<'a> Seen<'a> {
    /// Takes the field line at the beginning of these bytes, if there is one, and says how long it is, its CRLF included.
    ///
    /// # Errors
    /// A name that [`is_look_alike`], a field that may come only once, a length that is none.
    #[inline]
    pub(super) fn take(&mut self, bytes: &'a [u8]) -> Result<Option<usize>, Denial> {
        // The line's end first, which the next line waits for; the name is looked at meanwhile.
        let Some((line, [b'\r', b'\n', ..])) = find_control(bytes).and_then(|at| bytes.split_at_checked(at))
        else {
            return Ok(None);
        };
        // No white space before the colon (RFC 9112 §5.1): a token has none.
        let Some((name, [b':', value @ ..])) = line.split_at_checked(token_length(bytes)) else {
            return Ok(None);
        };
        if name.is_empty() {
            return Ok(None);
        }
        self.understand(name, value)?;
        Ok(Some(line.len() + 2))
    }

    fn understand(&mut self, name: &'a [u8], value: &'a [u8]) -> Result<(), Denial> {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                once(&mut self.host, value.trim_ascii(), "host", "several Host fields")?;
            }
            6 if name.eq_ignore_ascii_case(b"expect") => {
                for expectation in expectations(value) {
                    let known = is_continue(expectation);
                    self.expects_continue |= known;
                    self.expects_more |= !known;
                }
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                // RFC 9112 §6.3, rule 5 lets equal ones be folded; a client that doubles it is not worth the risk.
                let length = length(value.trim_ascii())?;
                once(&mut self.length, length, "content_length", "several Content-Length fields")?;
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                let value = value.trim_ascii();
                once(&mut self.coding, value, "transfer_encoding", "several Transfer-Encoding fields")?;
            }
            13.. if is_look_alike(name) => return Err(LOOK_ALIKE),
            _ => {}
        }
        Ok(())
    }

    /// What follows a request's head (RFC 9112 §6.3).
    pub(super) fn body(&self, protocol: Protocol) -> Result<Body, Denial> {
        Ok(match self.framing(protocol)? {
            Framed::Unsaid => Body::None,
            Framed::Length(length) => Body::Length(length),
            Framed::Chunked => Body::Chunked,
        })
    }

    /// What the fields say of the content.
    pub(super) fn framing(&self, protocol: Protocol) -> Result<Framed, Denial> {
        let Some(coding) = self.coding else {
            return Ok(self.length.map_or(Framed::Unsaid, Framed::Length));
        };
        if self.length.is_some() {
            return Err(Denial::ambiguous("transfer_encoding", "both Transfer-Encoding and Content-Length"));
        }
        if protocol == Protocol::Http10 {
            return Err(Denial::ambiguous("transfer_encoding", "Transfer-Encoding on HTTP/1.0"));
        }
        if coding.eq_ignore_ascii_case(b"chunked") {
            return Ok(Framed::Chunked);
        }
        let mut codings = coding.rsplit(|b| *b == b',').map(<[u8]>::trim_ascii);
        let last_is_chunked = codings.next().is_some_and(|c| c.eq_ignore_ascii_case(b"chunked"));
        if codings.clone().any(|c| c.is_empty() || c.eq_ignore_ascii_case(b"chunked")) {
            return Err(Denial::ambiguous("transfer_encoding", "Transfer-Encoding is malformed"));
        }
        let known = |c: &[u8]| {
            [&b"gzip"[..], b"x-gzip", b"deflate", b"compress", b"x-compress", b"identity", b"br"]
                .iter()
                .any(|k| c.eq_ignore_ascii_case(k))
        };
        // RFC 9112 §6.3, rule 4: without chunked at the end the length cannot be known.
        if !last_is_chunked && coding.split(|b| *b == b',').all(|c| known(c.trim_ascii())) {
            return Err(Denial::ambiguous("transfer_encoding", "Transfer-Encoding does not end in chunked"));
        }
        Err(Denial::new(Cause::UnknownCoding, "transfer_coding", "a transfer coding other than chunked"))
    }

    /// The one Host; HTTP/1.1 must have it (RFC 9112 §3.2).
    pub(super) fn host(&self, protocol: Protocol) -> Result<Option<&'a [u8]>, Denial> {
        match self.host {
            None if protocol == Protocol::Http11 => Err(Denial::ambiguous("host", "HTTP/1.1 without Host")),
            host => Ok(host),
        }
    }

    /// RFC 9110 §10.1.1: an expectation that cannot be met may be answered with 417; passed on, two servers could meet it twice.
    pub(super) fn expectations(&self) -> Result<(), Denial> {
        match self.expects_more {
            true => Err(Denial::new(
                Cause::Expectation,
                "expectation",
                "the request expects something other than 100-continue",
            )),
            false => Ok(()),
        }
    }

    /// RFC 9112 §9.3.
    pub(super) fn keep_alive(&self, protocol: Protocol) -> bool {
        !self.close && (protocol == Protocol::Http11 || self.keep_alive)
    }
}

/// Takes a field that may come only once.
fn once<T>(
    slot: &mut Option<T>,
    value: T,
    reason: &'static str,
    message: &'static str,
) -> Result<(), Denial> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Denial::ambiguous(reason, message)),
    }
}

/// Digits and nothing else; a list of equal lengths is refused like any other list.
fn length(value: &[u8]) -> Result<u64, Denial> {
    // 18 digits always fit; longer ones exist only in attacks.
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Denial::ambiguous("content_length", "Content-Length is not a number"));
    }
    Ok(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}
