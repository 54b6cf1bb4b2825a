//! Bounds and deadlines that a reload changes: from then on for each request, on connections that were there before it too.

use std::time::{Duration, Instant};

use crate::harness::wire::{
    DATA, END_HEADERS, END_STREAM, End, HEADERS, RST_STREAM, Wire, block, frame, frames, greeting,
};
use crate::harness::{Authority, Connection, Place, Running};

const ROUTES: &str = "routes:
  - {name: hello, match: {path: '/hello/{*rest}'}, respond: {body: hello}}
  - {name: echo, match: {path: /echo}, echo: true}
";
/// Far from the defaults, which are five seconds and more.
const SOON: Duration = Duration::from_millis(3500);
const BEAT: Duration = Duration::from_millis(50);

/// A plain listener and one with TLS, and this in `server`.
fn with_bounds(bounds: &str) -> String {
    Place::with_base(ROUTES)
        .replace(
            "  - address: 127.0.0.1:0\n",
            "  - address: 127.0.0.1:0\n  - address: 127.0.0.2:0\n    tls: {certificates: [{cert: gate.crt, key: gate.key}]}\n",
        )
        .replace("workers: 2", &format!("workers: 2, {bounds}"))
}

fn start(bounds: &str) -> (Authority, Running) {
    let (place, authority) = (Place::new(), Authority::new());
    authority.issue(&["gate.example"]).write(&place, "gate");
    (authority, place.start_whole(&with_bounds(bounds)))
}

/// An HTTP/1 connection that has been served once.
fn served(gateway: &Running) -> Wire {
    let mut wire = Wire::plain(gateway.address());
    wire.write("GET /hello/ HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(wire.drip_until(b"", BEAT, SOON, |read| read.ends_with(b"hello")).is_some(), "{}", wire.text());
    wire.read.clear();
    wire
}

/// An HTTP/2 connection whose stream 1 has been served.
fn served_by_http2(authority: &Authority, gateway: &Running) -> Wire {
    let mut wire = Wire::tls(gateway.listener(1), authority, "h2", None);
    wire.write(greeting(65_535));
    wire.write(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block("GET", "/hello/")));
    let hello = |read: &[u8]| frames(read).iter().any(|f| f.0 == DATA && f.2 == 1 && f.3 == b"hello");
    assert!(wire.drip_until(b"", BEAT, SOON, hello).is_some(), "{:?}", frames(&wire.read));
    wire.read.clear();
    wire
}

/// What begins like this, and drips on, is ended by 408 well before the old deadlines.
fn is_late(wire: &mut Wire, begin: &str) {
    wire.write(begin);
    let end = wire.drip(b"x", BEAT, SOON);
    assert!(matches!(end, End::Freed(_)), "{begin:?} is still waited for: {}", wire.text());
    assert!(wire.text().starts_with("HTTP/1.1 408 "), "{begin:?}: {}", wire.text());
}

#[test]
fn deadlines_hold_for_the_next_request_on_new_connections_and_kept_ones() {
    let head = "GET /hello/ HTTP/1.1\r\nHost: a\r\nX: ";
    let body = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    let (authority, gateway) = start("timeouts: {head: 30s, handshake: 30s, body_grace: 30s}");
    let [mut for_head, mut for_body] = [served(&gateway), served(&gateway)];
    let mut http2 = served_by_http2(&authority, &gateway);
    // Under way when the reload comes: a head, a body.
    let mut begun_head = Connection::open(gateway.address());
    begun_head.write(head);
    let mut begun_body = Connection::open(gateway.address());
    begun_body.write("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab");
    gateway.await_metric("portcullis_requests_in_flight", &[], 1.0);
    gateway.reload_whole(&with_bounds("timeouts: {head: 600ms, handshake: 600ms, body_grace: 600ms}"));

    let began = Instant::now();
    std::thread::scope(|scope| {
        let gateway = &gateway;
        scope.spawn(|| is_late(&mut Wire::plain(gateway.address()), head));
        scope.spawn(|| is_late(&mut Wire::plain(gateway.address()), body));
        scope.spawn(|| {
            let mut silent = Wire::plain(gateway.listener(1));
            assert!(matches!(silent.drip(b"", BEAT, SOON), End::Freed(_)), "a handshake");
        });
        scope.spawn(move || is_late(&mut for_body, body));
        scope.spawn(move || is_late(&mut for_head, head));
        scope.spawn(move || {
            http2.write(frame(HEADERS, END_HEADERS, 3, &block("POST", "/echo")));
            let reset = |read: &[u8]| frames(read).iter().any(|f| f.0 == RST_STREAM && f.2 == 3);
            let after = http2.drip_until(&frame(DATA, 0, 3, b"x"), BEAT, SOON, reset);
            assert!(after.is_some(), "a body by HTTP/2: {:?}", frames(&http2.read));
        });
    });
    // The new deadlines have passed, and what was under way still has its old ones.
    assert!(began.elapsed() > Duration::from_millis(600));
    begun_head.write("x\r\n\r\n");
    begun_head.response().expect(200);
    begun_body.write("cd");
    begun_body.response().expect(200);
}

#[test]
fn bounds_of_heads_hold_for_the_next_request_on_new_connections_and_kept_ones() {
    let (authority, gateway) = start("limits: {}");
    let (path, value) = ("x".repeat(100), "y".repeat(100));
    let too_long = format!("GET /hello/{path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let too_large = format!("GET /hello/ HTTP/1.1\r\nHost: a\r\nX: {value}\r\n\r\n");
    let open = || Connection::open(gateway.address());
    let mut kept = [open(), open()];
    for (connection, request) in kept.iter_mut().zip([&too_long, &too_large]) {
        connection.write(request);
        connection.response().expect(200);
    }
    let mut http2 = served_by_http2(&authority, &gateway);
    gateway.reload_whole(&with_bounds("limits: {uri_bytes: 64B, field_bytes: 64B}"));
    for (kept, (request, status)) in kept.iter_mut().zip([(&too_long, 414), (&too_large, 431)]) {
        kept.write(request);
        kept.response().expect(status);
        gateway.send(request).expect(status);
    }
    http2.write(frame(HEADERS, END_HEADERS | END_STREAM, 3, &block("GET", &format!("/hello/{path}"))));
    let refused = |read: &[u8]| frames(read).iter().any(|f| f.2 == 3 && (f.0 == RST_STREAM || f.0 == DATA));
    assert!(http2.drip_until(b"", BEAT, SOON, refused).is_some(), "{:?}", frames(&http2.read));
    let labels = [("policy", "gateway"), ("reason", "uri_bytes")];
    gateway.await_metric("portcullis_refusals_total", &labels, 3.0);
    // And back: what was refused passes again.
    let mut narrow = open();
    narrow.get("/hello/").expect(200);
    gateway.reload_whole(&with_bounds("limits: {}"));
    for connection in [&mut narrow, &mut open()] {
        for request in [&too_long, &too_large] {
            connection.write(request);
            connection.response().expect(200);
        }
    }
    http2.write(frame(HEADERS, END_HEADERS | END_STREAM, 5, &block("GET", &format!("/hello/{path}"))));
    let hello = |read: &[u8]| frames(read).iter().any(|f| f.0 == DATA && f.2 == 5 && f.3 == b"hello");
    assert!(http2.drip_until(b"", BEAT, SOON, hello).is_some(), "{:?}", frames(&http2.read));
}
