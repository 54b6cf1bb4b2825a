//! Identity tokens: what an upstream gets, verifies by what the gateway publishes, and never gets from a client; and the keys through
//! restarts, beside another process, and by their age.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::policy::auth::jwt::{Algorithm, KeySet, verify};
use serde_json::{Value, json};

use crate::harness::tokens::{self, SigningKey, claims, now};
use crate::harness::{
    Authority, Connection, Http2, Origin, Place, Response, Running, bearing, eventually, get,
};

const ISSUER: &str = "https://gw.example.com";
const PATH: &str = "/.well-known/portcullis/jwks.json";

/// The base configuration with identity tokens.
fn with_tokens(more: &str, rest: &str) -> String {
    let server = format!("server: {{identity_tokens: {{issuer: '{ISSUER}'{more}}}, ");
    Place::with_base(rest).replacen("server: {", &server, 1)
}

/// Routes that forward, in several ways, to one upstream.
fn routes(upstream: SocketAddr) -> String {
    let jwt =
        format!("jwt: {{issuer: '{}', audiences: [orders], keys: {{file: ./jwks.json}}}}", tokens::ISSUER);
    let forward = |audience: &str| {
        format!(
            "forward_identity: {{header: X-Identity-Token, audience: {audience}, claims: [tenant, realm.name]}}"
        )
    };
    let (orders, billing) = (forward("orders"), forward("billing"));
    format!(
        "upstreams: {{o: {{servers: ['{upstream}']}}}}
policies:
  auth:
    staff: {{{jwt}}}
    trial: {{{jwt}, mode: shadow, auth_shadow_is_public: true}}
routes:
  - {{name: orders, match: {{path: '/orders/{{*rest}}'}}, auth: staff, {orders}, upstream: o}}
  - {{name: billing, match: {{path: /billing}}, auth: staff, {billing}, upstream: o}}
  - {{name: perhaps, match: {{path: /perhaps}}, auth: {{any_of: [staff], anonymous: true}}, {orders}, upstream: o}}
  - {{name: trial, match: {{path: /trial}}, auth: trial, {orders}, upstream: o}}
  - {{name: untold, match: {{path: /untold}}, auth: staff, upstream: o}}
  - {{name: public, match: {{path: /public}}, auth: none, upstream: o}}
  - {{name: echo, match: {{path: /echo}}, auth: staff, echo: true}}
"
    )
}

fn place(key: &SigningKey) -> Place {
    let place = Place::new();
    place.write("jwks.json", tokens::jwks(&[key]));
    place
}

fn start(key: &SigningKey, upstream: &Origin, more: &str) -> Running {
    place(key).start_whole(&with_tokens(more, &routes(upstream.address())))
}

/// What an echoing upstream was told in fields that somebody could take for the token's.
fn told(response: &Response) -> Vec<String> {
    let dashed = |name: &str| name.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let text = response.text();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    let own = fields.filter(|(name, _)| dashed(name) == "x-identity-token");
    own.map(|(_, value)| value.trim().to_owned()).collect()
}

/// The one token that an upstream was told.
#[track_caller]
fn token(response: &Response) -> String {
    let mut told = told(response.expect(200));
    assert_eq!(told.len(), 1, "{told:?}: {}", response.text());
    told.remove(0)
}

fn published(address: SocketAddr) -> Value {
    get(address, PATH).expect(200).json()
}

fn kids(address: SocketAddr) -> Vec<String> {
    let keys = published(address);
    keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

fn part(token: &str, at: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap()).unwrap()
}

fn kid(token: &str) -> String {
    part(token, 0)["kid"].as_str().unwrap().to_owned()
}

/// The claims of a token, as somebody who trusts a gateway reads them.
#[track_caller]
fn verified(address: SocketAddr, token: &str) -> Value {
    let keys = KeySet::parse(published(address).to_string().as_bytes()).unwrap();
    let payload = verify(token, &keys, &[Algorithm::ES256, Algorithm::EdDSA]);
    serde_json::from_slice(&payload.unwrap_or_else(|reason| panic!("{reason}: {token}"))).unwrap()
}

