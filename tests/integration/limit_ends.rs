//! When limits count what only an answer tells, and when they let go of what was answered: before the client knows, not when all is over.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::tokens::{self, ISSUER, SigningKey, claims};
use crate::harness::wire::{self, DATA, END_HEADERS, END_STREAM, HEADERS, Wire, frame};
use crate::harness::{Connection, Origin, Peer, Place, Response, Running, connect_from};
use crate::http2;

/// How long a client waits for what should come at once.
const PATIENCE: Duration = Duration::from_secs(10);

fn request(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: gate.example\r\n{fields}\r\n")
}

fn ask(gateway: &Running, method: &str, path: &str, fields: &str) -> Response {
    gateway.send(request(method, path, fields))
}

fn wait_of(refused: &Response) -> u64 {
    refused.expect(429);
    refused.all("retry-after").parse().unwrap()
}

/// Says no, and keeps the rest of the answer until the connection ends.
fn withholding(head: &str, peer: &mut Peer) -> bool {
    if head.contains("/tunnel") {
        peer.write("HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    } else {
        peer.write("HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nno");
    }
    while peer.take().is_some() {}
    false
}

#[test]
fn a_guess_is_counted_by_its_head_though_its_body_never_ends() {
    let origin = Origin::each(withholding);
    let gateway = Running::with(&format!(
        "upstreams: {{o: {{servers: ['{}']}}}}
policies:
  rate_limits:
    guesses: {{key: client, limit: 2/1h, count: {{status: [404]}}}}
    tunnels: {{key: client, limit: 2/1h, count: {{status: [101]}}}}
routes:
  - {{name: guess, match: {{path: /guess}}, rate_limits: [guesses], upstream: o}}
  - {{name: tunnel, match: {{path: /tunnel}}, rate_limits: [tunnels], upgrade: [websocket], upstream: o}}
",
        origin.address()
    ));
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    for (path, fields, status) in [("/guess", "", 404), ("/tunnel", upgrade, 101)] {
        // They stay open.
        let open: Vec<_> = (0..4)
            .map(|_| {
                let mut connection = Connection::open(gateway.address());
                connection.write(request("GET", path, fields));
                let told = connection.read_head().unwrap();
                (connection, told.status)
            })
            .collect();
        let seen: Vec<_> = open.iter().map(|(_, status)| *status).collect();
        assert_eq!(seen, [status, status, 429, 429], "{path}");
    }
    let wait = wait_of(&ask(&gateway, "GET", "/guess", ""));
    assert!((1700..=1800).contains(&wait), "each is counted once: {wait}");
}

#[test]
fn a_client_of_http2_without_a_window_guesses_no_more_than_others() {
    let origin = Origin::each(|_, peer| peer.answer(404, "no such account"));
    let (authority, gateway) = http2::start(&format!(
        "upstreams: {{o: {{servers: ['{}']}}}}
policies: {{rate_limits: {{guesses: {{key: client, limit: 3/1h, count: {{status: [404]}}}}}}}}
routes: [{{name: guess, match: {{path: /guess}}, rate_limits: [guesses], upstream: o}}]
",
        origin.address()
    ));
    let mut wire = Wire::tls(gateway.address(), &authority, "h2", None);
    wire.write(wire::greeting(0));
    let heads = |read: &[u8]| wire::frames(read).iter().filter(|(kind, ..)| *kind == HEADERS).count();
    for number in 0..12_u32 {
        wire.write(frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &wire::block("GET", "/guess")));
        let answered = wire.drip_until(b"", Duration::from_millis(20), PATIENCE, |read| {
            heads(read) > usize::try_from(number).unwrap()
        });
        assert!(answered.is_some(), "no answer to {number}");
    }
    let sent = wire::frames(&wire.read).iter().any(|(kind, ..)| *kind == DATA);
    assert!(!sent, "a window that was not given was used");
    assert_eq!(origin.requests_of("/guess"), 3);
}

