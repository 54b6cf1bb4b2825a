//! One limit's buckets: a table of fixed size that is exact while it has room, and an estimator for what has none.
//!
//! # A decision
//! A *set* is seven entries in two neighbouring lines of the cache, with a lock of their own. An entry is a fingerprint and
//! the time at which the bucket is full. One whose bucket is full says no more than none, so it is free: only keys below
//! a full bucket need room.
//!
//! A key may live in two sets: the first is its hash's, the other follows from that and the fingerprint (and the first from the other in
//! the same way). It lives in the first, unless that is full when the key first needs room: then in the other, and the first is
//! marked for good. So a decision locks one set, looks for its key, decides, unlocks; only where the key is not there and the set is
//! marked or full it locks the other too, and decides by what both have. It waits for the other while it holds the first only if that is
//! the order of their places; else, where somebody has it, both are locked anew in that order. A key that is in neither set is nowhere,
//! and none is in both.
//!
//! Where fourteen others are below a full bucket, the [`Screen`] counts the key. While its estimate is at most an eighth of the
//! burst, it passes (an *overflow*). Above that it gets a bucket (a *promotion*), which starts full. One of the fourteen moves to its
//! other set, if there is room in one of eight that are looked at; else the one that owes least must go (an *eviction*), and what it
//! owed is forgotten. A key moves with both its sets locked, and both are marked then. Where looking has long been in vain it is done
//! now and then (`buckets/room.rs`).
//!
//! The other order, to screen all keys first and give a bucket to those above an eighth, refuses nobody within the limit
//! either. It costs every decision the sketch's lines, most of them the set's too, and what is screened passes beside the bucket, in each
//! window anew. `benches/limits.rs` runs both, `docs/limits.md` has the numbers.
//!
//! # Nobody within the limit is refused
//! Only a bucket refuses, and only for its debt. The debt is what this key has spent since its bucket began, less what time has
//! brought; it began with none. Whatever others do can only make it forgotten, and the estimator refuses nobody. What a key has spent
//! is rounded down, what it may spend is not (see `gcra.rs`). Two keys are taken for one with a probability of 2⁻⁵⁶ for
//! each of the fourteen that a new key may meet, and nobody without the secret can look for such keys (see `hash.rs`).
//!
//! # What a key can get at most
//! In a time `t`, with a burst `b`: `(1 + 1/8) · b + rate · t`, and for each time that it was evicted what it owed then and
//! another eighth. For a key's life is a row of times with the estimator and times with a bucket. The former pass at most an
//! eighth of a burst and `rate · t` of their time (see `screen.rs`). A bucket that is evicted with a debt `d` has
//! passed `d` and `rate · t` of its time, the last one at most `b` and that.
//!
//! A key is evicted only where all fourteen entries that a newcomer may have are below full at once, eight of them cannot move (or are not asked to, see
//! `buckets/room.rs`), and its estimate is above an eighth of its burst; and it is the one of them that owes least. So who floods with keys that ask once does not dislodge who has
//! spent much. Of more keys than their sets hold, all of which spend as fast as they can, some are not held to the limit: no table
//! refuses what it has no room to remember without refusing innocents too. [`Buckets::figures`] says when that happens. With one
//! set a key and no moves that begins when a third of the room is taken; like this when nine tenths are (`docs/limits.md`).
//!
//! Threads do not race for a bucket: it is looked for and put down under the locks of all sets that it may be in, and a set's time does not go back, so a thread that decides late finds what others have
//! taken meanwhile. In the estimator a thread that is two windows late may lose what it counts.
//!
//! # Clocks
//! A set keeps the latest time that it has seen. A time up to a second earlier is taken for that (a thread that waited between
//! reading the clock and deciding); an earlier one means that the clock was set back: then no time has passed, debts
//! stay as they were, and time goes on from there.

mod carry;
mod pages;
mod room;
mod saved;
mod set;

use std::fmt;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::gcra::{Gcra, Nanos, Taken};
use super::hash::KeyHash;
use super::screen::Screen;
use set::{Entry, Line, Pair, Set, WAYS};

/// The estimator has a sixteenth of the memory, and no more counters a row than a core's own cache holds: it is read at random.
const SCREEN_SHARE: usize = 16;
const SCREEN_SLOTS: (usize, usize) = (16, 1 << 13);
/// Windows of the estimator are at least this long, so that its sketches are not always being emptied.
const WINDOW_MIN: Duration = Duration::from_millis(100);
/// Sets that are looked at to say how many entries there are: all of a table of 8 MiB. A millisecond, or a few where they are in no cache.
const SAMPLE: usize = 65_536;

