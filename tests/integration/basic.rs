//! Names and passwords (RFC 7617): users of a file, a failure limit first, hashing beside the workers.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::harness::{Connection, Origin, Place, Response, Running, connect_from, eventually};

/// `U*U` at the least cost: crypt_blowfish's first vector.
const ALICE: &str = "alice:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n";
/// `password`: a vector of argon2's reference implementation.
const BOB: &str =
    "bob:$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4\n";

fn rest(limits: &str) -> String {
    format!(
        "policies: {{auth: {{staff: {{basic: {{file: users{limits}}}}}}}}}
routes:
  - {{name: open, match: {{path: /open}}, respond: {{body: open}}}}
  - {{name: inner, match: {{path: /inner}}, auth: staff, respond: {{body: inner}}}}
"
    )
}

fn start(limits: &str) -> Running {
    let place = Place::new();
    place.write("users", format!("{ALICE}{BOB}"));
    place.start(&rest(limits))
}

fn request(name: &str, password: &str) -> String {
    let credential = STANDARD.encode(format!("{name}:{password}"));
    format!("GET /inner HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {credential}\r\n\r\n")
}

fn ask(gateway: &Running, name: &str, password: &str) -> Response {
    gateway.send(request(name, password))
}

/// Waits until so many requests have been refused for this: they are counted when their answer has gone out.
fn refused_for(gateway: &Running, reason: &str, at_least: f64) {
    let labels = [("policy", "auth.staff"), ("reason", reason)];
    eventually(&format!("{at_least} refusals for {reason}"), || {
        (gateway.metrics().of("portcullis_refusals_total", &labels) >= at_least).then_some(())
    });
}

#[test]
fn users_pass_and_others_are_asked_for_a_name() {
    let gateway = start("");
    let nobody = gateway.get("/inner");
    nobody.expect(401);
    // Before there are others: workers' lines come in no order.
    assert_eq!(gateway.access_of("/inner")["status"], 401);
    assert_eq!(nobody.all("www-authenticate"), "Basic realm=\"staff\", charset=\"UTF-8\"");
    ask(&gateway, "alice", "U*U").expect(200);
    ask(&gateway, "bob", "password").expect(200);
    let (wrong, unknown) = (ask(&gateway, "alice", "hunter2"), ask(&gateway, "mallory", "hunter2"));
    for refused in [&wrong, &unknown] {
        refused.expect(401);
        assert_eq!(refused.all("www-authenticate"), nobody.all("www-authenticate"));
        assert!(refused.text().contains("unauthorized"), "{}", refused.text());
    }
    let said = |response: &Response| response.json()["detail"].clone();
    assert_eq!(said(&wrong), said(&unknown), "nothing tells a user from nobody");
    for reason in ["missing", "wrong_password", "unknown_user"] {
        refused_for(&gateway, reason, 1.0);
    }
    for bad in ["Basic", "Basic !", "Basic YWxpY2U=", "Basic /zo6"] {
        gateway.send(format!("GET /inner HTTP/1.1\r\nHost: a\r\nAuthorization: {bad}\r\n\r\n")).expect(401);
    }
    refused_for(&gateway, "malformed", 4.0);
    let users: Vec<_> = gateway.access(9).iter().map(|line| line["identity"]["user"].clone()).collect();
    assert!(users.contains(&"alice".into()) && users.contains(&"bob".into()), "{users:?}");
    for secret in ["hunter2", &STANDARD.encode("alice:U*U")] {
        assert!(!gateway.place.read("access.log").contains(secret) && !gateway.said().contains(secret));
    }
}

#[test]
fn the_credential_goes_no_further() {
    let origin = Origin::echo();
    let place = Place::new();
    place.write("users", ALICE);
    let gateway = place.start(&format!(
        "upstreams: {{origin: {{servers: ['{}']}}}}
policies: {{auth: {{staff: {{basic: {{file: users}}}}}}}}
routes:
  - {{name: inner, match: {{path: /inner}}, auth: staff, upstream: origin}}
  - {{name: open, match: {{path: /open}}, upstream: origin}}
",
        origin.address()
    ));
    let seen = ask(&gateway, "alice", "U*U");
    seen.expect(200);
    assert!(!seen.text().to_lowercase().contains("authorization"), "{}", seen.text());
    // A public route's credentials are its upstream's own affair.
    let open = gateway.send(request("alice", "U*U").replace("/inner", "/open"));
    assert!(open.text().to_lowercase().contains("authorization: basic"), "{}", open.text());
}

