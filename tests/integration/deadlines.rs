//! Time: who is slow on purpose is ended, told so where that can be, and put on record; who is slow in good faith is served.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::wire::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, End, GOAWAY, HEADERS, PING, RST_STREAM, WINDOW_UPDATE, Wire,
    block, frame, frames, greeting,
};
use crate::harness::{Authority, Http2, Origin, Place, Running, get};

/// Long enough for a loaded machine, and far from the defaults.
const LIMIT: Duration = Duration::from_secs(12);
const BEAT: Duration = Duration::from_millis(50);

fn start(timeouts: &str, limits: &str, origin: &Origin) -> (Authority, Running) {
    let (place, authority) = (Place::new(), Authority::new());
    authority.issue(&["gate.example"]).write(&place, "gate");
    let rest = format!(
        "upstreams: {{o: {{servers: ['{}']}}}}\nroutes:
  - {{name: hello, match: {{path: /hello}}, respond: {{body: hello}}}}
  - {{name: echo, match: {{path: /echo}}, echo: true}}
  - {{name: o, match: {{path: '/o/{{*rest}}'}}, upstream: o}}\n",
        origin.address()
    );
    let text = Place::with_base(&rest)
        .replace(
            "  - address: 127.0.0.1:0\n",
            "  - address: 127.0.0.1:0\n  - address: 127.0.0.2:0\n    tls: {certificates: [{cert: gate.crt, key: gate.key}]}\n",
        )
        .replace("workers: 2", &format!("workers: 2, timeouts: {{{timeouts}}}, limits: {{{limits}}}"));
    (authority, place.start_whole(&text))
}

