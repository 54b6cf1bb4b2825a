//! What a head may say: hosts, names and numbers of fields, methods, versions, expectations; over HTTP/1 and HTTP/2.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use crate::harness::{Authority, Connection, Origin, Place, Running};
use crate::http2;

fn behind(origin: &Origin) -> String {
    format!(
        "policies: {{headers: {{own: {{request: {{set: {{x-client: '{{identity.sourceIp}}'}}}}}}}}}}
upstreams: {{origin: {{servers: ['{}']}}}}
routes:
  - {{name: get, match: {{hosts: [only.example], path: '/{{*rest}}', methods: [GET]}}, upstream: origin}}
  - {{name: version, match: {{hosts: [a], path: /version, headers: {{x-version: '2'}}}}, upstream: origin}}
  - {{name: all, match: {{hosts: [a, b, example.com, gate.example, old.example]}}, upstream: origin, headers: [own]}}
",
        origin.address()
    )
}

/// With a line more in `server`, and one more for the first listener.
fn start(origin: &Origin, server: &str, listener: &str) -> Running {
    let text = Place::with_base(&behind(origin))
        .replace("workers: 2", &format!("workers: 2{server}"))
        .replace("  - address: 127.0.0.1:0\n", &format!("  - address: 127.0.0.1:0\n{listener}"));
    Place::new().start_whole(&text)
}

/// All values of a field in a head.
fn values(head: &str, name: &str) -> Vec<String> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_owned()).collect()
}

#[test]
fn http_1_0_without_a_host_has_that_of_its_listener() {
    let origin = Origin::echo();
    let strict = start(&origin, "", "");
    strict.send("GET /x HTTP/1.0\r\n\r\n").expect(400);
    let line = &strict.access(1)[0];
    assert_eq!(line["error"]["responseType"], "AMBIGUOUS_REQUEST");
    assert_eq!(origin.connections(), 0);

    let gateway = start(&origin, "", "    default_host: Old.Example.:8080\n");
    let head = gateway.send("GET /x HTTP/1.0\r\n\r\n").expect(200).text();
    assert_eq!(values(&head, "host"), ["old.example:8080"]);
    assert_eq!(gateway.access_of("/x")["domainName"], "old.example");
    // Who names one is taken at that word.
    let head = gateway.send("GET /y HTTP/1.0\r\nHost: a\r\n\r\n").expect(200).text();
    assert_eq!(values(&head, "host"), ["a"]);
    let head = gateway.send("GET http://b/y HTTP/1.0\r\n\r\n").expect(200).text();
    assert_eq!(values(&head, "host"), ["b"]);
    gateway.send("GET /x HTTP/1.0\r\nHost:\r\n\r\n").expect(400);
    // HTTP/1.1 has to say one (RFC 9112 §3.2).
    gateway.send("GET /x HTTP/1.1\r\n\r\n").expect(400);
    gateway.send("GET http://b/x HTTP/1.1\r\n\r\n").expect(400);
}

#[test]
fn names_with_underscores_are_dropped_or_refused() {
    let origin = Origin::echo();
    let request = "GET / HTTP/1.1\r\nHost: a\r\nX_Client: 6.6.6.6\r\nx_y: 1\r\nX-Kept: 1\r\n\r\n";
    let dropping = start(&origin, "", "");
    let head = dropping.send(request).expect(200).text();
    assert!(!head.contains('_') && !head.contains("6.6.6.6"), "{head}");
    assert_eq!(values(&head, "x-kept"), ["1"]);

    let refusing = start(&origin, ", headers_with_underscores: refuse", "");
    refusing.send(request).expect(400);
    let line = refusing.access_of("/");
    assert_eq!(line["error"]["message"], "the field `x_client` has a `_` in its name");
    refusing.await_metric(
        "portcullis_refusals_total",
        &[("policy", "gateway"), ("reason", "underscore")],
        1.0,
    );
    refusing.get("/").expect(200);
    assert_eq!(origin.heads().len(), 2);
}

