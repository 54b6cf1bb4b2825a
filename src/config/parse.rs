//! YAML events → tree. One error does not hide the next, except that a syntax error ends its file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::shape::Shape;
use super::tree::{Entry, Node, Scalar, Value};
use super::{Errors, Site, syntax, unread};

/// Levels of a document; nothing of ours is deeper than ten.
const DEPTH_MAX: usize = 64;
/// Nodes that aliases may add to a file: enough for any honest use, too few for a "billion laughs".
const ALIAS_NODES_MAX: usize = 10_000;

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    /// None where its syntax is broken; the errors say so.
    pub(super) tree: Option<Node>,
    /// What was complained about and is no part of the tree.
    pub(super) dropped: Vec<Dropped>,
    /// Where every text stands, keys included; in bytes.
    pub(super) texts: Vec<Range<usize>>,
    /// Whether the reading has come to the file's end.
    pub(super) is_whole: bool,
}

/// An entry that is no part of the tree.
#[derive(Debug)]
pub(super) struct Dropped {
    /// The keys that lead to its mapping.
    pub(super) within: Vec<String>,
    pub(super) entry: Entry,
}

/// Parses one file.
pub(super) fn parse(file: &Arc<str>, text: &str, shape: &Shape, errors: &mut Errors) -> Parsed {
    let mut builder = Builder::new(file, errors);
    let read = builder.read(text);
    if let Err(error) = &read {
        let marker = error.marker();
        let site = builder.site_at(marker.line(), marker.col());
        let hidden = unread::hidden(text, &shape.names().words);
        let (cause, cure) = syntax::explain(error.kind(), text, &unread::masked(text, &hidden), &site);
        builder.complain(&site, cause, cure);
    }
    let Builder { root, dropped, texts, .. } = builder;
    let whole = || root.unwrap_or_else(|| Node::empty_map(Site::new(Arc::clone(file), 1, 1)));
    let is_whole = matches!(read, Ok(Some(())));
    Parsed { tree: read.ok().flatten().map(|()| whole()), dropped, texts, is_whole }
}
/// A list or mapping that has been opened and not closed.
struct Open {
    site: Site,
    anchor: usize,
    kind: Kind,
}

enum Kind {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, key: Option<Key> },
}

enum Key {
    Good(Named),
    /// Already complained about: its value is dropped.
    Bad(Named),
}

/// A key's name, where it stands, and where it ends.
struct Named {
    key: String,
    site: Site,
    key_extent: Range<usize>,
    end: usize,
}

impl Named {
    fn entry(self, value: Node, end: usize) -> Entry {
        let extent = self.end..end.max(self.end);
        Entry { key: self.key, site: self.site, value, key_extent: self.key_extent, extent }
    }
}

struct Builder<'a> {
    file: Arc<str>,
    errors: &'a mut Errors,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    alias_nodes: usize,
    documents: usize,
    root: Option<Node>,
    dropped: Vec<Dropped>,
    texts: Vec<Range<usize>>,
    /// Where the last thing that was read ends, in bytes.
    end: usize,
}

impl<'a> Builder<'a> {
    fn new(file: &Arc<str>, errors: &'a mut Errors) -> Self {
        Self {
            file: Arc::clone(file),
            errors,
            open: Vec::new(),
            anchors: HashMap::new(),
            alias_nodes: 0,
            documents: 0,
            root: None,
            dropped: Vec::new(),
            texts: Vec::new(),
            end: 0,
        }
    }

    /// None where the reading has ended before the text, which has been complained about.
    fn read(&mut self, text: &str) -> Result<Option<()>, ScanError> {
        let options = granit_parser::options! {
            emit_comments: false,
            emit_unresolved_aliases: true,
            flow_nesting_limit: DEPTH_MAX,
            block_nesting_limit: DEPTH_MAX,
        };
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, span) = event?;
            if self.take(event, span).is_none() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    /// The parser counts lines from 1 and columns from 0.
    fn site_at(&self, line: usize, column: usize) -> Site {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Site::new(Arc::clone(&self.file), number(line), number(column).saturating_add(1))
    }

