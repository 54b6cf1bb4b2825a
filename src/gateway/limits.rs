//! Which limits are asked where: what stands in `edge`, `defaults` and routes, with its policies found.

use std::cmp::Reverse;
use std::sync::Arc;

use super::compile::{Shelf, find};
use super::document::{Document, Route as RouteConfig};
use crate::config::units::Size;
use crate::config::{Build, OrNone, Spanned};
use crate::policy::auth::{Requirement, RouteAuth};
use crate::policy::rate_limit::{Config, LIMITS_MAX, RateLimit, Reach};

/// What the tables of all limits may take before it is told: 64 limits as they are without a word on it.
const TABLES_BYTES_USUAL: u64 = 512 << 20;

/// A limit, and where it was named.
type Named<'a> = (&'a Spanned<String>, Arc<RateLimit>);

/// Those of the edge. Before a route is known, nothing is known but the client and the head.
pub(super) fn of_edge(document: &Document, shelf: &Shelf, build: &mut Build) -> Vec<Arc<RateLimit>> {
    let named: Vec<_> = document.edge.rate_limits.iter().collect();
    let found = find_all(&named, document, shelf, build);
    for (name, limit) in found.iter().filter(|(_, limit)| limit.reach() != Reach::Edge) {
        let cause = format!("`{}` counts by what is not known before the route is", limit.name());
        let cure = "on the edge, count by `client`, `host` or `{header: …}`; name this one on routes";
        build.errors.push(&name.site, &*name.path, cause, cure);
    }
    found.into_iter().map(|(_, limit)| limit).collect()
}

/// Names in `defaults` mean something, also where no route takes them over.
pub(super) fn of_defaults(document: &Document, shelf: &Shelf, build: &mut Build) {
    let (inherit, named): (Vec<_>, Vec<_>) =
        document.defaults.rate_limits.iter().partition(|name| name.value == "inherit");
    for name in inherit {
        let cause = "`inherit` stands for the defaults, and these are they";
        build.errors.push(
            &name.site,
            &*name.path,
            cause,
            "remove it; it belongs into a route's `rate_limits`",
        );
    }
    find_all(&named, document, shelf, build);
}

/// Those of a route that are not asked on the edge already.
pub(super) fn of_route(
    config: &Spanned<RouteConfig>,
    document: &Document,
    edge: &[Arc<RateLimit>],
    auth: Option<&Requirement>,
    shelf: &Shelf,
    build: &mut Build,
) -> Vec<Arc<RateLimit>> {
    let errors_before = build.errors.errors().len();
    let mut found = match &config.rate_limits {
        // What is wrong in the defaults themselves has been said there.
        None => inherited(document, shelf),
        Some(OrNone::None) => Vec::new(),
        Some(OrNone::Some(names)) => {
            let own: Vec<_> = names.iter().filter(|name| name.value != "inherit").collect();
            let inherits = own.len() < names.len();
            let own = find_all(&own, document, shelf, build);
            let inherited = if inherits { inherited(document, shelf) } else { Vec::new() };
            for (name, limit) in &own {
                if inherited.iter().any(|(_, other)| Arc::ptr_eq(other, limit)) {
                    let cause = format!("`{}` is inherited already", name.value);
                    build.errors.push(&name.site, &*name.path, cause, "name each limit once");
                }
            }
            inherited.into_iter().chain(own).collect()
        }
    };
    found.retain(|(name, limit)| {
        let asked = edge.iter().any(|other| Arc::ptr_eq(other, limit));
        if asked && name.path.starts_with(&*config.path) {
            let cause = format!("every request has passed `{}` on the edge", name.value);
            build.errors.warn(&name.site, &*name.path, cause, "name it in one of the two places");
        }
        !asked
    });
    if found.len() > LIMITS_MAX && build.errors.errors().len() == errors_before {
        let cause = format!("the route `{}` has {} limits", config.name.value, found.len());
        let path = format!("{}.rate_limits", config.path);
        build.errors.push(&config.site, path, cause, format!("keep {LIMITS_MAX} of them"));
    }
    identities_are_known(&found, config, document, auth, build);
    each_can_refuse(&found, edge, config, build);
    found.into_iter().map(|(_, limit)| limit).collect()
}

