//! What each kind of frame may cost: buckets that fill again, beside what ordinary traffic earns.
//!
//! h2 bounds some floods itself (CONTINUATION, resets of streams not yet accepted, empty and tiny DATA); most kinds of control frames
//! it answers for ever. Each kind here has a bucket that fills at `server.limits.http2_resets`. What ordinary traffic brings along is
//! earned beside it: a client answers each DATA frame by WINDOW_UPDATEs, and clients of gRPC by a PING too.

use std::time::{Duration, Instant};

use crate::config::units::Rate;
use crate::framing::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, HEADERS, RST_STREAM, WINDOW_UPDATE,
};

// Types of frames (RFC 9113 §6, RFC 9218 §7.1).
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const PRIORITY_UPDATE: u8 = 16;

const ACK: u8 = 0x1;

/// A piece of a header block that is shorter, with more to follow, was cut to be many.
const FRAGMENT: usize = 1024;
/// Frames that may be earned and not yet used: those of a client that reads a full window of 64 MiB late.
const EARNED: u32 = 1 << 16;
/// Streams that are refused because there are too many cost less than others, and a client that has not read our SETTINGS yet
/// means no harm: so many times the rate.
const REFUSED: u32 = 10;

/// What a connection is ended for: what there was too much of, or the first thing that was missing.
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
    /// Anything before SETTINGS (RFC 9113 §3.4).
    Unsettled,
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
            Self::Unsettled => "http2_preface",
        }
    }
}

/// What each kind of frame may still cost.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Whether the client has begun as it must.
    settled: bool,
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
    pub(super) fn new(rate: Rate) -> Self {
        let bucket = || Bucket::new(rate.per / rate.count, rate.per);
        Self {
            settled: false,
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

    /// A frame of the client's; what there is too much of, if anything.
    pub(super) fn arrives(&mut self, frame: Frame<'_>) -> Option<Flood> {
        if !std::mem::replace(&mut self.settled, true) && (frame.kind != SETTINGS || frame.has(ACK)) {
            return Some(Flood::Unsettled);
        }
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

    /// A frame of ours.
    pub(super) fn leaves(&mut self, frame: Frame<'_>) -> Option<Flood> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::frames::GOAWAY;

    const RATE: Rate = Rate { count: 200, per: Duration::from_secs(10) };

    fn head(kind: u8, flags: u8, length: usize) -> Frame<'static> {
        Frame { length, kind, flags, stream: 1, payload: &[] }
    }

    fn reset(code: &'static [u8]) -> Frame<'static> {
        Frame { length: 4, kind: RST_STREAM, flags: 0, stream: 1, payload: code }
    }

    /// That of a client that has begun as it must.
    fn begun() -> Ledger {
        let mut ledger = Ledger::new(RATE);
        assert_eq!(ledger.arrives(head(SETTINGS, 0, 0)), None);
        ledger
    }

    #[test]
    fn settings_come_first() {
        for first in
            [head(SETTINGS, ACK, 0), head(PING, 0, 8), head(HEADERS, END_HEADERS, 30), head(99, 0, 0)]
        {
            assert_eq!(Ledger::new(RATE).arrives(first), Some(Flood::Unsettled), "{first:?}");
            assert_eq!(begun().arrives(first), None, "{first:?}");
        }
    }

    /// How many pass before the flood, and what it is.
    fn until(mut next: impl FnMut(&mut Ledger) -> Option<Flood>) -> (usize, Flood) {
        let mut ledger = begun();
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
            let expected = if flood == Flood::Settings { 199..219 } else { 200..220 };
            assert!(expected.contains(&passed) && found == flood, "{frame:?}: {passed} {found:?}");
        }
    }

    #[test]
    fn resets_that_a_client_provokes_are_its_own() {
        let (passed, flood) = until(|ledger| ledger.leaves(reset(&[0, 0, 0, 5])));
        assert!((200..220).contains(&passed) && flood == Flood::Resets);
        let (passed, flood) = until(|ledger| ledger.leaves(reset(&[0, 0, 0, 7])));
        assert!((2000..2200).contains(&passed) && flood == Flood::RefusedStreams);
        let mut ledger = begun();
        for code in [&[0, 0, 0, 0], &[0, 0, 0, 2], &[0, 0, 0, 8]] {
            assert!((0..10_000).all(|_| ledger.leaves(reset(code)).is_none()), "{code:?}");
        }
    }

    #[test]
    fn what_ordinary_traffic_brings_along_is_no_flood() {
        let mut ledger = begun();
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
        let mut ledger = begun();
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
