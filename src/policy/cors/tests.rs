use http::HeaderName;
use proptest::prelude::*;

use super::*;
use crate::config::Build;

fn spanned<T>(line: u32, value: T) -> Spanned<T> {
    Spanned { value, site: Site::new("t.yaml", line, 1), path: "p".into() }
}

/// A policy in the shorthand of these tests: `origins | methods | headers | expose | words`.
fn config(text: &str) -> Spanned<Config> {
    let mut parts = text.split('|').map(str::trim);
    let mut list = |from: u32| -> Vec<Spanned<String>> {
        let words = parts.next().unwrap_or_default().split_whitespace();
        words.zip(from..).map(|(word, line)| spanned(line, word.to_owned())).collect()
    };
    let (origins, methods, headers, expose, words) = (list(10), list(20), list(30), list(40), list(50));
    let origins = origins.into_iter().map(|origin| {
        let value = match origin.strip_prefix('~') {
            // `!` stands for the `|` that parts the shorthand.
            Some(regex) => Origin::Regex(regex.replace('!', "|")),
            None => Origin::Text(origin.value.clone()),
        };
        Spanned { value, site: origin.site, path: origin.path }
    });
    let word = |name: &str| words.iter().any(|word| word.as_str() == name);
    let value = Config {
        origins: origins.collect(),
        methods,
        headers,
        expose,
        credentials: word("credentials"),
        max_age: words.iter().find_map(|word| Time::parse(word)).unwrap_or_else(ten_minutes),
        enforce_origin: word("enforce"),
        mode: if word("shadow") { Mode::Shadow } else { Mode::Enforce },
    };
    Spanned { value, site: Site::new("t.yaml", 1, 1), path: "policies.cors.web".into() }
}

fn compile(text: &str) -> Cors {
    let mut build = Build::default();
    let cors = Cors::compile("web", &config(text), &mut build);
    assert!(build.errors.is_empty(), "{text}: {:?}", build.errors);
    cors.unwrap()
}

const WEB: &str = "https://app.example.com | GET POST | content-type authorization";
const OPEN: &str = "* | | *";
const OPEN_AUTHORIZATION: &str = "* | GET | * authorization | * | 0s";
const CREDENTIALS: &str =
    "https://app.example.com https://*.example.org null | | X-Token | x-total ETag | credentials enforce 24h";
const REGEX: &str = r"~^https://(a!b)\.example\.net(:[0-9]+)?$ | PURGE brew";
const LOCAL: &str =
    "http://localhost:3000 http://*.localhost:3000 capacitor://localhost http://[::1]:8080 | GET";
const SHADOW: &str = "https://app.example.com | GET | | | shadow enforce";

/// What the routes of the path take, where the policy lists no methods.
const PATH_METHODS: [Method; 3] = [Method::GET, Method::HEAD, Method::DELETE];

fn fields(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    map
}

fn sorted(fields: &HeaderMap) -> String {
    let mut lines: Vec<_> =
        fields.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines.join("\n")
}

/// Every field of a preflight's answer; `ORIGIN` stands for the request's.
fn expected_fields(policy: &str) -> &'static str {
    match policy {
        WEB => {
            "access-control-allow-headers: content-type, authorization\naccess-control-allow-methods: GET, POST\n\
             access-control-allow-origin: ORIGIN\naccess-control-max-age: 600\n\
             vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
        }
        OPEN => {
            "access-control-allow-headers: *\naccess-control-allow-methods: GET, HEAD, DELETE\n\
             access-control-allow-origin: *\naccess-control-max-age: 600\n\
             vary: Access-Control-Request-Method, Access-Control-Request-Headers"
        }
        OPEN_AUTHORIZATION => {
            "access-control-allow-headers: *, authorization\naccess-control-allow-methods: GET\n\
             access-control-allow-origin: *\naccess-control-max-age: 0\n\
             vary: Access-Control-Request-Method, Access-Control-Request-Headers"
        }
        CREDENTIALS => {
            "access-control-allow-credentials: true\naccess-control-allow-headers: x-token\n\
             access-control-allow-methods: GET, HEAD, DELETE\naccess-control-allow-origin: ORIGIN\n\
             access-control-max-age: 86400\n\
             vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
        }
        REGEX => {
            "access-control-allow-methods: PURGE, brew\naccess-control-allow-origin: ORIGIN\n\
             access-control-max-age: 600\n\
             vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
        }
        LOCAL | SHADOW => {
            "access-control-allow-methods: GET\naccess-control-allow-origin: ORIGIN\n\
             access-control-max-age: 600\n\
             vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
        }
        other => panic!("no such policy: {other}"),
    }
}

