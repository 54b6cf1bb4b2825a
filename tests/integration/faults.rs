//! Upstreams that misbehave: 502 with the reason in the log, the connection not used again, nothing crashes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::harness::{Connection, Origin, Running, eventually};

fn behind(origin: &Origin) -> Running {
    Running::with(&format!(
        "upstreams: {{o: {{servers: ['{}'], retries: {{attempts: 1}}, timeouts: {{read: 2s}}}}}}
routes:
  - {{name: hello, match: {{path: /hello}}, respond: {{body: hello}}}}
  - {{name: o, upstream: o}}
",
        origin.address()
    ))
}

#[test]
fn garbage_is_502_with_a_reason_and_its_connection_is_not_used_again() {
    let huge_field = format!("HTTP/1.1 200 OK\r\nX-A: {}\r\n\r\n", "a".repeat(2 << 20));
    let many_fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-A: 1\r\n".repeat(5000));
    let table: &[(&str, &[u8])] = &[
        ("no HTTP", b"garbage garbage\r\n\r\n"),
        ("an SSH banner", b"SSH-2.0-OpenSSH_9.2\r\n"),
        ("a status that is none", b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n"),
        ("a status of two digits", b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
        ("a field that is none", b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n"),
        ("a NUL", b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 0\r\n\r\n"),
        ("half a head", b"HTTP/1.1 200 OK\r\nContent-Le"),
        ("nothing", b""),
        ("an oversize field", huge_field.as_bytes()),
        ("too many fields", many_fields.as_bytes()),
    ];
    for (what, bytes) in table {
        let origin = Origin::bytes(*bytes);
        let mut gateway = behind(&origin);
        let response = gateway.get("/bad");
        assert_eq!(response.status, 502, "{what}: {:?}", response.headers);
        let line = gateway.access_of("/bad");
        assert_eq!(line["error"]["responseType"], "INTEGRATION_FAILURE", "{what}: {line}");
        let reason = line["integration"]["error"].as_str().or_else(|| line["error"]["message"].as_str());
        assert!(reason.is_some_and(|reason| !reason.is_empty()), "{what}: no reason in {line}");
        gateway.get("/bad").expect(502);
        assert_eq!(origin.connections(), 2, "{what}: the connection was used again");
        gateway.get("/hello").expect(200);
        assert!(gateway.lives(), "{what}");
    }
}

#[test]
fn two_framings_from_an_upstream_are_not_passed_on() {
    let origin = Origin::bytes(
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    );
    let gateway = behind(&origin);
    let response = gateway.get("/two");
    let both = response.header("content-length").is_some() && response.header("transfer-encoding").is_some();
    assert!(!both, "{response:?}");
    assert!(response.status == 502 || response.text() == "abc", "{response:?}");
}

#[test]
fn two_lengths_from_an_upstream_are_502() {
    let origin = Origin::bytes("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd");
    let gateway = behind(&origin);
    gateway.get("/lengths").expect(502);
}

#[test]
fn what_follows_a_response_is_not_the_next_clients_answer() {
    let origin = Origin::each(|head, peer| {
        peer.drain_body(head);
        // A second response that nobody asked for, right behind the first.
        peer.write(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright\
             HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong",
        )
    });
    let gateway = behind(&origin);
    for _ in 0..6 {
        assert_eq!(gateway.get("/").text(), "right");
        std::thread::sleep(Duration::from_millis(30));
    }
}

#[test]
fn a_truncated_body_is_not_made_whole() {
    for head in ["Content-Length: 100\r\n\r\nonly this", "Transfer-Encoding: chunked\r\n\r\n64\r\nonly this"]
    {
        let origin = Origin::bytes(format!("HTTP/1.1 200 OK\r\n{head}"));
        let gateway = behind(&origin);
        let mut connection = Connection::open(gateway.address());
        connection.write("GET /cut HTTP/1.1\r\nHost: a.example\r\n\r\n");
        let response = connection.try_response(false);
        assert!(
            response.is_err() || response.as_ref().is_ok_and(|r| r.status == 502),
            "a cut body was passed off as whole: {response:?}"
        );
        let line = gateway.access_of("/cut");
        assert!(line["integration"]["error"].is_string() || line["error"].is_object(), "{line}");
    }
}

#[test]
fn a_reset_upstream_is_502() {
    let origin = Origin::each(|head, peer| {
        peer.drain_body(head);
        peer.reset();
        false
    });
    let mut gateway = behind(&origin);
    for _ in 0..3 {
        gateway.get("/reset").expect(502);
    }
    assert!(gateway.lives());
}

#[test]
fn an_answer_before_the_body_has_ended_reaches_the_client() {
    let origin = Origin::each(|_, peer| {
        peer.answer_with(413, "Connection: close\r\n", "too large");
        // Reads on for a while, so that the answer is not lost to a reset.
        while peer.take().is_some() {}
        false
    });
    let gateway = behind(&origin);
    let mut connection = Connection::open(gateway.address());
    connection.write("POST /early HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3000000\r\n\r\n");
    // The answer may come, and the connection end, before all is written.
    connection.try_write(vec![b'x'; 3_000_000]).ok();
    let response = connection.response();
    assert_eq!((response.status, response.text().as_str()), (413, "too large"));
}

#[test]
fn informational_responses_and_chunks_and_trailers_pass() {
    let origin = Origin::each(|head, peer| {
        peer.drain_body(head);
        peer.write("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
            && peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n")
            && peer.write("5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nX-T: 1\r\n\r\n")
    });
    let gateway = behind(&origin);
    let mut connection = Connection::open(gateway.address());
    for _ in 0..3 {
        let response = connection.get("/chunks");
        assert_eq!((response.status, response.text().as_str()), (200, "hello world"));
    }
}

#[test]
fn a_response_that_ends_with_the_connection_passes() {
    let origin = Origin::bytes("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end");
    let gateway = behind(&origin);
    assert_eq!(gateway.get("/").expect(200).text(), "until the end");
}

#[test]
fn an_upstreams_version_is_not_the_clients() {
    let origin = Origin::bytes("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let gateway = behind(&origin);
    let mut client = TcpStream::connect(gateway.address()).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
}

#[test]
fn a_client_that_leaves_harms_nobody() {
    let origin = Origin::each(|head, peer| {
        peer.drain_body(head);
        std::thread::sleep(Duration::from_millis(200));
        peer.answer(200, &"x".repeat(1 << 20))
    });
    let mut gateway = behind(&origin);
    for _ in 0..20 {
        let mut connection = Connection::open(gateway.address());
        connection.write("GET /left HTTP/1.1\r\nHost: a.example\r\n\r\n");
    }
    gateway.access(20);
    gateway.await_metric("portcullis_requests_in_flight", &[], 0.0);
    gateway.get("/hello").expect(200);
    assert!(gateway.lives());
}

fn descriptors(gateway: &Running) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count()
}

#[test]
fn a_process_without_descriptors_waits_and_recovers() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let mut gateway =
        Running::with("routes:\n  - {name: hello, match: {path: /hello}, respond: {body: hello}}\n");
    gateway.get("/hello").expect(200);
    let limit = descriptors(&gateway) as u64 + 20;
    let pid = Pid::from_raw(i32::try_from(gateway.pid()).unwrap());
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) }).unwrap();
    let crowd: Vec<_> = (0..60).map(|_| TcpStream::connect(gateway.address()).unwrap()).collect();
    gateway.await_line("raise LimitNOFILE");
    // The last ones are not for clients: whoever operates the gateway sees what goes on and can change it.
    assert_eq!(gateway.ready(), Some(200));
    let waited = &[("reason", "descriptors")];
    assert!(gateway.metrics().of("portcullis_connections_refused_total", waited) > 0.0);
    gateway.reload("routes:\n  - {name: hello, match: {path: /hello}, respond: {body: again}}\n");
    drop(crowd);
    eventually("an answer", || {
        let mut connection = Connection::try_open(gateway.address())?;
        (connection.try_get("/hello")?.text() == "again").then_some(())
    });
    assert!(gateway.lives());
}

#[test]
fn connections_leave_no_descriptor_behind() {
    let origin = Origin::named("origin");
    let gateway = Running::with(&format!(
        "upstreams: {{origin: {{servers: ['{}'], keep_alive: {{connections: 0}}}}}}\nroutes:\n  - {{name: origin, upstream: origin}}\n",
        origin.address()
    ));
    gateway.get("/").expect(200);
    eventually("the first connection to be gone", || {
        (gateway.metrics().of("portcullis_connections", &[]) == 0.0).then_some(())
    });
    let before = descriptors(&gateway);
    for _ in 0..300 {
        gateway.get("/").expect(200);
    }
    // The scrape that asks has connections of its own.
    eventually(&format!("{before} descriptors, give or take 4"), || {
        (descriptors(&gateway) <= before + 4).then_some(())
    });
}

#[test]
fn an_upstream_of_http_1_0_is_answered_for_in_our_version() {
    let origin = Origin::bytes("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let gateway = behind(&origin);
    let mut connection = Connection::open(gateway.address());
    connection.write("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(connection.read_until(b"\r\n").unwrap(), b"HTTP/1.1 200 OK\r\n");
}
