//! What an introspection server's answer means (RFC 7662 §2.2).

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::identity::{Identity, Method};
use crate::policy::auth::Denial;
use crate::policy::auth::jwt::binding::Confirmation;
use crate::policy::auth::jwt::claims::{elements, expired, time, words};
use crate::policy::auth::jwt::{json, kind};

/// By how much clocks may differ.
pub(super) const LEEWAY: Duration = Duration::from_secs(30);

/// What answers must say.
#[derive(Debug)]
pub(super) struct Rules {
    /// `auth.NAME`
    pub(super) policy: Arc<str>,
    /// What `iss` must be, where that was written.
    pub(super) issuer: Option<Box<str>>,
    /// For whom the token must be, where that was written.
    pub(super) audiences: Box<[Box<str>]>,
}

/// What a server said of a token.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// It is good.
    Known {
        /// Whose it is.
        identity: Arc<Identity>,
        /// Whom it is bound to: to be checked for each request.
        confirmation: Arc<Confirmation>,
        /// Until when that may be remembered: its `exp`, in seconds since 1970.
        until: f64,
    },
    /// It is not.
    Refused(Denial),
}

impl Rules {
    /// Reads an answer at this time, in seconds since 1970.
    ///
    /// # Errors
    /// It is no answer: the server has failed.
    pub(super) fn read(&self, body: &[u8], now: f64) -> Result<Verdict, &'static str> {
        let mut claims = json::object(body)?;
        match claims.shift_remove("active") {
            Some(Value::Bool(true)) => {}
            Some(Value::Bool(false)) => {
                let denial = Denial::invalid("inactive", "the server says that the token is not active");
                return Ok(Verdict::Refused(denial));
            }
            _ => return Err("`active` is neither true nor false"),
        }
        Ok(self.accept(claims, now).unwrap_or_else(Verdict::Refused))
    }

    fn accept(&self, claims: Map<String, Value>, now: f64) -> Result<Verdict, Denial> {
        // RFC 7662 §2.1: servers speak of refresh tokens too, which are for themselves alone.
        if kind::says_another(&claims) {
            let why = "the server says that it is a token to refresh by, an ID token or another kind";
            return Err(Denial::invalid("token_type", why));
        }
        if let Some(issuer) = &self.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(Denial::invalid("issuer", "`iss` is missing, or not the policy's issuer"));
        }
        if !self.audiences.is_empty() {
            let meant = claims.get("aud").map(elements).unwrap_or_default();
            if !meant.iter().any(|own| self.audiences.contains(own)) {
                return Err(Denial::invalid("audience", "the token is for none of `audiences`"));
            }
        }
        let leeway = LEEWAY.as_secs_f64();
        let until = time(&claims, "exp")?.unwrap_or(f64::INFINITY);
        if now >= until + leeway {
            return Err(expired());
        }
        if time(&claims, "nbf")?.is_some_and(|begins| begins > now + leeway) {
            return Err(Denial::invalid("not_yet_valid", "the token is not yet valid (`nbf`)"));
        }
        let confirmation = Confirmation::parse(claims.get("cnf"))?;
        // RFC 9449 §6.2: such a token is bound to a key, and a server that does not say to which lets it be anybody's.
        let is_bound = claims
            .get("token_type")
            .and_then(Value::as_str)
            .is_some_and(|own| own.eq_ignore_ascii_case("dpop"));
        if is_bound && confirmation.key.is_none() {
            let why =
                "the server says that the token is bound to a key (`token_type`), and not to which (`cnf`)";
            return Err(Denial::invalid("binding", why));
        }
        let confirmation = Arc::new(confirmation);
        Ok(Verdict::Known { identity: Arc::new(self.identity(claims)?), confirmation, until })
    }

    /// Whose it is: `sub`, or the name that its owner goes by, or the client that it was issued to.
    fn identity(&self, claims: Map<String, Value>) -> Result<Identity, Denial> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        if ["sub", "username", "client_id", "iss"]
            .iter()
            .any(|name| claims.get(*name).is_some_and(|value| !value.is_string()))
        {
            return Err(Denial::invalid("claims", "a member of the answer that must be a text is none"));
        }
        let id = ["sub", "username", "client_id"].iter().find_map(|name| text(name));
        let Some(id) = id else {
            let why = "the answer has no `sub`, `username` or `client_id`: nobody is known by it";
            return Err(Denial::invalid("claims", why));
        };
        let mut identity = Identity::new(id, Method::Introspection, Arc::clone(&self.policy));
        identity.issuer = text("iss").map(Into::into).or_else(|| self.issuer.clone());
        identity.scopes = claims.get("scope").map(|scope| words(scope).into()).unwrap_or_default();
        identity.groups = claims.get("groups").map(elements).unwrap_or_default();
        identity.caller = text("client_id").map(Into::into);
        identity.claims = claims.into();
        Ok(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: f64 = 1_795_550_400.0;

    fn rules() -> Rules {
        Rules {
            policy: "auth.opaque".into(),
            issuer: Some("https://a.example".into()),
            audiences: Box::new(["orders".into(), "carts".into()]),
        }
    }

    fn read(rules: &Rules, body: &str) -> Result<Verdict, &'static str> {
        rules.read(body.as_bytes(), NOW)
    }

    #[test]
    fn a_token_is_good_when_the_answer_says_so_and_it_is_for_us() {
        let whole = r#"{"active": true, "iss": "https://a.example", "aud": ["other", "carts"], "exp": 1795550460, "nbf": 1795550420,
            "sub": "ann", "username": "Ann", "client_id": "shop", "scope": "a:read  b", "groups": ["g"], "tenant": "acme"}"#;
        let Ok(Verdict::Known { identity, until, confirmation }) = read(&rules(), whole) else { panic!() };
        assert_eq!(until, 1_795_550_460.0);
        assert_eq!((&*identity.id, identity.caller.as_deref()), ("ann", Some("shop")));
        assert_eq!(identity.method, Method::Introspection);
        assert_eq!(identity.issuer.as_deref(), Some("https://a.example"));
        assert!(identity.has_scope("a:read") && identity.has_scope("b") && identity.scopes.len() == 2);
        assert_eq!(identity.claim("tenant").unwrap(), "acme");
        assert_eq!(*confirmation, Confirmation::default());
        let open = Rules { issuer: None, audiences: Box::default(), ..rules() };
        let id = |body| match read(&open, body) {
            Ok(Verdict::Known { identity, .. }) => identity.id.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(id(r#"{"active": true, "username": "Ann", "client_id": "shop"}"#), "Ann");
        assert_eq!(id(r#"{"active": true, "client_id": "shop", "sub": ""}"#), "shop");
    }

    #[test]
    fn whatever_is_missing_or_mistyped_refuses() {
        for (members, reason) in [
            ("", "issuer"),
            (r#", "iss": "https://b.example", "aud": "orders", "sub": "a""#, "issuer"),
            (r#", "iss": ["https://a.example"], "aud": "orders", "sub": "a""#, "issuer"),
            (r#", "iss": "https://a.example", "sub": "a""#, "audience"),
            (r#", "iss": "https://a.example", "aud": "order", "sub": "a""#, "audience"),
            (r#", "iss": "https://a.example", "aud": ["orders", 1], "sub": "a""#, "audience"),
            (r#", "iss": "https://a.example", "aud": "orders", "sub": "a", "exp": 1795550370"#, "expired"),
            (r#", "iss": "https://a.example", "aud": "orders", "sub": "a", "exp": "1795550500""#, "claims"),
            (
                r#", "iss": "https://a.example", "aud": "orders", "sub": "a", "nbf": 1795550431"#,
                "not_yet_valid",
            ),
            (r#", "iss": "https://a.example", "aud": "orders""#, "claims"),
            (r#", "iss": "https://a.example", "aud": "orders", "sub": 7"#, "claims"),
            (r#", "iss": "https://a.example", "aud": "orders", "sub": "a", "token_type": "DPoP""#, "binding"),
            (r#", "iss": "https://a.example", "aud": "orders", "sub": "a", "cnf": {"x5t": "AA"}"#, "binding"),
            (
                r#", "iss": "https://a.example", "aud": "orders", "sub": "a", "token_type": "Refresh""#,
                "token_type",
            ),
            (
                r#", "iss": "https://a.example", "aud": "orders", "sub": "a", "token_type": "Bearer", "typ": "ID""#,
                "token_type",
            ),
        ] {
            match read(&rules(), &format!("{{\"active\": true{members}}}")) {
                Ok(Verdict::Refused(denial)) => assert_eq!(denial.reason, reason, "{members}"),
                other => panic!("{members}: {other:?}"),
            }
        }
        // A list of scopes is not the RFC's, and says the same.
        let listed = r#"{"active": true, "iss": "https://a.example", "aud": "orders", "sub": "a", "scope": ["x", "y"]}"#;
        match read(&rules(), listed) {
            Ok(Verdict::Known { identity, .. }) => {
                assert!(identity.has_scope("y") && identity.scopes.len() == 2)
            }
            other => panic!("{other:?}"),
        }
        match read(&rules(), r#"{"active": false, "sub": "a"}"#) {
            Ok(Verdict::Refused(denial)) => assert_eq!(denial.reason, "inactive"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_answer_is_a_failure_of_the_server() {
        for body in [
            "",
            "[]",
            "true",
            "{}",
            "<html>",
            r#"{"active": "true"}"#,
            r#"{"active": 1}"#,
            r#"{"active": null}"#,
            r#"{"active": false, "active": true}"#,
            r#"{"Active": true}"#,
            r#"{"active": true} x"#,
        ] {
            assert!(read(&rules(), body).is_err(), "{body}");
        }
    }
}
