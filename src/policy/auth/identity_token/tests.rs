//! Tokens as an upstream gets them, verified by what is published.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::config::load_text;
use crate::config::units::Size;
use crate::policy::auth::jwt::{Algorithm, KeySet, verify};
use crate::policy::auth::testing::{NOW, now};

const ISSUER: &str = "https://gw.example.com";

fn config(text: &str) -> Spanned<Config> {
    let mut build = Build::default();
    let config = load_text("t.yaml", &format!("{{issuer: '{ISSUER}', {text}}}"), &|_| None, &mut build);
    Spanned::unwritten(config.unwrap_or_else(|| panic!("{}", build.errors.render(&build.sources))))
}

/// Tokens that are signed, with the keys of this directory.
fn serving(text: &str, directory: &Path) -> Arc<IdentityTokens> {
    let mut build = Build::default();
    let live = Live::new(PathBuf::new());
    let mut tokens = IdentityTokens::compile(&config(text), &live, &mut build)
        .unwrap_or_else(|| panic!("{}", build.errors.render(&build.sources)));
    tokens.keys.open(directory).unwrap();
    tokens.serves = true;
    Arc::new(tokens)
}

fn forwarding(tokens: &Arc<IdentityTokens>, text: &str) -> Forwarding {
    let mut build = Build::default();
    let written: ForwardConfig = load_text("t.yaml", text, &|_| None, &mut build).unwrap();
    Forwarding::compile(&Spanned::unwritten(written), Some(tokens), &mut build).unwrap()
}

fn orders(tokens: &Arc<IdentityTokens>) -> Forwarding {
    forwarding(tokens, "{header: x-identity-token, audience: orders, claims: [tenant]}")
}

fn alice() -> Identity {
    let mut identity = Identity::new("alice", Method::Jwt, "auth.staff".into());
    identity.claims = json!({"tenant": "acme", "exp": NOW + 3600}).as_object().unwrap().clone().into();
    identity
}

fn token(by: &Forwarding, identity: &Identity, after: u64) -> String {
    let value = by.token(identity, now() + Duration::from_secs(after), 0).unwrap().unwrap();
    assert!(value.is_sensitive());
    value.to_str().unwrap().to_owned()
}

fn claims(tokens: &IdentityTokens, token: &str) -> Value {
    let keys = KeySet::parse(&tokens.key_set()).unwrap();
    serde_json::from_slice(&verify(token, &keys, &[Algorithm::ES256, Algorithm::EdDSA]).unwrap()).unwrap()
}

#[test]
fn a_token_is_sent_for_half_its_lifetime_and_for_its_identity_alone() {
    let place = tempfile::tempdir().unwrap();
    let tokens = serving("lifetime: 60s", place.path());
    let by = orders(&tokens);
    let first = token(&by, &alice(), 0);
    let said = claims(&tokens, &first);
    assert_eq!(
        (&said["iss"], &said["sub"], &said["aud"]),
        (&json!(ISSUER), &json!("alice"), &json!("orders"))
    );
    assert_eq!((&said["iat"], &said["exp"]), (&json!(NOW), &json!(NOW + 60)));
    assert_eq!(said["claims"], json!({"tenant": "acme"}));
    assert_eq!(said["jti"].as_str().unwrap().len(), 22);
    assert_eq!(token(&by, &alice(), 29), first);
    let second = token(&by, &alice(), 30);
    assert_ne!(second, first);
    assert_eq!(claims(&tokens, &second)["exp"], NOW + 90);
    // Whatever is another has a token of its own.
    let mut others = vec![first.clone(), second];
    let mut differs = |by: &Forwarding, change: &dyn Fn(&mut Identity)| {
        let mut identity = alice();
        change(&mut identity);
        let other = token(by, &identity, 30);
        assert!(!others.contains(&other), "{identity:?}");
        others.push(other);
    };
    differs(&by, &|own| own.id = "alicf".into());
    differs(&by, &|own| own.method = Method::Basic);
    differs(&by, &|own| own.policy = "auth.partners".into());
    differs(&by, &|own| own.issuer = Some("https://id.example.com".into()));
    differs(&by, &|own| own.scopes = Arc::new(["a".into()]));
    differs(&by, &|own| own.groups = Box::new(["a".into()]));
    differs(&by, &|own| own.plan = Some("a".into()));
    differs(&by, &|own| own.caller = Some("a".into()));
    differs(&by, &|own| own.key_id = Some("a".into()));
    differs(&by, &|own| drop(own.claims.insert("tenant".to_owned(), "other".into())));
    differs(&forwarding(&tokens, "{header: x-identity-token, audience: billing, claims: [tenant]}"), &|_| {});
    differs(&forwarding(&tokens, "{header: x-identity-token, audience: orders}"), &|_| {});
    assert_eq!(tokens.figures(), TokenFigures { signed: 14, reused: 1, refused: 0, keys: 1 });
}

