//! Upstreams that do not take a request's body: nobody waits for one without end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::{Running, eventually};

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
    let text = crate::harness::Place::with_base(&rest)
        .replace("workers: 2", &format!("workers: 2, timeouts: {{{body}}}"));
    crate::harness::Place::new().start_whole(&text)
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
