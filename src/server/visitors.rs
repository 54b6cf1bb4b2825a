//! Connections to the status address: few at a time, each for a moment. Who says nothing, or one byte now and then, keeps no place there
//! and no descriptor from reloads.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use super::listen::Listener;
use super::sock::Sock;

/// How long a connection may last, its answer included.
const STAY: Duration = Duration::from_secs(10);
/// Connections at once: no more than the descriptors that neither clients nor connections to servers get, where there are 256.
const MOST: usize = 16;
/// How long accepting pauses when the process has no file descriptor left.
const BREATH: Duration = Duration::from_millis(50);

/// Accepts them. One too many takes the place of the oldest: a probe is answered whoever waits there.
#[derive(Debug)]
pub(super) struct Visitors {
    listener: Listener,
    /// Dropped, its visitor leaves. Oldest first.
    places: VecDeque<oneshot::Sender<()>>,
}

impl Visitors {
    pub(super) fn new(listener: Listener) -> Self {
        Self { listener, places: VecDeque::with_capacity(MOST) }
    }

    fn admit(&mut self, sock: Sock) -> Visitor {
        self.places.retain(|place| !place.is_closed());
        if self.places.len() >= MOST {
            self.places.pop_front();
        }
        let (place, taken) = oneshot::channel();
        self.places.push_back(place);
        Visitor { sock, over: Box::pin(sleep(STAY)), place: taken, leaves: false }
    }
}

impl axum::serve::Listener for Visitors {
    type Io = Visitor;
    type Addr = ();

    async fn accept(&mut self) -> (Visitor, ()) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => return (self.admit(Sock::new(stream, peer)), ()),
                // One that has gone again, or no descriptor is left.
                Err(_) => sleep(BREATH).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct Visitor {
    sock: Sock,
    over: Pin<Box<Sleep>>,
    place: oneshot::Receiver<()>,
    leaves: bool,
}

impl Visitor {
    /// Whether its time is over, or another has its place.
    fn must_leave(&mut self, cx: &mut Context<'_>) -> bool {
        self.leaves = self.leaves
            || self.over.as_mut().poll(cx).is_ready()
            || Pin::new(&mut self.place).poll(cx).is_ready();
        self.leaves
    }
}

impl AsyncRead for Visitor {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.must_leave(cx) {
            true => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            false => Pin::new(&mut self.sock).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.must_leave(cx) {
            true => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            false => Pin::new(&mut self.sock).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.sock).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.sock).poll_shutdown(cx)
    }
}
