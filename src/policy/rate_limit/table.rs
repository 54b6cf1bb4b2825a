//! What of a limit outlives a snapshot: its buckets, the secret that its keys are hashed with, its slots.
//!
//! A table is found again by the limit's name and its key. So a reload that changes neither keeps every bucket and every slot, also
//! one that goes back to what was. Where the rate or the burst has changed, buckets are brought under the new limits when these
//! come into force and not before: a configuration that is refused changes nothing. The former buckets stay behind the new ones meanwhile, and
//! a key that comes brings what it owes along, so nothing is lost that is spent while others are being moved. A thread that is about to decide in
//! the former buckets at that moment may find nothing owed there: one request for each thread and change, beside the limit.
//!
//! Requests that came under the configuration before are judged by the limits in force, as debts are times under these
//! ([`Table::take_in_force`]).
//!
//! # Another memory
//! A bucket knows its set and not its key, so it cannot be put into a table of another size by itself. Its key can: where `memory` has changed
//! the former table stays behind the new one, and what a key owes there comes along when the key is next decided about, under the locks of its
//! new sets, so that no thread finds it in neither. That costs a decision one look into the former table, for as long as anybody owes
//! anything there; a task in the back office looks for that and lets it go. A change back makes the former table the present one again.
//! Three former sizes are kept at the most: of more, the oldest is forgotten, which is told.

mod heir;
mod rest;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::runtime::Handle;

pub(super) use heir::Heir;

use super::concurrency::Slots;
use super::penalty::Penalties;
use super::saved::{ClassHead, Head};
use super::{Buckets, Figures, Gcra, HashKey, KeyHash, Nanos, Taken};

/// The limits of a table's keys, by class.
pub(super) type Limits = BTreeMap<u8, Gcra>;

/// The values with limits of their own that a table can tell apart.
pub(super) const VALUES_MAX: usize = 255;

/// Records of refused keys have an eighth as much memory as buckets, beside them.
const PENALTY_SHARE: usize = 8;
/// Former sizes whose buckets are kept.
const FORMER_MAX: usize = 3;
/// How often it is looked whether anybody owes anything in a former table.
const LOOKS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What of a limit outlives a snapshot.
#[derive(Debug)]
pub(super) struct Table {
    /// What it is found by after a restart.
    definition: Box<str>,
    hash: HashKey,
    /// The secret of the process before, whose buckets it has.
    inherited: OnceLock<HashKey>,
    pub(super) slots: Arc<Slots>,
    current: ArcSwap<Current>,
    /// Held by whoever puts another in its place.
    changing: Mutex<()>,
    /// Where it is looked whether former tables are needed; none in `check` and `explain`.
    runtime: Option<Handle>,
    is_looked_at: AtomicBool,
    /// The classes of values with limits of their own.
    classes: Mutex<BTreeMap<String, u8>>,
}

/// Buckets, and the limits that they are under.
#[derive(Clone, Debug)]
struct Current {
    buckets: Arc<Buckets>,
    /// Those in force, and the last ones of classes that are not, as long as their keys may owe something.
    limits: Limits,
    /// Which are not in force, and until when they matter.
    gone: BTreeMap<u8, Nanos>,
    /// The values of all these classes; the class 0 has none.
    values: BTreeMap<u8, Box<str>>,
    /// The memory that was asked for.
    bytes: usize,
    /// What the limit had before, the latest first.
    former: Arc<[Former]>,
    /// Keys that were refused; made when a limit with a penalty first comes into force.
    penalties: Option<Arc<Penalties>>,
}

/// Buckets of another memory, whose keys have not come again.
#[derive(Clone, Debug)]
struct Former {
    buckets: Arc<Buckets>,
    limits: Limits,
}

impl Table {
    /// With buckets of a set, until limits first come into force: `check` and `explain` need no more.
    pub(super) fn new(definition: &str, hash: HashKey, runtime: Option<Handle>) -> Self {
        let limits = Limits::new();
        let buckets = Arc::new(buckets(0, &limits));
        let current = Current {
            buckets,
            limits,
            gone: BTreeMap::new(),
            values: BTreeMap::new(),
            bytes: 0,
            former: Arc::default(),
            penalties: None,
        };
        Self {
            definition: definition.into(),
            hash,
            inherited: OnceLock::new(),
            slots: Arc::default(),
            current: ArcSwap::from_pointee(current),
            changing: Mutex::default(),
            runtime,
            is_looked_at: AtomicBool::new(false),
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
            let free = free(&known).unwrap_or(u8::MAX);
            known.insert((*value).clone(), free);
            free
        };
        values.iter().map(of).collect()
    }

