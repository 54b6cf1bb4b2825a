//! Who may pass a route: several kinds of credentials, conditions, challenges, and what the upstream is told of who it is.

use serde_json::json;

use crate::harness::tokens::{SigningKey, claims};
use crate::harness::{Origin, Place, Response, Running};

const STAFF: &str = "a secret of staff that has at least 32 bytes";
const SHOP: &str = "a secret of the shop that has at least 32 bytes";

/// Two issuers whose tokens stand in the same place, a third elsewhere, and routes that ask for them.
const FILE: &str = "
    staff: {jwt: {issuer: 'https://id.example.com', audiences: [orders], algorithms: [HS256], keys: {secret: 'STAFF'}}}
    shop: {jwt: {issuer: 'https://shop.example.com', audiences: [orders], algorithms: [HS256], keys: {secret: 'SHOP'}}}
    other:
      jwt:
        issuer: 'https://id.example.com'
        audiences: [orders]
        algorithms: [HS256]
        keys: {secret: 'STAFF'}
        from: {header: x-token}
    asked:
      jwt:
        issuer: 'https://id.example.com'
        audiences: [orders]
        algorithms: [HS256]
        keys: {secret: 'STAFF'}
        from: {query: token}
    trial:
      mode: shadow
      auth_shadow_is_public: true
      jwt: {issuer: 'https://id.example.com', audiences: [orders], algorithms: [HS256], keys: {secret: 'STAFF'}}
  headers:
    who:
      request:
        set: {x-user: '{identity.user}', x-scopes: '{identity.scopes}', x-tenant: '{authorizer.claims.tenant}'}
routes:
  - {name: one, match: {path: '/one/{*rest}'}, auth: staff, respond: {body: one}}
  - {name: any, match: {path: '/any/{*rest}'}, auth: {any_of: [staff, shop, other]}, respond: {body: any}}
  - {name: all, match: {path: '/all/{*rest}'}, auth: {all_of: [staff, other]}, respond: {body: all}}
  - name: scoped
    match: {path: '/scoped/{*rest}'}
    auth: {any_of: [staff, shop], scopes: ['orders:read', 'orders:write']}
    respond: {body: scoped}
  - name: tenants
    match: {path: '/tenants/{tenant}/{*rest}', methods: [GET, POST]}
    auth: {any_of: [staff], when: 'jwt.claims.tenant == route.tenant && method in [\"GET\"]'}
    respond: {body: tenants}
  - {name: open, match: {path: '/open/{*rest}'}, auth: {any_of: [staff], anonymous: true}, headers: [who], upstream: origin}
  - {name: plain, match: {path: '/plain/{*rest}'}, auth: none, upstream: origin}
  - {name: asked, match: {path: '/asked/{*rest}'}, auth: asked, upstream: origin}
  - {name: told, match: {path: '/told/{*rest}'}, auth: staff, headers: [who], upstream: origin}
  - {name: trial, match: {path: '/trial/{*rest}'}, auth: {any_of: [trial], scopes: [admin]}, headers: [who], upstream: origin}
  - {name: free, match: {path: '/free/{*rest}'}, auth: none, respond: {body: free}}
";

fn file(origin: &Origin) -> String {
    let policies = FILE.replace("STAFF", STAFF).replace("SHOP", SHOP);
    format!("upstreams: {{origin: {{servers: ['{}']}}}}\npolicies:\n  auth:{policies}", origin.address())
}

fn start() -> (Origin, Running) {
    let origin = Origin::echo();
    let gateway = Place::new().start(&file(&origin));
    (origin, gateway)
}

fn staff(other: serde_json::Value) -> String {
    SigningKey::secret("HS256", STAFF.as_bytes()).token(&claims(&other))
}

fn shop() -> String {
    let of_the_shop = json!({"iss": "https://shop.example.com", "sub": "bob"});
    SigningKey::secret("HS256", SHOP.as_bytes()).token(&claims(&of_the_shop))
}

