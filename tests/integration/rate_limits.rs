//! Rate limits: who is counted with whom, in which order, what clients are told, and that nothing is kept of what has ended.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::tokens::{self, ISSUER, SigningKey, claims};
use crate::harness::{Connection, Origin, Place, Response, Running, connect_from, eventually};

/// A GET with these fields, each ended by CRLF.
fn request(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: api.example.com\r\n{fields}\r\n")
}

fn ask(gateway: &Running, path: &str, fields: &str) -> Response {
    gateway.send(request(path, fields))
}

/// The statuses of so many requests, one after the other.
fn statuses(gateway: &Running, number: usize, path: &str, fields: &str) -> Vec<u16> {
    (0..number).map(|_| ask(gateway, path, fields).status).collect()
}

fn from(gateway: &Running, source: &str, path: &str, fields: &str) -> Response {
    let mut connection = connect_from(source, gateway.address());
    connection.write(request(path, fields));
    connection.response()
}

/// A gateway whose peers say by `X-Forwarded-For` who they are.
fn behind_a_proxy(rest: &str) -> Running {
    let listener = "  - address: 127.0.0.1:0\n";
    let text =
        Place::with_base(rest).replace(listener, &format!("{listener}    trusted_proxies: [127.0.0.1]\n"));
    Place::new().start_whole(&text)
}

fn refusals(gateway: &Running, policy: &str, reason: &str) -> f64 {
    gateway.metrics().of("portcullis_refusals_total", &[("policy", policy), ("reason", reason)])
}

const ROUTE: &str = "routes: [{name: all, rate_limits: [few], respond: {body: hello}}]\n";

#[test]
fn a_burst_passes_and_what_comes_too_fast_is_told_when_to_come_again() {
    let limit = "policies: {rate_limits: {few: {key: client, limit: 2/2s, burst: 3}}}\n";
    let gateway = Running::with(&format!("{limit}{ROUTE}"));
    for left in [2, 1, 0] {
        let passed = ask(&gateway, "/", "");
        passed.expect(200);
        assert_eq!(passed.all("ratelimit-policy"), "\"few\";q=3;w=3");
        let time = if left == 0 { 1 } else { 0 };
        assert_eq!(passed.all("ratelimit"), format!("\"few\";r={left};t={time}"));
        assert_eq!(passed.header("retry-after"), None);
    }
    let refused = ask(&gateway, "/", "");
    refused.expect(429);
    assert_eq!(refused.all("ratelimit-policy"), "\"few\";q=3;w=3");
    assert_eq!(refused.all("ratelimit"), "\"few\";r=0;t=1");
    assert_eq!(refused.all("retry-after"), "1");
    assert_eq!(refused.all("cache-control"), "no-store");
    assert_eq!(refused.all("content-type"), "application/problem+json");
    let problem = refused.json();
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!((&problem["status"], &problem["violated-policies"]), (&json!(429), &json!(["few"])));
    // Another client is not touched; this one passes when it was told it would.
    from(&gateway, "127.0.0.2", "/", "").expect(200);
    std::thread::sleep(Duration::from_secs(1));
    ask(&gateway, "/", "").expect(200);
    let line = gateway.access(6).into_iter().find(|line| line["status"] == 429).unwrap();
    assert_eq!(line["error"]["responseType"], "THROTTLED");
    assert_eq!(line["error"]["policy"], "rate_limits.few");
    assert!(line["error"]["site"].as_str().unwrap().contains("portcullis.yaml:"), "{line}");
    assert_eq!(refusals(&gateway, "rate_limits.few", "rate"), 1.0);
}

#[test]
fn every_client_form_is_told_in_its_own_way() {
    let limit = "policies: {rate_limits: {few: {key: client, limit: 1/1h, memory: 64KiB}}}\n";
    let gateway = Running::with(&format!("{limit}{ROUTE}"));
    ask(&gateway, "/", "").expect(200);
    let grpc = ask(&gateway, "/", "Content-Type: application/grpc\r\n");
    grpc.expect(200);
    assert_eq!(grpc.all("grpc-status"), "8");
    let wait: u64 = grpc.all("retry-after").parse().unwrap();
    assert!((3590..=3600).contains(&wait), "{wait}");
    let person = ask(&gateway, "/", "Accept: text/html\r\n");
    person.expect(429);
    assert!(person.text().starts_with("429 Too many requests"), "{}", person.text());
    let head = gateway.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    head.expect(429);
    assert!(head.all("ratelimit").starts_with("\"few\";r=0;t="), "{head:?}");
    let of = |name: &str| gateway.metrics().of(name, &[("policy", "rate_limits.few")]);
    assert_eq!(of("portcullis_rate_limit_entries"), 1.0);
    assert!(of("portcullis_rate_limit_capacity") > 3000.0);
    for counter in ["promotions", "evictions", "overflows"] {
        assert_eq!(of(&format!("portcullis_rate_limit_{counter}_total")), 0.0);
    }
}

