//! A connection to a server: TCP, or TLS over it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use openssl::ssl::ErrorCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_openssl::SslStream;

use super::tls::TlsClient;
use crate::descriptors;

/// A connection to a server, and one timer for all that is waited for on it.
#[derive(Debug)]
pub struct Link {
    transport: Transport,
    timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls(Box<SslStream<TcpStream>>),
}

/// Why no connection could be made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody listens there, or no way leads there.
    #[error("connecting to {address}: {error}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The handshake failed, or the certificate is not the one asked for.
    #[error("TLS with {address}: {error}")]
    Tls {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: String,
    },
}

impl Link {
    /// Connects and sends `first`, before TLS; `tls` is given with the name of the server. Without a bound of its own: put it under a timeout.
    ///
    /// # Errors
    /// As [`DialError`].
    pub async fn dial(
        address: SocketAddr,
        first: &[u8],
        tls: Option<(&TlsClient, &str)>,
    ) -> Result<Self, DialError> {
        let mut tcp =
            TcpStream::connect(address).await.map_err(|error| DialError::Connect { address, error })?;
        if descriptors::is_our_own(&tcp) {
            let error = io::Error::other("no file descriptor is left for it; raise LimitNOFILE");
            return Err(DialError::Connect { address, error });
        }
        // Heads and bodies leave in writes of their own: Nagle would hold the second back until the first is acknowledged.
        tcp.set_nodelay(true).map_err(|error| DialError::Connect { address, error })?;
        if !first.is_empty() {
            tcp.write_all(first).await.map_err(|error| DialError::Connect { address, error })?;
        }
        let Some((client, host)) = tls else {
            return Ok(Self { transport: Transport::Plain(tcp), timer: None });
        };
        let failed = |error: String| DialError::Tls { address, error };
        let ssl = client.ssl(host).map_err(|error| failed(error.to_string()))?;
        let mut stream = Box::new(SslStream::new(ssl, tcp).map_err(|error| failed(error.to_string()))?);
        if let Err(error) = Pin::new(&mut *stream).connect().await {
            let verdict = stream.ssl().verify_result();
            return Err(failed(match verdict == openssl::x509::X509VerifyResult::OK {
                true => error.to_string(),
                false => format!("the certificate is not trusted: {}", verdict.error_string()),
            }));
        }
        Ok(Self { transport: Transport::Tls(stream), timer: None })
    }

    /// Ready once `deadline` has passed. One timer a connection, kept across requests and set anew only when it would ring too
    /// late: one that rings early is set again. So a request that is answered in time costs no timer of its own.
    pub fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let until = deadline.into();
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        loop {
            if timer.is_elapsed() || timer.deadline() > until {
                timer.as_mut().reset(until);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if tokio::time::Instant::now() >= until {
                return Poll::Ready(());
            }
        }
    }

    /// Whether an unused connection is still open and silent. A server that speaks unasked is not to be trusted with a
    /// request. Costs no system call as long as nothing has happened on the socket.
    pub fn is_idle(&mut self) -> bool {
        let mut byte = [0; 1];
        let mut buffer = ReadBuf::new(&mut byte);
        Pin::new(self).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer).is_pending()
    }

    /// Takes what a server says before it is asked, into this room; none as long as it is silent. Costs as much as
    /// [`Link::is_idle`]. That it has closed is left to be found by the next read.
    pub fn take_unasked<'a>(&mut self, room: &'a mut [u8]) -> Option<&'a [u8]> {
        let mut buffer = ReadBuf::new(room);
        let read = Pin::new(self).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer);
        let said = buffer.filled().len();
        (matches!(read, Poll::Ready(Ok(()))) && said > 0).then(|| room.get(..said).unwrap_or_default())
    }
}

impl AsyncRead for Link {
    /// `UnexpectedEof` where TLS ends without its closing alert: anybody on the network can cut a connection so, and an answer
    /// whose end only the end of its connection tells would be taken for whole (RFC 9112 §9.8).
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let tls = match &mut self.get_mut().transport {
            Transport::Plain(tcp) => return Pin::new(tcp).poll_read(cx, buf),
            Transport::Tls(tls) => tls,
        };
        let before = buf.filled().len();
        ready!(Pin::new(&mut **tls).poll_read(cx, buf))?;
        let ended = buf.filled().len() == before && buf.remaining() > 0;
        // Looking once more tells the alert from a bare end, which a read does not.
        let alert = |peeked: Poll<Result<usize, openssl::ssl::Error>>| matches!(peeked, Poll::Ready(Err(error)) if error.code() == ErrorCode::ZERO_RETURN);
        if ended && !alert(Pin::new(&mut **tls).poll_peek(cx, &mut [0; 1])) {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Transport::Tls(tls) => Pin::new(&mut **tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Transport::Tls(tls) => Pin::new(&mut **tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(&mut **tls).poll_shutdown(cx),
        }
    }
}
