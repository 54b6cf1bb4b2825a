//! What limits tell, to clients of every kind: HTTP/2, gRPC, pages of other origins, HEAD.

use serde_json::json;

use crate::harness::{Connection, Origin, Response, Running};
use crate::http2;

const LIMITS: &str = "policies:
  cors:
    web: {origins: ['https://app.example.com'], expose: [x-total]}
    any: {origins: ['*'], expose: ['*']}
  rate_limits:
    few: {key: route, limit: 2/1h}
    old: {key: route, limit: 2/1h, headers: legacy}
    secret: {key: route, limit: 1/1h, headers: hidden}
    trial: {key: route, limit: 1/1h, mode: shadow}
    heavy: {key: route, concurrent: 1}
";

fn ask(gateway: &Running, method: &str, path: &str, fields: &str) -> Response {
    gateway.send(format!("{method} {path} HTTP/1.1\r\nHost: api.example.com\r\n{fields}\r\n"))
}

#[test]
fn http2_is_told_the_same_as_http1() {
    let (authority, gateway) = http2::start(&format!(
        "{LIMITS}routes:
  - {{name: a, match: {{path: /a}}, rate_limits: [few, trial, heavy], respond: {{body: hello}}}}
"
    ));
    let mut client = http2::client(&authority, &gateway);
    let policy = "\"few\";q=2;w=3600, \"heavy\";q=1;qu=\"concurrent-requests\"";
    let slots = ", \"heavy\";r=0";
    for left in [1, 0] {
        let passed = client.get("/a");
        passed.expect(200);
        assert_eq!(passed.all("ratelimit-policy"), policy);
        let told = passed.all("ratelimit");
        assert!(told.starts_with(&format!("\"few\";r={left};t=")) && told.ends_with(slots), "{told}");
        assert_eq!(passed.header("retry-after"), None);
    }
    let refused = client.get("/a");
    refused.expect(429);
    assert_eq!(
        (refused.all("content-type"), refused.all("ratelimit-policy")),
        ("application/problem+json".into(), policy.into())
    );
    let wait: u64 = refused.all("retry-after").parse().unwrap();
    assert_eq!(refused.all("ratelimit"), format!("\"few\";r=0;t={wait}"), "not earlier than `t`");
    let problem = refused.json();
    assert_eq!(problem["violated-policies"], json!(["few"]), "what is shadowed has refused nobody");
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    let head = client.request("HEAD", "/a", &[], b"");
    head.expect(429);
    assert!(head.body.is_empty() && head.all("ratelimit").starts_with("\"few\";r=0;t="), "{head:?}");
    let grpc = client.request("POST", "/a", &[("content-type", "application/grpc"), ("te", "trailers")], b"");
    grpc.expect(200);
    assert_eq!((grpc.all("grpc-status"), grpc.body.len()), ("8".into(), 0));
    let wait: u64 = grpc.all("retry-after").parse().unwrap();
    assert_eq!(grpc.all("grpc-retry-pushback-ms"), (wait * 1000).to_string());
    assert!(grpc.all("ratelimit").starts_with("\"few\";r=0;t="), "{grpc:?}");
}

