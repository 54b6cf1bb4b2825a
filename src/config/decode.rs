//! How the types of this module are read: the second pass, after the tree has been checked whole.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use super::{OrNone, Pattern, Site, Spanned};

/// The name by which [`Spanned`] asks the tree's deserializer for the place of a value: a map of `file`, `line`,
/// `column`, `path` and `value`, in this order.
pub(super) const SPANNED: &str = "$portcullis::Spanned";

/// The name by which [`OrNone`] asks the tree's deserializer for an option in which `none` is a word.
pub(super) const OR_NONE: &str = "$portcullis::OrNone";

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Spanned<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpannedVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for SpannedVisitor<T> {
            type Value = Spanned<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<Self::Value, D::Error> {
                T::deserialize(deserializer).map(Spanned::unwritten)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                fn next<'de, A: MapAccess<'de>, V: Deserialize<'de>>(map: &mut A) -> Result<V, A::Error> {
                    match map.next_entry::<String, V>()? {
                        Some((_, value)) => Ok(value),
                        None => Err(A::Error::custom("a place is incomplete")),
                    }
                }
                let file: String = next(&mut map)?;
                let line = next(&mut map)?;
                let column = next(&mut map)?;
                let path: String = next(&mut map)?;
                let value = next(&mut map)?;
                Ok(Spanned {
                    value,
                    site: Site { file: Arc::from(file), line, column },
                    path: Arc::from(path),
                })
            }
        }

        deserializer.deserialize_newtype_struct(SPANNED, SpannedVisitor(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OrNone<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OrNoneVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OrNoneVisitor<T> {
            type Value = OrNone<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`none` or a value")
            }

            fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
                Ok(OrNone::None)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                T::deserialize(deserializer).map(OrNone::Some)
            }

            /// A deserializer that is not the tree's does not know the word `none`.
            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<Self::Value, D::Error> {
                T::deserialize(deserializer).map(OrNone::Some)
            }
        }

        deserializer.deserialize_newtype_struct(OR_NONE, OrNoneVisitor(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PatternVisitor;

        impl<'de> Visitor<'de> for PatternVisitor {
            type Value = Pattern;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, `{regex: …}` or `{present: true}`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Pattern, E> {
                Ok(Pattern::Exact(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pattern, A::Error> {
                let Some(key) = map.next_key::<String>()? else {
                    return Err(A::Error::custom("write `{regex: …}` or `{present: true}`"));
                };
                match key.as_str() {
                    "regex" => map.next_value().map(Pattern::Regex),
                    "present" => map.next_value().map(Pattern::Present),
                    other => Err(A::Error::custom(format!("unknown condition `{other}`"))),
                }
            }
        }

        deserializer.deserialize_any(PatternVisitor)
    }
}
