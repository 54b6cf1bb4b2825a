//! What a client of HTTP/2 makes us do besides its requests: frames are counted as they pass, above TLS and below h2.
//!
//! h2 bounds some floods itself (CONTINUATION, resets of streams not yet accepted, empty and tiny DATA); most kinds of control frames
//! it answers for ever. Each kind here has a bucket that fills at `server.limits.http2_resets`. What ordinary traffic brings along is
//! earned beside it: a client answers each DATA frame by WINDOW_UPDATEs, and clients of gRPC by a PING too. Only headers of
//! frames are looked at: a few nanoseconds a frame, nothing is copied or kept.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{ALPN, SslDigest, TlsRef};
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::conn::Conn;
use crate::config::units::Rate;
use crate::framing::frames::{Frame, GOAWAY, PREFACE, RST_STREAM, Scanner};

// Types of frames (RFC 9113 §6, RFC 9218 §7.1).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const PRIORITY_UPDATE: u8 = 16;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// A piece of a header block that is shorter, with more to follow, was cut to be many.
const FRAGMENT: usize = 1024;
/// Frames that may be earned and not yet used: those of a client that reads a full window of 64 MiB late.
const EARNED: u32 = 1 << 16;
/// Streams that are refused because there are too many cost less than others, and a client that has not read our SETTINGS yet
/// means no harm: so many times the rate.
const REFUSED: u32 = 10;

/// What there was too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flood {
    /// Streams reset by the client, or by us for a fault of the client's (MadeYouReset).
    Resets,
    /// Streams above `http2_streams`.
    RefusedStreams,
    Pings,
    Settings,
    WindowUpdates,
    Priorities,
    /// DATA and pieces of header blocks with nothing, or little, in them.
    Empty,
    /// Types of frames that mean nothing to us (RFC 9113 §5.5).
    Unknown,
}

impl Flood {
    /// As log and metrics say it.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Resets => "http2_resets",
            Self::RefusedStreams => "http2_refused_streams",
            Self::Pings => "http2_pings",
            Self::Settings => "http2_settings",
            Self::WindowUpdates => "http2_window_updates",
            Self::Priorities => "http2_priorities",
            Self::Empty => "http2_empty_frames",
            Self::Unknown => "http2_unknown_frames",
        }
    }
}

/// What is found out about a connection that h2 owns.
#[derive(Debug, Default)]
pub(super) struct Findings {
    flood: OnceLock<Flood>,
    /// The error code of the GOAWAY that we sent, and 1 in front; 0 for none.
    goaway: AtomicU64,
}

impl Findings {
    /// Waits for a flood. Must be awaited by the task that drives the connection, which is woken when there is one.
    pub(super) async fn flood(&self) -> Flood {
        std::future::poll_fn(|_| self.flood.get().copied().map_or(Poll::Pending, Poll::Ready)).await
    }

    /// The error code with which we have ended the connection.
    pub(super) fn goaway(&self) -> Option<u32> {
        let told = self.goaway.load(Ordering::Relaxed);
        (told > 0).then(|| u32::try_from(told & u64::from(u32::MAX)).unwrap_or_default())
    }
}

