//! The JSON Schema of a document: what is published, what documents are checked by, and that of the types of this module.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::secrecy::GUARDED;
use super::shape::format_of;

use super::units::{Percent, Rate, Size, Speed, Time};
use super::{OrNone, Pattern, Spanned};

/// The JSON Schema of a document as text, for editors and for `portcullis schema`.
pub fn schema<T: JsonSchema>() -> String {
    let mut text = format!("{:#}", published::<T>());
    text.push('\n');
    text
}

/// The schema of a type, made strict and readable.
pub(super) fn published<T: JsonSchema>() -> Value {
    let generator = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    let mut schema = Value::from(generator.into_root_schema_for::<T>());
    tidy(&mut schema);
    schema
}

/// Every schema within a schema, and whatever else it is made of: harmless, for data never has these keywords by chance.
fn tidy(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Object(schema) => {
            schema.values_mut().for_each(tidy);
            forbid_null(schema);
            state_bounds(schema);
            let pattern =
                format_of(&Value::Object(schema.clone())).and_then(|format| format.editor_pattern());
            if let Some(pattern) = pattern {
                schema.insert("pattern".into(), pattern.into());
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// `tls:` with nothing after it would read as "no TLS". A key is written with a value, or left out.
fn forbid_null(schema: &mut Map<String, Value>) {
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    // A list that may be left out is written with something in it: an empty one would be read as "nobody", and means "everybody".
    if schema.contains_key("minItems")
        && schema.get("default").is_some_and(|list| list.as_array().is_some_and(Vec::is_empty))
    {
        schema.remove("default");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(options)) = schema.get_mut("enum") {
        options.retain(|option| !option.is_null());
    }
    if let Some(Value::Array(branches)) = schema.get_mut("anyOf") {
        branches.retain(|branch| branch.get("type").is_none_or(|name| name != "null"));
        if let [Value::Object(only)] = branches.as_slice() {
            let only = only.clone();
            schema.remove("anyOf");
            for (keyword, value) in only {
                schema.entry(keyword).or_insert(value);
            }
        }
    }
}

/// The bounds of integer types, which their formats name but no validator knows.
fn state_bounds(schema: &mut Map<String, Value>) {
    let (least, most): (i64, i64) = match schema.get("format").and_then(Value::as_str) {
        Some("uint32") => (0, u32::MAX.into()),
        Some("int32") => (i32::MIN.into(), i32::MAX.into()),
        _ => return,
    };
    schema.entry("minimum").or_insert_with(|| least.into());
    schema.entry("maximum").or_insert_with(|| most.into());
}

impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// As its value is: for the defaults of the schema.
impl<T: Serialize> Serialize for Spanned<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

/// `none`, or as its value is.
impl<T: Serialize> Serialize for OrNone<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_str("none"),
            Self::Some(value) => value.serialize(serializer),
        }
    }
}

impl<T: JsonSchema> JsonSchema for OrNone<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OrNone_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [{ "const": "none" }, value] })
    }
}

impl JsonSchema for Pattern {
    fn schema_name() -> Cow<'static, str> {
        "Pattern".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A text (equality), `{regex: …}` (the whole value), or `{present: true}`.",
            "anyOf": [
                { "type": "string", GUARDED: "text" },
                { "type": "object", "properties": { "regex": { "type": "string", "format": "x-regex", GUARDED: "text" } },
                  "required": ["regex"], "additionalProperties": false },
                { "type": "object", "properties": { "present": { "type": "boolean" } },
                  "required": ["present"], "additionalProperties": false },
            ]
        })
    }
}

macro_rules! text_format {
    ($type:ty, $name:literal, $format:literal) => {
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $format })
            }
        }
    };
}

text_format!(Time, "Time", "x-duration");
text_format!(Size, "Size", "x-size");
text_format!(Speed, "Speed", "x-speed");
text_format!(Percent, "Percent", "x-percent");
text_format!(Rate, "Rate", "x-rate");
