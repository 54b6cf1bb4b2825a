//! What is wrong between routes: equals, and routes that can never be reached.
//!
//! Two patterns that both match a path differ at some segment, and there one is more specific, or they are the same: so equals
//! meet in one place of the tree, and only there can one route take all that another could have. (A route of greater
//! specificity has a condition more, and leaves the rest to the others.) Pairs of one place are compared each with each:
//! thousands of routes that differ in headers alone make a slow load.

use std::collections::BTreeSet;

use http::Method;

use super::tree::Tree;
use super::{Compiled, ORDINARY_METHODS};
use crate::config::Build;

/// True when nothing is wrong.
pub(super) fn check(tree: &Tree, compiled: &[Compiled], build: &mut Build) -> bool {
    let equals = equals(tree, compiled);
    for (first, second) in &equals {
        let (Some(first), Some(second)) = (compiled.get(*first), compiled.get(*second)) else { continue };
        build.errors.push(
            &second.facts.site,
            path(second),
            format!(
                "routes `{}` ({}) and `{}` are equally specific and some requests are for both",
                first.facts.name, first.facts.site, second.facts.name
            ),
            "give one a `priority`, or set them apart by `methods`, `headers` or `query`",
        );
    }
    let unreachable = unreachable(tree, compiled);
    for (route, by) in &unreachable {
        let (Some(route), Some(by)) = (compiled.get(*route), compiled.get(*by)) else { continue };
        build.errors.push(
            &route.facts.site,
            path(route),
            format!(
                "route `{}` can never be reached: `{}` ({}) takes every request it could have",
                route.facts.name, by.facts.name, by.facts.site
            ),
            "remove it, narrow the other, or change their `priority`",
        );
    }
    equals.is_empty() && unreachable.is_empty()
}

fn path(route: &Compiled) -> String {
    format!("routes[{}]", route.facts.index)
}

fn equals(tree: &Tree, compiled: &[Compiled]) -> BTreeSet<(usize, usize)> {
    let mut pairs = BTreeSet::new();
    for place in tree.places() {
        // Sorted by preference: equals stand side by side.
        for group in place.chunk_by(|a, b| preference(compiled, *a) == preference(compiled, *b)) {
            for (position, first) in group.iter().enumerate() {
                for second in group.iter().skip(position + 1) {
                    let both = compiled.get(*first).zip(compiled.get(*second));
                    if both.is_some_and(|(a, b)| a.conditions.overlap(&b.conditions)) {
                        pairs.insert((*first.min(second), *first.max(second)));
                    }
                }
            }
        }
    }
    pairs
}

fn preference(compiled: &[Compiled], route: usize) -> Option<(super::Specificity, i32)> {
    compiled.get(route).map(Compiled::preference)
}

/// Each unreachable route with one that takes its requests.
fn unreachable(tree: &Tree, compiled: &[Compiled]) -> Vec<(usize, usize)> {
    let mut shadows: Vec<Option<usize>> = vec![None; compiled.len()];
    let mut reachable = vec![false; compiled.len()];
    for place in tree.places() {
        for (position, route) in place.iter().enumerate() {
            let earlier = place.get(..position).unwrap_or_default();
            match shadow(compiled, *route, earlier) {
                Some(by) => shadows.iter_mut().skip(*route).take(1).for_each(|slot| *slot = Some(by)),
                None => reachable.iter_mut().skip(*route).take(1).for_each(|slot| *slot = true),
            }
        }
    }
    let all = shadows.into_iter().zip(reachable).enumerate();
    all.filter_map(|(route, (by, reachable))| by.filter(|_| !reachable).map(|by| (route, by))).collect()
}

/// A route of `earlier` that takes what `route` could have here, or, with the others, one of its methods.
fn shadow(compiled: &[Compiled], route: usize, earlier: &[usize]) -> Option<usize> {
    let own = compiled.get(route)?;
    let wins = |by: &usize| {
        let other = compiled.get(*by)?;
        let wins = other.preference() > own.preference() && other.conditions.are_implied_by(&own.conditions);
        wins.then_some(other)
    };
    let takes = |method: Option<&Method>| {
        earlier.iter().copied().find(|by| {
            wins(by).is_some_and(|other| match method {
                Some(method) => other.conditions.admit(method),
                None => other.conditions.methods().is_empty(),
            })
        })
    };
    match own.conditions.methods() {
        [] => takes(None),
        methods => {
            methods.iter().map(|method| takes(Some(method))).collect::<Option<Vec<_>>>()?.first().copied()
        }
    }
}

/// For each route, the methods of all routes at its places.
pub(super) fn path_methods(tree: &Tree, compiled: &[Compiled]) -> Vec<Box<[Method]>> {
    let mut methods: Vec<Vec<Method>> = vec![Vec::new(); compiled.len()];
    for place in tree.places() {
        let mut union: Vec<Method> = Vec::new();
        for route in place.iter().filter_map(|route| compiled.get(*route)) {
            let own = match route.conditions.methods() {
                [] => &ORDINARY_METHODS,
                listed => listed,
            };
            join(&mut union, own);
        }
        for route in place {
            if let Some(methods) = methods.get_mut(*route) {
                join(methods, &union);
            }
        }
    }
    methods.into_iter().map(Into::into).collect()
}

fn join(to: &mut Vec<Method>, from: &[Method]) {
    for method in from {
        if !to.contains(method) {
            to.push(method.clone());
        }
    }
}

/// Groups of routes that one preflight could mean.
pub(super) fn preflight_groups(tree: &Tree, compiled: &[Compiled]) -> Vec<Vec<usize>> {
    let mut groups: BTreeSet<Vec<usize>> = BTreeSet::new();
    for place in tree.places().filter(|place| place.len() > 1) {
        let mut here: Vec<Vec<usize>> = Vec::new();
        for route in place {
            let (meeting, mut apart): (Vec<_>, Vec<_>) = here
                .into_iter()
                .partition(|group| group.iter().any(|earlier| share_a_preflight(compiled, *earlier, *route)));
            let mut group = meeting.concat();
            group.push(*route);
            apart.push(group);
            here = apart;
        }
        groups.extend(here.into_iter().filter(|group| group.len() > 1).map(|mut group| {
            group.sort_unstable();
            group
        }));
    }
    groups.into_iter().collect()
}

/// Whether requests behind one preflight may go to either: the earlier one leaves some to the later.
fn share_a_preflight(compiled: &[Compiled], earlier: usize, later: usize) -> bool {
    let Some((earlier, later)) = compiled.get(earlier).zip(compiled.get(later)) else { return false };
    earlier.conditions.are_conditional() && earlier.conditions.methods_overlap(&later.conditions)
}
