//! Text → document, in two passes: the whole is read and checked, then decoded.

use std::any::Any;
use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::decoder::decode;
use super::includes::Loader;
use super::shape::Shape;
use super::tree::Node;
use super::validate::validate;
use super::{Build, Errors};

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

/// `build` may bring errors along that are not ours; ours alone decide.
fn checked<T: DeserializeOwned + JsonSchema + Any>(
    build: &mut Build,
    read: impl FnOnce(&Shape, &mut Build) -> Option<Node>,
) -> Option<T> {
    let shape: Arc<Shape> = Shape::of::<T>();
    let brought: Errors = std::mem::take(&mut build.errors);
    let tree = read(&shape, build);
    if let Some(tree) = &tree {
        validate(tree, &shape, &mut build.errors);
    }
    let document = match &tree {
        Some(tree) if build.errors.is_empty() => decode(tree, &mut build.errors),
        _ => None,
    };
    let found = std::mem::replace(&mut build.errors, brought);
    build.errors.append(found);
    document
}
