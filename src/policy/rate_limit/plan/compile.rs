//! A plan as it is written becomes one that can be asked.

use std::sync::Arc;

use super::super::config::Scope;
use super::super::fleet::{Fleet, FleetLimit, NO_FLEET, is_strict};
use super::super::limit::{gcra, memory};
use super::super::plan_config::{Config, ThrottleConfig};
use super::super::plan_quota::Quota;
use super::super::table::{Table, VALUES_MAX};
use super::super::{Gcra, HashKey};
use super::{Plan, Throttle};
use crate::config::{Build, OrNone, Site, Spanned};
use crate::state::Live;

impl Plan {
    /// Compiles `policies.plans.NAME`. None when `build.errors` says why. No throttle comes into force by it: see
    /// [`Plan::put_in_force`].
    pub fn compile(name: &str, config: &Spanned<Config>, live: &Live, build: &mut Build) -> Option<Self> {
        let errors_before = build.errors.errors().len();
        is_a_plan(name, config, build);
        let bytes = memory(&config.memory, build);
        let throttle = config.throttle.as_ref().and_then(|throttle| throttled(throttle, build));
        let routes: Vec<_> =
            config.routes.iter().map(|(route, own)| (route, throttled(&own.throttle, build))).collect();
        let quota = config.quota.as_ref().and_then(OrNone::as_option);
        let quota = quota.and_then(|written| Quota::compile(name, written, live, build));
        let Some(secret) = HashKey::random() else {
            let cause = "this machine has no randomness to hash keys with";
            build.errors.push(&config.site, &*config.path, cause, "look at its random device");
            return None;
        };
        if build.errors.errors().len() > errors_before {
            return None;
        }
        let table = || Table::new(&format!("plan_throttle {name}"), secret, live.runtime().cloned());
        let table = live.find_or("plan_throttle", name, table);
        let routes = routes.into_iter().zip(table.classes(config.routes.keys()));
        let routes = routes.map(|((route, own), class)| {
            (
                route.as_str().into(),
                own.map(|(gcra, count, site)| Throttle { gcra, count, fleet: None, class, site }),
            )
        });
        if let Some(quota) = &quota {
            quota.open(live, build)?;
        }
        Some(Self {
            name: format!("plans.{name}").into(),
            label: name.into(),
            quota_label: format!("{name}-quota").into(),
            mode: config.mode,
            headers: config.headers,
            throttle: throttle.map(|(gcra, count, site)| Throttle {
                gcra,
                count,
                fleet: None,
                class: 0,
                site,
            }),
            routes: routes.collect(),
            table,
            bytes,
            quota,
        })
    }

    /// Makes its throttles the fleet's, where they are written as such. None when `build.errors` says why not.
    pub fn join(
        mut self,
        config: &Spanned<Config>,
        fleet: Option<&Arc<Fleet>>,
        live: &Live,
        build: &mut Build,
    ) -> Option<Self> {
        let bytes = usize::try_from(config.memory.value.0).unwrap_or(usize::MAX);
        let own = config.throttle.as_ref().and_then(OrNone::as_option);
        if let (Some(written), Some(throttle)) = (own, &mut self.throttle) {
            throttle.fleet = of_fleet(&self.name, written, bytes, fleet, live, build).ok()?;
        }
        for (route, written) in &config.routes {
            let throttle = self.routes.get_mut(route.as_str()).and_then(Option::as_mut);
            if let (Some(written), Some(throttle)) = (written.throttle.as_option(), throttle) {
                let name = format!("{} {route}", self.name);
                throttle.fleet = of_fleet(&name, written, bytes, fleet, live, build).ok()?;
            }
        }
        let own = config.quota.as_ref().and_then(OrNone::as_option);
        if let (Some(written), Some(quota)) = (own, &mut self.quota) {
            quota.join(&self.label, written, bytes, fleet, live, build).ok()?;
        }
        Some(self)
    }
}

/// What a throttle of the fleet's has beside; none where each node counts by itself.
fn of_fleet(
    name: &str,
    written: &Spanned<ThrottleConfig>,
    bytes: usize,
    fleet: Option<&Arc<Fleet>>,
    live: &Live,
    build: &mut Build,
) -> Result<Option<FleetLimit>, ()> {
    let ThrottleConfig { scope, strict, .. } = &written.value;
    let is_strict = is_strict(*scope, strict.as_ref(), build)?;
    match (scope, fleet) {
        (Scope::Node, _) => Ok(None),
        (Scope::Fleet, Some(fleet)) => {
            Ok(Some(FleetLimit::new(fleet, (name, "api_key"), bytes, is_strict, live)))
        }
        (Scope::Fleet, None) => {
            build.errors.push(&written.site, format!("{}.scope", written.path), NO_FLEET.0, NO_FLEET.1);
            Err(())
        }
    }
}

/// A plan that says nothing is a mistake, not a plan without limits.
fn is_a_plan(name: &str, config: &Spanned<Config>, build: &mut Build) {
    if config.throttle.is_none() && config.quota.is_none() && config.routes.is_empty() {
        let cause = format!("the plan `{name}` limits nothing");
        let cure = "add `throttle: {rate: 5/1s}` or `quota: {limit: 1000, per: DAY}`; `throttle: none` is for keys \
                    that may do what they like";
        build.errors.push(&config.site, &*config.path, cause, cure);
    }
    if config.routes.len() > VALUES_MAX {
        let cause = format!("more than {VALUES_MAX} routes have throttles of their own");
        let path = format!("{}.routes", config.path);
        build.errors.push(&config.site, path, cause, "keep the ones that matter");
    }
}

fn throttled(written: &OrNone<Spanned<ThrottleConfig>>, build: &mut Build) -> Option<(Gcra, u32, Site)> {
    let written = written.as_option()?;
    let burst = written.burst.as_ref().map_or(written.rate.value.count, |burst| burst.value);
    let burst_at = written.burst.as_ref().map(|burst| (&burst.site, &*burst.path));
    Some((gcra(&written.rate, burst, burst_at, build), written.rate.value.count, written.site.clone()))
}
