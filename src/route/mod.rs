//! Host, path, method, headers and query → the one route that is meant.
//!
//! Which route wins among those whose every condition holds, whatever their order in the file: host exact, then the longest
//! wildcard, then any; then segment by segment a literal, then `{p}`, then `{*rest}`; then one with `methods`; then more
//! `headers`; then more `query`. `priority` only settles equals. Routes are found by walking a tree in that order, so the
//! first whose conditions hold has won, and how many routes there are hardly matters.

mod check;
mod conditions;
mod pattern;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::canonical::{Oddities, Target};
use crate::config::{Build, Pattern, Spanned};
use crate::record::RouteFacts;
use conditions::Conditions;
use pattern::PathPattern;
pub use tree::Parameters;
use tree::Tree;

/// Which requests a route is for: every condition given must hold.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Hosts, exact (`api.example.com`) or by label (`*.example.org`: one label or more). Default: any.
    pub hosts: Vec<Spanned<String>>,
    /// Exact `/a/b`; one segment, never empty, `/users/{id}`; the rest `/orders/{*rest}` (also `/orders/`, not `/orders`).
    /// Default: every path.
    pub path: Option<Spanned<String>>,
    /// Methods. HEAD goes where GET goes. Default: any.
    pub methods: Vec<Spanned<String>>,
    /// Header conditions: a text for equality, `{regex: …}` or `{present: true}`. A field sent more than once must hold each
    /// time.
    pub headers: BTreeMap<String, Spanned<Pattern>>,
    /// Query conditions, likewise; names and values are compared decoded.
    pub query: BTreeMap<String, Spanned<Pattern>>,
}

/// What a route is compiled from. Its place in the slice is its index, and `facts.index` says the same.
#[derive(Clone, Debug)]
pub struct RouteInput<'a> {
    /// What it is called.
    pub facts: Arc<RouteFacts>,
    /// Which requests it is for.
    pub matches: &'a Spanned<Match>,
    /// Settles equals: the higher wins. None is 0.
    pub priority: Option<i32>,
    /// What it takes of paths with two readings: its own path may be such a one.
    pub tolerated: Oddities,
}

/// All routes, compiled.
#[derive(Debug)]
pub struct Routes {
    tree: Tree,
    compiled: Vec<Compiled>,
    path_methods: Vec<Box<[Method]>>,
    preflight_groups: Vec<Vec<usize>>,
}

/// One route, compiled.
#[derive(Debug)]
struct Compiled {
    facts: Arc<RouteFacts>,
    conditions: Conditions,
    names: Box<[Arc<str>]>,
    priority: i32,
}

/// What a request's target and method led to.
#[derive(Debug)]
pub enum Found<'a> {
    /// The route that won.
    Route {
        /// Its place in what was compiled.
        index: usize,
        /// What its `{name}`s matched.
        parameters: Parameters<'a>,
    },
    /// Only methods failed.
    MethodNotAllowed {
        /// What `Allow` says.
        allow: String,
    },
    /// No route.
    NotFound,
}

/// What `methods` of CORS stands for on a path that takes any method.
const ORDINARY_METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

impl Routes {
    /// Compiles all routes. None when `build.errors` says why: bad patterns, equal and overlapping routes without
    /// `priority`, routes that can never be reached.
    pub fn compile(inputs: &[RouteInput<'_>], build: &mut Build) -> Option<Self> {
        let routes = Self::assemble(inputs, build)?;
        routes.check(build).then_some(routes)
    }

    /// Whether all routes can be told apart and reached; says what is wrong.
    pub fn check(&self, build: &mut Build) -> bool {
        check::check(&self.tree, &self.compiled, build)
    }

    /// The first half of [`Routes::compile`]: patterns. What is wrong between routes ([`Routes::check`]) is not looked at.
    pub fn assemble(inputs: &[RouteInput<'_>], build: &mut Build) -> Option<Self> {
        let mut tree = Tree::default();
        let mut compiled = Vec::with_capacity(inputs.len());
        for input in inputs {
            let hosts = pattern::hosts(input.matches, build);
            let path = PathPattern::compile(input.matches, input.tolerated, build);
            let conditions = Conditions::compile(input.matches, build);
            let (Some(hosts), Some(path), Some(conditions)) = (hosts, path, conditions) else { continue };
            for host in &hosts {
                tree.insert(host, &path.segments, compiled.len());
            }
            compiled.push(Compiled {
                facts: Arc::clone(&input.facts),
                conditions,
                names: path.names,
                priority: input.priority.unwrap_or(0),
            });
        }
        if compiled.len() < inputs.len() {
            return None;
        }
        tree.sort_by_key(|index| compiled.get(index).map(Compiled::preference));
        let path_methods = check::path_methods(&tree, &compiled);
        let preflight_groups = check::preflight_groups(&tree, &compiled);
        Some(Self { tree, compiled, path_methods, preflight_groups })
    }

    /// The route that is meant.
    pub fn find(&self, method: &Method, target: &Target, headers: &HeaderMap) -> Found<'_> {
        self.find_where(method, target, |conditions| conditions.hold(headers, target.query()))
    }

    /// The route that a preflight asks about. Header conditions are taken to hold: a preflight bears no such headers.
    pub fn find_preflight(&self, requested_method: &Method, target: &Target) -> Found<'_> {
        self.find_where(requested_method, target, |conditions| conditions.hold_by_query(target.query()))
    }

