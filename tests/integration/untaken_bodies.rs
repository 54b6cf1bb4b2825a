//! Upstreams that do not take a request's body: nobody waits for one without end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::frames::{Ending, Frame, Frames, WINDOW_UPDATE};
use crate::harness::{Connection, Origin, Place, Running, eventually};

/// More than any socket's buffers take.
const LENGTH: usize = 64 << 20;
/// Long enough for a loaded machine.
const LIMIT: Duration = Duration::from_secs(20);

/// Takes connections and reads of each the first bytes; then `bytes` each tenth of a second.
fn upstream(bytes: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for peer in listener.incoming() {
            std::thread::spawn(move || read_slowly(peer.unwrap(), bytes));
        }
    });
    address
}

fn read_slowly(mut peer: TcpStream, bytes: usize) {
    let mut piece = vec![0; 512.max(bytes)];
    let _ = peer.read(&mut piece);
    loop {
        std::thread::sleep(Duration::from_millis(100));
        if bytes > 0 && !matches!(peer.read(&mut piece[..bytes]), Ok(1..)) {
            return;
        }
    }
}

fn gateway(upstream: SocketAddr, timeouts: &str, body: &str) -> Running {
    let rest = format!(
        "upstreams: {{o: {{servers: ['{upstream}'], timeouts: {{{timeouts}}}}}}}
routes: [{{name: o, upstream: o}}]\n"
    );
    let text = Place::with_base(&rest).replace("workers: 2", &format!("workers: 2, timeouts: {{{body}}}"));
    Place::new().start_whole(&text)
}

/// Sends as much of a body as is taken; the answer's first line.
fn upload(gateway: &Running) -> String {
    let mut client = TcpStream::connect(gateway.address()).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.set_write_timeout(Some(LIMIT)).unwrap();
    let head = format!("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n");
    client.write_all(head.as_bytes()).unwrap();
    let mut sender = client.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let piece = vec![b'x'; 64 << 10];
            for _ in 0..LENGTH / piece.len() {
                if sender.write_all(&piece).is_err() {
                    return;
                }
            }
        });
        let mut answer = [0; 64];
        let read = client.read(&mut answer).unwrap();
        let _ = client.shutdown(std::net::Shutdown::Both);
        String::from_utf8_lossy(&answer[..read]).lines().next().unwrap_or_default().to_owned()
    })
}

fn ended_with(gateway: &Running, reason: &str) {
    let line = gateway.access_of("/x");
    assert_eq!(line["error"]["reason"], reason, "{line}");
    eventually("the request to end", || {
        (gateway.metrics().of("portcullis_requests_in_flight", &[]) == 0.0).then_some(())
    });
}

#[test]
fn an_upstream_that_stops_reading_is_given_up_after_its_time_to_read() {
    let gateway = gateway(upstream(0), "read: 1s, total: 30s", "body_grace: 30s");
    let began = Instant::now();
    assert_eq!(upload(&gateway), "HTTP/1.1 504 Gateway Timeout");
    assert!(began.elapsed() >= Duration::from_secs(1) && began.elapsed() < LIMIT);
    ended_with(&gateway, "write_timeout");
}

#[test]
fn a_body_that_its_upstream_takes_drop_by_drop_has_its_total() {
    let gateway = gateway(upstream(512), "read: 30s, total: 60s", "body_grace: 1s, body_total: 3s");
    let began = Instant::now();
    assert_eq!(upload(&gateway), "HTTP/1.1 408 Request Timeout");
    assert!(began.elapsed() >= Duration::from_secs(3) && began.elapsed() < LIMIT);
    ended_with(&gateway, "body_timeout");
}

/// HTTP/2 has one window for all streams of a connection: who cannot send because of another's body is not slow.
#[test]
fn whose_window_another_body_has_used_up_is_not_late() {
    let (origin, go) = Origin::waiting();
    let rest = format!(
        "upstreams: {{o: {{servers: ['{}']}}}}
policies: {{rate_limits: {{one: {{key: route, concurrent: 1, queue: {{length: 1, wait: 60s}}}}}}}}
routes:
  - {{name: queued, match: {{path: /queued}}, rate_limits: [one], upstream: o}}
  - {{name: free, upstream: o}}\n",
        origin.address()
    );
    let (authority, gateway) = Place::start_beside_tls("timeouts: {body_grace: 500ms}", &rest);
    let under_way = |number| gateway.await_metric("portcullis_requests_in_flight", &[], number);
    let mut holder = Connection::open(gateway.address());
    holder.write("GET /queued HTTP/1.1\r\nHost: gate.example\r\n\r\n");
    under_way(1.0);
    let mut client = Frames::connect(gateway.listener(1), &authority, &[]);
    // Nobody reads it before its turn, and it is all that may be sent.
    client.send(&Frame::post(1, "/queued")).unwrap();
    for length in [16_384, 16_384, 16_384, 16_383] {
        client.send(&Frame::data(1, &vec![b'x'; length], length == 16_383)).unwrap();
    }
    client.send(&Frame::post(3, "/free")).unwrap();
    under_way(3.0);
    std::thread::sleep(Duration::from_millis(1500));
    under_way(3.0);
    go.send(()).unwrap();
    holder.response().expect(200);
    let opened = loop {
        let frame = client.await_frame(WINDOW_UPDATE);
        if frame.stream == 0 {
            break frame;
        }
    };
    assert!(opened.number(0) > 5);
    client.send(&Frame::data(3, b"hello", true)).unwrap();
    for _ in 0..2 {
        go.send(()).unwrap();
    }
    assert!(matches!(client.ending(3), Ending::Answer { .. }));
    assert_eq!(gateway.access_of("/free")["status"], 200);
}

#[test]
fn a_tunnel_whose_upstream_stops_reading_ends_and_one_where_nobody_speaks_does_not() {
    const HEAD: &[u8] = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    const SWITCH: &[u8] =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = listener.local_addr().unwrap();
    let (done, over) = std::sync::mpsc::channel::<()>();
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        assert!(peer.read(&mut [0; 4096]).unwrap() > 0);
        peer.write_all(SWITCH).unwrap();
        let mut word = [0; 5];
        peer.read_exact(&mut word).unwrap();
        peer.write_all(&word).unwrap();
        // And reads no more.
        let _ = over.recv();
    });
    let rest = format!(
        "upstreams: {{o: {{servers: ['{upstream}'], timeouts: {{read: 1s}}}}}}
routes: [{{name: o, upgrade: [websocket], upstream: o}}]\n"
    );
    let gateway = Running::with(&rest);
    let mut client = TcpStream::connect(gateway.address()).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.set_write_timeout(Some(LIMIT)).unwrap();
    client.write_all(HEAD).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    // Longer than a server may be silent in an answer.
    std::thread::sleep(Duration::from_millis(1500));
    let mut word = [0; 5];
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"hello");
    let (began, piece) = (Instant::now(), vec![b'x'; 64 << 10]);
    let written = (0..LENGTH / piece.len()).map_while(|_| client.write_all(&piece).ok()).count();
    assert!(written < LENGTH / piece.len(), "nobody has read it");
    assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
    ended_with(&gateway, "write_timeout");
    drop(done);
    server.join().unwrap();
}
