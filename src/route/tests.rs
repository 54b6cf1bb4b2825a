use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use proptest::prelude::*;

use super::*;
use crate::canonical;
use crate::config::Site;
use crate::request::Protocol;

/// A route in the shorthand of these tests: `name METHODS host,host/path [h:name=value] [q:name=value] [!priority]`, where
/// METHODS is `*` or a list, hosts may be missing, a value may be `~regex`, `+` (present) or `-` (absent), and no path is `…`.
fn written(line: usize, text: &str) -> (String, Spanned<Match>, Option<i32>) {
    let site = Site::new("t.yaml", u32::try_from(line).unwrap() + 1, 1);
    let spanned = |value: &str| Spanned { value: value.to_owned(), site: site.clone(), path: "x".into() };
    let mut words = text.split(' ');
    let name = words.next().unwrap().to_owned();
    let mut matches = Match::default();
    let methods = words.next().unwrap();
    if methods != "*" {
        matches.methods = methods.split(',').map(spanned).collect();
    }
    let place = words.next().unwrap();
    let (hosts, path) = match place.find('/') {
        Some(at) => {
            let (hosts, path) = place.split_at(at);
            (hosts, Some(path))
        }
        None => (place.trim_end_matches('…'), None),
    };
    matches.hosts = hosts.split(',').filter(|host| !host.is_empty()).map(spanned).collect();
    matches.path = path.map(spanned);
    let mut priority = None;
    for word in words {
        if let Some(number) = word.strip_prefix('!') {
            priority = Some(number.parse().unwrap());
            continue;
        }
        let (kind, rest) = word.split_once(':').unwrap();
        let (name, value) = rest.split_once('=').unwrap();
        let pattern = match value {
            "+" => Pattern::Present(true),
            "-" => Pattern::Present(false),
            value => match value.strip_prefix('~') {
                Some(regex) => Pattern::Regex(regex.to_owned()),
                None => Pattern::Exact(value.to_owned()),
            },
        };
        let map = if kind == "h" { &mut matches.headers } else { &mut matches.query };
        map.insert(name.to_owned(), Spanned { value: pattern, site: site.clone(), path: "x".into() });
    }
    (name, Spanned { value: matches, site, path: format!("routes[{line}].match").into() }, priority)
}

fn facts(index: usize, name: &str, site: &Site) -> Arc<RouteFacts> {
    Arc::new(RouteFacts {
        index,
        name: name.into(),
        resource_path: "".into(),
        labels: BTreeMap::new(),
        site: site.clone(),
    })
}

type Written = (String, Spanned<Match>, Option<i32>);

fn inputs(written: &[Written]) -> Vec<RouteInput<'_>> {
    let with_index = written.iter().enumerate();
    with_index
        .map(|(index, (name, matches, priority))| RouteInput {
            facts: facts(index, name, &matches.site),
            matches,
            priority: *priority,
            tolerated: Oddities::default(),
        })
        .collect()
}

fn compile(routes: &[&str]) -> Result<(Routes, Vec<String>), Vec<String>> {
    let all: Vec<_> = routes.iter().enumerate().map(|(line, text)| written(line, text)).collect();
    let mut build = Build::default();
    let names = all.iter().map(|(name, ..)| name.clone()).collect();
    match Routes::compile(&inputs(&all), &mut build) {
        Some(routes) => {
            assert!(build.errors.is_empty());
            Ok((routes, names))
        }
        None => Err(build
            .errors
            .errors()
            .iter()
            .map(|error| format!("{} {}; {}", error.site, error.cause, error.cure))
            .collect()),
    }
}

fn target(method: &Method, host: &str, path: &str) -> Target {
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
    canonical::target(method, path.as_bytes(), None, &headers, Protocol::Http11, 8192).unwrap()
}

