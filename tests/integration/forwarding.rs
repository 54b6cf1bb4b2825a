//! What a request is told on its way: forwarding fields, request id, Via, and what may not pass.

use crate::harness::{Origin, Place, Running};

fn behind(origin: &Origin, trusted: &str) -> Running {
    let text = Place::with_base(&format!(
        "upstreams: {{origin: {{servers: ['{}']}}}}
routes:
  - {{name: echo, match: {{path: /echo}}, echo: true}}
  - {{name: all, upstream: origin}}
",
        origin.address()
    ));
    let listener = "  - address: 127.0.0.1:0\n";
    Place::new()
        .start_whole(&text.replace(listener, &format!("{listener}    trusted_proxies: [{trusted}]\n")))
}

/// All values of a field in a head.
fn values(head: &str, name: &str) -> Vec<String> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, v)| v.trim().to_owned())
        .collect()
}

fn is_uuid_v7(id: &str) -> bool {
    id.len() == 36 && id.as_bytes()[14] == b'7'
}

#[test]
fn forwarding_fields_are_set_anew() {
    let origin = Origin::echo();
    let gateway = behind(&origin, "");
    let spoofed = "GET / HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 6.6.6.7\r\n\
                   X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Port: 666\r\n\
                   Forwarded: for=6.6.6.6;proto=https\r\nX-Real-IP: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\n\r\n";
    let head = gateway.send(spoofed).expect(200).text();
    assert_eq!(values(&head, "x-forwarded-for"), ["127.0.0.1"], "{head}");
    assert_eq!(values(&head, "x-forwarded-proto"), ["http"], "{head}");
    assert_eq!(values(&head, "x-forwarded-host"), ["example.com"], "{head}");
    let forwarded = values(&head, "forwarded").join(", ").to_ascii_lowercase();
    assert!(forwarded.contains("for=127.0.0.1") && forwarded.contains("proto=http"), "{head}");
    for lie in ["6.6.6.", "evil.example", ": 666"] {
        assert!(!head.contains(lie), "`{lie}` reached the origin:\n{head}");
    }
}

#[test]
fn no_word_of_another_proxy_reaches_the_origin_by_a_client() {
    let origin = Origin::echo();
    let gateway = behind(&origin, "");
    let fields = [
        "Front-End-Https",
        "X-Url-Scheme",
        "WL-Proxy-Client-Cert",
        "Fly-Client-IP",
        "X-Appengine-Remote-Addr",
        "CF-Connecting-IPv6",
        "X-Azure-SocketIP",
        "CloudFront-Viewer-Address",
        "X-Vercel-Forwarded-For",
        "X-Sucuri-ClientIP",
        "X-Original-Proto",
        "X-HTTP-Host-Override",
        "X-Envoy-Original-Path",
        "X-Real-Port",
    ];
    let lies = fields.map(|name| format!("{name}: lie\r\n")).concat();
    let request = format!("GET / HTTP/1.1\r\nHost: example.com\r\nX-Original-Filename: kept\r\n{lies}\r\n");
    let head = gateway.send(request).expect(200).text();
    assert!(head.contains("kept") && !head.contains("lie"), "{head}");
}