#[test]
fn without_a_cache_each_request_has_a_token_of_its_own() {
    let place = tempfile::tempdir().unwrap();
    let tokens = serving("cache: 0B, algorithm: EdDSA", place.path());
    let by = orders(&tokens);
    let all: BTreeSet<_> = (0..20).map(|_| token(&by, &alice(), 0)).collect();
    assert_eq!(all.len(), 20);
    assert!(all.iter().all(|token| claims(&tokens, token)["sub"] == "alice"));
}

#[test]
fn no_token_is_good_for_longer_than_its_credential() {
    let place = tempfile::tempdir().unwrap();
    let tokens = serving("lifetime: 60s", place.path());
    let by = orders(&tokens);
    let ends = |method, exp: Value, after| {
        let mut identity = alice();
        identity.method = method;
        identity.claims.insert("exp".to_owned(), exp);
        claims(&tokens, &token(&by, &identity, after))["exp"].as_u64().unwrap() - NOW
    };
    for (method, exp, after, expected) in [
        (Method::Jwt, json!(NOW + 3600), 0, 60),
        (Method::Jwt, json!(NOW + 60), 0, 60),
        (Method::Jwt, json!(NOW + 40), 0, 40),
        (Method::Jwt, json!(NOW as f64 + 40.9), 0, 40),
        (Method::Introspection, json!(NOW + 41), 0, 41),
        // In its leeway it is still good, and so is its token, for a moment.
        (Method::Jwt, json!(NOW - 5), 0, 10),
        (Method::Jwt, json!(NOW + 40), 35, 45),
        // A user's own claim means nothing.
        (Method::Forward, json!(NOW + 20), 0, 60),
        (Method::Jwt, json!("soon"), 0, 60),
        (Method::Jwt, json!(1e300), 0, 60),
    ] {
        assert_eq!(ends(method, exp.clone(), after), expected, "{method:?} {exp} {after}");
    }
    // An API key, or a certificate.
    let ends_with = |expires, method| {
        let identity = Identity { expires, method, ..alice() };
        claims(&tokens, &token(&by, &identity, 0))["exp"].as_u64().unwrap() - NOW
    };
    assert_eq!(ends_with(Some(NOW + 20), Method::ApiKey), 20);
    assert_eq!(ends_with(Some(NOW + 1), Method::ClientCertificate), 10);
    assert_eq!(ends_with(Some(NOW + 3600), Method::ApiKey), 60);
    assert_eq!(ends_with(None, Method::Basic), 60);
    // The one that ends early is not another credential's.
    assert_eq!(ends(Method::Jwt, json!(NOW + 3600), 0), 60);
    assert_eq!(ends(Method::Jwt, json!(NOW + 30), 0), 30);
}

#[test]
fn nobody_in_particular_has_none_and_who_is_too_large_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let tokens = serving("max_bytes: 512B", place.path());
    let by = orders(&tokens);
    for nobody in [Identity::anonymous(), Identity { id: "".into(), ..alice() }] {
        assert_eq!(by.token(&nobody, now(), 0), Ok(None));
    }
    let mut identity = alice();
    let mut longest = 0;
    for length in 0..400 {
        identity.id = "x".repeat(length + 1).into();
        match by.token(&identity, now(), 0) {
            Ok(Some(value)) => longest = longest.max(value.len()),
            Err(Unsigned::TooLong(bytes)) => assert!(bytes > 512, "{length} {bytes}"),
            other => panic!("{other:?}"),
        }
    }
    assert!((500..=512).contains(&longest), "{longest}");
    assert!(tokens.figures().refused > 100);
    identity.groups = (0..100_000).map(|number| format!("group-{number}").into()).collect();
    assert!(matches!(by.token(&identity, now(), 0), Err(Unsigned::TooLong(_))));
    TEXT.with_borrow(|text| assert!(text.capacity() <= BUFFER_BYTES));
}

