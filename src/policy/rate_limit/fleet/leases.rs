//! One limit's leases: an account a key, bounded, and the requests that wait for the store's answer.
//!
//! A decision locks one shard of the table. Questions leave, and answers are handed to those who wait, when it is unlocked.

mod answers;
mod figures;
mod reserved;
mod sweep;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

pub use figures::LeaseFigures;
pub(in super::super) use reserved::{Reserved, Wanted};

use super::super::{KeyHash, Nanos, Taken};
use super::account::{Account, Known, Order};
use super::claims::Same;
use super::node::Whoever;
use super::terms::Terms;
use crate::state::redis::{Redis, Status};
use figures::{Counters, add};

/// Workers that ask for different keys rarely meet.
const SHARDS: usize = 64;
/// What an account takes of the table's memory, more or less.
const BYTES_EACH: usize = 400;
/// How long a request may wait for the store, for all of its limits together. The runtime's clock has milliseconds and wakes late by up to two
/// of them: five at the most.
pub(super) const PATIENCE: Duration = Duration::from_millis(3);

/// The leases of one limit.
pub(in super::super) struct Leases {
    /// The limit's name and its key.
    pub(in super::super) definition: Box<str>,
    /// Those of the same name, with these among them.
    pub(super) same: OnceLock<Arc<Same>>,
    redis: Arc<Redis>,
    /// Who asks.
    node: Arc<Whoever>,
    pub(super) shards: Box<[Mutex<Shard>]>,
    /// The most keys of a shard.
    keys_max: AtomicUsize,
    counters: Counters,
}

pub(super) type Shard = HashMap<KeyHash, Entry, RandomState>;

/// A key.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) account: Account,
    /// By which all nodes know it.
    pub(super) shared: KeyHash,
    /// Those of the last request.
    pub(super) terms: Terms,
    waiting: Vec<Waiting>,
}

/// A request that waits for the store.
#[derive(Debug)]
struct Waiting {
    cost: u32,
    terms: Terms,
    /// Whether it is one of those whose tokens the store is being asked for.
    is_counted: bool,
    tell: oneshot::Sender<Reserved>,
}

/// Whether a request may wait for the store.
#[derive(Clone, Copy)]
enum MayWait {
    No,
    /// Where it answers in time.
    WhereReady,
    /// As long as there is a connection.
    Surely,
}

/// How a question begins.
enum Begun {
    Decided(Reserved),
    Wait(oneshot::Receiver<Reserved>),
    /// The node decides.
    Alone,
}

impl Leases {
    /// With room for as many keys as so many bytes hold.
    pub(super) fn new(definition: &str, redis: Arc<Redis>, node: Arc<Whoever>, bytes: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let keys_max = AtomicUsize::new(keys_in(bytes));
        Self {
            definition: definition.into(),
            same: OnceLock::new(),
            redis,
            node,
            shards,
            keys_max,
            counters: Counters::default(),
        }
    }

    /// There is room for as many keys as so many bytes hold, from now on. Keys that are there stay: where they are more, no other comes
    /// until enough of them have nothing to say.
    pub(super) fn set_room(&self, bytes: usize) {
        self.keys_max.store(keys_in(bytes), Ordering::Relaxed);
    }

    pub(super) fn keys_max(&self) -> usize {
        self.keys_max.load(Ordering::Relaxed)
    }

    /// Decides by the lease, or by the store where that answers in time; none where the node must decide alone. `waited` is what the
    /// request has waited for the store so far.
    pub(in super::super) async fn reserve(
        self: &Arc<Self>,
        wanted: Wanted,
        waited: &mut Duration,
    ) -> Option<Reserved> {
        let may_wait = if *waited < PATIENCE { MayWait::WhereReady } else { MayWait::No };
        let begun = self.begin(wanted, may_wait, Nanos::now());
        let reserved = match begun {
            Begun::Decided(reserved) => return Some(reserved),
            Begun::Alone => None,
            Begun::Wait(answer) => {
                let begun = std::time::Instant::now();
                let told = tokio::time::timeout(PATIENCE.saturating_sub(*waited), answer).await;
                *waited += begun.elapsed();
                if told.is_err() {
                    add(&self.counters.late);
                }
                told.ok().and_then(Result::ok)
            }
        };
        if reserved.is_none() {
            add(&self.counters.alone);
        }
        reserved
    }

    /// Decides by the store, however late its answer comes within this time; none where there is no answer.
    pub(super) async fn reserve_surely(
        self: &Arc<Self>,
        wanted: Wanted,
        patience: Duration,
    ) -> Option<Reserved> {
        match self.begin(wanted, MayWait::Surely, Nanos::now()) {
            Begun::Decided(reserved) => Some(reserved),
            Begun::Alone => None,
            Begun::Wait(answer) => tokio::time::timeout(patience, answer).await.ok()?.ok(),
        }
    }

