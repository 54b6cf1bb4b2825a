//! What is wrong with a value, and what to write instead.

use serde_json::Value as Schema;

use super::formats::regex_problem;
use super::scalars::{self, Typed};
use super::shape::{Shape, format_of};
use super::tree::{Node, Scalar, Trail, Value, shortened};
use super::validate::{Finding, Place, What, known};
use super::{Errors, Site};

/// Puts one finding into words.
pub(super) fn tell(
    place: &Place<'_>,
    finding: &Finding,
    all: &[Finding],
    shape: &Shape,
    errors: &mut Errors,
) {
    let schema = shape.at_keyword(&finding.keyword);
    // What was not written has no place of its own.
    let nothing = matches!(&place.node.value, Value::Scalar(scalar) if scalar.absent);
    let site = if nothing { place.key } else { &place.node.site };
    let mut push =
        |site: &Site, cause: String, cure: String| errors.push(site, place.trail.to_string(), cause, cure);
    match &finding.what {
        What::Form => {
            let (cause, cure) = form(place, schema, shape);
            push(site, cause, cure);
        }
        What::Format => {
            let (cause, cure) = format(place.node, schema);
            push(site, cause, cure);
        }
        What::Bounds => {
            let (cause, cure) = match &place.node.value {
                Value::List(items) if items.is_empty() => ("the list is empty".into(), "add an item".into()),
                Value::Map(entries) if entries.is_empty() => {
                    ("there is nothing in it".into(), "add an entry".into())
                }
                Value::List(items) => (format!("the list has {} items", items.len()), list_length(schema)),
                _ => (
                    format!("{} is out of range", place.node.shown()),
                    format!("write {}", wanted(schema, shape)),
                ),
            };
            push(site, cause, cure);
        }
        What::Missing(key) => {
            if !is_misspelt(key, finding, all, shape) {
                push(place.key, format!("`{key}` is missing"), format!("add `{key}: …`"));
            }
        }
        What::Unknown(keys) => {
            for key in keys {
                let site = place.node.entry(key).map_or(site, |entry| &entry.site);
                let trail = Trail::Key(&place.trail, key).to_string();
                let cure = unknown_cure(key, place.node, schema, shape);
                errors.push(site, trail, format!("unknown key `{}`", shortened(key)), cure);
            }
        }
    }
}

/// How many items a list may have.
fn list_length(schema: &Schema) -> String {
    let bound = |name| schema.get(name).and_then(Schema::as_u64);
    match (bound("minItems"), bound("maxItems")) {
        (Some(least), Some(most)) if least < most => format!("write {least} to {most} items"),
        (_, Some(most)) => format!("write at most {most}"),
        (least, None) => format!("write at least {}", least.unwrap_or(1)),
    }
}

/// Whether an unknown key of the same mapping is an attempt at the missing one: then its own error says it all.
fn is_misspelt(missing: &str, finding: &Finding, all: &[Finding], shape: &Shape) -> bool {
    all.iter().filter(|other| other.at == finding.at).any(|other| match &other.what {
        What::Unknown(keys) => {
            let schema = shape.at_keyword(&other.keyword);
            keys.iter().any(|key| nearest(key, &known(shape, schema)) == Some(missing))
        }
        _ => false,
    })
}

fn unknown_cure(key: &str, node: &Node, schema: &Schema, shape: &Shape) -> String {
    let known_here = known(shape, schema);
    if let Some((name, value)) = key.split_once(':')
        && node.entry(key).is_some_and(|entry| entry.value.is_nothing())
        && known_here.contains(&name)
    {
        return format!("write a space after the colon: `{name}: {value}`");
    }
    if let Some(near) = nearest(key, &known_here) {
        return format!("did you mean `{near}`?");
    }
    if known(shape, shape.root()).contains(&key) {
        return format!("`{key}` stands at the top level; check the indentation");
    }
    if let Some(section) = section_of(key, node, schema, shape) {
        return format!("`{key}` stands under `{section}`; check the indentation");
    }
    format!("known here: {}", list(&known_here, "and"))
}

