//! CORS over the wire. The table of policies and requests stands beside `policy/cors.rs`; here is what a browser meets.

use crate::harness::{Origin, Response, Running};

fn start(origin: &Origin) -> Running {
    Running::with(&format!(
        r#"
upstreams: {{origin: {{servers: ['{}']}}}}
policies:
  cors:
    web:
      origins: [https://app.example.com, "https://*.example.org", {{regex: '^https://(a|b)\.example\.net$'}}]
      methods: [GET, POST, PUT]
      headers: [content-type, x-mine]
      expose: [x-total]
      credentials: true
      max_age: 10m
    any: {{origins: ["*"], methods: [GET]}}
    strict: {{origins: [https://app.example.com], methods: [GET], enforce_origin: true}}
    trial: {{origins: [https://app.example.com], methods: [GET], enforce_origin: true, mode: shadow}}
  access:
    nobody: {{allow: [10.0.0.0/8]}}
routes:
  - {{name: web, match: {{path: /web, methods: [GET, POST, PUT]}}, cors: web, upstream: origin}}
  - {{name: any, match: {{path: /any}}, cors: any, respond: {{body: any}}}}
  - {{name: strict, match: {{path: /strict}}, cors: strict, respond: {{body: strict}}}}
  - {{name: trial, match: {{path: /trial}}, cors: trial, respond: {{body: trial}}}}
  - {{name: closed, match: {{path: /closed}}, cors: web, access: nobody, respond: {{body: closed}}}}
  - {{name: plain, match: {{path: /plain}}, upstream: origin}}
  - {{name: options, match: {{path: /options}}, cors: web, echo: true}}
"#,
        origin.address()
    ))
}

fn origin() -> Origin {
    Origin::each(|head, peer| {
        peer.drain_body(head);
        peer.answer_with(200, "Access-Control-Allow-Origin: *\r\nX-Total: 1\r\n", "body")
    })
}

fn preflight(gateway: &Running, path: &str, origin: &str, method: &str, headers: &str) -> Response {
    let headers = if headers.is_empty() {
        String::new()
    } else {
        format!("Access-Control-Request-Headers: {headers}\r\n")
    };
    gateway.send(format!(
        "OPTIONS {path} HTTP/1.1\r\nHost: api.example.com\r\nOrigin: {origin}\r\n\
         Access-Control-Request-Method: {method}\r\n{headers}\r\n"
    ))
}

fn actual(gateway: &Running, path: &str, origin: &str) -> Response {
    gateway.send(format!("GET {path} HTTP/1.1\r\nHost: api.example.com\r\nOrigin: {origin}\r\n\r\n"))
}

fn lower_list(value: &str) -> Vec<String> {
    let mut list: Vec<_> = value.split(',').map(|part| part.trim().to_ascii_lowercase()).collect();
    list.sort();
    list
}

#[test]
fn a_preflight_is_answered_here() {
    let origin = origin();
    let gateway = start(&origin);
    for from in ["https://app.example.com", "https://x.example.org", "https://a.example.net"] {
        let response = preflight(&gateway, "/web", from, "PUT", "x-mine, content-type");
        assert!(matches!(response.status, 200 | 204), "{from}: {response:?}");
        assert_eq!(response.header("access-control-allow-origin"), Some(from));
        assert_eq!(response.header("access-control-allow-credentials"), Some("true"));
        assert!(lower_list(&response.all("access-control-allow-methods")).contains(&"put".to_owned()));
        assert_eq!(lower_list(&response.all("access-control-allow-headers")), ["content-type", "x-mine"]);
        assert_eq!(response.header("access-control-max-age"), Some("600"));
        let vary = lower_list(&response.all("vary"));
        for name in ["origin", "access-control-request-method", "access-control-request-headers"] {
            assert!(vary.contains(&name.to_owned()), "Vary is {vary:?}");
        }
    }
    assert_eq!(origin.connections(), 0, "a preflight went to the upstream");
}

#[test]
fn a_preflight_that_asks_for_more_is_403_without_allow_fields() {
    let origin = origin();
    let gateway = start(&origin);
    let table = [
        ("https://evil.example", "GET", ""),
        ("https://app.example.com.evil.example", "GET", ""),
        ("http://app.example.com", "GET", ""),
        ("https://example.org", "GET", ""),
        ("https://c.example.net", "GET", ""),
        ("null", "GET", ""),
        ("https://app.example.com", "GET", "x-other"),
    ];
    for (from, method, headers) in table {
        let response = preflight(&gateway, "/web", from, method, headers);
        response.expect(403);
        for (name, _) in &response.headers {
            assert!(!name.starts_with("access-control-allow"), "{from} {method} {headers}: {response:?}");
        }
        assert!(lower_list(&response.all("vary")).contains(&"origin".to_owned()), "{response:?}");
    }
}

#[test]
fn an_actual_request_bears_cors_fields_in_place_of_the_upstreams() {
    let origin = origin();
    let gateway = start(&origin);
    let response = actual(&gateway, "/web", "https://app.example.com");
    response.expect(200);
    assert_eq!(response.all("access-control-allow-origin"), "https://app.example.com");
    assert_eq!(response.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(lower_list(&response.all("access-control-expose-headers")), ["x-total"]);
    assert!(lower_list(&response.all("vary")).contains(&"origin".to_owned()));
    let response = actual(&gateway, "/web", "https://evil.example");
    response.expect(200);
    assert_eq!(response.header("access-control-allow-origin"), None, "{response:?}");
    assert!(lower_list(&response.all("vary")).contains(&"origin".to_owned()));
    // Without a policy the upstream speaks for itself.
    let response = actual(&gateway, "/plain", "https://evil.example");
    assert_eq!(response.all("access-control-allow-origin"), "*");
}

#[test]
fn any_origin_is_a_star_and_varies_on_nothing() {
    let origin = origin();
    let gateway = start(&origin);
    let response = actual(&gateway, "/any", "https://whoever.example");
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    assert_eq!(response.header("access-control-allow-credentials"), None);
    assert!(!lower_list(&response.all("vary")).contains(&"origin".to_owned()), "{response:?}");
}

#[test]
fn enforce_origin_refuses_and_shadow_only_notes() {
    let origin = origin();
    let gateway = start(&origin);
    actual(&gateway, "/strict", "https://app.example.com").expect(200);
    gateway.get("/strict").expect(200);
    actual(&gateway, "/strict", "https://evil.example").expect(403);
    let refused = gateway.access(3).into_iter().find(|line| line["status"] == 403).unwrap();
    assert_eq!(refused["error"]["responseType"], "CORS_REFUSED");
    assert_eq!(refused["error"]["policy"], "cors.strict");
    actual(&gateway, "/trial", "https://evil.example").expect(200);
    assert_eq!(gateway.access_of("/trial")["would"][0]["policy"], "cors.trial");
}

#[test]
fn two_origins_are_none() {
    let origin = origin();
    let gateway = start(&origin);
    let response = gateway.send(
        "GET /strict HTTP/1.1\r\nHost: a.example\r\nOrigin: https://app.example.com\r\nOrigin: https://evil.example\r\n\r\n",
    );
    response.expect(403);
    assert_eq!(response.header("access-control-allow-origin"), None);
}

#[test]
fn refusals_of_a_routed_request_bear_cors_fields_too() {
    let origin = origin();
    let gateway = start(&origin);
    let response = actual(&gateway, "/closed", "https://app.example.com");
    response.expect(403);
    assert_eq!(response.header("access-control-allow-origin"), Some("https://app.example.com"));
    // Before a route is known nobody can say which policy would hold.
    let response = actual(&gateway, "/nowhere", "https://app.example.com");
    response.expect(404);
    assert_eq!(response.header("access-control-allow-origin"), None);
}

#[test]
fn options_without_its_marks_is_no_preflight() {
    let origin = origin();
    let gateway = start(&origin);
    for fields in ["", "Origin: https://app.example.com\r\n", "Access-Control-Request-Method: GET\r\n"] {
        let response = gateway.send(format!("OPTIONS /options HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n"));
        assert_eq!(response.expect(200).json()["method"], "OPTIONS", "{fields}");
    }
}
