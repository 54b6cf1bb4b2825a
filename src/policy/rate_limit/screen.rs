//! The estimator: counts for more keys than any table holds, in fixed memory, and never too little.
//!
//! A count-min sketch only overestimates: what it says of a key is what the key has spent, and perhaps what others have whose
//! counters it shares. So it may say that a key has spent *little*, and nobody is ever refused by it.
//!
//! It counts in windows, and says what a key has spent in the present one and in the one before. Pingora's sketches are used,
//! not its windows, which may race (`Rate`): here a third sketch is emptied *before* it becomes the present one, by one thread,
//! while the others go on counting in the old one. A thread that counts so late that two windows have begun meanwhile loses what it
//! counts: as many decisions as there are threads, at most, and two windows must pass in the time of one decision.
//!
//! # What it lets pass
//! Where a key passes while the estimate is at most `s`, it passes at most `s` in any two windows that follow each other. A time
//! `t` that touches `k` windows is longer than `k - 2` of them, and in `k` windows at most `⌈k/2⌉ · s` pass. With windows that
//! bring `s` tokens at the limit's rate, that is at most `s + rate · t`.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use pingora_limits::estimator::Estimator;

use super::gcra::Nanos;
use super::hash::KeyHash;

/// Rows of a sketch: an estimate is wrong only if a key shares its counter in every one. With four rows of twice as many counters a count
/// took twice as long (79 ns, 41 like this).
const ROWS: usize = 2;
/// Of those keys that nobody has, so many are asked for at the end of a window: what is said of them is the error.
const PROBES: u64 = 64;
/// A clock that is this much behind is a thread that waited; one that is more, has been set back.
pub(super) const STALE: u64 = 1_000_000_000;

/// Counts what keys have spent in the present window and the one before.
pub struct Screen {
    sketches: [Estimator; 3],
    slots: usize,
    /// Which of them is the present one, and how many there have been.
    present: AtomicUsize,
    /// When the present one began, and how long it is at least.
    began: AtomicU64,
    window: u64,
    /// Whether somebody is beginning the next one.
    turning: AtomicBool,
    /// In thousandths of a token.
    error: AtomicU64,
}

impl Screen {
    /// Sketches of so many counters a row; windows that are at least so long.
    pub fn new(slots: usize, window: Duration) -> Self {
        let slots = slots.max(1);
        let window = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        Self {
            sketches: std::array::from_fn(|_| Estimator::new(ROWS, slots)),
            slots,
            present: AtomicUsize::new(1),
            began: AtomicU64::new(0),
            window: window.max(1),
            turning: AtomicBool::new(false),
            error: AtomicU64::new(0),
        }
    }

    /// What one counter a row takes, in bytes.
    pub(super) const fn bytes_each() -> usize {
        3 * ROWS * size_of::<isize>()
    }

    /// Memory, in bytes.
    pub const fn memory(&self) -> usize {
        self.slots * Self::bytes_each()
    }

    /// Counts `cost` for a key; returns what the key has spent lately, this included, or more.
    pub fn count(&self, key: KeyHash, cost: u32, now: Nanos) -> u64 {
        let (present, counted) = self.add(key, cost, now);
        counted.saturating_add(self.before(present, key))
    }

    /// Counts `cost` for a key; whether what it has spent lately, this included, passes `most`.
    pub(super) fn passes(&self, key: KeyHash, cost: u32, most: u64, now: Nanos) -> bool {
        let (present, counted) = self.add(key, cost, now);
        // In a flood the present window says enough.
        counted > most || counted.saturating_add(self.before(present, key)) > most
    }

    fn add(&self, key: KeyHash, cost: u32, now: Nanos) -> (usize, u64) {
        let present = self.turn(now.as_nanos());
        let cost = isize::try_from(cost).unwrap_or(isize::MAX);
        (present, spent(self.sketch(present).incr(key.fingerprint, cost)))
    }

    /// What a key spent in the window before, or more.
    fn before(&self, present: usize, key: KeyHash) -> u64 {
        spent(self.sketch(present + 2).get(key.fingerprint))
    }

    /// By how much estimates were too high when a window last ended, in tokens, on average.
    pub fn error(&self) -> f64 {
        self.error.load(Ordering::Relaxed) as f64 / 1000.0
    }