#[test]
fn each_kind_of_key_has_its_own_buckets_and_the_client_stands_in_for_what_is_missing() {
    let gateway = Running::with(
        "policies:
  rate_limits:
    header: {key: {header: x-tenant}, limit: 1/1h}
    cookie: {key: {cookie: session}, limit: 1/1h}
    host: {key: host, limit: 1/1h}
    route: {key: route, limit: 1/1h}
    both: {key: [{header: x-tenant}, client], limit: 1/1h}
routes:
  - {name: header, match: {path: /header}, rate_limits: [header], respond: {}}
  - {name: cookie, match: {path: /cookie}, rate_limits: [cookie], respond: {}}
  - {name: host, match: {path: /host}, rate_limits: [host], respond: {}}
  - {name: one, match: {path: /one}, rate_limits: [route], respond: {}}
  - {name: two, match: {path: /two}, rate_limits: [route], respond: {}}
  - {name: both, match: {path: /both}, rate_limits: [both], respond: {}}
",
    );
    let pair = |path: &str, fields: &str| {
        assert_eq!(statuses(&gateway, 2, path, fields), [200, 429], "{path} {fields}");
    };
    for value in ["a", "b", "127.0.0.1"] {
        pair("/header", &format!("X-Tenant: {value}\r\n"));
        pair("/cookie", &format!("Cookie: other=1; session={value}\r\n"));
        pair("/both", &format!("X-Tenant: {value}\r\n"));
    }
    // Without a value, and with an empty one, it is the client, which no value is taken for.
    pair("/header", "");
    ask(&gateway, "/header", "X-Tenant:\r\n").expect(429);
    pair("/cookie", "");
    ask(&gateway, "/cookie", "Cookie: session=\r\n").expect(429);
    from(&gateway, "127.0.0.2", "/header", "").expect(200);
    from(&gateway, "127.0.0.2", "/header", "X-Tenant: a\r\n").expect(429);
    from(&gateway, "127.0.0.2", "/both", "X-Tenant: a\r\n").expect(200);
    pair("/host", "");
    let other = |host: &str| gateway.send(format!("GET /host HTTP/1.1\r\nHost: {host}\r\n\r\n")).status;
    assert_eq!([other("other.test"), other("OTHER.test."), other("third.test")], [200, 429, 200]);
    assert_eq!(from(&gateway, "127.0.0.3", "/one", "").status, 200);
    pair("/two", "");
    ask(&gateway, "/one", "").expect(429);
}

#[test]
fn who_asks_is_counted_by_identity_key_plan_and_claim() {
    let (place, key) = (Place::new(), SigningKey::new("ES256", "one"));
    place.write("jwks.json", tokens::jwks(&[&key]));
    let gateway = place.start(&format!(
        "policies:
  auth:
    staff: {{jwt: {{issuer: '{ISSUER}', audiences: [orders], keys: {{file: ./jwks.json}}}}}}
    partners: {{api_key: {{header: x-api-key}}}}
  rate_limits:
    user: {{key: identity, limit: 2/1h, overrides: {{gold: 4/1h}}}}
    tenant: {{key: {{claim: org.tenant}}, limit: 1/1h, overrides: {{'7': 3/1h}}}}
    key: {{key: api_key, limit: 1/1h}}
    plan: {{key: plan, limit: 3/1h}}
  plans: {{gold: {{throttle: none}}}}
routes:
  - {{name: user, match: {{path: /user}}, auth: {{any_of: [staff, partners]}}, rate_limits: [user], respond: {{}}}}
  - {{name: tenant, match: {{path: /tenant}}, auth: staff, rate_limits: [tenant], respond: {{}}}}
  - {{name: key, match: {{path: /key}}, auth: partners, rate_limits: [key], respond: {{}}}}
  - {{name: plan, match: {{path: /plan}}, auth: partners, rate_limits: [plan], respond: {{}}}}
"
    ));
    let bearer = |other: &Value| format!("Authorization: Bearer {}\r\n", key.token(&claims(other)));
    let made = |owner: &str| {
        let arguments = ["keys", "create", "--name", "x", "--owner", owner, "--plan", "gold", "--json"];
        let output = gateway.place.portcullis(&[&arguments[..], &["--config", "portcullis.yaml"]].concat());
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        let field = format!("X-Api-Key: {}\r\n", told["key"].as_str().unwrap());
        eventually("the key to open", || (ask(&gateway, "/key", &field).status != 401).then_some(()));
        field
    };
    let [alice, bob] = ["alice", "bob"].map(|sub| bearer(&json!({"sub": sub})));
    // Another token of the same person is no other person.
    assert_eq!(statuses(&gateway, 1, "/user", &bearer(&json!({"sub": "alice"}))), [200]);
    assert_eq!(statuses(&gateway, 2, "/user", &alice), [200, 429]);
    assert_eq!(statuses(&gateway, 3, "/user", &bob), [200, 200, 429]);
    assert_eq!(from(&gateway, "127.0.0.2", "/user", &bob).status, 429, "wherever they come from");
    // Whoever is called like a plan has none.
    assert_eq!(statuses(&gateway, 3, "/user", &bearer(&json!({"sub": "gold"}))), [200, 200, 429]);
    let tenant = |id: Value| bearer(&json!({"org": {"tenant": id}}));
    assert_eq!(statuses(&gateway, 2, "/tenant", &tenant(json!("a"))), [200, 429]);
    assert_eq!(statuses(&gateway, 4, "/tenant", &tenant(json!(7))), [200, 200, 200, 429]);
    assert_eq!(statuses(&gateway, 2, "/tenant", &alice), [200, 429], "none: the client");
    let (one, two) = (made("acme"), made("acme"));
    assert_eq!([&one, &two].map(|key| ask(&gateway, "/key", key).status), [429, 429], "each has asked once");
    let gold = ask(&gateway, "/user", &one);
    assert_eq!(gold.all("ratelimit-policy"), "\"user\";q=4;w=3600");
    assert_eq!(gold.all("ratelimit"), "\"user\";r=3;t=0");
    assert_eq!(statuses(&gateway, 4, "/user", &two), [200, 200, 200, 429], "one owner, four requests");
    assert_eq!([&one, &two, &one, &two].map(|key| ask(&gateway, "/plan", key).status), [200, 200, 200, 429]);
}

