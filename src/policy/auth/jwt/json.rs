//! JSON in which every name stands once. RFC 7519 §4 leaves it to the reader whether of two equal names the first or the last
//! counts; two readers that choose differently are how a token says one thing here and another behind.
//!
//! A number is kept exactly, or not at all: of what 64 bits do not hold a double would keep a neighbour (RFC 8259 §6), and whoever
//! has that neighbour for an id would pass as somebody else. It becomes `null`, which no condition takes and no header says.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// An object, and nothing behind it. No name twice, at any depth; numbers that fit; at most 128 deep (serde_json's own bound).
///
/// # Errors
/// What is wrong, without what stands there.
pub fn object(text: &[u8]) -> Result<Map<String, Value>, &'static str> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Strict { room: ROOM }.deserialize(&mut reader).map_err(|error| {
        if error.is_data() { "a name stands twice, or a number is out of range" } else { "it is not JSON" }
    })?;
    reader.end().map_err(|_| "something stands behind the JSON")?;
    match value {
        Value::Object(map) => Ok(map),
        _ => Err("it is JSON, but no object"),
    }
}

/// One member of an object, where it is a text and stands there once. What else stands there is passed over and not made.
pub(super) fn text_of(name: &str, text: &[u8]) -> Option<String> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let found = Member { name }.deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    found
}

/// Looks for one member of an object.
struct Member<'n> {
    name: &'n str,
}

impl<'de> DeserializeSeed<'de> for Member<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<String>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Option<String>, A::Error> {
        let mut found = None;
        while let Some(is_meant) = entries.next_key_seed(Is(self.name))? {
            if !is_meant {
                entries.next_value::<IgnoredAny>()?;
                continue;
            }
            if found.replace(entries.next_value::<String>()?).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(found)
    }
}

/// Whether a name is this one; it is not kept.
struct Is<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<'de> Visitor<'de> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

/// Most tokens have this many claims: their table is made once, and not grown three times.
const ROOM: usize = 8;

/// From here on a double stands for several whole numbers (2^53; RFC 7493 §2.2).
pub(in crate::policy::auth) const EXACT: f64 = 9_007_199_254_740_992.0;

/// Reads a [`Value`], and refuses a name that stands twice.
struct Strict {
    /// For how many names a table is made at first; 0 within other values, of which there may be thousands.
    room: usize,
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        match Number::from_f64(value) {
            Some(number) if value.abs() < EXACT => Ok(Value::Number(number)),
            Some(_) => Ok(Value::Null),
            None => Err(E::custom("a number that is none")),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Self { room: 0 })? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::with_capacity(self.room);
        while let Some(name) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Self { room: 0 })?;
            if map.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_as_serde_json_reads_it() {
        let text =
            r#"{"a": [1, -2, 2.5, 1e3, "x\u00e4", null, true], "b": {"a": {}, "c": 18446744073709551615}}"#;
        let expected: Value = serde_json::from_str(text).unwrap();
        assert_eq!(Value::Object(object(text.as_bytes()).unwrap()), expected);
        assert!(object(b" { } \n").unwrap().is_empty());
    }

    #[test]
    fn a_number_is_kept_exactly_or_not_at_all() {
        for (text, kept) in [
            ("1234567890123456789", Some("1234567890123456789")),
            ("18446744073709551615", Some("18446744073709551615")),
            ("-9223372036854775808", Some("-9223372036854775808")),
            ("9007199254740991.0", Some("9007199254740991.0")),
            ("1e3", Some("1000.0")),
            ("18446744073709551616", None),
            ("-9223372036854775809", None),
            ("9007199254740993.0", None),
            ("1.2345678901234568e18", None),
            ("-1e300", None),
        ] {
            let read = object(format!("{{\"a\": {text}, \"b\": [{text}]}}").as_bytes()).unwrap();
            let kept = kept.unwrap_or("null");
            assert_eq!(
                (read["a"].to_string(), read["b"].to_string()),
                (kept.to_owned(), format!("[{kept}]"))
            );
        }
    }

    #[test]
    fn one_member_is_found_among_others() {
        let found = |text: &str| text_of("iss", text.as_bytes());
        for text in [r#"{"iss": "a"}"#, r#"{"x": {"iss": "b"}, "\u0069ss": "a", "y": [1, "iss"]} "#] {
            assert_eq!(found(text).as_deref(), Some("a"), "{text}");
        }
        for text in [
            "{}",
            "[]",
            "\"iss\"",
            "",
            "{",
            r#"{"iss": 1}"#,
            r#"{"iss": null}"#,
            r#"{"iss": "a"} x"#,
            r#"{"ISS": "a"}"#,
            r#"{"iss": "a", "iss": "a"}"#,
            r#"{"iss": ["a"]}"#,
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }

    #[test]
    fn what_has_two_readings_is_refused() {
        for text in [
            r#"{"a": 1, "a": 1}"#,
            r#"{"a": 1, "\u0061": 2}"#,
            r#"{"x": {"a": 1, "b": 2, "a": 3}}"#,
            r#"{"x": [{"a": 1, "a": 3}]}"#,
            r#"{"a": 1e999}"#,
            r#"{"a": NaN}"#,
            r#"{"a": 01}"#,
            r#"{"a": 1} {"b": 2}"#,
            r#"{"a": 1}x"#,
            r#"{"a": 1,}"#,
            r#"{'a': 1}"#,
            "{\"a\": \"\u{0}\"}",
            "\u{feff}{}",
            "[]",
            "\"a\"",
            "1",
            "null",
            "",
            "{",
        ] {
            assert!(object(text.as_bytes()).is_err(), "{text}");
        }
        assert!(object(b"{\"a\": \"\xff\"}").is_err(), "not UTF-8");
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(200), "]".repeat(200));
        assert!(object(deep.as_bytes()).is_err(), "too deep");
    }
}
