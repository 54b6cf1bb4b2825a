//! The connection to a server as Pingora sees it: ours, with our deadlines, our pool and our TLS below it.
//!
//! Pingora can be given a connector of our own (`PeerOptions::custom_l4`) that returns a virtual socket. That solves at one
//! place what its own connections cannot do:
//!
//! - *Deadlines.* Pingora knows one timeout a read; a head that drips byte by byte never meets it. Here `total` is one instant.
//!   The timer belongs to the connection and is set anew only when it would ring too late (`Link::poll_deadline`).
//! - *Upgrades.* Pingora tears a tunnel down when it reads a 101 before it has processed the end of the request's (empty) body
//!   (pingora#946). An upgrade's answer is held back until that end has been flushed, which happens after it was processed.
//! - *One reading.* Pingora gets to see a head once it has been judged, and behind it the content that it announces and no more
//!   (`fence`). Most heads arrive in one read: they are judged where they lie, in Pingora's own buffer.
//! - *Keeping.* A virtual socket has no descriptor, so Pingora's pool cannot keep it. It does not have to: before keeping a
//!   connection Pingora probes it by a read of one byte, once the answer is whole. The probe is answered with "closed", so Pingora
//!   lets go, and the connection returns to our pool: bounded for the process, without a task and three system calls for each
//!   request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddress;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora_error::{Error, ErrorType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::attempt::Attempt;
use super::failures::Failure;
use super::fence::{Fence, Unfit};
use super::pace;
use crate::upstream::Link;

