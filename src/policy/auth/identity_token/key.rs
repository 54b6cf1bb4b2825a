//! One key that signs: ECDSA on P-256, or Ed25519 (RFC 7518 §3.4, RFC 8037 §3.1).

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self as sign, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openssl::pkey::{Id, PKey};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// `typ` of identity tokens: a type of their own, so that none passes for an access token (RFC 8725 §3.11).
pub(in crate::policy::auth) const TYPE: &str = "portcullis+jwt";
/// A signature, encoded: 64 bytes in either case.
pub(super) const SIGNATURE_CHARS: usize = 86;

/// How identity tokens are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Deserialize, Serialize, JsonSchema)]
pub enum SigningAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    #[default]
    ES256,
    /// Ed25519.
    EdDSA,
}

impl SigningAlgorithm {
    /// The name in `alg`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ES256 => "ES256",
            Self::EdDSA => "EdDSA",
        }
    }
}

/// A key pair, ready to sign.
pub(super) struct SigningKey {
    algorithm: SigningAlgorithm,
    public: PublicKey,
    pair: Pair,
    /// The tokens' header, encoded.
    head: Box<str>,
}

enum Pair {
    Curve(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// What others verify by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PublicKey {
    /// RFC 7638, so that equal keys have equal names everywhere.
    pub(super) kid: Box<str>,
    pub(super) algorithm: SigningAlgorithm,
    x: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    y: Option<Box<str>>,
}

impl PublicKey {
    fn new(algorithm: SigningAlgorithm, x: &[u8], y: Option<&[u8]>) -> Self {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes).into_boxed_str();
        let mut own = Self { kid: "".into(), algorithm, x: encode(x), y: y.map(encode) };
        own.kid = own.thumbprint();
        own
    }

    /// RFC 7638 §3.2: the members that every key of its kind has, sorted, without space.
    fn thumbprint(&self) -> Box<str> {
        let x = &self.x;
        let text = match (self.algorithm, &self.y) {
            (SigningAlgorithm::ES256, y) => {
                let y = y.as_deref().unwrap_or_default();
                format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)
            }
            (SigningAlgorithm::EdDSA, _) => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#),
        };
        URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes())).into()
    }

    /// Whether it is what it says, where it was read.
    pub(super) fn is_sound(&self) -> bool {
        let decodes = |text: &str| URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() == 32);
        let y = match self.algorithm {
            SigningAlgorithm::ES256 => self.y.as_deref().is_some_and(decodes),
            SigningAlgorithm::EdDSA => self.y.is_none(),
        };
        y && decodes(&self.x) && self.kid == self.thumbprint()
    }

    /// As a set of keys has it (RFC 7517 §4): public members alone.
    pub(super) fn jwk(&self) -> Value {
        let (kid, alg, x) = (&self.kid, self.algorithm.as_str(), &self.x);
        match self.algorithm {
            SigningAlgorithm::ES256 => {
                json!({"kty": "EC", "crv": "P-256", "x": x, "y": self.y, "kid": kid, "alg": alg, "use": "sig"})
            }
            SigningAlgorithm::EdDSA => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "alg": alg, "use": "sig"})
            }
        }
    }
}

/// Why a key of the operator's will not do, and what to do.
pub(super) type Unfit = (&'static str, &'static str);

impl SigningKey {
    /// A new one, and itself as PKCS #8. None where the system has no randomness.
    pub(super) fn generate(algorithm: SigningAlgorithm) -> Option<(Self, Zeroizing<Vec<u8>>)> {
        // Both documents are overwritten when they are dropped.
        let document = match algorithm {
            SigningAlgorithm::ES256 => {
                EcdsaKeyPair::generate_pkcs8(&sign::ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            }
            SigningAlgorithm::EdDSA => Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()),
        }
        .ok()?;
        let own = Self::from_pkcs8(algorithm, document.as_ref())?;
        Some((own, Zeroizing::new(document.as_ref().to_vec())))
    }

