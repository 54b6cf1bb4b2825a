//! The JSON Schemas of the types of this module.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::units::{Percent, Size, Time};
use super::{OrNone, Pattern, Spanned};

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
                { "type": "string" },
                { "type": "object", "properties": { "regex": { "type": "string", "format": "x-regex" } },
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
text_format!(Percent, "Percent", "x-percent");
