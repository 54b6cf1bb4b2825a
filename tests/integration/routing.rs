//! Which route wins, and what is said where none does.

use crate::harness::{Place, Running};

const ROUTES: &str = r#"
routes:
  - {name: exact, match: {path: /orders/open}, respond: {body: exact}}
  - {name: segment, match: {path: "/orders/{id}"}, respond: {body: segment}}
  - {name: rest, match: {path: "/orders/{*rest}"}, respond: {body: rest}}
  - {name: api, match: {hosts: [api.example.com], path: /who}, respond: {body: api}}
  - {name: wild, match: {hosts: ["*.example.com"], path: /who}, respond: {body: wild}}
  - {name: any, match: {path: /who}, respond: {body: any}}
  - {name: get, match: {path: /m, methods: [GET]}, respond: {body: got, headers: {x-extra: "1"}}}
  - {name: put, match: {path: /m, methods: [PUT]}, respond: {body: put, status: 201}}
  - {name: v2, match: {path: /v, headers: {x-version: "2"}}, respond: {body: two}}
  - {name: v, match: {path: /v}, respond: {body: one}}
  - {name: beta, match: {path: /q, query: {beta: "1"}}, respond: {body: beta}}
  - {name: q, match: {path: /q}, respond: {body: stable}}
  - {name: options, match: {path: /o, methods: [OPTIONS]}, respond: {body: options}}
  - {name: old, match: {path: /old}, redirect: {to: "https://{domainName}/new"}}
  - {name: seen, match: {path: /seen}, redirect: {to: "/elsewhere", status: 303}}
  - {name: echo, match: {path: "/echo/{*rest}"}, echo: true}
"#;

#[test]
fn the_most_specific_route_wins() {
    let gateway = Running::with(ROUTES);
    let table = [
        ("example.com", "/orders/open", "", "exact"),
        ("example.com", "/orders/7", "", "segment"),
        ("example.com", "/orders/7/lines", "", "rest"),
        ("example.com", "/orders/", "", "rest"),
        ("api.example.com", "/who", "", "api"),
        ("API.Example.COM", "/who", "", "api"),
        ("api.example.com.", "/who", "", "api"),
        ("api.example.com:8080", "/who", "", "api"),
        ("a.b.example.com", "/who", "", "wild"),
        ("example.com", "/who", "", "any"),
        ("example.com", "/v", "X-Version: 2\r\n", "two"),
        ("example.com", "/v", "X-Version: 3\r\n", "one"),
        ("example.com", "/q?beta=1", "", "beta"),
        ("example.com", "/q?a=2&beta=1", "", "beta"),
        ("example.com", "/q?beta=2", "", "stable"),
    ];
    for (host, target, fields, body) in table {
        let response = gateway.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"));
        assert_eq!((response.status, response.text().as_str()), (200, body), "{host} {target} {fields:?}");
    }
}

#[test]
fn no_route_is_404_and_a_wrong_method_is_405_with_allow() {
    let gateway = Running::with(ROUTES);
    gateway.get("/nowhere").expect(404);
    gateway.get("/orders").expect(404);
    let response = gateway.send("POST /m HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\n\r\n");
    response.expect(405);
    let allow = response.all("allow");
    for method in ["GET", "HEAD", "PUT"] {
        assert!(allow.split(", ").any(|m| m == method), "Allow is `{allow}`, {method} is missing");
    }
    assert!(!allow.contains("POST"), "Allow is `{allow}`");
    // A body or a header condition that fails is not a matter of methods.
    gateway.get("/o").expect(405);
}

#[test]
fn trace_and_connect_are_405() {
    let gateway = Running::with(ROUTES);
    for request in [
        "TRACE /m HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n",
    ] {
        let response = gateway.send(request);
        response.expect(405);
        assert!(response.header("allow").is_some(), "405 without Allow: {response:?}");
    }
}

#[test]
fn head_goes_where_get_goes_and_has_no_body() {
    let gateway = Running::with(ROUTES);
    let mut connection = crate::harness::Connection::open(gateway.address());
    connection
        .write("HEAD /m HTTP/1.1\r\nHost: example.com\r\n\r\nGET /m HTTP/1.1\r\nHost: example.com\r\n\r\n");
    let head = connection.try_response(true).unwrap();
    head.expect(200);
    assert_eq!(head.header("content-length"), Some("3"), "{head:?}");
    // A body after HEAD would be taken for the next response.
    let next = connection.response();
    assert_eq!((next.status, next.text().as_str()), (200, "got"));
}

