//! What a verified token must say (RFC 7519 §4, RFC 9068 §4, RFC 8725 §3), and whose it is then.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use super::binding::Confirmation;
use super::config::{AudienceClaim, TokenKind};
use super::kind;
use crate::identity::{Identity, Method, claim_in};
use crate::policy::auth::Denial;
use crate::reply::Kind;

/// The last second of the year 9999. Whoever means milliseconds, or for ever, is beyond.
const LATEST: f64 = 253_402_300_799.0;
/// What tokens must say.
#[derive(Debug)]
pub(super) struct Rules {
    /// `auth.NAME`
    pub(super) policy: Arc<str>,
    pub(super) issuer: Box<str>,
    pub(super) audiences: Box<[Box<str>]>,
    pub(super) audience_claim: AudienceClaim,
    pub(super) kind: TokenKind,
    pub(super) leeway: Duration,
    pub(super) max_age: Option<Duration>,
    pub(super) subject_claim: Box<str>,
    pub(super) scope_claims: Box<[Box<str>]>,
    pub(super) groups_claim: Box<str>,
    pub(super) plan_claim: Option<Box<str>>,
}

/// A token that is good, as far as it tells.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) identity: Identity,
    /// Until when, with the leeway, in seconds since 1970.
    pub(super) until: f64,
    /// Its own id.
    pub(super) jti: Option<Box<str>>,
    /// Whom it is bound to.
    pub(super) confirmation: Confirmation,
}

impl Rules {
    /// Checks the claims of a token whose header says that it is of this `kind` (`typ`).
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(super) fn check(
        &self,
        kind: Option<&str>,
        claims: Map<String, Value>,
        now: SystemTime,
    ) -> Result<Accepted, Denial> {
        self.is_of_kind(kind, &claims)?;
        match claims.get("iss") {
            Some(Value::String(issuer)) if **issuer == *self.issuer => {}
            Some(Value::String(_)) => {
                return Err(Denial::invalid("issuer", "`iss` is not the policy's issuer"));
            }
            _ => return Err(claim("`iss` is missing, or no text")),
        }
        self.is_for_us(&claims)?;
        let until = self.is_timely(&claims, seconds(now))?;
        let jti = optional_text(&claims, "jti")?.map(Into::into);
        let confirmation = Confirmation::parse(claims.get("cnf"))?;
        Ok(Accepted { identity: self.identity(claims)?, until, jti, confirmation })
    }

    fn is_of_kind(&self, typ: Option<&str>, claims: &Map<String, Value>) -> Result<(), Denial> {
        let is = |wanted: &str| typ.is_some_and(|typ| typ.eq_ignore_ascii_case(wanted));
        let good = match self.kind {
            TokenKind::Any => return Ok(()),
            TokenKind::AtJwt => is("at+jwt"),
            TokenKind::IdentityToken => is(crate::policy::auth::identity_token::TYPE),
            TokenKind::AccessToken => typ.is_none() || is("at+jwt") || is("jwt"),
        };
        if !good {
            return Err(Denial::invalid(
                "token_type",
                "the token's `typ` is not one that the policy's `type` takes",
            ));
        }
        let is_said = is("at+jwt") || self.kind == TokenKind::IdentityToken;
        if kind::is_of_another(is_said, claims) {
            let why = "it is an ID token, one to refresh or to log out by, or another kind, by its claims, and no access token";
            return Err(Denial::invalid("token_type", why));
        }
        Ok(())
    }

    fn is_for_us(&self, claims: &Map<String, Value>) -> Result<(), Denial> {
        let ours = |text: &str| self.audiences.iter().any(|own| **own == *text);
        let name = self.audience_claim;
        let found = match (name, claims.get(name.as_str())) {
            (_, Some(Value::String(text))) => ours(text),
            (AudienceClaim::Aud, Some(Value::Array(list))) => {
                if list.is_empty() || !list.iter().all(Value::is_string) {
                    return Err(claim("`aud` is a list of something else than texts"));
                }
                list.iter().filter_map(Value::as_str).any(ours)
            }
            _ => return Err(claim("the claim with the audience is missing, or of another type")),
        };
        if found { Ok(()) } else { Err(Denial::invalid("audience", "the token is for none of `audiences`")) }
    }