#[test]
fn a_trusted_proxy_is_believed_from_the_right() {
    let origin = Origin::echo();
    let gateway = behind(&origin, "127.0.0.0/8, 10.0.0.0/8");
    let client = |forwarded: &str| {
        let request = format!("GET /echo HTTP/1.1\r\nHost: example.com\r\n{forwarded}\r\n");
        gateway.send(request).expect(200).json()["client"].as_str().unwrap().to_owned()
    };
    let table = [
        ("", "127.0.0.1"),
        ("X-Forwarded-For: 203.0.113.7\r\n", "203.0.113.7"),
        ("X-Forwarded-For: 6.6.6.6, 203.0.113.7\r\n", "203.0.113.7"),
        ("X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.1.2.3\r\n", "203.0.113.7"),
        ("X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 203.0.113.7, 10.1.2.3\r\n", "203.0.113.7"),
        ("X-Forwarded-For: 2001:db8::7\r\n", "2001:db8::7"),
        ("X-Forwarded-For: ::ffff:203.0.113.7\r\n", "203.0.113.7"),
    ];
    for (fields, expected) in table {
        assert_eq!(client(fields), expected, "{fields}");
    }
    let request = "GET / HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.7\r\n\
                   X-Forwarded-Proto: https\r\n\r\n";
    let head = gateway.send(request).expect(200).text();
    let chain = values(&head, "x-forwarded-for").join(", ");
    assert!(chain.starts_with("203.0.113.7"), "X-Forwarded-For at the origin: {chain}");
    assert!(!head.contains("6.6.6.6"), "{head}");
    assert_eq!(values(&head, "x-forwarded-proto"), ["https"], "{head}");
}

#[test]
fn what_trusted_proxies_do_not_write_is_not_believed() {
    let origin = Origin::echo();
    let both = "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n\
                Forwarded: for=198.51.100.9;proto=http, for=198.51.100.8;proto=https\r\n";
    let rfc = "Forwarded: for=198.51.100.8;proto=https\r\n";
    let x = "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n";
    let proto = "X-Forwarded-Proto: https\r\n";
    for (write, fields, client, scheme) in [
        ("any", both, "203.0.113.7", "https"),
        ("any", rfc, "198.51.100.8", "https"),
        ("x_forwarded", both, "203.0.113.7", "https"),
        ("x_forwarded", rfc, "127.0.0.1", "http"),
        ("x_forwarded", proto, "127.0.0.1", "https"),
        ("forwarded", both, "198.51.100.8", "https"),
        ("forwarded", rfc, "198.51.100.8", "https"),
        ("forwarded", x, "127.0.0.1", "http"),
        ("forwarded", proto, "127.0.0.1", "http"),
    ] {
        let trusted = format!("127.0.0.0/8]\n    proxies_write: {write} #");
        let gateway = behind(&origin, &trusted);
        let request = format!("GET / HTTP/1.1\r\nHost: example.com\r\n{fields}\r\n");
        let head = gateway.send(request).expect(200).text();
        assert!(values(&head, "x-forwarded-for")[0].starts_with(client), "{write}, {fields}: {head}");
        assert_eq!(values(&head, "x-forwarded-proto"), [scheme], "{write}, {fields}: {head}");
        assert!(
            values(&head, "forwarded")[0].contains(&format!("for={client}")),
            "{write}, {fields}: {head}"
        );
    }
}

#[test]
fn the_request_id_goes_to_client_upstream_and_log() {
    let origin = Origin::echo();
    let gateway = behind(&origin, "");
    let response = gateway.send("GET /id HTTP/1.1\r\nHost: example.com\r\nX-Request-Id: mine\r\n\r\n");
    let id = response.expect(200).header("x-request-id").unwrap().to_owned();
    assert!(is_uuid_v7(&id), "an untrusted client's id was taken, or ours is no UUIDv7: {id}");
    assert_eq!(values(&response.text(), "x-request-id"), [id.as_str()]);
    assert_eq!(gateway.access_of("/id")["requestId"], id.as_str());
}

#[test]
fn a_trusted_peers_request_id_is_kept_if_it_is_one() {
    let origin = Origin::echo();
    let gateway = behind(&origin, "127.0.0.1");
    let with = |id: &str| {
        let response =
            gateway.send(format!("GET / HTTP/1.1\r\nHost: example.com\r\nX-Request-Id: {id}\r\n\r\n"));
        let at_origin = values(&response.text(), "x-request-id");
        assert_eq!(at_origin, [response.header("x-request-id").unwrap()]);
        at_origin[0].clone()
    };
    assert_eq!(with("abc-DEF_1.2"), "abc-DEF_1.2");
    assert_eq!(with(&"a".repeat(64)), "a".repeat(64));
    for bad in ["a b", "a\"b", &"a".repeat(65), "", "ä"] {
        assert!(is_uuid_v7(&with(bad)), "taken as an id: {bad:?}");
    }
    // Lines of two workers may change places.
    let lines = gateway.access(7);
    let line = lines.iter().find(|line| line["requestId"] == "abc-DEF_1.2").unwrap();
    assert!(is_uuid_v7(line["extendedRequestId"].as_str().unwrap()), "{line}");
}

