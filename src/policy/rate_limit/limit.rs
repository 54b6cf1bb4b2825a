//! A limit, compiled: `policies.rate_limits.NAME`.

mod compile;

use std::sync::Arc;
use std::time::Duration;

pub(super) use compile::{MEMORY_MAX, gcra, memory};

use super::class::Class;
use super::concurrency::Slots;
use super::config::{Config, Headers};
use super::cost::Cost;
use super::fleet::FleetLimit;
use super::key::{Facts, Key, Reach};
use super::penalty::{PENALTY, PenaltyFigures, Rules};
use super::table::Table;
use super::{Figures, Gcra, Kept, KeyHash, Nanos, Taken};
use crate::config::Site;
use crate::policy::Mode;

/// A limit on how often, or on how many at once.
#[derive(Debug)]
pub struct RateLimit {
    name: Arc<str>,
    pub(super) label: Arc<str>,
    pub(super) site: Site,
    pub(super) mode: Mode,
    pub(super) headers: Headers,
    key: Key,
    pub(super) allowance: Option<Allowance>,
    pub(super) concurrent: Option<Concurrent>,
    /// None where nobody is cooled off.
    pub(super) penalty: Option<Rules>,
    pub(super) table: Arc<Table>,
    /// The memory of the table.
    bytes: usize,
    /// None where each node counts by itself.
    pub(super) fleet: Option<FleetLimit>,
}

/// How often.
#[derive(Debug)]
pub(super) struct Allowance {
    /// First that of all keys without one of their own.
    pub(super) tiers: Box<[Tier]>,
    cost: Cost,
    count: Count,
}

/// Which requests take tokens.
#[derive(Debug)]
enum Count {
    /// Each, when it comes.
    Every,
    /// Those that are answered so.
    Status(Box<[u16]>),
    /// Those whose credential authentication has refused.
    AuthFailures,
}

/// What those keys may do that share it.
#[derive(Debug)]
pub(super) struct Tier {
    pub(super) gcra: Gcra,
    /// How many tokens a period brings.
    pub(super) count: u32,
    pub(super) site: Site,
    class: Class,
}

/// How many at once.
#[derive(Debug)]
pub(super) struct Concurrent {
    /// What clients know it by: the limit's name, or another beside that where the limit has tokens too.
    pub(super) label: Arc<str>,
    pub(super) most: u32,
    pub(super) queue: Option<Queue>,
    pub(super) slots: Arc<Slots>,
}

impl Concurrent {
    /// How many may be under way before one is refused: shadowed, nobody waits, and who would have waited is under way meanwhile.
    pub(super) fn room(&self, mode: Mode) -> u32 {
        match (mode, self.queue) {
            (Mode::Shadow, Some(queue)) => self.most.saturating_add(queue.length),
            _ => self.most,
        }
    }
}

/// Who waits for his turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    pub(super) length: u32,
    pub(super) wait: Duration,
}

/// A request, as a limit asks about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) key: KeyHash,
    /// As all nodes know the key; of a limit of the fleet's.
    pub(super) shared: Option<KeyHash>,
    pub(super) tier: u8,
    pub(super) cost: u32,
}

impl RateLimit {
    /// `rate_limits.NAME`
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// From where on it can be asked.
    pub fn reach(&self) -> Reach {
        self.key.reach()
    }

    /// Whether it counts by API key.
    pub fn is_of_api_keys(&self) -> bool {
        self.key.is_of_api_keys()
    }

    /// Whether it counts by route, first of all: then the values in `overrides` are names of routes.
    pub fn is_by_route(&self) -> bool {
        self.key.is_by_route()
    }

    /// Whether it is asked behind authentication: by who asks, or by what all share, which nobody is to spend who is refused all the same,
    /// where the route `asks` who it is. What counts ends, or what is under way, counts those too that authentication refuses.
    pub(super) fn is_late(&self, asks: bool) -> bool {
        let is_plain = self.concurrent.is_none() && !self.counts_ends();
        self.reach() == Reach::Identity || asks && is_plain && self.key.is_shared()
    }

    /// Whether a request that passes this limit always passes the other: the same key, no more at once and no faster.
    pub fn covers(&self, other: &Self) -> bool {
        let plain = |limit: &Self| {
            let allowance =
                limit.allowance.as_ref().filter(|own| matches!(own.count, Count::Every) && own.cost.is_one());
            let tiers = allowance.map_or(&[][..], |own| &*own.tiers);
            match (tiers, &limit.concurrent, limit.mode) {
                ([tier], None, Mode::Enforce) => Some(tier.gcra),
                _ => None,
            }
        };
        // What passes on each node may be too much for the fleet.
        if other.fleet.is_some() && self.fleet.is_none() {
            return false;
        }
        let (Some(own), Some(others)) = (plain(self), plain(other)) else { return false };
        let slower = own.fill().as_nanos() * u128::from(others.burst())
            >= others.fill().as_nanos() * u128::from(own.burst());
        self.key.definition() == other.key.definition() && own.burst() <= others.burst() && slower
    }

    /// Its limits are in force from now on: buckets that another configuration has filled are brought under them. Those of a `limit` that
    /// is left out beside `concurrent` stay, for when it comes back.
    pub fn put_in_force(&self) {
        if let Some(concurrent) = &self.concurrent {
            concurrent.slots.put_in_force(concurrent.room(self.mode));
        }
        if let Some(allowance) = &self.allowance {
            let limits = allowance.tiers.iter().map(|tier| (tier.class.id, tier.gcra)).collect();
            self.table.put_in_force(&limits, self.bytes);
            self.fleet.iter().for_each(FleetLimit::put_in_force);
            if self.penalty.is_some() {
                self.table.penalise();
            }
        }
    }

