//! A limit as it is written becomes one that can be asked.

use std::sync::Arc;
use std::time::Duration;

use super::super::class::Class;
use super::super::config::{Config, QueueConfig};
use super::super::cost::Cost;
use super::super::key::Key;
use super::super::penalty::Rules;
use super::super::table::{Table, VALUES_MAX};
use super::super::{Gcra, HashKey};
use super::{Allowance, Concurrent, Count, Queue, RateLimit, Tier};
use crate::config::units::{Rate, Size, Time};
use crate::config::{Build, Site, Spanned};
use crate::state::Live;

/// What a table may take.
const MEMORY: (u64, u64) = (64 << 10, MEMORY_MAX as u64);
/// The most of it.
pub(in super::super) const MEMORY_MAX: usize = 1 << 30;
/// The longest period, and the longest time that a bucket may take to be full.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);
/// The fastest rate: above it, whole nanoseconds would tell in it.
const PER_SECOND_MAX: u128 = 1_000_000;
/// The longest that a request may wait for its turn.
const PATIENCE: Duration = Duration::from_secs(60);

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
        without_failures(config, build);
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
        let count = match &config.count {
            _ if key.is_of_auth_failures() => Count::AuthFailures,
            Some(count) => Count::Status(count.status.as_slice().into()),
            None => Count::Every,
        };
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
            allowance: (!tiers.is_empty()).then(|| Allowance { tiers, cost, count }),
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
}

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
            let [limit, path] = ["limit", word].map(|key| format!("{}.{key}", config.path));
            build.errors.push_lacking(limit, site, path, cause, "add `limit: 50/1s`, or remove it");
        }
    }
}

/// What makes no sense of failures: they are counted as they are, one each, and none is under way.
fn without_failures(config: &Spanned<Config>, build: &mut Build) {
    if !config.counts_auth_failures() {
        return;
    }
    let unfit = [
        ("count", config.count.as_ref().map(|at| &at.site), "it counts what authentication has refused"),
        (
            "cost",
            config.cost.as_ref().map(|at| &at.site),
            "each credential that is refused is one, however it came",
        ),
        (
            "concurrent",
            config.concurrent.as_ref().map(|at| &at.site),
            "before it has failed nothing of it is under way",
        ),
    ];
    for (word, site, why) in unfit.into_iter().filter_map(|(word, site, why)| Some((word, site?, why))) {
        let cause = format!("`{word}` says nothing beside `key: auth_failures`: {why}");
        let path = format!("{}.{word}", config.path);
        build.errors.push(site, path, cause, "remove it, or write a limit of its own with `key: client`");
    }
}

fn queue(config: &Spanned<Config>, build: &mut Build) -> Option<Queue> {
    let written = config.queue.as_ref()?;
    if config.concurrent.is_none() {
        let cause = "a `queue` is for requests above `concurrent`, and there is none";
        let concurrent = format!("{}.concurrent", config.path);
        let cure = "add `concurrent: 8`, or remove it";
        build.errors.push_lacking(concurrent, &written.site, &*written.path, cause, cure);
    }
    let QueueConfig { length, wait: Spanned { value: Time(wait), site, path } } = &written.value;
    if wait.is_zero() || *wait > PATIENCE {
        let cause = format!("`{}` is no time to wait in a queue", Time(*wait));
        build.errors.push(site, &**path, cause, "write a duration from `1ms` to `60s`");
    }
    Some(Queue { length: *length, wait: *wait })
}

pub(in super::super) fn memory(written: &Spanned<Size>, build: &mut Build) -> usize {
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

pub(in super::super) fn gcra(
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