fn ask(gateway: &Running, line: &str, fields: &[(&str, &str)]) -> Response {
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    gateway.send(format!("{line} HTTP/1.1\r\nHost: api.example.com\r\n{fields}\r\n"))
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// Status, and the reason in the log.
fn became(gateway: &Running, line: &str, fields: &[(&str, &str)]) -> (u16, String) {
    let response = ask(gateway, line, fields);
    let path = line.split(' ').nth(1).unwrap().split('?').next().unwrap();
    let reason = gateway.access_of(path)["error"]["reason"].as_str().unwrap_or_default().to_owned();
    (response.status, reason)
}

#[test]
fn what_is_presented_must_be_valid_and_something_must_be_presented() {
    let (_origin, gateway) = start();
    let (good, foreign, forged) =
        (bearer(&staff(json!({}))), bearer(&shop()), format!("{}x", bearer(&staff(json!({})))));
    let (own, bad) = (staff(json!({})), format!("{}x", staff(json!({}))));
    for (at, (route, fields, expected)) in [
        ("one", vec![], (401, "missing")),
        ("one", vec![("Authorization", &*good)], (200, "")),
        ("one", vec![("Authorization", &foreign)], (401, "signature")),
        ("any", vec![], (401, "missing")),
        ("any", vec![("Authorization", &good)], (200, "")),
        ("any", vec![("Authorization", &foreign)], (200, "")),
        ("any", vec![("X-Token", &own)], (200, "")),
        // It does not fall through to another kind, whichever comes first.
        ("any", vec![("Authorization", &forged), ("X-Token", &own)], (401, "signature")),
        ("any", vec![("Authorization", &good), ("X-Token", &bad)], (401, "signature")),
        // RFC 6750 §2: of two tokens in two places one would go on unread.
        ("any", vec![("Authorization", &good), ("X-Token", &own)], (401, "several_tokens")),
        ("any", vec![("Authorization", &foreign), ("X-Token", &own)], (401, "several_tokens")),
        ("all", vec![("Authorization", &good)], (401, "missing")),
        ("all", vec![("X-Token", &own)], (401, "missing")),
        ("all", vec![("Authorization", &good), ("X-Token", &own)], (200, "")),
        ("free", vec![("Authorization", &forged)], (200, "")),
        ("open", vec![], (200, "")),
        ("open", vec![("Authorization", &good)], (200, "")),
        ("open", vec![("Authorization", &forged)], (401, "signature")),
        // A token is one also by a scheme that is not taken, or by none: who presents it is not anonymous.
        ("open", vec![("Authorization", &good.replace("Bearer", "DPoP"))], (401, "malformed")),
        ("open", vec![("Authorization", &good.replace("Bearer", "Token"))], (401, "malformed")),
        ("open", vec![("Authorization", &good.replace("Bearer", "JWT"))], (401, "malformed")),
        ("open", vec![("Authorization", &own)], (401, "malformed")),
        ("open", vec![("Authorization", "Basic YTpi")], (200, "")),
        ("one", vec![("Authorization", &good.replace("Bearer", "DPoP"))], (401, "malformed")),
    ]
    .into_iter()
    .enumerate()
    {
        let became = became(&gateway, &format!("GET /{route}/{at}"), &fields);
        assert_eq!((became.0, &*became.1), expected, "row {at}: {route}");
    }
}

#[test]
fn conditions_refuse_with_403_and_say_which_scope_is_wanted() {
    let (_origin, gateway) = start();
    let reader = bearer(&staff(json!({"scope": "orders:read"})));
    let refused = ask(&gateway, "GET /scoped/1", &[("Authorization", &reader)]);
    refused.expect(403);
    let challenge = refused.all("www-authenticate");
    for part in [
        "Bearer realm=\"staff\"",
        "error=\"insufficient_scope\"",
        "scope=\"orders:read orders:write\"",
        "resource_metadata=\"http://api.example.com/.well-known/oauth-protected-resource/scoped/1\"",
    ] {
        assert!(challenge.contains(part), "{challenge}");
    }
    let line = gateway.access_of("/scoped/1");
    assert_eq!(line["error"]["reason"], "insufficient_scope");
    assert_eq!(line["error"]["policy"], "auth.staff");
    // Who it was is known.
    assert!(line["identity"]["user"].is_string(), "{line}");
    assert!(line["error"]["site"].as_str().unwrap().contains("portcullis.yaml:"), "{line}");
    let writer = bearer(&staff(json!({"scope": "orders:write orders:read"})));
    ask(&gateway, "GET /scoped/2", &[("Authorization", &writer)]).expect(200);
    let acme = bearer(&staff(json!({"tenant": "acme"})));
    for (line, expected) in [
        ("GET /tenants/acme/1", (200, "")),
        ("GET /tenants/other/1", (403, "expression")),
        ("POST /tenants/acme/2", (403, "expression")),
    ] {
        let became = became(&gateway, line, &[("Authorization", &acme)]);
        assert_eq!((became.0, &*became.1), expected, "{line}");
    }
    let without = bearer(&staff(json!({})));
    assert_eq!(became(&gateway, "GET /tenants/acme/3", &[("Authorization", &without)]).0, 403);
}

/// An id of 64 bits: as a double it would be its neighbours' too.
#[test]
fn who_has_the_next_number_is_another() {
    let origin = Origin::echo();
    let text = file(&origin).replace(
        "routes:\n",
        "  rate_limits: {each: {key: {claim: tenant}, limit: 1/1h}}
routes:
  - name: number
    match: {path: '/number/{*rest}'}
    auth: {any_of: [staff], claims: {tenant: {any_of: [7, 1234567890123456789]}}}
    headers: [who]
    upstream: origin
  - {name: each, match: {path: '/each/{*rest}'}, auth: staff, rate_limits: [each], respond: {body: each}}
",
    );
    let gateway = Place::new().start(&text);
    let of = |tenant: u64| bearer(&staff(json!({"tenant": tenant})));
    let (own, others) = (1_234_567_890_123_456_789, [1_234_567_890_123_456_788, 1_234_567_890_123_456_790]);
    let passed = ask(&gateway, "GET /number/1", &[("Authorization", &of(own))]);
    assert!(passed.expect(200).text().contains("x-tenant: 1234567890123456789"));
    for other in others {
        let line = format!("GET /number/{other}");
        assert_eq!(became(&gateway, &line, &[("Authorization", &of(other))]), (403, "claim".to_owned()));
    }
    // Each has a limit of its own.
    for (tenant, expected) in [(own, 200), (others[0], 200), (others[1], 200), (own, 429)] {
        ask(&gateway, "GET /each/1", &[("Authorization", &of(tenant))]).expect(expected);
    }
}

#[test]
fn a_challenge_names_every_scheme_once_and_where_its_tokens_come_from() {
    let (_origin, gateway) = start();
    let refused = ask(&gateway, "GET /any/1", &[]);
    refused.expect(401);
    let challenge = refused.all("www-authenticate");
    assert!(
        challenge.contains("Bearer realm=\"staff\"") && challenge.contains("Bearer realm=\"shop\""),
        "{challenge}"
    );
    assert!(!challenge.contains("error="), "no credential was presented: {challenge}");
    let address = "/.well-known/oauth-protected-resource/any/1";
    assert!(challenge.contains(address), "{challenge}");
    let told = ask(&gateway, &format!("GET {address}"), &[]);
    told.expect(200);
    assert_eq!(told.header("content-type"), Some("application/json"));
    let told = told.json();
    assert_eq!(told["resource"], "http://api.example.com/any/1");
    assert_eq!(told["authorization_servers"], json!(["https://id.example.com", "https://shop.example.com"]));
    assert_eq!(told["bearer_methods_supported"], json!(["header"]));
    let allowed = ask(&gateway, &format!("OPTIONS {address}"), &[]);
    allowed.expect(204);
    assert_eq!(allowed.header("allow"), Some("GET, HEAD, OPTIONS"));
    let asked = [("Origin", "https://a.test"), ("Access-Control-Request-Method", "GET")];
    let preflight = ask(&gateway, &format!("OPTIONS {address}"), &asked);
    preflight.expect(204);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("*"));
    assert_eq!(preflight.header("access-control-allow-methods"), Some("GET, HEAD"));
    assert_eq!(preflight.header("access-control-allow-headers"), Some("*"));
    ask(&gateway, "OPTIONS /.well-known/oauth-protected-resource/free/1", &[]).expect(404);
    let scoped = ask(&gateway, "GET /.well-known/oauth-protected-resource/scoped/1", &[]).json();
    assert_eq!(scoped["scopes_supported"], json!(["orders:read", "orders:write"]));
    let host = ask(&gateway, "GET /.well-known/oauth-protected-resource", &[]).json();
    assert_eq!(host["resource"], "http://api.example.com");
    // What takes no token has no metadata, and is no other address.
    ask(&gateway, "GET /.well-known/oauth-protected-resource/free/1", &[]).expect(404);
    ask(&gateway, "GET /.well-known/oauth-protected-resources", &[]).expect(404);
    ask(&gateway, "POST /.well-known/oauth-protected-resource/any/1", &[("Content-Length", "0")]).expect(404);
}

