//! What an identity is made of, cheap to make and to hand on.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

/// A piece of a text, which other pieces may share: of a key's record, one allocation is its id, its name and its owner.
#[derive(Clone)]
pub struct Text {
    whole: Arc<str>,
    start: u32,
    end: u32,
}

/// What a credential says of somebody. Of an API key, whose claims are its name and its owner, it is made when somebody reads it: mostly
/// nobody does.
#[derive(Clone, Default)]
pub struct Claims {
    made: OnceLock<Map<String, Value>>,
    key: Option<KeyTexts>,
}

/// Name and owner.
#[derive(Clone)]
struct KeyTexts {
    name: Text,
    owner: Text,
}

impl Text {
    /// The piece of `whole` in this range; empty where it has no such piece.
    pub fn piece(whole: &Arc<str>, range: Range<usize>) -> Self {
        let is_piece = whole.get(range.clone()).is_some();
        match (u32::try_from(range.start), u32::try_from(range.end)) {
            (Ok(start), Ok(end)) if is_piece => Self { whole: Arc::clone(whole), start, end },
            _ => Self { whole: Arc::clone(whole), start: 0, end: 0 },
        }
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.whole.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

impl<T: Into<Arc<str>>> From<T> for Text {
    /// What is longer than 4 GiB is empty; nothing that a client sends is.
    fn from(text: T) -> Self {
        let whole = text.into();
        Self { start: 0, end: u32::try_from(whole.len()).unwrap_or(0), whole }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Text {}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl Claims {
    /// Those of an API key: `name` and `owner`.
    pub fn of_key(name: Text, owner: Text) -> Self {
        Self { made: OnceLock::new(), key: Some(KeyTexts { name, owner }) }
    }

    /// Says one thing more of somebody, or another; what was said of it before.
    pub fn insert(&mut self, name: String, value: Value) -> Option<Value> {
        let mut claims = Map::clone(self);
        let before = claims.insert(name, value);
        *self = claims.into();
        before
    }
}

impl KeyTexts {
    fn claims(&self) -> Map<String, Value> {
        let claim = |name: &str, value: &Text| (name.to_owned(), Value::from(&**value));
        Map::from_iter([claim("name", &self.name), claim("owner", &self.owner)])
    }
}

impl From<Map<String, Value>> for Claims {
    fn from(claims: Map<String, Value>) -> Self {
        Self { made: claims.into(), key: None }
    }
}

impl Deref for Claims {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Self::Target {
        self.made.get_or_init(|| self.key.as_ref().map(KeyTexts::claims).unwrap_or_default())
    }
}

impl PartialEq for Claims {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Claims {}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_of_its_text_and_never_beyond() {
        let whole: Arc<str> = "k1häus".into();
        for (range, expected) in
            [(0..2, "k1"), (2..7, "häus"), (0..7, "k1häus"), (7..7, ""), (3..4, ""), (5..9, "")]
        {
            assert_eq!(&*Text::piece(&whole, range.clone()), expected, "{range:?}");
        }
        assert_eq!(Text::from("a"), Text::piece(&"ba".into(), 1..2));
    }

    #[test]
    fn the_claims_of_a_key_are_made_when_somebody_reads_them() {
        let claims = Claims::of_key("report".into(), "acme".into());
        assert!(claims.made.get().is_none());
        assert_eq!(claims.get("owner"), Some(&Value::from("acme")));
        assert_eq!(claims, Claims::from(claims.deref().clone()));
        let mut changed = Claims::of_key("report".into(), "acme".into());
        changed.insert("name".to_owned(), "other".into());
        assert_eq!((changed["name"].as_str(), changed["owner"].as_str()), (Some("other"), Some("acme")));
        assert!(Claims::default().is_empty());
    }
}
