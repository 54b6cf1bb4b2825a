use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::identity;
use crate::policy::auth::testing;

fn identity(claims: Value) -> Identity {
    let mut own = Identity::new("alice", identity::Method::Jwt, "auth.staff".into());
    own.scopes = ["orders:read".into(), "orders:write".into()].into();
    own.groups = ["staff".into()].into();
    if let Value::Object(claims) = claims {
        own.claims = claims.into();
    }
    own
}

/// Compiles rules as they would stand in a file.
fn conditions(yaml: &str) -> Result<Conditions, Vec<String>> {
    let mut build = Build::default();
    let rules = crate::config::load_text::<Rules>("rules.yaml", yaml, &|_| None, &mut build);
    let made = rules.map(|rules| Conditions::compile(&Spanned::unwritten(rules), &mut build));
    let errors: Vec<_> = build.errors.errors().iter().map(|error| error.cause.clone()).collect();
    match made {
        Some(made) if errors.is_empty() => Ok(made),
        _ => Err(errors),
    }
}

/// The reason of the refusal; none where the conditions hold.
fn check(yaml: &str, identity: &Identity) -> Option<&'static str> {
    let made = conditions(yaml).unwrap_or_else(|errors| panic!("{yaml}: {errors:?}"));
    testing::asked("GET", "/orders/acme?x=1", &[("x-kind", "test")], |asked| {
        made.check(identity, asked).err().map(|denial| denial.reason)
    })
}

#[test]
fn every_condition_must_hold() {
    let alice = identity(json!({
        "tenant": "acme", "level": 3, "admin": true, "roles": ["reader", "writer"],
        "realm_access": {"roles": ["ops"]}, "https://example.com/tenant": "dotted", "nothing": null,
        "a": {"b": "nested"}, "a.b": "flat", "c.d": "flat", "c": {"x": 1},
    }));
    for (yaml, refused) in [
        ("{}", None),
        ("scopes: [orders:read]", None),
        ("scopes: [orders:read, orders:write]", None),
        ("scopes: [orders:read, orders:delete]", Some("insufficient_scope")),
        ("scopes: [orders]", Some("insufficient_scope")),
        ("groups: [staff, ops]", None),
        ("groups: [ops]", Some("group")),
        ("claims: {tenant: {equals: acme}}", None),
        ("claims: {tenant: {equals: acm}}", Some("claim")),
        ("claims: {level: {equals: 3}}", None),
        ("claims: {level: {equals: '3'}}", Some("claim")),
        ("claims: {admin: {equals: true}}", None),
        ("claims: {admin: {equals: 'true'}}", Some("claim")),
        ("claims: {roles: {contains: writer}}", None),
        ("claims: {roles: {contains: write}}", Some("claim")),
        // A text is no list with its own parts.
        ("claims: {tenant: {contains: acme}}", Some("claim")),
        ("claims: {realm_access.roles: {contains: ops}}", None),
        ("claims: {realm_access.roles.x: {contains: ops}}", Some("claim")),
        ("claims: {'https://example.com/tenant': {equals: dotted}}", None),
        // A dot leads into a nested claim; a name with a dot of its own comes after.
        ("claims: {a.b: {equals: nested}}", None),
        ("claims: {a.b: {equals: flat}}", Some("claim")),
        ("claims: {c.d: {equals: flat}}", None),
        ("claims: {tenant: {any_of: [other, acme]}}", None),
        ("claims: {tenant: {any_of: [other]}}", Some("claim")),
        ("claims: {tenant: {matches: 'ac.e'}}", None),
        // Anchored, whatever is written.
        ("claims: {tenant: {matches: 'cm'}}", Some("claim")),
        ("claims: {tenant: {matches: 'x|acme'}}", None),
        ("claims: {level: {matches: '3'}}", Some("claim")),
        ("claims: {absent: {equals: acme}}", Some("claim")),
        ("claims: {nothing: {equals: acme}}", Some("claim")),
        ("addresses: [192.0.2.0/24]", None),
        ("addresses: ['::ffff:192.0.2.7']", None),
        ("addresses: [198.51.100.0/24, '2001:db8::/32']", Some("address")),
        ("times: [00:00-24:00]", None),
        ("times: ['Mon-Fri 08:00-18:00']", Some("time")),
        ("when: jwt.claims.tenant == route.tenant && method in [\"GET\"]", None),
        // A parameter of the path is what its escapes stand for, once.
        ("when: route.place == \"a b/ü%25\"", None),
        ("when: route.place == \"a%20b%2F%C3%BC%2525\"", Some("expression")),
        ("when: route.odd == \"%FF\"", Some("expression")),
        ("when: method == \"POST\"", Some("expression")),
        ("when: '\"ops\" in jwt.claims.realm_access.roles'", None),
        ("when: 'identity.scopes.exists(s, s.startsWith(\"orders:\"))'", None),
        ("when: identity.id == \"alice\" && identity.method == \"jwt\"", None),
        ("when: 'headers[\"x-kind\"] == \"test\"'", None),
        ("when: client.ip == \"192.0.2.7\" && host == \"api.example.com\"", None),
        ("when: path.startsWith(\"/orders/\") && labels.api == \"orders\"", None),
        ("when: now > 1700000000", None),
        // What is not there, and what has another type, refuses.
        ("when: jwt.claims.absent == \"x\"", Some("expression")),
        ("when: jwt.claims.absent != \"x\"", Some("expression")),
        ("when: jwt.claims.level > \"2\"", Some("expression")),
        ("when: has(jwt.claims.absent)", Some("expression")),
        ("when: '!has(jwt.claims.absent)'", None),
        // What a form does not tell is found when it is evaluated.
        ("when: 'method + path'", Some("expression")),
        ("when: size(1) == 1", Some("expression")),
    ] {
        assert_eq!(check(yaml, &alice), refused, "{yaml}");
    }
}