#[test]
fn limits_by_client_come_before_preflights_and_credentials_and_those_by_identity_behind() {
    let place = Place::new();
    place.write("users", ALICE);
    let gateway = place.start(
        "policies:
  auth: {staff: {basic: {file: users, failures_per_client: 1000/1s, failures_per_user: 1000/1s}}}
  cors: {web: {origins: ['https://app.example.com']}}
  rate_limits:
    client: {key: client, limit: 4/1h}
    user: {key: identity, limit: 1/1h}
routes:
  - {name: inner, match: {path: /inner, methods: [GET]}, auth: staff, cors: web, rate_limits: [user, client], respond: {}}
",
    );
    let preflight = "OPTIONS /inner HTTP/1.1\r\nHost: a\r\nOrigin: https://app.example.com\r\n\
                     Access-Control-Request-Method: GET\r\n\r\n";
    let policy = "\"client\";q=4;w=3600, \"user\";q=1;w=3600";
    let answered = gateway.send(preflight);
    answered.expect(204);
    assert_eq!(answered.all("ratelimit"), "\"client\";r=3;t=0");
    // Who does not log in spends of the client's tokens and nobody's.
    let wrong = ask(&gateway, "/inner", &login("alice", "wrong"));
    wrong.expect(401);
    assert_eq!(
        (wrong.all("ratelimit-policy"), wrong.all("ratelimit")),
        (policy.into(), "\"client\";r=2;t=0".into())
    );
    let right = ask(&gateway, "/inner", &login("alice", "U*U"));
    right.expect(200);
    assert!(right.all("ratelimit").starts_with("\"user\";r=0;t="), "the most binding: {right:?}");
    let again = ask(&gateway, "/inner", &login("alice", "U*U"));
    again.expect(429);
    assert_eq!(again.json()["violated-policies"], json!(["user"]));
    // The client has spent four now: neither a preflight nor a login is looked at.
    let crossed = gateway.send(preflight);
    crossed.expect(429);
    assert_eq!(crossed.json()["violated-policies"], json!(["client"]));
    let origin = crossed.all("access-control-allow-origin");
    assert!(origin.is_empty(), "a preflight that is refused allows nothing: {origin}");
    ask(&gateway, "/inner", &login("alice", "wrong")).expect(429);
    // A page may read why: the 429 of a request that is none has the fields of its origin.
    let page = ask(&gateway, "/inner", "Origin: https://app.example.com\r\n");
    page.expect(429);
    assert_eq!(page.all("access-control-allow-origin"), "https://app.example.com");
}

/// `U*U` at the least cost: crypt_blowfish's first vector.
const ALICE: &str = "alice:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n";

fn login(name: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{name}:{password}")))
}

