//! One key: what a JWK must be (RFC 7517 §4, RFC 7518 §6) to verify anything here.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ED25519, ParsedPublicKey, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::algorithm::{Algorithm, Family};

/// The bits of an RSA key: fewer are weak (RFC 7518 §3.3), more cost a request too much.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// The longest `kid`.
pub(super) const KID_BYTES_MAX: usize = 512;
/// What only a private key has (RFC 7518 §6.2.2, §6.3.2).
const PRIVATE: &[&str] = &["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"];

/// SHA-256 of a key: what tells whether a key is still the same.
pub(super) type Fingerprint = [u8; 32];

/// A key that verifies.
pub(super) struct Key {
    kid: Option<Box<str>>,
    fingerprint: Fingerprint,
    /// Ready for each algorithm that the key may be used with: nothing of a key is parsed on a request's way.
    ways: Box<[(Algorithm, Verifier)]>,
}

enum Verifier {
    Public(ParsedPublicKey),
    Secret(Box<hmac::Key>),
}

impl Key {
    /// From a JWK.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn parse(jwk: &Map<String, Value>) -> Result<Self, &'static str> {
        let text = |name: &str| match jwk.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err("a member that must be a text is none"),
        };
        let kty = text("kty")?.ok_or("it has no `kty`")?;
        if kty == "oct" {
            return Err("it is symmetric: whoever reads the set could sign");
        }
        if PRIVATE.iter().any(|name| jwk.contains_key(*name)) {
            return Err("it has private members: it must be taken for stolen");
        }
        let kid = text("kid")?;
        if kid.is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
            return Err("its `kid` is too long");
        }
        if text("use")?.is_some_and(|word| word != "sig") {
            return Err("its `use` is not `sig`");
        }
        may_verify(jwk.get("key_ops"))?;
        let public = Public::parse(kty, text("crv")?, &|name| bytes(text(name)?))?;
        let named = match text("alg")? {
            None => None,
            Some(name) => Some(Algorithm::by_name(name).ok_or("its `alg` is not known")?),
        };
        if named.is_some_and(|algorithm| algorithm.family() != public.family()) {
            return Err("its `alg` is not of its kind of key");
        }
        let algorithms =
            Algorithm::ALL.into_iter().filter(|algorithm| named.is_none_or(|named| named == *algorithm));
        let ways = public.ways(algorithms.filter(|algorithm| algorithm.family() == public.family()))?;
        let mut print = public.thumbprint_text();
        for part in [named.map_or("", Algorithm::as_str), " ", kid.unwrap_or_default()] {
            print.push_str(part);
        }
        Ok(Self { kid: kid.map(Into::into), fingerprint: sha256(print.as_bytes()), ways })
    }

    /// From a secret, for HMAC alone.
    pub(super) fn of_secret(secret: &[u8]) -> Self {
        let ways = Algorithm::ALL.into_iter().filter_map(|algorithm| {
            let key = hmac::Key::new(algorithm.hmac()?, secret);
            Some((algorithm, Verifier::Secret(Box::new(key))))
        });
        // Not of the secret itself: fingerprints are compared and may be shown.
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"portcullis key fingerprint");
        Self { kid: None, fingerprint: sha256(tag.as_ref()), ways: ways.collect() }
    }

    /// `kid`
    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Two keys of the same fingerprint are the same key, of the same name and for the same algorithms.
    pub(super) fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Whether it may be used with this algorithm.
    pub(super) fn takes(&self, algorithm: Algorithm) -> bool {
        self.ways.iter().any(|(own, _)| *own == algorithm)
    }

    /// Whether this is its signature. False too for an algorithm that the key is not for. Costs no allocation of ours.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let way = self.ways.iter().find(|(own, _)| *own == algorithm);
        way.is_some_and(|(_, verifier)| match verifier {
            Verifier::Public(key) => key.verify_sig(message, signature).is_ok(),
            // In constant time.
            Verifier::Secret(key) => hmac::verify(key, message, signature).is_ok(),
        })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithms: Vec<_> = self.ways.iter().map(|(algorithm, _)| algorithm.as_str()).collect();
        f.debug_struct("Key").field("kid", &self.kid).field("algorithms", &algorithms).finish_non_exhaustive()
    }
}

