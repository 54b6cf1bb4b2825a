//! What of a limit outlives a snapshot: its buckets, the secret that its keys are hashed with, its slots.
//!
//! A table is found again by the limit's name, its key and its memory. So a reload that changes neither keeps every bucket, also
//! one that goes back to what was. Where the rate or the burst has changed, buckets are brought under the new limits when these
//! come into force and not before: a configuration that is refused changes nothing. What is spent in the milliseconds that this takes is
//! forgiven.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::concurrency::Slots;
use super::penalty::{Penalties, SavedPenalty};
use super::saved::{ClassHead, Head};
use super::{Buckets, Figures, Gcra, HashKey, KeyHash, Nanos, Saved, Taken};

/// The limits of a table's keys, by class.
pub(super) type Limits = BTreeMap<u8, Gcra>;

/// The values with limits of their own that a table can tell apart.
pub(super) const VALUES_MAX: usize = 255;

/// Records of refused keys have an eighth as much memory as buckets, beside them.
const PENALTY_SHARE: usize = 8;

/// What of a limit outlives a snapshot.
#[derive(Debug)]
pub(super) struct Table {
    /// What it is found by after a restart.
    definition: Box<str>,
    hash: HashKey,
    /// The secret of the process before, whose buckets it has.
    inherited: OnceLock<HashKey>,
    pub(super) slots: Arc<Slots>,
    bytes: usize,
    current: ArcSwap<Current>,
    /// Keys that were refused; made when a limit with a penalty first comes into force.
    penalties: OnceLock<Penalties>,
    /// The classes of values with limits of their own.
    classes: Mutex<BTreeMap<String, u8>>,
}

/// Buckets, and the limits that they are under.
#[derive(Debug)]
struct Current {
    buckets: Arc<Buckets>,
    limits: Limits,
}

impl Table {
    /// With buckets of so many bytes, which are taken when limits first come into force: `check` and `explain` need one set.
    pub(super) fn new(definition: &str, hash: HashKey, bytes: usize) -> Self {
        let current = Current { buckets: Arc::new(buckets(0, &Limits::new())), limits: Limits::new() };
        Self {
            definition: definition.into(),
            hash,
            inherited: OnceLock::new(),
            slots: Arc::default(),
            bytes,
            current: ArcSwap::from_pointee(current),
            penalties: OnceLock::new(),
            classes: Mutex::default(),
        }
    }

    /// The secret that its keys are hashed with.
    pub(super) fn hash(&self) -> &HashKey {
        self.inherited.get().unwrap_or(&self.hash)
    }

    /// What it is found by after a restart.
    pub(super) fn definition(&self) -> &str {
        &self.definition
    }

