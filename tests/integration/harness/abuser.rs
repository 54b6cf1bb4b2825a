//! A client of HTTP/2 that says exactly the frames a test tells it to (RFC 9113 §4.1, §6).

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
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

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = u32::try_from(self.payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
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

/// One connection.
pub(crate) struct Frames {
    stream: SslStream<TcpStream>,
    read: Vec<u8>,
}

impl Frames {
    /// TLS with ALPN `h2`, the preface, and these settings.
    pub(crate) fn connect(address: SocketAddr, authority: &Authority, settings: &[(u16, u32)]) -> Self {
        let connector = authority.connector(|builder| builder.set_alpn_protos(b"\x02h2").unwrap());
        let mut stream = try_handshake(&connector, address, "gate.example").unwrap();
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(key, value)| [key.to_be_bytes().to_vec(), value.to_be_bytes().to_vec()].concat())
            .collect();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        let mut own = Self { stream, read: Vec::new() };
        own.send(&Frame::new(SETTINGS, 0, 0, settings)).unwrap();
        own
    }

    pub(crate) fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.stream.write_all(&frame.bytes())
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
}
