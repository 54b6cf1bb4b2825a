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
    /// How many were left out; of those that are too many one is a complaint.
    left_out: usize,
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
        // One complaint stands for all that are too many: a set may be a megabyte of them.
        for (index, jwk) in list.iter().enumerate().take(KEYS_MAX + 1) {
            let parsed = match jwk.as_object() {
                _ if index >= KEYS_MAX => {
                    Err("there are more than 64 keys, and those behind it are left out too")
                }
                None => Err("it is no object"),
                Some(jwk) => Key::parse(jwk),
            };
            let cause = match parsed {
                Ok(key) if found.iter().any(|(_, other)| other.fingerprint() == key.fingerprint()) => {
                    "it stands there twice"
                }
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
        let more = list.len().saturating_sub(KEYS_MAX + 1);
        Ok(Self { left_out: complaints.len() + more, ..Self::of(keys.collect(), complaints) })
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
        Self {
            keys: keys.into(),
            generation: u64::from_be_bytes(generation),
            left_out: complaints.len(),
            complaints: complaints.into(),
        }
    }

    /// Equal for sets of the same keys, whenever and wherever they were read; else different.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How many were left out.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// What was left out, and why: of those that are too many the first alone.
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

    #[cfg(test)]
    pub(super) fn fingerprints(&self) -> impl Iterator<Item = &Fingerprint> {
        self.keys.iter().map(Key::fingerprint)
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

    /// Whether a key may be used with one of these.
    pub(super) fn takes_any(&self, algorithms: &[Algorithm]) -> bool {
        self.keys.iter().any(|key| algorithms.iter().any(|algorithm| key.takes(*algorithm)))
    }

    /// Whether a key of this name is there.
    pub(super) fn knows(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid() == Some(kid))
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet").field("keys", &self.keys).field("complaints", &self.complaints).finish()
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tokens::{self, SigningKey, part};
    use super::*;

    fn set(keys: &[Value]) -> KeySet {
        KeySet::parse(json!({"keys": keys}).to_string().as_bytes()).unwrap()
    }

    fn with(jwk: &Value, other: &Value) -> Value {
        let mut jwk = jwk.clone();
        for (name, value) in other.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    }

    /// Why a key of a set that has a good one beside it is left out; `good` where it is not.
    fn told(jwk: &Value) -> String {
        let good = SigningKey::new("ES256", "beside").jwk();
        let set = set(&[good, jwk.clone()]);
        match set.complaints() {
            [] => "good".to_owned(),
            [complaint] => {
                assert_eq!((complaint.index, set.len()), (1, 1), "the other key counts");
                complaint.cause.to_owned()
            }
            more => format!("{more:?}"),
        }
    }

    #[test]
    fn keys_of_every_kind_are_read() {
        for algorithm in Algorithm::ALL.into_iter().filter(|algorithm| !algorithm.is_symmetric()) {
            let key = SigningKey::new(algorithm.as_str(), "k");
            assert_eq!(told(&key.jwk()), "good", "{algorithm:?}");
            let mut plain = key.public();
            plain["key_ops"] = json!(["verify"]);
            plain["x5c"] = json!(["ignored"]);
            assert_eq!(told(&plain), "good", "{algorithm:?} without name and algorithm");
            // A key with `alg` is for that alone, one without for all of its kind.
            let of_kind = |set: &KeySet| {
                Algorithm::ALL.into_iter().filter(|a| set.candidates(None, *a).next().is_some()).count()
            };
            assert_eq!(of_kind(&set(&[key.jwk()])), 1);
            let expected = Algorithm::ALL.into_iter().filter(|a| a.family() == algorithm.family()).count();
            assert_eq!(of_kind(&set(&[plain])), expected, "{algorithm:?}");
        }
    }

    #[test]
    fn what_will_not_do_is_left_out_and_told() {
        let rsa = SigningKey::new("RS256", "rsa").jwk();
        let ec = SigningKey::new("ES256", "ec").jwk();
        let ed = SigningKey::new("EdDSA", "ed").jwk();
        let modulus = |bytes: usize| part([&[0x80], vec![0xff; bytes - 1].as_slice()].concat());
        let rows = [
            (SigningKey::secret("HS256", &[1; 32]).jwk(), "symmetric"),
            (with(&rsa, &json!({"d": "AQAB"})), "private"),
            (with(&ec, &json!({"d": "AQAB"})), "private"),
            (with(&ec, &json!({"k": "AQAB"})), "private"),
            (with(&ec, &json!({"use": "enc"})), "`use`"),
            (with(&ec, &json!({"use": 1})), "a text"),
            (with(&ec, &json!({"key_ops": ["sign"]})), "`key_ops`"),
            (with(&ec, &json!({"key_ops": "verify"})), "`key_ops`"),
            (with(&ec, &json!({"kid": 7})), "a text"),
            (with(&ec, &json!({"kid": "x".repeat(513)})), "`kid` is too long"),
            (with(&ec, &json!({"alg": "ES384"})), "its kind of key"),
            (with(&ec, &json!({"alg": "HS256"})), "its kind of key"),
            (with(&rsa, &json!({"alg": "ES256"})), "its kind of key"),
            (with(&rsa, &json!({"alg": "RSA-OAEP"})), "`alg` is not known"),
            (with(&rsa, &json!({"alg": "none"})), "`alg` is not known"),
            (with(&rsa, &json!({"n": modulus(128)})), "2048 bits"),
            (
                with(
                    &rsa,
                    &json!({"n": part([0, 0x7f].into_iter().chain([0xff; 255]).collect::<Vec<u8>>())}),
                ),
                "2048 bits",
            ),
            (with(&rsa, &json!({"n": modulus(1025)})), "8192"),
            (with(&rsa, &json!({"e": part([1])})), "exponent"),
            (with(&rsa, &json!({"e": part([4])})), "exponent"),
            (with(&rsa, &json!({"e": ""})), "exponent"),
            (with(&rsa, &json!({"e": part([0xff; 5])})), "exponent"),
            (with(&rsa, &json!({"e": "AQAB=="})), "base64url"),
            (with(&rsa, &json!({"n": null})), "a text"),
            (with(&ec, &json!({"crv": "secp256k1"})), "curve"),
            (with(&ec, &json!({"crv": "P-384"})), "as long as its curve"),
            (with(&ec, &json!({"x": part([1; 32])})), "make no key"),
            (with(&ec, &json!({"x": part([0; 32]), "y": part([0; 32])})), "make no key"),
            (with(&ec, &json!({"x": part([1; 31])})), "as long as its curve"),
            (with(&ed, &json!({"crv": "Ed448"})), "curve is not Ed25519"),
            (with(&ed, &json!({"crv": "X25519"})), "curve is not Ed25519"),
            (with(&ed, &json!({"x": part([1; 31])})), "32 bytes"),
            (json!({"kty": "EC"}), "no `crv`"),
            (json!({"kty": "rsa"}), "`kty` is not known"),
            (json!({}), "no `kty`"),
            (json!("text"), "no object"),
        ];
        for (jwk, expected) in rows {
            assert!(told(&jwk).contains(expected), "{jwk}: {}", told(&jwk));
        }
    }

    #[test]
    fn of_two_keys_of_one_name_neither_counts() {
        let (one, two) = (SigningKey::new("ES256", "a").jwk(), SigningKey::new("ES256", "a").jwk());
        let other = SigningKey::new("ES256", "b").jwk();
        let set = set(&[one.clone(), other.clone(), two]);
        assert_eq!(set.len(), 1);
        assert!(!set.knows("a") && set.knows("b"));
        let indices: Vec<_> = set.complaints().iter().map(|complaint| complaint.index).collect();
        assert_eq!(indices, [0, 2]);
        // The very same key twice is one key.
        let repeated = self::set(&[one.clone(), other, one]);
        assert_eq!((repeated.len(), repeated.complaints().len()), (2, 1));
    }

    #[test]
    fn what_is_no_set() {
        for text in
            ["", "[]", "{}", "{\"keys\": {}}", "{\"keys\": [], \"keys\": []}", "<html>", "{\"keys\": []} x"]
        {
            assert!(KeySet::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(KeySet::parse(b"{\"keys\": []}").unwrap().is_empty());
    }

    #[test]
    fn a_set_is_bounded() {
        let key = SigningKey::new("ES256", "k");
        let many: Vec<_> = (0..200).map(|n| with(&key.jwk(), &json!({"kid": format!("k{n}")}))).collect();
        let set = set(&many);
        assert_eq!((set.len(), set.left_out(), set.complaints().len()), (KEYS_MAX, 200 - KEYS_MAX, 1));
        assert!(set.complaints()[0].cause.starts_with("there are more than 64 keys"));
        // A token that names no key costs so many verifications at most.
        assert_eq!(set.candidates(None, Algorithm::ES256).count(), UNNAMED_MAX);
        assert_eq!(set.candidates(Some("k7"), Algorithm::ES256).count(), 1);
        assert_eq!(set.candidates(Some("k200"), Algorithm::ES256).count(), 0);
        assert_eq!(set.candidates(Some("k7"), Algorithm::ES384).count(), 0);
    }

    #[test]
    fn a_key_without_a_name_may_be_meant_by_any_name_that_no_key_has() {
        let (named, plain) = (SigningKey::new("ES256", "a").jwk(), SigningKey::new("ES256", "").public());
        let set = set(&[named, plain]);
        let kids = |kid| set.candidates(kid, Algorithm::ES256).map(Key::kid).collect::<Vec<_>>();
        assert_eq!(kids(Some("a")), [Some("a")]);
        assert_eq!(kids(Some("b")), [None]);
        assert_eq!(kids(None), [Some("a"), None]);
    }

    #[test]
    fn the_generation_is_that_of_the_keys() {
        let (one, two) = (SigningKey::new("ES256", "a"), SigningKey::new("ES256", "b"));
        let generation = |text: String| KeySet::parse(text.as_bytes()).unwrap().generation();
        let both = generation(tokens::jwks(&[&one, &two]));
        assert_eq!(both, generation(tokens::jwks(&[&two, &one])), "whatever their order");
        assert_ne!(both, generation(tokens::jwks(&[&one])));
        assert_ne!(KeySet::of_secret(&[1; 32]).generation(), KeySet::of_secret(&[2; 32]).generation());
        let renamed = json!({"keys": [with(&one.jwk(), &json!({"kid": "c"}))]}).to_string();
        assert_ne!(generation(tokens::jwks(&[&one])), generation(renamed));
    }

    #[test]
    fn a_complaint_shows_what_a_log_can_bear() {
        let key = with(&SigningKey::new("ES256", "x").jwk(), &json!({"kid": "a`\n\u{1b}[1mb", "use": "enc"}));
        let set = set(&[key]);
        assert_eq!(set.complaints()[0].to_string(), "the key `a[1mb` is left out: its `use` is not `sig`");
    }
}
