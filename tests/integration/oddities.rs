//! Paths that two servers may read differently: refused, unless the route says that it takes them.

use crate::harness::{Origin, Running};

/// What a path may hold that two servers read differently; the word for it; how it goes on where the route takes it.
const ODD: &[(&str, &str, &str)] = &[
    ("a%2fb", "encoded_slash", "a%2Fb"),
    ("a%2Fb", "encoded_slash", "a%2Fb"),
    ("a%5cb", "encoded_backslash", "a%5Cb"),
    ("a\\b", "backslash", "a%5Cb"),
    ("..;x/b", "semicolon_dots", "..;x/b"),
    (".;/b", "semicolon_dots", ".;/b"),
    ("..%3bx", "semicolon_dots", "..%3Bx"),
    ("%2e%2e;", "semicolon_dots", "..;"),
    ("..%2fb", "encoded_slash, hidden_dots", "..%2Fb"),
    ("..%5cb", "encoded_backslash, hidden_dots", "..%5Cb"),
    ("..\\b", "backslash, hidden_dots", "..%5Cb"),
    ("caf\u{e9}", "raw_non_ascii", "caf%C3%A9"),
    ("\u{20ac}\\%2f", "encoded_slash, backslash, raw_non_ascii", "%E2%82%AC%5C%2F"),
];

