//! A token's form: JWS compact serialisation (RFC 7515 §3.1, §7.1), taken apart strictly and believed in nothing.

use std::borrow::Cow;

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
    /// How it says that it is signed.
    pub(super) algorithm: Algorithm,
    /// What is signed: header, `.`, payload, as they came.
    message: &'a [u8],
    signature: Vec<u8>,
    /// The payload, decoded.
    payload: Vec<u8>,
    header: Map<String, Value>,
}

/// Why no key verifies a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unverified {
    /// No key has the name that it gives, nor could it be meant otherwise.
    UnknownKey,
    /// It is not signed by a key that it may be signed by.
    Signature,
}

impl<'a> Token<'a> {
    /// Takes it apart. `algorithms` are those that may be; whatever key the header bears or points to is not looked at.
    ///
    /// # Errors
    /// Why it is none, or none that could be taken.
    pub(super) fn parse(text: &'a str, algorithms: &[Algorithm], bytes_max: usize) -> Result<Self, Denial> {
        if text.len() > bytes_max {
            return Err(Denial::invalid("token_size", "the token is longer than `max_bytes`"));
        }
        let form = |why: &'static str| Denial::invalid("token_form", why);
        let mut parts = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(form("the token has not three parts"));
        };
        let message = text.as_bytes().get(..header.len() + 1 + payload.len()).unwrap_or_default();
        let decode = |part: &str| {
            let decoded = URL_SAFE_NO_PAD.decode(part);
            decoded.map_err(|_| form("a part of the token is no base64url without padding"))
        };
        let header = json::object(&decode(header)?)
            .map_err(|why| Denial::invalid("token_form", Cow::Owned(format!("the token's header: {why}"))))?;
        let algorithm = understood(&header, algorithms)?;
        Ok(Self { algorithm, message, signature: decode(signature)?, payload: decode(payload)?, header })
    }

    /// Finds the key that verifies it.
    ///
    /// # Errors
    /// None does.
    pub(super) fn verify<'k>(&self, keys: &'k KeySet) -> Result<&'k Key, Unverified> {
        let kid = self.kid();
        let signed = |key: &&Key| key.verifies(self.algorithm, self.message, &self.signature);
        match keys.candidates(kid, self.algorithm).find(signed) {
            Some(key) => Ok(key),
            None if keys.knows(kid) => Err(Unverified::Signature),
            None => Err(Unverified::UnknownKey),
        }
    }

    /// Whether this key signed it.
    pub(super) fn is_signed_by(&self, key: &Key) -> bool {
        key.verifies(self.algorithm, self.message, &self.signature)
    }

    /// The key that it names.
    pub(super) fn kid(&self) -> Option<&str> {
        self.header.get("kid").and_then(Value::as_str)
    }

    /// `typ`, without what RFC 7515 §4.1.9 lets stand in front.
    pub(super) fn kind(&self) -> Option<&str> {
        let kind = self.header.get("typ").and_then(Value::as_str)?;
        let prefix = kind.get(.."application/".len());
        match prefix.filter(|prefix| prefix.eq_ignore_ascii_case("application/")) {
            Some(prefix) => kind.get(prefix.len()..),
            None => Some(kind),
        }
    }

    /// `jwk`: the key that a proof bears (RFC 9449 §4.2). An access token's is nobody's.
    pub(super) fn own_key(&self) -> Option<&Map<String, Value>> {
        self.header.get("jwk").and_then(Value::as_object)
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
        Err(Unverified::UnknownKey) => Err("unknown_key"),
        Err(Unverified::Signature) => Err("signature"),
    }
}

/// The issuer that a token names, nothing of it verified; none where it is no token in form.
pub(in crate::policy::auth) fn issuer_of(text: &str) -> Option<String> {
    let mut parts = text.split('.');
    let (_, payload, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    let claims = json::object(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims.get("iss").and_then(Value::as_str).map(str::to_owned)
}
