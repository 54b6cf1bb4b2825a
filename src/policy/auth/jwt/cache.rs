//! Verified tokens, remembered: a token that comes again costs a look-up and not a signature.
//!
//! Only tokens that were good are remembered, so nobody fills it who has none. It is found by the whole token: a hash with a secret of
//! the process, then a comparison of every byte. What is found is good until it expires; whether its key is still there, and whether it
//! has been revoked, is asked each time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use serde_json::{Map, Value};

use super::binding::Confirmation;
use super::claims::Accepted;
use super::jwks::KeySet;
use super::key::Fingerprint;
use crate::identity::Identity;
use crate::policy::auth::remembered::{self, Remembered};

/// What a remembered token costs beside its bytes and its claims: the table's own, and the identity.
const ENTRY_BYTES: u64 = 512;
/// A token and its claims, for a first guess at how many there are.
const USUAL_BYTES: u64 = 4096;

/// A token that was good.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) identity: Arc<Identity>,
    /// Until when, in seconds since 1970.
    pub(super) until: f64,
    pub(super) jti: Option<Box<str>>,
    pub(super) confirmation: Confirmation,
    /// The key that signed it.
    key: Fingerprint,
    /// The newest set of keys in which that key was seen.
    generation: AtomicU64,
}

impl Known {
    /// From a token's verdict, and what it was verified by.
    pub(super) fn new(accepted: Accepted, key: Fingerprint, generation: u64) -> Self {
        let Accepted { identity, until, jti, confirmation } = accepted;
        let generation = AtomicU64::new(generation);
        Self { identity: Arc::new(identity), until, jti, confirmation, key, generation }
    }

    /// Whether the key that signed it is one of these. Sets that have been looked through once cost a comparison.
    fn is_signed_by(&self, keys: &KeySet) -> bool {
        let generation = keys.generation();
        if self.generation.load(Ordering::Relaxed) == generation {
            return true;
        }
        let is_there = keys.has(&self.key);
        if is_there {
            self.generation.store(generation, Ordering::Relaxed);
        }
        is_there
    }
}

/// What a look-up comes to.
#[derive(Debug)]
pub(super) enum Recalled {
    /// Good, as far as it was remembered.
    Known(Arc<Known>),
    /// It was good, and has expired.
    Expired,
    /// Not remembered, or by a key that is gone.
    Unknown,
}

/// Tokens that were good, within so many bytes.
pub(super) struct Cache {
    table: Remembered<Box<str>, Arc<Known>, Weight>,
}

impl Cache {
    /// Of at most so many bytes, by a cautious estimate.
    pub(super) fn new(bytes: u64) -> Self {
        Self { table: remembered::within(bytes, USUAL_BYTES, Weight) }
    }

    /// Looks a token up. No allocation.
    pub(super) fn recall(&self, token: &str, keys: &KeySet, now: f64) -> Recalled {
        let Some(known) = self.table.get(token) else { return Recalled::Unknown };
        if now >= known.until {
            self.table.remove(token);
            return Recalled::Expired;
        }
        if !known.is_signed_by(keys) {
            self.table.remove(token);
            return Recalled::Unknown;
        }
        Recalled::Known(known)
    }

    /// Whether the token is there, good or not.
    pub(super) fn has(&self, token: &str) -> bool {
        self.table.contains_key(token)
    }

    /// Remembers a token.
    pub(super) fn remember(&self, token: &str, known: &Arc<Known>) {
        self.table.insert(token.into(), Arc::clone(known));
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.table.len()
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("tokens", &self.table.len()).finish_non_exhaustive()
    }
}

/// Bytes.
#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Box<str>, Arc<Known>> for Weight {
    fn weight(&self, token: &Box<str>, known: &Arc<Known>) -> u64 {
        let texts = known.identity.scopes.iter().chain(&known.identity.groups);
        let texts: usize = texts.map(|text| text.len() + size_of::<Box<str>>()).sum();
        ENTRY_BYTES + (token.len() + texts) as u64 + map_bytes(&known.identity.claims)
    }
}

/// What JSON takes in memory: an entry of a map is its name, its value, its hash and its place.
fn map_bytes(map: &Map<String, Value>) -> u64 {
    const ENTRY: usize = size_of::<String>() + size_of::<Value>() + 2 * size_of::<usize>();
    // Tables grow by doubling.
    let own = 2 * ENTRY * map.len();
    own as u64 + map.iter().map(|(name, value)| name.len() as u64 + value_bytes(value)).sum::<u64>()
}

fn value_bytes(value: &Value) -> u64 {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len() as u64,
        Value::Array(list) => {
            (2 * list.len() * size_of::<Value>()) as u64 + list.iter().map(value_bytes).sum::<u64>()
        }
        Value::Object(map) => map_bytes(map),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Method;

    fn known(until: f64, keys: &KeySet, text: &str) -> Arc<Known> {
        let mut identity = Identity::new("alice", Method::Jwt, "auth.a".into());
        identity.claims.insert("text".to_owned(), text.into());
        let accepted = Accepted { identity, until, jti: None, confirmation: Confirmation::default() };
        let key = keys.fingerprints().next().copied().unwrap();
        Arc::new(Known::new(accepted, key, keys.generation()))
    }

    #[test]
    fn a_token_is_good_until_it_expires_or_its_key_is_gone() {
        let (one, other) = (KeySet::of_secret(&[1; 32]), KeySet::of_secret(&[2; 32]));
        let cache = Cache::new(1 << 20);
        cache.remember("a.b.c", &known(100.0, &one, ""));
        assert!(matches!(cache.recall("a.b.c", &one, 99.9), Recalled::Known(_)));
        assert!(matches!(cache.recall("a.b.d", &one, 99.9), Recalled::Unknown));
        assert!(matches!(cache.recall("a.b.c", &one, 100.0), Recalled::Expired));
        assert!(matches!(cache.recall("a.b.c", &one, 99.9), Recalled::Unknown), "forgotten");
        cache.remember("a.b.c", &known(100.0, &one, ""));
        assert!(matches!(cache.recall("a.b.c", &other, 1.0), Recalled::Unknown));
        assert!(!cache.has("a.b.c"), "forgotten");
    }

    #[test]
    fn it_holds_so_many_bytes_whatever_comes() {
        let keys = KeySet::of_secret(&[1; 32]);
        for room in [0, 1000, 1 << 20] {
            let cache = Cache::new(room);
            for number in 0..3000 {
                let token = format!("{number:01000}");
                cache.remember(&token, &known(100.0, &keys, &"x".repeat(1000)));
            }
            assert!(cache.table.weight() <= room, "{} of {room}", cache.table.weight());
            assert!(cache.len() as u64 <= room / 2000, "{} tokens in {room}", cache.len());
        }
    }
}