#[test]
fn several_limits_are_all_asked_and_a_refused_request_has_spent_nothing_of_the_others() {
    let gateway = Running::with(
        "policies:
  rate_limits:
    wide: {key: client, limit: 5/1h}
    tight: {key: {header: x-tenant}, limit: 1/1h}
routes: [{name: all, rate_limits: [wide, tight], respond: {}}]
",
    );
    let tenant = |name: &str| ask(&gateway, "/", &format!("X-Tenant: {name}\r\n"));
    let first = tenant("a");
    assert_eq!(first.all("ratelimit-policy"), "\"wide\";q=5;w=3600, \"tight\";q=1;w=3600");
    assert!(first.all("ratelimit").starts_with("\"tight\";r=0;t="), "{first:?}");
    for _ in 0..10 {
        tenant("a").expect(429);
    }
    for name in ["b", "c", "d", "e"] {
        tenant(name).expect(200);
    }
    let both = tenant("a");
    both.expect(429);
    assert_eq!(both.json()["violated-policies"], json!(["wide", "tight"]));
    // The one that takes longest is told, so that coming again then is worth it.
    let wait: u64 = both.all("retry-after").parse().unwrap();
    assert!((3500..=3600).contains(&wait), "{wait}");
    assert!(both.all("ratelimit").starts_with("\"tight\";r=0;t="), "{both:?}");
}

#[test]
fn guesses_at_passwords_are_slowed_and_who_logs_in_right_is_not() {
    let place = Place::new();
    place.write("users", ALICE);
    let gateway = place.start(
        "policies:
  auth: {staff: {basic: {file: users, failures_per_client: 1000/1s, failures_per_user: 1000/1s}}}
  rate_limits: {logins: {key: client, limit: 3/1h, count: {status: [401, 403]}}}
routes: [{name: inner, match: {path: /inner}, auth: staff, rate_limits: [logins], respond: {}}]
",
    );
    let right = login("alice", "U*U");
    for _ in 0..10 {
        let passed = ask(&gateway, "/inner", &right);
        passed.expect(200);
        assert_eq!(passed.all("ratelimit"), "\"logins\";r=3;t=0", "what is right costs nothing");
    }
    // Over gRPC a refusal has status 200; it counts all the same.
    let grpc = "Content-Type: application/grpc\r\n";
    ask(&gateway, "/inner", &format!("{}{grpc}", login("alice", "no"))).expect(200);
    ask(&gateway, "/inner", &login("bob", "no")).expect(401);
    assert_eq!(ask(&gateway, "/inner", &right).all("ratelimit"), "\"logins\";r=1;t=0");
    let third = ask(&gateway, "/inner", &login("alice", "nein"));
    third.expect(401);
    // It is counted before it is told of.
    assert!(third.all("ratelimit").starts_with("\"logins\";r=0;t="), "{third:?}");
    let refused = ask(&gateway, "/inner", &right);
    refused.expect(429);
    assert!(
        refused.all("retry-after").parse::<u64>().unwrap() > 1000,
        "its own refusals do not count: {refused:?}"
    );
    from(&gateway, "127.0.0.2", "/inner", &right).expect(200);
    assert!(refusals(&gateway, "rate_limits.logins", "spent") >= 1.0);
}

#[test]
fn an_upstreams_refusals_are_counted_too_also_where_the_client_has_gone() {
    let origin = Origin::each(|head, peer| {
        let status = if head.starts_with("GET /login?good") { 200 } else { 401 };
        peer.answer(status, "said")
    });
    let gateway = Running::with(&format!(
        "upstreams: {{o: {{servers: ['{}']}}}}
policies: {{rate_limits: {{logins: {{key: client, limit: 2/1h, count: {{status: [401]}}}}}}}}
routes: [{{name: login, match: {{path: /login}}, rate_limits: [logins], upstream: o}}]
",
        origin.address()
    ));
    assert_eq!(statuses(&gateway, 5, "/login?good", ""), [200; 5]);
    ask(&gateway, "/login", "").expect(401);
    for _ in 0..20 {
        let mut gone = Connection::open(gateway.address());
        gone.write(request("/login", ""));
        drop(gone);
    }
    eventually("the failures to be counted", || {
        (ask(&gateway, "/login?good", "").status == 429).then_some(())
    });
}