#[test]
fn who_guesses_in_parallel_owes_another_burst_and_is_free_again_after_it() {
    let (origin, go) = Origin::waiting();
    let gateway = Running::with(&format!(
        "upstreams: {{o: {{servers: ['{}']}}}}
policies: {{rate_limits: {{guesses: {{key: client, limit: 2/1h, count: {{status: [200]}}}}}}}}
routes: [{{name: guess, match: {{path: /guess}}, rate_limits: [guesses], upstream: o}}]
",
        origin.address()
    ));
    let open = || {
        let mut connection = Connection::open(gateway.address());
        connection.write(request("GET", "/guess", ""));
        connection
    };
    let parallel: Vec<_> = (0..12).map(|_| open()).collect();
    gateway.await_metric("portcullis_requests_in_flight", &[], 12.0);
    (0..12).for_each(|_| go.send(()).unwrap());
    for mut connection in parallel {
        connection.response().expect(200);
    }
    // What is under way before the first answer is known passes; a burst beyond the bucket is owed, two tokens and the next.
    let wait = wait_of(&ask(&gateway, "GET", "/guess", ""));
    assert!((5_300..=5_400).contains(&wait), "{wait}");
}

#[test]
fn who_is_known_and_may_not_is_told_to_wait_once_that_has_happened_too_often() {
    let (place, key) = (Place::new(), SigningKey::new("ES256", "one"));
    place.write("jwks.json", tokens::jwks(&[&key]));
    let gateway = place.start(&format!(
        "policies:
  auth: {{staff: {{jwt: {{issuer: '{ISSUER}', audiences: [orders], keys: {{file: ./jwks.json}}}}}}}}
  rate_limits:
    denied: {{key: identity, limit: 3/1h, count: {{status: [403]}}}}
    trial: {{key: identity, limit: 1/1h, count: {{status: [403]}}, mode: shadow}}
routes:
  - {{name: closed, match: {{path: /closed}}, auth: {{any_of: [staff], scopes: [zz]}}, rate_limits: [denied, trial], respond: {{}}}}
  - {{name: open, match: {{path: /open}}, auth: staff, rate_limits: [denied], respond: {{}}}}
"
    ));
    let alice = format!("Authorization: Bearer {}\r\n", key.token(&claims(&json!({"sub": "alice"}))));
    for _ in 0..3 {
        ask(&gateway, "GET", "/closed", &alice).expect(403);
    }
    let waits: Vec<_> = (0..40).map(|_| wait_of(&ask(&gateway, "GET", "/closed", &alice))).collect();
    assert!(waits.iter().all(|wait| (1100..=1200).contains(wait)), "what is told does not grow: {waits:?}");
    // It holds on every route, for who it is and for nobody else.
    let refused = ask(&gateway, "GET", "/open", &alice);
    assert!(wait_of(&refused) <= 1200);
    ask(&gateway, "GET", "/closed", "").expect(401);
    let reasons = [("policy", "rate_limits.denied"), ("reason", "spent")];
    gateway.await_metric("portcullis_refusals_total", &reasons, 41.0);
    let would = [("policy", "rate_limits.trial"), ("reason", "spent")];
    assert!(gateway.metrics().of("portcullis_would_refuse_total", &would) >= 2.0);
}

/// What an origin of these tests makes of a path.
fn answer(head: &str, peer: &mut Peer) -> bool {
    match head.split(' ').nth(1).unwrap_or_default() {
        "/o/chunked" => {
            peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
            peer.write("0\r\n\r\n")
        }
        "/o/none" => peer.write("HTTP/1.1 204 No Content\r\n\r\n"),
        "/o/same" => peer.write("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"),
        "/o/empty" => peer.answer(200, ""),
        _ if head.starts_with("HEAD") => peer.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        _ => peer.answer(200, "hello"),
    }
}

const ONE_AT_A_TIME: &str = "policies: {rate_limits: {one: {key: client, concurrent: 1}}}
routes:
  - {name: own, match: {path: /own}, rate_limits: [one], respond: {body: hello}}
  - {name: bare, match: {path: /none}, rate_limits: [one], respond: {status: 204}}
  - {name: echo, match: {path: /echo}, rate_limits: [one], echo: true}
  - {name: o, match: {path: '/o/{*rest}'}, rate_limits: [one], upstream: o}
