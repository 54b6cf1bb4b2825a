//! Clients that misbehave in time: raw bytes and raw HTTP/2 frames, plain or over TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::Authority;
pub(crate) use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connection on which nothing is done unless a test says so.
pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    tcp: TcpStream,
    /// Since when the last thing was written: what the gateway's clocks cannot begin before.
    said: Instant,
    /// All that has been read.
    pub(crate) read: Vec<u8>,
}

/// How a connection ended, and after how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By the gateway.
    Freed(Duration),
    /// Not within the limit.
    Open,
}

impl Wire {
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    /// Its kernel takes no more than about this many bytes that are not read.
    pub(crate) fn narrow(address: SocketAddr, window: usize) -> Self {
        Self::over(narrow(address, window))
    }

    pub(crate) fn over(tcp: TcpStream) -> Self {
        tcp.set_nodelay(true).unwrap();
        Self { stream: Box::new(tcp.try_clone().unwrap()), tcp, said: Instant::now(), read: Vec::new() }
    }

    /// TLS; `protocol` is what ALPN offers.
    pub(crate) fn tls(
        address: SocketAddr,
        authority: &Authority,
        protocol: &str,
        window: Option<usize>,
    ) -> Self {
        let tcp = match window {
            Some(window) => narrow(address, window),
            None => TcpStream::connect(address).unwrap(),
        };
        tcp.set_nodelay(true).unwrap();
        let offer = [&[u8::try_from(protocol.len()).unwrap()], protocol.as_bytes()].concat();
        let connector = authority.connector(|builder| builder.set_alpn_protos(&offer).unwrap());
        let stream = connector.connect("gate.example", tcp.try_clone().unwrap()).unwrap();
        Self { stream: Box::new(stream), tcp, said: Instant::now(), read: Vec::new() }
    }

    /// Writes; whether it could.
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.tcp.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        self.said = Instant::now();
        self.stream.write_all(bytes.as_ref()).and_then(|()| self.stream.flush()).is_ok()
    }

    /// Reads what is there within this time, at most `most` bytes; false at the end.
    pub(crate) fn take(&mut self, most: usize, within: Duration) -> bool {
        self.tcp.set_read_timeout(Some(within)).unwrap();
        let mut buffer = vec![0; most];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.read.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) => {
                matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
            }
        }
    }

    /// Sends this piece now and then, and reads whatever comes, until the gateway ends the connection. The time is since what was
    /// written before: on a busy machine this may begin when all is over.
    pub(crate) fn drip(&mut self, piece: &[u8], every: Duration, limit: Duration) -> End {
        let (said, began) = (self.said, Instant::now());
        let mut writes = !piece.is_empty();
        let mut next = began;
        while began.elapsed() < limit {
            if writes && Instant::now() >= next {
                // What is refused here is read as the end below, behind what was answered.
                writes = self.write(piece);
                next = Instant::now() + every;
            }
            if !self.take(4096, every) {
                return End::Freed(said.elapsed());
            }
        }
        End::Open
    }

    /// The same, until something that was read fits.
    pub(crate) fn drip_until(
        &mut self,
        piece: &[u8],
        every: Duration,
        limit: Duration,
        fits: impl Fn(&[u8]) -> bool,
    ) -> Option<Duration> {
        let (said, began) = (self.said, Instant::now());
        let mut next = began;
        while began.elapsed() < limit {
            if !piece.is_empty() && Instant::now() >= next {
                self.write(piece);
                next = Instant::now() + every;
            }
            let goes_on = self.take(4096, every);
            if fits(&self.read) {
                return Some(said.elapsed());
            }
            if !goes_on {
                return None;
            }
        }
        None
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }
}

fn narrow(address: SocketAddr, window: usize) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(window).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.into()
}

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame (RFC 9113 §4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block (RFC 7541 §6), without any Huffman coding.
pub(crate) fn block(method: &str, path: &str) -> Vec<u8> {
    // `:method` is a name of the static table at 2, `:path` at 4, `:authority` at 1; `:scheme: https` is 7.
    let mut bytes = vec![0x87];
    for (index, value) in [(2_u8, method), (4, path), (1, "gate.example")] {
        bytes.extend([index, u8::try_from(value.len()).unwrap()]);
        bytes.extend(value.as_bytes());
    }
    bytes
}

/// Preface and SETTINGS; `window` is the initial window of streams.
pub(crate) fn greeting(window: u32) -> Vec<u8> {
    let mut setting = 4_u16.to_be_bytes().to_vec();
    setting.extend(window.to_be_bytes());
    [PREFACE, &frame(SETTINGS, 0, 0, &setting)].concat()
}

/// All whole frames in what was read: type, flags, stream and payload.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut all = Vec::new();
    while let [a, b, c, kind, flags, s1, s2, s3, s4, rest @ ..] = bytes {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        all.push((*kind, *flags, u32::from_be_bytes([*s1, *s2, *s3, *s4]) & 0x7fff_ffff, payload.to_vec()));
        bytes = rest;
    }
    all
}