#[test]
fn what_cannot_be_a_condition_is_an_error_at_load() {
    for (yaml, part) in [
        ("scopes: ['orders read']", "is not a scope"),
        ("claims: {a: {}}", "exactly one of"),
        ("claims: {a: {equals: 1, contains: 1}}", "exactly one of"),
        ("claims: {a: {any_of: []}}", "exactly one of"),
        ("claims: {a: {matches: '('}}", "is not a regular expression"),
        ("claims: {a: {matches: 'acme)|(?:.*'}}", "is not a regular expression"),
        ("addresses: [nowhere]", "nowhere"),
        ("times: [always]", "always"),
        ("when: 'jwt.claims.tenant =='", "is no expression"),
        ("when: user == \"alice\"", "knows no `user`"),
        ("when: no_such_function(method)", "no function `no_such_function`"),
        ("when: method.no_such()", "no function `no_such`"),
        ("when: 'method.matches(\"GET\")'", "no function `matches`"),
        ("when: 'false && (true || path.oops(1) == 2)'", "no function `oops`"),
        ("when: 'identity.scopes.exists(s, s.oops())'", "no function `oops`"),
        ("when: jwt.claim.tenant == \"a\"", "`jwt` has no `claim`"),
        ("when: 'has(identity.name)'", "`identity` has no `name`"),
        ("when: client.address == \"a\"", "`client` has no `address`"),
        ("when: method", "never true"),
        ("when: '[true]'", "never true"),
        ("when: '\"true\"'", "never true"),
        ("when: 1 + 1", "neither true nor false"),
        ("when: '\"a\" + \"b\"'", "neither true nor false"),
        ("groups: ['']", "empty"),
        ("when: '[1, 2].all(a, [1, 2].all(b, a == b))'", "within each other"),
    ] {
        let errors = conditions(yaml).unwrap_err();
        assert!(errors.iter().any(|error| error.contains(part)), "{yaml}: {errors:?}");
    }
    let long = format!("when: 'method == \"{}\"'", "x".repeat(3000));
    assert!(conditions(&long).unwrap_err().iter().any(|error| error.contains("at most")));
}

#[test]
fn what_a_route_must_have_is_known_at_load() {
    for (yaml, expected) in [
        ("{}", &[][..]),
        ("when: jwt.claims.tenant == route.tenant", &[("route", "tenant")]),
        (
            "when: 'labels.stage == \"prod\" && route.a + route.b == \"\"'",
            &[("labels", "stage"), ("route", "a"), ("route", "b")],
        ),
        ("when: '!has(route.a) || route.a == labels.b'", &[("labels", "b")]),
        ("when: 'identity.scopes.exists(s, s == route.a)'", &[("route", "a")]),
        ("when: 'headers[\"x\"] == route[\"a\"]'", &[]),
    ] {
        assert_eq!(conditions(yaml).unwrap().names(), expected, "{yaml}");
    }
}

/// A text that costs as much as one may must not cost much: each piece is gone through once.
#[test]
fn an_expression_ends_soon() {
    let roles: Vec<_> = (0..500).map(|n| format!("role-{n}")).collect();
    let alice = identity(json!({ "roles": roles }));
    let began = Instant::now();
    let refused = check("when: 'jwt.claims.roles.exists(r, r == \"none\" || r.contains(\"zz\"))'", &alice);
    assert_eq!(refused, Some("expression"));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

/// Nor must one that makes much of each element, whatever a token or a client sends.
#[test]
fn what_would_be_made_of_each_element_is_bounded() {
    let roles: Vec<_> = (0..4000).map(|n| format!("{n}")).collect();
    let many = identity(json!({ "roles": roles, "tenant": "acme" }));
    let few = identity(json!({ "roles": ["3", "4"], "allowed": ["4", "5"], "tenant": "acme" }));
    let began = Instant::now();
    for (when, of_few, of_many) in [
        ("jwt.claims.roles.exists(r, r in jwt.claims.allowed)", None, Some("expression")),
        ("jwt.claims.roles.exists(r, r in jwt.claims.roles)", None, Some("expression")),
        ("jwt.claims.roles.map(r, jwt.claims.roles).size() > 0", None, Some("expression")),
        ("jwt.claims.roles.exists(r, [r] + jwt.claims.roles == [])", Some("expression"), Some("expression")),
        ("jwt.claims.roles.exists(r, r == '4')", None, None),
        ("jwt.claims.roles.all(r, r != route.tenant + jwt.claims.tenant)", None, Some("expression")),
        ("jwt.claims.roles.all(r, r != route.tenant + 'x')", None, None),
        ("'4' in jwt.claims.roles", None, None),
    ] {
        assert_eq!(check(&format!("when: \"{when}\""), &few), of_few, "{when}");
        assert_eq!(check(&format!("when: \"{when}\""), &many), of_many, "{when}");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
