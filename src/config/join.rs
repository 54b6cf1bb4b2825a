//! Two files into one: named things are joined, lists appended, and what can be said once is said once.

use serde_json::Value as Schema;

use super::Errors;
use super::shape::{Manner, Shape};
use super::tree::{Entry, Node, Trail, Value};

/// Joins an included file's tree into the tree of the file that includes it.
pub(super) fn join(into: &mut Node, from: Node, shape: &Shape, errors: &mut Errors) {
    match (&mut into.value, from.value) {
        (Value::Map(into), Value::Map(from)) => {
            sections(into, from, Trail::Root, shape.root(), shape, errors);
        }
        (_, Value::Map(_) | Value::Broken) => {}
        (_, Value::Scalar(_) | Value::List(_)) => {
            let cause = "an included file is a mapping of sections";
            errors.push(&from.site, "", cause, "begin it with `routes:`, `upstreams:` or another section");
        }
    }
}

fn sections(
    into: &mut Vec<Entry>,
    from: Vec<Entry>,
    trail: Trail<'_>,
    schema: &Schema,
    shape: &Shape,
    errors: &mut Errors,
) {
    for entry in from {
        let Some(there) = into.iter_mut().find(|there| there.key == entry.key) else {
            into.push(entry);
            continue;
        };
        let trail = Trail::Key(&trail, &entry.key);
        let below = shape.property(schema, &entry.key).unwrap_or(&Schema::Null);
        match (shape.manner(below), &mut there.value.value, entry.value.value) {
            (_, Value::Broken, _) | (_, _, Value::Broken) => {}
            (Manner::List, Value::List(into), Value::List(from)) => into.extend(from),
            (Manner::Names, Value::Map(into), Value::Map(from)) => names(into, from, trail, errors),
            (Manner::Sections, Value::Map(into), Value::Map(from)) => {
                sections(into, from, trail, below, shape, errors);
            }
            _ => twice(there, &entry.site, trail, errors),
        }
    }
}

fn names(into: &mut Vec<Entry>, from: Vec<Entry>, trail: Trail<'_>, errors: &mut Errors) {
    for entry in from {
        match into.iter().find(|there| there.key == entry.key) {
            Some(there) => twice(there, &entry.site, Trail::Key(&trail, &entry.key), errors),
            None => into.push(entry),
        }
    }
}

fn twice(first: &Entry, second: &super::Site, trail: Trail<'_>, errors: &mut Errors) {
    let cause = format!("`{}` is given twice; first at {}", first.key, first.site);
    errors.push(second, trail.to_string(), cause, "keep one of the two");
}