#[test]
fn via_is_added() {
    let origin = Origin::echo();
    let gateway = behind(&origin, "");
    let head = gateway.get("/").expect(200).text();
    assert!(values(&head, "via").join(", ").starts_with("1.1 "), "{head}");
    let head = gateway.send("GET / HTTP/1.1\r\nHost: example.com\r\nVia: 1.0 before\r\n\r\n").text();
    let via = values(&head, "via").join(", ");
    assert!(via.starts_with("1.0 before, 1.1 "), "{via}");
}

#[test]
fn hop_by_hop_fields_stay_on_their_hop() {
    let origin = Origin::echo();
    let gateway = behind(&origin, "");
    let request = "GET / HTTP/1.1\r\nHost: example.com\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\n\
                   Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\nUpgrade: foo\r\n\
                   X-Kept: 1\r\n\r\n";
    let head = gateway.send(request).expect(200).text();
    for name in ["x-mine", "keep-alive", "proxy-connection", "upgrade"] {
        assert!(values(&head, name).is_empty(), "{name} reached the origin:\n{head}");
    }
    assert_eq!(values(&head, "x-kept"), ["1"]);
}

#[test]
fn nothing_named_in_connection_removes_what_the_gateway_adds() {
    let origin = Origin::echo();
    let gateway = behind(&origin, "");
    let request = "GET / HTTP/1.1\r\nHost: example.com\r\n\
                   Connection: close, X-Request-Id, X-Forwarded-For, X-Forwarded-Proto, Forwarded, Via, Host\r\n\r\n";
    let response = gateway.send(request);
    if response.status == 400 {
        // Naming Host or our own fields may as well be refused: it has no honest meaning.
        return;
    }
    let head = response.expect(200).text();
    for name in ["x-request-id", "x-forwarded-for", "x-forwarded-proto", "forwarded", "via", "host"] {
        assert_eq!(values(&head, name).len(), 1, "{name}:\n{head}");
    }
}

#[test]
fn end_to_end_fields_and_bodies_pass_unchanged() {
    let origin = Origin::each(|head, peer| {
        let bytes = peer.drain_body(head);
        let fields = "X-Origin: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: x\r\n";
        peer.answer_with(207, fields, &format!("{bytes} bytes\n{head}"))
    });
    let gateway = behind(&origin, "");
    let request = "PUT /a HTTP/1.1\r\nHost: example.com\r\nAuthorization: Basic eA==\r\nCookie: c=1\r\n\
                   Content-Length: 5\r\nContent-Type: a/b\r\n\r\n12345";
    let response = gateway.send(request);
    response.expect(207);
    let text = response.text();
    assert!(text.starts_with("5 bytes\nPUT /a HTTP/1.1"), "{text}");
    assert_eq!(values(&text, "authorization"), ["Basic eA=="]);
    assert_eq!(values(&text, "cookie"), ["c=1"]);
    assert_eq!(values(&text, "content-type"), ["a/b"]);
    assert_eq!(response.all("set-cookie"), "a=1, b=2");
    assert_eq!(response.header("x-origin"), Some("1"));
    assert_eq!(response.header("x-hop"), None, "a hop-by-hop field of the origin passed: {response:?}");
    assert_eq!(response.header("keep-alive"), None, "{response:?}");
}

