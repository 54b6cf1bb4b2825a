//! Metrics and the status address.

use std::process::Command;

use crate::harness::{Connection, Origin, Place, Running, find_tool};

const ROUTES: &str = "routes:
  - {name: hello, match: {path: /hello}, respond: {body: hello}}
  - {name: quiet, match: {path: /quiet}, respond: {body: quiet}}
";

#[test]
fn requests_are_counted_by_route_method_and_class() {
    let gateway = Running::with(ROUTES);
    for _ in 0..3 {
        gateway.get("/hello").expect(200);
    }
    gateway.send("BREW /hello HTTP/1.1\r\nHost: a.example\r\n\r\n").expect(200);
    gateway.get("/nowhere").expect(404);
    gateway.access(5);
    let metrics = gateway.metrics();
    let of = |route, method, code| {
        metrics.get("portcullis_requests_total", &[("route", route), ("method", method), ("code", code)])
    };
    assert_eq!(of("hello", "GET", "2xx"), Some(3.0));
    assert_eq!(of("hello", "OTHER", "2xx"), Some(1.0));
    assert_eq!(metrics.of("portcullis_requests_total", &[("code", "4xx")]), 1.0);
    // Every series exists from the load on.
    assert_eq!(of("quiet", "GET", "2xx"), Some(0.0));
    for method in metrics.values("portcullis_requests_total", "method") {
        let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "OTHER"];
        assert!(known.contains(&method.as_str()), "a client's method became a label: {method}");
    }
    assert_eq!(metrics.of("portcullis_request_duration_seconds_count", &[("route", "hello")]), 4.0);
    assert_eq!(metrics.of("portcullis_own_duration_seconds_count", &[("route", "hello")]), 4.0);
}

#[test]
fn every_promised_family_is_there() {
    let origin = Origin::named("origin");
    let place = Place::new();
    let text = Place::with_base(&format!(
        "upstreams: {{origin: {{servers: ['{}']}}}}
policies: {{access: {{office: {{allow: [127.0.0.0/8]}}}}}}
routes:
  - {{name: origin, access: office, upstream: origin}}
",
        origin.address()
    ))
    .replace("defaults:", "  - address: 127.0.0.2:0\n    tls: {certificates: generate}\ndefaults:");
    let gateway = place.start_whole(&text);
    gateway.get("/").expect(200);
    gateway.access(1);
    let metrics = gateway.metrics();
    let server = origin.address().to_string();
    let families: &[(&str, &[(&str, &str)])] = &[
        ("portcullis_requests_total", &[("route", "origin")]),
        ("portcullis_request_duration_seconds_bucket", &[("route", "origin")]),
        ("portcullis_upstream_duration_seconds_bucket", &[("upstream", "origin")]),
        ("portcullis_own_duration_seconds_bucket", &[("route", "origin")]),
        ("portcullis_requests_in_flight", &[]),
        ("portcullis_connections", &[("listener", "127.0.0.1:0")]),
        ("portcullis_upstream_healthy", &[("upstream", "origin"), ("server", &server)]),
        ("portcullis_retries_total", &[("upstream", "origin")]),
        ("portcullis_refusals_total", &[("policy", "access.office")]),
        ("portcullis_would_refuse_total", &[("policy", "access.office")]),
        ("portcullis_reloads_total", &[]),
        ("portcullis_config_generation", &[]),
        ("portcullis_config_stale", &[]),
        ("portcullis_log_dropped_total", &[]),
        ("portcullis_certificate_not_after_seconds", &[("listener", "127.0.0.2:0")]),
        ("process_resident_memory_bytes", &[]),
        ("process_cpu_seconds_total", &[]),
        ("process_open_fds", &[]),
    ];
    for (name, labels) in families {
        metrics.of(name, labels);
    }
    assert_eq!(metrics.of("portcullis_upstream_healthy", &[("upstream", "origin")]), 1.0);
    assert_eq!(metrics.of("portcullis_upstream_duration_seconds_count", &[("upstream", "origin")]), 1.0);
    assert_eq!(metrics.of("portcullis_config_generation", &[]), 1.0);
    let expiry = metrics.of("portcullis_certificate_not_after_seconds", &[]);
    assert!(expiry > 1_700_000_000.0, "{expiry}");
}

#[test]
fn promtool_finds_nothing_to_say() {
    let Some(promtool) = find_tool("promtool") else {
        println!("skipped: promtool is missing (scripts/test unpacks it into target/tools)");
        return;
    };
    let gateway = Running::with(ROUTES);
    gateway.get("/hello").expect(200);
    let text = gateway.metrics().text().to_owned();
    let output = crate::harness::run(Command::new(promtool).args(["check", "metrics"]), text.as_bytes());
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim().is_empty(), "{}: {said}", output.status);
}

