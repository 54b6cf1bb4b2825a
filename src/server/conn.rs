//! A connection as Pingora reads and writes it: the fence around each request's body, coalesced writes, deadlines.

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
use tokio::time::{Instant, Sleep};

use super::admission::OpenConnection;
use super::begun::Begun;
use super::io::Io;
use super::linger;
use crate::framing::{Body, BodyClock, Chunked, Pace};
use crate::gateway::Settings;
use crate::request::Connection;

/// What a read takes from the socket at most.
const READ: usize = 32 * 1024;
/// What is kept of requests that a client has pipelined; beyond it the client waits.
const PIPELINED: usize = 64 * 1024;
/// Writes up to this size wait for the next flush: a head and its body leave in one send (14 % of the CPU a request).
const COALESCED: usize = 16 * 1024;
/// How long a client may go on with a body once its answer is complete: an upstream may answer early.
const LEFTOVERS: Duration = Duration::from_secs(5);
/// What closing may take while the client does not read.
const CLOSING: Duration = Duration::from_secs(10);

thread_local! {
    /// Where reads go first: an idle connection has no buffer of its own.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// How much of what arrives belongs to the request now served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fence {
    /// Nothing more: what arrives is the next request's and is kept.
    Closed,
    /// So many bytes.
    Length(u64),
    /// Until the chunked body ends.
    Chunked(Chunked),
    /// Everything: HTTP/2, or a tunnel after a protocol switch.
    Open,
    /// The body was malformed; nothing that follows can be understood.
    Broken,
}

impl From<Body> for Fence {
    fn from(body: Body) -> Self {
        match body {
            Body::None | Body::Length(0) => Self::Closed,
            Body::Length(length) => Self::Length(length),
            Body::Chunked => Self::Chunked(Chunked::default()),
        }
    }
}

/// What a snapshot asks of a client's speed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How fast request bodies must come.
    pub(super) pace: Pace,
    /// How long the client may leave what is written to it unread.
    pub(super) write_stall: Duration,
}

