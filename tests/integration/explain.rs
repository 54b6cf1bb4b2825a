//! `explain`: the whole way of a request that is never sent, line by line.

use crate::harness::Place;

const FILE: &str = "\
upstreams:
  orders: {servers: [orders.internal:9001, '127.0.0.1:9002']}
policies:
  access:
    office: {allow: [10.0.0.0/8]}
    trial: {deny: [192.0.2.0/24], mode: shadow}
  cors:
    web: {origins: ['https://app.example.com'], max_age: 5m}
  headers:
    standard: {request: {set: {x-client: '{identity.sourceIp}'}, remove: [x-debug]}, response: {remove: [server]}}
routes:
  - {name: all, match: {path: '/{*rest}'}, respond: {body: all}}
  - name: order
    match: {hosts: [api.example.com], path: '/orders/{id}'}
    access: trial
    cors: web
    headers: [standard]
    upstream: orders
    path: {template: '/v2/{route.id}'}
  - {name: new, match: {hosts: [api.example.com], path: '/orders/{id}', headers: {x-version: '2'}}, cors: web, respond: {}}
  - {name: office, match: {path: /office}, access: office, respond: {}}
";

/// Exit status, and what is said; ids are no two times the same.
fn explain(arguments: &[&str]) -> (Option<i32>, String) {
    let place = Place::new();
    place.write("e.yaml", Place::with_base(FILE));
    let output = place.portcullis(&[&["explain", "--config", "e.yaml"], arguments].concat());
    assert!(!place.path("state").exists(), "explain left something behind");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    if arguments.contains(&"--json") {
        return (output.status.code(), said);
    }
    let masked = said.lines().map(|line| match line.split_once("x-request-id: ") {
        Some((before, _)) => format!("{before}x-request-id: …\n"),
        None => format!("{line}\n"),
    });
    (output.status.code(), masked.collect())
}

#[track_caller]
fn says(arguments: &[&str], code: i32, expected: &str) {
    let (status, said) = explain(arguments);
    assert_eq!(said, expected);
    assert_eq!(status, Some(code));
}

#[test]
fn who_passes_as_nobody_is_said_to() {
    let place = Place::new();
    let text = "policies: {auth: {keys: {api_key: {header: x-api-key}}}}
routes: [{name: open, auth: {any_of: [keys], anonymous: true}, respond: {}}]\n";
    place.write("e.yaml", Place::with_base(text));
    let output = place.portcullis(&["explain", "--config", "e.yaml", "http://a.example/"]);
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said.lines().find(|line| line.contains("auth.keys")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("nothing is presented, and the route takes who is `anonymous`"), "{said}");
}

#[test]
fn a_forwarded_request_with_a_shadowed_policy() {
    let url = "http://API.example.com/x/../orders/%37?a=b";
    says(
        &["--client", "192.0.2.7", "-H", "x-debug: 1", url],
        0,
        "\
GET http://API.example.com/x/../orders/%37?a=b by listener 127.0.0.1:0
  canonical     pass         api.example.com /orders/7?a=b
  client        pass         192.0.2.7 (the peer itself)
  route         pass         order (/orders/{id})  [e.yaml:18]
  access.trial  would refuse the client's address is in `deny` (ACCESS_DENIED)  [e.yaml:11]
  cors.web      pass           [e.yaml:13]
  the route won over all  [e.yaml:17]
  shadowed: access.trial would refuse: the client's address is in `deny` [e.yaml:11]
  upstream orders (orders.internal:9001, 127.0.0.1:9002) would be asked for /v2/7?a=b
    - x-debug
    + forwarded: for=192.0.2.7;host=\"api.example.com\";proto=http
    + host: api.example.com
    + via: 1.1 portcullis
    + x-client: 192.0.2.7
    + x-forwarded-for: 192.0.2.7
    + x-forwarded-host: api.example.com
    + x-forwarded-port: 80
    + x-forwarded-proto: http
    + x-request-id: …
  its answer would be changed by headers.standard, cors.web
forwarded
",
    );
}

