//! One limit's buckets: a table of fixed size that is exact while it has room, and an estimator for what has none.
//!
//! # A decision
//! A key falls into one *set* of seven entries, two neighbouring lines of the cache with a lock of their own. An entry is a
//! fingerprint and the time at which the bucket is full. A decision locks its set, looks for its key, decides, unlocks. An
//! entry whose bucket is full says no more than none, so it is free: only keys below a full bucket need room.
//!
//! Where seven others are below a full bucket, the [`Screen`] counts the key. While its estimate is at most an eighth of the
//! burst, it passes (an *overflow*). Above that it gets a bucket (a *promotion*), which starts full; the one that owes least
//! must go (an *eviction*), and what it owed is forgotten.
//!
//! The other order, to screen all keys first and give a bucket to those above an eighth, refuses nobody within the limit
//! either. It costs every decision the sketch's lines, most of them the set's too, and what is screened passes beside the bucket, in each
//! window anew. `benches/limits.rs` runs both, `docs/limits.md` has the numbers.
//!
//! # Nobody within the limit is refused
//! Only a bucket refuses, and only for its debt. The debt is what this key has spent since its bucket began, less what time has
//! brought; it began with none. Whatever others do can only make it forgotten, and the estimator refuses nobody. What a key has spent
//! is rounded down, what it may spend is not (see `gcra.rs`). Two keys are taken for one with a probability of 2⁻⁵⁶ for
//! each of the seven in the set that a new key falls into, and nobody without the secret can look for such keys (see
//! `hash.rs`).
//!
//! # What a key can get at most
//! In a time `t`, with a burst `b`: `(1 + 1/8) · b + rate · t`, and for each time that it was evicted what it owed then and
//! another eighth. For a key's life is a row of times with the estimator and times with a bucket. The former pass at most an
//! eighth of a burst and `rate · t` of their time (see `screen.rs`). A bucket that is evicted with a debt `d` has
//! passed `d` and `rate · t` of its time, the last one at most `b` and that.
//!
//! A key is evicted only where eight keys of one set are below a full bucket at once and the estimate of the eighth is above an
//! eighth of its burst; and it is the one that owes least. So who floods with keys that ask once does not dislodge who has spent
//! much. Of more than seven keys of one set that all spend as fast as they can, six are held to the limit and the others are
//! not: no table refuses what it has no room to remember without refusing innocents too. [`Buckets::figures`] says when
//! that happens.
//!
//! Threads do not race for a bucket: a set's time does not go back, so a thread that decides late finds what others have
//! taken meanwhile. In the estimator a thread that is two windows late may lose what it counts.
//!
//! # Clocks
//! A set keeps the latest time that it has seen. A time up to a second earlier is taken for that (a thread that waited between
//! reading the clock and deciding); an earlier one means that the clock was set back: then no time has passed, debts
//! stay as they were, and time goes on from there.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::gcra::{Gcra, Nanos, Taken};
use super::hash::KeyHash;
use super::saved::Saved;
use super::screen::{STALE, Screen};

/// Entries of a set.
const WAYS: usize = 7;
/// The estimator has a sixteenth of the memory, and no more counters a row than a core's own cache holds: it is read at random.
const SCREEN_SHARE: usize = 16;
const SCREEN_SLOTS: (usize, usize) = (16, 1 << 14);
/// Windows of the estimator are at least this long, so that its sketches are not always being emptied.
const WINDOW_MIN: Duration = Duration::from_millis(100);
/// Sets that are looked at to say how many entries there are.
const SAMPLE: usize = 4096;

/// The buckets of one limit. See the module.
pub struct Buckets {
    sets: Box<[Line]>,
    /// One more, so that there is one.
    last: Line,
    screen: Screen,
    counters: Counters,
}

/// A set in two lines of the cache, which processors fetch together.
#[repr(align(128))]
struct Line(Mutex<Set>);

const _: () = assert!(size_of::<Line>() == 128, "a set is two lines of the cache");

struct Set {
    /// The latest time that it has seen, in nanoseconds.
    latest: u64,
    entries: [Entry; WAYS],
}

#[derive(Clone, Copy)]
struct Entry {
    fingerprint: u64,
    /// When the bucket is full, in nanoseconds: free where that has passed.
    full_at: u64,
}

