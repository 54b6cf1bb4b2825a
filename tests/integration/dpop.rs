//! Tokens that are bound to a key of the client's (RFC 9449), and what a thief makes of them.

use serde_json::{Value, json};

use crate::harness::tokens::{self, ISSUER, SigningKey, claims};
use crate::harness::{Place, Response, Running};

const URL: &str = "http://api.example.com/orders";

fn start(issuer: &SigningKey, dpop: &str) -> Running {
    let place = Place::new();
    place.write("jwks.json", tokens::jwks(&[issuer]));
    place.start(&format!(
        "policies:
  auth:
    staff: {{jwt: {{issuer: {ISSUER}, audiences: [orders], keys: {{file: ./jwks.json}}, {dpop}}}}}
routes:
  - {{name: orders, match: {{path: '/{{*rest}}'}}, auth: staff, respond: {{body: hello}}}}
"
    ))
}

fn send(
    gateway: &Running,
    method: &str,
    target: &str,
    scheme: &str,
    token: &str,
    proofs: &[&str],
) -> Response {
    let proofs: String = proofs.iter().map(|proof| format!("DPoP: {proof}\r\n")).collect();
    gateway.send(format!(
        "{method} {target} HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: {scheme} {token}\r\n{proofs}\r\n"
    ))
}

/// Of a token, as a proof has it.
fn hash_of(token: &str) -> String {
    tokens::part(openssl::sha::sha256(token.as_bytes()))
}

fn bound(issuer: &SigningKey, client: &SigningKey) -> String {
    issuer.token(&claims(&json!({"cnf": {"jkt": client.thumbprint()}})))
}

#[test]
fn a_bound_token_passes_with_its_proof_once() {
    let (issuer, client) = (SigningKey::new("ES256", "k"), SigningKey::new("ES256", ""));
    let gateway = start(&issuer, "dpop: required");
    let token = bound(&issuer, &client);
    for _ in 0..3 {
        let proof = client.proof("GET", URL, &token, &json!({}));
        send(&gateway, "GET", "/orders?a=1", "DPoP", &token, &[&proof]).expect(200);
    }
    let proof = client.proof("GET", URL, &token, &json!({}));
    send(&gateway, "GET", "/orders", "dpop", &token, &[&proof]).expect(200);
    // Whichever worker it comes to.
    for _ in 0..8 {
        let replayed = send(&gateway, "GET", "/orders", "DPoP", &token, &[&proof]);
        replayed.expect(401);
        let challenge = replayed.all("www-authenticate");
        assert!(
            challenge.starts_with("DPoP realm=\"staff\", algs=\"") && challenge.contains("ES256"),
            "{challenge}"
        );
        assert!(challenge.contains("error=\"invalid_dpop_proof\""), "{challenge}");
    }
    let series = [("policy", "auth.staff"), ("reason", "proof_replayed")];
    gateway.await_metric("portcullis_refusals_total", &series, 8.0);
    assert!(!gateway.place.read("access.log").contains("eyJ"), "a proof stands in the log");
}

