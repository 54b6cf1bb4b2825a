//! A limit, compiled: `policies.rate_limits.NAME`.

use std::sync::Arc;
use std::time::Duration;

use super::class::Class;
use super::concurrency::Slots;
use super::config::{Config, Headers, QueueConfig};
use super::cost::Cost;
use super::fleet::FleetLimit;
use super::key::{Facts, Key, Reach};
use super::penalty::{PENALTY, PenaltyFigures, Rules};
use super::table::{Table, VALUES_MAX};
use super::{Figures, Gcra, HashKey, Kept, KeyHash, Nanos, Taken};
use crate::config::units::{Rate, Size, Time};
use crate::config::{Build, Site, Spanned};
use crate::policy::Mode;
use crate::state::Live;

/// What a table may take.
const MEMORY: (u64, u64) = (64 << 10, MEMORY_MAX as u64);
/// The most of it.
pub(super) const MEMORY_MAX: usize = 1 << 30;
/// The longest period, and the longest time that a bucket may take to be full.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);
/// The fastest rate: above it, whole nanoseconds would tell in it.
const PER_SECOND_MAX: u128 = 1_000_000;
/// The longest that a request may wait for its turn.
const PATIENCE: Duration = Duration::from_secs(60);

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
    /// The statuses that are counted; none where every request is.
    count: Option<Box<[u16]>>,
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
    /// Compiles `policies.rate_limits.NAME`. None when `build.errors` says why. Nothing comes into force by it: see
    /// [`RateLimit::put_in_force`].
    pub fn compile(name: &str, config: &Spanned<Config>, live: &Live, build: &mut Build) -> Option<Self> {
        let errors_before = build.errors.errors().len();
        let key = Key::compile(&config.key, build);
        if config.limit.is_none() && config.concurrent.is_none() {
            let cause = format!("`{name}` limits nothing");
            build.errors.push(&config.site, &*config.path, cause, "add `limit: 50/1s`, or `concurrent: 8`");
        }
        only_with_limit(config, build);
        let queue = queue(config, build);
        let bytes = memory(&config.memory, build);
        let gcras = gcras(config, build);
        let cost = config.cost.as_ref().map(|cost| Cost::compile(cost, &gcras, build)).unwrap_or_default();
        let penalty = config.penalty.as_ref().map(|penalty| Rules::compile(penalty, build));
        if config.overrides.len() > VALUES_MAX {
            let cause = format!("more than {VALUES_MAX} values have limits of their own");
            let path = format!("{}.overrides", config.path);
            build.errors.push(
                &config.site,
                path,
                cause,
                "keep the ones that matter; `key: plan` tells groups apart",
            );
        }
        let mut key = key.filter(|_| build.errors.errors().len() == errors_before)?;
        let table = find_table(name, &key, config, live, build)?;
        let ids = table.classes(config.overrides.keys());
        let class = |(index, id): (u8, u8)| Class { tier: index, id };
        let classes: Vec<_> = (1..=u8::MAX).zip(ids).map(class).collect();
        let values = config.overrides.iter().zip(&classes).map(|((value, at), class)| (value, at, *class));
        key.set_classes(values, build);
        let sites = std::iter::once(&config.site).chain(config.overrides.values().map(|at| &at.site));
        let rates = config.limit.iter().chain(config.overrides.values()).map(|rate| rate.value.count);
        let tiers =
            gcras.into_iter().zip(rates).zip(sites).zip(std::iter::once(Class::default()).chain(classes));
        let tier = |(((gcra, count), site), class): (((Gcra, u32), &Site), Class)| Tier {
            gcra,
            count,
            site: site.clone(),
            class,
        };
        let tiers: Box<[_]> = tiers.map(tier).collect();
        (build.errors.errors().len() == errors_before).then(|| Self {
            name: format!("rate_limits.{name}").into(),
            label: name.into(),
            site: config.site.clone(),
            mode: config.mode,
            headers: config.headers,
            key,
            allowance: (!tiers.is_empty()).then(|| Allowance {
                tiers,
                cost,
                count: config.count.as_ref().map(|count| count.status.as_slice().into()),
            }),
            concurrent: config.concurrent.as_ref().map(|most| Concurrent {
                // No policy has a `.` in its name, so this is nobody else's.
                label: if config.limit.is_some() { format!("{name}.concurrent").into() } else { name.into() },
                most: most.value,
                queue,
                slots: Arc::clone(&table.slots),
            }),
            penalty,
            table,
            bytes,
            fleet: None,
        })
    }

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

    /// Whether a request that passes this limit always passes the other: the same key, no more at once and no faster.
    pub fn covers(&self, other: &Self) -> bool {
        let plain = |limit: &Self| {
            let allowance = limit.allowance.as_ref().filter(|own| own.count.is_none() && own.cost.is_one());
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
        if let Some(allowance) = &self.allowance {
            let limits = allowance.tiers.iter().map(|tier| (tier.class.id, tier.gcra)).collect();
            self.table.put_in_force(&limits, self.bytes);
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

    /// Its buckets, which outlive the process; none where it has none.
    pub fn kept(&self) -> Option<Kept> {
        self.allowance.as_ref().map(|_| Kept(Arc::clone(&self.table)))
    }

    /// Requests that it counts as under way; none where it does not count them.
    pub fn under_way(&self) -> Option<u64> {
        self.concurrent.as_ref().map(|concurrent| concurrent.slots.taken())
    }

    /// Why it may refuse: the words of its series.
    pub fn reasons(config: &Config) -> Vec<&'static str> {
        let rate = config.limit.as_ref().map(|_| if config.count.is_some() { SPENT } else { RATE });
        let concurrent = config.concurrent.as_ref().map(|_| CONCURRENT);
        let queue = config.queue.iter().flat_map(|_| [QUEUE_WAIT, QUEUE_LEFT]);
        let penalty = config.penalty.as_ref().map(|_| PENALTY);
        [rate, penalty, concurrent].into_iter().flatten().chain(queue).collect()
    }

    pub(super) fn ask(&self, facts: &Facts<'_>) -> Asked {
        let (key, class) = self.key.of(facts, self.table.hash());
        let cost = self.allowance.as_ref().map_or(0, |allowance| allowance.cost.of(facts));
        let shared = self.fleet.as_ref().map(|fleet| self.key.of(facts, fleet.hash()).0);
        Asked { key, shared, tier: class.tier, cost }
    }

    pub(super) fn tier(&self, tier: u8) -> Option<&Tier> {
        self.allowance.as_ref()?.tiers.get(usize::from(tier))
    }

    pub(super) fn look(&self, asked: &Asked, now: Nanos) -> Option<Taken> {
        Some(self.table.look(asked.key, &self.tier(asked.tier)?.gcra, asked.cost, now))
    }

    pub(super) fn take(&self, asked: &Asked, now: Nanos) -> Option<Taken> {
        Some(self.table.take(asked.key, &self.tier(asked.tier)?.gcra, asked.cost, now))
    }

    pub(super) fn charge(&self, asked: &Asked, now: Nanos) {
        if self.charge_fleet(asked, now) {
            return;
        }
        if let Some(tier) = self.tier(asked.tier) {
            self.table.charge(asked.key, &tier.gcra, asked.cost, now);
        }
    }

    /// Whether requests are counted once they have ended.
    pub(super) fn counts_ends(&self) -> bool {
        self.allowance.as_ref().is_some_and(|allowance| allowance.count.is_some())
    }

    /// Whether those are counted that end so.
    pub(super) fn counts(&self, status: u16) -> bool {
        let counted = self.allowance.as_ref().and_then(|allowance| allowance.count.as_ref());
        counted.is_some_and(|statuses| statuses.contains(&status))
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
pub(super) const CONCURRENT: &str = "concurrent";
pub(super) const QUEUE_WAIT: &str = "queue_wait";
pub(super) const QUEUE_LEFT: &str = "queue_left";

/// What belongs to a `limit` or to `concurrent` and stands there without.
fn only_with_limit(config: &Spanned<Config>, build: &mut Build) {
    let overrides = config.overrides.values().next();
    let of_limit = [
        ("burst", config.burst.as_ref().map(|at| &at.site)),
        ("overrides", overrides.map(|at| &at.site)),
        ("cost", config.cost.as_ref().map(|at| &at.site)),
        ("count", config.count.as_ref().map(|at| &at.site)),
        ("penalty", config.penalty.as_ref().map(|at| &at.site)),
    ];
    for (word, site) in of_limit.into_iter().filter_map(|(word, site)| Some((word, site?))) {
        if config.limit.is_none() {
            let cause = format!("`{word}` is about a `limit`, and there is none");
            let path = format!("{}.{word}", config.path);
            build.errors.push(site, path, cause, "add `limit: 50/1s`, or remove it");
        }
    }
}

fn queue(config: &Spanned<Config>, build: &mut Build) -> Option<Queue> {
    let written = config.queue.as_ref()?;
    if config.concurrent.is_none() {
        let cause = "a `queue` is for requests above `concurrent`, and there is none";
        build.errors.push(&written.site, &*written.path, cause, "add `concurrent: 8`, or remove it");
    }
    let QueueConfig { length, wait: Spanned { value: Time(wait), site, path } } = &written.value;
    if wait.is_zero() || *wait > PATIENCE {
        let cause = format!("`{}` is no time to wait in a queue", Time(*wait));
        build.errors.push(site, &**path, cause, "write a duration from `1ms` to `60s`");
    }
    Some(Queue { length: *length, wait: *wait })
}

pub(super) fn memory(written: &Spanned<Size>, build: &mut Build) -> usize {
    let (least, most) = MEMORY;
    if !(least..=most).contains(&written.value.0) {
        let cause = format!("a table of {} is too small or too large", written.value);
        let cure = format!("write a size from `{}` to `{}`", Size(least), Size(most));
        build.errors.push(&written.site, &*written.path, cause, cure);
    }
    usize::try_from(written.value.0).unwrap_or(usize::MAX)
}

/// First the limit of all keys, then those of single values, in their order; empty where none is written.
fn gcras(config: &Spanned<Config>, build: &mut Build) -> Vec<Gcra> {
    let Some(limit) = &config.limit else { return Vec::new() };
    let burst = config.burst.as_ref().map_or(limit.value.count, |burst| burst.value);
    let own = gcra(limit, burst, config.burst.as_ref().map(|burst| (&burst.site, &*burst.path)), build);
    let overrides = config.overrides.values().map(|rate| gcra(rate, rate.value.count, None, build));
    let overrides: Vec<_> = overrides.collect();
    std::iter::once(own).chain(overrides).collect()
}

pub(super) fn gcra(
    written: &Spanned<Rate>,
    burst: u32,
    burst_at: Option<(&Site, &str)>,
    build: &mut Build,
) -> Gcra {
    let Rate { count, per } = written.value;
    if per > LONGEST {
        let cause = format!("`{}` is longer than a year", Time(per));
        build.errors.push(&written.site, &*written.path, cause, "write a period of `366d` at the most");
    } else if u128::from(count) * 1_000 > PER_SECOND_MAX * per.as_millis() {
        let cause =
            format!("`{}` is faster than {PER_SECOND_MAX} a second, which limits nothing", written.value);
        build.errors.push(&written.site, &*written.path, cause, "write a rate that the upstream bears");
    } else if per.as_nanos() * u128::from(burst) > LONGEST.as_nanos() * u128::from(count) {
        let (site, path) = burst_at.unwrap_or((&written.site, &written.path));
        let cause =
            format!("a burst of {burst} takes longer than a year to come back at `{}`", written.value);
        build.errors.push(site, path, cause, "make the burst smaller or the limit faster");
    }
    Gcra::new(u64::from(count), per, u64::from(burst))
}

fn find_table(
    name: &str,
    key: &Key,
    config: &Spanned<Config>,
    live: &Live,
    build: &mut Build,
) -> Option<Arc<Table>> {
    let Some(secret) = HashKey::random() else {
        let cause = "this machine has no randomness to hash keys with";
        build.errors.push(&config.site, &*config.path, cause, "look at its random device");
        return None;
    };
    let definition = format!("{name} {}", key.definition());
    let table = || Table::new(&format!("rate_limit {definition}"), secret, live.runtime().cloned());
    Some(live.find_or("rate_limit", &definition, table))
}
