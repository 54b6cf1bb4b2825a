//! A token's form: JWS compact serialisation (RFC 7515 §3.1, §7.1), taken apart strictly and believed in nothing.

use std::borrow::Cow;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use super::json;
use super::jwks::KeySet;
use super::key::{KID_BYTES_MAX, Key};
use crate::policy::auth::Denial;

/// A token taken apart.
#[derive(Debug)]
pub(super) struct Token<'a> {
    /// What is signed: header, `.`, payload, as they came.
    message: &'a [u8],
    signature: Vec<u8>,
    /// The payload, decoded.
    payload: Vec<u8>,
    header_text: &'a str,
    header: Arc<Header>,
}

/// A header that was understood.
#[derive(Debug)]
struct Header {
    /// How it says that the token is signed.
    algorithm: Algorithm,
    members: Map<String, Value>,
}

/// The header that the last good token had. Those of an issuer are mostly alike, byte for byte: it is read once, and compared then. Only who
/// has a good token changes it.
#[derive(Debug, Default)]
pub(super) struct Familiar(ArcSwapOption<(Box<str>, Arc<Header>)>);

impl Familiar {
    fn find(&self, text: &str) -> Option<Arc<Header>> {
        let last = self.0.load();
        last.as_ref().filter(|last| *last.0 == *text).map(|last| Arc::clone(&last.1))
    }

    /// Keeps the header of a token that was good.
    pub(super) fn keep(&self, token: &Token<'_>) {
        if self.find(token.header_text).is_none() {
            self.0.store(Some(Arc::new((token.header_text.into(), Arc::clone(&token.header)))));
        }
    }
}

/// Why no key verifies a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unverified {
    /// No key has the name that it gives, or it gives none; whether others were tried. The issuer may have a newer key.
    UnknownKey {
        /// Whether a key that could be meant all the same has not signed it.
        tried: bool,
    },
    /// The key that it names has not signed it.
    Signature,
}

impl<'a> Token<'a> {
    /// Takes it apart. `algorithms` are those that may be; whatever key the header bears or points to is not looked at.
    ///
    /// # Errors
    /// Why it is none, or none that could be taken.
    pub(super) fn parse(text: &'a str, algorithms: &[Algorithm], bytes_max: usize) -> Result<Self, Denial> {
        Self::parse_with(text, algorithms, bytes_max, &Familiar::default())
    }

    /// The same; `familiar` is of good tokens for the same `algorithms`.
    ///
    /// # Errors
    /// As [`Token::parse`].
    pub(super) fn parse_with(
        text: &'a str,
        algorithms: &[Algorithm],
        bytes_max: usize,
        familiar: &Familiar,
    ) -> Result<Self, Denial> {
        if text.len() > bytes_max {
            return Err(Denial::invalid("token_size", "the token is longer than `max_bytes`"));
        }
        let form = |why: &'static str| Denial::invalid("token_form", why);
        let mut parts = text.split('.');
        let (Some(header_text), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(form("the token has not three parts"));
        };
        let message = text.as_bytes().get(..header_text.len() + 1 + payload.len()).unwrap_or_default();
        let decode = |part: &str| {
            let decoded = URL_SAFE_NO_PAD.decode(part);
            decoded.map_err(|_| form("a part of the token is no base64url without padding"))
        };
        let header = match familiar.find(header_text) {
            Some(known) => known,
            None => {
                let members = json::object(&decode(header_text)?).map_err(|why| {
                    Denial::invalid("token_form", Cow::Owned(format!("the token's header: {why}")))
                })?;
                let algorithm = understood(&members, algorithms)?;
                Arc::new(Header { algorithm, members })
            }
        };
        let (signature, payload) = (decode(signature)?, decode(payload)?);
        Ok(Self { message, signature, payload, header_text, header })
    }