";

#[test]
fn whoever_has_an_answer_has_its_slot_back() {
    let origin = Origin::each(answer);
    let gateway =
        Running::with(&format!("upstreams: {{o: {{servers: ['{}']}}}}\n{ONE_AT_A_TIME}", origin.address()));
    let kinds = [
        ("GET", "/own"),
        ("HEAD", "/own"),
        ("GET", "/none"),
        ("GET", "/echo"),
        ("GET", "/o/body"),
        ("HEAD", "/o/body"),
        ("GET", "/o/chunked"),
        ("GET", "/o/none"),
        ("GET", "/o/same"),
        ("GET", "/o/empty"),
    ];
    // A new connection each, so that another worker may serve the next one while this one is not done with the last.
    for round in 0..30 {
        for (method, path) in kinds {
            let mut connection = Connection::open(gateway.address());
            connection.write(request(method, path, ""));
            let response = connection.try_response(method == "HEAD").unwrap();
            assert!(matches!(response.status, 200 | 204 | 304), "{round} {method} {path}: {response:?}");
        }
    }
    gateway.await_metric("portcullis_rate_limit_under_way", &[("policy", "rate_limits.one")], 0.0);
}

#[test]
fn an_early_answer_gives_the_slot_back_though_the_request_goes_on() {
    let origin = Origin::each(answer);
    let (authority, gateway) =
        http2::start(&format!("upstreams: {{o: {{servers: ['{}']}}}}\n{ONE_AT_A_TIME}", origin.address()));
    let mut next = http2::client(&authority, &gateway);
    for path in ["/own", "/none", "/o/body", "/o/none", "/o/empty"] {
        // A body that is begun and not ended.
        let mut wire = Wire::tls(gateway.address(), &authority, "h2", None);
        let open = frame(HEADERS, END_HEADERS, 1, &wire::block("POST", path));
        wire.write([wire::greeting(1000), open, frame(DATA, 0, 1, b"some")].concat());
        let answered = wire.drip_until(b"", Duration::from_millis(20), PATIENCE, |read| {
            wire::frames(read).iter().any(|(_, flags, stream, _)| *stream == 1 && flags & END_STREAM != 0)
        });
        assert!(answered.is_some(), "{path} was not answered: {:?}", wire::frames(&wire.read));
        let began = Instant::now();
        let response = next.get(path);
        assert!(matches!(response.status, 200 | 204), "{path}: {response:?}");
        assert!(began.elapsed() < PATIENCE, "{path}");
    }
}

#[test]
fn a_slot_is_kept_until_the_work_is_done() {
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let origin = Origin::each(move |_, peer| {
        peer.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe");
        gone.lock().unwrap().recv().ok();
        peer.write("llo")
    });
    let gateway =
        Running::with(&format!("upstreams: {{o: {{servers: ['{}']}}}}\n{ONE_AT_A_TIME}", origin.address()));
    let under_way = |number| {
        gateway.await_metric("portcullis_rate_limit_under_way", &[("policy", "rate_limits.one")], number);
    };
    let mut slow = Connection::open(gateway.address());
    slow.write(request("GET", "/o/slow", ""));
    assert_eq!(slow.read_head().unwrap().status, 200);
    under_way(1.0);
    ask(&gateway, "GET", "/own", "").expect(503);
    go.send(()).unwrap();
    assert_eq!(slow.read_exactly(5).unwrap(), b"hello");
    ask(&gateway, "GET", "/own", "").expect(200);
}

