//! The access log: one line a request, true, safe, and never in the way.

use rustix::process::Signal;

use crate::harness::{Origin, Place, Refusing, Running, eventually};

const HELLO: &str =
    "routes:\n  - {name: hello, match: {path: /hello}, labels: {api: greetings}, respond: {body: hello}}\n";

#[test]
fn a_line_tells_the_whole_story() {
    let origin = Origin::each(|head, peer| {
        peer.drain_body(head);
        std::thread::sleep(std::time::Duration::from_millis(50));
        peer.answer(201, "twelve bytes")
    });
    let gateway = Running::with(&format!(
        "upstreams: {{orders: {{servers: ['{}']}}}}
routes:
  - {{name: orders, match: {{path: '/orders/{{id}}'}}, labels: {{api: orders, stage: prod}}, upstream: orders}}
",
        origin.address()
    ));
    let response = gateway.send(
        "POST /orders/%37?secret=1 HTTP/1.1\r\nHost: Api.Example.com\r\nUser-Agent: tester/1\r\n\
         Authorization: Bearer s3cr3t\r\nCookie: sid=s3cr3t\r\nContent-Length: 5\r\n\r\nhello",
    );
    response.expect(201);
    let line = gateway.access_of("/orders/7");
    assert_eq!(line["requestId"], response.header("x-request-id").unwrap());
    assert!(line["extendedRequestId"].is_string());
    assert_eq!(line["generation"], 1);
    assert_eq!(line["route"], "orders");
    assert_eq!(line["labels"]["stage"], "prod");
    assert_eq!(line["identity"]["sourceIp"], "127.0.0.1");
    assert_eq!(line["identity"]["userAgent"], "tester/1");
    assert_eq!(line["httpMethod"], "POST");
    assert_eq!(line["domainName"], "api.example.com");
    assert_eq!(line["resourcePath"], "/orders/{id}");
    assert_eq!(line["protocol"], "HTTP/1.1");
    assert_eq!(line["status"], 201);
    assert_eq!(line["requestLength"], 5);
    assert_eq!(line["responseLength"], 12);
    let whole = line["responseLatency"].as_f64().unwrap();
    let own = line["ownLatency"].as_f64().unwrap();
    let upstream = line["integration"]["latency"].as_f64().unwrap();
    assert!(whole >= 50.0 && upstream >= 50.0 && own < 50.0 && upstream <= whole, "{line}");
    assert_eq!(line["integration"]["upstream"], "orders");
    assert_eq!(line["integration"]["server"], origin.address().to_string());
    assert_eq!(line["integration"]["status"], 201);
    assert_eq!(line["integration"]["attempts"], 1);
    assert!(line["integration"]["connectLatency"].is_number(), "{line}");
    for absent in ["error", "would", "tls"] {
        assert!(line.get(absent).is_none(), "`{absent}` is not known and yet there: {line}");
    }
    let time = line["requestTime"].as_str().unwrap();
    assert!(
        time.len() >= 24 && time.as_bytes()[10] == b'T' && time.ends_with('Z'),
        "{time} is not RFC 3339 with ms"
    );
    assert!(line["requestTimeEpoch"].as_u64().unwrap() > 1_700_000_000_000);
    let raw = gateway.place.read("access.log");
    assert!(!raw.contains("s3cr3t") && !raw.contains("secret=1"), "a secret is in the log: {raw}");
}

#[test]
fn requests_refused_before_routing_have_a_line_too() {
    let gateway = Running::with(HELLO);
    gateway.send("GET / HTTP/1.1\r\n\r\n").expect(400);
    gateway.send("GET /a%zz HTTP/1.1\r\nHost: example.com\r\n\r\n").expect(400);
    gateway.get("/nowhere").expect(404);
    gateway.send(format!("GET /{} HTTP/1.1\r\nHost: a.example\r\n\r\n", "a".repeat(9 << 10))).expect(414);
    gateway
        .send(format!("GET / HTTP/1.1\r\nHost: a.example\r\n{}\r\n", "X-A: 1\r\n".repeat(150)))
        .expect(431);
    gateway.send("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n").expect(405);
    let lines = gateway.access(6);
    let mut kinds: Vec<_> = lines
        .iter()
        .map(|line| (line["status"].as_u64().unwrap(), line["error"]["responseType"].as_str()))
        .collect();
    kinds.sort_unstable();
    assert_eq!(
        kinds,
        [
            (400, Some("AMBIGUOUS_REQUEST")),
            (400, Some("AMBIGUOUS_REQUEST")),
            (404, Some("ROUTE_NOT_FOUND")),
            (405, Some("METHOD_NOT_ALLOWED")),
            (414, Some("URI_TOO_LONG")),
            (431, Some("HEADERS_TOO_LARGE")),
        ]
    );
    assert!(
        lines.iter().all(|line| line["requestId"].is_string() && line.get("route").is_none()),
        "{lines:?}"
    );
}

