//! One form: what the client may send, and what the origin then sees.

use crate::harness::{Origin, Running};

fn behind(origin: &Origin) -> Running {
    Running::with(&format!(
        "upstreams: {{origin: {{servers: ['{}']}}}}\nroutes:\n  - {{name: all, upstream: origin}}\n",
        origin.address()
    ))
}

#[test]
fn the_origin_sees_the_canonical_target() {
    let origin = Origin::echo();
    let gateway = behind(&origin);
    let table = [
        ("/plain", "/plain"),
        ("/a/%7euser", "/a/~user"),
        ("/%41%2D%5f", "/A-_"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a%20b", "/a%20b"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/%2e%2e/b", "/b"),
        ("/a/%2E/b", "/a/b"),
        ("/a/b/..", "/a/"),
        ("//a///b", "/a/b"),
        ("/a/", "/a/"),
        ("/?q=%7e&r=a/../b", "/?q=%7e&r=a/../b"),
        ("/x?", "/x?"),
        ("http://example.com/abs?x=1", "/abs?x=1"),
        // Bytes that Pingora's targets cannot hold.
        ("/a\"b<c>d`e?f`g", "/a%22b%3Cc%3Ed%60e?f`g"),
        ("http://example.com/<a>?x={1}", "/%3Ca%3E?x={1}"),
        ("http://example.com", "/"),
    ];
    for (sent, expected) in table {
        let response = gateway.send(format!("GET {sent} HTTP/1.1\r\nHost: example.com\r\n\r\n"));
        response.expect(200);
        let head = response.text();
        let target = head.split(' ').nth(1).unwrap_or_default();
        assert!(
            target == expected || (sent == "/x?" && target == "/x"),
            "sent {sent}, the origin saw {target}, not {expected}"
        );
        assert!(!target.starts_with("//"), "{target}");
    }
}

