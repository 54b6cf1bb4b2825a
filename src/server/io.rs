//! A socket, with or without TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use pingora_core::protocols::tls::SslStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::sock::Sock;

/// A socket, with or without TLS.
#[derive(Debug)]
pub(super) enum Io {
    /// Bare.
    Plain(Sock),
    /// TLS over it.
    Tls(Box<SslStream<Sock>>),
    /// Taken by the closing task.
    Gone,
}

impl Io {
    pub(super) fn sock(&self) -> Option<&Sock> {
        match self {
            Self::Plain(sock) => Some(sock),
            Self::Tls(tls) => Some(tls.get_ref()),
            Self::Gone => None,
        }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(sock) => Pin::new(sock).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(sock) => Pin::new(sock).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, buf),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Both in one send where the transport can.
    pub(super) fn poll_write_two(
        &mut self,
        cx: &mut Context<'_>,
        first: &[u8],
        second: &[u8],
    ) -> Poll<io::Result<usize>> {
        let both = [io::IoSlice::new(first), io::IoSlice::new(second)];
        match self {
            Self::Plain(sock) => Pin::new(sock).poll_write_vectored(cx, &both),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, first),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(sock) => Pin::new(sock).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(sock) => Pin::new(sock).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }

    /// Reads what nobody will look at, below TLS: a socket that is closed unread resets its peer.
    pub(super) fn poll_discard(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(sock) => Pin::new(sock).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls.get_mut()).poll_read(cx, buf),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}
