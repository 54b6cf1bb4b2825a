//! What of a file no message may show: found in its tree, by types, names and forms, before anything is complained about.

use std::ops::Range;
use std::sync::Arc;

use serde_json::Value as Schema;

use super::Sources;
use super::parse::Parsed;
use super::scalars::Typed;
use super::secrecy::{hidden_in, is_secret, named};
use super::shape::Shape;
use super::tree::{Entry, Node, SHOWN_CHARACTERS_MAX, Scalar, Trail, Value, shortened};
use super::wording::{forms, takes};

/// Keeps the secrets of a file, as it was written, out of every message.
pub(super) fn veil(file: &Arc<str>, text: &str, parsed: &Parsed, shape: &Shape, sources: &mut Sources) {
    parsed.hidden.iter().for_each(|range| sources.cover(file, range.clone()));
    let mut veil = Veil { file, text, shape, sources };
    let root = [shape.root()];
    if let Some(tree) = &parsed.tree {
        veil.node(tree, &root, Trail::Root);
        // What is no mapping of sections may be any file: that of a password, for one.
        if !matches!(tree.value, Value::Map(_)) {
            veil.conceal(tree, Trail::Root);
            veil.sources.cover(file, 0..text.len());
        }
    }
    for dropped in &parsed.dropped {
        veil.dropped(&dropped.within, &dropped.entry, &root, Trail::Root);
    }
}

