//! What another process has saved of a table, put back.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Current, FORMER_MAX, Former, Table, free, settled, slowest};
use crate::policy::rate_limit::limit::MEMORY_MAX;
use crate::policy::rate_limit::penalty::SavedPenalty;
use crate::policy::rate_limit::saved::{ClassHead, Head};
use crate::policy::rate_limit::{Buckets, Gcra, Nanos, Saved};

impl Table {
    /// Takes over from a table of this definition that another process had: hashes keys as that did from now on, so nothing may
    /// have been hashed yet. Where that had another memory, its buckets become a former table. Classes that are not in force here are kept as a
    /// reload keeps them. None where another's have come before,
    /// and where there are as many former tables as may be.
    pub(in super::super) fn inherit(self: &Arc<Self>, head: &Head) -> Option<Heir> {
        let sets = usize::try_from(head.sets).ok()?;
        if sets > Buckets::sets_in(MEMORY_MAX)
            || self.inherited.get_or_init(|| head.hash.clone()).bytes() != head.hash.bytes()
        {
            return None;
        }
        let changing = self.changing();
        let (mut current, now) = (Current::clone(&self.current.load_full()), Nanos::now());
        let mut known = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rates = BTreeMap::new();
        for ClassHead { class, value, gcra } in &head.classes {
            let own = match known.get(&**value) {
                _ if *class == 0 => 0,
                Some(own) => *own,
                None => {
                    let Some(free) = free(&known) else { continue };
                    known.insert(value.to_string(), free);
                    free
                }
            };
            // Not in force here: it may be again.
            let new = *current.limits.entry(own).or_insert_with(|| {
                current.gone.insert(own, settled(gcra, now));
                if own != 0 {
                    current.values.insert(own, value.clone());
                }
                *gcra
            });
            rates.insert(*class, (own, *gcra, new));
        }
        drop(known);
        let current = Arc::new(current);
        self.current.store(Arc::clone(&current));
        let buckets = if sets == current.buckets.sets() {
            Arc::clone(&current.buckets)
        } else {
            let slowest = slowest(&current.limits).filter(|_| current.former.len() < FORMER_MAX)?;
            let buckets = Arc::new(Buckets::with_sets(sets, slowest));
            let added = Former { buckets: Arc::clone(&buckets), limits: current.limits.clone() };
            let former = current.former.iter().cloned().chain([added]).collect();
            self.current.store(Arc::new(Current { former, ..Current::clone(&current) }));
            buckets
        };
        drop(changing);
        self.look_after_former();
        Some(Heir { table: Arc::clone(self), buckets, rates })
    }
}

/// Who takes over what another process has saved of a table.
#[derive(Debug)]
pub(in super::super) struct Heir {
    table: Arc<Table>,
    buckets: Arc<Buckets>,
    /// By class: which it is here, and the limit that held and the one that holds.
    rates: BTreeMap<u8, (u8, Gcra, Gcra)>,
}

impl Heir {
    /// Brings buckets under the limits that hold now, and keeps those of classes that there are.
    pub(in super::super) fn restore(&self, saved: impl Iterator<Item = Saved>, age: Duration, now: Nanos) {
        let owed = saved.filter_map(|saved| {
            let (class, old, new) = self.rates.get(&saved.class())?;
            Some(saved.aged(age).scaled(old, new).in_class(*class))
        });
        self.buckets.restore(owed, Duration::ZERO, now);
    }

    /// Keeps the penalties of classes that there are, also where no penalty is in force: one may be again.
    pub(in super::super) fn restore_penalties(
        &self,
        saved: impl Iterator<Item = SavedPenalty>,
        age: Duration,
        now: Nanos,
    ) {
        let mut longest = BTreeMap::new();
        let mut penalties = None;
        for saved in saved.filter_map(|saved| saved.aged(age)) {
            if let Some((class, ..)) = self.rates.get(&saved.class()) {
                let penalties = penalties.get_or_insert_with(|| self.table.penalties_or_some());
                penalties.restore(&saved.in_class(*class), now);
                let lasts = longest.entry(*class).or_insert(Duration::ZERO);
                *lasts = saved.lasts().max(*lasts);
            }
        }
        for (class, lasts) in longest {
            let lasts = u64::try_from(lasts.as_nanos()).unwrap_or(u64::MAX);
            self.table.outlast(class, Nanos::from_nanos(now.as_nanos().saturating_add(lasts)));
        }
    }
}
