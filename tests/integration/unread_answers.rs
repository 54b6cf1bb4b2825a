//! Answers that nobody reads are held in little memory, and clients that read theirs get them whole meanwhile.

use std::net::SocketAddr;

use crate::harness::frames::{Ending, Frame, Frames, RST_STREAM, WINDOW_UPDATE};
use crate::harness::{Authority, Connection, Origin, Place, Running, eventually};

/// Bytes of an answer: more than is held of any, and less than fills the system's buffers of all.
const LENGTH: usize = 2 << 20;
const CONNECTIONS: usize = 6;
const STREAMS: u32 = 50;
/// The parameter of RFC 9113 §6.5.2.
const INITIAL_WINDOW_SIZE: u16 = 4;
const WAITING: &str = "portcullis_answer_bytes_waiting";

fn content() -> Vec<u8> {
    (0..LENGTH).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// A gateway with a plain listener and one over TLS, in front of `origin`; the addresses of the two.
fn gateway(origin: &Origin, limits: &str) -> (Authority, Running, [SocketAddr; 2]) {
    let rest = format!(
        "upstreams: {{o: {{servers: ['{}']}}}}\nroutes: [{{name: o, upstream: o}}]\n",
        origin.address()
    );
    let (authority, gateway) = Place::start_beside_tls(limits, &rest);
    let addresses = [0, 1].map(|at| gateway.listener(at));
    (authority, gateway, addresses)
}

#[test]
fn whose_answers_lie_ready_is_in_flight() {
    // A head of 56 KiB, and next to nothing behind it.
    let head: String = (0..8).map(|n| format!("X-Long-{n}: {}\r\n", "q".repeat(7000))).collect();
    let origin = Origin::each(move |request, peer| {
        peer.drain_body(request);
        peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{head}\r\nok"))
    });
    let limits = "timeouts: {write_stall: 10s}, limits: {http2_streams: 100, requests_in_flight: 48}";
    let (authority, gateway, [plain, secure]) = gateway(&origin, limits);
    let ask = || Connection::open(plain).get("/plain").status;
    assert_eq!(ask(), 200);
    let mut client = Frames::connect(secure, &authority, &[]);
    client.take_little();
    // What the system takes by itself has been delivered. Behind it answers lie ready, which are held against who does not read.
    let mut streams = (0..).map(|n| Frame::get(2 * n + 1, "/unread"));
    eventually("as many to be in flight as may", || {
        client.send_all(&streams.by_ref().take(16).collect::<Vec<_>>()).unwrap();
        // Not only while they are on their way.
        let stays = || {
            std::thread::sleep(std::time::Duration::from_millis(300));
            ask() == 503
        };
        (stays() && stays() && stays()).then_some(())
    });
    // What is counted is told, and is not what has yet to be answered.
    let held = gateway.metrics().get("portcullis_requests_held", &[]);
    assert!(held.is_some_and(|held| held > 40.0), "{held:?}");
    eventually("the client to be given up", || (ask() == 200).then_some(()));
    let told = eventually("a record", || {
        let lines = gateway.place.read("access.log");
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.into_iter().find(|line| line["error"]["reason"] == "write_stall" && line["path"].is_null())
    });
    assert_eq!(told["status"], serde_json::Value::Null, "{told}");
    drop(client);
    // Who reads is not in flight any longer than it takes.
    let mut reader = Frames::connect(secure, &authority, &[]);
    for n in 0..100 {
        reader.send(&Frame::get(2 * n + 1, "/read")).unwrap();
        assert!(matches!(reader.ending(2 * n + 1), Ending::Answer { .. }), "{n}");
    }
}

/// Whoever is refused and does not take it holds nobody else's place.
#[test]
fn refusals_that_nobody_takes_are_in_nobody_s_way() {
    let origin = Origin::each(|request, peer| {
        peer.drain_body(request);
        peer.answer(200, "ok")
    });
    let rest = format!(
        "upstreams: {{o: {{servers: ['{}']}}}}
policies: {{access: {{nobody: {{allow: [10.0.0.0/8]}}}}}}
routes:
  - {{name: closed, match: {{path: /closed}}, access: nobody, upstream: o}}
  - {{name: o, upstream: o}}\n",
        origin.address()
    );
    let limits = "limits: {http2_streams: 100, requests_in_flight: 48}";
    let (authority, gateway) = Place::start_beside_tls(limits, &rest);
    let ask = || Connection::open(gateway.address()).get("/open").status;
    let refused = |number: f64| {
        eventually("as many to be refused", || {
            (gateway.metrics().of("portcullis_refusals_total", &[("policy", "access.nobody")]) >= number)
                .then_some(())
        });
    };
    // No window for any content.
    let mut client = Frames::connect(gateway.listener(1), &authority, &[(INITIAL_WINDOW_SIZE, 0)]);
    let gets = |from: u32| (from..from + 48).map(|n| Frame::get(2 * n + 1, "/closed")).collect::<Vec<_>>();
    client.send_all(&gets(0)).unwrap();
    refused(48.0);
    let began = std::time::Instant::now();
    eventually("the others to be served", || (ask() == 200).then_some(()));
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    drop(client);
    // A window, and nobody who reads.
    let mut client = Frames::connect(gateway.listener(1), &authority, &[]);
    client.take_little();
    for batch in 0..20 {
        if client.send_all(&gets(batch * 48)).is_err() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    refused(72.0);
    let began = std::time::Instant::now();
    for _ in 0..10 {
        eventually("the others to be served", || (ask() == 200).then_some(()));
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_stream_that_is_over_before_it_is_served_is_not_in_flight() {
    let origin = Origin::each(|request, peer| {
        peer.drain_body(request);
        peer.answer(200, "ok")
    });
    let limits = "limits: {http2_streams: 100, requests_in_flight: 100}";
    let (authority, _gateway, [plain, secure]) = gateway(&origin, limits);
    let ask = || Connection::open(plain).get("/plain").status;
    let mut clients: Vec<_> = (0..16).map(|_| Frames::connect(secure, &authority, &[])).collect();
    for client in &mut clients {
        // In one piece: h2 hears of the reset before it hands the stream over, and hands it over all the same.
        let frames: Vec<_> = (0..10)
            .flat_map(|n| {
                let stream = 2 * n + 1;
                [Frame::get(stream, "/over"), Frame::new(RST_STREAM, 0, stream, [0, 0, 0, 8])]
            })
            .collect();
        client.send_all(&frames).unwrap();
        // The connection goes on.
        client.send(&Frame::get(101, "/after")).unwrap();
        assert!(matches!(client.ending(101), Ending::Answer { .. }));
    }
    eventually("all to be over", || (ask() == 200).then_some(()));
    let asked: Vec<_> = (0..20).map(|_| ask()).collect();
    assert_eq!(asked, [200; 20]);
}

#[test]
fn they_take_little_memory_and_nobody_else_s_answer() {
    let origin = Origin::each(|head, peer| {
        peer.drain_body(head);
        peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n")) && peer.write(content())
    });
    let (authority, gateway, [plain, secure]) = gateway(&origin, "");
    let whole = || {
        let mut connection = Connection::open(plain);
        connection.write("GET /whole HTTP/1.1\r\nHost: a.example\r\n\r\n");
        assert!(connection.response().expect(200).body == content());
    };
    whole();
    let before = gateway.memory("VmRSS");
    let mut clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            // There is no end to what they say they would take.
            let mut client = Frames::connect(secure, &authority, &[(INITIAL_WINDOW_SIZE, 0x7fff_ffff)]);
            client.send(&Frame::new(WINDOW_UPDATE, 0, 0, 0x7fff_0000_u32.to_be_bytes())).unwrap();
            let streams: Vec<_> = (0..STREAMS).map(|n| Frame::get(2 * n + 1, "/unread")).collect();
            client.send_all(&streams).unwrap();
            client
        })
        .collect();
    eventually("more to wait than is free", || {
        (gateway.metrics().of(WAITING, &[]) >= f64::from(32 << 20)).then_some(())
    });
    std::thread::sleep(std::time::Duration::from_secs(2));
    let after = gateway.memory("VmRSS");
    // 32 MiB, and 64 KiB in each of h2 and TLS and Pingora's own buffers. Without the bound: 290 MiB.
    println!("{} MiB more", (after - before) >> 10);
    let most = (32 << 10) + 300 * 224;
    assert!(after < before + most, "{before} KiB before, {after} KiB with unread answers");
    // In small pieces as well as in large ones.
    whole();
    clients.clear();
    eventually("nothing to wait", || (gateway.metrics().of(WAITING, &[]) == 0.0).then_some(()));
    whole();
}
