//! What was read of answers and waits for clients to take it.
//!
//! Pingora reads up to 64 KiB of an answer at once, queues four such pieces behind four that it writes, and keeps the buffer: half a MiB
//! for each client that reads nothing. Pieces of that size are what makes large answers cheap, and clients that take them are rid of them
//! at once. So they are given freely until [`FREE`] waits in the whole process; beyond that everybody reads by [`PIECE`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::state::Live;

/// How much may wait, in the whole process, before answers are read in small pieces.
const FREE: usize = 32 << 20;
/// What is read at once then. Pieces no larger are not counted: they are what ordinary answers come in.
const PIECE: usize = 4 << 10;

/// Bytes that wait for clients, of all answers of the process.
#[derive(Debug, Default)]
pub struct Waiting(AtomicUsize);

impl Waiting {
    /// That of the process.
    pub fn of(live: &Live) -> Arc<Self> {
        live.find_or("upstream.waiting", "", Self::default)
    }

    /// How many there are: those in pieces above 4 KiB.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// What waits of one answer.
#[derive(Debug)]
pub struct Backlog {
    all: Arc<Waiting>,
    /// Read, and not taken.
    queued: AtomicUsize,
    /// Taken to be written, together.
    taken: AtomicUsize,
}

impl Backlog {
    pub(super) fn new(all: &Arc<Waiting>) -> Self {
        Self { all: Arc::clone(all), queued: AtomicUsize::new(0), taken: AtomicUsize::new(0) }
    }

    /// The most bytes that may be read at once now.
    pub fn room(&self) -> usize {
        if self.all.bytes() < FREE { usize::MAX } else { PIECE }
    }

    /// A piece was read.
    pub fn add(&self, bytes: usize) {
        if bytes > PIECE {
            self.queued.fetch_add(bytes, Ordering::Relaxed);
            self.all.0.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// All that is queued is taken to be written, once what was taken before has been: Pingora takes what there is at once.
    pub fn take(&self) {
        if self.queued.load(Ordering::Relaxed) > 0 {
            let written = self.taken.swap(self.queued.swap(0, Ordering::Relaxed), Ordering::Relaxed);
            self.all.0.fetch_sub(written, Ordering::Relaxed);
        }
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        let left = *self.queued.get_mut() + *self.taken.get_mut();
        if left > 0 {
            self.all.0.fetch_sub(left, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_counted_until_it_was_written_and_bounds_what_is_read() {
        let all = Arc::new(Waiting::default());
        let (slow, other) = (Backlog::new(&all), Backlog::new(&all));
        slow.add(PIECE);
        assert_eq!((all.bytes(), other.room()), (0, usize::MAX));
        slow.add(FREE - 1);
        assert_eq!(other.room(), usize::MAX);
        slow.add(PIECE + 1);
        assert_eq!((slow.room(), other.room()), (PIECE, PIECE));
        // It is being written; that it is taken piece by piece says nothing.
        slow.take();
        slow.take();
        assert_eq!(all.bytes(), FREE + PIECE);
        // The next is taken: what was taken before has been written.
        slow.add(PIECE + 1);
        slow.take();
        assert_eq!((all.bytes(), other.room()), (PIECE + 1, usize::MAX));
        slow.add(2 * PIECE);
        drop(slow);
        assert_eq!(all.bytes(), 0);
    }
}