#[test]
fn a_token_in_a_place_of_its_own_is_told_what_is_wanted_too() {
    let origin = Origin::echo();
    let text = file(&origin).replace(
        "  headers:\n    who:",
        "    bound:
      jwt:
        issuer: 'https://id.example.com'
        audiences: [orders]
        algorithms: [HS256]
        keys: {secret: 'STAFF'}
        from: {header: x-token}
        dpop: required
        dpop_nonce: true
  headers:\n    who:",
    );
    let text = text.replace("STAFF", STAFF)
        + "
  - {name: placed, match: {path: /placed}, auth: {any_of: [other], scopes: [a]}, respond: {}}
  - {name: bound, match: {path: /bound}, auth: bound, respond: {}}
";
    let gateway = Place::new().start(&text);
    let told = |path: &str, token: &str| {
        let fields = [("X-Token", token)];
        let fields = if token.is_empty() { &[][..] } else { &fields[..] };
        let response = ask(&gateway, &format!("GET {path}"), fields);
        (response.status, response.all("www-authenticate"))
    };
    let metadata = |path: &str| {
        format!("resource_metadata=\"http://api.example.com/.well-known/oauth-protected-resource{path}\"")
    };
    let (status, challenge) = told("/placed", &staff(json!({"scope": "b"})));
    assert_eq!(status, 403);
    for part in ["Token realm=\"other\"", "error=\"insufficient_scope\"", "scope=\"a\"", &metadata("/placed")]
    {
        assert!(challenge.contains(part), "{part}: {challenge}");
    }
    let (status, challenge) = told("/placed", "a.b.c");
    assert_eq!(status, 401);
    assert!(
        challenge.contains("error=\"invalid_token\"") && challenge.contains(&metadata("/placed")),
        "{challenge}"
    );
    // That a proof is wanted is told by its own scheme.
    let (status, challenge) = told("/bound", "");
    assert_eq!(status, 401);
    assert!(
        challenge.contains("Token realm=\"bound\"") && challenge.contains("DPoP realm=\"bound\""),
        "{challenge}"
    );
    assert!(challenge.contains("algs=\""), "{challenge}");
}

