//! The tree of hosts and path segments that routes are found in.
//!
//! A host leads to a node by one look-up, each literal segment to the next by another; a parameter is one more edge. The walk
//! tries, at each node, literal, parameter, rest: the order in which routes win. It visits a node at most once a request.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::pattern::{HostPattern, PARAMETERS_MAX, Segment};

type Map<V> = HashMap<Box<str>, V, RandomState>;

/// All routes by host and path. Routes are known by their index.
#[derive(Debug, Default)]
pub(super) struct Tree {
    exact: Map<usize>,
    under: Map<usize>,
    any: Option<usize>,
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    literals: Map<usize>,
    parameter: Option<usize>,
    /// Routes whose path ends here, the most preferred first.
    here: Vec<usize>,
    /// Routes whose path goes on with `{*rest}`, likewise.
    rest: Vec<usize>,
}

/// Where in the path parameters and rest begin and end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Captures {
    ranges: [(u32, u32); PARAMETERS_MAX],
    length: usize,
}

impl Captures {
    fn push(&mut self, start: usize, end: usize) {
        // Paths are bounded far below 4 GiB, patterns to PARAMETERS_MAX.
        let range = (u32::try_from(start).unwrap_or(u32::MAX), u32::try_from(end).unwrap_or(u32::MAX));
        if let Some(slot) = self.ranges.get_mut(self.length) {
            *slot = range;
        }
        self.length += 1;
    }

    fn pop(&mut self) {
        self.length -= 1;
    }
}

/// What a route's `{name}`s matched in a path; kept without allocating.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<'a> {
    names: &'a [Arc<str>],
    ranges: [(u32, u32); PARAMETERS_MAX],
}

impl<'a> Parameters<'a> {
    pub(super) fn new(names: &'a [Arc<str>], captures: &Captures) -> Self {
        Self { names, ranges: captures.ranges }
    }

    /// Each name with its part of the path that was matched, in canonical form (escapes are still escapes).
    pub fn iter<'p>(&self, path: &'p str) -> impl Iterator<Item = (&'a Arc<str>, &'p str)> {
        let ranges = self.ranges;
        self.names.iter().zip(ranges).map(move |(name, (start, end))| {
            (name, path.get(start as usize..end as usize).unwrap_or_default())
        })
    }

    /// Whether the route has none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// Called with each route on the way.
type Visit<'v> = dyn FnMut(usize, &Captures) -> ControlFlow<()> + 'v;

impl Tree {
    pub(super) fn insert(&mut self, host: &HostPattern, segments: &[Segment], route: usize) {
        let next = self.nodes.len();
        let mut at = match host {
            HostPattern::Exact(name) => *self.exact.entry(name.clone()).or_insert(next),
            HostPattern::Under(name) => *self.under.entry(name.clone()).or_insert(next),
            HostPattern::Any => *self.any.get_or_insert(next),
        };
        for segment in segments {
            let next = self.nodes.len().max(at + 1);
            let Some(node) = self.node_mut(at) else { return };
            at = match segment {
                Segment::Literal(text) => *node.literals.entry(text.clone()).or_insert(next),
                Segment::Parameter => *node.parameter.get_or_insert(next),
                Segment::Rest => {
                    node.rest.push(route);
                    return;
                }
            };
        }
        if let Some(node) = self.node_mut(at) {
            node.here.push(route);
        }
    }

    /// Nodes are made when they are first looked at; the next one to be made is always at the end.
    fn node_mut(&mut self, at: usize) -> Option<&mut Node> {
        if at == self.nodes.len() {
            self.nodes.push(Node::default());
        }
        self.nodes.get_mut(at)
    }

    /// Sorts the routes of each place, the greatest key first; the order in the file settles what must not happen.
    pub(super) fn sort_by_key<K: Ord>(&mut self, key: impl Fn(usize) -> K) {
        for node in &mut self.nodes {
            node.here.sort_by_key(|route| std::cmp::Reverse(key(*route)));
            node.rest.sort_by_key(|route| std::cmp::Reverse(key(*route)));
        }
    }

