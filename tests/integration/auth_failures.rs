//! Limits by `auth_failures`: who tries credentials that are none is kept out before the next is looked at, and nobody else.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::tokens::{SigningKey, claims, now};
use crate::harness::{Origin, Place, Redis, Response, Running, connect_from, eventually};

/// `U*U` at the least cost: crypt_blowfish's first vector.
const ALICE: &str = "alice:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n";
const SECRET: &str = "a secret of staff that has at least 32 bytes";
const KEY: &str = "pk_000000000007_0123456789012345678901234567890123456789012";

/// A kind of credential a route; the limits of Basic itself are out of the way.
fn file(limit: &str, origin: SocketAddr) -> String {
    format!(
        "upstreams: {{origin: {{servers: ['{origin}']}}}}
policies:
  auth:
    partners: {{api_key: {{header: x-api-key}}}}
    staff: {{jwt: {{issuer: 'https://id.example.com', audiences: [orders], algorithms: [HS256], keys: {{secret: '{SECRET}'}}}}}}
    small: {{basic: {{file: users, failures_per_client: 1000/1s, failures_per_user: 1000/1s}}}}
  rate_limits:
    guesses: {{{limit}}}
routes:
  - {{name: keys, match: {{path: '/keys/{{*rest}}'}}, auth: partners, rate_limits: [guesses], respond: {{body: hello}}}}
  - {{name: tokens, match: {{path: '/tokens/{{*rest}}'}}, auth: staff, rate_limits: [guesses], upstream: origin}}
  - {{name: users, match: {{path: '/users/{{*rest}}'}}, auth: small, rate_limits: [guesses], respond: {{body: hello}}}}
  - name: scoped
    match: {{path: '/scoped/{{*rest}}'}}
    auth: {{any_of: [staff], scopes: ['orders:all']}}
    rate_limits: [guesses]
    respond: {{body: hello}}
  - name: any
    match: {{path: '/any/{{*rest}}'}}
    auth: {{any_of: [partners, staff], anonymous: true}}
    rate_limits: [guesses]
    respond: {{body: hello}}
  - {{name: open, match: {{path: '/open/{{*rest}}'}}, respond: {{body: hello}}}}
"
    )
}

fn start(limit: &str) -> (Origin, Running) {
    // The origin has failures of its own, which are none of the gateway's.
    let origin = Origin::each(|head, peer| {
        let status = if head.starts_with("GET /tokens/theirs") { 401 } else { 200 };
        peer.answer(status, "hello")
    });
    let place = Place::new();
    place.write("users", ALICE);
    place.write("keys.csv", format!("key,name,owner\n{KEY},report,acme\n"));
    place.write("portcullis.yaml", Place::with_base(&file(limit, origin.address())));
    let imported = place.portcullis(&["keys", "import", "keys.csv", "--config", "portcullis.yaml"]);
    assert_eq!(imported.status.code(), Some(0), "{}", String::from_utf8_lossy(&imported.stderr));
    let gateway = place.start(&file(limit, origin.address()));
    (origin, gateway)
}