/// The thumbprint of a JWK (RFC 7638 §3), base64url.
///
/// # Errors
/// It is no public key.
pub(super) fn thumbprint(jwk: &Map<String, Value>) -> Result<String, &'static str> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let public = Public::parse(text("kty").unwrap_or_default(), text("crv"), &|name| bytes(text(name)))?;
    Ok(URL_SAFE_NO_PAD.encode(sha256(public.thumbprint_text().as_bytes())))
}

pub(super) fn sha256(text: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    for (to, from) in hash.iter_mut().zip(digest(&SHA256, text).as_ref()) {
        *to = *from;
    }
    hash
}

/// `key_ops` (RFC 7517 §4.3), where it is there.
fn may_verify(operations: Option<&Value>) -> Result<(), &'static str> {
    let Some(operations) = operations else { return Ok(()) };
    let list = operations.as_array().ok_or("its `key_ops` is no list")?;
    let verifies = list.iter().any(|word| word == "verify");
    if verifies { Ok(()) } else { Err("its `key_ops` do not include `verify`") }
}

fn bytes(text: Option<&str>) -> Result<Vec<u8>, &'static str> {
    let text = text.ok_or("a member of its kind of key is missing")?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "a member is no base64url without padding")
}

/// The public members of a key, checked.
enum Public {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Curve { family: Family, name: &'static str, x: Vec<u8>, y: Vec<u8> },
    Ed25519 { x: Vec<u8> },
}

impl Public {
    fn parse(
        kty: &str,
        curve: Option<&str>,
        member: &dyn Fn(&str) -> Result<Vec<u8>, &'static str>,
    ) -> Result<Self, &'static str> {
        match (kty, curve) {
            ("RSA", _) => {
                // Some issuers write a zero in front of the modulus, which means nothing.
                let trimmed = |mut number: Vec<u8>| {
                    let zeros = number.iter().take_while(|byte| **byte == 0).count();
                    number.drain(..zeros);
                    number
                };
                let (n, e) = (trimmed(member("n")?), trimmed(member("e")?));
                let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
                if !RSA_BITS.contains(&bits) {
                    return Err("it is RSA of fewer than 2048 bits, or of more than 8192");
                }
                let odd = e.last().is_some_and(|last| last & 1 == 1);
                if !odd || e.len() > 4 || e == [1] || n.last().is_none_or(|last| last & 1 == 0) {
                    return Err("its modulus or exponent is none of RSA");
                }
                Ok(Self::Rsa { n, e })
            }
            ("EC", Some(curve)) => {
                let (family, name, length) = match curve {
                    "P-256" => (Family::P256, "P-256", 32),
                    "P-384" => (Family::P384, "P-384", 48),
                    "P-521" => (Family::P521, "P-521", 66),
                    _ => return Err("its curve is none of P-256, P-384, P-521"),
                };
                let (x, y) = (member("x")?, member("y")?);
                if x.len() != length || y.len() != length {
                    return Err("its coordinates are not as long as its curve has them");
                }
                Ok(Self::Curve { family, name, x, y })
            }
            ("OKP", Some("Ed25519")) => {
                let x = member("x")?;
                if x.len() == 32 { Ok(Self::Ed25519 { x }) } else { Err("its `x` has not 32 bytes") }
            }
            ("OKP", _) => Err("its curve is not Ed25519"),
            ("EC", None) => Err("it has no `crv`"),
            _ => Err("its `kty` is not known"),
        }
    }

    fn family(&self) -> Family {
        match self {
            Self::Rsa { .. } => Family::Rsa,
            Self::Curve { family, .. } => *family,
            Self::Ed25519 { .. } => Family::Ed25519,
        }
    }

