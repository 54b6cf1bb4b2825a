//! What a client of HTTP/2 has begun and not finished: a frame, or a header block in several (RFC 9113 §4.3). It has as long for it
//! as HTTP/1 has for a head. Only headers of frames are looked at; DATA has the clock of its stream.

use tokio::time::Instant;

/// Before the first frame of a client (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// A frame's length, type, flags and stream (RFC 9113 §4.1).
const HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;

/// Follows the frames that arrive.
#[derive(Debug)]
pub(super) struct Begun {
    /// Bytes left of the preface, or of a frame's payload.
    skip: usize,
    head: [u8; HEADER],
    have: usize,
    /// Whether a header block goes on in the next frame.
    block: bool,
    since: Option<Instant>,
}

impl Begun {
    /// From the preface on, which has a deadline of its own.
    pub(super) fn new() -> Self {
        Self { skip: PREFACE, head: [0; HEADER], have: 0, block: false, since: None }
    }

    /// Since when the client has been at what it has begun; none where it has finished everything.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Notes what has arrived.
    pub(super) fn note(&mut self, bytes: &[u8], now: impl FnOnce() -> Instant) {
        let finished = self.scan(bytes);
        let payload = self.skip > 0 && self.kind() != DATA;
        if self.have == 0 && !payload && !self.block {
            self.since = None;
        } else if finished || self.since.is_none() {
            self.since = Some(now());
        }
    }

    /// Whether something has been finished in these bytes.
    fn scan(&mut self, mut bytes: &[u8]) -> bool {
        let mut finished = false;
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                finished |= self.skip == 0 && !self.block;
                continue;
            }
            let (taken, rest) = bytes.split_at((HEADER - self.have).min(bytes.len()));
            if let Some(room) = self.head.get_mut(self.have..self.have + taken.len()) {
                room.copy_from_slice(taken);
            }
            self.have += taken.len();
            bytes = rest;
            if self.have < HEADER {
                break;
            }
            self.have = 0;
            let [a, b, c, kind, flags, ..] = self.head;
            self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if matches!(kind, HEADERS | CONTINUATION) {
                self.block = flags & END_HEADERS == 0;
            }
            finished |= self.skip == 0 && !self.block;
        }
        finished
    }

    fn kind(&self) -> u8 {
        let [_, _, _, kind, ..] = self.head;
        kind
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut bytes = u32::try_from(length).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.resize(HEADER + length, 0);
        bytes
    }

    #[test]
    fn what_is_begun_counts_from_its_beginning() {
        let began = Instant::now();
        let at = |s| began + Duration::from_secs(s);
        let mut own = Begun::new();
        own.note(&[0; 20], || at(0));
        assert_eq!(own.since(), None, "the preface has its own deadline");
        own.note(&[[0; 4].as_slice(), &frame(4, 0, 6)].concat(), || at(1));
        assert_eq!(own.since(), None);
        // A header cut in the middle, then its payload byte by byte.
        let headers = frame(HEADERS, END_HEADERS, 20);
        for (n, byte) in headers.iter().enumerate() {
            own.note(&[*byte], || at(2 + n as u64));
            let done = n + 1 == headers.len();
            assert_eq!(own.since(), (!done).then(|| at(2)), "{n}");
        }
        // A block goes on in frames that are each whole.
        own.note(&frame(HEADERS, 0, 3), || at(50));
        own.note(&frame(CONTINUATION, 0, 3), || at(60));
        assert_eq!(own.since(), Some(at(50)));
        own.note(&frame(CONTINUATION, END_HEADERS, 3), || at(61));
        assert_eq!(own.since(), None);
        // Whoever finishes one and begins another has the time anew; DATA is its stream's affair.
        own.note(&frame(6, 0, 8)[..3], || at(70));
        own.note(&[&frame(6, 0, 8)[3..], &frame(6, 0, 8)[..3]].concat(), || at(75));
        assert_eq!(own.since(), Some(at(75)));
        own.note(&[&frame(6, 0, 8)[3..], &frame(DATA, 0, 100)[..40]].concat(), || at(80));
        assert_eq!(own.since(), None);
    }
}