    /// These limits are in force from now on, in so much memory: what keys owe is brought under them, where theirs has changed. Takes some
    /// milliseconds then, and the table's memory twice until a second later; where the memory has changed, for as long as keys owe what they do.
    ///
    /// What keys of a class owe that is not in force any more stays, under the limit that they had, until it would be nothing: so a class
    /// that comes back finds what it had left.
    pub(super) fn put_in_force(self: &Arc<Self>, limits: &Limits, bytes: usize) {
        let changing = self.changing();
        let mut current = Current::clone(&self.current.load_full());
        let now = Nanos::now();
        let values = self.values();
        // Where there are more values than numbers, a number may have become that of another value, and its buckets nobody's.
        let foreign =
            |class: &u8| current.values.get(class).is_some_and(|value| values.get(class) != Some(value));
        let foreign: Vec<u8> = current.limits.keys().copied().filter(foreign).collect();
        current.forget(&foreign);
        let gone: BTreeMap<_, _> = current
            .owing(now)
            .filter(|(class, _)| !limits.contains_key(class))
            .map(|(class, gcra)| {
                (class, current.gone.get(&class).copied().unwrap_or_else(|| settled(gcra, now)))
            })
            .collect();
        let kept = current.owing(now).filter(|(class, _)| gone.contains_key(class));
        let limits: Limits = kept.map(|(class, gcra)| (class, *gcra)).chain(limits.clone()).collect();
        let (mut next, left) = self.following(&current, limits, bytes, !foreign.is_empty());
        next.values = values.into_iter().filter(|(class, _)| next.limits.contains_key(class)).collect();
        next.gone = gone;
        let stay = Arc::clone(&next.former);
        next.former = left.iter().chain(&*stay).cloned().collect();
        let next = Arc::new(next);
        self.current.store(Arc::clone(&next));
        if !left.is_empty() {
            for former in &left {
                let rates = |class| Some((*former.limits.get(&class)?, *next.limits.get(&class)?));
                next.buckets.take_over(&former.buckets, rates, now);
            }
            // The latest of them stays until the next look: a thread that was about to decide in it has done so by then, and its key brings
            // that along.
            let former = left.iter().take(1).chain(&*stay).cloned().collect();
            self.current.store(Arc::new(Current { former, ..Current::clone(&next) }));
        }
        drop(changing);
        if !left.is_empty() || !stay.is_empty() {
            self.look_after_former();
        }
    }

