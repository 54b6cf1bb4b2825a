//! The records of those keys of a limit that it has refused lately: a table of fixed size, which forgets nothing that still counts.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Conduct, Nanos, Rules, SavedPenalty, Word};
use crate::policy::rate_limit::KeyHash;

/// Records of a set.
const WAYS: usize = 7;
/// Sets that are looked at to say how many keys are cooled off.
const SAMPLE: usize = 4096;

/// The records of one limit.
pub(in super::super) struct Penalties {
    sets: Box<[Line]>,
    /// One more, so that there is one.
    last: Line,
    /// When the last cool-off ends. Before the first one, and after it, nobody need be looked for.
    latest: AtomicU64,
    begun: AtomicU64,
    missed: AtomicU64,
}

/// What a table tells of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PenaltyFigures {
    /// Keys that are cooled off now; in a table of more than 4096 sets a sample says.
    pub cooled_off: u64,
    /// Cool-offs that have begun.
    pub begun: u64,
    /// Refused requests that there was no room to remember.
    pub missed: u64,
}

/// A key that has no record is told by the first line of the cache alone.
#[repr(align(64))]
struct Line(Mutex<Set>);

#[repr(C)]
struct Set {
    fingerprints: [u64; WAYS],
    records: [Record; WAYS],
}

/// The other half of a key's hash, and what is known of it.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    place: u64,
    conduct: Conduct,
}

const _: () = assert!(size_of::<Line>() == 512, "a set is eight lines of the cache");

impl Penalties {
    /// Takes that much memory and no more ever, a set at least: 14 records fit in a KiB.
    pub(in super::super) fn new(bytes: usize) -> Self {
        Self::of(bytes / size_of::<Line>())
    }

    /// Whether it is as large as one of so many bytes.
    pub(in super::super) const fn fills(&self, bytes: usize) -> bool {
        let sets = bytes / size_of::<Line>();
        self.sets.len() + 1 == if sets > 0 { sets } else { 1 }
    }

    /// What it knows, in so much memory. Where that has no room for all, those that are cooled off come first.
    pub(in super::super) fn resized(&self, bytes: usize, now: Nanos) -> Self {
        let new = Self::new(bytes);
        for cooled_off in [true, false] {
            for line in self.lines() {
                let (fingerprints, records) = {
                    let set = line.lock();
                    (set.fingerprints, set.records)
                };
                let both = fingerprints.into_iter().zip(records);
                let is_meant = |conduct: &Conduct| {
                    conduct.since > 0 && conduct.rest(now.as_nanos()).is_some() == cooled_off
                };
                both.filter(|(_, record)| is_meant(&record.conduct))
                    .for_each(|(own, record)| new.put(KeyHash::from_bits(own, record.place), record.conduct));
            }
        }
        for (to, from) in [(&new.begun, &self.begun), (&new.missed, &self.missed)] {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        new
    }

    fn lines(&self) -> impl Iterator<Item = &Line> {
        self.sets.iter().chain(std::iter::once(&self.last))
    }

    pub(super) fn of(sets: usize) -> Self {
        Self {
            sets: (1..sets).map(|_| Line::new()).collect(),
            last: Line::new(),
            latest: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        }
    }

    /// How long a key is cooled off yet; none where it is not. Looks at one line of the cache, at none while nobody is cooled off.
    pub(in super::super) fn rest(&self, key: KeyHash, now: Nanos) -> Option<Duration> {
        let now = now.as_nanos();
        if now >= self.latest.load(Ordering::Relaxed) {
            return None;
        }
        let mut set = self.set(key);
        let rest = set.find(key)?.conduct.rest(now)?;
        Some(Duration::from_nanos(rest))
    }

    /// A key's bucket had no tokens for a request, and has them again in `wait`: what it is told.
    pub(in super::super) fn refused(&self, rules: &Rules, key: KeyHash, wait: Duration, now: Nanos) -> Word {
        let wait = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        let now = now.as_nanos();
        let mut set = self.set(key);
        let Some(record) = set.find_or_enter(key, rules, now) else {
            self.missed.fetch_add(1, Ordering::Relaxed);
            // As one that is told to wait for the first time, so that what is said does not depend on others.
            return rules.refuse(&mut Conduct::default(), wait, now).0;
        };
        let (word, begins) = rules.refuse(&mut record.conduct, wait, now);
        if begins {
            self.begun.fetch_add(1, Ordering::Relaxed);
            self.latest.fetch_max(record.conduct.until, Ordering::Relaxed);
        }
        word
    }

    /// What a metric shows. Locks sets one after the other, 4096 at most.
    pub(in super::super) fn figures(&self, now: Nanos) -> PenaltyFigures {
        let now = now.as_nanos();
        let total = self.sets.len() + 1;
        let stride = total.div_ceil(SAMPLE).max(1);
        let (seen, held) = self.lines().step_by(stride).fold((0_usize, 0_usize), |(seen, held), line| {
            let set = line.lock();
            let cooled_off = |record: &&Record| record.conduct.rest(now).is_some();
            (seen + 1, held + set.records.iter().filter(cooled_off).count())
        });
        PenaltyFigures {
            cooled_off: (held * total / seen.max(1)) as u64,
            begun: self.begun.load(Ordering::Relaxed),
            missed: self.missed.load(Ordering::Relaxed),
        }
    }

    /// What of it outlives the process.
    pub(in super::super) fn saved(&self, now: Nanos) -> impl Iterator<Item = SavedPenalty> + '_ {
        let now = now.as_nanos();
        self.lines().flat_map(move |line| {
            let (fingerprints, records) = {
                let set = line.lock();
                (set.fingerprints, set.records)
            };
            let both = fingerprints.into_iter().zip(records);
            both.filter_map(move |(own, record)| SavedPenalty::of(own, record.place, &record.conduct, now))
        })
    }

