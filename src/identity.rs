//! Who a request is from: the one thing policies hand on to each other.

mod parts;

use std::sync::Arc;

pub use parts::{Claims, Text};

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

/// Who a request is from, once authentication has said so. Until then every request is anonymous.
///
/// One shape for all kinds of credentials, so that authorisation, limits, log and upstream need not know how it was proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The subject: `sub` of a token, the owner of an API key, a user's name, a certificate's subject. Empty: anonymous.
    pub id: Text,
    /// Who vouches for it: a token's `iss`, a certificate's issuer. None where the gateway itself does.
    pub issuer: Option<Box<str>>,
    /// How it was proved.
    pub method: Method,
    /// The policy that proved it, `auth.NAME`; empty for anonymous.
    pub policy: Arc<str>,
    /// What it may do (RFC 6749 §3.3), in the order of the credential.
    pub scopes: Arc<[Box<str>]>,
    /// What it belongs to.
    pub groups: Box<[Box<str>]>,
    /// Its usage plan.
    pub plan: Option<Arc<str>>,
    /// The application that calls, where it is another than the subject: a token's `client_id` or `azp`.
    pub caller: Option<Arc<str>>,
    /// The id of its API key, never the key.
    pub key_id: Option<Text>,
    /// Its client certificate, verified.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// All that its credential says of it; bounded by the size of the credential.
    pub claims: Claims,
    /// When its credential ends, in seconds since 1970; none where it has no end, or where a claim says it (`exp`).
    pub expires: Option<u64>,
    /// Fields that the upstream gets of it: those that an external service has answered with.
    pub upstream_headers: Box<[(HeaderName, HeaderValue)]>,
}

/// How an identity was proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Not at all.
    Anonymous,
    /// An API key of this gateway.
    ApiKey,
    /// A signed token (RFC 7519).
    Jwt,
    /// A token that its issuer was asked about (RFC 7662).
    Introspection,
    /// A client certificate (RFC 8446 §4.4.2).
    ClientCertificate,
    /// The word of another service.
    Forward,
    /// A name and a password (RFC 7617).
    Basic,
}

impl Method {
    /// The word for expressions and logs: `api_key`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::ApiKey => "api_key",
            Self::Jwt => "jwt",
            Self::Introspection => "introspection",
            Self::ClientCertificate => "client_certificate",
            Self::Forward => "forward",
            Self::Basic => "basic",
        }
    }
}

impl Identity {
    /// Somebody, of whom nothing more is known yet.
    pub fn new(id: impl Into<Text>, method: Method, policy: Arc<str>) -> Self {
        Self {
            id: id.into(),
            issuer: None,
            method,
            policy,
            scopes: Arc::default(),
            groups: Box::default(),
            plan: None,
            caller: None,
            key_id: None,
            certificate: None,
            claims: Claims::default(),
            expires: None,
            upstream_headers: Box::default(),
        }
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self::new("", Method::Anonymous, "".into())
    }

    /// Whether it has this scope; scopes are compared byte for byte (RFC 6749 §3.3).
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|own| **own == *scope)
    }

    /// A claim by its name, in which a dot may lead into a nested claim ([`claim_in`]).
    pub fn claim(&self, name: &str) -> Option<&Value> {
        claim_in(&self.claims, name)
    }

    /// Whether nothing was proved.
    pub fn is_anonymous(&self) -> bool {
        self.method == Method::Anonymous
    }
}

/// A claim by its name, in which a dot leads into a nested claim or is one of the name: at each level the longest name that is there goes
/// first (`https://example.com/roles` has dots of its own). Looks at no object twice.
pub fn claim_in<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    claims.get(name).or_else(|| {
        name.rmatch_indices('.').find_map(|(at, _)| {
            let inner = claims.get(name.get(..at)?)?.as_object()?;
            claim_in(inner, name.get(at + 1..)?)
        })
    })
}

/// A client certificate that was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject's distinguished name (RFC 4514).
    pub subject_dn: Box<str>,
    /// The issuer's.
    pub issuer_dn: Box<str>,
    /// The serial number, in hex.
    pub serial_number: Box<str>,
    /// The subject's common name: the first in the order of RFC 4514.
    pub common_name: Option<Box<str>>,
    /// Alternative names that are host names (RFC 5280 §4.2.1.6), in its order.
    pub dns_names: Box<[Box<str>]>,
    /// Those that are URIs, such as those of SPIFFE.
    pub uris: Box<[Box<str>]>,
    /// Those that are addresses for mail.
    pub emails: Box<[Box<str>]>,
    /// SHA-256 of its DER: what a bound token names (RFC 8705 §3.1).
    pub sha256: [u8; 32],
    /// Its end, in seconds since 1970.
    pub not_after: i64,
    /// The chain that was verified, DER, from itself to the root: so that it can be judged by another rule later.
    pub chain: Box<[Box<[u8]>]>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_found_by_the_longest_name_at_each_level() {
        let claims = json!({
            "realm_access": {"roles": 1}, "https://a.example/roles": 2, "https://hasura.io/jwt/claims": {"x-roles": 3},
            "resource_access": {"my.api": {"roles": 4}, "my": {"api": {"roles": 0, "scopes": 5}}}, "a": {"b": 0}, "a.b": 6,
            "c.d": {"x": 0}, "c": {"d": {"e": 7}}, "f": "text", "g": {"": 8}, "h": null,
        });
        let claims = claims.as_object().unwrap();
        for (name, expected) in [
            ("realm_access.roles", Some(1)),
            ("https://a.example/roles", Some(2)),
            ("https://hasura.io/jwt/claims.x-roles", Some(3)),
            ("resource_access.my.api.roles", Some(4)),
            ("resource_access.my.api.scopes", Some(5)),
            ("a.b", Some(6)),
            ("c.d.e", Some(7)),
            ("f.x", None),
            ("g.", Some(8)),
            ("h.x", None),
            ("a.b.c", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(claim_in(claims, name).and_then(Value::as_i64), expected, "{name}");
        }
    }
}