    fn site(&self, span: Span) -> Site {
        self.site_at(span.start.line(), span.start.col())
    }

    /// None ends the file.
    fn take(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let site = self.site(span);
        let extent = span.byte_range().unwrap_or_default();
        // A block's end stands where the next thing begins.
        if !extent.is_empty() {
            self.end = extent.end;
        }
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.complain(
                        &site,
                        "a second document begins here",
                        "remove `---`; use `include` for more files",
                    );
                    return None;
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(&site, tag.is_some());
                self.texts.push(extent.clone());
                let absent = span.is_empty();
                let text =
                    if absent && style == ScalarStyle::Plain { String::new() } else { text.into_owned() };
                let plain = style == ScalarStyle::Plain;
                let scalar = Scalar { text, plain, absent, template: None, extent };
                let node = Node { site, value: Value::Scalar(scalar) };
                self.remember(anchor, &node);
                self.place(node);
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_tag(&site, tag.is_some());
                self.begin(Open { site, anchor, kind: Kind::List(Vec::new()) })?;
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_tag(&site, tag.is_some());
                self.begin(Open { site, anchor, kind: Kind::Map { entries: Vec::new(), key: None } })?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => {
                let node = self.alias(anchor, site)?;
                self.place(node);
            }
            Event::UnresolvedAlias(name) => {
                self.complain(
                    &site,
                    format!("`*{name}` refers to an anchor that is not there"),
                    format!("write `\"*{name}\"` in quotes if it is meant as a text"),
                );
                let mut within = self.keys();
                let key = within.pop().unwrap_or_default();
                let scalar =
                    Scalar { text: name.into_owned(), plain: true, absent: false, template: None, extent };
                let value = Node { site: site.clone(), value: Value::Scalar(scalar) };
                let (key_extent, extent) = (0..0, self.end..self.end);
                let entry = Entry { key, site: site.clone(), value, key_extent, extent };
                self.dropped.push(Dropped { within, entry });
                self.place(Node::broken(site));
            }
            // Comments and anchors' names, which the options leave out.
            _ => {}
        }
        Some(())
    }

    /// The path of what is being read: the keys and items that are open.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match &open.kind {
                Kind::List(items) => path += &format!("[{}]", items.len()),
                Kind::Map { key: Some(Key::Good(named)), .. } if path.is_empty() => path += &named.key,
                Kind::Map { key: Some(Key::Good(named)), .. } => path += &format!(".{}", named.key),
                Kind::Map { .. } => {}
            }
        }
        path
    }

    /// The keys that are open.
    fn keys(&self) -> Vec<String> {
        let key = |open: &Open| match &open.kind {
            Kind::Map { key: Some(Key::Good(named) | Key::Bad(named)), .. } => Some(named.key.clone()),
            Kind::List(_) | Kind::Map { key: None, .. } => None,
        };
        self.open.iter().filter_map(key).collect()
    }

    fn complain(
        &mut self,
        site: &Site,
        cause: impl Into<Cow<'static, str>>,
        cure: impl Into<Cow<'static, str>>,
    ) {
        let path = self.path();
        self.errors.push(site, path, cause, cure);
    }

    fn refuse_tag(&mut self, site: &Site, tagged: bool) {
        if tagged {
            let cure = "remove the tag; a text that looks like a number is written in quotes";
            self.complain(site, "tags (`!…`) have no meaning here", cure);
        }
    }

    fn begin(&mut self, open: Open) -> Option<()> {
        if self.open.len() >= DEPTH_MAX {
            self.too_deep(&open.site);
            return None;
        }
        self.open.push(open);
        Some(())
    }

    fn too_deep(&mut self, site: &Site) {
        let cause = format!("nested deeper than {DEPTH_MAX} levels");
        self.complain(site, cause, "look for a bracket too many");
    }

    fn end(&mut self) {
        let Some(Open { site, anchor, kind }) = self.open.pop() else {
            return;
        };
        let value = match kind {
            Kind::List(items) => Value::List(items),
            Kind::Map { entries, .. } => Value::Map(entries),
        };
        let node = Node { site, value };
        self.remember(anchor, &node);
        self.place(node);
    }

    fn remember(&mut self, anchor: usize, node: &Node) {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
    }

    fn alias(&mut self, anchor: usize, site: Site) -> Option<Node> {
        let Some(node) = self.anchors.get(&anchor) else {
            let cause = "an alias inside what it refers to";
            self.complain(&site, cause, "write the value out");
            return Some(Node::broken(site));
        };
        self.alias_nodes = self.alias_nodes.saturating_add(node.count());
        if self.alias_nodes > ALIAS_NODES_MAX {
            let cause = format!("aliases stand for more than {ALIAS_NODES_MAX} values");
            self.complain(&site, cause, "write the values out, or use `defaults`");
            return None;
        }
        if self.open.len() + node.depth() > DEPTH_MAX {
            self.too_deep(&site);
            return None;
        }
        Some(node.clone())
    }

    /// Puts a finished node where it belongs: an item, a key, a value, or the root.
    fn place(&mut self, node: Node) {
        let path = match self.open.last().map(|open| &open.kind) {
            Some(Kind::Map { key: None, .. }) => self.path(),
            _ => String::new(),
        };
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut open.kind {
            Kind::List(items) => items.push(node),
            Kind::Map { entries, key } => match key.take() {
                None => {
                    let (read, lost) = read_key(node, self.end, path, entries, self.errors);
                    *key = Some(read);
                    if let Some(entry) = lost {
                        let mut within = self.keys();
                        within.pop();
                        self.dropped.push(Dropped { within, entry });
                    }
                }
                Some(Key::Good(named)) => entries.push(named.entry(node, self.end)),
                Some(Key::Bad(named)) => {
                    let entry = named.entry(node, self.end);
                    let within = self.keys();
                    self.dropped.push(Dropped { within, entry });
                }
            },
        }
    }
}