    /// The class of each of these values, [`VALUES_MAX`] at the most: the one that it had before, or one that no other has.
    pub(super) fn classes<'a>(&self, values: impl Iterator<Item = &'a String>) -> Vec<u8> {
        let mut known = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        let values: Vec<_> = values.collect();
        let is_new =
            |known: &BTreeMap<String, u8>| values.iter().filter(|value| !known.contains_key(**value)).count();
        if known.len() + is_new(&known) > VALUES_MAX {
            known.retain(|value, _| values.contains(&value));
        }
        let of = |value: &&String| {
            if let Some(class) = known.get(*value) {
                return *class;
            }
            let free =
                (1..=u8::MAX).find(|class| !known.values().any(|taken| taken == class)).unwrap_or(u8::MAX);
            known.insert((*value).clone(), free);
            free
        };
        values.iter().map(of).collect()
    }

    /// These limits are in force from now on: what keys owe is brought under them, where theirs has changed. Takes some
    /// milliseconds then, and the table's memory twice for as long.
    pub(super) fn put_in_force(&self, limits: &Limits) {
        let current = self.current.load_full();
        if current.limits == *limits {
            return;
        }
        let changed = |(class, new): (&u8, &Gcra)| current.limits.get(class).is_some_and(|old| old != new);
        let fill = |limits| slowest(limits).map(Gcra::fill);
        let kept = fill(&current.limits) == fill(limits) && !limits.iter().any(changed);
        let buckets = if kept {
            Arc::clone(&current.buckets)
        } else {
            let (new, now) = (buckets(self.bytes, limits), Nanos::now());
            if current.buckets.sets() == new.sets() {
                let owed = current.buckets.saved(now).filter_map(|owed| {
                    let class = owed.class();
                    Some(owed.scaled(current.limits.get(&class)?, limits.get(&class)?))
                });
                new.restore(owed, Duration::ZERO, now);
            }
            Arc::new(new)
        };
        self.current.store(Arc::new(Current { buckets, limits: limits.clone() }));
    }

    /// Keys may be cooled off from now on. What is known of them stays, also while a configuration has no penalty.
    pub(super) fn penalise(&self) {
        self.penalties.get_or_init(|| Penalties::new(self.bytes / PENALTY_SHARE));
    }

    pub(super) fn penalties(&self) -> Option<&Penalties> {
        self.penalties.get()
    }

    /// What outlives the process: what there is to say of the buckets, and these.
    pub(super) fn kept(&self) -> (Head, Arc<Buckets>) {
        let current = self.current.load_full();
        let known = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        let value = |class: u8| known.iter().find(|(_, id)| **id == class).map(|(value, _)| &**value);
        let classes = current.limits.iter().map(|(class, gcra)| ClassHead {
            class: *class,
            value: value(*class).unwrap_or_default().into(),
            gcra: *gcra,
        });
        let head = Head {
            definition: self.definition.clone(),
            hash: self.hash().clone(),
            sets: u32::try_from(current.buckets.sets()).unwrap_or(u32::MAX),
            classes: classes.collect(),
        };
        (head, Arc::clone(&current.buckets))
    }

    /// Takes over from a table of this definition that another process had: hashes keys as that did from now on, so nothing may
    /// have been hashed yet. None where its buckets have no place here, or another's have come before.
    pub(super) fn inherit(self: &Arc<Self>, head: &Head) -> Option<Heir> {
        let current = self.current.load_full();
        let is_like = u32::try_from(current.buckets.sets()) == Ok(head.sets);
        if !is_like || self.inherited.set(head.hash.clone()).is_err() {
            return None;
        }
        let known = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        let rates = head.classes.iter().filter_map(|ClassHead { class, value, gcra }| {
            let now = if *class == 0 { 0 } else { *known.get(&**value)? };
            Some((*class, (now, *gcra, *current.limits.get(&now)?)))
        });
        let rates = rates.collect();
        drop(known);
        Some(Heir { table: Arc::clone(self), buckets: Arc::clone(&current.buckets), rates })
    }

    pub(super) fn take(&self, key: KeyHash, gcra: &Gcra, cost: u32, now: Nanos) -> Taken {
        self.current.load().buckets.take(key, gcra, cost, now)
    }

    pub(super) fn look(&self, key: KeyHash, gcra: &Gcra, cost: u32, now: Nanos) -> Taken {
        self.current.load().buckets.look(key, gcra, cost, now)
    }

    pub(super) fn charge(&self, key: KeyHash, gcra: &Gcra, cost: u32, now: Nanos) {
        let _ = self.current.load().buckets.charge(key, gcra, cost, now);
    }

    pub(super) fn figures(&self) -> Figures {
        self.current.load().buckets.figures(Nanos::now())
    }
}

/// Who takes over what another process has saved of a table.
#[derive(Debug)]
pub(super) struct Heir {
    table: Arc<Table>,
    buckets: Arc<Buckets>,
    /// By class: which it is here, and the limit that held and the one that holds.
    rates: BTreeMap<u8, (u8, Gcra, Gcra)>,
}

impl Heir {
    /// Brings buckets under the limits that hold now, and keeps those of classes that there are.
    pub(super) fn restore(&self, saved: impl Iterator<Item = Saved>, age: Duration, now: Nanos) {
        let owed = saved.filter_map(|saved| {
            let (class, old, new) = self.rates.get(&saved.class())?;
            Some(saved.aged(age).scaled(old, new).in_class(*class))
        });
        self.buckets.restore(owed, Duration::ZERO, now);
    }