/// The section of a mapping that a key belongs into: one that is written there without a value, or the only one that knows it.
fn section_of<'a>(key: &str, node: &Node, schema: &'a Schema, shape: &'a Shape) -> Option<&'a str> {
    let knows = |section: &&str| {
        let below = shape.property(schema, section).map(|below| forms(below, shape)).unwrap_or_default();
        below.iter().any(|form| known(shape, form).contains(&key))
    };
    let sections: Vec<&str> = known(shape, schema).into_iter().filter(knows).collect();
    let is_empty = |section: &&&str| node.entry(section).is_some_and(|entry| entry.value.is_nothing());
    match (sections.iter().find(is_empty), sections.as_slice()) {
        (Some(section), _) | (None, [section]) => Some(section),
        _ => None,
    }
}

/// The known key that a misspelt one is nearest to, if it is near.
pub(super) fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace(['-', ' '], "_");
    let (key, length) = (plain(key), key.chars().count());
    let distance = |known: &str| strsim::osa_distance(&key, &plain(known));
    let (near, distance) = known.iter().map(|known| (*known, distance(known))).min_by_key(|(_, d)| *d)?;
    (distance <= 2 && distance * 2 < length.max(2) || distance == 0).then_some(near)
}

/// A value of another form than those its key takes.
fn form(place: &Place<'_>, schema: &Schema, shape: &Shape) -> (String, String) {
    let node = place.node;
    let wanted = wanted(schema, shape);
    let short = brief(&wanted);
    let written = node.shown();
    let cure = format!("write {wanted}");
    match &node.value {
        Value::Scalar(scalar) => {
            let is = match scalar.typed() {
                Typed::Null if scalar.template.is_some() => return (format!("{written} is empty"), cure),
                Typed::Null => {
                    let cause = if scalar.absent {
                        "no value is given".into()
                    } else {
                        format!("{written} is no value")
                    };
                    let thing = if matches!(place.trail, Trail::Index(..)) { "item" } else { "key" };
                    return (cause, format!("{cure}, or leave the {thing} out"));
                }
                Typed::Bool(_) => "a truth value",
                Typed::Whole(_) | Typed::Negative(_) | Typed::Fraction(_) => "a number",
                Typed::Text(_) => "a text",
            };
            let cause = format!("{written} is {is}; wanted is {short}");
            (cause, scalar_cure(scalar, schema, shape).unwrap_or(cure))
        }
        Value::List(items) => {
            let cause = format!("a list is written where {short} is wanted");
            match items.as_slice() {
                [Node { value: Value::Scalar(scalar), .. }] if takes(schema, shape, "string") => {
                    let inner = shortened(scalar.template.as_deref().unwrap_or(&scalar.text));
                    (cause, format!("write it without brackets, `{inner}`, or in quotes, `\"[{inner}]\"`"))
                }
                _ if has_names(schema, shape) => {
                    (cause, "write a name and a colon in place of each `- `: `NAME: …`".into())
                }
                _ => (cause, cure),
            }
        }
        Value::Map(entries) => {
            let cause = format!("a mapping is written where {short} is wanted");
            match entries.as_slice() {
                // `{requestId}` without quotes is a mapping whose one key has no value.
                [entry] if entry.value.is_nothing() && takes(schema, shape, "string") => {
                    (cause, format!("write it in quotes: `\"{{{}}}\"`", shortened(&entry.key)))
                }
                _ if takes(schema, shape, "array") => (cause, format!("{cure}; each item begins with `- `")),
                _ => (cause, cure),
            }
        }
        Value::Broken => (String::new(), cure),
    }
}

