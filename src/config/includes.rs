//! Files and what they include, read into one tree.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::build::Problem;
use super::join::join;
use super::parse::parse;
use super::scalars::Typed;
use super::shape::Shape;
use super::substitute::{Env, substitute};
use super::tree::{Node, Trail, Value};
use super::veil::{veil, veil_filled};
use super::{Build, Site};

/// How deep files may include each other.
const INCLUDE_DEPTH_MAX: usize = 16;
/// A path with one of these is a pattern.
const WILDCARDS: [char; 3] = ['*', '?', '['];

/// Reads a file and everything it includes.
pub(super) struct Loader<'a> {
    pub(super) shape: &'a Shape,
    pub(super) env: &'a Env<'a>,
    pub(super) build: &'a mut Build,
    /// Every file so far, and who named it.
    loaded: BTreeMap<PathBuf, Site>,
    /// The files that are being read: one of them again would be a cycle.
    open: Vec<PathBuf>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(shape: &'a Shape, env: &'a Env<'a>, build: &'a mut Build) -> Self {
        Self { shape, env, build, loaded: BTreeMap::new(), open: Vec::new() }
    }

    /// Reads a file; `named` is the place that names it, for a file that is included.
    pub(super) fn file(&mut self, path: &Path, named: Option<&Site>) -> Option<Node> {
        let name: Arc<str> = path.to_string_lossy().into();
        let text = match self.build.files.read_text(path) {
            Ok(text) => text,
            Err(problem) => {
                let (line, column) = match problem {
                    Problem::NotUtf8 { line, column } => (line, column),
                    Problem::Io(_) => (0, 0),
                };
                let number = |n| u32::try_from(n).unwrap_or(u32::MAX);
                let own = Site::new(Arc::clone(&name), number(line), number(column));
                let site = if line == 0 { named.unwrap_or(&own) } else { &own };
                let path = if line == 0 && named.is_some() { "include" } else { "" };
                let cure = match problem {
                    Problem::NotUtf8 { .. } => "save the file as UTF-8",
                    Problem::Io(_) => "check the path and its permissions",
                };
                self.build.errors.push(site, path, format!("cannot read `{name}`: {problem}"), cure);
                return None;
            }
        };
        // Two paths of one file are one file; a file that has just been read exists.
        let identity = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        self.loaded
            .insert(identity.clone(), named.cloned().unwrap_or_else(|| Site::new(Arc::clone(&name), 0, 0)));
        self.open.push(identity);
        let tree = self.text(&name, &text);
        self.open.pop();
        tree
    }

    /// Reads a text as if it stood in a file of this name.
    pub(super) fn text(&mut self, name: &Arc<str>, text: &str) -> Option<Node> {
        self.build.sources.add(name, text);
        let parsed = parse(name, text, self.shape, &mut self.build.errors);
        veil(name, text, &parsed, self.shape, &mut self.build.sources);
        let mut tree = parsed.tree?;
        substitute(&mut tree, Trail::Root, self.env, self.build);
        veil_filled(&tree, Trail::Root, &mut self.build.sources);
        if tree.is_nothing() {
            tree = Node::empty_map(tree.site);
        }
        if self.shape.has_include() {
            for (pattern, site) in patterns(&tree) {
                self.include(&pattern, &site, &mut tree);
            }
        }
        Some(tree)
    }

    fn include(&mut self, pattern: &str, site: &Site, into: &mut Node) {
        let Some(paths) = self.matching(pattern, site) else {
            return;
        };
        for path in paths {
            if self.may_load(&path, site)
                && let Some(tree) = self.file(&path, Some(site))
            {
                join(into, tree, self.shape, &mut self.build.errors);
            }
        }
    }

    /// The files a pattern means, sorted. Without a wildcard it is one file, which must be there.
    fn matching(&mut self, pattern: &str, site: &Site) -> Option<Vec<PathBuf>> {
        if !pattern.contains(WILDCARDS) {
            return Some(vec![self.build.files.resolve(site, pattern)]);
        }
        let whole = if Path::new(pattern).is_absolute() {
            PathBuf::from(pattern)
        } else {
            // Only what was written is a pattern: the directory it starts from may be called `[a]`.
            let directory = glob::Pattern::escape(&site.directory().to_string_lossy());
            Path::new(&directory).join(pattern)
        };
        self.watch_directory(pattern, site);
        let found = match glob::glob(&whole.to_string_lossy()) {
            Ok(found) => found,
            Err(error) => {
                let cause = format!("`{pattern}` is not a pattern: {}", error.msg);
                self.build.errors.push(
                    site,
                    "include",
                    cause,
                    "write a path, or a glob such as `routes/*.yaml`",
                );
                return None;
            }
        };
        let mut paths = Vec::new();
        for entry in found {
            match entry {
                Ok(path) => {
                    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
                    self.build.files.watch(directory.unwrap_or_else(|| Path::new(".")));
                    paths.push(path);
                }
                Err(error) => {
                    let cause = format!("cannot read `{}`: {}", error.path().display(), error.error());
                    self.build.errors.push(site, "include", cause, "check its permissions");
                }
            }
        }
        if paths.is_empty() {
            let cause = format!("`{pattern}` matches no file");
            self.build.errors.warn(site, "include", cause, "check the path, or leave it out");
        }
        paths.sort();
        Some(paths)
    }

    /// Watches the directory a pattern looks in, as far as it is written out: a file that comes to match later is seen.
    fn watch_directory(&mut self, pattern: &str, site: &Site) {
        let parts = Path::new(pattern).components();
        let literal = parts.take_while(|part| !part.as_os_str().to_string_lossy().contains(WILDCARDS));
        let directory = site.directory().join(literal.collect::<PathBuf>());
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { &directory };
        self.build.files.watch(directory);
    }

    fn may_load(&mut self, path: &Path, site: &Site) -> bool {
        let identity = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let shown = path.display();
        if self.open.contains(&identity) {
            let cause = format!("`{shown}` includes itself, directly or through others");
            let cure = "keep included files in a directory of their own";
            self.build.errors.push(site, "include", cause, cure);
            return false;
        }
        if self.open.len() >= INCLUDE_DEPTH_MAX {
            let cause = format!("`{shown}` is included through more than {INCLUDE_DEPTH_MAX} files");
            self.build.errors.push(site, "include", cause, "include it from a file nearer to the first");
            return false;
        }
        if let Some(first) = self.loaded.get(&identity) {
            let cause = format!("`{shown}` is included twice; first at {first}");
            self.build.errors.push(site, "include", cause, "keep one of the two");
            return false;
        }
        true
    }
}

/// The patterns of `include`. What is no text is left to the validation of the whole.
fn patterns(tree: &Node) -> Vec<(String, Site)> {
    let Some(Value::List(items)) = tree.entry("include").map(|entry| &entry.value.value) else {
        return Vec::new();
    };
    let text = |item: &Node| match &item.value {
        Value::Scalar(scalar) => match scalar.typed() {
            Typed::Text(text) => Some((text.to_owned(), item.site.clone())),
            _ => None,
        },
        Value::List(_) | Value::Map(_) | Value::Broken => None,
    };
    items.iter().filter_map(text).collect()
}
