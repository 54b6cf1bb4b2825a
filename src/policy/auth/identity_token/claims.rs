//! What a token says of an identity.
//!
//! | claim | |
//! |---|---|
//! | `iss` `aud` `iat` `exp` `jti` | the gateway, the route's service, times, an id (RFC 7519 §4.1) |
//! | `sub` | the identity; unique for its `origin` |
//! | `origin` | `method` it was proved by, `policy`, `issuer` where another vouches for it, `key`: the id of an API key |
//! | `scope` | with a space between them (RFC 8693 §4.2) |
//! | `groups` | a list (RFC 9068 §2.2.3.1) |
//! | `plan` | its usage plan |
//! | `client_id` | the application that calls (RFC 8693 §4.3) |
//! | `claims` | those that the route names, by the names that it gives them |

use serde::Serialize;

use crate::identity::Identity;

/// Writes `"iss":…,"aud":…`, and the brace in front: what is the same for all tokens of a route.
pub(super) fn begin(issuer: &str, audience: &str) -> Box<[u8]> {
    let mut text = Vec::new();
    text.push(b'{');
    member(&mut text, "iss", issuer);
    text.push(b',');
    member(&mut text, "aud", audience);
    text.into()
}

/// Goes on with what is the same for all tokens of an identity on a route; nothing of it depends on the time.
pub(super) fn identity(of: &Identity, claims: &[Box<str>], text: &mut Vec<u8>) {
    text.push(b',');
    member(text, "sub", &*of.id);
    text.extend_from_slice(b",\"origin\":{");
    member(text, "method", of.method.as_str());
    text.push(b',');
    member(text, "policy", of.policy.strip_prefix("auth.").unwrap_or(&of.policy));
    for (name, value) in [("issuer", of.issuer.as_deref()), ("key", of.key_id.as_deref())] {
        if let Some(value) = value {
            text.push(b',');
            member(text, name, value);
        }
    }
    text.push(b'}');
    scopes(of, text);
    if !of.groups.is_empty() {
        text.push(b',');
        member(text, "groups", &of.groups);
    }
    for (name, value) in [("plan", of.plan.as_deref()), ("client_id", of.caller.as_deref())] {
        if let Some(value) = value {
            text.push(b',');
            member(text, name, value);
        }
    }
    let mut found = claims.iter().filter_map(|name| Some((name, of.claim(name)?)));
    if let Some((name, value)) = found.next() {
        text.extend_from_slice(b",\"claims\":{");
        member(text, name, value);
        for (name, value) in found {
            text.push(b',');
            member(text, name, value);
        }
        text.push(b'}');
    }
}

/// A scope with a space in it would be two: it is none (RFC 6749 §3.3), and is left out.
fn scopes(of: &Identity, text: &mut Vec<u8>) {
    let is_one = |scope: &&str| {
        !scope.is_empty() && scope.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
    };
    let mut scopes = of.scopes.iter().map(|scope| &**scope).filter(is_one);
    let Some(first) = scopes.next() else { return };
    text.extend_from_slice(b",\"scope\":\"");
    text.extend_from_slice(first.as_bytes());
    for scope in scopes {
        text.push(b' ');
        text.extend_from_slice(scope.as_bytes());
    }
    text.push(b'"');
}

/// Ends with what is of one token alone.
pub(super) fn end(made: u64, expires: u64, jti: &str, text: &mut Vec<u8>) {
    for (name, time) in [("iat", made), ("exp", expires)] {
        text.push(b',');
        member(text, name, &time);
    }
    text.push(b',');
    member(text, "jti", jti);
    text.push(b'}');
}

/// `"name":value`, both as JSON has them, whatever stands in them.
fn member<V: Serialize + ?Sized>(text: &mut Vec<u8>, name: &str, value: &V) {
    let before = text.len();
    let written = serde_json::to_writer(&mut *text, name).and_then(|()| {
        text.push(b':');
        serde_json::to_writer(&mut *text, value)
    });
    // A vector takes everything, and every text and every value that was read is JSON.
    if written.is_err() {
        text.truncate(before);
        text.extend_from_slice(b"\"-\":null");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::identity::Method;

    fn written(of: &Identity, claims: &[&str]) -> Value {
        let claims: Vec<Box<str>> = claims.iter().map(|name| (*name).into()).collect();
        let mut text = begin("https://gw.example.com", "orders").to_vec();
        identity(of, &claims, &mut text);
        end(100, 160, "id", &mut text);
        serde_json::from_slice(&text)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&text)))
    }

    #[test]
    fn a_token_says_who_it_is_and_how_that_was_proved() {
        let mut of = Identity::new("alice", Method::Jwt, "auth.staff".into());
        let least = json!({
            "iss": "https://gw.example.com", "aud": "orders", "sub": "alice",
            "origin": {"method": "jwt", "policy": "staff"}, "iat": 100, "exp": 160, "jti": "id",
        });
        assert_eq!(written(&of, &["tenant"]), least);
        of.issuer = Some("https://id.example.com".into());
        of.scopes = ["orders:read", "a b", "", "c\"d", "e\u{e9}", "x"].map(Into::into).into();
        of.groups = ["staff of the house", "g\"\\\n"].map(Into::into).into();
        of.plan = Some("gold".into());
        of.caller = Some("shop".into());
        of.key_id = Some("k1".into());
        of.claims =
            json!({"tenant": {"id": 7, "x": [1.5, null]}, "email": "a@b", "secret": "s", "a.b": true})
                .as_object()
                .unwrap()
                .clone()
                .into();
        let full = json!({
            "iss": "https://gw.example.com", "aud": "orders", "sub": "alice",
            "origin": {"method": "jwt", "policy": "staff", "issuer": "https://id.example.com", "key": "k1"},
            "scope": "orders:read x", "groups": ["staff of the house", "g\"\\\n"], "plan": "gold", "client_id": "shop",
            "claims": {"tenant.id": 7, "a.b": true, "tenant": {"id": 7, "x": [1.5, null]}},
            "iat": 100, "exp": 160, "jti": "id",
        });
        assert_eq!(written(&of, &["none", "tenant.id", "a.b", "tenant", "tenant.no"]), full);
    }

    proptest! {
        /// Whatever stands in an identity, a token says that and nothing else.
        #[test]
        fn no_text_says_more_than_itself(id in ".*", issuer in ".*", group in ".*", scope in ".*", name in "[^.]+", value in ".*") {
            let mut of = Identity::new(id.as_str(), Method::ApiKey, Arc::from("auth.\"x"));
            of.issuer = Some(issuer.as_str().into());
            of.groups = Box::new([group.as_str().into()]);
            of.scopes = Arc::new([scope.as_str().into()]);
            of.claims.insert(name.clone(), value.as_str().into());
            let found = written(&of, &[&name]);
            prop_assert_eq!(&found["sub"], &json!(id));
            prop_assert_eq!(&found["origin"]["issuer"], &json!(issuer));
            prop_assert_eq!(&found["groups"], &json!([group]));
            prop_assert_eq!(&found["claims"], &json!({name: value}));
            prop_assert_eq!(&found["aud"], "orders");
            let is_scope = !scope.is_empty() && scope.chars().all(|c| ('!'..='~').contains(&c) && c != '"' && c != '\\');
            prop_assert_eq!(found.get("scope").is_some(), is_scope);
        }
    }
}
