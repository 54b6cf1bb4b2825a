//! The connection to a server as Pingora sees it: ours, with our deadlines, our pool and our TLS below it.
//!
//! Pingora can be given a connector of our own (`PeerOptions::custom_l4`) that returns a virtual socket. That solves at one
//! place what its own connections cannot do:
//!
//! - *Deadlines.* Pingora knows one timeout a read; a head that drips byte by byte never meets it. Here `total` is one instant.
//!   The timer belongs to the connection and is set anew only when it would ring too late (`Link::poll_deadline`).
//! - *Upgrades.* Pingora tears a tunnel down when it reads a 101 before it has processed the end of the request's (empty) body
//!   (pingora#946). An upgrade's answer is held back until that end has been flushed, which happens after it was processed.
//! - *Keeping.* A virtual socket has no descriptor, so Pingora's pool cannot keep it. It does not have to: before keeping a
//!   connection Pingora probes it by a read of one byte, and it reads one byte at no other time (a head is read into 4 KiB,
//!   a body into 64 KiB). The probe is answered with "closed", so Pingora lets go, and the connection returns to our pool: bounded
//!   for the process, without a task and three system calls for each request.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddress;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora_error::{Error, ErrorType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::failures::Failure;
use crate::upstream::{DialError, Link, Member, Upstream};

/// How long a tunnel may be silent in both directions.
const TUNNEL_IDLE: Duration = Duration::from_secs(3600);
/// How long a connection may take to say good-bye.
const GOOD_BYE: Duration = Duration::from_secs(1);

/// One attempt to have a request answered: what the phases and the connection tell each other.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) upstream: Arc<Upstream>,
    pub(super) server: Arc<Member>,
    address: std::net::SocketAddr,
    worker: usize,
    began: Instant,
    /// Whether the client asked for another protocol and may have it.
    upgrade: bool,
    /// Whether a kept connection may be used.
    kept_may_do: bool,
    /// By when the response's head must have come, in nanoseconds since `began`.
    until: AtomicU64,
    /// When the request had been read in full, likewise; 0 before.
    sent: AtomicU64,
    head: AtomicBool,
    tunnel: AtomicBool,
    received: AtomicBool,
    reused: AtomicBool,
    /// Nanoseconds spent waiting for the server's answer.
    waited: AtomicU64,
    connect: OnceLock<Duration>,
    failure: OnceLock<(Failure, String)>,
}

/// What an attempt starts from.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) upstream: Arc<Upstream>,
    pub(super) server: Arc<Member>,
    pub(super) address: std::net::SocketAddr,
    pub(super) worker: usize,
    pub(super) until: Instant,
    pub(super) upgrade: bool,
    pub(super) kept_may_do: bool,
}

