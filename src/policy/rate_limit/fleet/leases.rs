//! One limit's leases: an account a key, bounded, and the requests that wait for the store's answer.
//!
//! A decision locks one shard of the table. Questions leave, and answers are handed to those who wait, when it is unlocked.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

use super::super::quota::second;
use super::super::{Gcra, KeyHash, Nanos, Taken};
use super::account::{Account, Known, Order, Said, Terms};
use super::wire::{question, said};
use crate::state::redis::{Lost, Question, Redis, Status};

/// Workers that ask for different keys rarely meet.
const SHARDS: usize = 64;
/// What an account takes of the table's memory, more or less.
const BYTES_EACH: usize = 320;
/// How long a request may wait for the store, for all of its limits together. The runtime's clock has milliseconds: five at the most.
pub(super) const PATIENCE: Duration = Duration::from_millis(4);

/// So many accounts of a shard at once tell a store that was lost what they know.
const CLAIMS_MAX: usize = 64;

/// The leases of one limit.
pub(in super::super) struct Leases {
    redis: Arc<Redis>,
    shards: Box<[Mutex<Shard>]>,
    keys_max: usize,
    counters: Counters,
}

type Shard = HashMap<KeyHash, Entry, RandomState>;

/// A key.
#[derive(Debug)]
struct Entry {
    account: Account,
    /// By which all nodes know it.
    shared: KeyHash,
    /// Those of the last request.
    terms: Terms,
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

#[derive(Debug, Default)]
struct Counters {
    asked: AtomicU64,
    alone: AtomicU64,
    late: AtomicU64,
    overflows: AtomicU64,
}

/// What leases tell of themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseFigures {
    /// Keys that have an account.
    pub keys: u64,
    /// Tokens that are leased and not spent.
    pub leased: u64,
    /// Questions for the store.
    pub asked: u64,
    /// Decisions that this node made by its share alone.
    pub alone: u64,
    /// Of these, the ones that had waited for the store in vain.
    pub late: u64,
    /// Decisions for keys that had no room for an account.
    pub overflows: u64,
}

impl LeaseFigures {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            keys: self.keys + other.keys,
            leased: self.leased + other.leased,
            asked: self.asked + other.asked,
            alone: self.alone + other.alone,
            late: self.late + other.late,
            overflows: self.overflows + other.overflows,
        }
    }
}

/// A request, as leases are asked about it.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Wanted {
    pub(in super::super) key: KeyHash,
    pub(in super::super) shared: KeyHash,
    pub(in super::super) cost: u32,
    pub(in super::super) terms: Terms,
}

/// A decision by the fleet. Tokens that it took are given back when it is dropped, unless they are spent.
#[derive(Debug)]
pub(in super::super) struct Reserved {
    taken: Taken,
    wanted: Wanted,
    /// None once there is nothing to give back.
    leases: Option<Arc<Leases>>,
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
    pub(super) fn new(redis: Arc<Redis>, bytes: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { redis, shards, keys_max: (bytes / BYTES_EACH / SHARDS).max(1), counters: Counters::default() }
    }

