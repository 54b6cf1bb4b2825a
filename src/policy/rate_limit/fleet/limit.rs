//! A limit of which all nodes have one: where its decisions come from.

use std::sync::Arc;
use std::time::Duration;

use super::super::config::{Config, Scope};
use super::super::limit::{Asked, RateLimit};
use super::super::table::Table;
use super::super::{Gcra, HashKey, KeyHash, Nanos, Taken};
use super::{Fleet, LeaseFigures, Leases, Reserved, Terms, Turn, Wanted};
use crate::config::{Build, Spanned};
use crate::state::Live;

/// What a limit with `scope: fleet` has beside a table of its own.
#[derive(Clone, Debug)]
pub(in super::super) struct FleetLimit {
    fleet: Arc<Fleet>,
    leases: Arc<Leases>,
    hash: HashKey,
    /// The memory of the leases.
    bytes: usize,
    strict: bool,
}

/// A decision that is not final yet.
#[derive(Debug)]
pub(in super::super) struct Granted<'a> {
    limit: &'a FleetLimit,
    table: &'a Table,
    wanted: Wanted,
    by: By,
}

/// Who has decided.
#[derive(Debug)]
enum By {
    Fleet(Reserved),
    /// This node alone, by its share; how it will stand once tokens are taken.
    Node {
        share: Gcra,
        seen: Taken,
    },
}

impl FleetLimit {
    /// Of this name and key, with leases in so much memory.
    pub(in super::super) fn new(
        fleet: &Arc<Fleet>,
        (name, key): (&str, &str),
        bytes: usize,
        strict: bool,
        live: &Live,
    ) -> Self {
        let (leases, hash) = fleet.leases(name, key, bytes, live);
        Self { fleet: Arc::clone(fleet), leases, hash, bytes, strict }
    }

    /// Its leases have its memory from now on.
    pub(in super::super) fn put_in_force(&self) {
        self.leases.set_room(self.bytes);
    }

    /// By which all nodes hash its keys.
    pub(in super::super) fn hash(&self) -> &HashKey {
        &self.hash
    }

    pub(in super::super) fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    /// What is asked for. `key` is this node's, `shared` the fleet's; `count` is that of the limit's rate.
    pub(in super::super) fn wanted(
        &self,
        key: KeyHash,
        shared: KeyHash,
        cost: u32,
        count: u32,
        gcra: &Gcra,
    ) -> Wanted {
        let most = if self.strict { 0 } else { self.fleet.lease_of(count, gcra) };
        // A class is this node's number for a value, and what a key has spent stays where that gets a limit of its own.
        let without = |hash: KeyHash| KeyHash::from_bits(hash.fingerprint & !0xff, hash.place);
        let (account, shared) = (without(key), without(shared));
        let terms = Terms { gcra: *gcra, most, strict: self.strict, turn: None };
        Wanted { key, account, shared, cost, terms }
    }

    /// Asks the lease, the store, or this node's share of the limit, whose bucket is in `table`.
    pub(in super::super) async fn reserve<'a>(
        &'a self,
        wanted: Wanted,
        table: &'a Table,
        waited: &mut Duration,
    ) -> Granted<'a> {
        let granted = |by| Granted { limit: self, table, wanted, by };
        if !self.fleet.is_asleep()
            && let Some(reserved) = self.leases.reserve(wanted, waited).await
        {
            return granted(By::Fleet(reserved));
        }
        let (gcra, now) = (&wanted.terms.gcra, Nanos::now());
        // Where no store is ever asked, it is told how it would stand with the fleet's.
        let share = if self.fleet.is_asleep() { *gcra } else { gcra.share(self.fleet.nodes()) };
        // However it has come to this: the node's own bucket is no fuller than the fleet's was when the store last said how it stands.
        self.leases.with_owed(&wanted, now, |owes| {
            let own = table.look(wanted.key, &share, 0, now).debt();
            let missing = gcra.scaled(owes, &share).saturating_sub(own).div_ceil(share.time(1).max(1));
            if missing > 0 {
                let _ = table.charge(wanted.key, &share, u32::try_from(missing).unwrap_or(u32::MAX), now);
            }
        });
        let seen = table.look(wanted.key, &share, wanted.cost, now);
        granted(By::Node { share, seen: share.take(seen.debt(), wanted.cost) })
    }

    /// What is asked for of a quota that has so many requests in this period.
    pub(in super::super) fn wanted_of_quota(
        &self,
        (key, shared): (KeyHash, KeyHash),
        limit: u64,
        turn: Turn,
    ) -> Wanted {
        let of = |number| Gcra::new(0, Duration::from_secs(1), number);
        let least = limit.saturating_sub(if turn.is_later { 0 } else { turn.offset });
        let (gcra, most) = (of(limit), if self.strict { 0 } else { self.fleet.lease_of(0, &of(least)) });
        let terms = Terms { gcra, most, strict: self.strict, turn: Some(turn) };
        Wanted { key, account: key, shared, cost: 1, terms }
    }

    /// Whether the period of a quota is the key's first; none where the store has not said so.
    pub(in super::super) fn is_first(&self, key: KeyHash) -> Option<bool> {
        self.leases.is_first(key)
    }

    /// Counts a request of a quota, if one is left. Where the store does not answer this node has its part of what was left.
    pub(in super::super) async fn count(&self, wanted: Wanted, waited: &mut Duration) -> Taken {
        match self.leases.reserve(wanted, waited).await {
            Some(reserved) => reserved.spend(),
            None => self.leases.spend_alone(&wanted, self.fleet.nodes(), Nanos::now()),
        }
    }

    /// The same, by nobody but the store; none where it has not answered within this time. Then it may have counted the request.
    pub(in super::super) async fn count_surely(&self, wanted: Wanted, patience: Duration) -> Option<Taken> {
        self.leases.reserve_surely(wanted, patience).await.map(Reserved::spend)
    }

    /// What only the end of a request could say.
    pub(in super::super) fn charge(&self, wanted: &Wanted, table: &Table, now: Nanos) -> Option<Taken> {
        let left = self.leases.charge(wanted, now);
        if self.fleet.is_alone() {
            let share = wanted.terms.gcra.share(self.fleet.nodes());
            return Some(table.charge(wanted.key, &share, wanted.cost, now));
        }
        left
    }
}

