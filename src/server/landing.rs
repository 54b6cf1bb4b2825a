//! Answers over HTTP/2 that have been handed to h2 and lie there until the client takes them: their requests are in flight until the
//! last frame has left, or the stream is over in another way.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::framing::frames::{DATA, END_STREAM, Frame, HEADERS, RST_STREAM};

/// What a request holds while it is in flight.
pub(super) type Held = Box<dyn Send>;

/// Streams that are known at once. A client that reads nothing can begin more than h2 will serve; what it holds beyond is let go as soon as it
/// has been answered.
const KEPT: usize = 1024;

/// The streams of a connection that are not over; what those hold whose answers are complete. A stream is known from the HEADERS that begin
/// it, since it may be over before h2 hands it over: h2 hands over what was reset in the same read as well.
#[derive(Default)]
pub(super) struct Landing(HashMap<u32, Option<Held>, FixedState>);

impl Landing {
    /// HEADERS of the client's begin this one.
    pub(super) fn begins(&mut self, stream: u32) {
        if self.0.len() < KEPT {
            self.0.insert(stream, None);
        }
    }

    /// Its answer is complete. Gives back what it held where the stream is over already.
    pub(super) fn answered(&mut self, stream: u32, held: Held) -> Option<Held> {
        match self.0.get_mut(&stream) {
            Some(kept) => {
                *kept = Some(held);
                None
            }
            None => Some(held),
        }
    }

    /// A frame of the client's. What it gives back is to be dropped when nothing is locked.
    pub(super) fn arrives(&mut self, frame: Frame<'_>) -> Option<Held> {
        if frame.kind == RST_STREAM { self.0.remove(&frame.stream).flatten() } else { None }
    }

    /// A frame of ours, likewise.
    pub(super) fn leaves(&mut self, frame: Frame<'_>) -> Option<Held> {
        let is_last = match frame.kind {
            RST_STREAM => true,
            DATA | HEADERS => frame.has(END_STREAM),
            _ => false,
        };
        if is_last { self.0.remove(&frame.stream).flatten() } else { None }
    }

    /// How many answers are complete and have not left.
    pub(super) fn waiting(&self) -> usize {
        self.0.values().flatten().count()
    }
}

impl std::fmt::Debug for Landing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Landing").field("streams", &self.0.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32) -> Frame<'static> {
        Frame { length: 1, kind, flags, stream, payload: &[] }
    }

    #[test]
    fn what_a_request_holds_is_held_until_its_stream_is_over() {
        let counted = Arc::new(());
        let held = || Box::new(Arc::clone(&counted)) as Held;
        let mut landing = Landing::default();
        for stream in [1, 3, 5, 7, 9, 11] {
            landing.begins(stream);
        }
        // Reset by the client, and by h2, before anybody has heard of them.
        assert!(landing.arrives(frame(RST_STREAM, 0, 9)).is_none());
        assert!(landing.leaves(frame(RST_STREAM, 0, 11)).is_none());
        for stream in [9, 11] {
            drop(landing.answered(stream, held()).expect("it is over"));
        }
        // Gone before its task knows.
        assert!(landing.leaves(frame(HEADERS, 0, 1)).is_none());
        assert!(landing.leaves(frame(DATA, END_STREAM, 1)).is_none());
        drop(landing.answered(1, held()).expect("it has left"));
        for stream in [3, 5, 7] {
            assert!(landing.answered(stream, held()).is_none());
        }
        assert_eq!((landing.waiting(), Arc::strong_count(&counted)), (3, 4));
        drop(landing.leaves(frame(HEADERS, END_STREAM, 3)));
        drop(landing.arrives(frame(RST_STREAM, 0, 5)));
        assert!(landing.arrives(frame(DATA, END_STREAM, 7)).is_none(), "the client's own end");
        assert_eq!((landing.waiting(), Arc::strong_count(&counted)), (1, 2));
        // Of more than are kept, none is held for longer than its answer takes.
        (0..10_000).for_each(|n| landing.begins(13 + 2 * n));
        assert_eq!(landing.0.len(), KEPT);
        assert!(landing.answered(20_001, held()).is_some());
        drop(landing);
        assert_eq!(Arc::strong_count(&counted), 1);
    }
}