/// Policy, origin, requested method, requested headers (none: not sent) → `allow`, or the reason of the refusal.
type PreflightRow = (&'static str, &'static str, &'static str, Option<&'static str>, &'static str);

const PREFLIGHTS: &[PreflightRow] = &[
    // Origins, exact.
    (WEB, "https://app.example.com", "GET", None, "allow"),
    (WEB, "http://app.example.com", "GET", None, "origin_not_allowed"),
    (WEB, "https://app.example.com:443", "GET", None, "origin_not_allowed"),
    (WEB, "https://app.example.com:8443", "GET", None, "origin_not_allowed"),
    (WEB, "https://app.example.com/", "GET", None, "origin_not_allowed"),
    (WEB, "https://APP.example.com", "GET", None, "origin_not_allowed"),
    (WEB, "HTTPS://app.example.com", "GET", None, "origin_not_allowed"),
    (WEB, "https://app.example.com.", "GET", None, "origin_not_allowed"),
    (WEB, "https://app.example.com.evil.example", "GET", None, "origin_not_allowed"),
    (WEB, "https://evil.example/?https://app.example.com", "GET", None, "origin_not_allowed"),
    (WEB, "https://xapp.example.com", "GET", None, "origin_not_allowed"),
    (WEB, "https://example.com", "GET", None, "origin_not_allowed"),
    (WEB, "null", "GET", None, "origin_not_allowed"),
    (WEB, "", "GET", None, "origin_not_allowed"),
    (WEB, "*", "GET", None, "origin_not_allowed"),
    (WEB, "https://app.example.com https://app.example.com", "GET", None, "origin_not_allowed"),
    (WEB, "https://app.example.com, https://app.example.com", "GET", None, "origin_not_allowed"),
    // Methods.
    (WEB, "https://app.example.com", "POST", None, "allow"),
    (WEB, "https://app.example.com", "PUT", None, "method_not_allowed"),
    (WEB, "https://app.example.com", "HEAD", None, "method_not_allowed"),
    (WEB, "https://app.example.com", "get", None, "method_not_allowed"),
    (WEB, "https://app.example.com", "GET, POST", None, "bad_preflight"),
    (WEB, "https://app.example.com", "", None, "bad_preflight"),
    (WEB, "https://app.example.com", "G T", None, "bad_preflight"),
    (WEB, "https://evil.example", "PUT", None, "origin_not_allowed"),
    // Headers, in any case.
    (WEB, "https://app.example.com", "GET", Some(""), "allow"),
    (WEB, "https://app.example.com", "GET", Some("content-type"), "allow"),
    (WEB, "https://app.example.com", "GET", Some("Content-Type"), "allow"),
    (WEB, "https://app.example.com", "GET", Some("AUTHORIZATION"), "allow"),
    (WEB, "https://app.example.com", "GET", Some("authorization,content-type"), "allow"),
    (WEB, "https://app.example.com", "GET", Some("authorization , \tcontent-type"), "allow"),
    (WEB, "https://app.example.com", "GET", Some(",authorization,,"), "allow"),
    (WEB, "https://app.example.com", "GET", Some("x-other"), "header_not_allowed"),
    (WEB, "https://app.example.com", "GET", Some("authorization,x-other"), "header_not_allowed"),
    (WEB, "https://app.example.com", "GET", Some("content-type-x"), "header_not_allowed"),
    (WEB, "https://app.example.com", "GET", Some("accept"), "header_not_allowed"),
    (WEB, "https://app.example.com", "GET", Some("content type"), "bad_preflight"),
    (WEB, "https://app.example.com", "GET", Some("content-type;x"), "bad_preflight"),
    (WEB, "https://app.example.com", "GET", Some("*"), "header_not_allowed"),
    // Any origin.
    (OPEN, "https://anything.example", "GET", None, "allow"),
    (OPEN, "null", "GET", None, "allow"),
    (OPEN, "", "GET", None, "allow"),
    (OPEN, "https://x.example", "HEAD", None, "allow"),
    (OPEN, "https://x.example", "DELETE", None, "allow"),
    (OPEN, "https://x.example", "POST", None, "method_not_allowed"),
    (OPEN, "https://x.example", "delete", None, "method_not_allowed"),
    (OPEN, "https://x.example", "GET", Some("x-anything, x-other"), "allow"),
    (OPEN, "https://x.example", "GET", Some("content-type"), "allow"),
    (OPEN, "https://x.example", "GET", Some("authorization"), "header_not_allowed"),
    (OPEN, "https://x.example", "GET", Some("x-a, Authorization"), "header_not_allowed"),
    (OPEN, "https://x.example", "GET", Some("x a"), "bad_preflight"),
    (OPEN_AUTHORIZATION, "https://x.example", "GET", Some("authorization"), "allow"),
    (OPEN_AUTHORIZATION, "https://x.example", "GET", Some("x-a, Authorization"), "allow"),
    (OPEN_AUTHORIZATION, "https://x.example", "HEAD", None, "method_not_allowed"),
    // Credentials, by label, the opaque origin by name, methods of the path.
    (CREDENTIALS, "https://app.example.com", "GET", None, "allow"),
    (CREDENTIALS, "https://app.example.com", "DELETE", Some("x-token"), "allow"),
    (CREDENTIALS, "https://app.example.com", "POST", None, "method_not_allowed"),
    (CREDENTIALS, "https://app.example.com", "GET", Some("x-total"), "header_not_allowed"),
    (CREDENTIALS, "null", "GET", None, "allow"),
    (CREDENTIALS, "NULL", "GET", None, "origin_not_allowed"),
    (CREDENTIALS, "https://a.example.org", "GET", None, "allow"),
    (CREDENTIALS, "https://a.b.example.org", "GET", None, "allow"),
    (CREDENTIALS, "https://a-1_x.example.org", "GET", None, "allow"),
    (CREDENTIALS, "https://example.org", "GET", None, "origin_not_allowed"),
    (CREDENTIALS, "https://.example.org", "GET", None, "origin_not_allowed"),
    (CREDENTIALS, "https://a..example.org", "GET", None, "origin_not_allowed"),
    (CREDENTIALS, "https://xexample.org", "GET", None, "origin_not_allowed"),
    (CREDENTIALS, "https://evil.example/.example.org", "GET", None, "origin_not_allowed"),
    (CREDENTIALS, "https://evil.example#.example.org", "GET", None, "origin_not_allowed"),
    (CREDENTIALS, "https://evil.example?.example.org", "GET", None, "origin_not_allowed"),
    (CREDENTIALS, "https://u@a.example.org", "GET", None, "origin_not_allowed"),
    (CREDENTIALS, "https://evil.example:80.example.org", "GET", None, "origin_not_allowed"),
    (CREDENTIALS, "https://a%2e.example.org", "GET", None, "origin_not_allowed"),
    (CREDENTIALS, "https://A.example.org", "GET", None, "origin_not_allowed"),
    (CREDENTIALS, "http://a.example.org", "GET", None, "origin_not_allowed"),
    (CREDENTIALS, "https://a.example.org:8443", "GET", None, "origin_not_allowed"),
    (CREDENTIALS, "https://a.example.org.", "GET", None, "origin_not_allowed"),
    (CREDENTIALS, "https://*.example.org", "GET", None, "origin_not_allowed"),
    // Regular expressions, of the whole origin; a method of its own, case and all.
    (REGEX, "https://a.example.net", "PURGE", None, "allow"),
    (REGEX, "https://b.example.net:8443", "PURGE", None, "allow"),
    (REGEX, "https://b.example.net", "brew", None, "allow"),
    (REGEX, "https://b.example.net", "BREW", None, "method_not_allowed"),
    (REGEX, "https://c.example.net", "PURGE", None, "origin_not_allowed"),
    (REGEX, "https://a.example.net.evil.example", "PURGE", None, "origin_not_allowed"),
    (REGEX, "https://axexample.net", "PURGE", None, "origin_not_allowed"),
    (REGEX, "xhttps://a.example.net", "PURGE", None, "origin_not_allowed"),
    (REGEX, "https://a.example.net:", "PURGE", None, "origin_not_allowed"),
    (REGEX, "https://a.example.net", "PURGE", Some("x-a"), "header_not_allowed"),
    // Ports and other schemes.
    (LOCAL, "http://localhost:3000", "GET", None, "allow"),
    (LOCAL, "http://localhost", "GET", None, "origin_not_allowed"),
    (LOCAL, "http://localhost:3001", "GET", None, "origin_not_allowed"),
    (LOCAL, "http://localhost:30000", "GET", None, "origin_not_allowed"),
    (LOCAL, "http://app.localhost:3000", "GET", None, "allow"),
    (LOCAL, "http://app.localhost", "GET", None, "origin_not_allowed"),
    (LOCAL, "capacitor://localhost", "GET", None, "allow"),
    (LOCAL, "capacitor://other", "GET", None, "origin_not_allowed"),
    (LOCAL, "http://[::1]:8080", "GET", None, "allow"),
    (LOCAL, "http://[0:0:0:0:0:0:0:1]:8080", "GET", None, "origin_not_allowed"),
    // In shadow the verdict is the same; carrying it out is another's.
    (SHADOW, "https://app.example.com", "GET", None, "allow"),
    (SHADOW, "https://evil.example", "GET", None, "origin_not_allowed"),
];

#[test]
fn preflights() {
    assert!(PREFLIGHTS.len() + ACTUAL.len() >= 120, "the table has {}", PREFLIGHTS.len() + ACTUAL.len());
    for (policy, origin, method, requested, expected) in PREFLIGHTS {
        let cors = compile(policy);
        let mut request = fields(&[("origin", origin), ("access-control-request-method", method)]);
        if let Some(requested) = requested {
            request.append(header::ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static(requested));
        }
        request.append("access-control-request-private-network", HeaderValue::from_static("true"));
        assert!(is_preflight(&Method::OPTIONS, &request));
        let context = format!("{policy} ← {origin} {method} {requested:?}");
        match cors.preflight(&request, &PATH_METHODS) {
            Preflight::Allow(answer) => {
                assert_eq!(*expected, "allow", "{context}");
                assert_eq!(sorted(&answer), expected_fields(policy).replace("ORIGIN", origin), "{context}");
            }
            Preflight::Refuse { verdict, headers: [(name, value)] } => {
                let Outcome::Refuse { kind, reason, .. } = verdict.outcome else {
                    panic!("{context}: passed")
                };
                assert_eq!((kind, reason, verdict.site.line), (Kind::CorsRefused, *expected, 1), "{context}");
                assert_eq!(name, header::VARY);
                let vary = expected_fields(policy).rsplit("vary: ").next().unwrap();
                assert_eq!(value, vary, "{context}");
            }
        }
    }
}

/// Policy, the request's origins, the upstream's fields → status (of 200) and fields.
type ActualRow =
    (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)], &'static str);

