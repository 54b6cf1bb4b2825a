//! Requests that wait for their turn, and clients that do not.

use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use crate::harness::wire::{self, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Wire, frame};
use crate::harness::{Connection, Origin, Running};
use crate::http2;

/// One at a time, and one more waits, for longer than any test does.
fn config(origin: &Origin) -> String {
    format!(
        "upstreams: {{o: {{servers: ['{}']}}}}
policies: {{rate_limits: {{one: {{key: route, concurrent: 1, queue: {{length: 1, wait: 60s}}}}}}}}
routes: [{{name: all, rate_limits: [one], upstream: o}}]
",
        origin.address()
    )
}

fn request(method: &str, path: &str, rest: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: gate.example\r\n{rest}")
}

fn open(gateway: &Running, path: &str) -> Connection {
    let mut connection = Connection::open(gateway.address());
    connection.write(request("GET", path, "\r\n"));
    connection
}

fn in_flight(gateway: &Running, number: f64) {
    gateway.await_metric("portcullis_requests_in_flight", &[], number);
}

fn held(gateway: &Running) {
    gateway.await_metric("portcullis_rate_limit_under_way", &[("policy", "rate_limits.one")], 1.0);
}

/// So many have left the queue, and one is under way.
fn have_left(gateway: &Running, number: u32) {
    let labels = [("policy", "rate_limits.one"), ("reason", "queue_left")];
    gateway.await_metric("portcullis_refusals_total", &labels, number.into());
    in_flight(gateway, 1.0);
}