#[test]
fn a_page_of_another_origin_may_read_what_it_was_told() {
    let gateway = Running::with(&format!(
        "{LIMITS}routes:
  - {{name: few, match: {{path: /few, methods: [GET]}}, cors: web, rate_limits: [few], respond: {{}}}}
  - {{name: old, match: {{path: /old}}, cors: web, rate_limits: [old], respond: {{}}}}
  - {{name: secret, match: {{path: /secret}}, cors: web, rate_limits: [secret, trial], respond: {{}}}}
  - {{name: quiet, match: {{path: /none}}, cors: web, respond: {{}}}}
  - {{name: any, match: {{path: /any}}, cors: any, rate_limits: [few], respond: {{}}}}
"
    ));
    let limits = "retry-after, ratelimit, ratelimit-policy, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset";
    let exposed = |path: &str, origin: &str, status: u16| {
        let answer = ask(&gateway, "GET", path, &format!("Origin: {origin}\r\n"));
        answer.expect(status);
        (answer.all("access-control-allow-origin"), answer.all("access-control-expose-headers"))
    };
    let (web, page) = ("https://app.example.com", "https://app.example.com".to_owned());
    let all = || format!("x-total, {limits}");
    assert_eq!(exposed("/few", web, 200), (page.clone(), all()));
    assert_eq!(exposed("/old", web, 200), (page.clone(), all()));
    // What says nothing opens nothing; a refusal says when to come again.
    assert_eq!(exposed("/none", web, 200), (page.clone(), "x-total".into()));
    assert_eq!(exposed("/secret", web, 200), (page.clone(), "x-total".into()));
    assert_eq!(exposed("/secret", web, 429), (page.clone(), all()));
    assert_eq!(exposed("/any", web, 200), ("*".into(), format!("*, {limits}")));
    assert_eq!(exposed("/few", "https://other.example.com", 200), (String::new(), String::new()));
    assert_eq!(exposed("/few", web, 429), (page, all()));
    // A preflight is counted too. Refused, it allows nothing, and says when to ask again.
    let preflight = "Origin: https://app.example.com\r\nAccess-Control-Request-Method: GET\r\n";
    let refused = ask(&gateway, "OPTIONS", "/few", preflight);
    refused.expect(429);
    assert!(refused.header("retry-after").is_some() && refused.header("ratelimit").is_some(), "{refused:?}");
    assert_eq!(refused.all("vary"), "Origin, Access-Control-Request-Method, Access-Control-Request-Headers");
    for name in ["allow-origin", "allow-methods", "expose-headers"] {
        assert_eq!(refused.header(&format!("access-control-{name}")), None);
    }
    let allowed = ask(&gateway, "OPTIONS", "/none", preflight);
    allowed.expect(204);
    assert_eq!((allowed.header("ratelimit"), allowed.header("retry-after")), (None, None));
}

#[test]
fn too_many_at_once_is_503_for_every_kind_of_client() {
    let (origin, go) = Origin::waiting();
    let gateway = Running::with(&format!(
        "upstreams: {{o: {{servers: ['{}']}}}}\n{LIMITS}routes: [{{name: all, cors: web, rate_limits: [heavy], upstream: o}}]\n",
        origin.address()
    ));
    let mut slow = Connection::open(gateway.address());
    slow.write("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    gateway.await_metric("portcullis_rate_limit_under_way", &[("policy", "rate_limits.heavy")], 1.0);
    let refused = ask(&gateway, "GET", "/", "Origin: https://app.example.com\r\n");
    refused.expect(503);
    assert_eq!((refused.all("retry-after"), refused.all("ratelimit")), ("1".into(), "\"heavy\";r=0".into()));
    assert!(refused.all("access-control-expose-headers").contains("retry-after"), "{refused:?}");
    assert_eq!(refused.json()["violated-policies"], json!(["heavy"]));
    let grpc = ask(&gateway, "POST", "/", "Content-Type: application/grpc\r\nContent-Length: 0\r\n");
    grpc.expect(200);
    assert_eq!((grpc.all("grpc-status"), grpc.all("grpc-retry-pushback-ms")), ("14".into(), "1000".into()));
    go.send(()).unwrap();
    let passed = slow.response();
    passed.expect(200);
    assert_eq!(passed.all("ratelimit"), "\"heavy\";r=0");
}

#[test]
fn a_limit_of_both_kinds_tells_its_tokens_and_its_slots() {
    let (origin, go) = Origin::waiting();
    let gateway = Running::with(&format!(
        "upstreams: {{o: {{servers: ['{}']}}}}
policies: {{rate_limits: {{both: {{key: client, limit: 9/1h, concurrent: 1}}}}}}
routes: [{{name: all, rate_limits: [both], upstream: o}}]
",
        origin.address()
    ));
    let policies = "\"both\";q=9;w=3600, \"both.concurrent\";q=1;qu=\"concurrent-requests\"";
    let mut slow = Connection::open(gateway.address());
    slow.write("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    gateway.await_metric("portcullis_rate_limit_under_way", &[("policy", "rate_limits.both")], 1.0);
    let refused = ask(&gateway, "GET", "/", "");
    refused.expect(503);
    assert_eq!(refused.all("ratelimit-policy"), policies);
    assert_eq!(
        refused.all("ratelimit"),
        "\"both.concurrent\";r=0, \"both\";r=8;t=0",
        "what has refused is first"
    );
    assert_eq!(refused.json()["violated-policies"], json!(["both.concurrent"]));
    go.send(()).unwrap();
    let passed = slow.response();
    passed.expect(200);
    assert_eq!(passed.all("ratelimit-policy"), policies);
    assert_eq!(passed.all("ratelimit"), "\"both\";r=8;t=0, \"both.concurrent\";r=0");
}
