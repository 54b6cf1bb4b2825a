//! Leaving: SIGTERM drains and loses nothing, SIGINT and a second signal are at once.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Connection, Ledger, Origin, Place, Running};

fn short_lived(rest: &str) -> Running {
    let text = Place::with_base(rest).replace("workers: 2", "workers: 2, timeouts: {keep_alive: 1500ms}");
    Place::new().start_whole(&text)
}

fn to(origin: &Origin) -> String {
    format!(
        "upstreams: {{o: {{servers: ['{}']}}}}\nroutes:\n  - {{name: o, upstream: o}}\n",
        origin.address()
    )
}

#[test]
fn sigterm_loses_no_request_of_clients_that_never_retry() {
    let mut ledger = Ledger::new();
    let mut gateway = short_lived(&to(&ledger.origin));
    ledger.start_clients(8, gateway.address());
    while ledger.sent() < 200 {
        std::thread::sleep(Duration::from_millis(10));
    }
    ledger.expect_farewell();
    gateway.signal(Signal::TERM);
    let sheet = ledger.gather();
    ledger.reconcile(&sheet);
    let began = Instant::now();
    let status = gateway.wait(Duration::from_secs(10));
    assert_eq!(status.code(), Some(0), "{}", gateway.said());
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "it stayed {:?} after the last client",
        began.elapsed()
    );
}

#[test]
fn an_idle_connection_gets_one_more_answer_and_its_farewell() {
    let origin = Origin::named("origin");
    let mut gateway = short_lived(&to(&origin));
    let mut connection = Connection::open(gateway.address());
    connection.get("/").expect(200);
    gateway.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(400));
    let response = connection.get("/");
    response.expect(200);
    assert!(response.closes(), "no Connection: close while draining: {response:?}");
    assert!(connection.is_closed());
    drop(connection);
    // Nobody is left: neither the keep-alive time nor the drain window is waited for.
    let began = Instant::now();
    assert_eq!(gateway.wait(Duration::from_secs(5)).code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(1), "it stayed {:?}", began.elapsed());
}

#[test]
fn an_idle_connection_that_stays_silent_ends_at_its_ordinary_time() {
    let origin = Origin::named("origin");
    let mut gateway = short_lived(&to(&origin));
    let mut connection = Connection::open(gateway.address());
    connection.get("/").expect(200);
    let began = Instant::now();
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait(Duration::from_secs(8)).code(), Some(0));
    let stayed = began.elapsed();
    assert!(stayed > Duration::from_millis(900), "an idle keep-alive connection was cut after {stayed:?}");
    assert!(stayed < Duration::from_secs(4), "it stayed {stayed:?}");
}

#[test]
fn while_it_drains_readyz_fails_and_nothing_new_is_accepted() {
    let (origin, told) = Origin::waiting();
    let mut gateway = Running::with(&to(&origin));
    let mut connection = Connection::open(gateway.address());
    connection.write("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gateway.await_metric("portcullis_requests_in_flight", &[], 1.0);
    gateway.signal(Signal::TERM);
    crate::harness::eventually("/readyz to be 503", || (gateway.ready() == Some(503)).then_some(()));
    crate::harness::eventually("the listener to refuse", || {
        Connection::try_open(gateway.address()).is_none().then_some(())
    });
    assert!(gateway.lives(), "it left with a request in flight");
    told.send(()).unwrap();
    let response = connection.response();
    assert_eq!(response.text(), "late");
    if !response.closes() {
        // It had begun before the drain; then the next one is the last.
        told.send(()).unwrap();
        let next = connection.get("/");
        assert!(next.text() == "late" && next.closes(), "{next:?}");
    }
    drop(connection);
    assert_eq!(gateway.wait(Duration::from_secs(5)).code(), Some(0));
}

#[test]
fn the_drain_window_is_the_most_it_takes() {
    let origin = Origin::each(|head, peer| {
        peer.drain_body(head);
        std::thread::sleep(Duration::from_secs(20));
        false
    });
    let text = Place::with_base(&to(&origin)).replace("drain: 80s", "drain: 1s");
    let mut gateway = Place::new().start_whole(&text);
    let mut connection = Connection::open(gateway.address());
    connection.write("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gateway.await_metric("portcullis_requests_in_flight", &[], 1.0);
    gateway.signal(Signal::TERM);
    let began = Instant::now();
    assert_eq!(gateway.wait(Duration::from_secs(6)).code(), Some(0));
    assert!(began.elapsed() > Duration::from_millis(700), "the window was {:?}", began.elapsed());
}

#[test]
fn a_second_signal_and_sigint_are_at_once() {
    for signals in [&[Signal::TERM, Signal::TERM][..], &[Signal::TERM, Signal::INT], &[Signal::INT]] {
        let origin = Origin::each(|head, peer| {
            peer.drain_body(head);
            std::thread::sleep(Duration::from_secs(20));
            false
        });
        let mut gateway = Running::with(&to(&origin));
        let mut connection = Connection::open(gateway.address());
        connection.write("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        gateway.await_metric("portcullis_requests_in_flight", &[], 1.0);
        for signal in signals {
            gateway.signal(*signal);
            std::thread::sleep(Duration::from_millis(200));
        }
        let began = Instant::now();
        gateway.wait(Duration::from_secs(3));
        assert!(began.elapsed() < Duration::from_secs(2), "{signals:?}: it stayed {:?}", began.elapsed());
    }
}

/// To HTTP/1.0 an answer without a length is whole where the connection ends: one that is cut off must not end so.
#[test]
fn an_answer_that_the_end_cuts_off_is_not_whole_for_http_1_0() {
    let origin = Origin::each(|head, peer| {
        peer.drain_body(head);
        peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n");
        std::thread::sleep(Duration::from_secs(20));
        false
    });
    for (signal, drain) in [(Signal::TERM, "drain: 1s"), (Signal::INT, "drain: 80s")] {
        let text = Place::with_base(&to(&origin)).replace("drain: 80s", drain);
        let mut gateway = Place::new().start_whole(&text);
        let mut client = TcpStream::connect(gateway.address()).unwrap();
        client.write_all(b"GET / HTTP/1.0\r\nHost: a.example\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let mut piece = [0; 1024];
        while !answer.ends_with(b"begun") {
            let read = client.read(&mut piece).unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..read]);
        }
        gateway.signal(signal);
        let end = client.read(&mut piece);
        assert_eq!(end.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset), "{signal:?}");
        gateway.wait(Duration::from_secs(5));
    }
}

#[test]
fn a_configuration_that_cannot_be_read_to_its_end_keeps_nobody_from_leaving() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut gateway = short_lived("routes: [{name: hello, respond: {body: hello}}]\n");
        let (config, pipe) = (gateway.place.path("portcullis.yaml"), gateway.place.path("pipe"));
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        // Nobody writes to it.
        std::fs::rename(pipe, config).unwrap();
        gateway.signal(Signal::HUP);
        std::thread::sleep(Duration::from_millis(500));
        gateway.signal(signal);
        let began = Instant::now();
        gateway.wait(Duration::from_secs(5));
        assert!(began.elapsed() < Duration::from_secs(3), "{signal:?}: {:?}", began.elapsed());
    }
}