    /// Until when it is good.
    fn is_timely(&self, claims: &Map<String, Value>, now: f64) -> Result<f64, Denial> {
        let leeway = self.leeway.as_secs_f64();
        let Some(expires) = time(claims, "exp")? else { return Err(claim("`exp` is missing")) };
        let (begins, issued) = (time(claims, "nbf")?, time(claims, "iat")?);
        let mut until = expires + leeway;
        if now >= until {
            return Err(expired());
        }
        if begins.is_some_and(|begins| begins > now + leeway) {
            return Err(Denial::invalid("not_yet_valid", "the token is not yet valid (`nbf`)"));
        }
        if issued.is_some_and(|issued| issued > now + leeway) {
            return Err(Denial::invalid("not_yet_valid", "the token was issued in the future (`iat`)"));
        }
        if let Some(age) = self.max_age {
            let Some(issued) = issued else { return Err(claim("`iat` is missing, which `max_age` needs")) };
            until = until.min(issued + age.as_secs_f64() + leeway);
            if now >= until {
                return Err(Denial::new(Kind::ExpiredToken, "too_old", "the token is older than `max_age`")
                    .with_error("invalid_token"));
            }
        }
        Ok(until)
    }

    fn identity(&self, claims: Map<String, Value>) -> Result<Identity, Denial> {
        let id = match claims.get(&*self.subject_claim) {
            Some(Value::String(id)) if !id.is_empty() => id.as_str(),
            _ => return Err(claim("the claim with the subject is missing, empty, or no text")),
        };
        let mut identity = Identity::new(id, Method::Jwt, Arc::clone(&self.policy));
        identity.issuer = Some(self.issuer.clone());
        let scopes = self.scope_claims.iter().find_map(|name| claims.get(&**name));
        identity.scopes = scopes.map(|scopes| words(scopes).into()).unwrap_or_default();
        identity.groups = claim_in(&claims, &self.groups_claim).map(elements).unwrap_or_default();
        let plan = self.plan_claim.as_deref().and_then(|name| claim_in(&claims, name));
        identity.plan = plan.and_then(Value::as_str).map(Into::into);
        let caller = ["client_id", "azp"].iter().find_map(|name| claims.get(*name).and_then(Value::as_str));
        identity.caller = caller.map(Into::into);
        identity.claims = claims.into();
        Ok(identity)
    }
}

/// A token that was good and is no longer.
pub(in crate::policy::auth) fn expired() -> Denial {
    Denial::new(Kind::ExpiredToken, "expired", "the token has expired").with_error("invalid_token")
}

/// Seconds since 1970.
pub(in crate::policy::auth) fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn claim(why: &'static str) -> Denial {
    Denial::invalid("claims", why)
}

/// A NumericDate (RFC 7519 §2): a number, with a fraction if it likes, between 1970 and 9999.
pub(in crate::policy::auth) fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, Denial> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => match number.as_f64() {
            Some(time) if (0.0..=LATEST).contains(&time) => Ok(Some(time)),
            _ => Err(claim("a time is before 1970 or after 9999")),
        },
        Some(_) => Err(claim("a time is no number")),
    }
}

pub(super) fn optional_text<'c>(
    claims: &'c Map<String, Value>,
    name: &str,
) -> Result<Option<&'c str>, Denial> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(claim("a claim that must be a text is none")),
    }
}

/// Words of a text (RFC 8693 §4.2), or elements of a list; none of what is neither.
pub(in crate::policy::auth) fn words(value: &Value) -> Box<[Box<str>]> {
    match value {
        Value::String(text) => text.split(' ').filter(|word| !word.is_empty()).map(Into::into).collect(),
        other => elements(other),
    }
}