#[test]
fn connections_and_requests_in_flight_are_counted_down_again() {
    let (origin, told) = Origin::waiting();
    let gateway = Running::with(&format!(
        "upstreams: {{o: {{servers: ['{}']}}}}\nroutes:\n  - {{name: o, upstream: o}}\n",
        origin.address()
    ));
    let mut connection = Connection::open(gateway.address());
    connection.write("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gateway.await_metric("portcullis_requests_in_flight", &[], 1.0);
    gateway.await_metric("portcullis_connections", &[("listener", "127.0.0.1:0")], 1.0);
    told.send(()).unwrap();
    connection.response().expect(200);
    gateway.await_metric("portcullis_requests_in_flight", &[], 0.0);
    drop(connection);
    gateway.await_metric("portcullis_connections", &[("listener", "127.0.0.1:0")], 0.0);
}

#[test]
fn the_status_address_answers_for_the_process() {
    let gateway = Running::with(ROUTES);
    for path in ["/livez", "/readyz", "/version"] {
        let response = gateway.told(path);
        response.expect(200);
    }
    assert!(gateway.told("/version").text().contains(env!("CARGO_PKG_VERSION")));
    assert!(gateway.told("/metrics").header("content-type").unwrap().starts_with("text/plain"));
    assert_eq!(gateway.told("/nowhere").status, 404);
    // A page of a name that was made to point here is told nothing.
    for (host, expected) in
        [("rebound.example", 421), ("127.0.0.1.rebound.example:9900", 421), ("127.0.0.1", 200)]
    {
        let response = Connection::open(gateway.status()).try_get_of(host, "/metrics").unwrap();
        assert_eq!(response.status, expected, "{host}");
    }
    let asked = "GET http://rebound.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut connection = Connection::open(gateway.status());
    connection.write(asked);
    connection.response().expect(421);
    for (request, expected) in [
        ("GET /livez HTTP/1.1\r\n\r\n", 400),
        ("GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        ("GET /livez HTTP/1.0\r\n\r\n", 200),
    ] {
        let mut connection = Connection::open(gateway.status());
        connection.write(request);
        connection.response().expect(expected);
    }
    // The status address serves no routes, the listeners no status.
    assert_eq!(gateway.told("/hello").status, 404);
    assert_eq!(gateway.get("/metrics").status, 404);
}

#[test]
fn refusals_have_their_series_from_the_load_on() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = Running::with(&format!(
        "upstreams:
  closed: {{servers: ['{closed}']}}
  unknown: {{servers: ['nowhere.invalid:80'], timeouts: {{connect: 100ms}}}}
policies: {{access: {{office: {{allow: [192.0.2.1]}}, nobody: {{deny: [127.0.0.1]}}}}}}
routes:
  - {{name: office, match: {{path: /office}}, access: office, respond: {{}}}}
  - {{name: nobody, match: {{path: /nobody}}, access: nobody, respond: {{}}}}
  - {{name: post, match: {{path: /post, methods: [POST]}}, respond: {{}}}}
  - {{name: closed, match: {{path: /closed}}, upstream: closed}}
  - {{name: unknown, match: {{path: /unknown}}, upstream: unknown}}
"
    ));
    let names = |metrics: &crate::harness::Metrics| {
        let lines = metrics.text().lines().filter(|line| line.starts_with("portcullis_refusals_total{"));
        lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    let before = names(&gateway.metrics());
    let long = "a".repeat(9000);
    let many = "X: y\r\n".repeat(101);
    let fields = format!("X: {}\r\n", "y".repeat(8000)).repeat(5);
    let requests = [
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /office HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /nobody HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /post HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /closed HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /unknown HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(),
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /%2f HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /%5c HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /\\ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /..;/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /%ff HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /../.. HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/3.0\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".to_owned(),
        format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"),
    ];
    for request in &requests {
        let response = gateway.send(request);
        assert!(response.status >= 400, "{request}: {}", response.status);
    }
    gateway.access(requests.len());
    let metrics = gateway.metrics();
    assert_eq!(names(&metrics), before);
    let counted: f64 = metrics.of("portcullis_refusals_total", &[]);
    assert_eq!(counted, requests.len() as f64);
    for policy in ["access.office", "access.nobody"] {
        assert_eq!(metrics.of("portcullis_refusals_total", &[("policy", policy)]), 1.0, "{policy}");
    }
}
