//! Header rules in both directions.

use crate::harness::{Origin, Running};

#[test]
fn rules_are_applied_to_requests_and_responses() {
    let origin = Origin::each(|head, peer| {
        peer.drain_body(head);
        peer.answer_with(200, "Server: secret/1.0\r\nX-Powered-By: magic\r\nX-Old: kept\r\n", head)
    });
    let gateway = Running::with(
        &format!(
            r#"
upstreams: {{origin: {{servers: ['{}']}}}}
policies:
  headers:
    standard:
      request:
        set: {{x-client: "{{identity.sourceIp}}", x-route: "{{route}}/{{route.id}}"}}
        add: {{x-list: second}}
        remove: [x-secret]
        rename: {{x-before: x-after}}
      response:
        set: {{x-frame-options: DENY, x-id: "{{requestId}}"}}
        add: {{x-added: "1"}}
        remove: [server, x-powered-by]
        rename: {{x-old: x-new}}
    second:
      request: {{set: {{x-last: second}}}}
routes:
  - {{name: users, match: {{path: "/users/{{id}}"}}, headers: [standard, second], upstream: origin}}
  - {{name: here, match: {{path: /here}}, headers: [standard], respond: {{body: here}}}}
  - {{name: refused, match: {{path: /refused}}, headers: [standard], access: nobody, respond: {{body: x}}}}
"#,
            origin.address()
        )
        .replace(
            "  headers:\n    standard",
            "  access: {nobody: {allow: [10.0.0.0/8]}}\n  headers:\n    standard",
        ),
    );
    let response = gateway.send(
        "GET /users/7 HTTP/1.1\r\nHost: example.com\r\nX-Client: lie\r\nX-List: first\r\nX-Secret: 1\r\nX-Before: b\r\n\r\n",
    );
    let head = response.expect(200).text().to_ascii_lowercase();
    for line in [
        "x-client: 127.0.0.1",
        "x-route: users/7",
        "x-list: first",
        "x-list: second",
        "x-after: b",
        "x-last: second",
    ] {
        assert!(head.lines().any(|own| own == line), "`{line}` did not reach the origin:\n{head}");
    }
    for gone in ["x-client: lie", "x-secret", "x-before"] {
        assert!(!head.contains(gone), "`{gone}` reached the origin:\n{head}");
    }
    assert_eq!(response.header("x-frame-options"), Some("DENY"));
    assert_eq!(response.header("x-id"), response.header("x-request-id"));
    assert_eq!(response.header("x-added"), Some("1"));
    assert_eq!(response.header("x-new"), Some("kept"));
    for gone in ["server", "x-powered-by", "x-old"] {
        assert_eq!(response.header(gone), None, "{response:?}");
    }
    // Our own answers of a routed request go the same way, refusals included.
    for (path, status) in [("/here", 200), ("/refused", 403)] {
        let response = gateway.get(path);
        response.expect(status);
        assert_eq!(response.header("x-frame-options"), Some("DENY"), "{path}: {response:?}");
    }
}

#[test]
fn a_value_cannot_bring_a_second_line() {
    let origin = Origin::echo();
    let gateway = Running::with(&format!(
        r#"
upstreams: {{origin: {{servers: ['{}']}}}}
policies: {{headers: {{h: {{request: {{set: {{x-id: "{{route.id}}"}}}}}}}}}}
routes:
  - {{name: users, match: {{path: "/users/{{id}}"}}, headers: [h], upstream: origin}}
"#,
        origin.address()
    ));
    let response = gateway.send("GET /users/a%0d%0aX-Evil:%201 HTTP/1.1\r\nHost: example.com\r\n\r\n");
    assert!(matches!(response.status, 200 | 400), "{response:?}");
    let evil = response.text().lines().any(|line| line.to_ascii_lowercase().starts_with("x-evil"));
    assert!(!evil, "a field was smuggled in:\n{}", response.text());
}