impl RateLimit {
    /// Makes it a limit of the fleet's, where it is written as one. None when `build.errors` says why not.
    pub fn join(
        mut self,
        name: &str,
        config: &Spanned<Config>,
        fleet: Option<&Arc<Fleet>>,
        live: &Live,
        build: &mut Build,
    ) -> Option<Self> {
        let is_shared = config.scope == Scope::Fleet;
        let strict = is_strict(config.scope, config.strict.as_ref(), build).ok()?;
        if !is_shared {
            return Some(self);
        }
        let path = format!("{}.scope", config.path);
        if config.limit.is_none() {
            let cause = "`scope: fleet` is about a `limit`, and there is none";
            let limit = format!("{}.limit", config.path);
            build.errors.push_lacking(limit, &config.site, path, cause, "add `limit: 50/1s`, or remove it");
            return None;
        }
        if let Some(concurrent) = &config.concurrent {
            let cause = "what is under way is counted by each node itself, and this limit is the fleet's";
            let cure = "write `concurrent` as a limit of its own, and name both on the route";
            build.errors.push(&concurrent.site, &*concurrent.path, cause, cure);
            return None;
        }
        // Where `server.fleet` is there and wrong, that has been said.
        let Some(fleet) = fleet else {
            build.errors.push(&config.site, path, NO_FLEET.0, NO_FLEET.1);
            return None;
        };
        let bytes = usize::try_from(config.memory.value.0).unwrap_or(usize::MAX);
        let key = self.key().definition();
        self.fleet = Some(FleetLimit::new(fleet, (name, &key), bytes, strict, live));
        Some(self)
    }

    /// Whether all nodes count together.
    pub(in super::super) fn is_of_fleet(&self) -> bool {
        self.fleet.is_some()
    }

    /// What its leases tell; none where each node counts by itself.
    pub fn lease_figures(&self) -> Option<LeaseFigures> {
        self.fleet.as_ref().map(|fleet| fleet.leases().figures())
    }

    /// Asks the fleet; none where each node counts by itself.
    pub(in super::super) async fn reserve(
        &self,
        asked: &Asked,
        waited: &mut Duration,
    ) -> Option<Granted<'_>> {
        let (fleet, wanted) = self.wanted(asked)?;
        Some(fleet.reserve(wanted, &self.table, waited).await)
    }

    /// Charges the fleet: how it stands then, where it is known.
    pub(in super::super) fn charge_fleet(&self, asked: &Asked, now: Nanos) -> Option<Taken> {
        let (fleet, wanted) = self.wanted(asked)?;
        fleet.charge(&wanted, &self.table, now)
    }

    fn wanted(&self, asked: &Asked) -> Option<(&FleetLimit, Wanted)> {
        let (fleet, tier) = (self.fleet.as_ref()?, self.tier(asked.tier)?);
        Some((fleet, fleet.wanted(asked.key, asked.shared?, asked.cost, tier.count, &tier.gcra)))
    }
}

/// Whether the store is asked every time; an error where it is never asked.
pub(in super::super) fn is_strict(
    scope: Scope,
    strict: Option<&Spanned<bool>>,
    build: &mut Build,
) -> Result<bool, ()> {
    let Some(strict) = strict else { return Ok(false) };
    if scope == Scope::Node {
        let cause = "`strict` is about a store that is asked, and this limit is counted by each node itself";
        build.errors.push(&strict.site, &*strict.path, cause, "add `scope: fleet`, or remove it");
        return Err(());
    }
    Ok(strict.value)
}

/// Cause and cure.
pub(in super::super) const NO_FLEET: (&str, &str) = (
    "`scope: fleet` counts in a store that all nodes share, and none is named",
    "add `server: {fleet: {redis: \"redis://127.0.0.1:6379\"}}`, or remove it",
);

impl Granted<'_> {
    /// How it stands, as though the tokens were taken.
    pub(in super::super) fn taken(&self) -> &Taken {
        match &self.by {
            By::Fleet(reserved) => reserved.taken(),
            By::Node { seen, .. } => seen,
        }
    }

    /// Takes the tokens. Where this node decides alone another request may have been faster.
    pub(in super::super) fn spend(self, now: Nanos) -> Taken {
        match self.by {
            By::Fleet(reserved) => reserved.spend(),
            By::Node { share, .. } => {
                let taken = self.table.take(self.wanted.key, &share, self.wanted.cost, now);
                if taken.passed() {
                    self.limit.leases.owe(&self.wanted, now);
                }
                taken
            }
        }
    }
}