#[test]
fn the_edge_limits_what_the_door_refuses() {
    let limit = "policies:
  rate_limits:
    clients: {key: client, limit: 3/1h}
    tenants: {key: {header: x-tenant}, limit: 100/1h, headers: hidden}
edge: {rate_limits: [clients, tenants]}
routes: [{name: all, respond: {}}]
";
    let host = "Host: gate.example\r\n";
    let long = "x".repeat(20_000);
    let cases = [
        (400, format!("GET /%zz HTTP/1.1\r\n{host}\r\n")),
        (400, "GET / HTTP/1.1\r\n\r\n".to_owned()),
        (400, format!("GET /../../x HTTP/1.1\r\n{host}\r\n")),
        (400, format!("GET /%00 HTTP/1.1\r\n{host}\r\n")),
        (400, format!("nonsense\r\n{host}\r\n")),
        (405, format!("TRACE / HTTP/1.1\r\n{host}\r\n")),
        (405, "CONNECT gate.example:443 HTTP/1.1\r\nHost: gate.example:443\r\n\r\n".to_owned()),
        (414, format!("GET /{long} HTTP/1.1\r\n{host}\r\n")),
        (431, format!("GET / HTTP/1.1\r\n{host}X: {long}{long}{long}{long}\r\n\r\n")),
        (417, format!("GET / HTTP/1.1\r\n{host}Expect: nothing\r\n\r\n")),
    ];
    let gateway = Running::with(limit);
    for (number, (status, head)) in cases.iter().enumerate() {
        let source = format!("127.0.0.{}", number + 10);
        let send = |tenant: &str| {
            let mut connection = connect_from(&source, gateway.address());
            // The field that is a key is another each time: what is refused has no keys but its client.
            let head = head.replace("\r\n\r\n", &format!("\r\nX-Tenant: {tenant}\r\n\r\n"));
            connection.write(head);
            connection.response()
        };
        let told: Vec<_> = ["a", "b", "c", "d", "e"].map(send).into_iter().collect();
        let statuses: Vec<_> = told.iter().map(|response| response.status).collect();
        assert_eq!(statuses, [*status, *status, *status, 429, 429], "{head:.60}");
        assert!(
            told.iter().all(Response::closes),
            "a head that was not understood ends its connection: {head:.60}"
        );
        assert!(told[0].all("ratelimit").starts_with("\"clients\";r=2;t="), "{:?}", told[0]);
        assert!((1100..=1200).contains(&wait_of(&told[4])));
        // They are one bucket with what is well said.
        let mut connection = connect_from(&source, gateway.address());
        connection.write(request("GET", "/", ""));
        connection.response().expect(429);
    }
    ask(&gateway, "GET", "/", "").expect(200);
    let refusals = [("policy", "rate_limits.clients"), ("reason", "rate")];
    gateway.await_metric("portcullis_refusals_total", &refusals, 30.0);
}

#[test]
fn the_door_of_http2_and_of_proxies_is_limited_by_whom_it_knows() {
    let limit = "policies: {rate_limits: {clients: {key: client, limit: 3/1h}}}
edge: {rate_limits: [clients]}
routes: [{name: all, respond: {}}]
";
    let (authority, gateway) = http2::start(limit);
    let mut client = http2::client(&authority, &gateway);
    let seen = ["/%zz", "/%00", "/%zz", "/%zz", "/"].map(|path| client.get(path).status);
    assert_eq!(seen, [400, 400, 400, 429, 429]);
    assert_eq!(client.request("TRACE", "/", &[], b"").status, 429);
    // Behind a proxy the client is whom that names; whose a head is that cannot be read nobody knows.
    let listener = "  - address: 127.0.0.1:0\n";
    let trusted = format!("{listener}    trusted_proxies: [127.0.0.1]\n");
    let gateway = Place::new().start_whole(&Place::with_base(limit).replace(listener, &trusted));
    let of = |client: &str| {
        let fields = format!("X-Forwarded-For: {client}\r\n");
        ask(&gateway, "GET", "/%zz", &fields).status
    };
    assert_eq!(["192.0.2.1"; 4].map(of), [400, 400, 400, 429]);
    assert_eq!(of("192.0.2.2"), 400);
    let unread = || ask(&gateway, "TRACE", "/", "X-Forwarded-For: 192.0.2.1\r\n").status;
    assert_eq!((0..5).map(|_| unread()).collect::<Vec<_>>(), [405; 5]);
    ask(&gateway, "GET", "/", "").expect(200);
}