#[test]
fn what_an_upstream_says_of_limits_is_replaced_where_ours_are_told() {
    let origin = Origin::each(|_, peer| {
        peer.write(
            "HTTP/1.1 404 Not Found\r\nRateLimit: \"theirs\";r=9\r\nRateLimit-Policy: \"theirs\";q=9\r\n\
             X-RateLimit-Limit: 9\r\nX-RateLimit-Remaining: 9\r\nContent-Length: 0\r\n\r\n",
        );
        true
    });
    let gateway = Running::with(&format!(
        "upstreams: {{o: {{servers: ['{}']}}}}
policies:
  rate_limits:
    ietf: {{key: client, limit: 10/1m}}
    legacy: {{key: client, limit: 10/1m, headers: legacy}}
    hidden: {{key: client, limit: 1/1h, headers: hidden}}
    trial: {{key: client, limit: 1/1h, mode: shadow}}
routes:
  - {{name: theirs, match: {{path: /none}}, upstream: o}}
  - {{name: ietf, match: {{path: /ietf}}, rate_limits: [ietf, trial], upstream: o}}
  - {{name: legacy, match: {{path: /legacy}}, rate_limits: [legacy], upstream: o}}
  - {{name: both, match: {{path: /both}}, rate_limits: [legacy, ietf], upstream: o}}
  - {{name: hidden, match: {{path: /hidden}}, rate_limits: [hidden], upstream: o}}
",
        origin.address()
    ));
    let told = |path: &str| {
        let response = ask(&gateway, path, "");
        let legacy = ["limit", "remaining", "reset"].map(|word| response.all(&format!("x-ratelimit-{word}")));
        (response.status, response.all("ratelimit-policy"), response.all("ratelimit"), legacy.join(" "))
    };
    let theirs = || ("\"theirs\";q=9".to_owned(), "\"theirs\";r=9".to_owned(), "9 9 ".to_owned());
    let with = |status, (policy, limit, legacy)| (status, policy, limit, legacy);
    assert_eq!(told("/none"), with(404, theirs()));
    let ours = ("\"ietf\";q=10;w=60".to_owned(), "\"ietf\";r=9;t=0".to_owned(), "  ".to_owned());
    assert_eq!(told("/ietf"), with(404, ours));
    assert_eq!(told("/legacy"), (404, String::new(), String::new(), "10 9 6".to_owned()));
    let (_, _, ietf, legacy) = told("/both");
    assert_eq!((ietf.as_str(), legacy.as_str()), ("\"ietf\";r=8;t=0", "10 8 12"));
    assert_eq!(told("/hidden"), with(404, theirs()), "a hidden limit leaves them alone");
    let refused = ask(&gateway, "/hidden", "");
    refused.expect(429);
    assert!(refused.header("retry-after").is_some());
    assert!(!refused.text().contains("hidden") && refused.header("ratelimit").is_none(), "{refused:?}");
}

#[test]
fn so_many_are_under_way_at_once_and_those_who_leave_make_room() {
    let (origin, go) = Origin::waiting();
    let gateway = Running::with(&format!(
        "upstreams: {{o: {{servers: ['{}']}}}}
policies: {{rate_limits: {{heavy: {{key: client, concurrent: 3}}}}}}
routes:
  - {{name: slow, match: {{path: /slow}}, rate_limits: [heavy], upstream: o}}
  - {{name: quick, match: {{path: /quick}}, rate_limits: [heavy], respond: {{}}}}
",
        origin.address()
    ));
    let under_way = |number: f64| {
        gateway.await_metric("portcullis_rate_limit_under_way", &[("policy", "rate_limits.heavy")], number);
    };
    let open = || {
        let mut connection = Connection::open(gateway.address());
        connection.write(request("/slow", ""));
        connection
    };
    let slow: Vec<_> = (0..3).map(|_| open()).collect();
    under_way(3.0);
    let refused = ask(&gateway, "/quick", "");
    refused.expect(503);
    assert_eq!(refused.all("ratelimit-policy"), "\"heavy\";q=3;qu=\"concurrent-requests\"");
    assert_eq!(refused.all("ratelimit"), "\"heavy\";r=0");
    assert_eq!(refused.all("retry-after"), "1");
    let problem = refused.json();
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity");
    assert_eq!(problem["violated-policies"], json!(["heavy"]));
    from(&gateway, "127.0.0.2", "/quick", "").expect(200);
    // One is answered, one goes away, one has its stream cut: each leaves its place.
    go.send(()).unwrap();
    // Which of them is answered is not known: to read from another would take until the upstream's deadline.
    under_way(2.0);
    drop(slow);
    for _ in 0..50 {
        drop(open());
    }
    (0..100).for_each(|_| {
        let _ = go.send(());
    });
    under_way(0.0);
    let passed = ask(&gateway, "/quick", "");
    passed.expect(200);
    assert_eq!(passed.all("ratelimit"), "\"heavy\";r=2");
    assert!(refusals(&gateway, "rate_limits.heavy", "concurrent") >= 1.0);
}

