//! What of a file a message may show: found in its tree, by types, before anything is complained about. What is not found is not shown.

use std::ops::Range;
use std::sync::Arc;

use serde_json::Value as Schema;

use super::Sources;
use super::parse::Parsed;
use super::pieces::{Guard, cover, literals, placeholders, without, words_of};
use super::scalars::Typed;
use super::secrecy::{GUARDED, hidden_in, is_secret, parts};
use super::shape::Shape;
use super::sources::Kept;
use super::tree::{Entry, Node, Scalar, Trail, Value};
use super::unread;
use super::wording::{forms, nearest};

/// Settles what messages may show of a file, as it was written.
pub(super) fn veil(file: &Arc<str>, text: &str, parsed: &Parsed, shape: &Shape, sources: &mut Sources) {
    sources.know(&shape.names().words);
    // What is no mapping of sections may be any file: that of a password, for one.
    let is_document = |tree: &Node| matches!(tree.value, Value::Map(_)) || tree.is_nothing();
    let Some(tree) = parsed.tree.as_ref().filter(|tree| parsed.is_whole && is_document(tree)) else {
        sources.distrust(file);
        let hidden = match parsed.is_whole {
            true => std::iter::once(0..text.len()).collect(),
            false => unread::hidden(text, &shape.names().words),
        };
        return hidden.into_iter().for_each(|range| sources.cover(file, range));
    };
    let mut veil = Veil { text, shape, sources, shown: Vec::new() };
    let root = Kind { schemas: vec![shape.root()], guard: Guard::Open };
    veil.node(tree, &root, Trail::Root);
    for dropped in &parsed.dropped {
        veil.dropped(&dropped.within, &dropped.entry, &root, Trail::Root);
    }
    let shown = std::mem::take(&mut veil.shown);
    cover(file, text, &parsed.texts, shown, sources);
}

/// The same for what `${…}` has put in.
pub(super) fn veil_filled(node: &Node, trail: Trail<'_>, sources: &mut Sources) {
    match &node.value {
        Value::Scalar(scalar) if scalar.template.is_some() => {
            let path = trail.to_string();
            sources.keep(&scalar.text, Kept::Here, &node.site, &path, Vec::new());
            for range in hidden_in(&scalar.text) {
                let part = scalar.text.get(range).unwrap_or_default();
                sources.keep(part, Kept::Everywhere, &node.site, &path, Vec::new());
            }
        }
        Value::Scalar(_) | Value::Broken => {}
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                veil_filled(item, Trail::Index(&trail, index), sources);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                veil_filled(&entry.value, Trail::Key(&trail, &entry.key), sources);
            }
        }
    }
}

/// What may stand at a place.
#[derive(Clone)]
struct Kind<'s> {
    schemas: Vec<&'s Schema>,
    guard: Guard,
}

struct Veil<'a> {
    text: &'a str,
    shape: &'a Shape,
    sources: &'a mut Sources,
    /// What is shown, in bytes.
    shown: Vec<Range<usize>>,
}

impl<'a> Veil<'a> {
    fn dropped(&mut self, within: &[String], entry: &Entry, kind: &Kind<'a>, trail: Trail<'_>) {
        match within.split_first() {
            None => self.entry(entry, kind, trail),
            Some((key, rest)) => {
                let below = self.below(kind, key).1;
                self.dropped(rest, entry, &below, Trail::Key(&trail, key));
            }
        }
    }

    fn node(&mut self, node: &Node, kind: &Kind<'a>, trail: Trail<'_>) {
        match &node.value {
            Value::Broken => {}
            Value::Scalar(scalar) => self.scalar(node, scalar, kind, trail),
            Value::List(items) => {
                // A list where none is wanted may have what is wanted in it.
                let inner = self.items(&kind.schemas).unwrap_or_else(|| kind.schemas.clone());
                let inner = self.guarded(inner, kind.guard);
                for (index, item) in items.iter().enumerate() {
                    self.node(item, &inner, Trail::Index(&trail, index));
                }
            }
            Value::Map(entries) => entries.iter().for_each(|entry| self.entry(entry, kind, trail)),
        }
    }

    fn entry(&mut self, entry: &Entry, kind: &Kind<'a>, trail: Trail<'_>) {
        let (name, below) = self.below(kind, &entry.key);
        let is_plain = |c: char| c.is_alphabetic() || matches!(c, '_' | '-' | '.');
        // A comma in a secret that lacks its quotes makes a key of what follows, and brackets make one of it all.
        if let Some(length) = self.without_space(entry, kind) {
            let start = entry.key_extent.end.saturating_sub(entry.key.len());
            self.shown.push(start..start + length);
            if length == entry.key.len() {
                return self.sources.open(&entry.key);
            }
        }
        let shown = match name {
            Name::Known => true,
            Name::Near => self.has_colon(entry),
            Name::Free if kind.guard == Guard::Open => {
                self.has_colon(entry) && hidden_in(&entry.key).is_empty()
            }
            Name::Free => {
                let is_odd = |c: char| c.is_whitespace() || c == '=';
                let is_hidden = !hidden_in(&entry.key).is_empty()
                    || entry.key.contains(':') && !entry.key.contains("://");
                self.has_colon(entry) && !entry.key.contains(is_odd) && !is_hidden
            }
            Name::Unknown => {
                kind.guard == Guard::Open && self.has_colon(entry) && entry.key.chars().all(is_plain)
            }
        };
        if shown {
            self.shown.push(entry.key_extent.clone());
            self.sources.open(&entry.key);
        } else {
            self.sources.conceal_name(&entry.key);
            let path = Trail::Key(&trail, &entry.key).to_string();
            self.sources.keep(&entry.key, Kept::Here, &entry.site, &path, Vec::new());
        }
        self.node(&entry.value, &below, Trail::Key(&trail, &entry.key));
    }