/// The cure for a scalar of the wrong type, where only quotes, brackets or a space are missing, or a word is misspelt.
fn scalar_cure(scalar: &Scalar, schema: &Schema, shape: &Shape) -> Option<String> {
    let text = shortened(scalar.template.as_deref().unwrap_or(&scalar.text));
    let takes = |name| takes(schema, shape, name);
    let words = words(schema, shape);
    if !matches!(scalar.typed(), Typed::Text(_)) {
        if let Some(items) = items(schema, shape).filter(|items| self::takes(items, shape, "integer"))
            && matches!(scalar.typed(), Typed::Whole(_))
            && !takes("integer")
            && wanted(items, shape).contains("number")
        {
            return Some(format!("write a list: `[{text}]`"));
        }
        let quotes_help =
            words.contains(&scalar.text.as_str()) || takes("string") && !has_format(schema, shape);
        return quotes_help.then(|| format!("write it in quotes: `\"{text}\"`"));
    }
    if let Some(near) = nearest(&scalar.text, &words) {
        return Some(format!("did you mean {}?", word(near)));
    }
    let unquoted = Scalar { plain: true, ..scalar.clone() };
    let quotes_hurt = match unquoted.typed() {
        Typed::Bool(_) => takes("boolean"),
        Typed::Whole(_) | Typed::Negative(_) => takes("integer"),
        _ => false,
    };
    if quotes_hurt && !scalar.plain {
        return Some(format!("write it without quotes: `{text}`"));
    }
    if takes("boolean") {
        match scalar.text.to_ascii_lowercase().as_str() {
            "yes" | "on" => return Some("write `true`".into()),
            "no" | "off" => return Some("write `false`".into()),
            _ => {}
        }
    }
    if let Some(items) = items(schema, shape) {
        let options = self::words(items, shape);
        if self::takes(items, shape, "string") {
            let item = if scalar.plain { text } else { format!("\"{text}\"") };
            return Some(format!("write a list: `[{item}]`"));
        }
        if let Some(near) = nearest(&scalar.text, &options) {
            return Some(format!("write a list: `[{near}]`"));
        }
        // Where a word alone would do, a list of words is not the cure.
        if !options.is_empty() && words.is_empty() {
            return Some(format!("write a list of {}", list(&options, "or")));
        }
    }
    mapping_cure(scalar, schema, shape)
}

/// The cure for a text where a mapping is wanted: `drain 10s` and `drain:10s` lack something after their key.
fn mapping_cure(scalar: &Scalar, schema: &Schema, shape: &Shape) -> Option<String> {
    let form = forms(schema, shape).into_iter().find(|form| form.get("properties").is_some())?;
    let first = scalar.text.split([':', ' ']).next().unwrap_or_default();
    if known(shape, form).contains(&scalar.text.as_str()) {
        return Some(format!("write `{{{first}: …}}`"));
    }
    if known(shape, form).contains(&first) {
        return Some(format!("write `{first}: …`, with a space after the colon"));
    }
    let names = known(shape, form);
    let required = form.get("required").and_then(|required| required.get(0)).and_then(Schema::as_str);
    // Of a few keys one is an example, of many none.
    let key = required.or_else(|| names.first().copied().filter(|_| names.len() <= 4))?;
    Some(format!("write {}, such as `{{{key}: …}}`", wanted(schema, shape)))
}

fn format(node: &Node, schema: &Schema) -> (String, String) {
    let written = node.shown();
    let Some(format) = format_of(schema) else {
        return (format!("{written} has the wrong form"), "see the documentation of the key".into());
    };
    let noun = brief(format.noun);
    let problem = match &node.value {
        Value::Scalar(Scalar { text, template: None, .. }) if format.name == "x-regex" => regex_problem(text),
        _ => None,
    };
    let problem = problem.map(|problem| format!(": {problem}")).unwrap_or_default();
    (format!("{written} is not {noun}{problem}"), format!("write {}", format.noun))
}

/// What a schema takes, with its article: "a whole number from 1 to 250".
pub(super) fn wanted(schema: &Schema, shape: &Shape) -> String {
    let schema = shape.resolve(schema);
    if let Some(format) = format_of(schema) {
        return format.noun.to_owned();
    }
    let mut parts: Vec<String> = words(schema, shape).into_iter().map(word).collect();
    if let Some(branches) = branches(schema) {
        let others = branches.iter().filter(|branch| words(branch, shape).is_empty());
        parts.extend(others.map(|branch| wanted(branch, shape)));
    }
    if !parts.is_empty() {
        return join(&parts, "or");
    }
    match schema.get("type").and_then(Schema::as_str) {
        Some("integer") => format!("a whole number{}", range(schema)),
        Some("number") => "a number".into(),
        Some("boolean") => "`true` or `false`".into(),
        Some("string") => "a text".into(),
        Some("array") => "a list".into(),
        Some("object") => mapping(schema),
        _ => "another value".into(),
    }
}