#[test]
fn the_upstream_hears_who_it_is_and_verifies_that_by_what_is_published() {
    let (key, upstream) = (SigningKey::new("ES256", "k"), Origin::echo());
    for (more, algorithm) in [("", "ES256"), (", algorithm: EdDSA", "EdDSA")] {
        let gateway = start(&key, &upstream, more);
        let bearer = key.token(&claims(&json!({
            "groups": ["a b", "\"quoted\"\\"], "tenant": {"id": [1, null]}, "realm": {"name": "r\u{fc}"}, "secret": "s",
        })));
        let token = token(&bearing(gateway.address(), "/orders/1", &bearer));
        let head = part(&token, 0);
        assert_eq!((&head["alg"], &head["typ"]), (&json!(algorithm), &json!("portcullis+jwt")));
        let mut said = verified(gateway.address(), &token);
        let (issued, expires) = (said["iat"].as_u64().unwrap(), said["exp"].as_u64().unwrap());
        assert!(issued.abs_diff(now()) < 20 && expires == issued + 60, "{said}");
        assert!(said["jti"].as_str().is_some_and(|jti| jti.len() > 20));
        for time in ["iat", "exp", "jti"] {
            said.as_object_mut().unwrap().remove(time);
        }
        let expected = json!({
            "iss": ISSUER, "aud": "orders", "sub": "alice",
            "origin": {"method": "jwt", "policy": "staff", "issuer": tokens::ISSUER},
            "scope": "orders:read orders:write", "groups": ["a b", "\"quoted\"\\"], "client_id": "shop",
            "claims": {"tenant": {"id": [1, null]}, "realm.name": "r\u{fc}"},
        });
        assert_eq!(said, expected);
        // One for another service is another, and the client's own token goes along as it did.
        let billed = bearing(gateway.address(), "/billing", &bearer);
        assert!(billed.text().contains(&format!("Bearer {bearer}")) || billed.text().contains(&bearer));
        let billed = self::token(&billed);
        assert_eq!(verified(gateway.address(), &billed)["aud"], "billing");
        // The same within half its life, counted.
        for _ in 0..3 {
            assert_eq!(self::token(&bearing(gateway.address(), "/orders/2", &bearer)), token);
        }
        gateway.await_metric("portcullis_identity_tokens_total", &[("result", "signed")], 2.0);
        gateway.await_metric("portcullis_identity_tokens_total", &[("result", "reused")], 3.0);
        gateway.await_metric("portcullis_identity_keys", &[], 1.0);
        assert!(!gateway.place.read("access.log").contains(&token), "a token stands in the log");
    }
}

