//! Tables of the way through a gateway.

use http::Method;

use super::*;
use crate::gateway::testing::gateway;
use crate::request::Protocol;
use crate::state::Live;

/// Two ways in, one way out, and a route of each kind.
const CONFIGURATION: &str = r#"
log: {access: {to: none}}
listeners:
  - {address: '127.0.0.1:0', trusted_proxies: [127.0.0.9]}
  - {address: '127.0.0.1:1', redirect_to_https: true}
  - {address: '127.0.0.1:2', redirect_to_https: 8443, trusted_proxies: [127.0.0.9]}
server: {limits: {header_fields: 20, header_bytes: 1KiB, field_bytes: 256B, uri_bytes: 128B}}
upstreams:
  keep: {servers: ['127.0.0.1:9001']}
  server: {servers: ['backend.internal:9001'], host: server}
  literal: {servers: ['127.0.0.1:9001'], host: api.internal}
policies:
  access:
    scanners: {deny: [192.0.2.66]}
    office: {allow: [10.0.0.0/8, 127.0.0.0/8]}
    trial: {allow: [10.0.0.0/8], mode: shadow}
  cors:
    web: {origins: ['https://app.example.com']}
    enforced: {origins: ['https://app.example.com'], enforce_origin: true}
    trial: {origins: ['https://app.example.com'], enforce_origin: true, mode: shadow}
  headers:
    standard: {request: {set: {x-client: '{identity.sourceIp}'}}, response: {set: {x-route: '{route}'}}}
edge: {access: scanners}
defaults: {auth: none, headers: [standard]}
routes:
  - {name: strip, match: {path: '/api/{*rest}'}, upstream: keep, path: {strip: /api}}
  - {name: bare, match: {path: /api}, upstream: keep, path: {strip: /api}}
  - {name: both, match: {path: '/v1/{*rest}'}, upstream: keep, path: {strip: /v1, prefix: /v2/}}
  - {name: end, match: {path: /v1}, upstream: keep, path: {strip: /v1, prefix: /v2}}
  - {name: part, match: {path: '/{*rest}', hosts: [part.test]}, upstream: keep, path: {strip: /ap}}
  - {name: star, match: {path: '/{*rest}', hosts: [star.test]}, upstream: keep, path: {prefix: /x}}
  - {name: prefix, match: {path: '/p/{*rest}'}, upstream: server, path: {prefix: /x}}
  - {name: template, match: {path: '/t/{id}/{*rest}'}, upstream: literal, path: {template: '/users/{route.id}/of/{route.rest}'}}
  - {name: free, match: {path: '/free/{*rest}'}, upstream: keep, path: {template: '/agents/{identity.userAgent}/x{route.rest}'}}
  - {name: looser, match: {path: '/looser/{*rest}'}, path_oddities: [encoded_slash], upstream: keep, path: {template: '/agents/{identity.userAgent}/x'}}
  - {name: plain, match: {path: '/plain/{*rest}'}, upstream: keep, upgrade: [websocket]}
  - {name: office, match: {path: /office}, access: office, respond: {body: ok}}
  - {name: trial, match: {path: /trial}, access: trial, cors: trial, respond: {body: ok}}
  - {name: web, match: {path: /web, methods: [GET, POST]}, cors: web, respond: {body: ok}}
  - {name: version, match: {path: /web, methods: [GET], headers: {x-version: '2'}}, cors: web, respond: {body: ok}}
  - {name: enforced, match: {path: /enforced}, cors: enforced, respond: {body: ok}}
  - {name: own, match: {path: /own}, respond: {body: ok}}
  - {name: put, match: {path: /put, methods: [PUT, DELETE]}, respond: {body: ok}}
  - {name: old, match: {path: '/old/{id}'}, redirect: {to: 'https://{domainName}/new/{route.id}'}}
  - {name: echo, match: {path: /echo}, echo: true}
"#;

