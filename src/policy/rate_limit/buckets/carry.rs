//! A key's bucket on its way from one table to another: by its key, or, between tables of one size, by the set that it is in.

use super::set::Pair;
use super::{Buckets, Entry, add};
use crate::policy::rate_limit::{Gcra, KeyHash, Nanos};

impl Buckets {
    /// Whether a key owes something here.
    pub(in super::super) fn owes(&self, key: KeyHash, now: Nanos) -> bool {
        self.owed(key, now) > 0
    }

    /// Takes over what a key owes in `from`, where it is forgotten: `scale` says what that is under `gcra`. Added to what it owes here, up to
    /// another burst. The sets that it may be in are locked in both tables meanwhile, so nobody finds it in neither; those of the table that
    /// comes first in memory are locked first, as after a change there and back another thread may carry the other way. Where there
    /// is no room, what owes most stays.
    pub(in super::super) fn carry(
        &self,
        key: KeyHash,
        from: &Self,
        gcra: &Gcra,
        scale: impl Fn(u64) -> u64,
        now: Nanos,
    ) {
        let first = self.first(key);
        let (mut pair, mut theirs) = self.pairs(from, (first, from.first(key)), key.fingerprint, now);
        let Some((entry, at)) = theirs.find(key.fingerprint) else { return };
        let debt = scale(entry.debt(at));
        *entry = Entry::FREE;
        self.owe(&mut pair, (first, key.fingerprint), debt, gcra, now);
    }

    /// Takes over all that is owed in `from`, a table of as many sets, where it is forgotten. `rates` says under which limit a class was and is;
    /// what is owed by classes without one is forgotten altogether. Decisions in both tables go on meanwhile, as with
    /// [`Buckets::carry`].
    pub(in super::super) fn take_over(
        &self,
        from: &Self,
        rates: impl Fn(u8) -> Option<(Gcra, Gcra)>,
        now: Nanos,
    ) {
        for set in 0..from.sets().min(self.sets()) {
            let entries = {
                let held = from.lock(set);
                let latest = held.latest();
                held.entries.map(|entry| (entry.fingerprint, entry.debt(latest) > 0))
            };
            for (fingerprint, _) in entries.into_iter().filter(|(_, owes)| *owes) {
                let (mut pair, mut theirs) = self.pairs(from, (set, set), fingerprint, now);
                let Some((entry, at)) = theirs.find(fingerprint) else { continue };
                let debt = entry.debt(at);
                *entry = Entry::FREE;
                if let Some((old, new)) = rates(KeyHash::class_of(fingerprint)) {
                    self.owe(&mut pair, (set, fingerprint), old.carried(debt, &new), &new, now);
                    // Which of them is the key's first is not known here.
                    pair.mark();
                }
            }
        }
    }

    /// The sets that a key may be in, in both tables, locked: those of the table that comes first in memory first.
    fn pairs<'a>(
        &'a self,
        from: &'a Self,
        (own, theirs): (usize, usize),
        fingerprint: u64,
        now: Nanos,
    ) -> (Pair<'a>, Pair<'a>) {
        if std::ptr::from_ref(self) < std::ptr::from_ref(from) {
            let own = self.pair(own, fingerprint, now);
            (own, from.pair(theirs, fingerprint, now))
        } else {
            let theirs = from.pair(theirs, fingerprint, now);
            (self.pair(own, fingerprint, now), theirs)
        }
    }

    /// Adds to what a key owes.
    fn owe(
        &self,
        pair: &mut Pair<'_>,
        (first, fingerprint): (usize, u64),
        debt: u64,
        gcra: &Gcra,
        now: Nanos,
    ) {
        if debt == 0 {
            return;
        }
        if let Some((entry, at)) = pair.find(fingerprint) {
            let owed = entry.debt(at);
            entry.full_at = at.saturating_add(gcra.joined(owed, debt));
            return;
        }
        if pair.room().owed > 0 && !self.make_room(pair, (first, self.other(first, fingerprint)), now) {
            add(&self.counters.evictions);
            if pair.room().owed >= debt {
                return;
            }
        }
        let room = pair.room();
        pair.put(&room, fingerprint, debt);
    }
}