    /// The values that it tells apart, by class.
    fn values(&self) -> BTreeMap<u8, Box<str>> {
        let known = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(value, class)| (*class, value.as_str().into())).collect()
    }

    /// What comes after this, and the tables of its size that it takes over at once; those of other sizes stay behind it. `is_new`: no
    /// table can be kept as it is.
    fn following(
        &self,
        current: &Current,
        limits: Limits,
        bytes: usize,
        is_new: bool,
    ) -> (Current, Vec<Former>) {
        let sets = Buckets::sets_in(bytes);
        let last = Former { buckets: Arc::clone(&current.buckets), limits: current.limits.clone() };
        // The one that it was made with was never asked.
        let last = Some(last).filter(|_| !current.limits.is_empty());
        let (mut left, mut others): (Vec<_>, Vec<_>) = last
            .into_iter()
            .chain(current.former.iter().cloned())
            .partition(|former| former.buckets.sets() == sets);
        let known = left
            .first()
            .filter(|former| !is_new && fits(&former.limits, &limits))
            // What another process has saved has but the smallest estimator.
            .filter(|former| former.buckets.fills(bytes));
        let buckets = match known.map(|former| Arc::clone(&former.buckets)) {
            Some(buckets) => {
                left.remove(0);
                buckets
            }
            None => Arc::new(buckets(bytes, &limits)),
        };
        if others.len() > FORMER_MAX {
            let now = Nanos::now();
            others.retain(|former| former.buckets.saved(now).next().is_some());
        }
        if others.len() > FORMER_MAX {
            others.truncate(FORMER_MAX);
            log::warn!(
                "{}: its `memory` has changed again and again; what keys owe from before the last {FORMER_MAX} changes is forgotten",
                self.definition
            );
        }
        (Current { buckets, limits, bytes, former: others.into(), ..current.clone() }, left)
    }

    /// Lets former tables go in which nobody owes anything. How long it takes the others to come to that, at the most; none where
    /// there is no other.
    fn forget_settled(&self, now: Nanos) -> Option<Duration> {
        let _changing = self.changing();
        let current = self.current.load_full();
        let longest = |former: &Former| former.buckets.saved(now).map(|saved| saved.debt()).max();
        let kept: Vec<_> =
            current.former.iter().filter_map(|former| Some((former, longest(former)?))).collect();
        let rest = kept.iter().map(|(_, debt)| *debt).max();
        if kept.len() < current.former.len() {
            let former = kept.into_iter().map(|(former, _)| former.clone()).collect();
            self.current.store(Arc::new(Current { former, ..Current::clone(&current) }));
        }
        if rest.is_none() {
            self.is_looked_at.store(false, Ordering::Release);
        }
        rest.map(Duration::from_nanos)
    }

    fn look_after_former(self: &Arc<Self>) {
        let Some(runtime) = &self.runtime else { return };
        if !self.is_looked_at.swap(true, Ordering::AcqRel) {
            runtime.spawn(look_after(Arc::downgrade(self)));
        }
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keys may be cooled off from now on. What is known of them stays, also while a configuration has no penalty, but for breaches of the
    /// moment in which the memory changes.
    pub(super) fn penalise(&self) {
        let _changing = self.changing();
        let current = self.current.load_full();
        let bytes = current.bytes / PENALTY_SHARE;
        let penalties = match &current.penalties {
            Some(known) if known.fills(bytes) => return,
            Some(known) => known.resized(bytes, Nanos::now()),
            None => Penalties::new(bytes),
        };
        let penalties = Some(Arc::new(penalties));
        self.current.store(Arc::new(Current { penalties, ..Current::clone(&current) }));
    }

    pub(super) fn penalties(&self) -> Option<Arc<Penalties>> {
        self.current.load().penalties.clone()
    }

    /// How long a key is cooled off yet; none where it is not.
    pub(super) fn cooled_off(&self, key: KeyHash, now: Nanos) -> Option<Duration> {
        self.current.load().penalties.as_ref()?.rest(key, now)
    }

    /// What outlives the process: what there is to say of the buckets, and these; then the former ones likewise. Nothing of a table that
    /// has limited nobody.
    pub(super) fn kept(&self) -> Vec<(Head, Arc<Buckets>)> {
        let (current, now) = (self.current.load_full(), Nanos::now());
        let kept = |buckets: &Arc<Buckets>, limits: &Limits| {
            let classes = limits.iter().filter_map(|(class, gcra)| {
                let is_over = current.gone.get(class).is_some_and(|until| *until <= now);
                let value = if *class == 0 { Box::default() } else { current.values.get(class)?.clone() };
                if is_over {
                    return None;
                }
                Some(ClassHead { class: *class, value, gcra: *gcra })
            });
            let mut head = Head {
                definition: self.definition.clone(),
                hash: self.hash().clone(),
                sets: u32::try_from(buckets.sets()).unwrap_or(u32::MAX),
                classes: classes.collect(),
            };
            if !head.fits() {
                head.classes.retain(|known| !current.gone.contains_key(&known.class));
            }
            (head, Arc::clone(buckets))
        };
        let owes = |buckets: &Buckets| buckets.saved(now).next().is_some();
        let is_kept = current.limits.len() > current.gone.len()
            || owes(&current.buckets)
            || current.remembered(now).is_some();
        let own = is_kept.then(|| kept(&current.buckets, &current.limits));
        let former = current.former.iter().filter(|former| owes(&former.buckets));
        let former = former.map(|former| kept(&former.buckets, &former.limits));
        own.into_iter().chain(former).collect()
    }

    /// [`Buckets::take`] by the limit in force for the key's class; by this one where none is yet.
    pub(super) fn take_in_force(&self, key: KeyHash, gcra: &Gcra, cost: u32, now: Nanos) -> Taken {
        let current = self.of(key, gcra, now);
        current.buckets.take(key, &current.limit(key, gcra), cost, now)
    }

    /// [`Buckets::fetch`] likewise.
    pub(super) fn fetch(&self, key: KeyHash) {
        self.current.load().buckets.fetch(key);
    }

    /// [`Buckets::look`] likewise.
    pub(super) fn look_in_force(&self, key: KeyHash, gcra: &Gcra, cost: u32, now: Nanos) -> Taken {
        let current = self.of(key, gcra, now);
        current.buckets.look(key, &current.limit(key, gcra), cost, now)
    }

    /// [`Buckets::charge`] likewise.
    pub(super) fn charge_in_force(&self, key: KeyHash, gcra: &Gcra, cost: u32, now: Nanos) -> Taken {
        let current = self.of(key, gcra, now);
        current.buckets.charge(key, &current.limit(key, gcra), cost, now)
    }

    /// [`Buckets::take`] by this limit, a node's share of a fleet's.
    pub(super) fn take(&self, key: KeyHash, gcra: &Gcra, cost: u32, now: Nanos) -> Taken {
        self.of(key, gcra, now).buckets.take(key, gcra, cost, now)
    }

    /// [`Buckets::look`] likewise.
    pub(super) fn look(&self, key: KeyHash, gcra: &Gcra, cost: u32, now: Nanos) -> Taken {
        self.of(key, gcra, now).buckets.look(key, gcra, cost, now)
    }

    /// [`Buckets::charge`] likewise.
    pub(super) fn charge(&self, key: KeyHash, gcra: &Gcra, cost: u32, now: Nanos) -> Taken {
        self.of(key, gcra, now).buckets.charge(key, gcra, cost, now)
    }

    /// The buckets, in which the key has whatever it owes.
    fn of(&self, key: KeyHash, gcra: &Gcra, now: Nanos) -> Guard<Arc<Current>> {
        let current = self.current.load();
        if !current.former.is_empty() {
            current.carry(key, gcra, now);
        }
        current
    }

    pub(super) fn figures(&self) -> Figures {
        let (current, now) = (self.current.load_full(), Nanos::now());
        let own = current.buckets.figures(now);
        let former = current.former.iter().map(|former| former.buckets.figures(now));
        former.fold(own, |sum, former| Figures {
            entries: sum.entries + former.entries,
            memory: sum.memory + former.memory,
            ..sum
        })
    }
}

