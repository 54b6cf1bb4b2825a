//! Another service is asked who a request is from: what it is told, what its answers mean, and what passes to the upstream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::{Connection, Origin, Place, Refusing, Response, Running, connect_from, unanswering};

/// Says yes to `Cookie: session=NAME`, no in several ways to other cookies, and leads the rest to the login.
fn service() -> Origin {
    Origin::each(|head, peer| {
        let cookie = field(head, "cookie").unwrap_or_default().to_owned();
        match cookie.strip_prefix("session=").unwrap_or_default() {
            "" => peer.answer_with(
                302,
                "Location: https://login.example.com/\r\nSet-Cookie: state=1\r\nX-User: root\r\n",
                "",
            ),
            "forbidden" => peer.answer(403, "secret words"),
            "expired" => peer.answer_with(401, "WWW-Authenticate: Custom realm=\"sso\"\r\n", "secret words"),
            "broken" => peer.answer_with(500, "X-User: root\r\n", ""),
            "missing" => peer.answer(404, ""),
            "nameless" => peer.answer(200, ""),
            "fresh" => peer.answer_with(200, "X-User: fresh\r\nCache-Control: no-store\r\n", ""),
            name => peer.answer_with(
                200,
                &format!("X-User: {name}\r\nX-Other: other\r\nSet-Cookie: no=1\r\n"),
                "body",
            ),
        }
    })
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(own, _)| own.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

fn config(url: &str, more: &str, rest: &str) -> String {
    let text = format!(
        "policies:\n  auth:\n    sso: {{forward: {{url: '{url}', headers: [cookie], pass: [x-user]{more}}}}}\n    \
         soft: {{forward: {{url: '{url}', headers: [cookie], pass: [x-user]}}, mode: shadow, auth_shadow_is_public: true}}\n{rest}"
    );
    Place::with_base(&text).replacen("server: {", "server: {egress: {allow: [127.0.0.1]}, ", 1)
}

fn start(url: &str, more: &str, rest: &str) -> Running {
    Place::new().start_whole(&config(url, more, rest))
}

fn with(service: &Origin, upstream: &Origin, more: &str) -> Running {
    let rest = format!(
        "upstreams: {{o: {{servers: ['{}']}}}}\nroutes:\n  - {{name: r, auth: sso, upstream: o}}\n  \
         - {{name: soft, match: {{path: /soft}}, auth: soft, upstream: o}}\n  - {{name: plain, match: {{path: /plain}}, auth: none, upstream: o}}\n",
        upstream.address()
    );
    start(&format!("http://{}/check?x=1", service.address()), more, &rest)
}

fn ask(gateway: &Running, path: &str, fields: &str) -> Response {
    gateway.send(format!("GET {path} HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n{fields}\r\n"))
}

fn reason(gateway: &Running, path: &str) -> String {
    gateway.access_of(path)["error"]["reason"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_service_is_told_of_the_request_and_the_upstream_of_its_answer() {
    let (service, upstream) = (service(), Origin::echo());
    let gateway = with(&service, &upstream, "");
    let fields = "Cookie: session=ann\r\nAuthorization: Bearer secret\r\nX-User: root\r\nX_User: root\r\nX.User: root\r\nX-Other: mine\r\n\
                  X-Forwarded-Uri: /forged\r\nContent-Length: 4\r\n";
    let seen = gateway
        .send(format!(
            "POST /a%2Db?c=d HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n{fields}\r\nbody"
        ))
        .expect(200)
        .text();
    let lower = seen.to_ascii_lowercase();
    assert!(lower.contains("x-user: ann\r\n"), "{seen}");
    assert!(
        !lower.contains("root") && !lower.contains("x-other: other") && lower.contains("x-other: mine"),
        "{seen}"
    );
    // Nor does a client's word in that field reach the same service by a route that asks nobody.
    let plain =
        ask(&gateway, "/plain", "X-User: root\r\nX.User: root\r\nX-Other: mine\r\n").expect(200).text();
    assert!(!plain.contains("root") && plain.to_ascii_lowercase().contains("x-other: mine"), "{plain}");
    let heads = service.heads();
    assert_eq!(heads.len(), 1);
    let asked = heads[0].to_ascii_lowercase();
    assert!(asked.starts_with("get /check?x=1 http/1.1\r\n"), "{asked}");
    for line in [
        "x-forwarded-method: post",
        "x-forwarded-proto: http",
        "x-forwarded-host: www.example.com",
        "x-forwarded-uri: /a-b?c=d",
        "x-forwarded-for: 127.0.0.1",
        "cookie: session=ann",
    ] {
        assert!(asked.contains(&format!("{line}\r\n")), "{line} in {asked}");
    }
    for absent in ["secret", "root", "forged", "content-length", "x-other"] {
        assert!(!asked.contains(absent), "{absent} in {asked}");
    }
    assert_eq!(gateway.access_of("/a-b")["identity"]["user"], "ann");
}

#[test]
fn its_no_is_the_clients_answer_and_nothing_else_passes() {
    let (service, upstream) = (service(), Origin::echo());
    let gateway = with(&service, &upstream, ", identity_header: x-user");
    let refused = ask(&gateway, "/none", "");
    refused.expect(302);
    assert_eq!(refused.header("location"), Some("https://login.example.com/"));
    assert_eq!(refused.header("set-cookie"), Some("state=1"));
    assert!(refused.header("x-user").is_none() && refused.header("www-authenticate").is_none());
    let expired = ask(&gateway, "/expired", "Cookie: session=expired\r\n");
    expired.expect(401);
    assert!(expired.all("www-authenticate").contains("Custom realm=\"sso\""), "{expired:?}");
    assert!(!expired.text().contains("secret"), "{expired:?}");
    ask(&gateway, "/forbidden", "Cookie: session=forbidden\r\n").expect(403);
    for (path, cookie, word) in [
        ("/broken", "broken", "forward_unavailable"),
        ("/missing", "missing", "forward_unavailable"),
        ("/nameless", "nameless", "forward_answer"),
    ] {
        let answer = ask(&gateway, path, &format!("Cookie: session={cookie}\r\n"));
        answer.expect(503);
        assert!(answer.text().contains("authorizer"), "{}", answer.text());
        assert_eq!(reason(&gateway, path), word);
    }
    assert_eq!(reason(&gateway, "/none"), "forward_refused");
    assert_eq!(upstream.heads().len(), 0, "something passed");
}

#[test]
fn shadowed_it_lets_pass_but_no_forged_field() {
    let (service, upstream) = (service(), Origin::echo());
    let gateway = with(&service, &upstream, "");
    let seen = ask(&gateway, "/soft", "Cookie: session=forbidden\r\nX-User: root\r\n").expect(200).text();
    assert!(!seen.to_ascii_lowercase().contains("x-user"), "{seen}");
    assert_eq!(gateway.access_of("/soft")["would"][0]["reason"], "forward_refused");
    let known = ask(&gateway, "/soft?2", "Cookie: session=ann\r\nX-User: root\r\n").expect(200).text();
    assert!(known.to_ascii_lowercase().contains("x-user: ann\r\n"), "{known}");
}

#[test]
fn who_does_not_answer_lets_nobody_pass_and_is_left_alone() {
    let refusing = Refusing::new();
    let rest = "routes:\n  - {name: r, auth: sso, respond: {}}\n";
    let gateway = start(&format!("http://{}/", refusing.address()), "", rest);
    for number in 0..8 {
        ask(&gateway, &format!("/{number}"), "Cookie: session=ann\r\n").expect(503);
        assert_eq!(reason(&gateway, &format!("/{number}")), "forward_unavailable");
    }
    let last = gateway.access_of("/7")["error"]["message"].to_string();
    assert!(last.contains("left alone"), "{last}");
    let (_socket, _queue, silent) = unanswering();
    let gateway = start(&format!("http://{silent}/"), ", timeout: 200ms, in_flight: 1", rest);
    let began = std::time::Instant::now();
    ask(&gateway, "/slow", "Cookie: session=ann\r\n").expect(503);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(gateway.access_of("/slow")["error"]["message"].to_string().contains("200ms"));
}

#[test]
fn who_makes_the_service_fail_shuts_out_nobody_else() {
    let (service, upstream) = (service(), Origin::echo());
    let gateway = with(&service, &upstream, "");
    let from = |client: &str, session: &str| {
        let mut connection = connect_from(client, gateway.address());
        connection
            .write(format!("GET /a HTTP/1.1\r\nHost: example.com\r\nCookie: session={session}\r\n\r\n"));
        connection.response()
    };
    for _ in 0..8 {
        from("127.0.0.66", "broken").expect(503);
    }
    from("127.0.0.2", "ann").expect(200);
    for client in 10..30 {
        from(&format!("127.0.0.{client}"), "ann").expect(200);
        from("127.0.0.66", "broken").expect(503);
    }
}

/// What the service says of somebody can be asked for as claims; the same fields of a client decide nothing.
#[test]
fn conditions_hang_on_the_services_word_alone() {
    let service = service();
    let rest = "routes: [{name: r, auth: {any_of: [sso], claims: {x-user: {equals: ann}}, when: 'identity.claims[\"x-user\"] == \"ann\"'}, respond: {}}]\n";
    let gateway = start(&format!("http://{}/", service.address()), "", rest);
    ask(&gateway, "/ann", "Cookie: session=ann\r\nX-User: bob\r\n").expect(200);
    ask(&gateway, "/bob", "Cookie: session=bob\r\nX-User: ann\r\n").expect(403);
    assert_eq!(reason(&gateway, "/bob"), "claim");
}

#[test]
fn no_more_wait_than_may() {
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let service = Origin::each(move |_, peer| {
        counted.fetch_add(1, Ordering::SeqCst);
        gone.lock().unwrap().recv().ok();
        peer.answer_with(200, "X-User: ann\r\n", "")
    });
    let rest = "routes:\n  - {name: r, auth: sso, respond: {}}\n";
    let gateway = start(&format!("http://{}/", service.address()), ", timeout: 20s, in_flight: 1", rest);
    let mut first = Connection::open(gateway.address());
    first.write("GET /first HTTP/1.1\r\nHost: a\r\nCookie: session=ann\r\n\r\n");
    crate::harness::eventually("the service to be asked", || {
        (asked.load(Ordering::SeqCst) == 1).then_some(())
    });
    ask(&gateway, "/second", "Cookie: session=ann\r\n").expect(503);
    assert_eq!(reason(&gateway, "/second"), "forward_busy");
    go.send(()).unwrap();
    first.response().expect(200);
}

#[test]
fn a_yes_is_remembered_for_equal_requests_alone() {
    let (service, upstream) = (service(), Origin::echo());
    let gateway = with(&service, &upstream, ", cache: {for: 5m, by: [cookie, ':path']}");
    for _ in 0..3 {
        let seen = ask(&gateway, "/a", "Cookie: session=ann\r\nX-User: root\r\n").expect(200).text();
        assert!(seen.to_ascii_lowercase().contains("x-user: ann\r\n"), "{seen}");
    }
    assert_eq!(service.heads().len(), 1);
    ask(&gateway, "/b", "Cookie: session=ann\r\n").expect(200);
    ask(&gateway, "/a", "Cookie: session=bob\r\n").expect(200);
    assert_eq!(service.heads().len(), 3);
    // A no is asked about each time, and so is what the service wants to be asked about.
    for _ in 0..2 {
        ask(&gateway, "/a", "Cookie: session=forbidden\r\n").expect(403);
        ask(&gateway, "/a", "Cookie: session=fresh\r\n").expect(200);
    }
    assert_eq!(service.heads().len(), 7);
    // Remembered through a reload that does not touch it.
    let before = gateway.generation();
    let text = gateway.place.read("portcullis.yaml");
    gateway.place.write("portcullis.yaml", text.replace("drain: 80s", "drain: 81s"));
    gateway.signal(rustix::process::Signal::HUP);
    crate::harness::eventually("the next generation", || (gateway.generation() > before).then_some(()));
    ask(&gateway, "/a", "Cookie: session=ann\r\n").expect(200);
    assert_eq!(service.heads().len(), 7);
}

#[test]
fn beside_other_kinds_it_is_asked_about_what_it_could_know() {
    let service = service();
    let url = format!("http://{}/", service.address());
    let rest = "routes:\n  - {name: r, auth: {any_of: [sso], anonymous: true}, echo: true}\n";
    let gateway = start(&url, "", rest);
    // Who bears nothing is nobody in particular: no service needs to be asked, and no field of the client's names anybody.
    let seen = ask(&gateway, "/", "X-User: root\r\n").expect(200).json();
    assert!(seen["headers"].get("x-user").is_none(), "{seen}");
    assert_eq!(service.heads().len(), 0);
    ask(&gateway, "/", "Cookie: session=forbidden\r\n").expect(403);
    let seen = ask(&gateway, "/", "Cookie: session=ann\r\n").expect(200).json();
    assert_eq!(seen["headers"]["x-user"], "ann");
}

#[test]
fn a_field_that_two_might_read_differently_is_refused() {
    let (service, upstream) =
        (Origin::each(|_, peer| peer.answer_with(200, "X-User: ann\r\n", "")), Origin::echo());
    let rest = format!(
        "upstreams: {{o: {{servers: ['{}']}}}}\nroutes: [{{name: r, auth: sso, upstream: o}}]\n",
        upstream.address()
    );
    let text = config(&format!("http://{}/", service.address()), "", &rest);
    let gateway = Place::new()
        .start_whole(&text.replace("headers: [cookie]", "headers: [cookie, authorization, accept]"));
    let once = "Authorization: Bearer ok\r\nCookie: a=1\r\nAccept: a/b\r\nAccept: c/d\r\n";
    ask(&gateway, "/once", once).expect(200);
    ask(&gateway, "/twice", &format!("{once}Authorization: Bearer other\r\n")).expect(401);
    assert_eq!(reason(&gateway, "/twice"), "malformed");
}
