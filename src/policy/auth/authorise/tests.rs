use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::identity;
use crate::policy::auth::{jwt, testing};

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
        // A dot leads into a nested claim; a name with a dot of its own comes before.
        ("claims: {a.b: {equals: nested}}", Some("claim")),
        ("claims: {a.b: {equals: flat}}", None),
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

/// A tenant of 64 bits is that tenant and not its neighbour, which is the same double.
#[test]
fn numbers_are_compared_exactly() {
    let of = |text: &str| {
        let claims = jwt::json::object(format!("{{\"t\": {text}, \"l\": [\"a\", {text}]}}").as_bytes());
        identity(Value::Object(claims.unwrap()))
    };
    for (wanted, same, others) in [
        (
            "1234567890123456789",
            &["1234567890123456789"][..],
            &[
                "1234567890123456788",
                "1234567890123456790",
                "1234567890123456768",
                "1.2345678901234568e18",
                "1234567890123456789.0",
                "\"1234567890123456789\"",
            ][..],
        ),
        ("1234567890123456768", &["1234567890123456768"], &["1234567890123456789", "1.2345678901234568e18"]),
        (
            "9007199254740993",
            &["9007199254740993"],
            &["9007199254740992", "9007199254740992.0", "9007199254740994"],
        ),
        ("9007199254740991", &["9007199254740991", "9007199254740991.0"], &["9007199254740992"]),
        (
            "-9223372036854775808",
            &["-9223372036854775808"],
            &["-9223372036854775807", "-9.223372036854775808e18", "9223372036854775808"],
        ),
        (
            "18446744073709551615",
            &["18446744073709551615"],
            &["18446744073709551614", "18446744073709551616", "-1"],
        ),
        ("3", &["3", "3.0", "3e0"], &["3.5", "\"3\"", "true"]),
        ("0", &["0", "-0", "0.0"], &["false", "null"]),
    ] {
        for (claim, refused) in
            same.iter().map(|claim| (claim, None)).chain(others.iter().map(|claim| (claim, Some("claim"))))
        {
            for yaml in [
                format!("claims: {{t: {{equals: {wanted}}}}}"),
                format!("claims: {{t: {{any_of: [7, {wanted}]}}}}"),
                format!("claims: {{l: {{contains: {wanted}}}}}"),
            ] {
                assert_eq!(check(&yaml, &of(claim)), refused, "{yaml}: {claim}");
            }
            // The language's own whole numbers have a sign, or a `u` behind them.
            let unsigned = if wanted.len() == 20 && !wanted.starts_with('-') { "u" } else { "" };
            let when = format!("when: 'jwt.claims.t == {wanted}{unsigned}'");
            assert_eq!(check(&when, &of(claim)), refused.map(|_| "expression"), "{when}: {claim}");
        }
    }
}

#[test]
fn what_cannot_be_a_condition_is_an_error_at_load() {
    for (yaml, part) in [
        ("claims: {a: {equals: 18446744073709551616}}", "too large to be told"),
        ("claims: {a: {contains: 1.2345678901234568e18}}", "too large to be told"),
        ("claims: {a: {any_of: [a, 9007199254740993.0]}}", "too large to be told"),
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
        ("when: 'client != \"192.0.2.7\"'", "`client` is an object"),
        ("when: '!(client == \"192.0.2.7\")'", "`client` is an object"),
        ("when: '!(client in [\"192.0.2.7\"])'", "`client` is an object"),
        ("when: '!(\"192.0.2.7\" in client)'", "`client` is an object"),
        ("when: client[\"address\"] == \"a\"", "`client` has other members"),
        ("when: client[method] == \"a\"", "`client` has other members"),
        ("when: '!(client.ip in [7, true])'", "a text is compared with a number"),
        ("when: client.ip != 7", "a text is compared with a number"),
        ("when: identity != \"alice\"", "`identity` is an object"),
        ("when: '!(identity in [\"alice\"])'", "`identity` is an object"),
        ("when: '!(\"alice\" in identity)'", "`identity` is an object"),
        ("when: identity.scopes != \"a\"", "a list is compared with a text"),
        ("when: '!(\"a\" == identity.groups)'", "a text is compared with a list"),
        ("when: '!(identity.groups in [\"a\"])'", "a list is compared with a text"),
        ("when: '!(1 in identity.groups)'", "a number is compared with a text"),
        ("when: identity[\"plan\"] != null", "a text is compared with null"),
        ("when: jwt != \"x\"", "`jwt` is an object"),
        ("when: jwt.claims != \"x\"", "an object is compared with a text"),
        ("when: jwt.claims != identity.claims.x", "an object is compared with"),
        ("when: '!(jwt.claims in [\"x\"])'", "an object is compared with a text"),
        ("when: route != \"a\"", "`route` is an object"),
        ("when: '!(1 in route)'", "a number is compared with a text"),
        ("when: labels != \"a\"", "`labels` is an object"),
        ("when: headers != \"x\"", "`headers` is an object"),
        ("when: headers == headers", "`headers` is an object"),
        ("when: size(headers) > 1", "`headers` is an object"),
        ("when: '!headers.exists(h, h == \"x-a\")'", "`headers` is an object"),
        ("when: '!(\"X-A\" in headers)'", "small letters"),
        ("when: headers[\"X-A\"] == \"1\"", "small letters"),
        ("when: headers[route.tenant] == \"1\"", "small letters"),
        ("when: '!(method in headers)'", "small letters"),
        ("when: '!has(headers.XA)'", "small letters"),
        ("when: now != \"1\"", "a number is compared with a text"),
        ("when: (method == \"GET\") != \"true\"", "true or false is compared with a text"),
        ("when: '!(\"a\" in method)'", "a text is compared with a text"),
        ("when: 'identity.groups.exists(client, client != \"a\")'", "called `client`"),
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

#[test]
fn what_an_expression_speaks_of_is_known_at_load() {
    let all = "when: 'headers.a == \"x\" || (has(headers.b) ? headers[\"x-c\"] : method) == \"x\" || !(\"x-d\" in headers) \
               || identity.groups.exists(g, g == headers[\"x-e\"])'";
    assert_eq!(conditions(all).unwrap().fields(), ["a", "b", "x-c", "x-d", "x-e"]);
    for (when, refused) in [
        (
            "!(\"x-other\" in headers) && \"x-kind\" in headers && \"tenant\" in route && !(\"x\" in labels)",
            None,
        ),
        (
            "\"tenant\" in jwt.claims && jwt.claims.tenant != \"other\" && jwt.claims[\"tenant\"] in [route.tenant]",
            None,
        ),
        ("identity.groups == [\"staff\"] && size(identity.groups) == 1 && !(\"a\" in identity.groups)", None),
        (
            "labels.exists(name, name == \"api\") && identity[\"id\"] != \"bob\" && client[\"ip\"] in [\"192.0.2.7\"]",
            None,
        ),
        ("jwt.claims.level == 3 && jwt.claims.level != \"3\" && now > 0 && now != 3.5", None),
        (
            "1 in [1] + identity.groups && jwt.claims.where == {\"city\": \"a\"} && !(jwt.claims.level in [\"3\"])",
            None,
        ),
        ("client.ip in [jwt.claims.tenant, \"192.0.2.7\"]", None),
        ("jwt.claims.none == null && (method == \"GET\" ? path : host) != \"\"", None),
        ("client.ip != \"192.0.2.7\"", Some("expression")),
    ] {
        let alice = identity(json!({"tenant": "acme", "level": 3, "none": null, "where": {"city": "a"}}));
        assert_eq!(check(&format!("when: '{when}'"), &alice), refused, "{when}");
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