/// A request: `METHOD host/path [name=value]…`.
fn request(text: &str) -> (Method, Target, HeaderMap) {
    let mut words = text.split(' ');
    let method = Method::from_bytes(words.next().unwrap().as_bytes()).unwrap();
    let place = words.next().unwrap();
    let target = match place.strip_suffix('*') {
        Some(host) if !host.contains('/') => target(&method, host, "*"),
        _ => {
            let (host, path) = place.split_at(place.find('/').unwrap());
            target(&method, host, path)
        }
    };
    let mut headers = HeaderMap::new();
    for word in words {
        let (name, value) = word.split_once('=').unwrap();
        headers
            .append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    (method, target, headers)
}

fn told(found: &Found<'_>, names: &[String], target: &Target) -> String {
    match found {
        Found::Route { index, parameters } => {
            let mut text = names[*index].clone();
            for (name, value) in parameters.iter(target.path()) {
                text.push_str(&format!(" {name}={value}"));
            }
            text
        }
        Found::MethodNotAllowed { allow } => format!("405 {allow}"),
        Found::NotFound => "404".to_owned(),
    }
}

fn check(routes: &[&str], rows: &[(&str, &str)]) {
    let (routes, names) = compile(routes).unwrap();
    for (text, expected) in rows {
        let (method, target, headers) = request(text);
        let found = routes.find(&method, &target, &headers);
        assert_eq!(told(&found, &names, &target), *expected, "{text}");
        let first = routes.candidates(&method, &target, &headers).first().copied();
        match found {
            Found::Route { index, .. } => assert_eq!(first, Some(index)),
            _ => assert_eq!(first, None),
        }
    }
}

#[test]
fn paths() {
    let routes = [
        "root * /",
        "exact * /a/b",
        "slash * /a/b/",
        "one * /users/{id}",
        "me * /users/me",
        "two * /users/{id}/posts/{post}",
        "rest * /orders/{*rest}",
        "deep * /orders/new/{*tail}",
        "accent * /caf%c3%a9/%7Ex",
        "both * /users/me/posts/{post}",
    ];
    check(
        &routes,
        &[
            ("GET h/", "root"),
            ("GET h/a/b", "exact"),
            ("GET h/a/b/", "slash"),
            ("GET h/a", "404"),
            ("GET h/a/", "404"),
            ("GET h/a/b/c", "404"),
            ("GET h/a/./b", "exact"),
            ("GET h/a//b", "exact"),
            ("GET h/x/../a/%62", "exact"),
            ("GET h/A/b", "404"),
            ("GET h/users/7", "one id=7"),
            ("GET h/users/me", "me"),
            ("GET h/users/", "404"),
            ("GET h/users", "404"),
            ("GET h/users/7/", "404"),
            ("GET h/users/a%2Cb", "one id=a%2Cb"),
            ("GET h/users/me/posts/1", "both post=1"),
            ("GET h/users/you/posts/1", "two id=you post=1"),
            ("GET h/orders", "404"),
            ("GET h/orders/", "rest rest="),
            ("GET h/orders/1", "rest rest=1"),
            ("GET h/orders/1/2/", "rest rest=1/2/"),
            ("GET h/orders/new", "rest rest=new"),
            ("GET h/orders/new/", "deep tail="),
            ("GET h/orders/new/x", "deep tail=x"),
            ("GET h/caf%C3%A9/~x", "accent"),
        ],
    );
}

#[test]
fn every_path() {
    check(
        &["none * …", "rest GET x.example/{*all}", "opts OPTIONS y.example/{*all}", "z * z.example/a"],
        &[
            ("GET h/", "none rest="),
            ("GET h/a/b", "none rest=a/b"),
            ("OPTIONS h*", "none rest="),
            ("GET x.example/", "rest all="),
            ("PUT x.example/a", "none rest=a"),
            ("OPTIONS x.example*", "none rest="),
            ("OPTIONS y.example*", "opts all="),
            ("GET z.example/a", "z"),
            ("GET z.example/b", "none rest=b"),
        ],
    );
}

#[test]
fn hosts() {
    let routes = [
        "exact * a.example.org/{*p}",
        "short * *.example.org/{*p}",
        "long * *.b.example.org/{*p}",
        "two * C.Example.com.,[2001:DB8:0::1]/{*p}",
        "any * /only",
    ];
    check(
        &routes,
        &[
            ("GET a.example.org/", "exact p="),
            ("GET A.example.org.:8080/", "exact p="),
            ("GET b.example.org/", "short p="),
            ("GET x.b.example.org/", "long p="),
            ("GET x.y.b.example.org/", "long p="),
            ("GET x.y.example.org/", "short p="),
            ("GET example.org/", "404"),
            ("GET badexample.org/", "404"),
            ("GET c.example.com/", "two p="),
            ("GET [2001:db8::1]:1/", "two p="),
            ("GET a.example.org/only", "exact p=only"),
            ("GET other/only", "any"),
            ("GET example.org/only", "any"),
        ],
    );
}

#[test]
fn a_more_specific_route_whose_conditions_fail_yields() {
    let routes = [
        "literal GET a.example/x/y h:v=2",
        "parameter * a.example/x/{p} q:beta=1",
        "rest POST a.example/x/{*r}",
        "wild * *.example/x/y h:w=+",
        "any GET,DELETE /x/{p}",
    ];
    check(
        &routes,
        &[
            ("GET a.example/x/y v=2", "literal"),
            ("GET a.example/x/y", "any p=y"),
            ("GET a.example/x/y?beta=1", "parameter p=y"),
            ("POST a.example/x/y", "rest r=y"),
            ("POST a.example/x/y?beta=1", "parameter p=y"),
            ("PUT a.example/x/y w=1", "wild"),
            ("PUT a.example/x/y", "405 DELETE, GET, HEAD, POST"),
            ("PUT a.example/x/y v=2", "405 DELETE, GET, HEAD, POST"),
            ("PUT a.example/x/z/z", "405 POST"),
            ("GET b.example/x/y/z", "404"),
        ],
    );
}

#[test]
fn methods() {
    let routes =
        ["get GET /a", "post POST,PUT /a", "any * /b", "list PURGE /b", "head HEAD /c", "opt OPTIONS /d"];
    check(
        &routes,
        &[
            ("GET h/a", "get"),
            ("HEAD h/a", "get"),
            ("PUT h/a", "post"),
            ("DELETE h/a", "405 GET, HEAD, POST, PUT"),
            ("OPTIONS h/a", "405 GET, HEAD, POST, PUT"),
            ("get h/a", "405 GET, HEAD, POST, PUT"),
            ("PURGE h/b", "list"),
            ("BREW h/b", "any"),
            ("GET h/c", "405 HEAD"),
            ("OPTIONS h/d", "opt"),
        ],
    );
}

#[test]
fn header_and_query_conditions() {
    let routes = [
        "one * /a h:x-version=1",
        "two * /a h:X-Version=2",
        "regex * /a h:x-version=~3|4[0-9]",
        "absent * /b h:authorization=-",
        "present * /b h:authorization=+",
        "more * /b h:authorization=+ h:x=+",
        "plain * /a",
    ];
    check(
        &routes,
        &[
            ("GET h/a x-version=1", "one"),
            ("GET h/a x-version=2", "two"),
            ("GET h/a x-version=3", "regex"),
            ("GET h/a x-version=42", "regex"),
            ("GET h/a x-version=423", "plain"),
            ("GET h/a x-version=x3", "plain"),
            ("GET h/a x-version=1 x-version=1", "one"),
            ("GET h/a x-version=1 x-version=2", "plain"),
            ("GET h/a", "plain"),
            ("GET h/b", "absent"),
            ("GET h/b authorization=x", "present"),
            ("GET h/b authorization=x x=y", "more"),
        ],
    );
    check(
        &["query * /c q:beta=1", "space * /e q:name=~a.b", "flag * /f q:flag=+", "none * /d q:debug=-"],
        &[
            ("GET h/c?beta=1", "query"),
            ("GET h/c?x=y&beta=1&z", "query"),
            ("GET h/c?%62eta=%31", "query"),
            ("GET h/c?beta=2", "404"),
            ("GET h/c?beta=1&beta=2", "404"),
            ("GET h/c?Beta=1", "404"),
            ("GET h/c?beta", "404"),
            ("GET h/c", "404"),
            ("GET h/e?name=a+b", "space"),
            ("GET h/e?name=a%20b", "space"),
            ("GET h/e?name=axb", "space"),
            ("GET h/e?name=xaxb", "404"),
            ("GET h/f?flag", "flag"),
            ("GET h/f?flag=", "flag"),
            ("GET h/f?x", "404"),
            ("GET h/d", "none"),
            ("GET h/d?x", "none"),
            ("GET h/d?debug", "404"),
        ],
    );
}

#[test]
fn order_of_specificity() {
    let routes = [
        "plain * /a",
        "methods GET /a",
        "headers * /a h:a=1 h:b=1",
        "header * /a h:a=1",
        "query * /a h:a=1 q:c=1",
        "methods-query GET /a q:c=1",
        "low * /p !1",
        "high * /p h:a=+",
        "first GET,POST /q !2",
        "second POST,PUT /q !1",
    ];
    check(
        &routes,
        &[
            ("PUT h/a", "plain"),
            ("GET h/a a=1 b=1", "methods"),
            ("GET h/a?c=1", "methods-query"),
            ("PUT h/a a=1 b=1", "headers"),
            ("PUT h/a?c=1 a=1 b=1", "headers"),
            ("PUT h/a?c=1 a=1", "query"),
            ("PUT h/a a=1", "header"),
            ("PUT h/p a=1", "high"),
            ("PUT h/p", "low"),
            ("POST h/q", "first"),
            ("PUT h/q", "second"),
        ],
    );
    let (routes, names) = compile(&routes).unwrap();
    let (method, target, headers) = request("GET h/a?c=1 a=1 b=1");
    let told: Vec<_> = routes.candidates(&method, &target, &headers).iter().map(|i| &*names[*i]).collect();
    assert_eq!(told, ["methods-query", "methods", "headers", "query", "header", "plain"]);
}

#[test]
fn preflights_ignore_headers_and_groups_are_known() {
    let (routes, names) = compile(&[
        "v2 GET,POST /a h:v=2",
        "v1 GET /a",
        "put PUT /a",
        "beta * /b q:beta=1",
        "b * /b",
        "c GET /c",
        "d * /c",
    ])
    .unwrap();
    let ask = |method: Method, path: &str| {
        let target = target(&Method::OPTIONS, "h", path);
        told(&routes.find_preflight(&method, &target), &names, &target)
    };
    assert_eq!(ask(Method::GET, "/a"), "v2");
    assert_eq!(ask(Method::PUT, "/a"), "put");
    assert_eq!(ask(Method::DELETE, "/a"), "405 GET, HEAD, POST, PUT");
    assert_eq!(ask(Method::DELETE, "/b"), "b");
    assert_eq!(ask(Method::DELETE, "/b?beta=1"), "beta");
    assert_eq!(ask(Method::GET, "/x"), "404");
    assert_eq!(routes.preflight_groups(), [vec![0, 1], vec![3, 4]]);
    assert_eq!(routes.methods_of_path(1), [Method::GET, Method::POST, Method::HEAD, Method::PUT]);
    assert_eq!(routes.methods_of_path(5), ORDINARY_METHODS);
}

#[test]
fn wrong_patterns_are_errors_with_a_cure() {
    let rows = [
        ("a * h/{id", "`{id` in the path `/{id` is not `{name}` or `{*name}`"),
        ("a * /x{id}", "`x{id}` in the path `/x{id}` is not"),
        ("a * /{}", "`{}` in the path"),
        ("a * /{*}", "`{*}` in the path"),
        ("a * /{a.b}", "`{a.b}` in the path"),
        ("a * /{a}/{a}", "the path `/{a}/{a}` has two parameters named `a`; give each its own name"),
        ("a * /{*r}/b", "`{*r}` is not the end of the path"),
        ("a * /a//b", "the path `/a//b` has `//`"),
        ("a * /a/../b", "the path `/a/../b` has dot segments"),
        ("a * /a/%2e/b", "has dot segments"),
        (
            "a * /a%2fb",
            "are refused: it has two readings (encoded_slash); say `path_oddities: [encoded_slash]`",
        ),
        ("a * /a%zz", "no request has the path `/a%zz`: the path has a `%` without two hex digits"),
        ("a * /a?b", "the path `/a?b` has a `?`; put conditions on the query under `query`"),
        ("a * /a#b", "no request has the path"),
        ("a * *…", "`*` is not a host; leave `hosts` out to match any host"),
        ("a * a.*.b…", "the host `a.*.b` has a `*` that is not its first label"),
        ("a * *.*.b…", "has a `*` that is not its first label"),
        ("a * *.…", "`*.` is not a host: the host is empty"),
        ("a * h:80…", "the host `h:80` names a port; write `h`; routes match any port"),
        ("a * a..b…", "`a..b` is not a host: the host has an empty label"),
        ("a * *.[::1]…", "an address has no labels before it; write `[::1]`"),
        ("a * h,H.…", "the host `H.` is given twice; remove one"),
        ("a get /a", "`get` is not a method: they are written in capitals; write `GET`"),
        ("a GE(T /a", "`GE(T` is not a method"),
        ("a TRACE /a", "`TRACE` never reaches a route"),
        ("a GET,GET /a", "the method `GET` is given twice"),
        ("a * /a h:x(y=1", "`x(y` is not a header name"),
        (
            "a * /a h:x_y=1",
            "no request has the header `x_y`: names with a `_` are dropped or refused; write `x-y`",
        ),
        ("a * /a h:Host=1", "`host` is not matched as a header; use `hosts`"),
        ("a * /a h:x=~(", "`(` is not a regular expression: unclosed group"),
        ("a * /a q:x=~[", "`[` is not a regular expression: unclosed character class"),
        ("a * /a h:x=a\tb h:X=1", "the header `x` is given twice"),
        ("a * /a h:x=a\u{1}b", "no request has `x: a\u{1}b`"),
    ];
    for (route, expected) in rows {
        let errors = compile(&[route]).unwrap_err();
        assert_eq!(errors.len(), 1, "{route}: {errors:?}");
        assert!(errors[0].starts_with("t.yaml:1 ") && errors[0].contains(expected), "{route}: {errors:?}");
    }
    let many: String = (0..17).map(|i| format!("/{{p{i}}}")).collect();
    assert!(compile(&[&format!("a * {many}")]).unwrap_err()[0].contains("more than 16 parameters"));
    let mut build = Build::default();
    let (name, mut matches, priority) = written(0, "a * /a");
    matches.value.path.as_mut().unwrap().value = "a".into();
    assert!(Routes::compile(&inputs(&[(name, matches, priority)]), &mut build).is_none());
    assert_eq!(build.errors.errors()[0].cure, "write `/a`");
}

#[test]
fn equals_are_errors_that_name_both() {
    let equal: &[&[&str]] = &[
        &["a * /x", "b * /x"],
        &["a * …", "b * /{*rest}"],
        &["a * /{x}", "b * /{y}"],
        &["a GET,POST /x", "b POST,PUT /x"],
        &["a GET /x", "b HEAD /x"],
        &["a * h,i/x", "b * i,j/x"],
        &["a * H./x", "b * h/x"],
        &["a * /x h:a=1", "b * /x h:b=1"],
        &["a * /x h:a=1", "b * /x h:a=~[0-9]"],
        &["a * /x h:a=~a+", "b * /x h:a=~b+"],
        &["a * /x h:a=+", "b * /x h:a=1"],
        &["a * /x q:a=1", "b * /x q:b=1"],
        &["a * /x !3", "b * /x !3"],
        &["a * /x !0", "b * /x"],
        &["a * /%61", "b * /a"],
    ];
    for routes in equal {
        let errors = compile(routes).unwrap_err();
        let expected =
            "t.yaml:2 routes `a` (t.yaml:1) and `b` are equally specific and some requests are for both";
        assert_eq!(errors.len(), 1, "{routes:?}: {errors:?}");
        assert!(errors[0].starts_with(expected), "{errors:?}");
    }
    let apart: &[&[&str]] = &[
        &["a * /x", "b * /x/"],
        &["a * /x", "b * /{*rest}"],
        &["a GET /x", "b POST /x"],
        &["a GET /x", "b * /x"],
        &["a * h/x", "b * *.h/x"],
        &["a * /x h:a=1", "b * /x h:a=2"],
        &["a * /x h:a=x", "b * /x h:a=~[0-9]"],
        &["a * /x h:a=+", "b * /x h:a=-"],
        &["a * /x q:a=1", "b * /x q:a=2"],
        &["a * /x h:a=1 h:b=1", "b * /x h:a=1"],
        &["a GET,POST /x !1", "b POST,PUT /x"],
        &["a * /x h:a=1 !1", "b * /x h:b=1"],
    ];
    for routes in apart {
        assert!(compile(routes).is_ok(), "{routes:?}: {:?}", compile(routes).err());
    }
}

#[test]
fn unreachable_routes_are_errors_that_name_both() {
    let unreachable: &[&[&str]] = &[
        &["a * /x !1", "b * /x"],
        &["a GET,POST /x !1", "b GET /x"],
        &["a GET /x !1", "b HEAD,GET /x"],
        &["a * h,i/x !1", "b * i,h/x"],
        &["a * /x h:a=+ !1", "b * /x h:a=1"],
        &["a * /x h:a=~[0-9]+ !1", "b * /x h:a=12"],
        &["a GET /x !2", "b POST,GET /x", "c POST /x !1"],
    ];
    for routes in unreachable {
        let errors = compile(routes).unwrap_err();
        assert_eq!(errors.len(), 1, "{routes:?}: {errors:?}");
        let by = if routes.len() == 3 { "`c` (t.yaml:3)" } else { "`a` (t.yaml:1)" };
        let expected =
            format!("t.yaml:2 route `b` can never be reached: {by} takes every request it could have");
        assert!(errors[0].starts_with(&expected), "{errors:?}");
    }
    let reachable: &[&[&str]] = &[
        &["a * h/x !1", "b * h,i/x"],
        &["a GET /x !1", "b POST,GET /x"],
        &["a * /x h:a=1 !1", "b * /x h:a=+"],
        &["a * /x h:a=1 !1", "b * /x h:b=1"],
        &["a * /x q:a=1 !1", "b * /x h:a=1"],
    ];
    for routes in reachable {
        assert!(compile(routes).is_ok(), "{routes:?}");
    }
}

// ── Against an oracle ────────────────────────────────────────────────────────────────────────────────────────────

/// Whether a path pattern matches, and how specific each of its segments is (0 literal, 1 parameter, 2 rest).
fn oracle_path(pattern: Option<&str>, path: &str) -> Option<Vec<u8>> {
    let pattern = pattern.unwrap_or("/{*rest}");
    let mut path_segments = path.split('/').skip(1);
    let mut kinds = Vec::new();
    for segment in pattern.split('/').skip(1) {
        if segment.starts_with("{*") {
            path_segments.next()?;
            kinds.push(2);
            return Some(kinds);
        }
        let actual = path_segments.next()?;
        if segment.starts_with('{') {
            if actual.is_empty() {
                return None;
            }
            kinds.push(1);
        } else if segment == actual {
            kinds.push(0);
        } else {
            return None;
        }
    }
    path_segments.next().is_none().then_some(kinds)
}

/// 0 for exact, less for longer wildcards, the greatest for any.
fn oracle_host(hosts: &[Spanned<String>], host: &str) -> Option<usize> {
    if hosts.is_empty() {
        return Some(usize::MAX);
    }
    let rank = |pattern: &Spanned<String>| match pattern.strip_prefix('*') {
        Some(suffix) => (host.len() > suffix.len() && host.ends_with(suffix)).then(|| 1000 - suffix.len()),
        None => (pattern.value == host).then_some(0),
    };
    hosts.iter().filter_map(rank).min()
}

fn oracle_values(pattern: &Pattern, values: &[String]) -> bool {
    match pattern {
        Pattern::Exact(text) => !values.is_empty() && values.iter().all(|v| v == text),
        Pattern::Present(present) => values.is_empty() != *present,
        Pattern::Regex(_) => unreachable!("not generated"),
    }
}

fn oracle(written: &[Written], method: &Method, target: &Target, headers: &HeaderMap) -> String {
    let mut matching = Vec::new();
    let mut allow = std::collections::BTreeSet::new();
    for (index, (_, matches, priority)) in written.iter().enumerate() {
        let host = oracle_host(&matches.hosts, target.host());
        let path = oracle_path(matches.value.path.as_ref().map(|p| p.value.as_str()), target.path());
        let (Some(host), Some(path)) = (host, path) else { continue };
        let header_values = |name: &str| {
            headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let query_values = |name: &str| {
            let pairs = target.query().unwrap_or_default().split('&');
            pairs.filter_map(|p| p.strip_prefix(&format!("{name}="))).map(str::to_owned).collect::<Vec<_>>()
        };
        let holds = matches.headers.iter().all(|(name, p)| oracle_values(p, &header_values(name)))
            && matches.query.iter().all(|(name, p)| oracle_values(p, &query_values(name)));
        if !holds {
            continue;
        }
        let listed: Vec<&str> = matches.methods.iter().map(|m| m.as_str()).collect();
        let takes = listed.is_empty()
            || listed.contains(&method.as_str())
            || (method == Method::HEAD && listed.contains(&"GET"));
        if !takes {
            allow.extend(listed.iter().copied());
            if listed.contains(&"GET") {
                allow.insert("HEAD");
            }
            continue;
        }
        let rank = (
            host,
            path,
            listed.is_empty(),
            usize::MAX - matches.headers.len(),
            usize::MAX - matches.query.len(),
            -i64::from(priority.unwrap_or(0)),
        );
        matching.push((rank, index));
    }
    match matching.into_iter().min() {
        Some((_, index)) => written[index].0.clone(),
        None if allow.is_empty() => "404".into(),
        None => format!("405 {}", allow.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

fn any_route() -> impl Strategy<Value = String> {
    let hosts = prop::sample::select(vec!["", "a.x", "b.a.x", "*.x", "*.a.x", "a.x,*.a.x", "b.x,*.x"]);
    let segment = prop::sample::select(vec!["a", "b", "{}", "a"]);
    let end = prop::sample::select(vec!["", "", "", "/", "/{*rest}"]);
    let path = (prop::collection::vec(segment, 0..3), end).prop_map(|(segments, end)| {
        let named: String = segments
            .iter()
            .enumerate()
            .map(|(i, s)| if *s == "{}" { format!("/{{p{i}}}") } else { format!("/{s}") })
            .collect();
        let path = named + end;
        if path.is_empty() { "/".to_owned() } else { path }
    });
    let methods = prop::sample::select(vec!["*", "*", "GET", "POST", "GET,POST", "HEAD", "OPTIONS"]);
    let conditions = prop::sample::subsequence(vec!["h:m=1", "h:n=+", "h:o=-", "q:u=1", "q:v=2"], 0..3);
    (methods, hosts, path, conditions).prop_map(|(methods, hosts, path, conditions)| {
        let mut text = format!("{methods} {hosts}{path}");
        for condition in conditions {
            text.push(' ');
            text.push_str(condition);
        }
        text
    })
}

fn any_request() -> impl Strategy<Value = String> {
    let method = prop::sample::select(vec!["GET", "HEAD", "POST", "OPTIONS", "PUT"]);
    let host = prop::sample::select(vec!["a.x", "b.a.x", "b.x", "x", "c.b.a.x", "y"]);
    let segments = prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 0..4);
    let slash = prop::bool::weighted(0.3);
    let query = prop::sample::select(vec!["", "", "?u=1", "?v=2", "?u=1&v=2", "?u=1&u=2"]);
    let headers = prop::sample::subsequence(vec!["m=1", "m=2", "n=x", "o=y"], 0..3);
    (method, host, segments, slash, query, headers).prop_map(
        |(method, host, segments, slash, query, headers)| {
            let mut path = format!("/{}", segments.join("/"));
            if slash && !path.ends_with('/') {
                path.push('/');
            }
            format!("{method} {host}{path}{query} {}", headers.join(" ")).trim_end().to_owned()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn the_tree_agrees_with_a_sorted_list(
        routes in prop::collection::vec(any_route(), 1..24),
        requests in prop::collection::vec(any_request(), 1..16),
    ) {
        // Each with its own priority, so that there are no equals.
        let texts: Vec<_> =
            routes.iter().enumerate().map(|(i, text)| format!("r{i} {text} !{}", (i * 7) % 31)).collect();
        let all: Vec<_> = texts.iter().enumerate().map(|(line, text)| written(line, text)).collect();
        let names: Vec<_> = all.iter().map(|(name, ..)| name.clone()).collect();
        let mut build = Build::default();
        let compiled = Routes::assemble(&inputs(&all), &mut build).unwrap();
        let unreachable: Vec<_> = {
            check::check(&compiled.tree, &compiled.compiled, &mut build);
            build.errors.errors().iter().map(|e| e.cause.clone()).collect()
        };
        for text in &requests {
            let (method, target, headers) = request(text);
            let found = compiled.find(&method, &target, &headers);
            let expected = oracle(&all, &method, &target, &headers);
            let got = told(&found, &names, &target);
            prop_assert_eq!(got.split(" p").next().unwrap().split(" rest").next().unwrap(), &expected, "{}", text);
            if let Found::Route { index, .. } = found {
                let name = &names[index];
                prop_assert!(
                    unreachable.iter().all(|e| !e.starts_with(&format!("route `{name}` can never"))),
                    "{} was reached by {}", name, text
                );
            }
        }
    }
}

#[test]
fn the_routes_of_a_path_are_those_that_some_request_of_it_comes_to() {
    let (routes, names) = compile(&[
        "any * /a",
        "get GET /a",
        "odd PROPFIND /a",
        "version * /a h:x-version=2",
        "beta GET /a q:beta=1",
        "only * /b h:x-version=2",
        "rest * /{*rest}",
        "behind GET /c",
        "host * h.test/a q:x=+",
    ])
    .unwrap();
    for (text, expected) in [
        ("GET x.test/a", "version beta odd get any"),
        ("GET x.test/b", "only rest"),
        ("GET x.test/c", "behind rest"),
        ("GET x.test/d", "rest"),
        ("GET h.test/a", "host version beta odd get any"),
    ] {
        let (_, target, _) = request(text);
        let found: Vec<_> = routes.routes_at(&target).into_iter().map(|index| &*names[index]).collect();
        let sorted = |mut names: Vec<&str>| {
            names.sort_unstable();
            names.join(" ")
        };
        assert_eq!(sorted(found), sorted(expected.split(' ').collect()), "{text}");
    }
}