    /// Decides by the lease, or by the store where that answers in time; none where the node must decide alone. `waited` is what the
    /// request has waited for the store so far.
    pub(in super::super) async fn reserve(
        self: &Arc<Self>,
        wanted: Wanted,
        waited: &mut Duration,
    ) -> Option<Reserved> {
        let begun = self.begin(wanted, *waited < PATIENCE, Nanos::now());
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

    fn begin(self: &Arc<Self>, wanted: Wanted, may_wait: bool, now: Nanos) -> Begun {
        let Wanted { key, shared, cost, terms } = wanted;
        let status = self.redis.status();
        let mut shard = self.shard(key);
        let is_full = shard.len() >= self.keys_max;
        let entry = match shard.get_mut(&key) {
            Some(entry) => entry,
            // Without a store an account has nothing to say; where there is no room the node's own bucket decides.
            None if is_full => {
                add(&self.counters.overflows);
                return Begun::Alone;
            }
            None if status == Status::Lost && terms.ends.is_none() => return Begun::Alone,
            None => shard.entry(key).or_insert_with(|| Entry::new(shared, terms)),
        };
        entry.terms = terms;
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
        if matches!(begun, Begun::Alone) && may_wait && status == Status::Ready {
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
        let Wanted { key, shared, cost, terms } = *wanted;
        let mut shard = self.shard(key);
        if !shard.contains_key(&key) && shard.len() >= self.keys_max {
            add(&self.counters.overflows);
            return None;
        }
        let entry = shard.entry(key).or_insert_with(|| Entry::new(shared, terms));
        entry.account.used(now);
        let left = entry.account.charge(&terms, cost, whole(&terms.gcra), now);
        let order = if self.redis.status() == Status::Lost { None } else { entry.order(&terms, now) };
        drop(shard);
        self.ask(key, shared, terms, order);
        Some(left)
    }

    /// The node has decided alone and let the request pass: the store is told when it can be.
    pub(in super::super) fn owe(self: &Arc<Self>, wanted: &Wanted, now: Nanos) {
        let Wanted { key, shared, cost, terms } = *wanted;
        let mut shard = self.shard(key);
        if !shard.contains_key(&key) && shard.len() >= self.keys_max {
            return;
        }
        let entry = shard.entry(key).or_insert_with(|| Entry::new(shared, terms));
        entry.account.used(now);
        entry.account.owe(cost, whole(&terms.gcra));
        // One that is late hears it all the same, and says what others have spent.
        let order = if self.redis.status() == Status::Lost { None } else { entry.order(&terms, now) };
        drop(shard);
        self.ask(key, shared, terms, order);
    }

    /// Decides about a quota alone. A key that has no room has nothing: a quota that nobody counts is none.
    pub(super) fn spend_alone(&self, wanted: &Wanted, nodes: u32, now: Nanos) -> Taken {
        let Wanted { key, cost, terms, .. } = wanted;
        match self.shard(*key).get_mut(key) {
            Some(entry) => entry.account.spend_alone(terms, *cost, nodes, now),
            None => terms.gcra.judged(false, terms.gcra.spent(terms.gcra.burst()), *cost),
        }
    }

    /// Calls `raise` with what the fleet's bucket owes at least, where the store has said so; for one request of a key at a time.
    pub(in super::super) fn with_owed(&self, key: KeyHash, now: Nanos, raise: impl FnOnce(u64)) {
        let shard = self.shard(key);
        if let Some(owes) = shard.get(&key).and_then(|entry| entry.account.owes(now)) {
            raise(owes);
        }
    }

    /// Gives back what is idle, and forgets what says nothing any more.
    pub(super) fn sweep(self: &Arc<Self>, now: Nanos) {
        let (is_lost, losses) = (self.redis.status() == Status::Lost, self.redis.figures().losses);
        let today = second(SystemTime::now());
        for shard in &self.shards {
            let mut orders = Vec::new();
            let mut shard = lock(shard);
            // The store knows what an idle account knows, unless it forgets; without the account it is asked once more. While the store is
            // lost only the account knows what this node may let pass of a quota.
            let is_tight = shard.len() * 2 > self.keys_max;
            shard.retain(|_, entry| {
                let is_over = match entry.terms.ends {
                    Some(ends) => {
                        !is_lost && (is_tight || ends < today) && entry.account.is_idle_and_settled(now)
                    }
                    None if is_tight => entry.account.is_idle_and_settled(now),
                    None => entry.account.is_over(now),
                };
                !entry.waiting.is_empty() || !is_over
            });
            if !is_lost {
                let mut claims = 0;
                for (key, entry) in &mut *shard {
                    let mut order = entry.account.give_back(false, now);
                    if order.is_none() && claims < CLAIMS_MAX {
                        order = entry.account.claim(losses, now);
                        claims += usize::from(order.is_some());
                    }
                    orders.extend(order.map(|order| (*key, entry.shared, entry.terms, order)));
                }
            }
            drop(shard);
            for (key, shared, terms, order) in orders {
                self.ask(key, shared, terms, Some(order));
            }
        }
    }

    /// All that is leased, to be given back before the process ends.
    pub(super) fn give_all_back(&self, now: Nanos) -> Vec<Question> {
        let (mut questions, losses) = (Vec::new(), self.redis.figures().losses);
        for shard in &self.shards {
            for entry in lock(shard).values_mut() {
                if let Some(order) = entry.account.give_back(true, now) {
                    let answer = Box::new(|_: Result<Vec<i64>, Lost>| {});
                    questions.push(question(entry.shared, &entry.terms, &order, losses, answer));
                }
            }
        }
        questions
    }

    /// What there is to tell. Locks shards one after the other.
    pub(in super::super) fn figures(&self) -> LeaseFigures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { asked, alone, late, overflows } = &self.counters;
        let (keys, leased) = self.shards.iter().fold((0, 0), |(keys, leased), shard| {
            let shard = lock(shard);
            let own: u64 = shard.values().map(|entry| u64::from(entry.account.tokens)).sum();
            (keys + shard.len() as u64, leased + own)
        });
        let (asked, alone, late, overflows) = (read(asked), read(alone), read(late), read(overflows));
        LeaseFigures { keys, leased, asked, alone, late, overflows }
    }

    fn ask(self: &Arc<Self>, key: KeyHash, shared: KeyHash, terms: Terms, order: Option<Order>) {
        let Some(order) = order else { return };
        add(&self.counters.asked);
        let (leases, losses) = (Arc::downgrade(self), self.redis.figures().losses);
        let answer = move |answer: Result<Vec<i64>, Lost>| {
            if let Some(leases) = leases.upgrade() {
                let answer = answer.map(|numbers| said(&numbers, &terms, &order, losses));
                leases.answered(key, &terms, &order, &answer);
            }
        };
        self.redis.ask(question(shared, &terms, &order, losses, Box::new(answer)));
    }

    /// Serves those who wait, in the order in which they came.
    fn answered(
        self: &Arc<Self>,
        key: KeyHash,
        terms: &Terms,
        order: &Order,
        answer: &Result<Option<Said>, Lost>,
    ) {
        let now = Nanos::now();
        let mut told = Vec::new();
        let mut shard = self.shard(key);
        let Some(entry) = shard.get_mut(&key) else { return };
        let lost = match &answer {
            Ok(Some(said)) => {
                entry.account.fill(order, said);
                None
            }
            // Not what the script gives: whoever says so is not believed.
            Ok(None) => Some(true),
            Err(Lost { sent }) => Some(*sent),
        };
        if let Some(sent) = lost {
            entry.account.lose(order, sent);
            // Who waits hears that nobody will answer.
            entry.waiting.clear();
        }
        let shared = entry.shared;
        let waiting = std::mem::take(&mut entry.waiting);
        for one in waiting {
            let wanted = Wanted { key, shared, cost: one.cost, terms: one.terms };
            if one.tell.is_closed() {
                continue;
            }
            if !one.is_counted && (one.terms.strict || entry.account.tokens < one.cost) {
                entry.waiting.push(one);
                continue;
            }
            let taken = entry.account.serve(&one.terms, one.cost, now);
            told.push((one.tell, self.reserved(taken, wanted)));
        }
        let mut next = None;
        if lost.is_none() {
            next = entry.order(terms, now).or_else(|| entry.account.give_back_surplus(terms, now));
        }
        drop(shard);
        for (tell, reserved) in told {
            // Who has gone meanwhile gives back what it got.
            let _ = tell.send(reserved);
        }
        self.ask(key, shared, *terms, next);
    }

    fn reserved(self: &Arc<Self>, taken: Taken, wanted: Wanted) -> Reserved {
        let leases = taken.passed().then(|| Arc::clone(self));
        Reserved { taken, wanted, leases }
    }

    fn take_back(self: &Arc<Self>, wanted: &Wanted) {
        let mut shard = self.shard(wanted.key);
        let Some(entry) = shard.get_mut(&wanted.key) else { return };
        entry.account.take_back(wanted.cost);
        let order = match self.redis.status() {
            Status::Lost => None,
            Status::Late | Status::Ready => entry.account.give_back_surplus(&wanted.terms, Nanos::now()),
        };
        drop(shard);
        self.ask(wanted.key, wanted.shared, wanted.terms, order);
    }

    fn shard(&self, key: KeyHash) -> MutexGuard<'_, Shard> {
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
        Self { account: Account::default(), shared, terms, waiting: Vec::new() }
    }

    /// What to ask the store for, for those who wait and for the lease.
    fn order(&mut self, terms: &Terms, now: Nanos) -> Option<Order> {
        let waiting = self.waiting.iter().fold(0_u32, |sum, one| sum.saturating_add(one.cost));
        let order = self.account.order(terms, waiting, now)?;
        self.waiting.iter_mut().for_each(|one| one.is_counted = true);
        Some(order)
    }
}

impl Reserved {
    /// Whether the tokens were there.
    pub(in super::super) fn taken(&self) -> &Taken {
        &self.taken
    }

    /// They are spent.
    pub(in super::super) fn spend(mut self) -> Taken {
        self.leases = None;
        self.taken
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(leases) = self.leases.take() {
            leases.take_back(&self.wanted);
        }
    }
}

fn whole(gcra: &Gcra) -> u32 {
    u32::try_from(gcra.burst()).unwrap_or(u32::MAX)
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