#[test]
fn the_keys_are_public_alone_and_stand_behind_the_edge() {
    let (key, upstream) = (SigningKey::new("ES256", "k"), Origin::echo());
    let gateway = start(&key, &upstream, "");
    let answer = get(gateway.address(), PATH);
    answer.expect(200);
    assert_eq!(answer.header("content-type"), Some("application/jwk-set+json"));
    assert_eq!(answer.header("cache-control"), Some("public, max-age=300"));
    let mut names: Vec<_> = answer.json()["keys"][0].as_object().unwrap().keys().cloned().collect();
    names.sort();
    assert_eq!(names, ["alg", "crv", "kid", "kty", "use", "x", "y"]);
    // In whatever form the path is asked for, on every host; it is no route's.
    let odd = "GET /x/../.well-known//portcullis/jwks%2Ejson?x=1 HTTP/1.1\r\nHost: other.example\r\n\r\n";
    assert_eq!(gateway.send(odd).expect(200).json(), answer.json());
    let head = gateway.send(format!("HEAD {PATH} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    assert_eq!(head.status, 200);
    assert!(head.header("content-length").is_some_and(|length| length != "0"), "{head:?}");
    gateway.send(format!("DELETE {PATH} HTTP/1.1\r\nHost: a\r\n\r\n")).expect(404);
    get(gateway.address(), "/.well-known/portcullis/jwks.json/").expect(404);
    let rest = format!(
        "edge: {{access: nobody}}\n{}",
        routes(upstream.address()).replacen(
            "policies:\n",
            "policies:\n  access: {nobody: {deny: [127.0.0.1]}}\n",
            1
        )
    );
    gateway.reload_whole(&with_tokens("", &rest));
    get(gateway.address(), PATH).expect(403);
}

#[test]
fn what_a_client_sends_in_its_place_never_passes() {
    let (key, upstream) = (SigningKey::new("ES256", "k"), Origin::echo());
    let gateway = start(&key, &upstream, "");
    let bearer = key.token(&claims(&json!({})));
    let expired = key.token(&claims(&json!({"exp": now() - 3600})));
    let forged = "X-Identity-Token: forged\r\nx-identity-token: again\r\nX_Identity_Token: forged\r\nX.Identity.Token: forged\r\n\
                  X-Identity_Token: forged\r\nConnection: close, x-identity-token\r\n";
    for (path, bearer, is_told) in [
        ("/orders/1", Some(&bearer), true),
        ("/perhaps", Some(&bearer), true),
        ("/perhaps", None, false),
        ("/trial", Some(&bearer), true),
        // What only a shadowed policy lets pass is nobody.
        ("/trial", Some(&expired), false),
        ("/trial", None, false),
        ("/untold", Some(&bearer), false),
        ("/public", Some(&bearer), false),
        ("/public", None, false),
    ] {
        let bearer = bearer.map(|bearer| format!("Authorization: Bearer {bearer}\r\n")).unwrap_or_default();
        let answer = gateway.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{bearer}{forged}\r\n"));
        answer.expect(200);
        assert!(
            !answer.text().contains("forged") && !answer.text().contains("again"),
            "{path}: {}",
            answer.text()
        );
        match is_told {
            true => assert_eq!(verified(gateway.address(), &token(&answer))["sub"], "alice", "{path}"),
            false => assert!(told(&answer).is_empty(), "{path}: {}", answer.text()),
        }
    }
    let echoed = gateway
        .send(format!("GET /echo HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {bearer}\r\n{forged}\r\n"))
        .expect(200)
        .text();
    assert!(!echoed.contains("forged") && !echoed.contains("identity"), "{echoed}");
    bearing(gateway.address(), "/orders/1", &expired).expect(401);
}

#[test]
fn identities_never_cross_however_many_there_are_at_once() {
    let (key, upstream) = (SigningKey::new("ES256", "k"), Origin::echo());
    // So little room that tokens come and go.
    let gateway = start(&key, &upstream, ", cache: 16KiB");
    let bearers: Vec<_> = (0..20)
        .map(|number| key.token(&claims(&json!({"sub": format!("user-{number}"), "tenant": number}))))
        .collect();
    let keys = KeySet::parse(published(gateway.address()).to_string().as_bytes()).unwrap();
    let seen = std::sync::Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (bearers, keys, seen, address) = (&bearers, &keys, &seen, gateway.address());
            scope.spawn(move || {
                let mut connection = Connection::open(address);
                for number in 0..150 {
                    let who = (number * 7 + client * 3) % bearers.len();
                    let path = if number % 2 == 0 { "/orders/1" } else { "/billing" };
                    connection.write(format!(
                        "GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n",
                        bearers[who]
                    ));
                    let token = token(&connection.response());
                    let said = verify(&token, keys, &[Algorithm::ES256]).unwrap();
                    let said: Value = serde_json::from_slice(&said).unwrap();
                    assert_eq!(said["sub"], format!("user-{who}"));
                    assert_eq!(said["claims"]["tenant"], who);
                    assert_eq!(said["aud"], if number % 2 == 0 { "orders" } else { "billing" });
                    seen.lock().unwrap().insert(token);
                }
            });
        }
    });
    assert!(seen.lock().unwrap().len() >= 40);
}

#[test]
fn a_restart_keeps_the_key_and_two_gateways_share_it() {
    let (key, upstream) = (SigningKey::new("ES256", "k"), Origin::echo());
    let first = start(&key, &upstream, "");
    let shared = first.place.path("state");
    let text = |more: &str| {
        let text = with_tokens(more, &routes(upstream.address()));
        text.replacen("./state", shared.to_str().unwrap(), 1)
    };
    let second = place(&key).start_whole(&text(""));
    let bearer = key.token(&claims(&json!({})));
    let before = token(&bearing(first.address(), "/orders/1", &bearer));
    let beside = token(&bearing(second.address(), "/orders/1", &bearer));
    assert_eq!(kid(&before), kid(&beside));
    assert_eq!(verified(second.address(), &before)["sub"], "alice");
    assert_eq!(verified(first.address(), &beside)["sub"], "alice");
    let first = first.restart();
    assert_eq!(kids(first.address()), [kid(&before)]);
    let after = token(&bearing(first.address(), "/orders/1", &bearer));
    assert_eq!((kid(&after), after == before), (kid(&before), false));
    // A successor that signs otherwise: each publishes the keys of both.
    let pem = openssl::pkey::PKey::generate_ed25519().unwrap().private_key_to_pem_pkcs8().unwrap();
    let third = place(&key);
    let path = third.write("key.pem", pem);
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let third = third.start_whole(&text(", key: {file: key.pem}"));
    let others = token(&bearing(third.address(), "/orders/1", &bearer));
    assert_eq!(part(&others, 0)["alg"], "EdDSA");
    for gateway in [&first, &second, &third] {
        eventually("both keys to be published", || (kids(gateway.address()).len() == 2).then_some(()));
        assert_eq!(verified(gateway.address(), &others)["sub"], "alice");
        assert_eq!(verified(gateway.address(), &after)["sub"], "alice");
    }
    assert_eq!(kid(&token(&bearing(second.address(), "/orders/1", &bearer))), kid(&before));
}

