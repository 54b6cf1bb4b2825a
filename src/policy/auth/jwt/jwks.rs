//! A set of keys (RFC 7517 §5): read strictly, key by key. A key that will not do is left out and told; the others count.

use std::fmt;

use serde_json::Value;

use super::algorithm::Algorithm;
use super::json;
use super::key::{Fingerprint, Key, sha256};

/// The most keys of a set that are read.
const KEYS_MAX: usize = 64;
/// The most keys that are tried for a token that names none, or whose issuer names none: each costs a verification.
const UNNAMED_MAX: usize = 4;

/// Keys that do not change any more. The next state of an issuer is another set.
pub struct KeySet {
    keys: Box<[Key]>,
    generation: u64,
    complaints: Box<[Complaint]>,
}

/// A key of a set that was left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Which key of the document, from 0.
    pub index: usize,
    /// Its `kid`, shortened to what a log can bear.
    pub kid: Option<Box<str>>,
    /// What is wrong: `it is symmetric: whoever reads the set could sign`.
    pub cause: &'static str,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kid {
            Some(kid) => write!(f, "the key `{kid}` is left out: {}", self.cause),
            None => write!(f, "key {} (without `kid`) is left out: {}", self.index, self.cause),
        }
    }
}

impl KeySet {
    /// From a JWKS document. A set may come out empty; [`KeySet::complaints`] says what was left out.
    ///
    /// # Errors
    /// It is no JWKS.
    pub fn parse(document: &[u8]) -> Result<Self, &'static str> {
        let mut document = json::object(document)?;
        let Some(Value::Array(list)) = document.remove("keys") else {
            return Err("it has no list `keys`");
        };
        let mut complaints = Vec::new();
        let mut found: Vec<(usize, Key)> = Vec::new();
        for (index, jwk) in list.iter().enumerate() {
            let parsed = match jwk.as_object() {
                _ if index >= KEYS_MAX => Err("there are more than 64 keys"),
                None => Err("it is no object"),
                Some(jwk) => Key::parse(jwk),
            };
            let cause = match parsed {
                Ok(key) if found.iter().any(|(_, other)| is_repeated(other, &key)) => "it stands there twice",
                Ok(key) => {
                    found.push((index, key));
                    continue;
                }
                Err(cause) => cause,
            };
            complaints.push(Complaint { index, kid: jwk.get("kid").and_then(shown), cause });
        }
        // Of two keys of one name neither is meant more than the other.
        let shared = |key: &Key| {
            key.kid().is_some() && found.iter().filter(|(_, other)| other.kid() == key.kid()).count() > 1
        };
        let ambiguous: Vec<usize> =
            found.iter().filter(|(_, key)| shared(key)).map(|(index, _)| *index).collect();
        for index in &ambiguous {
            let kid = list.get(*index).and_then(|jwk| jwk.get("kid")).and_then(shown);
            complaints.push(Complaint { index: *index, kid, cause: "another key has the same `kid`" });
        }
        complaints.sort_by_key(|complaint| complaint.index);
        let keys = found.into_iter().filter(|(index, _)| !ambiguous.contains(index)).map(|(_, key)| key);
        Ok(Self::of(keys.collect(), complaints))
    }

    /// A secret, which verifies HMAC and nothing else.
    pub fn of_secret(secret: &[u8]) -> Self {
        Self::of(vec![Key::of_secret(secret)], Vec::new())
    }

    fn of(keys: Vec<Key>, complaints: Vec<Complaint>) -> Self {
        let mut prints: Vec<_> = keys.iter().map(|key| *key.fingerprint()).collect();
        prints.sort_unstable();
        let mut generation = [0; 8];
        for (to, from) in generation.iter_mut().zip(sha256(&prints.concat())) {
            *to = from;
        }
        Self { keys: keys.into(), generation: u64::from_be_bytes(generation), complaints: complaints.into() }
    }

    /// Equal for sets of the same keys, whenever and wherever they were read; else different.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What was left out.
    pub fn complaints(&self) -> &[Complaint] {
        &self.complaints
    }

    /// Whether there is no key that could verify anything.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many keys verify.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether a key of some verdict is still there.
    pub(super) fn has(&self, fingerprint: &Fingerprint) -> bool {
        self.keys.iter().any(|key| key.fingerprint() == fingerprint)
    }

    /// The keys that may have signed a token of this header, as few as possible: the one that it names; where no key has that
    /// name, or the token names none, a bounded number of others.
    pub(super) fn candidates(&self, kid: Option<&str>, algorithm: Algorithm) -> impl Iterator<Item = &Key> {
        let named = kid.and_then(|kid| self.keys.iter().find(|key| key.kid() == Some(kid)));
        let unnamed = self.keys.iter().filter(move |key| match kid {
            // A key without a name may be meant by any name, a key with another name is not.
            Some(_) => named.is_none() && key.kid().is_none(),
            None => true,
        });
        let unnamed = unnamed.filter(move |key| key.takes(algorithm)).take(UNNAMED_MAX);
        named.into_iter().filter(move |key| key.takes(algorithm)).chain(unnamed)
    }

    /// Whether a key of this name is there.
    pub(super) fn knows(&self, kid: Option<&str>) -> bool {
        kid.is_none_or(|kid| self.keys.iter().any(|key| key.kid() == Some(kid)))
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet").field("keys", &self.keys).field("complaints", &self.complaints).finish()
    }
}

/// The same key for the same algorithms under the same name.
fn is_repeated(one: &Key, other: &Key) -> bool {
    one.fingerprint() == other.fingerprint() && one.kid() == other.kid()
}

/// A `kid` as a log can bear it.
fn shown(kid: &Value) -> Option<Box<str>> {
    Some(
        kid.as_str()?
            .chars()
            .filter(|c| (' '..='~').contains(c) && *c != '`')
            .take(64)
            .collect::<String>()
            .into(),
    )
}