#[test]
fn a_failed_upstream_says_why_in_the_log_only() {
    let dead = Refusing::new();
    let gateway = Running::with(&format!(
        "upstreams: {{dead: {{servers: ['{}']}}}}\nroutes:\n  - {{name: dead, upstream: dead}}\n",
        dead.address()
    ));
    gateway.get("/x").expect(502);
    let line = gateway.access_of("/x");
    assert_eq!(line["error"]["responseType"], "INTEGRATION_FAILURE");
    assert!(line["integration"]["error"].is_string() || line["error"]["message"].is_string(), "{line}");
}

#[test]
fn control_characters_and_quotes_never_break_a_line() {
    let gateway = Running::with(HELLO);
    gateway.send(
        b"GET /%0d%0a%22%1b[31m HTTP/1.1\r\nHost: example.com\r\nUser-Agent: a\"\\\x1b\xff\tb\r\n\r\n"
            .as_slice(),
    );
    gateway.get("/hello").expect(200);
    let lines = gateway.access(2);
    assert_eq!(lines.len(), 2, "{lines:?}");
    let raw = gateway.place.read("access.log");
    assert!(raw.bytes().all(|b| b == b'\n' || (b >= 0x20 && b != 0x7f)), "control characters in {raw:?}");
}

#[test]
fn a_template_writes_a_line_of_ones_own() {
    let text = Place::with_base(HELLO).replace(
        "{access: {to: ./access.log}}",
        "{access: {to: ./access.log, format: '{identity.sourceIp} \"{httpMethod} {path} {protocol}\" {status} {identity.userAgent} {{x'}}",
    );
    let gateway = Place::new().start_whole(&text);
    gateway.send("GET /hello HTTP/1.1\r\nHost: example.com\r\nUser-Agent: a \"b\r\n\r\n").expect(200);
    let line = &gateway.access_lines("access.log", 1)[0];
    assert!(line.starts_with("127.0.0.1 \"GET /hello HTTP/1.1\" 200 "), "{line}");
    assert!(line.ends_with(" {x"), "{line}");
    assert_eq!(
        line.matches('"').count() - line.matches("\\\"").count(),
        2,
        "an unescaped quote of the client's: {line}"
    );
}

#[test]
fn sigusr1_opens_the_file_anew() {
    let gateway = Running::with(HELLO);
    gateway.get("/hello").expect(200);
    gateway.access(1);
    std::fs::rename(gateway.place.path("access.log"), gateway.place.path("access.log.1")).unwrap();
    // Until the signal the old file, under its new name, goes on.
    gateway.get("/hello").expect(200);
    gateway.access_lines("access.log.1", 2);
    gateway.signal(Signal::USR1);
    eventually("a new access.log", || {
        gateway.get("/hello").expect(200);
        gateway.place.path("access.log").exists().then_some(())
    });
    gateway.access(1);
}

#[test]
fn a_full_disk_slows_nothing_and_is_counted() {
    let text = Place::with_base(HELLO).replace("./access.log", "/dev/full");
    let mut gateway = Place::new().start_whole(&text);
    let began = std::time::Instant::now();
    for _ in 0..200 {
        gateway.get("/hello").expect(200);
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "200 requests took {:?}", began.elapsed());
    eventually("drops to be counted", || {
        let dropped = gateway.metrics().of("portcullis_log_dropped_total", &[]);
        (dropped >= 1.0).then_some(())
    });
    gateway.stop();
}

#[test]
fn no_log_is_no_log() {
    let text = Place::with_base(HELLO).replace("{to: ./access.log}", "{to: none}");
    let gateway = Place::new().start_whole(&text);
    gateway.get("/hello").expect(200);
    assert!(!gateway.place.path("access.log").exists());
}

#[test]
fn the_log_is_whole_when_the_process_ends() {
    let mut gateway = Running::with(HELLO);
    for _ in 0..50 {
        gateway.get("/hello").expect(200);
    }
    gateway.stop();
    assert_eq!(gateway.place.read("access.log").lines().count(), 50);
}

#[test]
fn the_operational_log_can_be_json() {
    let text = Place::with_base(HELLO).replace("log: {access", "log: {format: json, level: debug, access");
    let gateway = Place::new().start_whole(&text);
    let line = gateway.await_line("listening on ");
    let object: serde_json::Value =
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("no JSON ({e}): {line}"));
    assert!(object.is_object(), "{line}");
}
