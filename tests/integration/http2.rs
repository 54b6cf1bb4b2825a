//! HTTP/2 at the door.

use std::time::Duration;

use crate::harness::{Authority, Http2, Nginx, Origin, Place, Running, curl};

pub(crate) fn start(routes: &str) -> (Authority, Running) {
    let (place, authority) = (Place::new(), Authority::new());
    authority.issue(&["gate.example"]).write(&place, "gate");
    let text = Place::with_base(routes).replace(
        "  - address: 127.0.0.1:0\n",
        "  - address: 127.0.0.1:0\n    tls: {certificates: [{cert: gate.crt, key: gate.key}]}\n",
    );
    (authority, place.start_whole(&text))
}

pub(crate) fn client(authority: &Authority, gateway: &Running) -> Http2 {
    let connector = authority.connector(|builder| builder.set_alpn_protos(b"\x02h2").unwrap());
    Http2::connect(gateway.address(), &connector, "gate.example")
}

const ROUTES: &str = "routes:
  - {name: hello, match: {path: /hello, methods: [GET]}, respond: {body: hello}}
  - {name: echo, match: {path: '/echo/{*rest}'}, echo: true}
";

#[test]
fn requests_are_answered_and_told() {
    let (authority, gateway) = start(ROUTES);
    let mut client = client(&authority, &gateway);
    let response = client.get("/hello");
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    assert!(response.header("x-request-id").is_some());
    let echo = client.request("POST", "/echo/a%7eb?x=1", &[("x-a", "1")], b"hello").expect(200).json();
    assert_eq!(echo["protocol"], "HTTP/2.0");
    assert_eq!(echo["host"], "gate.example");
    assert_eq!(echo["path"], "/echo/a~b");
    assert_eq!(echo["headers"]["x-a"], "1");
    assert_eq!(echo["body_bytes"], 5);
    let line = gateway.access_of("/hello");
    assert_eq!((&line["protocol"], &line["tls"]["sni"]), (&"HTTP/2.0".into(), &"gate.example".into()));
}

