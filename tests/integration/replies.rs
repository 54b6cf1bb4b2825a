//! The gateway's own answers: their forms, and that they give nothing away.

use crate::harness::{Place, Refusing, Running};

const ROUTES: &str = r#"
routes:
  - {name: hello, match: {path: /hello, methods: [GET]}, respond: {body: hello}}
"#;

fn ask(gateway: &Running, target: &str, fields: &str) -> crate::harness::Response {
    gateway.send(format!("GET {target} HTTP/1.1\r\nHost: example.com\r\n{fields}\r\n"))
}

#[test]
fn a_refusal_is_a_problem_document() {
    let gateway = Running::with(ROUTES);
    for fields in
        ["", "Accept: */*\r\n", "Accept: application/json\r\n", "Accept: application/*, text/plain;q=0.5\r\n"]
    {
        let response = ask(&gateway, "/nowhere", fields);
        response.expect(404);
        assert_eq!(response.header("content-type"), Some("application/problem+json"), "Accept: {fields}");
        assert_eq!(response.header("cache-control"), Some("no-store"));
        let problem = response.json();
        assert_eq!(problem["type"], "urn:portcullis:problem:route-not-found");
        assert_eq!(problem["status"], 404);
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{problem}");
        let id = response.header("x-request-id").unwrap();
        assert!(problem["instance"].as_str().unwrap().contains(id), "instance {problem}, id {id}");
    }
}

#[test]
fn who_asks_for_text_gets_text() {
    let gateway = Running::with(ROUTES);
    let response = ask(&gateway, "/nowhere", "Accept: text/plain\r\n");
    response.expect(404);
    assert!(response.header("content-type").unwrap().starts_with("text/plain"), "{response:?}");
    assert!(!response.text().starts_with('{'), "{response:?}");
}

#[test]
fn a_grpc_client_gets_200_with_grpc_status() {
    let gateway = Running::with(ROUTES);
    let response = gateway.send(
        "POST /nowhere HTTP/1.1\r\nHost: example.com\r\nContent-Type: application/grpc+proto\r\nContent-Length: 0\r\n\r\n",
    );
    response.expect(200);
    assert!(response.header("content-type").unwrap().starts_with("application/grpc"), "{response:?}");
    // UNIMPLEMENTED is what gRPC makes of 404.
    assert_eq!(response.header("grpc-status"), Some("12"), "{response:?}");
    assert!(response.header("grpc-message").is_some());
}

#[test]
fn replies_are_customised_by_kind() {
    let gateway = Running::with(&format!(
        "{ROUTES}
replies:
  ROUTE_NOT_FOUND: {{status: 410, headers: {{x-why: 'gone {{httpMethod}}'}}, body: 'no {{path}} ({{requestId}})', content_type: text/x-none}}
"
    ));
    let response = ask(&gateway, "/nowhere", "");
    response.expect(410);
    assert_eq!(response.header("x-why"), Some("gone GET"));
    assert_eq!(response.header("content-type"), Some("text/x-none"));
    let id = response.header("x-request-id").unwrap();
    assert_eq!(response.text(), format!("no /nowhere ({id})"));
    // The other kinds are as they were.
    let response = gateway.send("PUT /hello HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(response.expect(405).header("content-type"), Some("application/problem+json"));
}

#[test]
fn problem_types_are_the_sites_own() {
    let text = Place::with_base(ROUTES)
        .replace("workers: 2", "workers: 2, problem_types: 'https://errors.example/'");
    let gateway = Place::new().start_whole(&text);
    assert_eq!(gateway.get("/nowhere").json()["type"], "https://errors.example/route-not-found");
}

#[test]
fn a_refusal_gives_no_inner_detail_away() {
    let dead = Refusing::new();
    let gateway = Running::with(&format!(
        "upstreams: {{secret-pool: {{servers: ['{}']}}}}\nroutes:\n  - {{name: secret-route, upstream: secret-pool}}\n",
        dead.address()
    ));
    for accept in ["", "Accept: text/plain\r\n"] {
        let response = ask(&gateway, "/", accept);
        response.expect(502);
        let all = format!("{:?} {}", response.headers, response.text());
        for secret in ["secret", &format!(":{}", dead.address().port()), "refused", "pingora", ".yaml"] {
            assert!(!all.to_ascii_lowercase().contains(secret), "`{secret}` leaked: {all}");
        }
    }
}

#[test]
fn an_early_refusal_keeps_or_closes_the_connection_cleanly() {
    let gateway = Running::with(ROUTES);
    let mut connection = crate::harness::Connection::open(gateway.address());
    // The body is there: the next request on the connection must not be read out of it.
    connection.write("POST /nowhere HTTP/1.1\r\nHost: example.com\r\nContent-Length: 45\r\n\r\n");
    connection.write("GET /hello HTTP/1.1\r\nHost: smuggled.invalid\r\n");
    let first = connection.response();
    first.expect(404);
    if first.closes() {
        assert!(connection.is_closed());
    } else {
        assert_eq!(connection.get("/hello").text(), "hello");
    }
}