/// A normal client is served all the while.
fn meanwhile<T>(gateway: &Running, act: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let normal = scope.spawn(|| {
            let mut served = 0;
            while !done.load(Ordering::Relaxed) {
                assert_eq!(get(gateway.address(), "/hello").text(), "hello");
                served += 1;
                std::thread::sleep(BEAT);
            }
            served
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        done.store(true, Ordering::Relaxed);
        let served: usize = normal.join().unwrap();
        assert!(result.is_err() || served > 0, "nobody was served meanwhile");
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn refused(gateway: &Running, reason: &str) -> f64 {
    gateway.metrics().of("portcullis_refusals_total", &[("policy", "gateway"), ("reason", reason)])
}

/// How the log puts it.
fn message(reason: &str) -> &'static str {
    match reason {
        "head_timeout" => "the head was not complete within `server.timeouts.head`",
        "body_timeout" => {
            "the body came more slowly than `server.timeouts.body_rate`, or took longer than `body_total`"
        }
        "write_stall" => "the client did not read for `server.timeouts.write_stall`",
        other => panic!("{other}"),
    }
}

/// Waits until this many lines of the log give this reason.
fn told(gateway: &Running, reason: &str, count: usize) -> Vec<serde_json::Value> {
    crate::harness::eventually(&format!("{count} lines with {reason}"), || {
        let text = gateway.place.read("access.log");
        let lines: Vec<serde_json::Value> = text
            .lines()
            .filter(|line| line.contains(message(reason)))
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        (lines.len() >= count).then_some(lines)
    })
}

/// An origin of a large file, which takes every body first.
fn large() -> Origin {
    Origin::each(|head, peer| {
        peer.drain_body(head);
        peer.answer(200, &"y".repeat(8 << 20))
    })
}

const BODIES: &str = "head: 800ms, body_grace: 800ms, keep_alive: 1200ms, handshake: 800ms";

#[test]
fn http1_heads_and_bodies_that_drip_are_408_with_and_without_tls() {
    let origin = large();
    let (authority, gateway) = start(BODIES, "", &origin);
    let post = |path: &str, fields: &str| format!("POST {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    let (length, chunked) = ("Content-Length: 100000", "Transfer-Encoding: chunked");
    let rows: Vec<(&str, String, &[u8], &str)> = vec![
        ("a head", "GET / HTTP/1.1\r\nHost: a\r\nX: ".into(), b"x", "head_timeout"),
        ("a silent body", post("/o/1", length), b"", "body_timeout"),
        ("a body", post("/o/2", length), b"x", "body_timeout"),
        ("an echoed body", post("/echo", length), b"x", "body_timeout"),
        ("chunks of a byte", post("/o/3", chunked), b"1\r\nx\r\n", "body_timeout"),
        ("extensions", post("/o/4", chunked), b"1;a=bbbbbbbbbbbbbbbbbbbbbbbb\r\nx\r\n", "body_timeout"),
        (
            "an expected body",
            post("/o/5", &format!("Expect: 100-continue\r\n{length}")),
            b"x",
            "body_timeout",
        ),
    ];
    meanwhile(&gateway, || {
        std::thread::scope(|scope| {
            for (what, head, piece, _) in &rows {
                for tls in [false, true] {
                    let (gateway, authority) = (&gateway, &authority);
                    scope.spawn(move || {
                        let mut wire = match tls {
                            false => Wire::plain(gateway.address()),
                            true => Wire::tls(gateway.listener(1), authority, "http/1.1", None),
                        };
                        wire.write(head);
                        let end = wire.drip(piece, BEAT, LIMIT);
                        let End::Freed(after) = end else { panic!("{what}, tls {tls}: still open") };
                        assert!(after >= Duration::from_millis(700), "{what}, tls {tls}: {after:?}");
                        let answer = wire.text();
                        let answer = answer.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n");
                        assert!(answer.starts_with("HTTP/1.1 408 "), "{what}, tls {tls}: {answer}");
                        assert!(
                            answer.contains("urn:portcullis:problem:request-timeout"),
                            "{what}: {answer}"
                        );
                    });
                }
            }
        });
    });
    for reason in ["head_timeout", "body_timeout"] {
        let count = 2 * rows.iter().filter(|row| row.3 == reason).count();
        assert!(told(&gateway, reason, count).iter().all(|line| line["status"] == 408));
        gateway.await_metric(
            "portcullis_refusals_total",
            &[("policy", "gateway"), ("reason", reason)],
            f64::from(u32::try_from(count).unwrap()),
        );
    }
}

#[test]
fn who_says_nothing_is_let_go_silently_with_and_without_tls() {
    let origin = large();
    let (authority, gateway) = start(BODIES, "", &origin);
    meanwhile(&gateway, || {
        std::thread::scope(|scope| {
            let (gateway, authority) = (&gateway, &authority);
            scope.spawn(move || {
                let mut wire = Wire::plain(gateway.address());
                assert!(matches!(wire.drip(b"", BEAT, LIMIT), End::Freed(_)), "an idle connection");
                assert_eq!(wire.text(), "");
            });
            scope.spawn(move || {
                let mut wire = Wire::tls(gateway.listener(1), authority, "http/1.1", None);
                wire.write("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
                assert!(matches!(wire.drip(b"", BEAT, LIMIT), End::Freed(_)), "idle after an answer");
                assert!(wire.text().ends_with("hello"), "{}", wire.text());
            });
            scope.spawn(move || {
                // A client's hello that drips: a record of 512 bytes is begun.
                let mut wire = Wire::plain(gateway.listener(1));
                wire.write([22, 3, 1, 2, 0]);
                assert!(matches!(wire.drip(&[1], BEAT, LIMIT), End::Freed(_)), "a handshake");
            });
            scope.spawn(move || {
                let mut wire = Wire::tls(gateway.listener(1), authority, "h2", None);
                wire.write(b"PRI * HTTP/2.0");
                assert!(matches!(wire.drip(b"", BEAT, LIMIT), End::Freed(_)), "half a preface");
            });
            scope.spawn(move || {
                let mut wire = Wire::tls(gateway.listener(1), authority, "h2", None);
                wire.write(greeting(65_535));
                let end = wire.drip(&frame(PING, 0, 0, &[0; 8]), Duration::from_millis(200), LIMIT);
                assert!(matches!(end, End::Freed(_)), "PING keeps nothing open");
                assert!(frames(&wire.read).iter().any(|f| f.0 == GOAWAY), "{:?}", frames(&wire.read));
            });
        });
    });
    let timeouts =
        gateway.metrics().of("portcullis_connections_refused_total", &[("reason", "handshake_timeout")]);
    assert!(timeouts >= 1.0, "{timeouts}");
}

#[test]
fn http2_bodies_that_drip_are_reset_and_their_connection_serves_on() {
    let origin = large();
    let (authority, gateway) = start("body_grace: 800ms", "", &origin);
    meanwhile(&gateway, || {
        for (n, (path, piece)) in
            [("/o/1", &b""[..]), ("/o/2", b"x"), ("/echo", b""), ("/echo", b"x")].into_iter().enumerate()
        {
            let mut wire = Wire::tls(gateway.listener(1), &authority, "h2", None);
            wire.write(greeting(65_535));
            wire.write(frame(HEADERS, END_HEADERS, 1, &block("POST", path)));
            let drip = if piece.is_empty() { Vec::new() } else { frame(DATA, 0, 1, piece) };
            let reset = |read: &[u8]| frames(read).iter().any(|f| f.0 == RST_STREAM && f.2 == 1);
            let after = wire.drip_until(&drip, BEAT, LIMIT, reset);
            let seen = frames(&wire.read);
            let after = after.unwrap_or_else(|| panic!("{path} {n}: never reset: {seen:?}"));
            assert!(after >= Duration::from_millis(700), "{path}: {after:?}");
            // The others on the connection know nothing of it.
            wire.read.clear();
            wire.write(frame(HEADERS, END_HEADERS | END_STREAM, 3, &block("GET", "/hello")));
            let hello = |read: &[u8]| frames(read).iter().any(|f| f.0 == DATA && f.2 == 3 && f.3 == b"hello");
            assert!(wire.drip_until(b"", BEAT, LIMIT, hello).is_some(), "{path}: {:?}", frames(&wire.read));
        }
    });
    assert!(told(&gateway, "body_timeout", 4).iter().all(|line| line["status"] == 408));
    assert!((refused(&gateway, "body_timeout") - 4.0).abs() < 1e-9);
    gateway.await_metric("portcullis_requests_in_flight", &[], 0.0);
}

#[test]
fn a_body_at_its_rate_passes_and_one_that_its_upstream_holds_back_too() {
    let origin = Origin::each(|head, peer| {
        // The upstream takes its time: longer than the grace, before it reads anything.
        std::thread::sleep(Duration::from_millis(1500));
        let bytes = peer.drain_body(head);
        peer.answer(200, &bytes.to_string())
    });
    let (authority, gateway) = start("body_rate: 2KiB/s, body_grace: 500ms", "", &origin);
    let mut client = {
        let connector = authority.connector(|builder| builder.set_alpn_protos(b"\x02h2").unwrap());
        Http2::connect(gateway.listener(1), &connector, "gate.example")
    };
    std::thread::scope(|scope| {
        let gateway = &gateway;
        scope.spawn(move || {
            let body = vec![b'x'; 24 << 20];
            let head = format!("POST /o/x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
            let mut connection = crate::harness::Connection::open(gateway.address());
            connection.write([head.as_bytes(), &body].concat());
            assert_eq!(connection.response().expect(200).text(), (24 << 20).to_string());
        });
        scope.spawn(move || {
            let mut wire = Wire::plain(gateway.address());
            wire.write("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 12288\r\n\r\n");
            for _ in 0..12 {
                assert!(wire.write([b'x'; 1024]));
                std::thread::sleep(Duration::from_millis(250));
            }
            let answered = |read: &[u8]| read.starts_with(b"HTTP/1.1 200");
            assert!(wire.drip_until(b"", BEAT, LIMIT, answered).is_some(), "{}", wire.text());
        });
        let body = vec![b'x'; 24 << 20];
        assert_eq!(client.request("POST", "/o/y", &[], &body).expect(200).text(), (24 << 20).to_string());
    });
}

#[test]
fn a_body_has_a_total_and_what_is_left_after_an_early_answer_has_little() {
    let origin = Origin::each(|head, peer| {
        if head.starts_with("POST /o/early") {
            peer.answer(200, "early");
        }
        peer.drain_body(head);
        peer.answer(200, "late")
    });
    let (authority, gateway) = start("body_rate: 1B/s, body_total: 1500ms", "", &origin);
    let head = |path: &str| format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    std::thread::scope(|scope| {
        let (gateway, authority) = (&gateway, &authority);
        scope.spawn(move || {
            let mut wire = Wire::plain(gateway.address());
            wire.write(head("/o/whole"));
            assert!(matches!(wire.drip(b"xxxx", BEAT, LIMIT), End::Freed(_)));
            assert!(wire.text().starts_with("HTTP/1.1 408"), "{}", wire.text());
        });
        scope.spawn(move || {
            let mut wire = Wire::tls(gateway.listener(1), authority, "h2", None);
            wire.write(greeting(65_535));
            wire.write(frame(HEADERS, END_HEADERS, 1, &block("POST", "/o/whole")));
            let reset = |read: &[u8]| frames(read).iter().any(|f| f.0 == RST_STREAM && f.2 == 1);
            assert!(wire.drip_until(&frame(DATA, 0, 1, b"xxxx"), BEAT, LIMIT, reset).is_some());
        });
    });
    drop(gateway);
    // With the default total: five seconds after the answer the connection goes all the same.
    let (authority, gateway) = start("body_rate: 1B/s", "", &origin);
    std::thread::scope(|scope| {
        let (gateway, authority) = (&gateway, &authority);
        scope.spawn(move || {
            let mut wire = Wire::plain(gateway.address());
            wire.write(head("/o/early"));
            assert!(matches!(wire.drip(b"xxxx", BEAT, LIMIT), End::Freed(_)));
            assert!(wire.text().starts_with("HTTP/1.1 200"), "{}", wire.text());
        });
        scope.spawn(move || {
            let mut wire = Wire::tls(gateway.listener(1), authority, "h2", None);
            wire.write(greeting(65_535));
            wire.write(frame(HEADERS, END_HEADERS, 1, &block("POST", "/o/early")));
            let reset = |read: &[u8]| frames(read).iter().any(|f| f.0 == RST_STREAM && f.2 == 1);
            let limit = Duration::from_secs(20);
            assert!(wire.drip_until(&frame(DATA, 0, 1, b"xxxx"), BEAT, limit, reset).is_some());
        });
    });
}

#[test]
fn who_does_not_read_is_let_go_and_who_reads_slowly_is_served() {
    let origin = large();
    let (authority, gateway) = start("write_stall: 1s", "", &origin);
    let ask = "GET /o/big HTTP/1.1\r\nHost: a\r\n\r\n";
    meanwhile(&gateway, || {
        let deaf = |tls: bool| {
            let mut wire = match tls {
                false => Wire::narrow(gateway.address(), 4096),
                true => Wire::tls(gateway.listener(1), &authority, "http/1.1", Some(4096)),
            };
            wire.write(ask);
            wire
        };
        // One that reads nothing, and one that takes five bytes now and then as slow-read tools do.
        let _silent = [deaf(false), deaf(true)];
        let mut trickling = deaf(false);
        let began = Instant::now();
        while told_count(&gateway, "write_stall") < 3 && began.elapsed() < LIMIT {
            trickling.take(5, BEAT);
            std::thread::sleep(BEAT);
        }
        let lines = told(&gateway, "write_stall", 3);
        assert!(lines.iter().all(|line| line["path"] == "/o/big"), "{lines:?}");
        // About 300 KiB a second is slow here, and no reason to be cut off.
        let mut slow = Wire::narrow(gateway.address(), 64 << 10);
        slow.write(ask);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(4) {
            assert!(slow.take(16 << 10, LIMIT), "cut off after {:?}", began.elapsed());
            std::thread::sleep(BEAT);
        }
    });
    gateway.await_metric("portcullis_connections", &[], 0.0);
    assert!(refused(&gateway, "write_stall") >= 3.0);
}

fn told_count(gateway: &Running, reason: &str) -> usize {
    gateway.place.read("access.log").lines().filter(|line| line.contains(message(reason))).count()
}

#[test]
fn http2_streams_without_a_window_are_reset_and_a_deaf_connection_is_let_go() {
    let origin = large();
    let (authority, gateway) = start("write_stall: 1s", "", &origin);
    let ask = |streams: std::ops::Range<u32>| -> Vec<u8> {
        streams
            .flat_map(|n| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &block("GET", "/o/big")))
            .collect()
    };
    let resets = |read: &[u8]| frames(read).iter().filter(|f| f.0 == RST_STREAM).count();
    meanwhile(&gateway, || {
        let mut closed = Wire::tls(gateway.listener(1), &authority, "h2", None);
        closed.write(greeting(0));
        closed.write(ask(0..20));
        let all = |read: &[u8]| resets(read) == 20;
        assert!(closed.drip_until(b"", BEAT, LIMIT, all).is_some(), "{} resets", resets(&closed.read));
        // A window that opens by a byte now and then.
        let mut trickling = Wire::tls(gateway.listener(1), &authority, "h2", None);
        trickling.write(greeting(0));
        trickling.write(ask(0..1));
        let drip = frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes());
        let one = |read: &[u8]| resets(read) == 1;
        assert!(trickling.drip_until(&drip, BEAT, LIMIT, one).is_some(), "a trickle holds its stream");
        told(&gateway, "write_stall", 21);
        // All the window that there can be, and not a byte read.
        let mut deaf = Wire::tls(gateway.listener(1), &authority, "h2", Some(4096));
        deaf.write(greeting((1 << 31) - 1));
        deaf.write(frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()));
        deaf.write(ask(0..3));
        told(&gateway, "write_stall", 24);
        drop((closed, trickling));
        gateway.await_metric("portcullis_connections", &[("listener", "127.0.0.2:0")], 0.0);
        drop(deaf);
    });
    gateway.await_metric("portcullis_requests_in_flight", &[], 0.0);
}

/// Whoever keeps its window shut is waited for as a reader, not as a writer: its body has its time again once the window opens.
#[test]
fn an_http2_body_has_no_clock_while_its_answer_waits_for_a_window() {
    let origin = Origin::each(|head, peer| {
        // Answers first, and takes the body then.
        peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
        peer.write([b'y'; 100_000]);
        peer.drain_body(head);
        true
    });
    let (authority, gateway) = start("body_grace: 600ms, write_stall: 20s", "", &origin);
    let mut wire = Wire::tls(gateway.listener(1), &authority, "h2", None);
    wire.write(greeting(0));
    wire.write(frame(HEADERS, END_HEADERS, 1, &block("POST", "/o/duplex")));
    wire.write(frame(DATA, 0, 1, b"x"));
    let reset = |read: &[u8]| frames(read).iter().any(|f| f.0 == RST_STREAM);
    // A stream that is too late is told, and has five seconds then before it is reset.
    assert!(wire.drip_until(b"", BEAT, Duration::from_secs(7), reset).is_none(), "{:?}", frames(&wire.read));
    wire.write(frame(WINDOW_UPDATE, 0, 0, &100_000_u32.to_be_bytes()));
    wire.write(frame(WINDOW_UPDATE, 0, 1, &100_000_u32.to_be_bytes()));
    wire.write(frame(DATA, END_STREAM, 1, b"x"));
    let whole = |read: &[u8]| {
        let data = frames(read).into_iter().filter(|f| f.0 == DATA && f.2 == 1);
        data.map(|f| f.3.len()).sum::<usize>() == 100_000
    };
    assert!(wire.drip_until(b"", BEAT, LIMIT, whole).is_some());
    // It is its turn again once the window is open: a body that does not go on is too late then.
    let mut wire = Wire::tls(gateway.listener(1), &authority, "h2", None);
    wire.write(greeting(200_000));
    wire.write(frame(WINDOW_UPDATE, 0, 0, &100_000_u32.to_be_bytes()));
    wire.write(frame(HEADERS, END_HEADERS, 1, &block("POST", "/o/duplex")));
    assert!(wire.drip_until(b"", BEAT, LIMIT, reset).is_some());
}

#[test]
fn a_connection_brings_so_many_requests_and_no_more() {
    let origin = large();
    let (authority, gateway) = start("", "requests_per_connection: 3", &origin);
    let mut connection = crate::harness::Connection::open(gateway.address());
    let closes: Vec<_> = (0..3).map(|_| connection.get("/hello").expect(200).closes()).collect();
    assert_eq!(closes, [false, false, true]);
    assert!(connection.is_closed());
    let mut wire = Wire::tls(gateway.listener(1), &authority, "h2", None);
    wire.write(greeting(65_535));
    for n in 0..3 {
        wire.write(frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &block("GET", "/hello")));
    }
    let told = |read: &[u8]| {
        let frames = frames(read);
        frames.iter().any(|f| f.0 == GOAWAY)
            && frames.iter().filter(|f| f.0 == DATA && f.3 == b"hello").count() == 3
    };
    assert!(wire.drip_until(b"", BEAT, LIMIT, told).is_some(), "{:?}", frames(&wire.read));
    // Who goes on all the same, and never answers our PING, is ended.
    let more: Vec<u8> = (3..400)
        .flat_map(|n| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &block("GET", "/hello")))
        .collect();
    wire.write(more);
    assert!(matches!(wire.drip(b"", BEAT, LIMIT), End::Freed(_)), "it may go on for ever");
    // A reload is in force for the next request, on connections that were there before it too.
    let mut kept = crate::harness::Connection::open(gateway.address());
    assert!(!kept.get("/hello").expect(200).closes());
    let text = gateway.place.read("portcullis.yaml");
    gateway.reload_whole(&text.replace("requests_per_connection: 3", "requests_per_connection: 2"));
    assert!(kept.get("/hello").expect(200).closes());
    let mut new = crate::harness::Connection::open(gateway.address());
    let closes: Vec<_> = (0..2).map(|_| new.get("/hello").expect(200).closes()).collect();
    assert_eq!(closes, [false, true]);
}

