//! A usage plan, compiled: `policies.plans.NAME`. It bounds each API key that is in it, on every route that the key opens: first by
//! its throttle, then, last of all, by its quota.

mod compile;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use foldhash::fast::FixedState;
use http::HeaderValue;
use http::header::RETRY_AFTER;

use super::config::Headers;
use super::fleet::{FleetLimit, LeaseFigures};
use super::headers::seconds;
use super::plan_config::Config;
use super::plan_quota::Quota;
use super::plan_standing::{PlanStanding, QuotaTold};
use super::quota::{Counted, NotWritten, Period, Usage, second};
use super::table::{Limits, Table};
use super::{Figures, Gcra, HashKey, Kept, KeyHash, Nanos};
use crate::config::{OrNone, Site};
use crate::identity::Identity;
use crate::policy::{Effects, Mode, Outcome, Step, Verdict};
use crate::record::Timestamp;
use crate::reply::{Kind, Refusal, Violated};

/// Reasons for refusing.
const RATE: &str = "rate";
const QUOTA: &str = "quota";
const QUOTA_STORE: &str = "quota_store";

/// A usage plan.
#[derive(Debug)]
pub struct Plan {
    name: Arc<str>,
    /// As clients know it, and its quota.
    label: Arc<str>,
    quota_label: Arc<str>,
    mode: Mode,
    headers: Headers,
    throttle: Option<Throttle>,
    /// Routes with a throttle of their own, or with none.
    routes: HashMap<Box<str>, Option<Throttle>, FixedState>,
    table: Arc<Table>,
    bytes: usize,
    quota: Option<Quota>,
}

/// How fast a key's requests may come.
#[derive(Debug)]
struct Throttle {
    gcra: Gcra,
    /// How many tokens a period brings.
    count: u32,
    /// None where each node counts by itself.
    fleet: Option<FleetLimit>,
    class: u8,
    site: Site,
}

/// The plans of a configuration, by name.
#[derive(Clone, Debug, Default)]
pub struct Plans(HashMap<Box<str>, Arc<Plan>, FixedState>);

/// A key's plan is not in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPlan;

impl Plans {
    /// The plan that a key is in. None where it is in none.
    ///
    /// # Errors
    /// It is in one that is not configured, also where none is: one that is gone must not mean that there is no limit.
    pub fn of(&self, key: &Identity) -> Result<Option<&Arc<Plan>>, UnknownPlan> {
        match key.plan.as_deref() {
            Some(name) => self.0.get(name).map(Some).ok_or(UnknownPlan),
            None => Ok(None),
        }
    }