const UPSTREAM_CORS: &[(&str, &str)] = &[
    ("access-control-allow-origin", "https://evil.example"),
    ("access-control-allow-credentials", "true"),
    ("access-control-allow-methods", "PUT"),
    ("access-control-allow-headers", "x"),
    ("access-control-expose-headers", "x"),
    ("access-control-max-age", "1"),
    ("access-control-allow-private-network", "true"),
    ("etag", "x"),
];

const ACTUAL: &[ActualRow] = &[
    (WEB, &[], &[], "200 vary: Origin"),
    (
        WEB,
        &["https://app.example.com"],
        &[],
        "200 access-control-allow-origin: https://app.example.com\nvary: Origin",
    ),
    (WEB, &["https://evil.example"], &[], "200 vary: Origin"),
    (WEB, &["null"], &[], "200 vary: Origin"),
    (WEB, &["https://app.example.com", "https://app.example.com"], &[], "200 vary: Origin"),
    (WEB, &[], UPSTREAM_CORS, "200 etag: x\nvary: Origin"),
    (WEB, &["https://evil.example"], UPSTREAM_CORS, "200 etag: x\nvary: Origin"),
    (
        WEB,
        &["https://app.example.com"],
        UPSTREAM_CORS,
        "200 access-control-allow-origin: https://app.example.com\netag: x\nvary: Origin",
    ),
    (WEB, &[], &[("vary", "Accept")], "200 vary: Accept, Origin"),
    (WEB, &[], &[("vary", "Accept, origin")], "200 vary: Accept, origin"),
    (WEB, &[], &[("vary", "ORIGIN")], "200 vary: ORIGIN"),
    (WEB, &[], &[("vary", "*")], "200 vary: *"),
    (WEB, &[], &[("vary", "a"), ("vary", "b,c")], "200 vary: a, b,c, Origin"),
    (WEB, &[], &[("vary", "a"), ("vary", "b, Origin")], "200 vary: a\nvary: b, Origin"),
    (WEB, &[], &[("vary", "x-origin")], "200 vary: x-origin, Origin"),
    (OPEN, &[], &[], "200 access-control-allow-origin: *"),
    (OPEN, &["https://x.example"], &[], "200 access-control-allow-origin: *"),
    (OPEN, &["null"], &[("vary", "Accept")], "200 access-control-allow-origin: *\nvary: Accept"),
    (OPEN, &["https://x.example"], UPSTREAM_CORS, "200 access-control-allow-origin: *\netag: x"),
    (
        OPEN_AUTHORIZATION,
        &["https://x.example"],
        &[],
        "200 access-control-allow-origin: *\naccess-control-expose-headers: *",
    ),
    (CREDENTIALS, &[], &[], "200 vary: Origin"),
    (
        CREDENTIALS,
        &["https://app.example.com"],
        &[],
        "200 access-control-allow-credentials: true\naccess-control-allow-origin: https://app.example.com\n\
         access-control-expose-headers: x-total, etag\nvary: Origin",
    ),
    (
        CREDENTIALS,
        &["null"],
        &[],
        "200 access-control-allow-credentials: true\naccess-control-allow-origin: null\n\
         access-control-expose-headers: x-total, etag\nvary: Origin",
    ),
    (
        CREDENTIALS,
        &["https://a.b.example.org"],
        UPSTREAM_CORS,
        "200 access-control-allow-credentials: true\naccess-control-allow-origin: https://a.b.example.org\n\
         access-control-expose-headers: x-total, etag\netag: x\nvary: Origin",
    ),
    (CREDENTIALS, &["https://evil.example"], &[], "403 vary: Origin"),
    (CREDENTIALS, &["https://example.org"], &[], "403 vary: Origin"),
    (CREDENTIALS, &[""], &[], "403 vary: Origin"),
    (CREDENTIALS, &["https://app.example.com", "https://evil.example"], &[], "403 vary: Origin"),
    (
        REGEX,
        &["https://a.example.net"],
        &[],
        "200 access-control-allow-origin: https://a.example.net\nvary: Origin",
    ),
    (REGEX, &["https://a.example.net\u{e9}"], &[], "200 vary: Origin"),
    (
        LOCAL,
        &["http://localhost:3000"],
        &[],
        "200 access-control-allow-origin: http://localhost:3000\nvary: Origin",
    ),
    (
        SHADOW,
        &["https://app.example.com"],
        UPSTREAM_CORS,
        "200 access-control-allow-origin: https://app.example.com\netag: x\nvary: Origin",
    ),
    (
        SHADOW,
        &["https://evil.example"],
        &[("access-control-allow-origin", "*")],
        "403 access-control-allow-origin: *",
    ),
    (SHADOW, &[], &[("access-control-allow-origin", "*")], "200 access-control-allow-origin: *"),
];

