//! Signed tokens, each through a running gateway: what an attacker tries is 401, and nothing that a token names is ever fetched.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::harness::tokens::{self, ISSUER, SigningKey, claims, part};
use crate::harness::{Place, Response, Running, eventually};

/// A policy of the key set in `jwks.json`, with more of its keys, each on a line of its own.
fn policy(more: &[&str]) -> String {
    let more: String = more.iter().map(|line| format!("        {line}\n")).collect();
    format!(
        "policies:
  auth:
    staff:
      jwt:
        issuer: {ISSUER}
        audiences: [orders]
        keys: {{file: ./jwks.json}}
{more}routes:
  - {{name: orders, match: {{path: '/orders/{{*rest}}'}}, auth: staff, respond: {{body: hello}}}}
"
    )
}

fn start(keys: &[&SigningKey], more: &[&str]) -> Running {
    let place = Place::new();
    place.write("jwks.json", tokens::jwks(keys));
    place.start(&policy(more))
}

fn send(gateway: &Running, path: &str, fields: &[(&str, &str)]) -> Response {
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    gateway.send(format!("GET {path} HTTP/1.1\r\nHost: api.example.com\r\n{fields}\r\n"))
}

fn ask(gateway: &Running, path: &str, token: &str) -> Response {
    send(gateway, path, &[("Authorization", &format!("Bearer {token}"))])
}

/// Whether a token is refused, with the status, the challenge and the word in the log that are due.
#[track_caller]
fn is_refused(gateway: &Running, path: &str, response: &Response, reason: &str) {
    assert_eq!(response.status, 401, "{path}: {response:?}");
    let challenge = response.all("www-authenticate");
    assert!(challenge.contains("error=\"invalid_token\""), "{path}: {challenge}");
    assert!(challenge.contains("realm=\"staff\""), "{path}: {challenge}");
    assert_eq!(gateway.access_of(path)["error"]["reason"], reason, "{path}");
}

/// A server that nobody should come to.
struct Trap {
    listener: TcpListener,
    url: String,
}