fn token(other: Value) -> String {
    bearer(&SigningKey::secret("HS256", SECRET.as_bytes()).token(&claims(&other)))
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn key(key: &str) -> String {
    format!("X-Api-Key: {key}\r\n")
}

fn login(name: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{name}:{password}")))
}

fn from(gateway: &Running, client: &str, path: &str, fields: &str) -> Response {
    let mut connection = connect_from(client, gateway.address());
    connection.write(format!("GET {path} HTTP/1.1\r\nHost: a.example.com\r\n{fields}\r\n"));
    connection.response()
}

/// What is left, as the answer says.
fn left(response: &Response) -> u64 {
    let told = response.all("ratelimit");
    let rest = told.strip_prefix("\"guesses\";r=").unwrap_or_else(|| panic!("{response:?}"));
    rest.split(';').next().unwrap().parse().unwrap()
}

#[test]
fn guesses_of_every_kind_count_and_the_right_credential_passes_until_there_were_too_many() {
    let (_origin, gateway) = start("key: auth_failures, limit: 3/1h");
    let other = SigningKey::secret("HS256", b"another secret, which is nobody's at all");
    let forged = bearer(&other.token(&claims(&json!({}))));
    let kinds = [
        ("127.0.0.11", "keys", key(KEY), key(&KEY.replace("007_", "913_")), "unknown_key"),
        ("127.0.0.12", "tokens", token(json!({})), forged, "signature"),
        ("127.0.0.13", "users", login("alice", "U*U"), login("alice", "hunter2"), "wrong_password"),
    ];
    for (client, route, right, wrong, reason) in &kinds {
        let ask = |name: &str, fields: &str| from(&gateway, client, &format!("/{route}/{name}"), fields);
        for _ in 0..5 {
            let passed = ask("right", right);
            passed.expect(200);
            assert_eq!(left(&passed), 3, "{route}: what is right costs nothing");
        }
        ask("none", "").expect(401);
        for rest in (0..3).rev() {
            let refused = ask("wrong", wrong);
            refused.expect(401);
            assert_eq!(left(&refused), rest, "{route}");
            if rest > 0 {
                ask("right", right).expect(200);
            }
        }
        assert_eq!(gateway.access_of(&format!("/{route}/wrong"))["error"]["reason"], *reason);
        for (name, fields) in [("late", right), ("later", wrong), ("last", &String::new())] {
            let limited = ask(name, fields);
            limited.expect(429);
            assert!(limited.header("www-authenticate").is_none(), "{limited:?}");
            let wait: u64 = limited.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=1200).contains(&wait), "{route}: refusals of its own cost nothing: {wait}");
            let line = gateway.access_of(&format!("/{route}/{name}"));
            assert_eq!(line["error"]["reason"], "auth_failures", "{line}");
            assert_eq!(line["identity"], json!({"sourceIp": client}), "nobody was asked who it is: {line}");
        }
    }
    // Failures of one kind keep their client from guessing another; nobody else hears of them.
    from(&gateway, "127.0.0.11", "/users/a", &login("alice", "U*U")).expect(429);
    from(&gateway, "127.0.0.14", "/users/a", &login("alice", "U*U")).expect(200);
    from(&gateway, "127.0.0.11", "/open/a", "").expect(200);
    let labels = [("policy", "rate_limits.guesses"), ("reason", "auth_failures")];
    eventually("the refusals to be counted", || {
        (gateway.metrics().of("portcullis_refusals_total", &labels) >= 10.0).then_some(())
    });
    // The table outlives a reload, and so does what is owed.
    gateway.reload(&file("key: auth_failures, limit: 3/1h", "127.0.0.1:9".parse().unwrap()));
    from(&gateway, "127.0.0.13", "/users/b", &login("alice", "U*U")).expect(429);
}

#[test]
fn what_is_no_guess_does_not_count() {
    let (_origin, gateway) = start("key: auth_failures, limit: 3/1h");
    let good = token(json!({}));
    let expired = token(json!({"iat": now() - 7200, "nbf": now() - 7200, "exp": now() - 3600}));
    for (path, fields, status) in [
        ("/tokens/a", "", 401),
        ("/tokens/a", &*expired, 401),
        // The origin's own.
        ("/tokens/theirs", &good, 401),
        // It is known who it is, and he may not.
        ("/scoped/a", &good, 403),
        ("/any/a", "", 200),
        // Another kind of credential than the route takes is none.
        ("/tokens/a", &login("alice", "hunter2"), 401),
        ("/keys/a", &good, 401),
    ] {
        let answer = from(&gateway, "127.0.0.21", path, fields);
        answer.expect(status);
        assert_eq!(left(&answer), 3, "{path} {fields}");
    }
    // What is presented and cannot be a credential is no better than a wrong one, and one of two fails for both.
    for (at, (path, fields)) in [
        ("/tokens/a", "Authorization: Bearer\r\n".to_owned()),
        ("/any/a", format!("{good}{}", key(&KEY.replace("007_", "913_")))),
        ("/keys/a", key("short")),
    ]
    .iter()
    .enumerate()
    {
        let answer = from(&gateway, "127.0.0.21", path, fields);
        answer.expect(401);
        assert_eq!(left(&answer), 2 - u64::try_from(at).unwrap(), "{path} {fields}");
    }
}