#[test]
fn who_waits_in_a_queue_is_served_in_turn_or_told_after_its_time() {
    let (origin, go) = Origin::waiting();
    let gateway = Running::with(&format!(
        "upstreams: {{o: {{servers: ['{}']}}}}
policies:
  rate_limits:
    patient: {{key: route, concurrent: 1, queue: {{length: 1, wait: 20s}}}}
    hasty: {{key: route, concurrent: 1, queue: {{length: 1, wait: 100ms}}}}
routes:
  - {{name: patient, match: {{path: /patient}}, rate_limits: [patient], upstream: o}}
  - {{name: hasty, match: {{path: /hasty}}, rate_limits: [hasty], upstream: o}}
",
        origin.address()
    ));
    let open = |path: &str| {
        let mut connection = Connection::open(gateway.address());
        connection.write(request(path, ""));
        connection
    };
    let in_flight = |number| gateway.await_metric("portcullis_requests_in_flight", &[], number);
    let mut first = open("/patient");
    in_flight(1.0);
    let mut second = open("/patient");
    in_flight(2.0);
    ask(&gateway, "/patient", "").expect(503);
    go.send(()).unwrap();
    first.response().expect(200);
    in_flight(1.0);
    let mut third = open("/patient");
    in_flight(2.0);
    ask(&gateway, "/patient", "").expect(503);
    (0..2).for_each(|_| go.send(()).unwrap());
    second.response().expect(200);
    third.response().expect(200);

    let mut holder = open("/hasty");
    gateway.await_metric("portcullis_rate_limit_under_way", &[("policy", "rate_limits.hasty")], 1.0);
    let began = Instant::now();
    ask(&gateway, "/hasty", "").expect(503);
    assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
    go.send(()).unwrap();
    holder.response().expect(200);
    // A request is counted once it has ended, which is after its answer.
    let labels = [("policy", "rate_limits.hasty"), ("reason", "queue_wait")];
    gateway.await_metric("portcullis_refusals_total", &labels, 1.0);
}