    /// From PKCS #8; none where it is no key for this algorithm.
    pub(super) fn from_pkcs8(algorithm: SigningAlgorithm, pkcs8: &[u8]) -> Option<Self> {
        let (pair, public) = match algorithm {
            SigningAlgorithm::ES256 => {
                let pair = EcdsaKeyPair::from_pkcs8(&sign::ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).ok()?;
                // An uncompressed point: 4, x, y (SEC 1 §2.3.3).
                let (x, y) = pair.public_key().as_ref().get(1..)?.split_at_checked(32)?;
                let public = PublicKey::new(algorithm, x, Some(y));
                (Pair::Curve(pair), public)
            }
            SigningAlgorithm::EdDSA => {
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).ok()?;
                let public = PublicKey::new(algorithm, pair.public_key().as_ref(), None);
                (Pair::Ed25519(pair), public)
            }
        };
        let head = json!({"alg": algorithm.as_str(), "typ": TYPE, "kid": public.kid}).to_string();
        Some(Self { algorithm, public, pair, head: URL_SAFE_NO_PAD.encode(head).into() })
    }

    /// From a PEM file of the operator's.
    ///
    /// # Errors
    /// What the file is instead.
    pub(super) fn from_pem(pem: &[u8]) -> Result<Self, Unfit> {
        const MAKE: &str = "make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`, or `-algorithm ed25519`";
        let has = |part: &[u8]| memchr::memmem::find(pem, part).is_some();
        if has(b"ENCRYPTED") {
            return Err(("the key is encrypted", "decrypt it: `openssl pkey -in FILE -out FILE.plain`"));
        }
        if !has(b"PRIVATE KEY-----") {
            return Err(("it has no private key in PEM", MAKE));
        }
        // With a callback of our own, OpenSSL never asks for a password at the terminal.
        let key = PKey::private_key_from_pem_callback(pem, |_| Ok(0))
            .map_err(|_| ("the key is damaged", "copy the PEM file again, whole"))?;
        let algorithm = match key.id() {
            Id::EC => SigningAlgorithm::ES256,
            Id::ED25519 => SigningAlgorithm::EdDSA,
            Id::RSA => return Err(("it is an RSA key, which takes a worker too long to sign with", MAKE)),
            _ => return Err(("it is neither a key on P-256 nor of Ed25519", MAKE)),
        };
        let pkcs8 = key.private_key_to_pkcs8().map(Zeroizing::new);
        let pkcs8 = pkcs8.map_err(|_| ("the key is damaged", "copy the PEM file again, whole"))?;
        Self::from_pkcs8(algorithm, &pkcs8).ok_or(("it is neither a key on P-256 nor of Ed25519", MAKE))
    }

    pub(super) fn algorithm(&self) -> SigningAlgorithm {
        self.algorithm
    }

    pub(super) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// How long a token of so many bytes of claims becomes.
    pub(super) fn token_chars(&self, claims: usize) -> usize {
        self.head.len() + 1 + claims.saturating_mul(4).div_ceil(3) + 1 + SIGNATURE_CHARS
    }

    /// The token of these claims (RFC 7515 §7.1). None where the system has no randomness.
    pub(super) fn token(&self, claims: &[u8]) -> Option<String> {
        let mut token = String::with_capacity(self.token_chars(claims.len()));
        token.push_str(&self.head);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature = match &self.pair {
            Pair::Curve(pair) => pair.sign(&SystemRandom::new(), token.as_bytes()).ok()?,
            Pair::Ed25519(pair) => pair.try_sign(token.as_bytes()).ok()?,
        };
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        Some(token)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::auth::jwt::{Algorithm, KeySet, verify};

    fn set(key: &SigningKey) -> KeySet {
        KeySet::parse(json!({"keys": [key.public().jwk()]}).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_it_signs_is_verified_by_what_it_publishes_and_by_nothing_else() {
        for (algorithm, verified) in
            [(SigningAlgorithm::ES256, Algorithm::ES256), (SigningAlgorithm::EdDSA, Algorithm::EdDSA)]
        {
            let (key, pkcs8) = SigningKey::generate(algorithm).unwrap();
            let (other, _) = SigningKey::generate(algorithm).unwrap();
            let token = key.token(b"{\"a\":1}").unwrap();
            assert_eq!(token.len(), key.token_chars(7));
            assert_eq!(verify(&token, &set(&key), &[verified]).as_deref(), Ok(&b"{\"a\":1}"[..]));
            assert!(verify(&token, &set(&other), &[verified]).is_err());
            assert!(set(&key).complaints().is_empty());
            let again = SigningKey::from_pkcs8(algorithm, &pkcs8).unwrap();
            assert_eq!(again.public(), key.public());
            assert!(key.public().is_sound());
            let text = key.public().jwk().to_string();
            assert!(!text.contains("\"d\""), "{text}");
            assert!(!format!("{key:?}").contains("Pair"), "{key:?}");
        }
    }

    #[test]
    fn a_file_is_one_of_two_kinds_of_keys() {
        let pem = |key: PKey<openssl::pkey::Private>| key.private_key_to_pem_pkcs8().unwrap();
        let curve = |nid| {
            let group = openssl::ec::EcGroup::from_curve_name(nid).unwrap();
            PKey::from_ec_key(openssl::ec::EcKey::generate(&group).unwrap()).unwrap()
        };
        let p256 = curve(openssl::nid::Nid::X9_62_PRIME256V1);
        let told =
            |pem: &[u8]| SigningKey::from_pem(pem).map(|key| key.algorithm()).map_err(|(cause, _)| cause);
        assert_eq!(told(&p256.ec_key().unwrap().private_key_to_pem().unwrap()), Ok(SigningAlgorithm::ES256));
        assert_eq!(told(&pem(PKey::generate_ed25519().unwrap())), Ok(SigningAlgorithm::EdDSA));
        let wrong = |pem: &[u8]| told(pem).unwrap_err();
        assert!(wrong(&pem(curve(openssl::nid::Nid::SECP384R1))).contains("neither"));
        assert!(wrong(&pem(PKey::generate_ed448().unwrap())).contains("neither"));
        let rsa = PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
        assert!(wrong(&pem(rsa)).contains("RSA"));
        assert!(wrong(&p256.public_key_to_pem().unwrap()).contains("no private key"));
        assert!(wrong(b"").contains("no private key"));
        let mut damaged = pem(p256);
        damaged.truncate(100);
        damaged.extend_from_slice(b"\n-----END PRIVATE KEY-----\n");
        assert!(wrong(&damaged).contains("damaged"));
    }

    #[test]
    fn a_name_is_that_of_its_key() {
        // RFC 8037 §A.3.
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let bytes = URL_SAFE_NO_PAD.decode(x).unwrap();
        let key = PublicKey::new(SigningAlgorithm::EdDSA, &bytes, None);
        assert_eq!(&*key.kid, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        assert!(!PublicKey { kid: "other".into(), ..key.clone() }.is_sound());
        assert!(!PublicKey { algorithm: SigningAlgorithm::ES256, ..key }.is_sound());
    }
}
