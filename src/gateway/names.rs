//! Names that nothing uses, and names of what is not there.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::compile::Shelf;
use super::document::Document;
use super::route::{Route, has_parameter, path_of};
use crate::config::Build;
use crate::policy::rate_limit::config::Scope;
use crate::template::{Template, Variable};

/// Names that nothing uses are worth a word: often a typo elsewhere.
pub(super) fn unused(document: &Document, build: &mut Build) {
    let used: BTreeSet<_> =
        document.routes.iter().filter_map(|route| route.upstream.as_ref()).map(|name| &name.value).collect();
    for (name, config) in &document.upstreams {
        if !used.contains(name) {
            let path = format!("upstreams.{name}");
            build.errors.warn(
                &config.site,
                path,
                "no route uses this upstream",
                "name it in a route's `upstream`, or remove it",
            );
        }
    }
    let policies = &document.policies;
    let on_routes =
        document.routes.iter().filter_map(|route| route.rate_limits.as_ref()?.as_option()).flatten();
    let named = document.edge.rate_limits.iter().chain(&document.defaults.rate_limits).chain(on_routes);
    let named: BTreeSet<_> = named.map(|name| &name.value).collect();
    for (name, config) in policies.rate_limits.iter().filter(|(name, _)| !named.contains(name)) {
        let cause = format!("nothing uses the limit `{name}`");
        let cure = "name it in `rate_limits` of a route, of `defaults` or of `edge`, or remove it";
        build.errors.warn(&config.site, &*config.path, cause, cure);
    }
    let by_fleet = policies.rate_limits.values().any(|limit| limit.scope == Scope::Fleet)
        || policies.plans.values().any(|plan| plan.is_of_fleet());
    if let Some(fleet) = document.server.fleet.as_ref().filter(|_| !by_fleet) {
        let cause = "nothing is counted by the fleet";
        build.errors.warn(&fleet.site, &*fleet.path, cause, "write `scope: fleet` at a limit, or remove it");
    }
}

/// A header policy may serve several routes: each `{route.NAME}` is a parameter of one of them at least.
pub(super) fn header_names_exist(document: &Document, shelf: &Shelf, entries: &[Route], build: &mut Build) {
    for (name, rules) in &shelf.headers {
        let uses = |entry: &Route| entry.headers.iter().any(|used| Arc::ptr_eq(used, rules));
        let users: Vec<_> = document
            .routes
            .iter()
            .zip(entries)
            .filter(|(_, entry)| uses(entry))
            .map(|(route, _)| route)
            .collect();
        let Some(config) = document.policies.headers.get(name).filter(|_| !users.is_empty()) else {
            continue;
        };
        for parameter in rules.parameters() {
            if !users.iter().any(|route| has_parameter(path_of(route), parameter)) {
                let cause =
                    format!("no route that uses `{}` has the `{{route.{parameter}}}` it names", rules.name());
                let cure = "use a name that stands in their `match.path`";
                build.errors.push(&config.site, &*config.path, cause, cure);
            }
        }
    }
}

/// A line of the log speaks of all routes: a name that none has would be `-` in every line.
pub(super) fn logged_names_exist(document: &Document, build: &mut Build) {
    let format = &document.log.access.format;
    // What is no template at all, the log's own room complains about.
    let Ok(template) = Template::parse(format) else { return };
    for variable in template.variables() {
        let known = match variable {
            Variable::Fact(_) | Variable::Claim(_) => true,
            Variable::Parameter(name) => {
                document.routes.iter().any(|route| has_parameter(path_of(route), name))
            }
            Variable::Label(name) => document.routes.iter().any(|route| route.labels.contains_key(&**name)),
        };
        if !known {
            let cause = format!("no route has what `{{{variable}}}` names");
            let cure = "name a `{parameter}` of a route's path, or one of its `labels`";
            build.errors.push(&format.site, &*format.path, cause, cure);
        }
    }
}