#[test]
fn an_http2_head_that_drips_ends_its_connection() {
    let origin = large();
    let (authority, gateway) = start("head: 800ms", "", &origin);
    let head = block("GET", "/hello");
    let rows: [(&str, Vec<u8>, Vec<u8>); 3] = [
        ("a frame", frame(HEADERS, END_HEADERS, 1, &[0; 9000])[..12].to_vec(), vec![0]),
        ("continuations", frame(HEADERS, 0, 1, &head), frame(CONTINUATION, 0, 1, &[0x40, 1, b'a', 1, b'b'])),
        ("a silent block", frame(HEADERS, 0, 1, &head), Vec::new()),
    ];
    meanwhile(&gateway, || {
        for (what, begin, piece) in &rows {
            let mut wire = Wire::tls(gateway.listener(1), &authority, "h2", None);
            wire.write(greeting(65_535));
            wire.write(begin);
            // Not faster: five CONTINUATIONs are too many for h2, which ends the connection itself then.
            let every = Duration::from_millis(300);
            let End::Freed(after) = wire.drip(piece, every, LIMIT) else { panic!("{what}: still open") };
            assert!(after >= Duration::from_millis(700), "{what}: {after:?}");
        }
    });
    let lines = told(&gateway, "head_timeout", 3);
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line["status"].is_null()), "nothing was answered: {lines:#?}");
    assert!((refused(&gateway, "head_timeout") - 3.0).abs() < 1e-9);
}