#[test]
fn who_leaves_a_queue_frees_his_place_at_once_and_never_reaches_the_origin() {
    let (origin, go) = Origin::waiting();
    let gateway = Running::with(&config(&origin));
    let mut holder = open(&gateway, "/held");
    held(&gateway);
    let closes: fn(TcpStream) = drop;
    let resets: fn(TcpStream) = |tcp| SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
    // Whoever still writes stops, and closes by a reset.
    let gives_up: fn(TcpStream) = |tcp| {
        SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
        tcp.shutdown(Shutdown::Write).unwrap();
    };
    let get = request("GET", "/gone", "\r\n");
    let whole = request("POST", "/gone", "Content-Length: 5\r\n\r\nhello");
    let rows = [
        ("nothing more", get.clone(), closes),
        ("a reset", get.clone(), resets),
        ("a body that has begun", request("POST", "/gone", "Content-Length: 5\r\n\r\nhe"), closes),
        ("a body that is there", whole.clone(), closes),
        (
            "a chunked body",
            request("POST", "/gone", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
            closes,
        ),
        ("another request behind it", format!("{whole}{get}"), closes),
        ("a hundred of them", get.repeat(100), closes),
        ("and more than is kept of them", get.repeat(20_000), gives_up),
    ];
    for (number, (what, bytes, leave)) in (1..).zip(rows) {
        let tcp = TcpStream::connect(gateway.address()).unwrap();
        let mut waiting = Wire::over(tcp.try_clone().unwrap());
        // What the gateway does not take is not waited for.
        std::thread::spawn(move || waiting.write(bytes));
        in_flight(&gateway, 2.0);
        println!("{what}");
        leave(tcp);
        have_left(&gateway, number);
    }
    let line = gateway.access_of("/gone");
    assert_eq!(line["status"], 499, "{line}");
    let error = &line["error"];
    assert_eq!((&error["reason"], &error["policy"]), (&"queue_left".into(), &"rate_limits.one".into()));
    assert!(error["site"].as_str().unwrap().contains("portcullis.yaml:"), "{line}");
    // The place is free.
    let mut last = open(&gateway, "/last");
    in_flight(&gateway, 2.0);
    (0..2).for_each(|_| go.send(()).unwrap());
    holder.response().expect(200);
    last.response().expect(200);
    assert_eq!((origin.requests_of("/gone"), origin.requests_of("/last")), (0, 1));
    in_flight(&gateway, 0.0);
    gateway.await_metric("portcullis_rate_limit_under_way", &[("policy", "rate_limits.one")], 0.0);
}

#[test]
fn a_client_that_closes_its_own_direction_alone_leaves_too_and_is_told_nothing() {
    let (origin, go) = Origin::waiting();
    let gateway = Running::with(&config(&origin));
    let mut holder = open(&gateway, "/held");
    held(&gateway);
    let tcp = TcpStream::connect(gateway.address()).unwrap();
    let mut waiting = Wire::over(tcp.try_clone().unwrap());
    waiting.write(request("GET", "/gone", "\r\n"));
    in_flight(&gateway, 2.0);
    tcp.shutdown(Shutdown::Write).unwrap();
    have_left(&gateway, 1);
    assert!(!waiting.take(1, Duration::from_secs(10)) && waiting.read.is_empty(), "{}", waiting.text());
    // Where nobody waits in a queue, such a client has its answer, as ever.
    let tcp = TcpStream::connect(gateway.address()).unwrap();
    go.send(()).unwrap();
    holder.response().expect(200);
    in_flight(&gateway, 0.0);
    let mut served = Wire::over(tcp.try_clone().unwrap());
    served.write(request("GET", "/half", "\r\n"));
    tcp.shutdown(Shutdown::Write).unwrap();
    held(&gateway);
    go.send(()).unwrap();
    let answered = |read: &[u8]| read.starts_with(b"HTTP/1.1 200");
    let told = served.drip_until(b"", Duration::from_millis(20), Duration::from_secs(10), answered);
    assert!(told.is_some(), "{}", served.text());
}

#[test]
fn shadowed_it_would_refuse_whom_the_queue_has_no_place_for() {
    let (origin, go) = Origin::waiting();
    let gateway = Running::with(&config(&origin).replace("concurrent: 1,", "mode: shadow, concurrent: 1,"));
    let mut all: Vec<_> = ["/held", "/waits", "/refused"].map(|path| (open(&gateway, path), path)).into();
    let labels = [("policy", "rate_limits.one"), ("reason", "concurrent")];
    in_flight(&gateway, 3.0);
    all.iter().for_each(|_| go.send(()).unwrap());
    for (connection, _) in &mut all {
        connection.response().expect(200);
    }
    gateway.await_metric("portcullis_would_refuse_total", &labels, 1.0);
    let would = all.iter().filter(|(_, path)| !gateway.access_of(path)["would"].is_null()).count();
    assert_eq!(would, 1);
}

#[test]
fn what_is_sent_while_a_request_waits_is_not_lost() {
    let (origin, go) = Origin::waiting();
    let gateway = Running::with(&config(&origin));
    let mut holder = open(&gateway, "/held");
    held(&gateway);
    let mut waiting = Connection::open(gateway.address());
    waiting.write(request("POST", "/first", "Content-Length: 5\r\n\r\nhe"));
    in_flight(&gateway, 2.0);
    waiting.write(format!("llo{}", request("GET", "/second", "\r\n")));
    (0..3).for_each(|_| go.send(()).unwrap());
    holder.response().expect(200);
    waiting.response().expect(200);
    waiting.response().expect(200);
    assert_eq!([origin.requests_of("/first"), origin.requests_of("/second")], [1, 1]);
    let lines = ["/first", "/second"].map(|path| gateway.access_of(path));
    assert_eq!(lines.map(|line| line["status"].clone()), [200, 200]);
}

#[test]
fn a_stream_that_is_reset_and_a_connection_that_is_gone_leave_too() {
    let (origin, go) = Origin::waiting();
    let (authority, gateway) = http2::start(&config(&origin));
    let ask = |wire: &mut Wire, stream: u32, flags: u8, path: &str| {
        wire.write(frame(HEADERS, flags, stream, &wire::block("GET", path)));
    };
    let wire = |protocol: &str| Wire::tls(gateway.address(), &authority, protocol, None);
    let (mut holder, mut waiting) = (wire("h2"), wire("h2"));
    for wire in [&mut holder, &mut waiting] {
        wire.write(wire::greeting(65_535));
    }
    let whole = END_HEADERS | END_STREAM;
    ask(&mut holder, 1, whole, "/held");
    held(&gateway);
    let cancel = 8_u32.to_be_bytes();
    for (number, flags) in [(1, whole), (2, END_HEADERS)] {
        let stream = 2 * number - 1;
        ask(&mut waiting, stream, flags, "/gone");
        in_flight(&gateway, 2.0);
        waiting.write(frame(RST_STREAM, 0, stream, &cancel));
        have_left(&gateway, number);
    }
    ask(&mut waiting, 5, whole, "/gone");
    in_flight(&gateway, 2.0);
    drop(waiting);
    have_left(&gateway, 3);
    // HTTP/1 over TLS, with another request behind the one that waits.
    let mut waiting = wire("http/1.1");
    waiting.write(request("GET", "/gone", "\r\n").repeat(2));
    in_flight(&gateway, 2.0);
    drop(waiting);
    have_left(&gateway, 4);
    // Who stays has his turn.
    let mut last = wire("h2");
    last.write(wire::greeting(65_535));
    ask(&mut last, 1, whole, "/last");
    in_flight(&gateway, 2.0);
    (0..2).for_each(|_| go.send(()).unwrap());
    for wire in [&mut holder, &mut last] {
        let answered = |read: &[u8]| wire::frames(read).iter().any(|(kind, ..)| *kind == HEADERS);
        let told = wire.drip_until(b"", Duration::from_millis(20), Duration::from_secs(10), answered);
        assert!(told.is_some(), "{:?}", wire::frames(&wire.read));
    }
    assert_eq!((origin.requests_of("/gone"), origin.requests_of("/last")), (0, 1));
    in_flight(&gateway, 0.0);
}