/// Behind CGI `X.Client`, `X-Client` and `X_Client` are one variable.
#[test]
fn no_spelling_of_a_field_of_ours_passes() {
    let origin = Origin::echo();
    let gateway = start(&origin, "", "");
    for name in [
        "X-Client",
        "X_Client",
        "X.Client",
        "x~client",
        "X-Forwarded-For",
        "X.Forwarded.For",
        "X|Real|IP",
        "Forwarded",
        "X-Original-URL",
        "X-Request-Id",
        "x.request.id",
        "Via-Not",
    ] {
        let head =
            gateway.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: 6.6.6.6\r\n\r\n")).expect(200).text();
        assert_eq!(head.contains("6.6.6.6"), name == "Via-Not", "{name}:\n{head}");
        assert_eq!(values(&head, "x-client"), ["127.0.0.1"], "{name}");
    }
}

#[test]
fn what_connection_nominates_takes_nothing_away_that_counts() {
    let origin = Origin::each(|head, peer| {
        let fields = "Connection: X-Hop, Content-Type, Set-Cookie, X-Request-Id, Content-Length, X-Route, Vary, Date\r\n\
                      X-Hop: 1\r\nSet-Cookie: s=1\r\nVary: x\r\n";
        peer.drain_body(head);
        peer.answer_with(200, fields, head)
    });
    let text = behind(&origin).replace(
        "headers: {own: {request:",
        "headers: {own: {response: {set: {x-route: '{route}'}}, request:",
    );
    let gateway = Running::with(&text);
    let kept = [
        ("host", "a"),
        ("authorization", "Basic eA=="),
        ("cookie", "c=1"),
        ("content-type", "a/b"),
        ("content-encoding", "identity"),
        ("content-length", "2"),
        ("content-md5", "x"),
        ("origin", "https://o.example"),
        ("x-api-key", "k"),
        ("if-match", "\"e\""),
        ("range", "bytes=0-1"),
        ("user-agent", "u"),
    ];
    let ours = [
        "x-client",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "forwarded",
        "via",
        "x-request-id",
    ];
    let mut request = "POST / HTTP/1.1\r\n".to_owned();
    let mut nominated = vec!["x-mine".to_owned(), "transfer-encoding".to_owned()];
    for (name, value) in kept {
        request.push_str(&format!("{name}: {value}\r\n"));
        nominated.push(name.to_owned());
    }
    nominated.extend(ours.map(str::to_owned));
    request.push_str(&format!("X-Mine: 1\r\nConnection: {}\r\n\r\nhi", nominated.join(", ")));
    let response = gateway.send(request);
    let head = response.expect(200).text();
    for (name, value) in kept {
        assert_eq!(values(&head, name), [value], "{name}:\n{head}");
    }
    for name in ours {
        assert_eq!(values(&head, name).len(), 1, "{name}:\n{head}");
    }
    assert!(values(&head, "x-mine").is_empty(), "{head}");
    // The other way round.
    for (name, value) in
        [("content-type", "text/plain"), ("set-cookie", "s=1"), ("x-route", "all"), ("vary", "x")]
    {
        assert_eq!(response.header(name), Some(value), "{response:?}");
    }
    assert!(response.header("x-request-id").is_some(), "{response:?}");
    assert_eq!(response.header("x-hop"), None, "{response:?}");
    // What chose the route stays.
    let chosen = "GET /version HTTP/1.1\r\nHost: a\r\nX-Version: 2\r\nConnection: X-Version\r\n\r\n";
    assert_eq!(values(&gateway.send(chosen).expect(200).text(), "x-version"), ["2"]);
    assert_eq!(gateway.access_of("/version")["route"], "version");
}

