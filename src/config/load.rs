//! Text → document, in two passes: the whole is read and checked, then decoded.

use std::any::Any;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::decoder::decode;
use super::includes::Loader;
use super::places::Places;
use super::shape::Shape;
use super::tree::{Node, Trail, Value};
use super::validate::validate;
use super::{Build, Diagnostic, Errors, Site};

/// Reads a configuration and everything it includes. None when `build.errors` says why; it then says all that is wrong.
///
/// `env` is asked for the variables that `${env:NAME}` names. All files read are remembered in `build.files`, also where
/// the load fails: a repaired file is then seen.
pub fn load<T: DeserializeOwned + JsonSchema + Any>(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    build: &mut Build,
) -> Option<T> {
    checked(build, |shape, build| Loader::new(shape, env, build).file(path, None))
}

/// As [`load`], for a text that stands in no file; `name` is how errors call it, and where relative paths start.
pub fn load_text<T: DeserializeOwned + JsonSchema + Any>(
    name: &str,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    build: &mut Build,
) -> Option<T> {
    build.files.note(text.as_bytes());
    checked(build, |shape, build| Loader::new(shape, env, build).text(&name.into(), text))
}

/// As [`load`], and hands the document on to `compile`.
///
/// Where the load fails, what can be understood all the same goes to `compile` too, so that its errors are told in the same
/// breath (a reference to nothing beside a misspelt key); its result is thrown away then. What it says of a place that the
/// load has complained about already is left out.
pub fn load_then<T: DeserializeOwned + JsonSchema + Any, R>(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    build: &mut Build,
    compile: impl FnOnce(&T, &mut Build) -> Option<R>,
) -> Option<R> {
    let Loaded { document, places, sound } =
        read_and_check(build, |shape, build| Loader::new(shape, env, build).file(path, None));
    let document = document?;
    let known = std::mem::take(&mut build.errors);
    let compiled = compile(&document, build);
    let mut more = std::mem::replace(&mut build.errors, known);
    if let Some(places) = &places {
        places.refine(&mut more);
    }
    if !sound {
        build.errors.append_apart(more);
        return None;
    }
    if let Some(places) = &places {
        places.place_the_absent(&mut more);
    }
    build.errors.append(more);
    compiled
}

/// As [`load`], where these sections alone matter and others may be wrong: for what must be done while a configuration does not load. The
/// document has the defaults of all other sections. What is wrong stands in `build.errors`, also where this succeeds.
///
/// None where the sections themselves are wrong, or may be: where a file cannot be read as a whole, or one that is included is missing.
pub fn load_sections<T: DeserializeOwned + JsonSchema + Any>(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    build: &mut Build,
    sections: &[&str],
) -> Option<T> {
    let shape: Arc<Shape> = Shape::of::<T>();
    let brought = std::mem::take(&mut build.errors);
    let mut tree = Loader::new(&shape, env, build).file(path, None);
    if let Some(tree) = &tree {
        validate(tree, &shape, &mut build.errors);
    }
    let known = shape.root().get("properties").and_then(serde_json::Value::as_object);
    let is_elsewhere = |path: &str| {
        let section = path.split(['.', '[']).next().unwrap_or_default();
        let is_known = known.is_some_and(|known| known.contains_key(section));
        is_known && section != "include" && !sections.contains(&section)
    };
    let sound = build.errors.errors().iter().all(|error| is_elsewhere(&error.path));
    let mut own = Errors::default();
    let document = tree.as_mut().filter(|_| sound).and_then(|tree| {
        if let Value::Map(entries) = &mut tree.value {
            for entry in entries.iter_mut().filter(|entry| !sections.contains(&entry.key.as_str())) {
                entry.value.wipe();
            }
            entries.retain(|entry| sections.contains(&entry.key.as_str()));
        }
        decode(tree, &mut own)
    });
    if let Some(tree) = &mut tree {
        tree.wipe();
    }
    let found = std::mem::replace(&mut build.errors, brought);
    build.errors.append(found);
    let decoded = own.is_empty();
    build.errors.append(own);
    document.filter(|_| decoded)
}

/// `build` may bring errors along that are not ours; ours alone decide.
fn checked<T: DeserializeOwned + JsonSchema + Any>(
    build: &mut Build,
    read: impl FnOnce(&Shape, &mut Build) -> Option<Node>,
) -> Option<T> {
    let Loaded { document, sound, .. } = read_and_check(build, read);
    document.filter(|_| sound)
}

/// What a load came to.
struct Loaded<T> {
    document: Option<T>,
    places: Option<Places>,
    /// A document that is not sound has lost what was complained about.
    sound: bool,
}

fn read_and_check<T: DeserializeOwned + JsonSchema + Any>(
    build: &mut Build,
    read: impl FnOnce(&Shape, &mut Build) -> Option<Node>,
) -> Loaded<T> {
    let shape: Arc<Shape> = Shape::of::<T>();
    let brought: Errors = std::mem::take(&mut build.errors);
    let mut tree = read(&shape, build);
    let places = tree.as_ref().map(Places::of);
    if let Some(tree) = &tree {
        validate(tree, &shape, &mut build.errors);
    }
    let sound = build.errors.is_empty();
    let document = match &mut tree {
        None => None,
        Some(tree) if sound => decode(tree, &mut build.errors),
        Some(tree) => {
            let complaint = |error: &'_ Diagnostic| (error.path.clone(), error.site.clone());
            let paths: HashSet<_> = build.errors.errors().iter().map(complaint).collect();
            prune(tree, Trail::Root, &paths);
            decode(tree, &mut Errors::default())
        }
    };
    if let Some(tree) = &mut tree {
        tree.wipe();
    }
    let sound = sound && build.errors.is_empty();
    let found = std::mem::replace(&mut build.errors, brought);
    build.errors.append(found);
    Loaded { document, places, sound }
}

/// Takes away the keys that were complained about, but for the first of two. Elements of lists stay, so that paths stay true.
fn prune(node: &mut Node, trail: Trail<'_>, complaints: &HashSet<(String, Site)>) {
    match &mut node.value {
        Value::Scalar(_) | Value::Broken => {}
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                prune(item, Trail::Index(&trail, index), complaints);
            }
        }
        Value::Map(entries) => entries.retain_mut(|entry| {
            let trail = Trail::Key(&trail, &entry.key);
            let is_wrong = |site: &Site| complaints.contains(&(trail.to_string(), site.clone()));
            let sound = !is_wrong(&entry.site)
                && !is_wrong(&entry.value.site)
                && !matches!(entry.value.value, Value::Broken);
            if sound {
                prune(&mut entry.value, trail, complaints);
            }
            sound
        }),
    }
}
