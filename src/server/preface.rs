//! The PROXY header of a connection: read before anything else, TLS too.

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use super::counts::Unserved;
use super::sock::Sock;
use crate::proxy_protocol::{self, Fault, Header, Progress};

/// What a read takes at most beyond the header: it is kept for whoever reads next.
const READ: usize = 512;

/// What came first.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Preface {
    /// A header; what came behind it is the socket's to read again.
    Header(Header),
    /// The peer left without a word, as a check of whether the port is open does.
    Silence,
    /// Anything else, or too little of a header until the deadline.
    Refused(Unserved, &'static str),
}

/// Reads the header, within `until` however it drips in and within [`proxy_protocol::HEADER_BYTES_MAX`].
pub(super) async fn read(sock: &mut Sock, until: Instant) -> Preface {
    let mut input = BytesMut::new();
    loop {
        match proxy_protocol::parse(&input) {
            Ok(Progress::Partial) => {}
            Ok(Progress::Complete { header, length }) => {
                let behind = input.split_off(length);
                sock.unread(behind);
                return Preface::Header(header);
            }
            Err(Fault::Missing) => {
                let message = "a peer of `proxy_protocol.from` sent no PROXY header";
                return Preface::Refused(Unserved::ProxyMissing, message);
            }
            Err(Fault::Malformed(message)) => return Preface::Refused(Unserved::ProxyMalformed, message),
        }
        input.reserve(READ);
        match timeout_at(until, sock.read_buf(&mut input)).await {
            Err(_) => {
                let message = "the PROXY header was not complete at the handshake's deadline";
                return Preface::Refused(Unserved::ProxyTimeout, message);
            }
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) if input.is_empty() => return Preface::Silence,
            Ok(Ok(0) | Err(_)) => {
                let message = "the connection ended within its PROXY header";
                return Preface::Refused(Unserved::ProxyMalformed, message);
            }
        }
    }
}