/// Apart from what every decision reads.
#[derive(Default)]
#[repr(align(128))]
struct Counters {
    promotions: AtomicU64,
    evictions: AtomicU64,
    overflows: AtomicU64,
}

/// What a table tells of itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Buckets below full; in a table of more than 4096 sets a sample says.
    pub entries: u64,
    /// Entries that there is room for.
    pub capacity: u64,
    /// Memory, in bytes.
    pub memory: u64,
    /// Keys that had no room and were above an eighth of their burst: they got a bucket.
    pub promotions: u64,
    /// Buckets that were forgotten while they owed something.
    pub evictions: u64,
    /// Decisions that the estimator let pass, because there was no room.
    pub overflows: u64,
    /// By how much estimates were too high when last measured, in tokens.
    pub error: f64,
}

impl Buckets {
    /// Takes that much memory at once and no more ever; 50 to 56 entries fit in a KiB. At least a set and a small sketch, 1664 bytes.
    ///
    /// `slowest` is the limit, of those that hold for some key, whose bucket takes longest to fill.
    pub fn new(bytes: usize, slowest: &Gcra) -> Self {
        let (fewest, most) = SCREEN_SLOTS;
        let slots = (bytes / SCREEN_SHARE / Screen::bytes_each()).clamp(fewest, most);
        let sets = bytes.saturating_sub(slots * Screen::bytes_each()) / size_of::<Line>();
        Self::of(sets, slots, slowest)
    }

    pub(super) fn of(sets: usize, slots: usize, slowest: &Gcra) -> Self {
        Self {
            sets: (1..sets).map(|_| Line::new()).collect(),
            last: Line::new(),
            screen: Screen::new(slots, slowest.window().max(WINDOW_MIN)),
            counters: Counters::default(),
        }
    }

    /// Takes `cost` tokens of a key's, or says how long until there are as many. Waits for nobody but a decision in the same set.
    pub fn take(&self, key: KeyHash, gcra: &Gcra, cost: u32, now: Nanos) -> Taken {
        self.decide(key, cost, now, |debt| gcra.take(debt, cost))
    }

    /// Whether `cost` tokens of a key's are there; none is taken.
    pub fn look(&self, key: KeyHash, gcra: &Gcra, cost: u32, now: Nanos) -> Taken {
        let mut set = self.set(key);
        let now = set.at(now);
        let debt = set.find(key.fingerprint).map_or(0, |entry| entry.debt(now));
        gcra.look(debt, cost)
    }

    /// Takes `cost` tokens of a key's, whether they are there or not: what only the response could say is settled so. Requests
    /// that were looked at before any of them was settled are all owed, so that the rate holds in the long run.
    pub fn charge(&self, key: KeyHash, gcra: &Gcra, cost: u32, now: Nanos) -> Taken {
        self.decide(key, cost, now, |debt| gcra.charge(debt, cost))
    }

    /// What a metric shows. Locks sets one after the other, 4096 at most.
    pub fn figures(&self, now: Nanos) -> Figures {
        let now = now.as_nanos();
        let total = self.sets.len() + 1;
        let stride = total.div_ceil(SAMPLE).max(1);
        let (seen, live) = self.lines().step_by(stride).fold((0_usize, 0), |(seen, live), line| {
            let set = line.lock();
            (seen + 1, live + set.entries.iter().filter(|entry| entry.debt(now.max(set.latest)) > 0).count())
        });
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Figures {
            entries: (live * total / seen.max(1)) as u64,
            capacity: (total * WAYS) as u64,
            memory: (total * size_of::<Line>() + self.screen.memory()) as u64,
            promotions: read(&self.counters.promotions),
            evictions: read(&self.counters.evictions),
            overflows: read(&self.counters.overflows),
            error: self.screen.error(),
        }
    }

    /// How many sets there are: what is saved of one table goes only into one of as many.
    pub const fn sets(&self) -> usize {
        self.sets.len() + 1
    }

