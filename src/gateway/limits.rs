//! Which limits are asked where: what stands in `edge`, `defaults` and routes, with its policies found.

use std::cmp::Reverse;
use std::sync::Arc;

use super::compile::{Shelf, find};
use super::document::{Document, Route as RouteConfig};
use crate::config::units::Size;
use crate::config::{Build, OrNone, Spanned};
use crate::policy::auth::{Requirement, RouteAuth};
use crate::policy::rate_limit::{LIMITS_MAX, RateLimit, Reach};

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
        let cure = "on the edge, count by `client`, `auth_failures`, `host` or `{header: …}`; name this one on routes";
        build.errors.push(&name.site, &*name.path, cause, cure);
    }
    none_is_alone(&found, &[], document, build);
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
    failures_are_possible(&found, config, document, build);
    each_can_refuse(&found, edge, config, build);
    none_is_alone(&found, edge, document, build);
    found.into_iter().map(|(_, limit)| limit).collect()
}

/// Whoever sends another header or cookie has another bucket: such a limit is worth something only beside one that holds all the
/// requests of a client, or of whoever it is, together.
fn none_is_alone(found: &[Named<'_>], edge: &[Arc<RateLimit>], document: &Document, build: &mut Build) {
    let written = |limit: &Arc<RateLimit>| {
        document.policies.rate_limits.get(limit.name().strip_prefix("rate_limits.").unwrap_or_default())
    };
    let beside: Vec<_> = found.iter().map(|(_, limit)| limit).chain(edge).filter_map(written).collect();
    for (name, limit) in found {
        let Some(own) = written(limit).filter(|own| own.is_evaded()) else { continue };
        if beside.iter().any(|other| other.bounds_whom_evades(own)) {
            continue;
        }
        let cause = format!(
            "`{}` counts by what clients choose: who sends another value each time meets no limit",
            name.value
        );
        let cure = "name a limit by `client` or `identity` beside it";
        build.errors.warn(&name.site, &*name.path, cause, cure);
    }
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

/// Where a key's value is missing, the client's address is the key: on a route that asks nobody who it is, a limit by identity counts all
/// its requests so. Inherited, that is what an operator wants of `defaults`; written on the route itself it is worth a word.
fn identities_are_known(
    found: &[Named<'_>],
    config: &Spanned<RouteConfig>,
    document: &Document,
    auth: Option<&Requirement>,
    build: &mut Build,
) {
    let is_public = is_public(config, document);
    let own = found.iter().filter(|(name, _)| name.path.starts_with(&*config.path));
    for (name, limit) in own.filter(|(_, limit)| limit.reach() == Reach::Identity) {
        let (limit_name, route) = (limit.name(), &config.name.value);
        let (cause, cure) = if is_public {
            (
                format!(
                    "`{limit_name}` counts by who asks, and the route `{route}` asks nobody who it is: by client here"
                ),
                "count by `client`, or give the route an `auth`",
            )
        } else if limit.is_of_api_keys() && auth.is_some_and(|auth| !auth.knows_api_keys()) {
            (
                format!(
                    "`{limit_name}` counts by API key, and the route `{route}` takes none: by client here"
                ),
                "count by `identity`, or take API keys on the route",
            )
        } else {
            continue;
        };
        build.errors.warn(&name.site, &*name.path, cause, cure);
    }
}

/// Whether the route asks nobody who it is.
pub(super) fn is_public(config: &RouteConfig, document: &Document) -> bool {
    let written = config.auth.as_ref().or(document.defaults.auth.as_ref()).map(|auth| &auth.value);
    matches!(written, Some(RouteAuth::None))
}

/// Where nobody is asked who he is, no credential is refused. It may be meant all the same: who is above the limit is kept out.
fn failures_are_possible(
    found: &[Named<'_>],
    config: &Spanned<RouteConfig>,
    document: &Document,
    build: &mut Build,
) {
    let own = found.iter().filter(|(name, _)| name.path.starts_with(&*config.path));
    for (name, _) in own.filter(|(_, limit)| limit.counts_auth_failures() && is_public(config, document)) {
        let cause = format!(
            "`{}` counts what authentication refuses, and the route `{}` asks nobody who it is: nothing is counted here",
            name.value, config.name.value
        );
        build.errors.warn(
            &name.site,
            &*name.path,
            cause,
            "name it on the edge if clients that guess are to be kept out of all routes, or on routes with an `auth`",
        );
    }
}

/// Each limit takes its table whole, whoever comes, and leases of a fleet with the keys that ask: what all of them may take is worth a word
/// where it is much.
pub(super) fn tables_are_small(document: &Document, build: &mut Build) {
    let policies = &document.policies;
    let limits = policies.rate_limits.values().filter(|limit| limit.limit.is_some());
    let plans = policies.plans.values().map(|plan| (plan, plan.bytes_most())).filter(|(_, most)| *most > 0);
    let tables = limits.map(|limit| (limit.bytes_most(), &limit.memory, &limit.site, &limit.path));
    let tables = tables.chain(plans.map(|(plan, most)| (most, &plan.memory, &plan.site, &plan.path)));
    let tables: Vec<_> = tables.collect();
    let sum = tables.iter().fold(0_u64, |sum, (all, ..)| sum.saturating_add(*all));
    let largest = tables.iter().min_by_key(|(all, ..)| Reverse(*all));
    let Some((most, memory, site, path)) = largest.filter(|_| sum > TABLES_BYTES_USUAL) else { return };
    let cause = format!(
        "{} limits and plans take up to {}, with the leases of a fleet and the records of keys that were refused; the \
         largest {}",
        tables.len(),
        Size(sum),
        Size(*most),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_text;
    use crate::gateway::Gateway;
    use crate::state::Live;

    /// What is warned about, where nothing is wrong.
    fn warned(text: &str) -> Vec<String> {
        let mut build = Build::default();
        let document = load_text("t.yaml", text, &|_| None, &mut build).unwrap();
        let compiled = Gateway::compile(&document, &Live::default(), 1, &mut build);
        assert!(compiled.is_some(), "{}", build.errors.render(&build.sources));
        build.errors.warnings().iter().map(|w| format!("{}: {}", w.path, w.cause)).collect()
    }

    #[test]
    fn a_limit_by_what_clients_choose_wants_one_beside_it_that_they_do_not() {
        let at = |limits: &str, edge: &str, route: &str| {
            warned(&format!(
                "listeners: [{{address: '127.0.0.1:8080'}}]\npolicies: {{rate_limits: {{{limits}}}}}\n\
                 edge: {{rate_limits: [{edge}]}}\ndefaults: {{auth: none}}\n\
                 routes: [{{name: all, rate_limits: [{route}], respond: {{}}}}]\n"
            ))
        };
        let alone = |path: &str| {
            let cause =
                "`one` counts by what clients choose: who sends another value each time meets no limit";
            vec![format!("{path}: {cause}")]
        };
        let route = "routes[0].rate_limits[0]";
        for (key, is_evaded) in [
            ("{header: x-tenant}", true),
            ("{cookie: session}", true),
            ("[client, {header: x-device}]", true),
            ("client", false),
            ("route", false),
            ("host", false),
        ] {
            let expected = if is_evaded { alone(route) } else { Vec::new() };
            assert_eq!(at(&format!("one: {{key: {key}, limit: 5/1s}}"), "", "one"), expected, "{key}");
        }
        let tenant = "one: {key: {header: x-tenant}, limit: 5/1s}";
        assert_eq!(at(tenant, "one", ""), alone("edge.rate_limits[0]"));
        for (other, is_beside) in [
            ("key: client, limit: 5/1s", true),
            ("key: [client, host], limit: 5/1s", true),
            ("key: {header: x-b}, limit: 5/1s", false),
            ("key: client, limit: 5/1s, mode: shadow", false),
            ("key: client, limit: 5/1s, count: {status: [401]}", false),
            ("key: auth_failures, limit: 5/1s", false),
            ("key: client, concurrent: 5", false),
        ] {
            let limits = format!("{tenant}, other: {{{other}}}");
            for (edge, own) in [("", "one, other"), ("other", "one")] {
                let said = at(&limits, edge, own);
                assert_eq!(
                    !said.iter().any(|said| said.contains("`one` counts")),
                    is_beside,
                    "{other}: {said:?}"
                );
            }
        }
        let slots = "one: {key: {header: x-tenant}, concurrent: 5}, other: {key: client, concurrent: 50}";
        assert_eq!(at(slots, "other", "one"), Vec::<String>::new());
    }

    #[test]
    fn failures_are_counted_where_somebody_is_asked() {
        let told = |edge: &str, defaults: &str, rest: &str| {
            warned(&format!(
                "listeners: [{{address: '127.0.0.1:8080'}}]\npolicies:\n  \
                 auth: {{staff: {{jwt: {{issuer: 'https://id.example.com', audiences: [a]}}}}}}\n  \
                 rate_limits: {{one: {{key: auth_failures, limit: 5/1m}}}}\n\
                 edge: {{rate_limits: [{edge}]}}\ndefaults: {{rate_limits: [{defaults}]}}\n\
                 routes: [{{name: all, {rest}, respond: {{}}}}]\n"
            ))
        };
        assert_eq!(told("", "", "auth: staff, rate_limits: [one]"), [""; 0]);
        assert_eq!(told("one", "", "auth: none"), [""; 0]);
        assert_eq!(told("", "one", "auth: none"), [""; 0], "what is inherited may be meant for others");
        let said = told("", "", "auth: none, rate_limits: [one]");
        assert!(said.len() == 1 && said[0].contains("nothing is counted here"), "{said:?}");
    }

    #[test]
    fn a_limit_by_identity_counts_by_client_where_nobody_is_asked_who_he_is() {
        let at = |defaults: &str, route: &str| {
            warned(&format!(
                "listeners: [{{address: '127.0.0.1:8080'}}]\npolicies: {{rate_limits: {{one: {{key: identity, limit: 5/1s}}}}}}\n\
                 defaults: {{auth: none, rate_limits: [{defaults}]}}\nroutes: [{{name: all, {route}respond: {{}}}}]\n"
            ))
        };
        let said = at("", "rate_limits: [one], ");
        assert!(
            said.len() == 1 && said[0].starts_with("routes[0].rate_limits[0]: `rate_limits.one`"),
            "{said:?}"
        );
        assert!(said[0].ends_with("asks nobody who it is: by client here"), "{said:?}");
        assert_eq!(at("one", ""), Vec::<String>::new(), "what a public route inherits");
    }

    #[test]
    fn a_limit_that_nothing_names_is_told() {
        let text = |edge: &str| {
            format!(
                "listeners: [{{address: '127.0.0.1:8080'}}]\n\
                 policies: {{rate_limits: {{one: {{key: client, limit: 5/1s}}, two: {{key: host, limit: 5/1s}}}}}}\n\
                 edge: {{rate_limits: [{edge}]}}\nroutes: [{{name: all, auth: none, rate_limits: [one], respond: {{}}}}]\n"
            )
        };
        assert_eq!(warned(&text("two")), Vec::<String>::new());
        assert_eq!(warned(&text("")), ["policies.rate_limits.two: nothing uses the limit `two`"]);
    }

    #[test]
    fn a_plan_that_a_token_may_name_needs_not_be_here_but_a_slip_is_told() {
        let text = |overrides: &str, plans: &str| {
            format!(
                "listeners: [{{address: '127.0.0.1:8080'}}]\npolicies:\n  \
                 auth: {{staff: {{jwt: {{issuer: 'https://id.example.com', audiences: [a], plan_claim: plan}}}}}}\n  \
                 plans: {{{plans}}}\n  \
                 rate_limits: {{one: {{key: identity, limit: 5/1s, overrides: {{{overrides}: 1/1s}}}}}}\n\
                 routes: [{{name: all, auth: staff, rate_limits: [one], respond: {{}}}}]\n"
            )
        };
        let told = |overrides: &str, plans: &str| {
            let said = warned(&text(overrides, plans));
            said.into_iter().filter(|said| said.contains("there is no plan")).collect::<Vec<_>>()
        };
        let path = "policies.rate_limits.one.overrides.entreprise";
        let slip = format!("{path}: there is no plan `entreprise`");
        assert_eq!(told("entreprise", "enterprise: {throttle: none}"), [slip]);
        assert_eq!(told("gold", "enterprise: {throttle: none}"), [""; 0]);
        assert_eq!(told("gold", ""), [""; 0]);
        assert_eq!(told("gulf", "gold: {throttle: none}"), [""; 0], "short names are near");
    }

    #[test]
    fn an_identity_and_a_key_may_be_called_anything_that_they_can_be() {
        let told = |key: &str, overrides: &str| {
            warned(&format!(
                "listeners: [{{address: '127.0.0.1:8080'}}]\npolicies:\n  \
                 auth: {{keys: {{api_key: {{header: x-api-key}}}}}}\n  \
                 plans: {{free: {{throttle: {{rate: 5/1s, burst: 10}}}}, enterprise: {{throttle: none}}}}\n  \
                 rate_limits: {{one: {{key: {key}, limit: 5/1s, overrides: {{{overrides}: 1000/1s}}}}}}\n\
                 routes: [{{name: all, auth: keys, rate_limits: [one], respond: {{}}}}]\n"
            ))
        };
        for (key, name) in [("identity", "alice"), ("identity", "premium"), ("api_key", "0123456789ab")] {
            assert_eq!(told(key, name), [""; 0], "{key} {name}");
        }
        let slip = "policies.rate_limits.one.overrides.enterprize: there is no plan `enterprize`".to_owned();
        assert_eq!(told("identity", "enterprize"), [slip]);
    }

    #[test]
    fn a_plan_that_tokens_name_and_that_does_not_bound_them_is_told() {
        let told = |plans: &str, limits: &str| {
            let said = warned(&format!(
                "listeners: [{{address: '127.0.0.1:8080'}}]\npolicies:\n  \
                 auth: {{staff: {{jwt: {{issuer: 'https://id.example.com', audiences: [a], plan_claim: plan}}}}}}\n  \
                 plans: {{{plans}}}\n  rate_limits: {{one: {{{limits}}}}}\n\
                 routes: [{{name: all, auth: staff, rate_limits: [one], respond: {{}}}}]\n"
            ));
            said.into_iter().filter(|said| said.contains("bounds nobody")).count()
        };
        let (bare, own) = ("free: {throttle: none}", "key: client, limit: 5/1s");
        for (plans, limits, expected) in [
            (bare, own, 0),
            ("free: {throttle: {rate: 5/1s}}", own, 1),
            ("free: {quota: {limit: 5, per: DAY}}", own, 1),
            ("free: {throttle: {rate: 5/1s}}", "key: identity, limit: 5/1s", 0),
            ("free: {throttle: {rate: 5/1s}}", "key: [route, plan], limit: 5/1s", 0),
            ("free: {throttle: {rate: 5/1s}}", "key: {claim: plan}, limit: 5/1s", 0),
        ] {
            assert_eq!(told(plans, limits), expected, "{plans} {limits}");
        }
    }
}