    /// Keeps the penalties of classes that there are, where there are penalties.
    pub(super) fn restore_penalties(
        &self,
        saved: impl Iterator<Item = SavedPenalty>,
        age: Duration,
        now: Nanos,
    ) {
        let Some(penalties) = self.table.penalties() else { return };
        for saved in saved.filter_map(|saved| saved.aged(age)) {
            if let Some((class, ..)) = self.rates.get(&saved.class()) {
                penalties.restore(&saved.in_class(*class), now);
            }
        }
    }
}

fn slowest(limits: &Limits) -> Option<&Gcra> {
    limits.values().max_by_key(|gcra| gcra.fill())
}

fn buckets(bytes: usize, limits: &Limits) -> Buckets {
    let none = Gcra::new(1, Duration::from_secs(1), 1);
    Buckets::new(bytes, slowest(limits).unwrap_or(&none))
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn table() -> Table {
        Table::new("few", HashKey::from_bytes(Zeroizing::new([7; 16])), 64 << 10)
    }

    fn key(table: &Table, name: &str, class: u8) -> KeyHash {
        let mut hasher = table.hash().hasher();
        hasher.part(name.as_bytes());
        hasher.finish(class)
    }

    fn hourly(count: u32) -> Gcra {
        Gcra::new(u64::from(count), Duration::from_secs(3600), u64::from(count))
    }

    #[test]
    fn buckets_stay_while_limits_are_what_they_were_and_are_scaled_where_they_change() {
        let (table, now) = (table(), Nanos::now());
        let (slow, fast) = (hourly(10), hourly(1000));
        let (one, own) = (key(&table, "one", 0), key(&table, "own", 1));
        let left = |key, gcra: &Gcra| table.look(key, gcra, 1, Nanos::now()).remaining();
        table.put_in_force(&[(0, slow), (1, hourly(4))].into());
        table.charge(one, &slow, 10, now);
        table.charge(own, &hourly(4), 3, now);
        assert_eq!((left(one, &slow), left(own, &hourly(4))), (0, 1));
        let before = Arc::as_ptr(&table.current.load().buckets);
        table.put_in_force(&[(0, slow), (1, hourly(4))].into());
        table.put_in_force(&[(0, slow), (1, hourly(4)), (2, hourly(5))].into());
        assert_eq!(
            before,
            Arc::as_ptr(&table.current.load().buckets),
            "nothing is copied for a limit that is new"
        );
        table.put_in_force(&[(0, fast), (1, hourly(4))].into());
        assert_eq!((left(one, &fast), left(own, &hourly(4))), (0, 1), "another class keeps what it owes");
        table.put_in_force(&[(0, slow), (1, hourly(4))].into());
        assert_eq!(left(one, &slow), 0, "a limit that is changed and changed back gives nothing");
        table.put_in_force(&[(0, hourly(0)), (1, hourly(4))].into());
        table.put_in_force(&[(0, slow), (1, hourly(4))].into());
        assert_eq!(left(one, &slow), 0, "nor does one that was closed");
    }

    #[test]
    fn a_value_keeps_its_class() {
        let table = table();
        let classes = |values: &[&str]| {
            let values: Vec<_> = values.iter().map(|value| (*value).to_owned()).collect();
            table.classes(values.iter())
        };
        assert_eq!(classes(&["gold", "silver"]), [1, 2]);
        assert_eq!(classes(&["bronze", "gold", "silver"]), [3, 1, 2]);
        assert_eq!(classes(&["silver"]), [2]);
        let many: Vec<_> = (0..VALUES_MAX).map(|number| format!("v{number}")).collect();
        let given: std::collections::BTreeSet<_> = table.classes(many.iter()).into_iter().collect();
        assert_eq!(given.len(), VALUES_MAX);
        assert!(!given.contains(&0));
    }
}