#[test]
fn options_that_is_no_preflight_goes_to_its_route() {
    let gateway = Running::with(ROUTES);
    let response = gateway.send("OPTIONS /o HTTP/1.1\r\nHost: example.com\r\n\r\n");
    assert_eq!((response.status, response.text().as_str()), (200, "options"));
}

#[test]
fn respond_says_what_it_was_told_to() {
    let gateway = Running::with(ROUTES);
    let response = gateway.send("PUT /m HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!((response.status, response.text().as_str()), (201, "put"));
    assert_eq!(response.header("content-type"), Some("text/plain"));
    let response = gateway.get("/m");
    assert_eq!(response.header("x-extra"), Some("1"));
    assert!(response.header("x-request-id").is_some(), "{response:?}");
}

#[test]
fn redirect_is_308_and_its_target_a_template() {
    let gateway = Running::with(ROUTES);
    let response = gateway.get("/old");
    response.expect(308);
    assert_eq!(response.header("location"), Some("https://example.com/new"));
    let response = gateway.get("/seen");
    response.expect(303);
    assert_eq!(response.header("location"), Some("/elsewhere"));
}

#[test]
fn a_redirect_that_says_the_host_needs_one() {
    let gateway = Running::with(ROUTES);
    let response = gateway.send("GET /old HTTP/1.0\r\n\r\n");
    response.expect(400);
    assert_eq!(response.header("location"), None);
    gateway.send("GET /seen HTTP/1.0\r\n\r\n").expect(400);
    let text = Place::with_base(ROUTES).replace(
        "  - address: 127.0.0.1:0\n",
        "  - address: 127.0.0.1:0\n    default_host: WWW.example.com.\n",
    );
    let gateway = Place::new().start_whole(&text);
    let response = gateway.send("GET /old HTTP/1.0\r\n\r\n");
    response.expect(308);
    assert_eq!(response.header("location"), Some("https://www.example.com/new"));
    gateway.send("GET /seen HTTP/1.0\r\n\r\n").expect(303);
}

#[test]
fn echo_answers_with_what_was_received() {
    let gateway = Running::with(ROUTES);
    let response = gateway.send(
        "POST /echo/a%7eb?x=1&y HTTP/1.1\r\nHost: Example.com\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 5\r\n\r\nhello",
    );
    let echo = response.expect(200).json();
    assert_eq!(echo["method"], "POST");
    assert_eq!(echo["path"], "/echo/a~b");
    assert_eq!(echo["query"], "x=1&y");
    assert_eq!(echo["protocol"], "HTTP/1.1");
    assert_eq!(echo["host"], "example.com");
    assert_eq!(echo["client"], "127.0.0.1");
    assert_eq!(echo["headers"]["x-a"], "1, 2");
    assert_eq!(echo["body_bytes"], 5);
    assert!(response.header("content-type").unwrap().starts_with("application/json"));
}

#[test]
fn an_echo_counts_a_chunked_body_whole() {
    let gateway = Running::with(ROUTES);
    let request = "POST /echo/ HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    assert_eq!(gateway.send(request).expect(200).json()["body_bytes"], 11);
}

#[test]
fn a_connection_serves_many_requests_pipelined_too() {
    let gateway = Running::with(ROUTES);
    let mut connection = crate::harness::Connection::open(gateway.address());
    for _ in 0..20 {
        assert_eq!(connection.get("/orders/open").text(), "exact");
    }
    let one = "GET /orders/7 HTTP/1.1\r\nHost: example.com\r\n\r\n";
    connection.write(one.repeat(10));
    for _ in 0..10 {
        assert_eq!(connection.response().text(), "segment");
    }
    connection.write("GET /m HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n");
    assert_eq!(connection.response().text(), "got");
    assert!(connection.is_closed(), "Connection: close was not kept");
}

#[test]
fn http_1_0_is_served_and_closed() {
    let gateway = Running::with(ROUTES);
    let mut connection = crate::harness::Connection::open(gateway.address());
    connection.write("GET /m HTTP/1.0\r\nHost: example.com\r\n\r\n");
    assert_eq!(connection.response().text(), "got");
    assert!(connection.is_closed(), "an HTTP/1.0 connection stayed open");
}
