//! What a document may look like: its JSON Schema, compiled once a process.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use jsonschema::Validator;
use schemars::JsonSchema;
use serde_json::Value;

use super::formats::{self, FORMATS};
use super::schema::published;
use super::secrecy::Names;

/// A schema, and the validator made of it.
pub(super) struct Shape {
    schema: Value,
    validator: Option<Validator>,
    names: Names,
}

/// How a section of several files becomes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Appended.
    List,
    /// Joined; a name is given once.
    Names,
    /// Made of such parts: joined part by part.
    Sections,
    /// Said in one file only.
    Once,
}

impl Shape {
    /// The shape of a type. Compiling it takes milliseconds, so each is kept for the next reload.
    pub(super) fn of<T: JsonSchema + Any>() -> Arc<Self> {
        static SHAPES: OnceLock<Mutex<HashMap<TypeId, Arc<Shape>>>> = OnceLock::new();
        let shapes = SHAPES.get_or_init(Mutex::default);
        let mut shapes = shapes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(shapes.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(Self::new(published::<T>()))))
    }

    fn new(schema: Value) -> Self {
        let mut options = jsonschema::options().offline().should_validate_formats(true);
        for format in FORMATS {
            options = options.with_format(format.name, format.check);
        }
        let validator = options.build(&schema).ok();
        let names = Names::of(&schema);
        Self { schema, validator, names }
    }

    /// Every way in which a document breaks the schema. None where the schema itself cannot be compiled, which a test
    /// rules out.
    pub(super) fn validator(&self) -> Option<&Validator> {
        self.validator.as_ref()
    }

    /// The names of keys, and which of them hold secrets.
    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    pub(super) fn root(&self) -> &Value {
        &self.schema
    }

    /// Follows `$ref`.
    pub(super) fn resolve<'a>(&'a self, mut schema: &'a Value) -> &'a Value {
        // A reference that leads to itself ends here instead of never.
        for _ in 0..8 {
            let reference =
                schema.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix('#'));
            match reference.and_then(|pointer| self.schema.pointer(pointer)) {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }

    /// The schema of a key of a mapping.
    pub(super) fn property<'a>(&'a self, schema: &'a Value, key: &str) -> Option<&'a Value> {
        let schema = self.resolve(schema);
        let named = schema.get("properties").and_then(|properties| properties.get(key));
        named.or_else(|| schema.get("additionalProperties").filter(|schema| schema.is_object()))
    }

    /// The schema that a path such as `/$defs/Server/properties/drain/format` leads to, without its last step.
    pub(super) fn at_keyword(&self, path: &str) -> &Value {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        self.schema.pointer(parent).unwrap_or(&Value::Null)
    }

    /// Whether documents of this shape include others.
    pub(super) fn has_include(&self) -> bool {
        self.schema.pointer("/properties/include").is_some()
    }

    /// How a section of several files becomes one, told by its form.
    pub(super) fn manner(&self, schema: &Value) -> Manner {
        let schema = self.resolve(schema);
        if schema.get("type").and_then(Value::as_str) == Some("array") {
            return Manner::List;
        }
        let named = |schema: &Value| schema.get("additionalProperties").is_some_and(Value::is_object);
        if named(schema) {
            return Manner::Names;
        }
        match schema.get("properties").and_then(Value::as_object) {
            Some(parts) if parts.values().all(|part| named(self.resolve(part))) => Manner::Sections,
            _ => Manner::Once,
        }
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shape").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// The format that a schema asks for, if it is one of ours.
pub(super) fn format_of(schema: &Value) -> Option<&'static formats::Format> {
    let name = schema.get("format").and_then(Value::as_str)?;
    FORMATS.iter().find(|format| format.name == name)
}