    /// Which sketch is the present one; begins the next, where it is time to.
    fn turn(&self, now: u64) -> usize {
        let present = self.present.load(Ordering::Acquire);
        let began = self.began.load(Ordering::Acquire);
        let set_back = now.saturating_add(STALE) < began;
        if !set_back && now.saturating_sub(began) < self.window {
            return present;
        }
        // One begins it; the others count in the old one until then, which counts too much, not too little.
        if self.turning.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return present;
        }
        let present = self.present.load(Ordering::Acquire);
        let began = self.began.load(Ordering::Acquire);
        let next = if now.saturating_add(STALE) < began {
            // The window begins anew: it is to last as long by a clock that was set back.
            self.began.store(now, Ordering::Release);
            present
        } else if now.saturating_sub(began) < self.window {
            present
        } else {
            self.measure(present);
            let next = present + 1;
            self.sketch(next).reset();
            self.present.store(next, Ordering::Release);
            self.began.store(now, Ordering::Release);
            next
        };
        self.turning.store(false, Ordering::Release);
        next
    }

    fn sketch(&self, number: usize) -> &Estimator {
        let [first, second, third] = &self.sketches;
        match number % 3 {
            0 => first,
            1 => second,
            _ => third,
        }
    }

    /// Asks for keys that are nobody's.
    fn measure(&self, present: usize) {
        let estimate = |key| {
            spent(self.sketch(present).get(key)).saturating_add(spent(self.sketch(present + 2).get(key)))
        };
        let sum = (0..PROBES).fold(0_u64, |sum, probe| sum.saturating_add(estimate(probe << 8 | 0xff)));
        self.error.store(sum.saturating_mul(1000) / PROBES, Ordering::Relaxed);
    }
}

/// Counters go round after 2⁶³: then much was spent.
fn spent(counter: isize) -> u64 {
    u64::try_from(counter).unwrap_or(u64::MAX)
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Screen")
            .field("slots", &self.slots)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn key(number: u64) -> KeyHash {
        KeyHash::from_bits(number << 8, 0)
    }

    const fn at(nanoseconds: u64) -> Nanos {
        Nanos::from_nanos(nanoseconds)
    }

    #[test]
    fn two_windows_are_remembered() {
        let screen = Screen::new(1 << 10, Duration::from_nanos(100));
        assert_eq!(screen.count(key(7), 2, at(1000)), 2);
        assert_eq!(screen.count(key(7), 1, at(1099)), 3);
        assert_eq!(screen.count(key(8), 1, at(1099)), 1);
        assert_eq!(screen.count(key(7), 1, at(1100)), 4);
        assert_eq!(screen.count(key(7), 1, at(1200)), 2, "the first is forgotten");
        assert_eq!(screen.count(key(7), 1, at(9000)), 2);
        assert_eq!(screen.count(key(7), 1, at(9100)), 2);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_window_shorter_nor_longer() {
        let screen = Screen::new(1 << 10, Duration::from_nanos(100));
        assert_eq!(screen.count(key(7), 1, at(20 * STALE)), 1);
        assert_eq!(screen.count(key(7), 1, at(20 * STALE - 50)), 2, "a thread that waited");
        assert_eq!(screen.count(key(7), 1, at(STALE)), 3, "set back");
        assert_eq!(screen.count(key(7), 1, at(STALE + 99)), 4);
        assert_eq!(screen.count(key(7), 1, at(STALE + 100)), 5);
        assert_eq!(screen.count(key(7), 1, at(STALE + 200)), 2);
    }

    #[test]
    fn counters_that_go_round_have_counted_much() {
        assert_eq!((spent(-1), spent(5)), (u64::MAX, 5));
        let screen = Screen::new(4, Duration::from_nanos(100));
        assert_eq!(screen.count(key(7), u32::MAX, at(1)), u64::from(u32::MAX));
    }

    #[test]
    fn the_error_is_measured() {
        let screen = Screen::new(16, Duration::from_nanos(100));
        for number in 0..1600 {
            let _ = screen.count(key(number), 1, at(1000));
        }
        assert_eq!(screen.error().to_bits(), 0_f64.to_bits());
        let _ = screen.count(key(0), 1, at(1100));
        // A hundred in every counter, less in the emptier of two.
        assert!(screen.error() > 50.0 && screen.error() < 100.0, "{}", screen.error());
    }

    /// While a window turns nothing that is counted is lost, whoever counts.
    #[test]
    fn nothing_is_lost_while_a_window_turns() {
        const EACH: u64 = 200;
        for round in 0..100 {
            let screen = Screen::new(64, Duration::from_nanos(600));
            assert_eq!(screen.count(key(9), 1, at(1000)), 1);
            let clock = AtomicU64::new(1000 + round);
            std::thread::scope(|scope| {
                for number in [7, 7, 8, 8] {
                    let (screen, clock) = (&screen, &clock);
                    scope.spawn(move || {
                        for _ in 0..EACH {
                            let _ = screen.count(key(number), 1, at(clock.fetch_add(1, Ordering::Relaxed)));
                        }
                    });
                }
            });
            let last = at(clock.into_inner());
            assert!(screen.count(key(7), 0, last) >= 2 * EACH && screen.count(key(8), 0, last) >= 2 * EACH);
        }
    }
}