    /// Puts back what another process has saved; before anybody is refused. What has no room is forgotten.
    pub(in super::super) fn restore(&self, saved: &SavedPenalty, now: Nanos) {
        let SavedPenalty { fingerprint, place, .. } = *saved;
        self.put(KeyHash::from_bits(fingerprint, place), saved.conduct(now.as_nanos()));
    }

    /// Gives a record to a key that has none. What has no room is forgotten.
    fn put(&self, key: KeyHash, conduct: Conduct) {
        let mut set = self.set(key);
        let Some(at) = set.records.iter().position(|record| record.conduct.since == 0) else { return };
        if let Some(own) = set.fingerprints.get_mut(at) {
            *own = key.fingerprint;
        }
        if let Some(free) = set.records.get_mut(at) {
            *free = Record { place: key.place, conduct };
        }
        drop(set);
        if conduct.cooled_off {
            self.latest.fetch_max(conduct.until, Ordering::Relaxed);
        }
    }

    fn set(&self, key: KeyHash) -> MutexGuard<'_, Set> {
        let total = self.sets.len() as u128 + 1;
        let place = (u128::from(key.place) * total) >> 64;
        let line = usize::try_from(place).ok().and_then(|place| self.sets.get(place));
        line.unwrap_or(&self.last).lock()
    }
}

impl fmt::Debug for Penalties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Penalties").field("sets", &(self.sets.len() + 1)).finish_non_exhaustive()
    }
}

impl Line {
    fn new() -> Self {
        Self(Mutex::new(Set { fingerprints: [0; WAYS], records: [Record::default(); WAYS] }))
    }

    fn lock(&self) -> MutexGuard<'_, Set> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Set {
    fn find(&mut self, key: KeyHash) -> Option<&mut Record> {
        let mut both = self.fingerprints.iter().zip(&mut self.records);
        let found = both.find(|(own, record)| **own == key.fingerprint && record.place == key.place);
        found.map(|(_, record)| record)
    }

    /// The key's record, else one that says nothing any more, which becomes the key's. None where all say something.
    fn find_or_enter(&mut self, key: KeyHash, rules: &Rules, now: u64) -> Option<&mut Record> {
        let is_own = |(own, record): &(&u64, &Record)| **own == key.fingerprint && record.place == key.place;
        let both = || self.fingerprints.iter().zip(&self.records);
        if let Some(at) = both().position(|pair| is_own(&pair)) {
            return self.records.get_mut(at);
        }
        let at = self.records.iter().position(|record| record.conduct.is_void(rules, now))?;
        *self.fingerprints.get_mut(at)? = key.fingerprint;
        let record = self.records.get_mut(at)?;
        *record = Record { place: key.place, conduct: Conduct::default() };
        Some(record)
    }
}
