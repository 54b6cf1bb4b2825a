//! Where every key stands: what a compile step says of a key is told at that key, not at the section around it.

use std::collections::{HashMap, HashSet};

use super::tree::{Node, Trail, Value};
use super::{Diagnostic, Errors, Site};

/// The place of every key and every element of a list, by its path.
pub(super) struct Places {
    by_path: HashMap<String, Site>,
    /// Those at which no keys can stand.
    scalars: HashSet<String>,
    root: Site,
}

impl Places {
    pub(super) fn of(tree: &Node) -> Self {
        let mut places = Self { by_path: HashMap::new(), scalars: HashSet::new(), root: tree.site.clone() };
        places.add(tree, Trail::Root);
        places
    }

    fn add(&mut self, node: &Node, trail: Trail<'_>) {
        match &node.value {
            Value::Broken => {}
            Value::Scalar(_) => drop(self.scalars.insert(trail.to_string())),
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let trail = Trail::Index(&trail, index);
                    self.by_path.insert(trail.to_string(), item.site.clone());
                    self.add(item, trail);
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    let trail = Trail::Key(&trail, &entry.key);
                    self.by_path.insert(trail.to_string(), entry.site.clone());
                    self.add(&entry.value, trail);
                }
            }
        }
    }

    /// Moves each diagnostic from the section it was told at to the key that its path names. What stands elsewhere (a line of
    /// a list in a file of its own) stays.
    pub(super) fn refine(&self, errors: &mut Errors) {
        errors.diagnostics_mut().for_each(|diagnostic| {
            if let Some((short, _)) = diagnostic.path.rsplit_once('.')
                && self.scalars.contains(short)
            {
                // A key of the long form, where the short one is written: `host:port` for `{address: host:port}`.
                diagnostic.path.truncate(short.len());
            }
            let Some(exact) = self.by_path.get(&diagnostic.path) else { return };
            if diagnostic.site.line == 0 || self.is_above(diagnostic) {
                diagnostic.site = exact.clone();
            }
        });
    }

    /// What is missing stands nowhere: it is told at the nearest section that is there, at last at the file's beginning.
    pub(super) fn place_the_absent(&self, errors: &mut Errors) {
        let absent = errors.diagnostics_mut().filter(|diagnostic| diagnostic.site.line == 0);
        absent.for_each(|diagnostic| {
            let nearest = above(&diagnostic.path).find_map(|path| self.by_path.get(path));
            diagnostic.site = nearest.unwrap_or(&self.root).clone();
        });
    }

    fn is_above(&self, diagnostic: &Diagnostic) -> bool {
        let site = &diagnostic.site;
        *site == self.root || above(&diagnostic.path).any(|path| self.by_path.get(path) == Some(site))
    }
}

/// `a.b[3].c` → `a.b[3]`, `a.b`, `a`
fn above(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = path;
    std::iter::from_fn(move || {
        rest = rest.rfind(['.', '[']).and_then(|at| rest.get(..at))?;
        Some(rest)
    })
}