/// Whatever a route wants of a request beside its path, and whether its issuer is known: the address in a challenge is there.
#[test]
fn the_address_in_a_challenge_leads_to_metadata() {
    let origin = Origin::echo();
    let text = file(&origin).replace(
        "  headers:\n    who:",
        "    opaque: {introspection: {url: 'https://id.example.com/ask', client_id: a, client_secret: '0123456789abcdef'}}
    batch: {jwt: {issuer: batch.internal, audiences: [orders], algorithms: [HS256], keys: {secret: 'STAFF'}}}
  headers:\n    who:",
    );
    let text = text.replace("STAFF", STAFF) + "
  - {name: header, match: {path: /by/header, headers: {x-version: '2'}}, auth: {any_of: [staff], scopes: [a]}, respond: {}}
  - {name: query, match: {path: /by/query, query: {beta: '1'}}, auth: staff, respond: {}}
  - {name: method, match: {path: /by/method, methods: [PROPFIND]}, auth: staff, respond: {}}
  - {name: opaque, match: {path: /by/opaque}, auth: opaque, respond: {}}
  - {name: mixed, match: {path: /by/mixed}, auth: {any_of: [staff, opaque]}, respond: {}}
  - {name: batch, match: {path: /by/batch}, auth: batch, respond: {}}
";
    let gateway = Place::new().start(&text);
    let issuer = json!(["https://id.example.com"]);
    for (line, fields, servers, proofs) in [
        ("GET /by/header", &[("X-Version", "2")][..], &issuer, false),
        ("GET /by/query?beta=1", &[], &issuer, false),
        ("PROPFIND /by/method", &[], &issuer, false),
        ("GET /by/opaque", &[], &json!(null), true),
        ("GET /by/mixed", &[], &issuer, true),
        // A name that is no URL leads nobody anywhere.
        ("GET /by/batch", &[], &json!(null), false),
    ] {
        let refused = ask(&gateway, line, fields);
        let challenge = refused.expect(401).all("www-authenticate");
        let address = challenge.split("resource_metadata=\"").nth(1).unwrap().split('"').next().unwrap();
        let path = address.strip_prefix("http://api.example.com").unwrap();
        let told = ask(&gateway, &format!("GET {path}"), &[]);
        let told = told.expect(200).json();
        assert_eq!(&told["authorization_servers"], servers, "{line}: {told}");
        assert_eq!(told["bearer_methods_supported"], json!(["header"]), "{line}");
        // What is said of proofs here is what the challenge says.
        assert_eq!(challenge.contains("DPoP "), proofs, "{line}: {challenge}");
        assert_eq!(told["dpop_signing_alg_values_supported"].is_array(), proofs, "{line}: {told}");
    }
    let scoped = ask(&gateway, "GET /.well-known/oauth-protected-resource/by/header", &[]).json();
    assert_eq!(scoped["scopes_supported"], json!(["a"]));
}