#[test]
fn a_reload_that_changes_memory_or_brings_concurrent_keeps_tokens_and_slots() {
    let (origin, go) = Origin::waiting();
    let with = |limit: &str| {
        format!(
            "upstreams: {{o: {{servers: ['{}']}}}}
policies: {{rate_limits: {{few: {{key: client, {limit}}}}}}}
routes:
  - {{name: slow, match: {{path: /slow}}, rate_limits: [few], upstream: o}}
  - {{name: all, rate_limits: [few], respond: {{}}}}
",
            origin.address()
        )
    };
    let gateway = Running::with(&with("limit: 20/1h"));
    let left = || {
        let passed = ask(&gateway, "/", "");
        passed.expect(200);
        let told = passed.all("ratelimit");
        told.split_once("\"few\";r=").unwrap().1.split(';').next().unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(left(), 19);
    for (limit, expected) in [
        ("limit: 20/1h, memory: 1MiB", 18),
        ("limit: 20/1h, memory: 64KiB, concurrent: 1", 17),
        ("limit: 20/1h, memory: 16MiB, concurrent: 1", 16),
        ("limit: 20/1h", 15),
        ("limit: 20/1h, concurrent: 1", 14),
    ] {
        gateway.reload(&with(limit));
        assert_eq!(left(), expected, "{limit}");
    }
    let under_way =
        || gateway.metrics().of("portcullis_rate_limit_under_way", &[("policy", "rate_limits.few")]);
    let mut slow = Connection::open(gateway.address());
    slow.write(request("/slow", ""));
    eventually("a slot to be taken", || (under_way() > 0.0).then_some(()));
    for limit in ["concurrent: 1", "limit: 20/1h, concurrent: 1, memory: 1MiB", "limit: 20/1h, concurrent: 1"]
    {
        gateway.reload(&with(limit));
        ask(&gateway, "/", "").expect(503);
        assert!((under_way() - 1.0).abs() < 1e-9, "{limit}");
    }
    go.send(()).unwrap();
    slow.response().expect(200);
    assert_eq!(left(), 12, "what was refused for a slot has spent nothing");
    assert!(under_way().abs() < 1e-9);
}

#[test]
fn a_reload_keeps_what_was_spent_and_scales_what_has_changed() {
    let with = |limit: &str, more: &str| {
        format!("policies: {{rate_limits: {{few: {{key: client, limit: {limit}{more}}}}}}}\n{ROUTE}")
    };
    let gateway = Running::with(&with("10/1h", ""));
    assert_eq!(statuses(&gateway, 4, "/", ""), [200; 4]);
    let left = || {
        let told = ask(&gateway, "/", "").all("ratelimit");
        let (_, rest) = told.split_once("r=").unwrap();
        rest.split(';').next().unwrap().parse::<u32>().unwrap()
    };
    gateway.reload(&with("10/1h", ", headers: ietf"));
    assert_eq!(left(), 5, "an unchanged definition keeps its buckets");
    // Another key in between, and then the first again.
    gateway.reload(&with("10/1h", "").replace("key: client", "key: host"));
    assert_eq!(left(), 9);
    gateway.reload(&with("10/1h", ""));
    assert_eq!(left(), 4, "A, B, A");
    gateway.reload(&with("100/1h", ""));
    assert_eq!(left(), 39, "six of ten are sixty of a hundred, and one more");
    gateway.reload(&with("10/1h", ""));
    assert_eq!(left(), 2, "6.1 of ten, and one more: there and back gives nothing");
    // A configuration that is refused changes nothing.
    gateway.save(&with("1000/1h", ", nonsense: 1"));
    gateway.signal(rustix::process::Signal::HUP);
    gateway.await_metric("portcullis_config_stale", &[], 1.0);
    assert_eq!(left(), 1);
}

#[test]
fn a_shadowed_limit_takes_its_tokens_refuses_nobody_and_says_nothing() {
    let gateway = Running::with(&format!(
        "policies: {{rate_limits: {{few: {{key: client, limit: 2/1h, mode: shadow}}}}}}\n{ROUTE}"
    ));
    for _ in 0..5 {
        let passed = ask(&gateway, "/", "");
        passed.expect(200);
        assert_eq!((passed.header("ratelimit"), passed.header("ratelimit-policy")), (None, None));
    }
    let would: Vec<_> = gateway.access(5).iter().map(|line| line["would"][0]["policy"].clone()).collect();
    assert_eq!(would.iter().filter(|policy| **policy == "rate_limits.few").count(), 3, "{would:?}");
    let labels = [("policy", "rate_limits.few"), ("reason", "rate")];
    gateway.await_metric("portcullis_would_refuse_total", &labels, 3.0);
    assert_eq!(refusals(&gateway, "rate_limits.few", "rate"), 0.0);
}

#[test]
fn the_edge_counts_scanners_before_any_route_is_known() {
    let gateway = Running::with(
        "policies: {rate_limits: {all: {key: client, limit: 4/1h}}}
edge: {rate_limits: [all]}
routes: [{name: hello, match: {path: /hello}, respond: {}}]
",
    );
    let lost = ask(&gateway, "/nowhere", "");
    lost.expect(404);
    assert_eq!(
        (lost.all("ratelimit-policy"), lost.all("ratelimit")),
        ("\"all\";q=4;w=3600".into(), "\"all\";r=3;t=0".into())
    );
    let wrong = gateway.send("POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert!(matches!(wrong.status, 200 | 405));
    assert_eq!(statuses(&gateway, 3, "/hello", ""), [200, 200, 429]);
    ask(&gateway, "/nowhere", "").expect(429);
    from(&gateway, "127.0.0.2", "/hello", "").expect(200);
}

#[test]
fn an_ipv6_network_is_one_client_and_some_have_limits_of_their_own() {
    let gateway = behind_a_proxy(&format!(
        "policies:
  rate_limits:
    few: {{key: client, limit: 2/1h, overrides: {{203.0.113.0/24: 3/1h, 203.0.113.7: 4/1h, '2001:db8:5::/48': 1/1h}}}}\n{ROUTE}"
    ));
    let count = |client: &str, number: usize| {
        let fields = format!("X-Forwarded-For: {client}\r\n");
        statuses(&gateway, number, "/", &fields).into_iter().filter(|status| *status == 200).count()
    };
    assert_eq!([count("2001:db8::1", 1), count("2001:db8::2", 1), count("2001:db8::ffff:1", 2)], [1, 1, 0]);
    assert_eq!(count("2001:db8:0:1::1", 3), 2);
    assert_eq!([count("192.0.2.1", 1), count("::ffff:192.0.2.1", 2), count("192.0.2.2", 3)], [1, 1, 2]);
    assert_eq!([count("203.0.113.8", 9), count("203.0.113.7", 9), count("2001:db8:5:9::1", 9)], [3, 4, 1]);
}

#[test]
fn a_cost_is_by_method_or_by_a_field_and_never_less_than_the_methods() {
    let gateway = Running::with(
        "policies:
  rate_limits:
    few: {key: client, limit: 10/1h, cost: {methods: {POST: 5, OPTIONS: 0}, header: {name: x-items, most: 8}}}
routes: [{name: all, rate_limits: [few], respond: {}}]
",
    );
    let left = |source: &str, method: &str, fields: &str| {
        let mut connection = connect_from(source, gateway.address());
        connection.write(format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n{fields}\r\n"));
        let response = connection.response();
        let told = response.all("ratelimit");
        (response.status, told.split_once("r=").unwrap().1.split(';').next().unwrap().parse::<u32>().unwrap())
    };
    for (source, method, fields, cost) in [
        ("127.0.0.10", "GET", "", 1),
        ("127.0.0.11", "POST", "", 5),
        ("127.0.0.12", "OPTIONS", "", 0),
        ("127.0.0.13", "GET", "X-Items: 3\r\n", 3),
        ("127.0.0.14", "POST", "X-Items: 0\r\n", 5),
        ("127.0.0.15", "GET", "X-Items: 99999999999999999999\r\n", 8),
        ("127.0.0.16", "GET", "X-Items: -7\r\n", 1),
        ("127.0.0.17", "GET", "X-Items: 2\r\nX-Items: 4\r\n", 4),
    ] {
        assert_eq!(left(source, method, fields), (200, 10 - cost), "{method} {fields}");
    }
    assert_eq!(left("127.0.0.20", "POST", ""), (200, 5));
    assert_eq!(left("127.0.0.20", "POST", ""), (200, 0));
    assert_eq!(left("127.0.0.20", "GET", "").0, 429);
    assert_eq!(left("127.0.0.20", "OPTIONS", ""), (200, 0), "what costs nothing passes");
}

#[test]
fn a_flood_of_keys_touches_nobody_who_keeps_to_the_limit() {
    let gateway = behind_a_proxy(&format!(
        "policies: {{rate_limits: {{few: {{key: client, limit: 50/1s, memory: 64KiB}}}}}}\n{ROUTE}"
    ));
    let address = gateway.address();
    let flood = |thread: u32| {
        let mut connection = Connection::open(address);
        for number in 0..2_000_u32 {
            let client = std::net::Ipv4Addr::from(0x0b00_0000 + thread * 100_000 + number);
            connection.write(request("/", &format!("X-Forwarded-For: {client}\r\n")));
            connection.response();
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|thread| scope.spawn(move || flood(thread))).collect();
        let mut connection = Connection::open(address);
        let mut asked = 0;
        while threads.iter().any(|thread| !thread.is_finished()) {
            connection.write(request("/", "X-Forwarded-For: 192.0.2.1\r\n"));
            connection.response().expect(200);
            asked += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(asked > 10, "the flood was over after {asked}");
    });
}

#[test]
fn explain_asks_the_same_limits_and_names_their_lines() {
    let gateway = Running::with(
        "policies:
  rate_limits:
    client: {key: client, limit: 2/1h}
    logins: {key: [client, route], limit: 5/1m, count: {status: [401]}}
    heavy: {key: client, concurrent: 8, queue: {length: 4, wait: 500ms}}
    trial: {key: client, limit: 1/1h, cost: {methods: {GET: 1}}, mode: shadow}
routes: [{name: all, rate_limits: [client, logins, heavy, trial], respond: {}}]
",
    );
    for _ in 0..3 {
        let output = gateway.place.portcullis(&[
            "explain",
            "--config",
            "portcullis.yaml",
            "--json",
            "http://a.example.com/",
        ]);
        assert_eq!(output.status.code(), Some(0));
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        let steps = told["steps"].as_array().unwrap();
        for (name, detail) in [
            ("client", "1 of 2 left, by client"),
            ("logins", "5 of 5 left, by client and route; counted by its status"),
            ("heavy", "7 more at once, by client; 4 more wait, 500ms at most"),
            ("trial", "0 of 1 left, by client; shadowed, it refuses nobody"),
        ] {
            let name = format!("rate_limits.{name}");
            let step =
                steps.iter().find(|step| step["step"] == *name).unwrap_or_else(|| panic!("{name}: {told}"));
            assert_eq!((&step["outcome"], &step["detail"]), (&json!("pass"), &json!(detail)), "{name}");
            assert!(step["site"].as_str().unwrap().contains("portcullis.yaml:"), "{step}");
        }
    }
    // Nothing of the running gateway's was taken by it.
    assert_eq!(statuses(&gateway, 3, "/", ""), [200, 200, 429]);
}

#[test]
fn a_limit_by_who_asks_counts_by_client_where_nobody_is_asked() {
    let gateway = Running::with(
        "policies: {rate_limits: {few: {key: identity, limit: 1/1h}, keys: {key: api_key, limit: 9/1h}}}
routes: [{name: all, rate_limits: [few, keys], respond: {body: hello}}]
",
    );
    assert_eq!(statuses(&gateway, 2, "/", ""), [200, 429]);
    from(&gateway, "127.0.0.2", "/", "").expect(200);
    let told = from(&gateway, "127.0.0.3", "/", "").all("ratelimit-policy");
    assert!(told.contains("\"few\";q=1") && told.contains("\"keys\";q=9"), "{told}");
}