#[test]
fn who_is_wrong_too_often_waits_before_any_hash_is_computed() {
    let gateway = start(", failures_per_client: 3/1h, failures_per_user: 5/1h");
    ask(&gateway, "alice", "U*U").expect(200);
    for number in 0..3 {
        ask(&gateway, "bob", &format!("wrong{number}")).expect(401);
    }
    let limited = ask(&gateway, "bob", "password");
    limited.expect(429);
    let wait: u64 = limited.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=1200).contains(&wait), "{wait}");
    assert!(limited.text().contains("throttled"), "{}", limited.text());
    // Who has proved himself lately is not kept out by another's failures.
    ask(&gateway, "alice", "U*U").expect(200);
    ask(&gateway, "alice", "wrong").expect(429);
    let from = |source: &str, name: &str, password: &str| {
        let mut connection = connect_from(source, gateway.address());
        connection.write(request(name, password));
        connection.response().status
    };
    assert_eq!(from("127.0.0.2", "bob", "password"), 200, "another client");
    for source in ["127.0.0.3", "127.0.0.4"] {
        assert_eq!(from(source, "bob", "wrong"), 401, "{source}");
    }
    assert_eq!(from("127.0.0.5", "bob", "wrong"), 429, "the user is guarded from many clients");
    assert_eq!(from("127.0.0.2", "bob", "password"), 200, "from here he has proved himself");
    // Elsewhere a right guess is told apart from a wrong one as little as ever, whoever is logged in.
    assert_eq!(from("127.0.0.5", "bob", "password"), 429);
    refused_for(&gateway, "too_many_failures", 4.0);
    // A reload forgets no failure.
    gateway.reload(&format!("{}\n", rest(", failures_per_client: 3/1h, failures_per_user: 5/1h")));
    ask(&gateway, "bob", "wrong").expect(429);
}

#[test]
fn a_changed_file_is_in_force_and_forgets_what_it_remembered() {
    let gateway = start("");
    ask(&gateway, "alice", "U*U").expect(200);
    ask(&gateway, "bob", "password").expect(200);
    gateway.place.write("users", BOB);
    eventually("alice to be nobody", || (ask(&gateway, "alice", "U*U").status != 200).then_some(()));
    ask(&gateway, "bob", "password").expect(200);
    // A file that is wrong changes nothing.
    gateway.place.write("users", "bob:password\n");
    gateway.await_metric("portcullis_reloads_total", &[("result", "refused")], 1.0);
    let line = gateway.await_line("`bob`: this is no hash that is known here");
    assert!(!line.contains("bob:password"), "{line}");
    ask(&gateway, "bob", "password").expect(200);
}

#[test]
fn passwords_are_hashed_beside_the_workers_and_only_so_many_wait() {
    let place = Place::new();
    // Two hundred thousand blocks of memory each: slow on any machine.
    let slow = BOB.replace("m=256,t=2", "m=131072,t=4");
    place.write("users", slow);
    let gateway = place.start(&rest(", failures_per_client: 1000/1s, failures_per_user: 1000/1s"));
    let mut waiting: Vec<Connection> = Vec::new();
    let busy = (0..120).find_map(|number| {
        let mut connection = Connection::open(gateway.address());
        connection.write(request("bob", &format!("wrong{number}")));
        waiting.push(connection);
        let labels = [("policy", "auth.staff"), ("reason", "busy")];
        (gateway.metrics().of("portcullis_refusals_total", &labels) > 0.0).then_some(())
    });
    assert!(busy.is_some(), "120 passwords wait: {}", gateway.said());
    let begun = Instant::now();
    gateway.get("/open").expect(200);
    assert!(begun.elapsed() < Duration::from_secs(1), "a worker hashes: {:?}", begun.elapsed());
    let answered = waiting.iter_mut().rev().find_map(|connection| {
        let response = connection.try_response(false).ok()?;
        (response.status == 503).then_some(response)
    });
    let answered = answered.unwrap();
    assert!(answered.text().contains("authorizer-failure"), "{}", answered.text());
    assert!(answered.header("retry-after").is_some());
}

#[test]
fn explain_knows_passwords_too() {
    let place = Place::new();
    place.write("users", ALICE);
    place.write("portcullis.yaml", Place::with_base(&rest("")));
    let explain = |password: &str| {
        let field = format!("authorization: Basic {}", STANDARD.encode(format!("alice:{password}")));
        let output =
            place.portcullis(&["explain", "--config", "portcullis.yaml", "-H", &field, "http://a/inner"]);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!said.contains(password) && !said.contains("Basic Y"), "{said}");
        (output.status.code(), said)
    };
    let (status, said) = explain("U*U");
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("alice (basic)"), "{said}");
    let (status, said) = explain("hunter2");
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("the password is not that of `alice`"), "{said}");
}