/// A request, and who sends it.
struct Asked<'a> {
    listener: &'a str,
    peer: &'a str,
    tls: bool,
    method: &'a str,
    host: &'a str,
    target: &'a str,
    fields: &'a [(&'static str, &'a str)],
}

const PLAIN: Asked<'_> = Asked {
    listener: "127.0.0.1:0",
    peer: "127.0.0.1",
    tls: false,
    method: "GET",
    host: "api.test",
    target: "/",
    fields: &[],
};

fn asked<'a>(method: &'a str, target: &'a str, fields: &'a [(&'static str, &'a str)]) -> Asked<'a> {
    Asked { method, target, fields, ..PLAIN }
}

/// What became of a request.
struct Became {
    passage: Passage,
    reply: Option<Reply>,
    /// What an upstream would see.
    seen: Option<(String, HeaderMap)>,
}

impl Became {
    fn status(&self) -> u16 {
        self.reply.as_ref().map_or(0, |reply| reply.status.as_u16())
    }

    fn reason(&self) -> &str {
        self.passage.record.error.as_ref().map_or("", |error| error.reason)
    }

    fn field(&self, name: &str) -> &str {
        let reply = self.reply.as_ref().map(|reply| &reply.headers);
        reply.and_then(|fields| fields.get(name)).map_or("", |value| value.to_str().unwrap())
    }

    /// Status, reason and route in one word: what the tables compare.
    fn told(&self) -> String {
        let route = self.passage.record.route.as_ref().map_or("-", |route| &*route.name);
        match (&self.seen, self.reason()) {
            (Some((target, _)), _) => format!("{route} → {target}"),
            (None, "") => format!("{route} {}", self.status()),
            (None, reason) => format!("{route} {} {reason}", self.status()),
        }
    }
}

fn send(gateway: &Arc<Gateway>, asked: &Asked<'_>) -> Became {
    let tls = asked.tls.then(|| {
        Arc::new(crate::request::TlsFacts {
            version: "TLSv1.3",
            cipher: "TLS_AES_256_GCM_SHA384",
            group: None,
            sni: None,
            resumed: false,
            client_rule: None,
            client_certificate: None,
        })
    });
    let connection = Connection {
        peer: Some(SocketAddr::new(asked.peer.parse().unwrap(), 4711)),
        local: Some(([127, 0, 0, 1], 80).into()),
        tls,
        ..Connection::to(asked.listener)
    };
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_str(asked.host).unwrap());
    for (name, value) in asked.fields {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    let method = Method::from_bytes(asked.method.as_bytes()).unwrap();
    let arrival = Arrival {
        method: &method,
        target: asked.target.as_bytes(),
        authority: None,
        headers: &headers,
        protocol: Protocol::Http11,
        connection: &connection,
    };
    let mut passage = Passage::new(Arc::clone(gateway), &connection, Instant::now(), SystemTime::now());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut reply, mut seen) = (None, None);
    match runtime.block_on(passage.admit(&arrival)) {
        Admission::Reply(own) => reply = Some(own),
        Admission::Echo(admitted) => reply = Some(passage.echo(&admitted, &arrival, 3)),
        Admission::Forward(admitted) => {
            let mut fields = headers.clone();
            let server = admitted.upstream().unwrap().servers().next().unwrap().0.to_owned();
            let target = passage.upstream_head(&admitted, &server, &mut fields);
            seen = Some((target, fields));
        }
    }
    Became { passage, reply, seen }
}

fn example() -> Arc<Gateway> {
    Arc::new(gateway(CONFIGURATION, &Live::default(), 1))
}

#[test]
fn what_a_policy_tells_the_client_goes_with_the_answer() {
    let mut became = send(&example(), &asked("GET", "/plain/a", &[]));
    let told = (HeaderName::from_static("dpop-nonce"), HeaderValue::from_static("next"));
    became.passage.effects.answers.push(told);
    let mut fields = HeaderMap::new();
    fields.insert("dpop-nonce", HeaderValue::from_static("an upstream's"));
    became.passage.finish(StatusCode::OK, &mut fields);
    assert_eq!(fields["dpop-nonce"], "next");
}