/// A connection whose frames are counted.
#[derive(Debug)]
pub(super) struct Counted {
    conn: Box<Conn>,
    arriving: Scanner,
    leaving: Scanner,
    ledger: Ledger,
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
            findings: Arc::default(),
            woken: false,
        }
    }

    /// What is found out, for whoever drives the connection.
    pub(super) fn findings(&self) -> Arc<Findings> {
        Arc::clone(&self.findings)
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
        let (ledger, findings) = (&mut this.ledger, &this.findings);
        this.arriving.scan(arrived, |frame| {
            if let Some(flood) = ledger.arrives(frame) {
                let _ = findings.flood.set(flood);
            }
        });
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
            let (ledger, findings) = (&mut this.ledger, &this.findings);
            this.leaving.scan(buf.get(..length).unwrap_or_default(), |frame| match frame.kind {
                GOAWAY => findings.goaway.store(1 << 32 | u64::from(frame.code(4)), Ordering::Relaxed),
                _ => {
                    if let Some(flood) = ledger.leaves(frame) {
                        let _ = findings.flood.set(flood);
                    }
                }
            });
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

/// What each kind of frame may still cost.
#[derive(Debug)]
struct Ledger {
    resets: Bucket,
    refused: Bucket,
    pings: Bucket,
    settings: Bucket,
    window_updates: Bucket,
    priorities: Bucket,
    empty: Bucket,
    unknown: Bucket,
}

impl Ledger {
    fn new(rate: Rate) -> Self {
        let bucket = || Bucket::new(rate.per / rate.count, rate.per);
        Self {
            resets: bucket(),
            refused: Bucket::new(rate.per / rate.count / REFUSED, rate.per),
            pings: bucket(),
            settings: bucket(),
            window_updates: bucket(),
            priorities: bucket(),
            empty: bucket(),
            unknown: bucket(),
        }
    }

    fn arrives(&mut self, frame: Frame<'_>) -> Option<Flood> {
        match frame.kind {
            DATA if frame.length > 0 || frame.has(END_STREAM) => None,
            HEADERS if frame.length > 0 || frame.has(END_HEADERS) => {
                // With a request come its window and its place among the others.
                self.window_updates.earn(2);
                self.priorities.earn(2);
                None
            }
            CONTINUATION if frame.length >= FRAGMENT || frame.has(END_HEADERS) => None,
            DATA | HEADERS | CONTINUATION => self.empty.spend(Flood::Empty),
            PRIORITY | PRIORITY_UPDATE => self.priorities.spend(Flood::Priorities),
            RST_STREAM => self.resets.spend(Flood::Resets),
            SETTINGS => self.settings.spend(Flood::Settings),
            PING => self.pings.spend(Flood::Pings),
            WINDOW_UPDATE => self.window_updates.spend(Flood::WindowUpdates),
            _ => self.unknown.spend(Flood::Unknown),
        }
    }

    fn leaves(&mut self, frame: Frame<'_>) -> Option<Flood> {
        /// PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR (RFC 9113 §7): the client's faults. What fails
        /// behind us is reset by other codes.
        const PROVOKED: [u32; 4] = [1, 3, 5, 6];
        const REFUSED_STREAM: u32 = 7;
        match frame.kind {
            DATA => {
                let updates = 2 + frame.length / 1024;
                self.window_updates.earn(u32::try_from(updates).unwrap_or(EARNED));
                self.pings.earn(1);
                None
            }
            HEADERS => {
                self.pings.earn(1);
                None
            }
            RST_STREAM if PROVOKED.contains(&frame.code(0)) => self.resets.spend(Flood::Resets),
            RST_STREAM if frame.code(0) == REFUSED_STREAM => self.refused.spend(Flood::RefusedStreams),
            _ => None,
        }
    }
}

/// A token bucket, kept as the moment at which it will be full again; and what was earned beside it.
#[derive(Debug)]
struct Bucket {
    each: Duration,
    depth: Duration,
    full: Instant,
    earned: u32,
}

impl Bucket {
    fn new(each: Duration, depth: Duration) -> Self {
        Self { each, depth, full: Instant::now(), earned: 0 }
    }

    fn earn(&mut self, frames: u32) {
        self.earned = self.earned.saturating_add(frames).min(EARNED);
    }

    fn spend(&mut self, flood: Flood) -> Option<Flood> {
        if let Some(left) = self.earned.checked_sub(1) {
            self.earned = left;
            return None;
        }
        self.spend_at(Instant::now(), flood)
    }

    fn spend_at(&mut self, now: Instant, flood: Flood) -> Option<Flood> {
        let full = self.full.max(now) + self.each;
        if full > now + self.depth {
            return Some(flood);
        }
        self.full = full;
        None
    }
}

#[async_trait]
impl Shutdown for Counted {
    async fn shutdown(&mut self) {
        Shutdown::shutdown(&mut *self.conn).await;
    }
}

impl UniqueID for Counted {
    fn id(&self) -> UniqueIDType {
        self.conn.id()
    }
}

impl Ssl for Counted {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.conn.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.conn.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.conn.selected_alpn_proto()
    }
}

impl GetTimingDigest for Counted {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.conn.get_timing_digest()
    }
}

impl GetProxyDigest for Counted {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.conn.get_proxy_digest()
    }
}

impl GetSocketDigest for Counted {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.conn.get_socket_digest()
    }
}