/// Changes the file of keys as time would.
fn aged(gateway: &Running, change: impl FnOnce(&mut Vec<Value>)) {
    let mut kept: Value = serde_json::from_str(&gateway.place.read("state/identity-keys.json")).unwrap();
    change(kept["keys"].as_array_mut().unwrap());
    let path = gateway.place.path("state/identity-keys.json");
    let beside = gateway.place.path("state/aged");
    std::fs::write(&beside, kept.to_string()).unwrap();
    std::fs::set_permissions(&beside, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::rename(beside, path).unwrap();
}

#[test]
fn a_key_is_changed_once_the_next_is_known_and_goes_once_its_last_token_has_expired() {
    let (key, upstream) = (SigningKey::new("ES256", "k"), Origin::echo());
    let gateway = start(&key, &upstream, ", rotate: 7d");
    let bearer = key.token(&claims(&json!({})));
    let old = token(&bearing(gateway.address(), "/orders/1", &bearer));
    aged(&gateway, |keys| keys[0]["from"] = json!(now() - 7 * 86_400));
    let both = eventually("the next key to be published", || {
        let kids = kids(gateway.address());
        (kids.len() == 2).then_some(kids)
    });
    assert_eq!(both[0], kid(&old));
    gateway.await_line("is published, and signs in 3600 s");
    assert_eq!(
        kid(&token(&bearing(gateway.address(), "/billing", &bearer))),
        kid(&old),
        "it signs before it is known"
    );
    aged(&gateway, |keys| keys[1]["from"] = json!(now() - 1));
    // Kept tokens of the old key are sent no more either.
    let new = eventually("the next key to sign", || {
        let token = token(&bearing(gateway.address(), "/orders/1", &bearer));
        (kid(&token) == both[1]).then_some(token)
    });
    gateway.await_line(&format!("signed with the key `{}` from now on", both[1]));
    assert_eq!(verified(gateway.address(), &old)["sub"], "alice");
    assert_eq!(verified(gateway.address(), &new)["sub"], "alice");
    aged(&gateway, |keys| keys[1]["from"] = json!(now() - 901));
    eventually("the old key to go", || (kids(gateway.address()) == both[1..]).then_some(()));
    gateway.await_line(&format!("the key `{}` is no longer published", both[0]));
}

/// From a generated key to one of the operator's and back, by reloads; then a restart while the next key is published and does not sign.
#[test]
fn reloads_and_a_restart_between_two_keys_leave_every_token_good() {
    let (key, upstream) = (SigningKey::new("ES256", "k"), Origin::echo());
    let place = place(&key);
    let pem = openssl::pkey::PKey::generate_ed25519().unwrap().private_key_to_pem_pkcs8().unwrap();
    let path = place.write("key.pem", pem);
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let text = |more: &str| with_tokens(more, &routes(upstream.address()));
    let gateway = place.start_whole(&text(", rotate: 7d"));
    let bearer = key.token(&claims(&json!({})));
    let signed = |gateway: &Running, path: &str| token(&bearing(gateway.address(), path, &bearer));
    let first = signed(&gateway, "/orders/1");
    gateway.reload_whole(&text(", key: {file: key.pem}"));
    let second = signed(&gateway, "/orders/1");
    assert_eq!(part(&second, 0)["alg"], "EdDSA", "what the old key has signed is not sent any more");
    gateway.reload_whole(&text(", rotate: 7d"));
    let third = signed(&gateway, "/orders/1");
    assert_eq!(kid(&third), kid(&first));
    for token in [&first, &second, &third] {
        assert_eq!(verified(gateway.address(), token)["sub"], "alice");
    }
    assert_eq!(kids(gateway.address()).len(), 2);
    aged(&gateway, |keys| {
        let generated = keys.iter_mut().find(|key| key["kid"] == kid(&first).as_str()).unwrap();
        generated["from"] = json!(now() - 7 * 86_400);
    });
    let before = eventually("the next key to be published", || {
        let kids = kids(gateway.address());
        (kids.len() == 3).then_some(kids)
    });
    // Who keeps the set for as long as it says knows the next key before it signs.
    let told = get(gateway.address(), PATH).all("cache-control");
    let kept: u64 = told.rsplit('=').next().unwrap().parse().unwrap();
    assert!(kept < 3600, "{told}");
    let gateway = gateway.restart();
    assert_eq!(kids(gateway.address()), before);
    assert_eq!(kid(&signed(&gateway, "/orders/1")), kid(&first), "the next one signs in an hour");
    for token in [&first, &second, &third] {
        assert_eq!(verified(gateway.address(), token)["sub"], "alice");
    }
}

#[test]
fn a_destroyed_key_is_made_anew_and_a_damaged_one_serves_nobody() {
    let (key, upstream) = (SigningKey::new("ES256", "k"), Origin::echo());
    let mut gateway = start(&key, &upstream, "");
    let bearer = key.token(&claims(&json!({})));
    let old = token(&bearing(gateway.address(), "/orders/1", &bearer));
    let path = gateway.place.path("state/identity-keys.json");
    std::fs::remove_file(&path).unwrap();
    let new = eventually("another key", || {
        let token = token(&bearing(gateway.address(), "/orders/1", &bearer));
        (kid(&token) != kid(&old)).then_some(token)
    });
    eventually("it to be published alone", || (kids(gateway.address()) == [kid(&new)]).then_some(()));
    // Damaged while it runs: what is known is used, and no reload is taken.
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &good[..good.len() / 2]).unwrap();
    gateway.await_line("identity-keys.json` is damaged");
    assert_eq!(kid(&token(&bearing(gateway.address(), "/orders/2", &bearer))), kid(&new));
    gateway.place.write("portcullis.yaml", with_tokens(", lifetime: 61s", &routes(upstream.address())));
    gateway.signal(rustix::process::Signal::HUP);
    gateway.await_metric("portcullis_config_stale", &[], 1.0);
    gateway.stop();
    let started = gateway.place.portcullis(&["run", "--config", "portcullis.yaml"]);
    let said = String::from_utf8_lossy(&started.stderr).into_owned();
    assert_eq!(started.status.code(), Some(1), "{said}");
    assert!(said.contains("is damaged; restore it, or move it away"), "{said}");
    let checked = gateway.place.portcullis(&["check", "--config", "portcullis.yaml"]);
    assert_eq!(checked.status.code(), Some(64), "{}", String::from_utf8_lossy(&checked.stderr));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), good[..good.len() / 2], "it was written over");
}