#[test]
fn a_host_as_a_whole_tells_whose_tokens_its_own_routes_take() {
    let mut text = String::from(
        "log: {access: {to: none}}\nlisteners: [{address: '127.0.0.1:0'}]\npolicies:\n  access: {office: {allow: [10.0.0.0/8]}}\n  auth:\n",
    );
    for name in ["one", "two", "three", "four"] {
        text.push_str(&format!(
            "    {name}: {{introspection: {{url: 'https://{name}.test/ask', client_id: a, client_secret: b, issuer: 'https://{name}.test'}}}}\n"
        ));
    }
    text.push_str("routes:\n");
    let mut route = |name: &str, host: &str, path: &str, rest: &str| {
        text.push_str(&format!(
            "  - {{name: {name}, match: {{hosts: ['{host}'], path: '{path}'}}, respond: {{}}, {rest}}}\n"
        ));
    };
    for number in 0..300 {
        route(&format!("r{number}"), &format!("h{number}.test"), "/x", "auth: one");
    }
    route("wild", "*.b.test", "/x", "auth: two");
    route("exact", "x.b.test", "/x", "auth: three");
    route("deeper", "*.b.test", "/y/{id}/z", "auth: four");
    route("inner", "*.b.test", "/inner", "auth: one, access: office");
    route("open", "*.b.test", "/open", "auth: none");
    let gateway = Arc::new(gateway(&text, &Live::default(), 1));
    let servers = |host: &str| {
        let became =
            send(&gateway, &Asked { host, ..asked("GET", "/.well-known/oauth-protected-resource", &[]) });
        let body = became.reply.filter(|reply| reply.status == 200)?.body;
        let told: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let servers = told["authorization_servers"].as_array().unwrap().iter();
        Some(
            servers
                .map(|own| own.as_str().unwrap().replace("https://", "").replace(".test", ""))
                .collect::<Vec<_>>(),
        )
    };
    // Twice: found, and found before. Hosts of one pattern are told alike, and others are not.
    for _ in 0..2 {
        assert_eq!(servers("h299.test").unwrap(), ["one"]);
        assert_eq!(servers("y.b.test").unwrap(), ["four", "two"]);
        assert_eq!(servers("z.z.b.test:8443").unwrap(), ["four", "two"]);
        assert_eq!(
            servers("x.b.test").unwrap(),
            ["four", "three"],
            "a route of its own stands before the wildcard's"
        );
        assert_eq!(servers("b.test"), None);
    }
}

#[test]
fn paths_are_rewritten_at_the_borders_of_segments() {
    let gateway = example();
    let rows = [
        ("/api/orders/7", "strip → /orders/7"),
        ("/api/", "strip → /"),
        ("/api", "bare → /"),
        ("/api/?a=b?c", "strip → /?a=b?c"),
        ("/api?", "bare → /?"),
        ("/api/api/x", "strip → /api/x"),
        ("/x/../api/%7Ea//b", "strip → /~a/b"),
        ("/v1/orders", "both → /v2/orders"),
        ("/v1/", "both → /v2/"),
        ("/v1", "end → /v2"),
        ("/p/a", "prefix → /x/p/a"),
        ("/t/7/a/b?x=1", "template → /users/7/of/a/b?x=1"),
        ("/t/a%20b/c%C3%A9", "template → /users/a%20b/of/c%C3%A9"),
        ("/t/7/", "template → /users/7/of/"),
        ("/plain/a%2Cb", "plain → /plain/a%2Cb"),
    ];
    for (target, expected) in rows {
        assert_eq!(send(&gateway, &asked("GET", target, &[])).told(), expected, "{target}");
    }
    // `*` asks about the server and is no path that could stand behind another (RFC 9112 §3.2.4).
    let became = send(&gateway, &Asked { host: "star.test", ..asked("OPTIONS", "*", &[]) });
    assert_eq!(became.told(), "star → *");
    // `/ap` is no segment of `/apart`: taking it away would ask for another path.
    for (target, expected) in [("/apart", "part → /apart"), ("/ap/art", "part → /art"), ("/ap", "part → /")]
    {
        let became = send(&gateway, &Asked { host: "part.test", ..asked("GET", target, &[]) });
        assert_eq!(became.told(), expected);
    }
}