    /// One by its name.
    pub fn get(&self, name: &str) -> Option<&Arc<Plan>> {
        self.0.get(name)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Plan>> {
        self.0.values()
    }

    /// Whether there is one of this name.
    pub fn knows(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

impl FromIterator<Arc<Plan>> for Plans {
    fn from_iter<T: IntoIterator<Item = Arc<Plan>>>(plans: T) -> Self {
        Self(plans.into_iter().map(|plan| (plan.label().into(), plan)).collect())
    }
}

impl Plan {
    /// What its leases tell; none where nothing of it is the fleet's.
    pub fn lease_figures(&self) -> Option<LeaseFigures> {
        let throttles = self.throttle.iter().chain(self.routes.values().flatten());
        let throttles = throttles.filter_map(|throttle| Some(throttle.fleet.as_ref()?.leases().figures()));
        throttles.chain(self.quota.iter().filter_map(Quota::lease_figures)).reduce(LeaseFigures::and)
    }

    /// `plans.NAME`
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// `NAME`
    pub fn label(&self) -> &str {
        &self.label
    }

    /// `NAME-quota`
    pub(super) fn quota_label(&self) -> &str {
        &self.quota_label
    }

    pub(super) fn headers(&self) -> Headers {
        self.headers
    }

    /// How many requests its keys have a day, week or month.
    pub fn quota(&self) -> Option<&Quota> {
        self.quota.as_ref()
    }

    /// Its throttles are in force from now on: buckets that another configuration has filled are brought under them.
    pub fn put_in_force(&self) {
        let own = self.throttle.iter().chain(self.routes.values().flatten());
        own.clone().filter_map(|throttle| throttle.fleet.as_ref()).for_each(FleetLimit::put_in_force);
        self.quota.iter().for_each(Quota::put_in_force);
        if self.throttles() {
            let limits = own.map(|throttle| (throttle.class, throttle.gcra)).collect::<Limits>();
            self.table.put_in_force(&limits, self.bytes);
        }
    }

    /// What its table of throttled keys tells of itself; none where it throttles nobody.
    pub fn figures(&self) -> Option<Figures> {
        self.throttles().then(|| self.table.figures())
    }

    /// The buckets of its throttles, which outlive the process, also while it throttles nobody. Quotas are in the store.
    pub fn kept(&self) -> Kept {
        Kept(Arc::clone(&self.table))
    }

    fn throttles(&self) -> bool {
        self.throttle.is_some() || self.routes.values().any(Option::is_some)
    }

    /// Why it may refuse: the words of its series.
    pub fn reasons(config: &Config) -> Vec<&'static str> {
        let rate = config.throttles();
        let quota = config.quota.as_ref().and_then(OrNone::as_option);
        let store = quota.is_some_and(|quota| quota.is_strict());
        let all = [(RATE, rate), (QUOTA, quota.is_some()), (QUOTA_STORE, store)];
        all.into_iter().filter(|(_, may)| *may).map(|(reason, _)| reason).collect()
    }

    /// Asks the plan about a request that this key, by its id, has opened a route for; everything else has been asked before. What
    /// it notes is left in `effects`. Waits for the store where the quota says so, never longer than its `wait`. `is_spent` is what
    /// [`Plan::is_spent`] has said of the request.
    ///
    /// # Errors
    /// The refusal of its throttle or its quota.
    pub async fn check(
        self: &Arc<Self>,
        key: &str,
        route: &str,
        now: SystemTime,
        is_spent: bool,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let announced = effects.limits.plan.take();
        let mut standing = announced.unwrap_or_else(|| Box::new(self.standing(key, route, now)));
        // Where the quota is known to refuse, the throttle is looked at and not spent.
        let looks = is_spent && self.spent_quota(key, now).is_some();
        let mut checked = self.check_throttle(key, (route, now), looks, &mut standing, effects).await;
        if let (Ok(()), Some(quota)) = (&checked, &self.quota) {
            checked = self.check_quota(quota, key, now, &mut standing, effects).await;
        }
        effects.limits.plan = Some(standing);
        checked
    }

    /// Whether it is known here that it would refuse: then nothing is to be spent that others share. Nothing is counted.
    pub fn is_spent(&self, key: &str, route: &str, now: SystemTime) -> bool {
        let is_late = |throttle: &Throttle| {
            // What is left over the fleet its store knows.
            let own = hashed(key, self.table.hash(), throttle.class);
            throttle.fleet.is_none()
                && !self.table.look_in_force(own, &throttle.gcra, 1, Nanos::now()).passed()
        };
        self.mode == Mode::Enforce
            && (self.throttle_on(route).is_some_and(is_late) || self.spent_quota(key, now).is_some())
    }

    /// A request has come with a key that is in it: so its client is told what the plan says, also where something else refuses the
    /// request before the plan is asked.
    pub fn announce(self: &Arc<Self>, key: &str, route: &str, now: SystemTime, effects: &mut Effects) {
        if self.is_visible() {
            effects.limits.plan = Some(Box::new(self.standing(key, route, now)));
        }
    }

    fn standing(self: &Arc<Self>, key: &str, route: &str, now: SystemTime) -> PlanStanding {
        let throttle = self.throttle_on(route).map(|throttle| throttle.gcra);
        let quota = self.quota.as_ref().map(|quota| {
            let period = quota.period(second(now));
            (quota.allowed(key, period), period.seconds())
        });
        PlanStanding::new(self, (throttle, quota))
    }

    fn throttle_on(&self, route: &str) -> Option<&Throttle> {
        match self.routes.get(route) {
            Some(own) => own.as_ref(),
            None => self.throttle.as_ref(),
        }
    }

    async fn check_throttle(
        &self,
        key: &str,
        (route, now): (&str, SystemTime),
        looks: bool,
        standing: &mut PlanStanding,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let Some(Throttle { gcra, count, fleet, class, site }) = self.throttle_on(route) else {
            return Ok(());
        };
        let own = hashed(key, self.table.hash(), *class);
        let taken = match fleet {
            Some(fleet) => {
                let wanted = fleet.wanted(own, hashed(key, fleet.hash(), 0), 1, *count, gcra);
                let granted = fleet.reserve(wanted, &self.table, &mut effects.limits.waited).await;
                if looks { *granted.taken() } else { granted.spend(Nanos::now()) }
            }
            None if looks => self.table.look_in_force(own, gcra, 1, Nanos::now()),
            None => self.table.take_in_force(own, gcra, 1, Nanos::now()),
        };
        standing.throttle = Some(taken);
        if taken.passed() {
            let left = taken.remaining();
            let over = if fleet.is_some() { ", over the fleet" } else { "" };
            effects.note(|| self.step(site, format!("{left} of {} left, by API key{over}", gcra.burst())));
            return Ok(());
        }
        let message = "requests of this key come faster than its plan's `rate` and `burst` allow";
        let wait = taken.wait().map(seconds);
        self.refuse(Kind::Throttled, RATE, message.into(), site, effects).map_err(|refusal| {
            // A quota that is used up as well takes longer, as a rule: who comes back after the throttle's time would be refused again.
            let spent = self.spent_quota(key, now);
            standing.quota = spent;
            let until = spent.map(|told| told.resets);
            self.told(refusal, wait.max(until), [Some(&self.label), until.map(|_| &self.quota_label)])
        })
    }

    /// The quota, if this node's memory knows that nothing is left of it. Nothing is counted, and nobody is asked.
    fn spent_quota(&self, key: &str, now: SystemTime) -> Option<QuotaTold> {
        let (quota, now) = (self.quota.as_ref()?, second(now));
        let period = quota.period(now);
        let usage = quota.known(key, period).filter(|usage| usage.left() == 0)?;
        Some(QuotaTold { usage, period, resets: period.left(now), refused: true })
    }

    async fn check_quota(
        &self,
        quota: &Quota,
        key: &str,
        now: SystemTime,
        standing: &mut PlanStanding,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let now = second(now);
        let period = quota.period(now);
        let counted = if effects.steps.is_some() {
            Ok(self.explain_quota(quota, key, period, effects))
        } else if self.mode == Mode::Shadow {
            Ok(quota.count_always(key, period, &mut effects.limits.waited).await)
        } else {
            quota.count(key, period, &mut effects.limits.waited).await
        };
        let (usage, refused) = match counted {
            Ok(Counted::Passed(usage)) => (usage, false),
            Ok(Counted::Spent(usage)) => (usage, true),
            Ok(Counted::Unknown) => return Ok(()),
            Err(NotWritten) => {
                let message = "the store has not confirmed the request's count within the quota's `wait`";
                return self.refuse(
                    Kind::QuotaUnavailable,
                    QUOTA_STORE,
                    message.into(),
                    quota.site(),
                    effects,
                );
            }
        };
        let resets = period.left(now);
        standing.quota = Some(QuotaTold { usage, period, resets, refused });
        if !refused {
            return Ok(());
        }
        let message =
            format!("the key's {} requests of this {} are used up", usage.allowed, quota.per().as_str());
        self.refuse(Kind::QuotaExceeded, QUOTA, message, quota.site(), effects)
            .map_err(|refusal| self.told(refusal, Some(resets), [Some(&self.quota_label), None]))
    }

    /// As the store says it; nothing is counted.
    fn explain_quota(&self, quota: &Quota, key: &str, period: Period, effects: &mut Effects) -> Counted {
        let (counted, detail) = match quota.look(key, period) {
            Ok(usage) if usage.left() == 0 => return Counted::Spent(usage),
            Ok(Usage { used, allowed }) => {
                // This one too, as though it had been counted.
                let usage = Usage { used: used.saturating_add(1), allowed };
                let until = time(period.ends);
                let whose = if quota.is_of_fleet() {
                    ", by this node; the fleet's store is not asked here"
                } else {
                    ""
                };
                let per = quota.per().as_str();
                let detail = format!("{} of {allowed} used this {per}, until {until}{whose}", usage.used);
                (Counted::Passed(usage), detail)
            }
            Err(unusable) => {
                (Counted::Unknown, format!("what is used of the quota is not known here: {}", unusable.cause))
            }
        };
        effects.note(|| self.step(quota.site(), detail));
        counted
    }

    /// Carries a refusal out, or notes it.
    fn refuse(
        &self,
        kind: Kind,
        reason: &'static str,
        message: String,
        site: &Site,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let outcome = Outcome::Refuse { kind, reason, message: message.into() };
        effects.judge(&self.name, self.mode, Verdict { outcome, site })
    }

    /// With what a client is told of it.
    fn told(&self, mut refusal: Refusal, wait: Option<u64>, labels: [Option<&Arc<str>>; 2]) -> Refusal {
        if let Some(wait) = wait {
            refusal.headers.push((RETRY_AFTER, HeaderValue::from(wait.max(1))));
        }
        let violated = labels.into_iter().flatten().filter(|_| self.is_visible()).cloned().collect();
        refusal.violated = Some(Box::new(Violated(violated)));
        refusal
    }

    /// Whether clients may know of it: a shadowed plan bounds nobody.
    pub(super) fn is_visible(&self) -> bool {
        self.mode == Mode::Enforce && self.headers != Headers::Hidden
    }

    fn step(&self, site: &Site, detail: String) -> Step {
        let detail =
            if self.mode == Mode::Shadow { detail + "; shadowed, it refuses nobody" } else { detail };
        Step {
            name: Arc::clone(&self.name),
            outcome: "pass".into(),
            detail: detail.into(),
            site: Some(site.clone()),
        }
    }
}

fn hashed(key: &str, by: &HashKey, class: u8) -> KeyHash {
    let mut hasher = by.hasher();
    hasher.part(key.as_bytes());
    hasher.finish(class)
}

/// RFC 3339, whole seconds.
fn time(second: i64) -> String {
    let since = Duration::from_secs(u64::try_from(second).unwrap_or_default());
    let moment = SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH);
    Timestamp::of(moment).as_str().replace(".000Z", "Z")
}
