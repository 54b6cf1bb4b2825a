//! What a client of HTTP/2 makes us do besides its requests: frames are looked at as they pass, above TLS and below h2. Only their
//! heads are: a few nanoseconds a frame, nothing is copied or kept.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::conn::Conn;
use super::landing::{Held, Landing};
use super::ledger::{Flood, Ledger};
use super::unheard::{Refused, Unheard};
use crate::config::units::Rate;
use crate::framing::frames::{
    CONTINUATION, DATA, END_HEADERS, GOAWAY, HEADERS, PREFACE, RST_STREAM, Scanner, Unfinished, WINDOW_UPDATE,
};

/// What is found out about a connection that h2 owns. Everything here is told and asked by the one task that drives it.
#[derive(Debug, Default)]
pub(super) struct Findings {
    flood: OnceLock<Flood>,
    /// The error code of the GOAWAY that we sent, and 1 in front; 0 for none.
    goaway: AtomicU64,
    streams: Mutex<Unheard>,
    landing: Mutex<Landing>,
    /// Bytes that have arrived, of which only the first matter.
    arrived: AtomicU64,
    /// Whether a head has begun to arrive and has no end yet.
    head: AtomicBool,
}

impl Findings {
    /// Waits for a flood. Must be awaited by the task that drives the connection, which is woken when there is one.
    pub(super) async fn flood(&self) -> Flood {
        std::future::poll_fn(|_| self.flood.get().copied().map_or(Poll::Pending, Poll::Ready)).await
    }

    /// Waits for a stream that h2 has refused by itself. To be asked when h2 has no request left to hand over, in the same task.
    pub(super) async fn refused(&self) -> Refused {
        std::future::poll_fn(|_| self.streams().next().map_or(Poll::Pending, Poll::Ready)).await
    }

    /// The same without waiting: for a connection that has ended.
    pub(super) fn next_refused(&self) -> Option<Refused> {
        self.streams().next()
    }

    /// h2 has handed this one over: whatever becomes of it has a record of its own.
    pub(super) fn accepted(&self, stream: u32) {
        self.streams().accepted(stream);
    }

    /// Its answer is complete; what it holds it holds until that has left.
    pub(super) fn answered(&self, stream: u32, held: Held) {
        let left = self.landing().answered(stream, held);
        drop(left);
    }

    /// How many answers were complete and have not left.
    pub(super) fn undelivered(&self) -> usize {
        self.landing().waiting()
    }

    /// The error code with which we have ended the connection.
    pub(super) fn goaway(&self) -> Option<u32> {
        let told = self.goaway.load(Ordering::Relaxed);
        (told > 0).then(|| u32::try_from(told & u64::from(u32::MAX)).unwrap_or_default())
    }

    /// Whether the client has said anything.
    pub(super) fn is_begun(&self) -> bool {
        self.arrived.load(Ordering::Relaxed) > 0
    }

    /// Whether what has arrived ends within a head.
    pub(super) fn is_within_head(&self) -> bool {
        self.head.load(Ordering::Relaxed)
    }

    fn landing(&self) -> MutexGuard<'_, Landing> {
        self.landing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, Unheard> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a connection's window is at first, in bytes (RFC 9113 §6.9.2).
const WINDOW: i64 = 65_535;
/// A window below which clients that send no small frames may be waiting for more.
const SHUT: i64 = 256;

/// A connection whose frames are counted.
#[derive(Debug)]
pub(super) struct Counted {
    conn: Box<Conn>,
    arriving: Scanner,
    leaving: Scanner,
    ledger: Ledger,
    /// Whether the last head began a stream: what is behind a request's content is no head.
    begins: bool,
    /// Whether a head has come without its end.
    open: bool,
    /// Bytes of content that the client may send on all its streams together (RFC 9113 §6.9.1).
    window: i64,
    /// Whether that is told to be none.
    shut: bool,
    findings: Arc<Findings>,
    woken: bool,
}

impl Counted {
    /// Counts from the client's preface on.
    pub(super) fn new(conn: Box<Conn>, rate: Rate) -> Self {
        Self {
            conn,
            arriving: Scanner::after(PREFACE),
            leaving: Scanner::after(0),
            ledger: Ledger::new(rate),
            begins: false,
            open: false,
            window: WINDOW,
            shut: false,
            findings: Arc::default(),
            woken: false,
        }
    }

    /// What is found out, for whoever drives the connection.
    pub(super) fn findings(&self) -> Arc<Findings> {
        Arc::clone(&self.findings)
    }

    fn tell_window(&mut self) {
        let shut = self.window < SHUT;
        if shut != std::mem::replace(&mut self.shut, shut) {
            self.conn.connection().fate.note_window(shut);
        }
    }

    /// Once there is a flood nothing more is handed out: the driver ends the connection, and h2 sees no more of it.
    fn poll_flooded(&mut self, cx: &Context<'_>) -> bool {
        let flooded = self.findings.flood.get().is_some();
        if flooded && !std::mem::replace(&mut self.woken, true) {
            cx.waker().wake_by_ref();
        }
        flooded
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.poll_flooded(cx) {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut *this.conn).poll_read(cx, buf);
        let arrived = buf.filled().get(before..).unwrap_or_default();
        if this.arriving.unfinished() == Unfinished::Preface {
            this.findings.arrived.fetch_add(u64::try_from(arrived.len()).unwrap_or(1), Ordering::Relaxed);
        }
        let (ledger, findings) = (&mut this.ledger, &this.findings);
        let (open, begins, window) = (&mut this.open, &mut this.begins, &mut this.window);
        this.arriving.scan(arrived, |frame| {
            match frame.kind {
                HEADERS => {
                    *begins = findings.streams().arrives(frame);
                    if *begins {
                        findings.landing().begins(frame.stream);
                    }
                }
                RST_STREAM => drop(findings.landing().arrives(frame)),
                DATA => *window -= i64::try_from(frame.length).unwrap_or_default(),
                _ => {}
            }
            if matches!(frame.kind, HEADERS | CONTINUATION) {
                *open = *begins && !frame.has(END_HEADERS);
            }
            if let Some(flood) = ledger.arrives(frame) {
                let _ = findings.flood.set(flood);
            }
        });
        this.tell_window();
        let is_cut = matches!(this.arriving.unfinished(), Unfinished::Payload(HEADERS | CONTINUATION));
        let within = this.open || this.begins && is_cut;
        this.findings.head.store(within, Ordering::Relaxed);
        if this.poll_flooded(cx) {
            buf.set_filled(before);
            return Poll::Pending;
        }
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut *this.conn).poll_write(cx, buf);
        if let Poll::Ready(Ok(length)) = written {
            let (ledger, findings, window) = (&mut this.ledger, &this.findings, &mut this.window);
            this.leaving.scan(buf.get(..length).unwrap_or_default(), |frame| match frame.kind {
                GOAWAY => findings.goaway.store(1 << 32 | u64::from(frame.code(4)), Ordering::Relaxed),
                kind => {
                    if matches!(kind, HEADERS | RST_STREAM) {
                        findings.streams().leaves(frame);
                    }
                    if matches!(kind, DATA | HEADERS | RST_STREAM) {
                        let landed = findings.landing().leaves(frame);
                        drop(landed);
                    }
                    if kind == WINDOW_UPDATE && frame.stream == 0 {
                        *window += i64::from(frame.code(0));
                    }
                    if let Some(flood) = ledger.leaves(frame) {
                        let _ = findings.flood.set(flood);
                    }
                }
            });
            this.tell_window();
            this.poll_flooded(cx);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.conn).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.conn).poll_shutdown(cx)
    }
}
