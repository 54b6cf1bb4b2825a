//! Keys of issuers: found, fetched, kept, copied, and never another's. The issuer is a server of our own that counts.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::tokens::{SigningKey, claims, jwks};
use crate::harness::{Issuer, Origin, Page, Place, Running, bearing, eventually, unanswering};

const FETCHES: &str = "portcullis_issuer_fetches_total";

/// A policy `staff` of this issuer, with these keys, and a route of it at `/`.
fn staff(issuer: &str, keys: &str) -> String {
    format!(
        "policies: {{auth: {{staff: {{jwt: {{issuer: '{issuer}', audiences: [orders], keys: {keys}}}}}}}}}\n\
         routes: [{{name: a, auth: staff, respond: {{body: in}}}}]\n"
    )
}

/// The same of the issuer at this server, with its keys at `/jwks`.
fn by_url(issuer: &Issuer, more: &str) -> String {
    staff(&issuer.url(""), &format!("{{url: '{}'{more}}}", issuer.url("/jwks")))
}

fn key(kid: &str) -> SigningKey {
    SigningKey::new("ES256", kid)
}

/// A token of this server's issuer.
fn token(issuer: &Issuer, key: &SigningKey) -> String {
    key.token(&claims(&json!({"iss": issuer.url("")})))
}

/// Waits until so many requests have been refused for this reason.
fn await_refused(gateway: &Running, reason: &str, number: f64) {
    let labels = [("policy", "auth.staff"), ("reason", reason)];
    gateway.await_metric("portcullis_refusals_total", &labels, number);
}

/// How many have been refused for it so far.
fn refusals(gateway: &Running, reason: &str) -> f64 {
    gateway.metrics().of("portcullis_refusals_total", &[("policy", "auth.staff"), ("reason", reason)])
}

#[test]
fn keys_by_url_are_asked_for_again_with_their_etag() {
    let (issuer, key) = (Issuer::start(), key("k1"));
    issuer.put("/jwks", Page::new(jwks(&[&key])));
    let gateway = Place::new().start_fetching(&by_url(&issuer, ", refresh: 1s, cooldown: 1s"));
    bearing(gateway.address(), "/", &token(&issuer, &key)).expect(200);
    gateway.await_metric("portcullis_issuer_keys", &[("policy", "auth.staff")], 1.0);
    eventually("the keys to be unchanged twice", || {
        let labels = [("policy", "auth.staff"), ("result", "unchanged")];
        (gateway.metrics().of(FETCHES, &labels) >= 2.0).then_some(())
    });
    let heads = issuer.heads();
    assert!(
        !heads[0].contains("if-none-match") && heads[0].contains("accept: application/json"),
        "{heads:?}"
    );
    assert!(heads[1..].iter().all(|head| head.contains("if-none-match: \"")), "{heads:?}");
    let metrics = gateway.metrics();
    let of = |result| metrics.of(FETCHES, &[("policy", "auth.staff"), ("result", result)]);
    assert_eq!((of("fetched"), of("failed"), of("invalid"), of("forbidden")), (1.0, 0.0, 0.0, 0.0));
    assert!(metrics.of("portcullis_issuer_keys_age_seconds", &[("policy", "auth.staff")]) < 15.0);
}

#[test]
fn what_an_answer_says_of_its_age_is_kept_within_bounds() {
    let (issuer, key) = (Issuer::start(), key("k1"));
    // It may be used for a second; for longer than `refresh`, nothing may.
    issuer.put("/jwks", Page::new(jwks(&[&key])).field("Cache-Control", "max-age=1"));
    let _short = Place::new().start_fetching(&by_url(&issuer, ", refresh: 1h, cooldown: 1s"));
    eventually("the keys to be asked for again", || (issuer.asked("/jwks") >= 3).then_some(()));
    let long = Issuer::start();
    long.put("/jwks", Page::new(jwks(&[&key])).field("Cache-Control", "max-age=86400"));
    let _long = Place::new().start_fetching(&by_url(&long, ", refresh: 1s, cooldown: 1s"));
    eventually("the keys to be asked for again", || (long.asked("/jwks") >= 3).then_some(()));
}