impl Trap {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Self { listener, url }
    }

    fn assert_untouched(&self) {
        let accepted = self.listener.accept().map(|(_, peer)| peer);
        assert_eq!(accepted.unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn a_token_of_every_algorithm_passes() {
    let names =
        ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"];
    let keys: Vec<_> = names.iter().map(|name| SigningKey::new(name, &format!("key-{name}"))).collect();
    let algorithms = format!("algorithms: [{}]", names.join(", "));
    let gateway = start(&keys.iter().collect::<Vec<_>>(), &[&algorithms]);
    for key in &keys {
        let token = key.token(&claims(&json!({})));
        // Twice: verified, then remembered.
        for _ in 0..2 {
            ask(&gateway, "/orders/1", &token).expect(200);
        }
        // Without a name the key is found by what it is for.
        let header = json!({"alg": key.algorithm, "typ": "application/at+jwt"});
        ask(&gateway, "/orders/1", &key.token_with(&header, &claims(&json!({})))).expect(200);
    }
    let line = gateway.access_of("/orders/1");
    assert_eq!(line["status"], 200);
    assert!(!gateway.place.read("access.log").contains("eyJ"), "a token stands in the log");
}

#[test]
fn a_secret_verifies_hmac() {
    let secret = "a secret that is longer than sixty-four bytes, as HS512 would like to have it";
    let place = Place::new();
    let text = policy(&["algorithms: [HS256, HS384, HS512]"])
        .replace("{file: ./jwks.json}", "{secret: '${file:./secret}'}");
    place.write("secret", secret);
    let gateway = place.start(&text);
    for algorithm in ["HS256", "HS384", "HS512"] {
        let token = SigningKey::secret(algorithm, secret.as_bytes()).token(&claims(&json!({})));
        ask(&gateway, "/orders/1", &token).expect(200);
        let forged = SigningKey::secret(algorithm, b"another secret").token(&claims(&json!({})));
        is_refused(
            &gateway,
            &format!("/orders/{algorithm}"),
            &ask(&gateway, &format!("/orders/{algorithm}"), &forged),
            "signature",
        );
    }
    assert!(!gateway.said().contains(secret));
}

#[test]
fn what_an_attacker_makes_of_a_token_is_401_and_fetches_nothing() {
    let (rsa, ec) = (SigningKey::new("RS256", "rsa"), SigningKey::new("ES256", "ec"));
    let (attacker, trap) = (SigningKey::new("ES256", "ec"), Trap::new());
    let place = Place::new();
    place.write("jwks.json", tokens::jwks(&[&rsa, &ec]));
    // Long fields come in, and what a token names could be fetched, were it asked for.
    let text = Place::with_base(&policy(&["algorithms: [ES256, RS256]"])).replace(
        "server: {",
        "server: {egress: {allow: [127.0.0.0/8]}, limits: {field_bytes: 32KiB, header_bytes: 64KiB}, ",
    );
    let gateway = place.start_whole(&text);
    let good = claims(&json!({"sub": "admin"}));
    let with = |key: &SigningKey, header: Value| key.token_with(&header, &good);
    let unsigned = |header: Value| format!("{}.{}.", part(header.to_string()), part(good.to_string()));
    let token = ec.token(&good);
    ask(&gateway, "/orders/good", &token).expect(200);
    let (message, signature) = token.rsplit_once('.').unwrap();
    let signed = |signature: &[u8]| format!("{message}.{}", part(signature));
    let raw = ec.raw(message.as_bytes());
    let mut changed = raw.clone();
    changed[10] ^= 1;
    let der = [&[0x30, 70, 2, 33, 0][..], &raw[..32], &[2, 33, 0], &raw[32..]].concat();
    // The order of P-256, as r and as s: the same as zero (CVE-2022-21449 and its kin).
    let order = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
        0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ]
    .repeat(2);
    let rsa_token = rsa.token(&good);
    let (rsa_message, _) = rsa_token.rsplit_once('.').unwrap();
    let rsa_raw = rsa.raw(rsa_message.as_bytes());
    let rsa_signed = |signature: &[u8]| format!("{rsa_message}.{}", part(signature));
    ask(&gateway, "/orders/good", &rsa_token).expect(200);
    let header = |more: Value| {
        let mut header = ec.header();
        header.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        header
    };
    let hs = |bytes: &[u8], kid: &str| {
        with(&SigningKey::secret("HS256", bytes), json!({"alg": "HS256", "typ": "JWT", "kid": kid}))
    };
    let payload = |more: Value| {
        let mut other = good.clone();
        other.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (head, rest) = token.split_once('.').unwrap();
        format!("{head}.{}.{}", part(other.to_string()), rest.split_once('.').unwrap().1)
    };
    let jku = json!({"jku": format!("{}/jwks.json", trap.url)});
    let x5u = json!({"x5u": format!("{}/cert.pem", trap.url)});
    let rows = [
        ("none", unsigned(json!({"alg": "none", "typ": "JWT"})), "token_algorithm"),
        ("None", unsigned(json!({"alg": "None", "typ": "JWT"})), "token_algorithm"),
        ("nOnE", unsigned(json!({"alg": "nOnE", "typ": "JWT"})), "token_algorithm"),
        ("none-kid", unsigned(json!({"alg": "none", "kid": "ec"})), "token_algorithm"),
        ("none-signed", with(&ec, json!({"alg": "none", "kid": "ec"})), "token_algorithm"),
        ("no-alg", with(&ec, json!({"kid": "ec"})), "token_algorithm"),
        ("alg-list", with(&ec, json!({"alg": ["ES256"], "kid": "ec"})), "token_algorithm"),
        ("alg-of-another-key", with(&ec, json!({"alg": "RS256", "kid": "ec"})), "signature"),
        ("alg-not-configured", with(&rsa, json!({"alg": "PS256", "kid": "rsa"})), "token_algorithm"),
        ("hs-pem", hs(rsa.pem().as_bytes(), "rsa"), "token_algorithm"),
        ("hs-der", hs(&rsa.der(), "rsa"), "token_algorithm"),
        ("hs-jwk", hs(rsa.jwk().to_string().as_bytes(), "rsa"), "token_algorithm"),
        ("hs-x", hs(ec.public()["x"].as_str().unwrap().as_bytes(), "ec"), "token_algorithm"),
        ("blank", format!("{message}."), "signature"),
        ("no-signature", message.to_owned(), "token_form"),
        ("truncated", signed(&raw[..63]), "signature"),
        ("extended", signed(&[&raw[..], &[0]].concat()), "signature"),
        ("changed", signed(&changed), "signature"),
        ("zeros", signed(&[0; 64]), "signature"),
        ("der", signed(&der), "signature"),
        ("padded", format!("{token}="), "token_form"),
        ("four-parts", format!("{token}.{signature}"), "token_form"),
        // Encrypted, in form (RFC 7516 §3.1).
        ("five-parts", format!("{token}.{signature}.{signature}"), "token_form"),
        ("two-tokens", format!("{token},{token}"), "token_form"),
        ("order", signed(&order), "signature"),
        ("rsa-blank", rsa_signed(&[]), "signature"),
        ("rsa-zeros", rsa_signed(&[0; 256]), "signature"),
        ("rsa-one", rsa_signed(&[&[0; 255][..], &[1]].concat()), "signature"),
        ("rsa-truncated", rsa_signed(&rsa_raw[..255]), "signature"),
        ("rsa-extended", rsa_signed(&[&[0][..], &rsa_raw].concat()), "signature"),
        ("changed-payload", payload(json!({"sub": "root"})), "signature"),
        ("foreign-key", attacker.token(&good), "signature"),
        ("jwk", with(&attacker, json!({"alg": "ES256", "jwk": attacker.public()})), "signature"),
        ("jwk-kid", with(&attacker, header(json!({"jwk": attacker.jwk()}))), "signature"),
        ("jku", with(&attacker, header(jku.clone())), "signature"),
        ("jku-kid", with(&attacker, json!({"alg": "ES256", "kid": "new", "jku": jku["jku"]})), "unknown_key"),
        ("x5u", with(&attacker, header(x5u.clone())), "signature"),
        // Well signed, and for verifiers that follow it.
        ("jku-signed", with(&ec, header(jku)), "token_header"),
        ("x5u-signed", with(&ec, header(x5u)), "token_header"),
        ("jwk-signed", with(&ec, header(json!({"jwk": ec.public()}))), "token_header"),
        ("x5c", with(&attacker, header(json!({"x5c": [part(rsa.der())]}))), "signature"),
        ("crit", with(&ec, header(json!({"crit": ["exp"], "exp": 1}))), "token_header"),
        ("b64", with(&ec, header(json!({"crit": ["b64"], "b64": false}))), "token_header"),
        ("kid-path", with(&ec, header(json!({"kid": "../../../../dev/null"}))), "unknown_key"),
        ("kid-url", with(&ec, header(json!({"kid": trap.url}))), "unknown_key"),
        ("kid-sql", with(&ec, header(json!({"kid": "x' UNION SELECT 'key"}))), "unknown_key"),
        ("kid-long", with(&ec, header(json!({"kid": "k".repeat(10 << 10)}))), "token_size"),
        ("kid-number", with(&ec, header(json!({"kid": 1}))), "token_header"),
        ("kid-unknown", with(&ec, header(json!({"kid": "nobody"}))), "unknown_key"),
        (
            "header-twice",
            ec.token_of(br#"{"alg":"none","alg":"ES256","kid":"ec"}"#, good.to_string().as_bytes()),
            "token_form",
        ),
        ("not-json", ec.token_of(ec.header().to_string().as_bytes(), b"sub=admin"), "token_form"),
        (
            "claim-twice",
            ec.token_of(
                ec.header().to_string().as_bytes(),
                good.to_string().replacen('{', "{\"sub\":\"eve\",", 1).as_bytes(),
            ),
            "token_form",
        ),
        ("text", "admin".to_owned(), "token_form"),
    ];
    for (name, token, reason) in rows {
        let path = format!("/orders/{name}");
        is_refused(&gateway, &path, &ask(&gateway, &path, &token), reason);
    }
    trap.assert_untouched();
    // The good one is good all the same.
    ask(&gateway, "/orders/good", &token).expect(200);
    let series = [("policy", "auth.staff"), ("reason", "token_algorithm")];
    assert!(gateway.metrics().of("portcullis_refusals_total", &series) >= 11.0);
}

#[test]
fn no_algorithm_takes_what_is_no_signature_of_its_own() {
    let names =
        ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"];
    let keys: Vec<_> = names.iter().map(|name| SigningKey::new(name, &format!("key-{name}"))).collect();
    // Keys without `alg` are for all of their kind: then the header chooses more than it should, if anything lets it.
    let open = keys.iter().map(|key| {
        let mut jwk = key.jwk();
        jwk.as_object_mut().unwrap().remove("alg");
        jwk
    });
    let place = Place::new();
    place.write("jwks.json", json!({"keys": open.collect::<Vec<_>>()}).to_string());
    let gateway = place.start(&policy(&[&format!("algorithms: [{}]", names.join(", "))]));
    for key in &keys {
        let path = format!("/orders/{}", key.algorithm);
        let token = key.token(&claims(&json!({})));
        ask(&gateway, &path, &token).expect(200);
        let (message, _) = token.rsplit_once('.').unwrap();
        let raw = key.raw(message.as_bytes());
        let mut low = vec![0; raw.len()];
        *low.last_mut().unwrap() = 1;
        let mut changed = raw.clone();
        *changed.last_mut().unwrap() ^= 1;
        let odd = [
            &[][..],
            &raw[1..],
            &raw[..raw.len() - 1],
            &vec![0; raw.len()],
            &low,
            &vec![0xff; raw.len()],
            &changed,
        ];
        for (number, signature) in odd.into_iter().chain([&[&raw[..], &[0]].concat()[..]]).enumerate() {
            let token = format!("{message}.{}", part(signature));
            assert_eq!(ask(&gateway, &path, &token).status, 401, "{} {number}", key.algorithm);
        }
        // By every other name the signature is none, but for the two of Ed25519.
        let same =
            |name: &str| matches!((name, &*key.algorithm), ("EdDSA", "Ed25519") | ("Ed25519", "EdDSA"));
        for other in names.iter().filter(|name| **name != key.algorithm && !same(name)) {
            let token =
                key.token_with(&json!({"alg": other, "kid": key.kid, "typ": "at+jwt"}), &claims(&json!({})));
            assert_eq!(ask(&gateway, &path, &token).status, 401, "{} as {other}", key.algorithm);
        }
    }
}

#[test]
fn a_name_of_ten_kilobytes_is_no_keys_where_tokens_may_be_long() {
    let key = SigningKey::new("ES256", "k");
    let place = Place::new();
    place.write("jwks.json", tokens::jwks(&[&key]));
    let text = Place::with_base(&policy(&["max_bytes: 64KiB"]))
        .replace("server: {", "server: {limits: {field_bytes: 64KiB, header_bytes: 128KiB}, ");
    let gateway = place.start_whole(&text);
    let named = |kid: Value| {
        key.token_with(&json!({"alg": "ES256", "typ": "at+jwt", "kid": kid}), &claims(&json!({})))
    };
    for (name, kid) in
        [("long", "k".repeat(10 << 10)), ("up", "../".repeat(4 << 10)), ("kk", "k".repeat(513))]
    {
        let path = format!("/orders/{name}");
        is_refused(&gateway, &path, &ask(&gateway, &path, &named(json!(kid))), "token_header");
    }
    is_refused(
        &gateway,
        "/orders/longest",
        &ask(&gateway, "/orders/longest", &named(json!("k".repeat(512)))),
        "unknown_key",
    );
    ask(&gateway, "/orders/good", &named(json!("k"))).expect(200);
}

#[test]
fn a_secret_is_never_a_public_key() {
    // Where HMAC is configured there are no public keys; where there are, HMAC is not: both at once do not load. What an attacker has
    // is the public key of another policy of the same route.
    let (rsa, place) = (SigningKey::new("RS256", "rsa"), Place::new());
    place.write("jwks.json", tokens::jwks(&[&rsa]));
    place.write("secret", "a secret of more than thirty-two bytes, of the other policy");
    let gateway = place.start(&format!(
        "policies:
  auth:
    staff: {{jwt: {{issuer: {ISSUER}, audiences: [orders], algorithms: [RS256], keys: {{file: ./jwks.json}}}}}}
    partners: {{jwt: {{issuer: https://partners.example, audiences: [orders], algorithms: [HS256], keys: {{secret: '${{file:./secret}}'}}}}}}
routes:
  - {{name: orders, match: {{path: '/orders/{{*rest}}'}}, auth: {{any_of: [staff, partners]}}, respond: {{body: hello}}}}
"
    ));
    let pem = rsa.pem();
    for (name, bytes) in [
        ("pem", pem.as_bytes().to_vec()),
        ("trimmed", pem.trim_end().as_bytes().to_vec()),
        ("der", rsa.der()),
        ("jwk", rsa.jwk().to_string().into_bytes()),
    ] {
        for (issuer, reason) in [(ISSUER, "token_algorithm"), ("https://partners.example", "signature")] {
            let forger = SigningKey::secret("HS256", &bytes);
            let header = json!({"alg": "HS256", "typ": "JWT", "kid": "rsa"});
            let token = forger.token_with(&header, &claims(&json!({"iss": issuer})));
            let path = format!("/orders/{name}-{reason}");
            ask(&gateway, &path, &token).expect(401);
            assert_eq!(gateway.access_of(&path)["error"]["reason"], reason, "{path}");
        }
    }
}

#[test]
fn a_token_must_say_what_it_is_and_for_whom() {
    let key = SigningKey::new("ES256", "k");
    let gateway = start(&[&key], &["max_age: 1h", "leeway: 5s"]);
    let now = tokens::now();
    let rows = [
        ("no-exp", json!({"exp": null}), "claims"),
        ("exp-text", json!({"exp": (now + 100).to_string()}), "claims"),
        ("exp-millis", json!({"exp": (now + 100) * 1000}), "claims"),
        ("exp-huge", json!({"exp": 1e200}), "claims"),
        ("exp-negative", json!({"exp": -5}), "claims"),
        ("expired", json!({"exp": now - 6}), "expired"),
        ("nbf", json!({"nbf": now + 60}), "not_yet_valid"),
        ("nbf-text", json!({"nbf": "x"}), "claims"),
        ("iat-future", json!({"iat": now + 60}), "not_yet_valid"),
        ("no-iat", json!({"iat": null}), "claims"),
        ("old", json!({"iat": now - 4000}), "too_old"),
        ("no-iss", json!({"iss": null}), "claims"),
        ("iss-list", json!({"iss": [ISSUER]}), "claims"),
        ("iss-slash", json!({"iss": format!("{ISSUER}/")}), "issuer"),
        ("no-aud", json!({"aud": null}), "claims"),
        ("aud-number", json!({"aud": 1}), "claims"),
        ("aud-mixed", json!({"aud": ["orders", 1]}), "claims"),
        ("aud-other", json!({"aud": ["billing"]}), "audience"),
        ("no-sub", json!({"sub": null}), "claims"),
        ("sub-number", json!({"sub": 1}), "claims"),
        ("jti-number", json!({"jti": 1}), "claims"),
        ("id-token-hash", json!({"at_hash": "77QmUPtjPfzWtF2AnpK9RQ"}), "token_type"),
        ("cnf", json!({"cnf": {"jwk": key.public()}}), "binding"),
    ];
    for (name, other, reason) in rows {
        let path = format!("/orders/{name}");
        is_refused(&gateway, &path, &ask(&gateway, &path, &key.token(&claims(&other))), reason);
    }
    let header = json!({"alg": "ES256", "kid": "k", "typ": "id_token+jwt"});
    let other = key.token_with(&header, &claims(&json!({})));
    is_refused(&gateway, "/orders/typ", &ask(&gateway, "/orders/typ", &other), "token_type");
    ask(&gateway, "/orders/good", &key.token(&claims(&json!({"aud": ["x", "orders"]})))).expect(200);
    // What else issuers sign with the same keys, often with the same header.
    let header = json!({"alg": "ES256", "kid": "k", "typ": "JWT"});
    for (name, other, good) in [
        ("id", json!({"nonce": "n-0S6_WzA2Mj", "auth_time": now}), false),
        ("id-of-keycloak", json!({"typ": "ID", "azp": "shop"}), false),
        ("id-of-cognito", json!({"token_use": "id"}), false),
        ("refresh", json!({"typ": "Refresh"}), false),
        ("refresh-word", json!({"token_use": "refresh"}), false),
        ("logout", json!({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}), false),
        ("access-of-keycloak-24", json!({"typ": "Bearer", "nonce": "n-0S6_WzA2Mj"}), true),
        ("access-of-cognito", json!({"token_use": "access"}), true),
    ] {
        let path = format!("/orders/{name}");
        let answer = ask(&gateway, &path, &key.token_with(&header, &claims(&other)));
        if good {
            answer.expect(200);
        } else {
            is_refused(&gateway, &path, &answer, "token_type");
        }
    }
}

#[test]
fn a_token_is_one_and_stands_where_the_policy_reads() {
    let key = SigningKey::new("ES256", "k");
    let (good, other) = (key.token(&claims(&json!({}))), key.token(&claims(&json!({}))));
    let bearer = start(&[&key], &[]);
    let header = start(&[&key], &["from: {header: x-token}"]);
    let cookie = start(&[&key], &["from: {cookie: session}"]);
    let (first, second) = (format!("Bearer {good}"), format!("Bearer {other}"));
    let session = format!("a=1; session={good}");
    for (gateway, fields, expected) in [
        (&bearer, vec![("Authorization", first.as_str())], 200),
        (&bearer, vec![("Authorization", &first), ("Authorization", &second)], 401),
        (&bearer, vec![("X-Token", &good)], 401),
        (&bearer, vec![("Authorization", &good)], 401),
        (&bearer, vec![("Authorization", "Bearer ")], 401),
        (&header, vec![("X-Token", &good)], 200),
        (&header, vec![("X-Token", &good), ("X-Token", &other)], 401),
        (&header, vec![("Authorization", &first)], 401),
        (&cookie, vec![("Cookie", &session)], 200),
        (&cookie, vec![("Cookie", &session), ("Cookie", &session)], 401),
    ] {
        assert_eq!(send(gateway, "/orders/1", &fields).status, expected, "{fields:?}");
    }
    // Never of the query, unless it is asked for.
    bearer.send(format!("GET /orders/1?access_token={good} HTTP/1.1\r\nHost: a\r\n\r\n")).expect(401);
    // Who presents nothing is told how, and of no error (RFC 6750 §3.1).
    let challenge = send(&bearer, "/orders/1", &[]).all("www-authenticate");
    assert!(challenge.starts_with("Bearer realm=\"staff\"") && !challenge.contains("error="), "{challenge}");
}

#[test]
fn keys_of_two_issuers_never_cross() {
    let (one, two) = (SigningKey::new("ES256", "k"), SigningKey::new("ES256", "k"));
    let place = Place::new();
    place.write("one.json", tokens::jwks(&[&one]));
    place.write("two.json", tokens::jwks(&[&two]));
    let gateway = place.start(
        "policies:
  auth:
    staff: {jwt: {issuer: https://one.example, audiences: [orders], keys: {file: ./one.json}}}
    partners: {jwt: {issuer: https://two.example, audiences: [orders], keys: {file: ./two.json}}}
routes:
  - {name: orders, match: {path: '/{*rest}'}, auth: {any_of: [staff, partners]}, respond: {body: hello}}
",
    );
    let token = |key: &SigningKey, issuer: &str| key.token(&claims(&json!({"iss": issuer})));
    for (name, key, issuer, status, reason) in [
        ("/a", &one, "https://one.example", 200, None),
        ("/b", &two, "https://two.example", 200, None),
        ("/c", &one, "https://two.example", 401, Some("signature")),
        ("/d", &two, "https://one.example", 401, Some("signature")),
        ("/e", &two, "https://three.example", 401, Some("unknown_issuer")),
    ] {
        let token = token(key, issuer);
        for _ in 0..2 {
            ask(&gateway, name, &token).expect(status);
        }
        assert_eq!(gateway.access_of(name)["error"]["reason"].as_str(), reason, "{name}");
    }
}

#[test]
fn what_is_remembered_ends_when_the_token_expires() {
    let key = SigningKey::new("ES256", "k");
    let gateway = start(&[&key], &["leeway: 0ms"]);
    let token = key.token(&claims(&json!({"exp": tokens::now() + 2})));
    ask(&gateway, "/orders/before", &token).expect(200);
    let last = eventually("the token to expire", || {
        let response = ask(&gateway, "/orders/after", &token);
        (response.status != 200).then_some(response)
    });
    assert_eq!(last.status, 401);
    ask(&gateway, "/orders/again", &token).expect(401);
    assert_eq!(gateway.access_of("/orders/again")["error"]["reason"], "expired");
}

#[test]
fn what_is_remembered_ends_when_its_key_is_gone() {
    let (old, new) = (SigningKey::new("ES256", "old"), SigningKey::new("ES256", "new"));
    let gateway = start(&[&old, &new], &[]);
    let (by_old, by_new) = (old.token(&claims(&json!({}))), new.token(&claims(&json!({}))));
    for token in [&by_old, &by_new] {
        ask(&gateway, "/orders/1", token).expect(200);
    }
    gateway.place.write("jwks.json", tokens::jwks(&[&new]));
    eventually("the key to be gone", || (ask(&gateway, "/orders/1", &by_old).status == 401).then_some(()));
    is_refused(&gateway, "/orders/2", &ask(&gateway, "/orders/2", &by_old), "unknown_key");
    ask(&gateway, "/orders/1", &by_new).expect(200);
    // And is good again with it.
    gateway.place.write("jwks.json", tokens::jwks(&[&new, &old]));
    eventually("the key to be back", || (ask(&gateway, "/orders/1", &by_old).status == 200).then_some(()));
}

#[test]
fn a_file_of_bad_keys_changes_nothing_and_a_bad_key_among_good_ones_is_told() {
    let key = SigningKey::new("ES256", "k");
    let gateway = start(&[&key], &[]);
    let token = key.token(&claims(&json!({})));
    gateway
        .place
        .write("jwks.json", json!({"keys": [SigningKey::secret("HS256", &[1; 32]).jwk()]}).to_string());
    gateway.await_line("it is symmetric");
    ask(&gateway, "/orders/1", &token).expect(200);
    let mut weak = SigningKey::new("RS256", "weak").jwk();
    weak["use"] = json!("enc");
    gateway.place.write("jwks.json", json!({"keys": [weak, key.jwk()]}).to_string());
    gateway.await_line("the key `weak` is left out: its `use` is not `sig`");
    ask(&gateway, "/orders/1", &token).expect(200);
}

#[test]
fn a_revoked_token_is_refused_though_it_is_remembered() {
    let key = SigningKey::new("ES256", "k");
    let place = Place::new();
    place.write("jwks.json", tokens::jwks(&[&key]));
    place.write("revoked.txt", "# nobody yet\n");
    let gateway = place.start(&policy(&["revoked: {file: ./revoked.txt}"]));
    let by_id = key.token(&claims(&json!({"jti": "id-1"})));
    let by_subject = key.token(&claims(&json!({"sub": "mallory"})));
    let other = key.token(&claims(&json!({})));
    for token in [&by_id, &by_subject, &other] {
        ask(&gateway, "/orders/1", token).expect(200);
    }
    gateway.place.write("revoked.txt", "id-1 # stolen\nmallory\n");
    eventually("the list to be read", || (ask(&gateway, "/orders/1", &by_id).status == 401).then_some(()));
    is_refused(&gateway, "/orders/id", &ask(&gateway, "/orders/id", &by_id), "revoked");
    is_refused(&gateway, "/orders/sub", &ask(&gateway, "/orders/sub", &by_subject), "revoked");
    ask(&gateway, "/orders/1", &other).expect(200);
}

/// A server that gives what the test wants at the moment; an empty text is a 500.
fn list_server(text: &Arc<Mutex<String>>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/revoked", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, text) = (Arc::clone(&asked), Arc::clone(text));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let body = text.lock().unwrap().clone();
            let status = if body.is_empty() { "500 Error" } else { "200 OK" };
            let _ = stream.write_all(
                format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                )
                .as_bytes(),
            );
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    (url, asked)
}

#[test]
fn a_list_of_revoked_tokens_is_fetched_and_what_was_fetched_stays() {
    let key = SigningKey::new("ES256", "k");
    let text = Arc::new(Mutex::new(String::new()));
    let (url, asked) = list_server(&text);
    let place = Place::new();
    place.write("jwks.json", tokens::jwks(&[&key]));
    let revoked = format!("revoked: {{url: '{url}', refresh: 1s}}");
    let config = Place::with_base(&policy(&[&revoked]))
        .replace("server: {", "server: {egress: {allow: [127.0.0.0/8]}, ");
    let gateway = place.start_whole(&config);
    let (one, two) = (key.token(&claims(&json!({"jti": "one"}))), key.token(&claims(&json!({"jti": "two"}))));
    // Nobody knows yet what is revoked: nothing passes.
    ask(&gateway, "/orders/early", &two).expect(503);
    assert_eq!(gateway.access_of("/orders/early")["error"]["reason"], "revocations_unavailable");
    *text.lock().unwrap() = "{\"jti\": [\"one\"]}".to_owned();
    eventually("the list to be fetched", || (ask(&gateway, "/orders/1", &two).status == 200).then_some(()));
    is_refused(&gateway, "/orders/one", &ask(&gateway, "/orders/one", &one), "revoked");
    // An outage.
    text.lock().unwrap().clear();
    let before = asked.load(Ordering::SeqCst);
    eventually("two more fetches", || (asked.load(Ordering::SeqCst) >= before + 2).then_some(()));
    ask(&gateway, "/orders/1", &two).expect(200);
    ask(&gateway, "/orders/1", &one).expect(401);
    *text.lock().unwrap() = "two\n".to_owned();
    eventually("the other list", || (ask(&gateway, "/orders/1", &two).status == 401).then_some(()));
    ask(&gateway, "/orders/1", &one).expect(200);
}

#[test]
fn a_restart_knows_who_is_revoked_while_the_list_cannot_be_fetched() {
    let key = SigningKey::new("ES256", "k");
    let text = Arc::new(Mutex::new("one\n".to_owned()));
    let (url, _) = list_server(&text);
    let place = Place::new();
    place.write("jwks.json", tokens::jwks(&[&key]));
    let with = |more: &str| policy(&[&format!("revoked: {{url: '{url}', refresh: 1s{more}}}")]);
    let gateway = place.start_fetching(&with(""));
    let of = |jti: &str| key.token(&claims(&json!({ "jti": jti })));
    let (one, two) = (of("one"), of("two"));
    eventually("the list to be fetched", || (ask(&gateway, "/orders/1", &two).status == 200).then_some(()));
    let copy = eventually("the copy of the list", || {
        let mut found = std::fs::read_dir(gateway.place.path("state/revoked")).ok()?;
        found.find_map(|entry| {
            Some(entry.ok()?.path()).filter(|path| path.extension().is_some_and(|e| e == "json"))
        })
    });
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&copy).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    text.lock().unwrap().clear();
    let gateway = gateway.restart();
    ask(&gateway, "/orders/1", &two).expect(200);
    is_refused(&gateway, "/orders/one", &ask(&gateway, "/orders/one", &one), "revoked");
    gateway.await_line("1 entries from the copy");
    let age = gateway.metrics().of("portcullis_revoked_list_age_seconds", &[("policy", "auth.staff")]);
    assert!(age < 60.0, "{age}");
    // `explain` reads the copy too, and asks nobody.
    let field = format!("Authorization: Bearer {two}");
    let url = "http://example.com/orders/1";
    let told = gateway.place.portcullis(&["explain", "--config", "portcullis.yaml", "--header", &field, url]);
    let (passes, told) = (told.status.success(), String::from_utf8_lossy(&told.stdout).into_owned());
    assert!(passes && told.contains("alice"), "{told}");
    // A list that is too old is none, whether it comes from the copy or was fetched.
    gateway.reload_fetching(&with(", stale_max: 0ms"));
    eventually("the copy to be too old", || (ask(&gateway, "/orders/1", &two).status == 503).then_some(()));
    ask(&gateway, "/orders/old", &two).expect(503);
    assert_eq!(gateway.access_of("/orders/old")["error"]["reason"], "revocations_unavailable");
    *text.lock().unwrap() = "one\n".to_owned();
    eventually("the list to be fetched", || (ask(&gateway, "/orders/1", &two).status == 200).then_some(()));
    text.lock().unwrap().clear();
    eventually("what was fetched to be too old", || {
        (ask(&gateway, "/orders/1", &two).status == 503).then_some(())
    });
    gateway.await_line("the list is older than `stale_max`, and is used no more");
}