#[test]
fn what_a_destroyed_key_has_signed_is_sent_no_more() {
    let place = tempfile::tempdir().unwrap();
    let tokens = serving("", place.path());
    let by = orders(&tokens);
    let first = token(&by, &alice(), 0);
    std::fs::remove_file(place.path().join("identity-keys.json")).unwrap();
    tokens.keys.open(place.path()).unwrap();
    let second = token(&by, &alice(), 0);
    assert_ne!(first, second);
    assert_eq!(claims(&tokens, &second)["sub"], "alice");
    let keys = KeySet::parse(&tokens.key_set()).unwrap();
    assert!(verify(&first, &keys, &[Algorithm::ES256]).is_err());
    // One that cannot be used is an error, and what is known is kept.
    std::fs::write(place.path().join("identity-keys.json"), "{}").unwrap();
    assert!(tokens.keys.open(place.path()).unwrap_err().0.contains("damaged"));
    assert_eq!(token(&by, &alice(), 0), second);
}

#[test]
fn many_at_once_get_their_own() {
    let place = tempfile::tempdir().unwrap();
    let tokens = serving("cache: 64KiB", place.path());
    let by = orders(&tokens);
    std::thread::scope(|scope| {
        for worker in 0..4_u64 {
            let (by, tokens) = (&by, &tokens);
            scope.spawn(move || {
                for number in 0..300 {
                    let id = format!("user-{}", (number * 7 + worker) % 50);
                    let identity = Identity { id: id.as_str().into(), ..alice() };
                    assert_eq!(claims(tokens, &token(by, &identity, number % 90))["sub"], *id);
                }
            });
        }
    });
}

#[test]
fn what_explains_signs_nothing_and_makes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let live = Live::new(place.path());
    let mut build = Build::default();
    let tokens = Arc::new(IdentityTokens::compile(&config(""), &live, &mut build).unwrap());
    let value = orders(&tokens).token(&alice(), now(), 0).unwrap().unwrap();
    assert_eq!(value, SHOWN);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    assert!(build.errors.is_empty());
    std::fs::write(place.path().join("identity-keys.json"), "no keys").unwrap();
    assert!(IdentityTokens::compile(&config(""), &live, &mut build).is_none());
    let told = build.errors.render(&build.sources);
    assert!(told.contains("others than its owner") || told.contains("damaged"), "{told}");
}

#[test]
fn a_key_in_a_file_is_for_the_gateway_alone_and_of_its_algorithm() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("key.pem");
    let key = openssl::pkey::PKey::generate_ed25519().unwrap();
    std::fs::write(&path, key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    let told = |mode, more: &str| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let config = config(&format!("key: {{file: '{}'}}, {more}", path.display()));
        let mut build = Build::default();
        IdentityTokens::compile(&config, &Live::default(), &mut build);
        build.errors.errors().iter().map(|error| error.cause.clone()).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(told(0o600, ""), "");
    assert_eq!(told(0o640, "algorithm: EdDSA"), "");
    assert!(told(0o644, "").contains("everybody may read the key"));
    assert!(told(0o600, "algorithm: ES256").contains("is a key for EdDSA"));
    assert!(told(0o600, "rotate: 30d").contains("changed by you alone"));
    let tokens = serving(&format!("key: {{file: '{}'}}", path.display()), place.path());
    assert_eq!(claims(&tokens, &token(&orders(&tokens), &alice(), 0))["sub"], "alice");
    let state = std::fs::read_to_string(place.path().join("identity-keys.json")).unwrap();
    assert!(!state.contains("private"), "{state}");
    assert_eq!(Config::default().max_bytes, Size(4096));
}
