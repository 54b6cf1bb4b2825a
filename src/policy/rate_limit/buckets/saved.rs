//! What a table gives to another of its size, and takes from one.

use std::time::Duration;

use super::{Buckets, add};
use crate::policy::rate_limit::{Nanos, Saved};

impl Buckets {
    /// All that owes something, set by set; decisions go on meanwhile.
    pub fn saved(&self, now: Nanos) -> impl Iterator<Item = Saved> + '_ {
        self.lines().zip(0_u32..).flat_map(move |(line, set)| {
            let (entries, now) = {
                let held = line.lock();
                (held.entries, now.as_nanos().max(held.latest()))
            };
            entries.into_iter().filter_map(move |entry| {
                let debt = entry.debt(now);
                (debt > 0).then_some(Saved { set, fingerprint: entry.fingerprint, debt })
            })
        })
    }

    /// Puts back what was saved `age` ago, by a table of as many sets and the same [`HashKey`](super::super::HashKey). Where there is no
    /// room, what owes most stays. A key that has decided meanwhile owes what it owes already, if that is more.
    pub fn restore(&self, saved: impl IntoIterator<Item = Saved>, age: Duration, now: Nanos) {
        let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        for Saved { set, fingerprint, debt } in saved {
            let Some(set) = usize::try_from(set).ok().filter(|set| *set < self.sets()) else { continue };
            let debt = Nanos::from_nanos(debt.saturating_sub(age)).as_nanos();
            let mut pair = self.pair(set, fingerprint, now);
            if let Some((entry, now)) = pair.find(fingerprint) {
                entry.full_at = entry.full_at.max(now.saturating_add(debt));
                continue;
            }
            let room = pair.room();
            if room.owed < debt {
                if room.owed > 0 {
                    add(&self.counters.evictions);
                }
                pair.put(&room, fingerprint, debt);
                // Which of them is the key's first is not known here.
                pair.mark();
            }
        }
    }
}