#[test]
fn the_upstream_is_told_who_it_is_and_by_nobody_else() {
    let (_origin, gateway) = start();
    let lies = [("X-User", "root"), ("X-Scopes", "everything"), ("X-Tenant", "theirs")];
    let token = bearer(&staff(json!({"sub": "alice", "scope": "orders:read", "tenant": "acme"})));
    let known = ask(&gateway, "GET /told/1", &[&lies[..], &[("Authorization", &token)]].concat()).text();
    for field in ["x-user: alice", "x-scopes: orders:read", "x-tenant: acme"] {
        assert!(known.to_ascii_lowercase().contains(field), "{known}");
    }
    assert!(!known.contains("root") && !known.contains("everything") && !known.contains("theirs"), "{known}");
    let nobody = ask(&gateway, "GET /open/1", &lies).text().to_ascii_lowercase();
    assert!(!nobody.contains("x-user") && !nobody.contains("x-tenant"), "{nobody}");
    // Nor on a route of the same service that has no such rule.
    let odd = [
        ("X.User", "root"),
        ("Remote-User", "root"),
        ("X-Remote-User", "root"),
        ("X-Consumer-Username", "root"),
    ];
    let plain = ask(&gateway, "GET /plain/1", &[&lies[..], &odd].concat()).text();
    assert!(!plain.contains("root") && !plain.contains("everything") && !plain.contains("theirs"), "{plain}");
    assert_eq!(gateway.access_of("/told/1")["identity"]["user"], "alice");
    assert_eq!(gateway.access_of("/told/1")["authorize"]["status"], 200);
}

#[test]
fn explain_shows_no_token_that_stands_in_a_query() {
    let (_origin, gateway) = start();
    let token = staff(json!({}));
    let url = format!("http://api.example.com/asked/1?a=b&token={token}");
    let explained = gateway.place.portcullis(&["explain", "--config", "portcullis.yaml", &url]);
    let told = String::from_utf8_lossy(&[&*explained.stdout, &*explained.stderr].concat()).into_owned();
    assert!(told.contains("/asked/1?a=b") && told.contains("origin"), "{told}");
    assert!(!told.contains(&token) && !told.contains(STAFF), "{told}");
}

