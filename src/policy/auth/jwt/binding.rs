//! Tokens that are bound to whom they were issued to (`cnf`, RFC 7800 §3.1): to a client certificate (RFC 8705 §3), or to a key of
//! which each request has a proof (RFC 9449 §6).

use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::config::Dpop;
use super::dpop::Proofs;
use crate::policy::auth::{Asked, Denial, Place};
use crate::request::Request;
use crate::state::Live;

/// Whom a token is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::policy::auth) struct Confirmation {
    /// SHA-256 of the client certificate.
    pub(in crate::policy::auth) certificate: Option<[u8; 32]>,
    /// The thumbprint of the key that proofs are signed with (RFC 7638), base64url.
    pub(in crate::policy::auth) key: Option<Box<str>>,
}

impl Confirmation {
    /// From the claim. A way of confirming that is not known is one that cannot be checked.
    ///
    /// # Errors
    /// It is no object of `x5t#S256` and `jkt`.
    pub(in crate::policy::auth) fn parse(claim: Option<&Value>) -> Result<Self, Denial> {
        let refuse =
            || Denial::invalid("binding", "`cnf` is not known, or not of the form of RFC 8705 and RFC 9449");
        let Some(claim) = claim else { return Ok(Self::default()) };
        let members = claim.as_object().filter(|members| !members.is_empty()).ok_or_else(refuse)?;
        let mut own = Self::default();
        for (name, value) in members {
            let text = value.as_str().ok_or_else(refuse)?;
            let hash: [u8; 32] =
                URL_SAFE_NO_PAD.decode(text).ok().and_then(|hash| hash.try_into().ok()).ok_or_else(refuse)?;
            match name.as_str() {
                "x5t#S256" => own.certificate = Some(hash),
                "jkt" => own.key = Some(text.into()),
                _ => return Err(refuse()),
            }
        }
        Ok(own)
    }
}

/// How a policy takes tokens that are bound.
#[derive(Debug)]
pub(in crate::policy::auth) struct Possession {
    /// Where proofs are known.
    proofs: Option<Proofs>,
    /// Whether each token must be bound to a key.
    required: bool,
    /// Whether tokens stand in `Authorization`, where the scheme tells a bearer's from one with a proof.
    by_scheme: bool,
}

impl Possession {
    /// For tokens that stand at `place`.
    pub(in crate::policy::auth) fn new(
        live: &Live,
        place: &Place,
        dpop: Dpop,
        leeway: Duration,
        wants_nonce: bool,
    ) -> Self {
        Self {
            proofs: (dpop != Dpop::None).then(|| Proofs::find(live, leeway, wants_nonce)),
            required: dpop == Dpop::Required,
            by_scheme: *place == Place::Bearer,
        }
    }

    /// Whether tokens bound by a proof (RFC 9449) are taken.
    pub(in crate::policy::auth) fn takes_proofs(&self) -> bool {
        self.proofs.is_some()
    }

    /// Whether no others are.
    pub(in crate::policy::auth) fn needs_proofs(&self) -> bool {
        self.required
    }

    /// Whether the request comes from whom the token is bound to, where it is bound. What the client is told with the answer: a nonce,
    /// where the one it has is about to end (RFC 9449 §8.2).
    ///
    /// # Errors
    /// It does not.
    pub(in crate::policy::auth) fn check(
        &self,
        bound: &Confirmation,
        token: &str,
        asked: &Asked<'_>,
    ) -> Result<Option<(HeaderName, HeaderValue)>, Denial> {
        if let Some(hash) = &bound.certificate {
            certificate(hash, asked.request)?;
        }
        let refuse = |why: &'static str| Err(Denial::invalid("binding", why));
        let by_proof = self.by_scheme && has_dpop_scheme(asked.request);
        match (&bound.key, &self.proofs) {
            (None, _) if self.required => refuse("the token is bound to no key, which `dpop` requires"),
            (None, _) if by_proof => {
                refuse("the token came as one that is bound to a key, and is bound to none")
            }
            (None, _) => Ok(None),
            (Some(_), None) => refuse("the token is bound to a key, and the policy takes no proofs (`dpop`)"),
            // RFC 9449 §7.2: else a stolen token would do where proofs are not known.
            (Some(_), Some(_)) if self.by_scheme && !by_proof => {
                refuse("the token is bound to a key, and came as a bearer's")
            }
            (Some(key), Some(proofs)) => proofs.check(key, token, asked),
        }
    }
}

/// Whether the token came as `Authorization: DPoP`.
fn has_dpop_scheme(request: &Request<'_>) -> bool {
    let scheme = request.headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().get(..5));
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"dpop "))
}

/// Whether the request comes over a connection of the certificate that the token is bound to.
fn certificate(bound: &[u8; 32], request: &Request<'_>) -> Result<(), Denial> {
    let own = request.connection.tls.as_ref().and_then(|tls| tls.client_certificate.as_ref());
    if own.is_some_and(|own| verify_slices_are_equal(&own.sha256, bound).is_ok()) {
        return Ok(());
    }
    let why = "the token is bound to a client certificate that the connection does not have";
    Err(Denial::invalid("binding", why))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_way_of_confirming_that_is_not_known_is_refused() {
        let hash = URL_SAFE_NO_PAD.encode([7; 32]);
        let good = |claim: Value| Confirmation::parse(Some(&claim)).unwrap();
        assert_eq!(Confirmation::parse(None).unwrap(), Confirmation::default());
        assert_eq!(good(json!({"x5t#S256": hash})).certificate, Some([7; 32]));
        assert_eq!(good(json!({"jkt": hash})).key.as_deref(), Some(&*hash));
        let both = good(json!({"jkt": hash, "x5t#S256": hash}));
        assert!(both.key.is_some() && both.certificate.is_some());
        for claim in [
            json!({}),
            json!(null),
            json!("x"),
            json!({"jwk": {"kty": "EC"}}),
            json!({"kid": "k"}),
            json!({"jkt": hash, "jku": "https://evil.example"}),
            json!({"jkt": "short"}),
            json!({"jkt": format!("{hash}=")}),
            json!({"jkt": 1}),
            json!({"x5t#S256": ""}),
        ] {
            assert_eq!(Confirmation::parse(Some(&claim)).unwrap_err().reason, "binding", "{claim}");
        }
    }
}
