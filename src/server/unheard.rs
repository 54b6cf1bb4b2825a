//! Streams that h2 refuses before anybody hears of them: a malformed head, more than there may be, a head too long for it. h2 tells
//! nobody but the client; what it tells is seen as it leaves.
//!
//! A stream is known from the HEADERS that begin it until h2 hands it over or refuses it. A refusal may leave before h2 hands the
//! same stream over (a head, and a fault behind it, in one read): it is taken back then, as the request will have a record.

use std::collections::VecDeque;

use crate::framing::frames::{Frame, HEADERS, RST_STREAM};

/// Streams of which nothing is known yet, and refusals not yet told, on one connection. h2 hands over or refuses what it has read before
/// it waits, so that more are there only behind a client that reads nothing, or that goes on after GOAWAY; the oldest are
/// forgotten then.
const KEPT: usize = 256;

/// How a stream was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// By RST_STREAM with this error code (RFC 9113 §7).
    Reset(u32),
    /// By an answer of h2 itself: 431, as its head is longer than h2 takes.
    HeadTooLong,
}

/// Keeps them.
#[derive(Debug, Default)]
pub(super) struct Unheard {
    newest: u32,
    begun: VecDeque<u32>,
    refused: VecDeque<(u32, Refused)>,
}

impl Unheard {
    /// A frame of the client's. Whether it begins a stream.
    pub(super) fn arrives(&mut self, frame: Frame<'_>) -> bool {
        let begins = frame.kind == HEADERS && frame.stream > self.newest;
        if begins {
            self.newest = frame.stream;
            if self.begun.len() == KEPT {
                self.begun.pop_front();
            }
            self.begun.push_back(frame.stream);
        }
        begins
    }

    /// A frame of ours.
    pub(super) fn leaves(&mut self, frame: Frame<'_>) {
        let how = match frame.kind {
            RST_STREAM => Refused::Reset(frame.code(0)),
            HEADERS => Refused::HeadTooLong,
            _ => return,
        };
        if forget(&mut self.begun, |begun| *begun == frame.stream) && self.refused.len() < KEPT {
            self.refused.push_back((frame.stream, how));
        }
    }

    /// h2 has handed this one over.
    pub(super) fn accepted(&mut self, stream: u32) {
        if !forget(&mut self.begun, |begun| *begun == stream) {
            forget(&mut self.refused, |(refused, _)| *refused == stream);
        }
    }

    /// A refusal that nobody has told yet.
    pub(super) fn next(&mut self) -> Option<Refused> {
        self.refused.pop_front().map(|(_, how)| how)
    }
}

fn forget<T>(known: &mut VecDeque<T>, is: impl Fn(&T) -> bool) -> bool {
    match known.iter().position(is) {
        Some(at) => known.remove(at).is_some(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(stream: u32) -> Frame<'static> {
        Frame { length: 1, kind: HEADERS, flags: 4, stream, payload: &[] }
    }

    fn reset(stream: u32) -> Frame<'static> {
        Frame { length: 4, kind: RST_STREAM, flags: 0, stream, payload: &[0, 0, 0, 1] }
    }

    #[test]
    fn what_is_refused_unheard_is_told_once() {
        let mut unheard = Unheard::default();
        for stream in [1, 3, 5, 7] {
            unheard.arrives(head(stream));
        }
        unheard.leaves(reset(3));
        unheard.leaves(reset(3));
        unheard.leaves(head(7));
        unheard.leaves(reset(7));
        // One nobody began, or that was over long ago.
        unheard.leaves(reset(9));
        unheard.accepted(1);
        unheard.leaves(head(1));
        unheard.leaves(reset(1));
        assert_eq!(unheard.next(), Some(Refused::Reset(1)));
        assert_eq!(unheard.next(), Some(Refused::HeadTooLong));
        assert_eq!(unheard.next(), None);
        // Trailers begin nothing.
        unheard.arrives(head(1));
        unheard.leaves(reset(1));
        assert_eq!(unheard.next(), None);
    }

    #[test]
    fn what_is_handed_over_after_its_reset_is_not_told() {
        let mut unheard = Unheard::default();
        unheard.arrives(head(1));
        unheard.leaves(reset(1));
        unheard.accepted(1);
        assert_eq!(unheard.next(), None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut unheard = Unheard::default();
        for n in 0..10_000 {
            unheard.arrives(head(2 * n + 1));
        }
        assert_eq!(unheard.begun.len(), KEPT);
        for n in 0..10_000 {
            unheard.leaves(reset(2 * n + 1));
            unheard.arrives(head(20_001 + 2 * n));
            unheard.leaves(reset(20_001 + 2 * n));
        }
        assert_eq!(unheard.refused.len(), KEPT);
    }
}