#[test]
fn our_own_policy_takes_it_for_no_access_token() {
    let (key, upstream) = (SigningKey::new("ES256", "k"), Origin::echo());
    let gateway = start(&key, &upstream, "");
    let bearer = key.token(&claims(&json!({"groups": ["night"]})));
    let token = token(&bearing(gateway.address(), "/orders/1", &bearer));
    let jwt = |more: &str| {
        format!(
            "{{jwt: {{issuer: '{ISSUER}', audiences: [orders], keys: {{url: 'http://{}{PATH}'}}{more}}}}}",
            gateway.address()
        )
    };
    let behind = Place::new().start_fetching(&format!(
        "policies: {{auth: {{usual: {}, strict: {}, ours: {}}}}}
routes:
  - {{name: usual, match: {{path: /usual}}, auth: usual, respond: {{}}}}
  - {{name: strict, match: {{path: /strict}}, auth: strict, respond: {{}}}}
  - {{name: ours, match: {{path: /ours}}, auth: {{any_of: [ours], groups: [night], scopes: ['orders:read']}}, respond: {{}}}}
",
        jwt(""),
        jwt(", type: at+jwt"),
        jwt(", type: portcullis+jwt"),
    ));
    for path in ["/usual", "/strict"] {
        bearing(behind.address(), path, &token).expect(401);
        assert_eq!(behind.access_of(path)["error"]["reason"], "token_type", "{path}");
    }
    bearing(behind.address(), "/ours", &token).expect(200);
    assert_eq!(behind.access_of("/ours")["identity"]["user"], "alice");
    // And an access token of the same key's issuer is no identity token.
    bearing(behind.address(), "/ours", &bearer).expect(401);
    bearing(gateway.address(), "/orders/1", &token).expect(401);
}