    /// What its table tells of itself; none where it has none.
    pub fn figures(&self) -> Option<Figures> {
        self.allowance.as_ref().map(|_| self.table.figures())
    }

    /// Whom it has cooled off; none where it cools nobody off.
    pub fn penalties(&self) -> Option<PenaltyFigures> {
        self.penalty?;
        Some(self.table.penalties()?.figures(Nanos::now()))
    }

    /// Its buckets, which outlive the process, also while only `concurrent` is written.
    pub fn kept(&self) -> Kept {
        Kept(Arc::clone(&self.table))
    }

    /// Requests that it counts as under way; none where it does not count them.
    pub fn under_way(&self) -> Option<u64> {
        self.concurrent.as_ref().map(|concurrent| concurrent.slots.taken())
    }

    /// Why it may refuse: the words of its series.
    pub fn reasons(config: &Config) -> Vec<&'static str> {
        let rate = config.limit.as_ref().map(|_| match &config.count {
            _ if config.counts_auth_failures() => AUTH_FAILURES,
            Some(_) => SPENT,
            None => RATE,
        });
        let concurrent = config.concurrent.as_ref().map(|_| CONCURRENT);
        let queue = config.queue.iter().flat_map(|_| [QUEUE_WAIT, QUEUE_LEFT]);
        let penalty = config.penalty.as_ref().map(|_| PENALTY);
        [rate, penalty, concurrent].into_iter().flatten().chain(queue).collect()
    }

    /// Its key, if the client is all that it takes; what will be asked about it is on its way then.
    pub(super) fn ahead(&self, facts: &Facts<'_>) -> Option<(KeyHash, Class)> {
        if !self.key.is_of_client_alone() {
            return None;
        }
        let made = self.key.of(facts, self.table.hash());
        if self.allowance.is_some() {
            self.table.fetch(made.0);
        }
        Some(made)
    }

    /// What it asks about a request, whose key may have been made [`ahead`](Self::ahead).
    pub(super) fn ask(&self, made: Option<(KeyHash, Class)>, facts: &Facts<'_>) -> Asked {
        let (key, class) = made.unwrap_or_else(|| self.key.of(facts, self.table.hash()));
        let cost = self.allowance.as_ref().map_or(0, |allowance| allowance.cost.of(facts));
        let shared = self.fleet.as_ref().map(|fleet| self.key.of(facts, fleet.hash()).0);
        Asked { key, shared, tier: class.tier, cost }
    }

    pub(super) fn tier(&self, tier: u8) -> Option<&Tier> {
        self.allowance.as_ref()?.tiers.get(usize::from(tier))
    }

    pub(super) fn look(&self, asked: &Asked, now: Nanos) -> Option<Taken> {
        Some(self.table.look_in_force(asked.key, &self.tier(asked.tier)?.gcra, asked.cost, now))
    }

    pub(super) fn take(&self, asked: &Asked, now: Nanos) -> Option<Taken> {
        Some(self.table.take_in_force(asked.key, &self.tier(asked.tier)?.gcra, asked.cost, now))
    }

    /// How it stands then, where it is known here.
    pub(super) fn charge(&self, asked: &Asked, now: Nanos) -> Option<Taken> {
        if self.is_of_fleet() {
            return self.charge_fleet(asked, now);
        }
        Some(self.table.charge_in_force(asked.key, &self.tier(asked.tier)?.gcra, asked.cost, now))
    }

    /// Whether a request is only looked at when it comes, and counted later, or not at all.
    pub(super) fn counts_ends(&self) -> bool {
        self.allowance.as_ref().is_some_and(|allowance| !matches!(allowance.count, Count::Every))
    }

    /// Whether those are counted whose credential authentication has refused.
    pub fn counts_auth_failures(&self) -> bool {
        self.allowance.as_ref().is_some_and(|allowance| matches!(allowance.count, Count::AuthFailures))
    }

    /// Whether those are counted that end so.
    pub(super) fn counts(&self, status: u16) -> bool {
        match self.allowance.as_ref().map(|allowance| &allowance.count) {
            Some(Count::Status(statuses)) => statuses.contains(&status),
            Some(Count::Every | Count::AuthFailures) | None => false,
        }
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Whether clients may know of it: a shadowed limit bounds nobody.
    pub(super) fn is_visible(&self) -> bool {
        self.mode == Mode::Enforce && self.headers != Headers::Hidden
    }

    /// Whether clients are told of it in this way.
    pub(super) fn is_told(&self, headers: Headers) -> bool {
        self.is_visible() && self.headers == headers
    }

    /// Whether requests may wait for their turn; a shadowed limit keeps nobody waiting.
    pub fn waits(&self) -> bool {
        self.mode == Mode::Enforce
            && self.concurrent.as_ref().is_some_and(|concurrent| concurrent.queue.is_some())
    }

    /// The tokens of a full bucket; nought where there is none.
    pub(super) fn size(&self, tier: u8) -> u64 {
        self.tier(tier).map_or(0, |tier| tier.gcra.burst())
    }
}

/// Reasons for refusing.
pub(super) const RATE: &str = "rate";
pub(super) const SPENT: &str = "spent";
pub(super) const AUTH_FAILURES: &str = "auth_failures";
pub(super) const CONCURRENT: &str = "concurrent";
pub(super) const QUEUE_WAIT: &str = "queue_wait";
pub(super) const QUEUE_LEFT: &str = "queue_left";
