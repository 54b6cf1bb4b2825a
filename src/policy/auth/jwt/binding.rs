//! Tokens that are bound to whom they were issued to (`cnf`, RFC 7800 §3.1): to a client certificate (RFC 8705 §3), or to a key of
//! which each request has a proof (RFC 9449 §6).

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::policy::auth::Denial;
use crate::request::Request;

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

/// Whether the request comes over a connection of the certificate that the token is bound to.
///
/// # Errors
/// It does not.
pub(in crate::policy::auth) fn certificate(bound: &[u8; 32], request: &Request<'_>) -> Result<(), Denial> {
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
