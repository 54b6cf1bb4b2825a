//! Usage plans: compiled, and held to the routes and the keys that there are.

use std::sync::Arc;

use super::compile::name_is_sound;
use super::document::Document;
use crate::config::Build;
use crate::policy::auth::api_key::Keys;
use crate::policy::rate_limit::config::{Headers, KeyPart};
use crate::policy::rate_limit::{Fleet, Plan, Plans};
use crate::state::Live;

/// Plans that keys are in and that are not there: so many are named.
const TOLD_MAX: usize = 16;
/// So many letters are a slip.
const TYPO: usize = 2;

/// All plans that are sound.
pub(super) fn compile(
    document: &Document,
    fleet: Option<&Arc<Fleet>>,
    live: &Live,
    build: &mut Build,
) -> Plans {
    let plans = document.policies.plans.iter();
    let joins = fleet.is_some() || document.server.fleet.is_none();
    plans
        .filter_map(|(name, config)| {
            name_is_sound(&config.path, name, &config.site, build);
            // A store that is named and not sound has been complained about.
            let plan = Plan::compile(name, config, live, build).filter(|_| joins)?;
            plan.join(config, fleet, live, build).map(Arc::new)
        })
        .collect()
}

/// A throttle of a route's own is for a route that there is.
pub(super) fn routes_exist(document: &Document, build: &mut Build) {
    for (route, own) in document.policies.plans.values().flat_map(|plan| &plan.routes) {
        let names = document.routes.iter().map(|known| known.name.as_str());
        if names.clone().any(|known| known == route) {
            continue;
        }
        let nearest = names.min_by_key(|known| strsim::damerau_levenshtein(known, route));
        let cure = nearest.map_or_else(String::new, |nearest| format!("did you mean `{nearest}`?"));
        build.errors.push(&own.site, &*own.path, format!("there is no route `{route}`"), cure);
    }
}

/// A limit by identity, API key or plan has other rates for single plans: for plans that there are. Where tokens name plans too
/// (`plan_claim`), these need not be here, and only what looks like one that is here is told.
pub(super) fn overridden_plans_exist(document: &Document, build: &mut Build) {
    let plans = &document.policies.plans;
    let claimed = document.policies.auth.values().any(|auth| auth.names_plans());
    for config in document.policies.rate_limits.values() {
        let Some(KeyPart::Word(word)) = config.key.0.first() else { continue };
        let others = match word.as_str() {
            "api_key" => false,
            "identity" | "plan" => claimed,
            _ => continue,
        };
        for (plan, rate) in config.overrides.iter().filter(|(plan, _)| !plans.contains_key(*plan)) {
            let distance = |known: &&String| strsim::damerau_levenshtein(known, plan);
            let nearest = plans.keys().min_by_key(distance);
            let cause = format!("there is no plan `{plan}`");
            match nearest {
                Some(nearest) if others && distance(&nearest) <= TYPO => {
                    let cure = format!("did you mean `{nearest}`? If a token names it so, all is well");
                    build.errors.warn(&rate.site, &*rate.path, cause, cure);
                }
                _ if others => {}
                Some(nearest) => {
                    build.errors.push(&rate.site, &*rate.path, cause, format!("did you mean `{nearest}`?"));
                }
                None => {
                    let cure = format!(
                        "write it: `policies.plans: {{{plan}: {{throttle: none}}}}`, or what it allows"
                    );
                    build.errors.push(&rate.site, &*rate.path, cause, cure);
                }
            }
        }
    }
}

/// Clients are told of limits and of plans by their names, of a plan's quota as `NAME-quota`: one name must not be two things.
pub(super) fn names_are_apart(document: &Document, build: &mut Build) {
    let policies = &document.policies;
    for (name, plan) in policies.plans.iter().filter(|(_, plan)| plan.headers != Headers::Hidden) {
        for label in plan.labels(name) {
            let limit = policies.rate_limits.get(&label);
            if limit.is_none_or(|limit| limit.headers == Headers::Hidden) {
                continue;
            }
            let what = if label == *name { "plan" } else { "quota of the plan" };
            let cause = format!(
                "clients are told of the {what} `{name}` and of the limit `{label}` by one name, `{label}`"
            );
            let cure = "give one of them another name, or write `headers: hidden` in one";
            build.errors.push(&plan.site, &*plan.path, cause, cure);
        }
    }
}

/// Keys whose plan is gone are refused: their owner hears of it before they do. Before keys are read, nothing is known of them.
pub(super) fn keys_have_theirs(document: &Document, plans: &Plans, live: &Live, build: &mut Build) {
    let policies = &document.policies;
    let keys = policies.auth.values().find(|auth| auth.api_key.is_some()).map(|auth| &auth.site);
    let Some(site) = policies.plans.values().next().map(|plan| &plan.site).or(keys) else { return };
    for message in strangers(plans, live) {
        let cure = "write the plan, `{throttle: none}` if it bounds nothing, or give its owners new keys";
        build.errors.warn(site, "policies.plans", message, cure);
    }
}

/// What there is to say of plans that keys are in and that are not there.
pub(super) fn strangers(plans: &Plans, live: &Live) -> Vec<String> {
    let unknown: Vec<_> = Keys::plans(live).into_iter().filter(|(name, _)| !plans.knows(name)).collect();
    let told = unknown.iter().take(TOLD_MAX);
    let mut messages: Vec<_> = told
        .map(|(name, keys)| format!("keys of the plan `{name}` ({keys}) are refused: there is no such plan"))
        .collect();
    let (others, keys) =
        unknown.iter().skip(TOLD_MAX).fold((0, 0), |(others, sum), (_, keys)| (others + 1, sum + keys));
    if others > 0 {
        messages.push(format!("keys of {others} more plans ({keys}) are refused: there are no such plans"));
    }
    messages
}