/// A limit that one of the edge always refuses before is worth a word. Among limits of routes there is none such: each may be
/// spent on other routes.
fn each_can_refuse(
    found: &[Named<'_>],
    edge: &[Arc<RateLimit>],
    config: &Spanned<RouteConfig>,
    build: &mut Build,
) {
    for (name, limit) in found.iter().filter(|(name, _)| name.path.starts_with(&*config.path)) {
        if let Some(stricter) = edge.iter().find(|stricter| stricter.covers(limit)) {
            let cause =
                format!("`{}` never refuses what `{}` lets pass on the edge", name.value, stricter.name());
            build.errors.warn(&name.site, &*name.path, cause, "make it stricter, or give it another key");
        }
    }
}

/// A limit by identity needs one: on a public route it would count by client, and that is said so.
fn identities_are_known(
    found: &[Named<'_>],
    config: &Spanned<RouteConfig>,
    document: &Document,
    auth: Option<&Requirement>,
    build: &mut Build,
) {
    let written = config.auth.as_ref().or(document.defaults.auth.as_ref()).map(|auth| &auth.value);
    let is_public = matches!(written, Some(RouteAuth::None));
    for (name, limit) in found.iter().filter(|(_, limit)| limit.reach() == Reach::Identity) {
        // An inherited limit is complained about at the route that cannot have it.
        let (site, path) = match name.path.starts_with(&*config.path) {
            true => (&name.site, name.path.to_string()),
            false => (&config.site, format!("{}.rate_limits", config.path)),
        };
        let route = &config.name.value;
        if is_public {
            let cause = format!(
                "`{}` counts by who asks, and the route `{route}` asks nobody who it is",
                limit.name()
            );
            let cure = "count by `client` here, leave the limit out (`rate_limits: none`), or give the route an `auth`";
            build.errors.push(site, path, cause, cure);
        } else if limit.is_of_api_keys() && auth.is_some_and(|auth| !auth.knows_api_keys()) {
            let cause = format!("`{}` counts by API key, and the route `{route}` takes none", limit.name());
            build.errors.push(site, path, cause, "count by `identity`, or take API keys on the route");
        }
    }
}

/// Each limit takes its table whole, whoever comes: what all of them take is worth a word where it is much.
pub(super) fn tables_are_small(document: &Document, build: &mut Build) {
    let policies = &document.policies;
    let limits = policies.rate_limits.values().filter(|limit| limit.limit.is_some());
    let plans = policies.plans.values().filter(|plan| plan.throttles());
    // Records of penalties take an eighth more.
    let all = |limit: &Config| {
        limit.memory.value.0 + limit.penalty.as_ref().map_or(0, |_| limit.memory.value.0 / 8)
    };
    let tables = limits.map(|limit| (all(limit), &limit.memory, &limit.site, &limit.path));
    let tables = tables.chain(plans.map(|plan| (plan.memory.value.0, &plan.memory, &plan.site, &plan.path)));
    let tables: Vec<_> = tables.collect();
    let sum = tables.iter().fold(0_u64, |sum, (all, ..)| sum.saturating_add(*all));
    let largest = tables.iter().min_by_key(|(all, ..)| Reverse(*all));
    let Some((_, memory, site, path)) = largest.filter(|_| sum > TABLES_BYTES_USUAL) else { return };
    let cause = format!(
        "the tables of {} limits and plans take {} from the load on, the largest {}",
        tables.len(),
        Size(sum),
        memory.value
    );
    let cure = "a key takes about 18 bytes while it has spent tokens: write as much `memory` as those need that come \
                within a fill of their buckets";
    let site = if memory.site.line == 0 { site } else { &memory.site };
    build.errors.warn(site, format!("{path}.memory"), cause, cure);
}

/// In a limit by route, the values with limits of their own are routes.
pub(super) fn overridden_routes_exist(document: &Document, shelf: &Shelf, build: &mut Build) {
    for (name, config) in &document.policies.rate_limits {
        if !shelf.rate_limits.get(name).is_some_and(|limit| limit.is_by_route()) {
            continue;
        }
        for (route, rate) in &config.overrides {
            if !document.routes.iter().any(|known| known.name.value == *route) {
                let cause = format!("there is no route `{route}`");
                build.errors.push(&rate.site, &*rate.path, cause, "write the name of a route");
            }
        }
    }
}

fn inherited<'a>(document: &'a Document, shelf: &Shelf) -> Vec<Named<'a>> {
    let names = document.defaults.rate_limits.iter();
    names.filter_map(|name| Some((name, Arc::clone(shelf.rate_limits.get(&name.value)?)))).collect()
}

fn find_all<'a>(
    names: &[&'a Spanned<String>],
    document: &Document,
    shelf: &Shelf,
    build: &mut Build,
) -> Vec<Named<'a>> {
    let written = &document.policies.rate_limits;
    for (at, name) in names.iter().enumerate() {
        if names.iter().take(at).any(|earlier| earlier.value == name.value) {
            let cause = format!("`{}` is named twice", name.value);
            build.errors.push(&name.site, &*name.path, cause, "name each limit once");
        }
    }
    if let Some(first) = names.get(LIMITS_MAX) {
        let cause = format!("more than {LIMITS_MAX} limits at one place");
        build.errors.push(&first.site, &*first.path, cause, format!("keep {LIMITS_MAX} of them"));
    }
    let found = |name: &&'a Spanned<String>| {
        let limit = find(name, &shelf.rate_limits, written.keys(), "policies.rate_limits", build)?;
        Some((*name, limit))
    };
    names.iter().filter_map(found).collect()
}
