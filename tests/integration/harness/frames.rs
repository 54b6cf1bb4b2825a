//! An HTTP/2 client that writes frames byte by byte, so that a test can say what no library would.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use openssl::ssl::{SslConnector, SslStream};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// How a stream ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// An answer, whole.
    Answer { status: u16, body: String },
    /// RST_STREAM without an answer, with its code.
    Reset(u32),
    /// GOAWAY with an error, or the end of the connection (code 0).
    Gone(u32),
}

impl Ending {
    /// The status; 0 where there was no answer.
    pub(crate) fn status(&self) -> u16 {
        if let Self::Answer { status, .. } = self { *status } else { 0 }
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Frames {
    wire: SslStream<TcpStream>,
}

impl Frames {
    /// TLS with ALPN `h2`, the preface, and empty settings.
    pub(crate) fn connect(address: SocketAddr, connector: &SslConnector, name: &str) -> Self {
        let tcp = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        tcp.set_nodelay(true).unwrap();
        let wire = connector.connect(name, tcp).unwrap();
        assert_eq!(wire.ssl().selected_alpn_protocol(), Some(&b"h2"[..]), "ALPN");
        let mut own = Self { wire };
        own.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        own.send(SETTINGS, 0, 0, b"");
        own
    }

    /// A gateway that has ended the connection is found out by reading.
    fn write(&mut self, bytes: &[u8]) {
        self.wire.write_all(bytes).and_then(|()| self.wire.flush()).ok();
    }

    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.send_together(stream, &[(kind, flags, payload)]);
    }

    /// Several frames of a stream in one piece, so that whoever reads them finds all of them at once.
    pub(crate) fn send_together(&mut self, stream: u32, frames: &[(u8, u8, &[u8])]) {
        let mut bytes = Vec::new();
        for (kind, flags, payload) in frames {
            let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
            bytes.extend([&length[1..], &[*kind, *flags], &stream.to_be_bytes(), payload].concat());
        }
        self.write(&bytes);
    }

    /// HEADERS, all fields as literals that are never indexed.
    pub(crate) fn headers(&mut self, stream: u32, fields: &[(&[u8], &[u8])], end: bool) {
        self.send(HEADERS, END_HEADERS | if end { END_STREAM } else { 0 }, stream, &block(fields));
    }

    pub(crate) fn data(&mut self, stream: u32, bytes: &[u8], end: bool) {
        self.send(DATA, u8::from(end), stream, bytes);
    }

    /// How this stream ends. Only the first answer of a connection can be read: statuses are not looked up in HPACK's table.
    pub(crate) fn ending(&mut self, stream: u32) -> Ending {
        let (mut status, mut body) = (0, Vec::new());
        while let Some((kind, flags, id, payload)) = self.next() {
            match kind {
                SETTINGS if flags & 1 == 0 => self.send(SETTINGS, 1, 0, b""),
                GOAWAY => {
                    let code = u32::from_be_bytes(payload[4..8].try_into().unwrap());
                    if code != 0 {
                        return Ending::Gone(code);
                    }
                }
                RST_STREAM if id == stream && status == 0 => {
                    return Ending::Reset(u32::from_be_bytes(payload[..4].try_into().unwrap()));
                }
                RST_STREAM if id == stream => break,
                HEADERS if id == stream && status == 0 => status = status_of(&payload),
                DATA if id == stream => body.extend(payload),
                _ => {}
            }
            if matches!(kind, DATA | HEADERS) && id == stream && flags & END_STREAM != 0 {
                break;
            }
        }
        match status {
            0 => Ending::Gone(0),
            _ => Ending::Answer { status, body: String::from_utf8_lossy(&body).into_owned() },
        }
    }

    /// The next frame: kind, flags, stream, payload; none at the end.
    fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.wire.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.wire.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap()) & (u32::MAX >> 1);
        Some((head[3], head[4], stream, payload))
    }
}

/// A header block of literals (RFC 7541 §6.2.2), without Huffman.
pub(crate) fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            integer(&mut out, text.len());
            out.extend_from_slice(text);
        }
    }
    out
}

/// RFC 7541 §5.1, with a prefix of seven bits.
fn integer(out: &mut Vec<u8>, value: usize) {
    if value < 127 {
        out.push(u8::try_from(value).unwrap());
        return;
    }
    out.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
}

/// `:status`, which comes first: indexed in the static table, or a literal with that table's name.
fn status_of(block: &[u8]) -> u16 {
    // What changes the size of the table may stand before it (RFC 7541 §6.3).
    let at = block.iter().position(|b| b & 0xe0 != 0x20).unwrap();
    match block[at] {
        index @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)],
        0x48..=0x4e if block[at + 1] == 3 => {
            std::str::from_utf8(&block[at + 2..at + 5]).unwrap().parse().unwrap()
        }
        0x48..=0x4e => digits(&block[at + 2..at + 2 + usize::from(block[at + 1] & 0x7f)]),
        other => panic!("no :status but {other:#x}"),
    }
}

/// Three digits in Huffman's code (RFC 7541 appendix B): five bits for 0 to 2, six for the others.
fn digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u16> =
        bytes.iter().flat_map(|b| (0..8).rev().map(move |n| u16::from(b >> n & 1))).collect();
    let mut at = 0;
    let mut take = |count: usize| {
        let value = bits[at..at + count].iter().fold(0, |sum, bit| sum * 2 + bit);
        at += count;
        value
    };
    (0..3).fold(0, |sum, _| {
        let digit = match take(5) {
            small @ 0..=2 => small,
            start => start * 2 + take(1) - 0b01_1001 + 3,
        };
        sum * 10 + digit
    })
}
