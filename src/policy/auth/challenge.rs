//! `WWW-Authenticate`: how a client that was refused can do better (RFC 9110 §11.6.1).

use http::HeaderValue;

use super::Denial;

/// A scheme that a route takes, and what its challenge says whatever happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    /// `Bearer`
    pub(super) scheme: &'static str,
    /// `realm="staff"`, and the like.
    pub(super) parameters: String,
}

impl Challenge {
    /// The field's value. `error` and the scopes are told for tokens alone (RFC 6750 §3), also for those that stand elsewhere than in
    /// `Authorization` (`Token`); `metadata` is the address of the resource's metadata (RFC 9728 §5.1).
    pub(super) fn render(
        &self,
        denial: &Denial,
        scopes: Option<&str>,
        metadata: Option<&str>,
    ) -> Option<HeaderValue> {
        let mut text = format!("{} {}", self.scheme, self.parameters);
        if matches!(self.scheme, "Bearer" | "DPoP" | "Token") {
            let mut add = |name: &str, value: &str| {
                text.push_str(", ");
                text.push_str(name);
                text.push_str("=\"");
                text.extend(value.chars().filter(|c| !matches!(c, '"' | '\\') && (' '..='~').contains(c)));
                text.push('"');
            };
            // What is wrong with a proof is nothing that a bearer could mend.
            let of_proofs = denial.error.is_some_and(|error| error.contains("dpop"));
            if let Some(error) = denial.error.filter(|_| !of_proofs || self.scheme == "DPoP") {
                add("error", error);
                add("error_description", description(error));
            }
            if let Some(scopes) = scopes {
                add("scope", scopes);
            }
            if let Some(metadata) = metadata {
                add("resource_metadata", metadata);
            }
        }
        HeaderValue::from_str(&text).ok()
    }
}

/// One sentence an error, whatever was wrong with the credential: the log says it.
fn description(error: &str) -> &'static str {
    match error {
        "insufficient_scope" => "The request needs more scope than the token has",
        "use_dpop_nonce" => "The proof needs the nonce of this answer",
        "invalid_dpop_proof" => "The proof of possession is not valid",
        _ => "The token is not valid",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Kind;

    #[test]
    fn a_challenge_says_how_and_never_what_was_wrong() {
        let of = |scheme| Challenge { scheme, parameters: "realm=\"staff\"".to_owned() };
        let none = Denial::new(Kind::MissingAuthenticationToken, "missing", "");
        let bad = Denial::invalid("signature", "the key does not sign this");
        let proof = Denial::new(Kind::Unauthorized, "proof", "").with_error("invalid_dpop_proof");
        let told = |scheme, denial: &Denial, scopes, metadata| {
            of(scheme).render(denial, scopes, metadata).unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(told("Bearer", &none, None, None), "Bearer realm=\"staff\"");
        assert_eq!(
            told("Bearer", &bad, Some("a b"), Some("https://a/b")),
            "Bearer realm=\"staff\", error=\"invalid_token\", error_description=\"The token is not valid\", scope=\"a b\", \
             resource_metadata=\"https://a/b\""
        );
        // What is no quoted string is left out (RFC 9110 §5.6.4).
        assert_eq!(
            told("Bearer", &none, None, Some("https://a/\"b\\\r\n\u{e9}")),
            "Bearer realm=\"staff\", resource_metadata=\"https://a/b\""
        );
        // A token has these wherever it stands.
        assert_eq!(
            told("Token", &bad, Some("a"), Some("https://a/b")),
            told("Bearer", &bad, Some("a"), Some("https://a/b")).replace("Bearer", "Token")
        );
        assert_eq!(told("Bearer", &proof, None, None), "Bearer realm=\"staff\"");
        assert_eq!(told("Token", &proof, None, None), "Token realm=\"staff\"");
        assert!(told("DPoP", &proof, None, None).contains("error=\"invalid_dpop_proof\""));
        // Other schemes have no word for it.
        for scheme in ["Basic", "ApiKey", "ClientCertificate"] {
            assert_eq!(told(scheme, &bad, Some("a"), Some("https://a")), format!("{scheme} realm=\"staff\""));
        }
    }
}