    /// Finds the key that verifies it.
    ///
    /// # Errors
    /// None does.
    pub(super) fn verify<'k>(&self, keys: &'k KeySet) -> Result<&'k Key, Unverified> {
        let kid = self.kid();
        let mut tried = false;
        for key in keys.candidates(kid, self.header.algorithm) {
            if self.is_signed_by(key) {
                return Ok(key);
            }
            tried = true;
        }
        if kid.is_some_and(|kid| keys.knows(kid)) {
            return Err(Unverified::Signature);
        }
        Err(Unverified::UnknownKey { tried })
    }

    /// Whether this key signed it.
    pub(super) fn is_signed_by(&self, key: &Key) -> bool {
        key.verifies(self.header.algorithm, self.message, &self.signature)
    }

    /// The key that it names.
    pub(super) fn kid(&self) -> Option<&str> {
        self.header.members.get("kid").and_then(Value::as_str)
    }

    /// `typ`, without what RFC 7515 §4.1.9 lets stand in front.
    pub(super) fn kind(&self) -> Option<&str> {
        let kind = self.header.members.get("typ").and_then(Value::as_str)?;
        let prefix = kind.get(.."application/".len());
        match prefix.filter(|prefix| prefix.eq_ignore_ascii_case("application/")) {
            Some(prefix) => kind.get(prefix.len()..),
            None => Some(kind),
        }
    }

    /// `jwk`: the key that a proof bears (RFC 9449 §4.2). An access token's is nobody's.
    pub(super) fn own_key(&self) -> Option<&Map<String, Value>> {
        self.header.members.get("jwk").and_then(Value::as_object)
    }

    /// A member that brings a key, or says where there is one (RFC 7515 §4.1.2, §4.1.3, §4.1.5). It is followed nowhere; an access token
    /// that has one, though well signed, is made for verifiers that do (RFC 8725 §3.10).
    pub(super) fn brings_a_key(&self) -> Option<&'static str> {
        ["jku", "jwk", "x5u"].into_iter().find(|name| self.header.members.contains_key(*name))
    }

    /// The payload.
    pub(super) fn into_payload(self) -> Vec<u8> {
        self.payload
    }

    /// The payload as claims.
    ///
    /// # Errors
    /// It is no object, or has a name twice.
    pub(super) fn claims(&self) -> Result<Map<String, Value>, Denial> {
        json::object(&self.payload)
            .map_err(|why| Denial::invalid("token_form", Cow::Owned(format!("the token's claims: {why}"))))
    }
}

/// The algorithm of a header in which nothing needs to be understood that is not.
fn understood(header: &Map<String, Value>, algorithms: &[Algorithm]) -> Result<Algorithm, Denial> {
    let refuse = |why: &'static str| Err(Denial::invalid("token_header", why));
    // No extension is understood, so none may be critical (RFC 7515 §4.1.11), and the payload is base64url (RFC 7797 §3).
    if header.contains_key("crit") || header.get("b64").is_some_and(|b64| *b64 != true) {
        return refuse("the token's header has `crit`, or `b64` that is not `true`");
    }
    if header.get("kid").is_some_and(|kid| kid.as_str().is_none_or(|kid| kid.len() > KID_BYTES_MAX)) {
        return refuse("the token's `kid` is no text, or longer than any key's");
    }
    if header.get("typ").is_some_and(|kind| !kind.is_string()) {
        return refuse("the token's `typ` is no text");
    }
    let algorithm = header.get("alg").and_then(Value::as_str).and_then(Algorithm::by_name);
    match algorithm.filter(|algorithm| algorithms.contains(algorithm)) {
        Some(algorithm) => Ok(algorithm),
        None => Err(Denial::invalid("token_algorithm", "the token's `alg` is none of `algorithms`")),
    }
}

/// Verifies a JWS in compact serialisation, and gives its payload: form, header and signature, nothing of claims. What the gateway
/// does with every token first.
///
/// # Errors
/// The word of the refusal.
pub fn verify(text: &str, keys: &KeySet, algorithms: &[Algorithm]) -> Result<Vec<u8>, &'static str> {
    let token = Token::parse(text, algorithms, usize::MAX).map_err(|denial| denial.reason)?;
    match token.verify(keys) {
        Ok(_) => Ok(token.into_payload()),
        Err(unverified) => Err(unverified.denial().reason),
    }
}

impl Unverified {
    /// The refusal, once there is no newer key.
    pub(super) fn denial(self) -> Denial {
        match self {
            Self::Signature | Self::UnknownKey { tried: true } => {
                Denial::invalid("signature", "no key of the issuer's has signed the token")
            }
            Self::UnknownKey { tried: false } => {
                Denial::invalid("unknown_key", "the token names a key that the issuer does not have")
            }
        }
    }
}