#[test]
fn methods_are_tokens_and_trace_and_connect_are_405() {
    let origin = Origin::echo();
    let gateway = start(&origin, "", "");
    let table = [
        ("TRACE / HTTP/1.1", 405),
        ("CONNECT a:443 HTTP/1.1", 405),
        ("CONNECT / HTTP/1.1", 405),
        ("HEAD / HTTP/1.1", 200),
        ("PROPFIND / HTTP/1.1", 200),
        ("get / HTTP/1.1", 200),
        ("trace / HTTP/1.1", 200),
        ("M-SEARCH / HTTP/1.1", 200),
        ("G(T / HTTP/1.1", 400),
        ("G\u{e9}T / HTTP/1.1", 400),
        ("GET\t/ HTTP/1.1", 400),
        (" GET / HTTP/1.1", 400),
        ("@ / HTTP/1.1", 400),
        ("\"GET\" / HTTP/1.1", 400),
    ];
    for (line, status) in table {
        let mut client = Connection::open(gateway.address());
        client.write(format!("{line}\r\nHost: a:443\r\n\r\n"));
        let response = client.try_response(line.starts_with("HEAD")).unwrap();
        assert_eq!(response.status, status, "{line}: {response:?}");
        assert_eq!(response.header("allow").is_some(), status == 405, "{line}: {response:?}");
    }
    let response = gateway.send("PUT /x HTTP/1.1\r\nHost: only.example\r\n\r\n");
    assert_eq!(response.expect(405).header("allow"), Some("GET, HEAD"));
    let lines = gateway.access(table.len() + 1);
    for method in ["TRACE", "CONNECT"] {
        let line = lines.iter().find(|line| line["httpMethod"] == method).unwrap();
        assert_eq!(
            (&line["status"], &line["error"]["responseType"]),
            (&405.into(), &"METHOD_NOT_ALLOWED".into())
        );
    }
    assert!(!origin.heads().iter().any(|head| head.starts_with("TRACE") || head.starts_with("CONNECT")));
}

#[test]
fn versions_that_are_not_spoken_are_505_and_what_is_none_is_400() {
    let origin = Origin::echo();
    let gateway = start(&origin, "", "");
    let table = [
        ("HTTP/1.1", 200),
        ("HTTP/1.0", 200),
        ("HTTP/0.9", 505),
        ("HTTP/1.2", 505),
        ("HTTP/1.9", 505),
        ("HTTP/2.0", 505),
        ("HTTP/3.0", 505),
        ("HTTP/9.9", 505),
        ("http/1.1", 400),
        ("HTTP/11", 400),
        ("HTTP/1", 400),
        ("HTTP/1.10", 400),
        ("HTTP/01.1", 400),
        ("HTTP /1.1", 400),
        ("HTTP/1.1 x", 400),
        ("HTTPS/1.1", 400),
        ("ICE/1.0", 400),
        ("", 400),
    ];
    for (version, status) in table {
        let response = gateway.send(format!("GET / {version}\r\nHost: a\r\n\r\n"));
        assert_eq!(response.status, status, "{version}: {response:?}");
        assert!(status == 200 || response.closes(), "{version}: {response:?}");
    }
    let response = gateway.send("GET / HTTP/2.0\r\nHost: a\r\n\r\n");
    assert_eq!(response.json()["type"], "urn:portcullis:problem:version-not-supported");
    gateway.await_metric(
        "portcullis_refusals_total",
        &[("policy", "gateway"), ("reason", "http_version")],
        7.0,
    );
    assert_eq!(origin.heads().len(), 2);
}

