//! Usage plans: compiled, and held to the routes and the keys that there are.

use std::sync::Arc;

use super::compile::name_is_sound;
use super::document::Document;
use super::limits;
use crate::config::{Build, OrNone};
use crate::policy::auth::api_key::{self, Keys};
use crate::policy::rate_limit::config::{Headers, KeyPart};
use crate::policy::rate_limit::{Fleet, Plan, Plans, plan_config};
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

/// A throttle of a route's own is for a route that there is, and that takes keys.
pub(super) fn routes_exist(document: &Document, build: &mut Build) {
    for (route, own) in document.policies.plans.values().flat_map(|plan| &plan.routes) {
        let names = document.routes.iter().map(|known| known.name.as_str());
        if let Some(known) = document.routes.iter().find(|known| known.name.value == *route) {
            if limits::is_public(known, document) {
                let cause = format!("the route `{route}` asks nobody for a key: no plan holds there");
                let cure = "give the route an `auth`, or bound it by a limit that it names";
                build.errors.warn(&own.site, &*own.path, cause, cure);
            }
            continue;
        }
        let nearest = names.min_by_key(|known| strsim::damerau_levenshtein(known, route));
        let cure = nearest.map_or_else(String::new, |nearest| format!("did you mean `{nearest}`?"));
        build.errors.push(&own.site, &*own.path, format!("there is no route `{route}`"), cure);
    }
}

/// A limit by identity, API key or plan has other rates for single names. Those that nobody can have are errors. An identity may be called
/// anything, a key's id has a form, and tokens may name plans that are not here (`plan_claim`): of these only what looks like a plan that is
/// here is told.
pub(super) fn overridden_plans_exist(document: &Document, build: &mut Build) {
    let plans = &document.policies.plans;
    let claimed = document.policies.auth.values().any(|auth| auth.names_plans());
    for config in document.policies.rate_limits.values() {
        let Some(KeyPart::Word(word)) = config.key.0.first() else { continue };
        for (name, rate) in config.overrides.iter().filter(|(name, _)| !plans.contains_key(*name)) {
            let (possible, otherwise) = match word.as_str() {
                "identity" => (true, "an identity is called so"),
                "api_key" => (api_key::is_id(name), "a key has this id"),
                "plan" => (claimed, "a token names it so"),
                _ => continue,
            };
            let nearest = plans.keys().map(|known| (strsim::damerau_levenshtein(known, name), known)).min();
            let mut cause = format!("there is no plan `{name}`");
            if word == "api_key" && !possible {
                cause.push_str(", and no key has such an id");
            }
            match nearest {
                Some((distance, nearest)) if possible => {
                    // A short name is near to every other.
                    if distance <= TYPO && 2 * distance < name.chars().count() {
                        let cure = format!("did you mean `{nearest}`? If {otherwise}, all is well");
                        build.errors.warn(&rate.site, &*rate.path, cause, cure);
                    }
                }
                None if possible => {}
                Some((_, nearest)) => {
                    build.errors.push(&rate.site, &*rate.path, cause, format!("did you mean `{nearest}`?"));
                }
                None => {
                    let cure = format!(
                        "write it: `policies.plans: {{{name}: {{throttle: none}}}}`, or what it allows"
                    );
                    build.errors.push(&rate.site, &*rate.path, cause, cure);
                }
            }
        }
    }
}

/// Throttle and quota of a plan are an API key's: who names plans in tokens and has no limit by identity, plan or claim may take them for
/// bounded.
pub(super) fn plans_of_tokens_bound_nothing(document: &Document, build: &mut Build) {
    let policies = &document.policies;
    let of_people = |part: &KeyPart| match part {
        KeyPart::Word(word) => matches!(word.as_str(), "identity" | "plan"),
        KeyPart::Named(named) => named.claim.is_some(),
    };
    if policies.rate_limits.values().any(|limit| limit.key.0.iter().any(of_people)) {
        return;
    }
    let binds = |plan: &plan_config::Config| {
        plan.throttles() || plan.quota.as_ref().and_then(OrNone::as_option).is_some()
    };
    let Some((plan, _)) = policies.plans.iter().find(|(_, plan)| binds(plan)) else { return };
    let naming = policies.auth.values().filter(|auth| auth.names_plans());
    for jwt in naming.filter_map(|auth| auth.jwt.as_ref()) {
        let cause = "a plan that a token names bounds nobody: throttles and quotas are those of API keys";
        let cure = format!(
            "bound tokens by a limit that their routes name: `{{key: identity, limit: 5/1s, overrides: {{{plan}: 50/1s}}}}`"
        );
        build.errors.warn(&jwt.site, format!("{}.plan_claim", jwt.path), cause, cure);
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