impl Attempt {
    pub(super) fn new(start: Start, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            upstream: start.upstream,
            server: start.server,
            address: start.address,
            worker: start.worker,
            began: now,
            upgrade: start.upgrade,
            kept_may_do: start.kept_may_do,
            until: AtomicU64::new(nanoseconds(start.until.saturating_duration_since(now))),
            sent: AtomicU64::new(0),
            head: AtomicBool::new(false),
            tunnel: AtomicBool::new(false),
            received: AtomicBool::new(false),
            reused: AtomicBool::new(false),
            waited: AtomicU64::new(0),
            connect: OnceLock::new(),
            failure: OnceLock::new(),
        })
    }

    /// The request has been read in full. From now on the server is waited for: `read` begins, and so does `total` where a body
    /// had to be waited for, since a client's slow upload is not the server's fault.
    pub(super) fn request_read(&self, now: Instant, total_anew: Option<Duration>) {
        let since = nanoseconds(now.saturating_duration_since(self.began)).max(1);
        if self.sent.compare_exchange(0, since, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            && let Some(total) = total_anew
        {
            self.until.store(since.saturating_add(nanoseconds(total)), Ordering::Relaxed);
        }
    }

    /// The final head has come.
    pub(super) fn head_read(&self, tunnel: bool) {
        self.tunnel.store(tunnel, Ordering::Relaxed);
        self.head.store(true, Ordering::Relaxed);
    }

    /// Notes why the attempt failed; the first reason stays.
    pub(super) fn fail(&self, failure: Failure, detail: String) {
        let _ = self.failure.set((failure, detail));
    }

    /// Why the attempt failed, if the connection knows.
    pub(super) fn failure(&self) -> Option<&(Failure, String)> {
        self.failure.get()
    }

    /// Whether any byte of an answer has come.
    pub(super) fn has_received(&self) -> bool {
        self.received.load(Ordering::Relaxed)
    }

    /// Whether the connection had served before.
    pub(super) fn is_reused(&self) -> bool {
        self.reused.load(Ordering::Relaxed)
    }

    /// What connecting took; zero for a kept connection, none while there is none.
    pub(super) fn connect_latency(&self) -> Option<Duration> {
        self.connect.get().copied()
    }

    /// Time spent on the server so far: connecting, and waiting for its answer.
    pub(super) fn waited(&self) -> Duration {
        let connect = self.connect.get().copied().unwrap_or_default();
        connect + Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    fn until(&self) -> Instant {
        self.began + Duration::from_nanos(self.until.load(Ordering::Relaxed))
    }

    fn sent(&self) -> Option<Instant> {
        let sent = self.sent.load(Ordering::Relaxed);
        (sent > 0).then(|| self.began + Duration::from_nanos(sent))
    }

    fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Relaxed)
    }

    /// Takes a kept connection, or makes one within `connect` and what is left of `total`.
    async fn open(&self) -> Result<Link, Failure> {
        let now = Instant::now();
        if self.kept_may_do
            && !self.upgrade
            && let Some(link) = self.upstream.take_idle(self.worker, self.address, now)
        {
            self.reused.store(true, Ordering::Relaxed);
            let _ = self.connect.set(Duration::ZERO);
            return Ok(link);
        }
        let connect = self.upstream.timeouts().connect;
        let left = self.until().saturating_duration_since(now);
        let dialled = tokio::time::timeout(connect.min(left), self.upstream.dial(&self.server, self.address));
        let failure = match dialled.await {
            Ok(Ok(link)) => {
                let _ = self.connect.set(now.elapsed());
                return Ok(link);
            }
            Err(_) if left < connect => (Failure::TotalTimeout, format!("connecting to {}", self.address)),
            Err(_) => (Failure::ConnectTimeout, format!("connecting to {}", self.address)),
            Ok(Err(error)) => (Failure::from(&error), error.to_string()),
        };
        let _ = self.connect.set(now.elapsed());
        self.fail(failure.0, failure.1);
        Err(failure.0)
    }
}

