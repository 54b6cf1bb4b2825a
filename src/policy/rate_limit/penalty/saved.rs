//! What of penalties outlives the process: cool-offs, and how many a key has had. Breaches of a moment ago and what a key waits for do
//! not, to its advantage.

use std::time::Duration;

use super::Conduct;
use crate::policy::rate_limit::Nanos;

/// A key that is cooled off, or was lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct SavedPenalty {
    pub(super) fingerprint: u64,
    pub(super) place: u64,
    /// Nanoseconds from when it was saved: until it may come again, and as long as what was is remembered.
    rest: u64,
    remembered: u64,
    level: u8,
}

impl SavedPenalty {
    /// Its length in bytes.
    pub(in super::super) const BYTES: usize = 33;

    /// None where there is nothing that a restart should remember.
    pub(super) fn of(fingerprint: u64, place: u64, conduct: &Conduct, now: u64) -> Option<Self> {
        let (rest, level) = (conduct.rest(now).unwrap_or_default(), conduct.level);
        let remembered = conduct.remembered.saturating_sub(now);
        (level > 0 && (rest > 0 || remembered > 0)).then_some(Self {
            fingerprint,
            place,
            rest,
            remembered,
            level,
        })
    }

    /// The same when this time has passed; none where nothing is left of it.
    pub(in super::super) fn aged(self, age: Duration) -> Option<Self> {
        let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        let (rest, remembered) = (self.rest.saturating_sub(age), self.remembered.saturating_sub(age));
        (rest > 0 || remembered > 0).then_some(Self { rest, remembered, ..self })
    }

    /// How long it is remembered.
    pub(in super::super) const fn lasts(self) -> Duration {
        Duration::from_nanos(if self.rest > self.remembered { self.rest } else { self.remembered })
    }

    /// Which class of keys it is of.
    pub(in super::super) const fn class(&self) -> u8 {
        self.fingerprint.to_le_bytes()[0]
    }

    /// The same in another class.
    pub(in super::super) fn in_class(self, class: u8) -> Self {
        Self { fingerprint: (self.fingerprint & !0xff) | u64::from(class), ..self }
    }

    /// What is known of the key from now on.
    pub(super) fn conduct(&self, now: u64) -> Conduct {
        let after = |time: u64| Nanos::from_nanos(now.saturating_add(time)).as_nanos();
        let until = after(self.rest);
        Conduct {
            since: now,
            until,
            excused: until,
            began: 0,
            remembered: after(self.remembered),
            breaches: 0,
            level: self.level,
            cooled_off: self.rest > 0,
        }
    }

    /// To be written: fingerprint, place, both times, the level; numbers with the lowest byte first.
    pub(in super::super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let numbers = [self.fingerprint, self.place, self.rest, self.remembered];
        let fields = numbers.into_iter().flat_map(u64::to_le_bytes).chain([self.level]);
        bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        bytes
    }

    /// As it was written.
    pub(in super::super) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let [numbers @ .., level] = bytes;
        let (numbers, _) = numbers.as_chunks();
        let number = |at: usize| numbers.get(at).copied().map(u64::from_le_bytes).unwrap_or_default();
        let [fingerprint, place, rest, remembered] = std::array::from_fn(number);
        Self { fingerprint, place, rest, remembered, level: *level }
    }
}
