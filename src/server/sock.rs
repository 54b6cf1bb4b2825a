//! A socket below TLS, with what Pingora asks of one.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connected socket.
#[derive(Debug)]
pub(super) struct Sock {
    stream: Transport,
    digest: Arc<SocketDigest>,
    /// What was read and given back: the next read has it.
    ahead: BytesMut,
}

/// The stream of a connection.
#[derive(Debug)]
pub(super) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Transport {
    /// Takes over a non-blocking socket that another thread has accepted; `peer` is none for a Unix socket.
    ///
    /// # Errors
    /// It cannot be registered with this runtime.
    pub(super) fn adopt(socket: OwnedFd, peer: Option<SocketAddr>) -> io::Result<Self> {
        match peer {
            Some(_) => TcpStream::from_std(socket.into()).map(Self::Tcp),
            None => UnixStream::from_std(socket.into()).map(Self::Unix),
        }
    }

    /// Takes the socket from this runtime, for another.
    ///
    /// # Errors
    /// It cannot be deregistered.
    pub(super) fn release(self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(OwnedFd::from),
            Self::Unix(stream) => stream.into_std().map(OwnedFd::from),
        }
    }

    pub(super) fn raw(&self) -> RawFd {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

impl Sock {
    /// An accepted connection; `peer` is none on a Unix socket.
    pub(super) fn new(stream: Transport, peer: Option<SocketAddr>) -> Self {
        let digest = SocketDigest::from_raw_fd(stream.raw());
        if let Transport::Tcp(stream) = &stream {
            // Known from accept: no getpeername.
            let _ = digest.peer_addr.set(peer.map(PingoraAddr::Inet));
            // Answers are coalesced here; Nagle would only add delay. Fails on a socket that is already reset.
            let _ = stream.set_nodelay(true);
        }
        Self { stream, digest: Arc::new(digest), ahead: BytesMut::new() }
    }

    /// Gives back what was read too much: whoever reads next has it first.
    pub(super) fn unread(&mut self, bytes: BytesMut) {
        self.ahead = bytes;
    }

    /// Where the client has connected to, from the system; none on a Unix socket.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        match &self.stream {
            Transport::Tcp(stream) => stream.local_addr().ok(),
            Transport::Unix(_) => None,
        }
    }
}

impl Sock {
    /// The kernel shall forget what the client has not taken, and not go on offering it when the connection is closed.
    pub(super) fn reset_on_close(&self) {
        if let Transport::Tcp(stream) = &self.stream {
            // A socket that is reset already refuses.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl Sock {
    /// Waits for the peer's first byte, and reads nothing; false where it leaves without one.
    pub(super) async fn begins(&self) -> bool {
        if !self.ahead.is_empty() {
            return true;
        }
        let peeked = match &self.stream {
            Transport::Tcp(stream) => stream.peek(&mut [0]).await,
            Transport::Unix(stream) => {
                let peek = || SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
                stream.async_io(Interest::READABLE, peek).await
            }
        };
        matches!(peeked, Ok(1..))
    }

    /// Ends when the peer has closed its direction of the connection, or all of it. Reads nothing. Does not say it for what was given back.
    pub(super) async fn closed(&self) {
        // Tokio knows of a close as soon as the system tells, whatever is there to be read; who asks for what never comes, urgent data of a
        // socket that is not asked for it, is told of the close alone.
        let ready = match &self.stream {
            Transport::Tcp(stream) => stream.ready(Interest::PRIORITY).await,
            Transport::Unix(stream) => stream.ready(Interest::PRIORITY).await,
        };
        if !ready.is_ok_and(|ready| ready.is_read_closed()) {
            std::future::pending::<()>().await;
        }
    }
}

impl AsFd for Sock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Transport::Tcp(stream) => stream.as_fd(),
            Transport::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Sock {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(buf.remaining());
            buf.put_slice(self.ahead.get(..length).unwrap_or_default());
            self.ahead.advance(length);
            if self.ahead.is_empty() {
                self.ahead = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        match &mut self.stream {
            Transport::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Sock {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Transport::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Transport::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Transport::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Transport::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[async_trait]
impl Shutdown for Sock {
    async fn shutdown(&mut self) {
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Sock {
    fn id(&self) -> UniqueIDType {
        self.stream.raw()
    }
}

impl GetSocketDigest for Sock {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

impl GetTimingDigest for Sock {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![None]
    }
}

impl GetProxyDigest for Sock {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl Ssl for Sock {}

impl Peek for Sock {}