impl From<&DialError> for Failure {
    fn from(error: &DialError) -> Self {
        match error {
            DialError::Connect { .. } => Self::ConnectRefused,
            DialError::Tls { .. } => Self::TlsFailed,
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}

/// Pingora's way to a connection.
#[derive(Debug)]
pub(super) struct Dialer(pub(super) Arc<Attempt>);

#[async_trait]
impl L4Connect for Dialer {
    async fn connect(&self, _: &PingoraAddress) -> pingora_error::Result<Stream> {
        match self.0.open().await {
            Ok(link) => {
                let wire = Wire::new(Arc::clone(&self.0), link);
                Ok(Stream::from(VirtualSocketStream::new(Box::new(wire))))
            }
            Err(failure) => Err(Error::explain(ErrorType::ConnectError, failure.reason())),
        }
    }
}

/// The virtual socket.
#[derive(Debug)]
struct Wire {
    attempt: Arc<Attempt>,
    link: Option<Link>,
    /// Since when a read, or a write, has been waiting.
    reading: Option<Instant>,
    writing: Option<Instant>,
    /// When something last passed through a tunnel.
    active: Instant,
    closing: Option<Instant>,
    /// An upgrade's answer that must wait.
    held: bool,
    holding: Option<Waker>,
    /// Whether the connection may serve again.
    clean: bool,
}

impl Wire {
    fn new(attempt: Arc<Attempt>, link: Link) -> Self {
        Self {
            held: attempt.upgrade,
            active: attempt.began,
            attempt,
            link: Some(link),
            reading: None,
            writing: None,
            closing: None,
            holding: None,
            clean: false,
        }
    }

    /// By when a read that waits since `since` must be done, and what it is called when it is not. None while the client is still
    /// sending: the server may well wait for the end.
    fn read_deadline(&self, since: Instant) -> Option<(Instant, Failure)> {
        let attempt = &self.attempt;
        let read = attempt.upstream.timeouts().read;
        if attempt.is_tunnel() {
            return Some((self.active.max(since) + TUNNEL_IDLE, Failure::TunnelIdle));
        }
        if attempt.head.load(Ordering::Relaxed) {
            return Some((since + read, Failure::ReadTimeout));
        }
        let read = since.max(attempt.sent()?) + read;
        let total = attempt.until();
        Some(if total <= read { (total, Failure::TotalTimeout) } else { (read, Failure::ReadTimeout) })
    }

    /// By when a write that waits since `since` must be done: a server that does not read is as silent as one that does not answer.
    fn write_deadline(&self, since: Instant) -> (Instant, Failure) {
        let patience = match self.attempt.is_tunnel() {
            true => TUNNEL_IDLE,
            false => self.attempt.upstream.timeouts().read,
        };
        (since + patience, Failure::WriteTimeout)
    }

    fn check(&mut self, cx: &mut Context<'_>, (deadline, failure): (Instant, Failure)) -> Poll<io::Error> {
        let Some(link) = &mut self.link else { return Poll::Ready(io::ErrorKind::NotConnected.into()) };
        if link.poll_deadline(cx, deadline).is_pending() {
            return Poll::Pending;
        }
        self.attempt.fail(failure, format!("waiting for {}", self.attempt.address));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// Pingora's probe: the connection comes back to us.
    fn release(&mut self) {
        self.clean = self.link.as_mut().is_some_and(Link::is_idle);
    }

    fn note_wait(&mut self) {
        if let Some(since) = self.reading.take() {
            self.attempt.waited.fetch_add(nanoseconds(since.elapsed()), Ordering::Relaxed);
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 1 && this.attempt.head.load(Ordering::Relaxed) && !this.attempt.is_tunnel() {
            this.release();
            return Poll::Ready(Ok(()));
        }
        if this.held {
            this.holding = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Some(link) = &mut this.link else { return Poll::Ready(Ok(())) };
        let before = buf.filled().len();
        match Pin::new(link).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                this.note_wait();
                if buf.filled().len() > before {
                    this.attempt.received.store(true, Ordering::Relaxed);
                    if this.attempt.is_tunnel() {
                        this.active = Instant::now();
                    }
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                this.note_wait();
                this.attempt.fail(Failure::Reset, format!("reading from {}: {error}", this.attempt.address));
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                let since = *this.reading.get_or_insert_with(Instant::now);
                match this.read_deadline(since) {
                    Some(deadline) => this.check(cx, deadline).map(|error| {
                        this.note_wait();
                        Err(error)
                    }),
                    None => Poll::Pending,
                }
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Some(link) = &mut this.link else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        match Pin::new(link).poll_write(cx, buf) {
            Poll::Ready(Ok(count)) => {
                this.writing = None;
                if this.attempt.is_tunnel() {
                    this.active = Instant::now();
                }
                Poll::Ready(Ok(count))
            }
            // Not noted as the attempt's failure: an answer may have come before the server closed (RFC 9112 §9.5).
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let since = *this.writing.get_or_insert_with(Instant::now);
                let deadline = this.write_deadline(since);
                this.check(cx, deadline).map(Err)
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Pingora flushes when it has processed the end of the request's body, and at no later time before the answer.
        if this.held && this.attempt.sent().is_some() {
            this.held = false;
            if let Some(waker) = this.holding.take() {
                waker.wake();
            }
        }
        match &mut this.link {
            Some(link) => Pin::new(link).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(link) = &mut this.link else { return Poll::Ready(Ok(())) };
        if let Poll::Ready(done) = Pin::new(&mut *link).poll_shutdown(cx) {
            return Poll::Ready(done);
        }
        let until = *this.closing.get_or_insert_with(Instant::now) + GOOD_BYE;
        link.poll_deadline(cx, until).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl VirtualSocket for Wire {
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(()) // Set when the connection was made.
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.clean
            && let Some(link) = self.link.take()
        {
            self.attempt.upstream.keep(self.attempt.worker, self.attempt.address, link, Instant::now());
        }
    }
}
