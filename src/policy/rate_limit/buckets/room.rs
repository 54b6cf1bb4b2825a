//! What becomes of a key that finds both its sets full.
//!
//! To look into eight sets takes longer than the rest of a decision, and in a table that is full it finds nothing. So after 256 promotions in
//! a row that found no room it is looked for at each 64th only. One that finds some has the next 256 look again. So when a flood is over, 63
//! keys at the most are promoted without a look, and not one after a look has found room.
//!
//! For a second after a key has found no room, a decision fetches both of its sets at once, as it is likely to need both:
//! it waits for memory once instead of twice.

use std::sync::atomic::Ordering;

use super::set::{Pair, Room, WAYS};
use super::{Buckets, Entry, add};
use crate::policy::rate_limit::{Gcra, KeyHash, Nanos};

/// Sets in which room is looked for before a key is evicted.
const MOVES_MAX: usize = 8;
/// After so many promotions that found no room, it is looked for at one promotion in so many.
const IN_VAIN: u64 = 256;
const SELDOM: u64 = 64;
/// For so long after a key found no room both sets of a key are fetched at once, in nanoseconds.
const CROWDED: u64 = 1_000_000_000;

impl Buckets {
    /// Counts for a key that finds no room; whether it is above an eighth of its burst.
    pub(super) fn promotes(&self, key: KeyHash, cost: u32, gcra: &Gcra, now: Nanos) -> bool {
        let until = now.as_nanos().saturating_add(CROWDED);
        if self.crowded.load(Ordering::Relaxed).saturating_add(CROWDED / 2) < until {
            self.crowded.store(until, Ordering::Relaxed);
        }
        let promotes = self.screen.passes(key, cost, gcra.screened(), now);
        if !promotes {
            add(&self.counters.overflows);
        }
        promotes
    }

    /// The room of a key that is promoted: what a key leaves that moves to its other set, else that of who owes least.
    pub(super) fn room(&self, pair: &mut Pair<'_>, places: (usize, usize), now: Nanos) -> Room {
        let number = add(&self.counters.promotions);
        if self.looks_at(number) && self.make_room(pair, places, now) {
            self.counters.moved.store(number, Ordering::Relaxed);
        } else {
            add(&self.counters.evictions);
        }
        pair.room()
    }

    /// Whether room is looked for at this promotion.
    fn looks_at(&self, number: u64) -> bool {
        let moved = self.counters.moved.load(Ordering::Relaxed);
        number.saturating_sub(moved) <= IN_VAIN || number.is_multiple_of(SELDOM)
    }

    /// Moves a key of one of these sets, both of which are full, to its other set, if there is room. Waits for nobody: a set that is
    /// locked is passed over.
    pub(super) fn make_room(&self, pair: &mut Pair<'_>, (first, other): (usize, usize), now: Nanos) -> bool {
        let mut tries = MOVES_MAX;
        for (set, place) in pair.sets().zip([first, other]) {
            let from = set.latest();
            for index in 0..WAYS {
                let Some(entry) = set.entries.get_mut(index) else { continue };
                let to = self.other(place, entry.fingerprint);
                if to == first || to == other {
                    continue;
                }
                if tries == 0 {
                    return false;
                }
                tries -= 1;
                let Some(mut target) = self.line(to).try_lock() else { continue };
                let at = target.at(now);
                let room = target.room(false);
                if room.owed > 0 {
                    continue;
                }
                // It owes no more there than here, also where one of the sets is a little ahead.
                let debt = entry.debt(from).min(entry.debt(at));
                target.put(&room, entry.fingerprint, debt);
                *entry = Entry::FREE;
                target.set_moved();
                set.set_moved();
                return true;
            }
        }
        false
    }
}