/// What a key is; and what is lost of one that is a list or a mapping.
fn read_key(
    node: Node,
    end: usize,
    within: String,
    before: &[Entry],
    errors: &mut Errors,
) -> (Key, Option<Entry>) {
    let site = node.site.clone();
    let key_extent = match &node.value {
        Value::Scalar(scalar) => scalar.extent.clone(),
        Value::List(_) | Value::Map(_) | Value::Broken => 0..0,
    };
    let named = |key: String| Named { key, site: site.clone(), key_extent: key_extent.clone(), end };
    let Value::Scalar(scalar) = node.value else {
        let cure = "write it in quotes if it is meant as a text, such as `\"{requestId}\"`";
        errors.push(&site, within, "a key is a list or a mapping", cure);
        let lost = named(String::new()).entry(node, end);
        return (Key::Bad(named(String::new())), Some(lost));
    };
    let text = scalar.text;
    let path = if within.is_empty() { text.clone() } else { format!("{within}.{text}") };
    if scalar.plain && text == "<<" {
        let cure = "write the keys out, use `defaults`, or an alias for the whole value";
        errors.push(&site, path, "merge keys (`<<`) are not part of YAML 1.2", cure);
        return (Key::Bad(named(text)), None);
    }
    if text.contains("${") {
        errors.push(&site, path, "`${…}` is not put into keys", "write the key out");
        return (Key::Bad(named(text)), None);
    }
    if let Some(first) = before.iter().find(|entry| entry.key == text) {
        let cause = format!("`{text}` is given twice; first in line {}", first.site.line);
        errors.push(&site, path, cause, "keep one of the two");
        return (Key::Bad(named(text)), None);
    }
    (Key::Good(named(text)), None)
}
