//! What a client of HTTP/2 has begun and not finished: a frame, or a header block in several (RFC 9113 §4.3). It has as long for it
//! as HTTP/1 has for a head. Only headers of frames are looked at; DATA has the clock of its stream.

use tokio::time::Instant;

use crate::framing::frames::{CONTINUATION, DATA, END_HEADERS, HEADERS, PREFACE, Scanner, Unfinished};

/// Follows the frames that arrive.
#[derive(Debug)]
pub(super) struct Begun {
    scanner: Scanner,
    /// Whether a header block goes on in the next frame.
    block: bool,
    since: Option<Instant>,
}

impl Begun {
    /// From the preface on, which has a deadline of its own.
    pub(super) fn new() -> Self {
        Self { scanner: Scanner::after(PREFACE), block: false, since: None }
    }

    /// Since when the client has been at what it has begun; none where it has finished everything.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Notes what has arrived. Whoever finishes one thing and begins another has the time anew.
    pub(super) fn note(&mut self, bytes: &[u8], now: impl FnOnce() -> Instant) {
        // Whether a frame has been begun before the one that is looked at: with each header, what stood before it is complete.
        let mut earlier = matches!(self.scanner.unfinished(), Unfinished::Payload(_));
        let mut finished = false;
        let block = &mut self.block;
        self.scanner.scan(bytes, |frame| {
            finished |= earlier && !*block;
            earlier = true;
            if matches!(frame.kind, HEADERS | CONTINUATION) {
                *block = !frame.has(END_HEADERS);
            }
        });
        finished |= earlier && !self.block && !matches!(self.scanner.unfinished(), Unfinished::Payload(_));
        if !self.is_within() {
            self.since = None;
        } else if finished || self.since.is_none() {
            self.since = Some(now());
        }
    }

    /// Whether the client is within something that must come to an end.
    fn is_within(&self) -> bool {
        let frame = match self.scanner.unfinished() {
            Unfinished::Nothing | Unfinished::Preface | Unfinished::Payload(DATA) => false,
            Unfinished::Header | Unfinished::Payload(_) => true,
        };
        frame || self.block
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HEADER: usize = 9;

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