#[test]
fn a_preflight_and_the_routes_it_could_mean() {
    let fields = ["-H", "origin: https://app.example.com", "-H", "access-control-request-method: PUT"];
    let url = "http://api.example.com/orders/7";
    says(
        &[&["-X", "OPTIONS"], &fields[..], &[url]].concat(),
        0,
        "\
OPTIONS http://api.example.com/orders/7 by listener 127.0.0.1:0
  canonical  pass         api.example.com /orders/7
  client     pass         127.0.0.1 (the peer itself)
  route      pass         new (/orders/{id})  [e.yaml:25]
  cors.web   answer       the preflight  [e.yaml:13]
  the route won over order  [e.yaml:18]
  the route won over all  [e.yaml:17]
answered: 204
    vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers
    access-control-allow-origin: https://app.example.com
    access-control-allow-methods: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS
    access-control-max-age: 300
    x-request-id: …
",
    );
}

#[test]
fn refusals_name_their_line() {
    let (status, said) = explain(&["--client", "192.0.2.7", "http://localhost/office"]);
    assert_eq!(status, Some(2), "{said}");
    for line in [
        "  access.office  refuse       the client's address is not in `allow` (ACCESS_DENIED)  [e.yaml:10]",
        "refused: 403 ACCESS_DENIED: the client's address is not in `allow` (reason not_allowed, access.office, e.yaml:10)",
        "    cache-control: no-store",
    ] {
        assert!(said.lines().any(|told| told == line), "`{line}` is missing in:\n{said}");
    }
    let fields = ["-H", "origin: https://evil.example", "-H", "access-control-request-method: PUT"];
    let (status, said) =
        explain(&[&["-X", "OPTIONS"], &fields[..], &["http://api.example.com/orders/7"]].concat());
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("refused: 403 CORS_REFUSED"), "{said}");
    let (status, said) = explain(&["http://api.example.com/a%2fb"]);
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("refused: 400 AMBIGUOUS_REQUEST"), "{said}");
}

#[test]
fn the_same_for_machines() {
    let (status, said) = explain(&["--json", "--client", "192.0.2.7", "http://api.example.com/orders/7"]);
    assert_eq!(status, Some(0));
    let told: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&told["outcome"], &told["status"]), (&"forward".into(), &serde_json::Value::Null));
    assert_eq!((&told["route"], &told["over"][0]["name"]), (&"order".into(), &"all".into()));
    assert_eq!(told["over"][0]["site"], "e.yaml:17");
    assert_eq!(told["steps"][0]["detail"], "api.example.com /orders/7");
    assert_eq!(told["steps"][3]["outcome"], "would refuse");
    assert_eq!(told["would"][0]["policy"], "access.trial");
    assert_eq!((&told["upstream"]["name"], &told["upstream"]["target"]), (&"orders".into(), &"/v2/7".into()));
    assert_eq!(told["responseRules"], serde_json::json!(["headers.standard", "cors.web"]));

    let (status, said) = explain(&["--json", "--client", "192.0.2.7", "http://localhost/office"]);
    assert_eq!(status, Some(2));
    let told: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&told["outcome"], &told["status"]), (&"refuse".into(), &403.into()));
    assert_eq!(told["error"]["site"], "e.yaml:10");
}

#[test]
fn what_cannot_be_asked_is_usage() {
    for arguments in [
        &["nonsense"][..],
        &["ftp://example.com/"],
        &["http://"],
        &["-X", "G T", "http://example.com/"],
        &["-H", "no colon", "http://example.com/"],
        &["-H", "a b: 1", "http://example.com/"],
        &["--client", "300.0.0.1", "http://example.com/"],
        &[],
    ] {
        let (status, said) = explain(arguments);
        assert_eq!(status, Some(64), "{arguments:?}: {said}");
        assert!(said.contains("error: "), "{arguments:?}: {said}");
    }
}