#[test]
fn actual_requests() {
    for (policy, origins, upstream, expected) in ACTUAL {
        let cors = compile(policy);
        let origins: Vec<_> = origins.iter().map(|origin| ("origin", *origin)).collect();
        let request = fields(&origins);
        let status = match cors.check_origin(&request).outcome {
            Outcome::Pass => 200,
            Outcome::Refuse { kind, reason, .. } => {
                assert_eq!((kind, reason), (Kind::CorsRefused, "origin_not_allowed"));
                403
            }
        };
        // A refusal of the gateway's own bears the same.
        let mut response = fields(upstream);
        cors.apply(origin_of(&request), false, &mut response);
        assert_eq!(
            format!("{status} {}", sorted(&response)),
            *expected,
            "{policy} ← {origins:?} {upstream:?}"
        );
    }
}

#[test]
fn only_a_preflight_is_one() {
    let both = [("origin", "https://a.example"), ("access-control-request-method", "GET")];
    assert!(is_preflight(&Method::OPTIONS, &fields(&both)));
    assert!(!is_preflight(&Method::GET, &fields(&both)));
    assert!(!is_preflight(&Method::OPTIONS, &fields(&both[..1])));
    assert!(!is_preflight(&Method::OPTIONS, &fields(&both[1..])));
    assert_eq!(requested_method(&fields(&both)), Some(Method::GET));
    let twice = [both[1], both[1]];
    assert_eq!(requested_method(&fields(&twice)), None);
    let cors = compile(WEB);
    let two_origins = fields(&[("origin", "https://app.example.com"), both[0], both[1]]);
    let Preflight::Refuse { verdict, .. } = cors.preflight(&two_origins, &[]) else { panic!("allowed") };
    assert!(matches!(verdict.outcome, Outcome::Refuse { reason: "bad_preflight", .. }));
}