/// What a client chooses freely chooses no other path.
#[test]
fn a_template_makes_a_canonical_path_or_none() {
    let gateway = example();
    let rows = [
        ("/free/1", "curl", "free → /agents/curl/x1"),
        ("/free/1?q", "curl", "free → /agents/curl/x1?q"),
        ("/free/", "a b", "free → /agents/a%20b/x"),
        ("/free/", "%7e%3a", "free → /agents/~%3A/x"),
        ("/free/", "a//b", "free → /agents/a/b/x"),
        ("/free/", "", "free → /agents/x"),
        ("/free/", "?a#b", "free → /agents/%3Fa%23b/x"),
        ("/free/", "..", "free 400 path_template"),
        ("/free/", "a/../../admin", "free 400 path_template"),
        ("/free/", "%2e%2E", "free 400 path_template"),
        ("/free/", ".", "free 400 path_template"),
        ("/free/", "..;a", "free 400 path_template"),
        ("/free/", "a%2fb", "free 400 path_template"),
        ("/free/", "a%5cb", "free 400 path_template"),
        ("/free/", "a%zz", "free → /agents/a%25zz/x"),
        ("/free/", "a%00", "free 400 path_template"),
        ("/free/", "%ff", "free 400 path_template"),
        ("/looser/", "a%2fb", "looser → /agents/a%2Fb/x"),
        ("/looser/", "..%2fb", "looser 400 path_template"),
    ];
    for (target, agent, expected) in rows {
        let fields = [("user-agent", agent)];
        assert_eq!(send(&gateway, &asked("GET", target, &fields)).told(), expected, "{target} {agent}");
    }
    let became = send(&gateway, &asked("GET", "/free/", &[("user-agent", "..")]));
    let error = became.passage.record.error.clone().unwrap();
    assert_eq!(error.message, "`path.template` makes no path of this request: the path has dot segments");
    assert!(error.site.is_some());
}

#[test]
fn hosts_are_kept_or_said_anew() {
    let gateway = example();
    let rows = [
        ("/plain/a", "API.test.:8080", "api.test:8080"),
        ("/plain/a", "api.test", "api.test"),
        ("/p/a", "api.test:8080", "backend.internal:9001"),
        ("/t/7/a", "api.test:8080", "api.internal"),
    ];
    for (target, host, expected) in rows {
        let became = send(&gateway, &Asked { host, ..asked("GET", target, &[]) });
        let (_, fields) = became.seen.unwrap();
        assert_eq!(fields.get("host").unwrap(), expected, "{target} {host}");
        assert_eq!(fields.get_all("host").iter().count(), 1);
    }
}

#[test]
fn the_upstream_sees_what_the_gateway_says_of_the_request() {
    let gateway = example();
    let fields = [
        ("x-forwarded-for", "1.2.3.4"),
        ("connection", "x-client, x-request-id, x-hop"),
        ("x-hop", "1"),
        ("x-client", "forged"),
        ("x-request-id", "forged"),
        ("upgrade", "h2c"),
    ];
    let became = send(&gateway, &asked("GET", "/plain/a", &fields));
    let (_, seen) = became.seen.unwrap();
    let field = |name: &str| seen.get(name).map_or("", |value| value.to_str().unwrap());
    assert_eq!(field("x-forwarded-for"), "127.0.0.1");
    assert_eq!(field("x-client"), "127.0.0.1");
    assert_eq!(field("x-request-id"), became.passage.record.request_id.as_str());
    assert_eq!(field("via"), "1.1 portcullis");
    assert_eq!((field("x-hop"), field("upgrade"), field("connection")), ("", "", ""));

    // A trusted peer's word is believed.
    let became = send(&gateway, &Asked { peer: "127.0.0.9", ..asked("GET", "/plain/a", &fields[..1]) });
    assert_eq!(became.passage.record.client, Some("1.2.3.4".parse().unwrap()));
}