/// The buckets of one limit. See the module.
pub struct Buckets {
    sets: Box<[Line]>,
    /// One more, so that there is one.
    last: Line,
    screen: Screen,
    /// Until when both sets of a key are fetched at once.
    crowded: AtomicU64,
    counters: Counters,
}

/// Apart from what every decision reads.
#[derive(Default)]
#[repr(align(128))]
struct Counters {
    promotions: AtomicU64,
    /// The number of the last one that found room, because another key moved.
    moved: AtomicU64,
    evictions: AtomicU64,
    overflows: AtomicU64,
}

/// What a table tells of itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Buckets below full: counted in a table up to 8 MiB, taken from a sample of 65,536 sets in a larger one. Then it is, in 19
    /// cases of 20, no more than 2·√(`entries`·(`sets`/65,536 − 1)) off.
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
    /// Takes that much memory at once and no more ever; 50 to 56 entries fit in a KiB. At least a set and a small sketch, 896 bytes.
    ///
    /// `slowest` is the limit, of those that hold for some key, whose bucket takes longest to fill.
    pub fn new(bytes: usize, slowest: &Gcra) -> Self {
        Self::of(Self::sets_in(bytes), slots_in(bytes), slowest)
    }

    /// How many sets a table of so many bytes has.
    pub(super) fn sets_in(bytes: usize) -> usize {
        (bytes.saturating_sub(slots_in(bytes) * Screen::bytes_each()) / size_of::<Line>()).max(1)
    }

    /// Whether it is as large as one of so many bytes, its estimator too.
    pub(super) fn fills(&self, bytes: usize) -> bool {
        self.sets() == Self::sets_in(bytes) && self.screen.memory() == slots_in(bytes) * Screen::bytes_each()
    }

    /// With so many sets, and the smallest sketch: to hold what there is.
    pub(super) fn with_sets(sets: usize, slowest: &Gcra) -> Self {
        Self::of(sets, SCREEN_SLOTS.0, slowest)
    }

    pub(super) fn of(sets: usize, slots: usize, slowest: &Gcra) -> Self {
        let mut lines = Vec::with_capacity(sets.saturating_sub(1));
        pages::prefer_large(lines.spare_capacity_mut());
        lines.extend((1..sets).map(|_| Line::new()));
        Self {
            sets: lines.into_boxed_slice(),
            last: Line::new(),
            screen: Screen::new(slots, slowest.window().max(WINDOW_MIN)),
            crowded: AtomicU64::new(0),
            counters: Counters::default(),
        }
    }

    /// Takes `cost` tokens of a key's, or says how long until there are as many. Waits for nobody but a decision in the same set.
    pub fn take(&self, key: KeyHash, gcra: &Gcra, cost: u32, now: Nanos) -> Taken {
        self.decide(key, cost, now, |debt| gcra.take(debt, cost))
    }

    /// Begins to fetch what a decision about this key will need, while there is something else to do. Decides nothing.
    pub fn fetch(&self, key: KeyHash) {
        let first = self.first(key);
        self.line(first).fetch();
        if self.crowded.load(Ordering::Relaxed) > 0 {
            self.line(self.other(first, key.fingerprint)).fetch();
        }
    }

    /// Whether `cost` tokens of a key's are there; none is taken.
    pub fn look(&self, key: KeyHash, gcra: &Gcra, cost: u32, now: Nanos) -> Taken {
        gcra.look(self.owed(key, now), cost)
    }

    /// Takes `cost` tokens of a key's, whether they are there or not: what only the response could say is settled so. Requests
    /// that were looked at before any of them was settled are owed, up to another burst: so the rate holds in the long run for a key that
    /// has no more under way at once than that.
    pub fn charge(&self, key: KeyHash, gcra: &Gcra, cost: u32, now: Nanos) -> Taken {
        self.decide(key, cost, now, |debt| gcra.charge(debt, cost))
    }

    /// What a metric shows. Locks sets one after the other, 65,536 at most.
    pub fn figures(&self, now: Nanos) -> Figures {
        let now = now.as_nanos();
        let total = self.sets.len() + 1;
        let stride = total.div_ceil(SAMPLE).max(1);
        let (seen, live) = self.lines().step_by(stride).fold((0_usize, 0), |(seen, live), line| {
            let set = line.lock();
            (
                seen + 1,
                live + set.entries.iter().filter(|entry| entry.debt(now.max(set.latest())) > 0).count(),
            )
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

    /// `judge` says what becomes of a bucket with so much debt.
    fn decide(&self, key: KeyHash, cost: u32, now: Nanos, judge: impl Fn(u64) -> Taken) -> Taken {
        let first = self.place(key, now);
        let mut set = self.lock(first);
        let at = set.at(now);
        if let Some(entry) = set.find(key.fingerprint) {
            return entry.decide(at, judge);
        }
        let taken = judge(0);
        if !set.has_moved() {
            let room = set.room(false);
            if taken.debt() == 0 || room.owed == 0 {
                set.put(&room, key.fingerprint, taken.debt());
                return taken;
            }
        }
        let mut pair = self.both(set, first, key.fingerprint, now);
        if let Some((entry, at)) = pair.find(key.fingerprint) {
            return entry.decide(at, judge);
        }
        if taken.debt() > 0 {
            let room = pair.room();
            if room.owed == 0 {
                pair.put(&room, key.fingerprint, taken.debt());
            } else {
                let at = Nanos::from_nanos(room.now);
                if self.promotes(key, cost, taken.gcra(), at) {
                    let room = self.room(&mut pair, (first, self.other(first, key.fingerprint)), now);
                    pair.put(&room, key.fingerprint, taken.debt());
                }
            }
        }
        taken
    }

    /// What a key owes. Locks its first set, and the other where it may be there.
    fn owed(&self, key: KeyHash, now: Nanos) -> u64 {
        let first = self.place(key, now);
        let mut set = self.lock(first);
        let at = set.at(now);
        if let Some(entry) = set.find(key.fingerprint) {
            return entry.debt(at);
        }
        if !set.has_moved() {
            return 0;
        }
        let mut pair = self.both(set, first, key.fingerprint, now);
        pair.find(key.fingerprint).map_or(0, |(entry, at)| entry.debt(at))
    }

    /// The place of a key's first set. In a table that was overfull lately both of its sets are fetched at once, as most decisions
    /// need both.
    fn place(&self, key: KeyHash, now: Nanos) -> usize {
        let first = self.first(key);
        if now.as_nanos() < self.crowded.load(Ordering::Relaxed) {
            self.line(first).fetch();
            self.line(self.other(first, key.fingerprint)).fetch();
        }
        first
    }

    /// The place of a key's first set.
    fn first(&self, key: KeyHash) -> usize {
        self.share(key.place)
    }

    /// Of the two sets that a key of this fingerprint may be in, the one that this one is not; or this one again. Its class is no
    /// part of that.
    fn other(&self, set: usize, fingerprint: u64) -> usize {
        let sum = self.share(fingerprint & !0xff);
        sum.checked_sub(set).unwrap_or_else(|| (sum + self.sets()).saturating_sub(set))
    }

    /// A set for evenly distributed bits.
    fn share(&self, bits: u64) -> usize {
        let place = (u128::from(bits) * self.sets() as u128) >> 64;
        usize::try_from(place).unwrap_or_default()
    }

    fn line(&self, set: usize) -> &Line {
        self.sets.get(set).unwrap_or(&self.last)
    }

    fn lock(&self, set: usize) -> MutexGuard<'_, Set> {
        self.line(set).lock()
    }

    /// Locks the other set too. Where somebody has it who may wait for this one, both are locked anew, in order: then the first may
    /// have changed.
    fn both<'a>(&'a self, set: MutexGuard<'a, Set>, first: usize, fingerprint: u64, now: Nanos) -> Pair<'a> {
        let other = self.other(first, fingerprint);
        if other == first {
            return Pair::new(set, None, now);
        }
        let held = if other > first { Some(self.lock(other)) } else { self.line(other).try_lock() };
        if held.is_some() {
            return Pair::new(set, held, now);
        }
        drop(set);
        self.pair(first, fingerprint, now)
    }

    /// Locks the two sets that a key of this fingerprint may be in, one of which is this; the one that comes first is locked first.
    fn pair(&self, set: usize, fingerprint: u64, now: Nanos) -> Pair<'_> {
        let other = self.other(set, fingerprint);
        if other < set {
            let other = self.lock(other);
            return Pair::new(self.lock(set), Some(other), now);
        }
        let first = self.lock(set);
        Pair::new(first, (other != set).then(|| self.lock(other)), now)
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

/// The estimator's counters a row, in a table of so many bytes.
fn slots_in(bytes: usize) -> usize {
    let (fewest, most) = SCREEN_SLOTS;
    (bytes / SCREEN_SHARE / Screen::bytes_each()).clamp(fewest, most)
}

/// Which one it is, from 1 on.
fn add(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed) + 1
}

#[cfg(test)]
mod tests;
