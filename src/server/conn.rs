//! A connection as Pingora reads and writes it: behind the fence of each request's body, with coalesced writes and deadlines.

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::http::error_resp::gen_error_response;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{ALPN, SslDigest, TlsRef};
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

use super::admission::OpenConnection;
use super::clocks::{Bounds, Clocks};
use super::fence::Fence;
use super::io::Io;
use super::linger;
use crate::framing::Body;
use crate::proxy::Left;
use crate::request::Connection;

/// What a read takes from the socket at most.
const READ: usize = 32 * 1024;
/// What is kept of requests that a client has pipelined; beyond it the client waits.
const PIPELINED: usize = 64 * 1024;
/// Writes up to this size wait for the next flush: a head and its body leave in one send (14 % of the CPU a request).
const COALESCED: usize = 16 * 1024;
/// Room for what is written behind a head: the body of a small answer.
const BESIDE: usize = 512;
/// What closing may take while the client does not read.
const CLOSING: Duration = Duration::from_secs(10);

thread_local! {
    /// Where reads go first: an idle connection has no buffer of its own.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// A connection.
#[derive(Debug)]
pub(super) struct Conn {
    io: Io,
    connection: Arc<Connection>,
    proxy_digest: Arc<ProxyDigest>,
    fence: Fence,
    input: BytesMut,
    output: BytesMut,
    ended: bool,
    failed: bool,
    clocks: Clocks,
    open: Option<OpenConnection>,
}

/// Ends when the client of a connection of HTTP/1 has left, as far as the system tells: for [`crate::proxy::Gate::app`]. None where this is no
/// connection of ours.
pub fn left(connection: &dyn Any) -> Option<Left<'_>> {
    let sock = connection.downcast_ref::<Conn>()?.io.sock()?;
    Some(Box::pin(sock.closed()))
}

impl Conn {
    /// A connection that has settled TLS, if it has any.
    pub(super) fn new(io: Io, connection: Arc<Connection>, bounds: Bounds, open: OpenConnection) -> Self {
        let facts: Box<dyn Any + Send + Sync> = Box::new(Arc::clone(&connection));
        // The response is there because the type asks for one; only `user_data` is ever read.
        let digest = ProxyDigest::new(Box::new(gen_error_response(200)), Some(facts));
        Self {
            io,
            connection,
            proxy_digest: Arc::new(digest),
            fence: Fence::Closed,
            input: BytesMut::new(),
            output: BytesMut::new(),
            ended: false,
            failed: false,
            clocks: Clocks::new(bounds),
            open: Some(open),
        }
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// What has been read and not handed out.
    pub(super) fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    pub(super) fn fence(&self) -> Fence {
        self.fence
    }

    #[cfg(test)]
    pub(super) fn set_fence(&mut self, fence: Fence) {
        self.fence = fence;
    }

    /// A request begins: its body, and how fast it must come.
    pub(super) fn expect(&mut self, body: Body, bounds: Bounds) {
        self.fence = Fence::from(body);
        self.clocks.expect(bounds);
        if self.fence != Fence::Closed {
            self.connection.fate.set_answered(None);
        }
    }

    /// The connection is HTTP/2's: everything passes, but what is begun must be finished within `head`.
    pub(super) fn follow_frames(&mut self, head: Duration) {
        self.fence = Fence::Open;
        self.clocks.follow_frames(head);
    }

    /// Until when [`Conn::fill`] may wait.
    pub(super) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.clocks.set_head(deadline);
    }

    /// Takes the next `length` bytes out of the input. An emptied input gives its buffer away.
    pub(super) fn take(&mut self, length: usize) -> BytesMut {
        if length >= self.input.len() {
            return std::mem::take(&mut self.input);
        }
        self.input.split_to(length)
    }