    /// How much may be shown of `workers:2`, which lacks a space behind its colon.
    fn without_space(&self, entry: &Entry, kind: &Kind<'a>) -> Option<usize> {
        let (name, _) = entry.key.split_once(':').filter(|_| entry.value.is_nothing())?;
        match self.below(kind, name) {
            (Name::Known, below) if below.guard == Guard::Open && hidden_in(&entry.key).is_empty() => {
                Some(entry.key.len())
            }
            (Name::Known, _) => Some(name.len()),
            _ => None,
        }
    }

    /// What a key is, and what may stand behind it.
    fn below(&self, kind: &Kind<'a>, key: &str) -> (Name, Kind<'a>) {
        let closed = Kind {
            schemas: Vec::new(),
            guard: if kind.guard == Guard::Secret { Guard::Secret } else { Guard::Closed },
        };
        if key == "<<" {
            return (Name::Known, closed);
        }
        let mut resolved: Vec<&'a Schema> =
            kind.schemas.iter().flat_map(|schema| forms(schema, self.shape)).collect();
        resolved.extend(self.items(&resolved).unwrap_or_default());
        let known = |name: &str| resolved.iter().find_map(|schema| schema.get("properties")?.get(name));
        if let Some(schema) = known(key) {
            return (Name::Known, self.of(schema, kind.guard));
        }
        let free = resolved.iter().find_map(|s| s.get("additionalProperties").filter(|s| s.is_object()));
        if let Some(schema) = free {
            let below = self.of(schema, kind.guard);
            // A password among the labels.
            let is_secret =
                self.shape.names().is_secret(key) && below.guard == Guard::Open && is_text(&below.schemas);
            return (Name::Free, if is_secret { closed } else { below });
        }
        if kind.guard != Guard::Open {
            return (Name::Unknown, closed);
        }
        let names = resolved.iter().filter_map(|schema| schema.get("properties")?.as_object());
        let names: Vec<&str> = names.flat_map(|known| known.keys().map(String::as_str)).collect();
        if let Some(schema) = nearest(key, &names).and_then(known) {
            return (Name::Near, self.of(schema, kind.guard));
        }
        // A section that is indented too far.
        match self.shape.root().get("properties").and_then(|sections| sections.get(key)) {
            Some(schema) => (Name::Near, self.of(schema, Guard::Open)),
            None => (Name::Unknown, closed),
        }
    }