#[test]
fn only_a_listed_protocol_is_switched_to() {
    let gateway = example();
    let switch = |target: &str, protocol: &str| {
        let fields = [("connection", "upgrade"), ("upgrade", protocol)];
        let (_, seen) = send(&gateway, &asked("GET", target, &fields)).seen.unwrap();
        seen.contains_key("upgrade")
    };
    assert!(switch("/plain/a", "websocket"));
    assert!(switch("/plain/a", "WebSocket"));
    assert!(!switch("/plain/a", "websocket, h2c"));
    assert!(!switch("/plain/a", "h2c"));
    assert!(!switch("/api/a", "websocket"));
}

#[test]
fn plain_listeners_redirect() {
    let gateway = example();
    let forwarded = [("x-forwarded-proto", "https"), ("x-forwarded-for", "10.0.0.1")];
    type Row<'a> = (&'a str, &'a str, &'a str, &'a [(&'static str, &'a str)], &'a str);
    let rows: &[Row<'_>] = &[
        ("127.0.0.1:1", "api.test", "/a/../b?x=1", &[], "https://api.test/b?x=1"),
        ("127.0.0.1:1", "API.test:8080", "/", &[], "https://api.test/"),
        ("127.0.0.1:1", "[::1]:80", "/a", &[], "https://[::1]/a"),
        ("127.0.0.1:2", "api.test", "/a%2Cb?", &[], "https://api.test:8443/a%2Cb?"),
        // Said by nobody who is believed.
        ("127.0.0.1:1", "api.test", "/", &forwarded, "https://api.test/"),
    ];
    for (listener, host, target, fields, location) in rows {
        let became = send(&gateway, &Asked { listener, host, ..asked("POST", target, fields) });
        assert_eq!((became.status(), became.field("location")), (308, *location), "{listener} {target}");
        assert!(became.passage.record.route.is_none());
    }
    // A proxy in front has ended TLS already: a redirect would go in circles.
    let behind = Asked { listener: "127.0.0.1:2", peer: "127.0.0.9", ..asked("GET", "/own", &forwarded) };
    assert_eq!(send(&gateway, &behind).told(), "own 200");
    // Scanners pay before, and nothing ambiguous is carried on.
    let scanner = Asked { listener: "127.0.0.1:1", peer: "192.0.2.66", ..PLAIN };
    assert_eq!(send(&gateway, &scanner).told(), "- 403 denied");
    let star = Asked { listener: "127.0.0.1:1", ..asked("OPTIONS", "*", &[]) };
    assert_eq!(send(&gateway, &star).told(), "- 400 host_missing");
}

#[test]
fn what_has_two_readings_is_refused_with_a_route_and_without() {
    let gateway = example();
    let rows = [
        ("GET", "/plain/a%2Fb"),
        ("GET", "/nowhere/a%2Fb"),
        ("POST", "/put/..%2Fx"),
        ("GET", "/plain/a%5Cb"),
        ("GET", "/plain/a\\b"),
        ("GET", "/plain/..;/x"),
        ("GET", "/plain/%00"),
        ("GET", "/plain/%zz"),
        ("GET", "no-slash"),
    ];
    for (method, target) in rows {
        let became = send(&gateway, &asked(method, target, &[]));
        assert_eq!(became.status(), 400, "{target}: {}", became.told());
        assert!(became.passage.is_ambiguous(), "{target}");
        assert!(became.seen.is_none());
    }
}