impl Current {
    /// By class, the limits that matter.
    fn owing(&self, now: Nanos) -> impl Iterator<Item = (u8, &Gcra)> {
        let matters = move |class: &u8| self.gone.get(class).is_none_or(|until| *until > now);
        self.limits.iter().filter(move |(class, _)| matters(class)).map(|(class, gcra)| (*class, gcra))
    }

    /// Nobody of these classes owes anything any more: what is known under no limit does not come along.
    fn forget(&mut self, classes: &[u8]) {
        if classes.is_empty() {
            return;
        }
        let is_kept = |class: &u8| !classes.contains(class);
        self.limits.retain(|class, _| is_kept(class));
        self.gone.retain(|class, _| is_kept(class));
        let mut former = self.former.to_vec();
        former.iter_mut().for_each(|former| former.limits.retain(|class, _| is_kept(class)));
        self.former = former.into();
    }

    /// The limit in force for a key, which may be another than the one that its request came under; that one where none is.
    fn limit(&self, key: KeyHash, own: &Gcra) -> Gcra {
        *self.limits.get(&key.class()).unwrap_or(own)
    }

    /// What a key owes in former tables comes along. Its class says under which limit that was.
    #[cold]
    fn carry(&self, key: KeyHash, gcra: &Gcra, now: Nanos) {
        let new = self.limits.get(&key.class()).unwrap_or(gcra);
        for former in self.former.iter().filter(|former| former.buckets.owes(key, now)) {
            let old = former.limits.get(&key.class());
            let scale = |debt| old.map_or(0, |old| old.carried(debt, new));
            self.buckets.carry(key, &former.buckets, new, scale, now);
        }
    }
}

async fn look_after(table: Weak<Table>) {
    let (mut next, longest) = LOOKS;
    loop {
        tokio::time::sleep(next).await;
        let Some(table) = table.upgrade() else { return };
        // Up to a second, where there is a GiB to look through.
        let looked = tokio::task::spawn_blocking(move || table.forget_settled(Nanos::now()));
        let Ok(Some(rest)) = looked.await else { return };
        next = rest.clamp(LOOKS.0, longest);
    }
}

/// Whether buckets that were filled under limits say the same under those that hold now.
fn fits(old: &Limits, limits: &Limits) -> bool {
    let changed = |(class, new): (&u8, &Gcra)| old.get(class).is_some_and(|old| old != new);
    let fill = |limits| slowest(limits).map(Gcra::fill);
    fill(old) == fill(limits) && !limits.iter().any(changed)
}

/// When no bucket of a limit owes anything, if nobody asks any more: what is charged may be two bursts.
fn settled(gcra: &Gcra, now: Nanos) -> Nanos {
    let fill = u64::try_from(gcra.fill().as_nanos()).unwrap_or(u64::MAX);
    Nanos::from_nanos(now.as_nanos().saturating_add(fill.saturating_mul(2)))
}

/// A number that no value has.
fn free(known: &BTreeMap<String, u8>) -> Option<u8> {
    (1..=u8::MAX).find(|class| !known.values().any(|taken| taken == class))
}

fn slowest(limits: &Limits) -> Option<&Gcra> {
    limits.values().max_by_key(|gcra| gcra.fill())
}

fn buckets(bytes: usize, limits: &Limits) -> Buckets {
    let none = Gcra::new(1, Duration::from_secs(1), 1);
    Buckets::new(bytes, slowest(limits).unwrap_or(&none))
}