#[test]
fn what_a_preflight_asks_for_is_bounded() {
    let cors = compile(OPEN);
    let ask = |lines: &[String]| {
        let mut request =
            fields(&[("origin", "https://x.example"), ("access-control-request-method", "GET")]);
        for line in lines {
            request.append(header::ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_str(line).unwrap());
        }
        matches!(cors.preflight(&request, &PATH_METHODS), Preflight::Allow(_))
    };
    let names = |n: usize| (0..n).map(|i| format!("x-{i}")).collect::<Vec<_>>();
    assert!(ask(&[names(64).join(",")]));
    assert!(!ask(&[names(65).join(",")]));
    assert!(ask(&names(64)));
    assert!(!ask(&names(65)));
    assert!(ask(&["x".repeat(4096)]));
    assert!(!ask(&["x".repeat(4097)]));
    assert!(!ask(&[",".repeat(4097)]));
}

#[test]
fn wrong_policies_are_errors_with_a_cure() {
    let rows = [
        ("", "1 no origins are allowed; list the origins, or remove the policy"),
        ("* | | | | credentials", "10 origins `*` cannot be used with credentials; list the origins"),
        ("* https://a.example", "10 `*` allows every origin, the others too; write `\"*\"` alone"),
        ("* | | | | enforce", "10 `enforce_origin` refuses nothing where `*` is allowed"),
        ("* *", "11 the origin `*` is given twice"),
        (
            "https://a.example https://a.example",
            "11 the origin `https://a.example` is given twice; remove one",
        ),
        ("null null", "11 the origin `null` is given twice"),
        ("https://*.a.example https://*.a.example", "11 the origin `https://*.a.example` is given twice"),
        ("~^a$ ~^a$", "11 the origin `^a$` is given twice"),
        (
            "https://a.example/",
            "10 `https://a.example/` has a path, which no origin has; write `https://a.example`",
        ),
        (
            "https://a.example/x?y",
            "10 `https://a.example/x?y` has a path, which no origin has; write `https://a.example`",
        ),
        (
            "https://A.example",
            "10 `https://A.example` has capitals, which no browser sends; write `https://a.example`",
        ),
        ("HTTPS://a.example", "10 `HTTPS://a.example` has capitals"),
        (
            "https://a.example:443",
            "10 `https://a.example:443` names the default port, which no browser sends; write `https://a.example`",
        ),
        ("http://a.example:80", "10 `http://a.example:80` names the default port"),
        (
            "https://*.a.example:443",
            "10 `https://*.a.example:443` names the default port, which no browser sends; write `https://*.a.example`",
        ),
        ("a.example", "10 `a.example` is not an origin; write `https://a.example`"),
        ("NULL", "10 `NULL` is not an origin"),
        ("://a.example", "10 `://a.example` has no valid scheme"),
        ("https://", "10 `https://` is not an origin: the host is empty"),
        (
            "https://a.example.",
            "10 `https://a.example.` is not how browsers write it; write `https://a.example`",
        ),
        ("https://[0::1]", "10 `https://[0::1]` is not how browsers write it; write `https://[::1]`"),
        ("https://u@a.example", "10 `https://u@a.example` is not an origin: the host has a character"),
        ("https://a.example:", "10 `https://a.example:` is not an origin: the host's port"),
        ("https://a.example:99999", "10 `https://a.example:99999` is not an origin: the host's port"),
        ("https://bücher.example", "10 `https://bücher.example` is not ASCII"),
        ("https://*", "10 `https://*` has a `*` that is not its first label; write `https://*.example.com`"),
        ("https://a.*.example", "10 `https://a.*.example` has a `*` that is not its first label"),
        ("https://a*.example", "10 `https://a*.example` has a `*` that is not"),
        ("*.example.com", "10 `*.example.com` has a `*` that is not its first label"),
        ("https://*.*.example.com", "10 `https://*.*.example.com` has more than one `*`"),
        (
            "https://*.com",
            "10 `https://*.com` allows every site of a whole top-level domain; name at least two labels",
        ),
        (
            "https://*.example.com/",
            "10 `https://*.example.com/` has a path, which no origin has; write `https://*.example.com`",
        ),
        ("https://*.", "10 `https://*.` is not an origin: the host is empty"),
        (
            "~https://a",
            "10 `https://a` is not anchored: it matches parts of other origins; write `^https://a$`",
        ),
        (
            "~^https://a",
            "10 `^https://a` is not anchored: it matches parts of other origins; write `^https://a$`",
        ),
        ("~https://a$", "10 `https://a$` is not anchored"),
        (r"~^https://a\$", r"10 `^https://a\$` is not anchored"),
        ("~^a!b$", "10 `^a|b$` is not anchored: `|` parts the anchors; write `^(?:a|b)$`"),
        ("~^a($", "10 `^a($` is not a regular expression: unclosed group"),
        ("https://a.example | get", "20 `get` is not a method: they are written in capitals; write `GET`"),
        ("https://a.example | *", "20 `*` is not a method; list the methods"),
        ("https://a.example | TRACE", "20 no page may use `TRACE`; remove it"),
        ("https://a.example | track", "20 no page may use `track`"),
        ("https://a.example | CONNECT", "20 no page may use `CONNECT`"),
        ("https://a.example | GE(T", "20 `GE(T` is not a method"),
        ("https://a.example | GET GET", "21 the method `GET` is given twice"),
        ("https://a.example | | x(y", "30 `x(y` is not a header name"),
        ("https://a.example | | x-a X-A", "31 the header `X-A` is given twice"),
        ("https://a.example | | * *", "31 `*` is given twice"),
        (
            "https://a.example | | * | | credentials",
            "30 headers `*` cannot be used with credentials; list the headers",
        ),
        ("https://a.example | | | x(y", "40 `x(y` is not a header name"),
        (
            "https://a.example | | | * | credentials",
            "40 `*` exposes nothing with credentials; list the headers",
        ),
        (
            "https://a.example | | | | 25h",
            "1 `max_age` is longer than any browser keeps it; write at most `24h`",
        ),
    ];
    for (text, expected) in rows {
        let mut build = Build::default();
        assert!(Cors::compile("web", &config(text), &mut build).is_none(), "{text}");
        let errors: Vec<_> = build.errors.errors().iter().collect();
        assert_eq!(errors.len(), 1, "{text}: {errors:?}");
        let told = format!("{} {}; {}", errors[0].site.line, errors[0].cause, errors[0].cure);
        assert!(told.starts_with(expected), "{text}: {told}");
    }
}

