//! A set of entries, and the two that a key may be in.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use super::super::gcra::{Nanos, Taken};
use super::super::screen::STALE;

/// Entries of a set.
pub(super) const WAYS: usize = 7;

/// A set in two lines of the cache, which processors fetch together.
#[repr(align(128))]
pub(super) struct Line(Mutex<Set>);

const _: () = assert!(size_of::<Line>() == 128, "a set is two lines of the cache");

pub(super) struct Set {
    /// The latest time that it has seen, in nanoseconds, less than 2⁶³; and [`MOVED`].
    latest: u64,
    pub(super) entries: [Entry; WAYS],
}

/// Some key whose set this is may live in its other one.
const MOVED: u64 = 1 << 63;

/// The sets of a key, locked: the first, and the other where it is another.
pub(super) struct Pair<'a> {
    pub(super) first: MutexGuard<'a, Set>,
    other: Option<MutexGuard<'a, Set>>,
}

/// An entry that a key without one may have.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// In the key's other set.
    is_other: bool,
    index: usize,
    /// The time in its set.
    pub(super) now: u64,
    /// What is owed there yet: nought where it is free.
    pub(super) owed: u64,
}

#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) fingerprint: u64,
    /// When the bucket is full, in nanoseconds: free where that has passed.
    pub(super) full_at: u64,
}

impl Line {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Set { latest: 0, entries: [Entry::FREE; WAYS] }))
    }

    /// Begins to fetch it from memory, so that it is there when it is locked. Waits for nothing, and decides nothing.
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "a prefetch has no safe form; see SAFETY")]
    pub(super) fn fetch(&self) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let line = std::ptr::from_ref(self).cast::<i8>();
        // SAFETY: a prefetch reads and writes nothing as far as the program can tell, and both addresses are within this value. (A read in
        // its place would be waited for before what follows it is done with.)
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(line);
            _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(size_of::<Self>() / 2));
        }
    }

    /// The same where there is no such instruction at hand: it is read.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn fetch(&self) {
        let _ = std::hint::black_box(self.0.is_poisoned());
    }

    /// None where somebody has it locked.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, Set>> {
        match self.0.try_lock() {
            Ok(set) => Some(set),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Set> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Pair<'a> {
    /// What time it is in either, given what a clock said, is seen to.
    #[inline]
    pub(super) fn new(first: MutexGuard<'a, Set>, other: Option<MutexGuard<'a, Set>>, clock: Nanos) -> Self {
        let mut own = Self { first, other };
        own.first.at(clock);
        if let Some(other) = &mut own.other {
            other.at(clock);
        }
        own
    }

    /// A key's entry, and the time in its set.
    #[inline]
    pub(super) fn find(&mut self, fingerprint: u64) -> Option<(&mut Entry, u64)> {
        let now = self.first.latest();
        if let Some(entry) = self.first.find(fingerprint) {
            return Some((entry, now));
        }
        let other = self.other.as_mut()?;
        let now = other.latest();
        other.find(fingerprint).map(|entry| (entry, now))
    }

    /// Where a key that has no entry may have one. It is free where one is, in the first set where one is there; else it is the one that
    /// owes least.
    #[inline]
    pub(super) fn room(&self) -> Room {
        let room = self.first.room(false);
        match &self.other {
            Some(other) if room.owed > 0 => {
                let there = other.room(true);
                if there.owed < room.owed { there } else { room }
            }
            _ => room,
        }
    }

    /// Gives that room to this key, whoever had it.
    #[inline]
    pub(super) fn put(&mut self, room: &Room, fingerprint: u64, debt: u64) {
        if !room.is_other {
            self.first.put(room, fingerprint, debt);
        } else if let Some(other) = &mut self.other {
            other.put(room, fingerprint, debt);
            self.first.set_moved();
        }
    }

    /// Both, the first first.
    pub(super) fn sets(&mut self) -> impl Iterator<Item = &mut Set> {
        let other = self.other.as_deref_mut();
        std::iter::once(&mut *self.first).chain(other)
    }

    /// Keys of either set may live in the other.
    pub(super) fn mark(&mut self) {
        self.first.set_moved();
        if let Some(other) = &mut self.other {
            other.set_moved();
        }
    }
}

impl Set {
    /// What time it is here, given what a clock said.
    pub(super) fn at(&mut self, clock: Nanos) -> u64 {
        let (clock, latest) = (clock.as_nanos(), self.latest());
        if let Some(back) = latest.checked_sub(clock) {
            if back <= STALE {
                return latest;
            }
            for entry in &mut self.entries {
                entry.full_at = entry.full_at.saturating_sub(back);
            }
        }
        self.latest = clock | self.latest & MOVED;
        clock
    }

    pub(super) const fn latest(&self) -> u64 {
        self.latest & !MOVED
    }

    /// Whether some key whose set this is may live in its other one.
    pub(super) const fn has_moved(&self) -> bool {
        self.latest & MOVED != 0
    }

    /// Never unsaid: who would know that none does any more?
    pub(super) const fn set_moved(&mut self) {
        self.latest |= MOVED;
    }

    pub(super) fn find(&mut self, fingerprint: u64) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.fingerprint == fingerprint)
    }

    /// The entry that owes least, or is free.
    #[inline]
    pub(super) fn room(&self, is_other: bool) -> Room {
        let (mut index, mut full_at) = (0, u64::MAX);
        for (at, entry) in self.entries.iter().enumerate() {
            (index, full_at) = if entry.full_at < full_at { (at, entry.full_at) } else { (index, full_at) };
        }
        let now = self.latest();
        Room { is_other, index, now, owed: full_at.saturating_sub(now) }
    }

    /// Gives that room to this key, if it owes anything.
    pub(super) fn put(&mut self, room: &Room, fingerprint: u64, debt: u64) {
        if let Some(entry) = self.entries.get_mut(room.index).filter(|_| debt > 0) {
            *entry = Entry { fingerprint, full_at: room.now.saturating_add(debt) };
        }
    }
}

impl Entry {
    pub(super) const FREE: Self = Self { fingerprint: 0, full_at: 0 };

    pub(super) const fn debt(&self, now: u64) -> u64 {
        self.full_at.saturating_sub(now)
    }

    pub(super) fn decide(&mut self, now: u64, judge: impl Fn(u64) -> Taken) -> Taken {
        let taken = judge(self.debt(now));
        self.full_at = now.saturating_add(taken.debt());
        taken
    }
}