/// Else whoever is throttled, or sees what is left, could tell which keys were once good.
#[test]
fn a_revoked_key_counts_like_one_that_never_was() {
    let (_origin, gateway) = start("key: auth_failures, limit: 9/1h");
    from(&gateway, "127.0.0.31", "/keys/a", &key(KEY)).expect(200);
    let listed = gateway.place.portcullis(&["keys", "list", "--json", "--config", "portcullis.yaml"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let id = listed.split("\"id\":").nth(1).unwrap().split('"').nth(1).unwrap().to_owned();
    let revoked = gateway.place.portcullis(&["keys", "revoke", "--id", &id, "--config", "portcullis.yaml"]);
    assert_eq!(revoked.status.code(), Some(0), "{listed}");
    eventually("the key to end", || {
        (from(&gateway, "127.0.0.32", "/keys/a", &key(KEY)).status == 401).then_some(())
    });
    let ask = |key_text: &str| left(from(&gateway, "127.0.0.33", "/keys/a", &key(key_text)).expect(401));
    assert_eq!([ask(KEY), ask(&KEY.replace("007_", "913_")), ask(KEY)], [8, 7, 6]);
}

#[test]
fn of_guesses_sent_side_by_side_as_many_are_answered_as_of_guesses_in_turn() {
    const GUESSES: usize = 24;
    let (_origin, gateway) = start("key: auth_failures, limit: 3/1h");
    let begin = Barrier::new(GUESSES);
    let statuses: Vec<_> = std::thread::scope(|scope| {
        let guess = |number: usize| {
            let (gateway, begin) = (&gateway, &begin);
            scope.spawn(move || {
                let mut connection = connect_from("127.0.0.41", gateway.address());
                let fields = login("alice", &format!("guess {number}"));
                begin.wait();
                connection.write(format!("GET /users/a HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
                connection.response().status
            })
        };
        let threads: Vec<_> = (0..GUESSES).map(guess).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let number = |status: u16| statuses.iter().filter(|own| **own == status).count();
    assert_eq!((number(401), number(429)), (3, GUESSES - 3), "{statuses:?}");
    // What was judged and not told is owed, another burst at the most.
    let limited = from(&gateway, "127.0.0.41", "/users/a", &login("alice", "U*U"));
    limited.expect(429);
    let wait: u64 = limited.header("retry-after").unwrap().parse().unwrap();
    assert!(wait <= 4800, "{wait}");
    from(&gateway, "127.0.0.42", "/users/a", &login("alice", "U*U")).expect(200);
}

#[test]
fn on_the_edge_it_keeps_a_client_from_everything_and_addresses_may_have_limits_of_their_own() {
    let place = Place::new();
    place.write("users", ALICE);
    let gateway = place.start(
        "policies:
  auth: {small: {basic: {file: users}}}
  rate_limits:
    guesses: {key: auth_failures, limit: 1/1h, burst: 2, overrides: {127.0.0.52/32: 4/1h}, headers: legacy}
    each: {key: [auth_failures, route], limit: 1/1h, headers: hidden}
    trial: {key: auth_failures, limit: 1/1h, mode: shadow}
edge: {rate_limits: [guesses]}
routes:
  - {name: a, match: {path: '/a/{*rest}'}, auth: small, rate_limits: [trial], respond: {}}
  - {name: b, match: {path: '/b/{*rest}'}, auth: small, rate_limits: [each], respond: {}}
  - {name: c, match: {path: '/c/{*rest}'}, auth: small, rate_limits: [each], respond: {}}
  - {name: open, match: {path: '/open/{*rest}'}, respond: {}}
",
    );
    let (wrong, right) = (login("alice", "no"), login("alice", "U*U"));
    let remaining = |answer: &Response| answer.all("x-ratelimit-remaining");
    let first = from(&gateway, "127.0.0.51", "/a/1", &wrong);
    assert_eq!((first.status, &*remaining(&first)), (401, "1"));
    let second = from(&gateway, "127.0.0.51", "/a/2", &wrong);
    assert_eq!((second.status, &*remaining(&second)), (401, "0"));
    for path in ["/a/3", "/open/3", "/nowhere"] {
        from(&gateway, "127.0.0.51", path, &right).expect(429);
    }
    // The shadowed one would have refused the second.
    let would = gateway.access_of("/a/2")["would"].clone();
    assert!(would.to_string().contains("rate_limits.trial"), "{would}");
    for (path, fields, status) in [
        ("/b/4", &wrong, 401),
        ("/b/5", &right, 429),
        ("/c/6", &right, 200),
        ("/c/7", &wrong, 401),
        ("/a/8", &wrong, 401),
        ("/a/9", &right, 200),
        ("/a/10", &wrong, 401),
        ("/open/11", &right, 429),
    ] {
        let answer = from(&gateway, "127.0.0.52", path, fields);
        answer.expect(status);
    }
    let explained = gateway.place.portcullis(&["explain", "--config", "portcullis.yaml", "http://a/b/1"]);
    let told = String::from_utf8_lossy(&explained.stdout).into_owned();
    let detail = "1 of 1 left, by auth_failures and route; counted if its credential is refused";
    assert!(told.contains(detail), "{told}");
}

#[test]
fn above_the_limit_no_server_is_asked_about_a_token() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let server = Origin::each(move |head, peer| {
        let body = peer.whole_body(head).unwrap_or_default();
        counted.fetch_add(1, Ordering::SeqCst);
        let is_good = String::from_utf8_lossy(&body).contains("token=good");
        peer.answer(200, &json!({"active": is_good, "sub": "ann"}).to_string())
    });
    let gateway = Place::new().start_fetching(&format!(
        "policies:
  auth: {{opaque: {{introspection: {{url: 'http://{}/ask', client_id: a, client_secret: b}}}}}}
  rate_limits: {{guesses: {{key: auth_failures, limit: 2/1h}}}}
routes: [{{name: a, auth: opaque, rate_limits: [guesses], respond: {{}}}}]
",
        server.address()
    ));
    let ask = |token: &str| from(&gateway, "127.0.0.61", "/", &bearer(token)).status;
    assert_eq!([ask("good"), ask("bad-1"), ask("good"), ask("bad-2")], [200, 401, 200, 401]);
    let before = asked.load(Ordering::SeqCst);
    assert_eq!([ask("bad-3"), ask("good"), ask("bad-4")], [429; 3]);
    assert_eq!(asked.load(Ordering::SeqCst), before);
}

#[test]
fn failures_of_a_fleet_count_on_all_its_nodes() {
    let Some(redis) = Redis::start(&[]) else { return };
    let start = || {
        let place = Place::new();
        place.write("users", ALICE);
        let rest = "policies:
  auth: {small: {basic: {file: users}}}
  rate_limits: {guesses: {key: auth_failures, limit: 2/1h, scope: fleet, strict: true}}
routes: [{name: a, auth: small, rate_limits: [guesses], respond: {}}]
";
        let fleet = format!("server: {{fleet: {{redis: '{}'}}, ", redis.url());
        place.start_whole(&Place::with_base(rest).replace("server: {", &fleet))
    };
    let (first, second) = (start(), start());
    for gateway in [&first, &second] {
        gateway.await_metric("portcullis_fleet_nodes", &[], 2.0);
    }
    let ask = |gateway: &Running, password: &str| from(gateway, "127.0.0.71", "/", &login("alice", password));
    ask(&second, "U*U").expect(200);
    ask(&first, "no").expect(401);
    ask(&first, "nein").expect(401);
    eventually("the other node to hear of it", || (ask(&second, "U*U").status == 429).then_some(()));
    ask(&first, "U*U").expect(429);
}