#[test]
fn all_errors_of_a_policy_are_told_at_once() {
    let mut build = Build::default();
    let text = "https://A.example ~a | get | x(y | | 25h";
    assert!(Cors::compile("web", &config(text), &mut build).is_none());
    assert_eq!(build.errors.errors().len(), 5);
}

#[test]
fn a_bare_dot_in_a_pattern_is_warned_of() {
    for (text, warned) in [
        (r"~^https://a.example\.com$", true),
        (r"~^https://a\.example\.com$", false),
        (r"~^https://[a.]+\.example\.com$", false),
        (r"~^https://.*\.example\.com$", false),
    ] {
        let mut build = Build::default();
        assert!(Cors::compile("web", &config(text), &mut build).is_some(), "{text}");
        assert_eq!(!build.errors.warnings().is_empty(), warned, "{text}");
    }
}

proptest! {
    #[test]
    fn only_listed_origins_are_ever_named(origin in "(https?://)?[a-z.:/@#?*-]{0,24}(\\.example\\.org|app\\.example\\.com)?") {
        let cors = compile(CREDENTIALS);
        let request = fields(&[("origin", &origin)]);
        let mut response = HeaderMap::new();
        cors.apply(origin_of(&request), false, &mut response);
        if response.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
            let under = origin.strip_prefix("https://").and_then(|rest| rest.strip_suffix(".example.org"));
            let labels = under.is_some_and(|labels| {
                labels.split('.').all(|l| !l.is_empty() && l.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
            });
            prop_assert!(labels || origin == "https://app.example.com" || origin == "null", "{}", origin);
        }
    }
}

#[test]
fn a_page_may_read_what_limits_have_told() {
    let request = fields(&[("origin", "https://app.example.com")]);
    let exposed = |policy: &str, limits: bool| {
        let mut response = HeaderMap::new();
        compile(policy).apply(origin_of(&request), limits, &mut response);
        response.get(header::ACCESS_CONTROL_EXPOSE_HEADERS).map(|value| value.to_str().unwrap().to_owned())
    };
    let all = "retry-after, ratelimit, ratelimit-policy, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset";
    let some = |text: &str| Some(text.to_owned());
    assert_eq!((exposed(WEB, false), exposed(WEB, true)), (None, some(all)));
    assert_eq!(exposed(CREDENTIALS, true), Some(format!("x-total, etag, {all}")));
    assert_eq!(exposed(OPEN_AUTHORIZATION, true), Some(format!("*, {all}")));
    assert_eq!(
        exposed("https://app.example.com | GET | | RateLimit", true),
        Some(format!("ratelimit, {}", all.replace(" ratelimit,", "")))
    );
    assert_eq!(exposed("https://other.example.com | GET", true), None);
}