/// The issuer that a token names, nothing of it verified; none where it is no token in form. Only chooses who judges: whether other names
/// stand twice is found there.
pub(in crate::policy::auth) fn issuer_of(text: &str) -> Option<String> {
    let mut parts = text.split('.');
    let (_, payload, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    json::text_of("iss", &URL_SAFE_NO_PAD.decode(payload).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::tokens::{self, SigningKey, part};
    use super::*;

    const ALL: &[Algorithm] = &Algorithm::ALL;

    fn told(text: &str, keys: &KeySet, algorithms: &[Algorithm]) -> &'static str {
        verify(text, keys, algorithms).map_or_else(|reason| reason, |_| "good")
    }

    #[test]
    fn a_token_of_every_algorithm_is_verified() {
        for algorithm in Algorithm::ALL.into_iter().filter(|algorithm| !algorithm.is_symmetric()) {
            let key = SigningKey::new(algorithm.as_str(), "k");
            let keys = KeySet::parse(tokens::jwks(&[&key]).as_bytes()).unwrap();
            let token = key.token(&json!({"a": 1}));
            assert_eq!(
                verify(&token, &keys, &[algorithm]).as_deref(),
                Ok(&b"{\"a\":1}"[..]),
                "{algorithm:?}"
            );
            let others: Vec<_> = Algorithm::ALL.into_iter().filter(|other| *other != algorithm).collect();
            assert_eq!(told(&token, &keys, &others), "token_algorithm", "not configured");
        }
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let key = SigningKey::secret(algorithm.as_str(), &[9; 40]);
            assert_eq!(told(&key.token(&json!({})), &KeySet::of_secret(&[9; 40]), &[algorithm]), "good");
            assert_eq!(told(&key.token(&json!({})), &KeySet::of_secret(&[8; 40]), &[algorithm]), "signature");
        }
    }

    #[test]
    fn what_is_no_token_in_form() {
        let key = SigningKey::new("ES256", "k");
        let keys = KeySet::parse(tokens::jwks(&[&key]).as_bytes()).unwrap();
        let good = key.token(&json!({"a": 1}));
        assert_eq!(told(&good, &keys, ALL), "good");
        let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
        let forms = [
            String::new(),
            ".".into(),
            "..".into(),
            "...".into(),
            format!("{header}.{payload}"),
            format!("{good}.x"),
            format!("{good}."),
            format!(".{good}"),
            format!("{header}.{payload}.{signature}="),
            format!("{header}.{payload}.{signature} "),
            format!(" {good}"),
            format!("{header}.{payload}.+{signature}"),
            format!("{header}..{signature}").replace("..", ".\n."),
            key.token_of(b"[]", b"{}"),
            key.token_of(b"", b"{}"),
            key.token_of(b"{\"alg\":\"ES256\",\"alg\":\"ES256\",\"kid\":\"k\"}", b"{}"),
            key.token_of(b"{\"alg\":\"ES256\",\"kid\":\"k\"}x", b"{}"),
            key.token_of("{\"alg\":\"ES256\",\"kid\":\"k\u{0}\"}".as_bytes(), b"{}"),
        ];
        for text in forms {
            assert_eq!(told(&text, &keys, ALL), "token_form", "{text:?}");
        }
        // What is left over in the last character would let one token be written in several ways.
        let last = signature.chars().next_back().unwrap();
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let next = alphabet.chars().nth(alphabet.find(last).unwrap() + 1).unwrap();
        let twin = format!("{}{next}", good.strip_suffix(last).unwrap());
        assert_eq!(told(&twin, &keys, ALL), "token_form");
        let denial = Token::parse(&good, ALL, good.len() - 1).unwrap_err();
        assert_eq!(denial.reason, "token_size");
    }

    #[test]
    fn a_familiar_header_is_that_of_the_same_bytes() {
        let (key, other) = (SigningKey::new("ES256", "k"), SigningKey::new("ES256", "l"));
        let familiar = Familiar::default();
        let parse = |text: &str| {
            let token = Token::parse_with(text, ALL, 9999, &familiar).map_err(|denial| denial.reason)?;
            familiar.keep(&token);
            Ok::<_, &str>((token.kid().map(str::to_owned), token.header.algorithm))
        };
        let (one, two) = (key.token(&json!({"a": 1})), key.token(&json!({"a": 2})));
        let named = |kid: &str| Ok((Some(kid.to_owned()), Algorithm::ES256));
        let is_known = |text: &str| familiar.find(text.split('.').next().unwrap()).is_some();
        assert!(!is_known(&one));
        assert_eq!((parse(&one), is_known(&two), parse(&two)), (named("k"), true, named("k")));
        // Another header is read by itself, and every other part is taken apart as ever.
        assert_eq!(parse(&other.token(&json!({}))), named("l"));
        assert!(!is_known(&one));
        assert_eq!(
            parse(&key.token_with(&json!({"alg": "none", "kid": "l"}), &json!({}))),
            Err("token_algorithm")
        );
        assert_eq!(parse(&one), named("k"));
        let header = one.split('.').next().unwrap();
        for text in [
            format!("{header}.e30"),
            format!("{header}.!.AA"),
            format!("{header}.e30.A"),
            format!("{header}=.e30.AA"),
        ] {
            assert_eq!(parse(&text), Err("token_form"), "{text}");
        }
    }

    #[test]
    fn a_header_that_asks_for_more_is_refused() {
        let key = SigningKey::new("ES256", "k");
        let other = SigningKey::new("ES256", "other");
        let keys = KeySet::parse(tokens::jwks(&[&key]).as_bytes()).unwrap();
        let rows = [
            (json!({}), "good"),
            (json!({"b64": true}), "good"),
            (json!({"x5t": "ignored", "zip": "DEF"}), "good"),
            (json!({"crit": ["b64"], "b64": false}), "token_header"),
            (json!({"crit": ["exp"], "exp": 1}), "token_header"),
            (json!({"crit": []}), "token_header"),
            (json!({"b64": false}), "token_header"),
            (json!({"b64": 1}), "token_header"),
            (json!({"kid": 1}), "token_header"),
            (json!({"kid": null}), "token_header"),
            (json!({"kid": "k".repeat(10_000)}), "token_header"),
            (json!({"kid": "../../etc/passwd"}), "unknown_key"),
            (json!({"kid": "k' OR 1=1"}), "unknown_key"),
            (json!({"kid": ""}), "unknown_key"),
            (json!({"kid": "K"}), "unknown_key"),
            (json!({"typ": 1}), "token_header"),
            (json!({"alg": null}), "token_algorithm"),
            (json!({"alg": ["ES256"]}), "token_algorithm"),
            (json!({"alg": "none"}), "token_algorithm"),
            (json!({"alg": "es256"}), "token_algorithm"),
            (json!({"alg": "ES384"}), "signature"),
            (json!({"alg": "HS256"}), "signature"),
            (json!({"alg": "RS256"}), "signature"),
        ];
        for (more, expected) in rows {
            let mut header = key.header();
            for (name, value) in more.as_object().unwrap() {
                header[name] = value.clone();
            }
            assert_eq!(told(&key.token_with(&header, &json!({})), &keys, ALL), expected, "{header}");
        }
        // A key in the header is nobody's.
        for header in [
            json!({"alg": "ES256", "jwk": other.public()}),
            json!({"alg": "ES256", "kid": "k", "jwk": other.public()}),
            json!({"alg": "ES256", "kid": "k", "jku": "https://evil.example/jwks.json"}),
            json!({"alg": "ES256", "kid": "k", "x5u": "https://evil.example/cert.pem"}),
        ] {
            let told = told(&other.token_with(&header, &json!({})), &keys, ALL);
            assert!(matches!(told, "signature" | "unknown_key"), "{header}: {told}");
        }
    }

    #[test]
    fn a_public_key_is_no_secret() {
        let key = SigningKey::new("RS256", "k");
        let mut jwk = key.jwk();
        jwk.as_object_mut().unwrap().remove("alg");
        let keys = KeySet::parse(json!({"keys": [jwk]}).to_string().as_bytes()).unwrap();
        let (pem, der, text) = (key.pem(), key.der(), key.jwk().to_string());
        for bytes in [pem.as_bytes(), pem.trim_end().as_bytes(), &der, text.as_bytes()] {
            for algorithm in ["HS256", "HS384", "HS512"] {
                let forger = SigningKey::secret(algorithm, bytes);
                for header in [json!({"alg": algorithm, "kid": "k"}), json!({"alg": algorithm})] {
                    let told = told(&forger.token_with(&header, &json!({})), &keys, ALL);
                    assert!(matches!(told, "signature" | "unknown_key"), "{told}");
                }
            }
        }
    }

    #[test]
    fn a_type_is_read_with_and_without_its_tree() {
        let key = SigningKey::secret("HS256", &[1; 32]);
        for (written, expected) in [
            (json!("at+jwt"), Some("at+jwt")),
            (json!("application/at+jwt"), Some("at+jwt")),
            (json!("Application/AT+JWT"), Some("AT+JWT")),
            (json!("JWT"), Some("JWT")),
            (json!("applicatio"), Some("applicatio")),
            (json!("ääääääääääää"), Some("ääääääääääää")),
        ] {
            let text = key.token_with(&json!({"alg": "HS256", "typ": written}), &json!({}));
            assert_eq!(Token::parse(&text, ALL, 9999).unwrap().kind(), expected, "{written}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_refused_and_nothing_breaks(parts in prop::collection::vec(".{0,40}", 0..5), raw in any::<bool>()) {
            let keys = KeySet::of_secret(&[1; 32]);
            let text: Vec<_> = parts.iter().map(|text| if raw { text.clone() } else { part(text) }).collect();
            prop_assert!(verify(&text.join("."), &keys, ALL).is_err());
            let _ = issuer_of(&text.join("."));
        }
    }

    #[test]
    fn the_issuer_is_read_of_what_has_the_form_alone() {
        let payload = |text: &str| format!("e30.{}.", part(text));
        assert_eq!(issuer_of(&payload("{\"iss\": \"a\"}")).as_deref(), Some("a"));
        for text in ["{\"iss\": \"a\", \"iss\": \"b\"}", "{\"iss\": 1}", "{}", "", "[\"iss\"]"] {
            assert_eq!(issuer_of(&payload(text)), None, "{text}");
        }
        for text in ["opaque", "a.b", "a.!.c", "a.b.c.d"] {
            assert_eq!(issuer_of(text), None, "{text}");
        }
    }
}
