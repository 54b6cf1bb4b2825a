//! The stream to a server: TCP, or TLS over it. It ends where the server says more than any answer has, as the crate `redis` keeps all
//! of an answer until its end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use openssl::error::ErrorStack;
use openssl::ssl::{SslConnector, SslMethod, SslVersion};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_openssl::SslStream;

use super::broken::Broken;
use super::config::Address;

/// The most bytes that a server may say before anything more is said to it. A batch is answered in 30 KiB, and a cluster of a thousand
/// nodes says in 200 KiB who they are.
const SAID_MAX: usize = 1 << 20;

/// A stream to a server.
pub(super) struct Stream {
    way: Way,
    /// What it may still say.
    left: usize,
    /// It has said more.
    is_over: Arc<AtomicBool>,
}

enum Way {
    Plain(TcpStream),
    Tls(SslStream<TcpStream>),
}

/// Reads and writes for a connection, until nobody has that any more.
#[derive(Clone)]
pub(super) struct Driver(#[expect(dead_code, reason = "it is there to be dropped")] Arc<Ends>);

struct Ends(AbortHandle);

impl Stream {
    /// In TCP.
    ///
    /// # Errors
    /// What the system says.
    pub(super) async fn plain(host: &str, port: u16) -> io::Result<Self> {
        connect(host, port).await.map(|tcp| Self::of(Way::Plain(tcp)))
    }

    /// In TLS with a certificate of these authorities (PEM), or in TCP where there are none.
    ///
    /// # Errors
    /// It cannot be reached, or shows no such certificate for its name.
    pub(super) async fn open(address: &Address, authorities: Option<&[u8]>) -> Result<Self, Broken> {
        let unreachable = |error: io::Error| Broken(format!("{address} cannot be reached: {error}"));
        let unfit =
            |error: &dyn std::fmt::Display| Broken(format!("{address} cannot be spoken to in TLS: {error}"));
        let tcp = connect(&address.host, address.port).await.map_err(unreachable)?;
        let Some(authorities) = authorities else {
            return Ok(Self::of(Way::Plain(tcp)));
        };
        let ssl = connector(authorities)
            .and_then(|connector| connector.configure()?.into_ssl(&address.host))
            .map_err(|error| unfit(&error))?;
        let mut stream = SslStream::new(ssl, tcp).map_err(|error| unfit(&error))?;
        Pin::new(&mut stream).connect().await.map_err(|error| unfit(&error))?;
        Ok(Self::of(Way::Tls(stream)))
    }

    fn of(way: Way) -> Self {
        Self { way, left: SAID_MAX, is_over: Arc::default() }
    }

    /// Whether it has ended because too much was said; to be asked when it is no longer at hand.
    pub(super) fn is_over(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_over)
    }
}

impl Driver {
    /// Lets this run for as long as it or a copy of it is there.
    pub(super) fn of(running: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Arc::new(Ends(tokio::spawn(running).abort_handle())))
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect((host, port)).await?;
    // A question does not wait for the next one.
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// Verifies certificates by these authorities and no others.
fn connector(authorities: &[u8]) -> Result<SslConnector, ErrorStack> {
    let mut store = X509StoreBuilder::new()?;
    for authority in X509::stack_from_pem(authorities)? {
        store.add_cert(authority)?;
    }
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    builder.set_cert_store(store.build());
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    Ok(builder.build())
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let own = self.get_mut();
        let before = buf.filled().len();
        ready!(match &mut own.way {
            Way::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Way::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        })?;
        match own.left.checked_sub(buf.filled().len() - before) {
            Some(left) => {
                own.left = left;
                Poll::Ready(Ok(()))
            }
            None => {
                own.is_over.store(true, Ordering::Relaxed);
                Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let own = self.get_mut();
        own.left = SAID_MAX;
        match &mut own.way {
            Way::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Way::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().way {
            Way::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Way::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().way {
            Way::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Way::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