    /// The routes of each place, where a place is one host pattern and one path pattern (but for its names).
    pub(super) fn places(&self) -> impl Iterator<Item = &[usize]> {
        self.nodes.iter().flat_map(|node| [&*node.here, &*node.rest]).filter(|routes| !routes.is_empty())
    }

    /// Visits the routes of a host and path, the most specific first, until one breaks.
    pub(super) fn walk(&self, host: &str, path: &str, visit: &mut Visit<'_>) {
        let mut roots = self.roots(host);
        let _ = roots.try_for_each(|root| {
            let mut captures = Captures::default();
            match path {
                // `OPTIONS *`: only a route of every path has it.
                "*" => self.nodes.get(root).map_or(ControlFlow::Continue(()), |node| {
                    captures.push(1, 1);
                    each(&node.rest, &captures, visit)
                }),
                path => self.descend(root, path, Some(1), &mut captures, visit),
            }
        });
    }

    /// What this host has in common with those that lead to the same routes, and with no other; none where it leads to none.
    pub(super) fn class_of(&self, host: &str) -> Option<usize> {
        // The first one says which the others are: those that stand for more of its own.
        self.roots(host).next()
    }

    /// All classes of hosts.
    pub(super) fn classes(&self) -> impl Iterator<Item = usize> {
        self.exact.values().chain(self.under.values()).copied().chain(self.any)
    }

    /// All routes of a host's patterns, by index; of one path, others may stand before them.
    pub(super) fn routes_of(&self, host: &str) -> Vec<usize> {
        let mut open: Vec<usize> = self.roots(host).collect();
        let mut routes = Vec::new();
        while let Some(node) = open.pop().and_then(|at| self.nodes.get(at)) {
            open.extend(node.literals.values().copied().chain(node.parameter));
            routes.extend(node.here.iter().chain(&node.rest));
        }
        routes.sort_unstable();
        routes.dedup();
        routes
    }

    /// The exact host's, then wildcards from the longest to the shortest, then any.
    fn roots<'a>(&'a self, host: &'a str) -> impl Iterator<Item = usize> + 'a {
        let parents = if self.under.is_empty() { "" } else { host };
        let wildcards = parents
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'.')
            .filter_map(|(dot, _)| self.under.get(parents.get(dot + 1..)?).copied());
        self.exact.get(host).copied().into_iter().chain(wildcards).chain(self.any)
    }

    /// `start` is where the next segment begins; none when the path is at its end.
    fn descend(
        &self,
        at: usize,
        path: &str,
        start: Option<usize>,
        captures: &mut Captures,
        visit: &mut Visit<'_>,
    ) -> ControlFlow<()> {
        let Some(node) = self.nodes.get(at) else { return ControlFlow::Continue(()) };
        let Some(start) = start else { return each(&node.here, captures, visit) };
        let tail = path.get(start..).unwrap_or_default();
        let (end, next) = match memchr::memchr(b'/', tail.as_bytes()) {
            Some(length) => (start + length, Some(start + length + 1)),
            None => (path.len(), None),
        };
        let segment = path.get(start..end).unwrap_or_default();
        if !node.literals.is_empty()
            && let Some(child) = node.literals.get(segment)
        {
            self.descend(*child, path, next, captures, visit)?;
        }
        if let Some(child) = node.parameter
            && !segment.is_empty()
        {
            captures.push(start, end);
            self.descend(child, path, next, captures, visit)?;
            captures.pop();
        }
        if !node.rest.is_empty() {
            captures.push(start, path.len());
            each(&node.rest, captures, visit)?;
            captures.pop();
        }
        ControlFlow::Continue(())
    }
}

fn each(routes: &[usize], captures: &Captures, visit: &mut Visit<'_>) -> ControlFlow<()> {
    routes.iter().try_for_each(|route| visit(*route, captures))
}