#[test]
fn the_log_and_the_route_see_the_same_form_as_the_origin() {
    let origin = Origin::echo();
    let gateway = Running::with(&format!(
        "upstreams: {{origin: {{servers: ['{}']}}}}
routes:
  - {{name: admin, match: {{path: '/admin/{{*rest}}'}}, respond: {{status: 403, body: no}}}}
  - {{name: rest, upstream: origin}}
",
        origin.address()
    ));
    for path in ["/x/../admin/a", "/%61dmin/a", "//admin//a", "/./admin/a", "/x/%2e%2e/admin/a"] {
        let response = gateway.send(format!("GET {path} HTTP/1.1\r\nHost: example.com\r\n\r\n"));
        assert_eq!(response.status, 403, "{path} went past the route for /admin/");
    }
    for line in gateway.access(5) {
        assert_eq!(line["path"], "/admin/a");
        assert_eq!(line["route"], "admin");
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn the_origin_sees_the_canonical_host() {
    let origin = Origin::echo();
    let gateway = behind(&origin);
    for host in ["EXAMPLE.com", "example.com.", "Example.Com.:80"] {
        let response = gateway.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let head = response.expect(200).text().to_ascii_lowercase();
        let seen: Vec<_> = head.lines().filter_map(|line| line.strip_prefix("host: ")).collect();
        assert_eq!(seen.len(), 1, "{head}");
        assert_eq!(seen[0].trim_end_matches(":80"), "example.com", "sent Host: {host}");
        assert!(response.text().contains("xample.com"), "{response:?}");
    }
}

#[test]
fn what_has_two_readings_is_400_and_never_reaches_the_origin() {
    let origin = Origin::echo();
    let gateway = behind(&origin);
    let targets =
        ["/a%2fb", "/a%2Fb", "/a%5cb", "/a\\b", "/a/..;/b", "/a%00b", "/a%zz", "/a%2", "/a%", "a/b", "/a#b"];
    for target in targets {
        let response = gateway.send(format!("GET {target} HTTP/1.1\r\nHost: example.com\r\n\r\n"));
        assert_eq!(response.status, 400, "target {target}: {response:?}");
    }
    let heads: &[(&str, &[u8])] = &[
        ("no Host", b"GET / HTTP/1.1\r\n\r\n"),
        ("two Hosts", b"GET / HTTP/1.1\r\nHost: example.com\r\nHost: example.com\r\n\r\n"),
        ("an empty Host", b"GET / HTTP/1.1\r\nHost: \r\n\r\n"),
        ("a path in Host", b"GET / HTTP/1.1\r\nHost: example.com/x\r\n\r\n"),
        ("a user in Host", b"GET / HTTP/1.1\r\nHost: a@example.com\r\n\r\n"),
        ("a blank in Host", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        ("a list in Host", b"GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n"),
        ("a bad port", b"GET / HTTP/1.1\r\nHost: example.com:99999\r\n\r\n"),
        ("non-ASCII Host", b"GET / HTTP/1.1\r\nHost: ex\xc3\xa4mple.com\r\n\r\n"),
        ("another host in the target", b"GET http://other.example/ HTTP/1.1\r\nHost: example.com\r\n\r\n"),
        ("a blank in the target", b"GET /a b HTTP/1.1\r\nHost: example.com\r\n\r\n"),
        ("a folded field", b"GET / HTTP/1.1\r\nHost: example.com\r\nX-A: 1\r\n  2\r\n\r\n"),
        ("a blank before the colon", b"GET / HTTP/1.1\r\nHost: example.com\r\nX-A : 1\r\n\r\n"),
        ("a NUL in a value", b"GET / HTTP/1.1\r\nHost: example.com\r\nX-A: a\0b\r\n\r\n"),
        ("a bare LF", b"GET / HTTP/1.1\nHost: example.com\n\n"),
        ("a bare CR", b"GET / HTTP/1.1\r\nHost: example.com\r\nX-A: a\rb\r\n\r\n"),
        (
            "two lengths",
            b"POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        ),
        ("a signed length", b"POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: +1\r\n\r\na"),
        (
            "a length and a coding",
            b"POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunked twice",
            b"POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "a coding on HTTP/1.0",
            b"POST / HTTP/1.0\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("no HTTP at all", b"hello there\r\n\r\n"),
    ];
    for (what, head) in heads {
        let response = gateway.send(head);
        assert_eq!(response.status, 400, "{what}: {response:?}");
        // Where it is uncertain where a message ends, nothing after it can be trusted.
        let about_framing = ["LF", "CR", "folded", "colon", "length", "chunked", "coding", "no HTTP"];
        let must_close = about_framing.iter().any(|part| what.contains(part));
        assert!(response.closes() || !must_close, "{what}: the connection stays");
    }
    assert_eq!(origin.connections(), 0, "the origin saw {:?}", origin.heads());
}

#[test]
fn an_unknown_coding_is_501() {
    let origin = Origin::echo();
    let gateway = behind(&origin);
    let head = "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
    gateway.send(head).expect(501);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn heads_are_bounded() {
    let origin = Origin::echo();
    let gateway = behind(&origin);
    let with = |fields: &str| format!("GET / HTTP/1.1\r\nHost: example.com\r\n{fields}\r\n");
    gateway.send(with(&"X-A: 1\r\n".repeat(90))).expect(200);
    gateway.send(with(&"X-A: 1\r\n".repeat(150))).expect(431);
    gateway.send(with(&format!("X-A: {}\r\n", "a".repeat(9 << 10)))).expect(431);
    gateway.send(with(&format!("X-A: {}\r\n", "a".repeat(5 << 10)).repeat(10))).expect(431);
    gateway.send(format!("GET /{} HTTP/1.1\r\nHost: example.com\r\n\r\n", "a".repeat(9 << 10))).expect(414);
    gateway.send(format!("GET /{} HTTP/1.1\r\nHost: example.com\r\n\r\n", "a".repeat(4 << 10))).expect(200);
    assert_eq!(origin.heads().len(), 2);
}

#[test]
fn the_bounds_of_heads_are_the_operators() {
    let text = crate::harness::Place::with_base("routes:\n  - {name: all, respond: {body: ok}}\n").replace(
        "workers: 2",
        "workers: 2, limits: {header_fields: 5, header_bytes: 2KiB, field_bytes: 1KiB, uri_bytes: 256B}",
    );
    let gateway = crate::harness::Place::new().start_whole(&text);
    let with = |fields: &str| format!("GET / HTTP/1.1\r\nHost: example.com\r\n{fields}\r\n");
    gateway.send(with("X-A: 1\r\n")).expect(200);
    gateway.send(with(&"X-A: 1\r\n".repeat(6))).expect(431);
    gateway.send(with(&format!("X-A: {}\r\n", "a".repeat(1500)))).expect(431);
    gateway.send(format!("GET /{} HTTP/1.1\r\nHost: example.com\r\n\r\n", "a".repeat(300))).expect(414);
}

#[test]
fn a_head_that_drips_has_a_deadline() {
    let text = crate::harness::Place::with_base("routes:\n  - {name: all, respond: {body: ok}}\n")
        .replace("workers: 2", "workers: 2, timeouts: {head: 700ms}");
    let gateway = crate::harness::Place::new().start_whole(&text);
    let mut connection = crate::harness::Connection::open(gateway.address());
    let began = std::time::Instant::now();
    for piece in ["GET / HT", "TP/1.1\r\n", "Host: e", "xample", ".com\r\n", "X-A: ", "1", "1", "1", "1"] {
        if connection.try_write(piece).is_err() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(150));
    }
    let response = connection.try_response(false);
    assert!(response.is_err() || response.as_ref().is_ok_and(|r| r.status == 408), "{response:?}");
    assert!(connection.is_closed());
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "it took {:?}", began.elapsed());
}

/// What Pingora would refuse by itself gets our answer and a record, as any other refusal.
#[test]
fn a_target_that_names_another_host_is_refused_with_a_record() {
    let gateway = Running::with("routes:\n  - {name: all, respond: {body: all}}\n");
    let targets =
        ["http://b/", "http://u@a/", "http://a:8x/", "http:///", "http:a", "/?a=\"b\"", "/?<", "/?>"];
    for target in targets {
        let response = gateway.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(response.status, 400, "{target}");
        assert!(response.header("x-request-id").is_some(), "{target}: {response:?}");
    }
    for line in gateway.access(targets.len()) {
        assert_eq!(line["error"]["responseType"], "AMBIGUOUS_REQUEST");
    }
    for same in ["http://a/", "http://A/", "http://a:80/"] {
        gateway.send(format!("GET {same} HTTP/1.1\r\nHost: a\r\n\r\n")).expect(200);
    }
}