#[test]
fn an_expectation_is_met_once_or_417() {
    let origin = Origin::echo();
    let gateway = start(&origin, "", "");
    let post =
        |expect: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nExpect: {expect}\r\nContent-Length: 4\r\n\r\n");
    for expect in ["100-continue", "100-CONTINUE", "100-continue, 100-continue", ", 100-continue"] {
        let mut client = Connection::open(gateway.address());
        client.write(post(expect));
        assert_eq!(client.read_head().unwrap().status, 100, "{expect}");
        client.write("body");
        let response = client.response();
        assert_eq!(response.expect(200).informational, [0_u16; 0], "a second 100");
        assert!(values(&response.text(), "expect").is_empty(), "{response:?}");
    }
    let before = origin.heads().len();
    for expect in ["200-ok", "100-continue, magic", "100", "100-continue;a"] {
        let response = gateway.send(post(expect));
        assert_eq!(response.status, 417, "{expect}: {response:?}");
        assert!(response.closes(), "{response:?}");
        assert_eq!(response.json()["type"], "urn:portcullis:problem:expectation-failed");
    }
    assert_eq!(origin.heads().len(), before);
    // RFC 9110 §10.1.1: no 100 for HTTP/1.0, which knows none.
    let response =
        gateway.send("POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(response.expect(200).informational, [0_u16; 0]);
    gateway.await_metric(
        "portcullis_refusals_total",
        &[("policy", "gateway"), ("reason", "expectation")],
        4.0,
    );
}

#[test]
fn an_expectation_is_met_over_http2_too_once_and_only_for_a_body_that_is_called_for() {
    use crate::harness::frames::{Ending, Frame, Frames, HEADERS};
    let origin = Origin::echo();
    let (authority, gateway) = http2::start(&behind(&origin));
    let post = |path: &'static [u8], end: bool| {
        let fields: [(&[u8], &[u8]); 5] = [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":path", path),
            (b":authority", b"gate.example"),
            (b"expect", b"100-continue"),
        ];
        Frame::head(1, &fields, end)
    };
    let open = || Frames::connect(gateway.address(), &authority, &[]);
    let mut waiting = open();
    waiting.send(&post(b"/", false)).unwrap();
    let interim = waiting.await_frame(HEADERS);
    assert_eq!((interim.status(), interim.flags & 1), (100, 0));
    waiting.send(&Frame::data(1, b"body", true)).unwrap();
    let Ending::Answer { status: 200, body } = waiting.ending(1) else { panic!("no answer behind the 100") };
    assert!(values(&body, "expect").is_empty(), "{body}");
    // Without a body, and where the body is not called for, the final answer is the first.
    let mut bodiless = open();
    bodiless.send(&post(b"/", true)).unwrap();
    assert_eq!(bodiless.await_frame(HEADERS).status(), 200);
    let mut refused = open();
    refused.send(&post(b"/a%00b", false)).unwrap();
    assert_eq!(refused.await_frame(HEADERS).status(), 400);
}

#[test]
fn max_forwards_of_options_is_counted_down_and_ends_here_at_nothing() {
    let origin = Origin::echo();
    let gateway = start(&origin, "", "");
    let ask = |line: &str, left: &str| {
        gateway.send(format!("{line} HTTP/1.1\r\nHost: a\r\nMax-Forwards: {left}\r\n\r\n"))
    };
    for (line, left, told) in [("OPTIONS /x", "7", "6"), ("OPTIONS *", "1", "0"), ("GET /x", "0", "0")] {
        assert_eq!(values(&ask(line, left).expect(200).text(), "max-forwards"), [told], "{line}");
    }
    let before = origin.heads().len();
    let response = ask("OPTIONS /x", "0");
    assert!(response.expect(200).all("allow").contains("PATCH"), "{response:?}");
    assert_eq!(origin.heads().len(), before, "it went further");
}

/// A field line of exactly this many bytes.
fn field(name: &str, bytes: usize) -> String {
    format!("{name}: {}", "v".repeat(bytes - name.len() - 2))
}