impl Bounds {
    pub(super) fn of(settings: &Settings) -> Self {
        Self { pace: settings.pace, write_stall: settings.write_stall }
    }
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
    deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    bounds: Bounds,
    /// Runs from the first time that a body has to be waited for.
    clock: Option<BodyClock>,
    /// Content handed out of a body whose length is known.
    carried: u64,
    /// What a client of HTTP/2 has begun, and how long it may take.
    begun: Option<(Begun, Duration)>,
    /// Since when a write has been waiting for the client to read.
    stalled: Option<Instant>,
    open: Option<OpenConnection>,
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
            deadline: None,
            timer: None,
            bounds,
            clock: None,
            carried: 0,
            begun: None,
            stalled: None,
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
        self.bounds = bounds;
        self.clock = None;
        self.carried = 0;
        if self.fence != Fence::Closed {
            self.connection.fate.set_answered(None);
        }
    }

    /// The connection is HTTP/2's: everything passes, but what is begun must be finished within `head`.
    pub(super) fn follow_frames(&mut self, head: Duration) {
        self.fence = Fence::Open;
        self.begun = Some((Begun::new(), head));
    }

    /// Until when [`Conn::fill`] may wait.
    pub(super) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
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
            Poll::Pending => match self.deadline {
                Some(deadline) => self.poll_timer(cx, deadline).map(|()| Err(io::ErrorKind::TimedOut.into())),
                None => Poll::Pending,
            },
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

    /// One timer a connection, put off lazily: most deadlines are met, and then nothing has been registered. A read and a
    /// write may share it: it rings at the earlier deadline, and who wakes asks again.
    fn poll_timer(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }

    /// Ready once the client is too late with its body.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let carried = match &self.fence {
            Fence::Length(_) => self.carried,
            Fence::Chunked(chunked) => chunked.carried(),
            Fence::Closed | Fence::Open | Fence::Broken => return Poll::Pending,
        };
        let now = Instant::now().into_std();
        let pace = self.bounds.pace;
        let clock = self.clock.get_or_insert_with(|| BodyClock::start(pace, now));
        clock.wait(now);
        clock.set_bytes(carried);
        if let Some(answered) = self.connection.fate.answered() {
            clock.end_by(answered + LEFTOVERS);
        }
        let deadline = clock.deadline().into();
        self.poll_timer(cx, deadline)
    }

    /// Fails once a client of HTTP/2 has taken too long over what it has begun.
    fn poll_unfinished(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some((begun, head)) = &self.begun else { return Poll::Pending };
        let Some(since) = begun.since() else { return Poll::Pending };
        let deadline = since + *head;
        ready!(self.poll_timer(cx, deadline));
        self.connection.fate.note_late_head();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// From here on it is not the client's body that is waited for.
    fn pause_clock(&mut self) {
        if let Some(clock) = &mut self.clock {
            clock.pause(Instant::now().into_std());
        }
    }

    /// Hands out what the fence lets through of the input; none when it lets nothing through.
    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<usize> {
        let here = self.input.len().min(buf.remaining());
        let Some(offered) = self.input.get(..here) else { return Ok(0) };
        let length = match &mut self.fence {
            Fence::Closed => 0,
            Fence::Open => here,
            Fence::Length(left) => {
                let length = here.min(usize::try_from(*left).unwrap_or(usize::MAX));
                let count = u64::try_from(length).unwrap_or(0);
                *left -= count;
                self.carried += count;
                if *left == 0 {
                    self.fence = Fence::Closed;
                }
                length
            }
            Fence::Chunked(chunked) => {
                let scanned = chunked.scan(offered);
                let done = chunked.is_done();
                match scanned {
                    Ok(length) => {
                        if done {
                            self.fence = Fence::Closed;
                        }
                        length
                    }
                    Err(bad) => {
                        self.fence = Fence::Broken;
                        return Err(io::Error::new(io::ErrorKind::InvalidData, bad));
                    }
                }
            }
            Fence::Broken => return Err(io::ErrorKind::InvalidData.into()),
        };
        buf.put_slice(offered.get(..length).unwrap_or_default());
        if length == self.input.len() {
            self.input = BytesMut::new();
        } else {
            self.input.advance(length);
        }
        Ok(length)
    }

    fn poll_read_fenced(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if self.fence != Fence::Open && self.connection.is_tunnel() {
            self.fence = Fence::Open;
        }
        loop {
            if self.hand_out(buf)? > 0 {
                self.pause_clock();
                return Poll::Ready(Ok(()));
            }
            if self.fence == Fence::Open && !self.ended {
                let before = buf.filled().len();
                let Poll::Ready(read) = self.io.poll_read(cx, buf) else { return self.poll_unfinished(cx) };
                self.failed |= read.is_err();
                let arrived = buf.filled().get(before..).unwrap_or_default();
                self.ended = read.is_ok() && arrived.is_empty();
                if let Some((begun, _)) = &mut self.begun {
                    begun.note(arrived, Instant::now);
                }
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
                Poll::Pending => {
                    return self.poll_late(cx).map(|()| Err(io::ErrorKind::TimedOut.into()));
                }
            };
        }
    }

    /// Bounds a write that waits. The kernel is told (`listen::UNSENT`) to take more only when half of what it holds unsent has
    /// gone, so that what starts the time anew is a client that has taken that much and not one that takes a byte.
    fn bound<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &written {
            Poll::Pending => {
                self.pause_clock();
                let since = *self.stalled.get_or_insert_with(Instant::now);
                ready!(self.poll_timer(cx, since + self.bounds.write_stall));
                self.failed = true;
                self.connection.fate.note_stall();
                if let Some(sock) = self.io.sock() {
                    sock.reset_on_close();
                }
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Ready(result) => {
                self.failed |= result.is_err();
                self.stalled = None;
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
        // Whoever waits for the client has nothing more to say for now: what was held back for coalescing leaves.
        if read.is_pending()
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
        if this.output.len() + buf.len() <= COALESCED {
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
        self.io.poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Conn {
    /// Half-closes; what the client still sends is discarded for a while once the connection is dropped.
    async fn shutdown(&mut self) {
        // A failure is no news: the connection ends here either way.
        let _ = tokio::time::timeout(CLOSING, AsyncWriteExt::shutdown(self)).await;
    }
}

impl Drop for Conn {
    /// Closing an unread socket resets it, and a reset can overtake the answer: a task of its own closes with patience.
    fn drop(&mut self) {
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