#[test]
fn a_shadowed_policy_opens_its_route_and_says_whom_it_would_refuse() {
    let (_origin, gateway) = start();
    for (at, (fields, reasons)) in [
        (vec![], vec!["missing", "insufficient_scope"]),
        (vec![("Authorization", "Bearer nonsense")], vec!["token_form", "insufficient_scope"]),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/trial/{at}");
        let lies = [&fields[..], &[("X-User", "root")]].concat();
        let response = ask(&gateway, &format!("GET {path}"), &lies);
        response.expect(200);
        assert!(!response.text().contains("root"), "{}", response.text());
        let line = gateway.access_of(&path);
        let would: Vec<_> =
            line["would"].as_array().unwrap().iter().map(|w| w["reason"].as_str().unwrap()).collect();
        assert_eq!(would, reasons, "{line}");
    }
    let token = bearer(&staff(json!({"sub": "alice", "scope": "admin"})));
    ask(&gateway, "GET /trial/known", &[("Authorization", &token)]).expect(200);
    let line = gateway.access_of("/trial/known");
    assert_eq!((&line["identity"]["user"], &line["would"]), (&json!("alice"), &json!(null)));
}

#[test]
fn a_preflight_bears_no_credentials() {
    let origin = Origin::echo();
    let gateway = Place::new().start(&file(&origin).replace(
        "  - {name: one, match: {path: '/one/{*rest}'}, auth: staff,",
        "  - {name: one, match: {path: '/one/{*rest}'}, auth: staff, cors: web,",
    ).replace("  headers:\n    who:", "  cors: {web: {origins: ['https://app.example.com'], headers: [authorization]}}\n  headers:\n    who:"));
    let asked = [
        ("Origin", "https://app.example.com"),
        ("Access-Control-Request-Method", "GET"),
        ("Access-Control-Request-Headers", "authorization"),
    ];
    ask(&gateway, "OPTIONS /one/1", &asked).expect(204);
    let refused = ask(&gateway, "GET /one/2", &[("Origin", "https://app.example.com")]);
    refused.expect(401);
    assert_eq!(refused.header("access-control-allow-origin"), Some("https://app.example.com"));
}

#[test]
fn of_several_that_are_wanted_a_shadowed_one_may_be_missing() {
    let origin = Origin::echo();
    let both = "auth: {all_of: [staff, other]}";
    let gateway = Place::new().start(&file(&origin).replace(both, "auth: {all_of: [staff, shadow]}").replace(
        "\n    trial:\n",
        &format!(
            "
    shadow:
      mode: shadow
      auth_shadow_is_public: true
      jwt: {{issuer: 'https://id.example.com', audiences: [orders], algorithms: [HS256], keys: {{secret: '{STAFF}'}}, from: {{header: x-other}}}}
    trial:
"
        ),
    ));
    let token = bearer(&staff(json!({})));
    ask(&gateway, "GET /all/1", &[("Authorization", &token)]).expect(200);
    let would = &gateway.access_of("/all/1")["would"];
    assert_eq!(would[0]["policy"], "auth.shadow");
    assert_eq!(would[0]["reason"], "missing");
    // The other is wanted all the same.
    assert_eq!(
        became(&gateway, "GET /all/2", &[("X-Other", &staff(json!({})))]),
        (401, "missing".to_owned())
    );
}

#[test]
fn a_shadowed_policy_opens_no_other_policys_conditions() {
    let origin = Origin::echo();
    let gateway = Place::new().start(
        &file(&origin)
            .replace("auth: {all_of: [staff, other]}", "auth: {any_of: [trial, other], scopes: [admin]}"),
    );
    let token = staff(json!({}));
    let bearer = bearer(&token);
    for (at, fields) in [
        vec![("Authorization", &*bearer)],
        vec![("Authorization", &bearer), ("X-Token", &token)],
        vec![("X-Token", &token)],
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(
            became(&gateway, &format!("GET /all/{at}"), &fields),
            (403, "insufficient_scope".to_owned()),
            "{at}"
        );
    }
}