#[test]
fn a_stolen_token_is_401_whatever_comes_with_it() {
    let (issuer, client) = (SigningKey::new("ES256", "k"), SigningKey::new("ES256", ""));
    let gateway = start(&issuer, "dpop: optional");
    let thief = SigningKey::new("ES256", "");
    let token = bound(&issuer, &client);
    let other = bound(&issuer, &client);
    let proof = |key: &SigningKey, method: &str, url: &str, token: &str, more: Value| {
        key.proof(method, url, token, &more)
    };
    let now = tokens::now();
    let good = || proof(&client, "GET", URL, &token, json!({}));
    // What a good proof says, under another header.
    let said = json!({"jti": tokens::unique(), "htm": "GET", "htu": URL, "iat": now, "ath": hash_of(&token)});
    let with = |header: Value| client.token_with(&header, &said);
    let rows = [
        ("no-proof", "DPoP", vec![], "proof_missing"),
        ("as-bearer", "Bearer", vec![], "binding"),
        ("bearer-with-proof", "Bearer", vec![good()], "binding"),
        ("own-key", "DPoP", vec![proof(&thief, "GET", URL, &token, json!({}))], "binding"),
        ("other-method", "DPoP", vec![proof(&client, "POST", URL, &token, json!({}))], "proof"),
        (
            "other-path",
            "DPoP",
            vec![proof(&client, "GET", "http://api.example.com/other", &token, json!({}))],
            "proof",
        ),
        (
            "other-host",
            "DPoP",
            vec![proof(&client, "GET", "http://evil.example/orders", &token, json!({}))],
            "proof",
        ),
        (
            "other-scheme",
            "DPoP",
            vec![proof(&client, "GET", "https://api.example.com/orders", &token, json!({}))],
            "proof",
        ),
        ("other-token", "DPoP", vec![proof(&client, "GET", URL, &other, json!({}))], "proof"),
        ("no-ath", "DPoP", vec![proof(&client, "GET", URL, &token, json!({"ath": null}))], "proof"),
        ("old", "DPoP", vec![proof(&client, "GET", URL, &token, json!({"iat": now - 300}))], "proof"),
        ("future", "DPoP", vec![proof(&client, "GET", URL, &token, json!({"iat": now + 300}))], "proof"),
        ("two-proofs", "DPoP", vec![good(), good()], "proof"),
        ("no-proof-at-all", "DPoP", vec!["x".to_owned()], "proof"),
        ("unsigned", "DPoP", vec![format!("{}.", good().rsplit_once('.').unwrap().0)], "proof"),
        ("of-the-issuer", "DPoP", vec![proof(&issuer, "GET", URL, &token, json!({}))], "binding"),
        ("kid-for-jwk", "DPoP", vec![with(json!({"typ": "dpop+jwt", "alg": "ES256", "kid": "k"}))], "proof"),
        (
            "jku-for-jwk",
            "DPoP",
            vec![with(json!({"typ": "dpop+jwt", "alg": "ES256", "jku": "http://127.0.0.1:1/jwks.json"}))],
            "proof",
        ),
        (
            "hs",
            "DPoP",
            vec![
                SigningKey::secret("HS256", client.public().to_string().as_bytes())
                    .token_with(&json!({"typ": "dpop+jwt", "alg": "HS256", "jwk": client.public()}), &said),
            ],
            "proof",
        ),
        ("no-type", "DPoP", vec![with(json!({"alg": "ES256", "jwk": client.public()}))], "proof"),
        ("token-as-proof", "DPoP", vec![token.clone()], "proof"),
    ];
    for (name, scheme, proofs, reason) in rows {
        let proofs: Vec<_> = proofs.iter().map(String::as_str).collect();
        let series = [("policy", "auth.staff"), ("reason", reason)];
        let before = gateway.metrics().get("portcullis_refusals_total", &series).unwrap_or_default();
        let response = send(&gateway, "GET", "/orders", scheme, &token, &proofs);
        assert_eq!(response.status, 401, "{name}: {response:?}");
        gateway.await_metric("portcullis_refusals_total", &series, before + 1.0);
    }
    // A token that is bound to nobody is a bearer's, and nothing else.
    let plain = issuer.token(&claims(&json!({})));
    send(&gateway, "GET", "/orders", "Bearer", &plain, &[]).expect(200);
    send(&gateway, "GET", "/orders", "DPoP", &plain, &[&client.proof("GET", URL, &plain, &json!({}))])
        .expect(401);
    send(&gateway, "GET", "/orders", "DPoP", &token, &[&good()]).expect(200);
}

#[test]
fn a_bound_token_is_nothing_where_no_proofs_are_taken() {
    let (issuer, client) = (SigningKey::new("ES256", "k"), SigningKey::new("ES256", ""));
    let none = start(&issuer, "dpop: none");
    let token = bound(&issuer, &client);
    let proof = client.proof("GET", URL, &token, &json!({}));
    send(&none, "GET", "/orders", "Bearer", &token, &[]).expect(401);
    send(&none, "GET", "/orders", "Bearer", &token, &[&proof]).expect(401);
    send(&none, "GET", "/orders", "DPoP", &token, &[&proof]).expect(401);
    // Nor is one that is bound to a certificate which the connection does not have.
    let certificate = issuer.token(&claims(&json!({"cnf": {"x5t#S256": client.thumbprint()}})));
    send(&none, "GET", "/orders", "Bearer", &certificate, &[]).expect(401);
    let required = start(&issuer, "dpop: required");
    let plain = issuer.token(&claims(&json!({})));
    send(&required, "GET", "/orders", "Bearer", &plain, &[]).expect(401);
}

#[test]
fn a_proof_needs_the_nonce_that_it_is_given() {
    let (issuer, client) = (SigningKey::new("ES256", "k"), SigningKey::new("ES256", ""));
    let gateway = start(&issuer, "dpop: required, dpop_nonce: true");
    let token = bound(&issuer, &client);
    let asked =
        send(&gateway, "GET", "/orders", "DPoP", &token, &[&client.proof("GET", URL, &token, &json!({}))]);
    asked.expect(401);
    assert!(asked.all("www-authenticate").contains("error=\"use_dpop_nonce\""), "{asked:?}");
    let nonce = asked.header("dpop-nonce").unwrap().to_owned();
    for _ in 0..4 {
        let proof = client.proof("GET", URL, &token, &json!({"nonce": nonce}));
        send(&gateway, "GET", "/orders", "DPoP", &token, &[&proof]).expect(200);
    }
    let made_up = client.proof("GET", URL, &token, &json!({"nonce": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}));
    send(&gateway, "GET", "/orders", "DPoP", &token, &[&made_up]).expect(401);
}