#[test]
fn the_issuers_own_document_leads_to_its_keys() {
    const OPENID: &str = "/.well-known/openid-configuration";
    let (issuer, key) = (Issuer::start(), key("k1"));
    issuer.put("/keys", Page::new(jwks(&[&key])));
    let document =
        |name: &str| json!({"issuer": issuer.url(name), "jwks_uri": issuer.url("/keys")}).to_string();
    issuer.put(OPENID, Page::new(document("")));
    // Of an issuer with a path, and as RFC 8414 has it.
    issuer.put("/.well-known/oauth-authorization-server/b", Page::new(document("/b")));
    // Another's document.
    issuer.put(&format!("/c{OPENID}"), Page::new(document("/b")));
    for (name, status) in [("", 200), ("/b", 200), ("/c", 503)] {
        let gateway = Place::new().start_fetching(&staff(&issuer.url(name), "{discovery: true}"));
        let token = key.token(&claims(&json!({"iss": issuer.url(name)})));
        bearing(gateway.address(), "/", &token).expect(status);
        if status == 503 {
            await_refused(&gateway, "keys_unavailable", 1.0);
            gateway.await_line("the issuer's document: its `issuer` is another than the policy's");
        }
    }
}

#[test]
fn rotation_under_load_loses_no_request() {
    let (issuer, first) = (Issuer::start(), key("k0"));
    issuer.put("/jwks", Page::new(jwks(&[&first])));
    let gateway = Place::new().start_fetching(&by_url(&issuer, ", cooldown: 1s"));
    let (turn, done) = (std::sync::Mutex::new(token(&issuer, &first)), AtomicBool::new(false));
    let served = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let token = turn.lock().unwrap().clone();
                    bearing(gateway.address(), "/", &token).expect(200);
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let mut previous = first;
        for round in 1..=3 {
            let before = served.load(Ordering::SeqCst);
            eventually("requests to be served", || {
                (served.load(Ordering::SeqCst) > before + 12).then_some(())
            });
            let next = key(&format!("k{round}"));
            issuer.put("/jwks", Page::new(jwks(&[&next, &previous])));
            *turn.lock().unwrap() = token(&issuer, &next);
            previous = next;
            eventually("a fetch", || (issuer.asked("/jwks") > round).then_some(()));
            // The next rotation is no earlier than the cool-down allows.
            let fetched = Instant::now();
            eventually("the end of the cool-down", || {
                (fetched.elapsed() > Duration::from_millis(1200)).then_some(())
            });
        }
        done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_storm_of_unknown_kids_causes_one_fetch_a_cool_down_and_none_elsewhere() {
    let (issuer, key) = (Issuer::start(), key("k1"));
    let elsewhere = Origin::named("not asked");
    issuer.put("/jwks", Page::new(jwks(&[&key])));
    let gateway = Place::new().start_fetching(&by_url(&issuer, ""));
    bearing(gateway.address(), "/", &token(&issuer, &key)).expect(200);
    let url = format!("http://{}/keys", elsewhere.address());
    let own = claims(&json!({"iss": issuer.url("")}));
    let tokens: Vec<String> = (0..40)
        .map(|number| {
            let kid = match number % 4 {
                0 => format!("unknown-{number}"),
                1 => format!("../../../../etc/passwd-{number}"),
                2 => format!("{url}?{number}"),
                _ => format!("x' OR 1=1 -- {number}"),
            };
            let header =
                json!({"alg": "ES256", "kid": kid, "jku": url, "x5u": url, "jwk": key.jwk(), "typ": "at+jwt"});
            key.token_with(&header, &own)
        })
        .collect();
    std::thread::scope(|scope| {
        for some in tokens.chunks(5) {
            let address = gateway.address();
            scope.spawn(move || {
                for token in some.iter().chain(some) {
                    bearing(address, "/", token).expect(401);
                }
            });
        }
    });
    assert_eq!(issuer.asked("/jwks"), 2, "the first fetch, and the one of the storm");
    assert_eq!(elsewhere.connections(), 0);
    await_refused(&gateway, "unknown_key", 80.0);
    // Nor does the issuer that a token names lead anywhere, whoever has signed it.
    for signer in [&key, &SigningKey::new("ES256", "k1"), &SigningKey::new("ES256", "k9")] {
        let foreign = signer.token(&claims(&json!({"iss": format!("http://{}", elsewhere.address())})));
        bearing(gateway.address(), "/", &foreign).expect(401);
    }
    assert_eq!((issuer.asked("/jwks"), elsewhere.connections()), (2, 0));
    bearing(gateway.address(), "/", &token(&issuer, &key)).expect(200);
}

#[test]
fn an_issuer_that_is_down_is_not_missed_until_its_keys_are_too_old() {
    let (issuer, key) = (Issuer::start(), key("k1"));
    issuer.put("/jwks", Page::new(jwks(&[&key])));
    let good = token(&issuer, &key);
    let keys = by_url(&issuer, ", refresh: 1s, cooldown: 1s, stale_keys_max: 30s");
    let gateway = Place::new().start_fetching(&keys);
    bearing(gateway.address(), "/", &good).expect(200);
    let copy = eventually("the copy of the keys", || {
        let mut found = std::fs::read_dir(gateway.place.path("state/issuers")).ok()?;
        found.find_map(|entry| {
            Some(entry.ok()?.path()).filter(|path| path.extension().is_some_and(|e| e == "json"))
        })
    });
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&copy).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let dead = issuer.kill();
    gateway.await_line("its keys cannot be fetched, those known are used");
    bearing(gateway.address(), "/", &good).expect(200);
    // Another process, and nobody to ask.
    let gateway = gateway.restart();
    bearing(gateway.address(), "/", &good).expect(200);
    gateway.await_line("1 key from the copy");
    // `explain` reads the copy too, and asks nobody.
    let field = format!("Authorization: Bearer {good}");
    let told = gateway.place.portcullis(&[
        "explain",
        "--config",
        "portcullis.yaml",
        "--header",
        &field,
        "http://example.com/",
    ]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("alice"), "{told}");
    // With less patience, the same keys are soon too old.
    gateway.reload_fetching(&keys.replace("stale_keys_max: 30s", "stale_keys_max: 12s"));
    gateway.await_line("are older than `stale_keys_max`, and are used no more");
    eventually("the keys to be too old", || {
        (bearing(gateway.address(), "/", &good).status == 503).then_some(())
    });
    gateway.await_line("and are used no more");
    let issuer = Issuer::back(dead);
    eventually("the keys to be there again", || {
        (bearing(gateway.address(), "/", &good).status == 200).then_some(())
    });
    drop(issuer);
}

