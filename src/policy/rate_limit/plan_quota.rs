//! A plan's quota, compiled: how many requests, in which periods, and how safely they are counted.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;

use super::config::Scope;
use super::fleet::{Fleet, FleetLimit, LeaseFigures, NO_FLEET, Turn, is_strict};
use super::plan_config::{Durable, QuotaConfig};
use super::quota::{
    Allowance, Calendar, Counted, NotWritten, Per, Period, Quotas, Tally, Terms, Usage, second,
};
use super::{KeyHash, Nanos};
use crate::config::units::Time;
use crate::config::{Build, Site, Spanned};
use crate::state::{Live, Unusable};

/// How long something may stay unwritten.
const FLUSH: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));
/// How long a request may wait for the store.
const WAIT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(10));
/// What leases of the fleet's may take at least: 20,000 keys that ask within two seconds.
pub(super) const LEASES_MIN: usize = 8 << 20;
/// Both, and how many requests may stay unwritten, where nothing is said.
const USUAL: Duration = Duration::from_secs(1);
const USUAL_REQUESTS: u32 = 1_000;

/// How many requests each key of a plan has.
#[derive(Debug)]
pub struct Quota {
    site: Site,
    path: Arc<str>,
    terms: Terms,
    durable: Durable,
    calendar: Calendar,
    /// The period of the latest request.
    current: ArcSwap<Period>,
    quotas: Arc<Quotas>,
    tally: Arc<Tally>,
    /// None where each node counts by itself.
    fleet: Option<FleetLimit>,
}

impl Quota {
    /// None when `build.errors` says why.
    pub(super) fn compile(
        plan: &str,
        written: &Spanned<QuotaConfig>,
        live: &Live,
        build: &mut Build,
    ) -> Option<Self> {
        let errors_before = build.errors.errors().len();
        let limit = written.limit.value;
        if let Some(offset) = written.offset.as_ref().filter(|offset| offset.value >= limit) {
            let cause =
                format!("an offset of {} leaves nothing of {limit} in the first period", offset.value);
            let cure = format!("write less than `{limit}`");
            build.errors.push(&offset.site, &*offset.path, cause, cure);
        }
        let zone = written.time_zone.as_ref();
        let calendar = Calendar::new(written.per, zone.map_or("UTC", |zone| zone.as_str()));
        if let (None, Some(zone)) = (&calendar, zone) {
            let cause = format!("`{}` is no time zone", zone.value);
            let cure = "write `UTC` or an IANA name such as `Europe/Berlin`";
            build.errors.push(&zone.site, &*zone.path, cause, cure);
        }
        only_batched(written, build);
        let flush = within(written.flush.as_ref(), FLUSH, build);
        let wait = within(written.wait.as_ref(), WAIT, build);
        let calendar = calendar.filter(|_| build.errors.errors().len() == errors_before)?;
        let quotas = Quotas::of(live);
        let tally = quotas.tally(plan);
        tally.set_flush(flush, written.flush_requests.as_ref().map_or(USUAL_REQUESTS, |number| number.value));
        let offset = written.offset.as_ref().map_or(0, |offset| offset.value);
        Some(Self {
            site: written.site.clone(),
            path: Arc::clone(&written.path),
            terms: Terms { allowance: Allowance { limit, offset }, wait },
            durable: written.durable,
            calendar,
            current: ArcSwap::from_pointee(Period { begins: 0, ends: 0 }),
            quotas,
            tally,
            fleet: None,
        })
    }

    /// Makes it the fleet's, where it is written as such.
    ///
    /// # Errors
    /// `build.errors` says why not.
    pub(super) fn join(
        &mut self,
        plan: &str,
        written: &Spanned<QuotaConfig>,
        bytes: usize,
        fleet: Option<&Arc<Fleet>>,
        live: &Live,
        build: &mut Build,
    ) -> Result<(), ()> {
        let strict = is_strict(written.scope, written.strict.as_ref(), build)?;
        if written.scope == Scope::Node {
            return Ok(());
        }
        let errors_before = build.errors.errors().len();
        if let Some(strict) = written.strict.as_ref().filter(|strict| written.is_strict() && !strict.value) {
            let cause = "`durable: strict` has the store count every request before it passes";
            let cure = "remove it, or write `durable: batched`";
            build.errors.push(&strict.site, &*strict.path, cause, cure);
        }
        if fleet.is_none() {
            build.errors.push(&written.site, format!("{}.scope", written.path), NO_FLEET.0, NO_FLEET.1);
        }
        let fleet = fleet.filter(|_| build.errors.errors().len() == errors_before).ok_or(())?;
        let (name, strict) = (format!("plans.{plan}"), strict || written.is_strict());
        self.belong(fleet, live, build)?;
        let limit = FleetLimit::new(fleet, (&name, "quota"), bytes.max(LEASES_MIN), strict, live);
        self.announce(&limit, live);
        self.fleet = Some(limit);
        Ok(())
    }