    fn of(&self, schema: &'a Schema, above: Guard) -> Kind<'a> {
        let guard = [schema, self.shape.resolve(schema)].into_iter().find_map(guard).unwrap_or(above);
        self.guarded(forms(schema, self.shape), guard)
    }

    fn guarded(&self, schemas: Vec<&'a Schema>, above: Guard) -> Kind<'a> {
        let guard = schemas.iter().find_map(|schema| guard(schema)).unwrap_or(above);
        Kind { schemas, guard }
    }

    fn items(&self, schemas: &[&'a Schema]) -> Option<Vec<&'a Schema>> {
        schemas.iter().find_map(|schema| schema.get("items")).map(|items| forms(items, self.shape))
    }

    /// Whether a key has a colon, unlike `{hunter2}`.
    fn has_colon(&self, entry: &Entry) -> bool {
        self.text.get(entry.extent.start..).is_some_and(|behind| behind.trim_start().starts_with(':'))
    }

    fn scalar(&mut self, node: &Node, scalar: &Scalar, kind: &Kind<'a>, trail: Trail<'_>) {
        if scalar.absent {
            return;
        }
        let guard = self.guard_of(scalar, kind);
        let raw = self.text.get(scalar.extent.clone()).unwrap_or_default();
        // Escapes and line ends make another text of it.
        let verbatim = raw.find(&scalar.text).map(|at| scalar.extent.start + at);
        let by_form = hidden_in(&scalar.text);
        let mut pieces = match verbatim {
            Some(_) => placeholders(&scalar.text, &self.shape.names().words, guard),
            None => Vec::new(),
        };
        match (guard, verbatim) {
            (Guard::Open, Some(_)) => pieces.extend(without(&by_form, scalar.text.len())),
            (Guard::Expression, Some(_)) => pieces.extend(words_of(&scalar.text, &self.shape.names().words)),
            // `drain 10s` lacks a colon.
            (Guard::Closed, Some(_)) => {
                let first = scalar.text.split([':', ' ']).next().unwrap_or_default();
                let is_known =
                    |schema: &&Schema| schema.get("properties").is_some_and(|all| all.get(first).is_some());
                pieces.extend(kind.schemas.iter().any(is_known).then_some(0..first.len()));
            }
            _ => {}
        }
        let told: Vec<String> = match guard {
            Guard::Open if by_form.is_empty() => vec![scalar.text.clone()],
            _ => {
                pieces.iter().filter_map(|piece| scalar.text.get(piece.clone())).map(str::to_owned).collect()
            }
        };
        if !pieces.is_empty() && raw.starts_with(['"', '\'']) {
            let end = scalar.extent.end.saturating_sub(1);
            self.shown.extend([scalar.extent.start..scalar.extent.start + 1, end..scalar.extent.end]);
        }
        let at = verbatim.unwrap_or_default();
        self.shown.extend(pieces.into_iter().map(|piece| at + piece.start..at + piece.end));
        if guard == Guard::Open && by_form.is_empty() {
            self.shown.push(scalar.extent.clone());
            self.sources.open(&scalar.text);
            if !scalar.text.contains("${") {
                return;
            }
        }
        let path = trail.to_string();
        let words = told.iter().flat_map(|text| parts(text)).map(str::to_lowercase).collect();
        let kept = if guard == Guard::Secret { Kept::Everywhere } else { Kept::Here };
        let whole = if guard == Guard::Open && by_form.is_empty() { "" } else { &*scalar.text };
        let is_placeholder = guard == Guard::Secret && literals(&scalar.text).is_empty();
        self.sources.keep(if is_placeholder { "" } else { whole }, kept, &node.site, &path, words);
        for part in by_form.into_iter().filter_map(|range| scalar.text.get(range)) {
            self.sources.keep(part, Kept::Everywhere, &node.site, &path, Vec::new());
        }
        if guard == Guard::Secret {
            // What stands beside `${…}`, and in braces that are none of ours, which is quoted without them.
            for literal in literals(&scalar.text).iter().flat_map(|text| text.split(['$', '{', '}'])) {
                self.sources.keep(literal, Kept::Everywhere, &node.site, &path, Vec::new());
            }
        }
    }

    /// How far a text is shown where it stands.
    fn guard_of(&self, scalar: &Scalar, kind: &Kind<'a>) -> Guard {
        // A word that everybody may know.
        if kind.guard != Guard::Secret && matches!(scalar.typed(), Typed::Bool(_) | Typed::Null) {
            return Guard::Open;
        }
        if kind.guard != Guard::Open {
            return kind.guard;
        }
        // A line without its colon goes on the text before it.
        if self.text.get(scalar.extent.clone()).is_some_and(|raw| raw.contains('\n')) {
            return Guard::Closed;
        }
        let items = self.items(&kind.schemas).unwrap_or_default();
        let all: Vec<&Schema> = kind.schemas.iter().chain(&items).copied().collect();
        if is_text(&all) {
            return Guard::Open;
        }
        // A text where a section is wanted may be the secret that the section has; a word of it lacks brackets alone.
        let names = all.iter().filter_map(|schema| schema.get("properties")?.as_object());
        let mut known: Vec<&str> = names.flat_map(|known| known.keys().map(String::as_str)).collect();
        let has_secret = all.iter().any(|schema| has_secret(schema));
        for schema in &all {
            let options = schema.get("enum").and_then(Schema::as_array).into_iter().flatten();
            known.extend(options.chain(schema.get("const")).filter_map(Schema::as_str));
        }
        let is_value = |schema: &&Schema| {
            let kind = schema.get("type").and_then(Schema::as_str);
            !matches!(kind, Some("object" | "array")) && schema.get("properties").is_none()
        };
        let is_near = known.contains(&scalar.text.as_str()) || nearest(&scalar.text, &known).is_some();
        match is_near || !has_secret && all.iter().any(is_value) {
            true => Guard::Open,
            false => Guard::Closed,
        }
    }
}

/// What a key is where it stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Known,
    /// Meant to be one that is known.
    Near,
    /// A name that the operator has chosen.
    Free,
    Unknown,
}

/// What a schema says of its texts.
fn guard(schema: &Schema) -> Option<Guard> {
    if is_secret(schema) {
        return Some(Guard::Secret);
    }
    schema.get(GUARDED).map(|kind| if kind == "expression" { Guard::Expression } else { Guard::Text })
}

/// Whether texts are taken, whatever they say.
fn is_text(schemas: &[&Schema]) -> bool {
    schemas.iter().any(|schema| {
        schema.get("type").is_some_and(|kind| kind == "string")
            && schema.get("enum").is_none()
            && schema.get("const").is_none()
    })
}

/// Whether a mapping has a secret.
fn has_secret(schema: &Schema) -> bool {
    let properties = schema.get("properties").and_then(Schema::as_object);
    properties.is_some_and(|properties| properties.values().any(|schema| guard(schema).is_some()))
}