#[test]
fn the_first_request_waits_for_the_first_keys_but_not_for_ever() {
    let (issuer, key) = (Issuer::start(), key("k1"));
    issuer.put("/jwks", Page::new(jwks(&[&key])).after(Duration::from_millis(700)));
    let gateway = Place::new().start_fetching(&by_url(&issuer, ""));
    bearing(gateway.address(), "/", &token(&issuer, &key)).expect(200);
    let (_socket, _fillers, silent) = unanswering();
    let keys = format!("{{url: 'http://{silent}/jwks'}}");
    let gateway = Place::new().start_fetching(&staff(&issuer.url(""), &keys));
    let began = Instant::now();
    let refused = bearing(gateway.address(), "/", &token(&issuer, &key));
    assert_eq!(refused.expect(503).header("retry-after"), Some("5"));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    await_refused(&gateway, "keys_unavailable", 1.0);
}

#[test]
fn what_no_key_would_make_good_is_refused_at_once_while_keys_are_unknown_and_asks_nobody() {
    let (issuer, key) = (Issuer::start(), key("k1"));
    issuer.put("/jwks", Page::new("").status(500));
    let gateway = Place::new().start_fetching(&by_url(&issuer, ", cooldown: 10m"));
    let asked = eventually("the first fetch", || Some(issuer.asked("/jwks")).filter(|asked| *asked > 0));
    let of = |other: serde_json::Value| {
        let mut all = json!({"iss": issuer.url("")});
        all.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
        claims(&all)
    };
    let good = of(json!({}));
    let began = Instant::now();
    for (reason, token) in [
        ("issuer", key.token(&of(json!({"iss": "https://another.example"})))),
        ("audience", key.token(&of(json!({"aud": "invoices"})))),
        ("expired", key.token(&of(json!({"exp": 1_000_000_000})))),
        ("not_yet_valid", key.token(&of(json!({"nbf": 4_000_000_000_u64})))),
        ("token_type", key.token_with(&json!({"alg": "ES256", "kid": "k1", "typ": "logout+jwt"}), &good)),
        ("token_header", key.token_with(&json!({"alg": "ES256", "kid": "k1", "jwk": key.jwk()}), &good)),
        (
            "token_header",
            key.token_with(&json!({"alg": "ES256", "kid": "k1", "crit": ["exp"], "exp": 1}), &good),
        ),
        ("token_algorithm", SigningKey::secret("HS256", &[7; 32]).token(&good)),
        ("token_algorithm", key.token_with(&json!({"alg": "none", "kid": "k1"}), &good)),
        ("token_form", "eyJhbGciOiJFUzI1NiJ9.e30".to_owned()),
        ("token_form", format!("{}=", key.token(&good))),
    ] {
        let before = refusals(&gateway, reason);
        let refused = bearing(gateway.address(), "/", &token);
        let challenge = refused.expect(401).header("www-authenticate").unwrap();
        assert!(challenge.contains("error=\"invalid_token\""), "{reason}: {challenge}");
        await_refused(&gateway, reason, before + 1.0);
    }
    // Nobody waited for keys.
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(issuer.asked("/jwks"), asked);
    bearing(gateway.address(), "/", &key.token(&good)).expect(503);
}

