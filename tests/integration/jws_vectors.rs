//! The JWS vectors beside the project (`../shared/vectors/jws`, Wycheproof), through the function that verifies every token.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::policy::auth::jwt::{Algorithm, KeySet, verify};
use serde_json::{Value, json};

/// Valid ones that are refused here, and why.
const REFUSED: &[(u64, &str)] = &[
    (346, "the key's `alg` is PS256, the token's PS384: a key is for its algorithm alone (RFC 7517 §4.4)"),
    (347, "the key's `alg` is `ES521`, which is no algorithm (RFC 7518 §3.1)"),
    (350, "as 346"),
    (351, "as 347"),
    (372, "a character that is not of base64url stands in the header (RFC 7515 §2)"),
    (373, "the same in the payload"),
];

/// Invalid ones that are accepted here: byte for byte the valid vector 357. Their padding is lost, so nobody can tell them apart.
const ACCEPTED: &[u64] = &[367, 370];

#[test]
fn every_vector_is_accepted_or_refused_as_it_says() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/vectors/jws/wycheproof_json_web_signature.json");
    let Ok(text) = std::fs::read(&path) else {
        println!("skipped: no {}", path.display());
        return;
    };
    let vectors: Value = serde_json::from_slice(&text).unwrap();
    let (mut counts, mut wrong, mut listed) = (BTreeMap::new(), Vec::new(), 0);
    for group in vectors["testGroups"].as_array().unwrap() {
        let jwk = group.get("public").unwrap_or_else(|| &group["private"]);
        // A symmetric key is no part of any JWKS: it is given as a secret, for its own algorithm.
        let (keys, algorithms) = match jwk["k"].as_str() {
            Some(secret) => (
                KeySet::of_secret(&URL_SAFE_NO_PAD.decode(secret).unwrap()),
                vec![Algorithm::by_name(jwk["alg"].as_str().unwrap()).unwrap()],
            ),
            None => (
                KeySet::parse(json!({"keys": [jwk]}).to_string().as_bytes()).unwrap(),
                Algorithm::ALL.to_vec(),
            ),
        };
        for vector in group["tests"].as_array().unwrap() {
            let id = vector["tcId"].as_u64().unwrap();
            // The JSON serialisation is no compact one.
            let token = vector["jws"].as_str().map_or_else(|| vector["jws"].to_string(), str::to_owned);
            let told = verify(&token, &keys, &algorithms);
            let is_listed = REFUSED.iter().any(|(listed, _)| *listed == id);
            listed += usize::from(is_listed);
            let is_the_valid_one = ACCEPTED.contains(&id);
            if is_the_valid_one {
                let valid =
                    group["tests"].as_array().unwrap().iter().find(|other| other["tcId"] == 357).unwrap();
                assert_eq!((&vector["jws"], &valid["result"]), (&valid["jws"], &json!("valid")));
            }
            let expected = is_the_valid_one || (vector["result"] == "valid" && !is_listed);
            *counts.entry((vector["result"].as_str().unwrap().to_owned(), told.is_ok())).or_insert(0) += 1;
            if told.is_ok() != expected {
                wrong.push(format!("{id} ({}): {:?}", vector["comment"], told.map(|_| "accepted")));
            }
        }
    }
    println!("{counts:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(counts.values().sum::<i32>(), 401);
    assert_eq!(listed, REFUSED.len(), "a vector that is listed is not there");
}