    /// Its leases have its memory from now on.
    pub(super) fn put_in_force(&self) {
        self.fleet.iter().for_each(FleetLimit::put_in_force);
    }

    /// What its leases tell; none where each node counts by itself.
    pub(super) fn lease_figures(&self) -> Option<LeaseFigures> {
        self.fleet.as_ref().map(|fleet| fleet.leases().figures())
    }

    /// Whether all nodes count together.
    pub fn is_of_fleet(&self) -> bool {
        self.fleet.is_some()
    }

    /// Counts a request of all nodes, if one is left; `always`: also where none is. What passes is noted in this node's store.
    async fn count_in_fleet(
        &self,
        fleet: &FleetLimit,
        (key, period): (&str, Period),
        always: bool,
        waited: &mut Duration,
    ) -> Result<Counted, NotWritten> {
        let Allowance { limit, offset } = self.terms.allowance;
        let (own, shared) = hashed(fleet, key, period);
        let passed = self.quotas.passed(&self.tally, key, period, &self.terms).await;
        let is_later = offset > 0 && self.tally.counter(key).is_later(period);
        let turn = Turn { offset, is_later, passed, ..turn_of(period) };
        let wanted = fleet.wanted_of_quota((own, shared), limit, turn);
        let taken = match self.durable {
            // Who refuses nobody need not keep anybody waiting.
            Durable::Strict if !always => {
                fleet.count_surely(wanted, self.terms.wait).await.ok_or(NotWritten)?
            }
            Durable::Strict | Durable::Batched => fleet.count(wanted, waited).await,
        };
        if always && !taken.passed() {
            let _ = fleet.leases().charge(&wanted, Nanos::now());
        }
        if always || taken.passed() {
            let _ = self.quotas.count_always(&self.tally, key, period, &self.terms);
        }
        let is_first = offset > 0 && fleet.is_first(own).unwrap_or(!turn.is_later);
        let allowed = self.terms.allowance.of(is_first);
        let usage = Usage { used: allowed.saturating_sub(taken.remaining()), allowed };
        Ok(if taken.passed() { Counted::Passed(usage) } else { Counted::Spent(usage) })
    }

    /// Has the store opened, at once or when the process has become who it will be. None when `build.errors` says why not. Where
    /// nothing is served nothing is opened.
    pub(super) fn open(&self, live: &Live, build: &mut Build) -> Option<()> {
        if live.runtime().is_none() {
            return Some(());
        }
        let quotas = Arc::clone(&self.quotas);
        let (site, path) = (self.site.clone(), Arc::clone(&self.path));
        let opened = live.open_settled(move || {
            quotas.open().map_err(|unusable| format!("{site}: {path}: quotas: {unusable}"))
        });
        self.told(opened, build).ok()
    }

    /// Has what is counted here told from what another node has counted, whose store was copied.
    fn belong(&self, fleet: &Arc<Fleet>, live: &Live, build: &mut Build) -> Result<(), ()> {
        if live.runtime().is_none() {
            return Ok(());
        }
        let (quotas, fleet) = (Arc::clone(&self.quotas), Arc::clone(fleet));
        let (site, path) = (self.site.clone(), Arc::clone(&self.path));
        let belongs = live.open_settled(move || {
            let belongs = fleet.node().map_or(Ok(()), |node| quotas.belong(&node));
            belongs.map_err(|unusable| format!("{site}: {path}: quotas: {unusable}"))
        });
        self.told(belongs, build)
    }

    /// Has the store told what each key has used here: it may be another one, or each node may have counted by itself until now.
    fn announce(&self, fleet: &FleetLimit, live: &Live) {
        let Some(runtime) = live.runtime().cloned() else { return };
        let (quotas, plan, fleet) = (Arc::clone(&self.quotas), self.tally.plan().to_owned(), fleet.clone());
        let period = self.period(second(SystemTime::now()));
        let Allowance { limit, offset } = self.terms.allowance;
        let read = move || match quotas.all_passed(&plan, period) {
            Ok(keys) => {
                for (key, passed) in keys {
                    // Whether it is a first period, the request that comes will say.
                    let turn = Turn { offset, passed: Some(passed), ..turn_of(period) };
                    let wanted = fleet.wanted_of_quota(hashed(&fleet, &key, period), limit, turn);
                    fleet.leases().announce(&wanted, Nanos::now());
                }
            }
            Err(unusable) => {
                log::warn!("quotas: what was used of `{plan}` cannot be told the fleet: {unusable}")
            }
        };
        let settled = live.open_settled(move || {
            drop(runtime.spawn_blocking(read));
            Ok(())
        });
        debug_assert!(settled.is_ok(), "it is told in the log");
    }

    fn told(&self, opened: Result<(), String>, build: &mut Build) -> Result<(), ()> {
        opened.map_err(|cause| {
            build.errors.push(&self.site, &*self.path, cause, "nothing has changed so far");
        })
    }