#[test]
fn a_head_at_its_bounds_passes_and_one_byte_more_does_not() {
    let origin = Origin::echo();
    let gateway = start(&origin, "", "");
    let get = |target: &str, fields: &[String]| {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
    };
    let path = |bytes: usize| format!("/{}", "p".repeat(bytes - 1));
    let fields = |count: usize| (0..count).map(|n| format!("x-{n}: 1")).collect::<Vec<_>>();
    // Filled to so many bytes in all.
    let head = |bytes: usize| {
        let mut fields = vec![field("x-a", 8192), field("x-b", 8192), field("x-c", 8192)];
        let rest = bytes - get("/", &fields).len() - 2;
        fields.push(field("x-d", rest));
        get("/", &fields)
    };
    let table = [
        ("8 KiB of target", get(&path(8192), &[]), 200),
        ("a byte more", get(&path(8193), &[]), 414),
        ("8 KiB of target and query", get(&format!("{}?{}", path(4096), "q".repeat(4095)), &[]), 200),
        ("a byte more of query", get(&format!("{}?{}", path(4096), "q".repeat(4096)), &[]), 414),
        ("100 fields", get("/", &fields(99)), 200),
        ("101 fields", get("/", &fields(100)), 431),
        ("a field of 8 KiB", get("/", &[field("x-a", 8192)]), 200),
        ("a byte more in it", get("/", &[field("x-a", 8193)]), 431),
        ("without a space, 8 KiB", get("/", &[format!("x-a:{}", "v".repeat(8188))]), 200),
        ("32 KiB", head(32768), 200),
        ("a byte more in all", head(32769), 431),
    ];
    for (what, request, status) in &table {
        assert_eq!(gateway.send(request).status, *status, "{what}");
    }
    let passed = table.iter().filter(|(_, _, status)| *status == 200).count();
    assert_eq!(origin.heads().len(), passed);
    for (reason, count) in
        [("uri_bytes", 2.0), ("header_fields", 1.0), ("field_bytes", 1.0), ("header_bytes", 1.0)]
    {
        gateway.await_metric(
            "portcullis_refusals_total",
            &[("policy", "gateway"), ("reason", reason)],
            count,
        );
    }
}

