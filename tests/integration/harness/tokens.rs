//! Tokens as an issuer makes them, and as an attacker would. Also used by the unit tests of `policy::auth::jwt` and its bench, so
//! it stands on nothing of the harness.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self as sign, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// The issuer and the audience of [`claims`].
pub(crate) const ISSUER: &str = "https://id.example.com";
pub(crate) const AUDIENCE: &str = "orders";

/// A key that signs.
pub(crate) struct SigningKey {
    pub(crate) algorithm: String,
    pub(crate) kid: String,
    pair: Pair,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Curve(&'static str, Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
    Secret(Vec<u8>),
}

impl SigningKey {
    /// A new key pair for this algorithm.
    pub(crate) fn new(algorithm: &str, kid: &str) -> Self {
        let curve = |name, algorithm| Pair::Curve(name, Box::new(EcdsaKeyPair::generate(algorithm).unwrap()));
        let pair = match algorithm {
            "ES256" => curve("P-256", &sign::ECDSA_P256_SHA256_FIXED_SIGNING),
            "ES384" => curve("P-384", &sign::ECDSA_P384_SHA384_FIXED_SIGNING),
            "ES512" => curve("P-521", &sign::ECDSA_P521_SHA512_FIXED_SIGNING),
            "EdDSA" | "Ed25519" => Pair::Ed25519(Box::new(Ed25519KeyPair::generate().unwrap())),
            rsa if rsa.starts_with(['R', 'P']) => {
                Pair::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
            }
            other => panic!("no key for {other}"),
        };
        Self { algorithm: algorithm.to_owned(), kid: kid.to_owned(), pair }
    }

    /// A secret, for HMAC.
    pub(crate) fn secret(algorithm: &str, secret: &[u8]) -> Self {
        Self {
            algorithm: algorithm.to_owned(),
            kid: "secret".to_owned(),
            pair: Pair::Secret(secret.to_vec()),
        }
    }

    /// The members of its public key, without `kid`, `alg` and `use`.
    pub(crate) fn public(&self) -> Value {
        match &self.pair {
            Pair::Rsa(pair) => {
                let components: sign::RsaPublicKeyComponents<Vec<u8>> = pair.public_key().into();
                json!({"kty": "RSA", "n": part(components.n), "e": part(components.e)})
            }
            Pair::Curve(name, pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": name, "x": part(x), "y": part(y)})
            }
            Pair::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": part(pair.public_key().as_ref())})
            }
            Pair::Secret(secret) => json!({"kty": "oct", "k": part(secret)}),
        }
    }

    /// As a JWKS has it.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = self.public();
        jwk["kid"] = json!(self.kid);
        jwk["alg"] = json!(self.algorithm);
        jwk["use"] = json!("sig");
        jwk
    }

    /// The thumbprint (RFC 7638).
    pub(crate) fn thumbprint(&self) -> String {
        let public = self.public();
        let mut names: Vec<_> = public.as_object().unwrap().keys().cloned().collect();
        names.sort();
        let members: Vec<_> = names.iter().map(|name| format!("\"{name}\":{}", public[name])).collect();
        part(digest(&SHA256, format!("{{{}}}", members.join(",")).as_bytes()))
    }

    /// The public key as a `SubjectPublicKeyInfo`, DER; of an RSA key.
    pub(crate) fn der(&self) -> Vec<u8> {
        let Pair::Rsa(pair) = &self.pair else { panic!("no RSA key") };
        let der = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
        der.as_ref().to_vec()
    }

    /// The same as PEM.
    pub(crate) fn pem(&self) -> String {
        let text = STANDARD.encode(self.der());
        let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// A signature by the key's algorithm.
    pub(crate) fn raw(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let encoding: &dyn sign::RsaEncoding = match self.algorithm.as_str() {
                    "RS256" => &sign::RSA_PKCS1_SHA256,
                    "RS384" => &sign::RSA_PKCS1_SHA384,
                    "RS512" => &sign::RSA_PKCS1_SHA512,
                    "PS256" => &sign::RSA_PSS_SHA256,
                    "PS384" => &sign::RSA_PSS_SHA384,
                    "PS512" => &sign::RSA_PSS_SHA512,
                    other => panic!("no RSA: {other}"),
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature).unwrap();
                signature
            }
            Pair::Curve(_, pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Secret(secret) => {
                let hash = match self.algorithm.as_str() {
                    "HS256" => hmac::HMAC_SHA256,
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    other => panic!("no HMAC: {other}"),
                };
                hmac::sign(&hmac::Key::new(hash, secret), message).as_ref().to_vec()
            }
        }
    }

    /// The header of its tokens.
    pub(crate) fn header(&self) -> Value {
        json!({"alg": self.algorithm, "typ": "at+jwt", "kid": self.kid})
    }

    /// A token of these claims.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.token_with(&self.header(), claims)
    }

    /// A token of this header and these claims.
    pub(crate) fn token_with(&self, header: &Value, claims: &Value) -> String {
        self.token_of(header.to_string().as_bytes(), claims.to_string().as_bytes())
    }

    /// A token of a header and a payload that need not be JSON.
    pub(crate) fn token_of(&self, header: &[u8], payload: &[u8]) -> String {
        let message = format!("{}.{}", part(header), part(payload));
        let signature = self.raw(message.as_bytes());
        format!("{message}.{}", part(signature))
    }

    /// A proof of possession (RFC 9449 §4.2), with claims that are wanted otherwise.
    pub(crate) fn proof(&self, method: &str, url: &str, token: &str, other: &Value) -> String {
        let header = json!({"typ": "dpop+jwt", "alg": self.algorithm, "jwk": self.public()});
        let mut claims = json!({
            "jti": unique(),
            "htm": method,
            "htu": url,
            "iat": now(),
            "ath": part(digest(&SHA256, token.as_bytes())),
        });
        merge(&mut claims, other);
        self.token_with(&header, &claims)
    }
}

/// A JWKS of these keys.
pub(crate) fn jwks(keys: &[&SigningKey]) -> String {
    json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string()
}

/// Good claims, with those that are wanted otherwise; `null` takes one away.
pub(crate) fn claims(other: &Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "iat": now(),
        "exp": now() + 600,
        "jti": unique(),
        "scope": "orders:read orders:write",
        "client_id": "shop",
    });
    merge(&mut claims, other);
    claims
}

fn merge(claims: &mut Value, other: &Value) {
    let claims = claims.as_object_mut().unwrap();
    for (name, value) in other.as_object().unwrap() {
        if value.is_null() {
            claims.remove(name);
        } else {
            claims.insert(name.clone(), value.clone());
        }
    }
}

/// Base64url without padding.
pub(crate) fn part(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A text that no other call gives.
pub(crate) fn unique() -> String {
    let mut bytes = [0; 12];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    part(bytes)
}