/// Elements of a list of texts, or a text; none where one is no text.
pub(in crate::policy::auth) fn elements(value: &Value) -> Box<[Box<str>]> {
    match value {
        Value::String(text) => Box::new([text.as_str().into()]),
        Value::Array(list) if list.iter().all(Value::is_string) => {
            list.iter().filter_map(Value::as_str).map(Into::into).collect()
        }
        _ => Box::default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tokens::{self, AUDIENCE, ISSUER};
    use super::*;

    fn rules() -> Rules {
        Rules {
            policy: "auth.staff".into(),
            issuer: ISSUER.into(),
            audiences: Box::new([AUDIENCE.into(), "billing".into()]),
            audience_claim: AudienceClaim::Aud,
            kind: TokenKind::AccessToken,
            leeway: Duration::from_secs(30),
            max_age: None,
            subject_claim: "sub".into(),
            scope_claims: Box::new(["scope".into(), "scp".into()]),
            groups_claim: "realm_access.roles".into(),
            plan_claim: Some("plan".into()),
        }
    }

    fn told_by(rules: &Rules, kind: Option<&str>, other: &Value) -> &'static str {
        let claims = tokens::claims(other).as_object().unwrap().clone();
        rules.check(kind, claims, SystemTime::now()).map_or_else(|denial| denial.reason, |_| "good")
    }

    fn told(other: &Value) -> &'static str {
        told_by(&rules(), Some("at+jwt"), other)
    }

    #[test]
    fn claims_must_be_there_and_of_their_type() {
        let now = tokens::now();
        let rows = [
            (json!({}), "good"),
            (json!({"iss": null}), "claims"),
            (json!({"iss": 1}), "claims"),
            (json!({"iss": [ISSUER]}), "claims"),
            (json!({"iss": "https://id.example.com/"}), "issuer"),
            (json!({"iss": "HTTPS://id.example.com"}), "issuer"),
            (json!({"iss": ""}), "issuer"),
            (json!({"aud": null}), "claims"),
            (json!({"aud": 1}), "claims"),
            (json!({"aud": []}), "claims"),
            (json!({"aud": {}}), "claims"),
            (json!({"aud": [AUDIENCE, 1]}), "claims"),
            (json!({"aud": [[AUDIENCE]]}), "claims"),
            (json!({"aud": ""}), "audience"),
            (json!({"aud": "Orders"}), "audience"),
            (json!({"aud": "orders billing"}), "audience"),
            (json!({"aud": ["other"]}), "audience"),
            (json!({"aud": ["other", "billing"]}), "good"),
            (json!({"sub": null}), "claims"),
            (json!({"sub": ""}), "claims"),
            (json!({"sub": 7}), "claims"),
            (json!({"exp": null}), "claims"),
            (json!({"exp": "9999999999"}), "claims"),
            (json!({"exp": true}), "claims"),
            (json!({"exp": [now + 100]}), "claims"),
            (json!({"exp": -1}), "claims"),
            (json!({"exp": 1e300}), "claims"),
            (json!({"exp": u64::MAX}), "claims"),
            (json!({"exp": now * 1000}), "claims"),
            (json!({"exp": 0}), "expired"),
            (json!({"exp": now - 31}), "expired"),
            (json!({"exp": now - 20}), "good"),
            (json!({"exp": now as f64 + 100.5}), "good"),
            (json!({"exp": now as f64 - 31.5}), "expired"),
            (json!({"nbf": now + 20}), "good"),
            (json!({"nbf": now + 60}), "not_yet_valid"),
            (json!({"nbf": "0"}), "claims"),
            (json!({"iat": now + 60}), "not_yet_valid"),
            (json!({"iat": "0"}), "claims"),
            (json!({"iat": null}), "good"),
            (json!({"jti": 1}), "claims"),
            (json!({"jti": null}), "good"),
            (json!({"cnf": "x"}), "binding"),
        ];
        for (other, expected) in rows {
            assert_eq!(told(&other), expected, "{other}");
        }
    }

    #[test]
    fn a_token_is_too_old_by_its_age() {
        let now = tokens::now();
        let rules = Rules { max_age: Some(Duration::from_secs(300)), ..rules() };
        for (other, expected) in [
            (json!({"iat": now - 320}), "good"),
            (json!({"iat": now - 331}), "too_old"),
            (json!({"iat": 0}), "too_old"),
            (json!({"iat": null}), "claims"),
        ] {
            assert_eq!(told_by(&rules, None, &other), expected, "{other}");
        }
        // What is remembered ends by its age too.
        let claims = tokens::claims(&json!({"iat": now - 100, "exp": now + 1000}));
        let accepted = rules.check(None, claims.as_object().unwrap().clone(), SystemTime::now()).unwrap();
        assert!((accepted.until - (now + 230) as f64).abs() < 1e-6, "{}", accepted.until);
    }

    #[test]
    fn another_kind_of_token_is_no_access_token() {
        let none = json!({});
        for (kind, access, at_jwt) in [
            (None, "good", "token_type"),
            (Some("JWT"), "good", "token_type"),
            (Some("jwt"), "good", "token_type"),
            (Some("at+jwt"), "good", "good"),
            (Some("AT+JWT"), "good", "good"),
            (Some("id+jwt"), "token_type", "token_type"),
            (Some("logout+jwt"), "token_type", "token_type"),
            (Some("dpop+jwt"), "token_type", "token_type"),
            (Some(""), "token_type", "token_type"),
        ] {
            assert_eq!(told_by(&rules(), kind, &none), access, "{kind:?}");
            assert_eq!(
                told_by(&Rules { kind: TokenKind::AtJwt, ..rules() }, kind, &none),
                at_jwt,
                "{kind:?}"
            );
            assert_eq!(told_by(&Rules { kind: TokenKind::Any, ..rules() }, kind, &none), "good", "{kind:?}");
        }
        for id_token in [
            json!({"nonce": "n"}),
            json!({"at_hash": "x"}),
            json!({"c_hash": "x"}),
            json!({"token_use": "id"}),
            json!({"typ": "ID"}),
            json!({"typ": "Refresh"}),
            json!({"token_use": "refresh"}),
            json!({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}),
        ] {
            assert_eq!(told_by(&rules(), Some("JWT"), &id_token), "token_type", "{id_token}");
        }
        assert_eq!(told(&json!({"token_use": "access", "typ": "Bearer"})), "good");
        // What says that it is one may have a `nonce` too: by its header, or by a word of its issuer's.
        assert_eq!(told(&json!({"nonce": "n"})), "good");
        assert_eq!(told_by(&rules(), Some("JWT"), &json!({"nonce": "n", "typ": "Bearer"})), "good");
        assert_eq!(
            told_by(&Rules { kind: TokenKind::Any, ..rules() }, Some("JWT"), &json!({"typ": "ID"})),
            "good"
        );
    }

    #[test]
    fn the_audience_may_be_the_client() {
        let rules = Rules {
            audience_claim: AudienceClaim::ClientId,
            audiences: Box::new(["shop".into()]),
            ..rules()
        };
        for (other, expected) in [
            (json!({"aud": null}), "good"),
            (json!({"client_id": "other"}), "audience"),
            (json!({"client_id": ["shop"]}), "claims"),
            (json!({"client_id": null, "aud": "shop"}), "claims"),
        ] {
            assert_eq!(told_by(&rules, None, &other), expected, "{other}");
        }
    }

    #[test]
    fn an_identity_has_what_the_token_says_of_it() {
        let identity = |other: Value| {
            let claims = tokens::claims(&other).as_object().unwrap().clone();
            rules().check(None, claims, SystemTime::now()).unwrap().identity
        };
        let scopes = |other: Value| identity(other).scopes.join("|");
        assert_eq!(scopes(json!({})), "orders:read|orders:write");
        for (other, expected) in [
            (json!({"scope": " a  b "}), "a|b"),
            (json!({"scope": ["a", "b c"]}), "a|b c"),
            (json!({"scope": null, "scp": "a b"}), "a|b"),
            (json!({"scope": null, "scp": ["a"]}), "a"),
            (json!({"scope": ["a", 1], "scp": "b"}), ""),
            (json!({"scope": {"a": true}}), ""),
            (json!({"scope": 1}), ""),
            (json!({"scope": null}), ""),
        ] {
            assert_eq!(scopes(other.clone()), expected, "{other}");
        }
        let whole = identity(json!({"realm_access": {"roles": ["x", "y"]}, "plan": "gold", "azp": "app"}));
        assert_eq!((&*whole.id, whole.issuer.as_deref(), whole.method), ("alice", Some(ISSUER), Method::Jwt));
        assert_eq!(whole.groups.join("|"), "x|y");
        assert_eq!((whole.plan.as_deref(), whole.caller.as_deref()), (Some("gold"), Some("shop")));
        assert_eq!(whole.claims["realm_access"]["roles"][1], "y");
        assert_eq!(&*whole.policy, "auth.staff");
        let literal = identity(json!({"realm_access.roles": "z", "realm_access": {"roles": ["x"]}}));
        assert_eq!(literal.groups.join("|"), "z");
        assert_eq!(identity(json!({"realm_access": "x"})).groups.len(), 0);
    }
}