    /// Reads more into the input, past the fence; 0 at the end.
    ///
    /// # Errors
    /// `TimedOut` at the deadline; what the socket says.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| match self.poll_fill(cx) {
            Poll::Pending => self.clocks.poll_head(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
            filled => filled,
        })
        .await
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            let read = ready!(self.io.poll_read(cx, &mut buffer));
            self.failed |= read.is_err();
            read?;
            self.ended = buffer.filled().is_empty();
            self.input.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }

    /// Fails once the client is too late with its body.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(carried) = self.fence.carried() else { return Poll::Pending };
        ready!(self.clocks.poll_body(cx, carried, self.connection.fate.answered()));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Fails once a client of HTTP/2 has taken too long over what it has begun.
    fn poll_unfinished(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.clocks.poll_frames(cx));
        self.connection.fate.note_late_head();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Hands out what the fence lets through of the input, and says whether it was something.
    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<bool> {
        let before = buf.filled().len();
        while !self.input.is_empty() && buf.filled().len() == before {
            match self.fence.pass(&self.input, buf)? {
                0 => break,
                taken if taken == self.input.len() => self.input = BytesMut::new(),
                taken => self.input.advance(taken),
            }
        }
        Ok(buf.filled().len() > before)
    }

    fn poll_read_fenced(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if self.fence != Fence::Open && self.connection.is_tunnel() {
            self.fence = Fence::Open;
        }
        loop {
            if self.hand_out(buf)? {
                self.clocks.pause_body();
                return Poll::Ready(Ok(()));
            }
            if self.fence == Fence::Open && !self.ended {
                let before = buf.filled().len();
                let Poll::Ready(read) = self.io.poll_read(cx, buf) else { return self.poll_unfinished(cx) };
                self.failed |= read.is_err();
                let arrived = buf.filled().get(before..).unwrap_or_default();
                self.ended = read.is_ok() && arrived.is_empty();
                self.clocks.note_frames(arrived);
                return Poll::Ready(read);
            }
            // The next request waits in the input: the end behind it is not this request's business yet.
            if self.fence == Fence::Closed
                && (self.input.len() >= PIPELINED || self.ended && !self.input.is_empty())
            {
                return Poll::Pending;
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            match self.poll_fill(cx) {
                Poll::Ready(filled) => filled?,
                Poll::Pending => return self.poll_late(cx),
            };
        }
    }

    /// Whether it ends within an answer that only its end would tell from a whole one. Then it ends by a reset, and without TLS's good-bye.
    fn is_cut(&mut self) -> bool {
        let is_cut = self.connection.fate.is_cut();
        if is_cut && let Some(sock) = self.io.sock() {
            self.failed = true;
            sock.reset_on_close();
        }
        is_cut
    }

    /// Bounds a write that waits. The kernel is told (`listen::UNSENT`) to take more only when half of what it holds unsent has
    /// gone, so that what starts the time anew is a client that has taken that much and not one that takes a byte.
    fn bound<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &written {
            Poll::Pending => {
                ready!(self.clocks.poll_stalled(cx));
                self.failed = true;
                self.connection.fate.note_stall();
                if let Some(sock) = self.io.sock() {
                    sock.reset_on_close();
                }
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Ready(result) => {
                self.failed |= result.is_err();
                self.clocks.note_written();
                written
            }
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let written = self.io.poll_write(cx, &self.output);
            match ready!(self.bound(cx, written))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.output.advance(n),
            }
        }
        if self.output.capacity() > 0 {
            self.output = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.poll_read_fenced(cx, buf);
        // Whoever waits for the client has nothing more to say for now: what was held back for coalescing leaves. Behind the client's end
        // nobody waits for it any more.
        if (read.is_pending() || self.ended)
            && !self.output.is_empty()
            && let Poll::Ready(Err(error)) = self.poll_drain(cx)
        {
            return Poll::Ready(Err(error));
        }
        read
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if !this.ended && this.output.len() + buf.len() <= COALESCED {
            if this.output.capacity() == 0 {
                this.output.reserve(buf.len() + BESIDE);
            }
            this.output.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        while !this.output.is_empty() {
            let waiting = this.output.len();
            let written = this.io.poll_write_two(cx, &this.output, buf);
            match ready!(this.bound(cx, written))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n if n > waiting => {
                    this.output.clear();
                    return Poll::Ready(Ok(n - waiting));
                }
                n => this.output.advance(n),
            }
        }
        let written = this.io.poll_write(cx, buf);
        this.bound(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        let flushed = self.io.poll_flush(cx);
        self.bound(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        if self.is_cut() {
            return Poll::Ready(Ok(()));
        }
        self.io.poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Conn {
    /// Half-closes; what the client still sends is discarded for a while once the connection is dropped.
    async fn shutdown(&mut self) {
        if self.is_cut() {
            return;
        }
        // A failure is no news: the connection ends here either way.
        let _ = tokio::time::timeout(CLOSING, AsyncWriteExt::shutdown(self)).await;
    }
}

impl Drop for Conn {
    /// Closing an unread socket resets it, and a reset can overtake the answer: a task of its own closes with patience.
    fn drop(&mut self) {
        if self.is_cut() {
            return;
        }
        let io = std::mem::replace(&mut self.io, Io::Gone);
        if self.failed || self.ended && self.output.is_empty() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let rest = std::mem::take(&mut self.output);
            runtime.spawn(linger::close(io, rest, self.open.take()));
        }
    }
}

impl UniqueID for Conn {
    fn id(&self) -> UniqueIDType {
        self.io.sock().map_or(-1, UniqueID::id)
    }
}

impl Ssl for Conn {
    fn get_ssl(&self) -> Option<&TlsRef> {
        match &self.io {
            Io::Tls(tls) => tls.get_ssl(),
            Io::Plain(_) | Io::Gone => None,
        }
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        match &self.io {
            Io::Tls(tls) => tls.get_ssl_digest(),
            Io::Plain(_) | Io::Gone => None,
        }
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        match &self.io {
            Io::Tls(tls) => tls.selected_alpn_proto(),
            Io::Plain(_) | Io::Gone => None,
        }
    }
}

impl GetTimingDigest for Conn {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![None]
    }
}

impl GetProxyDigest for Conn {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(Arc::clone(&self.proxy_digest))
    }
}

impl GetSocketDigest for Conn {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.io.sock().and_then(GetSocketDigest::get_socket_digest)
    }
}

impl Peek for Conn {}
