//! An HTTP/2 client that says exactly the frames a test tells it to (RFC 9113 §4.1, §6), as no library would.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use openssl::ssl::SslStream;

use super::certificates::{Authority, try_handshake};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, flags, stream, payload: payload.into() }
    }

    /// GET of this path, as a whole head.
    pub(crate) fn get(stream: u32, path: &str) -> Self {
        Self::new(HEADERS, END_HEADERS | END_STREAM, stream, head(0x82, path))
    }

    /// POST to this path; its body is still to come.
    pub(crate) fn post(stream: u32, path: &str) -> Self {
        Self::new(HEADERS, END_HEADERS, stream, head(0x83, path))
    }

    /// HEADERS, all fields as literals that are never indexed.
    pub(crate) fn head(stream: u32, fields: &[(&[u8], &[u8])], end: bool) -> Self {
        Self::new(HEADERS, END_HEADERS | if end { END_STREAM } else { 0 }, stream, block(fields))
    }

    /// DATA.
    pub(crate) fn data(stream: u32, bytes: &[u8], end: bool) -> Self {
        Self::new(DATA, u8::from(end), stream, bytes)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = u32::try_from(self.payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// The status that HEADERS say; only that of a connection's first answer can be read, and of those that HPACK's static table has.
    pub(crate) fn status(&self) -> u16 {
        status_of(&self.payload)
    }

    /// The number of 32 bits at this place of the payload.
    pub(crate) fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A header block without the dynamic table (RFC 7541 §6): method, scheme, path, authority.
fn head(method: u8, path: &str) -> Vec<u8> {
    let mut block = vec![method, 0x87, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend(path.as_bytes());
    block.extend([0x01, 12]);
    block.extend(b"gate.example");
    block
}

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
pub(crate) struct Frames {
    stream: SslStream<TcpStream>,
    read: Vec<u8>,
}

impl Frames {
    /// TLS with ALPN `h2`, the preface, and these settings.
    pub(crate) fn connect(address: SocketAddr, authority: &Authority, settings: &[(u16, u32)]) -> Self {
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(key, value)| [key.to_be_bytes().to_vec(), value.to_be_bytes().to_vec()].concat())
            .collect();
        let mut own = Self::connect_with(address, authority, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        own.send(&Frame::new(SETTINGS, 0, 0, settings)).unwrap();
        own
    }

    /// TLS with ALPN `h2`, and these bytes for a preface.
    pub(crate) fn connect_with(address: SocketAddr, authority: &Authority, preface: &[u8]) -> Self {
        let connector = authority.connector(|builder| builder.set_alpn_protos(b"\x02h2").unwrap());
        let mut stream = try_handshake(&connector, address, "gate.example").unwrap();
        assert_eq!(stream.ssl().selected_alpn_protocol(), Some(&b"h2"[..]), "ALPN");
        stream.get_ref().set_nodelay(true).unwrap();
        stream.write_all(preface).unwrap();
        Self { stream, read: Vec::new() }
    }

    pub(crate) fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.stream.write_all(&frame.bytes())
    }

    /// From now on the system takes little of what comes and is not read.
    pub(crate) fn take_little(&mut self) {
        socket2::SockRef::from(self.stream.get_ref()).set_recv_buffer_size(4096).unwrap();
    }

    /// Sends these bytes, whatever they are, and closes this side.
    pub(crate) fn finish(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.shutdown().unwrap();
    }

    /// Sends all of them at once, as far as they are taken.
    pub(crate) fn send_all(&mut self, frames: &[Frame]) -> io::Result<()> {
        self.stream.write_all(&frames.iter().flat_map(Frame::bytes).collect::<Vec<_>>())
    }

    /// The next frame; none at the end of the connection.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(&[a, b, c, kind, flags, s0, s1, s2, s3]) = self.read.first_chunk::<9>() {
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                if self.read.len() >= 9 + length {
                    let payload = self.read.drain(..9 + length).skip(9).collect();
                    let stream = u32::from_be_bytes([s0, s1, s2, s3]);
                    return Some(Frame { kind, flags, stream, payload });
                }
            }
            let mut piece = [0; 16 << 10];
            match self.stream.read(&mut piece) {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.read.extend(&piece[..n]),
            }
        }
    }

    /// The next frame of this kind.
    pub(crate) fn await_frame(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().unwrap_or_else(|| panic!("the end, before a frame of type {kind}"));
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Reads to the end of the connection: the code of the last GOAWAY, if one came.
    pub(crate) fn end(&mut self, within: Duration) -> Option<u32> {
        self.stream.get_ref().set_read_timeout(Some(within)).unwrap();
        let began = Instant::now();
        let mut code = None;
        while let Some(frame) = self.next() {
            if frame.kind == GOAWAY {
                code = Some(frame.number(4));
            }
        }
        assert!(began.elapsed() < within, "the connection is still open after {within:?}");
        code
    }
    /// How this stream ends. Only the first answer of a connection can be read: statuses are not looked up in HPACK's table.
    pub(crate) fn ending(&mut self, stream: u32) -> Ending {
        let (mut status, mut body) = (0, Vec::new());
        while let Some(frame) = self.next() {
            let own = frame.stream == stream;
            match frame.kind {
                // A gateway that has ended the connection is found out by reading.
                SETTINGS if frame.flags & 1 == 0 => drop(self.send(&Frame::new(SETTINGS, 1, 0, []))),
                GOAWAY if frame.number(4) != 0 => return Ending::Gone(frame.number(4)),
                RST_STREAM if own && status == 0 => return Ending::Reset(frame.number(0)),
                RST_STREAM if own => break,
                HEADERS if own && status == 0 => {
                    // Behind an interim answer comes another.
                    status = Some(status_of(&frame.payload)).filter(|status| *status >= 200).unwrap_or(0);
                }
                DATA if own => body.extend(&frame.payload),
                _ => {}
            }
            if matches!(frame.kind, DATA | HEADERS) && own && frame.flags & END_STREAM != 0 {
                break;
            }
        }
        match status {
            0 => Ending::Gone(0),
            _ => Ending::Answer { status, body: String::from_utf8_lossy(&body).into_owned() },
        }
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
