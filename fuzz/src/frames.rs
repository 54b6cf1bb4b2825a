//! Frames of HTTP/2. The bytes are what one side of a connection sends.

use portcullis::framing::frames::{PREFACE, Scanner};

/// Longer input is not cut at every byte.
const CUT: usize = 200;

/// A frame: length of its payload, type, flags, stream, and what the scanner keeps of the payload.
type Told = (usize, u8, u8, u32, Vec<u8>);

/// The same frames are told at every cut, and they are the oracle's; from a client they begin after its preface.
pub fn run(data: &[u8]) {
    for preface in [0, PREFACE] {
        let whole = scan(&[data], preface);
        assert_eq!(whole, oracle(data.get(preface..).unwrap_or_default()), "after {preface} bytes");
        let bytes: Vec<_> = data.chunks(1).collect();
        assert_eq!(scan(&bytes, preface), whole, "byte by byte after {preface}");
        for at in 0..data.len().min(CUT) {
            let (before, after) = data.split_at(at);
            assert_eq!(scan(&[before, after], preface), whole, "cut at {at} after {preface}");
        }
    }
}

fn scan(pieces: &[&[u8]], preface: usize) -> Vec<Told> {
    let mut scanner = Scanner::after(preface);
    let mut told = Vec::new();
    for piece in pieces {
        scanner.scan(piece, |frame| {
            told.push((frame.length, frame.kind, frame.flags, frame.stream, frame.payload.to_vec()));
        });
    }
    told
}

/// RFC 9113 §4.1: 24 bits of length, 8 of type, 8 of flags, 32 of stream, the payload. The error code of RST_STREAM (§6.4), the increment of WINDOW_UPDATE (§6.9), and the
/// last stream and error code of GOAWAY (§6.8) are waited for.
fn oracle(mut rest: &[u8]) -> Vec<Told> {
    let mut told = Vec::new();
    while let [a, b, c, kind, flags, s, t, u, v, payload @ ..] = rest {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let wanted = match kind {
            3 | 8 => length.min(4),
            7 => length.min(8),
            _ => 0,
        };
        let Some(wanted) = payload.get(..wanted) else { break };
        // The first bit of a stream means nothing.
        let stream = u32::from_be_bytes([*s & 0x7f, *t, *u, *v]);
        told.push((length, *kind, *flags, stream, wanted.to_vec()));
        rest = payload.get(length..).unwrap_or_default();
    }
    told
}