    fn begin(self: &Arc<Self>, wanted: Wanted, may_wait: MayWait, now: Nanos) -> Begun {
        let Wanted { account: key, shared, cost, terms, .. } = wanted;
        let status = self.redis.status();
        let mut shard = self.shard(key);
        let is_full = shard.len() >= self.keys_max();
        let entry = match shard.get_mut(&key) {
            Some(entry) => entry,
            // Without a store an account has nothing to say; where there is no room the node's own bucket decides.
            None if is_full => {
                add(&self.counters.overflows);
                return Begun::Alone;
            }
            None if status == Status::Lost && terms.turn.is_none() => return Begun::Alone,
            None => shard.entry(key).or_insert_with(|| Entry::new(shared, terms)),
        };
        entry.carry(terms, now);
        let known = entry.account.spend(&terms, cost, now);
        if status == Status::Lost {
            return match known {
                Known::Decided(taken) if taken.passed() => Begun::Decided(self.reserved(taken, wanted)),
                // What the store said once says nothing of what has come since.
                Known::Decided(_) | Known::Ask => Begun::Alone,
            };
        }
        let mut begun = match known {
            Known::Decided(taken) => Begun::Decided(self.reserved(taken, wanted)),
            Known::Ask => Begun::Alone,
        };
        let may_wait = match may_wait {
            MayWait::No => false,
            MayWait::WhereReady => status == Status::Ready,
            MayWait::Surely => true,
        };
        if matches!(begun, Begun::Alone) && may_wait {
            let (tell, answer) = oneshot::channel();
            entry.waiting.push(Waiting { cost, terms, is_counted: false, tell });
            begun = Begun::Wait(answer);
        }
        let order = entry.order(&terms, now);
        drop(shard);
        self.ask(key, shared, terms, order);
        begun
    }

    /// What only the end of a request could say: takes tokens from the lease, or has the store charge them.
    pub(in super::super) fn charge(self: &Arc<Self>, wanted: &Wanted, now: Nanos) -> Option<Taken> {
        let Wanted { account: key, shared, cost, terms, .. } = *wanted;
        let mut shard = self.shard(key);
        if !shard.contains_key(&key) && shard.len() >= self.keys_max() {
            add(&self.counters.overflows);
            return None;
        }
        let entry = shard.entry(key).or_insert_with(|| Entry::new(shared, terms));
        entry.carry(terms, now);
        entry.account.used(now);
        let left = entry.account.charge(&terms, cost, terms.most_owed(), now);
        let order = if self.redis.status() == Status::Lost { None } else { entry.order(&terms, now) };
        drop(shard);
        self.ask(key, shared, terms, order);
        Some(left)
    }

    /// The node has decided alone and let the request pass: the store is told when it can be.
    pub(in super::super) fn owe(self: &Arc<Self>, wanted: &Wanted, now: Nanos) {
        let Wanted { account: key, shared, cost, terms, .. } = *wanted;
        let mut shard = self.shard(key);
        if !shard.contains_key(&key) && shard.len() >= self.keys_max() {
            return;
        }
        let entry = shard.entry(key).or_insert_with(|| Entry::new(shared, terms));
        entry.carry(terms, now);
        entry.account.used(now);
        entry.account.owe(cost, terms.most_owed());
        // One that is late hears it all the same, and says what others have spent.
        let order = if self.redis.status() == Status::Lost { None } else { entry.order(&terms, now) };
        drop(shard);
        self.ask(key, shared, terms, order);
    }

    /// Decides about a quota alone. A key that has no room has nothing: a quota that nobody counts is none.
    pub(super) fn spend_alone(&self, wanted: &Wanted, nodes: u32, now: Nanos) -> Taken {
        let Wanted { account: key, cost, terms, .. } = wanted;
        match self.shard(*key).get_mut(key) {
            Some(entry) => {
                entry.carry(*terms, now);
                entry.account.spend_alone(&entry.terms, *cost, nodes)
            }
            None => terms.gcra.judged(false, terms.gcra.spent(terms.gcra.burst()), *cost),
        }
    }

    /// Whether the period of a quota is the key's first; none where the store has not said so.
    pub(super) fn is_first(&self, key: KeyHash) -> Option<bool> {
        self.shard(key).get(&key)?.account.is_first()
    }

    /// Calls `raise` with what the fleet's bucket owes at least, where the store has said so; for one request of a key at a time.
    pub(in super::super) fn with_owed(&self, wanted: &Wanted, now: Nanos, raise: impl FnOnce(u64)) {
        let mut shard = self.shard(wanted.account);
        let Some(entry) = shard.get_mut(&wanted.account) else { return };
        entry.carry(wanted.terms, now);
        if let Some(owes) = entry.account.owes(now) {
            raise(owes);
        }
    }

    pub(super) fn shard(&self, key: KeyHash) -> MutexGuard<'_, Shard> {
        let index = usize::try_from(key.place % SHARDS as u64).unwrap_or(0);
        #[expect(clippy::indexing_slicing, reason = "there are as many shards")]
        lock(&self.shards[index])
    }
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases")
            .field("redis", &self.redis)
            .field("keys_max", &self.keys_max)
            .finish_non_exhaustive()
    }
}

impl Entry {
    fn new(shared: KeyHash, terms: Terms) -> Self {
        Self::of(Account::default(), shared, terms)
    }

    /// With what is known of it; nobody has asked yet.
    pub(super) fn of(account: Account, shared: KeyHash, terms: Terms) -> Self {
        Self { account, shared, terms, waiting: Vec::new() }
    }

    /// Counts by these terms from now on. What this node had let pass is not forgotten where it cannot be said again.
    pub(super) fn carry(&mut self, mut terms: Terms, now: Nanos) {
        if let (Some(turn), Some(known)) = (&mut terms.turn, self.terms.turn) {
            turn.passed = turn.passed.or(known.passed);
        }
        let before = std::mem::replace(&mut self.terms, terms);
        self.account.carry(&before, &terms, now);
    }

    /// What to ask the store for, for those who wait and for the lease.
    fn order(&mut self, terms: &Terms, now: Nanos) -> Option<Order> {
        let waiting = self.waiting.iter().fold(0_u32, |sum, one| sum.saturating_add(one.cost));
        let order = self.account.order(terms, waiting, now)?;
        self.waiting.iter_mut().for_each(|one| one.is_counted = true);
        Some(order)
    }
}

/// In a shard.
fn keys_in(bytes: usize) -> usize {
    (bytes / BYTES_EACH / SHARDS).max(1)
}

pub(super) fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