#[test]
fn refusals_are_the_same_as_over_http1() {
    let (authority, gateway) = start(ROUTES);
    let mut client = client(&authority, &gateway);
    client.get("/nowhere").expect(404);
    client.get("/a%00b").expect(400);
    let response = client.request("PUT", "/hello", &[], b"x");
    response.expect(405);
    assert!(response.all("allow").contains("GET"), "{response:?}");
    client.get(&format!("/{}", "a".repeat(9 << 10))).expect(414);
    let many: Vec<_> = (0..150).map(|n| format!("x-{n}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "1")).collect();
    client.request("GET", "/hello", &many, b"").expect(431);
    // The connection has outlived them all.
    assert_eq!(client.get("/hello").text(), "hello");
    assert_eq!(gateway.access(6).len(), 6);
}

#[test]
fn many_streams_at_once_reach_an_http1_origin() {
    let origin = Origin::each(|head, peer| {
        peer.drain_body(head);
        std::thread::sleep(Duration::from_millis(20));
        peer.answer(200, "from the origin")
    });
    let (authority, gateway) = start(&format!(
        "upstreams: {{o: {{servers: ['{}']}}}}\nroutes:\n  - {{name: o, upstream: o}}\n",
        origin.address()
    ));
    let mut client = client(&authority, &gateway);
    let responses = client.at_once(60, "/");
    assert!(responses.iter().all(|r| r.status == 200 && r.text() == "from the origin"), "{responses:?}");
    assert_eq!(origin.heads().len(), 60);
    for head in origin.heads() {
        let lower = head.to_ascii_lowercase();
        assert!(head.starts_with("GET / HTTP/1.1\r\n") && lower.contains("host: gate.example\r\n"), "{head}");
        assert!(lower.contains("x-forwarded-proto: https") && lower.contains("via: 2"), "{head}");
    }
}

#[test]
fn bodies_pass_both_ways() {
    let origin = Origin::each(|head, peer| {
        let bytes = peer.drain_body(head);
        peer.answer(200, &format!("{bytes} {}", "y".repeat(300_000)))
    });
    let (authority, gateway) = start(&format!(
        "upstreams: {{o: {{servers: ['{}']}}}}\nroutes:\n  - {{name: o, upstream: o}}\n",
        origin.address()
    ));
    let mut client = client(&authority, &gateway);
    let response = client.request("POST", "/", &[], &vec![b'x'; 500_000]);
    assert!(response.expect(200).text().starts_with("500000 y"), "{}", response.body.len());
    assert_eq!(response.body.len(), 300_007);
    let line = gateway.access_of("/");
    assert_eq!((&line["requestLength"], &line["responseLength"]), (&500_000.into(), &300_007.into()));
}

#[test]
fn a_cookie_in_pieces_is_one_for_the_origin() {
    let origin = Origin::echo();
    let (authority, gateway) = start(&format!(
        "upstreams: {{o: {{servers: ['{}']}}}}\nroutes:\n  - {{name: o, upstream: o}}\n",
        origin.address()
    ));
    let mut client = client(&authority, &gateway);
    // RFC 9113 §8.2.3: pieces are joined before they go where HTTP/2 is not spoken.
    let head = client.request("GET", "/", &[("cookie", "a=1"), ("cookie", "b=2")], b"").text();
    assert!(head.to_ascii_lowercase().contains("cookie: a=1; b=2\r\n"), "{head}");
}

#[test]
fn curl_goes_through_to_nginx_over_tls_1_3_and_http2() {
    let Some(nginx) = Nginx::start(100_000) else { return };
    let (authority, gateway) = start(&format!(
        "upstreams: {{nginx: {{servers: ['{}']}}}}\nroutes:\n  - {{name: all, upstream: nginx}}\n",
        nginx.address()
    ));
    let ca = authority.write(&gateway.place, "ca.crt");
    let port = gateway.address().port();
    let resolve = format!("gate.example:{port}:127.0.0.1");
    let url = |path: &str| format!("https://gate.example:{port}{path}");
    let arguments = ["--cacert", ca.to_str().unwrap(), "--resolve", &resolve, "--tlsv1.3", "--http2"];
    let of = |more: &[&str]| curl(&[&arguments, more].concat());
    assert_eq!(of(&[&url("/hello")]), "hello from nginx");
    assert_eq!(
        of(&["--write-out", "%{http_version} %{response_code}", "-o", "/dev/null", &url("/status/404")]),
        "2 404"
    );
    assert_eq!(of(&["--write-out", "%{size_download}", "-o", "/dev/null", &url("/file.bin")]), "100000");
    let range = of(&["--range", "0-9", "--write-out", " %{response_code}", &url("/file.bin")]);
    assert_eq!(range, "xxxxxxxxxx 206");
    assert!(of(&["--head", &url("/file.bin")]).contains("100000"));
}

#[test]
fn two_hosts_are_400() {
    let (authority, gateway) = start(ROUTES);
    let mut client = client(&authority, &gateway);
    client.request("GET", "/hello", &[("host", "gate.example")], b"").expect(200);
    client.request("GET", "/hello", &[("host", "other.example")], b"").expect(400);
}

#[test]
fn what_an_upstream_of_http_1_could_read_in_two_ways_is_400() {
    let (authority, gateway) = start(ROUTES);
    let mut client = client(&authority, &gateway);
    client.request("POST", "/hello", &[("content-length", "3")], b"abc").expect(405);
    client.request("POST", "/hello", &[("content-length", "3"), ("content-length", "3")], b"abc").expect(400);
    client.request("POST", "/hello", &[("transfer_encoding", "chunked")], b"").expect(400);
    client.request("POST", "/hello", &[("content--length", "3")], b"").expect(400);
    client.request(&"M".repeat(65), "/hello", &[], b"").expect(400);
}

#[test]
fn draining_ends_streams_first_and_connections_then() {
    let origin = Origin::each(|head, peer| {
        peer.drain_body(head);
        std::thread::sleep(Duration::from_millis(700));
        peer.answer(200, "late")
    });
    let (authority, mut gateway) = start(&format!(
        "upstreams: {{o: {{servers: ['{}']}}}}\nroutes:\n  - {{name: o, upstream: o}}\n",
        origin.address()
    ));
    let mut busy = client(&authority, &gateway);
    let mut idle = client(&authority, &gateway);
    std::thread::scope(|scope| {
        let gateway = &gateway;
        scope.spawn(move || {
            gateway.await_metric("portcullis_requests_in_flight", &[], 1.0);
            gateway.signal(rustix::process::Signal::TERM);
        });
        assert_eq!(busy.get("/").expect(200).text(), "late");
    });
    assert!(idle.is_closed_within(Duration::from_secs(3)), "an idle HTTP/2 connection was not told to go");
    assert!(busy.is_closed_within(Duration::from_secs(3)), "the connection stayed after its last stream");
    assert_eq!(gateway.wait(Duration::from_secs(5)).code(), Some(0));
}

#[test]
fn another_host_than_the_authority_is_refused_with_a_record() {
    let (authority, gateway) = start(ROUTES);
    let mut client = client(&authority, &gateway);
    // Pingora answers this one itself, bare; the record is ours.
    client.request("GET", "/hello", &[("host", "other.example")], b"").expect(400);
    assert_eq!(gateway.access(1)[0]["error"]["responseType"], "AMBIGUOUS_REQUEST");
}