/// The same for what `${…}` has put in.
pub(super) fn veil_filled(node: &Node, trail: Trail<'_>, sources: &mut Sources) {
    match &node.value {
        Value::Scalar(scalar) if scalar.template.is_some() => {
            for part in parts(&scalar.text) {
                sources.conceal(part, &node.site, &trail.to_string());
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

/// The key whose text is a condition.
const EXPRESSION: &str = "when";

struct Veil<'a> {
    file: &'a Arc<str>,
    text: &'a str,
    shape: &'a Shape,
    sources: &'a mut Sources,
}

/// What a key is where it stands.
enum Below<'s> {
    Known(Vec<&'s Schema>),
    /// A name that the operator has chosen.
    Free(Vec<&'s Schema>),
    Unknown,
}

impl<'a> Veil<'a> {
    fn dropped(&mut self, within: &[String], entry: &Entry, schemas: &[&'a Schema], trail: Trail<'_>) {
        match within.split_first() {
            None => self.entries(std::slice::from_ref(entry), schemas, trail),
            Some((key, rest)) => {
                let below = self.below(schemas, key);
                if self.is_secret(key, None, &below, schemas, trail) {
                    return self.secret(entry, trail);
                }
                let schemas = match below {
                    Below::Known(schemas) | Below::Free(schemas) => schemas,
                    Below::Unknown => Vec::new(),
                };
                self.dropped(rest, entry, &schemas, Trail::Key(&trail, key));
            }
        }
    }

    fn node(&mut self, node: &Node, schemas: &[&'a Schema], trail: Trail<'_>) {
        match &node.value {
            Value::Broken => {}
            Value::Scalar(_) if schemas.iter().any(|schema| is_secret(schema)) => self.conceal(node, trail),
            Value::Scalar(scalar) => self.by_form(node, scalar, trail),
            Value::List(items) => {
                // A list where none is wanted may have what is wanted in it.
                let inner = self.items(schemas).unwrap_or_else(|| schemas.to_vec());
                for (index, item) in items.iter().enumerate() {
                    self.node(item, &inner, Trail::Index(&trail, index));
                }
            }
            Value::Map(entries) => self.entries(entries, schemas, trail),
        }
    }

    fn entries(&mut self, entries: &[Entry], schemas: &[&'a Schema], trail: Trail<'_>) {
        let mut cut_off = None;
        for entry in entries {
            let below = self.below(schemas, &entry.key);
            let nothing = matches!(&entry.value.value, Value::Scalar(scalar) if scalar.absent);
            let names = self.shape.names();
            let mut is_cut = false;
            if !matches!(below, Below::Known(_)) {
                if let Some((_, value)) = named(&entry.key, |word| names.is_secret(word)).next() {
                    is_cut = true;
                    self.key(entry, value..entry.key.len(), trail);
                }
                for range in hidden_in(&entry.key) {
                    self.key(entry, range, trail);
                }
            }
            // A comma in a secret that lacks its quotes makes a key of what follows, and brackets make one of it all.
            let is_rest = nothing
                && matches!(below, Below::Unknown)
                && (cut_off == Some(entry.site.line) || has_secret(schemas) && !self.has_colon(entry));
            if self.is_secret(&entry.key, Some(&entry.value), &below, schemas, trail) || is_rest {
                cut_off = Some(entry.site.line);
                if is_rest {
                    self.key(entry, 0..entry.key.len(), trail);
                }
                self.secret(entry, trail);
                continue;
            }
            cut_off = Some(entry.site.line).filter(|_| is_cut);
            let schemas = match below {
                Below::Known(schemas) | Below::Free(schemas) => schemas,
                Below::Unknown => Vec::new(),
            };
            // An expression has its own use for `@`.
            if entry.key != EXPRESSION || schemas.is_empty() {
                self.node(&entry.value, &schemas, Trail::Key(&trail, &entry.key));
            }
        }
    }

    /// Whether all below a key is a secret.
    fn is_secret(
        &self,
        key: &str,
        value: Option<&Node>,
        below: &Below<'_>,
        beside: &[&'a Schema],
        trail: Trail<'_>,
    ) -> bool {
        let is_text = value.is_some_and(has_text);
        let takes_text = |schema: &&Schema| takes(schema, self.shape, "string");
        match below {
            // A text in the place of a section that has a secret may be that secret.
            Below::Known(schemas) => {
                let is_section = schemas.iter().any(|schema| schema.get("properties").is_some());
                let is_likely = has_secret(schemas) || is_section && self.shape.names().is_secret(key);
                schemas.iter().any(|schema| is_secret(schema))
                    || is_text
                        && is_likely
                        && !schemas.iter().any(takes_text)
                        && !value.is_some_and(|value| is_key_of(value, schemas))
            }
            // `authorization` among the fields that a rule sets.
            Below::Free(schemas) => {
                let items = self.items(schemas).unwrap_or_default();
                let texts = schemas.iter().chain(&items).any(takes_text);
                texts && self.shape.names().is_secret(key) && !value.is_some_and(is_made_of_variables)
            }
            Below::Unknown => {
                let is_likely = has_secret(beside) || self.shape.names().is_secret(key) || is_guarded(trail);
                is_likely && !value.is_some_and(is_word)
            }
        }
    }

    fn below(&self, schemas: &[&'a Schema], key: &str) -> Below<'a> {
        let of = |schemas: &[&'a Schema]| {
            let known = schemas.iter().find_map(|schema| schema.get("properties")?.get(key));
            let free =
                || schemas.iter().find_map(|s| s.get("additionalProperties").filter(|s| s.is_object()));
            match known {
                Some(schema) => Some(Below::Known(forms(schema, self.shape))),
                None => free().map(|schema| Below::Free(forms(schema, self.shape))),
            }
        };
        let resolved: Vec<_> = schemas.iter().flat_map(|schema| forms(schema, self.shape)).collect();
        of(&resolved).or_else(|| of(&self.items(&resolved)?)).unwrap_or(Below::Unknown)
    }

    fn items(&self, schemas: &[&'a Schema]) -> Option<Vec<&'a Schema>> {
        schemas.iter().find_map(|schema| schema.get("items")).map(|items| forms(items, self.shape))
    }

    /// Whether a key has a colon, unlike `{hunter2}`.
    fn has_colon(&self, entry: &Entry) -> bool {
        self.text.get(entry.extent.start..).is_some_and(|behind| behind.trim_start().starts_with(':'))
    }

    /// An entry that is a secret as a whole.
    fn secret(&mut self, entry: &Entry, trail: Trail<'_>) {
        self.conceal(&entry.value, Trail::Key(&trail, &entry.key));
        if matches!(&entry.value.value, Value::Scalar(scalar) if !scalar.absent && is_put_in(&scalar.text)) {
            return;
        }
        let raw = match &entry.value.value {
            // A tag or an anchor without a value.
            Value::Scalar(scalar) if scalar.absent => {
                self.text.get(entry.extent.start..).and_then(|rest| rest.lines().next())
            }
            _ => self.text.get(entry.extent.clone()),
        };
        let raw = raw.unwrap_or_default();
        let behind = raw.trim_start();
        let value = behind.strip_prefix(':').unwrap_or(behind).trim_start();
        let start = entry.extent.start + raw.len() - value.len();
        self.sources.cover(self.file, start..start + value.trim_end().len());
    }

    /// A key of which a part is a secret.
    fn key(&mut self, entry: &Entry, part: Range<usize>, trail: Trail<'_>) {
        let Some(secret) = entry.key.get(part.clone()) else { return };
        let path = Trail::Key(&trail, &entry.key).to_string();
        self.sources.conceal(secret, &entry.site, &path);
        self.sources.conceal_name(secret);
        let end = entry.extent.start.saturating_sub(entry.key.len() - part.end);
        if let Some(start) = end.checked_sub(secret.len())
            && self.text.get(start..end) == Some(secret)
        {
            self.sources.cover(self.file, start..end);
        }
    }

    /// Every text of a value.
    fn conceal(&mut self, node: &Node, trail: Trail<'_>) {
        match &node.value {
            Value::Broken => {}
            Value::Scalar(scalar) if is_put_in(&scalar.text) => {}
            Value::Scalar(scalar) => {
                let path = trail.to_string();
                self.sources.conceal(&scalar.text, &node.site, &path);
                self.sources.conceal(&shortened(&scalar.text), &node.site, &path);
                // What stands in braces that are none of ours is quoted without them.
                for literal in literals(&scalar.text).iter().flat_map(|text| text.split(['$', '{', '}'])) {
                    self.sources.conceal(literal, &node.site, &path);
                }
                self.sources.cover(self.file, scalar.extent.clone());
            }
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.conceal(item, Trail::Index(&trail, index));
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    // `{hunter2}` is a mapping whose one key has no value.
                    if entry.value.is_nothing() {
                        self.sources.conceal(&entry.key, &entry.site, &trail.to_string());
                    }
                    self.sources.conceal_name(&entry.key);
                    self.conceal(&entry.value, Trail::Key(&trail, &entry.key));
                }
            }
        }
    }

    fn by_form(&mut self, node: &Node, scalar: &Scalar, trail: Trail<'_>) {
        let hidden = hidden_in(&scalar.text);
        if hidden.is_empty() {
            return;
        }
        let path = trail.to_string();
        for part in parts(&scalar.text) {
            self.sources.conceal(part, &node.site, &path);
        }
        let raw = self.text.get(scalar.extent.clone()).unwrap_or_default();
        match raw.find(&scalar.text) {
            Some(at) => {
                let start = scalar.extent.start + at;
                for Range { start: from, end } in hidden {
                    self.sources.cover(self.file, start + from..start + end);
                }
            }
            // Escapes and line ends make another text of it.
            None => self.sources.cover(self.file, scalar.extent.clone()),
        }
    }
}

/// What a text has to hide, whole and as far as a message shows it.
fn parts(text: &str) -> Vec<&str> {
    let shown = text.char_indices().nth(SHOWN_CHARACTERS_MAX).map_or(text.len(), |(at, _)| at);
    let cut = |range: Range<usize>| {
        [text.get(range.clone()), text.get(range.start..range.end.min(shown).max(range.start))]
    };
    let mut parts: Vec<&str> = hidden_in(text).into_iter().flat_map(cut).flatten().collect();
    parts.dedup();
    parts
}

/// Whether a value is a text, or a list with one.
fn has_text(value: &Node) -> bool {
    match &value.value {
        Value::Scalar(scalar) => !scalar.absent,
        Value::List(items) => items.iter().any(has_text),
        Value::Map(_) | Value::Broken => false,
    }
}

/// Whether a section is about credentials, so that what is not known in it may be one.
fn is_guarded(trail: Trail<'_>) -> bool {
    match trail {
        Trail::Root => false,
        Trail::Key(_, "auth" | "tls" | "identity_tokens") => true,
        Trail::Key(parent, _) | Trail::Index(parent, _) => is_guarded(*parent),
    }
}

/// Whether a text is the name of a key that a section has: `api_key: query` lacks brackets alone.
fn is_key_of(value: &Node, schemas: &[&Schema]) -> bool {
    let Value::Scalar(scalar) = &value.value else { return false };
    schemas
        .iter()
        .any(|schema| schema.get("properties").is_some_and(|known| known.get(&scalar.text).is_some()))
}

/// Whether a value is one that everybody may know.
fn is_word(value: &Node) -> bool {
    matches!(&value.value, Value::Scalar(scalar) if matches!(scalar.typed(), Typed::Bool(_)))
}

fn has_secret(schemas: &[&Schema]) -> bool {
    let properties = schemas.iter().filter_map(|schema| schema.get("properties")?.as_object());
    properties.flat_map(|properties| properties.values()).any(is_secret)
}

/// What stands in a text beside its `${env:…}` and `${file:…}`.
fn literals(text: &str) -> Vec<&str> {
    let mut literals = Vec::new();
    let mut rest = text;
    while let Some(at) = ["${env:", "${file:"].iter().filter_map(|mark| rest.find(mark)).min() {
        let Some((before, after)) = rest.split_at_checked(at) else { break };
        let Some((_, after)) = after.split_once('}') else { break };
        literals.push(before);
        rest = after;
    }
    literals.push(rest);
    literals.retain(|literal| !literal.trim().is_empty());
    literals
}

/// Whether nothing of a text stands in the file itself.
fn is_put_in(text: &str) -> bool {
    literals(text).is_empty()
}

/// Whether a value says nothing but what variables will: `Bearer {identity.id}`.
fn is_made_of_variables(value: &Node) -> bool {
    match &value.value {
        Value::Scalar(scalar) => {
            let mut rest = scalar.text.as_str();
            let mut literal = String::new();
            while let Some((before, after)) = rest.split_once('{') {
                literal.push_str(before.strip_suffix('$').unwrap_or(before));
                rest = after.split_once('}').map_or("", |(_, after)| after);
            }
            literal.push_str(rest);
            matches!(literal.trim(), "" | "Bearer" | "Basic" | "Token")
        }
        Value::List(items) => items.iter().all(is_made_of_variables),
        Value::Map(_) | Value::Broken => false,
    }
}