#[test]
fn a_preflight_that_shadowed_cors_would_refuse_is_asked_who_it_is() {
    let origin = Origin::echo();
    let gateway = Place::new().start(
        &file(&origin)
            .replace("auth: staff, headers: [who],", "auth: staff, cors: soft, headers: [who],")
            .replace(
                "  headers:\n    who:",
                "  cors: {soft: {origins: ['https://app.example.com'], mode: shadow}}\n  headers:\n    who:",
            ),
    );
    let asked = [("Origin", "https://evil.example"), ("Access-Control-Request-Method", "GET")];
    let (status, reason) = became(&gateway, "OPTIONS /told/1", &asked);
    assert_eq!((status, &*reason), (401, "missing"));
    assert_eq!(gateway.access_of("/told/1")["would"][0]["policy"], "cors.soft");
}

/// 401 is for a credential that is not valid, `invalid_request` for 400 (RFC 6750 §3.1): what is malformed is the former.
#[test]
fn status_and_error_agree_whatever_is_wrong_with_a_token() {
    let (_origin, gateway) = start();
    let (good, own) = (bearer(&staff(json!({}))), staff(json!({})));
    for (at, (route, fields, reason)) in [
        ("one", vec![("Authorization", "Bearer")], "malformed"),
        ("one", vec![("Authorization", "Bearer\tx")], "malformed"),
        ("one", vec![("Authorization", "Bearer ..")], "token_form"),
        ("one", vec![("Authorization", "Bearer x")], "token_form"),
        ("one", vec![("Authorization", "DPoP x")], "malformed"),
        ("one", vec![("Authorization", &*good), ("Authorization", &*good)], "malformed"),
        ("any", vec![("Authorization", "Bearer")], "malformed"),
        ("any", vec![("Authorization", "Bearer x")], "unknown_issuer"),
        ("any", vec![("Authorization", &good), ("Authorization", &good)], "malformed"),
        ("any", vec![("Authorization", &good), ("X-Token", &own)], "several_tokens"),
    ]
    .into_iter()
    .enumerate()
    {
        let refused = ask(&gateway, &format!("GET /{route}/bad{at}"), &fields);
        refused.expect(401);
        let bearers = refused.headers.iter().filter(|(name, value)| {
            name.eq_ignore_ascii_case("www-authenticate") && value.starts_with("Bearer realm=\"staff\"")
        });
        let said: Vec<_> = bearers.map(|(_, value)| value.as_str()).collect();
        assert!(said.len() == 1 && said[0].contains("error=\"invalid_token\""), "row {at}: {refused:?}");
        assert!(!refused.all("www-authenticate").contains("invalid_request"), "row {at}: {refused:?}");
        assert_eq!(gateway.access_of(&format!("/{route}/bad{at}"))["error"]["reason"], reason, "row {at}");
    }
}

#[test]
fn what_other_servers_may_read_as_a_credential_is_one() {
    let (_origin, gateway) = start();
    let own = staff(json!({}));
    for (at, odd) in ["Bearer\tnonsense", "Bearer,nonsense"].into_iter().enumerate() {
        let fields = [("Authorization", odd), ("X-Token", &*own)];
        assert_eq!(
            became(&gateway, &format!("GET /any/odd{at}"), &fields),
            (401, "malformed".to_owned()),
            "{odd}"
        );
    }
}

#[test]
fn metadata_is_not_for_whom_the_routes_list_refuses() {
    let origin = Origin::echo();
    let text = file(&origin)
        .replace("auth: staff, respond: {body: one}", "auth: staff, access: inner, respond: {body: one}")
        .replace("respond: {body: all}", "access: outer, respond: {body: all}");
    let gateway = Place::new().start(&text.replace(
        "  headers:\n    who:",
        "  access: {inner: {deny: [127.0.0.1]}, outer: {allow: [127.0.0.1]}}\n  headers:\n    who:",
    ));
    ask(&gateway, "GET /.well-known/oauth-protected-resource/one/1", &[]).expect(404);
    // What is told to some alone is not kept for all by a cache before us.
    for (route, caching) in [("any", "max-age=3600"), ("all", "private, max-age=3600")] {
        let told = ask(&gateway, &format!("GET /.well-known/oauth-protected-resource/{route}/1"), &[]);
        assert_eq!(told.expect(200).all("cache-control"), caching, "{route}");
    }
}