#[test]
fn who_needs_a_larger_token_is_refused_before_the_upstream() {
    let (key, upstream) = (SigningKey::new("ES256", "k"), Origin::echo());
    let gateway = start(&key, &upstream, ", max_bytes: 1KiB");
    let groups: Vec<_> = (0..100).map(|number| format!("group-{number}")).collect();
    let bearer = key.token(&claims(&json!({"groups": groups})));
    let answer = bearing(gateway.address(), "/orders/large", &bearer);
    answer.expect(500);
    assert!(!answer.text().contains("group"), "{}", answer.text());
    let line = gateway.access_of("/orders/large");
    assert_eq!(line["error"]["reason"], "identity_token_size");
    assert!(line["error"]["site"].as_str().is_some_and(|site| site.contains("portcullis.yaml:")), "{line}");
    assert_eq!(upstream.requests_of("/orders/large"), 0);
    gateway.await_metric("portcullis_identity_tokens_total", &[("result", "refused")], 1.0);
    gateway.await_metric("portcullis_refusals_total", &[("reason", "identity_token_size")], 1.0);
    bearing(gateway.address(), "/untold", &bearer).expect(200);
}

#[test]
fn check_and_explain_make_and_sign_nothing() {
    let (key, upstream) = (SigningKey::new("ES256", "k"), Origin::echo());
    let place = place(&key);
    place.write("portcullis.yaml", with_tokens("", &routes(upstream.address())));
    let run = |arguments: &[&str]| {
        let output = place.portcullis(arguments);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["check", "--config", "portcullis.yaml"]);
    let bearer = format!("Authorization: Bearer {}", key.token(&claims(&json!({}))));
    let told = run(&["explain", "--config", "portcullis.yaml", "-H", &bearer, "http://a/orders/1"]);
    assert!(told.contains("forward_identity") && told.contains("alice in `x-identity-token`"), "{told}");
    assert!(told.contains("+ x-identity-token: (a token, signed when it is served)"), "{told}");
    run(&["explain", "--config", "portcullis.yaml", &format!("http://a{PATH}")]);
    assert!(!place.path("state").exists(), "something was made");
}

#[test]
fn over_http2_and_at_the_second_try_it_is_told_once() {
    let (key, upstream) = (SigningKey::new("ES256", "k"), Origin::echo());
    // The first server takes the request, and goes without an answer.
    let gone = Origin::each(|_, peer| {
        peer.reset();
        false
    });
    let (place, authority) = (place(&key), Authority::new());
    authority.issue(&["gate.example"]).write(&place, "gate");
    let servers = format!(
        "o: {{servers: ['{}', '{}'], retries: {{attempts: 3, on: [connect, reset], budget: 100%}}}}",
        gone.address(),
        upstream.address()
    );
    let routes = routes(upstream.address()).replacen(
        &format!("o: {{servers: ['{}']}}", upstream.address()),
        &servers,
        1,
    );
    let text = with_tokens("", &routes).replacen(
        "  - address: 127.0.0.1:0\n",
        "  - address: 127.0.0.1:0\n    tls: {certificates: [{cert: gate.crt, key: gate.key}]}\n",
        1,
    );
    let gateway = place.start_whole(&text);
    let connector = authority.connector(|builder| builder.set_alpn_protos(b"\x02h2").unwrap());
    let mut client = Http2::connect(gateway.address(), &connector, "gate.example");
    let bearer = format!("Bearer {}", key.token(&claims(&json!({}))));
    let forged =
        [("x-identity-token", "forged"), ("x.identity.token", "forged"), ("x-identity-token", "again")];
    for number in 0..6 {
        let answer = client.request(
            "GET",
            &format!("/orders/{number}"),
            &[&forged[..], &[("authorization", &bearer)]].concat(),
            b"",
        );
        assert_eq!(part(&token(&answer), 1)["sub"], "alice", "{}", answer.text());
        assert!(!answer.text().contains("forged") && !answer.text().contains("again"), "{}", answer.text());
        let answer = client.request("GET", &format!("/public?{number}"), &forged, b"");
        assert!(told(answer.expect(200)).is_empty(), "{}", answer.text());
    }
    let tried: Vec<_> = gone.heads().into_iter().filter(|head| head.starts_with("GET /orders/")).collect();
    assert!(!tried.is_empty(), "no request was tried again");
    for head in &tried {
        let fields = head.lines().filter(|line| line.to_ascii_lowercase().contains("identity")).count();
        assert!(fields == 1 && !head.contains("forged"), "{head}");
    }
}
