//! Connections to the status address: few, and none for long. Who asks there asks briefly, so the oldest makes room for the newest, and
//! no number of silent ones keeps a health check waiting or takes the last file descriptors.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};

use crate::descriptors;

/// Connections at once, and how many of them while file descriptors are short.
const MOST: usize = 16;
const MOST_IF_SHORT: usize = 4;
/// How long a read or a write may wait, and how long a connection is kept in all.
const WAIT: Duration = Duration::from_secs(10);
const LIFE: Duration = Duration::from_secs(60);

/// A listener whose connections are [`Brief`].
#[derive(Debug)]
pub(super) struct BriefListener<L> {
    inner: L,
    /// Those that are there, the oldest first: one that is dropped ends its connection.
    held: VecDeque<oneshot::Sender<()>>,
}

impl<L> BriefListener<L> {
    pub(super) fn new(inner: L) -> Self {
        Self { inner, held: VecDeque::new() }
    }
}

impl<L: Listener> Listener for BriefListener<L>
where
    L::Io: AsFd,
{
    type Io = Brief<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = self.inner.accept().await;
        let most = if descriptors::is_our_own(&stream) { MOST_IF_SHORT } else { MOST };
        self.held.retain(|held| !held.is_closed());
        while self.held.len() >= most {
            self.held.pop_front();
        }
        let (held, ended) = oneshot::channel();
        self.held.push_back(held);
        (Brief::new(stream, ended), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// A connection that ends when it has waited too long, is too old, or another takes its place.
#[derive(Debug)]
pub(super) struct Brief<S> {
    stream: S,
    ended: oneshot::Receiver<()>,
    until: Instant,
    /// Since when a read or a write waits.
    since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl<S> Brief<S> {
    fn new(stream: S, ended: oneshot::Receiver<()>) -> Self {
        let until = Instant::now() + LIFE;
        Self { stream, ended, until, since: None, timer: Box::pin(sleep(WAIT)) }
    }

    /// What has come of an attempt; an error where it waits and may no more.
    fn bounded<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.since = None;
            return polled;
        }
        if Pin::new(&mut self.ended).poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let deadline = self.until.min(*self.since.get_or_insert_with(Instant::now) + WAIT);
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Brief<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.bounded(polled, cx)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Brief<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.bounded(polled, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_flush(cx);
        this.bounded(polled, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.bounded(polled, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    fn connection() -> (Brief<tokio::io::DuplexStream>, tokio::io::DuplexStream, oneshot::Sender<()>) {
        let ((own, peer), (held, ended)) = (duplex(64), oneshot::channel());
        (Brief::new(own, ended), peer, held)
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_or_drips_is_let_go() {
        let (mut own, _peer, _held) = connection();
        let begun = Instant::now();
        assert_eq!(own.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), WAIT.as_secs());
        let (mut own, mut peer, _held) = connection();
        let begun = Instant::now();
        tokio::spawn(async move {
            while peer.write_u8(1).await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        });
        while own.read_u8().await.is_ok() {}
        assert_eq!(begun.elapsed().as_secs(), LIFE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_and_whose_place_is_taken_is_let_go() {
        let (mut own, _peer, _held) = connection();
        assert_eq!(own.write_all(&[0; 100]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let (mut own, _peer, held) = connection();
        drop(held);
        assert_eq!(own.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