#[test]
fn methods_that_no_route_has() {
    let gateway = example();
    let rows = [
        ("GET", "/put", "- 405 method_not_allowed", "DELETE, PUT"),
        ("PATCH", "/web", "- 405 method_not_allowed", "GET, HEAD, POST"),
        ("OPTIONS", "/put", "- 405 method_not_allowed", "DELETE, PUT"),
        ("HEAD", "/web", "web 200", ""),
        ("TRACE", "/own", "- 405 method_never_allowed", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("CONNECT", "/own", "- 405 method_never_allowed", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("GET", "/nowhere", "- 404 no_route", ""),
        ("BREW", "/own", "own 200", ""),
    ];
    for (method, target, told, allow) in rows {
        let became = send(&gateway, &asked(method, target, &[]));
        assert_eq!((became.told().as_str(), became.field("allow")), (told, allow), "{method} {target}");
    }
}

#[test]
fn heads_are_bounded() {
    let gateway = example();
    let long = "x".repeat(300);
    let big = "x".repeat(240);
    let uri = format!("/{}", "a".repeat(128));
    let names = [
        "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8",
    ];
    let all = |value: &'static str| names.map(|name| (name, value));
    let few = all("1");
    let many: Vec<_> = few.iter().copied().chain([("c1", "1"), ("c2", "1"), ("c3", "1")]).collect();
    type Row<'a> = (&'a str, &'a [(&'static str, &'a str)], &'a str);
    let rows: &[Row<'_>] = &[
        ("/own", &few, "own 200"),
        ("/own", &many, "- 431 header_fields"),
        ("/own", &[("x-long", &long)], "- 431 field_bytes"),
        ("/own", &[("a", &big), ("b", &big), ("c", &big), ("d", &big)], "own 200"),
        ("/own", &[("a", &big), ("b", &big), ("c", &big), ("d", &big), ("e", &big)], "- 431 header_bytes"),
    ];
    for (target, fields, told) in rows {
        assert_eq!(send(&gateway, &asked("GET", target, fields)).told(), *told, "{}", fields.len());
    }
    let became = send(&gateway, &asked("GET", &uri, &[]));
    assert_eq!(became.status(), 414, "{}", became.told());
}

#[test]
fn preflights_are_answered_where_there_is_a_policy() {
    let gateway = example();
    let ask = |method: &'static str| {
        [("origin", "https://app.example.com"), ("access-control-request-method", method)]
    };
    let rows = [
        // No header condition is asked of a preflight; GET and its methods decide.
        ("/web", "GET", "version 204"),
        ("/web", "POST", "web 204"),
        ("/web", "PUT", "- 405 method_not_allowed"),
        ("/enforced", "PATCH", "enforced 204"),
        // Without a policy it is an ordinary OPTIONS: of the route that takes it, or of none.
        ("/own", "GET", "own 200"),
        ("/put", "PUT", "- 405 method_not_allowed"),
        ("/plain/a", "GET", "plain → /plain/a"),
        ("/nowhere", "GET", "- 404 no_route"),
    ];
    for (target, method, told) in rows {
        let became = send(&gateway, &asked("OPTIONS", target, &ask(method)));
        assert_eq!(became.told(), told, "{method} {target}");
    }
    let evil = [("origin", "https://evil.test"), ("access-control-request-method", "GET")];
    let became = send(&gateway, &asked("OPTIONS", "/web", &evil));
    assert_eq!(became.told(), "version 403 origin_not_allowed");
    assert_eq!(
        (became.field("access-control-allow-origin"), became.field("vary")),
        ("", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
    );
    // OPTIONS that is no preflight goes on.
    assert_eq!(send(&gateway, &asked("OPTIONS", "/own", &evil[..1])).told(), "own 200");
}

#[test]
fn cors_fields_are_on_refusals_too() {
    let gateway = example();
    let origin = |origin| [("origin", origin)];
    let allowed = send(&gateway, &asked("GET", "/enforced", &origin("https://app.example.com")));
    assert_eq!(allowed.told(), "enforced 200");
    assert_eq!(allowed.field("access-control-allow-origin"), "https://app.example.com");
    let refused = send(&gateway, &asked("GET", "/enforced", &origin("https://evil.test")));
    assert_eq!(refused.told(), "enforced 403 origin_not_allowed");
    assert_eq!((refused.field("access-control-allow-origin"), refused.field("vary")), ("", "Origin"));
    // Before a route is known there is no policy whose word it could be.
    let unrouted = send(&gateway, &asked("GET", "/nowhere", &origin("https://app.example.com")));
    assert_eq!(unrouted.field("vary"), "");
}

#[test]
fn lists_refuse_and_shadowed_policies_only_would() {
    let gateway = example();
    let from = |peer: &'static str, target: &'static str| {
        let fields = &[("origin", "https://evil.test")];
        send(&gateway, &Asked { peer, ..asked("GET", target, fields) })
    };
    assert_eq!(from("10.1.2.3", "/office").told(), "office 200");
    let refused = from("192.0.2.1", "/office");
    assert_eq!(refused.told(), "office 403 not_allowed");
    let error = refused.passage.record.error.as_ref().unwrap();
    assert_eq!(error.policy.as_deref(), Some("access.office"));
    assert_eq!(error.site.as_ref().unwrap().to_string(), "test.yaml:15");
    assert_eq!(refused.field("cache-control"), "no-store");
    assert_eq!(refused.field("x-route"), "office", "header rules are on refusals too");
    assert_eq!(from("192.0.2.66", "/office").told(), "- 403 denied");

    let mut shadowed = from("192.0.2.1", "/trial");
    assert_eq!(shadowed.told(), "trial 200", "{:?}", shadowed.passage.record.error);
    shadowed.passage.settle();
    let would: Vec<_> =
        shadowed.passage.record.would.iter().map(|w| (w.policy.as_deref().unwrap(), w.reason)).collect();
    assert_eq!(would, [("access.trial", "not_allowed"), ("cors.trial", "origin_not_allowed")]);
    assert!(
        from("10.1.2.3", "/trial").passage.effects.would.iter().all(|w| w.reason == "origin_not_allowed")
    );
}

#[test]
fn a_shadowed_preflight_goes_on_as_though_there_were_no_policy() {
    let gateway = example();
    let fields = [("origin", "https://evil.test"), ("access-control-request-method", "GET")];
    let became = send(&gateway, &Asked { peer: "10.0.0.1", ..asked("OPTIONS", "/trial", &fields) });
    assert_eq!(became.told(), "trial 200");
    assert_eq!(became.passage.effects.would.len(), 1);
    assert_eq!(became.field("access-control-allow-origin"), "");
}

#[test]
fn answers_of_our_own() {
    let gateway = example();
    let became = send(&gateway, &asked("GET", "/old/a%20b", &[]));
    assert_eq!((became.status(), became.field("location")), (308, "https://api.test/new/a%20b"));
    let became = send(&gateway, &asked("GET", "/own", &[]));
    assert_eq!(became.field("x-request-id"), became.passage.record.request_id.as_str());
    let became = send(&gateway, &asked("POST", "/echo?a=1", &[("x-a", "1"), ("x-a", "2")]));
    let echoed: serde_json::Value = serde_json::from_slice(&became.reply.unwrap().body).unwrap();
    for (name, expected) in [("method", "POST"), ("path", "/echo"), ("query", "a=1"), ("host", "api.test")] {
        assert_eq!(echoed[name], expected);
    }
    assert_eq!((&echoed["headers"]["x-a"], &echoed["body_bytes"]), (&"1, 2".into(), &3.into()));
}