impl Peek for Counted {}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { count: 200, per: Duration::from_secs(10) };

    fn head(kind: u8, flags: u8, length: usize) -> Frame<'static> {
        Frame { length, kind, flags, payload: &[] }
    }

    fn reset(code: &'static [u8]) -> Frame<'static> {
        Frame { length: 4, kind: RST_STREAM, flags: 0, payload: code }
    }

    /// How many pass before the flood, and what it is.
    fn until(mut next: impl FnMut(&mut Ledger) -> Option<Flood>) -> (usize, Flood) {
        let mut ledger = Ledger::new(RATE);
        (0..100_000).find_map(|n| next(&mut ledger).map(|flood| (n, flood))).unwrap()
    }

    #[test]
    fn floods_are_found() {
        for (frame, flood) in [
            (head(RST_STREAM, 0, 4), Flood::Resets),
            (head(PING, 0, 8), Flood::Pings),
            (head(PING, 1, 8), Flood::Pings),
            (head(SETTINGS, 0, 0), Flood::Settings),
            (head(SETTINGS, 1, 0), Flood::Settings),
            (head(WINDOW_UPDATE, 0, 4), Flood::WindowUpdates),
            (head(PRIORITY, 0, 5), Flood::Priorities),
            (head(PRIORITY_UPDATE, 0, 9), Flood::Priorities),
            (head(DATA, 0, 0), Flood::Empty),
            (head(HEADERS, 0, 0), Flood::Empty),
            (head(CONTINUATION, 0, 0), Flood::Empty),
            (head(CONTINUATION, 0, 1023), Flood::Empty),
            (head(99, 0, 0), Flood::Unknown),
            (head(GOAWAY, 0, 8), Flood::Unknown),
        ] {
            // A slow machine may earn one in between.
            let (passed, found) = until(|ledger| ledger.arrives(frame));
            assert!((200..220).contains(&passed) && found == flood, "{frame:?}: {passed} {found:?}");
        }
    }

    #[test]
    fn resets_that_a_client_provokes_are_its_own() {
        let (passed, flood) = until(|ledger| ledger.leaves(reset(&[0, 0, 0, 5])));
        assert!((200..220).contains(&passed) && flood == Flood::Resets);
        let (passed, flood) = until(|ledger| ledger.leaves(reset(&[0, 0, 0, 7])));
        assert!((2000..2200).contains(&passed) && flood == Flood::RefusedStreams);
        let mut ledger = Ledger::new(RATE);
        for code in [&[0, 0, 0, 0], &[0, 0, 0, 2], &[0, 0, 0, 8]] {
            assert!((0..10_000).all(|_| ledger.leaves(reset(code)).is_none()), "{code:?}");
        }
    }

    #[test]
    fn what_ordinary_traffic_brings_along_is_no_flood() {
        let mut ledger = Ledger::new(RATE);
        for _ in 0..20_000 {
            let request = [head(HEADERS, END_HEADERS, 30), head(PRIORITY, 0, 5), head(WINDOW_UPDATE, 0, 4)];
            assert!(request.into_iter().all(|frame| ledger.arrives(frame).is_none()));
            // Small windows: each DATA frame is answered on its stream and on the connection, and measured by a PING.
            for _ in 0..5 {
                assert_eq!(ledger.leaves(head(DATA, 0, 100)), None);
                let answer = [head(WINDOW_UPDATE, 0, 4), head(WINDOW_UPDATE, 0, 4), head(PING, 0, 8)];
                assert!(answer.into_iter().all(|frame| ledger.arrives(frame).is_none()));
            }
            // One large one is read in small pieces.
            ledger.leaves(head(DATA, 0, 16_384));
            assert!((0..16).all(|_| ledger.arrives(head(WINDOW_UPDATE, 0, 4)).is_none()));
            // An upload in small pieces, and its end.
            assert!((0..9).all(|_| ledger.arrives(head(DATA, 0, 1)).is_none()));
            assert_eq!(ledger.arrives(head(DATA, END_STREAM, 0)), None);
            // A long head.
            assert_eq!(ledger.arrives(head(HEADERS, 0, 16_384)), None);
            assert_eq!(ledger.arrives(head(CONTINUATION, 0, 8_000)), None);
            assert_eq!(ledger.arrives(head(CONTINUATION, END_HEADERS, 10)), None);
        }
    }

    #[test]
    fn what_is_earned_is_bounded() {
        let mut ledger = Ledger::new(RATE);
        for _ in 0..100_000 {
            ledger.leaves(head(DATA, 0, 16_384));
        }
        let passed = (0..200_000).take_while(|_| ledger.arrives(head(WINDOW_UPDATE, 0, 4)).is_none()).count();
        assert!((65_736..66_000).contains(&passed), "{passed}");
    }

    #[test]
    fn a_bucket_fills_again() {
        let mut bucket = Bucket::new(RATE.per / RATE.count, RATE.per);
        let began = Instant::now();
        let mut spend =
            |after: u64| bucket.spend_at(began + Duration::from_millis(after), Flood::Pings).is_none();
        assert_eq!((0..300).filter(|_| spend(1)).count(), 200);
        assert_eq!((0..300).filter(|_| spend(501)).count(), 10);
        // However long it was idle, no more than it holds.
        assert_eq!((0..300).filter(|_| spend(100_000)).count(), 200);
    }
}
