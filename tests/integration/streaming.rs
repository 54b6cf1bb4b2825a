//! Streams pass as they come, and large bodies do not pass through memory.

use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use crate::harness::{Authority, Connection, Origin, Place, Running, eventually, try_handshake};

/// Bytes of a large body: 1 GiB where `PORTCULLIS_TEST_BYTES` says so, less by default, since debug builds are slow.
fn large() -> u64 {
    let said = std::env::var("PORTCULLIS_TEST_BYTES").ok().and_then(|bytes| bytes.parse().ok());
    said.unwrap_or(if cfg!(debug_assertions) { 256 << 20 } else { 1 << 30 })
}

/// Resident memory may grow by this much, in KiB, while a large body passes.
const GROWTH_MAX: u64 = 24 << 10;

fn behind(origin: &Origin) -> Running {
    Running::with(&format!(
        "upstreams: {{o: {{servers: ['{}']}}}}\nroutes:\n  - {{name: echo, match: {{path: /echo}}, echo: true}}\n  - {{name: o, upstream: o}}\n",
        origin.address()
    ))
}

/// Sends a piece each time it is told to.
fn events() -> (Sender<String>, Origin) {
    let (tell, told) = channel::<String>();
    let told = Mutex::new(told);
    let origin = Origin::each(move |head, peer| {
        peer.drain_body(head);
        peer.write(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        while let Ok(event) = told.lock().unwrap().recv() {
            if !peer.write(format!("{:x}\r\n{event}\r\n", event.len())) {
                return false;
            }
        }
        peer.write("0\r\n\r\n")
    });
    (tell, origin)
}

#[test]
fn server_sent_events_pass_one_by_one() {
    let (tell, origin) = events();
    let gateway = behind(&origin);
    let mut connection = Connection::open(gateway.address());
    connection.write("GET /events HTTP/1.1\r\nHost: a.example\r\nAccept: text/event-stream\r\n\r\n");
    // The head comes before any event.
    let head = connection.read_head().unwrap();
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    for n in 0..10 {
        let event = format!("data: {n}\n\n");
        tell.send(event.clone()).unwrap();
        // The next one is sent only after this one has arrived: a buffer anywhere would wait for ever.
        connection.read_until(event.as_bytes()).unwrap();
    }
    drop(tell);
    connection.read_until(b"0\r\n\r\n").unwrap();
    connection.get("/echo").expect(200);
}

#[test]
fn pieces_pass_one_by_one_to_who_has_closed_its_side_and_who_is_gone_is_found_out() {
    let (tell, origin) = events();
    let place = Place::new();
    let text = Place::with_base(&format!(
        "policies: {{rate_limits: {{one: {{key: host, concurrent: 1}}}}}}\nupstreams: {{o: {{servers: ['{}']}}}}\nroutes: [{{name: o, rate_limits: [one], upstream: o}}]\n",
        origin.address()
    ));
    let gateway = place.start_whole(&text);
    let request = "GET /events HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let event = |n: usize| format!("data: {n}\n\n");
    let tcp = TcpStream::connect(gateway.address()).unwrap();
    let mut connection = Connection::over_tcp(tcp.try_clone().unwrap());
    connection.write(request);
    connection.read_head().unwrap();
    tell.send(event(0)).unwrap();
    connection.read_until(event(0).as_bytes()).unwrap();
    tcp.shutdown(Shutdown::Write).unwrap();
    for n in 1..10 {
        tell.send(event(n)).unwrap();
        connection.read_until(event(n).as_bytes()).unwrap();
    }
    let labels = [("policy", "rate_limits.one")];
    let under_way = || gateway.metrics().of("portcullis_rate_limit_under_way", &labels);
    assert_eq!(under_way(), 1.0);
    // The answer goes on, and its client does not.
    drop((connection, tcp));
    eventually("the slot to be free", || {
        tell.send(event(10)).unwrap();
        (under_way() == 0.0).then_some(())
    });
}

#[test]
fn a_request_body_passes_piece_by_piece() {
    let (seen, see) = channel::<usize>();
    let seen = Mutex::new(seen);
    let origin = Origin::serve(move |peer| {
        peer.read_head();
        let mut total = 0;
        while total < 30 {
            let Some(bytes) = peer.take() else { return };
            total += bytes.len();
            seen.lock().unwrap().send(total).ok();
        }
        peer.answer(200, "done");
    });
    let gateway = behind(&origin);
    let mut connection = Connection::open(gateway.address());
    connection.write("POST /up HTTP/1.1\r\nHost: a.example\r\nContent-Length: 30\r\n\r\n");
    for n in 1..=3 {
        connection.write("0123456789");
        let total = see.recv_timeout(std::time::Duration::from_secs(5)).expect("a piece was held back");
        assert_eq!(total, n * 10);
    }
    assert_eq!(connection.response().text(), "done");
}

/// Chunks of one byte: six bytes for each byte of content.
const TINY: usize = 20_000;

#[test]
fn tiny_chunks_do_not_reach_the_origin_one_by_one() {
    // Says how many chunks came, and what was in them.
    let origin = Origin::each(|_, peer| {
        let Some(chunks) = peer.chunks() else { return false };
        let count = format!("X-Chunks: {}\r\n", chunks.len());
        peer.answer_with(200, &count, &String::from_utf8(chunks.concat()).unwrap())
    });
    let gateway = behind(&origin);
    let content: String = ('a'..='z').cycle().take(TINY).collect();
    let chunks: String = content.chars().map(|byte| format!("1\r\n{byte}\r\n")).collect();
    let mut connection = Connection::open(gateway.address());
    connection.write(format!(
        "POST /tiny HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\nX: y\r\n\r\n"
    ));
    let response = connection.response();
    assert_eq!(response.expect(200).text(), content);
    let count: usize = response.header("x-chunks").unwrap().parse().unwrap();
    assert!(count < TINY / 50, "{count} chunks");
    assert_eq!(gateway.access_of("/tiny")["requestLength"], TINY);
    connection.get("/echo").expect(200);
}

#[test]
fn a_large_download_takes_no_memory() {
    let length = large();
    let origin = Origin::each(move |head, peer| {
        peer.drain_body(head);
        let piece = vec![b'x'; 1 << 20];
        let mut left = length;
        peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
        while left > 0 {
            let now = left.min(piece.len() as u64);
            if !peer.write(&piece[..usize::try_from(now).unwrap()]) {
                return false;
            }
            left -= now;
        }
        true
    });
    let gateway = behind(&origin);
    gateway.get("/echo").expect(200);
    let before = gateway.memory("VmRSS");
    let mut connection = Connection::open(gateway.address());
    connection.write("GET /down HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let head = connection.read_head().unwrap();
    assert_eq!(head.header("content-length"), Some(length.to_string().as_str()));
    connection.discard(length).unwrap();
    let highest = gateway.memory("VmHWM");
    assert!(highest < before + GROWTH_MAX, "{before} KiB before, {highest} KiB at the highest");
    assert_eq!(gateway.access_of("/down")["responseLength"], length);
    connection.get("/echo").expect(200);
}

#[test]
fn a_large_upload_takes_no_memory() {
    let length = large();
    let origin = Origin::each(|head, peer| {
        let bytes = peer.drain_body(head);
        peer.answer(200, &bytes.to_string())
    });
    let gateway = behind(&origin);
    gateway.get("/echo").expect(200);
    let before = gateway.memory("VmRSS");
    let mut connection = Connection::open(gateway.address());
    connection.write(format!("PUT /up HTTP/1.1\r\nHost: a.example\r\nContent-Length: {length}\r\n\r\n"));
    let piece = vec![b'x'; 1 << 20];
    let mut left = length;
    while left > 0 {
        let now = left.min(piece.len() as u64);
        connection.write(&piece[..usize::try_from(now).unwrap()]);
        left -= now;
    }
    assert_eq!(connection.response().expect(200).text(), length.to_string());
    let highest = gateway.memory("VmHWM");
    assert!(highest < before + GROWTH_MAX, "{before} KiB before, {highest} KiB at the highest");
    assert_eq!(gateway.access_of("/up")["requestLength"], length);
}

#[test]
fn a_slow_reader_holds_the_origin_back_instead_of_filling_memory() {
    let length: u64 = 512 << 20;
    let origin = Origin::each(move |head, peer| {
        peer.drain_body(head);
        peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
        while peer.write(vec![b'x'; 1 << 20]) {}
        false
    });
    let gateway = behind(&origin);
    gateway.get("/echo").expect(200);
    let before = gateway.memory("VmRSS");
    let mut connection = Connection::open(gateway.address());
    connection.write("GET /slow HTTP/1.1\r\nHost: a.example\r\n\r\n");
    connection.read_head().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let highest = gateway.memory("VmHWM");
    assert!(highest < before + GROWTH_MAX, "{before} KiB before, {highest} KiB at the highest");
}

#[test]
fn streams_pass_over_tls_too() {
    let (tell, origin) = events();
    let (place, authority) = (Place::new(), Authority::new());
    authority.issue(&["gate.example"]).write(&place, "gate");
    let text = Place::with_base(&format!(
        "upstreams: {{o: {{servers: ['{}']}}}}\nroutes:\n  - {{name: o, upstream: o}}\n",
        origin.address()
    ))
    .replace(
        "address: 127.0.0.1:0\n",
        "address: 127.0.0.1:0\n    tls: {certificates: [{cert: gate.crt, key: gate.key}]}\n",
    );
    let gateway = place.start_whole(&text);
    let stream = try_handshake(&authority.connector(|_| {}), gateway.address(), "gate.example").unwrap();
    let mut connection = Connection::over_tls(stream);
    connection.write("GET /events HTTP/1.1\r\nHost: gate.example\r\n\r\n");
    connection.read_head().unwrap();
    for n in 0..5 {
        let event = format!("data: {n}\n\n");
        tell.send(event.clone()).unwrap();
        connection.read_until(event.as_bytes()).unwrap();
    }
}