    /// Where it was written.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// What its periods are.
    pub fn per(&self) -> Per {
        self.calendar.per()
    }

    /// By whose clocks.
    pub fn zone(&self) -> &str {
        self.calendar.zone()
    }

    /// How many requests there are in a period.
    pub fn allowance(&self) -> Allowance {
        self.terms.allowance
    }

    /// How many a key has in a period, as far as that is known in memory: all of them, where it may be the key's first.
    pub(super) fn allowed(&self, key: &str, period: Period) -> u64 {
        let Allowance { limit, offset } = self.terms.allowance;
        if offset == 0 {
            return limit;
        }
        if let Some(fleet) = &self.fleet {
            let (own, _) = hashed(fleet, key, period);
            return self.terms.allowance.of(fleet.is_first(own).unwrap_or(false));
        }
        self.known(key, period).map_or(limit, |usage| usage.allowed)
    }

    /// What is used of a period, as far as that is known in memory.
    pub(super) fn known(&self, key: &str, period: Period) -> Option<Usage> {
        self.tally.counter(key).look(period, self.terms.allowance)
    }

    /// The period that this second is in.
    pub fn period(&self, now: i64) -> Period {
        let current = self.current.load();
        if current.holds(now) {
            return **current;
        }
        let period = self.calendar.period(now);
        self.current.store(Arc::new(period));
        period
    }

    /// Counts a request, if one is left. `waited` is how long it has waited for the fleet's store.
    pub(super) async fn count(
        &self,
        key: &str,
        period: Period,
        waited: &mut Duration,
    ) -> Result<Counted, NotWritten> {
        if let Some(fleet) = &self.fleet {
            return self.count_in_fleet(fleet, (key, period), false, waited).await;
        }
        match self.durable {
            Durable::Batched => Ok(self.quotas.count(&self.tally, key, period, &self.terms).await),
            Durable::Strict => self.quotas.count_strictly(&self.tally, key, period, &self.terms).await,
        }
    }

    /// Counts a request, whether one is left or not; how it stands then, if that is known. Waits for nothing but the fleet's store.
    pub(super) async fn count_always(&self, key: &str, period: Period, waited: &mut Duration) -> Counted {
        if let Some(fleet) = &self.fleet {
            let counted = self.count_in_fleet(fleet, (key, period), true, waited).await;
            return counted.unwrap_or(Counted::Unknown);
        }
        match self.quotas.count_always(&self.tally, key, period, &self.terms) {
            Some(usage) if usage.used > usage.allowed => Counted::Spent(usage),
            Some(usage) => Counted::Passed(usage),
            None => Counted::Unknown,
        }
    }

    /// What the store says; nothing is counted.
    pub(super) fn look(&self, key: &str, period: Period) -> Result<Usage, Unusable> {
        self.quotas.look(self.tally.plan(), key, period, self.terms.allowance)
    }
}

/// A period of which nothing is known.
fn turn_of(period: Period) -> Turn {
    let Period { begins, ends } = period;
    Turn { begins, ends, offset: 0, is_later: false, passed: None }
}

/// A key in a period, as this node's leases know it; and the key alone, as the fleet's store does.
fn hashed(fleet: &FleetLimit, key: &str, period: Period) -> (KeyHash, KeyHash) {
    let (mut own, mut shared) = (fleet.hash().hasher(), fleet.hash().hasher());
    own.part(key.as_bytes());
    own.part(&period.begins.to_be_bytes());
    shared.part(key.as_bytes());
    (own.finish(0), shared.finish(0))
}

impl QuotaConfig {
    /// Whether requests wait for the disk.
    pub(super) fn is_strict(&self) -> bool {
        self.durable == Durable::Strict
    }
}

/// What is strict leaves nothing unwritten.
fn only_batched(written: &Spanned<QuotaConfig>, build: &mut Build) {
    let flush = written.flush.as_ref().map(|at| ("flush", &at.site, &at.path));
    let requests = written.flush_requests.as_ref().map(|at| ("flush_requests", &at.site, &at.path));
    for (word, site, path) in flush.into_iter().chain(requests).filter(|_| written.is_strict()) {
        let cause = format!(
            "`{word}` is about what is counted and not written, and with `durable: strict` nothing is"
        );
        build.errors.push(site, &**path, cause, "remove it, or write `durable: batched`");
    }
}

fn within(
    written: Option<&Spanned<Time>>,
    (least, most): (Duration, Duration),
    build: &mut Build,
) -> Duration {
    let Some(Spanned { value: Time(time), site, path }) = written else { return USUAL };
    if !(least..=most).contains(time) {
        let cause = format!("`{}` is too short or too long", Time(*time));
        let cure = format!("write a duration from `{}` to `{}`", Time(least), Time(most));
        build.errors.push(site, &**path, cause, cure);
    }
    *time
}
