//! A checked tree → the types: the second pass.

use std::fmt;

use serde::de::value::{StrDeserializer, StringDeserializer, U32Deserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::decode::{OR_NONE, SPANNED};
use super::scalars::Typed;
use super::tree::{Entry, Node, Trail, Value};
use super::{Errors, Site};

/// Decodes a tree. What fails here passed the schema, so it is a form that only the type itself knows.
pub(super) fn decode<T: DeserializeOwned>(tree: &Node, errors: &mut Errors) -> Option<T> {
    let cursor = Cursor { node: tree, key: &tree.site, trail: &Trail::Root };
    match T::deserialize(cursor) {
        Ok(value) => Some(value),
        Err(failure) => {
            let (site, path) = failure.place.unwrap_or_else(|| (tree.site.clone(), String::new()));
            errors.push(&site, path, failure.message, "`portcullis schema` prints what every key takes");
            None
        }
    }
}

/// A node to be decoded, and the way to it.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    node: &'a Node,
    /// The place of its key; of itself in a list.
    key: &'a Site,
    trail: &'a Trail<'a>,
}

/// What went wrong; the innermost place is kept.
#[derive(Debug)]
struct Failure {
    message: String,
    place: Option<(Site, String)>,
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl serde::de::Error for Failure {
    fn custom<M: fmt::Display>(message: M) -> Self {
        Self { message: message.to_string(), place: None }
    }
}

impl Cursor<'_> {
    fn place<T>(self, result: Result<T, Failure>) -> Result<T, Failure> {
        result.map_err(|failure| match failure.place {
            Some(_) => failure,
            None => self.failure(failure.message),
        })
    }

    /// A type may refuse what it was given without our hearing of it: so the place is added here, too.
    fn feed<'de, S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Failure> {
        self.place(seed.deserialize(self))
    }

    fn failure(self, message: String) -> Failure {
        let substituted = matches!(&self.node.value, Value::Scalar(scalar) if scalar.template.is_some());
        // A type's own message quotes the value, which may be a secret.
        let message = if substituted { format!("{} does not fit", self.node.shown()) } else { message };
        Failure { message, place: Some((self.node.site.clone(), self.trail.to_string())) }
    }

    fn is_none_word(self) -> bool {
        matches!(&self.node.value, Value::Scalar(scalar) if scalar.text == "none")
    }
}

impl<'de> Deserializer<'de> for Cursor<'_> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        let result = match &self.node.value {
            Value::Scalar(scalar) => match scalar.typed() {
                Typed::Null => visitor.visit_unit(),
                Typed::Bool(value) => visitor.visit_bool(value),
                Typed::Whole(number) => visitor.visit_u64(number),
                Typed::Negative(number) => visitor.visit_i64(number),
                Typed::Fraction(number) => visitor.visit_f64(number),
                Typed::Text(text) => visitor.visit_str(text),
            },
            Value::List(items) => visitor.visit_seq(Items { cursor: self, items, next: 0 }),
            Value::Map(entries) => visitor.visit_map(Entries { cursor: self, entries, value: None }),
            Value::Broken => visitor.visit_unit(),
        };
        self.place(result)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        if self.node.is_nothing() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let result = match name {
            SPANNED => visitor.visit_map(Place { cursor: self, step: 0 }),
            OR_NONE if self.is_none_word() => visitor.visit_none(),
            OR_NONE => visitor.visit_some(self),
            _ => visitor.visit_newtype_struct(self),
        };
        self.place(result)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let result = match &self.node.value {
            Value::Scalar(scalar) => {
                let variant: StrDeserializer<'_, Failure> = scalar.text.as_str().into_deserializer();
                visitor.visit_enum(variant)
            }
            Value::Map(entries) => match entries.as_slice() {
                [entry] => visitor.visit_enum(Variant { cursor: self, entry }),
                _ => Err(self.failure("a mapping with one key is wanted".into())),
            },
            Value::List(_) | Value::Broken => Err(self.failure("a word is wanted".into())),
        };
        self.place(result)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// The items of a list.
struct Items<'a> {
    cursor: Cursor<'a>,
    items: &'a [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Failure;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        let Some(node) = self.items.get(self.next) else {
            return Ok(None);
        };
        let trail = Trail::Index(self.cursor.trail, self.next);
        self.next += 1;
        Cursor { node, key: &node.site, trail: &trail }.feed(seed).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.next)
    }
}

/// The entries of a mapping.
struct Entries<'a> {
    cursor: Cursor<'a>,
    entries: &'a [Entry],
    value: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Failure;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        let Some((entry, rest)) = self.entries.split_first() else {
            return Ok(None);
        };
        self.entries = rest;
        self.value = Some(entry);
        let key: StrDeserializer<'_, Failure> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Failure> {
        let entry = self.value.take().ok_or_else(|| self.cursor.failure("a value without its key".into()))?;
        let trail = Trail::Key(self.cursor.trail, &entry.key);
        Cursor { node: &entry.value, key: &entry.site, trail: &trail }.feed(seed)
    }
}

/// A value and its place, as [`super::Spanned`] asks for it.
struct Place<'a> {
    cursor: Cursor<'a>,
    step: u8,
}

impl<'de> MapAccess<'de> for Place<'_> {
    type Error = Failure;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        const FIELDS: [&str; 5] = ["file", "line", "column", "path", "value"];
        let Some(field) = FIELDS.get(usize::from(self.step)) else {
            return Ok(None);
        };
        let field: StrDeserializer<'_, Failure> = (*field).into_deserializer();
        seed.deserialize(field).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Failure> {
        let Site { file, line, column } = self.cursor.key;
        let number = |n: u32| -> U32Deserializer<Failure> { n.into_deserializer() };
        self.step += 1;
        match self.step {
            1 => {
                let file: StrDeserializer<'_, Failure> = (**file).into_deserializer();
                seed.deserialize(file)
            }
            2 => seed.deserialize(number(*line)),
            3 => seed.deserialize(number(*column)),
            4 => {
                let path: StringDeserializer<Failure> = self.cursor.trail.to_string().into_deserializer();
                seed.deserialize(path)
            }
            _ => self.cursor.feed(seed),
        }
    }
}

/// `{variant: value}`
struct Variant<'a> {
    cursor: Cursor<'a>,
    entry: &'a Entry,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Failure;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Failure> {
        let name: StrDeserializer<'_, Failure> = self.entry.key.as_str().into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Failure;

    fn unit_variant(self) -> Result<(), Failure> {
        Err(self.cursor.failure(format!("`{}` takes no value", self.entry.key)))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Failure> {
        let trail = Trail::Key(self.cursor.trail, &self.entry.key);
        Cursor { node: &self.entry.value, key: &self.entry.site, trail: &trail }.feed(seed)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value, Failure> {
        self.newtype_variant_seed(Through(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.newtype_variant_seed(Through(visitor))
    }
}

/// A visitor as a seed.
struct Through<V>(V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Through<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_any(self.0)
    }
}