/// How long a tunnel may be silent in both directions.
const TUNNEL_IDLE: Duration = Duration::from_secs(3600);
/// How long a connection may take to say good-bye.
const GOOD_BYE: Duration = Duration::from_secs(1);
/// What is read at once of a head that comes in pieces.
const PIECE: usize = 4096;

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
    fence: Fence,
    /// Bytes that came and that Pingora has not seen: the first `admitted` of them may pass.
    ahead: BytesMut,
    admitted: usize,
    /// Whether the request has begun to leave.
    asked: bool,
    /// Since when a read, or a write, has been waiting.
    reading: Option<Instant>,
    writing: Option<Instant>,
    /// Since when no more of the request can be written: Pingora reads on, as an answer may be there (RFC 9112 §9.5).
    unwritable: Option<Instant>,
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
            fence: Fence::new(attempt.asked()),
            ahead: BytesMut::new(),
            admitted: 0,
            asked: false,
            held: attempt.is_upgrade(),
            active: attempt.began(),
            attempt,
            link: Some(link),
            reading: None,
            writing: None,
            unwritable: None,
            closing: None,
            holding: None,
            clean: false,
        }
    }

    /// By when a read that waits since `since` must be done, and what it is called when it is not. None while the request is still
    /// being sent: the server may well wait for the end.
    fn read_deadline(&self, since: Instant) -> Option<(Instant, Failure)> {
        let attempt = &self.attempt;
        let read = attempt.upstream.timeouts().read;
        if attempt.is_tunnel() {
            return Some((self.active.max(since) + TUNNEL_IDLE, Failure::TunnelIdle));
        }
        if attempt.has_head() {
            return Some((since + read, Failure::ReadTimeout));
        }
        let read = since.max(attempt.sent().or(self.unwritable)?) + read;
        let total = attempt.until();
        Some(if total <= read { (total, Failure::TotalTimeout) } else { (read, Failure::ReadTimeout) })
    }

    /// By when a write that waits since `since` must be done: a server that does not read is as silent as one that does not answer, in a
    /// tunnel too, where whoever has nothing to say may be silent for longer.
    fn write_deadline(&self, since: Instant) -> (Instant, Failure) {
        (since + self.attempt.upstream.timeouts().read, Failure::WriteTimeout)
    }

    fn check(&mut self, cx: &mut Context<'_>, (deadline, failure): (Instant, Failure)) -> Poll<io::Error> {
        let Some(link) = &mut self.link else { return Poll::Ready(io::ErrorKind::NotConnected.into()) };
        if link.poll_deadline(cx, deadline).is_pending() {
            return Poll::Pending;
        }
        self.attempt.fail(failure, format!("waiting for {}", self.attempt.address()));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// Pingora's probe: the connection comes back to us, if nothing has come on it but the answer.
    fn release(&mut self) {
        self.clean = self.ahead.is_empty()
            && !self.fence.is_overfull()
            && !self.attempt.is_spent()
            && self.link.as_mut().is_some_and(Link::is_idle);
    }

    /// Before the first byte of the request leaves, nothing may have come.
    fn listen(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.asked, true) {
            return Ok(());
        }
        let mut byte = [0; 1];
        let Some(said) = self.link.as_mut().and_then(|link| link.take_unasked(&mut byte)) else {
            return Ok(());
        };
        if self.attempt.is_reused() {
            // What a kept connection says is the answer to nothing, and it may mean that it closes: as one found closed.
            let message = format!("{} spoke before it was asked", self.attempt.address());
            self.attempt.fail(Failure::Reset, message);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        // On a connection of its own it can only be meant for this request (one that is overloaded says so at once); but
        // another answer may follow when the server reads the request.
        self.attempt.spend();
        self.ahead.extend_from_slice(said);
        self.admit_ahead()
    }

    /// Asks the fence about what lies ahead.
    fn admit_ahead(&mut self) -> io::Result<()> {
        self.admitted = self.fence.admit(&self.ahead).map_err(|unfit| self.garbage(unfit))?;
        if self.fence.is_closed() && self.admitted < self.ahead.len() {
            self.discard_surplus();
        }
        Ok(())
    }

    /// What is behind an answer is nobody's.
    fn discard_surplus(&mut self) {
        self.attempt.spend();
        self.ahead.truncate(self.admitted);
    }

    fn garbage(&self, (failure, message): Unfit) -> io::Error {
        self.attempt.fail(failure, message.to_owned());
        io::Error::new(io::ErrorKind::InvalidData, message)
    }

    /// Reads what the server says into `buf`, and takes back what may not pass yet or ever. Nothing at the end of the stream.
    fn poll_admitted(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.admitted > 0 {
                let length = self.admitted.min(buf.remaining());
                buf.put_slice(self.ahead.get(..length).unwrap_or_default());
                self.ahead.advance(length);
                self.admitted -= length;
                return Poll::Ready(Ok(()));
            }
            let Some(link) = &mut self.link else { return Poll::Ready(Ok(())) };
            if !self.ahead.is_empty() {
                let mut piece = [0; PIECE];
                let mut piece = ReadBuf::new(&mut piece);
                ready!(Pin::new(link).poll_read(cx, &mut piece))?;
                if piece.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
                self.note_received();
                self.ahead.extend_from_slice(piece.filled());
                self.admit_ahead()?;
                continue;
            }
            let before = buf.filled().len();
            let room = self.attempt.backlog.room();
            if buf.remaining() > room {
                let mut piece = ReadBuf::new(buf.initialize_unfilled_to(room));
                ready!(Pin::new(link).poll_read(cx, &mut piece))?;
                let length = piece.filled().len();
                buf.advance(length);
            } else {
                ready!(Pin::new(link).poll_read(cx, buf))?;
            }
            let came = buf.filled().get(before..).unwrap_or_default();
            if came.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.note_received();
            let admitted = self.fence.admit(came).map_err(|unfit| self.garbage(unfit))?;
            if admitted < came.len() {
                if self.fence.is_closed() {
                    self.attempt.spend();
                } else {
                    self.ahead.extend_from_slice(came.get(admitted..).unwrap_or_default());
                }
                buf.set_filled(before + admitted);
            }
            if admitted > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Something came: the next read is waited for anew.
    fn note_received(&mut self) {
        self.attempt.note_received();
        self.note_wait();
    }

    fn note_wait(&mut self) {
        if let Some(since) = self.reading.take() {
            self.attempt.note_wait(since.elapsed());
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.fence.is_closed() && this.admitted == 0 {
            match buf.remaining() {
                1 => this.release(),
                // Pingora reads on where we have seen the end: whoever is right, the connection serves no other request.
                _ => this.attempt.spend(),
            }
            return Poll::Ready(Ok(()));
        }
        if this.held {
            this.holding = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let before = buf.filled().len();
        match this.poll_admitted(cx, buf) {
            Poll::Ready(Ok(())) => {
                this.note_wait(); // The end of the stream, if nothing came.
                this.attempt.backlog.add(buf.filled().len() - before);
                if buf.filled().len() > before && this.attempt.is_tunnel() {
                    this.active = Instant::now();
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                this.note_wait();
                let failure = match error.kind() {
                    // A tunnel ends as its ends like.
                    io::ErrorKind::UnexpectedEof if this.attempt.is_tunnel() => return Poll::Ready(Ok(())),
                    io::ErrorKind::UnexpectedEof => Failure::ClosedEarly,
                    _ => Failure::Reset,
                };
                this.attempt.fail(failure, format!("reading from {}: {error}", this.attempt.address()));
                Poll::Ready(Err(error))
            }
            // A stream's client is too slow with its body: whoever waits here for the answer is the one who can say so.
            Poll::Pending if pace::is_late() => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            // Nor is an answer to be expected of a server that has not taken the request in time.
            Poll::Pending if this.unwritable.is_some() && this.attempt.failure().is_some() => {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
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
        this.listen()?;
        let Some(link) = &mut this.link else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        match Pin::new(link).poll_write(cx, buf) {
            Poll::Ready(Ok(count)) => {
                if this.writing.take().is_some() {
                    pace::wait();
                }
                if this.attempt.is_tunnel() {
                    this.active = Instant::now();
                }
                Poll::Ready(Ok(count))
            }
            // Not noted as the attempt's failure: an answer may have come before the server closed (RFC 9112 §9.5).
            Poll::Ready(Err(error)) => {
                this.unwritable.get_or_insert_with(Instant::now);
                Poll::Ready(Err(error))
            }
            // The body has taken longer than it may, whoever is waited for.
            Poll::Pending if pace::is_late() => {
                this.unwritable.get_or_insert_with(Instant::now);
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Pending => {
                let since = *this.writing.get_or_insert_with(Instant::now);
                pace::hold();
                let deadline = this.write_deadline(since);
                let error = ready!(this.check(cx, deadline));
                this.unwritable.get_or_insert_with(Instant::now);
                Poll::Ready(Err(error))
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
            self.attempt.keep(link);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::attempt::Start;
    use super::*;
    use crate::config::{Build, Spanned};
    use crate::state::Live;
    use crate::upstream::{Tried, Upstream};

    async fn wire(until: Duration) -> Wire {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = json!({"servers": [address.to_string()], "timeouts": {"read": "2s", "total": "5s"}});
        let config = Spanned::unwritten(crate::upstream::tests::decode(config));
        let upstream = Upstream::compile("o", &config, &Live::default(), &mut Build::default()).unwrap();
        let now = Instant::now();
        let start = Start {
            server: Arc::clone(upstream.choose(0, &mut Tried::default()).unwrap()),
            upstream,
            address,
            worker: 0,
            until: now + until,
            upgrade: false,
            head: false,
            kept_may_do: true,
            header: None,
        };
        Wire::new(Attempt::new(start, now), Link::dial(address, b"", None).await.unwrap())
    }

    #[tokio::test]
    async fn each_stage_has_its_deadline() {
        let own = wire(Duration::from_secs(3)).await;
        let since = Instant::now();
        let due = |own: &Wire, since| {
            own.read_deadline(since)
                .map(|(due, failure)| (due.duration_since(since).as_millis() / 500, failure))
        };
        assert_eq!(due(&own, since), None, "the request is not read yet");
        own.attempt.request_read(since, None);
        assert_eq!(due(&own, since), Some((4, Failure::ReadTimeout)));
        let later = since + Duration::from_millis(2000);
        assert_eq!(
            due(&own, later),
            Some((1, Failure::TotalTimeout)),
            "what is left of the total is shorter"
        );
        own.attempt.head_read(false);
        assert_eq!(due(&own, later), Some((4, Failure::ReadTimeout)), "the total ends with the head");
        own.attempt.head_read(true);
        assert_eq!(due(&own, later), Some((7200, Failure::TunnelIdle)));
    }

    #[tokio::test]
    async fn a_body_starts_the_total_anew() {
        let own = wire(Duration::from_secs(1)).await;
        let now = Instant::now() + Duration::from_secs(30);
        own.attempt.request_read(now, Some(Duration::from_secs(1)));
        let (due, failure) = own.read_deadline(now).unwrap();
        assert_eq!((due.duration_since(now).as_millis().div_ceil(100), failure), (10, Failure::TotalTimeout));
    }
}