#[test]
fn bad_keys_are_left_out_one_by_one_and_told_once() {
    let (issuer, key, twin) = (Issuer::start(), key("good"), key("twin"));
    let weak = "sXchDaQebHnPiGvyDOAT4saGEUetSyo9MKLOoWFsueri23bOdgWp4Dy1WlUzewbgBHod5pcM9H95GQRV3JDXboIRROSBigeC5yjU1hGzHHyXss8UDprecbAYxknTcQkhslANGRUZmdTOQ5qTRsLAt6BTYuyvVRdhS8exSZEy_c4";
    let mut other_twin = twin.jwk();
    other_twin["x"] = key.jwk()["x"].clone();
    other_twin["y"] = key.jwk()["y"].clone();
    let mut encrypts = SigningKey::new("ES256", "enc").jwk();
    encrypts["use"] = json!("enc");
    let document = json!({"keys": [
        {"kty": "oct", "kid": "symmetric", "alg": "HS256", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"},
        {"kty": "RSA", "kid": "weak", "alg": "RS256", "n": weak, "e": "AQAB"},
        twin.jwk(),
        other_twin,
        encrypts,
        key.jwk(),
    ]});
    issuer.put("/jwks", Page::new(document.to_string()));
    let gateway = Place::new().start_fetching(&by_url(&issuer, ", refresh: 1s, cooldown: 1s"));
    bearing(gateway.address(), "/", &token(&issuer, &key)).expect(200);
    bearing(gateway.address(), "/", &token(&issuer, &twin)).expect(401);
    eventually("more fetches", || (issuer.asked("/jwks") >= 3).then_some(()));
    let said = gateway.said();
    for (kid, cause) in [
        ("symmetric", "it is symmetric"),
        ("weak", "it is RSA of fewer than 2048 bits"),
        ("twin", "another key has the same `kid`"),
        ("enc", "its `use` is not `sig`"),
    ] {
        let line = format!("the key `{kid}` is left out: {cause}");
        assert_eq!(said.matches(&line).count(), 1, "{line}:\n{said}");
    }
    // `check` asks nobody: it judges the copy.
    eventually("the copy of the keys", || {
        let mut found = std::fs::read_dir(gateway.place.path("state/issuers")).ok()?;
        found
            .any(|entry| entry.is_ok_and(|e| e.path().extension().is_some_and(|e| e == "json")))
            .then_some(())
    });
    let checked = gateway.place.portcullis(&["check", "--config", "portcullis.yaml"]);
    let told = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(0), "{told}");
    for cause in [
        "the key `weak` is left out: it is RSA",
        "the key `symmetric` is left out",
        "auth.staff.jwt.keys.url",
    ] {
        assert!(told.contains(cause), "{cause}: {told}");
    }
    let policy = [("policy", "auth.staff")];
    let metrics = gateway.metrics();
    assert_eq!(metrics.of("portcullis_issuer_keys", &policy), 1.0);
    assert_eq!(metrics.of("portcullis_issuer_keys_left_out", &policy), 5.0);
    // The key is withdrawn: its tokens end with it.
    issuer.put("/jwks", Page::new(r#"{"keys": []}"#));
    eventually("the key to be gone", || {
        (bearing(gateway.address(), "/", &token(&issuer, &key)).status == 401).then_some(())
    });
}

#[test]
fn what_may_not_be_fetched_is_not() {
    let (issuer, key, inner) = (Issuer::start(), key("k1"), Origin::named("not asked"));
    let there = format!("http://localhost:{}/keys", inner.address().port());
    issuer.put("/moved", Page::new("").status(302).field("Location", &there));
    issuer.put("/huge", Page::new(format!("{{\"keys\": [], \"x\": \"{}\"}}", "x".repeat(70_000))));
    issuer.put("/slow", Page::new(jwks(&[&key])).after(Duration::from_secs(3)));
    issuer.put("/page", Page::new("<html>"));
    issuer.put("/sorry", Page::new("").status(500));
    let private = |uri: &str| json!({"issuer": issuer.url("/p"), "jwks_uri": uri}).to_string();
    issuer.put("/p/.well-known/openid-configuration", Page::new(private("https://10.1.2.3/keys")));
    for (page, told, result) in [
        ("/moved", "redirect_elsewhere", "forbidden"),
        ("/huge", "larger than 64KiB (`server.egress.bytes`)", "failed"),
        ("/slow", "not done within 1s", "failed"),
        ("/page", "the keys: it is not JSON", "invalid"),
        ("/sorry", "the keys: status 500", "failed"),
        ("/p", "10.1.2.3 is a private address; list it, or the host, in `server.egress.allow`", "forbidden"),
    ] {
        let (iss, keys) = match page {
            "/p" => (issuer.url("/p"), "{discovery: true}".to_owned()),
            page => (issuer.url(""), format!("{{url: '{}'}}", issuer.url(page))),
        };
        let keys = staff(&iss, &keys);
        let place = Place::new();
        let egress = "{allow: [127.0.0.1], timeout: 1s, bytes: 64KiB}";
        let gateway = place.start_whole(&Place::fetching(egress, &keys));
        gateway.await_line(told);
        bearing(gateway.address(), "/", &key.token(&claims(&json!({"iss": iss})))).expect(503);
        let labels = [("policy", "auth.staff"), ("result", result)];
        assert!(gateway.metrics().of(FETCHES, &labels) >= 1.0, "{page}");
        assert!(!gateway.place.path("state/issuers").exists(), "nothing is kept of it");
    }
    assert_eq!(inner.connections(), 0);
}

#[test]
fn a_reload_and_back_keeps_the_keys() {
    let (issuer, key) = (Issuer::start(), key("k1"));
    issuer.put("/jwks", Page::new(jwks(&[&key])));
    let (with, without) = (by_url(&issuer, ""), "routes: [{name: a, respond: {}}]\n");
    let gateway = Place::new().start_fetching(&with);
    bearing(gateway.address(), "/", &token(&issuer, &key)).expect(200);
    gateway.reload_fetching(&with.replace("body: in", "body: still in"));
    bearing(gateway.address(), "/", &token(&issuer, &key)).expect(200);
    assert_eq!(issuer.asked("/jwks"), 1, "the same issuer is the same one");
    eventually("the copy", || {
        std::fs::read_dir(gateway.place.path("state/issuers")).ok()?.next().map(|_| ())
    });
    let token = token(&issuer, &key);
    let _dead = issuer.kill();
    gateway.reload_fetching(without);
    gateway.reload_fetching(&with);
    bearing(gateway.address(), "/", &token).expect(200);
}

#[test]
fn keys_never_cross_from_one_policy_to_another() {
    let (issuer, one, other) = (Issuer::start(), key("same"), key("same"));
    issuer.put("/one", Page::new(jwks(&[&one])));
    issuer.put("/other", Page::new(jwks(&[&other])));
    let policy = |name: &str| {
        let keys = issuer.url(&format!("/{name}"));
        format!(
            "{name}: {{jwt: {{issuer: '{}', audiences: [orders], keys: {{url: '{keys}'}}}}}}",
            issuer.url("")
        )
    };
    let gateway = Place::new().start_fetching(&format!(
        "policies: {{auth: {{{}, {}}}}}\nroutes:\n- {{name: one, match: {{path: /one}}, auth: one, respond: {{}}}}\n\
         - {{name: other, match: {{path: /other}}, auth: other, respond: {{}}}}\n",
        policy("one"),
        policy("other"),
    ));
    for (path, key, status) in
        [("/one", &one, 200), ("/other", &other, 200), ("/one", &other, 401), ("/other", &one, 401)]
    {
        bearing(gateway.address(), path, &token(&issuer, key)).expect(status);
    }
}

#[test]
fn keys_and_tokens_without_names_are_rotated_too() {
    let issuer = Issuer::start();
    let nameless = |key: &SigningKey| {
        let mut jwk = key.jwk();
        jwk.as_object_mut().unwrap().remove("kid");
        json!({"keys": [jwk]}).to_string()
    };
    let signed = |key: &SigningKey| {
        let own = claims(&json!({"iss": issuer.url("")}));
        key.token_with(&json!({"alg": "ES256", "typ": "at+jwt"}), &own)
    };
    let (first, next) = (key("-"), key("-"));
    issuer.put("/jwks", Page::new(nameless(&first)));
    let gateway = Place::new().start_fetching(&by_url(&issuer, ""));
    bearing(gateway.address(), "/", &signed(&first)).expect(200);
    issuer.put("/jwks", Page::new(nameless(&next)));
    bearing(gateway.address(), "/", &signed(&next)).expect(200);
    bearing(gateway.address(), "/", &signed(&first)).expect(401);
    await_refused(&gateway, "signature", 1.0);
    assert_eq!(issuer.asked("/jwks"), 2, "within the cool-down");
}

#[test]
fn keys_that_change_twice_in_a_row_are_known_when_the_cool_down_ends() {
    let (issuer, first, second, third) = (Issuer::start(), key("k1"), key("k2"), key("k3"));
    issuer.put("/jwks", Page::new(jwks(&[&first])));
    let gateway = Place::new().start_fetching(&by_url(&issuer, ", cooldown: 4s"));
    bearing(gateway.address(), "/", &token(&issuer, &first)).expect(200);
    issuer.put("/jwks", Page::new(jwks(&[&second])));
    let provoked = Instant::now();
    bearing(gateway.address(), "/", &token(&issuer, &second)).expect(200);
    issuer.put("/jwks", Page::new(jwks(&[&third])));
    let token = token(&issuer, &third);
    for _ in 0..3 {
        bearing(gateway.address(), "/", &token).expect(401);
    }
    let asked = issuer.asked("/jwks");
    if provoked.elapsed() < Duration::from_secs(3) {
        assert_eq!(asked, 2, "within the cool-down");
    }
    // Nobody asks again, and the key is known all the same.
    eventually("a fetch of itself", || (issuer.asked("/jwks") == 3).then_some(()));
    assert!(provoked.elapsed() >= Duration::from_millis(3900), "{:?}", provoked.elapsed());
    let labels = [("policy", "auth.staff"), ("result", "fetched")];
    gateway.await_metric(FETCHES, &labels, 3.0);
    bearing(gateway.address(), "/", &token).expect(200);
    assert_eq!(issuer.asked("/jwks"), 3, "one was enough");
}

#[test]
fn while_an_issuer_ails_unknown_kids_cause_one_fetch_a_cool_down_and_nobody_says_that_they_are_wrong() {
    let (issuer, first, second) = (Issuer::start(), key("k1"), key("k2"));
    issuer.put("/jwks", Page::new(jwks(&[&first])));
    let gateway = Place::new().start_fetching(&by_url(&issuer, ", cooldown: 6s, refresh: 15m"));
    let (good, next) = (token(&issuer, &first), token(&issuer, &second));
    bearing(gateway.address(), "/", &good).expect(200);
    issuer.put("/jwks", Page::new("").status(500));
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        let refused = bearing(gateway.address(), "/", &next);
        assert_eq!(refused.expect(503).header("retry-after"), Some("5"));
        bearing(gateway.address(), "/", &good).expect(200);
    }
    let asked = issuer.asked("/jwks");
    if began.elapsed() < Duration::from_secs(5) {
        assert_eq!(asked, 2, "the first fetch, and the one of the storm");
    }
    // Nothing says that the key is not the issuer's; when it is back, that is known.
    issuer.put("/jwks", Page::new(jwks(&[&first, &second])));
    eventually("the fetch at the end of the cool-down", || {
        (bearing(gateway.address(), "/", &next).status == 200).then_some(())
    });
    bearing(gateway.address(), "/", &token(&issuer, &key("k3"))).expect(401);
}

#[test]
fn policies_of_one_source_share_what_is_fetched_whatever_else_they_say() {
    let (issuer, key) = (Issuer::start(), key("k1"));
    issuer.put("/jwks", Page::new(jwks(&[&key])));
    let policy = |name: &str, more: &str| {
        let (own, keys) = (issuer.url(""), issuer.url("/jwks"));
        format!("{name}: {{jwt: {{issuer: '{own}', audiences: [{name}], keys: {{url: '{keys}'{more}}}}}}}")
    };
    let config = |more: &str| {
        format!(
            "policies: {{auth: {{{}, {}}}}}\nroutes:\n- {{name: orders, match: {{path: /orders}}, auth: orders, respond: {{}}}}\n\
             - {{name: shop, match: {{path: /shop}}, auth: shop, respond: {{}}}}\n",
            policy("orders", ""),
            policy("shop", more),
        )
    };
    let gateway = Place::new().start_fetching(&config(", refresh: 10m, stale_keys_max: 1h"));
    let ask = |name: &str, signer: &SigningKey| {
        let own = claims(&json!({"iss": issuer.url(""), "aud": name}));
        bearing(gateway.address(), &format!("/{name}"), &signer.token(&own))
    };
    for name in ["orders", "shop"] {
        ask(name, &key).expect(200);
    }
    for number in 0..10 {
        for name in ["orders", "shop"] {
            ask(name, &SigningKey::new("ES256", &format!("unknown-{number}"))).expect(401);
        }
    }
    assert_eq!(issuer.asked("/jwks"), 2, "the first fetch, and one for all that is unknown");
    // A shorter time than the others' holds as soon as it is there.
    gateway.reload_fetching(&config(", refresh: 1s, cooldown: 1s"));
    eventually("fetches by the shorter time", || (issuer.asked("/jwks") >= 5).then_some(()));
}