#[test]
fn an_oddity_is_400_unless_the_route_takes_it_and_has_one_meaning_then() {
    let origin = Origin::echo();
    let gateway = Running::with(&odd_routes(&origin));
    for (sent, names, seen) in ODD {
        let ask = |prefix: &str| gateway.send(format!("GET {prefix}/{sent} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let before = origin.heads().len();
        assert_eq!(ask("/strict").status, 400, "{sent}");
        assert_eq!(ask("/strict/deeper").status, 400, "{sent}");
        assert_eq!(ask("/nowhere").status, 400, "{sent}: no route has it");
        assert_eq!(origin.heads().len(), before, "{sent}");
        let takes = format!("/takes{}", names.replace(", ", "-"));
        let head = ask(&takes).expect(200).text();
        assert_eq!(head.split(' ').nth(1), Some(format!("{takes}/{seen}").as_str()), "{sent}");
        // One of two is not enough.
        if let Some((first, _)) = names.split_once(", ") {
            assert_eq!(ask(&format!("/takes{first}")).status, 400, "{sent}");
        }
    }
}

/// h2 takes what it cannot read for malformed before anybody is asked; what it hands over is judged like the rest.
#[test]
fn oddities_are_the_same_over_http2() {
    let origin = Origin::echo();
    let (authority, gateway) = crate::http2::start(&odd_routes(&origin));
    let mut client = crate::http2::client(&authority, &gateway);
    for (sent, names, seen) in ODD {
        client.get(&format!("/strict/{sent}")).expect(400);
        client.get(&format!("/nowhere/{sent}")).expect(400);
        let takes = format!("/takes{}", names.replace(", ", "-"));
        let head = client.get(&format!("{takes}/{sent}")).expect(200).text();
        assert_eq!(head.split(' ').nth(1), Some(format!("{takes}/{seen}").as_str()), "{sent}");
    }
    assert_eq!(origin.heads().len(), ODD.len());
}

/// What no route may allow.
#[test]
fn what_no_application_needs_is_refused_whatever_a_route_lists() {
    let origin = Origin::echo();
    let all = "encoded_slash, encoded_backslash, backslash, semicolon_dots, hidden_dots, path_parameters, raw_non_ascii";
    let routes = format!(
        "upstreams: {{origin: {{servers: ['{}']}}}}\nroutes:\n  - {{name: all, path_oddities: [{all}], upstream: origin}}\n",
        origin.address()
    );
    let gateway = Running::with(&routes);
    let targets: &[&[u8]] = &[
        b"/a%00b",
        b"/a\0b",
        b"/a%01",
        b"/a\x01",
        b"/a%1f",
        b"/a%7F",
        b"/a\x7f",
        b"/a%0d%0ab",
        b"/a\tb",
        b"/a%09",
        b"/%",
        b"/a%",
        b"/a%2",
        b"/a%zz",
        b"/a%2/b",
        b"/a%u002f",
        b"/%c0%af",
        b"/%c0%2e",
        b"/%e0%80%af",
        b"/%f0%80%80%af",
        b"/%ed%a0%80",
        b"/%f5%80%80%80",
        b"/%80",
        b"/%ff",
        b"/\xc0\xaf",
        b"/\xff",
        b"/\xc3",
        b"/\xed\xa0\x80",
        b"/\xc3%a9",
        b"/%c3\xa9",
        b"/..",
        b"/../a",
        b"/a/../..",
        b"/a/../../b",
        b"/%2e%2e",
        b"/%2e%2e/etc/passwd",
        b"/./..",
        b"//..",
        b"/a#b",
        b"/a?b#c",
        b"#",
        b"/a?b\0",
        b"/a?b\x7f",
        b"/a?b\x01",
        b"/a?\xc3\xa9",
        b"/a?b\"",
        b"/a?<",
        b"/a?>",
        b"a",
        b"../a",
        b"?a",
        b"*",
    ];
    for target in targets {
        let request = [b"GET ", *target, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        let response = gateway.send(request);
        assert_eq!(response.status, 400, "{}", target.escape_ascii());
        assert!(response.header("x-request-id").is_some(), "{}: not our answer", target.escape_ascii());
    }
    let lines = gateway.access(targets.len());
    assert!(lines.iter().all(|line| line["error"]["responseType"] == "AMBIGUOUS_REQUEST"), "{lines:?}");
    assert_eq!(origin.connections(), 0);
    // A query is nobody's business but the application's.
    for query in ["", "a=%2f%5c%00..//../;x&&=?", "a=%zz%", "%c0%af", "'[]{}|\\^`~!$&()*+,;=:@/?-._"] {
        let head = gateway.send(format!("GET /q?{query} HTTP/1.1\r\nHost: a\r\n\r\n")).expect(200).text();
        assert_eq!(head.split(' ').nth(1), Some(format!("/q?{query}").as_str()));
    }
}

/// Every byte that the gateway lets into a path is one that Pingora takes too: no answer but ours, and the origin sees one path.
#[test]
fn every_byte_of_a_path_is_taken_or_refused_by_us() {
    let origin = Origin::echo();
    let gateway = Running::with(&odd_routes(&origin));
    for byte in 0_u8..=0x7f {
        let target = [b"/takesbackslash/a".as_slice(), &[byte], b"b"].concat();
        let response = gateway.send([b"GET ", target.as_slice(), b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
        let status = if byte.is_ascii_graphic() && !b"#%".contains(&byte) { 200 } else { 400 };
        assert_eq!(response.status, status, "{byte:#x}: {response:?}");
        assert!(response.header("x-request-id").is_some(), "{byte:#x}: not our answer");
    }
}

#[test]
fn the_refusal_of_an_oddity_names_the_line_that_would_allow_it() {
    let origin = Origin::echo();
    let gateway = Running::with(&odd_routes(&origin));
    gateway.send("GET /strict/a%2fb HTTP/1.1\r\nHost: a\r\n\r\n").expect(400);
    let line = gateway.access_of("/strict/a%2Fb");
    assert_eq!(line["route"], "strict");
    let error = &line["error"];
    assert_eq!(error["responseType"], "AMBIGUOUS_REQUEST");
    assert_eq!(
        error["message"],
        "the path has two readings (encoded_slash), which the route `strict` takes only with `path_oddities: [encoded_slash]`"
    );
    // The line of the route.
    let site = error["site"].as_str().unwrap();
    let (file, number) = site.rsplit_once(':').unwrap();
    let text = std::fs::read_to_string(gateway.place.path(file)).unwrap();
    let written = text.lines().nth(number.parse::<usize>().unwrap() - 1).unwrap();
    assert!(written.contains("name: strict"), "{site}: {written}");
    // A route that takes another oddity is told what to add.
    gateway.send("GET /takesencoded_slash/a%2fb\\c HTTP/1.1\r\nHost: a\r\n\r\n").expect(400);
    let line = gateway.access_of("/takesencoded_slash/a%2Fb%5Cc");
    let message = line["error"]["message"].as_str().unwrap();
    assert!(message.ends_with("`path_oddities: [encoded_slash, backslash]`"), "{message}");
    let output =
        gateway.place.portcullis(&["explain", "--config", "portcullis.yaml", "http://a/strict/a%2fb"]);
    assert_eq!(output.status.code(), Some(2));
    let explained = String::from_utf8(output.stdout).unwrap();
    assert!(explained.contains("path_oddities: [encoded_slash]"), "{explained}");
    assert!(explained.contains(&format!("portcullis.yaml:{number}")), "{explained}");
    gateway.send("GET /nowhere/a%2fb HTTP/1.1\r\nHost: a\r\n\r\n").expect(400);
    let line = gateway.access_of("/nowhere/a%2Fb");
    assert_eq!(line["error"]["message"], "the path has two readings (encoded_slash), and no route has it");
}

/// Path parameters are legal, and most make no difference. One that keeps a path from the route that a server behind, which
/// cuts it off, would take it for, is refused.
#[test]
fn a_path_parameter_that_hides_a_path_from_its_route_is_400() {
    let origin = Origin::echo();
    let gateway = Running::with(&format!(
        "upstreams: {{origin: {{servers: ['{}']}}}}
policies: {{access: {{nobody: {{allow: [192.0.2.1]}}}}}}
routes:
  - {{name: admin, match: {{path: '/admin/{{*rest}}'}}, access: nobody, upstream: origin}}
  - {{name: get, match: {{path: /form, methods: [GET]}}, upstream: origin}}
  - {{name: user, match: {{path: '/users/{{id}}'}}, upstream: origin}}
  - {{name: loose, match: {{path: '/loose/{{*rest}}'}}, path_oddities: [path_parameters], upstream: origin}}
  - {{name: dots, match: {{path: '/dots/{{*rest}}'}}, path_oddities: [semicolon_dots, path_parameters], upstream: origin}}
  - {{name: rest, match: {{path: '/{{*rest}}'}}, upstream: origin}}
",
        origin.address()
    ));
    let table = [
        ("GET /a;b=c", 200),
        ("GET /a;b=c/d;e", 200),
        ("GET /users/7;v=1", 200),
        ("GET /users/7;v=1,2;w", 200),
        ("GET /a?b;c", 200),
        ("GET /;a", 200),
        ("GET /admin/x", 403),
        ("GET /admin/x;y", 403),
        ("GET /admin;x=1/y", 400),
        ("GET /admin%3bx=1/y", 400),
        ("GET /admin;/y", 400),
        ("GET /;x/admin/y", 400),
        ("GET /x/..;y/admin/z", 400),
        ("POST /form;x", 200),
        ("GET /form;x", 400),
        ("GET /users;x/7", 400),
        ("GET /loose/a;b", 200),
        ("GET /loose;x/a", 400),
        // A route that says so takes even what looks like another's path to some.
        ("GET /dots/..;/admin/x", 200),
        ("GET /loose/..;/admin/x", 400),
    ];
    for (line, status) in table {
        let response = gateway.send(format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(response.status, status, "{line}");
        if status == 200 {
            let target = line.split(' ').nth(1).unwrap();
            assert_eq!(response.text().split(' ').nth(1), Some(target), "the origin saw another path");
        }
    }
    let line = gateway.access_of("/admin;x=1/y");
    let message = line["error"]["message"].as_str().unwrap();
    assert!(message.contains("(path_parameters)") && message.contains("`rest`"), "{message}");
}

/// A route that takes nothing odd, one for each set of [`ODD`], and no other.
fn odd_routes(origin: &Origin) -> String {
    let mut sets: Vec<&str> = ODD.iter().map(|(_, names, _)| *names).collect();
    sets.sort_unstable();
    sets.dedup();
    let mut text = format!(
        "upstreams: {{origin: {{servers: ['{}']}}}}\nroutes:\n  - {{name: strict, match: {{path: '/strict/{{*rest}}'}}, upstream: origin}}\n",
        origin.address()
    );
    for (index, names) in sets.iter().enumerate() {
        let path = names.replace(", ", "-");
        // `..;x` is also a path parameter that matters.
        let more = if names.contains("semicolon") { ", path_parameters" } else { "" };
        text.push_str(&format!(
            "  - {{name: takes{index}, match: {{path: '/takes{path}/{{*rest}}'}}, path_oddities: [{names}{more}], upstream: origin}}\n"
        ));
    }
    text
}