#[test]
fn an_upstreams_path_and_host_are_as_configured() {
    let origin = Origin::echo();
    let at = origin.address();
    let gateway = Running::with(&format!(
        r#"
upstreams:
  keep: {{servers: ['{at}']}}
  own: {{servers: ['{at}'], host: server}}
  literal: {{servers: ['{at}'], host: inner.example}}
routes:
  - {{name: strip, match: {{path: "/api/{{*rest}}"}}, upstream: keep, path: {{strip: /api, prefix: /v2}}}}
  - {{name: template, match: {{path: "/users/{{id}}"}}, upstream: own, path: {{template: "/x/{{route.id}}"}}}}
  - {{name: literal, match: {{path: /literal}}, upstream: literal}}
"#
    ));
    let head = gateway.get("/api/a?b=1").expect(200).text();
    assert!(head.starts_with("GET /v2/a?b=1 HTTP/1.1\r\n"), "{head}");
    assert_eq!(values(&head, "host"), ["example.com"]);
    let head = gateway.get("/users/7?b=1").expect(200).text();
    assert!(head.starts_with("GET /x/7?b=1 HTTP/1.1\r\n"), "{head}");
    assert_eq!(values(&head, "host"), [at.to_string()]);
    let head = gateway.get("/literal").expect(200).text();
    assert_eq!(values(&head, "host"), ["inner.example"]);
}

#[test]
fn expect_100_continue_gets_one_100() {
    let origin = Origin::echo();
    let gateway = behind(&origin, "");
    for path in ["/", "/echo"] {
        let mut connection = crate::harness::Connection::open(gateway.address());
        connection.write(format!(
            "POST {path} HTTP/1.1\r\nHost: example.com\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        ));
        let informational = connection.read_head().unwrap();
        assert_eq!(informational.status, 100, "{path}");
        connection.write("body");
        let response = connection.response();
        response.expect(200);
        assert_eq!(response.informational, [0_u16; 0], "a second 100 on {path}");
    }
}

#[test]
fn what_connection_names_in_vain_and_twins_with_underscores() {
    let origin = Origin::echo();
    let gateway = Running::with(&format!(
        "policies: {{headers: {{h: {{request: {{set: {{x-client: '{{identity.sourceIp}}', made_here: '1'}}}}}}}}}}
upstreams: {{o: {{servers: ['{}']}}}}
routes:
  - {{name: o, upstream: o, headers: [h]}}
",
        origin.address()
    ));
    let head = gateway
        .send(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-api-key, x-client, via, x-one\r\nX-Api-Key: k\r\n\
             X-One: 1\r\nX_Client: 6.6.6.6\r\nProxy: http://6.6.6.6\r\n\r\n",
        )
        .text()
        .to_ascii_lowercase();
    for kept in ["x-api-key: k", "x-client: 127.0.0.1", "via: 1.1 portcullis", "made_here: 1"] {
        assert!(head.contains(kept), "{kept} is missing in {head}");
    }
    for gone in ["x-one:", "x_client", "6.6.6.6"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
}

#[test]
fn a_malformed_body_is_400_and_the_last_of_its_connection() {
    let origin = Origin::echo();
    let gateway = Running::with(&format!(
        "upstreams: {{o: {{servers: ['{}']}}}}\nroutes:\n  - {{name: o, upstream: o}}\n",
        origin.address()
    ));
    for body in
        ["3\nabc\n0\n\n", "0x3\r\nabc\r\n0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n", "3 \r\nabc\r\n0\r\n\r\n"]
    {
        let response = gateway.send(format!(
            "POST /bad HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}GET /behind HTTP/1.1\r\nHost: a\r\n\r\n"
        ));
        assert!(response.expect(400).closes(), "{body:?}");
    }
    assert_eq!(gateway.access_of("/bad")["error"]["responseType"], "AMBIGUOUS_REQUEST");
    assert_eq!(origin.requests_of("/behind"), 0);
}