fn mapping(schema: &Schema) -> String {
    let names = |keyword| match schema.get(keyword) {
        Some(Schema::Object(map)) => map.keys().map(String::as_str).collect(),
        Some(Schema::Array(items)) => items.iter().filter_map(Schema::as_str).collect(),
        _ => Vec::new(),
    };
    let (required, properties) = (names("required"), names("properties"));
    match (required.is_empty(), properties.len()) {
        (false, _) => format!("a mapping with {}", list(&required, "and")),
        (true, 1..=4) => format!("a mapping of {}", list(&properties, "and")),
        _ => "a mapping".into(),
    }
}

fn range(schema: &Schema) -> String {
    let bound = |keyword| schema.get(keyword).filter(|bound| bound.is_number());
    match (bound("minimum"), bound("maximum")) {
        (Some(least), Some(most)) => format!(" from {least} to {most}"),
        (Some(least), None) => format!(" from {least}"),
        (None, Some(most)) => format!(" up to {most}"),
        (None, None) => String::new(),
    }
}

fn branches(schema: &Schema) -> Option<&Vec<Schema>> {
    schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Schema::as_array)
}

fn is_word(schema: &Schema) -> bool {
    schema.get("const").is_some_and(Schema::is_string) || schema.get("enum").is_some()
}

/// As it is to be written: in quotes where YAML would read it as a number or a truth value.
fn word(word: &str) -> String {
    match scalars::typed(word) {
        Typed::Text(_) => format!("`{word}`"),
        _ => format!("`\"{word}\"`"),
    }
}

/// Without the examples.
fn brief(noun: &str) -> &str {
    noun.split_once(" such as").map_or(noun, |(brief, _)| brief)
}

/// Whether a schema asks for a format of ours in one of its forms.
fn has_format(schema: &Schema, shape: &Shape) -> bool {
    forms(schema, shape).into_iter().any(|form| format_of(form).is_some())
}

/// The words that a schema takes.
fn words<'a>(schema: &'a Schema, shape: &'a Shape) -> Vec<&'a str> {
    let options = |form: &'a Schema| match form.get("enum").and_then(Schema::as_array) {
        Some(options) => options.iter().filter_map(Schema::as_str).collect(),
        None => form.get("const").and_then(Schema::as_str).into_iter().collect::<Vec<_>>(),
    };
    forms(schema, shape).into_iter().flat_map(options).collect()
}

/// A schema, or each of the forms that it offers.
pub(super) fn forms<'a>(schema: &'a Schema, shape: &'a Shape) -> Vec<&'a Schema> {
    let schema = shape.resolve(schema);
    match branches(schema) {
        Some(branches) => branches.iter().flat_map(|branch| forms(branch, shape)).collect(),
        None => vec![schema],
    }
}

/// Whether any value of a JSON type is taken.
pub(super) fn takes(schema: &Schema, shape: &Shape, name: &str) -> bool {
    let is = |form: &&Schema| form.get("type").is_some_and(|it| it == name);
    forms(schema, shape).iter().any(|form| is(form) && (name != "string" || !is_word(form)))
}

/// Whether a mapping of the operator's own names is taken.
fn has_names(schema: &Schema, shape: &Shape) -> bool {
    let is = |form: &&Schema| form.get("additionalProperties").is_some_and(Schema::is_object);
    forms(schema, shape).iter().any(is)
}

/// What the items of a list are, where one is taken.
fn items<'a>(schema: &'a Schema, shape: &'a Shape) -> Option<&'a Schema> {
    forms(schema, shape).into_iter().find_map(|form| form.get("items"))
}

fn list(names: &[&str], last: &str) -> String {
    join(&names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>(), last)
}

/// `a, b or c`
fn join(parts: &[String], last: &str) -> String {
    match parts {
        [] => "nothing".into(),
        [only] => only.clone(),
        [front @ .., end] => format!("{} {last} {end}", front.join(", ")),
    }
}