    /// What a host has in common with those that lead to the same routes, and with no other; none where it leads to none.
    pub fn class_of(&self, host: &str) -> Option<usize> {
        self.tree.class_of(host)
    }

    /// All classes of hosts.
    pub fn classes(&self) -> impl Iterator<Item = usize> {
        self.tree.classes()
    }

    /// All routes of a host's patterns, by index; of one path, others may stand before them. Costs a look at each.
    pub fn routes_of(&self, host: &str) -> Vec<usize> {
        self.tree.routes_of(host)
    }

    /// The routes that requests of this host and path come to, whatever their methods, headers and queries; the most specific first.
    pub fn routes_at(&self, target: &Target) -> Vec<usize> {
        let mut found = Vec::new();
        // Methods that a route without other conditions has: no request by them comes to those behind it.
        let mut taken: Vec<&Method> = Vec::new();
        self.walk(target, |index, route, _| {
            let methods = route.conditions.methods();
            let comes = methods.is_empty() || methods.iter().any(|method| !taken.contains(&method));
            if comes && !found.contains(&index) {
                found.push(index);
            }
            if route.conditions.are_conditional() {
                return ControlFlow::Continue(());
            }
            taken.extend(methods);
            if methods.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        found
    }

    fn find_where(&self, method: &Method, target: &Target, holds: impl Fn(&Conditions) -> bool) -> Found<'_> {
        let mut found = None;
        let mut method_failed = false;
        self.walk(target, |index, route, captures| {
            if !holds(&route.conditions) {
                return ControlFlow::Continue(());
            }
            if !route.conditions.admit(method) {
                method_failed = true;
                return ControlFlow::Continue(());
            }
            found = Some(Found::Route { index, parameters: Parameters::new(&route.names, captures) });
            ControlFlow::Break(())
        });
        match found {
            Some(found) => found,
            None if method_failed => Found::MethodNotAllowed { allow: self.allow(target, holds) },
            None => Found::NotFound,
        }
    }

    /// The union of what the routes take of which only the method failed.
    fn allow(&self, target: &Target, holds: impl Fn(&Conditions) -> bool) -> String {
        let mut methods: Vec<&str> = Vec::new();
        self.walk(target, |_, route, _| {
            if holds(&route.conditions) {
                methods.extend(route.conditions.methods().iter().map(Method::as_str));
            }
            ControlFlow::Continue(())
        });
        methods.sort_unstable();
        methods.dedup();
        methods.join(", ")
    }

    /// All routes whose every condition holds, the winner first: what `explain` tells.
    pub fn candidates(&self, method: &Method, target: &Target, headers: &HeaderMap) -> Vec<usize> {
        self.candidates_where(method, target, |conditions| conditions.hold(headers, target.query()))
    }

    /// As [`Routes::candidates`], for a preflight that asks about this method.
    pub fn preflight_candidates(&self, requested_method: &Method, target: &Target) -> Vec<usize> {
        let holds = |conditions: &Conditions| conditions.hold_by_query(target.query());
        self.candidates_where(requested_method, target, holds)
    }

    fn candidates_where(
        &self,
        method: &Method,
        target: &Target,
        holds: impl Fn(&Conditions) -> bool,
    ) -> Vec<usize> {
        let mut candidates = Vec::new();
        self.walk(target, |index, route, _| {
            let holds = holds(&route.conditions) && route.conditions.admit(method);
            if holds && !candidates.contains(&index) {
                candidates.push(index);
            }
            ControlFlow::Continue(())
        });
        candidates
    }

    fn walk<'a>(
        &'a self,
        target: &Target,
        mut visit: impl FnMut(usize, &'a Compiled, &tree::Captures) -> ControlFlow<()>,
    ) {
        self.tree.walk(target.host(), target.path(), &mut |index, captures| match self.compiled.get(index) {
            Some(route) => visit(index, route, captures),
            None => ControlFlow::Continue(()),
        });
    }

    /// The methods of all routes that share a host and the path of this one: the default of CORS's `methods`.
    pub fn methods_of_path(&self, index: usize) -> &[Method] {
        self.path_methods.get(index).map(|methods| &**methods).unwrap_or_default()
    }

    /// Whether a condition of this route asks for this field.
    pub fn asks_for(&self, index: usize, field: &HeaderName) -> bool {
        self.compiled.get(index).is_some_and(|route| route.conditions.name(field))
    }

    /// Routes that one preflight could mean, as they differ only in header or query conditions: each group must share a
    /// `cors` policy.
    pub fn preflight_groups(&self) -> &[Vec<usize>] {
        &self.preflight_groups
    }
}

impl Compiled {
    /// Greater is preferred among routes of one host and path.
    fn preference(&self) -> (Specificity, i32) {
        (self.conditions.specificity(), self.priority)
    }
}

/// How specific conditions are: with methods, count of headers, count of query conditions.
type Specificity = (bool, usize, usize);
