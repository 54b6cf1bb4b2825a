//! Chunked bodies. The bytes are a body and what follows it.

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use pingora_core::protocols::http::v1::server::HttpSession;
use portcullis::framing::Chunked;

use super::script::Script;

/// Longer bodies are not cut at every byte.
const CUT: usize = 200;

/// How a scan of a body ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// The body has so many bytes.
    Done(usize),
    /// More would have to come.
    Partial,
    /// It is malformed.
    Bad,
}

/// The verdict does not depend on how the bytes arrive; a body that the scanner lets through says the same to the oracle and to
/// Pingora's reader, at every cut.
pub fn run(data: &[u8]) {
    let whole = scan(&[data]);
    if data.len() <= CUT {
        let bytes: Vec<_> = data.chunks(1).collect();
        assert_eq!(scan(&bytes), whole, "byte by byte");
        for at in 0..data.len() {
            let (before, after) = data.split_at(at);
            assert_eq!(scan(&[before, after]), whole, "cut at {at}");
        }
    }
    let expected = oracle(data);
    match (&whole, &expected) {
        (Scanned::Done(length), Some((content, body))) => {
            assert_eq!(length, body, "the body ends elsewhere");
            is_read_by_pingora(&data[..*length], Some(content));
        }
        (Scanned::Done(length), None) => panic!("accepted {length} bytes that are no body"),
        (Scanned::Partial, Some(_)) => panic!("the body is complete"),
        (Scanned::Partial, None) => is_read_by_pingora(data, None),
        (Scanned::Bad, Some((_, body))) => {
            // Bounds, and whatever else a scanner may be stricter in: never a body without extensions and trailers.
            assert!(data[..*body].contains(&b';') || !data[..*body].ends_with(b"\n0\r\n\r\n"), "refused");
        }
        (Scanned::Bad, None) => {}
    }
}

/// What the rim's scanner says of these pieces.
pub fn scan(pieces: &[&[u8]]) -> Scanned {
    let mut chunked = Chunked::default();
    let mut length = 0;
    for piece in pieces {
        match chunked.scan(piece) {
            Err(_) => return Scanned::Bad,
            Ok(taken) => {
                assert!(taken == piece.len() || chunked.is_done(), "bytes are left in the middle");
                length += taken;
            }
        }
    }
    if chunked.is_done() { Scanned::Done(length) } else { Scanned::Partial }
}

/// Pingora reads this much and no more, and finds this content; of a part of a body it does not say that it is whole.
fn is_read_by_pingora(body: &[u8], content: Option<&Vec<u8>>) {
    let middle = body.len() / 2;
    let mut ways = vec![vec![body], vec![&body[..middle], &body[middle..]]];
    if body.len() <= CUT {
        ways.push(body.chunks(1).collect());
        ways.push(body.chunks(3).collect());
    }
    for pieces in ways {
        let pieces = pieces.into_iter().map(Bytes::copy_from_slice);
        let read = read(pieces).now_or_never().expect("a script never waits");
        match content {
            Some(content) => assert_eq!(read.as_ref(), Ok(content), "Pingora reads the body differently"),
            None => assert!(read.is_err(), "Pingora reads a part for the whole"),
        }
    }
}

async fn read(pieces: impl Iterator<Item = Bytes>) -> Result<Vec<u8>, String> {
    let mut session = HttpSession::new(Box::new(Script::new(pieces)));
    let head = &b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"[..];
    session.set_pipelined_prefix(BytesMut::from(head));
    session.read_request().await.expect("a sound head");
    let mut content = Vec::new();
    while let Some(bytes) = session.read_body_bytes().await.map_err(|error| error.to_string())? {
        content.extend_from_slice(&bytes);
    }
    if !session.is_body_done() {
        return Err("not done".to_owned());
    }
    let script = session.stream().as_any().downcast_ref::<Script>().expect("the script");
    assert!(script.is_read(), "Pingora left bytes of the body unread");
    Ok(content)
}

/// RFC 9112 §7.1 as it stands: the content, and how many bytes the body has. None where it is no whole body.
pub fn oracle(data: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut content = Vec::new();
    let mut rest = data;
    loop {
        let (line, after) = line(rest)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (size, extension) = line.split_at(digits);
        let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        (extension.is_empty() || extension.starts_with(b";") && is_text(extension)).then_some(())?;
        rest = after;
        if size == 0 {
            break;
        }
        content.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
    loop {
        let (line, after) = line(rest)?;
        rest = after;
        if line.is_empty() {
            return Some((content, data.len() - rest.len()));
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        http::HeaderName::from_bytes(&line[..colon]).ok()?;
        is_text(&line[colon + 1..]).then_some(())?;
    }
}

/// The content of a body that is cut or broken, as far as it goes.
pub fn beginning(data: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    let mut rest = data;
    while let Some((line, after)) = line(rest) {
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size =
            std::str::from_utf8(&line[..digits]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let Some(size @ 1..) = size else { break };
        content.extend_from_slice(&after[..size.min(after.len())]);
        rest = after.get(size..).and_then(|rest| rest.strip_prefix(b"\r\n")).unwrap_or_default();
    }
    content
}

fn line(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = data.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&data[..end], &data[end + 2..]))
}

fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control())
}
