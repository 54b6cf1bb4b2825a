//! API keys: made by the command line, known to gateways within a second, never told to anybody again.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Origin, Place, Response, Running, connect_from, eventually};

/// The promise is a second; the rest is for a machine that does other things too.
const SOON: Duration = Duration::from_millis(2500);

const KEYED: &str =
    "policies: {auth: {partners: {api_key: {header: x-api-key}}}, plans: {gold: {throttle: none}}}
routes:
  - {name: open, match: {path: /open}, respond: {body: open}}
  - {name: orders, match: {path: '/orders/{*rest}'}, auth: partners, respond: {body: orders}}
  - {name: items, match: {path: /items}, auth: partners, respond: {body: items}}
";

/// An id, and its key.
type Key = (String, String);

fn keys(place: &Place, arguments: &[&str]) -> Output {
    place.portcullis(&[&["keys"], arguments, &["--config", "portcullis.yaml"]].concat())
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

/// The two that `create` and `rotate` tell with `--json`.
fn made(output: &Output) -> Key {
    assert_eq!(output.status.code(), Some(0), "{}", told(output));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |name: &str| told[name].as_str().unwrap().to_owned();
    (text("id"), text("key"))
}

fn create(place: &Place, more: &[&str]) -> Key {
    let usual = ["create", "--name", "report", "--owner", "acme", "--json"];
    made(&keys(place, &[&usual, more].concat()))
}

fn with_key(path: &str, key: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: example.com\r\nX-Api-Key: {key}\r\n\r\n")
}

fn ask(gateway: &Running, key: &str) -> Response {
    gateway.send(with_key("/orders/1", key))
}

/// Asks until the status is this, which must be soon.
fn soon(gateway: &Running, key: &str, status: u16) -> Response {
    let begun = Instant::now();
    let mut last;
    loop {
        last = ask(gateway, key);
        let after = begun.elapsed();
        if last.status == status {
            return last;
        }
        assert!(after < SOON, "{} and not {status} after {after:?}; said:\n{}", last.status, gateway.said());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until so many requests have been refused for this: they are counted when their answer has gone out.
fn refused_for(gateway: &Running, reason: &str, at_least: f64) {
    let labels = [("policy", "auth.partners"), ("reason", reason)];
    eventually(&format!("{at_least} refusals for {reason}"), || {
        (gateway.metrics().of("portcullis_refusals_total", &labels) >= at_least).then_some(())
    });
}

#[test]
fn a_key_opens_within_a_second_and_ends_within_one_without_a_reload() {
    let gateway = Running::with(KEYED);
    gateway.await_line("holds no API key yet");
    assert_eq!(gateway.send("GET /orders/1 HTTP/1.1\r\nHost: a\r\n\r\n").status, 401);
    refused_for(&gateway, "missing", 1.0);
    let (id, key) = create(&gateway.place, &["--scopes", "orders:read,orders:write", "--plan", "gold"]);
    assert!(key.starts_with(&format!("pk_{id}_")) && key.len() == 59, "{key}");
    assert_eq!(soon(&gateway, &key, 200).text(), "orders");
    eventually("the id of the key in the access log", || {
        gateway.place.read("access.log").contains(&format!("\"apiKeyId\":\"{id}\"")).then_some(())
    });
    assert_eq!(gateway.get("/open").status, 200);
    let revoked = keys(&gateway.place, &["revoke", "--id", &id]);
    assert_eq!(revoked.status.code(), Some(0), "{}", told(&revoked));
    let after = soon(&gateway, &key, 401);
    // Nothing tells a key that was revoked from one that never was.
    let never = ask(&gateway, &format!("pk_{id}_{}", "x".repeat(43)));
    let seen = |response: &Response| {
        let mut body = response.json();
        let fields = body.as_object_mut().unwrap();
        fields.retain(|_, value| value.as_str().is_none_or(|text| text.len() != 36));
        let names: Vec<_> = response.headers.iter().map(|(name, _)| name.clone()).collect();
        (response.status, body, names, response.all("www-authenticate"))
    };
    assert_eq!(seen(&after), seen(&never));
    assert_eq!(after.all("www-authenticate"), "ApiKey realm=\"partners\"");
    assert!(after.text().contains("invalid-api-key"), "{}", after.text());
    refused_for(&gateway, "revoked_key", 1.0);
    refused_for(&gateway, "unknown_key", 1.0);
    assert_eq!(gateway.generation(), 1.0);
    assert_eq!(gateway.metrics().of("portcullis_api_keys", &[]), 1.0);
    // The key is nowhere: not in the log, not on standard error, not in any file.
    let secret = key.rsplit('_').next().unwrap();
    assert!(!gateway.said().contains(secret));
    for directory in [gateway.place.root(), &gateway.place.path("state")] {
        for file in
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
        {
            let content = fs::read(&file).unwrap();
            assert!(
                !content.windows(secret.len()).any(|bytes| bytes == secret.as_bytes()),
                "{}",
                file.display()
            );
        }
    }
    let mode = fs::metadata(gateway.place.path("state/portcullis.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_rotated_key_overlaps_with_the_old_one_and_both_end_by_revoking() {
    let gateway = Running::with(KEYED);
    let (id, old) = create(&gateway.place, &[]);
    soon(&gateway, &old, 200);
    let (same, new) = made(&keys(&gateway.place, &["rotate", "--id", &id, "--json"]));
    assert_eq!(same, id);
    assert_ne!(new, old);
    soon(&gateway, &new, 200);
    ask(&gateway, &old).expect(200);
    let (_, third) = made(&keys(&gateway.place, &["rotate", "--id", &id, "--overlap", "0s", "--json"]));
    soon(&gateway, &third, 200);
    for ended in [&old, &new] {
        ask(&gateway, ended).expect(401);
    }
    refused_for(&gateway, "replaced_key", 2.0);
    let (_, fourth) = made(&keys(&gateway.place, &["rotate", "--id", &id, "--overlap", "4s", "--json"]));
    soon(&gateway, &fourth, 200);
    ask(&gateway, &third).expect(200);
    eventually("the end of the overlap", || (ask(&gateway, &third).status == 401).then_some(()));
    ask(&gateway, &fourth).expect(200);
    let (_, fifth) = made(&keys(&gateway.place, &["rotate", "--id", &id, "--json"]));
    soon(&gateway, &fifth, 200);
    assert_eq!(keys(&gateway.place, &["revoke", "--id", &id]).status.code(), Some(0));
    soon(&gateway, &fifth, 401);
    ask(&gateway, &fourth).expect(401);
    let rotated = keys(&gateway.place, &["rotate", "--id", &id]);
    assert_eq!(rotated.status.code(), Some(1));
    assert!(told(&rotated).contains("the key is revoked"), "{}", told(&rotated));
}

#[test]
fn two_gateways_share_a_state_directory_and_a_restart_keeps_the_keys() {
    let first = Running::with(KEYED);
    let shared = first.place.path("state");
    let text = Place::with_base(KEYED).replacen("./state", shared.to_str().unwrap(), 1);
    let second = Place::new().start_whole(&text);
    let (id, key) = create(&second.place, &[]);
    soon(&first, &key, 200);
    soon(&second, &key, 200);
    let (_, other) = create(&first.place, &[]);
    soon(&second, &other, 200);
    let first = first.restart();
    ask(&first, &key).expect(200);
    keys(&first.place, &["revoke", "--id", &id]);
    soon(&second, &key, 401);
    soon(&first, &key, 401);
    soon(&first, &other, 200);
}

#[test]
fn nor_where_its_route_does_not_ask_for_it() {
    let origin = Origin::echo();
    let gateway = Running::with(&format!(
        "upstreams: {{origin: {{servers: ['{}']}}}}
policies:
  auth:
    header: {{api_key: {{header: x-api-key}}}}
    other: {{api_key: {{header: x-other-key}}}}
    query: {{api_key: {{query: key}}}}
    cookie: {{api_key: {{cookie: key}}}}
routes:
  - {{name: header, match: {{path: /header}}, auth: header, upstream: origin}}
  - {{name: free, match: {{path: /free}}, auth: none, upstream: origin}}
",
        origin.address()
    ));
    let (_, key) = create(&gateway.place, &[]);
    let send = |target: &str, fields: &str| {
        gateway.send(format!("GET {target} HTTP/1.1\r\nHost: example.com\r\n{fields}\r\n"))
    };
    eventually("the key to be known", || {
        (send("/header", &format!("X-Api-Key: {key}\r\n")).status == 200).then_some(())
    });
    let never = format!("pk_{}_{}", "a".repeat(12), "b".repeat(43));
    for key in [&key, &never] {
        let fields = format!(
            "X-Other-Key: {key}\r\nX.Other.Key: {key}\r\nX_Api_Key: {key}\r\nCookie: a=1; key={key}\r\n"
        );
        for target in [format!("/free?key={key}&c=3"), format!("/header?key={key}&c=3")] {
            let own =
                if target.starts_with("/header") { format!("X-Api-Key: {key}\r\n") } else { String::new() };
            let seen = send(&target, &format!("{fields}{own}"));
            if seen.status == 401 {
                continue; // The key that never was, where it is asked for.
            }
            let text = seen.text();
            assert!(!text.contains(key.as_str()) && text.contains("?c=3 ") && text.contains("a=1"), "{text}");
            assert!(!gateway.place.read("access.log").contains(key.as_str()));
        }
    }
    // Nor dressed up, as one server or another would read it all the same; nor where clients send tokens.
    let escaped = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let secret = |key: &str| key.rsplit('_').next().unwrap().to_owned();
    for key in [&key, &never] {
        for value in [
            format!("\"{key}\""),
            format!("Bearer {key}"),
            format!("bearer \"{key}\""),
            format!("x, {key}"),
            escaped(key),
            escaped(&escaped(key)),
            format!("\u{fc} {key}"),
        ] {
            let fields = format!(
                "X-Other-Key: {value}\r\nX-Api-Key: {value}\r\nAuthorization: {value}\r\nCookie: a=1; key={value}\r\n\
                 Referer: http://a/?key={value}\r\n"
            );
            let query = escaped(&value);
            let text = send(&format!("/free?key={query}&c=3"), &fields).expect(200).text();
            assert!(text.contains("?c=3 ") && text.contains("a=1"), "{value}: {text}");
            for form in [secret(key), escaped(key), escaped(&escaped(key))] {
                assert!(!text.contains(&form), "{value}: {text}");
                assert!(!gateway.place.read("access.log").contains(&form), "{value}");
            }
        }
    }
    let token = send("/free", "Authorization: Bearer eyJhbGciOiJFUzI1NiJ9.e30.c2ln\r\n").text();
    assert!(token.contains("eyJhbGciOiJFUzI1NiJ9.e30.c2ln"), "{token}");
    // What is no key of ours may be the upstream's.
    let text = send("/free?key=mine", "X-Other-Key: mine\r\nX-Api-Key: mine\r\nCookie: key=mine\r\n").text();
    assert_eq!(text.matches("mine").count(), 4, "{text}");
    let explained = gateway.place.portcullis(&[
        "explain",
        "--config",
        "portcullis.yaml",
        &format!("http://example.com/free?key={never}&c=3"),
    ]);
    assert!(!told(&explained).contains(&never) && told(&explained).contains("c=3"), "{}", told(&explained));
}

#[test]
fn a_key_never_reaches_the_upstream() {
    let origin = Origin::echo();
    let gateway = Running::with(&format!(
        "upstreams: {{origin: {{servers: ['{}']}}}}
policies:
  auth:
    header: {{api_key: {{header: x-api-key}}}}
    query: {{api_key: {{query: key}}}}
    cookie: {{api_key: {{cookie: key}}}}
routes:
  - {{name: header, match: {{path: /header}}, auth: header, upstream: origin}}
  - {{name: query, match: {{path: /query}}, auth: query, upstream: origin}}
  - {{name: cookie, match: {{path: /cookie}}, auth: cookie, upstream: origin}}
  - {{name: any, match: {{path: /any}}, auth: {{any_of: [header, query, cookie]}}, upstream: origin}}
  - {{name: echo, match: {{path: /echo}}, auth: query, echo: true}}
",
        origin.address()
    ));
    gateway.await_line("a credential in the query stands in histories");
    let (_, key) = create(&gateway.place, &[]);
    let send = |target: &str, fields: &str| {
        gateway.send(format!("GET {target} HTTP/1.1\r\nHost: example.com\r\n{fields}\r\n"))
    };
    eventually("the key to be known", || {
        (send("/header", &format!("X-Api-Key: {key}\r\n")).status == 200).then_some(())
    });
    let secret = key.rsplit('_').next().unwrap();
    let escaped: String = key.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for (target, fields, left) in [
        ("/header".to_owned(), format!("x-api-key: {key}\r\n"), "GET /header HTTP"),
        (format!("/query?a=1&key={key}&b=2"), String::new(), "GET /query?a=1&b=2 HTTP"),
        (format!("/query?k%65y={key}"), String::new(), "GET /query HTTP"),
        (format!("/query?a&%6B%45%79=x&key={escaped}"), String::new(), "GET /query?a&%6B%45%79=x HTTP"),
        ("/cookie".to_owned(), format!("Cookie: a=1; key={key}; b=2\r\n"), "a=1; b=2"),
        (format!("/any?key={key}&c=3"), String::new(), "GET /any?c=3 HTTP"),
        // What a browser tells of the page before.
        (
            format!("/query?key={key}"),
            format!("Referer: https://example.com/query?a=1&k%65y={escaped}&b=2\r\n"),
            "Referer: https://example.com/query?a=1&b=2",
        ),
        (
            "/cookie".to_owned(),
            format!("Cookie: key={key}\r\nReferer: https://example.com/query?key={key}\r\n"),
            "Referer: https://example.com/query\r\n",
        ),
        ("/any".to_owned(), format!("Cookie: key={key}\r\n"), "GET /any HTTP"),
        (format!("/echo?key={key}&c=3"), String::new(), "\"query\":\"c=3\""),
    ] {
        let seen = send(&target, &fields);
        seen.expect(200);
        let text = seen.text();
        assert!(
            text.to_lowercase().contains(&left.to_lowercase()),
            "{target}: `{left}` is missing in {text}"
        );
        let lower = text.to_lowercase();
        assert!(!text.contains(secret) && !lower.contains("x-api-key"), "{target}: {text}");
        assert!(!lower.contains(&escaped.to_lowercase()), "{target}: {text}");
    }
    // Two keys, in one place or in two, are no key.
    for (target, fields) in [
        ("/header".to_owned(), format!("X-Api-Key: {key}\r\nX-Api-Key: {key}\r\n")),
        (format!("/query?key={key}&k%65y={key}"), String::new()),
        ("/cookie".to_owned(), format!("Cookie: key={key}; key={key}\r\n")),
        ("/any?key=wrong-and-of-20-characters".to_owned(), format!("X-Api-Key: {key}\r\n")),
        ("/header".to_owned(), "X-Api-Key: short\r\n".to_owned()),
        ("/header".to_owned(), format!("X-Api-Key: {key}{key}{key}\r\n")),
    ] {
        send(&target, &fields).expect(401);
    }
    gateway.access(16);
    assert!(!gateway.place.read("access.log").contains(secret));
    assert!(!gateway.said().contains(secret));
}

#[test]
fn a_key_is_bound_to_its_addresses_and_routes() {
    let gateway = Running::with(KEYED);
    let (_, here) = create(&gateway.place, &["--addresses", "127.0.0.4/30,192.0.2.1"]);
    let (_, orders) = create(&gateway.place, &["--routes", "orders"]);
    soon(&gateway, &orders, 200);
    let from = |source: &str| {
        let mut connection = connect_from(source, gateway.address());
        connection.write(with_key("/orders/1", &here));
        connection.response()
    };
    from("127.0.0.5").expect(200);
    let refused = from("127.0.0.1");
    refused.expect(401);
    assert!(refused.text().contains("invalid-api-key"), "as though there were no such key");
    gateway.send(with_key("/items", &orders)).expect(403);
    refused_for(&gateway, "key_address", 1.0);
    refused_for(&gateway, "key_route", 1.0);
}

#[test]
fn a_key_ends_when_it_was_said_to() {
    let gateway = Running::with(KEYED);
    let (_, key) = create(&gateway.place, &["--expires", "4s"]);
    soon(&gateway, &key, 200);
    eventually("its end", || (ask(&gateway, &key).status == 401).then_some(()));
    refused_for(&gateway, "expired_key", 1.0);
    let listed = told(&keys(&gateway.place, &["list"]));
    assert!(listed.contains("expired"), "{listed}");
    let past = keys(&gateway.place, &["create", "--name", "a", "--owner", "b", "--expires", "2001-01-01"]);
    assert_eq!(past.status.code(), Some(64), "{}", told(&past));
}

#[test]
fn a_wrong_key_is_never_passed_on_to_the_next_kind() {
    let place = Place::new();
    place.write("users", "alice:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n");
    let gateway = place.start(
        "policies:
  auth:
    partners: {api_key: {header: x-api-key}}
    staff: {basic: {file: users}}
    trial: {api_key: {header: x-trial}, mode: shadow, auth_shadow_is_public: true}
routes:
  - {name: orders, match: {path: /orders/1}, auth: {any_of: [partners, staff]}, respond: {body: orders}}
  - {name: both, match: {path: /both}, auth: {all_of: [partners, staff]}, respond: {body: both}}
  - {name: scoped, match: {path: /scoped}, auth: {any_of: [partners], scopes: ['a:read']}, respond: {body: scoped}}
  - {name: owned, match: {path: /owned}, auth: {any_of: [partners], claims: {owner: {equals: acme}}}, respond: {body: owned}}
  - {name: trial, match: {path: /trial}, auth: trial, respond: {body: trial}}
",
    );
    let (_, key) = create(&gateway.place, &["--scopes", "a:read"]);
    let (_, bare) = create(&gateway.place, &[]);
    soon(&gateway, &bare, 200);
    let basic = "Authorization: Basic YWxpY2U6VSpV\r\n";
    let send = |path: &str, key: &str, fields: &str| {
        let key = if key.is_empty() { String::new() } else { format!("X-Api-Key: {key}\r\n") };
        gateway.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{key}{fields}\r\n")).status
    };
    let wrong = "pk_000000000000_0000000000000000000000000000000000000000000";
    assert_eq!(send("/orders/1", "", ""), 401);
    assert_eq!(send("/orders/1", "", basic), 200);
    assert_eq!(send("/orders/1", &key, basic), 200);
    assert_eq!(send("/orders/1", wrong, basic), 401, "a good password does not mend a wrong key");
    assert_eq!(send("/both", &key, ""), 401);
    assert_eq!(send("/both", "", basic), 401);
    assert_eq!(send("/both", &key, basic), 200);
    assert_eq!(send("/scoped", &key, ""), 200);
    assert_eq!(send("/scoped", &bare, ""), 403);
    assert_eq!(send("/owned", &bare, ""), 200);
    assert_eq!(send("/trial", "", ""), 200);
    assert_eq!(send("/trial", "", &format!("X-Trial: {wrong}\r\n")), 200);
    for reason in ["missing", "unknown_key"] {
        let labels = [("policy", "auth.trial"), ("reason", reason)];
        eventually(reason, || {
            (gateway.metrics().of("portcullis_would_refuse_total", &labels) >= 1.0).then_some(())
        });
    }
}

#[test]
fn explain_tells_whose_key_it_is_and_never_the_key() {
    let place = Place::new();
    let text = Place::with_base(
        "upstreams: {origin: {servers: ['127.0.0.1:9']}}
policies:
  auth: {partners: {api_key: {header: x-api-key}}, webhooks: {api_key: {query: key}}}
routes:
  - {name: orders, match: {path: /orders}, auth: partners, upstream: origin}
  - {name: hook, match: {path: /hook}, auth: webhooks, upstream: origin}
",
    );
    place.write("portcullis.yaml", text);
    let explain = |arguments: &[&str]| {
        let output = place.portcullis(&[&["explain", "--config", "portcullis.yaml"], arguments].concat());
        (output.status.code(), told(&output))
    };
    let checked = place.portcullis(&["check", "--config", "portcullis.yaml"]);
    assert_eq!(checked.status.code(), Some(0), "{}", told(&checked));
    let (status, said) = explain(&["-H", "x-api-key: pk_and-so-on-and-so-forth", "http://a/orders"]);
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("unknown_key") && !said.contains("pk_and"), "{said}");
    assert!(!place.path("state").exists(), "check and explain make nothing");
    let (id, key) = create(&place, &[]);
    let files = || fs::read_dir(place.path("state")).unwrap().count();
    let before = files();
    let (status, said) = explain(&["-H", &format!("x-api-key: {key}"), "http://a/orders"]);
    assert_eq!(status, Some(0), "{said}");
    for part in ["auth.partners", "pass", "acme (api_key)", "- x-api-key\n"] {
        assert!(said.contains(part), "`{part}` is missing in:\n{said}");
    }
    let (_, said_of_query) = explain(&[&format!("http://a/hook?a=1&key={key}")]);
    assert!(said_of_query.contains("would be asked for /hook?a=1\n"), "{said_of_query}");
    let (_, json) = explain(&["--json", &format!("http://a/hook?k%65y={key}")]);
    for said in [said, said_of_query, json] {
        assert!(!said.contains(&key), "{said}");
    }
    keys(&place, &["revoke", "--id", &id]);
    let (status, said) = explain(&["-H", &format!("x-api-key: {key}"), "http://a/orders"]);
    assert_eq!(status, Some(2));
    assert!(said.contains(&format!("the key `{id}` is revoked")), "{said}");
    assert_eq!(files(), before);
}

#[test]
fn the_command_line_says_what_is_wrong() {
    let place = Place::new();
    place.write("portcullis.yaml", Place::with_base(KEYED));
    for (arguments, status, expected) in [
        (&["create", "--name", "a"][..], 64, "--owner"),
        (&["create", "--name", "", "--owner", "b"], 64, "the key has no name"),
        (
            &["create", "--name", "a", "--owner", "b", "--expires", "soon"],
            64,
            "`soon` is no time that a key can end at",
        ),
        (&["create", "--name", "a", "--owner", "b", "--routes", "order"], 64, "did you mean `orders`?"),
        (
            &["create", "--name", "a", "--owner", "b", "--addresses", "x"],
            64,
            "`x` is neither an address nor a CIDR",
        ),
        (&["create", "--name", "a", "--owner", "b", "--scopes", "a b"], 64, "`a b` is not a scope"),
        (&["revoke"], 64, "--id"),
        (&["revoke", "--id", "nobody"], 1, "`nobody`: there is no key of this id"),
        (&["rotate", "--id", "nobody"], 1, "`nobody`: there is no key of this id"),
        (&["rotate", "--id", "nobody", "--overlap", "long"], 64, "`long` is not a duration"),
        (&["import", "no-such-file"], 1, "cannot read `no-such-file`: no such file"),
        (&["list"], 0, "no keys"),
        (&["list", "--json"], 0, "[]"),
    ] {
        let output = keys(&place, arguments);
        let said = told(&output);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    let nowhere = place.portcullis(&["keys", "list", "--config", "no.yaml"]);
    assert_eq!(nowhere.status.code(), Some(64));
    assert!(told(&nowhere).contains("cannot read `no.yaml`"), "{}", told(&nowhere));
    let plain = keys(&place, &["create", "--name", "plain", "--owner", "acme"]);
    let said = String::from_utf8(plain.stdout).unwrap();
    let (id, key) = said.trim().split_once('\n').unwrap();
    assert!(id.starts_with("id   ") && key.starts_with("key  pk_"), "{said}");
    let id = id.trim_start_matches("id   ");
    let listed: Value = serde_json::from_slice(&keys(&place, &["list", "--json"]).stdout).unwrap();
    assert_eq!(listed[0]["id"], id);
    assert_eq!(listed[0]["state"], "active");
    assert!(!listed.to_string().contains(key.trim_start_matches("key  ")));
}

#[test]
fn keys_made_elsewhere_are_taken_over_whole_or_not_at_all() {
    let place = Place::new();
    let (plain, hashed) = ("legacy-key-0000000001", "legacy-key-0000000002");
    let digest = openssl::sha::sha256(hashed.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    place.write(
        "keys.csv",
        format!("key,sha256,name,owner,scopes,plan,expires\n{plain},,one,acme,a b,gold,2099-01-01\n,{hex},two,acme,,,\n"),
    );
    let gateway = place.start(KEYED);
    let imported = keys(&gateway.place, &["import", "keys.csv", "--json"]);
    assert_eq!(told(&imported).trim(), "{\"imported\":2}");
    soon(&gateway, plain, 200);
    ask(&gateway, hashed).expect(200);
    let again = keys(&gateway.place, &["import", "keys.csv"]);
    assert_eq!(again.status.code(), Some(1));
    let said = told(&again);
    assert!(said.contains("keys.csv:2: this key is there already, as `") && !said.contains(plain), "{said}");
    let mut command = gateway.place.command();
    command.args(["keys", "import", "--config", "portcullis.yaml"]);
    let lines =
        "{\"key\":\"legacy-key-0000000003\",\"name\":\"three\",\"owner\":\"acme\"}\n{\"key\":\"short\"}\n";
    let output = crate::harness::run(&mut command, lines.as_bytes());
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("standard input:2: the key has no name"), "{}", told(&output));
    let mut command = gateway.place.command();
    command.args(["keys", "import", "--config", "portcullis.yaml", "-"]);
    let first = lines.lines().next().unwrap();
    let output = crate::harness::run(&mut command, first.as_bytes());
    assert_eq!(told(&output).trim(), "1 keys imported");
    soon(&gateway, "legacy-key-0000000003", 200);
    let listed: Value = serde_json::from_slice(&keys(&gateway.place, &["list", "--json"]).stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 3);
}

#[test]
fn the_last_use_of_a_key_is_told() {
    let gateway = Running::with(KEYED);
    let (id, key) = create(&gateway.place, &[]);
    let (unused, _) = create(&gateway.place, &[]);
    soon(&gateway, &key, 200);
    let last_used = |id: &str| {
        let listed: Value =
            serde_json::from_slice(&keys(&gateway.place, &["list", "--json"]).stdout).unwrap();
        let of = listed.as_array().unwrap().iter().find(|key| key["id"] == id).unwrap();
        of["lastUsed"].clone()
    };
    eventually("the use to be written", || last_used(&id).is_string().then_some(()));
    assert!(last_used(&unused).is_null());
}

#[test]
fn a_store_that_cannot_be_read_stops_the_start_and_later_only_the_changes() {
    let place = Place::new();
    place.write("portcullis.yaml", Place::with_base(KEYED));
    fs::create_dir(place.path("state")).unwrap();
    let file = place.path("state/portcullis.db");
    fs::write(&file, "this was a database once, before a disk went wrong, and is none any more").unwrap();
    for command in ["run", "check"] {
        let output = place.portcullis(&[command, "--config", "portcullis.yaml"]);
        let said = told(&output);
        assert_ne!(output.status.code(), Some(0), "{said}");
        for part in ["portcullis.db` is no database", "restore it from a backup", "portcullis.yaml:6"] {
            assert!(said.contains(part), "{command}: `{part}` is missing in {said}");
        }
    }
    fs::remove_file(&file).unwrap();
    let gateway = place.start(KEYED);
    let (_, key) = create(&gateway.place, &[]);
    soon(&gateway, &key, 200);
    let away = gateway.place.path("state/away");
    fs::rename(&file, &away).unwrap();
    gateway.await_metric("portcullis_api_keys_stale", &[], 1.0);
    gateway.await_line("portcullis.db` is gone; put it back");
    ask(&gateway, &key).expect(200);
    fs::rename(&away, &file).unwrap();
    gateway.await_metric("portcullis_api_keys_stale", &[], 0.0);
    let (_, later) = create(&gateway.place, &[]);
    soon(&gateway, &later, 200);
    ask(&gateway, &key).expect(200);
    // Another file in its place: its keys are the keys, and no others.
    for end in ["", "-wal", "-shm"] {
        fs::remove_file(gateway.place.path(&format!("state/portcullis.db{end}"))).ok();
    }
    let (_, only) = create(&gateway.place, &[]);
    soon(&gateway, &only, 200);
    soon(&gateway, &key, 401);
}

#[test]
fn what_root_makes_belongs_to_the_gateways_user() {
    if !rustix::process::getuid().is_root() {
        println!("skipped: only root can change users");
        return;
    }
    let place = Place::new();
    fs::set_permissions(place.root(), fs::Permissions::from_mode(0o755)).unwrap();
    let text = Place::with_base(KEYED).replacen("server: {", "server: {user: nobody, ", 1);
    place.write("portcullis.yaml", &text);
    let (_, before) = create(&place, &[]);
    let gateway = place.start_existing(&text);
    ask(&gateway, &before).expect(200);
    let (_, beside) = create(&gateway.place, &[]);
    soon(&gateway, &beside, 200);
    for file in fs::read_dir(gateway.place.path("state")).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().uid(), 65_534, "{}", file.path().display());
    }
}

#[test]
fn a_policy_that_comes_by_a_reload_has_its_keys_at_once() {
    let gateway = Running::with("routes:\n  - {name: all, respond: {body: open}}\n");
    gateway.place.write("keyed.yaml", Place::with_base(KEYED));
    let output = gateway.place.portcullis(&[
        "keys",
        "create",
        "--config",
        "keyed.yaml",
        "--name",
        "a",
        "--owner",
        "b",
        "--json",
    ]);
    let (_, key) = made(&output);
    gateway.reload(KEYED);
    eventually("the route to ask for a key", || (gateway.get("/items").status == 401).then_some(()));
    ask(&gateway, &key).expect(200);
}

#[test]
fn a_key_is_revoked_while_the_configuration_does_not_load() {
    let gateway = Running::with(KEYED);
    let (id, key) = create(&gateway.place, &[]);
    soon(&gateway, &key, 200);
    let good = Place::with_base(KEYED);
    let broken = good.replace("{path: /items}", "{paht: '${env:PORTCULLIS_TEST_NOT_SET}'}");
    gateway.place.write("broken.yaml", &broken);
    gateway.place.write("elsewhere.yaml", good.replacen("state: ./state", "sate: ./state", 1));
    gateway.place.write("torn.yaml", format!("{good}: [\n"));
    gateway.place.write("half.yaml", format!("include: [./gone.yaml]\n{good}"));
    let run = |verb: &[&str], config: &[&str]| gateway.place.portcullis(&[&["keys"], verb, config].concat());
    // Where it says wrongly, or may say, where the keys are, nothing is done.
    let revoke = ["revoke", "--id", &id, "--json"];
    for config in ["elsewhere.yaml", "torn.yaml", "half.yaml"] {
        let refused = run(&revoke, &["--config", config]);
        assert_eq!(refused.status.code(), Some(64), "{config}: {}", told(&refused));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("--state DIR"), "{config}: {said}");
    }
    ask(&gateway, &key).expect(200);
    let revoked = run(&revoke, &["--config", "broken.yaml"]);
    assert_eq!(revoked.status.code(), Some(0), "{}", told(&revoked));
    assert_eq!(String::from_utf8_lossy(&revoked.stdout), format!("{{\"id\":\"{id}\",\"revoked\":true}}\n"));
    let said = String::from_utf8_lossy(&revoked.stderr);
    assert!(
        said.contains("unknown key `paht`") && said.contains("the configuration does not load"),
        "{said}"
    );
    soon(&gateway, &key, 401);
    // A key's routes are those of a configuration.
    let made = ["create", "--name", "a", "--owner", "b"];
    let refused = run(&[&made[..], &["--routes", "items"]].concat(), &["--config", "broken.yaml"]);
    assert_eq!(refused.status.code(), Some(64), "{}", told(&refused));
    assert!(told(&refused).contains("there is none that loads"), "{}", told(&refused));
    assert_eq!(run(&made, &["--config", "broken.yaml"]).status.code(), Some(0));
    // Nor is one needed where the directory is named.
    let listed = run(&["list", "--json"], &["--state", "state"]);
    assert_eq!(listed.status.code(), Some(0), "{}", told(&listed));
    assert!(told(&listed).contains(&id), "{}", told(&listed));
}