    /// Whether the numbers are a key at all (a point on the curve) is found here.
    fn ways(
        &self,
        algorithms: impl Iterator<Item = Algorithm>,
    ) -> Result<Box<[(Algorithm, Verifier)]>, &'static str> {
        let parsed = |algorithm: Algorithm| {
            let key = match self {
                Self::Rsa { n, e } => {
                    let components = RsaPublicKeyComponents { n: n.as_slice(), e: e.as_slice() };
                    algorithm.rsa().map(|parameters| components.to_parsed_public_key(parameters))
                }
                Self::Curve { x, y, .. } => {
                    let point = [&[4], x.as_slice(), y.as_slice()].concat();
                    algorithm.ecdsa().map(|parameters| ParsedPublicKey::new(parameters, point))
                }
                Self::Ed25519 { x } => Some(ParsedPublicKey::new(&ED25519, x)),
            };
            match key {
                Some(Ok(key)) => Ok((algorithm, Verifier::Public(key))),
                Some(Err(_)) | None => Err("its members make no key"),
            }
        };
        algorithms.map(parsed).collect()
    }

    /// The members that RFC 7638 §3.2 hashes, in its order.
    fn thumbprint_text(&self) -> String {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Rsa { n, e } => format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, text(e), text(n)),
            Self::Curve { name, x, y, .. } => {
                format!(r#"{{"crv":"{name}","kty":"EC","x":"{}","y":"{}"}}"#, text(x), text(y))
            }
            Self::Ed25519 { x } => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, text(x)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tokens::SigningKey;
    use super::*;

    #[test]
    fn a_thumbprint_is_that_of_rfc_7638() {
        // RFC 7638 §3.1.
        let jwk = json!({
            "kty": "RSA",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhM\
                  stn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5ha\
                  jrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
            "e": "AQAB",
            "alg": "RS256",
            "kid": "2011-04-29"
        });
        let thumbprint = thumbprint(jwk.as_object().unwrap()).unwrap();
        assert_eq!(thumbprint, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        for algorithm in ["RS256", "ES256", "ES512", "EdDSA"] {
            let key = SigningKey::new(algorithm, "k");
            let own = super::thumbprint(key.jwk().as_object().unwrap()).unwrap();
            assert_eq!(own, key.thumbprint(), "{algorithm}");
        }
    }

    #[test]
    fn a_key_verifies_what_it_signed_and_nothing_else() {
        for algorithm in Algorithm::ALL {
            let signing = match algorithm.is_symmetric() {
                true => SigningKey::secret(algorithm.as_str(), &[7; 64]),
                false => SigningKey::new(algorithm.as_str(), "k"),
            };
            let key = match algorithm.is_symmetric() {
                true => Key::of_secret(&[7; 64]),
                false => Key::parse(signing.public().as_object().unwrap()).unwrap(),
            };
            let signature = signing.raw(b"message");
            assert!(key.verifies(algorithm, b"message", &signature), "{algorithm:?}");
            assert!(!key.verifies(algorithm, b"massage", &signature), "{algorithm:?}");
            let mut changed = signature.clone();
            changed[3] ^= 1;
            let (zeros, longer) = (vec![0; signature.len()], [&signature[..], &[0]].concat());
            for bad in
                [&changed[..], &signature[1..], &signature[..signature.len() - 1], &zeros, &longer, &[]]
            {
                assert!(!key.verifies(algorithm, b"message", bad), "{algorithm:?} {} bytes", bad.len());
            }
            for other in Algorithm::ALL.into_iter().filter(|other| *other != algorithm) {
                let same = other.family() == Family::Ed25519 && algorithm.family() == Family::Ed25519;
                assert!(same || !key.verifies(other, b"message", &signature), "{algorithm:?} as {other:?}");
            }
            assert!(!format!("{key:?}").contains("Verifier"), "{key:?}");
        }
    }

    #[test]
    fn a_signature_on_a_curve_is_no_der() {
        let key = SigningKey::new("ES256", "k");
        let signature = key.raw(b"message");
        let own = Key::parse(key.public().as_object().unwrap()).unwrap();
        let (r, s) = signature.split_at(32);
        let number = |bytes: &[u8]| [&[2, 33, 0], bytes].concat();
        let der = [&[0x30, 70][..], &number(r), &number(s)].concat();
        assert!(own.verifies(Algorithm::ES256, b"message", &signature));
        assert!(!own.verifies(Algorithm::ES256, b"message", &der));
    }
}
