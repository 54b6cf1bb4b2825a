//! The algorithms that signatures are checked by (RFC 7518 §3.1, RFC 8037 §3.1, RFC 9864 §2.2), and what a key must be for each.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{self as sign, EcdsaVerificationAlgorithm, RsaParameters};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a token is signed. `none` is no algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RS384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RS512,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// RSASSA-PSS with SHA-384.
    PS384,
    /// RSASSA-PSS with SHA-512.
    PS512,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// ECDSA on P-521 with SHA-512.
    ES512,
    /// Ed25519, by the name of RFC 8037.
    EdDSA,
    /// Ed25519, by the name of RFC 9864.
    Ed25519,
    /// HMAC with SHA-256.
    HS256,
    /// HMAC with SHA-384.
    HS384,
    /// HMAC with SHA-512.
    HS512,
}

/// A kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Rsa,
    P256,
    P384,
    P521,
    Ed25519,
    Secret,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::ES512,
        Self::EdDSA,
        Self::Ed25519,
        Self::HS256,
        Self::HS384,
        Self::HS512,
    ];

    /// By the name in `alg`, byte for byte: `nOnE` and `rs256` are no algorithms.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// The name in `alg`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::ES512 => "ES512",
            Self::EdDSA => "EdDSA",
            Self::Ed25519 => "Ed25519",
            Self::HS256 => "HS256",
            Self::HS384 => "HS384",
            Self::HS512 => "HS512",
        }
    }

    /// Whether one secret both signs and verifies.
    pub fn is_symmetric(self) -> bool {
        self.family() == Family::Secret
    }

    /// The kind of key that it needs.
    pub(super) fn family(self) -> Family {
        match self {
            Self::RS256 | Self::RS384 | Self::RS512 | Self::PS256 | Self::PS384 | Self::PS512 => Family::Rsa,
            Self::ES256 => Family::P256,
            Self::ES384 => Family::P384,
            Self::ES512 => Family::P521,
            Self::EdDSA | Self::Ed25519 => Family::Ed25519,
            Self::HS256 | Self::HS384 | Self::HS512 => Family::Secret,
        }
    }

    /// The bytes that a secret for it should have at least (RFC 7518 §3.2); none for key pairs.
    pub(super) fn secret_bytes(self) -> Option<usize> {
        match self {
            Self::HS256 => Some(32),
            Self::HS384 => Some(48),
            Self::HS512 => Some(64),
            _ => None,
        }
    }

    /// Its parameters for an RSA key.
    pub(super) fn rsa(self) -> Option<&'static RsaParameters> {
        match self {
            Self::RS256 => Some(&sign::RSA_PKCS1_2048_8192_SHA256),
            Self::RS384 => Some(&sign::RSA_PKCS1_2048_8192_SHA384),
            Self::RS512 => Some(&sign::RSA_PKCS1_2048_8192_SHA512),
            Self::PS256 => Some(&sign::RSA_PSS_2048_8192_SHA256),
            Self::PS384 => Some(&sign::RSA_PSS_2048_8192_SHA384),
            Self::PS512 => Some(&sign::RSA_PSS_2048_8192_SHA512),
            _ => None,
        }
    }

    /// Its parameters for a key on a curve of NIST's: signatures are r and s, each as long as the field, never DER
    /// (RFC 7518 §3.4).
    pub(super) fn ecdsa(self) -> Option<&'static EcdsaVerificationAlgorithm> {
        match self {
            Self::ES256 => Some(&sign::ECDSA_P256_SHA256_FIXED),
            Self::ES384 => Some(&sign::ECDSA_P384_SHA384_FIXED),
            Self::ES512 => Some(&sign::ECDSA_P521_SHA512_FIXED),
            _ => None,
        }
    }

    /// Its hash for a secret.
    pub(super) fn hmac(self) -> Option<hmac::Algorithm> {
        match self {
            Self::HS256 => Some(hmac::HMAC_SHA256),
            Self::HS384 => Some(hmac::HMAC_SHA384),
            Self::HS512 => Some(hmac::HMAC_SHA512),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_name_or_none() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::by_name(algorithm.as_str()), Some(algorithm));
            assert_eq!(serde_json::to_value(algorithm).unwrap(), algorithm.as_str());
        }
        for name in
            ["none", "None", "nOnE", "NONE", "", "rs256", "RS256 ", "ES256K", "ES521", "HS1", "RSA-OAEP"]
        {
            assert_eq!(Algorithm::by_name(name), None, "{name}");
        }
    }

    #[test]
    fn each_has_parameters_for_its_own_kind_of_key_alone() {
        for algorithm in Algorithm::ALL {
            let family = algorithm.family();
            assert_eq!(algorithm.rsa().is_some(), family == Family::Rsa);
            assert_eq!(
                algorithm.ecdsa().is_some(),
                matches!(family, Family::P256 | Family::P384 | Family::P521)
            );
            assert_eq!(algorithm.hmac().is_some(), family == Family::Secret);
            assert_eq!(algorithm.secret_bytes().is_some(), algorithm.is_symmetric());
        }
    }
}