    /// All that owes something, set by set; decisions go on meanwhile.
    pub fn saved(&self, now: Nanos) -> impl Iterator<Item = Saved> + '_ {
        self.lines().zip(0_u32..).flat_map(move |(line, set)| {
            let (entries, now) = {
                let held = line.lock();
                (held.entries, now.as_nanos().max(held.latest))
            };
            entries.into_iter().filter_map(move |entry| {
                let debt = entry.debt(now);
                (debt > 0).then_some(Saved { set, fingerprint: entry.fingerprint, debt })
            })
        })
    }

    /// Puts back what was saved `age` ago, by a table of as many sets and the same [`HashKey`](super::HashKey). Where there is no
    /// room, what owes most stays. A key that has decided meanwhile owes what it owes already, if that is more.
    pub fn restore(&self, saved: impl IntoIterator<Item = Saved>, age: Duration, now: Nanos) {
        let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        for Saved { set, fingerprint, debt } in saved {
            let Some(line) = usize::try_from(set).ok().and_then(|set| self.line(set)) else { continue };
            let debt = Nanos::from_nanos(debt.saturating_sub(age)).as_nanos();
            let mut set = line.lock();
            let now = set.at(now);
            let full_at = now.saturating_add(debt);
            if let Some(entry) = set.find(fingerprint) {
                entry.full_at = entry.full_at.max(full_at);
                continue;
            }
            let least = set.least();
            if least.full_at < full_at {
                if least.full_at > now {
                    add(&self.counters.evictions);
                }
                *least = Entry { fingerprint, full_at };
            }
        }
    }

    /// `judge` says what becomes of a bucket with so much debt.
    fn decide(&self, key: KeyHash, cost: u32, now: Nanos, judge: impl Fn(u64) -> Taken) -> Taken {
        let mut set = self.set(key);
        let now = set.at(now);
        if let Some(entry) = set.find(key.fingerprint) {
            let taken = judge(entry.debt(now));
            entry.full_at = now.saturating_add(taken.debt());
            return taken;
        }
        let taken = judge(0);
        self.enter(&mut set, key, &taken, cost, now);
        taken
    }

    /// Finds room for what a key owes that had none, if it owes anything.
    fn enter(&self, set: &mut Set, key: KeyHash, taken: &Taken, cost: u32, now: u64) {
        if taken.debt() == 0 {
            return;
        }
        let least = set.least();
        if least.full_at > now {
            let estimate = self.screen.count(key, cost, Nanos::from_nanos(now));
            if estimate <= taken.gcra().screened() {
                add(&self.counters.overflows);
                return;
            }
            add(&self.counters.promotions);
            add(&self.counters.evictions);
        }
        *least = Entry { fingerprint: key.fingerprint, full_at: now.saturating_add(taken.debt()) };
    }

    fn set(&self, key: KeyHash) -> MutexGuard<'_, Set> {
        let place = (u128::from(key.place) * self.sets() as u128) >> 64;
        let line = usize::try_from(place).ok().and_then(|place| self.line(place));
        line.unwrap_or(&self.last).lock()
    }

    fn line(&self, set: usize) -> Option<&Line> {
        if set == self.sets.len() { Some(&self.last) } else { self.sets.get(set) }
    }

    fn lines(&self) -> impl Iterator<Item = &Line> {
        self.sets.iter().chain(std::iter::once(&self.last))
    }
}

impl fmt::Debug for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buckets")
            .field("sets", &self.sets())
            .field("screen", &self.screen)
            .finish_non_exhaustive()
    }
}

impl Line {
    fn new() -> Self {
        Self(Mutex::new(Set { latest: 0, entries: [Entry { fingerprint: 0, full_at: 0 }; WAYS] }))
    }

    fn lock(&self) -> MutexGuard<'_, Set> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Set {
    /// What time it is here, given what a clock said.
    fn at(&mut self, clock: Nanos) -> u64 {
        let clock = clock.as_nanos();
        if let Some(back) = self.latest.checked_sub(clock) {
            if back <= STALE {
                return self.latest;
            }
            for entry in &mut self.entries {
                entry.full_at = entry.full_at.saturating_sub(back);
            }
        }
        self.latest = clock;
        clock
    }

    fn find(&mut self, fingerprint: u64) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.fingerprint == fingerprint)
    }

    /// The entry that owes least, or is free.
    fn least(&mut self) -> &mut Entry {
        let [first, others @ ..] = &mut self.entries;
        others
            .iter_mut()
            .fold(first, |least, entry| if entry.full_at < least.full_at { entry } else { least })
    }
}

impl Entry {
    const fn debt(&self, now: u64) -> u64 {
        self.full_at.saturating_sub(now)
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