#[test]
fn the_same_bounds_hold_over_http2() {
    let origin = Origin::echo();
    let (authority, gateway) = http2::start(&behind(&origin));
    let mut client = http2::client(&authority, &gateway);
    let path = |bytes: usize| format!("/{}", "p".repeat(bytes - 1));
    client.get(&path(8192)).expect(200);
    client.get(&path(8193)).expect(414);
    let value = "v".repeat(8192 - 3 - 2);
    client.request("GET", "/", &[("x-a", &value)], b"").expect(200);
    let value = "v".repeat(8192 - 3 - 1);
    client.request("GET", "/", &[("x-a", &value)], b"").expect(431);
    let names: Vec<_> = (0..101).map(|n| format!("x-{n}")).collect();
    let fields = |count: usize| names.iter().take(count).map(|name| (name.as_str(), "1")).collect::<Vec<_>>();
    client.request("GET", "/", &fields(100), b"").expect(200);
    client.request("GET", "/", &fields(101), b"").expect(431);
    // Crumbs count one by one (RFC 9113 §8.2.3) and arrive as one.
    let crumbs: Vec<_> = names.iter().take(100).map(|name| ("cookie", name.as_str())).collect();
    let head = client.request("GET", "/", &crumbs, b"").expect(200).text();
    assert_eq!(values(&head, "cookie").len(), 1, "{head}");
    let crumbs: Vec<_> = names.iter().map(|name| ("cookie", name.as_str())).collect();
    client.request("GET", "/", &crumbs, b"").expect(431);
    // What they make is one field, over HTTP/1 too: `cookie:` and two pieces with a seam.
    let half = "v".repeat(4092);
    let (whole, over) = ([half.as_str(), &half[1..]], [half.as_str(), half.as_str()]);
    let head = client.request("GET", "/", &whole.map(|crumb| ("cookie", crumb)), b"").expect(200).text();
    assert_eq!(values(&head, "cookie"), [whole.join("; ")]);
    client.request("GET", "/", &over.map(|crumb| ("cookie", crumb)), b"").expect(431);
    let plain = start(&origin, "", "");
    for (crumbs, status) in [(whole, 200), (over, 431)] {
        let fields = crumbs.map(|crumb| format!("Cookie: {crumb}\r\n")).concat();
        plain.send(format!("GET /crumbs HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).expect(status);
    }
    let labels = [("policy", "gateway"), ("reason", "field_bytes")];
    plain.await_metric("portcullis_refusals_total", &labels, 1.0);
    // In all: four fields of 8 KiB are more than 32 KiB.
    let value = "v".repeat(8100);
    let large = |count: usize| (0..count).map(|n| (names[n].as_str(), value.as_str())).collect::<Vec<_>>();
    client.request("GET", "/", &large(3), b"").expect(200);
    client.request("GET", "/", &large(5), b"").expect(431);
    // The connection has outlived them all.
    client.get("/").expect(200);
}

#[test]
fn hosts_methods_and_expectations_are_the_same_over_http2() {
    let origin = Origin::echo();
    let (authority, gateway) = http2::start(&behind(&origin));
    let mut client = http2::client(&authority, &gateway);
    let head = client.request("GET", "/", &[("host", "gate.example")], b"").expect(200).text();
    assert_eq!(values(&head, "host"), ["gate.example"]);
    client.request("GET", "/other", &[("host", "other.example")], b"").expect(400);
    client.request("GET", "/", &[("host", "a"), ("host", "a")], b"").expect(400);
    let response = client.request("TRACE", "/trace", &[], b"");
    assert!(response.expect(405).header("allow").is_some(), "{response:?}");
    client.request("POST", "/", &[("expect", "200-ok")], b"x").expect(417);
    let head = client.request("POST", "/", &[("expect", "100-continue")], b"x").expect(200).text();
    assert!(values(&head, "expect").is_empty(), "{head}");
    let head = client.request("GET", "/", &[("x_client", "6.6.6.6"), ("x.client", "6.6.6.6")], b"").text();
    assert!(!head.contains("6.6.6.6"), "{head}");
    let response = client.connect_to("gate.example:443");
    assert!(response.expect(405).header("allow").is_some(), "{response:?}");
    let lines = gateway.access(8);
    for method in ["TRACE", "CONNECT"] {
        let line = lines.iter().find(|line| line["httpMethod"] == method).unwrap();
        assert_eq!((&line["status"], &line["protocol"]), (&405.into(), &"HTTP/2.0".into()));
    }
}

#[test]
fn a_head_that_ends_with_its_connection_is_400_and_has_a_record_and_silence_has_none() {
    let (place, authority) = (Place::new(), Authority::new());
    authority.issue(&["gate.example"]).write(&place, "gate");
    let tls = "  - address: 127.0.0.1:0\n  - address: 127.0.0.2:0\n    tls: {certificates: [{cert: gate.crt, key: gate.key}]}\n";
    let text =
        Place::with_base("routes: [{name: a, respond: {}}]\n").replace("  - address: 127.0.0.1:0\n", tls);
    let gateway = place.start_whole(&text);
    for half in ["", "\r\n", "G", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        let mut client = TcpStream::connect(gateway.address()).unwrap();
        client.write_all(half.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.starts_with("HTTP/1.1 400 "), !half.trim().is_empty(), "{half:?}: {answer}");
        let mut client = authority.connect(gateway.listener(1), "gate.example");
        client.write_all(half.as_bytes()).unwrap();
        drop(client);
    }
    let labels = [("policy", "gateway"), ("reason", "head_unfinished")];
    gateway.await_metric("portcullis_refusals_total", &labels, 4.0);
    for line in gateway.access(4) {
        assert_eq!(
            (&line["error"]["reason"], &line["status"]),
            (&"head_unfinished".into(), &400.into()),
            "{line}"
        );
    }
    assert_eq!(gateway.place.read("access.log").lines().count(), 4);
}
