//! A key's bucket on its way from a table of another size: its key is known, so it finds its place.

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
        let own = || self.pair(first, key.fingerprint, now);
        let theirs = || from.pair(from.first(key), key.fingerprint, now);
        let (mut pair, mut theirs) = if std::ptr::from_ref(self) < std::ptr::from_ref(from) {
            let pair = own();
            (pair, theirs())
        } else {
            let theirs = theirs();
            (own(), theirs)
        };
        let Some((entry, at)) = theirs.find(key.fingerprint) else { return };
        let debt = scale(entry.debt(at));
        *entry = Entry::FREE;
        if debt == 0 {
            return;
        }
        if let Some((entry, at)) = pair.find(key.fingerprint) {
            let owed = entry.debt(at);
            entry.full_at = at.saturating_add(gcra.owing(owed, debt));
            return;
        }
        if pair.room().owed > 0
            && !self.make_room(&mut pair, (first, self.other(first, key.fingerprint)), now)
        {
            add(&self.counters.evictions);
            if pair.room().owed >= debt {
                return;
            }
        }
        let room = pair.room();
        pair.put(&room, key.fingerprint, gcra.owing(0, debt));
    }
}
